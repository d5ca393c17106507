"""Every callable type, and what trains: a description, bound to its functions and checks."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jinit import checks
from jinit.schemes import Initializer

__all__ = ["Apply", "Bound", "Init", "Initializer", "Loss", "Network", "Record", "bind_network"]

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(outputs, targets) -> scalar"""
Init = Callable[[jax.Array], tuple[Any, Any]]
"""key -> (params, state)"""
Record = Callable[[Any, Any, tuple[Any, Any]], Any]
"""(params, state, (x, y)) -> any pytree of arrays"""


@runtime_checkable
class Apply(Protocol):
    """The forward pass of a network: (outputs, new state)."""

    def __call__(
        self, params: Any, state: Any, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Outputs `[batch, ...]`; the key is for noise in training, as dropout's."""
        ...


class Bound(NamedTuple):
    """What training asks of a description: one of these for each kind of network."""

    check: Callable[[Any, Any], tuple[Any, Any]]
    """(params, state), as they are carried from step to step"""
    inputs: Callable[[Any, Any, str], Any]
    """(x, params, its name) -> arrays, checked"""
    shape: Callable[[Any, Any, Any], tuple[int, ...]]
    """(params, state, x) -> that of the outputs"""
    forward: Callable[[Any, Any, Any, bool, jax.Array | None], tuple[jax.Array, Any]]
    """(params, state, x, train, key)"""
    signals: Callable[..., Any] | None = None
    """(params, state, x, y, loss=) -> `LayerSignals`, where layers are known"""
    noisy: bool = False
    """whether `forward` asks for a key in training"""


_FORMS: dict[str, tuple[str, str, tuple[int, dict[str, Any]]]] = {
    "init": ("init(key)", "(params, state)", (1, {})),
    "apply": (
        "apply(params, state, x, *, train, key=None)", "(outputs, state)",
        (3, {"train": True, "key": None}),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Pair:
    """A function that must return a pair."""

    name: str
    function: Callable[..., Any]

    def __post_init__(self) -> None:
        call, gives, (positional, named) = _FORMS[self.name]
        problem = "" if callable(self.function) else "not a function"
        try:
            inspect.signature(self.function).bind(*(None,) * positional, **named)
        except ValueError:  # one that Python cannot look into
            pass
        except TypeError as error:
            problem = problem or str(error)
        if problem:
            raise TypeError(
                f"a jinit.Network calls {call} for {gives}, got {self.function!r}: {problem}."
            )

    def __call__(self, *args: Any, **named: Any) -> tuple[Any, Any]:
        out = self.function(*args, **named)
        if not isinstance(out, tuple) or len(out) != 2:
            call, gives, _ = _FORMS[self.name]
            raise TypeError(
                f"{call} must return a pair {gives}, got {type(out).__name__}; a network without "
                f"state returns {{}} for it."
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
        TypeError: functions that cannot be called like that, at once; that return something else,
            when they are called.
    """

    init: Init
    apply: Apply

    def __post_init__(self) -> None:
        """Let wrong functions answer with a sentence."""
        for name in _FORMS:
            function = getattr(self, name)
            if not isinstance(function, _Pair):
                object.__setattr__(self, name, _Pair(name, function))


def bind_network(net: Network) -> Bound:
    """What training asks of a `Network`."""

    def check(params: Any, state: Any) -> tuple[Any, Any]:
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            if not jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.inexact):
                raise TypeError(
                    f"params must hold floating-point arrays only, got {leaf!r} at "
                    f"params{jax.tree_util.keystr(path)}; keep in state what is not trained."
                )
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

    def forward(params: Any, state: Any, x: Any, train: bool, key: Any) -> tuple[jax.Array, Any]:
        return net.apply(params, state, x, train=train, key=key)

    def shape(params: Any, state: Any, x: Any) -> tuple[int, ...]:
        out, after = jax.eval_shape(
            lambda *of: net.apply(*of, train=True, key=jax.random.key(0)), params, state, x
        )
        batch = jax.tree.leaves(x)[0].shape[0]
        if not hasattr(out, "shape") or out.shape[:1] != (batch,):
            raise ValueError(
                f"apply must return outputs [batch, ...] for a batch of {batch}, got "
                f"{list(out.shape) if hasattr(out, 'shape') else type(out).__name__}."
            )
        before, after = (
            {jax.tree_util.keystr(at): f"{leaf.dtype}{list(leaf.shape)}" for at, leaf in leaves}
            for leaves, _ in map(jax.tree_util.tree_flatten_with_path, (state, after))
        )
        for at in [*before, *after]:
            if before.get(at) != after.get(at):
                raise ValueError(
                    f"apply must return a state like the one it is given, got {after.get(at)} at "
                    f"state{at} instead of {before.get(at)}."
                )
        return out.shape

    return Bound(check, inputs, shape, forward, noisy=True)
