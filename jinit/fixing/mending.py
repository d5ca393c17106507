"""The search for what makes a model train.

What was found chooses the candidates (`CANDIDATES`), a sweep trains them over seeds on the same
batches, and the winner must be better than the model as it is by more than seeds differ.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jinit import checks, models
from jinit.activations import ACTIVATIONS
from jinit.fixing.candidates import CANDIDATES, Case
from jinit.fixing.given import given, optimizer_of, shape_of_outputs
from jinit.fixing.judging import rows_of, winner
from jinit.fixing.lines import lines_of
from jinit.fixing.result import FixResult
from jinit.fixing.trials import Start, Trainer, starts_of
from jinit.models.diagnosis.report import Diagnosis
from jinit.networks.base import Loss
from jinit.networks.losses import as_targets, loss_function


def fix(
    key: jax.Array,
    apply: Any,
    variables: Any = None,
    data: Any = None,
    *,
    loss: str | Loss | None = None,
    optimizer: Any,
    learning_rate: float | None = None,
    steps: int = 300,
    seeds: int = 3,
    batch_size: int = 128,
    minutes: float = 3.0,
    rules: Mapping[str, Any] | None = None,
    in_axes: Any = None,
    progress: bool = True,
) -> FixResult:
    """Find what makes a model train: a start, a learning rate, a clipping, or several together.

    The model is diagnosed on one batch and trained as it is. A healthy one, in which nothing is
    found and which trains in all seeds, is left as it is. Else `jinit.fixing.CANDIDATES` that fit
    what was found are trained, each seed with a draw and an order of batches of its own, the same
    order for all. The winner trains in more than half of the seeds, and each of its seeds ends with
    a lower loss than all seeds of the model as it is. Of candidates that seeds do not tell from the
    best one, or that bring nearly its gain, the first is taken: the plainest.

    Args:
        key: one PRNG key; `variables` of the result are drawn with it, as by the lines of `code`.
        apply: `apply(variables, x) -> outputs [batch, ...]`, as the model meets a batch in
            training. Statistics that it would return anew, as of a batch norm, stay as they are.
            Or a model that holds its arrays, of NNX, Equinox or a bound Linen module: then `data`
            follows it, as in `jinit.fix(key, model, data, optimizer=...)`.
        variables: any pytree; floating-point leaves that are no statistics are trained.
        data: `jinit.Data(x_train, y_train, x_test, y_test)`, a dict of these, or a pair (x, y).
        loss: `loss(outputs, targets) -> scalar`; a name or None as in `jinit.train`.
        optimizer: any optax transformation, whose updates are then scaled, or a function
            `learning_rate -> transformation`, with `learning_rate=`.
        steps, batch_size: of every training; `batch_size` at most the number of samples.
        seeds: of every candidate.
        minutes: after which no candidate is begun that would not end in time.
        rules, in_axes: as for `jinit.Model`; `in_axes=0` maps a model of one sample.
        progress: whether to report on stderr.

    Returns:
        `FixResult`; `print` shows the table, the verdict and the code.

    Raises:
        TypeError, ValueError: data, a loss or an optimizer of another form; what `jinit.diagnose`
            and `jinit.train` refuse.
    """
    began, key = time.monotonic(), checks.key(key)
    steps, seeds = checks.count("steps", steps), checks.count("seeds", seeds)
    checks.number("minutes", minutes)
    checks.flag("progress", progress)
    end = began + 60 * float(minutes)
    batch_size = checks.count("batch_size", batch_size)
    make = optimizer_of(optimizer, learning_rate)
    model, arrays, names = given(
        apply, variables, data, batch_size=batch_size, rules=rules, in_axes=in_axes
    )
    variables, batch_size = model.variables, len(jax.tree.leaves(model.inputs)[0])
    shape = shape_of_outputs(model)
    targets = as_targets(arrays.y_train[:batch_size], shape, loss, name="y_train")
    loss = loss_function(loss, targets, shape)
    model = model.replaced(loss=loss)
    trainer = Trainer(key, model, arrays, loss, make, steps, batch_size)
    found = models.diagnose.traced(model, targets=targets)

    kinds = frozenset(finding.kind for finding in found.findings)
    case = Case(kinds, _rectifies(found), found.residuals)
    ignorant = float(loss(jnp.zeros(shape, np.float32), targets))
    starts = {"before": [Start(variables)] * seeds}
    done = None
    if not kinds:  # else it is trained beside the candidates, by the same program
        done = trainer.run(starts, None, progress)
        (before,) = rows_of(done, {"before": "nothing"}, ignorant)
        case = case._replace(
            trains=before.trained == seeds, diverges=not math.isfinite(before.loss)
        )
    if case.trains and done is not None:
        said = (
            f"Healthy: nothing was found, and it trains (loss {before.loss:.3g} after {steps} "
            f"steps, {seeds} of {seeds} seeds), so the model is left as it is."
        )
        done = done.drop_vars("ran")
        return FixResult((before,), variables, "", make(1.0), None, True, said, found, done, {})

    left_out: dict[str, str] = {}
    ordered = sorted(CANDIDATES, key=lambda name: -CANDIDATES[name].promise(case))
    chosen = [name for name in ordered if CANDIDATES[name].promise(case) > 0]
    if progress:
        _say(f"{found.verdict if kinds else 'nothing was found, but it does not train.'}")
        _say(f"{len(chosen)} candidates ({time.monotonic() - began:.0f} s so far).")
    keys = [key, *(jax.random.fold_in(key, i) for i in range(1, seeds))]
    scales: dict[str | None, float] = {}
    draw_until = time.monotonic() + (end - time.monotonic()) / 3
    for name in chosen:
        if time.monotonic() > draw_until:
            break
        try:
            starts[name] = starts_of(model, CANDIDATES[name], case, keys, trainer, scales)
        except (ValueError, TypeError) as error:  # a draw that the model does not allow
            left_out[name] = str(error).splitlines()[0]
    if done is None:
        done = trainer.run(starts, end, progress)
    elif len(starts) > 1 and time.monotonic() < end:
        others = {name: each for name, each in starts.items() if name != "before"}
        done = xr.concat([done, trainer.run(others, end, progress)], "candidate")
    ran = [str(name) for name in done.candidate.values[done.ran.all("seed").values]]
    done = done.sel(candidate=ran).drop_vars("ran")
    late = [name for name in chosen if name not in ran and name not in left_out]
    left_out |= dict.fromkeys(late, "no time was left")
    recommended = CANDIDATES[case.start].changes
    changes = {"before": "nothing"} | {
        n: CANDIDATES[n].changes.format(start=recommended) for n in ran if n != "before"
    }
    before, *_ = rows = rows_of(done, changes, ignorant)
    won = winner(rows, ignorant)
    if won is None:
        tried = ", ".join(row.candidate for row in rows[1:]) or "nothing"
        best = "Nothing helped" if before.trained < seeds else "It trains, and is left as it is"
        said = (
            f"{best}: of {tried}, none trains better than the model as it is beyond the spread "
            f"over seeds.{_late(late)}"
        )
        return FixResult(rows, variables, "", make(1.0), None, False, said, found, done, left_out)
    said = (
        f"{won.candidate} ({won.changes}) wins: loss {won.loss:.3g} after {steps} steps where the "
        f"model as it is ends at {before.loss:.3g}; {won.trained} of {seeds} seeds train instead "
        f"of {before.trained}.{_late(late)}"
    )
    start = starts[won.candidate][0]
    code = lines_of(CANDIDATES[won.candidate], case, start, names, learning_rate)
    return FixResult(
        rows, start.variables, code, make(start.scale, start.clip), won.candidate, False, said,
        found, done, left_out,
    )  # fmt: skip


def _late(names: Sequence[str]) -> str:
    return f" Left out, as time was up: {', '.join(names)}." if names else ""


def _say(text: str) -> None:
    print(f"jinit.fix: {text}", file=sys.stderr, flush=True)


def _rectifies(found: Diagnosis) -> bool:
    names = [row.activation for row in found.layers if row.activation in ACTIVATIONS]
    usual = max(names, key=names.count, default=None)
    return usual is not None and ACTIVATIONS[usual].rectifies
