"""The `jinit` command. Nothing heavy is imported before a command needs it."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

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


@app.command("theory")
def theory_(
    activation: Annotated[
        str, typer.Argument(help="A name such as gelu, or module:function for one of your own.")
    ],
    bias_var: Annotated[
        float | None, typer.Option(help="Variance of the biases; adds the critical point for it.")
    ] = None,
    weight_var: Annotated[
        float | None, typer.Option(help="fan_in times the variance of your weights; adds a row.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Layers; adds the gradient through so many.")
    ] = None,
    width: Annotated[int, typer.Option(help="Units of a layer.")] = 128,
    plot: Annotated[
        Path | None, typer.Option(help="Write the phase diagram to this file (.png, .svg, .pdf).")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of an earlier plot.")
    ] = False,
) -> None:
    """What theory says of an activation: where to start, and how deep a plain network trains."""
    if plot is not None:
        _check_plot(plot, overwrite)
    from rich.console import Console

    from jinit.forecast import forecast, load, print_forecast

    sys.path.insert(0, os.getcwd())  # where module:function is looked for first
    try:
        phi = load(activation)
        found = forecast(phi, weight_var=weight_var, bias_var=bias_var, depth=depth, width=width)
    except (ValueError, TypeError) as error:
        _fail(str(error))
    console = Console(highlight=False)
    print_forecast(found, console)
    if plot is not None:
        _plot(phi, found, plot)
        console.print(f"\nThe phase diagram is in {plot}.")


PLOTS = (".png", ".svg", ".pdf")


def _check_plot(file: Path, overwrite: bool) -> None:
    if file.suffix not in PLOTS:
        _fail(f"--plot must end in {', '.join(PLOTS[:-1])} or {PLOTS[-1]}, got '{file}'.")
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        _fail(f"--plot must lie in a folder that can be written, got '{file}'; make it first.")
    if file.exists() and not overwrite:
        _fail(f"--plot: '{file}' is there already; choose another name, or add --overwrite.")


def _plot(activation: Any, found: Any, file: Path) -> None:
    from jinit import plots, theory

    marks = {start.name: (start.weight_var, start.bias_var) for start in found.starts}
    if found.point is not None:
        marks["critical"] = (found.point.weight_var, found.point.bias_var)
    widest = max(weight for weight, _ in marks.values())
    highest = max(bias for _, bias in marks.values())
    diagram = theory.phase_diagram(
        activation,
        weight_var=_up_to(1.25 * widest) if widest > 3.5 else None,
        bias_var=_up_to(1.4 * highest, zero=True) if highest > 0.4 else None,
    )
    plots.phase_diagram(diagram, marks=marks).savefig(file)


def _up_to(most: float, *, zero: bool = False) -> list[float]:
    steps = 60
    return [most * i / steps for i in range(0 if zero else 1, steps + 1)]


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


def _fail(message: str) -> NoReturn:
    print(f"jinit: {message}", file=sys.stderr)
    raise typer.Exit(2)


def main() -> None:
    """Entry point of the `jinit` command."""
    app()
