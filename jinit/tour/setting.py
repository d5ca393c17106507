"""How large a tour is: the full one, and a quick one for the impatient and for tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Sizes of the six chapters."""

    name: str
    seeds: int
    """networks per curve"""
    steps: int
    """training steps per curve"""
    hidden: int
    """hidden layers of 64 units in the networks that are trained"""
    histogram_seeds: int
    """networks of ten layers of 500 units over which stds are averaged"""
    histogram_inputs: int
    map_gains: int
    map_depths: tuple[int, ...]
    map_seeds: int


FULL = Setting(
    name="full", seeds=16, steps=300, hidden=8, histogram_seeds=10, histogram_inputs=1000,
    map_gains=65, map_depths=(2, 3, 5, 8, 13, 21, 34, 55), map_seeds=32,
)  # fmt: skip
QUICK = Setting(
    name="quick", seeds=4, steps=80, hidden=5, histogram_seeds=2, histogram_inputs=300,
    map_gains=21, map_depths=(2, 14), map_seeds=32,
)  # fmt: skip
