"""`python -m jinit`."""

from jinit.cli import main

main()
