"""Every callable type, and what trains: a description, bound to its functions and checks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jinit import checks

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(outputs, targets) -> scalar"""
Init = Callable[[jax.Array], tuple[Any, Any]]
"""key -> (params, state)"""
Apply = Callable[..., tuple[jax.Array, Any]]
"""(params, state, x, *, train, key=None) -> (outputs, state); the key is for noise in training"""
Record = Callable[[Any, Any, tuple[Any, Any]], Any]
"""(params, state, (x, y)) -> any pytree of arrays"""


class Bound(NamedTuple):
    """What training asks of a description: one of these for each kind of network."""

    check: Callable[[Any, Any], tuple[Any, Any]]
    """(params, state), as they are carried from step to step"""
    inputs: Callable[[Any, Any, str], Any]
    """(x, params, its name) -> arrays, checked"""
    shape: Callable[[Any, Any, Any], tuple[int, ...]]
    """(params, state, x) -> that of the outputs"""
    forward: Apply
    signals: Callable[..., Any] | None = None
    """(params, state, x, y, loss=) -> `LayerSignals`, where layers are known"""
    noisy: bool = False
    """whether `forward` asks for a key in training"""


@dataclass(frozen=True)
class _Pair:
    """A function that must return a pair."""

    form: str
    function: Callable[..., Any]

    def __call__(self, *args: Any, **named: Any) -> tuple[Any, Any]:
        out = self.function(*args, **named)
        if not isinstance(out, tuple) or len(out) != 2:
            raise TypeError(
                f"a jinit.Network needs {self.form}, got {type(out).__name__} instead of a pair; a "
                f"network without state returns {{}} for it."
            )
        return out


@dataclass(frozen=True)
class Network:
    """A network of one's own, in any framework, as a pair of pure functions.

    Args:
        init: `init(key) -> (params, state)`: what is trained, a pytree of float arrays, and what
            the network itself carries on (as running statistics), any pytree of arrays, or {}.
        apply: `apply(params, state, x, *, train, key=None) -> (outputs, state)`, with x any pytree
            of arrays `[batch, ...]`, outputs `[batch, outputs]` or `[batch, time, outputs]`; the
            key is None in evaluation.

    Raises:
        TypeError: what is no function, at once; another return, when it is called.
    """

    init: Init
    apply: Apply

    def __post_init__(self) -> None:
        """Let wrong functions answer with a sentence."""
        for name, form in (
            ("init", "init(key) -> (params, state)"),
            ("apply", "apply(params, state, x, *, train, key=None) -> (outputs, state)"),
        ):
            function = getattr(self, name)
            if not callable(function):
                raise TypeError(f"a jinit.Network needs {form}, got {checks.shown(function)}.")
            if not isinstance(function, _Pair):
                object.__setattr__(self, name, _Pair(form, function))


def bind_network(net: Network) -> Bound:
    """What training asks of a `Network`."""

    def check(params: Any, state: Any) -> tuple[Any, Any]:
        checks.trainable("params", params)
        return jax.tree.map(jnp.asarray, (params, state))

    def inputs(x: Any, params: Any, name: str) -> Any:
        for leaf in jax.tree.leaves(x):
            checks.numeric(name, leaf)
            checks.finite(name, leaf)
        x = jax.tree.map(jnp.asarray, x)
        if len({leaf.shape[:1] for leaf in jax.tree.leaves(x)} - {()}) != 1:
            found = [list(leaf.shape) for leaf in jax.tree.leaves(x)]
            raise ValueError(f"{name} must hold arrays [batch, ...] of one batch, got {found}.")
        return x

    def shape(params: Any, state: Any, x: Any) -> tuple[int, ...]:
        call = partial(net.apply, train=True, key=jax.random.key(0))
        out, _ = jax.eval_shape(call, params, state, x)
        batch = jax.tree.leaves(x)[0].shape[0]
        if not hasattr(out, "shape") or out.shape[:1] != (batch,):
            raise ValueError(
                f"apply must return outputs [batch, ...] for a batch of {batch}, got "
                f"{list(out.shape) if hasattr(out, 'shape') else type(out).__name__}."
            )
        return out.shape

    return Bound(check, inputs, shape, net.apply, noisy=True)
