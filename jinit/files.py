"""Files that are whole or not there: written under another name, and renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED: set[Path] = set()
"""What this process is writing; whoever ends it at once removes them."""


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """The name to write under, in the same folder; at the end it becomes `file`.

    Raises:
        ValueError: `file` cannot be written.
    """
    staging = file.with_name(f".{file.stem}.{os.getpid()}.partial{file.suffix}")
    UNFINISHED.add(staging)
    try:
        yield staging
        staging.replace(file)
    except OSError as error:
        raise ValueError(f"'{file}' cannot be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):  # of a name that is impossible
            staging.unlink(missing_ok=True)
        UNFINISHED.discard(staging)
