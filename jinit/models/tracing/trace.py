"""Every use of every parameter of a model, read off the traced computation.

The apply function is traced to a jaxpr, and every value is followed: parameters through operations
that only change their shape, and into nested programs, to what consumes them; signals from there to
the activation that they meet and to the sum in which a residual branch ends. No framework is known
here, and nothing is guessed from names or shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jinit.models.tracing.forms import is_floating
from jinit.models.tracing.graph import Graph
from jinit.models.tracing.interpreter import follow
from jinit.models.tracing.jaxprs import ClosedJaxpr, inner_jaxprs, opened, without_dead_code
from jinit.models.tracing.made import Anatomy, Made, Part
from jinit.models.tracing.uses import ActivationUse, Kind, ResidualSum, Softmax, Use
from jinit.models.tracing.values import Path
from jinit.runtime import measured


@dataclass(frozen=True)
class Trace:
    """A model's computation and what was found in it."""

    jaxpr: ClosedJaxpr
    """of `(floating leaves, inputs) -> arrays of the output`"""
    paths: tuple[str, ...]
    """of the floating leaves, as `jax.tree_util.keystr` writes them"""
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    uses: tuple[Use, ...]
    activations: tuple[ActivationUse, ...]
    residuals: tuple[ResidualSum, ...]
    outputs: Callable[[Sequence[Any]], Any]
    """the model's output from its arrays"""
    chosen: tuple[int, ...]
    """places of the floating leaves among all leaves of the variables"""
    softmaxes: tuple[Softmax, ...] = ()
    """of products of two signals, as attention has them"""
    meetings: frozenset[tuple[frozenset[int], frozenset[int]]] = frozenset()
    """of two signals that are added or multiplied, the uses of weights that wait in each; first
    those of one that did not lead to the other"""
    made: tuple[Made, ...] = ()
    """what is made of floating leaves and constants alone, counted on from the leaves"""
    anatomy: Anatomy = field(default_factory=lambda: Anatomy((), (), 0))
    """what each leaf is in it"""
    returned: frozenset[int] = frozenset()
    """floating leaves that are outputs themselves"""
    statistics: frozenset[int] = frozenset()
    """floating leaves that are used in a new value of theirs alone, which is thrown away"""

    def parts(self, leaf: int) -> dict[int, Part]:
        """Of a floating leaf, or of what is made of some: leaf -> what it is in it."""
        return self.anatomy.parts(leaf)

    def shape(self, leaf: int) -> tuple[int, ...]:
        """Of a floating leaf, or of what is made of some, with its layers."""
        return tuple(self.anatomy.shapes[leaf])

    def dtype(self, leaf: int) -> Any:
        """Of a floating leaf, or of what is made of some."""
        first = len(self.leaves)
        return self.leaves[leaf].dtype if leaf < first else self.made[leaf - first].dtype

    def run(self, floats: Sequence[Any], inputs: Sequence[Any]) -> Any:
        """The model's output, of other floating-point leaves and inputs."""
        arguments = [*floats, *jax.tree.leaves(tuple(inputs))]
        return self.outputs(jaxpr_as_fun(self.jaxpr)(*arguments))

    def following(self, order: int) -> str | None:
        """Name of the activation that follows a use of a weight.

        None if there is none of a name, or if parts of what comes out go through different ones, as
        fused gates do.
        """
        found = [a for a in self.activations if order in a.uses and a.name]
        if not found or found[0].size >= self.uses[order].size:
            return found[0].name if found else None
        names = {a.name for a in found if a.size < self.uses[order].size}
        return names.pop() if len(names) == 1 else None

    def by_equation(self, *kinds: Kind) -> dict[Path, list[Use]]:
        """The uses of these kinds, those of one equation together, in call order."""
        found: dict[Path, list[Use]] = {}
        for use in self.uses:
            if use.kind in kinds:
                found.setdefault(use.path, []).append(use)
        return found

    def equation(self, path: Path) -> Any:
        """The equation that stands there."""
        first, *rest = path
        found = opened(self.jaxpr).eqns[first]
        for branch, number in zip(rest[::2], rest[1::2], strict=True):
            found = (inner_jaxprs(found) or [])[branch].eqns[number]
        return found

    def visible(self, path: Path) -> Path:
        """The path, cut at a function with a derivative of its own.

        Inside it jax never looks when it differentiates, and so must nobody who wants the model's
        own gradient.
        """
        for n in range(1, len(path), 2):
            if self.equation(path[:n]).primitive.name.startswith(("custom_jvp", "custom_vjp")):
                return path[:n]
        return path


@measured
def trace_model(apply: Callable[..., Any], variables: Any, *inputs: Any) -> Trace:
    """Follow every floating-point leaf of `variables` through `apply(variables, *inputs)`.

    Raises:
        TypeError: variables without a floating-point array. What `apply` raises comes with a note.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(variables)
    chosen = tuple(i for i, (_, leaf) in enumerate(flat) if is_floating(leaf))
    if not chosen:
        raise TypeError(
            "variables hold no floating-point array; give the parameters first, as in "
            "(model.apply, variables, batch)."
        )
    made: list[tuple[list[Any], Any]] = []

    def of_leaves(floats: Sequence[Any], *inputs: Any) -> Any:
        leaves = [leaf for _, leaf in flat]
        for i, leaf in zip(chosen, floats, strict=True):
            leaves[i] = leaf
        out = apply(jax.tree_util.tree_unflatten(structure, leaves), *inputs)
        leaves, out_structure = jax.tree.flatten(out)
        made.append(([None if _is_array(leaf) else leaf for leaf in leaves], out_structure))
        return [leaf for leaf in leaves if _is_array(leaf)]

    floats = tuple(jax.ShapeDtypeStruct(flat[i][1].shape, flat[i][1].dtype) for i in chosen)
    before = _generator()
    try:
        traced = jax.make_jaxpr(of_leaves)(floats, *inputs)
    except Exception as error:
        error.add_note(
            "jinit traces apply(variables, *inputs) on arrays without values, as jax.jit does. "
            "Options such as train=True belong into the function: "
            "lambda variables, x: model.apply(variables, x, train=True); Python's if and "
            "numpy's functions do not work on values. Do variables and inputs fit the model? One "
            "that takes a single sample, as in Equinox, is mapped over a batch with in_axes=0."
        )
        raise
    _check_purity(before, traced)
    holes, out_structure = made[-1]  # None for arrays

    def outputs(arrays: Sequence[Any]) -> Any:
        given = iter(arrays)
        leaves = [next(given) if leaf is None else leaf for leaf in holes]
        return jax.tree.unflatten(out_structure, leaves)

    live = without_dead_code(traced)
    shapes = [leaf.shape for leaf in floats]
    with jax.ensure_compile_time_eval():
        found = follow(live, shapes)
        used = {i for use in found.uses for i in use.parts} | found.returned
        # What only leads to a new state that is thrown away is a statistic all the same.
        idle = used != set(range(len(shapes)))
        kept = _statistics(follow(traced, shapes), used) if idle else frozenset[int]()
    return Trace(
        live, tuple(jax.tree_util.keystr(flat[i][0]) for i in chosen), floats,
        tuple(found.uses), tuple(found.activations), tuple(found.residuals), outputs, chosen,
        tuple(found.softmaxes.values()), frozenset(found.meetings), tuple(found.made),
        found.anatomy, frozenset(found.returned), kept,
    )  # fmt: skip


def _generator() -> tuple[Any, ...]:
    """Where NumPy's global generator stands. (Python's own is used by checkers of types.)"""
    name, words, *more = np.random.get_state()
    return name, np.asarray(words).tobytes(), *more


def _check_purity(before: tuple[Any, ...], traced: ClosedJaxpr) -> None:
    """Raise ValueError for a model that is another one, or does something else, at every call."""
    if _generator() != before:
        raise ValueError(
            "the model draws numbers by numpy.random while it is traced, so that it is another "
            "model at every call; draw them by jax.random, from a key that is an input."
        )
    if any("IO" in type(effect).__name__ for effect in opened(traced).effects):
        raise ValueError(
            "the model has side effects (io_callback), which looking at it would cause as well; "
            "give a function without them."
        )


def _statistics(whole: Graph, used: set[int]) -> frozenset[int]:
    """Parameters whose only use is in a new value of theirs, which the model does not return."""
    found = {i: [use for use in whole.uses if i in use.parts] for i in range(whole.count)}
    return frozenset(
        i for i, uses in found.items()
        if i not in used and uses and all(use.kind in ("bias", "scale") for use in uses)
        and all(whole.leads_to_its_like(use.order) for use in uses)
    )  # fmt: skip


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype")
