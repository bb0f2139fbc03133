"""`invdiff report` from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import bench_run
import pytest

from invdiff.cli import main as cli


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of two tasks on three pictures, without pictures, and a failure, in the current folder."""
    monkeypatch.chdir(tmp_path)
    names = ["a.png", "b.png", "c.png"]
    rows = [*bench_run.rows("sr4", names), *bench_run.rows("deblur", names)]
    rows[0] = bench_run.failed(rows[0], "diverged")
    bench_run.write(Path("run"), rows)
    return "run"


def test_a_page_is_written_into_the_runs_folder(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", run]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "wrote run/report.html" in err
    assert Path("run/report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("given", "begins"), [("there/t.md", "### All tasks"), ("there/t.tex", "% \\usepackage{booktabs}")]
)
def test_the_format_is_that_of_the_ending(run: str, given: str, begins: str) -> None:
    assert cli.run(["report", run, "--out", given]) == 0
    assert Path(given).read_text().startswith(begins)


def test_tables_without_a_file_are_printed(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", run, "--format", "markdown"]) == 0
    assert capsys.readouterr().out.count("| mmps |") == 4
    assert cli.run(["report", run, "--format", "latex"]) == 0
    assert capsys.readouterr().out.count("\\toprule") == 4
    assert not Path("run/report.html").exists()


def test_json_is_one_document_and_nothing_else(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", run, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert err == ""
    assert (found["results"], found["failed"], found["out"]) == (17, 1, "run/report.html")
    sr4, deblur = found["tables"]
    assert sr4["lines"][0]["failed"] == 1
    assert deblur["lines"][1]["wins"]["pictures"] == 3
    assert deblur["lines"][0]["metrics"]["psnr"]["best"] is True


def test_rows_are_exported_beside_the_report(run: str) -> None:
    assert cli.run(["report", run, "--export", "rows.csv"]) == 0
    with Path("rows.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 18
    assert Path("run/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nowhere", "does not exist"),
        ("run/run.sqlite", "run/run.sqlite: expected the folder of a run, got a file"),
        ("run --out page.pdf", ".html or .htm or .md or .markdown or .tex"),
        ("run --out page.md --format html", ".html or .htm"),
        ("run --export rows.xlsx", ".csv or .parquet"),
        ("run --pictures -1", "--pictures"),
        ("run --format pdf", "--format"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    run: str, arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().rglob("*"))
    assert cli.run(["report", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_run_without_results_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench_run.write(Path("run"), [])
    assert cli.run(["report", "run", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "no results in this run yet" in json.loads(out)["error"]
    assert "no results in this run yet" in err
