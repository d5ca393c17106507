"""Results into pictures: a function takes results, draws, and returns the figure or the artists.

Nothing is computed here beyond averages and quantiles over runs.
"""

from jinit.plots.figures import COLORS, figure, power_of_ten, style
from jinit.plots.fixing import fixed
from jinit.plots.models import coordinate_check, diagnosis
from jinit.plots.panels import band, gradient_map, histograms, weights
from jinit.plots.sweeps import grid
from jinit.plots.theory import phase_diagram, signals

__all__ = [
    "COLORS",
    "band",
    "coordinate_check",
    "diagnosis",
    "figure",
    "fixed",
    "gradient_map",
    "grid",
    "histograms",
    "phase_diagram",
    "power_of_ten",
    "signals",
    "style",
    "weights",
]
