"""Map any pure function over axes and seeds into a labelled dataset, in memory or on disk.

Nothing here knows of networks: what is swept is any function `fn(key, **point) -> dict of arrays`.
"""

from jinit.sweeps.grid import Sweep
from jinit.sweeps.run import DryRun, dry_run, load, sweep
from jinit.sweeps.store import StoreError

__all__ = ["DryRun", "StoreError", "Sweep", "dry_run", "load", "sweep"]
