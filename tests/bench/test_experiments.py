"""experiments/benchmarks: every benchmark that is shipped is one, as far as that can be told without its data."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from invdiff import config, noise
from invdiff.bench.definition import Benchmark, load
from invdiff.bench.peers import PEERS
from invdiff.bench.peers.of_deepinv import ddpm_levels
from invdiff.catalog import AUTO, PRIORS
from invdiff.errors import RequestError
from invdiff.methods import METHODS

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks"
FILES = sorted(FOLDER.glob("*.yaml"))
DATA = Path(os.environ.get("INVDIFF_DATA", FOLDER.parents[2] / "shared" / "data"))
PAPERS = {"dps", "ddrm", "diffpir", "diffpir-inpainting", "repaint", "sr3", "daps"}


def stand_ins(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmark in a folder where all that it names is: a picture of each data set, masks, files for weights."""
    text = yaml.safe_load(file.read_text(encoding="utf-8"))
    beside = folder / text.get("folder", ".")
    data = folder / text["root"] if "root" in text else folder / "data"
    beside.mkdir(exist_ok=True)
    for one in text["datasets"]:
        place = data / one["path"]
        if place.suffix == ".zip":  # whatever is in it
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (96, 96), (90, 120, 30)).save(folder / "face.png")
            shutil.make_archive(str(place.with_suffix("")), "zip", folder, "face.png")
        else:
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (256, 256), (90, 120, 30)).save(place / "00000.png")
    for one in text["tasks"]:
        if "mask" in one:
            (beside / one["mask"]).mkdir(parents=True)
            half = np.zeros((256, 256), np.uint8)
            half[:, :128] = 255
            Image.fromarray(half).save(beside / one["mask"] / "00000.png")
    for name in text["priors"]:
        if name in PRIORS:
            continue
        if Path(name).suffix:
            (beside / name).write_bytes(b"weights")
        else:
            shown = {"tasks": ["super-resolution ×8 (bicubic)"]}
            about = json.dumps({"card": {"name": name, "channels": 3, "condition": shown}})
            header = json.dumps({"__metadata__": {"about": about}}).encode()
            (beside / name).mkdir()
            (beside / name / "prior.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    monkeypatch.setenv("INVDIFF_DATA", str(data))
    return Path(shutil.copy(file, folder))


def loaded(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    text = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name in text["priors"]:
        if name in PRIORS and not PRIORS[name].path.is_file():
            pytest.skip(PRIORS[name].missing())
    for one in text["methods"]:
        lacking = PEERS[one["peer"]].missing() if "peer" in one else None
        if lacking is not None:
            pytest.skip(f"{one['peer']} {lacking}")
    return load(stand_ins(file, folder, monkeypatch))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_is_a_right_one_where_its_data_and_weights_are(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = loaded(file, tmp_path, monkeypatch)
    assert benchmark.name == file.stem
    assert benchmark.summary
    assert bool(benchmark.reproduces) == (file.stem in PAPERS)
    for task in benchmark.tasks:  # nothing is left without a method, and no method without a task
        assert any(does(benchmark, task.name, one.name) for one in benchmark.methods), task.name
    for one in benchmark.methods:
        assert any(does(benchmark, task.name, one.name) for task in benchmark.tasks), one.name


def does(benchmark: Benchmark, task: str, method: str) -> bool:
    return any(
        not benchmark.skips(dataset=dataset.name, task=task, prior=prior, method=method)
        for dataset in benchmark.datasets
        for prior in benchmark.priors
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_methods_take_the_settings_it_gives_them(file: Path) -> None:
    """As far as a method itself can tell: so many steps of a grid, numbers in their ranges."""
    for one in config.load(Benchmark, file).methods:
        if one.method is not None and one.method != AUTO:
            steps: Mapping[str, Any] = {} if one.steps is None else {"steps": one.steps}
            config.build(METHODS[one.method], {**one.settings, **steps}, f"{file}: {one.name}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_loads_with_the_data_and_weights_that_are_here(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVDIFF_DATA", str(DATA))
    try:
        load(file)
    except RequestError as error:
        missing = ("no such", "no picture", "does not come with", "unknown prior", "not installed")
        if any(words in str(error) for words in missing):
            pytest.skip(str(error))
        raise


def test_quick_is_for_two_cores_and_needs_nothing_that_does_not_come_with_the_package() -> None:
    quick = config.load(Benchmark, FOLDER / "quick.yaml")
    assert quick.priors == ["natural"]
    assert {PEERS[one.peer].package for one in quick.methods if one.peer} <= {"pillow", "skimage"}
    assert not {"lpips_alex", "lpips_vgg", "fid", "kid"} & set(quick.metrics)


def test_noise_is_in_image_units_though_the_papers_are_not() -> None:
    def of(name: str) -> set[float]:
        tasks = config.load(Benchmark, FOLDER / f"{name}.yaml").tasks
        return {noise.known_sigma(noise.parse_noise(task.noise)) for task in tasks}

    assert of("dps") == {0.05 / 2}
    assert of("ddrm") == {0.0, 0.05}
    assert of("diffpir") == {12.75 / 255}
    assert of("daps") == {0.05 / 2, 0.05}
    assert of("repaint") == of("sr3") == of("diffpir-inpainting") == {0.0}


@pytest.mark.parametrize(("name", "steps"), [("diffpir", 100), ("diffpir-inpainting", 20)])
def test_diffpirs_levels_are_ddpms_at_its_quadratic_steps(name: str, steps: int) -> None:
    ours = config.load(Benchmark, FOLDER / f"{name}.yaml").methods[0].settings["grid"]
    assert ours == pytest.approx(ddpm_levels(steps), rel=1e-4)


def test_ddrms_levels_are_ddpms_at_every_fiftieth_step() -> None:
    for name in ("ddrm", "dps"):
        (ours,) = (m for m in config.load(Benchmark, FOLDER / f"{name}.yaml").methods if m.method == "ddrm")
        method = config.build(METHODS["ddrm"], {**ours.settings, "steps": ours.steps}, name)
        every = METHODS["ddrm"](steps=1000, grid="ddpm", sigma_max=100.0, sigma_min=0.001)
        assert levels(method) == levels(every)[49:1000:50] + [0.0]


def levels(method: Any) -> list[float]:
    found: list[float] = method.levels(None)
    return found
