"""Where the signal of a model dies: every layer forward and backward, and a verdict.

The model runs once forward and once backward, with an eye on what comes out of every weight and
goes through every activation (`jinit.models.probe`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from jinit import checks
from jinit.activations import ACTIVATIONS, SATURATION
from jinit.models.auditing.oddities import orthogonal
from jinit.models.diagnosis.findings import Finding, find
from jinit.models.diagnosis.records import (
    ActivationSignal,
    Branch,
    LayerSignal,
    Measured,
    ParameterSignal,
)
from jinit.models.tracing import curves
from jinit.models.tracing.names import label, page, table
from jinit.models.tracing.probe import (
    Moments,
    Place,
    interpret,
    log_rms,
    moments,
    size,
    tap,
    tap_zeros,
)
from jinit.models.tracing.roles import Role, judge
from jinit.models.tracing.trace import Trace, trace
from jinit.models.tracing.uses import Activation, Kind, Use
from jinit.models.tracing.values import Loop, Path

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Diagnosis", "diagnose", "measure"]


@dataclass(frozen=True)
class Diagnosis(Measured):
    """Signals through a model, and what they mean.

    `print` shows a table and the verdict; in a notebook it is a page.
    """

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, the worst first; empty for a healthy model."""
        return find(self)

    @property
    def verdict(self) -> str:
        """One sentence, with a cure if one is needed, and what could not be looked at."""
        if self.findings:
            return self.findings[0].sentence
        unread = [p.role.path for p in self.parameters if p.role.role == "other" and p.role.uses]
        if unread:
            return (
                f"Nothing wrong in what can be seen, but {unread[0]}"
                f"{f' and {len(unread) - 1} more' if len(unread) > 1 else ''} could not be read "
                f"off the trace."
            )
        if not self.layers:
            return "No weight is applied to a signal."
        seen = [row for row in self.layers if math.isfinite(row.log_rms + row.log_grad)]
        first, last = (seen or self.layers)[0], (seen or self.layers)[-1]
        return (
            f"Healthy: over {len(self.layers)} layers the signal changes "
            f"x{10 ** (last.log_rms - first.log_rms):.2g}, and the gradient on its way back "
            f"x{10 ** (first.log_grad_norm - last.log_grad_norm):.2g}."
        )

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a layer."""
        import pandas as pd

        rows = [{**row._asdict(), "log_grad_norm": row.log_grad_norm} for row in self.layers]
        return pd.DataFrame(rows).drop(columns=["in_time", "forward_in_time"])

    def to_dataset(self) -> "xr.Dataset":
        """The numbers of every layer along "layer", with the layers' names as coordinate."""
        import xarray as xr

        frame = self.to_dataframe().drop(columns=["path", "role", "activation"])
        names = [f"{i} {row.layer}" for i, row in enumerate(self.layers)]
        columns = {
            name: ("layer", frame[name].to_numpy()) for name in frame.columns if name != "layer"
        }
        return xr.Dataset(columns, {"layer": names}, {"verdict": self.verdict})

    def __str__(self) -> str:  # noqa: D105
        worse = [f"- {finding.sentence}" for finding in self.findings[1:]]
        return "\n".join([table(_COLUMNS, self._cells()), "", self.verdict, *worse])

    def _cells(self) -> list[list[str]]:
        def fraction(x: float) -> str:
            return "" if math.isnan(x) else f"{100 * x:.0f}%"

        return [
            [
                row.layer, f"{row.fan_in} -> {row.fan_out}", row.activation or "",
                f"{row.mean:.3g}", f"{row.std:.3g}", f"{row.log_rms:.2f}", f"{row.log_grad:.2f}",
                fraction(row.dead), fraction(row.saturated),
            ]
            for row in self.layers
        ]  # fmt: skip

    def to_html(self, path: str | File | None = None) -> str:
        """A page with the verdict and the table; written to `path` if one is given."""
        said = [finding.sentence for finding in self.findings] or [self.verdict]
        html = page("Does the signal survive?", said, _COLUMNS, self._cells())
        if path is not None:
            File(path).write_text(html, encoding="utf-8")
        return html

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_json(self) -> dict[str, Any]:
        """Verdict, findings and layers, as JSON can hold them."""

        def plain(x: Any) -> Any:
            return str(x) if isinstance(x, float) and not math.isfinite(x) else x

        layers = [
            {k: plain(v) for k, v in row._asdict().items() if "in_time" not in k}
            for row in self.layers
        ]
        findings = [finding._asdict() for finding in self.findings]
        return {"verdict": self.verdict, "findings": findings, "layers": layers}


_COLUMNS = (
    "layer", "fans", "activation", "mean", "std", "log10 rms", "log10 grad", "dead", "saturated",
)  # fmt: skip


def diagnose(
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    loss: Callable[..., Any] | None = None,
    targets: Any = None,
    rules: Mapping[str, Kind] | None = None,
) -> Diagnosis:
    """Measure the signal at every weight and activation, forward and backward, and judge.

    Args:
        apply: `apply(variables, *inputs)`, traceable and differentiable.
        variables: any pytree.
        *inputs: pytrees of arrays: a batch as the model meets it in training.
        loss: `loss(output) -> scalar`, or `loss(output, targets)`. None takes a random gradient by
            the output, N(0, 1) per entry, always the same; the output must then be one array.
        targets: what the loss compares the output with, as labels; any pytree.
        rules: path -> role, for parameters of which the trace says nothing certain. Without a
            rule these count as "other" here, which no verdict looks at.

    Returns:
        `Diagnosis`.

    Raises:
        TypeError: an output that is not one floating-point array, and no loss; a loss that is no
            scalar; targets without a loss.
        ValueError: an empty batch.
    """
    checks.batch(inputs)
    traced = trace(apply, variables, *inputs)
    roles = judge(traced, rules, strict=False)
    return measure(traced, roles, variables, inputs, loss=loss, targets=targets)


def measure(
    traced: Trace,
    roles: Sequence[Role],
    variables: Any,
    inputs: Sequence[Any],
    *,
    loss: Callable[..., Any] | None = None,
    targets: Any = None,
) -> Diagnosis:
    """`diagnose` of a model that has been traced: with these variables, which hold numbers."""
    checks.batch(tuple(inputs))
    sites = _sites(traced)
    measured = _measurement(traced, sites, variables, inputs, loss, targets)
    value, output, records, gradients, by_leaf = jax.device_get(measured())
    records = {
        i: _seen(record, gradients[i]) if i in gradients else record
        for i, record in records.items()
    }
    leaves = jax.tree.leaves(variables)
    floats = [leaves[i] for i in traced.chosen]
    rows = _expand(sites, records)
    return Diagnosis(
        tuple(_layer(traced, roles, sites, row) for row in rows),
        tuple(_activation(traced, sites, row) for row in _expand_activations(sites, records)),
        tuple(
            _parameter(role, np.asarray(leaf), float(log_rms(*g)) / math.log(10))
            for role, leaf, g in zip(roles, floats, by_leaf, strict=True)
        ),
        float(value),
        float(log_rms(*output)) / math.log(10),
        sum(math.prod(loop.length for loop in r.loops) for r in traced.residuals),
        tuple(
            Branch(*(
                frozenset(traced.paths[traced.uses[i].view.leaf] for i in orders)
                for orders in (r.branch, r.last)
            ))
            for r in traced.residuals
        ),
    )  # fmt: skip


def prepared(
    apply: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    loss: Callable[..., Any] | None = None,
) -> Callable[[], Any]:
    """The compiled measurement of `diagnose`, to time it."""
    traced = trace(apply, variables, *inputs)
    return _measurement(traced, _sites(traced), variables, inputs, loss, None)


def _measurement(
    traced: Trace,
    sites: "_Sites",
    variables: Any,
    inputs: Sequence[Any],
    loss: Callable[..., Any] | None,
    targets: Any,
) -> Callable[[], Any]:
    leaves = jax.tree.leaves(variables)
    floats = [leaves[i] for i in traced.chosen]
    compiled = jax.jit(partial(_measure, traced, sites, _objective(traced, loss, targets)))
    return lambda: compiled(floats, inputs)


def _objective(
    traced: Trace, loss: Callable[..., Any] | None, targets: Any
) -> Callable[[list[Any]], Any]:
    shapes = [v.aval for v in traced.jaxpr.jaxpr.outvars]
    if loss is None and targets is not None:
        raise TypeError("targets need a loss: give loss=lambda output, targets: a scalar of both.")
    if loss is not None:
        more = () if targets is None else (targets,)

        def given(arrays: list[Any]) -> Any:
            return loss(traced.outputs(arrays), *more)

        out = jax.eval_shape(given, list(shapes))
        if not hasattr(out, "shape") or out.shape != ():
            raise TypeError(
                f"loss must map the model's output to a scalar, got "
                f"{getattr(out, 'shape', type(out).__name__)}; take the mean over the batch."
            )
        return given
    tree: Any = jax.tree.structure(traced.outputs(shapes))
    if len(shapes) != 1 or tree != jax.tree.structure(0):
        raise TypeError(
            f"the model's output is {tree} and not one array; give loss=lambda output: a scalar of "
            f"it, or let apply return the array alone."
        )
    if not jnp.issubdtype(shapes[0].dtype, jnp.inexact):
        raise TypeError(
            f"the model's output is of {shapes[0].dtype}, which has no gradient; let apply return "
            f"what the loss is computed from, such as logits."
        )
    key = jax.random.key(0)

    def random(arrays: list[Any]) -> jax.Array:
        (out,) = arrays
        probe = jax.random.normal(key, out.shape, jnp.float32)
        return jnp.sum(out.astype(jnp.float32) * probe)

    return random


# --- what to look at ----------------------------------------------------------------------------


class _Sites(NamedTuple):
    weights: tuple[tuple[Use, ...], ...]
    """uses of weights, those of one equation together"""
    activations: tuple[Activation, ...]
    places: tuple[Place, ...]
    """of the weights, of the activations' arguments, of their values"""
    loops: tuple[tuple[Loop, ...], ...]

    def kind(self, i: int) -> tuple[str, int]:
        """What place i is, and its number among those."""
        n, m = len(self.weights), len(self.activations)
        if i < n:
            return "weight", i
        return ("argument", i - n) if i < n + m else ("value", i - n - m)


def _sites(traced: Trace) -> _Sites:
    by_path: dict[Path, list[Use]] = {}
    for path, uses in traced.by_equation("weight").items():
        seen = traced.visible(path)
        if all(len(loop.path) < len(seen) for loop in uses[0].loops):  # none is hidden inside
            by_path.setdefault(seen, []).extend(uses)
    weights = tuple(tuple(uses) for uses in by_path.values())
    activations = tuple(
        a for a in traced.activations
        if traced.visible(a.path) == a.path and traced.visible(a.entry[0]) == a.entry[0]
    )  # fmt: skip
    places = (
        *(Place(path) for path in by_path),
        *(Place(*a.entry) for a in activations),
        *(Place(a.path) for a in activations),
    )
    of_activations = tuple(a.loops for a in activations)
    loops = (*(uses[0].loops for uses in weights), *of_activations, *of_activations)
    return _Sites(weights, activations, places, loops)


def _measure(
    traced: Trace,
    sites: _Sites,
    objective: Callable[[list[Any]], Any],
    floats: list[Any],
    inputs: Sequence[Any],
) -> Any:
    def visit(i: int, value: jax.Array, zeros: Any) -> tuple[jax.Array, Any]:
        kind, own = sites.kind(i)
        if kind == "argument":
            return value, _slopes(sites.activations[own], jax.lax.stop_gradient(value))
        return tap(value, zeros), moments(jax.lax.stop_gradient(value))

    taps = {
        i: tap_zeros([loop.length for loop in loops])
        for i, loops in enumerate(sites.loops)
        if sites.kind(i)[0] != "argument"
    }

    def run(floats: list[Any], taps: Any) -> Any:
        out, records = interpret(traced, floats, inputs, sites.places, visit, taps)
        first = next((leaf for leaf in out if jnp.issubdtype(leaf.dtype, np.inexact)), jnp.zeros(1))
        return objective(out), (size(jax.lax.stop_gradient(first)), records)

    (value, (output, records)), (by_leaf, by_tap) = jax.value_and_grad(
        run, argnums=(0, 1), has_aux=True
    )(floats, taps)
    return value, output, records, by_tap, [size(g) for g in by_leaf]


class _Seen(NamedTuple):
    """What was seen at a place, in each pass of the loops around it; logarithms are natural."""

    mean: np.ndarray
    std: np.ndarray
    log_rms: np.ndarray
    log_grad: np.ndarray


def _seen(found: Moments, gradient: np.ndarray) -> _Seen:
    scale, mean, square = (np.asarray(a, np.float64) for a in found)
    with np.errstate(invalid="ignore"):  # what is inf or NaN stays so
        std = np.sqrt(np.maximum(square - mean**2, 0))
    return _Seen(
        scale * mean, scale * std, log_rms(scale, square),
        log_rms(gradient[..., 0], gradient[..., 1]),
    )  # fmt: skip


def _slopes(activation: Activation, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fractions of dead units and of saturated entries."""
    u = u.astype(jnp.float32)
    nothing = jnp.asarray(jnp.nan, jnp.float32)
    if activation.curve is None:
        return nothing, nothing
    steepest = curves.slopes(activation.curve).max()
    if activation.name in ACTIVATIONS:
        row = ACTIVATIONS[activation.name]
        phi, exact = row.function, row.slope
        slope = exact(u) if exact else jax.jvp(phi, (u,), (jnp.ones_like(u),))[1]
        steepest = np.max(curves.slopes(curves.curve_of(activation.name)))
    else:
        middles = (curves.GRID[1:] + curves.GRID[:-1]) / 2
        slope = jnp.interp(u, middles, curves.slopes(activation.curve))
    units = u.ndim - 1 if activation.features is None else activation.features
    others = tuple(a for a in range(u.ndim) if a != units)
    dead = jnp.mean(jnp.all(slope == 0, axis=others).astype(jnp.float32))
    saturated = jnp.mean((jnp.abs(slope) < SATURATION * steepest).astype(jnp.float32))
    return dead, saturated


# --- from loops to rows -------------------------------------------------------------------------


class _Row(NamedTuple):
    """One layer of one place: which of the loops' passes belong to it."""

    key: tuple[int, ...]
    """sorts rows in call order"""
    place: int
    passes: tuple[Any, ...]
    """an index into records, slices where loops share the weights"""
    seen: Any
    layer: tuple[int, ...]


def _rows(sites: _Sites, place: int, own: Any, stacked: Sequence[int]) -> list[_Row]:
    loops = sites.loops[place]
    found = []
    for layer in np.ndindex(*(loops[i].length for i in stacked)):
        passes: list[Any] = [slice(None)] * len(loops)
        key = list(sites.places[place].path)
        for i, n in zip(stacked, layer, strict=True):
            passes[i] = n
        for i in reversed(range(len(loops))):
            turned = i in stacked and loops[i].reverse
            n = passes[i] if i in stacked else 0
            key.insert(loops[i].depth, loops[i].length - 1 - n if turned else n)
        found.append(_Row(tuple(key), place, tuple(passes), own, layer))
    return found


def _expand(sites: _Sites, records: Any) -> list[_Row]:
    rows = []
    for place, uses in enumerate(sites.weights):
        if place in records:  # a while loop's are not
            dead = saturated = np.full([loop.length for loop in uses[0].loops], np.nan)
            for i, activation in enumerate(sites.activations):
                at = len(sites.weights) + i
                follows = any(use.order in activation.uses for use in uses)
                if follows and activation.loops == uses[0].loops and at in records:
                    dead, saturated = records[at]
                    break
            seen = (*records[place], dead, saturated)
            rows += _rows(sites, place, seen, uses[0].view.stacked)
    return sorted(rows, key=lambda row: row.key)


def _expand_activations(sites: _Sites, records: Any) -> list[_Row]:
    rows = []
    n, m = len(sites.weights), len(sites.activations)
    for i, activation in enumerate(sites.activations):
        if n + i in records:
            stacked = _stacked(sites, activation)
            seen = (*records[n + m + i], *records[n + i])
            rows += _rows(sites, n + m + i, seen, stacked)
    return sorted(rows, key=lambda row: row.key)


def _stacked(sites: _Sites, activation: Activation) -> tuple[int, ...]:
    """Loops through layers around an activation: those of the weights in the same loops."""
    for uses in sites.weights:
        if uses[0].loops == activation.loops:
            return uses[0].view.stacked
    return ()


def _over_time(logs: ArrayLike) -> float:
    """Log10 root mean square over the passes of a loop, from natural logarithms."""
    flat = np.ravel(np.asarray(logs, np.float64))
    largest = np.max(flat)
    if not np.isfinite(largest):
        return float(largest)
    return float((largest + 0.5 * np.log(np.mean(np.exp(2 * (flat - largest))))) / math.log(10))


def _steps(logs: ArrayLike, reverse: bool) -> tuple[float, ...]:
    if np.ndim(logs) != 1:
        return ()
    ordered = np.asarray(logs)[:: -1 if reverse else 1]
    return tuple(float(x) / math.log(10) for x in ordered)


def _layer(traced: Trace, roles: Sequence[Role], sites: _Sites, row: _Row) -> LayerSignal:
    uses = sites.weights[row.place]
    paths, layer = _names(traced, uses, row)
    here = (np.asarray(a)[row.passes] for a in row.seen)
    mean, std, log_forward, log_back, dead, saturated = here
    own = [roles[use.view.leaf] for use in uses]
    shared = [loop for i, loop in enumerate(uses[0].loops) if i not in uses[0].view.stacked]
    reverse = any(loop.reverse for loop in shared)
    aval = _aval(traced, sites.places[row.place].path)
    return LayerSignal(
        " + ".join(paths), layer, own[0].role,
        uses[0].fan_in or 0, sum(use.fan_out or 0 for use in uses),
        next((name for use in uses if (name := traced.following(use.order))), None),
        float(np.mean(mean)), float(np.sqrt(np.mean(np.square(std)))),
        _over_time(log_forward), _over_time(log_back),
        math.prod(aval.shape) * math.prod(loop.length for loop in shared),
        float(np.mean(dead)), float(np.mean(saturated)),
        _steps(log_back, reverse), _steps(log_forward, reverse),
    )  # fmt: skip


def _names(traced: Trace, uses: Sequence[Use], row: _Row) -> tuple[list[str], str]:
    """Paths of weights that are applied as one, and the name of what comes out."""
    paths = list(dict.fromkeys(traced.paths[use.view.leaf] for use in uses))
    number = "".join(f"[{n}]" for n in row.layer)
    return paths, " + ".join(label(path) for path in paths) + number


def _activation(traced: Trace, sites: _Sites, row: _Row) -> ActivationSignal:
    _, own = sites.kind(row.place)
    activation = sites.activations[own]
    here = (np.asarray(a)[row.passes] for a in row.seen)
    mean, std, log_forward, log_back, dead, saturated = here
    last = traced.uses[max(activation.uses)]
    uses = next((uses for uses in sites.weights if last in uses), (last,))
    return ActivationSignal(
        activation.name, _names(traced, uses, row)[1], float(np.mean(mean)),
        float(np.sqrt(np.mean(np.square(std)))), _over_time(log_forward), _over_time(log_back),
        float(np.mean(dead)), float(np.mean(saturated)),
    )  # fmt: skip


def _aval(traced: Trace, path: Path) -> Any:
    return traced.equation(path).outvars[0].aval


def _parameter(role: Role, leaf: np.ndarray, log_grad: float) -> ParameterSignal:
    values = leaf.astype(np.float64)
    constant = semi_orthogonal = False
    if not np.isfinite(values).all():
        return ParameterSignal(role, label(role.path), math.nan, math.nan, log_grad, False, False)
    if role.role in ("weight", "tied") and role.fan_out and role.fan_out > 1:
        try:
            matrices = values.ravel()[role.matrix()]
        except ValueError:  # chosen while the model runs
            constant = bool(np.ptp(values) == 0)
        else:
            constant = bool(matrices.shape[-1] > 1 and np.all(matrices == matrices[..., :1]))
            semi_orthogonal = orthogonal(matrices, float(jnp.finfo(leaf.dtype).eps))
    return ParameterSignal(
        role, label(role.path), float(values.mean()), float(values.std()), log_grad, constant,
        semi_orthogonal,
    )  # fmt: skip
