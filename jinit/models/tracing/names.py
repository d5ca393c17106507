"""How results on models are shown: short names, tables in text."""

import re
from collections.abc import Sequence

_PART = re.compile(r"\['([^']*)'\]|\.([A-Za-z_]\w*)|\[(\d+)\]|\[<flat index (\d+)>\]")
_ARRAYS = {"kernel", "weight", "w", "embedding", "embeddings", "bias", "b"}


def short_name(path: str) -> str:
    """A parameter's layer in short.

    >>> short_name("['params']['blocks_3']['Dense_0']['kernel']"), short_name(".layers[2].weight")
    ('blocks_3/Dense_0', 'layers[2]')
    """
    parts = []
    for key, attribute, number, flat in _PART.findall(path):
        if attribute not in ("value", "raw_value"):  # of an NNX variable
            parts.append(f"[{number or flat}]" if number or flat else key or attribute)
    kept = parts[1:] if parts[:1] == ["params"] else parts
    if len(kept) > 1 and kept[-1] in _ARRAYS:
        kept = kept[:-1]
    return "/".join(kept).replace("/[", "[") or path or "(the only array)"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        return "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, rows)])
