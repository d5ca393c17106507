"""What is odd about a parameter's numbers, each in one plain sentence."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jinit.models.starts.conventions import Convention, Conventions, Leaf
from jinit.models.starts.laws import FORMS, FormName, Law
from jinit.models.tracing.layout import reading
from jinit.models.tracing.roles import Role
from jinit.schemes import TRUNCATED_STD

STANDARD_ERRORS = 4
FAR = 5.0
SURE = 0.125  # a wrong fan is offered only where 4 standard errors of the std are below this
_SIGNED = 32  # entries, which by chance do not share a sign
_ADDS_UP = 2.0  # times a signal's mean, by the mean of weights alone
_CHANCE = 3.2e-5  # of a normal variable beyond STANDARD_ERRORS, on one side
_DRAWN = 2**16  # entries that the empirical distribution is taken from
_SHOWN = 32  # rows whose products say whether a matrix is orthogonal


class Sample(NamedTuple):
    """The numbers of one leaf, summed up in float64."""

    size: int
    finite: int
    mean: float
    std: float
    forms: frozenset[FormName]
    """distributions that its entries may have; more than one where they are too few to tell"""
    eps: float
    """of its dtype"""


# --- what the numbers are -----------------------------------------------------------------------


def sample(values: np.ndarray, matrix: np.ndarray | None, *, eps: float) -> Sample:
    """Sum up a leaf; `matrix` `[layers * groups, fan_in, fan_out]` is how it is applied."""
    flat = values.ravel()
    mean = float(flat.mean(dtype=np.float64)) if flat.size else math.nan
    finite = flat.size if math.isfinite(mean) else int(np.isfinite(flat).sum())
    if not flat.size or finite < flat.size:
        return Sample(flat.size, finite, math.nan, math.nan, frozenset(), eps)
    low, high = float(flat.min()), float(flat.max())
    if low == high:
        return Sample(flat.size, finite, low, 0.0, frozenset({"constant"}), eps)
    std = math.sqrt(_mean_square(flat, mean))
    forms = {"orthogonal"} if orthogonal(matrix, eps) else _forms(flat, math.hypot(mean, std), eps)
    return Sample(flat.size, finite, mean, std, frozenset(forms), eps)  # type: ignore[arg-type]


def _mean_square(flat: np.ndarray, mean: float) -> float:
    """In blocks, so that a float64 copy of a large leaf is never made."""
    total = 0.0
    for i in range(0, flat.size, 2**20):
        centred = flat[i : i + 2**20].astype(np.float64) - mean
        total += float(centred @ centred)
    return total / flat.size


def _forms(flat: np.ndarray, scale: float, eps: float) -> set[FormName]:
    """By the largest entry and by Kolmogorov's distance, each at the chance of 4 standard errors.

    All are centred on 0, and taken relative to the root mean square, `scale`. Low precision draws
    fewer different values than there are entries: so many count at most.
    """
    largest = float(max(flat.max(), -flat.min())) / scale
    drawn = flat[:: -(-flat.size // _DRAWN)].astype(np.float64)
    z = np.sort(drawn / scale)
    step = np.arange(len(z) + 1) / len(z)
    allowed = math.sqrt(-math.log(_CHANCE) / (2 * len(z))) + 2 * eps
    found: set[FormName] = set()
    for name, form in FORMS.items():
        slack = 1 + error(form.kurtosis, flat.size) + 2 * eps
        within = largest <= form.bound * slack
        # That none of so many entries is larger must not be too unlikely.
        beyond = 1 - (2 * float(form.cdf(largest * slack)) - 1)
        reached = beyond * min(flat.size, 1 / eps) <= -math.log(_CHANCE)
        if not (within and reached):
            continue
        cdf = form.cdf(z)
        if max(float(np.max(step[1:] - cdf)), float(np.max(cdf - step[:-1]))) <= allowed:
            found.add(name)
    return found


def orthogonal(matrix: np.ndarray | None, eps: float) -> bool:
    """Whether the first matrix has orthogonal rows (columns, if they are fewer) of one length."""
    if matrix is None or min(matrix.shape[1:]) < 2:
        return False
    first = matrix[0] if matrix.shape[1] <= matrix.shape[2] else matrix[0].T
    rows = first[:_SHOWN].astype(np.complex128 if np.iscomplexobj(first) else np.float64)
    if 2 * np.count_nonzero(rows) < rows.size:  # an identity is no draw
        return False
    products = rows @ rows.conj().T
    length = np.trace(products).real / len(rows)
    return bool(np.abs(products / length - np.eye(len(rows))).max() < 1e-4 + 10 * eps)


def error(kurtosis: float, size: int) -> float:
    """Four standard errors of a sample's std, relative: 4 sqrt((kurtosis - 1) / 4 n)."""
    return STANDARD_ERRORS * math.sqrt((kurtosis - 1) / (4 * size))


def fits(law: Law, found: Sample) -> bool:
    """Whether a leaf can be a draw of that law: distribution, mean and std."""
    if law.form not in found.forms:
        return False
    if law.form == "constant":
        return abs(found.mean - law.mean) <= found.eps * max(abs(law.mean), 1.0)
    second = math.hypot(found.std, found.mean - law.mean)
    # Every column of an orthogonal matrix has one length: rounding is all that may differ.
    spread = 1e-4 if law.form == "orthogonal" else error(FORMS[law.form].kurtosis, found.size)
    centred = STANDARD_ERRORS / math.sqrt(found.size) + 2 * found.eps
    return (
        abs(second / law.std - 1) <= spread + 2 * found.eps
        and abs(found.mean - law.mean) <= centred * law.std
    )


# --- what is odd --------------------------------------------------------------------------------


def odd(
    role: Role, leaf: Leaf, found: Sample, matrix: np.ndarray | None, table: Conventions
) -> Iterator[str]:
    """Every oddity of a leaf; `table` is empty if a convention explains its size already."""
    if role.kind == "unused":
        yield "it is never used: nothing that the model returns is computed from it."
    if found.finite < found.size:
        yield f"{found.size - found.finite} of {found.size} entries are NaN or infinite."
    if found.finite < found.size or role.kind not in ("weight", "tied", "embedding"):
        return
    if "constant" in found.forms and found.size > 1:
        yield _constant(role, found.mean)
        return
    if matrix is not None:
        yield from _repeated(role, matrix)
        yield from _one_sided(role, matrix)
    if not table or found.std == 0 or role.kind == "embedding":
        return
    sentence = (
        _uncorrected(leaf, found, table)
        or _wrong_fans(role, leaf, found, table)
        or _far(leaf, found, table)
    )
    if sentence:
        yield sentence


def _uncorrected(leaf: Leaf, found: Sample, table: Conventions) -> str | None:
    """A normal that was cut at two standard deviations, and has lost some of its own by that."""
    for convention in table.values():
        for law in convention.laws(leaf) if not convention.uncorrected else ():
            cut = Law("truncated", law.std * TRUNCATED_STD)
            if law.std > 0 and law.form in ("normal", "truncated") and fits(cut, found):
                return (
                    f"the std is 0.88 of {convention.whose}: a normal that was cut at two standard "
                    f"deviations and not corrected for it; divide by 0.8796."
                )
    return None


def _constant(role: Role, value: float) -> str:
    if role.kind == "embedding":
        return f"all entries are {value:g}: every index is embedded as the same vector."
    if value == 0:
        return (
            "all entries are 0: every unit of the layer gives the same, and no gradient passes "
            "back through it."
        )
    return (
        f"all entries are {value:g}: every unit of the layer computes the same, and stays the same "
        f"as long as what follows treats them alike."
    )


def _one_sided(role: Role, matrix: np.ndarray) -> Iterator[str]:
    """Weights of one sign, whose mean adds up over the inputs of a unit."""
    if matrix.size < _SIGNED or not ((matrix > 0).all() or (matrix < 0).all()):
        return
    mean = float(matrix.mean(dtype=np.float64))
    grown = abs(mean) * matrix.shape[1]
    if grown > _ADDS_UP:
        yield (
            f"all its entries as applied are {'positive' if mean > 0 else 'negative'}: their mean "
            f"of {mean:.2g} alone makes the mean of a signal x{grown:.2g}, whatever their std; "
            f"where they must be, make it 1 / fan_in."
        )


def _repeated(role: Role, matrix: np.ndarray) -> Iterator[str]:
    """Layers that are copies of each other, and columns that are."""
    count, fan_in, fan_out = matrix.shape
    stacked = matrix.reshape(role.layers, -1)
    if role.layers > 1 and stacked.shape[1] > 1 and bool((stacked == stacked[0]).all()):
        yield f"its {role.layers} stacked layers all hold the same numbers: one key drew them all."
        matrix = matrix[: count // role.layers]
    side_by_side = role.groups if role.receptive_field == 1 else 1  # depthwise kernels may agree
    if side_by_side > 1 and len(matrix) == side_by_side and bool((matrix == matrix[0]).all()):
        yield f"its {side_by_side} matrices side by side are the same: one key drew them all."
        matrix = matrix[:1]
    digits = 24 if matrix.dtype.itemsize > 2 else 8
    if fan_out < 2 or fan_in * digits < 40:  # so few bits agree by chance
        return
    # Columns that a mask shuts, and entries that symmetry shares, are no copies.
    if matrix.size > math.prod(role.shape):
        return
    open_ = [columns[:, columns.any(0)] for columns in matrix]
    different = sum(_different(columns) for columns in open_ if columns.size)
    total = sum(columns.shape[1] for columns in open_)
    if different < total:
        yield (
            f"{total - different} of {total} columns are copies of others: units that read the "
            f"same weights compute the same."
        )


def _different(columns: np.ndarray) -> int:
    """How many different columns a matrix has."""
    some = np.ascontiguousarray(columns[:2].T)  # most differ here already
    if len(np.unique(some, axis=0)) == len(some):
        return len(some)
    whole = np.ascontiguousarray(columns.T) + 0.0  # -0 is 0
    return len({column.tobytes() for column in whole})


# --- fans that somebody counted wrong -----------------------------------------------------------


class _Misreading(NamedTuple):
    """Fans that a leaf would have, had its shape been read wrongly, and how."""

    fan_in: float
    fan_out: float
    words: str
    swapped: bool = False
    axes: bool = False
    """whether an initializer that is told the axes reads it rightly"""


def _misreadings(role: Role, fan_in: int | float, fan_out: int) -> Iterator[_Misreading]:
    """The simplest first."""
    shape = role.shape
    if len(shape) == 2:
        yield _Misreading(fan_out, fan_in, _layout(shape, fan_in, fan_out), swapped=True)
    # What initialisers make of a shape of more axes: the last two are in and out, or the first two
    # out and in, and all others a receptive field.
    readings = []
    if len(shape) > 2:
        whole = math.prod(shape)
        readings.append((whole // shape[-1], whole // shape[-2], "[..., in, out]"))
        readings.append((whole // shape[0], whole // shape[1], "[out, in, ...]"))
    for wrong_in, wrong_out, _ in readings:
        for size, words in _counted(role):
            if wrong_in == fan_in * size:
                yield _Misreading(wrong_in, wrong_out, f"{words} counted into fan_in")
    for wrong_in, wrong_out, axes in readings:
        yield _Misreading(wrong_in, wrong_out, f"the shape {shape} was read as {axes}", axes=True)
    for size, words in _counted(role):
        yield _Misreading(fan_in * size, fan_out, f"{words} counted into fan_in")
        yield _Misreading(fan_in, fan_out * size, f"{words} counted into fan_out")
    if len(shape) > 2:
        words = "the outputs were taken for the inputs"
        yield _Misreading(fan_out, fan_in, words, swapped=True, axes=True)
    for size, words in _left_out(role):
        if fan_in % size == 0 and fan_in > size:  # a std of 1 looks at no fan
            rest = fan_out / size if role.receptive_field == size else fan_out
            yield _Misreading(fan_in / size, rest, f"{words} left out of fan_in")
    for gates in sorted({max(use.gates) + 1 for use in role.uses if use.gates}):
        words = f"only one of {gates} gates was counted into fan_out"
        yield _Misreading(fan_in, fan_out / gates, words)


def _layout(shape: tuple[int, ...], fan_in: int | float, fan_out: int) -> str:
    if shape == (fan_out, fan_in):
        return "the model stores [out, in], which was read as [in, out]"
    if shape == (fan_in, fan_out):
        return "the model stores [in, out], which was read as [out, in]"
    return "inputs and outputs were swapped"


def _counted(role: Role) -> Iterator[tuple[int, str]]:
    """What may have been counted into a fan: stacked layers, groups, an axis such as heads."""
    if role.layers > 1:
        yield role.layers, f"the {role.layers} stacked layers were"
    if role.groups > 1:
        yield role.groups, f"all {role.groups} groups were"
    if len(role.shape) > 2 and role.receptive_field == 1:
        for size in sorted(set(role.shape) - {1, role.layers, role.groups}):
            yield size, f"an axis of {size} (heads) was"


def _left_out(role: Role) -> Iterator[tuple[int, str]]:
    if role.receptive_field > 1:
        yield role.receptive_field, f"the receptive field of {role.receptive_field} was"
    elif len(role.shape) > 2:
        for size in sorted(set(role.shape) - {1, role.layers, role.groups}):
            yield size, f"an axis of {size} (heads) was"


def _wrong_fans(role: Role, leaf: Leaf, found: Sample, table: Conventions) -> str | None:
    """The simplest misreading with which some convention explains the std."""
    if not found.size or error(FORMS["normal"].kurtosis, found.size) > SURE:
        return None
    assert role.fan_in is not None
    assert role.fan_out is not None
    known = {(float(role.fan_in), float(role.fan_out))}
    for wrong in _misreadings(role, role.fan_in, role.fan_out):
        fans = (float(wrong.fan_in), float(wrong.fan_out))
        if min(fans) < 1 or fans in known:
            continue
        known.add(fans)
        read = leaf._replace(fan_in=wrong.fan_in, fan_out=wrong.fan_out, hidden=None)
        near = []
        for convention in table.values():
            true = convention.weight(leaf)
            for law, right in zip(convention.weight(read), true, strict=True):
                if law.std != right.std and fits(law, found):
                    near.append((abs(found.std / law.std - 1), convention, law, right))
        if near:
            _, convention, law, right = min(near, key=lambda each: each[0])
            return _sentence(role, wrong, convention, (law.std / right.std) ** 2)
    return None


def _sentence(role: Role, wrong: _Misreading, convention: Convention, squared: float) -> str:
    """`squared` is the variance with the wrong fans over that with the true ones."""
    axes = reading(role) if wrong.axes else None
    cure = f"; name the axes to the initializer, {axes}" if axes else ""
    if wrong.swapped:
        return (
            f"the std is {convention.whose} for fan_out {role.fan_out}, not for fan_in "
            f"{role.fan_in}: {wrong.words}{cure}."
        )
    name = "fan_out" if wrong.fan_in == role.fan_in else "fan_in"
    taken = wrong.fan_out if name == "fan_out" else wrong.fan_in
    true = role.fan_out if name == "fan_out" else role.fan_in
    return (
        f"std is {_ratio(squared)} {convention.whose}: {wrong.words} "
        f"({name} {taken:g} instead of {true}){cure}."
    )


def _ratio(squared: float) -> str:
    """In words: 1/sqrt(8) of, sqrt(4) times, 0.61 of."""
    for value, text in ((1 / squared, "1/sqrt({:.0f}) of"), (squared, "sqrt({:.0f}) times")):
        if value > 1.5 and abs(value - round(value)) < 1e-6 * value:
            return text.format(value)
    return f"{math.sqrt(squared):.3g} of" if squared < 1 else f"{math.sqrt(squared):.3g} times"


def _far(leaf: Leaf, found: Sample, table: Conventions) -> str | None:
    laws = [(c, law) for c in table.values() for law in c.laws(leaf) if law.std > 0]
    if not laws or math.isnan(found.std):
        return None
    convention, law = min(laws, key=lambda each: abs(math.log(found.std / each[1].std)))
    factor = max(found.std / law.std, law.std / found.std)
    if factor < FAR:
        return None
    digits = 10.0 ** (math.floor(math.log10(factor)) - 1)
    return (
        f"no convention within a factor of {math.floor(factor / digits) * digits:g}: the std "
        f"is {found.std:.3g}, and the nearest, {convention.whose}, is {law.std:.3g}."
    )
