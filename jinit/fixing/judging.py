"""Which seeds train, and which candidate wins."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from jinit.fixing.result import Row

TRAINS = 0.25
"""A seed trains if its loss falls by this share of what it began with, or of an output of 0."""
NEARLY = 0.05
"""A candidate is as good as the best if it brings all but this share of the best's gain."""


def rows_of(done: xr.Dataset, changes: Mapping[str, str], ignorant: float) -> tuple[Row, ...]:
    """Of what was trained, name by name; `ignorant` is the loss of an output of 0."""
    rows = []
    for name, words in changes.items():
        one = done.sel(candidate=name)
        first, last = one.loss.values[:, 0], one.final_loss.values
        usual = np.fmin(np.where(np.isfinite(first), first, np.nan), ignorant)
        trained = last < usual - TRAINS * np.abs(usual)
        rows.append(Row(
            name, words, float(np.median(last)), tuple(map(float, last)),
            float(np.median(one.accuracy)), tuple(map(float, one.accuracy.values)),
            int(trained.sum()),
        ))  # fmt: skip
    return tuple(rows)


def winner(rows: Sequence[Row], ignorant: float) -> Row | None:
    """The first as good as the best of those that beat the first row in every seed.

    As good is what seeds do not tell from it, or what brings nearly the same gain.
    """
    before, *others = rows
    better = [
        row for row in others
        if max(row.losses) < min(before.losses) and 2 * row.trained > len(row.losses)
    ]  # fmt: skip
    if not better:
        return None
    best = min(better, key=lambda row: (-row.trained, row.loss))
    gain = float(np.fmin(before.loss, ignorant)) - best.loss
    enough = max(*best.losses, best.loss + NEARLY * gain)
    return next(row for row in better if row.trained == best.trained and row.loss <= enough)
