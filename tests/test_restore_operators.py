"""`invdiff.restore` over every operator and noise model: each is restored from, exactly where exactness is known."""

from __future__ import annotations

from typing import Any

import examples
import examples_blur
import examples_nonlinear
import examples_sampling
import pytest
import torch
from examples import random
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.errors import RequestError
from invdiff.methods import METHODS
from invdiff.operators import OPERATORS, LinearOperator, Noise, Operator
from invdiff.priors import ExactConditional, GaussianPrior, MixturePrior
from invdiff.restore import abilities

EXAMPLES: dict[str, Any] = {
    **examples.EXAMPLES,
    **examples.COMBINATIONS,
    **examples_blur.EXAMPLES,
    **examples_nonlinear.EXAMPLES,
    **examples_sampling.EXAMPLES,
}
SHAPE = (3, 8, 6)
PRIOR = GaussianPrior.white(0.5, 0.25)


def prior_for(method: str, op: Operator) -> Any:
    """What a method walks: the prior, or of a conditional method what sees y, exactly."""
    if method == "auto" or not METHODS[method].info.conditional:
        return PRIOR
    if isinstance(op, LinearOperator):
        return ExactConditional(PRIOR)
    return ExactConditional(MixturePrior.empirical(0.5 + 0.2 * random(5, *op.in_shape)))


def picture(batch: int = 1, seed: int = 1) -> Tensor:
    return (0.5 + 0.2 * random(batch, *SHAPE, seed=seed)).clamp(0.05, 0.95)


@pytest.mark.parametrize("name", [*OPERATORS, *examples.COMBINATIONS])
@settings(
    max_examples=5, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_every_method_that_may_treats_every_operator_and_stays_finite(name: str, data: st.DataObject) -> None:
    op = data.draw(st.composite(EXAMPLES[name])())
    y = op.A(0.5 + 0.2 * random(1, *op.in_shape))
    for method in ("auto", *METHODS):
        for sigma_y in (0.0, 0.05):
            if method == "auto" or METHODS[method].info.accepts(abilities(op), sigma_y):
                if method == "ancestral" and sigma_y == 0:
                    continue
                options = {"jump": 1} if method == "repaint" else {}
                result = invdiff.restore(
                    y,
                    op,
                    prior_for(method, op),
                    method=method,
                    sigma_y=sigma_y,
                    steps=4 if method in ("ula", "mala") else 2,
                    options=options,
                )
                assert result.samples.isfinite().all(), (method, sigma_y)


@pytest.mark.parametrize(
    "noise",
    [
        operators.GaussianNoise(0.05 + 0.1 * random(*SHAPE).abs()),
        operators.PoissonNoise(40.0),
        operators.PoissonGaussianNoise(40.0, 0.05),
        operators.LaplaceNoise(0.05),
        operators.SaltAndPepperNoise(0.3),
        operators.QuantisationNoise(3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["auto", "dps", "mmps", "diffpir"])
@pytest.mark.parametrize("linear", ["mask", "blur"])
@pytest.mark.filterwarnings("ignore:.*conjugate gradients stopped")  # weights that differ a hundredfold
def test_every_noise_is_treated_and_named_in_the_record(noise: Noise, method: str, linear: str) -> None:
    op = (
        operators.Mask(random(8, 6) > 0)
        if linear == "mask"
        else operators.Blur(operators.kernels.disk(1), SHAPE)
    )
    y = noise.sample(op.A(picture(2)), torch.Generator().manual_seed(0))
    result = invdiff.restore(y, op, PRIOR, method=method, noise=noise, steps=20)
    assert result.samples.isfinite().all()
    assert result.config["noise"] == noise.describe()


@pytest.mark.parametrize("peak", [20.0, 200.0])
def test_less_light_leaves_more_doubt(peak: float) -> None:
    """White prior, y = x + noise: the posterior variance at each pixel is that of a Gaussian with Poisson's own."""
    op, noise = operators.Identity(SHAPE), operators.PoissonNoise(peak)
    y = noise.sample(picture(), torch.Generator().manual_seed(0))
    found = invdiff.restore(y, op, PRIOR, noise=noise, method="mmps", steps=500, samples=200, batch=200)
    variance = (y.clamp(min=1 / peak) / peak).clamp(min=1e-6)
    exact = 1 / (1 / 0.25**2 + 1 / variance)
    mean = 0.5 + exact / variance * (y - 0.5)
    assert ((found.mean - mean) / (exact / 200).sqrt()).abs().mean() < 1.2
    assert (found.std.square() / exact).mean().item() == pytest.approx(1.0, abs=0.08)


def test_noise_coloured_in_the_operators_basis_is_treated_and_in_another_is_refused() -> None:
    op = operators.Blur(operators.kernels.disk(1), SHAPE)
    noise = operators.ColouredNoise(op, 0.01 + 0.02 * random(144).abs())
    x = picture(2)
    y = noise.sample(op.A(x), torch.Generator().manual_seed(0))
    for method in ("auto", "ddnm", "dps"):
        assert invdiff.restore(y, op, PRIOR, method=method, noise=noise, steps=4).samples.isfinite().all()
    near = invdiff.restore(y, op, PRIOR, noise=noise, steps=30)
    assert (op.A(near.samples[0]) - y).square().mean().sqrt() < 0.04
    with pytest.raises(RequestError, match="coloured in the basis of the operator itself"):
        invdiff.restore(y, operators.Identity(SHAPE), PRIOR, noise=noise)


@pytest.mark.parametrize("noise", [operators.PoissonNoise(30.0), operators.SaltAndPepperNoise(0.3)], ids=repr)
@pytest.mark.parametrize("method", ["auto", "ddnm", "dps", "diffpir"])
def test_a_picture_does_not_feel_the_others_whose_noise_differs(noise: Noise, method: str) -> None:
    op = operators.Mask(random(8, 6) > 0)
    y = op.A(noise.sample(picture(2), torch.Generator().manual_seed(0)))
    together = invdiff.restore(y, op, PRIOR, method=method, noise=noise, steps=4, samples=2, batch=3)
    assert together.samples.shape == (2, 2, *SHAPE)
    for i in range(2):
        alone = invdiff.restore(y[i : i + 1], op, PRIOR, method=method, noise=noise, steps=4, samples=2)
        assert torch.allclose(together.samples[:, i], alone.samples[:, 0], atol=1e-10)
        assert together.checksums[i] == alone.checksums[0]


@pytest.mark.parametrize("batch", [1, 2])
def test_masks_of_each_picture_return_what_they_kept_bit_for_bit(batch: int) -> None:
    masks = [operators.Mask(random(8, 6, seed=i) > 0) for i in range(2)]
    own, seen = operators.per_image(masks), []
    y = own.A(picture(2))
    result = invdiff.restore(
        y, own, PRIOR, method="repaint", steps=6, samples=2, batch=batch, callback=seen.append
    )
    for i, mask in enumerate(masks):
        kept = mask.keep.expand(2, *SHAPE)
        assert torch.equal(result.samples[:, i][kept], y[i].expand(2, *SHAPE)[kept])
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total


def test_masks_of_each_picture_are_minded_where_noise_is_estimated() -> None:
    smooth = torch.linspace(0.2, 0.8, 64, dtype=torch.float64).expand(2, 3, 64, 64)
    noisy = smooth + 0.1 * random(2, 3, 64, 64)
    lines = torch.ones(64, 64)
    lines[32:] = 0
    for op in (
        operators.Mask(lines),
        operators.per_image([operators.Mask(lines), operators.Mask(lines.flip(0))]),
    ):
        result = invdiff.restore(op.A(noisy), op, PRIOR, sigma_y="auto", steps=1)
        assert result.config["sigma_y"] == pytest.approx(0.1, rel=0.1)


def test_operators_of_each_picture_inside_others_follow_their_picture() -> None:
    parts = [operators.Diagonal(0.5 + random(*SHAPE, seed=i).abs()) for i in range(2)]
    blur = operators.Blur(operators.kernels.disk(1), SHAPE)
    own, x = operators.per_image(parts), picture(2)
    for both, each in (
        (own @ blur, [part @ blur for part in parts]),
        (2 * own, [2 * part for part in parts]),
        (operators.stacked([own, blur]), [operators.stacked([part, blur]) for part in parts]),
    ):
        y = both.A(x)
        for i in range(2):
            assert torch.allclose(both.pick([i]).A(x[i : i + 1]), y[i : i + 1])
            assert torch.allclose(each[i].A(x[i : i + 1]), y[i : i + 1])
        assert torch.allclose(both.pick([1, 0]).A(x.flip(0)), y.flip(0))


def test_auto_on_a_nonlinear_operator_descends_the_noise_itself() -> None:
    op, noise = Cube(), operators.PoissonNoise(30.0)
    y = noise.sample(op.A(picture()), torch.Generator().manual_seed(0))
    auto = invdiff.restore(y, op, PRIOR, noise=noise, steps=5)
    named = invdiff.restore(y, op, PRIOR, noise=noise, steps=5, method="dps")
    gaussian = invdiff.restore(y, op, PRIOR, sigma_y=0.1, steps=5, method="dps")
    assert auto.method == "dps"
    assert "rounding" not in auto.reason
    assert torch.equal(auto.samples, named.samples)
    assert not torch.allclose(auto.samples, gaussian.samples)


class Cube(operators.Operator):
    """Neither linear nor with a prox."""

    in_shape = out_shape = SHAPE

    def A(self, x: Tensor) -> Tensor:
        return x**3


def test_salt_and_pepper_leave_what_they_spared_bit_for_bit() -> None:
    x, op, noise = picture(), operators.Identity(SHAPE), operators.SaltAndPepperNoise(0.4)
    y = noise.sample(x, torch.Generator().manual_seed(0))
    spared = (y > 0) & (y < 1)
    result = invdiff.restore(y, op, PRIOR, noise=noise, steps=10)
    assert (result.samples[0][spared] - y[spared]).abs().max() < 1e-3
    assert (result.samples[0][~spared] - y[~spared]).abs().min() > 1e-3


def test_each_picture_of_a_batch_with_its_own_operator_is_its_solo_run() -> None:
    parts = [
        operators.Blur(operators.kernels.motion(3, 20), SHAPE),
        operators.Blur(operators.kernels.disk(1.5), SHAPE, "reflect"),
    ]
    own, x = operators.per_image(parts), picture(2)
    y = own.A(x)
    together = invdiff.restore(y, own, PRIOR, sigma_y=0.02, steps=6, samples=2, batch=3, seed=3)
    for i, part in enumerate(parts):
        alone = invdiff.restore(
            y[i : i + 1], part, PRIOR, sigma_y=0.02, method="mmps", steps=6, samples=2, seed=3,
            options={"iterations": together.config["iterations"]},
        )  # fmt: skip
        assert torch.allclose(together.samples[:, i], alone.samples[:, 0], atol=1e-10)


def test_sigma_y_auto_is_estimated_from_the_measurement() -> None:
    smooth = torch.linspace(0.2, 0.8, 64, dtype=torch.float64).expand(1, 3, 64, 64)
    y = smooth + 0.1 * random(1, 3, 64, 64)
    result = invdiff.restore(y, operators.Identity((3, 64, 64)), PRIOR, sigma_y="auto")
    assert result.config["sigma_y"] == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("op", "method"),
    [
        (operators.Clip(SHAPE), "diffpir"),
        (operators.Quantize(SHAPE, 3), "ancestral"),
        (operators.JPEG(SHAPE, 30), "diffpir"),
        (operators.PhaseRetrieval(SHAPE), "dps"),
        (operators.Grayscale(SHAPE), "mmps"),
        (operators.Clip(SHAPE) @ operators.Blur(operators.kernels.disk(1), SHAPE), "dps"),
        (operators.CompressedSensing(SHAPE, 0.5, "dct"), "mmps"),
    ],
    ids=repr,
)
def test_auto_picks_what_the_operator_allows(op: operators.Operator, method: str) -> None:
    assert invdiff.restore(op.A(picture()), op, PRIOR, steps=2).method == method


@pytest.mark.parametrize("method", ["auto", "dps", "diffpir"])
@pytest.mark.parametrize("op", [operators.Clip(SHAPE), operators.Quantize(SHAPE, 2)], ids=repr)
def test_without_noise_what_comes_back_measures_as_it_was_measured(op: Any, method: str) -> None:
    y = op.A(picture())
    result = invdiff.restore(y, op, PRIOR, method=method, steps=5)
    assert torch.allclose(op.A(result.samples[0]), y, atol=1e-9)


def test_a_quantiser_named_to_a_linear_method_is_met_as_noise() -> None:
    op = operators.Quantize(SHAPE, 2)
    result = invdiff.restore(op.A(picture()), op, PRIOR, method="mmps", steps=5)
    assert "rounding is taken as noise" in result.reason


@pytest.mark.parametrize(
    ("op", "change", "says"),
    [
        (operators.Identity(SHAPE), {"noise": operators.PoissonNoise(9.0), "sigma_y": 0.1}, "give one of them"),
        (operators.CompressedSensing(SHAPE, 0.5, "dct"), {"sigma_y": "auto"}, "for measurements that are pictures"),
        (operators.Clip(SHAPE), {"method": "mmps"}, "needs a linear operator; methods that can do this: dps, diffpir"),
        (operators.PhaseRetrieval(SHAPE), {"method": "diffpir"}, "needs an operator with a proximal map"),
        (operators.Identity(SHAPE), {"noise": "poisson:30"}, "noise: expected a model such as"),
        (operators.Identity(SHAPE), {"noise": operators.PoissonNoise}, "noise: expected a model such as"),
        (operators.Identity(SHAPE), {"sigma_y": 3.0}, "expected a standard deviation in image units, 0 to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(op: Any, change: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        invdiff.restore(op.A(picture()), op, "no such prior", **change)
    assert "\n" not in str(caught.value)


def test_numbers_as_large_as_an_operator_makes_them_are_no_mistake_and_larger_ones_are() -> None:
    op = operators.PhaseRetrieval((1, 64, 64))
    y = op.A(torch.full((1, 1, 64, 64), 0.9, dtype=torch.float64))
    assert y.max() > 20
    invdiff.restore(y, op, PRIOR, steps=1)
    with pytest.raises(RequestError, match="expected image units"):
        invdiff.restore(255 * y, op, PRIOR, steps=1)


def test_linear_operators_are_told_apart_by_their_rung() -> None:
    assert isinstance(operators.Grayscale(SHAPE), LinearOperator)
    assert "proximal" in abilities(operators.JPEG(SHAPE))
    assert "linear" not in abilities(operators.JPEG(SHAPE))


def test_what_is_no_operator_and_a_batch_of_another_size_are_refused() -> None:
    own = operators.per_image([operators.Identity(SHAPE), operators.Clip(SHAPE)])
    for batch in (1, 3):
        with pytest.raises(RequestError, match=f"expected 2 measurements for .*, got {batch}"):
            invdiff.restore(picture(batch), own, PRIOR)
    with pytest.raises(RequestError, match=r"op: expected an operator of invdiff\.operators, got int"):
        invdiff.restore(picture(), 3, PRIOR)  # type: ignore[arg-type]


def test_whatever_blurs_on_the_way_gets_the_settings_of_a_blur() -> None:
    blur = operators.Blur(operators.kernels.disk(1), SHAPE, "reflect")
    iterations = invdiff.restore(blur.A(picture()), blur, PRIOR, steps=1).config["iterations"]
    assert iterations > 1
    for op in (
        2 * blur,
        operators.Downsample(2, SHAPE) @ blur,
        operators.BlurDownsample(operators.kernels.disk(1), 2, SHAPE),
    ):
        assert invdiff.restore(op.A(picture()), op, PRIOR, steps=1).config["iterations"] == iterations
    op = operators.Downsample(2, SHAPE)
    assert invdiff.restore(op.A(picture()), op, PRIOR, steps=1).config["iterations"] == 1


@pytest.mark.parametrize("peak", [30.0, 300.0, 3000.0])
@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if info.info.any_noise])
@pytest.mark.parametrize("linear", ["identity", "mask"])
def test_counted_light_throws_no_method_off(method: str, peak: float, linear: str) -> None:
    """The slope of a Poisson likelihood grows without bound where light was counted and A(x) has none."""
    op = operators.Identity(SHAPE) if linear == "identity" else operators.Mask(random(SHAPE[1], SHAPE[2]) > 0)
    noise = operators.PoissonNoise(peak)
    y = noise.sample(op.A(picture()), torch.Generator().manual_seed(0))
    options = {"zeta": 0.03} if method == "dps" else {}
    prior = prior_for(method, op)
    samples = invdiff.restore(y, op, prior, method=method, noise=noise, samples=2, options=options).samples
    assert (samples - 0.5).abs().max() < 2
