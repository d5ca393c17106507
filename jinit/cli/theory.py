"""`jinit theory`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jinit.cli.options import Overwrite, check_plot
from jinit.files import whole


def theory(
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
    overwrite: Overwrite = False,
) -> None:
    """What theory says of an activation: where to start, and how deep a plain network trains."""
    check_plot(plot, overwrite)
    from rich.console import Console

    from jinit.cli.theory_report import draw, forecast, load, print_forecast

    sys.path.insert(0, os.getcwd())  # where module:function is looked for first
    own = load(activation)
    found = forecast(own, weight_var=weight_var, bias_var=bias_var, depth=depth, width=width)
    if plot is not None:
        with whole(plot) as file:
            draw(own, found, file)
    console = Console(highlight=False)
    print_forecast(found, console)
    if plot is not None:
        console.print(f"\nThe phase diagram is in {plot}.")
