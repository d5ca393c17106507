"""Measures a model: once forward and once backward, every weight and activation.

The eye on each place is `jinit.models.tracing.probe`'s; where to look is `sites`'.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit.models.auditing.oddities import orthogonal
from jinit.models.auditing.remarks import by_design, copies
from jinit.models.diagnosis.findings import find
from jinit.models.diagnosis.flat import shares
from jinit.models.diagnosis.records import (
    ActivationSignal,
    AttentionSignal,
    Branch,
    DiagnosedLayer,
    ParameterSignal,
    pooled,
)
from jinit.models.diagnosis.report import Diagnosis
from jinit.models.diagnosis.sites import Passes, Site, Sites, layers_of, named, sites
from jinit.models.tracing import probe
from jinit.models.tracing.jaxprs import opened
from jinit.models.tracing.made import Numbers
from jinit.models.tracing.model import TracedModel, face
from jinit.models.tracing.names import short_name
from jinit.models.tracing.roles import Role
from jinit.models.tracing.stepping import MOST, has_no_gradient, hides_weights, stepped
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.uses import ActivationUse, Softmax
from jinit.models.tracing.values import RoleError

_LOGITS = 2**16  # of one softmax that are looked at
_MASKED = -1e4  # logits so far below the largest are masked


@face
def diagnose(model: TracedModel, variables: Any = None, *, targets: Any = None) -> Diagnosis:
    """Measure the signal at every weight and activation, forward and backward, and judge.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`; inputs are a batch as the model
            meets it in training. Parameters of which the trace says nothing certain count as
            "other" here if no rule names them, which no verdict looks at.
        loss: `loss(output) -> scalar`, or `loss(output, targets)`. None takes a random gradient by
            the output, N(0, 1) per entry, always the same; the output must then be one array.
        targets: what the loss compares the output with, as labels; any pytree.

    Returns:
        `Diagnosis`, whose `signals` are those of `jinit.layer_signals`, natural logarithms and
        place of measurement included.

    Raises:
        TypeError: an output that is not one floating-point array, and no loss; a loss that is no
            scalar; targets without a loss.
        ValueError: an empty batch.
    """
    model = model.of(variables)
    model.check_numbers("diagnose", finite=False)
    model, too_long = _entered(model)
    traced, roles = model.trace, model.judged(strict=False)
    where = sites(traced)
    run = compiled(model, where, targets)
    value, output, records, gradients, by_leaf = jax.device_get(run())
    logits = {i: records.pop(i) for i in list(records) if i >= where.places}
    seen = {i: _seen(r, gradients[i]) if i in gradients else r for i, r in records.items()}
    by_part = [probe.log_size(g[:, 0], g[:, 1]) for g in by_leaf]
    n, m = len(where.weights), len(where.activations)
    acts: dict[int | None, Any] = {
        i: (seen[n + m + i], *seen[n + i]) for i in range(m) if {n + i, n + m + i} <= seen.keys()
    }
    layers = [
        (own.key, _layer(traced, roles, site, own, seen[i], acts.get(site.activation), by_part))
        for i, site in enumerate(where.weights) if i in seen  # a while loop's are not
        for own in layers_of(site.path, site.loops, where.stacked(site.loops))
    ]  # fmt: skip
    activations = [
        (own.key, _activation(traced, where, a, own, acts[i]))
        for i, a in enumerate(where.activations) if i in acts and a.uses
        for own in layers_of(a.path, a.loops, where.stacked(a.loops))
    ]  # fmt: skip
    numbers = Numbers(traced.made, model.floats)
    found = Diagnosis(
        tuple(layer for _, layer in sorted(layers, key=lambda row: row[0])),
        tuple(activation for _, activation in sorted(activations, key=lambda row: row[0])),
        tuple(
            _parameter(role, numbers, pooled(parts))
            for role, parts in zip(roles, by_part, strict=True)
        ),
        float(value),
        float(probe.log_size(*output)),
        sum(math.prod(loop.length for loop in r.loops) for r in traced.residuals),
        tuple(
            Branch(*(
                frozenset(traced.paths[traced.uses[i].leaf] for i in orders)
                for orders in (r.branch, r.last)
            ))
            for r in traced.residuals
        ),
    )  # fmt: skip
    same = copies(roles, model.floats, within=True)
    zero = (i for i, p in enumerate(found.parameters) if p.std == p.mean == 0)
    meant = by_design(traced, roles, frozenset(zero))
    found = replace(
        found,
        parameters=tuple(
            p._replace(same_as=same.get(i), by_design=meant.get(i))
            for i, p in enumerate(found.parameters)
        ),
        attention=tuple(
            _attention(traced, where.softmaxes[i - where.places], logits[i]) for i in sorted(logits)
        ),
        uninformed=_uninformed(model, targets),
        unseen=tuple(_unseen(model, where, seen, roles, too_long)),
    )
    findings, remarks = find(found)
    return replace(found, findings=findings, remarks=remarks)


def _entered(model: TracedModel) -> tuple[TracedModel, bool]:
    """The model with its loops as scans, so that they can be looked into; or that one is too long.

    The tree of variables, and its paths, stay.
    """
    if not hides_weights(model.trace):
        return model, False
    run = stepped(model.trace, model.floats, model.inputs)
    if run is None and has_no_gradient(model.trace):
        raise ValueError(
            f"a while of the model takes more than {MOST} passes, and jax knows no gradient of it; "
            f"diagnose the model with fewer steps, or write the loop as a jax.lax.scan."
        )
    if run is None:
        return model, True

    def apply(variables: Any, *inputs: Any) -> Any:
        return run(model.of(variables).floats, *inputs)

    new = TracedModel(apply, model.variables, *model.inputs, loss=model.loss, rules=model.rules)
    return new, False


def _unseen(
    model: TracedModel, where: Sites, seen: Mapping[int, Any], roles: Sequence[Role],
    too_long: bool,
) -> Iterator[str]:  # fmt: skip
    """What no verdict can look at."""
    unread = [
        r.path for r in roles
        if r.kind == "other" and r.uses and not all(use.sure for use in r.uses)
        and r.path not in model.rules
    ]  # fmt: skip
    if unread:
        yield f"{_some(unread)} could not be read off the trace"
    hidden = [
        named(model.trace, site.uses, (0,) * len(site.uses[0].view.layers))[1]
        for i, site in enumerate(where.weights) if i not in seen
    ]  # fmt: skip
    if too_long:
        yield f"a loop takes more than {MOST} passes, so that its layers are not measured"
    elif hidden:
        yield f"the loop around {_some(hidden)} was not entered, so that it is not measured"


def _some(names: Sequence[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def _uninformed(model: TracedModel, targets: Any) -> float:
    """The loss of an output of zeros."""
    if model.loss is None:
        return math.nan
    shapes: list[Any] = [v.aval for v in opened(model.trace.jaxpr).outvars]
    zeros = [jnp.zeros(s.shape, s.dtype) for s in shapes]
    return float(jax.jit(_objective(model, targets))(zeros))


def _attention(traced: Trace, softmax: Softmax, logits: np.ndarray) -> AttentionSignal:
    last = [traced.uses[i] for i in sorted(softmax.uses)]
    paths = dict.fromkeys(short_name(traced.paths[use.leaf]) for use in last)
    std, entropy = np.nanmean(np.asarray(logits, np.float64).reshape(-1, 2), axis=0)
    shape = traced.equation(softmax.path).invars[0].aval.shape
    keys = math.prod(shape[a] for a in softmax.axes)
    return AttentionSignal(" x ".join(paths), float(std), float(entropy), keys)


def _logits(softmax: Softmax, x: jax.Array) -> jax.Array:
    """Std of the logits, and entropy of their softmax over that of equal weights: `[2]`."""
    u, axes = x, softmax.axes
    if 0 not in axes and x.size > _LOGITS:  # the first samples tell as much, and cost less
        u = u[: max(_LOGITS * x.shape[0] // x.size, 1)]
    u = u.astype(jnp.float32)
    u = u - jnp.max(u, axes, keepdims=True)
    open_ = u > _MASKED

    def total(a: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(open_, a, 0), axes)

    count, p, mean = total(jnp.ones_like(u)), jnp.exp(u), total(u)
    norm, mean = total(p), mean / count
    entropy = jnp.log(norm) - total(u * p) / norm
    spread = jnp.maximum(total(jnp.square(u)) / count - jnp.square(mean), 0)
    some = count > 1
    rows = jnp.maximum(jnp.sum(some, dtype=jnp.float32), 1)
    share = entropy / jnp.log(jnp.where(some, count, 2))
    spread, share = (jnp.sum(jnp.where(some, a, 0)) / rows for a in (spread, share))
    return jnp.stack([jnp.sqrt(spread), share])


def compiled(model: TracedModel, where: Sites, targets: Any = None) -> Callable[[], Any]:
    """The measurement, to be called, and perhaps timed."""
    run = jax.jit(partial(_run, model.trace, where, _objective(model, targets)))
    return lambda: run(model.floats, model.inputs)


def _objective(model: TracedModel, targets: Any) -> Callable[[list[Any]], Any]:
    """The loss, or the sum of outputs times random numbers, of the output's arrays."""
    traced = model.trace
    loss = _random if model.loss is None else model.loss_of(targets)
    shapes: list[Any] = [v.aval for v in traced.jaxpr.jaxpr.outvars]
    if model.loss is None:
        tree: Any = jax.tree.structure(traced.outputs(shapes))
        if targets is not None:
            raise TypeError(
                "targets need a loss: give loss=lambda output, targets: a scalar of both."
            )
        if len(shapes) != 1 or tree != jax.tree.structure(0):
            raise TypeError(
                f"the model's output is {tree} and not one array; give loss=lambda output: a "
                f"scalar of it, or let apply return the array alone."
            )
        if not jnp.issubdtype(shapes[0].dtype, jnp.inexact):
            raise TypeError(
                f"the model's output is of {shapes[0].dtype}, which has no gradient; let apply "
                f"return what the loss is computed from, such as logits."
            )

    def objective(arrays: list[Any]) -> Any:
        return loss(traced.outputs(arrays))

    out = jax.eval_shape(objective, list(shapes))
    if not hasattr(out, "shape") or out.shape != ():
        raise TypeError(
            f"loss must map the model's output to a scalar, got "
            f"{getattr(out, 'shape', type(out).__name__)}; take the mean over the batch."
        )
    return objective


def _random(out: jax.Array) -> jax.Array:
    factors = jax.random.normal(jax.random.key(0), out.shape, jnp.float32)
    return jnp.sum(out.astype(jnp.float32) * factors)


# --- the run ------------------------------------------------------------------------------------


def _run(
    traced: Trace,
    where: Sites,
    objective: Callable[[list[Any]], Any],
    floats: list[Any],
    inputs: Sequence[Any],
) -> Any:
    weights, activations, softmaxes = where
    n, m = len(weights), len(activations)
    places = [*(site.place for site in weights), *(probe.Spot(*a.entry) for a in activations),
              *(probe.Spot(a.path) for a in activations),
              *(probe.Spot(s.path, 0) for s in softmaxes)]  # fmt: skip
    tapped = dict(enumerate(weights)) | dict(enumerate(activations, n + m))

    def visit(i: int, value: jax.Array, zeros: Any) -> tuple[jax.Array, Any]:
        still = jax.lax.stop_gradient(value)
        if i >= where.places:
            return value, _logits(softmaxes[i - where.places], still)
        if i not in tapped:
            return value, shares(activations[i - n], still)
        return probe.tap(value, zeros), probe.moments(still)

    taps = {i: probe.tap_zeros([loop.length for loop in at.loops]) for i, at in tapped.items()}

    def run(floats: list[Any], taps: Any) -> Any:
        out, records = probe.interpret(traced, floats, inputs, places, visit, taps)
        shown = next((leaf for leaf in out if jnp.issubdtype(leaf.dtype, np.inexact)), jnp.zeros(1))
        return objective(out), (probe.size(jax.lax.stop_gradient(shown)), records)

    (value, (output, records)), (by_leaf, by_tap) = jax.value_and_grad(
        run, argnums=(0, 1), has_aux=True
    )(floats, taps)
    by_part = [
        jax.vmap(probe.size)(g.reshape(_parts(traced, i), -1)) for i, g in enumerate(by_leaf)
    ]
    return value, output, records, by_tap, by_part


class _Seen(NamedTuple):
    """What was seen at a place, in each pass of the loops around it; logarithms are natural."""

    mean: np.ndarray
    std: np.ndarray
    log_rms: np.ndarray
    log_grad: np.ndarray


def _seen(found: probe.Moments, gradient: np.ndarray) -> _Seen:
    scale, mean, square = (np.asarray(a, np.float64) for a in found)
    with np.errstate(invalid="ignore"):  # what is inf or NaN stays so
        std = np.sqrt(np.maximum(square - mean**2, 0))
    return _Seen(
        scale * mean, scale * std, probe.log_size(scale, square),
        probe.log_size(gradient[..., 0], gradient[..., 1]),
    )  # fmt: skip


# --- records of layers --------------------------------------------------------------------------


def _layer(
    traced: Trace,
    roles: Sequence[Role],
    site: Site,
    own: Passes,
    pre: _Seen,
    act: tuple[_Seen, Any, Any] | None,
    by_part: Sequence[np.ndarray],
) -> DiagnosedLayer:
    path, layer = named(traced, site.uses, own.layer)
    first, *_ = site.uses
    shared = [loop for n, loop in enumerate(site.loops) if n not in first.view.stacked]
    aval = traced.equation(site.place.path).outvars[0].aval
    pre_mean, pre_std, log_pre, log_grad = _pooled(pre, own)
    nothing = np.zeros_like(pre.mean)
    after, *slopes = act or (pre, nothing, nothing)
    act_mean, act_std, log_act, _ = _pooled(after, own)
    dead, saturated = _shares(slopes, own)
    by_weight = {}
    for use in site.uses:
        logs = by_part[use.leaf]
        own_part = np.ravel_multi_index(own.layer, use.view.layers) if len(logs) > 1 else 0
        by_weight[use.leaf] = logs[own_part]
    turn = slice(None, None, -1 if any(loop.reverse for loop in shared) else 1)
    back, ahead = (
        tuple(map(float, logs[own.taken][turn])) if len(shared) == 1 else ()
        for logs in (pre.log_grad, pre.log_rms)
    )
    return DiagnosedLayer(
        path, layer, roles[first.leaf].kind, first.fan_in or 0,
        sum(use.fan_out or 0 for use in site.uses), site.name,
        math.prod(aval.shape) * math.prod(loop.length for loop in shared),
        pre_mean, pre_std, act_mean, act_std, log_pre, log_act, dead, saturated, log_grad,
        pooled(list(by_weight.values()), [traced.leaves[leaf].size for leaf in by_weight]),
        back, ahead,
    )  # fmt: skip


def _activation(
    traced: Trace, where: Sites, activation: ActivationUse, own: Passes, act: tuple[_Seen, Any, Any]
) -> ActivationSignal:
    last = traced.uses[max(activation.uses)]
    uses = next((site.uses for site in where.weights if last in site.uses), (last,))
    value, *slopes = act
    layer = named(traced, uses, own.layer)[1]
    return ActivationSignal(activation.name, layer, *_pooled(value, own), *_shares(slopes, own))


def _shares(slopes: Sequence[np.ndarray], own: Passes) -> list[float]:
    return [float(np.mean(np.asarray(share)[own.taken])) for share in slopes]


def _pooled(seen: _Seen, own: Passes) -> tuple[float, float, float, float]:
    """Over the passes of loops that share the weights."""
    mean, std, log_forward, log_back = (a[own.taken] for a in seen)
    return (
        float(np.mean(mean)), float(np.sqrt(np.mean(np.square(std)))),
        pooled(log_forward), pooled(log_back),
    )  # fmt: skip


def _parts(traced: Trace, leaf: int) -> int:
    """How many layers an array of weights holds along its first axes, for loops to go through."""
    uses = [u for u in traced.uses if u.kind == "weight" and leaf in u.parts]
    own = traced.leaves[leaf]
    leading = all(
        not any(u.view.steps[: len(u.view.layers)])  # None is a layer
        and (u.view.leaf == leaf or own.shape[: len(u.view.layers)] == u.view.layers)
        for u in uses
    )  # fmt: skip
    found = {u.layers for u in uses}
    return found.pop() if leading and len(found) == 1 else 1


def _parameter(role: Role, numbers: Numbers, log_grad: float) -> ParameterSignal:
    values = leaf = np.asarray(numbers.of(role.number))
    constant = semi_orthogonal = False
    if role.is_changed:
        with suppress(RoleError):
            values = role.applied(numbers)
    if leaf.dtype.itemsize < 8:
        values = values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)
    finite = bool(np.isfinite(values).all())
    if finite and role.kind in ("weight", "tied") and role.fan_out and role.fan_out > 1:
        try:
            matrices = role.applied(numbers)
        except ValueError:  # chosen while the model runs
            constant = bool(np.ptp(values) == 0)
        else:
            constant = bool(matrices.shape[-1] > 1 and np.all(matrices == matrices[..., :1]))
            semi_orthogonal = orthogonal(matrices, float(jnp.finfo(leaf.dtype).eps))
    finite = finite and values.size > 0
    mean, std = (float(values.mean().real), float(values.std())) if finite else (math.nan, math.nan)
    return ParameterSignal(
        role, short_name(role.path), mean, std, log_grad, constant, semi_orthogonal
    )
