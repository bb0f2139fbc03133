"""`invdiff bench` from the command line: what is to be done, what was, exit codes, one document."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from invdiff.bench.definition import load
from invdiff.bench.plan import units
from invdiff.bench.store import Row, Store
from invdiff.cli import main as cli


@pytest.fixture
def definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark of three pictures, two tasks and two methods, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INVDIFF_DATA", raising=False)
    Path("pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (i, 90, 80)).save(f"pictures/{i}.png")
    settings: dict[str, Any] = {
        "name": "small",
        "datasets": [{"name": "some", "path": "pictures", "crop": 16}],
        "tasks": [
            {"name": "sr2", "operator": {"downsample": {"factor": 2}}, "noise": 0.05},
            {"name": "denoise", "operator": "identity", "noise": 0.1},
        ],
        "methods": [{"method": "dps", "steps": 20}, {"method": "ddnm"}],
        "metrics": ["psnr", "consistency"],
    }
    path = Path("small.yaml")
    path.write_text(yaml.safe_dump(settings))
    return path


@dataclass(frozen=True)
class Outcome:
    units: int
    fresh: int
    rows: int
    failed: int
    lost: int = 0
    seconds: float = 1.0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the engine is asked for, in whose stead rows are written of which the first has failed."""
    calls: list[dict[str, Any]] = []

    def run(benchmark: Any, folder: Path, *, only: Any, limit: Any, report: Any, **others: Any) -> Outcome:
        calls.append({"metrics": benchmark.metrics, "only": only, "limit": limit, **others})
        rows = []
        with Store.open(folder, benchmark.record()) as store:
            for unit in units(benchmark, only=only, limit=limit):
                status = "done" if rows else "failed"
                row = Row(
                    unit=unit.id, dataset=unit.dataset, picture=unit.pictures[0].name, task=unit.task,
                    prior=unit.prior, method=unit.method, seed=unit.seed, status=status, reason="it burnt",
                    seconds=60.0, evaluations=20.0,
                )  # fmt: skip
                store.write(unit.id, [row])
                rows.append(row)
                report(SimpleNamespace(unit=unit, done=len(rows), fresh=True, rows=(row,)))
        return Outcome(units=len(rows), fresh=len(rows), rows=len(rows), failed=1)

    module = ModuleType("invdiff.bench.engines")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "invdiff.bench.engines", module)
    return calls


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(
    definition: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().rglob("*"))
    assert cli.run(["bench", str(definition), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "some 3" in lines
    (dps,) = [line for line in lines if line.startswith("dps sr2, denoise 6 0 20 ")]
    assert dps.endswith(" s")
    assert "12 runs of small, 0 done before, into runs/bench/small" in lines
    assert "by evaluations of the network timed here, at least" in out
    assert err == ""
    assert sorted(Path().rglob("*")) == before


def test_a_dry_run_looks_for_weights_and_for_the_device(
    definition: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the run would, before anything slow."""
    monkeypatch.setenv("INVDIFF_LPIPS_WEIGHTS", "nowhere")
    arguments = ["bench", str(definition), "--dry-run", "datasets.some.crop=null", "datasets.some.resize=64"]
    assert cli.run([*arguments, "metrics=[psnr, lpips_alex]"]) == 2
    assert "there is no nowhere (from INVDIFF_LPIPS_WEIGHTS); or leave LPIPS out" in capsys.readouterr().err
    assert cli.run([*arguments, "metrics=[psnr, lpips_alex]", "--no-lpips"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.run([*arguments, "device=cuda"]) == 2
    assert "cuda" in capsys.readouterr().err


def test_a_dry_run_tells_the_time_left_from_what_ran_so_far(
    definition: Path, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", str(definition), "--limit", "1", "--quiet"]) == 1
    capsys.readouterr()
    assert cli.run(["bench", str(definition), "--dry-run", "--workers", "2"]) == 0
    out = capsys.readouterr().out
    assert "12 runs of small, 4 done before" in out
    assert "about 4:00 min left by 2 workers" in out
    assert cli.run(["bench", str(definition), "--dry-run", "--json", "--retry"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["done"], found["seconds"]) == (12, 3, 540)
    assert found["datasets"] == {"some": 3}
    assert sum(part["done"] for part in found["parts"]) == 3
    assert cli.run(["bench", str(definition), "--dry-run", "--limit", "1"]) == 0
    assert "nothing left to run" in capsys.readouterr().out


def test_a_run_hands_on_what_was_asked_and_says_what_failed(
    definition: Path, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--only",
        "method=dps; task=sr2",
        "--only",
        "seed=0",
        "--workers",
        "3",
        "--engine",
        "ray",
        "--retry",
    ]
    assert cli.run(["bench", str(definition), "--out", "there", "--limit", "2", *arguments]) == 1
    out, err = capsys.readouterr()
    assert asked == [
        {
            "metrics": ["psnr", "consistency"], "only": ("method=dps", "task=sr2", "seed=0"), "limit": 2,
            "workers": 3, "engine": "ray", "retry": True,
        }
    ]  # fmt: skip
    assert out == "there\n"
    assert "failed: dps on sr2, some/0.png: it burnt" in err
    assert "2 results, 1 failed (--retry runs them again); invdiff report there" in err


def test_json_is_one_document_and_nothing_else(
    definition: Path, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", str(definition), "--json", "--quiet", "--out", "there"]
    assert cli.run([*arguments, "metrics=[psnr, lpips_alex]", "methods.dps.samples=2", "--no-lpips"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["benchmark"], found["out"], found["rows"], found["failed"]) == ("small", "there", 12, 1)
    assert asked[0]["metrics"] == ["psnr"]
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 2
    assert "there holds a run of another configuration" in json.loads(out)["error"]
    assert json.loads(out)["error"] in err


def test_overwrite_removes_a_run_of_another_configuration(
    definition: Path, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", str(definition), "--quiet"]) == 1
    assert cli.run(["bench", str(definition), "--quiet", "seeds=[4]"]) == 2
    assert cli.run(["bench", str(definition), "--quiet", "seeds=[4]", "--overwrite"]) == 1
    with Store.read("runs/bench/small") as store:
        assert {row.seed for row in store.rows()} == {4}
        assert store.definition == load(definition, ["seeds=[4]"]).record()


def test_ctrl_c_exits_130_and_says_how_to_go_on(
    definition: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: Any, **others: Any) -> None:
        raise KeyboardInterrupt

    module = ModuleType("invdiff.bench.engines")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "invdiff.bench.engines", module)
    assert cli.run(["bench", str(definition)]) == 130
    assert (
        "what is finished is kept in runs/bench/small; the same command goes on from there"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("smal.yaml", "Did you mean 'small.yaml'?"),
        ("small.yaml methods.dps.stesp=3", "Did you mean 'steps'?"),
        ("small.yaml datasets.0.path=picture", "Did you mean 'pictures'?"),
        ("small.yaml metrics=[psrn]", "Did you mean 'psnr'?"),
        ("small.yaml --only method=dpss", "Did you mean 'dps'?"),
        ("small.yaml --out small.yaml", "is a file, expected a folder"),
        ("small.yaml --limit 0", "--limit"),
        ("small.yaml --engine rai", "--engine"),
        ("small.yaml metrics=[lpips_vgg]", "at least 32"),
        ("small.yaml metrics=[lpips_vgg] --no-lpips", "--no-lpips leaves none"),
        ("small.yaml skip=[{method:", "is not a YAML value"),
        ('small.yaml skip=[{"dataset":some}]', "invdiff: small.yaml: skip: leaves nothing to run"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    definition: Path, arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().rglob("*"))
    assert cli.run(["bench", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("invdiff: ")
    assert err.count("\n") == 1
    assert said in err
    assert sorted(Path().rglob("*")) == before


def test_a_wrong_request_imports_no_torch(definition: Path) -> None:
    code = (
        "import sys; from invdiff.cli.main import run; codes = [run(['bench', 'small.yaml', *more]) for more in "
        "(['--only', 'x'], ['methods.dps.zeta=1'])]; print(codes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[2, 2] False\n")
