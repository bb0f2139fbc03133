"""What a dry run foresees is what the run then takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from invdiff.bench.definition import load
from invdiff.bench.engines import run
from invdiff.bench.forecast import forecast
from invdiff.bench.plan import parts


def test_evaluations_are_foreseen_exactly_and_seconds_are_those_of_the_network(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    benchmark = load(
        write(
            tasks=[{"name": "sr", "operator": {"downsample": {"factor": 2, "kernel": "box"}}, "noise": 0.05}],
            methods=[
                {"method": "ddnm"},
                {"method": "dps", "steps": 7, "samples": 2},
                {"peer": "deepinv/ddrm", "steps": 4},
                {"peer": "bicubic"},
            ],
        )
    )
    foreseen = forecast(benchmark, parts(benchmark))
    run(benchmark, tmp_path / "run", limit=1)
    took = parts(benchmark, tmp_path / "run")
    assert [part.evaluations for part in foreseen] == [part.evaluations for part in took]
    assert foreseen[3].seconds == 0
    network = [part.seconds or 0.0 for part in foreseen[:3]]
    assert all(0 < seconds < 60 for seconds in network)
    assert network[0] / (foreseen[0].evaluations or 1) == network[2] / 4  # one evaluation, timed once


def test_travel_and_efforts_are_foreseen(write: Callable[..., Path], tmp_path: Path) -> None:
    benchmark = load(
        write(
            tasks=[{"name": "holes", "operator": {"mask": {"pattern": "random", "missing": 0.5}}}],
            methods=[
                {"name": "fast", "method": "auto", "effort": "fast"},
                {"method": "auto", "steps": 7},
                {"method": "mmps", "settings": {"steps": 3}},
            ],
        )
    )
    foreseen = forecast(benchmark, parts(benchmark))
    run(benchmark, tmp_path / "run", limit=1)
    took = parts(benchmark, tmp_path / "run")
    assert [part.evaluations for part in foreseen] == [part.evaluations for part in took]
    assert foreseen[0].evaluations == 13


def test_what_cannot_be_read_stays_unknown_and_what_ran_is_left_alone(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    benchmark = load(write())
    run(benchmark, tmp_path / "run", only=["method=ddnm", "task=sr"], limit=1)
    before = parts(benchmark, tmp_path / "run")
    (tmp_path / "pictures" / "0.png").write_bytes(b"no picture")
    after = forecast(benchmark, before)
    assert [part.seconds for part in after if part.method == "ddnm"] == [
        part.seconds for part in before if part.method == "ddnm"
    ]
    assert all(part.seconds is None for part in after if part.method == "dps")
