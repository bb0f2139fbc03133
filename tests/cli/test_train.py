"""`invdiff train` from the command line: a stopped run exits as interrupted and says how to go on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invdiff.cli import main as cli
from invdiff.priors.formats.native import read_about


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Eight tiny grey pictures and a recipe for them."""
    pictures = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "pictures.npz", train_images=pictures)
    settings = {
        "name": "tiny",
        "data": {"train": [str(tmp_path / "pictures.npz")], "crop": 8, "validation": 0},
        "network": {"channels": 1, "widths": [8], "blocks": [1], "embedding": 8},
        "batch": 2,
        "images": 12,
        "samples": 0,
        "device": "cpu",
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_exits_as_interrupted_and_says_how_to_go_on(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    from invdiff.training.loop import Run

    one_step, out = Run.one_step, tmp_path / "run"

    def interrupted(run: Run) -> tuple[float, float]:
        if run.step == 2:
            signal.raise_signal(number)
        return one_step(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "one_step", interrupted)
        assert cli.run(["train", str(recipe), "--out", str(out)]) == code
    said = capsys.readouterr().err
    assert f"invdiff: stopped at step 3 of 6; go on with --resume --out {out}" in said.splitlines()
    assert (out / "prior.safetensors").is_file()
    assert cli.run(["train", str(recipe), "--out", str(out), "--resume"]) == 0


def test_a_conditional_recipe_leaves_its_scores_pictures_and_a_prior_that_says_what_it_is_for(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    changes = ["data.validation=2", "data.validation_crop=8", "images=4", "sample_steps=2"]
    condition = "condition={operator: {downsample: {factor: {choice: [2, 4]}}}, noise: [0, 0.05]}"
    assert cli.run(["train", str(recipe), *changes, condition, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "step 2: shown " in said
    header, row = (out / "validation.csv").read_text().splitlines()
    assert header == "step,images,seconds,shown,sample,mean"
    assert all(-50 < float(number) < 60 for number in row.split(",")[3:])
    with Image.open(out / "samples.png") as picture:
        assert picture.size == (2 * 8, 4 * 8)  # two held-out pictures: shown, a sample, the mean, clean
    card = read_about(out / "prior.safetensors")["card"]
    assert card["condition"]["tasks"] == ["super-resolution ×2 (bicubic)", "super-resolution ×4 (bicubic)"]
    assert card["condition"]["noise"] == 0.05


def test_a_condition_with_a_misspelt_key_is_one_line_and_exit_2(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.run(["train", str(recipe), "condition={operatr: identity}", "--out", str(out)]) == 2
    assert "unknown key condition.operatr. Did you mean 'operator'?" in capsys.readouterr().err
    assert not out.exists()
