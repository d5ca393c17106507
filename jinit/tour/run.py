"""Run the chapters with progress, and write the page, the figures and the data, or nothing."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

import jinit
from jinit.pages.report import Chapter, page, png
from jinit.runtime import device_name
from jinit.tour import batchnorm, gradients, he, scale, symmetry, xavier
from jinit.tour.setting import FULL, Setting

# Share of the whole time, measured on two cores.
CHAPTERS: tuple[tuple[str, Callable[..., Chapter], float], ...] = (
    ("Symmetry", symmetry.chapter, 0.12),
    ("Random", scale.chapter, 0.11),
    ("Xavier", xavier.chapter, 0.10),
    ("He", he.chapter, 0.22),
    ("Batch norm", batchnorm.chapter, 0.18),
    ("The map", gradients.chapter, 0.27),
)


class OutputError(ValueError):
    """The output folder cannot be used; the message says why and what to do."""


def take_tour(
    out: str | os.PathLike[str] = "jinit-tour",
    setting: Setting = FULL,
    *,
    seed: int = 0,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Run all chapters and write `out/report.html` with figures and data beside it.

    Everything is first written to a temporary folder beside `out` and moved at the end, so that
    `out` holds a whole tour or is left as it was.

    Args:
        out: the folder, new or empty.
        setting: `jinit.tour.FULL` or `jinit.tour.QUICK`.
        seed: of every random draw.
        overwrite: replace files of the same names, and keep others.
        console: where progress and numbers are printed; None is stdout.

    Returns:
        Where the page is.

    Raises:
        OutputError: `out` is not writable, is a file, or holds something already.
    """
    console = console or Console()
    out, staging = _stage(Path(out), overwrite)
    try:
        console.print(f"jinit tour ({setting.name}) on [bold]{device_name()}[/bold]")
        started = time.monotonic()
        chapters = _run_chapters(setting, seed, console)
        seconds = time.monotonic() - started
        pictures = [(chapter, png(chapter.figure)) for chapter in chapters]
        for i, (chapter, picture) in enumerate(pictures, 1):
            (staging / f"{i}-{chapter.slug}.png").write_bytes(picture)
            chapter.data.to_netcdf(staging / f"{i}-{chapter.slug}.nc", engine="scipy")
        subtitle = (
            f"A tour by jinit {jinit.__version__}: {setting.name} setting, seed {seed}, measured "
            f"in {seconds:.0f} s on {device_name()} with jax {jax.__version__}."
        )
        report = page("Does the signal survive?", subtitle, pictures)
        (staging / "report.html").write_text(report, encoding="utf-8")
        _publish(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    console.print(_table(chapters))
    console.print(f"Finished in {seconds:.0f} s. Open [bold]{out / 'report.html'}[/bold]")
    return out / "report.html"


def _stage(out: Path, overwrite: bool) -> tuple[Path, Path]:
    """The absolute `out` and a temporary folder beside it, after checking that it may be used."""
    try:
        out = out.expanduser().resolve()
        if out.exists() and not out.is_dir():
            raise OutputError(f"--out must be a folder, got the file {out}; choose another name.")
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise OutputError(
                f"--out must be a new or empty folder, got {out}, which already holds files; "
                f"choose another, or add --overwrite to replace an earlier tour in it."
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir() and not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied")
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        staging.chmod(0o755)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(
            f"--out must be a folder that can be written, got {out} ({reason}); "
            f"choose another, such as --out ~/jinit-tour."
        ) from None
    return out, staging


def _publish(staging: Path, out: Path) -> None:
    """Move every file to `out`, the page last."""
    out.mkdir(exist_ok=True)
    for file in sorted(staging.iterdir(), key=lambda f: f.name == "report.html"):
        os.replace(file, out / file.name)


def _run_chapters(setting: Setting, seed: int, console: Console) -> list[Chapter]:
    chapters: list[Chapter] = []
    key = jax.random.key(seed)
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
        task = progress.add_task("", total=1.0)
        started, done = time.monotonic(), 0.0
        for i, (title, chapter, share) in enumerate(CHAPTERS):
            progress.update(task, description=f"{i + 1}. {title}")

            def advance(fraction: float, share: float = share) -> None:
                progress.advance(task, fraction * share)

            chapters.append(chapter(jax.random.fold_in(key, i), setting, advance))
            done += share
            if not console.is_terminal:
                spent = time.monotonic() - started
                left = spent * (1 - done) / done
                console.print(
                    f"{i + 1}/{len(CHAPTERS)} {title}: {spent:.0f} s gone, about {left:.0f} s left"
                )
    return chapters


def _table(chapters: list[Chapter]) -> Table:
    table = Table("chapter", "what", Column("value", justify="right"), title="Measured in this run")
    for i, chapter in enumerate(chapters, 1):
        for j, (name, value) in enumerate(chapter.numbers):
            table.add_row(f"{i}. {chapter.title}" if j == 0 else "", name, value)
        table.add_section()
    return table
