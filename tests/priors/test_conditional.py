"""Conditional networks: what they are shown of a measurement, what they are for, and that they are priors as others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import invdiff
from invdiff import catalog, operators
from invdiff.errors import InvdiffError, RequestError
from invdiff.evaluation.prior_check import check_prior
from invdiff.methods.density import log_density
from invdiff.operators import OPERATORS, Operator, kernels, per_image
from invdiff.priors import EDM, Card, FunctionPrior, Prior, load_prior, save_prior
from invdiff.priors.base import Condition
from invdiff.priors.conditional import (
    ConditionalNetwork,
    ConditionalPrior,
    Joint,
    Sees,
    check_task,
    condition_of,
    picture_of,
    shown_of,
    task_of,
)
from invdiff.priors.fit import fit
from invdiff.priors.guidance import ClassifierFree
from invdiff.training.adapt import Adaptation, adapt

SR4 = "super-resolution ×4 (bicubic)"
SHAPE = (3, 16, 12)
Make = Callable[..., ConditionalNetwork]


@pytest.fixture
def conditional(make_network: Callable[..., Any]) -> Make:
    """conditional(dropout=0.1, ...): a random network for super-resolution by 4, its condition's settings by name."""

    def make(**settings: Any) -> ConditionalNetwork:
        condition = Condition(**{"tasks": (SR4,), **settings})
        network = make_network(condition=condition.channels(3))
        return ConditionalNetwork(network, EDM(), Card(name="toy-sr4", channels=3, condition=condition))

    return make


def down(*shape: int, factor: int = 4) -> Operator:
    return operators.Downsample(factor, shape)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ what is shown


def _keep() -> Tensor:
    keep = torch.ones(16, 12, dtype=torch.bool)
    keep[3:7, 2:5] = False
    return keep


OF_GREY: dict[str, tuple[Operator, Tensor | float]] = {
    "mask": (operators.Mask(_keep(), 3), torch.where(_keep(), 0.4, 0.5)),
    "blur": (operators.Blur(kernels.gaussian(1.0), SHAPE, "valid"), 0.4),
    "downsample": (down(*SHAPE), 0.4),
    "blur_downsample": (operators.BlurDownsample(kernels.gaussian(0.5), 2, SHAPE), 0.4),
    "identity": (operators.Identity(SHAPE), 0.4),
    "diagonal": (operators.Diagonal(torch.full(SHAPE, 1.5)), 0.6),
    "demosaic": (operators.Demosaic(SHAPE), 0.4),
    "grayscale": (operators.Grayscale(SHAPE), 0.4),
    "compressed_sensing": (operators.CompressedSensing((3, 8, 8), 1.0), 0.4),
    "clip": (operators.Clip(SHAPE, 2.0), 0.3),
    "quantize": (operators.Quantize(SHAPE, 1), 0.0),
    "jpeg": (operators.JPEG(SHAPE, 95), 0.4),
}
"""Operators, and what is shown of a picture that is 0.4 everywhere."""


@pytest.mark.parametrize("name", OF_GREY)
def test_what_is_shown_of_a_measurement_is_a_picture_of_its_size(name: str) -> None:
    operator, expected = OF_GREY[name]
    x = torch.full((2, *operator.in_shape), 0.4)
    shown = picture_of(operator, operator.A(x))
    assert shown.shape == x.shape
    torch.testing.assert_close(shown, torch.as_tensor(expected).expand_as(x), rtol=0, atol=0.005)


@pytest.mark.parametrize("oversampling", [1.0, 2.0])
def test_what_is_neither_a_picture_nor_linear_is_refused(oversampling: float) -> None:
    assert {*OF_GREY, "phase_retrieval"} == OPERATORS.keys()
    operator = operators.PhaseRetrieval(SHAPE, oversampling)
    with pytest.raises(RequestError, match=r"must be shown a picture, and PhaseRetrieval"):
        picture_of(operator, operator.A(torch.rand(1, *SHAPE)))


def test_fewer_pixels_are_enlarged_by_the_factor_whatever_the_size(pictures: Callable[..., Tensor]) -> None:
    y = pictures(1, 3, 4, 3)
    whole = picture_of(down(*SHAPE), y)
    torch.testing.assert_close(whole, F.interpolate(y, scale_factor=4, mode="bicubic"))
    assert torch.equal(picture_of(down(3, 13, 10), y), whole[..., :13, :10])
    assert picture_of(down(3, 4, 4), y[..., :1, :1]).shape == (1, 3, 4, 4)  # of a single pixel


@pytest.mark.parametrize("size", [33, 64])
def test_a_blur_that_loses_the_border_is_shown_in_its_place(
    size: int, pictures: Callable[..., Tensor]
) -> None:
    x = pictures(1, 1, size, size)
    delta = torch.zeros(5, 5)
    delta[2, 2] = 1
    operator = operators.Blur(delta, (1, size, size), "valid")
    shown = picture_of(operator, operator.A(x))
    torch.testing.assert_close(shown[..., 2:-2, 2:-2], x[..., 2:-2, 2:-2])
    assert torch.equal(shown[..., 0, 2:-2], shown[..., 2, 2:-2])
    # Of fewer pixels the same: a ramp stays one, at every size, moved by (factor − 1)/2.
    ramp = torch.arange(size).float().div(100)[:, None].expand(1, 1, size, size)
    fewer = operators.BlurDownsample(kernels.gaussian(0.8), 2, (1, size, size), "valid")
    moved = (picture_of(fewer, fewer.A(ramp)) - ramp)[..., 10:-10, 10:-10]
    torch.testing.assert_close(moved, torch.full_like(moved, -0.005), rtol=0, atol=0.0015)


def test_of_operators_after_one_another_and_of_multiples_the_way_back_is_shown(
    pictures: Callable[..., Tensor],
) -> None:
    x = pictures(1, *SHAPE)
    operator = down(*SHAPE)
    y = operator.A(x)
    torch.testing.assert_close(picture_of(2 * operator, 2 * y), picture_of(operator, y))
    grey = operators.Grayscale(operator.out_shape)  # type: ignore[arg-type]
    shown = picture_of(grey @ operator, grey.A(y))
    torch.testing.assert_close(shown, picture_of(operator, grey.A(y).expand(-1, 3, -1, -1)))
    sensed = operators.CompressedSensing((3, 4, 2), 1.0)
    both = sensed @ down(3, 8, 4, factor=2)
    y = both.A(x[..., :8, :4])
    torch.testing.assert_close(picture_of(both, y), picture_of(down(3, 8, 4, factor=2), sensed.A_dagger(y)))
    stack = operators.stacked([operators.Identity(SHAPE), operators.Identity(SHAPE)])
    torch.testing.assert_close(picture_of(stack, stack.A(x)), x)


def test_each_picture_is_shown_by_its_own_operator(pictures: Callable[..., Tensor]) -> None:
    masks = [operators.Mask(_keep(), 3), operators.Mask(~_keep(), 3)]
    operator, x = per_image(masks), pictures(2, *SHAPE)
    y = operator.A(x)
    shown = shown_of(Condition(tasks=("inpainting",), mask=True), y, operator, y.new_zeros(2))
    assert shown.shape == (2, 4, 16, 12)
    for i, mask in enumerate(masks):
        torch.testing.assert_close(shown[i, :3], 2 * picture_of(mask, y[i : i + 1])[0] - 1)
        assert torch.equal(shown[i, 3] == 1, mask.keep[0])
        assert torch.equal(shown[i, 3] == -1, ~mask.keep[0])


def test_what_is_shown_has_a_channel_for_each_thing_told(pictures: Callable[..., Tensor]) -> None:
    condition = Condition(tasks=("inpainting",), mask=True, augment=0.3)
    keep = torch.rand(3, 16, 12) > 0.5
    operator, x = operators.Mask(keep, 3), pictures(2, *SHAPE)
    shown = shown_of(condition, operator.A(x), operator, torch.tensor([0.0, 0.25]))
    assert shown.shape[1] == condition.channels(3) == 5
    torch.testing.assert_close(shown[0, 3], 2 * keep.float().mean(0) - 1)
    assert shown[:, 4].flatten(1).unique(dim=1).flatten().tolist() == [0.0, 0.5]


# --------------------------------------------------------------------------------------------- what it is for


def test_a_task_is_named_without_what_varies_in_a_family() -> None:
    assert task_of(down(*SHAPE)) == SR4
    assert task_of(operators.Downsample(4, SHAPE, "box")) == "super-resolution ×4 (box)"
    assert (
        task_of(operators.Downsample(2, SHAPE, edges="reflect")) == "super-resolution ×2 (bicubic, reflect)"
    )
    blurs = [operators.Blur(kernels.gaussian(s), SHAPE, b) for s, b in ((1.0, "circular"), (0.7, "valid"))]  # type: ignore[arg-type]
    assert {task_of(blur) for blur in blurs} == {"deblurring"}
    masks = per_image([operators.Mask(_keep(), 3), operators.Mask(~_keep(), 3)])
    assert task_of(masks) == "inpainting"
    assert task_of(per_image([down(*SHAPE), 3 * down(*SHAPE)])) == SR4
    blurred = down(*SHAPE) @ operators.Blur(kernels.gaussian(1.0), SHAPE)
    assert task_of(blurred) == f"deblurring, then {SR4}"


@pytest.mark.parametrize(
    ("operator", "sigma_y", "said"),
    [
        (down(*SHAPE, factor=2), 0.0, "got super-resolution ×2 (bicubic)"),
        (
            per_image([down(*SHAPE), operators.Downsample(4, SHAPE, "box")]),
            0.0,
            "got super-resolution ×4 (box)",
        ),
        (down(*SHAPE), 0.1, "got noise 0.1"),
    ],
)
def test_another_task_is_refused_with_the_one_it_was_trained_for(
    operator: Operator, sigma_y: float, said: str
) -> None:
    condition = Condition(tasks=(SR4,), noise=0.02)
    with pytest.raises(RequestError) as refused:
        check_task("toy", condition, operator, sigma_y)
    assert str(refused.value) == f"prior toy was trained for {SR4}, noise up to 0.02; {said}"
    check_task("toy", condition, down(*SHAPE), 0.02)
    check_task("toy", dataclasses.replace(condition, noise=0), down(*SHAPE), 1 / 255 / 12**0.5)  # rounding
    check_task("toy", Condition(tasks=(), noise=1.0), operator, sigma_y)  # of anything


@pytest.mark.parametrize("noisy", [{"sigma_y": 0.1}, {"noise": operators.PoissonNoise(20)}], ids=str)
def test_a_wrong_measurement_is_refused_before_a_weight_is_loaded(
    conditional: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noisy: dict[str, Any]
) -> None:
    prior = conditional()
    path = tmp_path / "prior.safetensors"
    save_prior(path, prior.network, prior.precondition, prior.card)
    monkeypatch.setattr(
        import_module("invdiff.restore"), "load_prior", lambda *_, **__: pytest.fail("loaded")
    )
    y = torch.rand(2, 3, 4, 3)
    halves = [down(3, 8, 6, factor=2)] * 2
    for operator in (halves[0], per_image([halves[0], operators.Downsample(2, (3, 8, 6), "box")])):
        with pytest.raises(
            RequestError, match=r"was trained for super-resolution ×4 \(bicubic\), without noise; got"
        ):
            invdiff.restore(y, operator, path)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="without noise; got noise 0"):
        invdiff.restore(y, down(*SHAPE), str(path), **noisy)


def test_a_prior_says_what_it_must_be_shown_before_it_is_loaded(conditional: Make, tmp_path: Path) -> None:
    prior = conditional(dropout=0.25)
    save_prior(tmp_path / "prior.safetensors", prior.network, prior.precondition, prior.card)
    expected = "toy-sr4", prior.card.condition
    for source in (prior, tmp_path, str(tmp_path / "prior.safetensors")):
        assert condition_of(source) == expected
    assert condition_of("natural") == ("natural", None)
    assert condition_of(lambda x, sigma: x)[1] is None
    assert isinstance(load_prior(tmp_path), ConditionalNetwork)


# --------------------------------------------------------------------------------------------- D(x, σ; y)


@pytest.mark.parametrize("residual", [False, True])
def test_guidance_goes_from_what_it_says_shown_nothing_through_what_it_says_of_y(
    conditional: Make, pictures: Callable[..., Tensor], residual: bool
) -> None:
    prior, operator = conditional(dropout=0.2, residual=residual), down(*SHAPE)
    x, y = pictures(2, *SHAPE), pictures(2, 3, 4, 3)
    told, nothing = prior.seeing(y, operator)(x, 0.5), prior(x, 0.5)
    assert (told - nothing).abs().max() > 1e-3
    for guidance in (0.0, 2.5):
        guided = prior.seeing(y, operator, guidance=guidance)(x, 0.5)
        torch.testing.assert_close(guided, nothing + guidance * (told - nothing), rtol=1e-4, atol=1e-5)


def test_guidance_and_augmentation_are_for_networks_that_were_trained_with_them(
    conditional: Make, pictures: Callable[..., Tensor]
) -> None:
    prior, y = conditional(), pictures(1, 3, 4, 3)
    assert isinstance(prior, ConditionalPrior)
    with pytest.raises(RequestError, match="guidance 2: prior toy-sr4 was always shown its measurement"):
        prior.seeing(y, down(*SHAPE), guidance=2.0)
    with pytest.raises(RequestError, match=r"knows noise on what it is shown up to 0, got 0\.1"):
        prior.seeing(y, down(*SHAPE), augment=0.1)
    with pytest.raises(RequestError, match="expected pictures of 3 channels, got 1"):
        prior.seeing(y[:, :1], down(1, 16, 12))
    with pytest.raises(RequestError, match="guidance 2: prior toy-sr4 was always shown"):
        invdiff.restore(y, down(*SHAPE), prior, guidance=2.0)
    with pytest.raises(RequestError, match="guidance: expected a finite number"):
        invdiff.restore(y, down(*SHAPE), conditional(dropout=0.1), guidance=float("nan"))
    with pytest.raises(RequestError, match="label 1: prior toy-sr4 knows no labels"):
        invdiff.restore(y, down(*SHAPE), prior, label=1)
    guided = invdiff.restore(y, down(*SHAPE), conditional(dropout=0.1), guidance=2.0, steps=2)
    assert (guided.method, guided.evaluations) == ("sr3", 4)


@pytest.mark.parametrize("residual", [False, True])
def test_a_large_picture_in_windows_is_what_the_whole_of_it_gives(
    conditional: Make, pictures: Callable[..., Tensor], residual: bool
) -> None:
    prior = conditional(residual=residual, augment=0.2)
    operator = down(3, 268, 252)
    x, y = pictures(1, 3, 268, 252), pictures(1, 3, 67, 63)
    whole = prior.seeing(y, operator, augment=0.1)
    parts = prior.seeing(y, operator, augment=0.1, memory=2**22)
    assert not fit(whole.prior)
    assert "windows of " in fit(parts.prior)[0]
    assert Joint(prior).noiseless == ClassifierFree(Joint(prior), Joint(prior), 2.0).noiseless == 4
    with torch.no_grad():
        torch.testing.assert_close(parts(x, 0.3), whole(x, 0.3), rtol=1e-4, atol=1e-4)


def test_each_row_sees_its_own_measurement(conditional: Make, pictures: Callable[..., Tensor]) -> None:
    prior = conditional(residual=True)
    x, y = pictures(3, *SHAPE), pictures(3, 3, 4, 3)
    seeing = prior.seeing(y, down(*SHAPE))
    assert isinstance(seeing, Sees)
    together = seeing(x, 0.3)
    picked = seeing.pick([2, 0])
    torch.testing.assert_close(picked(x[[2, 0]], 0.3), together[[2, 0]], rtol=1e-4, atol=1e-5)
    assert seeing.centre is not None
    assert picked.centre is not None
    torch.testing.assert_close(seeing.centre, picture_of(down(*SHAPE), y))
    assert torch.equal(picked.centre, seeing.centre[[2, 0]])
    assert conditional().seeing(y, down(*SHAPE)).centre is None
    with pytest.raises(ValueError, match="sees 3 measurements, expected as many pictures, got 2"):
        seeing(x[:2], 0.3)


@pytest.mark.parametrize("method", ["sr3", "dps"])
def test_a_picture_of_a_batch_is_restored_as_alone(
    conditional: Make, pictures: Callable[..., Tensor], method: str
) -> None:
    prior, y = conditional(), pictures(3, 3, 4, 3)

    def restored(y: Tensor, batch: int) -> Tensor:
        return invdiff.restore(y, down(*SHAPE), prior, method=method, steps=3, samples=2, batch=batch).samples

    together = restored(y, 4)
    assert (together[0] - together[1]).abs().max() > 1e-3
    for i in range(3):
        torch.testing.assert_close(together[:, i], restored(y[i : i + 1], 1)[:, 0], rtol=1e-3, atol=1e-4)


def test_gradients_reach_the_picture_and_not_what_is_shown(
    conditional: Make, pictures: Callable[..., Tensor]
) -> None:
    seeing = conditional().seeing(pictures(2, 3, 4, 3), down(*SHAPE))
    x = pictures(2, *SHAPE).requires_grad_()
    (gradient,) = torch.autograd.grad(seeing(x, 0.3)[0].sum(), x)
    assert gradient[0].abs().max() > 0
    assert not gradient[1].any()
    assert not seeing.shown.requires_grad


@pytest.mark.parametrize("method", ["auto", "ddnm", "diffpir", "mmps", "dps", "pigdm", "red_diff"])
def test_every_family_of_methods_runs_on_what_sees_the_measurement(
    conditional: Make, pictures: Callable[..., Tensor], method: str
) -> None:
    prior, y = conditional(residual=True), pictures(2, 3, 4, 3)
    result = invdiff.restore(y, down(*SHAPE), prior, method=method, steps=2)
    assert result.method == ("sr3" if method == "auto" else method)
    assert result.samples.isfinite().all()
    other = invdiff.restore(y.flip(0), down(*SHAPE), prior, method=method, steps=2, seed=0)
    assert (other.samples.flip(1) - result.samples).abs().max() < 1e-3  # the draws are the picture's own


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (13, 7)])
def test_any_size_is_restored(
    conditional: Make, pictures: Callable[..., Tensor], size: tuple[int, int]
) -> None:
    operator = down(3, *size)
    y = pictures(1, *operator.out_shape)
    result = invdiff.restore(y, operator, conditional(residual=True), steps=2, options={"consistency": True})
    assert result.samples.shape == (1, 1, 3, *size)
    torch.testing.assert_close(operator.A(result.samples[0]), y, rtol=0, atol=1e-4)


def test_pictures_with_an_operator_each_are_restored_by_theirs(
    conditional: Make, pictures: Callable[..., Tensor]
) -> None:
    prior, x = conditional(tasks=("inpainting",), mask=True), pictures(2, *SHAPE)
    operator = per_image([operators.Mask(_keep(), 3), operators.Mask(~_keep(), 3)])
    y = operator.A(x)
    both = invdiff.restore(y, operator, prior, steps=2)
    alone = invdiff.restore(y[1:], operator.pick([1]), prior, steps=2)
    assert both.method == "sr3"
    torch.testing.assert_close(both.samples[:, 1:], alone.samples)
    assert torch.equal(both.mean[1][:, ~_keep()], x[1][:, ~_keep()])


# --------------------------------------------------------------------------------- where none fits, or none is asked


@pytest.fixture
def catalogued(conditional: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a conditional model that stands in a prior's stead that is called plain."""
    prior = conditional()
    path = tmp_path / "plain-sr4.safetensors"
    save_prior(path, prior.network, prior.precondition, dataclasses.replace(prior.card, name="plain-sr4"))
    monkeypatch.setenv(catalog.PRIORS_VARIABLE, str(tmp_path))
    info = dataclasses.replace(
        catalog.PRIORS["mnist"], name="plain-sr4", file=path.name, sha256="", channels=3, size=None,
        classes=0, tasks=(SR4,), instead_of="plain",
    )  # fmt: skip
    monkeypatch.setitem(catalog.PRIORS, "plain-sr4", info)
    return "plain-sr4"


def plain() -> Prior:
    return FunctionPrior(lambda x, sigma: x / (1 + sigma**2), Card(name="plain", channels=3))


def test_sr3_takes_the_conditional_model_that_knows_the_same_pictures(
    catalogued: str, pictures: Callable[..., Tensor]
) -> None:
    y = pictures(1, 3, 4, 3)
    result = invdiff.restore(y, down(*SHAPE), plain(), method="sr3", steps=2)
    direct = invdiff.restore(y, down(*SHAPE), catalogued, steps=2)
    assert torch.equal(result.samples, direct.samples)
    assert result.reason == f"asked for; {catalogued} is the conditional model for {SR4}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": down(*SHAPE, factor=3)},
        {"sigma_y": 0.1},
        {"sigma_y": "auto"},
        {"noise": operators.PoissonNoise(20)},
        {"op": per_image([down(*SHAPE), operators.Downsample(4, SHAPE, "box")])},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_where_no_model_fits_sr3_says_so_and_falls_back(
    catalogued: str, pictures: Callable[..., Tensor], wrong: dict[str, Any]
) -> None:
    operator = wrong.get("op", down(3, 32, 24))
    y = pictures(2, *operator.out_shape)
    with pytest.warns(
        UserWarning, match="no conditional model of prior plain for .*there is plain-sr4"
    ) as told:
        result = invdiff.restore(
            y,
            prior=plain(),
            method="sr3",
            steps=2,
            options={"consistency": True},
            **{"op": operator, **wrong},
        )
    assert len(told) == 1
    assert result.method == "mmps"
    assert "no conditional model of prior plain" in result.reason


def test_a_model_whose_weights_are_not_here_is_told_with_the_place_to_put_them(
    catalogued: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(catalog.PRIORS_VARIABLE, str(tmp_path / "elsewhere"))
    assert catalog.model_for("plain", SR4, 0.0) is None
    assert "plain-sr4.safetensors does not come with the package; put it at" in catalog.no_model(
        "plain", SR4, 0.0
    )


def test_what_needs_no_measurement_is_refused_a_network_that_does(
    conditional: Make, pictures: Callable[..., Tensor], tmp_path: Path
) -> None:
    prior = conditional()
    needs = r"prior toy-sr4 must be shown a measurement \(super-resolution ×4 \(bicubic\), without noise\)"
    x = pictures(4, *SHAPE)
    with pytest.raises(InvdiffError, match=needs):
        prior(x, 0.1)
    with pytest.raises(RequestError, match=needs):
        invdiff.sample(prior, SHAPE, steps=2)
    with pytest.raises(RequestError, match=needs):
        check_prior(prior, x)
    with pytest.raises(InvdiffError, match=needs):
        log_density(prior, x)
    save_prior(tmp_path / "prior.safetensors", prior.network, prior.precondition, prior.card)
    with pytest.raises(RequestError, match=r"toy-sr4 is a conditional model .* cannot be adapted"):
        adapt(Adaptation(images=["a.png"], prior=str(tmp_path)), tmp_path / "out")


def test_trained_with_dropout_it_is_a_prior_of_its_own(
    conditional: Make, pictures: Callable[..., Tensor]
) -> None:
    prior = conditional(dropout=0.1, residual=True)
    assert invdiff.sample(prior, SHAPE, steps=2).samples.isfinite().all()
    assert log_density(prior, pictures(1, 3, 2, 2), steps=1).isfinite().all()
