"""Whoever runs the units, and however often they are killed, the store is the same."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from invdiff.bench import engines
from invdiff.bench.definition import Benchmark, load
from invdiff.bench.engines import Outcome, Queue, Step, run
from invdiff.bench.plan import Unit, units
from invdiff.bench.store import PICTURES, Row, Store
from invdiff.errors import InvdiffError, RequestError


@pytest.fixture
def benchmark_of(write: Callable[..., Path]) -> Callable[..., Benchmark]:
    return lambda **changes: load(write(**changes))


def contents(folder: Path, benchmark: Benchmark) -> tuple[str, dict[str, bytes]]:
    """All that must be equal: the store's fingerprint and every picture that a row names."""
    with Store.open(folder, benchmark.record(), create=False) as store:
        names = {name for row in store.rows() for name in row.files.values()}
        return store.fingerprint(), {name: (folder / name).read_bytes() for name in names}


class Fake:
    """In place of a worker: `calls` units so far, each a row a picture, or whatever `each` does."""

    def __init__(self, each: Callable[[Unit], None] = lambda unit: None) -> None:
        self.units: list[Unit] = []
        self.each = each

    def __call__(self, *given: Any, **more: Any) -> Fake:
        return self

    def run(self, unit: Unit) -> list[Row]:
        self.units.append(unit)
        self.each(unit)
        return [Row.of(unit, picture, metrics={"psnr": 20.0}) for picture in unit.pictures]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    def make(each: Callable[[Unit], None] = lambda unit: None) -> Fake:
        made = Fake(each)
        monkeypatch.setattr("invdiff.bench.work.Worker", made)
        return made

    return make


# ------------------------------------------------------------------------------------------------------------ here


def test_a_run_does_every_unit_once_and_again_only_what_is_missing(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, fake: Callable[..., Fake]
) -> None:
    benchmark, worker, steps = benchmark_of(batch=2), fake(), []
    outcome = run(benchmark, tmp_path / "run", only=["task=sr"], report=steps.append)
    assert (outcome.units, outcome.fresh, outcome.rows, outcome.failed, outcome.lost) == (6, 6, 10, 0, 0)
    assert [step.done for step in steps] == [1, 2, 3, 4, 5, 6]
    assert sum(len(step.rows) for step in steps) == 10
    outcome = run(benchmark, tmp_path / "run")
    assert (outcome.units, outcome.fresh, outcome.rows) == (12, 6, 20)
    assert len({unit.id for unit in worker.units}) == len(worker.units) == 12
    assert run(benchmark, tmp_path / "run").fresh == 0
    with Store.read(tmp_path / "run") as store:
        assert [one["units"] for one in store.sessions()] == [6, 6, 0]
        assert {"torch", "invdiff", "python"} <= set(store.sessions()[0]["versions"])


def test_failed_rows_are_kept_and_run_again_with_retry_alone(
    benchmark_of: Callable[..., Benchmark],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake: Callable[..., Fake],
) -> None:
    benchmark = benchmark_of()
    broken = fake()
    monkeypatch.setattr(broken, "run", lambda unit: engines.failed_rows(unit, "no room"))
    assert run(benchmark, tmp_path / "run", only=["method=dps"]).failed == 10
    worker = fake()
    assert run(benchmark, tmp_path / "run").failed == 10
    assert {unit.method for unit in worker.units} == {"ddnm"}
    outcome = run(benchmark, tmp_path / "run", retry=True)
    assert (outcome.failed, outcome.fresh, outcome.rows) == (0, 10, 20)
    assert [unit.method for unit in worker.units].count("ddnm") == 10


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm", "bug"])
def test_what_is_under_way_when_a_run_is_stopped_is_dropped_and_the_rest_kept(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, fake: Callable[..., Fake], how: str
) -> None:
    def stop(unit: Unit) -> None:
        if len(worker.units) == 4:
            if how == "bug":
                raise TypeError("a bug")
            os.kill(os.getpid(), signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)

    benchmark, before = benchmark_of(), signal.getsignal(signal.SIGTERM)
    worker = fake(stop)
    interrupt = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it
    try:
        with pytest.raises(TypeError if how == "bug" else KeyboardInterrupt):
            run(benchmark, tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert signal.getsignal(signal.SIGTERM) is before
    with Store.read(tmp_path / "run") as store:
        assert store.count() == 3
    assert run(benchmark, tmp_path / "run").fresh == 17


def test_what_a_killed_run_was_writing_is_swept_up(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, fake: Callable[..., Fake]
) -> None:
    fake()
    Store.open(tmp_path / "run", benchmark_of().record()).close()
    left = tmp_path / "run" / PICTURES / "ab" / ".x-restored.png.123.part"
    left.parent.mkdir(parents=True)
    left.touch()
    (left.parent / "other.png").touch()
    run(benchmark_of(), tmp_path / "run")
    assert [path.name for path in left.parent.iterdir()] == ["other.png"]


def test_what_cannot_be_is_said_before_anything_runs(
    benchmark_of: Callable[..., Benchmark],
    tmp_path: Path,
    fake: Callable[..., Fake],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, benchmark = fake(), benchmark_of()
    with pytest.raises(RequestError, match="workers: expected at least 1, got 0"):
        run(benchmark, tmp_path / "run", workers=0)
    with Store.open(tmp_path / "run", {}) as store:
        store.write("u1", [])
    with pytest.raises(RequestError, match="another configuration"):
        run(benchmark, tmp_path / "run")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"pip install 'invdiff\[ray\]'"):
        run(benchmark, tmp_path / "other", engine="ray")
    assert worker.units == []


def test_a_unit_is_begun_three_times_and_then_has_failed(benchmark_of: Callable[..., Benchmark]) -> None:
    first, second = list(units(benchmark_of(batch=5)))[:2]
    queue = Queue(iter([first, second]))
    for _ in range(engines.TRIES - 1):
        assert queue.take() is first
        assert queue.lost(first, "signal 9") is None
    assert queue.take() is first
    rows = queue.lost(first, "signal 9")
    assert rows is not None
    assert [row.picture for row in rows] == [picture.name for picture in first.pictures]
    assert {(row.status, row.reason) for row in rows} == {("failed", "the worker died 3 times (signal 9)")}
    assert queue.take() is second
    assert queue.take() is None


# --------------------------------------------------------------------------------------------------- the real thing


def test_processes_give_the_same_bytes_though_one_is_killed(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = benchmark_of(batch=2)
    alone = run(benchmark, tmp_path / "alone")
    killed: list[int] = []

    def kill(step: Step | str) -> None:
        if isinstance(step, Step) and not killed:
            import multiprocessing

            killed.extend(child.pid or 0 for child in multiprocessing.active_children()[:1])
            os.kill(killed[0], signal.SIGKILL)

    outcome = run(benchmark, tmp_path / "two", workers=2, report=kill)
    assert (outcome.rows, outcome.failed, outcome.lost) == (alone.rows, 0, 1)
    assert contents(tmp_path / "two", benchmark) == contents(tmp_path / "alone", benchmark)


def test_a_worker_that_cannot_load_its_prior_says_why(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, tiny_prior: Path
) -> None:
    content = tiny_prior.read_bytes()
    (tmp_path / "nan.safetensors").write_bytes(content[:-100] + b"\xff" * 100)
    metrics = {"metrics": ["psnr"], "priors": ["nan.safetensors"]}
    with pytest.raises(InvdiffError, match=r"nan\.safetensors"):
        run(benchmark_of(**metrics), tmp_path / "run", workers=2, only=["task=sr", "method=ddnm"], limit=1)


# ------------------------------------------------------------------------------------------------------------ kills


def script(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "quality_kills", repository / "experiments" / "quality" / "kills.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_is_not(
    repository: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    module = script(repository)
    found = module.kill(write(), tmp_path / "runs", kills=4)
    assert found.wrong == []
    assert (found.kills, found.units) == (4, 20)
    assert found.ends >= 1
    row = next(iter(module.rows_in(tmp_path / "runs" / "undisturbed").values()))
    (tmp_path / "runs" / "undisturbed" / row.files["restored"]).write_bytes(b"other")
    folder, other = tmp_path / "runs" / "killed-0", tmp_path / "runs" / "undisturbed"
    there = module.rows_in(folder)
    assert module.differences(folder, there, other, there) == [
        f"{row.files['restored']}: missing, or other bytes"
    ]
    changed = {key: dataclasses.replace(one, evaluations=1.5) for key, one in there.items()}
    assert sum("another row" in said for said in module.differences(folder, there, folder, changed)) == 20


# -------------------------------------------------------------------------------------------------------------- Ray


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, on this machine, and this process connected to them."""
    ray = pytest.importorskip("ray", reason="needs Ray")
    utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray")
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_bytes_though_a_node_is_killed(
    cluster: Any, benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from invdiff.bench import ray_engine

    benchmark = benchmark_of(batch=2)
    alone = run(benchmark, tmp_path / "alone")
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    doomed, begun = second.node_id, tmp_path / "begun"

    class Staged(ray_engine.Remote):
        """On the second node a unit is begun and never done; on the first none is until then."""

        def run(self, unit: Unit) -> Any:
            if ray.get_runtime_context().get_node_id() == doomed:
                begun.touch()
                time.sleep(600)
            while not begun.exists():
                time.sleep(0.05)
            return super().run(unit)

    monkeypatch.setattr(ray_engine, "Remote", Staged)
    fresh: list[Step] = []

    def kill(step: Step | str) -> None:
        if isinstance(step, Step):
            fresh.append(step)
            if len(fresh) == 3:
                cluster.remove_node(second, allow_graceful=False)

    outcome: Outcome = run(benchmark, tmp_path / "ray", engine="ray", workers=2, report=kill)
    assert (outcome.rows, outcome.failed, outcome.fresh) == (alone.rows, 0, alone.units)
    assert outcome.lost >= 1
    assert contents(tmp_path / "ray", benchmark) == contents(tmp_path / "alone", benchmark)


def test_an_actor_takes_the_one_gpu_it_is_shown_whatever_its_number(
    benchmark_of: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    from invdiff.bench.ray_engine import Remote

    made: list[str] = []
    kept: list[bool] = []
    monkeypatch.setattr("invdiff.bench.work.Worker", lambda *given, device: made.append(device))
    monkeypatch.setattr(
        "invdiff.bench.ray_engine.keep_freed", lambda: kept.append(True)
    )  # not in this process
    remote = Remote(dataclasses.replace(benchmark_of(), device="cuda:1"))
    remote.ready()
    remote._folder.cleanup()
    assert (made, kept) == (["cuda"], [True])


def test_of_several_gpus_each_worker_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [engines._place("cuda", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [engines._place(device, 1) for device in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert engines._place("auto", 1) == "auto"
