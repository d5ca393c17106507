"""How far a sweep is: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

_EVERY = 10.0  # seconds between plain lines


class Reporter:
    """What is done now: programs compiled; networks, their pace and the time left."""

    def __init__(self, *, show: bool) -> None:
        """Say nothing yet."""
        self.show = show
        self.total = self.resumed = self.done = 0
        self._bar: Any = None
        self._task: Any = None
        self._start = self._last = time.monotonic()
        self._paced = (0, self._start)  # networks that were done, and when, as the pace began

    def __enter__(self) -> "Reporter":
        """Show the start."""
        if self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(),
                TextColumn("left"), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def compiling(self, programs: int, at_once: int) -> None:
        """What a sweep begins with."""
        words = f"compiling {programs} program{'s' if programs > 1 else ''}"
        if min(programs, at_once) > 1:
            words += f", {min(programs, at_once)} at a time"
        if self._bar is not None:
            self._bar.update(self._task, description=words)
        elif self.show and programs > 1:
            self._line(words)

    def begin(self, total: int, resumed: int) -> None:
        """`resumed` of `total` networks were in the store."""
        self.total, self.resumed, self.done = total, resumed, resumed
        if self._bar is not None:
            self._bar.update(
                self._task, total=total, completed=resumed, description=self._words(0.0)
            )
        elif self.show and resumed:
            self._line(f"{resumed:,} of {total:,} networks are in the store already")

    def advance(self, networks: int) -> None:
        """So many more are done.

        The pace is that of the blocks after the first, which waits for its program.
        """
        self.done += networks
        now = time.monotonic()
        since, begun = self._paced
        if not since:
            self._paced = (self.done, now)
            since, begun = self.resumed, self._start
        rate = (self.done - since) / max(now - begun, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=self._words(rate))
        elif self.show and (now - self._last > _EVERY or self.done == self.total):
            self._last = now
            left = (self.total - self.done) / rate
            ending = f"about {left:.0f} s left" if left else f"{now - self._start:.0f} s in all"
            self._line(f"{self._words(rate)}, {ending}")

    def __exit__(self, *error: object) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def _words(self, rate: float) -> str:
        already = f" ({self.resumed:,} resumed)" if self.resumed else ""
        return f"{self.done:,} of {self.total:,} networks{already}, {rate:,.0f} per second"

    def _line(self, text: str) -> None:
        print(f"jinit.sweep: {text}", file=sys.stderr, flush=True)
