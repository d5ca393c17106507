"""What a folder keeps of a tour: chapters, each whole, and what they were made with.

`tour.json` names the chapters that are finished, with their words, numbers and the fingerprints of
their files. It is written after the files and before the page, so that what it names is there.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

import jinit
from jinit.files import whole
from jinit.pages.report import Chapter, Section, page, png
from jinit.runtime import device_name, numerics
from jinit.tour.setting import Setting

INDEX, PAGE = "tour.json", "report.html"


def made_with(setting: Setting, seed: int, platform: str) -> dict[str, Any]:
    """All that the numbers of a tour depend on, as JSON holds it."""
    chosen = {
        "seed": seed, "setting": asdict(setting), "jinit": jinit.__version__,
        "jax": jax.__version__, "platform": platform, "numerics": numerics(),
    }  # fmt: skip
    return dict(json.loads(json.dumps(chosen)))


def others(out: Path, names: Sequence[str]) -> bool:
    """Whether a folder holds anything that is not of a tour."""
    own = {PAGE, INDEX, *(f"{name}.{kind}" for name in names for kind in ("png", "nc"))}
    return any(file.name not in own and ".partial" not in file.name for file in out.iterdir())


def index_of(out: Path) -> dict[str, Any] | None:
    """What `tour.json` says, None where there is none that can be read."""
    try:
        index = json.loads((out / INDEX).read_text(encoding="utf-8"))
        return index if index["made"]["setting"] and list(index["chapters"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def difference(made: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing in which an earlier tour differs, in words; "" if in none."""
    if made.get("setting") != now["setting"]:
        return (
            f"the {made['setting'].get('name')} setting instead of the {now['setting']['name']} one"
        )
    for name, value in now.items():
        if made.get(name) != value:
            return f"{name} {made.get(name)} instead of {value}"
    return ""


def is_whole(out: Path, kept: dict[str, Any]) -> bool:
    """Whether the files of a chapter are as they were written."""
    try:
        return all(_digest(out / name) == digest for name, digest in kept["files"].items())
    except OSError:
        return False


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def keep(out: Path, name: str, chapter: Chapter, seconds: float) -> dict[str, Any]:
    """Write the figure and the data of a chapter; what the index says of it."""
    out.mkdir(exist_ok=True)
    picture, data = out / f"{name}.png", out / f"{name}.nc"
    with whole(picture) as file:
        file.write_bytes(png(chapter.figure))
    with whole(data) as file:
        chapter.data.to_netcdf(file, engine="scipy")
    return {
        "slug": chapter.slug, "title": chapter.title, "words": list(chapter.words),
        "numbers": [list(each) for each in chapter.numbers], "seconds": seconds,
        "files": {file.name: _digest(file) for file in (picture, data)},
    }  # fmt: skip


def publish(
    out: Path, made: dict[str, Any], chapters: dict[str, dict[str, Any]], names: Sequence[str]
) -> None:
    """The index and the page of the chapters that are there, by name, of all `names`."""
    out.mkdir(exist_ok=True)
    there = [chapters[name] for name in names if name in chapters]
    with whole(out / INDEX) as file:
        index = {"made": made, "chapters": chapters}
        file.write_text(json.dumps(index, indent=1), encoding="utf-8")
    part = "" if len(there) == len(names) else f" {len(there)} of {len(names)} chapters so far,"
    subtitle = (
        f"A tour by jinit {jinit.__version__}: {made['setting']['name']} setting, seed "
        f"{made['seed']},{part} measured in {sum(c['seconds'] for c in there):.0f} s on "
        f"{device_name()} with jax {jax.__version__}."
    )
    sections = [
        Section(
            c["slug"], c["title"], c["words"], [(name, value) for name, value in c["numbers"]],
            next((out / file).read_bytes() for file in c["files"] if file.endswith(".png")),
        )
        for c in there
    ]  # fmt: skip
    with whole(out / PAGE) as file:
        file.write_text(page("Does the signal survive?", subtitle, sections), encoding="utf-8")


def clear(out: Path, names: Sequence[str]) -> None:
    """Remove an earlier tour, and nothing else."""
    for name in [PAGE, INDEX, *(f"{name}.{kind}" for name in names for kind in ("png", "nc"))]:
        (out / name).unlink(missing_ok=True)
