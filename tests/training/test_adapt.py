"""An adapted prior denoises pictures of the new kind better, and with preservation the old kind as well as before."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from invdiff import load_prior
from invdiff.errors import RequestError
from invdiff.priors import EDM, VE, VP, Card, Flow, NetworkPrior, Precondition, save_prior
from invdiff.priors.nets.dit import DiT
from invdiff.priors.nets.lora import LowRank
from invdiff.priors.nets.unet import UNet
from invdiff.training import Stopped
from invdiff.training.adapt import Adaptation, Run, adapt
from invdiff.training.data import stream
from invdiff.training.objective import Task
from invdiff.training.recipe import Noise, Objective


def gradients(count: int, seed: int, size: int = 16) -> Tensor:
    """(N, 1, size, size): the kind of pictures that the prior was trained on, one slope and one level each."""
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.meshgrid(*[torch.linspace(-0.5, 0.5, size)] * 2, indexing="ij")
    level, a, b = torch.rand(3, count, 1, 1, 1, generator=generator)
    return (0.3 + 0.4 * level + 0.6 * (a - 0.5) * down + 0.6 * (b - 0.5) * right).clamp(0, 1)


def stripes(count: int, seed: int, size: int = 16) -> Tensor:
    """(N, 1, size, size): another kind, black and white."""
    generator = torch.Generator().manual_seed(seed)
    phase = torch.randint(4, (count, 1, 1, 1), generator=generator)
    return ((torch.arange(size) + phase) // 2 % 2).float().expand(count, 1, size, size).clone()


def psnr(prior: NetworkPrior, clean: Tensor, sigma: float = 0.1) -> float:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    errors = (prior(clean + sigma * noise, sigma) - clean).square().mean(dim=(1, 2, 3))
    return float(-10 * errors.log10().mean())


def picture_of(path: str) -> Tensor:
    """(1, H, W)."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).float()[None] / 255


def load(path: Path | str) -> NetworkPrior:
    prior = load_prior(path, precision="float32")
    assert isinstance(prior, NetworkPrior)
    return prior


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a small prior that was trained on gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(channels=1, widths=[16], blocks=[1], fold=2, embedding=16)
        task = Task(Objective(), Noise(mean=-1.0))
        optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
        generator = torch.Generator().manual_seed(0)
        for step in range(200):
            for group in optimiser.param_groups:
                group["lr"] = 5e-3 * (1 - step / 200)
            x0 = gradients(8, step)
            optimiser.zero_grad()
            sigma = task.draw_sigma(8, generator)
            task.loss(network, x0, sigma, torch.randn(x0.shape, generator=generator)).mean().backward()
            optimiser.step()
    path = tmp_path_factory.mktemp("learned") / "gradients.safetensors"
    card = Card(
        name="gradients", channels=1, sigma_max=40.0, licence="MIT", training_data="ramps", images_seen=8000
    )
    save_prior(path, network, task.precondition, card)
    return str(path)


@pytest.fixture(scope="session")
def striped(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of five pictures of stripes, no two alike."""
    folder = tmp_path_factory.mktemp("striped")
    paths = []
    for index, picture in enumerate(stripes(5, 0, 24)):
        values = (255 * picture[0] * (1 - index / 50)).byte().numpy()
        paths.append(str(folder / f"{index}.png"))
        Image.fromarray(values).save(paths[-1])
    return paths


@pytest.fixture
def settings(learned: str, striped: list[str]) -> Callable[..., Adaptation]:
    def make(**changes: Any) -> Adaptation:
        tiny: dict[str, Any] = {
            "images": striped, "prior": learned, "crop": 16, "batch": 8, "steps": 80, "learning_rate": 2e-3,
            "preserve": 0.5, "samples": 40, "sample_steps": 10, "flip": False, "device": "cpu",
        }  # fmt: skip
        return Adaptation(**{**tiny, **changes})

    return make


Make = Callable[..., Adaptation]


def changes(learned: str, file: Path) -> tuple[float, float]:
    """What adapting did to the denoising PSNR on the old kind and on the new one, dB."""
    kinds = gradients(16, 10_000), stripes(16, 9)
    old, new = (psnr(load(file), kind) - psnr(load(learned), kind) for kind in kinds)
    return old, new


def test_the_new_kind_is_learned_and_preservation_keeps_the_old_one(
    settings: Make, tmp_path: Path, learned: str
) -> None:
    old, new = changes(learned, adapt(settings(steps=120), tmp_path / "kept"))
    forgot, learned_alone = changes(learned, adapt(settings(steps=120, preserve=0.0), tmp_path / "lost"))
    assert min(new, learned_alone) > 8
    assert forgot < -3
    assert old > forgot / 2


def test_the_new_kind_is_learned_by_low_rank_companions_too(
    settings: Make, tmp_path: Path, learned: str
) -> None:
    old, new = changes(learned, adapt(settings(lora=4), tmp_path / "lora"))
    assert new > 5
    assert old > -3


def test_the_loss_is_the_error_of_d_on_the_users_crops_and_its_distance_from_before_on_the_priors_own(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invdiff.training.adapt.choose_precision", lambda *_: torch.float32)
    run = Run(settings(preserve=0.25, samples=12), tmp_path)
    run.begin()
    assert (run.losses()[-2:] < 1e-9).all()  # at first D is D₀
    with torch.no_grad():
        for value in run.network.parameters():
            value.mul_(1.1)
    now, before = run.prior(), run.original
    seen: list[tuple[Tensor, ...]] = []
    errors = Task.errors

    def spied(task: Task, x: Tensor, sigma: Tensor, output: Tensor, wanted: Tensor) -> Tensor:
        seen.append((x, sigma, wanted))
        return errors(task, x, sigma, output, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "errors", spied)
        got = run.losses().detach()
    x, sigma, wanted = seen[0]
    user = run.pictures.batch(0, size=6, crop=16, seed=0)
    assert torch.equal(wanted[:6], user)
    assert torch.allclose(wanted[6:], before(x[6:], sigma[6:]), atol=1e-5)
    s, data = sigma.double(), 0.25
    weight = (s**2 + data**2) / (s * data) ** 2
    expected = weight * (now(x, sigma) - wanted).double().square().mean(dim=(1, 2, 3))
    assert torch.allclose(got.double(), expected, rtol=2e-3)
    assert float(got[-2:].min()) > 0


@pytest.mark.parametrize(
    "precondition",
    [
        EDM(black=0.0, white=1.0, sigma_data=0.25),
        VP(),
        VE(),
        Flow(),
        VP(black=0.0, white=1.0, prediction="v"),
    ],
)
def test_the_weight_on_the_error_of_d_is_the_same_whatever_the_network_predicts(
    precondition: Precondition,
) -> None:
    task = Task(Objective(weighting="edm"), Noise(), precondition)
    generator = torch.Generator().manual_seed(0)
    x, wanted, output = torch.rand(3, 3, 1, 4, 4, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.02, 0.3, 2.0], dtype=torch.float64)
    d = precondition.denoised(x, sigma, output)
    weight = (sigma**2 + 0.25**2) / (sigma * 0.25) ** 2
    expected = weight * (d - wanted).square().mean(dim=(1, 2, 3))
    assert torch.allclose(task.errors(x, sigma, output, wanted), expected, rtol=1e-9)


def test_a_run_leaves_plain_weights_with_a_card_and_says_what_it_did(
    settings: Make, tmp_path: Path, learned: str, striped: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    file = adapt(settings(lora=2, steps=12, samples=12, images=[*striped, striped[0]]), out)
    old, new = load(learned), load(out)
    assert file == out / "prior.safetensors"
    assert new.network.state_dict().keys() == old.network.state_dict().keys()
    assert not any(isinstance(layer, LowRank) for layer in new.network.modules())
    card = new.card
    assert (card.name, card.licence, card.images_seen) == ("mine", "MIT", 8000 + 12 * 8)
    assert card.training_data == "ramps; adapted to 4 pictures of the user's"
    assert (card.sigma_max, card.channels) == (40.0, 1)
    record = json.loads((out / "recipe.json").read_text())
    assert (record["lora"], len(record["images"]), len(record["held_out"])) == (2, 4, 1)
    assert record["prior_sha256"] == old.card.checksum
    with (out / "validation.csv").open(newline="") as csv_file:
        table = list(csv.DictReader(csv_file))
    assert [row["step"] for row in table] == ["0", "12"]
    held = torch.stack([picture_of(path) for path in record["held_out"]])
    noise = torch.randn(held.shape[1:], generator=stream(0, 0, 3))
    for row, prior in zip(table, (old, new), strict=True):
        errors = (prior(held + 25 / 255 * noise, 25 / 255).clamp(0, 1) - held).square().mean()
        assert float(row["held_out_psnr25"]) == pytest.approx(float(-10 * errors.log10()), abs=2e-3)
    with Image.open(out / "denoised.png") as picture:
        assert picture.size == (24, 4 * 24)
    said = " ".join(capsys.readouterr().err.split())
    assert "held-out pictures (1): " in said
    assert f"--prior {out}" in said


def test_with_fewer_than_four_pictures_none_is_held_out_and_that_is_said(
    settings: Make, tmp_path: Path, striped: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    adapt(settings(images=striped[:3], steps=1, samples=9, preserve=0.0), tmp_path / "out")
    assert "fewer than 4" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["held_out"] == {}
    assert "held" not in (tmp_path / "out" / "validation.csv").read_text()


@pytest.mark.parametrize("lora", [None, 2])
def test_a_stopped_run_goes_on_to_the_same_weights(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: int | None
) -> None:
    wanted = settings(lora=lora, steps=6, samples=12)
    whole = adapt(wanted, tmp_path / "whole")
    one_step = Run.one_step

    def stopped(run: Run) -> tuple[float, float]:
        if run.step == 2:
            signal.raise_signal(signal.SIGINT)
        return one_step(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "one_step", stopped)
        with pytest.raises(Stopped, match="step 3 of 6; the same command with --resume") as error:
            adapt(wanted, tmp_path / "out")
    assert error.value.exit_code == 130
    parts = adapt(wanted, tmp_path / "out", resume=True)
    first, second = (load(file).network.state_dict() for file in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    steps = [line.split(",")[0] for line in (tmp_path / "out" / "log.csv").read_text().splitlines()]
    assert steps == ["step", "6"]
    with pytest.raises(RequestError, match="begun with other seed"):
        adapt(settings(lora=lora, steps=6, samples=12, seed=1), tmp_path / "out", resume=True)
    with pytest.raises(RequestError, match="already holds a prior; choose another --out"):
        adapt(wanted, tmp_path / "out")


def test_a_prior_with_classes_and_one_size_is_adapted_to_a_label(
    tmp_path: Path, striped: list[str], settings: Make
) -> None:
    network = DiT(size=16, channels=1, patch=4, width=16, depth=1, heads=2, classes=3)
    file = tmp_path / "dit.safetensors"
    save_prior(
        file, network, VP(), Card(name="dit", channels=1, size=16, classes=3, sigma_min=0.01, sigma_max=70.0)
    )
    wanted = settings(prior=str(file), crop=None, label=1, steps=3, samples=10, images=striped[:2])
    run = Run(wanted, tmp_path / "out")
    run.begin()
    told = run._labels()
    assert told is not None
    assert told[:4].tolist() == [1, 1, 1, 1]
    assert run.crop == 16
    adapted = load(adapt(wanted, tmp_path / "out"))
    assert (adapted.card.size, adapted.card.classes) == (16, 3)
    with pytest.raises(RequestError, match="knows labels 0 to 2"):
        adapt(settings(prior=str(file), crop=None, label=3), tmp_path / "other")
    with pytest.raises(RequestError, match="knows pictures of 16×16 alone, got 8"):
        adapt(settings(prior=str(file), crop=8), tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": 15}, "expected a multiple of 2"),
        ({"crop": 26}, r"24×24 pixels, smaller than the crop of 26; leave it out"),
        ({"images": ["missing.png"]}, "missing.png: no such file"),
        ({"lora": 500}, "no layer of the network is large enough"),
        ({"label": 0}, "knows no labels"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    settings: Make, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        adapt(settings(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_prior_that_is_no_network_of_ours_is_refused(settings: Make, tmp_path: Path) -> None:
    class Foreign(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    foreign = NetworkPrior(Foreign(), EDM(), Card(name="foreign", format="diffusers UNet2DModel"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("invdiff.training.adapt.load_prior", lambda *_, **__: foreign)
        with pytest.raises(
            RequestError, match="diffusers UNet2DModel cannot be adapted; expected a network of unet"
        ):
            adapt(settings(), tmp_path / "out")
