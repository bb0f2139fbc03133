"""How a long run shows where it stands: a bar with the time left on a terminal, plain lines elsewhere.

All of it goes to standard error; standard output belongs to results.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

EVERY = 10.0
"""Seconds between plain lines."""


class Reporter:
    """Shows work done out of `total`, in any unit, and messages between. quiet: warnings and errors alone."""

    def __init__(self, total: float, *, quiet: bool = False) -> None:
        self.total = max(total, 1e-9)
        self.quiet = quiet
        self.done = 0.0
        self._label = ""
        self._base = 0.0
        self._began = self._spoke = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=self.total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def expect(self, total: float) -> None:
        """How much there is to do, once it is known."""
        self.total = max(total, 1e-9)
        self._began = self._spoke = time.monotonic()
        if self._bar and self._task is not None:
            self._bar.reset(self._task, total=self.total)

    def start(self, label: str) -> None:
        """Name the piece of work that begins."""
        self._label, self._base = label, self.done
        self._show()

    def at(self, amount: float) -> None:
        """So much of the current piece is done."""
        self.done = self._base + amount
        self._show()

    def say(self, text: str, *, always: bool = False) -> None:
        """A line for the user. always: even if quiet (a warning, an error)."""
        if self.quiet and not always:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _show(self) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self.done, description=self._label)
        elif time.monotonic() - self._spoke >= EVERY and self.done > 0:
            self._spoke = time.monotonic()
            left = (self._spoke - self._began) * (self.total - self.done) / self.done
            self.say(f"{self._label}: {self.done / self.total:.0%} of all, {duration(left)} left")


def duration(seconds: float) -> str:
    """8 s, 1:05 min, 2:03 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
