"""Whose start a model was drawn with, and which leaves were never trained."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jinit.models.auditing.oddities import Sample, fits, sample
from jinit.models.starts.draw import Plan
from jinit.models.starts.laws import FORMS, Fixed, Law, Paired, Quantile, words_of
from jinit.models.starts.places import Place, layout
from jinit.models.starts.table import STARTS, Start
from jinit.models.tracing.model import TracedModel
from jinit.models.tracing.roles import Role
from jinit.models.tracing.values import RoleError

FEW = 5
"""One leaf in so many may differ where the others are of a start"""
_BLOCK = 256  # rows and columns that tell whether a matrix was drawn
_EDGE = 4.0  # of Tracy and Widom's law: one drawn matrix in 10,000 lies beyond
_ANY = {"weight", "bias", "embedding", "norm_scale"}  # places that say nothing of a start
_SURE = 0.05  # a std that is known to this tells two laws apart


class StartFit(NamedTuple):
    """How far a model is drawn as a start draws it."""

    name: str
    """of `jinit.STARTS`"""
    differs: tuple[tuple[str, str], ...]
    """(path, sentence) of the leaves that are not of it"""

    def __str__(self) -> str:
        """The name, and what differs."""
        if not self.differs:
            return self.name
        shown = "; ".join(f"{path} {sentence}" for path, sentence in self.differs[:3])
        more = f"; and {len(self.differs) - 3} more" if len(self.differs) > 3 else ""
        return f"{self.name}, but for {shown}{more}"


def starts_of(
    model: TracedModel, values: Sequence[np.ndarray], samples: Sequence[Sample]
) -> tuple[StartFit, ...]:
    """The starts that all leaves fit; where there is none, the nearest that all but a few fit.

    A few are one leaf in five, or the leaves of one kind of place.
    """
    if any(math.isnan(each.mean) for each in samples):
        return ()
    parts = _Parts(values, samples)
    found: list[tuple[StartFit, bool]] = []
    plain = layout(model)
    for name, row in STARTS.items():
        if not row.named and not set(row.needs) <= plain.has:
            continue
        try:
            plan = Plan(model, name, known=plain)
        except (ValueError, RoleError):
            continue
        fit = _fit(name, row, plan, parts)
        if fit is not None:
            found.append(fit)
    whole = [fit for fit, _ in found if not fit.differs]
    if whole:
        return tuple(whole)
    near = [fit for fit, is_near in found if is_near]
    least = min((len(fit.differs) for fit in near), default=0)
    return tuple(fit for fit in near if len(fit.differs) == least)


class _Parts:
    """The numbers of places; those of whole leaves are summed up already."""

    def __init__(self, values: Sequence[np.ndarray], samples: Sequence[Sample]) -> None:
        self.values, self.samples = values, samples
        self.known: dict[tuple[int, int, int], Sample] = {}

    def of(self, place: Place, layer: int | None = None) -> Sample:
        """Of a place, or of one layer of it; its matrix does not matter."""
        whole = place.entries is None or place.size == math.prod(place.shape)
        if whole and (layer is None or place.layers == 1):
            return self.samples[place.leaf]
        assert place.entries is not None
        entries = place.entries if layer is None else place.entries[layer]
        key = place.leaf, int(entries.flat[0]), entries.size
        if key not in self.known:
            own = self.values[place.leaf].reshape(-1)[entries.ravel()]
            self.known[key] = sample(own, None, eps=self.samples[place.leaf].eps)
        return self.known[key]


def _fit(name: str, row: Start, plan: Plan, parts: _Parts) -> tuple[StartFit, bool] | None:
    """What differs, and whether that is little; None if the start says nothing that can be seen."""
    differs: dict[str, str] = {}
    kinds, seen, constant = set[str](), 0, True
    judged = set[str]()
    for place, law in plan.laws:
        if law is None or (isinstance(law, Paired) and math.isnan(law.std)):
            continue
        judged.add(place.path)
        sentence = _differs(place, law, parts)
        told = not (isinstance(law, Law) and law.form == "constant")
        if sentence is None:
            seen += told or not row.whole
            continue
        differs.setdefault(place.path, sentence)
        kinds.add(next(n for n in place.names if n in row.laws))
        constant &= isinstance(law, Law) and law.form == "constant" and law.mean == 0
    if not seen:
        return None
    of_one_place = len(kinds) == 1 and not constant and not kinds & _ANY
    few = len(differs) <= len(judged) // FEW or of_one_place
    return StartFit(name, tuple(differs.items())), row.whole and few


def _differs(place: Place, law: Any, parts: _Parts) -> str | None:
    """A sentence if a place is no draw of a law."""
    if isinstance(law, tuple) and not hasattr(law, "_fields"):
        each = (_differs_one(place, one, parts, i) for i, one in enumerate(law))
        return next((sentence for sentence in each if sentence), None)
    return _differs_one(place, law, parts, None)


def _differs_one(place: Place, law: Any, parts: _Parts, layer: int | None) -> str | None:
    found = parts.of(place, layer)
    if isinstance(law, Law):
        fit = fits(law, found)
    elif isinstance(law, Paired):
        fit = abs(found.std / law.std - 1) < _SURE
    else:
        fit = _fits_function(place, law, parts, found)
    if fit:
        return None
    where = "" if layer is None else f"in layer {layer} "
    is_ = f"= {found.mean:.4g}" if found.std == 0 else f"has std {found.std:.4g}"
    return f"{where}{is_}, not {words_of(law)}"


def _fits_function(place: Place, law: Any, parts: _Parts, found: Sample) -> bool:
    own = parts.values[place.leaf].reshape(-1)
    own = own if place.entries is None else own[place.entries.ravel()]
    if isinstance(law, Fixed):
        shape = place.shape if place.entries is None else place.entries.shape
        return bool(np.allclose(own, law.of(shape).ravel(), rtol=1e-2 * found.eps**0.25))
    assert isinstance(law, Quantile)
    grid = law.grid()
    below = np.searchsorted(grid, np.sort(own.astype(np.float64))) / len(grid)
    step = np.arange(own.size + 1) / own.size
    apart = max(float(np.max(step[1:] - below)), float(np.max(below - step[:-1])))
    return apart <= math.sqrt(math.log(2 / 6e-5) / (2 * own.size)) + 2 / len(grid)


# --- never trained --------------------------------------------------------------------------------


def untrained(
    roles: Sequence[Role],
    samples: Sequence[Sample],
    explained: Sequence[bool],
    matrix: Callable[[int], np.ndarray | None],
) -> tuple[str, ...]:
    """Leaves that still look drawn in a model of which at least half the matrices do not.

    A matrix looks drawn if its entries may be independent ones of a normal or uniform law (their
    largest, and Kolmogorov's distance) and its largest singular value is no larger than that of
    such a matrix (Tracy and Widom's law), or if it is orthogonal. One in a thousand drawn matrices
    fails that. So a model that was never trained raises a false alarm at most once in five hundred
    times, when one of its two matrices fails; with more matrices much less often. A matrix that
    training has moved by less than noise hides still looks drawn. Biases and scales count if all
    their entries are one number yet. Where three quarters of the matrices are explained by
    a convention, or all leaves by a start, nothing was trained.
    """
    weights = [
        i for i, role in enumerate(roles)
        if role.kind in ("weight", "tied", "embedding") and samples[i].size >= 64 and samples[i].std
    ]  # fmt: skip
    unexplained = sum(not explained[i] for i in weights)
    if len(weights) < 2 or 4 * unexplained < len(weights):
        return ()
    drawn = {i for i in weights if samples[i].forms & {*FORMS, "orthogonal"}}
    drawn = {i for i in drawn if "orthogonal" in samples[i].forms or is_noise(matrix(i))}
    if not drawn or 2 * (len(weights) - len(drawn)) < len(weights):
        return ()
    still = {
        i for i, role in enumerate(roles)
        if role.kind in ("bias", "scale") and "constant" in samples[i].forms
    }  # fmt: skip
    return tuple(roles[i].path for i in sorted(drawn | still))


def is_noise(matrix: np.ndarray | None) -> bool:
    """Whether the largest singular value is one of a matrix of independent entries.

    Johnstone 2001, theorem 1.1, for a block of the first of the matrices.
    """
    if matrix is None or min(matrix.shape[-2:]) < 2:
        return True
    block = matrix.reshape(-1, *matrix.shape[-2:])[0][:_BLOCK, :_BLOCK].astype(np.float64)
    block = block if block.shape[0] >= block.shape[1] else block.T
    n, p = block.shape
    top = float(np.linalg.eigvalsh(block.T @ block)[-1] / np.mean(block**2))
    a, b = math.sqrt(n - 1), math.sqrt(p)
    width = (a + b) * (1 / a + 1 / b) ** (1 / 3)
    return bool((top - (a + b) ** 2) / width < _EDGE)
