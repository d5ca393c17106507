"""The network: a frozen description, its parameters from a key, and the forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby, pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jinit import checks, schemes
from jinit.activations import Activation, activation, check_activation
from jinit.networks.description import Description
from jinit.networks.forms import by_platform
from jinit.networks.layer import (
    LAYERS,
    RESIDUALS,
    Parts,
    Run,
    Steps,
    climb,
    over_layers,
    plain_steps,
)
from jinit.networks.norms import NORMS, BatchStats, init_stats
from jinit.networks.params import ConvLayer, Layer, NormState, Params, stack
from jinit.runtime import keys_after

UNROLLED = 16
"""Layers of a run up to which the scan is unrolled: no stacking of what each layer keeps, for a
little more compile time."""
UNROLLED_ROWS = 128
"""The same on an accelerator, where slices of stacked weights cost a copy each."""
_CHUNK = 16  # layers of a longer run that are one piece of an accelerator's program


@dataclass(frozen=True)
class MLP(Description):
    """A fully connected network, as a description that can be hashed and compared.

    Args:
        dims: widths, input first: (64, 128, 128, 10) has two hidden layers and a readout.
        activation: a name of `jinit.activations.ACTIVATIONS`, or any elementwise function.
        norm: None, "batch" or "layer" (`jinit.networks.NORMS`), between linear map and activation.
        residual: None, or how square hidden layers add their branch to the stream:
            "plain" (a = 1), "scaled" (a = 1/sqrt(number of branches)) or "skipinit" (a learnable
            scalar per branch that starts at 0: De & Smith 2020; ReZero, Bachlechner et al. 2020).
        bias: whether linear maps have one.
        momentum: of the running batch statistics, `m * running + (1 - m) * batch`.
        eps: added to variances.

    Raises:
        ValueError, TypeError: for a width, name or number that is not allowed.
    """

    dims: Sequence[int]
    activation: str | Activation = "relu"
    norm: str | None = None
    residual: str | None = None
    bias: bool = True
    momentum: float = 0.9
    eps: float = 1e-5

    def __post_init__(self) -> None:
        """Validate, and make `dims` a tuple."""
        object.__setattr__(self, "dims", checks.dims(self.dims))
        check_activation(self.activation)
        checks.choice("norm", self.norm, NORMS)
        checks.choice("residual", self.residual, RESIDUALS)
        self.check_rest()

    @property
    def depth(self) -> int:
        """The number of weight matrices, readout included."""
        return len(self.dims) - 1

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Maximal groups of consecutive equal hidden layers, and the readout on its own."""
        runs: list[Run] = []
        for shape, equal in groupby(pairwise(self.dims[:-1])):
            block = self.residual is not None and shape[0] == shape[1]
            start = sum(run.length for run in runs)
            runs.append(Run(start, len(list(equal)), shape, "block" if block else "plain"))
        return (*runs, Run(self.depth - 1, 1, (self.dims[-2], self.dims[-1]), "readout"))

    @cached_property
    def branch_scale(self) -> float:
        """The fixed factor of every residual branch."""
        branches = sum(run.length for run in self.runs if run.kind == "block")
        return RESIDUALS[self.residual].factor(branches)

    @property
    def parts(self) -> Parts:
        """What all its layers have in common."""
        phi, norm = activation(self.activation), NORMS[self.norm]
        return Parts(phi, norm, self.momentum, self.eps, self.branch_scale)

    @property
    def words(self) -> str:
        """What it is."""
        return f"widths {list(self.dims)}"

    def shapes(self, run: Run) -> dict[str, tuple[int, ...] | None]:
        """The shapes of a run's layers and of its statistics, None for what it lacks."""
        steps, norm, vector = LAYERS[run.kind].steps, NORMS[self.norm], (run.length, run.shape[-1])
        normed = vector if norm.standardise is not None and "norm" in steps else None
        learned = RESIDUALS[self.residual].learned and "branch" in steps
        return {
            "w": (run.length, *run.shape),
            "b": vector if self.bias else None,
            "gamma": normed,
            "beta": normed,
            "alpha": (run.length,) if learned else None,
            "stats": normed if norm.over_batch else None,
        }

    def check_input(self, name: str, x: jax.Array) -> None:
        """Refuse inputs of another shape."""
        if x.ndim != 2 or x.shape[1] != self.dims[0]:
            raise ValueError(
                f"{name} must have shape [batch, {self.dims[0]}] for a network of widths "
                f"{list(self.dims)}, got {list(x.shape)}; reshape {name} or change dims[0]."
            )

    def columns(self, x: jax.Array) -> jax.Array:
        """[features, batch]."""
        return x.T

    def steps(
        self, run: Run, train: bool, layer: Any, stats: BatchStats | None, *, rows: bool
    ) -> Steps[jax.Array]:
        """Those of a layer in the forward pass, on samples first or last."""
        axis = 0 if rows else 1
        return plain_steps(run.kind, self.parts, train, layer, stats, batch_axis=axis)


def init(
    key: jax.Array,
    net: Description,
    scheme: str | schemes.Initializer = "xavier",
    *,
    bias_var: float | jax.Array | np.ndarray = 0.0,
    dtype: Any = jnp.float32,
    **options: Any,
) -> tuple[Params, NormState]:
    """Draw a network's parameters, and its batch-norm state before any batch.

    Layer i draws from `fold_in(key, i)`, so that a deeper net shares its first layers with a
    shallower one. Mapped over keys and traced options, the draws are those of a loop: on CPU
    `jit(vmap(f))` equals `jit(f)` bit for bit (see docs/troubles.md for odd sizes on newer jax).

    Args:
        key: one PRNG key.
        net: the description.
        scheme: a name of `jinit.SCHEMES`, or any initializer `(key, shape, dtype)`.
        bias_var: variance of the biases, N(0, bias_var); may be traced.
        dtype: of every parameter.
        **options: the scheme's, such as `gain` or `scale`; may be traced.

    Returns:
        `params`, a sequence of one `Layer` per weight matrix, and `state`, a sequence of one
        `BatchStats` per batch-normalised layer.

    Raises:
        ValueError, TypeError: for a key, name or option that is not allowed.
    """
    key = checks.key(key)
    _check_net(net)
    checks.number("bias_var", bias_var)
    dtype = checks.dtype("dtype", dtype)
    if checks.is_concrete(bias_var):
        if float(bias_var) < 0:
            raise ValueError(f"bias_var is a variance and must not be negative, got {bias_var!r}.")
        if float(bias_var) > 0 and not net.bias:
            kind = type(net).__name__
            raise ValueError(f"bias_var={bias_var!r} needs biases; use {kind}(..., bias=True).")
    row = _row(scheme, options)
    convolutional = any(run.window is not None for run in net.runs)

    def draws(keys: jax.Array, shape: tuple[int, ...], given: dict[str, Any]) -> jax.Array:
        own = row.dense if convolutional and len(shape) == 2 and row.dense else scheme
        draw = own if callable(own) else schemes.scheme(own, **given)
        return jax.vmap(lambda key: draw(key, shape, dtype))(keys)

    fold_in = jax.vmap(jax.random.fold_in, (0, None))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(net.depth))
    weight_keys = fold_in(keys, 0)
    w: jax.Array | None = None
    layers: list[Layer | ConvLayer] = []
    stats: list[BatchStats | None] = []
    for run in net.runs:
        pieces: list[jax.Array] = []
        for place, start, length in _places(net, run, row.placed):
            if w is not None and row.decomposes:
                weight_keys = keys_after(weight_keys, w)
            given = options | {"place": place} if row.placed else options
            w = draws(weight_keys[start : start + length], run.shape, given)
            pieces.append(w)
        w = jnp.concatenate(pieces)
        if w.shape[1:] != run.shape:
            raise ValueError(
                f"an initializer must return an array of the shape it is given, "
                f"{list(run.shape)}, got {list(w.shape[1:])} from {scheme!r}."
            )
        shapes = net.shapes(run)
        rest: dict[str, Any] = {
            name: None if shapes[name] is None else jnp.full(shapes[name], value, dtype)
            for name, value in {"b": 0, "gamma": 1, "beta": 0, "alpha": 0}.items()
        }
        if net.bias and not (checks.is_concrete(bias_var) and float(bias_var) == 0):
            own = fold_in(keys[run.start : run.start + run.length], 1)
            draw = schemes.scheme("normal", scale=jnp.sqrt(jnp.asarray(bias_var, jnp.float32)))
            rest["b"] = jax.vmap(lambda key, n=run.shape[-1:], d=draw: d(key, n, dtype))(own)
        if shapes.get("projection") is not None:
            own = fold_in(keys[run.start : run.start + run.length], 2)
            own = keys_after(own, w) if row.decomposes else own
            rest["projection"] = draws(own, run.shape[-2:], given)
            if row.decomposes:
                weight_keys = keys_after(weight_keys, rest["projection"])
        layers.append((Layer if run.window is None else ConvLayer)(w, **rest))
        stats.append(None if shapes["stats"] is None else init_stats(shapes["stats"], dtype))
    return Params(tuple(layers)), NormState(tuple(stats))


def init_params(
    key: jax.Array,
    dims: Sequence[int],
    scheme: str | schemes.Initializer = "xavier",
    *,
    bias_var: float | jax.Array | np.ndarray = 0.0,
    dtype: Any = jnp.float32,
    **options: Any,
) -> Params:
    """Parameters for a plain list of widths: `init(key, MLP(dims), ...)[0]`.

    >>> import jax, jinit
    >>> params = jinit.init_params(jax.random.key(0), [64, 128, 128, 10], "normal", scale=0.01)
    >>> [layer.w.shape for layer in params]
    [(64, 128), (128, 128), (128, 10)]
    """
    return init(key, MLP(dims), scheme, bias_var=bias_var, dtype=dtype, **options)[0]


def _places(net: Description, run: Run, placed: bool) -> list[tuple[schemes.Place, int, int]]:
    """(place, first layer, number of layers) of the pieces that one initializer draws each."""
    if run.kind in ("readout", "pooled"):
        return [("only" if net.depth == 1 else "last", run.start, 1)]
    if run.start == 0 and run.length > 1 and placed:
        return [("first", 0, 1), ("hidden", 1, run.length - 1)]
    return [("hidden" if run.start > 0 else "first", run.start, run.length)]


def _row(scheme: str | schemes.Initializer, options: dict[str, Any]) -> schemes.Scheme:
    """What is known of a scheme; of a function of one's own, not even that it has no QR."""
    if isinstance(scheme, str):
        for fixed in ("in_axis", "out_axis", "batch_axis", "place"):
            if fixed in options:
                raise TypeError(
                    f"{fixed!r} is set by the network, whose weights are [fan_in, fan_out], got "
                    f"{fixed}={options[fixed]!r}; leave it out, or draw with jinit.scheme."
                )
        checks.choice("scheme", scheme, schemes.SCHEMES)
        return schemes.SCHEMES[scheme]
    if not callable(scheme):
        raise TypeError(
            f"scheme must be a name such as 'he' or an initializer (key, shape, dtype), "
            f"got {checks.shown(scheme)}."
        )
    if options:
        raise TypeError(
            f"an initializer function takes no options here, got {sorted(options)}; "
            f"build them into the function."
        )
    return schemes.Scheme(lambda: scheme, "", "", decomposes=True)


def forward(
    net: Description,
    params: Params | Sequence[Layer],
    state: NormState | Sequence[BatchStats] | None,
    x: Float[ArrayLike, "batch *in"],
    *,
    train: bool,
) -> tuple[Float[Array, "batch out"], NormState]:
    """The network's output, and the batch-norm state after it.

    Args:
        net: the description.
        params: what `init` returned, or any plain sequence of `Layer`s.
        state: what `init` returned; None will do for a net without batch norm.
        x: inputs [batch, in]; images [batch, height, width, channels] of a `ConvNet`.
        train: normalise by the batch's statistics and update the running ones (True), or by the
            running ones (False).

    Returns:
        Outputs (logits) and the new state; without batch norm, or with `train=False`, the state
        is unchanged.

    Raises:
        ValueError: parameters or inputs that do not fit the network.
    """
    checks.flag("train", train)
    params, state = as_stacked(net, params, state)
    x = as_input(net, params, x, finite=False)
    forms = (partial(form, net, train=train) for form in (columns, rows))
    return by_platform(*forms, params, state, x)


def columns(
    net: Description, params: Params, state: NormState, x: jax.Array, *, train: bool
) -> tuple[jax.Array, NormState]:
    """A CPU's form: inside, samples come last. See `linear` for why."""
    how: Any = {"train": train, "rows": False, "unroll": UNROLLED, "chunk": net.chunk}
    h, state = _through(net, params, state, net.columns(x), **how)
    return h.T, state


def rows(
    net: Description, params: Params, state: NormState, x: jax.Array, *, train: bool,
    unroll: int = UNROLLED_ROWS,
) -> tuple[jax.Array, NormState]:  # fmt: skip
    """An accelerator's form: samples come first."""
    how: Any = {"train": train, "rows": True, "unroll": unroll, "chunk": _CHUNK}
    return _through(net, params, state, x, **how)


def _through(
    net: Description, params: Params, state: NormState, h: jax.Array, *,
    train: bool, rows: bool, unroll: int, chunk: int,
) -> tuple[jax.Array, NormState]:  # fmt: skip
    def up(run: Run, h: jax.Array, xs: Any) -> tuple[jax.Array, BatchStats | None]:
        h, seen = climb(run.kind, net.steps(run, train, *xs, rows=rows), h)
        return h, seen["norm"].beside if "norm" in seen else None

    own = params.runs, state.runs
    h, after = over_layers(up, h, net.runs, *own, unroll=unroll, chunk=chunk)
    return h, NormState(tuple(after))


def _check_net(net: object) -> None:
    if not isinstance(net, Description):
        raise TypeError(
            f"net must be a jinit.MLP such as jinit.MLP([64, 128, 10]), or a jinit.ConvNet, got "
            f"{checks.shown(net)}."
        )


def as_input(
    net: Description, params: Params, x: Any, name: str = "x", finite: bool = True
) -> jax.Array:
    """The inputs as an array [batch, in] of the parameters' dtype."""
    checks.numeric(name, x)
    if finite:
        checks.finite(name, x)
    x = jnp.asarray(x)
    net.check_input(name, x)
    if finite and not x.shape[0]:
        raise ValueError(f"{name} must hold at least one sample, got {list(x.shape)}.")
    return x.astype(params.runs[0].w.dtype)


def as_measured(
    net: Description, params: Any, state: Any, x: Any
) -> tuple[Params, NormState, jax.Array]:
    """What a measurement takes: narrower floats widened to float32, and finite inputs."""
    stacked = as_stacked(net, params, state)
    params, state = jax.tree.map(lambda a: a.astype(np.promote_types(a.dtype, np.float32)), stacked)
    return params, state, as_input(net, params, x)


def as_stacked(net: Description, params: Any, state: Any) -> tuple[Params, NormState]:
    """Parameters and state in stacked form, checked against the network's shapes."""
    _check_net(net)
    lengths = [run.length for run in net.runs]
    if not isinstance(params, Params):
        if not isinstance(params, Sequence) or not all(
            isinstance(p, Layer | ConvLayer) for p in params
        ):
            raise TypeError(
                f"params must be what jinit.init returned or a sequence of jinit.Layer, "
                f"got {type(params).__name__}."
            )
        found = [tuple(jnp.shape(layer.w)) for layer in params]
        expected = [run.shape for run in net.runs for _ in range(run.length)]
        if found != expected:
            raise ValueError(_mismatch(net, "weights of shapes", found, expected))
        layers: list[Any] = [jax.tree.map(jnp.asarray, p) for p in params]
        for run in net.runs:
            if run.window is not None:
                ends = run.start, run.start + run.length
                layers[slice(*ends)] = [ConvLayer(*layer) for layer in layers[slice(*ends)]]
            own = layers[run.start : run.start + run.length]
            if len({jax.tree.structure(layer) for layer in own}) > 1:
                raise ValueError(
                    f"layers {run.start} to {run.start + run.length - 1} have one shape and must "
                    f"have the same fields, but some are None in one and not in another; give "
                    f"each a b (and gamma, beta, alpha), or none."
                )
        params = Params(stack(layers, lengths))
    for run, own in zip(net.runs, params.runs, strict=False):
        shapes = net.shapes(run)
        for name, leaf in own._asdict().items():
            shape = None if leaf is None else tuple(leaf.shape)
            if shape != shapes.get(name):
                what = f"{name!r} of layers {run.start} to {run.start + run.length - 1} to be"
                raise ValueError(_mismatch(net, what, shape, shapes.get(name)))
    if len(params.runs) != len(net.runs):
        raise ValueError(_mismatch(net, "a number of runs", len(params.runs), len(net.runs)))
    return params, _as_state(net, state, lengths)


def _as_state(net: Description, state: Any, lengths: list[int]) -> NormState:
    if not net.parts.norm.over_batch:
        return NormState((None,) * len(lengths))
    if state is not None and not isinstance(state, NormState):
        if not isinstance(state, Sequence) or not all(isinstance(s, BatchStats) for s in state):
            raise TypeError(
                f"state must be what jinit.init returned or a list of BatchStats, got "
                f"{checks.shown(state)}."
            )
        state = NormState((*stack(list(state), lengths[:-1]), None))
    expected = [s for s in (net.shapes(run)["stats"] for run in net.runs) if s is not None]
    found = [] if state is None else [tuple(s.mean.shape) for s in state.runs if s is not None]
    if found != expected:
        raise ValueError(
            f"state must hold batch statistics of shapes {expected} for this network, got {found}; "
            f"use the state that jinit.init returned together with params."
        )
    return state


def _mismatch(net: Description, what: str, found: object, expected: object) -> str:
    return (
        f"params belong to another network: this one has {net.words} and needs {what} {expected}, "
        f"got {found}; draw them with jinit.init(key, net), or under jax.vmap if they hold several "
        f"networks."
    )
