"""Conditional models on the command line: which serves is settled before torch, and said in the record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from invdiff import catalog
from invdiff.catalog import PRIORS, PriorInfo
from invdiff.cli import main as cli
from invdiff.cli.restore import check_prior
from invdiff.errors import RequestError

SR4 = "super-resolution ×4 (bicubic)"
ENLARGE = ("restore", "photo.png", "--task", "sr", "--scale", "4")
FAST = ("--steps", "2", "--device", "cpu")
Run = Callable[..., tuple[int, str, str]]


def make(path: Path, **settings: Any) -> Path:
    """A file of a conditional network, untrained: shown anything, it is N(0.5, 0.25²)."""
    from invdiff.priors import EDM, Card, save_prior
    from invdiff.priors.base import Condition
    from invdiff.priors.nets.unet import UNet

    condition = Condition(**{"tasks": (SR4,), **settings})
    network = UNet(channels=3, widths=(8,), blocks=(1,), embedding=16, condition=condition.channels(3))
    save_prior(path, network, EDM(), Card(name=path.stem, channels=3, condition=condition))
    return path


def entries(tiny: str, model: Path) -> dict[str, PriorInfo]:
    """tiny, and tiny-sr4 that stands in its stead."""

    def info(name: str, path: Path, **more: Any) -> PriorInfo:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        known = {
            "summary": "Small.",
            "channels": 3,
            "licence": "none",
            "training_data": "none",
            "card": "none",
        }
        return PriorInfo(name=name, file=str(path), sha256=sha256, packaged=False, **known, **more)  # type: ignore[arg-type]

    return {
        "tiny": info("tiny", Path(tiny)),
        "tiny-sr4": info("tiny-sr4", model, tasks=(SR4,), instead_of="tiny", noise=0.02),
    }


@pytest.fixture
def model(folder: Path, tiny_prior: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of tiny-sr4, which the catalog knows as it knows tiny."""
    path = make(folder / "tiny-sr4.safetensors", noise=0.02)
    for name, info in entries(tiny_prior, path).items():
        monkeypatch.setitem(PRIORS, name, info)
    return path


@pytest.fixture
def run(model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, prior: str = "tiny") -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run([*arguments, "--prior", prior, *FAST])
        return code, *capsys.readouterr()

    return run


def record(name: str = "photo") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("restored", f"{name}.json").read_text("utf-8"))
    return found


def without_torch(*commands: list[str], tiny: str = "") -> list[tuple[int, str]]:
    """(exit code, standard error) of each; fails where one of them has imported torch. tiny: as for `entries`."""
    known = f"PRIORS.update(entries({tiny!r}, Path('tiny-sr4.safetensors').resolve()))" if tiny else ""
    code = (
        f"import contextlib, io, json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_conditional import *\n" + known + "\n"
        "found = []\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):\n"
        "        found.append((cli.run(command), err.getvalue()))\n"
        "    assert 'torch' not in sys.modules, command\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout)]


def test_sr3_takes_the_model_that_stands_for_the_prior_and_the_record_names_it(
    run: Run, model: Path, tiny_prior: str
) -> None:
    assert run(*ENLARGE, "--method", "sr3")[0] == 0
    found, checksum = record(), hashlib.sha256(model.read_bytes()).hexdigest()
    assert found["method"] == "sr3"
    assert found["reason"] == f"asked for; tiny-sr4 is the conditional model for {SR4}"
    assert (found["prior"]["name"], found["prior"]["checksum"]) == ("tiny-sr4", checksum)
    assert found["inputs"]["prior"] == {"path": "tiny-sr4", "sha256": checksum}
    assert found["request"]["prior"] == checksum
    ((code, said),) = without_torch([*ENLARGE, "--method", "sr3", "--prior", "tiny", *FAST], tiny=tiny_prior)
    assert (code, said) == (0, "photo.png: done before\n")


@pytest.mark.parametrize(
    ("arguments", "why", "method"),
    [
        (("--task", "sr", "--scale", "3"), "for super-resolution ×3 (bicubic); there is tiny-sr4 (", "mmps"),
        (("--task", "sr", "--scale", "4", "--noise", "0.1"), f"for {SR4} with noise 0.1; there", "mmps"),
        (("--task", "sr", "--scale", "4", "--noise", "poisson:20"), f"for {SR4} with noise 0.2", "mmps"),
        (("--task", "inpaint", "--mask", "m.png"), "for inpainting; there is", "mmps"),
        (("--task", "hdr"), "for declipping; there is", "diffpir"),
    ],
    ids=["scale", "noise", "poisson", "task", "nonlinear"],
)
def test_where_no_model_fits_one_line_says_so_and_the_prior_restores(
    run: Run, tiny_prior: str, arguments: tuple[str, ...], why: str, method: str
) -> None:
    request = ("restore", "photo.png", *arguments, "--method", "sr3", "--set", "consistency=true")
    code, _, err = run(*request)
    assert code == 0
    warnings = [line for line in err.splitlines() if "no conditional model" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: sr3: no conditional model of prior tiny ")
    assert why in warnings[0]
    found = record()
    assert found["method"] == method
    assert found["prior"]["name"] == "tiny"
    assert warnings[0].removeprefix("warning: ") in found["reason"]
    assert "done before" in run(*request)[2]


def test_a_folder_says_once_what_serves_none_of_it_and_each_picture_has_its_own(run: Run) -> None:
    Path("album").mkdir()
    values = np.random.default_rng(1).normal(0.5, 0.2, (28, 32, 3)).clip(0, 1)
    for name, array in {"a": values, "b": values[::-1], "flat": np.full((28, 32, 3), 0.5)}.items():
        Image.fromarray((255 * array).astype(np.uint8)).save(f"album/{name}.png")
    request = ("restore", "album", *ENLARGE[2:], "--method", "sr3", "--noise")
    code, _, err = run(*request, "auto")
    assert code == 0
    assert {name: record(name)["method"] for name in ("a", "b", "flat")} == {
        "a": "mmps", "b": "mmps", "flat": "sr3",
    }  # fmt: skip
    assert [record(name)["prior"]["name"] for name in ("a", "flat")] == ["tiny", "tiny-sr4"]
    code, _, err = run(*request, "0.1", "--overwrite")
    assert (code, err.count("no conditional model")) == (0, 1)


def test_another_prior_of_that_name_is_not_served(run: Run, tiny_prior: str) -> None:
    assert run(*ENLARGE, "--method", "sr3", prior=tiny_prior)[0] == 0  # the file itself is
    assert record()["prior"]["name"] == "tiny-sr4"
    other = Path(tiny_prior).read_bytes()
    Path("tiny.safetensors").write_bytes(other.replace(b'\\"data_mean\\": 0.5', b'\\"data_mean\\": 0.4'))
    assert run(*ENLARGE, "--method", "sr3", "--overwrite", prior="tiny.safetensors")[0] == 0
    assert record()["prior"]["data_mean"] == 0.4
    assert "no conditional model of prior tiny.safetensors" in record()["reason"]


def test_auto_with_a_conditional_prior_is_sr3_and_consistency_holds_y(run: Run, model: Path) -> None:
    from invdiff import images, operators

    request = (*ENLARGE, "--set", "consistency=true")
    code, _, err = run(*request, prior=str(model))
    assert (code, record()["method"]) == (0, "sr3")
    assert "sr3 (made for it: a conditional prior)" in err
    assert record()["config"]["consistency"] is True
    restored = images.to_tensor(images.read_image(Path("restored/photo.png"))).double()
    y = images.to_tensor(images.read_image(Path("photo.png"))).double()
    again = operators.Downsample(4, tuple(restored.shape[1:])).A(restored)
    inside = ((restored > 0) & (restored < 1)).all()
    assert (again - y).abs().max() < (0.01 if inside else 0.2)
    code, _, err = run(*ENLARGE, "--set", "consistensy=true", prior=str(model))
    assert code == 2
    assert "--set consistensy: unknown to sr3. Did you mean 'consistency'?" in err


def test_a_grey_picture_meets_a_conditional_model_in_colour(run: Run) -> None:
    with Image.open("photo.png") as photo:
        photo.convert("L").save("photo.png")
    assert run(*ENLARGE, "--method", "sr3", "--noise", "0.01")[0] == 0
    assert record()["method"] == "sr3"
    with Image.open("restored/photo.png") as restored:
        assert (restored.mode, restored.size) == ("L", (128, 112))
    assert run(*ENLARGE, "--method", "sr3", "--noise", "0.02", "--overwrite")[0] == 0  # three copies: 0.035
    assert record()["method"] == "mmps"


def test_guidance_is_for_a_model_that_was_trained_with_dropout(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(*ENLARGE, "--method", "sr3", "--guidance", "2")
    assert code == 2
    assert "guidance 2: prior tiny-sr4 was always shown its measurement" in err
    code, _, err = run("restore", "photo.png", "--task", "hdr", "--method", "sr3", "--guidance", "2")
    assert code == 2
    assert "guidance 2: needs a label of prior tiny, which knows none" in err
    guided = make(Path("guided.safetensors"), dropout=0.1)
    info = dataclasses.replace(PRIORS["tiny-sr4"], file=str(guided.resolve()), sha256="")
    monkeypatch.setitem(PRIORS, "tiny-sr4", info)
    for more, prior in (((), str(guided)), (("--method", "sr3", "--overwrite"), "tiny")):
        assert run(*ENLARGE, "--guidance", "2", *more, prior=prior)[0] == 0
        found = record()
        assert (found["config"]["guidance"], found["evaluations"]) == (2.0, 4)
        assert found["request"]["guidance"] == 2.0


def test_what_a_model_was_not_trained_for_is_refused_before_torch(model: Path, tiny_prior: str) -> None:
    make(Path("guided.safetensors"), dropout=0.1)
    Path("recipe.yaml").write_text(
        "data: {train: [album], crop: 8, validation: 3}\n"
        "tasks: {sr: {operator: {downsample: {factor: 2}}}}\n"
        "methods: {mmps: {iterations: [1, 2]}}\n"
        "rungs: [1, 3]\n",
        encoding="utf-8",
    )
    prior = ["--prior", "tiny-sr4.safetensors"]
    trained = f"was trained for {SR4}, noise up to 0.02; got"
    shown = f"must be shown a measurement ({SR4}, noise up to 0.02)"
    wrong: list[tuple[list[str], str]] = [
        (["restore", "photo.png", "--task", "sr", "--scale", "2", *prior], f"{trained} super-resolution ×2 (bicubic)"),
        ([*ENLARGE, "--sr-kernel", "box", *prior], f"{trained} super-resolution ×4 (box)"),
        ([*ENLARGE, "--noise", "0.1", *prior], f"{trained} noise 0.1"),
        ([*ENLARGE[:2], "--operator", "[{blur: {kernel: disk, radius: 2}}, {downsample: {factor: 4}}]", *prior],
         f"{trained} deblurring, then {SR4}"),
        ([*ENLARGE, "--scale", "2", "--prior", "tiny-sr4"], f"prior tiny-sr4 {trained}"),
        ([*ENLARGE, "--guidance", "2", *prior], "was always shown its measurement"),
        ([*ENLARGE, "--label", "1", "--guidance", "2", "--prior", "tiny"], "label 1: prior tiny knows no labels"),
        (["sample", *prior], shown),
        (["sample", "--prior", "tiny-sr4"], f"prior tiny-sr4 {shown}"),
        (["sample", "--prior", "guided.safetensors", "--guidance", "2"], "guidance 2: needs a label"),
        (["priors", "check", "tiny-sr4.safetensors"], shown),
        (["adapt", "photo.png", "--out", "new", *prior], "is a conditional model, which cannot be adapted"),
        (["tune", "recipe.yaml", "prior=tiny-sr4.safetensors"], "is a conditional model, which has nothing to tune"),
        (["tune", "recipe.yaml", "methods={sr3: {steps: [2, 4]}}", "prior=tiny"],
         "is for conditional priors, which have nothing to tune"),
    ]  # fmt: skip
    before = sorted(Path().rglob("*"))
    answers = without_torch(*(command for command, _ in wrong), tiny=tiny_prior)
    for (command, expected), (code, said) in zip(wrong, answers, strict=True):
        assert code == 2, command
        assert said.startswith("invdiff: ")
        assert said.count("\n") == 1
        assert expected in said
    assert sorted(Path().rglob("*")) == before


def test_a_model_trained_with_dropout_is_sampled_and_checked_without_a_measurement(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    guided = str(make(Path("guided.safetensors"), dropout=0.1))
    assert run("sample", "--count", "1", "--size", "8", prior=guided)[0] == 0
    assert Path("samples/0000.png").exists()
    assert cli.run(["priors", "check", guided, "--images", "photo.png", "--device", "cpu"]) in (0, 1)
    assert "guided" in capsys.readouterr().out


def test_the_listings_say_what_a_model_is_for(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for command, expected in {
        ("priors",): f"for {SR4}, noise up to 0.02, where --method sr3 takes it in tiny's stead.",
        ("tasks",): f"--method sr3 --prior tiny uses the conditional model tiny-sr4, for {SR4}",
        ("methods",): "a conditional",
        ("priors", "--json"): '"instead_of": "tiny"',
        ("methods", "--json"): '"conditional": true',
    }.items():
        assert cli.run(list(command)) == 0
        out = capsys.readouterr().out
        assert expected in out
        if "--json" in command:
            json.loads(out)
    from invdiff.cli.doctor import _prior

    assert _prior(PRIORS["tiny-sr4"])["state"] == "ok"


def test_a_model_that_is_not_here_is_told_with_its_place(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = dataclasses.replace(PRIORS["tiny-sr4"], file="away.safetensors")
    monkeypatch.setitem(PRIORS, "tiny-sr4", away)
    code, _, err = run(*ENLARGE, "--method", "sr3")
    assert code == 0
    assert "prior tiny-sr4: away.safetensors does not come with the package; put it at" in err
    assert record()["prior"]["name"] == "tiny"
    code, _, err = run(*ENLARGE, "--scale", "2", prior="tiny-sr4")  # what it is for is known all the same
    assert (code, "was trained for" in err) == (2, True)


def test_a_cascade_is_a_prior_known_by_its_text_and_its_members(run: Run, model: Path) -> None:
    cascade = Path("cascade.yaml")
    cascade.write_text("cascade: {stages: [tiny-sr4.safetensors]}", encoding="utf-8")
    first = check_prior("cascade.yaml")
    assert first["path"] == "cascade.yaml"
    assert run(*ENLARGE, prior="cascade.yaml")[0] == 0
    assert record()["request"]["prior"] == first["sha256"]
    assert record()["method"] == "sr3"
    cascade.write_text("cascade: {stages: [tiny-sr4.safetensors], steps: [3]}", encoding="utf-8")
    second = check_prior("cascade.yaml")
    make(model, noise=0.01)
    third = check_prior("cascade.yaml")
    assert len({first["sha256"], second["sha256"], third["sha256"]}) == 3
    assert "kept the result made with prior" in run(*ENLARGE, prior="cascade.yaml")[2]
    for text, said in {
        "cascade: {stages: [gone.safetensors]}": "gone.safetensors: no such file",
        "cascade: {stages: [cascade.yaml]}": "is another cascade",
        "steps: [3]": "expected a cascade of priors",
    }.items():
        cascade.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match=said):
            check_prior("cascade.yaml")


def test_the_catalogs_models_stand_for_priors_of_the_same_pictures() -> None:
    for name, info in catalog.PRIORS.items():
        if info.instead_of:
            assert info.tasks, name
            assert catalog.PRIORS[info.instead_of].channels == info.channels
