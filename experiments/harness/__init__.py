"""What every experiment shares, so that a script says only what it measures and compares.

A script declares an `Experiment` (`experiment.py`) of functions: `measure(**setting)` gives an
xarray Dataset, and `checks`, `figure` and `notes` are pure functions of that dataset. Options,
progress, the table, files and the exit status are here.
"""
