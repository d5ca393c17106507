"""What a model makes of parameters and constants alone, before a signal meets it.

Between a parameter and the product that reads it may lie masks, factors, exponentials, a norm's
division, a quantiser, a sum with a product of other parameters. Each such operation makes a leaf
more, counted on from the parameters: it has views and uses as they have, its numbers follow from
theirs, and `parts` says what each parameter is in it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit.models.tracing.values import Constant, Fixed, Known, RoleError, View

Way = Literal["image", "factor", "scale", "shift", "inner"]
"""What a parameter is in what is made of it, the strongest first: the matrix itself in another
form; one of several matrices that are multiplied; a smaller factor; a smaller term; only under a
sum over entries, or in no way that is known."""
WAYS: tuple[Way, ...] = ("image", "factor", "scale", "shift", "inner")


class Made(NamedTuple):
    """One operation on views and constants."""

    name: str
    """of the primitive"""
    run: Callable[..., Any]
    """of the operands' numbers, what comes out"""
    operands: tuple[View | Fixed | None, ...]
    """None for numbers that the trace does not know"""
    shape: tuple[int, ...]
    """of one layer"""
    dtype: Any
    layers: tuple[int, ...] = ()
    """how many, of every loop that goes through one of the operands"""
    stacked: tuple[int, ...] = ()
    """which of the loops around these are"""
    summed: int = 1
    """of a product, numbers that are summed over"""

    @property
    def views(self) -> list[View]:
        """The operands that are made of parameters."""
        return [v for v in self.operands if isinstance(v, View)]


class Part(NamedTuple):
    """What a parameter is in a view."""

    way: Way
    under_root: bool = False
    """a root was taken of it alone, as of a running variance"""
    raised: bool = False
    """an exponential was, on every way that it came"""
    beside_root: bool = False
    """it multiplies a parameter that a root was taken of, as what a folded batch norm subtracts"""


class Numbers:
    """The numbers of parameters, and of what is made of them."""

    def __init__(self, made: Sequence[Made], leaves: Sequence[Any]) -> None:
        """`leaves` are arrays, traced or not."""
        self.made, self.leaves = made, leaves
        self._known: dict[int, Any] = {}

    def of(self, leaf: int) -> Any:
        """All of a leaf, every layer of it."""
        if leaf < len(self.leaves):
            return self.leaves[leaf]
        if leaf not in self._known:
            self._known[leaf] = self._all_layers(self.made[leaf - len(self.leaves)])
        return self._known[leaf]

    def _all_layers(self, made: Made) -> Any:
        def one(layer: Sequence[Any]) -> Any:
            at = dict(zip(made.stacked, layer, strict=True))
            return made.run(*(self._operand(value, at) for value in made.operands))

        if not made.layers:
            return one(())
        grid = np.stack(np.meshgrid(*map(np.arange, made.layers), indexing="ij"), -1)
        layers = jnp.asarray(grid.reshape(-1, len(made.layers)))
        every = jax.vmap(lambda layer: one(list(layer)))(layers)
        return every.reshape(*made.layers, *every.shape[1:])

    def _operand(self, value: View | Fixed | None, at: dict[int, Any]) -> Any:
        if isinstance(value, View):
            return value.of(jnp.asarray(self.of(value.leaf)), [at[loop] for loop in value.stacked])
        if value is None:
            raise RoleError("it is mixed with numbers that the trace does not know.")
        return numbers_of(value)


def numbers_of(value: Fixed) -> Any:
    """The numbers of a constant."""
    return value.number if isinstance(value, Constant) else value.numbers()


def laid_out(value: Any, shape: tuple[int, ...]) -> Any:
    """A constant number in the shape that an operation asks for; others as they are."""
    if isinstance(value, Constant) and shape:
        return Known(lambda: np.broadcast_to(value.number, shape))
    return value


def known(run: Callable[..., Any], operands: Sequence[Fixed]) -> Known:
    """What an operation makes of constants."""
    found: list[Any] = []

    def numbers() -> Any:
        if not found:
            with jax.ensure_compile_time_eval():
                found.append(run(*map(numbers_of, operands)))
        return found[0]

    return Known(numbers)


# --- what a parameter is in it ------------------------------------------------------------------

_REDUCE = (
    "reduce_", "arg", "cum", "sort", "top_k", "norm", "cholesky", "eigh", "svd", "reduce_precision"
)  # fmt: skip

_BESIDE = {"concatenate", "select_n", "dynamic_update_slice", "complex", "max", "min", "pad"}
"""Operations that set a smaller parameter beside another one."""


class Anatomy:
    """What every parameter is in what is made of it."""

    def __init__(self, made: Sequence[Made], shapes: Sequence[tuple[int, ...]], first: int) -> None:
        """`shapes` are those of all leaves, of which the first so many are parameters."""
        self.made, self.shapes, self.first = made, shapes, first
        self._known: dict[int, dict[int, Part]] = {}

    def parts(self, leaf: int) -> dict[int, Part]:
        """Of a leaf: parameter -> what it is in it."""
        if leaf < self.first:
            return {leaf: Part("image")}
        if leaf not in self._known:
            found: dict[int, Part] = {}
            for parameter, part in self._within(self.made[leaf - self.first]):
                other = found.get(parameter, part)
                plainest = min(part, other, key=lambda p: WAYS.index(p.way))
                found[parameter] = plainest._replace(raised=part.raised and other.raised)
            self._known[leaf] = found
        return self._known[leaf]

    def _within(self, made: Made) -> Iterator[tuple[int, Part]]:
        unknown = any(value is None for value in made.operands)
        widths = [self.width(view) for view in made.views]
        root = made.name in ("sqrt", "rsqrt", "pow") and len(made.views) == 1
        raised = made.name in ("exp", "exp2")
        roots = [
            any(p.under_root and p.way == "image" for p in self.parts(view.leaf).values())
            for view in made.views
        ]  # fmt: skip
        for i, (view, width) in enumerate(zip(made.views, widths, strict=True)):
            beside = made.name in ("mul", "div") and any(roots[:i] + roots[i + 1 :])
            for parameter, part in self.parts(view.leaf).items():
                way = "inner" if unknown else self._way(made, part.way, width, max(widths))
                yield (
                    parameter,
                    Part(
                        way,
                        part.under_root or root,
                        part.raised or raised,
                        part.beside_root or beside,
                    ),
                )

    def _way(self, made: Made, way: Way, width: int, widest: int) -> Way:
        name = made.name
        if name.startswith(_REDUCE) and name != "reduce_precision":
            return "inner"
        if name in ("dot_general", "conv_general_dilated") and len(made.views) > 1:
            return "factor" if way == "image" else way
        if width < widest and way in ("image", "factor"):
            if name in ("add", "sub", "add_any"):
                return "shift"
            if name in ("mul", "div"):
                return "scale"
            if name not in _BESIDE and not name.startswith("scatter"):
                return "inner"
        return way

    def width(self, view: View) -> int:
        """Entries of one layer that are not repetitions."""
        whole = math.prod(self.shapes[view.leaf]) // max(math.prod(view.layers), 1)
        return min(math.prod(view.shape), whole)
