"""What every experiment shares, so that a script says only what it measures and compares.

`checks.py` has means over seeds and the table, `experiment.py` a run from options to exit status,
`figures.py` the look.
"""
