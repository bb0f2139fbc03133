"""experiments/conditional, small: random networks and pictures through the tables, the checks, and a run that stops."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from invdiff.images import write_image
from invdiff.methods.defaults import DEFAULTS
from invdiff.priors import EDM, Card, save_prior
from invdiff.priors.base import Condition
from invdiff.priors.nets.unet import UNet

SHAPE: dict[str, Any] = {"widths": (8,), "blocks": (1,), "embedding": 8}
TASK = "super-resolution ×4 (bicubic)"


@pytest.fixture
def scripts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """The folder's modules by name, each with 16² pictures of noise and a stand-in for LPIPS."""
    monkeypatch.setattr(sys, "path", [str(repository / "experiments" / "conditional"), *sys.path])
    before = set(sys.modules)
    faces = importlib.import_module("faces")
    monkeypatch.setattr(faces, "faces", lambda data, count: pictures(count))
    monkeypatch.setattr(faces, "perceptual", lambda options: distance)
    yield importlib.import_module
    for name in set(sys.modules) - before & {"faces", "steps", "ways", "gallery"}:
        del sys.modules[name]


def pictures(count: int) -> Tensor:
    return torch.rand((8, 3, 16, 16), generator=torch.Generator().manual_seed(1))[:count]


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def networks(tmp_path: Path) -> list[str]:
    """--prior and --model, random ones not far from linear."""
    draws = torch.Generator().manual_seed(0)
    words = []
    for name, condition in {"prior": None, "model": Condition(tasks=(TASK,))}.items():
        network = UNet(**SHAPE, condition=3 if condition else 0)
        for weights in network.parameters():
            weights.data.normal_(0, 0.05, generator=draws)
        file = tmp_path / f"{name}.safetensors"
        save_prior(file, network, EDM(), Card(name=name, channels=3, condition=condition))
        words += [f"--{name}", str(file)]
    return words


def numbers(text: str, title: str) -> list[str]:
    """What stands in the line of a table that begins with this title."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [part.strip() for part in line.split("|")[2:-1]]


def test_one_command_makes_the_table_and_a_stopped_run_goes_on(
    scripts: Callable[[str], ModuleType], networks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, out = scripts("faces"), tmp_path / "out"
    for method in ("dps", "ddnm", "diffpir"):
        monkeypatch.setitem(DEFAULTS, method, {"downsample": {"steps": 3}})
    monkeypatch.setitem(DEFAULTS, "sr3", {"downsample": {"steps": 5}})
    for method in ("ddnm", "diffpir"):
        monkeypatch.setitem(faces.PUBLISHED, method, {"steps": 4})
    words = [*networks, "--count", "3", "--batch", "2", "--out", str(out)]

    solved = faces.Study.solved

    def stops(study: Any, entry: Any, y: Tensor) -> Any:
        if entry.method == "ddrm" and len(y) == 1:
            raise KeyboardInterrupt
        return solved(study, entry, y)

    monkeypatch.setattr(faces.Study, "solved", stops)
    with pytest.raises(KeyboardInterrupt):
        faces.main(words)
    before = (out / "restored" / "rows.jsonl").read_text()
    monkeypatch.setattr(faces.Study, "solved", solved)
    assert faces.main(words) == 1  # random networks are no better than bicubic
    rows = (out / "restored" / "rows.jsonl").read_text()
    assert rows.startswith(before)
    files = [json.loads(line)["file"] for line in rows.splitlines()]
    titles = [
        "bicubic", "SR3", "SR3, mean of eight", "DPS", "DDRM", "DDNM", "DDNM, published", "DiffPIR",
        "DiffPIR, published", "MMPS",
    ]  # fmt: skip
    assert len(files) == len(set(files)) == 2 * len(titles)
    text = (out / "faces.md").read_text()
    assert re.findall(r"^\| ([^|]+) \|", text, re.M) == ["method", *titles]
    evaluations = {title: int(numbers(text, title)[-1]) for title in titles}
    assert evaluations["bicubic"] == 0
    assert (evaluations["SR3"], evaluations["SR3, mean of eight"]) == (5, 40)
    assert (evaluations["DDNM"], evaluations["DDNM, published"]) == (3, 4)
    assert numbers(text, "DDNM")[3] == "0.00000"  # projected onto what was measured
    assert numbers(text, "SR3")[3] != "0.00000"
    assert "* one SR3 sample has at least 30 % lower LPIPS than bicubic: no (" in text
    assert Image.open(out / "faces.png").format == "PNG"

    monkeypatch.setattr(faces.Study, "solved", None)  # nothing is left to do
    assert faces.main(words) == 1
    assert (out / "faces.md").read_text() == text


def test_scores_are_those_of_each_picture(scripts: Callable[[str], ModuleType], tmp_path: Path) -> None:
    faces, truth = scripts("faces"), pictures(2) / 2 + 0.25
    study = faces.Study(truth=truth, priors={}, runs=tmp_path)
    shift = torch.tensor([0.1, 0.2])[:, None, None, None] * torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    found = faces.scores(truth + shift, study, distance)
    assert found["colour"] == pytest.approx([0.2 / 3, 0.4 / 3], rel=1e-4)
    assert found["colour of A x̂"] == pytest.approx([0.2 / 3, 0.4 / 3], rel=1e-4)  # rows of A sum to 1
    assert found["consistency"] == pytest.approx([0.1 * (2 / 3) ** 0.5, 0.2 * (2 / 3) ** 0.5], rel=1e-4)


@pytest.mark.parametrize(
    "change, held",
    [
        ({}, (True, True, True)),
        ({("SR3", "lpips"): 0.22}, (False, True, True)),
        ({("SR3, mean of eight", "psnr"): 20.9}, (True, False, True)),
        ({("DDRM", "lpips"): 0.05}, (True, True, False)),
        ({("DDRM", "lpips"): 0.05, ("DDRM", "seconds"): 3.0}, (True, True, True)),
    ],
)
def test_the_checks_say_yes_and_no(
    scripts: Callable[[str], ModuleType], change: dict[tuple[str, str], float], held: tuple[bool, ...]
) -> None:
    faces = scripts("faces")
    given = {
        "bicubic": {"psnr": 20.0, "lpips": 0.3, "seconds": 0.0},
        "SR3": {"psnr": 20.0, "lpips": 0.1, "seconds": 1.0},
        "SR3, mean of eight": {"psnr": 21.5, "lpips": 0.2, "seconds": 8.0},
        "DDRM": {"psnr": 21.0, "lpips": 0.25, "seconds": 0.5},
    }
    for (title, name), value in change.items():
        given[title][name] = value
    rows = {
        title: faces.Row(
            title=title,
            each={k: [v, v] for k, v in own.items() if k != "seconds"},
            more={"seconds": own["seconds"]},
        )
        for title, own in given.items()
    }
    assert tuple(holds for _, holds, _ in faces.checks(rows, ["DDRM"])) == held


def test_few_steps_count_what_an_integrator_costs(
    scripts: Callable[[str], ModuleType], networks: list[str], tmp_path: Path
) -> None:
    steps, out = scripts("steps"), tmp_path / "out"
    words = [*networks, "--count", "2", "--evaluations", "3,6", "--out", str(out)]
    assert steps.main(words) == 0
    means = json.loads((out / "steps.json").read_text())["means"]
    for n, heun in ((3, 3), (6, 5)):
        assert [means[f"{name}, sr3, {n}"]["evaluations"] for name in steps.INTEGRATORS] == [n, n, heun, n]
        assert means[f"SR3, {n} steps, consistency"]["consistency"] < 1e-6
        assert means[f"SR3, {n} steps"]["consistency"] > 1e-3
    rows = [json.loads(line)["file"] for line in (out / "restored" / "rows.jsonl").read_text().splitlines()]
    assert (
        len(rows) == len(set(rows)) == len(means) - 2
    )  # SR3's own walk stands in two tables, for 3 and for 6
    text = (out / "steps.md").read_text()
    assert len(re.findall(r"^\| heun \| karras \|", text, re.M)) == len(steps.PIVOTS)


def test_every_way_to_train_is_trained_once(
    scripts: Callable[[str], ModuleType], networks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways, out, data = scripts("ways"), tmp_path / "out", tmp_path / "data"
    data.mkdir()
    for i, picture in enumerate(pictures(6)):
        write_image(data / f"{i}.png", picture.permute(1, 2, 0).numpy())
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "name: tiny\n"
        "data: {train: [data], crop: 16, validation: 2, validation_crop: 16}\n"
        "condition: {operator: {downsample: {factor: 4}}, residual: true}\n"
        "network: {widths: [8], blocks: [1], embedding: 8}\n"
        "noise: {sigma_data: 0.2, sigma_max: 20.0}\n"
        "batch: 2\nsample_steps: 2\n"
    )
    words = [
        *networks, "--count", "2", "--images", "4", "--recipe", str(recipe), "--data", str(tmp_path), "--out", str(out),
    ]  # fmt: skip
    assert ways.main(words) == 0
    told = json.loads((out / "ways.json").read_text())["means"]
    arms = {name: told[arm.title] for name, arm in ways.ARMS.items()}
    assert arms["scratch"]["trained"] == arms["residual"]["trained"] == arms["start"]["trained"]
    assert (
        arms["control"]["trained"] < arms["scratch"]["trained"]
    )  # the prior is frozen, the copy has no decoder
    assert all(arm["speed"] > 0 for arm in arms.values())
    assert told["from scratch, SR3's ε objective, 100 steps of its own"]["psnr"] != arms["sr3"]["psnr"]
    folders = sorted(path.name for path in out.iterdir() if path.is_dir() and path.name != "restored")
    assert [name.partition("-")[0] for name in folders] == sorted(ways.ARMS)
    monkeypatch.setattr(ways, "train", None)  # a second run trains nothing
    assert ways.main(words) == 0


def test_a_prior_in_the_models_place_is_refused(
    scripts: Callable[[str], ModuleType],
    networks: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, prior, _, model = networks
    for words, said in (
        (["--prior", prior, "--model", prior], "--model"),
        (["--prior", model, "--model", model], "--prior"),
    ):
        assert scripts("faces").main([*words, "--count", "1", "--out", str(tmp_path)]) == 2
        assert f"error: {said} " in capsys.readouterr().err
