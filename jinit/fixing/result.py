"""What a search for a cure returns: a table of what was tried, and the cure."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import optax
import xarray as xr

from jinit.models.diagnosis.report import Diagnosis
from jinit.models.tracing.names import table

_COLUMNS = ("candidate", "what it changes", "loss", "over seeds", "accuracy", "train")


class Row(NamedTuple):
    """One candidate, trained."""

    candidate: str
    """a key of `CANDIDATES`, or "before" """
    changes: str
    loss: float
    """on training batches, mean of the last tenth of the steps, median over seeds; inf diverged"""
    losses: tuple[float, ...]
    """the same, seed by seed"""
    accuracy: float
    """on the test half, median over seeds; NaN without classes"""
    accuracies: tuple[float, ...]
    trained: int
    """seeds that train"""


class FixResult(NamedTuple):
    """What helped a model, how it was found, and the lines that do it."""

    table: tuple[Row, ...]
    """the model as it is, and every candidate that was trained, in the order of their promise"""
    variables: Any
    """those that train, or the model that holds them, where one was given; the same object where
    nothing is changed"""
    code: str
    """lines that make `variables` (or `model`) and `optimizer` of `key, apply, variables, data,
    optimizer` (or `key, model, data, optimizer`; `learning_rate`, `rules` where they were given);
    empty where nothing is changed"""
    optimizer: optax.GradientTransformation
    """the one to train them with"""
    winner: str | None
    """a candidate, None where nothing is changed"""
    healthy: bool
    """whether nothing needed to be changed"""
    verdict: str
    """one sentence"""
    diagnosis: Diagnosis
    """of the model as it is, on one batch"""
    curves: xr.Dataset
    """`loss` [candidate, seed, step] of every batch before its update, `accuracy` and `final_loss`
    [candidate, seed]"""
    left_out: Mapping[str, str]
    """candidates that were not trained, and why"""

    def __str__(self) -> str:  # noqa: D105
        cells = [
            [row.candidate, row.changes, f"{row.loss:.3g}",
             f"{min(row.losses):.2g} to {max(row.losses):.2g}",
             "" if math.isnan(row.accuracy) else f"{100 * row.accuracy:.0f}%",
             f"{row.trained} of {len(row.losses)}"]
            for row in self.table
        ]  # fmt: skip
        found = [] if self.healthy else [f"Found: {self.diagnosis.verdict}", ""]
        lines = ["", self.code] if self.code else []
        return "\n".join([*found, table(_COLUMNS, cells), "", self.verdict, *lines])

    def to_json(self) -> dict[str, Any]:
        """All but variables, optimizer and curves, as JSON can hold it."""

        def plain(x: Any) -> Any:
            if isinstance(x, tuple):
                return [plain(one) for one in x]
            return str(x) if isinstance(x, float) and not math.isfinite(x) else x

        return {
            "verdict": self.verdict, "winner": self.winner, "healthy": self.healthy,
            "code": self.code, "left_out": dict(self.left_out),
            "table": [{k: plain(v) for k, v in row._asdict().items()} for row in self.table],
            "findings": [finding._asdict() for finding in self.diagnosis.findings],
        }  # fmt: skip
