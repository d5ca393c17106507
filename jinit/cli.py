"""The `jinit` command. Nothing heavy is imported before a command needs it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import jinit

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Does the signal survive the depth of this network?",
    pretty_exceptions_enable=False,
)


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


@app.command()
def tour(
    out: Annotated[Path, typer.Option(help="Folder for the page, figures and data.")] = Path(
        "jinit-tour"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller tour.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random draw.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier tour in the same folder.")
    ] = False,
) -> None:
    """Why initialisation matters: six chapters, measured on real digits while you wait.

    JAX_PLATFORMS=cpu, cuda or tpu chooses the device.
    """
    from rich.console import Console

    from jinit.runtime import device_name
    from jinit.tour import FULL, QUICK, OutputError, run_tour

    try:
        device_name()
    except (RuntimeError, AssertionError) as error:
        _fail(
            f"jax cannot start on the device that JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')} "
            f"asks for ({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            f"use JAX_PLATFORMS=cpu, or install jinit[cuda] or jinit[tpu]."
        )
    try:
        run_tour(
            out, QUICK if quick else FULL, seed=seed, overwrite=overwrite,
            console=Console(),
        )  # fmt: skip
    except OutputError as error:
        _fail(str(error))


@app.command()
def schemes() -> None:
    """List every initialisation scheme with its formula, options and source."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "weights", "options", "source")
    for name, entry in jinit.SCHEMES.items():
        own = [o for o in entry.options if o not in ("in_axis", "out_axis", "batch_axis")]
        table.add_row(name, entry.formula, ", ".join(own), entry.source)
    Console().print(table)


def _fail(message: str) -> None:
    print(f"jinit: {message}", file=sys.stderr)
    raise typer.Exit(2)


def main() -> None:
    """Entry point of the `jinit` command."""
    app()
