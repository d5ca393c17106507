"""Run the chapters with progress, and keep each of them, with the page, when it is finished."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from jinit import checks
from jinit.pages.report import Chapter
from jinit.runtime import device_name
from jinit.terminal import Fitted
from jinit.tour import batchnorm, gradients, he, keeping, scale, symmetry, xavier
from jinit.tour.setting import FULL, Setting

# Share of the whole time, measured on two cores.
CHAPTERS: tuple[tuple[str, str, Callable[..., Chapter], float], ...] = (
    ("symmetry", "Symmetry", symmetry.chapter, 0.12),
    ("random", "Random", scale.chapter, 0.11),
    ("xavier", "Xavier", xavier.chapter, 0.10),
    ("he", "He", he.chapter, 0.22),
    ("batch-norm", "Batch norm", batchnorm.chapter, 0.18),
    ("map", "The map", gradients.chapter, 0.27),
)


class OutputError(ValueError):
    """The output folder cannot be used; the message says why and what to do."""


def take_tour(
    out: str | os.PathLike[str] = "jinit-tour",
    setting: Setting = FULL,
    *,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Run all chapters and write `out/report.html` with figures and data beside it.

    Every chapter is written when it is finished, and the page with it: what is interrupted keeps
    the chapters before, whole, and `resume` goes on after them, to the same numbers.

    Args:
        out: the folder, new or empty.
        setting: `jinit.tour.FULL` or `jinit.tour.QUICK`.
        seed: of every random draw.
        overwrite: replace an earlier tour, once the first chapter is finished; others' files stay.
        resume: keep the chapters that are in `out`, if they were made with the same setting, seed,
            versions and kind of device; one whose files were changed is measured again.
        console: where progress and numbers are printed; None is stdout.

    Returns:
        Where the page is.

    Raises:
        OutputError: `out` is not writable, is a file, or holds something already; `resume` where
            there is no tour, or another one.
    """
    console = console or Console()
    if not isinstance(setting, Setting):
        raise TypeError(
            f"setting must be jinit.tour.FULL, QUICK or a Setting, got {checks.shown(setting)}."
        )
    seed = checks.count("seed", seed, least=0, most=2**32 - 1)
    out = _usable(Path(out), overwrite=overwrite, resume=resume)
    console.print(f"jinit tour ({setting.name}) on [bold]{device_name()}[/bold]")
    made = keeping.made_with(setting, seed, jax.default_backend())
    names = names_of_chapters()
    kept = _kept(out, made, names, console) if resume else {}
    started = time.monotonic()
    ran = False
    for i, chapter, seconds in _run_chapters(setting, seed, console, set(kept)):
        ran = True
        if not kept:
            keeping.clear(out, names)
        kept[names[i]] = keeping.keep(out, names[i], chapter, seconds)
        keeping.publish(out, made, kept, names)
    if len(kept) == len(names) and not ran:  # the page may be older than the index
        keeping.publish(out, made, kept, names)
    console.print(Fitted(_table([kept[name] for name in names])))
    console.print(f"Finished in {time.monotonic() - started:.0f} s.", end=" ")
    console.print(f"Open [bold]{out / keeping.PAGE}[/bold]", soft_wrap=True)
    return out / keeping.PAGE


def names_of_chapters() -> list[str]:
    """The names of their files, without the ending."""
    return [f"{i}-{slug}" for i, (slug, *_) in enumerate(CHAPTERS, 1)]


def _usable(out: Path, *, overwrite: bool, resume: bool) -> Path:
    """The absolute `out`, after checking that it may be used."""
    if overwrite and resume:
        raise OutputError("a tour is taken anew, overwrite=True, or gone on with, resume=True.")
    try:
        out = out.expanduser().resolve()
        if out.exists() and not out.is_dir():
            raise OutputError(f"--out must be a folder, got the file {out}; choose another name.")
        held = keeping.index_of(out)
        begun = held is not None or (out / keeping.PAGE).exists()
        taken = begun or (out.is_dir() and keeping.others(out, names_of_chapters()))
        if taken and not (overwrite or resume):
            more = "" if held is None else "--resume to go on with the tour in it, or "
            raise OutputError(
                f"--out must be a new or empty folder, got {out}, which already holds files; "
                f"choose another, or add {more}--overwrite to replace an earlier tour in it."
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir() and not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied")
        Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent)).rmdir()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(
            f"--out must be a folder that can be written, got {out} ({reason}); "
            f"choose another, such as --out ~/jinit-tour."
        ) from None
    return out


def _kept(
    out: Path, made: dict[str, Any], names: list[str], console: Console
) -> dict[str, dict[str, Any]]:
    """The chapters to go on after."""
    index = keeping.index_of(out)
    if index is None:
        if out.is_dir() and keeping.others(out, names):
            raise OutputError(
                f"--resume goes on with a tour, got {out}, which holds files and no chapter of one "
                f"({keeping.INDEX}); choose another folder, or leave --resume out."
            )
        return {}
    if differs := keeping.difference(index["made"], made):
        raise OutputError(
            f"--resume must go on as the tour was begun, got {out}, which has {differs}; give the "
            f"same options, or --overwrite instead for a new tour."
        )
    kept = {}
    for i, name in enumerate(names):
        if name in index["chapters"]:
            if keeping.is_whole(out, index["chapters"][name]):
                kept[name] = index["chapters"][name]
            words = "kept" if name in kept else "its files were changed: measured again"
            console.print(f"{i + 1}/{len(names)} {CHAPTERS[i][1]}: {words}", soft_wrap=True)
    return kept


def _run_chapters(
    setting: Setting, seed: int, console: Console, kept: set[str]
) -> Iterator[tuple[int, Chapter, float]]:
    """(place, chapter, seconds) of those that are not there yet, as they finish."""
    key = jax.random.key(seed)
    shares = {name: share for name, (*_, share) in zip(names_of_chapters(), CHAPTERS, strict=True)}
    total = sum(share for name, share in shares.items() if name not in kept)
    with Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=total)
        started, done = time.monotonic(), 0.0
        for i, (slug, title, chapter, share) in enumerate(CHAPTERS):
            if f"{i + 1}-{slug}" in kept:
                continue
            progress.update(task, description=f"{i + 1}. {title}")

            def advance(fraction: float, share: float = share) -> None:
                progress.advance(task, fraction * share)

            begun = time.monotonic()
            found = chapter(jax.random.fold_in(key, i), setting, advance)
            yield i, found, time.monotonic() - begun
            done += share
            if not console.is_terminal:
                spent = time.monotonic() - started
                left = spent * (total - done) / done
                console.print(
                    f"{i + 1}/{len(CHAPTERS)} {title}: {spent:.0f} s gone, about {left:.0f} s left"
                )


def _table(chapters: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "chapter", "what", Column("value", justify="right", no_wrap=True),
        title="Measured in this run",
    )  # fmt: skip
    for i, chapter in enumerate(chapters, 1):
        for j, (name, value) in enumerate(chapter["numbers"]):
            table.add_row(f"{i}. {chapter['title']}" if j == 0 else "", name, value)
        table.add_section()
    return table
