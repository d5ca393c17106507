"""Writes docs/models.md: `python -m tests.public.table`, with the packages installed."""

import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

HEAD = """# Public models that jinit is tried on

jinit is to read any model, so it is tried on models that other people have written. The table is
what it says of {models} models of {packages} packages, each built from a small configuration
and drawn as its package draws it. `nox -s models` installs the packages
(`tests/public/packages.txt`), builds the models and checks every row;
`python -m tests.public.table` writes this page anew. None of the packages' code is here.

- **leaves**, **numbers**: floating-point arrays of the model, and numbers in them.
- **roles**: how many leaves `jinit.audit` takes for what. Some of each model are held against what
  the mathematics of the layer says (`tests/public`).
- **odd**: leaves of which `audit` has something to say, for most that no convention draws so.
- **as drawn**: what `jinit.diagnose` finds in the model before anything is trained; a dash if the
  signal lives from end to end.
- **planted**: what was done to one leaf, or to every weight. For each model a fault was chosen that
  can be named: the rows say that jinit reads the model well enough for that, and not what share of
  all faults it would name. Weights beside a skip that are 0, or a readout that is small, are no
  faults to it, and a spectral or tied weight a hundred times too small is often not seen.
- **named by**: who names that leaf, or tells what all weights do: a finding of `jinit.diagnose`,
  which it did not have before if the model has some as it is drawn.

{table}

What is said of models as they are drawn, or of leaves without a use, is explained here:

{notes}

The figures are of jinit {version} with jax {jax} on a CPU.
"""


def row(entry) -> tuple[str, str]:
    """What jinit says of a model, as a row of the table, and what explains it."""
    from tests.public.base import FAULTS, size
    from tests.public.trial import trial

    tried = trial(entry)
    leaves, numbers = size(tried.model)
    roles = [row.role for row in tried.audit.rows]
    counted = ", ".join(f"{roles.count(r)} {r}" for r in dict.fromkeys(roles))
    found = ", ".join(f.kind for f in tried.diagnosis.findings) or "–"
    fault, path = entry.planted
    said = "; ".join(filter(None, (entry.why, entry.unused)))
    return (
        f"| {entry.package} {entry.version} | {entry.name} | {leaves} | {numbers:,} | {counted} "
        f"| {sum(bool(r.odd) for r in tried.audit.rows) or '–'} | {found} "
        f"| `{path}` {FAULTS[fault][0]} | {tried.named or 'not named'} |"
    ), (f"- {entry.package}, {entry.name}: {said}." if said else "")


def write(rows: list[tuple[str, str]]) -> None:
    """The page."""
    import jax

    import jinit
    from tests.public.entries import ENTRIES

    columns = [
        "package",
        "model",
        "leaves",
        "numbers",
        "roles",
        "odd",
        "as drawn",
        "planted",
        "named by",
    ]
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    page = HEAD.format(
        models=len(rows),
        packages=len({e.package for e in ENTRIES}),
        table="\n".join([*head, *(row for row, _ in rows)]),
        notes="\n".join(note for _, note in rows if note),
        version=jinit.__version__,
        jax=jax.__version__,
    )
    Path(__file__).parents[2].joinpath("docs", "models.md").write_text(page)


def main() -> None:
    """Try every model, and write the page."""
    import jax

    from tests.public.entries import ENTRIES

    jax.config.update("jax_disable_most_optimizations", True)
    warnings.simplefilter("ignore")
    rows = []
    for entry in ENTRIES:
        print(entry.id, file=sys.stderr, flush=True)
        rows.append(row(entry))
    write(rows)


if __name__ == "__main__":
    main()
