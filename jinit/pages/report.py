"""One self-contained HTML page from chapters: figures, tables and plain words."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from jinit.templates import render


class Chapter(NamedTuple):
    """A figure, the data it shows, and what it says in plain words with measured numbers."""

    slug: str
    title: str
    figure: Figure
    data: xr.Dataset
    words: Sequence[str]
    numbers: Sequence[tuple[str, str]]


class Section(NamedTuple):
    """What a page shows of a chapter."""

    slug: str
    title: str
    words: Sequence[str]
    numbers: Sequence[tuple[str, str]]
    picture: bytes
    """a PNG file"""


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page: every picture is embedded, nothing is loaded from anywhere."""
    pictures = [(each, base64.b64encode(each.picture).decode()) for each in sections]
    return render("report.html.j2", title=title, subtitle=subtitle, chapters=pictures)
