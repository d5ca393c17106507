"""How far a sweep is: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

_EVERY = 10.0  # seconds between plain lines


class Reporter:
    """Networks done, networks per second, time left and how many were there already."""

    def __init__(self, total: int, resumed: int, *, show: bool) -> None:
        """`resumed` of `total` networks were in the store."""
        self.total, self.resumed, self.done, self.show = total, resumed, resumed, show
        self._bar: Any = None
        self._task: Any = None
        self._start = self._last = time.monotonic()

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
            self._task = self._bar.add_task(self._words(0.0), total=self.total, completed=self.done)
        elif self.show and self.resumed:
            self._line(f"{self.resumed:,} of {self.total:,} networks are in the store already")
        return self

    def advance(self, networks: int) -> None:
        """So many more are done."""
        self.done += networks
        now = time.monotonic()
        rate = (self.done - self.resumed) / max(now - self._start, 1e-9)
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
