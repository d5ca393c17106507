"""`jinit diagnose`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import jinit
from jinit.cli.options import Overwrite, Picture, check_file, check_plot, made_by
from jinit.files import whole


def diagnose(
    factory: Annotated[
        str, typer.Argument(help="module:function that returns (apply, variables, *inputs).")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    fail_on: Annotated[
        str, typer.Option(help="Faults that end with status 1: vanish,explode,dead, or any.")
    ] = "",
    plot: Picture = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Where the signal of a model of yours dies: every layer, forward and backward, and a verdict.

    The function returns (apply, variables, *inputs), or (model, *inputs) of a model that holds its
    arrays, as those of NNX and Equinox do; or a dict with apply (or model), variables, inputs, and
    loss, rules or in_axes as in jinit.diagnose. With --fail-on any it is a failure, too, if no
    layer could be seen.
    """
    check_plot(plot, overwrite)
    check_file(html, overwrite, "--html")
    from jinit import checks
    from jinit.models import FAULTS

    wanted = [name for name in fail_on.split(",") if name]
    sys.path.insert(0, os.getcwd())  # where the module is looked for first
    for name in wanted:
        checks.choice("--fail-on", name, [*FAULTS, "any"])
    apply, variables, inputs, options = _model(factory)
    found = jinit.diagnose(apply, variables, *inputs, **options)
    if json:
        import json as format_

        print(format_.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        print(found)
    if plot is not None:
        with whole(plot) as file:
            jinit.plots.diagnosis(found).savefig(file)
    if html is not None:
        with whole(html) as file:
            found.to_html(file)
    kinds = {finding.kind for finding in found.findings}
    if kinds & set(wanted) or ("any" in wanted and (kinds or not found.layers)):
        raise typer.Exit(1)


def _model(factory: str) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
    from jinit import checks

    made = made_by(factory, "(apply, variables, *inputs)")
    if isinstance(made, dict):
        names = ["apply", "model", "variables", "inputs", "loss", "rules", "in_axes"]
        checks.options(factory, made, names)
        apply = made.get("apply", made.get("model"))
        if apply is not None and isinstance(made.get("inputs"), tuple | list):
            rest = {name: made[name] for name in ("loss", "rules", "in_axes") if name in made}
            parts = [made["variables"]] if "variables" in made else []
            first, *inputs = [*parts, *made["inputs"]] or [None]
            return apply, first, tuple(inputs), rest
    elif isinstance(made, tuple) and len(made) >= 2 and callable(made[0]):
        return made[0], made[1], made[2:], {}
    raise ValueError(
        f"{factory} must return (apply, variables, *inputs), (model, *inputs), or a dict of apply, "
        f"variables and inputs (a tuple), got {type(made).__name__}."
    )
