"""What the benchmark harness costs, and what more workers bring.

    python experiments/speed/harness.py [--size 256] [--method mmps] [--pictures 3] [--engine local|ray] [--units 12]

Overhead: a picture's whole unit (its file read, measured, restored, scored, its pictures and its row written) beside
the restoration in it, and, in processor time, beside `invdiff.restore` of the same measurement alone; without LPIPS,
and with it where its weights are there. Throughput: restorations of half that size a second by two workers beside one,
of one thread each, from when every worker has begun. Both are ratios taken in one run; pictures are scikit-image's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data

import invdiff
from invdiff.bench.definition import Benchmark, load
from invdiff.bench.engines import Step, run
from invdiff.bench.plan import units
from invdiff.bench.scores import load_lpips
from invdiff.bench.store import Store
from invdiff.bench.work import Worker, settled
from invdiff.errors import RequestError

PHOTOGRAPHS = ("astronaut", "coffee", "cat", "rocket")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--method", default="mmps")
    parser.add_argument("--pictures", type=int, default=3, help="for the overhead; at most 4")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--units", type=int, default=12, help="for the throughput; 0: leave it out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        for photograph in PHOTOGRAPHS:
            Image.fromarray(getattr(data, photograph)()).save(folder / "pictures" / f"{photograph}.png")
        metrics = ["psnr", "ssim", "consistency"]
        print(overhead(definition(folder, given.method, given.size, metrics), folder, given.pictures))
        try:
            load_lpips(["lpips_squeeze"])
        except RequestError:
            print("LPIPS: its weights are not here")
        else:
            metrics.append("lpips_squeeze")
            print(overhead(definition(folder, given.method, given.size, metrics), folder, given.pictures))
        if given.units:
            seeds = list(range(-(-given.units // len(PHOTOGRAPHS))))
            few = definition(folder, given.method, given.size // 2, ["psnr"], seeds=seeds)
            one, two = (rate(few, folder / str(n), given.engine, n) for n in (1, 2))
            each = f"{one:.3f} restorations a second by 1 worker, {two:.3f} by 2"
            print(f"throughput, {given.engine}: {each}: {two / one:.2f}×")
    return 0


def definition(folder: Path, method: str, size: int, metrics: list[str], **more: Any) -> Benchmark:
    path = folder / "harness.yaml"
    found = {
        "name": "harness",
        "datasets": [{"name": "photographs", "path": "pictures", "resize": size}],
        "tasks": [
            {"name": "inpaint80", "operator": {"mask": {"pattern": "random", "missing": 0.8}}, "noise": 0.01}
        ],
        "methods": [{"method": method}],
        "metrics": metrics,
        **more,
    }
    path.write_text(json.dumps(found))  # JSON is YAML
    return load(path)


def overhead(benchmark: Benchmark, folder: Path, pictures: int) -> str:
    """In per cent of the bare restoration."""
    run_folder = folder / "-".join(benchmark.metrics)
    worker = Worker(benchmark, run_folder)
    around, beside = [], []
    with Store.open(run_folder, benchmark.record()) as store:
        store.begin({})
        there = list(units(benchmark, limit=pictures))
        worker.run(there[0])  # what is slow the first time
        for unit in there:
            case, prior = worker.case(unit, unit.pictures[0]), worker.prior(unit.prior)
            began = time.process_time()
            with settled(benchmark.threads, worker.device):
                method = str(benchmark.methods[0].method)
                invdiff.restore(case.y, case.operator, prior, method=method, **case.given)
            bare = time.process_time() - began
            began, wall = time.process_time(), time.perf_counter()
            (row,) = worker.run(unit)
            store.write(unit.id, [row])
            assert row.status == "done", row.reason
            around.append((time.perf_counter() - wall) / row.seconds - 1)
            beside.append((time.process_time() - began) / bare - 1)
    what = f"{benchmark.datasets[0].resize}², {benchmark.methods[0].method}, {', '.join(benchmark.metrics)}"
    return (
        f"overhead at {what}: {percent(around)} of the restoration's seconds in the same unit, of one by itself "
        f"{percent(beside)} of its processor time"
    )


def percent(ratios: list[float]) -> str:
    return f"{100 * statistics.median(ratios):.1f} % ({100 * min(ratios):.1f} to {100 * max(ratios):.1f})"


def rate(benchmark: Benchmark, folder: Path, engine: Any, workers: int) -> float:
    """Restorations a second, from the first result of the last worker to have one on."""
    told: list[float] = []

    def report(step: Step | str) -> None:
        if isinstance(step, Step):
            told.append(time.perf_counter())

    run(benchmark, folder, workers=workers, engine=engine, report=report)
    begun = workers if workers > 1 else 1
    return (len(told) - begun) / (told[-1] - told[begun - 1])


if __name__ == "__main__":
    raise SystemExit(main())
