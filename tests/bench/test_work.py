"""What a unit gives depends on nothing but itself."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import invdiff
from invdiff import images, operators
from invdiff.bench import work as module
from invdiff.bench.definition import Benchmark, Dataset, load
from invdiff.bench.peers import PEERS
from invdiff.bench.plan import Picture, Unit, units
from invdiff.bench.store import Row
from invdiff.bench.work import Worker, read
from invdiff.errors import InvdiffError, RequestError
from invdiff.images import read_image
from invdiff.priors import GaussianPrior
from invdiff.profiling import Peak

TIMELESS = {"seconds": 0.0, "peak_mib": 0.0}


@pytest.fixture
def benchmark_of(write: Callable[..., Path]) -> Callable[..., Benchmark]:
    return lambda **changes: load(write(**changes))


def run(benchmark: Benchmark, folder: Path, **only: Any) -> list[Row]:
    """Every row, in the order of the units, without time and memory."""
    worker = Worker(benchmark, folder)
    chosen = [f"{axis}={name}" for axis, name in only.items()]
    return [
        dataclasses.replace(row, **TIMELESS)
        for unit in units(benchmark, only=chosen)
        for row in worker.run(unit)
    ]


def outcome(row: Row) -> tuple[Any, ...]:
    return row.checksum, row.metrics, row.evaluations, row.status


def test_a_unit_is_what_restore_gives_for_the_measurement(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = benchmark_of(batch=2, metrics=["psnr", "consistency", "diversity"])
    worker = Worker(benchmark, tmp_path)
    for unit in list(units(benchmark, only=["task=sr", "method=dps"]))[:1]:
        rows = worker.run(unit)
        cases = [worker.case(unit, picture) for picture in unit.pictures]
        truth = torch.cat([one.truth for one in cases])
        y = torch.cat([one.y for one in cases])
        op = operators.Downsample(2, (3, 16, 16), "box")
        assert 0.04 < (y - op.A(truth)).std() < 0.06
        result = invdiff.restore(
            y, op, worker.prior(unit.prior), method="dps", steps=3, samples=2, sigma_y=0.05, batch=2
        )
        for i, row in enumerate(rows):
            samples = result.samples[:, i].contiguous().numpy().astype("<f4")
            assert row.checksum == hashlib.sha256(samples.tobytes()).hexdigest()
            assert row.evaluations == 2 * result.evaluations
            mse = (result.samples[:, i].clip(0, 1) - truth[i]).double().square().mean(dim=(1, 2, 3))
            assert row.metrics["psnr"] == pytest.approx((-10 * mse.log10()).mean().item(), rel=1e-6)
            assert row.metrics["diversity"] is not None
            assert row.seconds > 0
            assert row.peak_mib > 50
            assert (row.status, row.reason) == ("done", "")


def test_rows_do_not_depend_on_what_ran_before(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = benchmark_of(pictures=False, datasets=[{"name": "set", "path": "pictures", "limit": 2}])
    there = list(units(benchmark))
    forward = {u.id: [outcome(r) for r in w.run(u)] for w in [Worker(benchmark, tmp_path)] for u in there}
    backward = {
        u.id: [outcome(r) for r in w.run(u)] for w in [Worker(benchmark, tmp_path)] for u in reversed(there)
    }
    assert forward == backward
    assert len({rows[0][0] for rows in forward.values()}) == len(there) == 8


def test_every_method_is_given_the_same_measurement_and_every_picture_its_own(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = benchmark_of(seeds=[0, 1])
    worker = Worker(benchmark, tmp_path)
    seen: dict[tuple[str, int, str], list[torch.Tensor]] = {}
    for unit in units(benchmark, only=["task=half"]):
        case = worker.case(unit, unit.pictures[0])
        seen.setdefault((unit.pictures[0].name, unit.seed, unit.task), []).append(case.operator.keep)  # type: ignore[attr-defined]
    assert all(torch.equal(masks[0], masks[1]) for masks in seen.values())
    first = [masks[0] for masks in seen.values()]
    assert len(first) == 10
    assert all(not torch.equal(a, b) for i, a in enumerate(first) for b in first[:i])


def test_a_mask_with_a_seed_is_that_of_every_picture(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    task = {"name": "half", "operator": {"mask": {"pattern": "random", "missing": 0.5, "seed": 3}}}
    benchmark = benchmark_of(tasks=[task], batch=2)
    worker = Worker(benchmark, tmp_path)
    unit = next(units(benchmark))
    one, other = (worker.case(unit, picture).operator for picture in unit.pictures)
    assert one is other
    assert torch.equal(one.keep, operators.patterns.random((16, 16), 0.5, 3).expand_as(one.keep))  # type: ignore[attr-defined]


def test_pictures_of_one_size_go_together_and_of_others_one_by_one(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = benchmark_of(batch=5, pictures=False)
    batches: list[int] = []
    restore = invdiff.restore

    def counting(y: torch.Tensor, *given: Any, **more: Any) -> Any:
        batches.append(len(y))
        return restore(y, *given, **more)

    monkeypatch.setattr(invdiff, "restore", counting)
    run(benchmark, tmp_path, task="sr", method="ddnm")
    assert batches == [5]
    batches.clear()
    run(benchmark, tmp_path, task="half", method="ddnm")  # a mask each
    assert batches == [1] * 5
    batches.clear()
    Image.new("RGB", (20, 16)).save(tmp_path / "pictures" / "3.png")
    benchmark = dataclasses.replace(benchmark, datasets=[Dataset(name="set", path="pictures")])
    run(benchmark, tmp_path, task="sr", method="ddnm")
    assert batches == [1] * 5


@pytest.mark.parametrize(
    "error", [InvdiffError("it\ndiverged"), RuntimeError("no"), MemoryError(), ValueError("no")]
)
def test_a_picture_that_fails_is_a_row_and_the_others_go_on(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    benchmark = benchmark_of(batch=5)
    whole = run(benchmark, tmp_path / "whole", task="sr", method="ddnm")
    (tmp_path / "pictures" / "1.png").write_bytes(b"no picture")
    worker = Worker(benchmark, tmp_path / "run")
    unit = next(units(benchmark, only=["task=sr", "method=ddnm"]))
    bad = worker.case(unit, unit.pictures[2]).y
    restore = invdiff.restore

    def failing(y: torch.Tensor, *given: Any, **more: Any) -> Any:
        if any(torch.equal(one, bad[0]) for one in y):
            raise error
        return restore(y, *given, **more)

    monkeypatch.setattr(invdiff, "restore", failing)
    with pytest.warns(UserWarning, match="ddnm on sr: 4 pictures failed together .*each is tried by itself"):
        rows = worker.run(unit)
    assert [row.status for row in rows] == ["done", "failed", "failed", "done", "done"]
    assert "1.png" in rows[1].reason
    said = {InvdiffError: "it diverged", RuntimeError: "RuntimeError: no", MemoryError: "out of memory"}
    assert rows[2].reason == said.get(type(error), "ValueError: no")
    assert (rows[2].metrics, rows[2].files, rows[2].checksum) == ({}, {}, "")
    for i in (0, 3, 4):
        assert rows[i].metrics["psnr"] == pytest.approx(whole[i].metrics["psnr"], rel=1e-4)


def test_a_bug_is_not_taken_for_a_failure(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise TypeError("a bug")

    monkeypatch.setattr(invdiff, "restore", broken)
    with pytest.raises(TypeError, match="a bug"):
        run(benchmark_of(), tmp_path)


def test_a_prior_is_loaded_once_and_a_peer_without_one_needs_none(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(
        invdiff, "load_prior", lambda source, **rest: loaded.append(source) or GaussianPrior.white()
    )
    methods = [{"method": "ddnm", "steps": 3}, {"peer": "bicubic"}]
    benchmark = benchmark_of(
        methods=methods, tasks=[{"name": "sr", "operator": {"downsample": {"factor": 2}}}]
    )
    rows = run(benchmark, tmp_path, method="bicubic")
    assert loaded == []
    assert {(row.status, row.reason, row.evaluations) for row in rows} == {("done", "", 0.0)}
    run(benchmark, tmp_path)
    assert len(loaded) == 1


def test_a_peer_is_given_what_restore_is(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def restore(self: Any, y: torch.Tensor, op: Any, prior: Any, **given: Any) -> tuple[torch.Tensor, float]:
        seen.update(given, y=y, op=op, prior=prior)
        return torch.full((given["samples"], len(y), *op.in_shape), 0.5), 7.0

    monkeypatch.setattr(type(PEERS["azula/dps"]), "restore", restore)
    task = {"name": "sr", "operator": {"downsample": {"factor": 2, "kernel": "box"}}, "noise": 0.05}
    row = run(
        benchmark_of(methods=[{"peer": "azula/dps", "steps": 4, "samples": 2}], tasks=[task], seeds=[3]),
        tmp_path,
    )[0]
    assert (seen["sigma_y"], seen["noise"], seen["steps"], seen["samples"], seen["seed"]) == (
        0.05,
        None,
        4,
        2,
        3,
    )
    assert seen["prior"].card.name == "tiny"
    assert row.evaluations == 14


def test_of_best_of_the_nearest_to_the_truth_is_scored(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    methods = [{"name": "all", "method": "ddnm", "steps": 3, "samples": 4}]
    methods.append({"name": "best", "method": "ddnm", "steps": 3, "best_of": 4})
    methods.append({"name": "pairs", "method": "ddnm", "steps": 3, "best_of": 2, "samples": 2})
    benchmark = benchmark_of(
        methods=methods, metrics=["psnr", "psnr_best"], colour="luma", border=5, pictures=False, batch=5
    )
    rows = run(benchmark, tmp_path, task="sr")
    every, best, pairs = ([r for r in rows if r.method == name] for name in ("all", "best", "pairs"))
    for whole, one, two in zip(every, best, pairs, strict=True):
        assert one.metrics["psnr"] == whole.metrics["psnr_best"] == two.metrics["psnr_best"]
        assert one.evaluations == whole.evaluations == two.evaluations


def test_pictures_are_written_and_are_what_they_are_called(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = benchmark_of(
        methods=[{"method": "ddnm", "steps": 3, "samples": 6}, {"method": "dps", "steps": 3}], batch=2
    )
    rows = run(benchmark, tmp_path / "run", task="sr")
    first, other = rows[0], next(row for row in rows if row.method == "dps")
    assert set(first.files) == {
        "truth",
        "measured",
        "restored",
        "std",
        *(f"sample_{i}" for i in (1, 2, 3, 4)),
    }
    assert set(other.files) == {"truth", "measured", "restored"}
    assert (first.files["truth"], first.files["measured"]) == (other.files["truth"], other.files["measured"])

    def array(row: Row, name: str) -> np.ndarray:
        return read_image(tmp_path / "run" / row.files[name]).array

    np.testing.assert_array_equal(
        array(first, "truth"), read_image(tmp_path / "pictures" / first.picture).array
    )
    assert array(first, "measured").shape == (8, 8, 3)
    assert array(first, "std").shape == (16, 16, 1)
    assert array(first, "std").max() > 0
    assert len({row.files["restored"] for row in rows}) == len(rows) == 10
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.png")}
    assert {path.relative_to(tmp_path / "run").as_posix() for path in before} == {
        f for r in rows for f in r.files.values()
    }
    for path in before:
        path.write_bytes(b"half writ")  # of a unit that was not committed
    run(benchmark, tmp_path / "run", task="sr")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.png")} == before


def test_a_measurement_that_is_no_picture_is_shown_as_one(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    task = {"name": "cs", "operator": {"compressed_sensing": {"ratio": 0.5}}}
    row = run(benchmark_of(tasks=[task]), tmp_path, method="ddnm")[0]
    assert row.status == "done", row.reason
    assert read_image(tmp_path / row.files["measured"]).size == (16, 16)


def test_masks_come_from_a_folder_by_name(benchmark_of: Callable[..., Benchmark], tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for i in range(5):
        mask = np.zeros((16, 16), np.uint8)
        mask[: i + 1] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}_mask.png")
    benchmark = benchmark_of(tasks=[{"name": "holes", "mask": "masks"}])
    Image.new("L", (8, 16)).save(tmp_path / "masks" / "4_mask.png")
    worker = Worker(benchmark, tmp_path)
    for i, unit in enumerate(units(benchmark, only=["method=ddnm"])):
        (row,) = worker.run(unit)
        if i < 4:
            lost = worker.case(unit, unit.pictures[0]).operator.keep == 0  # type: ignore[attr-defined]
            assert lost.sum() == 16 * (i + 1) * lost.shape[0]
            assert row.status == "done"
    assert row.status == "failed"
    assert "4_mask.png" in row.reason


def test_other_noise_is_drawn_and_told_to_the_method(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    task = {"name": "photons", "operator": "identity", "noise": {"poisson": {"peak": 30}}}
    benchmark = benchmark_of(tasks=[task], methods=[{"method": "mmps", "steps": 3}])
    worker = Worker(benchmark, tmp_path)
    unit = next(units(benchmark))
    case = worker.case(unit, unit.pictures[0])
    assert isinstance(case.noise, operators.PoissonNoise)
    error = (case.y - case.truth).square().mean().sqrt().item()
    assert case.sigma_y == pytest.approx(error, rel=0.2)
    worker._priors[unit.prior] = GaussianPrior.white()
    (row,) = worker.run(unit)
    assert row.status == "done", row.reason
    assert 0.3 < (row.metrics["consistency"] or 0) < 3


def picture_of(path: Path, member: str | None = None) -> Picture:
    return Picture(dataset="set", name=path.name, path=path, member=member)


def test_a_picture_is_cut_reduced_and_turned_to_grey_as_training_does_it(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    values = draws.integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")

    def get(**given: Any) -> torch.Tensor:
        return read(picture_of(tmp_path / "a.png"), Dataset(name="set", path=".", **given))

    whole = get()
    assert torch.equal(whole[0], torch.from_numpy(values).permute(2, 0, 1) / 255)
    assert torch.equal(get(crop=10), whole[:, :, 5:15, 10:20])
    square = Image.fromarray(values[:, 5:25]).resize((8, 8), Image.Resampling.BICUBIC)
    assert torch.equal(get(resize=8)[0], torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255)
    assert torch.equal(get(resize=8, crop=4), get(resize=8)[:, :, 2:6, 2:6])
    assert get(channels=1).shape == (1, 1, 20, 30)
    luma = whole[0, 0] * 0.299 + whole[0, 1] * 0.587 + whole[0, 2] * 0.114
    assert torch.allclose(get(channels=1)[0, 0], luma)
    with pytest.raises(
        RequestError, match=r"a\.png: expected at least 21 pixels a side, for crop, got 30×20"
    ):
        get(crop=21)


def test_a_picture_in_a_zip_file_is_the_same(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30), np.uint8)).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "in/a.png")
        archive.writestr("in/b.png", b"no picture")
    data = Dataset(name="set", path=".")
    plain = read(picture_of(tmp_path / "a.png"), data)
    assert plain.shape == (1, 3, 20, 30)
    assert torch.equal(read(picture_of(tmp_path / "a.zip", "in/a.png"), data), plain)
    for member, said in (("in/b.png", "not a picture"), ("in/c.png", "cannot be read")):
        with pytest.raises(RequestError, match=rf"a\.zip:{member}.*{said}"):
            read(picture_of(tmp_path / "a.zip", member), data)


def test_threads_are_those_of_the_benchmark_and_afterwards_what_they_were(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(module.Worker, "_run", lambda self, unit: seen.append(torch.get_num_threads()) or [])
    benchmark = benchmark_of(threads=2)
    Worker(benchmark, tmp_path).run(next(units(benchmark)))
    assert seen == [2]
    assert torch.get_num_threads() == 1


def test_a_prior_that_cannot_be_loaded_stops_the_run(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, tiny_prior: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_prior.read_bytes())
    benchmark = benchmark_of(priors=[str(broken)])
    unit: Unit = next(units(benchmark))
    broken.write_bytes(b"broken")
    with pytest.raises(RequestError, match="broken"):
        Worker(benchmark, tmp_path).run(unit)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eta": "much"}, "eta: expected a valid number"),
        ({"steps": -3}, "steps: expected at least 1, got -3"),
    ],
)
def test_a_setting_of_a_wrong_value_stops_the_run_before_a_picture_is_tried(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    benchmark = benchmark_of(methods=[{"name": "mine", "method": "ddnm", "settings": settings}])
    with pytest.raises(RequestError, match=rf"methods\.mine\.settings: {said}"):
        Worker(benchmark, tmp_path)


def test_on_a_gpu_cudnn_stays_on_with_kernels_that_repeat_their_bytes() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic
    with module.settled(1, torch.device("cuda")):
        assert (cudnn.enabled, cudnn.allow_tf32) == before[:2]
        assert cudnn.deterministic
        assert not cudnn.benchmark
    assert (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic) == before


def test_the_memory_of_a_gpu_is_asked_for_once_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: called.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: called.append(str(device)))
    Peak(torch.device("cuda:1"))
    assert called == ["init", "cuda:1"]


def test_a_peer_is_told_the_sigma_of_each_picture_where_noise_depends_on_it(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, float]] = []

    def restore(self: Any, y: torch.Tensor, op: Any, prior: Any, **given: Any) -> tuple[torch.Tensor, float]:
        told.append((len(y), given["sigma_y"]))
        return torch.full((given["samples"], len(y), *op.in_shape), 0.5), 1.0

    monkeypatch.setattr(type(PEERS["azula/dps"]), "restore", restore)
    tasks = [{"name": "photons", "operator": "identity", "noise": {"poisson": {"peak": 30}}}]
    peer = {"methods": [{"peer": "azula/dps", "steps": 4}], "batch": 5, "pictures": False}
    for i in range(5):
        Image.new("RGB", (16, 16), (40 + 40 * i,) * 3).save(tmp_path / "pictures" / f"{i}.png")
    run(benchmark_of(**peer, tasks=tasks), tmp_path)
    assert [count for count, _ in told] == [1] * 5
    assert [sigma for _, sigma in told] == sorted({sigma for _, sigma in told})  # brighter: more noise
    told.clear()
    run(benchmark_of(**peer, tasks=[{"name": "white", "operator": "identity", "noise": 0.1}]), tmp_path)
    assert told == [(5, 0.1)]


def test_operators_of_ever_new_sizes_are_not_kept_for_ever(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPERATORS", 2)
    for i in range(5):
        Image.new("RGB", (16 + 2 * i, 16), (9, 99, 199)).save(tmp_path / "pictures" / f"{i}.png")
    benchmark = benchmark_of(datasets=[{"name": "set", "path": "pictures"}], pictures=False)
    worker = Worker(benchmark, tmp_path)
    kept = []
    for unit in units(benchmark, only=["task=sr", "method=ddnm"]):
        worker.run(unit)
        kept.append(len(worker._operators))
    assert kept == [1, 2, 3, 1, 2]


def test_pictures_are_on_the_disk_before_their_rows_are(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[int, int]] = []

    def fsync(number: int) -> None:
        there = os.fstat(number)
        flushed.append((there.st_ino, there.st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    rows = run(benchmark_of(), tmp_path, task="sr", method="dps")
    for name in {name for row in rows for name in row.files.values()}:
        there = (tmp_path / name).stat()
        assert (there.st_ino, there.st_size) in flushed  # whole, and under its name
    if os.name == "posix":
        folders = {(tmp_path / name).parent.stat().st_ino for row in rows for name in row.files.values()}
        assert folders <= {number for number, _ in flushed}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `restore` is asked, in place of it: it gives samples of 0.2, 0.4, ... but for the blue channel's 0.5."""
    calls: list[dict[str, Any]] = []

    def restore(y: torch.Tensor, op: Any, prior: Any, **given: Any) -> SimpleNamespace:
        calls.append({**given, "y": y, "op": op})
        samples = torch.full((given["samples"], len(y), *op.in_shape), 0.5)
        samples[:, :, :2] = 0.2 * torch.arange(1, given["samples"] + 1).view(-1, 1, 1, 1, 1)
        return SimpleNamespace(samples=samples, evaluations=7.0)

    monkeypatch.setattr(invdiff, "restore", restore)
    return calls


def test_noise_is_of_the_picture_and_the_seed_and_is_nothing_where_a_mask_has_lost_the_picture(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    mask = {"mask": {"pattern": "random", "missing": 0.5, "seed": 1}}
    tasks = [
        {"name": "half", "operator": mask, "noise": 0.1},
        {"name": "all", "operator": "identity", "noise": 0.1},
    ]
    benchmark = benchmark_of(tasks=tasks, seeds=[0, 1], pictures=False)
    run(benchmark, tmp_path, method="ddnm")
    masked, whole = (
        [one for one in asked if isinstance(one["op"], operators.Mask) == is_] for is_ in (True, False)
    )
    assert [one["seed"] for one in whole] == [0, 1] * 5
    assert all((one["y"] * ~one["op"].keep == 0).all() for one in masked)
    data = benchmark.datasets[0]
    noise = [
        one["y"] - read(u.pictures[0], data)
        for one, u in zip(whole, units(benchmark, only=["task=all", "method=ddnm"]), strict=True)
    ]
    apart = torch.stack(noise).flatten(1)
    assert torch.corrcoef(apart).sub(torch.eye(10)).abs().max() < 0.2
    assert apart.std() == pytest.approx(0.1, rel=0.05)


def test_seconds_are_a_batchs_equal_shares(
    benchmark_of: Callable[..., Benchmark],
    tmp_path: Path,
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    benchmark = benchmark_of(batch=5, pictures=False)
    rows = Worker(benchmark, tmp_path).run(next(units(benchmark, only=["task=sr", "method=dps"])))
    assert [(row.seconds, row.evaluations) for row in rows] == [(2.0, 14.0)] * 5
    assert len(asked) == 1


def test_a_pixels_std_is_the_root_of_the_mean_variance_of_its_channels(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    row = run(benchmark_of(), tmp_path, task="sr", method="dps")[0]  # 0.2 and 0.4, in two channels of three
    std = read_image(tmp_path / row.files["std"]).array * images.STD_WHITE
    np.testing.assert_allclose(std, (0.02 * 2 / 3) ** 0.5, rtol=1e-3)
    mean = read_image(tmp_path / row.files["restored"]).array
    np.testing.assert_allclose(mean[0, 0], (0.3, 0.3, 0.5), atol=0.003)


def test_a_sample_that_is_not_finite_fails_its_picture_before_it_is_scored(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(y: torch.Tensor, op: Any, prior: Any, **given: Any) -> SimpleNamespace:
        return SimpleNamespace(
            samples=torch.full((given["samples"], len(y), *op.in_shape), np.nan), evaluations=1.0
        )

    monkeypatch.setattr(invdiff, "restore", restore)
    row = run(benchmark_of(), tmp_path, task="sr", method="dps")[0]
    assert (row.status, row.reason[:33]) == ("failed", "dps: the result is not finite, or")


def test_an_effort_is_autos(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    methods = [{"name": "quick", "method": "auto", "effort": "fast"}, {"method": "auto"}]
    run(benchmark_of(methods=methods, pictures=False), tmp_path, task="sr")
    assert {one["effort"] for one in asked} == {"fast", "default"}
