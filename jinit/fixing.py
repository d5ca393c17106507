"""A model that does not train, mended: candidates are trained side by side, and one wins or none.

What was found chooses the candidates (`CANDIDATES`), a sweep trains them over seeds on the same
batches, and the winner must be better than the model as it is by more than seeds differ.
"""

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from jinit import checks, models
from jinit.activations import ACTIVATIONS
from jinit.data import Data
from jinit.models.diagnosis.report import Diagnosis
from jinit.models.tracing.model import TracedModel
from jinit.models.tracing.names import table
from jinit.networks.base import Loss, Network
from jinit.networks.losses import as_targets, loss_function
from jinit.networks.training import train, train_state, train_step
from jinit.sweeps import sweep
from jinit.sweeps.progress import Reporter

TRAINS = 0.25
"""A seed trains if its loss falls by this share of what it began with, or of an output of 0."""
NEARLY = 0.05
"""A candidate is as good as the best if it brings all but this share of the best's gain."""
CLIP = 1.0
"""global norm at which gradients are cut"""
_COLUMNS = ("candidate", "what it changes", "loss", "over seeds", "accuracy", "train")


class Row(NamedTuple):
    """One candidate, trained."""

    candidate: str
    """a key of `CANDIDATES`, or "before" """
    changes: str
    loss: float
    """on training batches, mean of the last tenth of the steps, median over seeds; inf diverged"""
    losses: tuple[float, ...]
    """the same, seed by seed"""
    accuracy: float
    """on the test half, median over seeds; NaN without classes"""
    accuracies: tuple[float, ...]
    trained: int
    """seeds that train"""


class FixResult(NamedTuple):
    """What helped a model, how it was found, and the lines that do it."""

    table: tuple[Row, ...]
    """the model as it is, and every candidate that was trained, in the order of their promise"""
    variables: Any
    """those that train: the same object where nothing is changed"""
    code: str
    """lines that make `variables` and `optimizer` of `key, apply, variables, data, optimizer` (and
    `learning_rate`, `rules` where they were given); empty where nothing is changed"""
    optimizer: optax.GradientTransformation
    """the one to train them with"""
    winner: str | None
    """a candidate, None where nothing is changed"""
    healthy: bool
    """whether nothing needed to be changed"""
    verdict: str
    """one sentence"""
    diagnosis: Diagnosis
    """of the model as it is, on one batch"""
    curves: xr.Dataset
    """`loss` [candidate, seed, step] of every batch before its update, `accuracy` and `final_loss`
    [candidate, seed]"""
    left_out: Mapping[str, str]
    """candidates that were not trained, and why"""

    def __str__(self) -> str:  # noqa: D105
        cells = [
            [row.candidate, row.changes, f"{row.loss:.3g}",
             f"{min(row.losses):.2g} to {max(row.losses):.2g}",
             "" if math.isnan(row.accuracy) else f"{100 * row.accuracy:.0f}%",
             f"{row.trained} of {len(row.losses)}"]
            for row in self.table
        ]  # fmt: skip
        found = [] if self.healthy else [f"Found: {self.diagnosis.verdict}", ""]
        lines = ["", self.code] if self.code else []
        return "\n".join([*found, table(_COLUMNS, cells), "", self.verdict, *lines])

    def to_json(self) -> dict[str, Any]:
        """All but variables, optimizer and curves, as JSON can hold it."""

        def plain(x: Any) -> Any:
            if isinstance(x, tuple):
                return [plain(one) for one in x]
            return str(x) if isinstance(x, float) and not math.isfinite(x) else x

        return {
            "verdict": self.verdict, "winner": self.winner, "healthy": self.healthy,
            "code": self.code, "left_out": dict(self.left_out),
            "table": [{k: plain(v) for k, v in row._asdict().items()} for row in self.table],
            "findings": [finding._asdict() for finding in self.diagnosis.findings],
        }  # fmt: skip


# --- the candidates -----------------------------------------------------------------------------


class Case(NamedTuple):
    """What candidates are chosen by."""

    kinds: frozenset[str]
    """of the findings"""
    rectifies: bool
    """whether the most frequent activation is ReLU or one of its kind"""
    residuals: int
    """branches"""
    trains: bool = False
    """whether the model as it is trains in all seeds; not known yet where something was found"""
    diverges: bool = False
    """whether it ends in no number"""

    @property
    def wild(self) -> bool:
        """Whether steps may be too large: nothing else was found, or what is too large itself."""
        return not self.kinds or bool(self.kinds & {"explode", "nonfinite", "output"})

    @property
    def scheme(self) -> str:
        """That of a plain layer."""
        return "he" if self.rectifies else "xavier"

    @property
    def start(self) -> str:
        """The most promising of `DRAWS`."""
        return "scaled branches" if self.residuals >= 3 else self.scheme


class Draw(NamedTuple):
    """New variables: a tool of jinit's, its name in code, and its options."""

    name: str
    tool: Callable[..., Any]
    options: Callable[[Case], dict[str, Any]]


DRAWS: dict[str, Draw] = {
    "he": Draw("jinit.reinit", models.reinit, lambda c: {"scheme": "he"}),
    "xavier": Draw("jinit.reinit", models.reinit, lambda c: {"scheme": "xavier", "gain": "auto"}),
    "orthogonal": Draw(
        "jinit.reinit", models.reinit, lambda c: {"scheme": "orthogonal", "gain": "auto"}
    ),
    "lsuv": Draw("jinit.models.lsuv", models.lsuv, lambda c: {}),
    "fixup": Draw("jinit.models.fixup", models.fixup, lambda c: {"scheme": c.scheme}),
    "skipinit": Draw("jinit.models.skipinit", models.skipinit, lambda c: {"scheme": c.scheme}),
    "scaled branches": Draw(
        "jinit.models.skipinit", models.skipinit,
        lambda c: {"scheme": c.scheme, "alpha": round(c.residuals**-0.5, 3)},
    ),
}  # fmt: skip
"""Ways to draw a start."""


class Candidate(NamedTuple):
    """One change, or several."""

    changes: str
    """in which {start} stands for those of the recommended start"""
    promise: Callable[[Case], int]
    """the larger, the earlier it is tried; 0 where it does not apply"""
    draw: Callable[[Case], str] | None = None
    """-> a key of `DRAWS`; None keeps the variables"""
    rate: float | None = 1.0
    """times the learning rate; None takes half of the largest stable one at the start"""
    clip: bool = False


def _start(rank: int) -> Callable[[Case], int]:
    """Before the learning rate if something was found, after it if not."""
    return lambda case: rank + (60 if case.kinds else 20)


def _branches(rank: int) -> Callable[[Case], int]:
    return lambda case: rank + (60 if case.kinds else 20) if case.residuals else 0


def _rate(rank: int) -> Callable[[Case], int]:
    """Where nothing was found in the start, or what a smaller step may survive."""
    return lambda case: rank + 40 if not case.trains and case.wild else 0


def _slow(rank: int) -> Callable[[Case], int]:
    return lambda case: 0 if case.trains or case.kinds else rank + 20


def _both(rank: int) -> Callable[[Case], int]:
    return lambda case: 0 if case.trains else rank + (50 if case.kinds else 10)


CANDIDATES: dict[str, Candidate] = {
    "scaled branches": Candidate(
        "branches by 1/sqrt(L)", _branches(9), lambda c: "scaled branches"
    ),
    "he": Candidate(
        "weights by He", lambda c: _start(7 if c.rectifies else 3)(c), lambda c: "he"
    ),
    "xavier": Candidate(
        "weights by Xavier, gains by activation", lambda c: 0 if c.rectifies else _start(7)(c),
        lambda c: "xavier",
    ),
    "fixup": Candidate("weights by Fixup", _branches(6), lambda c: "fixup"),
    "orthogonal": Candidate(
        "orthogonal weights, gains by activation", _start(5), lambda c: "orthogonal"
    ),
    "lsuv": Candidate("weights by LSUV, on one batch", _start(4), lambda c: "lsuv"),
    "skipinit": Candidate("branches start at 0", _branches(2), lambda c: "skipinit"),
    "stable rate": Candidate("half the stable learning rate", _slow(29), rate=None),
    "rate / 10": Candidate("a tenth of the learning rate", _rate(8), rate=0.1),
    "rate / 100": Candidate("a hundredth of the learning rate", _rate(7), rate=0.01),
    "clipping": Candidate(f"gradients cut at norm {CLIP:g}", _rate(6), clip=True),
    "rate x 10": Candidate(
        "ten times the learning rate", lambda c: 0 if c.diverges else _slow(9)(c), rate=10.0
    ),
    "start, stable rate": Candidate(
        "{start}, half its stable rate", _both(7), lambda c: c.start, None
    ),
    "start, rate / 10": Candidate(
        "{start}, a tenth of the rate", _both(9), lambda c: c.start, 0.1
    ),
    "start, clipping": Candidate(
        f"{{start}}, gradients cut at {CLIP:g}", _both(8), lambda c: c.start, clip=True
    ),
}  # fmt: skip
"""What may help, tried in the order of its promise."""


# --- fix ----------------------------------------------------------------------------------------


def fix(
    key: jax.Array,
    apply: Callable[..., Any],
    variables: Any,
    data: Any,
    *,
    loss: str | Loss | None = None,
    optimizer: Any,
    learning_rate: float | None = None,
    steps: int = 300,
    seeds: int = 3,
    batch_size: int = 128,
    minutes: float = 3.0,
    rules: Mapping[str, Any] | None = None,
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
        variables: any pytree; floating-point leaves that are no statistics are trained.
        data: `jinit.Data(x_train, y_train, x_test, y_test)`, a dict of these, or a pair (x, y).
        loss: `loss(outputs, targets) -> scalar`; a name or None as in `jinit.train`.
        optimizer: any optax transformation, whose updates are then scaled, or a function
            `learning_rate -> transformation`, with `learning_rate=`.
        steps, batch_size: of every training; `batch_size` at most the number of samples.
        seeds: of every candidate.
        minutes: after which no candidate is begun that would not end in time.
        rules: path -> role, as for `jinit.Model`.
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
    end = began + 60 * float(minutes)
    arrays, by_name = _data(data)
    batch_size = min(checks.count("batch_size", batch_size), len(jax.tree.leaves(arrays[0])[0]))
    make = _optimizer(optimizer, learning_rate)
    x = jax.tree.map(lambda a: a[:batch_size], arrays[0])
    model = TracedModel(apply, variables, x, rules=rules)
    shape = _outputs(model)
    targets = as_targets(arrays[1][:batch_size], shape, loss, name="y_train")
    loss = loss_function(loss, targets, shape)
    model = model.replaced(loss=loss)
    trainer = _Trainer(key, model, arrays, loss, make, steps, batch_size)
    found = models.diagnose.traced(model, targets=targets)

    kinds = frozenset(finding.kind for finding in found.findings)
    case = Case(kinds, _rectifies(found), found.residuals)
    ignorant = float(loss(jnp.zeros(shape, np.float32), targets))
    starts = {"before": [_Start(variables)] * seeds}
    done = None
    if not kinds:  # else it is trained beside the candidates, by the same program
        done = trainer.run(starts, None, progress)
        (before,) = _rows(done, {"before": "nothing"}, ignorant)
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
            starts[name] = _starts(model, CANDIDATES[name], case, keys, trainer, scales)
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
    before, *_ = rows = _rows(done, changes, ignorant)
    won = _winner(rows, ignorant)
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
    code = _code(CANDIDATES[won.candidate], case, start, by_name, batch_size, x, optimizer,
                 learning_rate, rules is not None)  # fmt: skip
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


# --- what is given ------------------------------------------------------------------------------

_PARTS = ("x_train", "y_train", "x_test", "y_test")


def _data(data: Any) -> tuple[Data, bool]:
    """Four arrays, and whether they came by name."""
    if isinstance(data, Mapping):
        checks.options("data", data, _PARTS)
        if missing := [name for name in _PARTS if name not in data]:
            raise ValueError(f"data must hold {', '.join(_PARTS)}, got none of {missing[0]}.")
        return Data(*(data[name] for name in _PARTS)), True
    if not isinstance(data, tuple | list) or len(data) not in (2, 4):
        raise TypeError(
            f"data must be a jinit.Data(x_train, y_train, x_test, y_test), a dict of these names "
            f"or a pair (x, y), got {type(data).__name__}."
        )
    return Data(*(*data, *data)[:4]), False


def _optimizer(optimizer: Any, learning_rate: Any) -> Callable[..., Any]:
    """A function (scale, clip=False) -> transformation."""
    given = isinstance(optimizer, optax.GradientTransformation)
    if given == (learning_rate is not None) or not (given or callable(optimizer)):
        raise TypeError(
            f"optimizer must be an optax transformation, such as optax.adam(1e-3), or a function "
            f"of the learning rate with learning_rate= beside it, such as optax.adam; got "
            f"{optimizer if not given else 'a transformation'!r} and "
            f"learning_rate={learning_rate!r}."
        )
    if learning_rate is not None:
        checks.number("learning_rate", learning_rate)

    def make(scale: Any = 1.0, clip: Any = False) -> optax.GradientTransformation:
        """With a scale and a threshold that may be traced."""
        if given:
            own = [optimizer] if _is(scale, 1.0) else [optimizer, optax.scale(scale)]
        else:
            own = [optimizer(learning_rate * scale)]
        if not _is(clip, False):
            own = [optax.clip_by_global_norm(CLIP if _is(clip, True) else clip), *own]
        return own[0] if len(own) == 1 else optax.chain(*own)

    return make


def _is(value: Any, number: Any) -> bool:
    return isinstance(value, bool | float) and value == number


def _outputs(model: TracedModel) -> tuple[int, ...]:
    out = model.trace.outputs([v.aval for v in model.trace.jaxpr.jaxpr.outvars])
    if not hasattr(out, "shape"):
        raise TypeError(
            f"apply must return outputs [batch, ...] alone, got {type(out).__name__}; write a "
            f"function that returns what the loss is computed from."
        )
    return tuple(out.shape)


# --- starts -------------------------------------------------------------------------------------


class _Start(NamedTuple):
    """What one seed of a candidate begins with."""

    variables: Any
    scale: float = 1.0
    clip: bool = False


def _starts(
    model: TracedModel,
    candidate: Candidate,
    case: Case,
    keys: Sequence[jax.Array],
    trainer: "_Trainer",
    scales: dict[str | None, float],
) -> list[_Start]:
    """One for each key; `scales` keeps the stable rates of starts."""
    drawn = [model.variables] * len(keys)
    name = candidate.draw(case) if candidate.draw else None
    if name is not None:
        draw = DRAWS[name]
        with warnings.catch_warnings():  # of unused parameters: the lines of code will warn
            warnings.simplefilter("ignore", UserWarning)
            drawn = [draw.tool.traced(model, k, **draw.options(case)) for k in keys]  # type: ignore[attr-defined]
    scale = candidate.rate
    if scale is None:
        if name not in scales:
            scales[name] = trainer.stable(keys[0], drawn[0])
        scale = scales[name]
    return [_Start(each, scale, candidate.clip) for each in drawn]


def _code(
    candidate: Candidate,
    case: Case,
    start: _Start,
    by_name: bool,
    batch_size: int,
    x: Any,
    optimizer: Any,
    learning_rate: Any,
    rules: bool,
) -> str:
    """The lines that do what was trained."""
    lines = []
    if candidate.draw is not None:
        of = 'data["x_train"]' if by_name else "data[0]"
        cut = f"{of}[:{batch_size}]"
        if not hasattr(x, "shape"):
            cut = f"jax.tree.map(lambda a: a[:{batch_size}], {of})"
        draw = DRAWS[candidate.draw(case)]
        options = {name: f'"{v}"' if isinstance(v, str) else v
                   for name, v in draw.options(case).items()}  # fmt: skip
        options |= {"rules": "rules"} if rules else {}
        own = "".join(f", {name}={value}" for name, value in options.items())
        lines += [f"x = {cut}", f"variables = {draw.name}(key, apply, variables, x{own})"]
    clip = f"optax.clip_by_global_norm({CLIP})"
    own = "optimizer"
    if learning_rate is not None:
        if start.scale != 1.0:
            lines += [f"learning_rate = {learning_rate * start.scale!r}"]
        own = "optimizer(learning_rate)"
    elif start.scale != 1.0:
        own = f"optimizer, optax.scale({start.scale!r})"
    if start.clip or "scale" in own:
        parts = f"{clip}, {own}" if start.clip else own
        lines += [f"optimizer = optax.chain({parts})"]
    return "\n".join(lines)


# --- training -----------------------------------------------------------------------------------


class _Trainer:
    """Trains starts side by side."""

    def __init__(
        self, key: jax.Array, model: TracedModel, data: Data, loss: Loss,
        make: Callable[..., Any], steps: int, batch_size: int,
    ) -> None:  # fmt: skip
        """Which leaves move."""
        self.model, self.data, self.loss, self.make = model, data, loss, make
        self.key, self.steps, self.batch_size = key, steps, batch_size
        kinds = [role.kind for role in model.judged(strict=False)]
        moved = zip(model.trace.chosen, kinds, strict=True)
        self.moved = [i for i, kind in moved if kind != "statistic"]
        self.net = Network(lambda key: (self.params(model.variables), {}), self._apply)

    def params(self, variables: Any) -> Any:
        """The same tree, None for what is not trained."""
        leaves, structure = jax.tree.flatten(variables)
        own = [leaf if i in self.moved else None for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, own)

    def _apply(self, params: Any, state: Any, x: Any, *, train: bool, key: Any = None) -> Any:
        leaves, structure = jax.tree.flatten(self.model.variables)
        for i, leaf in zip(self.moved, jax.tree.leaves(params), strict=True):
            leaves[i] = leaf
        return self.model.apply(jax.tree.unflatten(structure, leaves), x), state

    def run(
        self, starts: Mapping[str, Sequence[_Start]], end: float | None, progress: bool
    ) -> xr.Dataset:
        """The curves of all candidates; `ran` says whether there was time."""
        flat = [start for each in starts.values() for start in each]
        seeds = len(flat) // len(starts)
        stacked = jax.tree.map(
            lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]),
            *(self.params(start.variables) for start in flat),
        )
        stacked = jax.tree.map(lambda a: a.reshape(len(starts), seeds, *a.shape[1:]), stacked)
        scales = jnp.asarray([[s.scale for s in each] for each in starts.values()], np.float32)
        clips = jnp.asarray(
            [[CLIP if s.clip else math.inf for s in each] for each in starts.values()], np.float32
        )

        def start(key: jax.Array, *, candidate: jax.Array, draw: jax.Array) -> Any:
            mine = jax.tree.map(lambda a: jnp.asarray(a)[candidate, draw], stacked)
            return mine, scales[candidate, draw], clips[candidate, draw]

        def curve(key: jax.Array, start: Any, *, draw: jax.Array) -> dict[str, jax.Array]:
            params, scale, clip = start
            run = train(
                jax.random.fold_in(self.key, draw), self.net, params, {}, self.data,
                optimizer=self.make(scale, clip), steps=self.steps, batch_size=self.batch_size,
                loss=self.loss,
            )  # fmt: skip
            ran = jnp.ones((), np.float32)
            return {"loss": run.history.loss, "accuracy": run.accuracy, "ran": ran}

        with Reporter(len(flat), 0, show=progress) as reporter:
            found = sweep(
                curve, prepare=start, dims={"loss": ("step",)}, block=seeds, progress=False,
                traced={"candidate": np.arange(len(starts)), "draw": np.arange(seeds)},
                executor=_UntilTime(end, lambda: reporter.advance(seeds)),
            )  # fmt: skip
        found = found.squeeze("seed", drop=True).rename(draw="seed")
        last = found.loss.isel(step=slice(-max(1, self.steps // 10), None)).mean(
            "step", skipna=False
        )
        found["final_loss"] = last.where(np.isfinite(last), np.inf)
        found["ran"] = np.isfinite(found.ran)
        return found.assign_coords(candidate=list(starts))

    def stable(self, key: jax.Array, variables: Any) -> float:
        """Half of the largest stable learning rate there, over the one that the optimizer takes.

        That one shows in its first step: along the gradient it is |step| / |gradient|, else, as
        Adam's, the largest entry of the step.

        Raises:
            ValueError: a rate that is small enough, or curvature that tells nothing.
        """
        x, y = jax.tree.map(lambda a: jnp.asarray(a[: self.batch_size]), tuple(self.data[:2]))
        model = self.model.of(variables)
        params, optimizer = jax.tree.map(jnp.asarray, self.params(variables)), self.make()
        step = jax.jit(train_step(self.net, optimizer, loss=self.loss))

        def slope(params: Any) -> jax.Array:
            return self.loss(self._apply(params, {}, x, train=True)[0], y)

        g = _flat(jax.jit(jax.grad(slope))(params))
        moved = _flat(step(train_state(params, {}, optimizer), (x, y))[0].params) - _flat(params)
        sizes = np.linalg.norm(moved), np.linalg.norm(g)
        if not (np.isfinite(sizes).all() and all(sizes)):
            raise ValueError("the gradient at the start is 0 or no number, and tells no rate.")
        along = abs(moved @ g) > 0.99 * sizes[0] * sizes[1]
        rates = models.sharpness.traced(
            model, key, targets=y, rates=not along, tolerance=0.05, max_products=200
        )
        if along:
            stable, own = 2 / rates.largest, sizes[0] / sizes[1]
        else:
            stable, own = rates.rates.adam, np.abs(moved).max()  # type: ignore[union-attr]
        scale = float(f"{0.5 * stable / own:.1e}")
        if not 1e-6 < scale < 0.7:
            raise ValueError(
                f"half of the stable learning rate is {scale:g} of the optimizer's own, "
                f"{'too little to learn' if scale < 0.7 else 'which is small enough'}."
            )
        return scale


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


class _UntilTime(Executor):
    """Runs what it is given at once and here; what would not end in time gives NaN."""

    def __init__(self, end: float | None, advance: Callable[[], None]) -> None:
        self.end, self.advance = end, advance
        self.last: dict[str, np.ndarray] = {}
        self.seconds = 0.0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        began = time.monotonic()
        if self.last and self.end is not None and began + self.seconds >= self.end:
            future.set_result({k: np.full_like(v, np.nan) for k, v in self.last.items()})
            return future
        compiled = bool(self.last)  # by the first one, which tells no time
        try:
            self.last = fn(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
            return future
        self.seconds = time.monotonic() - began if compiled else 0.0
        future.set_result(self.last)
        self.advance()
        return future


# --- who wins -----------------------------------------------------------------------------------


def _rows(done: xr.Dataset, changes: Mapping[str, str], ignorant: float) -> tuple[Row, ...]:
    rows = []
    for name, words in changes.items():
        one = done.sel(candidate=name)
        first, last = one.loss.values[:, 0], one.final_loss.values
        usual = np.fmin(np.where(np.isfinite(first), first, np.nan), ignorant)
        trained = last < usual - TRAINS * np.abs(usual)
        rows.append(Row(
            name, words, float(np.median(last)), tuple(map(float, last)),
            float(np.median(one.accuracy)), tuple(map(float, one.accuracy.values)),
            int(trained.sum()),
        ))  # fmt: skip
    return tuple(rows)


def _winner(rows: Sequence[Row], ignorant: float) -> Row | None:
    """The first as good as the best of those that beat the first row in every seed.

    As good is what seeds do not tell from it, or what brings nearly the same gain.
    """
    before, *others = rows
    better = [
        row for row in others
        if max(row.losses) < min(before.losses) and 2 * row.trained > len(row.losses)
    ]  # fmt: skip
    if not better:
        return None
    best = min(better, key=lambda row: (-row.trained, row.loss))
    gain = float(np.fmin(before.loss, ignorant)) - best.loss
    enough = max(*best.losses, best.loss + NEARLY * gain)
    return next(row for row in better if row.trained == best.trained and row.loss <= enough)
