"""Runs a benchmark's units, those that are not done yet: here, in processes of their own, or on a Ray cluster.

Whoever runs them, the process that called `run` alone writes the store, a unit at a time. A unit always runs whole, so
that on one kind of device, with one set of versions, its results are equal byte for byte whatever the engine.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from ..allocator import keep_freed
from ..errors import InvdiffError, RequestError
from .definition import Benchmark
from .plan import Unit, units
from .scores import METRICS, inception_file
from .store import PICTURES, Row, Store

TRIES = 3
"""So often a unit is begun whose worker dies; then its pictures have failed."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A unit that is settled now. fresh: it was run now, and not found in the store."""

    unit: Unit
    done: int
    """Units so far, with those that were found."""
    fresh: bool
    rows: tuple[Row, ...] = ()
    """Of a fresh one."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    units: int
    fresh: int
    """Of the units, those that ran now."""
    rows: int
    """In the store, of these units or not."""
    failed: int
    """Of the rows."""
    lost: int
    """Workers that died."""
    seconds: float


Report = Callable[[Step | str], None]
"""Told of every unit, and in words of what else there is to know."""

Answer = tuple[Unit, list[Row]]


def run(
    benchmark: Benchmark,
    folder: str | Path,
    *,
    workers: int = 1,
    engine: Literal["local", "ray"] = "local",
    only: Collection[str] = (),
    limit: int | None = None,
    retry: bool = False,
    report: Report = lambda step: None,
) -> Outcome:
    """Run what is missing of a benchmark in its folder (`store`), and nothing else.

    workers: processes, or Ray's actors; one of them local is this process itself. only, limit: as `plan.units` has
    them. retry: units with a failed picture are run again. Killed at any moment it can be started again; Ctrl-C and
    SIGTERM drop what is under way, and raise KeyboardInterrupt. RequestError for what cannot be, as another
    configuration in this folder, or a prior that cannot be loaded.
    """
    if workers < 1:
        raise RequestError(f"workers: expected at least 1, got {workers}")
    began, folder = time.monotonic(), Path(folder)
    together = [name for name in benchmark.metrics if METRICS[name].scope == "run"]
    if together:
        inception_file()
    with Store.open(folder, benchmark.record()) as store, _interruptible():
        _sweep(folder)
        store.begin(
            {"versions": versions(), "device": benchmark.device, "engine": engine, "workers": workers}
        )
        done = fresh = 0

        def pending() -> Iterator[Unit]:
            nonlocal done
            for unit in units(benchmark, only=only, limit=limit):
                if store.done(unit.id) and not (retry and store.failed(unit.id)):
                    done += 1
                    report(Step(unit=unit, done=done, fresh=False))
                else:
                    yield unit

        losses: list[str] = []

        def lose(reason: str) -> None:
            losses.append(reason)
            report(f"a worker died ({reason}); its unit is run again")

        with closing(_answers(benchmark, folder, pending(), workers, engine, lose)) as answers:
            for unit, rows in answers:
                store.write(unit.id, rows)
                done, fresh = done + 1, fresh + 1
                report(Step(unit=unit, done=done, fresh=True, rows=tuple(rows)))
        if together and store.whole() is None:
            from .whole import scored

            report(f"{', '.join(together)}: of all pictures together")
            store.set_whole(scored(store, together))
        return Outcome(
            units=done, fresh=fresh, rows=store.count(), failed=store.count("failed"), lost=len(losses),
            seconds=time.monotonic() - began,
        )  # fmt: skip


def _answers(
    benchmark: Benchmark,
    folder: Path,
    pending: Iterator[Unit],
    workers: int,
    engine: str,
    lose: Callable[[str], None],
) -> Any:
    if engine == "ray":
        from .ray_engine import answers

        return answers(benchmark, folder, pending, workers, lose)
    if engine != "local":
        raise RequestError(f"engine: expected local or ray, got {engine}")
    if workers == 1:
        return _here(benchmark, folder, pending)
    return _Pool(benchmark, folder, workers, lose).answers(pending)


def _here(benchmark: Benchmark, folder: Path, pending: Iterator[Unit]) -> Iterator[Answer]:
    worker = None
    for unit in pending:
        if worker is None:  # nothing heavy is imported where all is done
            from .work import Worker

            worker = Worker(benchmark, folder)
        yield unit, worker.run(unit)


def failed_rows(unit: Unit, reason: str) -> list[Row]:
    """A failed row for each of its pictures."""
    return [Row.of(unit, picture, status="failed", reason=reason) for picture in unit.pictures]


class Queue:
    """Units to hand out: those that a worker died of first, then the pending ones as they come."""

    def __init__(self, pending: Iterator[Unit]) -> None:
        self._pending = pending
        self._again: deque[Unit] = deque()
        self._tries: dict[str, int] = {}

    def take(self) -> Unit | None:
        """The next; None where there is none (now: one may come back)."""
        unit = self._again.popleft() if self._again else next(self._pending, None)
        if unit is not None:
            self._tries[unit.id] = self._tries.get(unit.id, 0) + 1
        return unit

    def settle(self, unit: Unit) -> None:
        """It is done with."""
        self._tries.pop(unit.id, None)

    def lost(self, unit: Unit, reason: str) -> list[Row] | None:
        """Its worker died: None where it is to be run again, its failed rows where that happened often enough."""
        if self._tries[unit.id] < TRIES:
            self._again.append(unit)
            return None
        self.settle(unit)
        return failed_rows(unit, f"the worker died {TRIES} times ({reason})")


# -------------------------------------------------------------------------------------------------- local processes


@dataclass(eq=False)
class _Process:
    """A worker's process, and this end of the pipe to it."""

    number: int
    process: Any
    pipe: Connection
    ready: bool = False
    unit: Unit | None = None


class _Pool:
    """Processes that are started afresh (nothing is shared with this one), one unit at a time in each."""

    def __init__(self, benchmark: Benchmark, folder: Path, workers: int, lose: Callable[[str], None]) -> None:
        self.benchmark, self.folder, self.lose = benchmark, folder, lose
        self.workers, self.context = workers, multiprocessing.get_context("spawn")
        self.unready = 0
        """Workers in a row that died before they could do anything."""

    def answers(self, pending: Iterator[Unit]) -> Iterator[Answer]:
        queue = Queue(pending)
        running: dict[int, _Process] = {}
        try:
            while True:
                for number in range(self.workers):
                    one = running.get(number)
                    if one is not None and one.unit is not None:
                        continue
                    unit = queue.take()
                    if unit is None:
                        break
                    if one is None:
                        one = running[number] = self._started(number)
                    one.unit = unit
                    if one.ready:
                        self._send(one)
                busy = [one for one in running.values() if one.unit is not None]
                if not busy:
                    return
                told = wait([end for one in busy for end in (one.pipe, one.process.sentinel)])
                for one in busy:
                    if one.pipe not in told and one.process.sentinel not in told:
                        continue
                    unit = one.unit
                    assert unit is not None
                    answer = self._heard(one)
                    if answer == "ready":
                        one.ready, self.unready = True, 0
                        self._send(one)
                    elif isinstance(answer, BaseException):
                        raise answer
                    elif isinstance(answer, list):
                        one.unit = None
                        queue.settle(unit)
                        yield unit, answer
                    else:
                        del running[one.number]
                        rows = queue.lost(unit, self._buried(one))
                        if rows is not None:
                            yield unit, rows
        finally:
            self._stop(running.values())

    def _started(self, number: int) -> _Process:
        here, there = self.context.Pipe()
        process = self.context.Process(
            target=_work,
            args=(there, self.benchmark, self.folder, number),
            name=f"worker {number}",
            daemon=True,
        )
        process.start()
        there.close()
        return _Process(number=number, process=process, pipe=here)

    def _send(self, one: _Process) -> None:
        with suppress(OSError):  # where it died its sentinel will say so
            one.pipe.send(one.unit)

    def _heard(self, one: _Process) -> Any:
        """What it said; None where it died, perhaps in the middle of a word."""
        try:
            return one.pipe.recv() if one.pipe.poll() else None
        except Exception:
            return None

    def _buried(self, one: _Process) -> str:
        """How it died. InvdiffError where none of the last could so much as begin."""
        one.process.kill()
        one.process.join()
        one.pipe.close()
        code = one.process.exitcode
        reason = f"exit code {code}"
        if code is not None and code < 0:
            hint = ", out of memory?" if code == -signal.SIGKILL else ""
            reason = f"signal {-code}, {signal.Signals(-code).name}{hint}"
        self.lose(reason)
        self.unready += not one.ready
        if self.unready >= TRIES:
            raise InvdiffError(f"{TRIES} workers in a row died before they could begin ({reason})")
        return reason

    def _stop(self, running: Collection[_Process]) -> None:
        for one in running:
            one.process.kill()  # what it was at is dropped, and a picture it was writing not there
        for one in running:
            one.process.join()
            one.pipe.close()


def _work(pipe: Connection, benchmark: Benchmark, folder: Path, number: int) -> None:
    """A worker's process: says that it is ready, then runs each unit it is sent, until its parent is gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all of a terminal's processes; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()
    keep_freed()
    try:
        from .work import Worker

        worker = Worker(benchmark, folder, device=_place(benchmark.device, number))
        pipe.send("ready")
        while True:
            pipe.send(worker.run(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        return
    except (InvdiffError, OSError) as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"in worker {number}:\n{traceback.format_exc()}"))


def _follow_parent() -> None:
    """Ends this process when its parent has ended, however."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _place(device: str, number: int) -> str:
    """Of several GPUs each worker has its own."""
    if device not in ("auto", "cuda"):
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if count > 1 else device


# --------------------------------------------------------------------------------------------------- around a run


def versions() -> dict[str, Any]:
    """Of what decides the bytes of a result, without importing any of it."""
    import platform
    from importlib import metadata

    found: dict[str, str] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("invdiff", "torch", "torchvision", "numpy", "pillow", "deepinv", "azula"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _sweep(folder: Path) -> None:
    """Remove what a killed run was in the middle of writing."""
    for here, _, names in os.walk(folder / PICTURES):
        for name in names:
            if name.endswith(".part") and name.startswith("."):
                Path(here, name).unlink(missing_ok=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM as though it were Ctrl-C."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread: nothing to catch there
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
