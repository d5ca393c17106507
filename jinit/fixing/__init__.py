"""A model that does not train, mended: what may help is trained, and one wins, or none."""

from jinit.fixing.candidates import CANDIDATES, CLIP, DRAWS, Candidate, Case, Draw
from jinit.fixing.judging import NEARLY, TRAINS
from jinit.fixing.mending import fix
from jinit.fixing.result import FixResult, Row

__all__ = [
    "CANDIDATES", "CLIP", "DRAWS", "NEARLY", "TRAINS", "Candidate", "Case", "Draw", "FixResult",
    "Row", "fix",
]  # fmt: skip
