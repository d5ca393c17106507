"""Initialisation by data: every layer scaled until what comes out of it has unit variance."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jinit import checks
from jinit.models.drawing.images import Image, solved
from jinit.models.drawing.reinit import reinit
from jinit.models.drawing.scales import positive
from jinit.models.tracing.model import TracedModel, face
from jinit.models.tracing.probe import Spot, interpret
from jinit.models.tracing.roles import Role
from jinit.models.tracing.trace import Trace
from jinit.models.tracing.uses import Use
from jinit.schemes import Initializer


@face
def lsuv(
    model: TracedModel,
    key: jax.Array,
    variables: Any = None,
    *,
    scheme: str | Initializer = "orthogonal",
    std: ArrayLike = 1.0,
    passes: int = 10,
) -> Any:
    """Layer-sequential unit-variance initialisation of any model.

    Weights are drawn orthogonal, and then scaled in call order, so that what comes out of each has
    variance `std**2` over the batch and all units, given that the layers before are scaled
    already. A product is linear in its weights, so that one pass does this for all layers exactly:
    each output is divided by its standard deviation, and the weights by the same number. Weights
    that are used several times (recurrent ones, tied embeddings) have one number for all uses;
    passes are repeated until it settles.

    Args:
        key: one PRNG key, for the start.
        apply, variables, *inputs, rules: as for `jinit.Model`.
        scheme: of the start; "orthogonal" in the paper.
        std: what comes out of every layer, before the bias.
        passes: at most, for weights that are used several times.

    Returns:
        Variables of the same structure. Where nothing comes out of a layer (dead inputs), its
        weights stay as they were drawn. Vmap it over keys.

    Raises:
        RoleError: as `jinit.models.roles`.
        ValueError: an empty batch.

    Source: Mishkin & Matas 2016, "All you need is a good init", algorithm 1.
    """
    positive(std=std)
    passes = checks.count("passes", passes)
    model = model.of(variables)
    model = model.of(reinit.traced(model, key, scheme=scheme))
    model.check_numbers("lsuv")
    traced, inputs = model.trace, model.inputs
    roles = model.judged()
    sites = _sites(traced, roles)
    places = [Spot(site.uses[0].path) for site in sites]

    def once(floats: list[Any], factors: list[jax.Array]) -> list[jax.Array]:
        given = {i: site.spread(factors[i]) for i, site in enumerate(sites)}

        def visit(i: int, value: jax.Array, factor: jax.Array) -> tuple[jax.Array, Any]:
            held = value * factor.astype(value.dtype)
            size = jnp.abs(held) if jnp.iscomplexobj(held) else held
            spread = jnp.std(size.astype(jnp.float32))
            usable = (spread > 0) & jnp.isfinite(spread)
            change = jnp.where(usable, std / jnp.where(usable, spread, 1), 1).astype(jnp.float32)
            # A shared weight has to wait for all of its uses.
            out = held if sites[i].shared else held * change.astype(value.dtype)
            return out, jnp.log(change)

        changes = interpret(traced, floats, inputs, places, visit, given)[1]
        new = [
            f * jnp.exp(site.collect(changes[i])) if i in changes else f
            for i, (site, f) in enumerate(zip(sites, factors, strict=True))
        ]
        return _agreed(sites, new)

    @jax.jit
    def scale(floats: list[Any]) -> list[jax.Array]:
        factors = [jnp.ones(site.uses[0].view.layers, jnp.float32) for site in sites]
        if any(site.shared for site in sites):
            factors, _ = jax.lax.scan(lambda f, _: (once(floats, f), None), factors, None, passes)
        else:
            factors = once(floats, factors)
        return _scaled(traced, roles, sites, floats, factors)

    return model.rebuilt(scale(model.floats))


class _Site(NamedTuple):
    """One application of weights, in all passes of the loops around it."""

    uses: tuple[Use, ...]
    shared: bool
    """whether its weights are used elsewhere, or in several passes of a loop"""

    def spread(self, factors: Float[Array, "*layers"]) -> Float[Array, "*loops"]:
        """One factor a layer, for every pass of every loop."""
        lengths = [loop.length for loop in self.uses[0].loops]
        stacked = self.uses[0].view.stacked
        shape = [n if i in stacked else 1 for i, n in enumerate(lengths)]
        return jnp.broadcast_to(factors.reshape(shape), tuple(lengths))

    def collect(self, logs: Float[Array, "*loops"]) -> Float[Array, "*layers"]:
        """The mean over passes that share a layer."""
        stacked = self.uses[0].view.stacked
        return jnp.mean(logs, axis=tuple(i for i in range(logs.ndim) if i not in stacked))


def _sites(traced: Trace, roles: Sequence[Role]) -> list[_Site]:
    applied = [
        tuple(use for use in uses if roles[use.leaf].kind in ("weight", "tied"))
        for uses in traced.by_equation("weight").values()
    ]
    read = Counter[int]()  # entries of a leaf, each as often as it is read
    for use in chain(*applied):
        read[use.view.leaf] += use.part * use.layers

    def is_shared(use: Use) -> bool:
        size = math.prod(traced.shape(use.view.leaf))
        return use.times > 1 or read[use.view.leaf] > size or roles[use.leaf].kind == "tied"

    return [_Site(uses, any(map(is_shared, uses))) for uses in applied if uses]


def _agreed(sites: Sequence[_Site], factors: list[jax.Array]) -> list[jax.Array]:
    """Sites that use the same entries get one factor: the geometric mean."""
    groups: dict[Any, list[int]] = {}
    for i, site in enumerate(sites):
        signature = tuple((use.view.leaf, use.part, use.view.layers) for use in site.uses)
        groups.setdefault(signature if site.shared else i, []).append(i)
    out = list(factors)
    for members in groups.values():
        if len(members) > 1:
            logs = jnp.stack([jnp.log(factors[i]) for i in members])
            for i in members:
                out[i] = jnp.exp(jnp.mean(logs, axis=0))
    return out


def _scaled(
    traced: Trace, roles: Sequence[Role], sites: Sequence[_Site], floats: Sequence[Any],
    factors: Sequence[jax.Array],
) -> list[jax.Array]:  # fmt: skip
    """Every leaf times the factors of its entries."""
    out = list(floats)
    for i in {use.view.leaf for site in sites for use in site.uses}:
        shape = traced.shape(i)
        own = [(use, k) for k, site in enumerate(sites) for use in site.uses if use.view.leaf == i]
        # Entry by entry: which of the factors, the last of them being 1.
        which = np.full(math.prod(shape), -1, np.int64)
        taken, count = [], 0
        for use, k in own:
            for n, layer in enumerate(np.ndindex(*use.view.layers)):
                which[use.view.indices(shape, layer).ravel()] = count + n
            taken.append(factors[k].ravel())
            count += use.layers
        every = jnp.concatenate([*taken, jnp.ones(1, jnp.float32)])
        scale = every[np.where(which < 0, count, which)].reshape(shape)
        if i < len(out):
            out[i] = (jnp.asarray(out[i]) * scale).astype(traced.leaves[i].dtype)
            continue
        image = Image(traced, i)
        made = image(floats)
        with jax.ensure_compile_time_eval():
            drawn = jax.random.normal(jax.random.key(0), shape, made.dtype)
            probe = drawn / own[0][0].part ** 0.25
        beside = [k for k in image.parameters("scale") if roles[k].kind == "scale"]
        new = (made * scale).astype(made.dtype)
        out = solved(image, new, probe, out, traced.paths, beside, structured=False)
    return out
