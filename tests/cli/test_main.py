"""The command line as a whole: exit codes, one-line errors, listings, train's request, doctor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from invdiff.catalog import METHODS, PRIORS, TASKS
from invdiff.cli import main as cli
from invdiff.errors import InvdiffError, RequestError
from invdiff.specs import SPECS


@pytest.mark.parametrize(("listing", "entries"), [("tasks", TASKS), ("priors", PRIORS)])
def test_a_listing_as_json_is_one_document_with_every_entry(
    listing: str, entries: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([listing, "--json"]) == 0
    out, err = capsys.readouterr()
    assert [row["name"] for row in json.loads(out)] == list(entries)
    assert err == ""


@pytest.mark.parametrize(("listing", "entries"), [("tasks", TASKS), ("methods", METHODS), ("priors", PRIORS)])
def test_a_listing_as_a_table_names_every_entry(
    listing: str, entries: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([listing]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in entries)


def test_the_tasks_are_followed_by_the_operators_and_those_of_other_packages(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[invdiff.operators]\nbroken = nowhere_to_be_found:Thing\nblur = json:loads\nfine = json:loads\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.run(["tasks"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {{{name}: {{" in out for name in SPECS)
    named = {line.split(":")[0].strip(" {"): line for line in out.splitlines() if "third-party" in line}
    assert named["broken"].endswith("third-party, cannot be loaded: no module nowhere_to_be_found")
    assert named["blur"].endswith("third-party, hidden by the built-in one of that name")
    assert named["fine"].endswith("third-party")


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    out = capsys.readouterr().out
    assert out.count("Usage:") == 1
    commands = ("restore", "degrade", "train", "demo", "doctor", "tasks", "methods", "priors")
    assert all(f" {command} " in out for command in commands)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["restor"], "'restore'"),
        (["tasks", "--jsn"], "--json"),
        (["frobnicate"], "frobnicate"),
        (["train"], "RECIPE"),
        (["tasks", "more"], "more"),
    ],
)
def test_a_usage_error_is_one_line_with_the_nearest_name_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("invdiff: ")
    assert err.count("\n") == 1
    assert said.casefold() in err.casefold()


def raising(error: BaseException) -> Callable[..., None]:
    def call(*args: object, **kwargs: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RequestError("wrong"), 2, "wrong"),
        (InvdiffError("failed\non the way"), 1, "failed on the way"),
        (OSError(28, "No space left on device", "out.png"), 1, "No space left on device: out.png"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_an_error_is_one_line_on_standard_error_and_its_exit_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("invdiff.cli.listings.print_table", raising(error))
    assert cli.run(["tasks"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"invdiff: {said}\n")


def test_an_error_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invdiff.cli.listings.print_table", raising(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        cli.run(["tasks"])


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\n")
    return path


def test_train_names_a_recipe_that_is_not_there_and_the_one_that_is(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", str(recipe.with_name("tinny.yaml"))]) == 2
    assert "Did you mean 'tiny.yaml'?" in capsys.readouterr().err


def test_train_refuses_an_override_that_is_no_assignment(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", str(recipe), "batch"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err


def test_train_neither_overwrites_a_run_nor_resumes_one_that_is_not_there(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", str(recipe), "--resume"]) == 2
    assert "no run to resume" in capsys.readouterr().err
    (tmp_path / "runs" / "tiny" / "checkpoints").mkdir(parents=True)
    assert cli.run(["train", str(recipe)]) == 2
    assert "--resume goes on" in capsys.readouterr().err


def test_train_hands_the_request_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        "invdiff.training.train",
        lambda recipe, out, *, resume, overrides: calls.append((recipe, out, resume, overrides)),
    )
    assert cli.run(["train", str(recipe), "batch=4", "lr=1e-3", "--out", "there"]) == 0
    assert calls == [(recipe, Path("there"), False, ["batch=4", "lr=1e-3"])]


def test_doctor_reports_machine_versions_priors_and_lpips(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["device"] in ("cpu", "cuda", "mps")
    assert found["machine"]["processors"] >= 1
    assert found["versions"]["torch"].startswith("2.")
    assert [prior["name"] for prior in found["priors"]] == list(PRIORS)
    assert set(found["lpips"]["nets"]) == {"squeeze", "alex", "vgg"}
    assert code == (0 if all(prior["state"] == "ok" for prior in found["priors"]) else 1)


def test_doctor_says_what_to_do_about_a_damaged_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    damaged = tmp_path / "natural.safetensors"
    damaged.write_bytes(b"not weights")
    entry = dataclasses.replace(PRIORS["natural"], file=str(damaged), sha256="0" * 64)
    monkeypatch.setitem(PRIORS, "natural", entry)
    assert cli.run(["doctor", "--json"]) == 1
    prior = json.loads(capsys.readouterr().out)["priors"][0]
    assert "checksum differs" in prior["state"]
    assert "reinstall" in prior["state"]
    monkeypatch.setitem(PRIORS, "natural", dataclasses.replace(entry, sha256=""))
    assert cli.run(["doctor", "--json"]) == 1
    assert "safetensors" in json.loads(capsys.readouterr().out)["priors"][0]["state"]
