"""The forms that a model comes in: a function and its variables, or a module that holds them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jinit import checks

_CALLS = {
    "equinox": "{tool}({before}model, {batch}, in_axes=0{after})",
    "flax.nnx": "{tool}({before}model, {batch}{after})",
    "flax.linen": "{tool}({before}model.apply, variables, {batch}{after})",
    "haiku": "{tool}({before}model.apply, params, {batch}{after})",
}
"""How a model of each framework is given, by where its classes come from."""
_PLAIN = (
    "{tool}({before}apply, params, {batch}{after}), with apply(params, batch) a function of both"
)


class Form(NamedTuple):
    """A model taken apart."""

    apply: Callable[..., Any]
    """`apply(variables, *inputs)`"""
    variables: Any
    inputs: tuple[Any, ...]


def taken_apart(apply: Any, variables: Any, inputs: tuple[Any, ...], in_axes: Any) -> Form:
    """A model as a function of its variables and inputs, in whatever form it was given.

    A callable pytree that holds floating-point arrays (a module of NNX or Equinox) is its own
    apply: what follows it are inputs. A bound Linen module is taken apart, and of what has an
    `apply`, as a Linen module or a transformed Haiku function, that is taken.

    Raises:
        TypeError: no function, or no inputs.
    """
    given_as = apply
    if _is_bound(apply):
        given = () if variables is None else (variables,)
        module, own = apply.unbind()
        apply, variables, inputs = module.apply, own, (*given, *inputs)
    elif holds_arrays(apply):
        given = () if variables is None else (variables,)
        apply, variables, inputs = called, apply, (*given, *inputs)
    elif hasattr(apply, "apply") and hasattr(apply, "init"):
        apply = apply.apply
    if not callable(apply):
        raise TypeError(
            f"apply must be a function (variables, *inputs), got {checks.shown(apply)}."
        )
    if not inputs:
        raise TypeError(
            f"jinit needs the parameters and a batch of inputs, apart from each other, so that it "
            f"can follow them through the model; call {right_call(given_as)}."
        )
    if in_axes is not None:
        apply = mapped(apply, in_axes)
    return Form(apply, variables, inputs)


def holds_arrays(model: Any) -> bool:
    """Whether it is its own apply: a callable pytree with floating-point arrays, or bound."""
    return _is_bound(model) or (
        callable(model) and any(is_floating(leaf) for leaf in jax.tree.leaves(model))
    )


def _is_bound(model: Any) -> bool:
    """Whether it is a Linen module that was bound to its variables."""
    return hasattr(model, "unbind") and getattr(model, "scope", None) is not None


def called(model: Any, *inputs: Any) -> Any:
    """The output of a model that is its own apply."""
    return model(*inputs)


def mapped(apply: Callable[..., Any], in_axes: Any) -> Callable[..., Any]:
    """A model of one sample, mapped over a batch; the axis is called "batch"."""

    def of_batch(variables: Any, *inputs: Any) -> Any:
        one = functools.partial(apply, variables)
        return jax.vmap(one, in_axes, axis_name="batch")(*inputs)

    return of_batch


def takes_one_sample(apply: Callable[..., Any], variables: Any, inputs: Sequence[Any]) -> bool:
    """Whether a model that fails on a batch works on each sample of it."""
    arrays = [leaf for leaf in jax.tree.leaves(inputs) if hasattr(leaf, "shape")]
    if not arrays or any(not leaf.shape for leaf in arrays):
        return False
    floats, rebuilt = floating(variables)
    try:
        jax.eval_shape(
            lambda v, *x: jax.tree.leaves(mapped(apply, 0)(rebuilt(v), *x)), floats, *inputs
        )
    except Exception:  # whatever the model raises
        return False
    return True


def floating(variables: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The floating-point leaves of variables, and the variables with others in their place."""
    leaves, structure = jax.tree.flatten(variables)
    chosen = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]

    def rebuilt(floats: Sequence[Any]) -> Any:
        new = list(leaves)
        for i, leaf in zip(chosen, floats, strict=True):
            new[i] = leaf
        return jax.tree.unflatten(structure, new)

    return [leaves[i] for i in chosen], rebuilt


def is_floating(leaf: Any) -> bool:
    """Whether it is an array of real or complex numbers, or the shape of one."""
    dtype = getattr(leaf, "dtype", None)
    return hasattr(leaf, "shape") and dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def right_call(
    apply: Any, tool: str = "jinit.diagnose", *, before: str = "", batch: str = "batch",
    after: str = "",
) -> str:  # fmt: skip
    """How the model that a function holds inside is given to a tool of jinit."""
    own = {"tool": tool, "before": before, "batch": batch, "after": after}
    for held in _held(apply, 4):
        modules = [cls.__module__ for cls in type(held).__mro__]
        for name, call in _CALLS.items():
            if any(module == name or module.startswith(f"{name}.") for module in modules):
                return call.format(**own)
    return _PLAIN.format(**own)


def _held(thing: Any, depth: int) -> Iterator[Any]:
    """What a function holds: what it is bound to, its arguments, its closure."""
    yield thing
    if depth == 0:
        return
    inner = [getattr(thing, name, None) for name in ("__self__", "__wrapped__", "func")]
    if isinstance(thing, functools.partial):
        inner += [*thing.args, *thing.keywords.values()]
    for cell in getattr(thing, "__closure__", None) or ():
        try:
            inner.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    code = getattr(thing, "__code__", None)
    if code is not None:
        names = getattr(thing, "__globals__", {})
        inner += [names[name] for name in code.co_names if name in names]
    for each in inner:
        if each is not None and not isinstance(each, type):
            yield from _held(each, depth - 1)
