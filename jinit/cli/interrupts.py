"""Ctrl-C, and being asked to end: one line that says what is kept and how to go on.

The process ends by itself and not by an exception: a callback of jax, a finaliser or somebody's
`except` may swallow that, or turn it into an error of its own. So whatever is written must be whole
or absent at any instant (jinit.files, stores). Nothing heavy is imported here: the guard is set
before all else.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NamedTuple

from jinit import files

_ENDING = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 1.0  # seconds that compiled code may go on before the watcher ends it


class Kept(NamedTuple):
    """What an interrupt leaves, and the options of the command that goes on."""

    words: str = "nothing of this run is kept"
    again: str = "begin again"
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


_STATE: list[Callable[[], Kept]] = []
_ended = threading.Lock()


@contextmanager
def keeping(kept: Callable[[], Kept]) -> Iterator[None]:
    """What an interrupt says from here on."""
    _STATE.append(kept)
    try:
        yield
    finally:
        _STATE.pop()


def line() -> str:
    """What is kept, and the command that goes on."""
    try:
        kept = _STATE[-1]() if _STATE else Kept()
    except Exception:  # files that change while they are read
        kept = Kept("finished work is kept", "go on")
    program, *options = sys.argv
    name = ["python", "-m", "jinit"] if program.endswith("__main__.py") else ["jinit"]
    left = [option for option in options if option not in kept.dropped]
    left += [option for option in kept.added if option not in left]
    return f"jinit: interrupted; {kept.words}. To {kept.again}: {shlex.join([*name, *left])}"


def guard() -> None:
    """From now on Ctrl-C ends this process with `line` and status 130, SIGTERM with 143."""
    if signal.getsignal(signal.SIGTERM) is _end:
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background
            signal.signal(number, _end)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), daemon=True).start()
    if hasattr(os, "register_at_fork"):  # workers of a model's own end as ever
        os.register_at_fork(after_in_child=_let_go)


def release() -> None:
    """The command has said its last word: an interrupt can take nothing back."""
    if signal.getsignal(signal.SIGTERM) is _end:
        _let_go()
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _let_go() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
        if signal.getsignal(signal.SIGINT) is _end:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(read: int) -> None:
    """End the process where Python's own handler is not reached, inside compiled code."""
    while numbers := os.read(read, 1):
        if numbers[0] in _ENDING:
            time.sleep(_PATIENCE)
            _end(numbers[0])  # returns if the handler is at it
            time.sleep(_PATIENCE)
            os._exit(128 + numbers[0])


def _end(number: int, frame: FrameType | None = None) -> None:
    if not _ended.acquire(blocking=False):
        return
    for file in list(files.UNFINISHED):
        with suppress(OSError):
            file.unlink(missing_ok=True)
    text = f"{line()}\n"
    if os.isatty(2):
        text = f"\r\x1b[K\x1b[?25h{text}"  # over a bar's line, with the cursor that it hid
    if "--debug" in sys.argv and frame is not None:
        import traceback

        text = "".join(traceback.format_stack(frame)) + text
    try:
        os.write(2, text.encode())
    finally:
        os._exit(128 + number)
