"""The `jinit` command. Nothing heavy is imported before a command needs it."""

from typing import Annotated

import typer

import jinit
from jinit.cli import diagnose, fix, schemes, sweeps, theory, tour

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Does the signal survive the depth of this network?",
    pretty_exceptions_enable=False,
)
for command in (tour.tour, theory.theory, schemes.schemes, diagnose.diagnose,
                fix.fix, sweeps.map_, sweeps.status, sweeps.plot, sweeps.export):  # fmt: skip
    app.command(command.__name__.rstrip("_"))(command)


def _version(value: bool) -> None:
    if value:
        print(jinit.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `jinit` command."""
    app()
