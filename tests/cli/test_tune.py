"""`invdiff tune` from the command line: exit codes, one document, nothing lost at Ctrl-C."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from invdiff import tuning
from invdiff.cli import main as cli
from invdiff.evaluation import tune as module
from invdiff.evaluation.tune import Search


@pytest.fixture
def recipe(tmp_path: Path, tiny_prior: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for a tiny network, and three pictures, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        module, "Lpips", lambda net, weights: lambda image, reference: (image - reference)[:, 0, 0, 0]
    )
    Path("pictures").mkdir()
    draws = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(draws.integers(30, 220, (12, 12, 3), np.uint8)).save(f"pictures/{i}.png")
    settings: dict[str, Any] = {
        "data": {"train": ["pictures"], "root": ".", "validation": 2, "crop": 8},
        "prior": tiny_prior,
        "tasks": {"sr": {"operator": {"downsample": {"factor": 2}}, "noise": 0.05}},
        "methods": {"mmps": {"steps": [1, 2, 3]}},
        "rungs": [1, 2],
        "device": "cpu",
        "samples": 1,
    }
    path = Path("small.yaml")
    path.write_text(yaml.safe_dump(settings))
    return path


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(out) / tuning.LOG).read_text().splitlines()]


def test_a_table_is_printed_and_its_files_lie_in_the_folder_of_the_recipe(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["tune", str(recipe), "candidates=2"]) == 0
    out = Path("runs/tune/small")
    printed = capsys.readouterr().out
    assert printed == (out / tuning.TABLE).read_text()
    assert printed.count("\n| sr | mmps | steps ") == 1
    assert set(yaml.safe_load((out / tuning.BEST).read_text()) or {}) <= {"mmps"}
    assert json.loads((out / tuning.RECIPE).read_text())["candidates"] == 2
    assert {file.name for file in out.iterdir()} == {tuning.LOG, tuning.RECIPE, tuning.BEST, tuning.TABLE}


def test_json_is_one_document_and_nothing_else(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tune", str(recipe), "--json", "--quiet", "--out", "there", "rungs=[1]"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert err == ""
    assert found["out"] == "there"
    assert found["best"] == (yaml.safe_load(Path("there/best.yaml").read_text()) or {})
    (row,) = found["rows"]
    assert (row["task"], row["method"], row["kind"]) == ("sr", "mmps", "downsample")
    assert row["difference"][1] is None  # of a single picture
    assert cli.run(["tune", str(recipe), "--json", "--out", "there"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 2
    assert json.loads(out)["error"] in err


def test_ctrl_c_exits_130_and_loses_nothing_that_was_finished(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["tune", str(recipe), "--out", "straight"]) == 0
    restored: Callable[..., Any] = Search._restored
    calls: list[object] = []

    def interrupted(self: Search, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return restored(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_restored", interrupted)
        assert cli.run(["tune", str(recipe), "--out", "stopped"]) == 130
    assert "--resume goes on from there" in capsys.readouterr().err
    assert len(records("stopped")) == 3
    assert cli.run(["tune", str(recipe), "--out", "stopped", "--resume"]) == 0
    whole, again = records("straight"), records("stopped")
    assert [r["key"] for r in again] == [r["key"] for r in whole]
    assert [r["psnr"] for r in again] == [r["psnr"] for r in whole]
    assert Path("stopped/best.yaml").read_text() == Path("straight/best.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smal.yaml"], "Did you mean 'small.yaml'?"),
        (["small.yaml", "candidates"], "expected key=value"),
        (["small.yaml", "methods.mmpss.steps=[1]"], "Did you mean 'mmps'?"),
        (["small.yaml", "methods.mmps.stps=[1]"], "Did you mean 'steps'?"),
        (["small.yaml", "prior=naturel"], "Did you mean 'natural'?"),
        (["small.yaml", "tasks={a: {operator: blr}}"], "Did you mean 'blur'?"),
        (["small.yaml", "--resume"], "no search to resume"),
        (["small.yaml", "--out", "small.yaml"], "is a file"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2_without_importing_torch(
    recipe: Path, arguments: list[str], said: str
) -> None:
    code = (
        "import sys; from invdiff.cli.main import run; code = run(sys.argv[1:]); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    before = sorted(Path().rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", code, "tune", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("invdiff: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert sorted(Path().rglob("*")) == before


def test_a_value_that_the_method_refuses_is_named_and_nothing_is_written(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["tune", str(recipe), "methods={dps: {zeta: [-1]}}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "methods: dps: zeta: expected a number ≥ 0, got -1" in err
    assert err.count("invdiff:") == 1
    assert not Path("runs").exists()
