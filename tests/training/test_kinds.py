"""Runs of every objective, network and option end with a file that loads and does what it was trained for."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff import config, load_prior
from invdiff.errors import RequestError
from invdiff.priors import NetworkPrior, load_classifier
from invdiff.training import Recipe, Stopped, checkpoint, loop, train
from invdiff.training.distributed import Processes
from invdiff.training.loop import Run
from invdiff.training.progress import Reporter

Write = Callable[..., Path]


def load(path: Path) -> NetworkPrior:
    prior = load_prior(path, precision="float32")
    assert isinstance(prior, NetworkPrior)
    return prior


def start(recipe: Path, out: Path) -> Run:
    return Run(config.load(Recipe, recipe), out, Processes("cpu"), Reporter())


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Two classes: bright above, and bright below."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 60)
    pictures = generator.integers(0, 40, (60, 6, 6))
    pictures[labels == 0, :3] += 200
    pictures[labels == 1, 3:] += 200
    half = {"images": pictures.astype(np.uint8), "labels": labels}
    arrays = {f"{name}_{key}": value for name in ("train", "test") for key, value in half.items()}
    np.savez(tmp_path / "digits.npz", **{**arrays, "test_images": arrays["train_images"] + np.uint8(1)})
    return tmp_path / "digits.npz"


@pytest.fixture
def two_classes(recipe: Write, digits: Path) -> Write:
    """The recipe of a network for `digits`, padded to 8×8."""

    def write(network: dict[str, Any] | None = None, **changes: Any) -> Path:
        data = {
            "train": [str(digits)],
            "crop": 8,
            "pad": 1,
            "flip": False,
            "validation": 8,
            "validation_crop": 8,
        }
        shape = {"channels": 1, "classes": 2, **(network or {})}
        return recipe(data=data, network=shape, **changes)

    return write


@pytest.mark.parametrize("kind", ["ddpm", "vp", "ve", "flow"])
def test_every_objective_learns_to_denoise(recipe: Write, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "run"
    path = recipe(objective={"kind": kind}, images=(250 if kind == "ve" else 120) * 8, batch=8, samples=0)
    trained = load(train(path, out))
    run = start(path, tmp_path)
    clean = run.pictures.validation
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    errors = [float((prior(noisy, 0.2) - clean).square().mean()) for prior in (trained, run.prior())]
    assert errors[0] < 0.75 * errors[1]
    assert trained.precondition == run.task.precondition
    low, high = run.task.range
    assert (trained.card.sigma_min, trained.card.sigma_max) == (low, high)


def test_a_learned_variance_is_kept_in_the_file_and_cut_from_the_denoiser(
    recipe: Write, tmp_path: Path
) -> None:
    path = recipe(objective={"kind": "ddpm"}, network={"variance": True}, images=24)
    prior = load(train(path, tmp_path / "run"))
    assert prior(torch.rand(1, 3, 8, 8), 0.1).shape == (1, 3, 8, 8)
    assert prior.network(torch.rand(1, 3, 8, 8), torch.ones(1)).shape == (1, 6, 8, 8)


def test_a_transformer_is_trained_for_its_size(two_classes: Write, tmp_path: Path) -> None:
    shape = {"kind": "dit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "widths": [96, 128, 192]}
    path = two_classes(
        {**shape, "blocks": [2, 2, 2], "embedding": 128}, images=40, objective={"kind": "flow"}
    )
    prior = load(train(path, tmp_path / "run"))
    assert (prior.card.size, prior.card.classes) == (8, 2)
    assert prior(torch.rand(1, 1, 8, 8), 0.1).shape == (1, 1, 8, 8)


def test_a_network_that_cannot_be_is_one_clear_line(two_classes: Write, tmp_path: Path) -> None:
    shape = {
        "kind": "dit",
        "patch": 2,
        "width": 18,
        "widths": [96, 128, 192],
        "blocks": [2, 2, 2],
        "embedding": 128,
    }
    with pytest.raises(
        RequestError, match="network: DiT: expected a width that 4 and 4 heads divide, got 18"
    ):
        train(two_classes(shape), tmp_path / "run")


def test_a_label_steers_the_samples_and_none_leaves_them_free(two_classes: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    prior = load(
        train(two_classes(images=400 * 16, batch=16, samples=6, sample_steps=8, label_dropout=0.2), out)
    )
    noise = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    above, below = (prior.given(label)(0.5 + noise, 1.0) for label in (0, 1))
    difference = (above - below)[:, 0].mean(dim=0)
    assert difference[1:4, 1:7].mean() > 0.15
    assert difference[4:7, 1:7].mean() < -0.15
    free = prior.given(None)(0.5 + noise, 1.0)
    assert (free - above).abs().mean() > 1e-3
    assert (free - below).abs().mean() > 1e-3
    with Image.open(out / "samples.png") as picture:
        assert (picture.size, picture.mode) == ((3 * 8, 2 * 8), "L")
        rows = np.asarray(picture).astype(float)
    assert rows[1:4, 1:23].mean() > rows[4:7, 1:23].mean() + 50  # the first row is of label 0
    assert rows[9:12, 1:23].mean() < rows[12:15, 1:23].mean() - 50  # the second, of label 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_labels_are_left_out_as_often_as_the_recipe_says(
    two_classes: Write, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    run = start(two_classes(label_dropout=share, batch=500, images=1000), tmp_path)
    truly = run.task.loss

    def watched(network: Any, x0: Any, sigma: Any, epsilon: Any, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return truly(network, x0, sigma, epsilon, labels)

    monkeypatch.setattr(type(run.task), "loss", lambda self, *arguments: watched(*arguments))
    run.one_step()
    truth = run.pictures.batch_labels(0, size=500, seed=0)
    assert float((seen[0] == 2).float().mean()) == pytest.approx(share, abs=0.07)
    assert torch.equal(seen[0][seen[0] < 2], truth[seen[0] < 2])


def test_a_classifier_tells_the_classes_of_noisy_pictures(two_classes: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    path = two_classes({"kind": "classifier"}, task="classifier", images=100 * 16, batch=16)
    assert train(path, out) == out / "classifier.safetensors"
    told = load_classifier(out)
    pictures = torch.zeros(2, 1, 8, 8)
    pictures[0, :, 1:4, 1:7] = pictures[1, :, 4:7, 1:7] = 0.9
    noisy = pictures + 0.2 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    assert told(noisy, 0.2).argmax(dim=1).tolist() == [0, 1]
    with (out / "validation.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["accuracy25"]) >= 0.9
    assert not (out / "samples.png").exists()


def test_accumulation_changes_the_loss_curve_by_rounding_alone(recipe: Write, tmp_path: Path) -> None:
    whole, parts = start(recipe(), tmp_path), start(recipe(accumulate=4), tmp_path)
    for _ in range(5):
        assert parts.one_step() == pytest.approx(whole.one_step(), rel=1e-4)


def test_dropout_draws_by_seed_and_step_and_leaves_the_global_stream(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(network={"dropout": 0.3}, images=24)
    train(path, tmp_path / "straight")
    one_step = Run.one_step

    def stops(run: Run) -> tuple[float, float]:
        torch.rand(run.step + 3)  # somebody else draws
        if run.step == 2:
            loop.signal.raise_signal(loop.signal.SIGINT)
        return one_step(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "one_step", stops)
        with pytest.raises(Stopped):
            train(path, tmp_path / "stopped")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(path, tmp_path / "stopped", resume=True)
    assert torch.equal(torch.get_rng_state(), before)
    newest = [checkpoint.newest(tmp_path / name / "checkpoints") for name in ("straight", "stopped")]
    (straight, _), (stopped, _) = (checkpoint.load(path) for path in newest if path)
    assert all(torch.equal(stopped[name], value) for name, value in straight.items())


def test_curves_and_pictures_go_to_tensorboard(recipe: Write, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    train(recipe(tensorboard=True), out)
    found = events.EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    assert {"log/loss", "log/gradient", "validation/psnr25"} <= set(found.Tags()["scalars"])
    assert set(found.Tags()["images"]) == {"denoised", "samples"}
    with (out / "log.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    (point,) = found.Scalars("log/loss")
    assert (point.step, point.value) == (20, pytest.approx(float(row["loss"])))


def test_tensorboard_asked_for_and_missing_is_one_line_before_anything_is_written(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RequestError, match=r"not installed; pip install 'invdiff\[tensorboard\]'"):
        train(recipe(tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_shipped_recipe_for_digits_is_one(repository: Path) -> None:
    recipe = config.load(Recipe, repository / "experiments" / "train" / "mnist.yaml")
    assert (recipe.network.classes, recipe.data.flip, recipe.data.pad) == (10, False, 2)
