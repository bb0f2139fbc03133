"""What a training run shows: a bar on a terminal, plain lines elsewhere, all on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30.0
"""Seconds between plain lines."""


class Reporter:
    """Lines and a progress bar on standard error; quiet: nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, quiet=quiet)

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, steps: int, start: int, batch: int) -> Iterator[Callable[[int, float], None]]:
        """Yields advance(step, loss), to be told of every step done after `start`."""
        began = spoken = time.monotonic()
        average = 0.0

        def describe(step: int, loss: float) -> str:
            nonlocal average
            average = loss if step == start + 1 else average + (loss - average) * 0.02
            rate = (step - start) * batch / max(time.monotonic() - began, 1e-9)
            return f"loss {average:.4f}  {rate:.1f} images/s"

        def plain(step: int, loss: float) -> None:
            nonlocal spoken
            text = describe(step, loss)
            if time.monotonic() - spoken > EVERY or step == steps:
                spoken = time.monotonic()
                self.line(f"step {step}/{steps}  {text}")

        if not self.console.is_terminal:
            yield plain
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task("", total=steps, completed=start)
            yield lambda step, loss: bar.update(task, completed=step, description=describe(step, loss))
