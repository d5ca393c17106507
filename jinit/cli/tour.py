"""`jinit tour`."""

from pathlib import Path
from typing import Annotated

import typer

from jinit.cli import interrupts
from jinit.cli.options import Overwrite, fail


def tour(
    out: Annotated[Path, typer.Option(help="Folder for the page, figures and data.")] = Path(
        "jinit-tour"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller tour.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random draw.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted tour in that folder.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Why initialisation matters: six chapters, measured on real digits while you wait.

    Chapters are kept as they finish: after Ctrl-C, --resume goes on.

    JAX_PLATFORMS=cpu, cuda or tpu chooses the device.
    """
    if overwrite and resume:
        fail("--resume goes on with a tour and --overwrite begins anew; give one of them.")
    from jinit.tour import FULL, QUICK, keeping, take_tour
    from jinit.tour.run import names_of_chapters

    setting, out = QUICK if quick else FULL, out.expanduser()
    earlier = keeping.index_of(out) if overwrite else None

    def kept() -> interrupts.Kept:
        index = keeping.index_of(out)
        names = names_of_chapters()
        platform = (index or {}).get("made", {}).get("platform")  # jax may be what is interrupted
        now = keeping.made_with(setting, seed, platform)
        if overwrite and index == earlier:
            return interrupts.Kept("no chapter is finished, and nothing was replaced")
        if index is None or keeping.difference(index["made"], now):
            return interrupts.Kept("no chapter is finished", dropped=("--resume",))
        there = [i for i, name in enumerate(names, 1) if name in index["chapters"]]
        word = "chapter" if len(there) == 1 else "chapters"
        return interrupts.Kept(
            f"{word} {_listed(there)} of {len(names)} {'is' if len(there) == 1 else 'are'} kept in "
            f"{out}", "go on", added=("--resume",), dropped=("--overwrite",),
        )  # fmt: skip

    with interrupts.keeping(kept):
        take_tour(out, setting, seed=seed, overwrite=overwrite, resume=resume)


def _listed(numbers: list[int]) -> str:
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))
