"""`python -m jinit`."""

from jinit.cli.main import main

main()
