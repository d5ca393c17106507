"""The tour: why initialisation matters, in six chapters measured while you wait."""

from jinit.tour.run import OutputError, take_tour
from jinit.tour.setting import FULL, QUICK, Setting

__all__ = ["FULL", "QUICK", "OutputError", "Setting", "take_tour"]
