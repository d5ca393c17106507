"""A model that has been traced, with its variables, inputs and loss: what every tool is given."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from jinit import checks
from jinit.models.tracing.forms import (
    Form,
    called,
    is_floating,
    right_call,
    taken_apart,
    takes_one_sample,
)
from jinit.models.tracing.roles import Role, judge
from jinit.models.tracing.trace import Trace, trace_model
from jinit.models.tracing.uses import Kind
from jinit.runtime import measured

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class TracedModel:
    """`apply(variables, *inputs)`, traced once; nothing that is measured is kept."""

    apply: Callable[..., Any]
    variables: Any
    inputs: tuple[Any, ...]
    loss: Callable[..., Any] | None
    """`loss(output) -> scalar`, or `loss(output, targets)`"""
    rules: Mapping[str, Kind]
    """path -> role, for parameters of which the trace says nothing certain"""
    trace: Trace

    def __init__(
        self,
        apply: Any,
        variables: Any = None,
        *inputs: Any,
        loss: Callable[..., Any] | None = None,
        rules: Mapping[str, Kind] | None = None,
        in_axes: Any = None,
    ) -> None:
        """Trace the model, on arrays or on `jax.ShapeDtypeStruct`s.

        Raises:
            TypeError: variables without a floating-point array, no inputs, a function that holds
                its weights inside, a model of one sample that is given a batch. What `apply` raises
                has a note.
        """
        if rules is not None and not isinstance(rules, Mapping):
            raise TypeError(
                f"rules must map paths of parameters to roles, as in {{\"['w']\": 'weight'}}, got "
                f"{checks.shown(rules)}."
            )
        form = taken_apart(apply, variables, inputs, in_axes)
        vars(self).update(form._asdict(), loss=loss)
        apply, variables, inputs = form
        try:
            trace = trace_model(apply, variables, *inputs)
        except Exception as error:
            is_module = variables is not None and apply is called
            if in_axes is None and is_module and takes_one_sample(apply, variables, inputs):
                raise TypeError(
                    f"the model takes one sample at a time, and was given a batch; map it with "
                    f"in_axes=0, as in {_ONE_SAMPLE}."
                ) from error
            raise
        _check_weights(form, trace)
        vars(self).update(rules=MappingProxyType(dict(rules or {})), trace=trace)

    def of(self, variables: Any) -> "TracedModel":
        """The same model with other variables; None leaves those that it has.

        It is traced again only if numbers have changed that the trace holds as constants: leaves
        that are no floating-point arrays, or if leaves are of another dtype.

        Raises:
            ValueError: another tree, or other shapes.
        """
        if variables is None or variables is self.variables:
            return self
        own, structure = jax.tree_util.tree_flatten_with_path(self.variables)
        others = jax.tree.leaves(variables)
        other_structure: Any = jax.tree.structure(variables)
        if other_structure != structure:
            raise ValueError(
                f"variables must be the same tree as those that the model was made with, "
                f"{structure}, got {other_structure}; make another Model for them."
            )
        traced_again = False
        for i, ((path, was), leaf) in enumerate(zip(own, others, strict=True)):
            if np.shape(was) != np.shape(leaf):
                raise ValueError(
                    f"variables must have the shapes that the model was made with, got "
                    f"{list(np.shape(leaf))} for {jax.tree_util.keystr(path)}, which was "
                    f"{list(np.shape(was))}; make another Model for them."
                )
            floating = i in self.trace.chosen
            same = getattr(was, "dtype", None) == getattr(leaf, "dtype", None)
            traced_again |= not (same and (floating or _same_constant(was, leaf)))
        trace = trace_model(self.apply, variables, *self.inputs) if traced_again else self.trace
        return self.replaced(variables=variables, trace=trace)

    def replaced(self, **fields: Any) -> "TracedModel":
        """The same model with other rules, or variables and trace."""
        new = copy.copy(self)
        vars(new).update(fields)
        return new

    def judged(self, *, strict: bool = True) -> tuple[Role, ...]:
        """The role of every floating-point leaf; not strict, what is uncertain is "other"."""
        return judge(self.trace, self.rules, strict=strict)

    @property
    def floats(self) -> list[Any]:
        """The floating-point leaves of the variables."""
        leaves = jax.tree.leaves(self.variables)
        return [leaves[i] for i in self.trace.chosen]

    def rebuilt(self, floats: Sequence[Any]) -> Any:
        """The variables with other floating-point leaves."""
        leaves, structure = jax.tree.flatten(self.variables)
        for i, leaf in zip(self.trace.chosen, floats, strict=True):
            leaves[i] = leaf
        return jax.tree.unflatten(structure, leaves)

    def loss_of(self, targets: Any = None) -> Callable[[Any], Any]:
        """The loss as a function of the output alone.

        Raises:
            TypeError: a model without a loss.
        """
        loss = self.loss
        if not callable(loss):
            raise TypeError(
                f"loss must be a function of the model's output, got {checks.shown(loss)}."
            )
        given = () if targets is None else (targets,)

        def called(output: Any) -> Any:
            try:
                return loss(output, *given)
            except Exception as error:
                error.add_note(
                    f"jinit calls loss({'output, targets' if given else 'output'}) with what the "
                    f"model returns; does it take that{', and these targets' if given else ''}?"
                )
                raise

        return called

    def check_finite(self, what: str) -> None:
        """Raise ValueError for inputs with numbers that are not finite."""
        for leaf in jax.tree.leaves(self.inputs):
            if is_floating(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct):
                checks.finite(f"inputs of {what}", leaf)

    def check_numbers(self, what: str, *, finite: bool = True) -> None:
        """Raise TypeError where variables or inputs are shapes without numbers, which do for roles.

        Args:
            what: needs them.
            finite: whether inputs must be so.

        Raises:
            ValueError: an empty batch; inputs that are not finite.
        """
        checks.batch(self.inputs)
        if finite:
            self.check_finite(what)
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.variables)[0]:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise TypeError(
                    f"{what} needs variables with numbers, got only a shape at "
                    f"{jax.tree_util.keystr(path)}; give some that were drawn, as by model.init."
                )


_ONE_SAMPLE = "jinit.diagnose(model, batch, in_axes=0)"


def _check_weights(form: Form, trace: Trace) -> None:
    """Raise TypeError if the function holds the weights, and what it was given are none."""
    used = any(use.kind not in ("other", "statistic") for use in trace.uses)
    held = [c for c in getattr(trace.jaxpr, "consts", ()) if is_floating(c) and np.ndim(c) > 1]
    if not used and held:
        raise TypeError(
            f"apply holds its weights inside, where they cannot be told from other numbers: none "
            f"of the variables that it was given is applied to an input, and {len(held)} arrays of "
            f"its own are; call {right_call(form.apply)}."
        )


def _same_constant(a: Any, b: Any) -> bool:
    """Whether two leaves that are no floating-point arrays surely are the same."""
    if a is b:
        return True
    if not (checks.is_concrete(a) and checks.is_concrete(b)):
        return False
    if hasattr(a, "dtype") and jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return bool(np.array_equal(a, b)) if hasattr(a, "dtype") else bool(a == b)


@runtime_checkable
class Face(Protocol[P, T]):
    """A tool on models, which may be called with the parts of one."""

    traced: Callable[P, T]
    """the tool on a model that has been traced"""

    def __call__(self, *arguments: Any, **options: Any) -> T:
        """Of `([key,] apply, variables, *inputs, [loss,] rules, ...)`."""


def face(tool: Callable[P, T]) -> Face[P, T]:
    """A tool on traced models as a function of a model's parts."""
    tool = measured(tool)
    _, *own = inspect.signature(tool).parameters.values()
    of_model = inspect.signature(TracedModel).parameters
    about = ["apply", "variables", "inputs", "rules", "in_axes"]
    if any(parameter.name == "targets" for parameter in own):
        about.insert(3, "loss")
    key = [parameter for parameter in own if parameter.name == "key"]
    named = [p for p in own if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    signature = inspect.Signature([*key, *(of_model[name] for name in about), *named])

    def call(*arguments: Any, **options: Any) -> T:
        given = signature.bind(*arguments, **options).arguments
        given |= given.pop("options", {})  # of a scheme
        known = {name: given.pop(name) for name in about[3:] if name in given}
        parts = given.pop("apply"), given.pop("variables", None), *given.pop("inputs", ())
        return tool(TracedModel(*parts, **known), **given)  # type: ignore[arg-type]

    functools.update_wrapper(call, tool)
    call.__signature__, call.traced = signature, tool  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


@face
def roles(model: TracedModel) -> tuple[Role, ...]:
    """The role of every floating-point array in `variables`, in the order of its leaves.

    Args:
        apply, variables, *inputs, rules: as for `jinit.Model`; leaves of variables that are no
            floating-point arrays are passed through.

    Raises:
        RoleError: a parameter that is used in ways that contradict each other, or by an operation
            that says nothing of it, and has no rule; a rule that names no parameter.
        TypeError: variables without a floating-point array.
    """
    return model.judged()
