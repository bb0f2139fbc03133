"""Conditional networks: trained from nothing, from a prior, beside a frozen one, and by SR3's own objective."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from invdiff import config, load_prior
from invdiff.errors import RequestError
from invdiff.operators import Downsample, Mask, patterns
from invdiff.priors import EDM, VP, Card, ConditionalNetwork, Flow, NetworkPrior, save_prior
from invdiff.priors.nets.control import ControlNet
from invdiff.priors.nets.dit import DiT
from invdiff.priors.nets.unet import UNet
from invdiff.priors.precondition import Precondition
from invdiff.training import Recipe, Stopped, checkpoint, loop, train
from invdiff.training.adapt import Adaptation, adapt
from invdiff.training.distributed import Processes
from invdiff.training.loop import Run
from invdiff.training.objective import Task
from invdiff.training.progress import Reporter
from invdiff.training.recipe import Noise, Objective

Write = Callable[..., Path]

UNET = {"channels": 3, "widths": [8, 16], "blocks": [1, 1], "embedding": 16}
DIT = {"channels": 3, "size": 16, "patch": 2, "width": 16, "depth": 2, "heads": 2}
AS_DIT = {**DIT, "kind": "dit", "widths": [96, 128, 192], "blocks": [2, 2, 2], "embedding": 128}
"""The fixture's recipe is of a UNet, whose numbers a DiT's must not have."""

RANDOM: dict[str, Any] = {
    "operator": {
        "choice": [
            {"mask": {"pattern": "random", "missing": {"uniform": [0.2, 0.8]}, "seed": {"integer": [0, 999]}}},
            [{"blur": {"kernel": "gaussian", "std": {"log_uniform": [0.3, 1.5]}}}, {"downsample": {"factor": 2}}],
        ]
    },
    "noise": [0.0, 0.1],
    "augment": 0.1,
    "dropout": 0.2,
}  # fmt: skip
SR: dict[str, Any] = {"operator": {"downsample": {"factor": 4}}}


def load(path: Path) -> ConditionalNetwork:
    prior = load_prior(path, precision="float32")
    assert isinstance(prior, ConditionalNetwork)
    return prior


def start(recipe: Path, out: Path) -> Run:
    return Run(config.load(Recipe, recipe), out, Processes("cpu"), Reporter(quiet=True))


def begun(recipe: Path, out: Path) -> ConditionalNetwork:
    """The prior of a run at step 0."""
    prior = start(recipe, out).prior()
    assert isinstance(prior, ConditionalNetwork)
    return prior


def unconditional(path: Path, network: Any, precondition: Precondition | None = None, **card: Any) -> str:
    """The file of a prior whose every weight is drawn, so that nothing of it is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(0.1 * torch.randn(weights.shape, generator=generator))
    save_prior(path, network, precondition or EDM(), Card(name="start", channels=3, images_seen=1000, **card))
    return str(path)


def noisy(size: int = 16, channels: int = 3) -> tuple[Tensor, Tensor]:
    """x_σ of two pictures and something to show beside, in [-1, 1]."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(2, 3, size, size, generator=generator) + 0.3 * torch.randn(
        2, 3, size, size, generator=generator
    )
    return x, 2 * torch.rand(2, channels, size, size, generator=generator) - 1


# ------------------------------------------------------------------------------------------------ a run as any other


def test_a_stopped_run_of_random_measurements_goes_on_bit_for_bit(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(condition=RANDOM, images=32)
    train(path, tmp_path / "straight")
    one_step = Run.one_step

    def stops(run: Run) -> tuple[float, float]:
        if run.step == 3:
            loop.signal.raise_signal(loop.signal.SIGINT)
        return one_step(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "one_step", stops)
        with pytest.raises(Stopped):
            train(path, tmp_path / "stopped")
    torch.manual_seed(99)  # no global stream has a part in it
    train(path, tmp_path / "stopped", resume=True)
    newest = [checkpoint.newest(tmp_path / name / "checkpoints") for name in ("straight", "stopped")]
    (straight, _), (stopped, _) = (checkpoint.load(path) for path in newest if path)
    assert straight.keys() == stopped.keys()
    assert [name for name, value in straight.items() if not torch.equal(stopped[name], value)] == []
    picture = "samples.png"
    assert (tmp_path / "straight" / picture).read_bytes() == (tmp_path / "stopped" / picture).read_bytes()


def test_a_run_leaves_a_prior_that_says_what_it_was_trained_for(recipe: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    prior = load(train(recipe(condition=RANDOM, images=16), out))
    told = prior.condition
    assert told.tasks == ("inpainting", "deblurring, then super-resolution ×2 (bicubic)")
    assert (told.noise, told.mask, told.augment, told.dropout) == (0.1, True, 0.1, 0.2)
    assert told.operators == RANDOM["operator"]
    keep = Mask(patterns.random((16, 16), missing=0.4, seed=1), 3)
    seeing = prior.seeing(keep.A(torch.rand(2, 3, 16, 16)), keep, 0.05, guidance=2.0)
    assert seeing(noisy()[0], 0.3).isfinite().all()
    four = Downsample(4, (3, 16, 16))
    with pytest.raises(RequestError, match=r"was trained for inpainting or .*; got super-resolution ×4"):
        prior.seeing(four.A(torch.rand(2, 3, 16, 16)), four)


def test_the_scores_are_of_what_was_shown_of_a_sample_and_of_the_mean(recipe: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    path = recipe(condition={**SR, "residual": True, "dropout": 0.9}, noise={"sigma_data": 0.2}, images=16)
    train(path, out)
    with (out / "validation.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["step", "images", "seconds", "shown", "sample", "mean"]
    clean = start(path, tmp_path / "again").pictures.validation
    y = Downsample(4, (3, 24, 24)).A(clean)
    enlarged = torch.nn.functional.interpolate(y, size=(24, 24), mode="bicubic").clamp(0, 1)
    psnr = (-10 * (enlarged - clean).square().mean(dim=(1, 2, 3)).log10()).mean()
    assert float(row["shown"]) == pytest.approx(float(psnr), abs=0.01)  # and dropout leaves none of them out
    assert float(row["mean"]) == pytest.approx(
        float(row["shown"]), abs=1.5
    )  # the picture shown, hardly trained
    with Image.open(out / "samples.png") as picture:
        assert picture.size == (2 * 24, 4 * 24)  # shown, sample, mean, clean


def test_the_network_learns_to_use_what_it_is_shown(recipe: Write, tmp_path: Path) -> None:
    path = recipe(
        condition={"operator": {"downsample": {"factor": 2}}}, noise={"mean": 0.0}, images=200 * 8, batch=8,
        samples=0, data={"validation": 0},
    )  # fmt: skip
    run = start(path, tmp_path)
    prior = load(train(path, tmp_path / "run"))
    x0 = run.pictures.batch(0, size=16, crop=16, seed=5)
    x = x0 + torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    two = Downsample(2, (3, 16, 16))
    seen, others = (prior.seeing(two.A(of), two)(x, 1.0) for of in (x0, x0.flip(0)))
    errors = [float((answer - x0).square().mean()) for answer in (seen, others, torch.full_like(x0, 0.5))]
    assert errors[0] < 0.4 * errors[1]
    assert errors[0] < 0.4 * errors[2]


def test_a_batch_in_parts_and_a_batch_of_another_process_see_what_one_process_would(
    recipe: Write, tmp_path: Path
) -> None:
    whole = start(recipe(condition=RANDOM), tmp_path)
    parts = start(recipe(condition=RANDOM, accumulate=4), tmp_path)
    for _ in range(3):
        assert parts.one_step() == pytest.approx(whole.one_step(), rel=1e-4)


def test_the_variance_and_labels_go_with_a_condition(recipe: Write, tmp_path: Path, folder: Path) -> None:
    for index, file in enumerate(sorted(folder.glob("*.png"))):
        (folder / str(index % 2)).mkdir(exist_ok=True)
        file.rename(folder / str(index % 2) / file.name)
    path = recipe(
        condition=SR, network={"variance": True, "classes": 2}, objective={"kind": "ddpm"}, images=8
    )
    prior = load(train(path, tmp_path / "run"))
    assert prior.given(1).shown(*noisy(), 0.3).shape == (2, 3, 16, 16)


# ----------------------------------------------------------------------------------------------------- from a prior


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_begun_from_a_prior_it_is_that_prior_whatever_it_is_shown(
    recipe: Write, tmp_path: Path, kind: str
) -> None:
    network: Any = UNet(**UNET) if kind == "unet" else DiT(**DIT)
    source = unconditional(tmp_path / "start.safetensors", network)
    shape = UNET if kind == "unet" else AS_DIT
    data = {} if kind == "unet" else {"validation_crop": 16}
    path = recipe(condition=RANDOM, network=shape, start_from=source, data=data)
    run = start(path, tmp_path / "run")
    prior, before = run.prior(), load_prior(source, precision="float32")
    assert isinstance(prior, ConditionalNetwork)
    x, shown = noisy(channels=5)
    for sigma in (0.05, 1.0):
        answer = prior.shown(x, shown, sigma)
        assert torch.equal(answer, prior.shown(x, torch.zeros_like(shown), sigma))
        assert torch.allclose(answer, before(x, sigma), rtol=0, atol=2e-6)
    assert run.images == 1000
    run.one_step()
    assert not torch.equal(
        run.network.get_parameter("stem.weight")[:, -1], torch.zeros(())
    )  # it learns to look


def test_a_residual_begun_from_a_prior_has_a_head_of_zero_and_all_else_of_the_prior(
    recipe: Write, tmp_path: Path
) -> None:
    source = unconditional(tmp_path / "start.safetensors", UNet(**UNET))
    residual = {**SR, "residual": True}
    run = start(recipe(condition=residual, start_from=source, noise={"sigma_data": 0.2}), tmp_path / "run")
    weights, before = run.network.state_dict(), load_prior(source, precision="float32")
    assert isinstance(before, NetworkPrior)
    for name, value in before.network.state_dict().items():
        if name.startswith("head."):
            assert not weights[name].any(), name
        else:
            assert torch.equal(
                weights[name][:, : value.shape[1]] if name == "stem.weight" else weights[name], value
            )
    assert run.task.precondition == EDM(sigma_data=0.2)  # the residual's own


def test_a_residual_begun_from_a_residual_goes_on_as_it_was(recipe: Write, tmp_path: Path) -> None:
    residual = {**SR, "residual": True}
    first = train(recipe(condition=residual, images=16, data={"validation": 0}), tmp_path / "first")
    prior = begun(recipe(condition=residual, start_from=str(first)), tmp_path / "run")
    x, shown = noisy()
    assert prior.network.get_parameter("head.weight").any()
    assert torch.equal(prior.shown(x, shown, 0.4), load(first).shown(x, shown, 0.4))
    with pytest.raises(RequestError, match=r"EDM.*sigma_data=0.2"):
        start(recipe(condition=residual, start_from=str(first), noise={"sigma_data": 0.2}), tmp_path / "run")


def test_the_loss_of_a_residual_is_that_of_what_the_picture_shown_lacks(
    recipe: Write, tmp_path: Path
) -> None:
    path = recipe(condition={**SR, "residual": True}, noise={"sigma_data": 0.2})
    run = start(path, tmp_path / "run")
    x0 = run.pictures.batch(0, size=4, crop=16, seed=0)
    sigma = 2 * run.task.draw_sigma(4, loop.stream(0, 0, 1))[:, None, None, None]  # in the network's range
    epsilon = torch.randn(x0.shape, generator=loop.stream(0, 0, 2))
    y = Downsample(4, (3, 16, 16)).A(x0)
    lacks = 2 * (x0 - torch.nn.functional.interpolate(y, size=(16, 16), mode="bicubic"))
    total = sigma**2 + 0.2**2
    target = (lacks - 0.2**2 / total * (lacks + sigma * epsilon)) * total.sqrt() / (0.2 * sigma)
    assert run.one_step()[0] == pytest.approx(float(target.square().mean()), rel=1e-5)  # F is 0 at first


def test_a_new_residual_begins_as_the_picture_it_is_shown(recipe: Write, tmp_path: Path) -> None:
    prior = begun(recipe(condition={**SR, "residual": True}, noise={"sigma_data": 0.2}), tmp_path / "run")
    x, shown = noisy()
    picture = (shown + 1) / 2
    assert torch.allclose(prior.shown(picture + 40 * (x - picture), shown, 40.0), picture, atol=1e-3)
    c_skip = 0.2**2 / (0.2**2 + (2 * 0.1) ** 2)
    assert torch.allclose(prior.shown(x, shown, 0.1), picture + c_skip * (x - picture), atol=1e-6)


@pytest.mark.parametrize(
    ("network", "precondition", "said"),
    [
        (UNet(**{**UNET, "widths": [8, 24]}), EDM(), "is a network of another shape than the recipe's"),
        (DiT(**DIT), EDM(), "is a network of another shape than the recipe's"),
        (UNet(**UNET), Flow(), "expected a prior with EDM.*has Flow"),
        (UNet(**UNET), EDM(sigma_data=0.3), "expected a prior with EDM.*has EDM.*0.3"),
    ],
)
@pytest.mark.parametrize("control", [False, True])
def test_a_prior_of_another_shape_or_precondition_is_refused(
    recipe: Write, tmp_path: Path, network: Any, precondition: Precondition, said: str, control: bool
) -> None:
    source = unconditional(tmp_path / "start.safetensors", network, precondition)
    with pytest.raises(RequestError, match=f"start_from: .*{said}"):
        start(recipe(condition={**SR, "control": control}, start_from=source), tmp_path / "run")


def test_a_prior_that_was_shown_other_things_in_as_many_channels_is_refused(
    recipe: Write, tmp_path: Path
) -> None:
    masks = {"operator": {"mask": {"pattern": "random", "missing": 0.5}}}
    first = train(recipe(condition=masks, images=8, data={"validation": 0}), tmp_path / "first")
    with pytest.raises(
        RequestError, match="was shown pictures and masks, the recipe shows pictures and the noise"
    ):
        start(recipe(condition={**SR, "augment": 0.1}, start_from=str(first)), tmp_path / "run")
    other = {"operator": {"mask": {"pattern": "box", "height": 4}}}
    assert begun(recipe(condition=other, start_from=str(first)), tmp_path / "run").card.images_seen == 8


# -------------------------------------------------------------------------------------------- beside a frozen prior


@pytest.fixture
def control(recipe: Write, tmp_path: Path) -> tuple[Path, NetworkPrior]:
    """The recipe of a control network, and the prior that it holds."""
    source = unconditional(tmp_path / "start.safetensors", UNet(**UNET))
    before = load_prior(source, precision="float32")
    assert isinstance(before, NetworkPrior)
    path = recipe(
        condition={**RANDOM, "control": True}, start_from=source, images=24, optimiser={"warmup": 0},
        data={"validation": 0},
    )  # fmt: skip
    return path, before


def test_a_control_network_begins_as_its_prior(control: tuple[Path, NetworkPrior], tmp_path: Path) -> None:
    path, before = control
    prior = begun(path, tmp_path / "run")
    assert isinstance(prior.network, ControlNet)
    x, shown = noisy(channels=5)
    assert torch.equal(prior.shown(x, shown, 0.3), before(x, 0.3))


def test_training_a_control_network_leaves_its_prior_alone(
    control: tuple[Path, NetworkPrior], tmp_path: Path
) -> None:
    path, before = control
    run = start(path, tmp_path / "run")
    first = {name: value.clone() for name, value in run.network.state_dict().items()}
    optimised = {id(weights) for group in run.optimiser.param_groups for weights in group["params"]}
    expected = {name for name, _ in run.network.named_parameters() if name.partition(".")[0] != "base"}
    assert {name for name, weights in run.network.named_parameters() if id(weights) in optimised} == expected
    assert {name.partition(".")[0] for name in expected} == {"copy", "hint", "join"}
    for _ in range(5):
        run.one_step()
    for weights in (run.network.state_dict(), run.ema.module.state_dict()):
        same = {name for name, value in weights.items() if torch.equal(value, first[name])}
        assert {name for name in weights if name.startswith("base.")} <= same
        assert not {name for name in expected & same if name.startswith(("join", "hint"))}
    base = {
        name.removeprefix("base."): value
        for name, value in run.network.state_dict().items()
        if "base." in name
    }
    assert all(torch.equal(base[name], value) for name, value in before.network.state_dict().items())


def test_a_control_network_resumes_and_is_loaded_restored_with_and_begun_from(
    control: tuple[Path, NetworkPrior], recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = control
    one_step = Run.one_step

    def stops(run: Run) -> tuple[float, float]:
        if run.step == 2:
            loop.signal.raise_signal(loop.signal.SIGINT)
        return one_step(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "one_step", stops)
        with pytest.raises(Stopped):
            train(path, tmp_path / "stopped")
    straight, stopped = train(path, tmp_path / "straight"), train(path, tmp_path / "stopped", resume=True)
    prior = load(straight)
    assert prior.card.images_seen == 1000 + 24
    x, shown = noisy(channels=5)
    assert torch.equal(prior.shown(x, shown, 0.3), load(stopped).shown(x, shown, 0.3))
    assert not torch.equal(prior.shown(x, shown, 0.3), before(x, 0.3))
    keep = Mask(patterns.random((19, 21), missing=0.4, seed=1), 3)
    seeing = prior.seeing(keep.A(torch.rand(1, 3, 19, 21)), keep)
    assert seeing(torch.rand(1, 3, 19, 21), 0.3).isfinite().all()
    again = recipe(condition={**RANDOM, "control": True}, start_from=str(straight))
    assert torch.equal(begun(again, tmp_path / "more").shown(x, shown, 0.3), prior.shown(x, shown, 0.3))


# ------------------------------------------------------------------------------------------------- SR3's objective

SR3 = Objective(kind="ddpm", steps=2000, beta_start=1e-6, beta_end=1e-2, continuous=True)
ALPHA_BAR = (1 - torch.linspace(1e-6, 1e-2, 2000, dtype=torch.float64)).cumprod(0)


@pytest.mark.parametrize("objective", [SR3, replace(SR3, steps=3, beta_start=0.3, beta_end=0.7)])
def test_sr3_draws_alpha_bar_evenly_between_two_steps_of_a_step_drawn_evenly(objective: Objective) -> None:
    """Saharia et al. 2021, section 2.4: t ~ {1 … T}, γ ~ U(γ_{t−1}, γ_t), written literally. With three steps it shows
    whether γ is even, or its root; levels below the first step's are that."""
    o, count = objective, 40_000
    alpha_bar = (1 - torch.linspace(o.beta_start, o.beta_end, o.steps, dtype=torch.float64)).cumprod(0)
    drawn = Task(o, Noise()).draw_sigma(count, torch.Generator().manual_seed(0)).double()
    found = 1 / (1 + (2 * drawn) ** 2)
    generator = torch.Generator().manual_seed(1)
    ends = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar])
    t = torch.randint(1, o.steps + 1, (count,), generator=generator)
    share = torch.rand(count, generator=generator, dtype=torch.float64)
    wanted = ends[t - 1] + share * (ends[t] - ends[t - 1])
    assert found.max() <= alpha_bar[0] * (1 + 1e-6)
    below = [gamma[gamma < alpha_bar[0] * (1 - 1e-6)] for gamma in (found, wanted)]
    assert len(below[0]) / count == pytest.approx(1 - 1 / o.steps, abs=0.01)
    sizes = [len(gamma) for gamma in below]
    _, order = torch.cat(below).sort()
    apart = torch.where(order < sizes[0], 1 / sizes[0], -1 / sizes[1]).cumsum(0).abs().max()
    assert apart < 1.63 * (1 / sizes[0] + 1 / sizes[1]) ** 0.5  # Kolmogorov and Smirnov, 1 %


def test_sr3s_network_is_told_the_root_of_alpha_bar() -> None:
    task = Task(SR3, Noise())
    assert isinstance(task.precondition, VP)
    assert task.precondition.levels == ()  # a continuum
    sigma = ((1 - ALPHA_BAR) / ALPHA_BAR).sqrt().float() / 2
    x = torch.zeros(2000, 1, 1, 1)
    given, told = task.precondition.inputs(x, sigma)
    assert torch.allclose(told.double(), SR3.clock * ALPHA_BAR.sqrt(), rtol=1e-5)
    assert torch.allclose(given.flatten().double(), -ALPHA_BAR.sqrt(), rtol=1e-5)  # 0 is −1 in its range
    low, high = task.range
    assert low == pytest.approx(5e-4, rel=1e-3)  # √(10⁻⁶)/2
    assert high == pytest.approx(float(((1 - ALPHA_BAR[-1]) / ALPHA_BAR[-1]).sqrt() / 2), rel=1e-6)
    drawn = task.draw_sigma(20_000, torch.Generator().manual_seed(0))
    assert low <= drawn.min()
    assert drawn.max() <= high


def test_sr3s_target_is_what_makes_d_the_clean_picture() -> None:
    task, (x0, epsilon) = Task(SR3, Noise()), noisy()
    sigma = torch.tensor([0.003, 2.7])
    x = x0 + sigma[:, None, None, None] * epsilon
    target = task.precondition.target(x0, x, sigma)
    assert torch.allclose(target, epsilon, atol=1e-3)  # ε, the kind's own
    assert torch.allclose(task.precondition.denoised(x, sigma, target), x0, atol=1e-5)


def test_a_network_is_trained_by_sr3s_objective(recipe: Write, tmp_path: Path) -> None:
    objective = {"kind": "ddpm", "steps": 2000, "beta_start": 1e-6, "beta_end": 1e-2, "continuous": True}
    prior = load(
        train(recipe(condition=SR, objective=objective, images=16, sample_steps=4), tmp_path / "run")
    )
    assert (prior.card.sigma_min, prior.card.sigma_max) == Task(SR3, Noise()).range
    assert prior.precondition == Task(SR3, Noise()).precondition
    assert prior.shown(*noisy(), 0.4).isfinite().all()


# ----------------------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("condition={operater: identity}", "unknown key condition.operater. Did you mean 'operator'?"),
        ("condition={noise: 0.1}", "condition.operator is missing"),
        ("condition={operator: identity, noise: [0.2, 0.1]}", "condition.noise: expected the lower end first"),
        ("condition={operator: identity, noise: -0.1}", "condition.noise"),
        ("condition={operator: identity, augment: -1}", "condition.augment: expected greater than or equal to 0"),
        ("condition={operator: identity, dropout: 1}", "condition.dropout: expected less than 1, got 1"),
        (
            "condition={operator: identity, control: true}",
            "condition.control: expected network.kind unet and start_from, the prior to freeze, got unet and nothing",
        ),
        (
            "condition={operator: identity, control: true, residual: true}",
            "condition.residual: not with control, whose frozen prior denoises pictures",
        ),
        ("objective={continuous: true}", "objective.continuous: of objective.kind ddpm alone, got edm"),
    ],
)  # fmt: skip
def test_a_condition_that_cannot_be_is_one_clear_line(recipe: Write, override: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        config.load(Recipe, recipe(), [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_classifier_has_no_condition(recipe: Write) -> None:
    path = recipe(condition=SR, task="classifier", network={"kind": "classifier", "classes": 2})
    with pytest.raises(RequestError, match="condition: goes with task: prior, got task: classifier"):
        config.load(Recipe, path)


def test_a_conditional_prior_is_not_adapted(recipe: Write, tmp_path: Path, folder: Path) -> None:
    path = train(recipe(condition=SR, images=4, data={"validation": 0}), tmp_path / "run")
    settings = Adaptation(images=[str(folder / "0.png")], prior=str(path))
    with pytest.raises(RequestError, match=r"prior tiny is a conditional model .*cannot be adapted"):
        adapt(settings, tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
