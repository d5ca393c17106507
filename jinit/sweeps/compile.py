"""From a plan to compiled programs: what comes out, how wide a group is, one call per device set.

A *group* is the number of rows that are vmapped together: it fixes the bits. A device call runs
some number of groups, one after the other, on each device of a one-axis mesh; that number is an
argument of the program, so that a block that is not full costs no more than it holds, and it
changes no bit.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jinit.sweeps.grid import Sweep, traced_array

_WORKED_ON = 8 * 2**20  # bytes that a group's busiest loop body makes on CPU; see usual_group
_WIDEST_CPU, _WIDEST = 64, 4096
_FILLS, _FEWEST = 2**22, 64  # elements of one computation that fill an accelerator
_HELD = 2**32  # bytes of the largest array that a group makes there


class Output(NamedTuple):
    """One entry of what the function returns, over the whole grid."""

    name: str
    dtype: np.dtype[Any]
    """in the dataset: float where a dimension is padded"""
    shape: tuple[int, ...]
    """of one row, padded to the largest point's"""
    dims: tuple[str, ...]


class Sizes(NamedTuple):
    """What one row of a program makes, nested programs included."""

    largest: int = 0
    """bytes of the largest array"""
    worked_on: int = 0
    """bytes of all arrays that one pass of the busiest loop body makes"""
    work: float = 0.0
    """elements that are computed, a multiplication in a product being a share of one"""
    products: float = 0.0
    """the work of products alone"""
    spread: float = 0.0
    """the sum over products of their work times the elements that they compute at once"""

    @property
    def width(self) -> float:
        """Elements that are computed at once, on average over the work of products."""
        return self.spread / self.products if self.products else self.largest / 4


class Traced(NamedTuple):
    """What tracing says of one point."""

    start: Any
    """abstract start, () without prepare"""
    shapes: dict[str, jax.ShapeDtypeStruct]
    sizes: Sizes
    """the larger of both functions, and the work of both"""


Rows = dict[Any, jax.stages.Traced]
"""Each function of a sweep, traced for one row, by `identity`."""


def trace_point(sweep: Sweep, point: Mapping[str, Any], rows: Rows, platform: str) -> Traced:
    """Abstract results of one row; the function's own error, with the point as a note.

    What no point before has traced is added to `rows`.
    """
    start: Any = ()
    out: Any = ()
    found = []
    for what in sweep.functions:
        start = out
        known = identity(sweep, what, point, start)
        try:
            if known not in rows:
                row, example = abstract_row(sweep, what, point, start)
                rows[known] = jax.jit(row).trace(*example)
        except Exception as error:
            static = {name: sweep.label(name, value) for name, value in point.items()} or "all"
            error.add_note(f"jinit.sweep: {what} raised this while it was traced at {static}.")
            raise
        out = rows[known].out_info
        found.append(_sizes(rows[known].jaxpr.jaxpr, platform))
    largest = max(each.largest for each in found)
    worked_on = max(each.worked_on for each in found)
    totals = np.sum([each[2:] for each in found], 0).tolist()
    return Traced(start, _checked(out, point), Sizes(largest, worked_on, *totals))


def identity(sweep: Sweep, what: str, point: Mapping[str, Any], start: Any) -> Any:
    """What tells the programs of one sweep apart."""
    leaves, structure = jax.tree.flatten(start if what == "fn" else ())
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    return what, tuple(sweep.arguments_of(what, point).items()), structure, shapes


def abstract_row(
    sweep: Sweep, what: str, point: Mapping[str, Any], start: Any
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`Sweep.row` and its arguments as shapes; nothing has been started before the first."""
    scalars = {
        name: jax.ShapeDtypeStruct((), traced_array(sweep.traced[name]).dtype)
        for name in sweep.traced_of(what)
    }
    before = start if what == "fn" else ()
    return sweep.row(what, point), (jax.ShapeDtypeStruct((), np.uint32), before, scalars)


def _checked(out: Any, point: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    where = f" at {dict(point)}" if point else ""
    if not isinstance(out, Mapping) or not all(isinstance(name, str) for name in out):
        raise TypeError(
            f"fn must return a dict from names to arrays, got {type(out).__name__}{where}; return "
            f"for example {{'loss': loss}}."
        )
    if not out:
        raise ValueError(f"fn returned an empty dict{where}; return at least one array.")
    for name, value in out.items():
        dtype: Any = getattr(value, "dtype", None)
        if not isinstance(value, jax.ShapeDtypeStruct) or not any(
            jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, np.bool_)
        ):
            kind = dtype if dtype is not None else type(value).__name__
            raise TypeError(
                f"fn must return arrays of real numbers, got {kind} for {name!r}{where}; return "
                f"one entry for each array."
            )
    return dict(out)


def _sizes(jaxpr: Any, platform: str) -> Sizes:
    """Of a program, on the platform that it is compiled for."""
    largest = worked_on = made = 0
    totals = np.zeros(3)
    for equation in jaxpr.eqns:
        for var in equation.outvars:
            size = _elements(var) * getattr(getattr(var.aval, "dtype", None), "itemsize", 0)
            largest, made = max(largest, size), made + size
        inside = [_sizes(inner, platform) for inner in _inner(equation, platform)]
        for sizes in inside:
            largest, worked_on = max(largest, sizes.largest), max(worked_on, sizes.worked_on)
        if inside:
            times = equation.params.get("length", _PASSES if "cond_jaxpr" in equation.params else 1)
            totals += times * np.array(max(sizes[2:] for sizes in inside))
        else:
            totals += _work(equation)
    return Sizes(largest, max(worked_on, made), *totals.tolist())


def _elements(var: Any) -> int:
    return math.prod(getattr(var.aval, "shape", ()))


def _inner(equation: Any, platform: str) -> list[Any]:
    """The programs within an equation, without those that are for other platforms."""
    listed = equation.params.get("branches_platforms")
    if listed is None:
        return list(jaxprs_in_params(equation.params))
    called = {"gpu": ("cuda", "rocm")}.get(platform, (platform,))
    own = [i for i, names in enumerate(listed) if names and not set(called).isdisjoint(names)]
    return [equation.params["branches"][own[0] if own else -1].jaxpr]


def _work(equation: Any) -> tuple[float, float, float]:
    """`Sizes.work`, `products` and `spread` of one equation."""
    made, name = sum(map(_elements, equation.outvars)), equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        summed = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    elif name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        summed = math.prod(kernel) // max(
            1, kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        )
    else:
        return _COSTLY.get(name, 1.0) * made, 0.0, 0.0
    work = _PRODUCT * made * summed
    return work, work, work * made


_PRODUCT = 1 / 4  # a multiplication and addition in a product, of an element's other computations
_COSTLY = {"random_bits": 64.0, "threefry2x32": 32.0, "sort": 32.0}
_PASSES = 1000  # of a loop whose length is not known


def outputs_of(sweep: Sweep, traced: list[Traced]) -> tuple[Output, ...]:
    """The dataset's variables, from the traced results of every point.

    Raises:
        ValueError: outputs that differ between points in more than named dimensions.
    """
    first = traced[0].shapes
    for point, each in zip(sweep.points, traced, strict=True):
        if set(each.shapes) != set(first):
            raise ValueError(
                f"fn must return the same names everywhere, got {sorted(each.shapes)} at {point} "
                f"and {sorted(first)} at {sweep.points[0]}."
            )
    unknown = [name for name in sweep.dims if name not in first]
    if unknown:
        raise ValueError(
            f"dims names the output {unknown[0]!r}, but fn returns {', '.join(map(repr, first))}."
        )
    axes = {*sweep.static, *sweep.traced, "seed"}
    found = []
    for name, value in first.items():
        shapes = [each.shapes[name].shape for each in traced]
        rank = len(value.shape)
        named = tuple(sweep.dims.get(name, ()))
        if name in axes:
            raise ValueError(f"the output {name!r} has the name of an axis; rename one of them.")
        if name in sweep.dims and any(len(shape) != len(named) for shape in shapes):
            raise ValueError(
                f"dims[{name!r}] names {len(named)} dimensions, but the output has shape "
                f"{value.shape}."
            )
        if clash := axes.intersection(named):
            raise ValueError(f"dims[{name!r}] uses {clash.pop()!r}, which is an axis; rename it.")
        varies = len(set(shapes)) > 1
        if varies and name not in sweep.dims:
            i = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(
                f"the shape of {name!r} varies over the static axes ({shapes[0]} at "
                f"{sweep.points[0]}, {shapes[i]} at {sweep.points[i]}); name its dimensions, as in "
                f"dims={{{name!r}: ('layer',)}}, and shorter ones are padded with NaN."
            )
        shape = tuple(max(sizes) for sizes in zip(*shapes, strict=True)) if rank else ()
        dtype = np.dtype(value.dtype)
        if dtype.kind == "V":  # bfloat16 and its like, which files do not know
            dtype = np.dtype(np.float32)
        if varies and dtype.kind != "f":
            dtype = np.dtype(np.float64)
        dims = named or tuple(f"{name}_dim_{i}" for i in range(rank))
        found.append(Output(name, dtype, shape, dims))
    _check_sizes(found)
    return tuple(found)


def _check_sizes(outputs: list[Output]) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for output in outputs:
        for dim, size in zip(output.dims, output.shape, strict=True):
            other, known = seen.setdefault(dim, (output.name, size))
            if known != size:
                raise ValueError(
                    f"the dimension {dim!r} is {known} long in {other!r} and {size} in "
                    f"{output.name!r}; give one of them another name."
                )


def usual_group(platform: str, sizes: Sizes, *, rows: int, devices: int = 1) -> int:
    """How many rows are vmapped together: a power of two that is known before anything runs.

    On CPU the widest for which what a loop body makes stays in a core's caches: wider groups spend
    their time on memory, narrower ones on dispatch. Everything is counted, also what is fused away,
    and the bound was found by measuring (benchmarks/README.md). Elsewhere as many as fill the chip:
    those whose largest array in the busiest loop body has 4 million elements, from 64 to 4096.
    Fewer leave it idle, and more leave its cache, as measured on an H100:

        network, batch     elements        256    1024   4096   8192
        16-16-1, 272       4352            0.45   1.00   0.84   0.85   -> 1024
        10 x 64, 128       8192            within 5 % of each other    -> 512

    The compiled program tells whether they fit. A small sweep leaves something for every device.
    """
    if platform == "cpu":
        most = min(_WORKED_ON // max(1, sizes.worked_on), _WIDEST_CPU)
    else:
        fills = int(_FILLS / max(1.0, sizes.width))
        most = min(max(_FEWEST, fills), _WIDEST, _HELD // max(1, sizes.largest))
    return int(2 ** math.floor(math.log2(max(1, min(most, rows // devices)))))


def row_bytes(traced: Traced) -> int:
    """Bytes that one row holds between the two functions and at the end."""
    leaves = jax.tree.leaves((traced.start, traced.shapes))
    return sum(math.prod(leaf.shape) * _itemsize(leaf.dtype) for leaf in leaves) + 64


def _itemsize(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


class Program:
    """One function at one point, over groups on all devices; lowered when it is made."""

    def __init__(
        self,
        row: Callable[..., Any],
        traced: jax.stages.Traced,
        example: tuple[Any, ...],
        *,
        group: int,
        groups: int,
        devices: tuple[jax.Device, ...],
    ) -> None:
        """Of a row, its trace and its abstract arguments; at most `groups` run in a call."""
        self.groups = groups
        mesh, split = Mesh(np.array(devices), ("devices",)), PartitionSpec("devices")
        over = _over_groups(row, traced.out_info, group, groups)
        mapped = jax.shard_map(
            over, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False
        )
        self.sharding = NamedSharding(mesh, split)
        rows = len(devices) * groups * group
        counts = jax.ShapeDtypeStruct((len(devices),), np.int32, sharding=self.sharding)
        args = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((rows, *a.shape), a.dtype, sharding=self.sharding),
            example,
        )
        self._lowered: jax.stages.Lowered | None = jax.jit(mapped).lower(counts, args)

    def compile(self) -> "Program":
        """XLA's part, which other threads may do: tracing depends on jax's settings of a thread."""
        assert self._lowered is not None
        self.compiled = self._lowered.compile()
        self._lowered = None
        return self

    def __call__(self, counts: np.ndarray, args: Any) -> Any:
        """Groups per device `[devices]`, and arguments with a leading axis of rows."""
        placed = jax.tree.map(
            lambda a: a if isinstance(a, jax.Array) else jax.device_put(a, self.sharding), args
        )
        return self.compiled(jax.device_put(counts.astype(np.int32), self.sharding), placed)

    @property
    def bytes(self) -> int:
        """Of arguments, outputs and temporaries on one device; 0 where the backend is silent."""
        of = self.compiled.memory_analysis()
        if of is None:
            return 0
        return int(of.argument_size_in_bytes + of.output_size_in_bytes + of.temp_size_in_bytes)


def _over_groups(
    one: Callable[..., Any], shapes: Any, group: int, groups: int
) -> Callable[..., Any]:
    """`(count [1], args [groups * group, ...])` on one device: `count` groups in sequence."""

    def of_group(args: Any) -> Any:
        if group > 1:
            return jax.vmap(one)(*args)
        out = one(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], out)

    def program(count: jax.Array, args: Any) -> Any:
        if groups == 1:  # without a loop, whose arguments XLA would copy
            return of_group(args)
        grouped = jax.tree.map(lambda leaf: leaf.reshape(groups, group, *leaf.shape[1:]), args)
        out = jax.tree.map(lambda leaf: _zeros((groups, group, *leaf.shape), leaf.dtype), shapes)

        def body(i: jax.Array, out: Any) -> Any:
            rows = jax.tree.map(lambda leaf: leaf[i], grouped)
            return jax.tree.map(lambda all_, now: all_.at[i].set(now), out, of_group(rows))

        out = jax.lax.fori_loop(0, count[0], body, out)
        return jax.tree.map(lambda leaf: leaf.reshape(groups * group, *leaf.shape[2:]), out)

    return program


def _zeros(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        data = jnp.zeros((*shape, *dtype._impl.key_shape), jnp.uint32)
        return jax.random.wrap_key_data(data, impl=dtype._impl.name)
    return jnp.zeros(shape, dtype)
