"""What may help a model, a table, and when each of it is worth a trial."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jinit import models

CLIP = 1.0
"""global norm at which gradients are cut"""


class Case(NamedTuple):
    """What candidates are chosen by."""

    kinds: frozenset[str]
    """of the findings"""
    rectifies: bool
    """whether the most frequent activation is ReLU or one of its kind"""
    residuals: int
    """branches"""
    trains: bool = False
    """whether the model as it is trains in all seeds; not known yet where something was found"""
    diverges: bool = False
    """whether it ends in no number"""

    @property
    def wild(self) -> bool:
        """Whether steps may be too large: nothing else was found, or what is too large itself."""
        return not self.kinds or bool(self.kinds & {"explode", "nonfinite", "output"})

    @property
    def scheme(self) -> str:
        """That of a plain layer."""
        return "he" if self.rectifies else "xavier"

    @property
    def start(self) -> str:
        """The most promising of `DRAWS`."""
        return "scaled branches" if self.residuals >= 3 else self.scheme


class Draw(NamedTuple):
    """New variables: a tool of jinit's, its name in code, and its options."""

    name: str
    tool: Callable[..., Any]
    options: Callable[[Case], dict[str, Any]]


DRAWS: dict[str, Draw] = {
    "he": Draw("jinit.reinit", models.reinit, lambda c: {"scheme": "he"}),
    "xavier": Draw("jinit.reinit", models.reinit, lambda c: {"scheme": "xavier", "gain": "auto"}),
    "orthogonal": Draw(
        "jinit.reinit", models.reinit, lambda c: {"scheme": "orthogonal", "gain": "auto"}
    ),
    "lsuv": Draw("jinit.models.lsuv", models.lsuv, lambda c: {}),
    "fixup": Draw("jinit.models.fixup", models.fixup, lambda c: {"scheme": c.scheme}),
    "skipinit": Draw("jinit.models.skipinit", models.skipinit, lambda c: {"scheme": c.scheme}),
    "scaled branches": Draw(
        "jinit.models.skipinit", models.skipinit,
        lambda c: {"scheme": c.scheme, "alpha": round(c.residuals**-0.5, 3)},
    ),
}  # fmt: skip
"""Ways to draw a start."""


class Candidate(NamedTuple):
    """One change, or several."""

    changes: str
    """in which {start} stands for those of the recommended start"""
    promise: Callable[[Case], int]
    """the larger, the earlier it is tried; 0 where it does not apply"""
    draw: Callable[[Case], str] | None = None
    """-> a key of `DRAWS`; None keeps the variables"""
    rate: float | None = 1.0
    """times the learning rate; None takes half of the largest stable one at the start"""
    clip: bool = False


def _start(rank: int) -> Callable[[Case], int]:
    """Before the learning rate if something was found, after it if not."""
    return lambda case: rank + (60 if case.kinds else 20)


def _branches(rank: int) -> Callable[[Case], int]:
    return lambda case: rank + (60 if case.kinds else 20) if case.residuals else 0


def _rate(rank: int) -> Callable[[Case], int]:
    """Where nothing was found in the start, or what a smaller step may survive."""
    return lambda case: rank + 40 if not case.trains and case.wild else 0


def _slow(rank: int) -> Callable[[Case], int]:
    return lambda case: 0 if case.trains or case.kinds else rank + 20


def _both(rank: int) -> Callable[[Case], int]:
    return lambda case: 0 if case.trains else rank + (50 if case.kinds else 10)


CANDIDATES: dict[str, Candidate] = {
    "scaled branches": Candidate(
        "branches by 1/sqrt(L)", _branches(9), lambda c: "scaled branches"
    ),
    "he": Candidate(
        "weights by He", lambda c: _start(7 if c.rectifies else 3)(c), lambda c: "he"
    ),
    "xavier": Candidate(
        "weights by Xavier, gains by activation", lambda c: 0 if c.rectifies else _start(7)(c),
        lambda c: "xavier",
    ),
    "fixup": Candidate("weights by Fixup", _branches(6), lambda c: "fixup"),
    "orthogonal": Candidate(
        "orthogonal weights, gains by activation", _start(5), lambda c: "orthogonal"
    ),
    "lsuv": Candidate("weights by LSUV, on one batch", _start(4), lambda c: "lsuv"),
    "skipinit": Candidate("branches start at 0", _branches(2), lambda c: "skipinit"),
    "stable rate": Candidate("half the stable learning rate", _slow(29), rate=None),
    "rate / 10": Candidate("a tenth of the learning rate", _rate(8), rate=0.1),
    "rate / 100": Candidate("a hundredth of the learning rate", _rate(7), rate=0.01),
    "clipping": Candidate(f"gradients cut at norm {CLIP:g}", _rate(6), clip=True),
    "rate x 10": Candidate(
        "ten times the learning rate", lambda c: 0 if c.diverges else _slow(9)(c), rate=10.0
    ),
    "start, stable rate": Candidate(
        "{start}, half its stable rate", _both(7), lambda c: c.start, None
    ),
    "start, rate / 10": Candidate(
        "{start}, a tenth of the rate", _both(9), lambda c: c.start, 0.1
    ),
    "start, clipping": Candidate(
        f"{{start}}, gradients cut at {CLIP:g}", _both(8), lambda c: c.start, clip=True
    ),
}  # fmt: skip
"""What may help, tried in the order of its promise."""
