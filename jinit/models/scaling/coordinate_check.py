"""Whether layers stay of one size while a model is widened and trained: the coordinate check."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jinit import checks
from jinit.models.diagnosis.sites import named
from jinit.models.tracing.probe import Spot, interpret
from jinit.models.tracing.trace import Trace, trace_model
from jinit.models.tracing.uses import Use

if TYPE_CHECKING:
    import xarray as xr


class Setup(NamedTuple):
    """A model of one width, and how it is trained."""

    apply: Callable[..., Any]
    """`apply(variables, *inputs)`, traceable and differentiable"""
    init: Callable[[jax.Array], Any]
    """`init(key)` draws variables; jit it to save time"""
    inputs: tuple[Any, ...]
    """one batch, the same in every step"""
    loss: Callable[[Any], Any]
    """`loss(output) -> scalar`"""
    optimizer: optax.GradientTransformation
    """of this width, as `MuP.optimizer` gives it"""


def coordinate_check(
    make: Callable[[int], Setup | tuple[Any, ...]],
    widths: Sequence[int],
    *,
    key: jax.Array,
    steps: int = 4,
    seeds: int = 4,
) -> "xr.Dataset":
    """Train at several widths for a few steps, and see whether coordinates stay the same size.

    Under muP the slopes of log size against log width are 0 for every layer and step, except that
    a readout that does not start at 0 has -1/2 before the first steps. A curve that bends up or
    down with the width shows a multiplier that is wrong or was forgotten; `coordinate_verdict` says
    which. Give few samples, and widths above their number: up to there a step of Adam changes a
    layer mostly by chance, which falls as width^(-1/2) under muP as well.

    Args:
        make: `make(width)` gives a `Setup`, or a tuple like one.
        widths: at least two.
        key: one PRNG key; every width draws from the same keys.
        steps: updates.
        seeds: models of every width.

    Returns:
        A Dataset with the dimensions width, seed, step (0 before the first update) and layer, which
        is every application of a weight or embedding, in call order, the layers of loops one by
        one:

        - "size", mean absolute value of what comes out, before the bias;
        - "change", mean absolute value of its change since step 0;
        - "size_slope" and "change_slope", [seed, step, layer]: the least-squares slope of their
          logarithm against that of the width. The spread over seeds gives the standard error.

        Products that read no parameter, as of queries with keys, are not seen, nor what happens in
        a `while`.

    Raises:
        TypeError, ValueError: what `make` gives is no `Setup`; widths whose models differ in their
            layers; numbers that are not allowed.

    Source: Yang et al. 2022, "Tensor Programs V", appendix D.1, and figure 5.
    """
    key = checks.key(key)
    steps, seeds = checks.count("steps", steps), checks.count("seeds", seeds)
    listed = checks.listed("widths must list two or more, as in [64, 128, 256]", widths)
    widths = [checks.count("widths", width) for width in listed]
    if len(set(widths)) < max(len(widths), 2):
        raise ValueError(f"widths must be two or more different ones, got {widths}.")
    keys = jax.random.split(key, seeds)
    found = []
    for width in widths:
        found.append(_coordinates(_setup(make(width), width), keys, steps))
        (names, _), (layers, _) = found[0], found[-1]
        if layers != names:
            raise ValueError(
                f"make must give models that differ in their widths alone, got layers {layers} at "
                f"{width} and {names} at {widths[0]}."
            )
    return _dataset(np.stack([values for _, values in found]), widths, names)


TOLERANCE = 0.1
"""A power of the width that is no cause for concern: finite widths bend curves by as much."""


def coordinate_verdict(found: "xr.Dataset") -> str:
    """One sentence on a coordinate check: which layer's change depends on the width, and how.

    Looked at is `change_slope` after the last step. A layer is named if its mean over seeds is
    further from 0 than chance explains (one time in a hundred for any layer: Student's t over the
    number of layers), and than 0.1. Of several, the first in call order: what comes after it reads
    what it makes.

    Args:
        found: what `coordinate_check` gives, of two seeds or more.

    Raises:
        ValueError: one seed, which has no standard error; a dataset of something else.
    """
    import scipy.stats

    if not hasattr(found, "data_vars"):
        raise TypeError(
            f"coordinate_verdict reads what coordinate_check gives, a Dataset, got "
            f"{checks.shown(found)}."
        )
    if "change_slope" not in found:
        raise ValueError(
            f"coordinate_verdict reads what coordinate_check gives, with change_slope; got "
            f"{sorted(map(str, found.data_vars))}."
        )
    seeds, step = found.sizes["seed"], int(found.step.values[-1])
    if seeds < 2:
        raise ValueError("a verdict needs a standard error, hence two seeds or more, got 1.")
    layers = [str(name) for name in found.layer.values]
    finite = np.isfinite(found["size"].values).all(axis=(1, 2))  # [width, layer]
    if not finite.all():
        width, layer = np.argwhere(~finite)[0]
        return (
            f"The coordinate check saw {layers[layer]} overflow at width "
            f"{int(found.width.values[width])}: the learning rate is too large there."
        )
    slopes = found.change_slope.sel(step=step).transpose("seed", "layer").values
    moved = np.isfinite(slopes).all(axis=0)
    if not moved.any():
        return f"No layer has changed after {step} steps at every width: there is nothing to judge."
    power, error = slopes.mean(axis=0), slopes.std(axis=0, ddof=1) / np.sqrt(seeds)
    allowed = np.maximum(scipy.stats.t.isf(0.005 / len(layers), seeds - 1) * error, TOLERANCE)
    off = np.flatnonzero(moved & (np.abs(power) > allowed))
    at = off[0] if off.size else np.nanargmax(np.where(moved, np.abs(power), -1))
    shown = f"width^{power[at]:+.2f} (standard error {error[at]:.2f})"
    still = "" if moved.all() else f" {layers[int(np.argmin(moved))]} has not changed everywhere."
    if not off.size:
        return (
            f"The coordinate check holds: after {step} steps no layer's change depends on the "
            f"width; the largest power is that of {layers[at]}, {shown}.{still}"
        )
    more = f", and so do {off.size - 1} more layers" if off.size > 1 else ""
    return (
        f"The coordinate check fails at {layers[at]}: its change after {step} steps "
        f"{'grows' if power[at] > 0 else 'shrinks'} with the width like {shown}{more}; see the "
        f"multipliers of that parameter in jinit.models.mup.{still}"
    )


def _setup(made: Any, width: int) -> Setup:
    if not isinstance(made, tuple) or len(made) != len(Setup._fields):
        raise TypeError(
            f"make must return ({', '.join(Setup._fields)}), a jinit.models.Setup, got "
            f"{type(made).__name__} for width {width}."
        )
    setup = Setup(*made)
    if not isinstance(setup.inputs, tuple):
        raise TypeError(
            f"inputs must be a tuple of what apply takes after the variables, got "
            f"{type(setup.inputs).__name__}; write (batch,)."
        )
    for name in ("apply", "init", "loss"):
        if not callable(getattr(setup, name)):
            raise TypeError(f"{name} must be a function, got {checks.shown(getattr(setup, name))}.")
    return setup


def _coordinates(
    setup: Setup, keys: jax.Array, steps: int
) -> tuple[list[str], Float[np.ndarray, "seeds 2 steps layers"]]:
    first = setup.init(keys[0])
    traced = trace_model(setup.apply, first, *setup.inputs)
    drawn, structure = jax.tree.flatten(first)

    def tree(floats: Sequence[Any], others: Sequence[Any]) -> Any:
        leaves = list(others)
        for i, leaf in zip(traced.chosen, floats, strict=True):
            leaves[i] = leaf
        return jax.tree.unflatten(structure, leaves)

    def objective(floats: list[Any]) -> jax.Array:
        return setup.loss(setup.apply(tree(floats, drawn), *setup.inputs))

    def seen(floats: list[Any]) -> dict[int, jax.Array]:
        return interpret(
            traced, floats, setup.inputs, places,
            lambda i, value, _: (value, value.astype(jnp.float32)),
        )[1]  # fmt: skip

    nothing: list[Any] = [None] * len(drawn)

    def step(carry: Any, _: None) -> Any:
        floats, state = carry
        gradient = jax.grad(objective)(floats)
        with jax.numpy_dtype_promotion("standard"):
            params = tree(floats, nothing)
            updates, state = setup.optimizer.update(tree(gradient, nothing), state, params)
            new = optax.apply_updates(params, updates)
        return (jax.tree.leaves(new), state), seen(floats)

    @jax.jit
    def run(floats: list[Any]) -> Float[Array, "2 steps layers"]:
        start = (floats, setup.optimizer.init(tree(floats, nothing)))
        records = jax.lax.scan(step, start, None, length=steps + 1)[1].items()
        return jnp.stack([
            jnp.concatenate([_sizes(v - v[:1] if changed else v, sites[i][0])
                             for i, v in sorted(records)], axis=1)
            for changed in (False, True)
        ])  # fmt: skip

    sites = list(traced.by_equation("weight", "embedding").values())
    places = [Spot(uses[0].path) for uses in sites]
    # Those of a while loop are not seen.
    visible = sorted(jax.eval_shape(seen, [drawn[i] for i in traced.chosen]))
    results = []
    for own in keys:
        leaves = jax.tree.leaves(setup.init(own))
        results.append(np.asarray(run([jnp.asarray(leaves[i]) for i in traced.chosen])))
    return _names(traced, [sites[i] for i in visible]), np.stack(results)


def _sizes(value: Float[Array, "steps ..."], use: Use) -> Float[Array, "steps layers"]:
    kept = (0, *(1 + i for i in use.view.stacked))
    others = tuple(axis for axis in range(value.ndim) if axis not in kept)
    return jnp.mean(jnp.abs(value), axis=others).reshape(value.shape[0], -1)


def _names(traced: Trace, sites: Sequence[Sequence[Use]]) -> list[str]:
    names: list[str] = []
    for uses in sites:
        for layer in np.ndindex(*uses[0].view.layers):
            _, name = named(traced, uses, layer)
            before = sum(other == name or other.startswith(f"{name} (use ") for other in names)
            names.append(f"{name} (use {before + 1})" if before else name)
    return names


def _dataset(
    values: Float[np.ndarray, "widths seeds 2 steps layers"], widths: list[int], names: list[str]
) -> "xr.Dataset":
    import xarray as xr

    x = np.log(np.asarray(widths, np.float64))
    x -= x.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.tensordot(x / (x @ x), np.log(values.astype(np.float64)), axes=1)
    slopes[~np.isfinite(slopes)] = np.nan
    data: dict[str, Any] = {}
    for i, name in enumerate(("size", "change")):
        data[name] = (("width", "seed", "step", "layer"), values[:, :, i])
        data[f"{name}_slope"] = (("seed", "step", "layer"), slopes[:, i])
    coordinates = {
        "width": list(widths), "seed": np.arange(values.shape[1]),
        "step": np.arange(values.shape[3]), "layer": names,
    }  # fmt: skip
    return xr.Dataset(data, coordinates)
