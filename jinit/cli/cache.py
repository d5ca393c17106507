"""Compiled programs are kept for the next command, by jax's own cache on disk.

A folder for each kind of machine: on CPU what is compiled on one need not run on another, and home
folders are shared. On Linux only: on macOS jaxlib has crashed while it loaded what it had kept.
What jax is told about its cache by the environment holds; this module adds nothing to that.
"""

import hashlib
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER, _SWITCH = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
_SETTINGS = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
# For some processors XLA calls its own programs those of another machine, line after line, and
# compiles them again (jax#38445).
_ON_CPU = {"TF_CPP_MIN_LOG_LEVEL": "3"}
_CARDS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
_MOST = 2**30  # bytes of a folder


@contextmanager
def kept() -> Iterator[None]:
    """Within it programs are taken from the cache and added to it; it ends with a line on that."""
    folder = begin()
    if folder is None:
        yield
        return
    import jax

    hits = 0

    def count(event: str, **_: object) -> None:
        nonlocal hits
        hits += event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_listener(count)
    yield
    if hits:
        _say(
            f"{hits} compiled program{'s' if hits > 1 else ''} came from {folder} "
            f"({_SWITCH}=0 compiles anew)."
        )


def begin() -> Path | None:
    """Tell jax, before it is imported, where programs are kept; None where they are not."""
    off = os.environ.get(_SWITCH, "1").lower() in ("0", "f", "false", "n", "no", "off")
    if off or _FOLDER in os.environ or "jax" in sys.modules or sys.platform != "linux":
        return None
    folder = place()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        shrink(folder)
    except OSError as error:
        _say(
            f"compiled programs are not kept, since {folder} cannot be written "
            f"({error.strerror}); give another folder by {_FOLDER}, or {_SWITCH}=0."
        )
        return None
    os.environ[_FOLDER] = str(folder)
    quiet = {} if any(map(os.path.exists, _CARDS)) else _ON_CPU
    for name, value in (_SETTINGS | quiet).items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    return folder


def place() -> Path:
    """The user's folder for this kind of machine."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            first = file.read().split("\n\n")[0].splitlines()
    except OSError:
        first = []
    facts = [line for line in first if line.startswith(("model name", "flags", "Features", "CPU"))]
    kind = hashlib.sha256("\n".join([platform.machine(), *facts]).encode()).hexdigest()[:12]
    return Path(home) / "jinit" / "compiled" / kind


def shrink(folder: Path, most: int = _MOST) -> None:
    """Remove the oldest programs of a folder that holds more bytes than that, and empty ones.

    Other commands may remove some at the same time.
    """
    files = []
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if file.is_file():
                files.append((file.stat(), file))
    for stat, file in files:
        if not stat.st_size:  # what a full disk or a kill has left, which jax would never replace
            file.unlink(missing_ok=True)
    size = sum(stat.st_size for stat, _ in files)
    for stat, file in sorted(files, key=lambda each: each[0].st_mtime):
        if size <= most:
            return
        file.unlink(missing_ok=True)
        size -= stat.st_size


def _say(text: str) -> None:
    print(f"jinit: {text}", file=sys.stderr)
