"""The `jinit` command. Nothing heavy is imported before a command needs it."""

import sys
from typing import Annotated

import typer

import jinit
from jinit.cli import diagnose, fix, interrupts, schemes, sweeps, theory, tour
from jinit.cli.errors import DEBUG, answered

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Does the signal survive the depth of this network?",
    pretty_exceptions_enable=False,
)
for command in (tour.tour, theory.theory, schemes.schemes, diagnose.diagnose,
                fix.fix, sweeps.map_, sweeps.status, sweeps.plot, sweeps.export):  # fmt: skip
    app.command(command.__name__.rstrip("_"))(answered(command))


def _version(value: bool) -> None:
    if value:
        print(jinit.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, DEBUG] = False,
) -> None:
    pass


def main() -> None:
    """The `jinit` command, from its arguments to the exit status."""
    interrupts.guard()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # nothing is unsaid at an end
    try:
        app()
    finally:
        interrupts.release()
