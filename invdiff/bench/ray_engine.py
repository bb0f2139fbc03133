"""Units on a Ray cluster: an actor for each worker, its prior loaded once, what it gives streamed to this process.

Actors need the same invdiff, and the benchmark's pictures and priors under the same paths, on every node; results come
back with their pictures, so that the run's folder need not be shared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..allocator import keep_freed
from ..errors import InvdiffError, RequestError
from ..images import atomic
from .definition import Benchmark
from .engines import TRIES, Answer, Queue
from .plan import Unit
from .store import Row, flush

Files = dict[str, bytes]


class Remote:
    """What an actor does: a worker whose pictures are sent, and kept nowhere."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark

    def ready(self) -> None:
        """Makes the worker: an error in `__init__` would look as though the actor had been lost."""
        from .work import Worker

        keep_freed()

        self._folder = tempfile.TemporaryDirectory(prefix="invdiff-bench-")
        device = self._benchmark.device.partition(":")[0]  # Ray shows an actor its own GPU alone, as cuda:0
        self._worker = Worker(self._benchmark, self._folder.name, device=device)

    def run(self, unit: Unit) -> tuple[list[Row], Files]:
        rows = self._worker.run(unit)
        names = {name for row in rows for name in row.files.values()}
        files = {}
        for name in names:
            path = Path(self._folder.name, name)
            files[name] = path.read_bytes()
            path.unlink()
        return rows, files


@dataclass(eq=False)
class _Actor:
    handle: Any
    unit: Unit | None = None
    """None: it is only just being made."""


def answers(
    benchmark: Benchmark, folder: Path, pending: Iterator[Unit], workers: int, lose: Callable[[str], None]
) -> Iterator[Answer]:
    """Every pending unit with its rows, their pictures written, as the actors are done with them.

    An actor that is lost, alone or with its node, is made anew where there is room, and its unit is run again. The
    cluster is the one this process is connected to, else RAY_ADDRESS's, else one of this machine alone. RequestError
    without Ray, or where a prior cannot be loaded.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False)
    gpu = benchmark.device.startswith(("cuda", "auto")) and ray.cluster_resources().get("GPU", 0) > 0
    needs = {"num_gpus": 1, "num_cpus": 0} if gpu else {"num_cpus": benchmark.threads}
    if not gpu and ray.cluster_resources().get("CPU", 0) < benchmark.threads:
        raise RequestError(f"threads: the Ray cluster has no {benchmark.threads} CPUs in all for one worker")
    kind = ray.remote(**needs)(Remote)
    known = ray.exceptions
    lost = (known.RayActorError, known.ObjectLostError, known.OutOfMemoryError, known.WorkerCrashedError)
    queue = Queue(pending)
    asked: dict[Any, _Actor] = {}
    """What was asked of actors and is not answered."""
    idle: list[_Actor] = []
    unready = 0

    def make() -> None:
        actor = _Actor(kind.remote(benchmark))
        asked[actor.handle.ready.remote()] = actor

    try:
        for _ in range(workers):
            make()
        while True:
            while idle and (unit := queue.take()) is not None:
                actor = idle.pop()
                actor.unit = unit
                asked[actor.handle.run.remote(unit)] = actor
            if not any(actor.unit for actor in asked.values()) and (idle or not asked):
                return
            (answer, *_), _ = ray.wait(list(asked), num_returns=1)
            actor = asked.pop(answer)
            unit, actor.unit = actor.unit, None
            try:
                said = ray.get(answer)
            except lost as error:
                reason = _reason(error)
                unready = unready + 1 if unit is None else 0
                if unready >= TRIES:
                    raise InvdiffError(
                        f"{TRIES} actors in a row were lost before they began ({reason})"
                    ) from None
                lose(reason)
                ray.kill(actor.handle)  # where it was its answer that was lost
                make()
                rows = queue.lost(unit, reason) if unit is not None else None
                if unit is not None and rows is not None:
                    yield unit, rows
                continue
            except known.RayTaskError as error:
                raise _cause(error) or RuntimeError(str(error)) from None
            idle.append(actor)
            if unit is not None and said is not None:
                rows, files = said
                _write(folder, files)
                queue.settle(unit)
                yield unit, rows
            else:
                unready = 0
    finally:
        for actor in [*idle, *asked.values()]:
            ray.kill(actor.handle)
        if ours:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise RequestError(
            "engine ray needs Ray: pip install 'invdiff[ray]'; or --engine local with --workers N"
        ) from None
    return ray


def _cause(error: Any) -> InvdiffError | OSError | None:
    """What was raised in the actor, where it says what to do about it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, InvdiffError | OSError) else None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as part:
            part.write_bytes(content)
        flush(path)
