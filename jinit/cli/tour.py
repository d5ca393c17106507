"""`jinit tour`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from jinit.cli.options import Overwrite, fail, one_sentence


def tour(
    out: Annotated[Path, typer.Option(help="Folder for the page, figures and data.")] = Path(
        "jinit-tour"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller tour.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random draw.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Why initialisation matters: six chapters, measured on real digits while you wait.

    JAX_PLATFORMS=cpu, cuda or tpu chooses the device.
    """
    from jinit.runtime import device_name
    from jinit.tour import FULL, QUICK, OutputError, take_tour

    try:
        device_name()
    except (RuntimeError, AssertionError) as error:
        fail(
            f"jax cannot start on the device that JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')} "
            f"asks for ({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            f"use JAX_PLATFORMS=cpu, or install jinit[cuda] or jinit[tpu]."
        )
    with one_sentence(OutputError):
        take_tour(out, QUICK if quick else FULL, seed=seed, overwrite=overwrite)
