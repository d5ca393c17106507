"""What mean-field theory predicts, in float64, before a weight is drawn."""

from jinit.theory.gaussian import expectation
from jinit.theory.signals import Trajectory, length_map, trajectory

__all__ = ["Trajectory", "expectation", "length_map", "trajectory"]
