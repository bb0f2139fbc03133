"""Noise: its draws, densities, scores and proximal maps, for all of NOISES; and the estimate of its σ."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from math import inf, nan, pi, prod
from typing import Any

import numpy as np
import pytest
import torch
from examples import random
from torch import Tensor

from invdiff import operators
from invdiff.operators import (
    NOISES,
    ColouredNoise,
    GaussianNoise,
    LaplaceNoise,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    QuantisationNoise,
    SaltAndPepperNoise,
    estimate_sigma,
)

SHAPE = (1, 4, 5)
N = prod(SHAPE)
BLUR = operators.Blur(operators.kernels.motion(3, 20), SHAPE)
MASK = operators.Mask(random(4, 5) > -0.4, channels=1)
SIGMAS = 0.05 + 0.2 * random(N, seed=1).abs()

EXAMPLES: dict[str, list[Noise]] = {
    "gaussian": [GaussianNoise(0.1), GaussianNoise(SIGMAS.view(SHAPE)), GaussianNoise(SIGMAS[:4].view(4, 1))],
    "coloured": [ColouredNoise(BLUR, SIGMAS), ColouredNoise(MASK, SIGMAS)],
    "poisson": [PoissonNoise(7.5), PoissonNoise(300.0)],
    "poisson_gaussian": [
        PoissonGaussianNoise(6.0, 0.03),
        PoissonGaussianNoise(40.0, 0.05),
        PoissonGaussianNoise(5e3, 0.01),
    ],
    "salt_and_pepper": [SaltAndPepperNoise(0.3, 0.7)],
    "laplace": [LaplaceNoise(0.07)],
    "quantisation": [QuantisationNoise(3), QuantisationNoise(step=0.05)],
}
ALL = [noise for noises in EXAMPLES.values() for noise in noises]
every = pytest.mark.parametrize("noise", ALL, ids=repr)
having_score = pytest.mark.parametrize("noise", [n for n in ALL if n.has_score], ids=repr)
having_prox = pytest.mark.parametrize("noise", [n for n in ALL if n.has_prox], ids=repr)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reachable(noise: Noise, x: Tensor) -> Tensor:
    """x, without what the operator of coloured noise cannot produce."""
    return noise.operator.A(noise.operator.A_dagger(x)) if isinstance(noise, ColouredNoise) else x


def clean_of(noise: Noise, batch: int = 3) -> Tensor:
    return reachable(noise, (0.5 + 0.15 * random(batch, *SHAPE, seed=2)).clamp(0.1, 0.95))


def pair(noise: Noise, batch: int = 3) -> tuple[Tensor, Tensor]:
    """A draw, and a guess of what is behind it that explains it, if not as well as the truth."""
    clean = clean_of(noise, batch)
    y = noise.sample(clean, generator())
    if isinstance(noise, SaltAndPepperNoise):
        return y, clean
    guess = clean + reachable(noise, 0.004 * random(batch, *SHAPE, seed=3))
    return y, clean if isinstance(noise, QuantisationNoise) else guess


def one(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


# ---------------------------------------------------------------------------------------------- laws for all of them


def test_every_noise_has_examples_here() -> None:
    assert EXAMPLES.keys() == NOISES.keys()
    for name, noises in EXAMPLES.items():
        assert all(type(noise) is NOISES[name] for noise in noises)


@every
def test_a_draw_is_fixed_by_its_generator_alone(noise: Noise) -> None:
    clean = clean_of(noise)
    before = clean.clone()
    first = noise.sample(clean, generator(0))
    torch.manual_seed(1)
    assert torch.equal(first, noise.sample(clean, generator(0)))
    if not isinstance(noise, QuantisationNoise):
        assert not torch.equal(first, noise.sample(clean, generator(1)))
    assert torch.equal(clean, before)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_draw_has_the_dtype_of_what_is_measured_and_is_likely(noise: Noise, dtype: torch.dtype) -> None:
    clean = clean_of(noise).to(dtype)
    y = noise.sample(clean, generator())
    assert (y.shape, y.dtype) == (clean.shape, dtype)
    log_p = noise.log_likelihood(y, clean)
    assert (log_p.shape, log_p.dtype) == ((3,), torch.float64)
    if not (dtype == torch.bfloat16 and isinstance(noise, ColouredNoise)):  # whose rounding leaves A's range
        assert log_p.isfinite().all()


@every
def test_the_draw_of_bfloat16_is_that_of_float32(noise: Noise) -> None:
    clean = clean_of(noise).bfloat16()
    assert torch.equal(noise.sample(clean, generator()), noise.sample(clean.float(), generator()).bfloat16())


@every
def test_a_batch_is_its_samples_one_by_one(noise: Noise) -> None:
    y, clean = pair(noise)

    def one_by_one(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        alone = torch.cat([answer(y[i : i + 1], clean[i : i + 1]) for i in range(3)])
        assert torch.allclose(answer(y, clean), alone, rtol=1e-12, atol=1e-12)

    one_by_one(noise.log_likelihood)
    if noise.has_score:
        one_by_one(noise.score)
        one_by_one(noise.deviance)
    if noise.has_prox:
        one_by_one(lambda y, z: noise.prox(z, y, 0.01))
        weights = torch.tensor([0.01, 0.5, inf])
        alone = [noise.prox(clean[i : i + 1], y[i : i + 1], w) for i, w in enumerate(weights.tolist())]
        assert torch.allclose(noise.prox(clean, y, weights), torch.cat(alone), rtol=1e-12, atol=1e-12)


@having_score
def test_the_score_is_the_slope_of_the_log_likelihood(noise: Noise) -> None:
    y, clean = pair(noise, 1)
    h, directions = 1e-6, reachable(noise, torch.eye(N, dtype=torch.float64).view(N, *SHAPE))
    around = [noise.log_likelihood(y.expand(N, *SHAPE), clean + t * h * directions) for t in (1, -1)]
    differences = (around[0] - around[1]) / (2 * h)
    slopes = (noise.score(y, clean) * directions).flatten(1).sum(1)
    assert torch.allclose(slopes, differences, rtol=1e-5, atol=1e-4 * differences.abs().max())


@having_score
def test_the_deviance_is_twice_what_the_log_likelihood_lacks_of_its_best(noise: Noise) -> None:
    y, clean = pair(noise)
    leaf = clean.clone().requires_grad_()
    deviance = noise.deviance(y, leaf)
    assert (deviance.shape, deviance.dtype) == ((3,), torch.float64)
    assert (deviance >= 0).all()
    (slope,) = torch.autograd.grad(deviance.sum(), leaf)
    assert torch.allclose(slope, -2 * noise.score(y, clean), rtol=1e-9, atol=1e-9)
    other = clean_of(noise, 3).flip(0)
    lost = 2 * (noise.log_likelihood(y, clean) - noise.log_likelihood(y, other))
    assert torch.allclose(noise.deviance(y, other) - deviance, lost, rtol=1e-9, atol=1e-9)
    if not isinstance(noise, PoissonGaussianNoise):  # for which y is near the best, but not it
        assert noise.deviance(y, y).abs().max() < 1e-10


@every
def test_what_a_noise_lacks_is_refused_in_one_line(noise: Noise) -> None:
    y, clean = pair(noise)
    lacks = [noise.score, noise.deviance] * (not noise.has_score)
    lacks += [lambda y, z: noise.prox(z, y, 1.0)] * (not noise.has_prox)
    for lacking in lacks:
        with pytest.raises(NotImplementedError, match=r"^\w+Noise\(.*\): expected a [^\n]*; [^\n]*instead$"):
            lacking(y, clean)


@having_prox
@pytest.mark.parametrize("weight", [1e-3, 0.05])
def test_nothing_near_the_prox_is_better(noise: Noise, weight: float) -> None:
    y, _ = pair(noise, 1)
    z = reachable(noise, 0.5 + 0.4 * random(1, *SHAPE, seed=5))
    if isinstance(noise, ColouredNoise):
        z = z + 0.3  # beyond what A produces too, where y is certain

    def objective(u: Tensor) -> Tensor:
        log_p = noise.log_likelihood(y.expand_as(u), u)
        return 0.5 * (u - z).flatten(1).square().sum(1) - weight * log_p

    u = noise.prox(z, y, weight)
    best = objective(u)
    assert best.isfinite().all()
    for size in (1e-4, 1e-2, 0.3):
        others = u + size * reachable(noise, random(200, *SHAPE, seed=6))
        assert (objective(others) >= best - 1e-10).all()
    if noise.has_score and not isinstance(noise, LaplaceNoise | ColouredNoise):
        assert torch.allclose(u - z, weight * noise.score(y, u), rtol=1e-8, atol=1e-10)


@having_prox
def test_an_infinite_weight_leaves_what_explains_y_best(noise: Noise) -> None:
    y, _ = pair(noise)
    z = 0.5 + 0.4 * random(3, *SHAPE, seed=5)
    u = noise.prox(z, y, inf)
    if isinstance(noise, QuantisationNoise):
        assert (noise.log_likelihood(y, u) == 0).all()
    else:
        assert torch.allclose(u, y, rtol=1e-12, atol=1e-12)
    assert noise.prox(z.float(), y.float(), inf).dtype == torch.float32


@every
def test_probabilities_sum_to_one(noise: Noise) -> None:
    """Over one number: all of a grid of y, of which y in a range of 12 standard deviations is enough."""
    clean, spacing = 0.37, 1e-4
    grid = torch.arange(-1.5, 2.5, spacing, dtype=torch.float64)
    match noise:
        case ColouredNoise():
            noise = ColouredNoise(operators.Identity((1, 1, 1)), SIGMAS[:1])
        case GaussianNoise(sigma=Tensor()):
            noise = GaussianNoise(SIGMAS[:1].view(1, 1, 1))
        case PoissonNoise(peak=peak):
            grid, spacing = torch.arange(1000.0, dtype=torch.float64) / peak, 1.0
        case SaltAndPepperNoise():
            grid, spacing = torch.tensor([0.0, clean, 0.5, 1.0], dtype=torch.float64), 1.0
        case QuantisationNoise(width=width):
            grid, spacing = torch.arange(-50.0, 50, dtype=torch.float64) * width, 1.0
    grid = grid.view(-1, 1, 1, 1)
    p = noise.log_likelihood(grid, torch.full_like(grid, clean)).exp()
    assert (p.sum() * spacing).item() == pytest.approx(1, rel=1e-6)


@every
def test_its_description_is_one_line_and_no_call_changes_it(noise: Noise) -> None:
    assert repr(noise) == noise.describe()
    assert noise.describe().startswith(type(noise).__name__)
    assert "\n" not in noise.describe()
    y, clean = pair(noise)
    wanted = noise.log_likelihood(y, clean)
    for twin in (pickle.loads(pickle.dumps(noise)), noise.to("cpu", torch.float64)):
        assert type(twin) is type(noise)
        assert torch.allclose(twin.log_likelihood(y, clean), wanted, rtol=1e-14)
    with pytest.raises(FrozenInstanceError):
        noise.has_score = False  # type: ignore[misc]


def test_moving_a_noise_moves_its_tensors_and_its_operator() -> None:
    noise = ColouredNoise(BLUR, SIGMAS)
    moved, (y, clean) = noise.to(dtype=torch.float32), pair(noise)
    assert torch.allclose(moved.log_likelihood(y, clean), noise.log_likelihood(y, clean), rtol=1e-5)
    assert moved.sigmas.dtype == torch.float32
    assert moved.operator.kernel.dtype == torch.float32  # type: ignore[attr-defined]
    assert GaussianNoise(SIGMAS).to(dtype=torch.float32).sigma.dtype == torch.float32  # type: ignore[union-attr]


@every
def test_another_shape_or_whole_numbers_are_refused(noise: Noise) -> None:
    y, clean = pair(noise)
    for method in (noise.log_likelihood, *([noise.score, noise.deviance] if noise.has_score else [])):
        with pytest.raises(ValueError, match=r"^[^\n]*expected[^\n]*got \(3, 1, 4, 4\)$"):
            method(y[..., :-1], clean)
        with pytest.raises(TypeError, match=r"^y: expected floats in image units, got torch.uint8"):
            method(y.byte(), clean)
    if noise.has_prox:
        with pytest.raises(ValueError, match=r"^[^\n]*expected[^\n]*got"):
            noise.prox(clean, y[..., :-1], 1.0)
        with pytest.raises(ValueError, match="weight: expected numbers"):
            noise.prox(clean, y, -1.0)


# --------------------------------------------------------------------------------------------------- what they are


@pytest.mark.parametrize(
    ("noise", "mean", "variance", "kurtosis"),
    [
        (GaussianNoise(0.1), 0.4, 0.01, 3),
        (PoissonNoise(20.0), 0.4, 0.4 / 20, 3 + 1 / 8),
        (PoissonGaussianNoise(20.0, 0.1), 0.4, 0.4 / 20 + 0.01, 3 + 1 / 8),
        (LaplaceNoise(0.1), 0.4, 0.02, 6),
        (SaltAndPepperNoise(0.2, 0.75), 0.47, 0.8 * 0.16 + 0.15 - 0.47**2, 6),
        (ColouredNoise(operators.Identity((1, 200, 200)), torch.full((40000,), 0.1)), 0.4, 0.01, 3),
    ],
    ids=repr,
)
def test_draws_have_the_mean_and_variance_of_their_law(
    noise: Noise, mean: float, variance: float, kurtosis: float
) -> None:
    """Within 5 standard errors of 40000 draws: √(v/n) for the mean, v·√((kurtosis − 1)/n) for the variance."""
    y = noise.sample(torch.full((1, 1, 200, 200), 0.4, dtype=torch.float64), generator())
    assert abs(y.mean().item() - mean) < 5 * (variance / 40000) ** 0.5
    assert abs(y.var().item() - variance) < 5 * variance * ((kurtosis - 1) / 40000) ** 0.5


def test_without_noise_nothing_is_added() -> None:
    y = torch.rand(2, 3, 4, 4)
    for noise in (GaussianNoise(0.0), LaplaceNoise(0), SaltAndPepperNoise(0)):
        assert torch.equal(noise.sample(y, generator()), y)
    assert (PoissonNoise(10.0).sample(-y, generator()) == 0).all()


def test_log_likelihoods_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    y, clean = 0.5 + 0.2 * random(3, *SHAPE), 0.5 + 0.2 * random(3, *SHAPE, seed=1)
    counts = (20 * y).round().clamp(min=0)

    def summed(log_p: Any) -> Tensor:
        return torch.as_tensor(log_p).flatten(1).sum(1)

    def same(noise: Noise, y: Tensor, wanted: Any) -> None:
        assert torch.allclose(noise.log_likelihood(y, clean), summed(wanted), rtol=1e-12)

    same(GaussianNoise(0.2), y, stats.norm.logpdf(y, clean, 0.2))
    same(GaussianNoise(SIGMAS.view(SHAPE)), y, stats.norm.logpdf(y, clean, SIGMAS.view(SHAPE)))
    same(LaplaceNoise(0.2), y, stats.laplace.logpdf(y, clean, 0.2))
    same(PoissonNoise(20.0), counts / 20, stats.poisson.logpmf(counts, 20 * clean.clamp(min=0)))


@pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.5])
@pytest.mark.parametrize("peak", [0.7, 30.0, 3e3])
def test_poisson_gaussian_noise_is_the_sum_over_all_counts(peak: float, sigma: float) -> None:
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    noise = PoissonGaussianNoise(peak, sigma)
    for clean in (0.0, 1e-4, 0.03, 1.0):
        for y in (-0.5 * sigma, 0.2 / peak, clean + 2 * sigma, clean + 0.5 / peak, 1.2):
            k = np.arange(int(peak * 2 + 40 * (peak + 1) ** 0.5 + 60))
            terms = stats.poisson.logpmf(k, peak * clean) + stats.norm.logpdf(y, k / peak, sigma)
            total = special.logsumexp(terms)
            assert noise.log_likelihood(one(y), one(clean)).item() == pytest.approx(total, rel=1e-8, abs=1e-8)
            slope = np.exp(terms - total) @ k / clean - peak if clean > 0 else 0
            assert noise.score(one(y), one(clean)).item() == pytest.approx(slope, rel=1e-8, abs=1e-8 * peak)


def test_the_deviance_of_poisson_gaussian_noise_is_from_the_best_there_is() -> None:
    noise, u = (
        PoissonGaussianNoise(12.0, 0.05),
        torch.linspace(0, 2.5, 20001, dtype=torch.float64).view(-1, 1),
    )
    for y in (-0.1, 0.02, 0.05, 0.3, 1.4):
        best = noise.log_likelihood(torch.full_like(u, y), u).max()
        lack = 2 * (best - noise.log_likelihood(one(y), one(0.6))).item()
        assert noise.deviance(one(y), one(0.6)).item() == pytest.approx(lack, rel=1e-6)


def test_the_score_of_photons_is_zero_where_none_can_be() -> None:
    clean = torch.tensor([[-0.1, 0.0]], dtype=torch.float64)
    for noise in (PoissonNoise(10.0), PoissonGaussianNoise(10.0, 0.1)):
        assert torch.equal(noise.score(torch.zeros_like(clean), clean), torch.zeros_like(clean))
    leaf = clean.clone().requires_grad_()
    dark = PoissonNoise(10.0).deviance(torch.zeros_like(clean), leaf)
    assert torch.autograd.grad(dark.sum(), leaf)[0].isfinite().all()


def test_what_cannot_be_has_no_likelihood() -> None:
    for noise, y, clean in (
        (PoissonNoise(10.0), 0.25, 0.3),
        (PoissonNoise(10.0), -0.1, 0.3),
        (PoissonNoise(10.0), 0.1, 0.0),
        (PoissonNoise(10.0), 0.1, -0.3),
        (SaltAndPepperNoise(0.5), 0.4, 0.5),
        (SaltAndPepperNoise(0.5, salt=1), 0.0, 0.5),
        (QuantisationNoise(step=0.1), 0.3, 0.36),
        (QuantisationNoise(step=0.1), 0.33, 0.33),
    ):
        assert noise.log_likelihood(one(y), one(clean)).item() == -inf, noise
    assert PoissonNoise(10.0).deviance(one(0.1), one(0.0)).item() == inf
    assert PoissonNoise(10.0).log_likelihood(one(0), one(-0.3)).item() == 0


def test_masses_of_salt_and_pepper_add_where_they_meet() -> None:
    noise = SaltAndPepperNoise(0.4, salt=0.75)
    for y, clean, p in ((0.5, 0.5, 0.6), (1, 0.5, 0.3), (0, 0.5, 0.1), (1, 1, 0.9), (0, 0, 0.7)):
        assert noise.log_likelihood(one(y), one(clean)).exp().item() == pytest.approx(p)


def test_quantising_rounds_to_multiples_of_its_step_and_knows_the_cell() -> None:
    noise = QuantisationNoise(2)
    clean = torch.tensor([[0.1, 0.2, 0.6, 1.3, -0.4]], dtype=torch.float64)
    y = noise.sample(clean, generator())
    assert torch.allclose(y, torch.tensor([[0, 1, 2, 4, -1]]).double() / 3)
    assert noise.log_likelihood(y, clean).item() == 0
    assert noise.std(y) == pytest.approx(1 / 3 / 12**0.5)
    z = y + torch.tensor([[0.5, -0.5, 0.1, 0, 0.0]]).double()
    moved = torch.tensor([[1 / 6, -1 / 6, 0.1, 0, 0]]).double()
    assert torch.allclose(noise.prox(z, y, 3.0), y + moved)


@pytest.mark.parametrize("operator", [BLUR, MASK, operators.Downsample(2, SHAPE)], ids=repr)
def test_coloured_noise_is_the_normal_of_its_covariance(operator: Any) -> None:
    noise, m = ColouredNoise(operator, SIGMAS), prod(operator.out_shape)
    U = operator.U(torch.eye(N, dtype=torch.float64)).flatten(1).mT
    covariance = U @ SIGMAS.square().diag() @ U.mT
    clean = operator.A(0.5 + 0.2 * random(2, *SHAPE))
    y = noise.sample(clean, generator())
    draws = noise.sample(torch.zeros(20000, *operator.out_shape), generator()).double().flatten(1)
    assert (draws.mT @ draws / 20000 - covariance).abs().max() < 5 * 2**0.5 * covariance.max() / 20000**0.5
    r = (y - clean).flatten(1)
    chi2 = ((r @ torch.linalg.pinv(covariance, hermitian=True)) * r).sum(1)
    kept = torch.linalg.eigvalsh(covariance)
    kept = kept[kept > 1e-10]
    wanted = -0.5 * (chi2 + kept.log().sum() + len(kept) * np.log(2 * pi))
    assert torch.allclose(noise.log_likelihood(y, clean), wanted, rtol=1e-9)
    assert torch.allclose(noise.deviance(y, clean), chi2, rtol=1e-9)
    assert noise.std(y) == pytest.approx((covariance.trace() / len(kept)).sqrt().item())
    if len(kept) < m:
        lost = torch.eye(m, dtype=torch.float64) - U @ U.mT
        outside = (lost @ random(m)).view(1, *operator.out_shape)
        assert (noise.log_likelihood(y + outside, clean) == -inf).all()
        assert torch.allclose(noise.prox(clean, y + outside, 1e-12), clean + outside, atol=1e-8)


def test_equal_sigmas_in_a_full_basis_are_white() -> None:
    y, clean = random(2, *SHAPE), random(2, *SHAPE, seed=1)
    white, coloured = GaussianNoise(0.2), ColouredNoise(BLUR, torch.full((N,), 0.2))
    assert torch.allclose(coloured.log_likelihood(y, clean), white.log_likelihood(y, clean), rtol=1e-7)
    assert torch.allclose(coloured.score(y, clean), white.score(y, clean), rtol=1e-6)
    assert coloured.std(y) == pytest.approx(0.2)


def test_the_gaussian_that_stands_in_has_the_width_the_measurement_tells() -> None:
    y = torch.tensor([[-0.1, 0.0, 0.36, 1.0]], dtype=torch.float64)
    assert GaussianNoise(0.2).std(y) == 0.2
    assert torch.equal(GaussianNoise(SIGMAS[:4]).std(y), SIGMAS[:4])  # type: ignore[arg-type]
    assert LaplaceNoise(0.2).std(y) == pytest.approx(0.2 * 2**0.5)
    for noise, wanted in (
        (PoissonNoise(100.0), [0.01, 0.01, 0.06, 0.1]),
        (PoissonGaussianNoise(100.0, 0.08), [0.08, 0.08, 0.1, 0.0164**0.5]),
        (SaltAndPepperNoise(0.1), [0, inf, 0, inf]),
    ):
        assert torch.allclose(torch.as_tensor(noise.std(y)), torch.tensor([wanted]).double(), rtol=1e-6), (
            noise
        )
    near = torch.tensor([1e-7, 1 - 1e-7, 1e-4], dtype=torch.float64)
    assert torch.as_tensor(SaltAndPepperNoise(0.1).std(near)).tolist() == [inf, inf, 0]


def test_certain_measurements_are_returned_by_the_prox() -> None:
    y, z = random(2, *SHAPE), random(2, *SHAPE, seed=1)
    assert torch.equal(GaussianNoise(0.0).prox(z, y, 0.1), y)
    assert torch.equal(LaplaceNoise(0.0).prox(z, y, 0.1), y)


def test_the_prox_of_photons_keeps_what_is_dark_dark() -> None:
    z = torch.tensor([[-0.5, 0.05, 0.1, 0.3]], dtype=torch.float64)
    for weight, shift in ((0.01, 0.1), (0.125 / 10, 0.125)):
        got = PoissonNoise(10.0).prox(z, torch.zeros_like(z), weight)
        assert torch.allclose(got, torch.where(z < 0, z, (z - shift).clamp(min=0)))
    on_the_edge = PoissonNoise(8.0).prox(one(0.5), one(0.0), 0.0625)
    assert on_the_edge.item() == 0


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianNoise(-0.1), "sigma: expected a number from 0 up, in image units, got -0.1"),
        (lambda: GaussianNoise(nan), "sigma: expected a number from 0 up, in image units, got nan"),
        (lambda: GaussianNoise(inf), "sigma: expected a number from 0 up, in image units, got inf"),
        (lambda: GaussianNoise(torch.tensor([0.1, -1.0])), "sigma: expected numbers from 0 up, .*got -1.0"),
        (lambda: GaussianNoise(torch.zeros(0)), "sigma: expected numbers from 0 up, .*got none"),
        (lambda: ColouredNoise(BLUR, SIGMAS[1:]), r"sigmas: expected \(20,\), one for each .*got \(19,\)"),
        (
            lambda: ColouredNoise(BLUR, torch.tensor(0.1)),
            r"sigmas: expected \(20,\), one for each .*got \(\)",
        ),
        (lambda: ColouredNoise(BLUR, -SIGMAS), "sigmas: expected numbers from 0 up"),
        (lambda: PoissonNoise(0), "peak: expected a number above 0, photons at white, got 0"),
        (lambda: PoissonNoise(nan), "peak: expected a number above 0, photons at white, got nan"),
        (lambda: PoissonGaussianNoise(-1, 0.1), "peak: expected a number above 0, photons at white, got -1"),
        (lambda: PoissonGaussianNoise(1, -0.1), "sigma: expected a number from 0 up"),
        (lambda: SaltAndPepperNoise(1.5), "amount: expected a probability, 0 to 1, got 1.5"),
        (lambda: SaltAndPepperNoise(0.5, nan), "salt: expected a probability, 0 to 1, got nan"),
        (lambda: LaplaceNoise(-1), "scale: expected a number from 0 up, in image units, got -1"),
        (lambda: QuantisationNoise(0), "bits: expected a whole number from 1 to 53, got 0"),
        (lambda: QuantisationNoise(2.5), "bits: expected a whole number from 1 to 53, got 2.5"),  # type: ignore[arg-type]
        (lambda: QuantisationNoise(step=0), "step: expected a number above 0, in image units, got 0"),
        (lambda: QuantisationNoise(), "QuantisationNoise: expected bits or step, got bits=None, step=None"),
        (lambda: QuantisationNoise(8, 0.1), "QuantisationNoise: expected bits or step, got bits=8, step=0.1"),
    ],
)
def test_noise_that_cannot_be_is_refused_in_one_line(build: Callable[[], Noise], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        build()


def test_what_is_no_number_or_no_spectral_operator_is_refused() -> None:
    for build in (GaussianNoise, PoissonNoise, LaplaceNoise, SaltAndPepperNoise, QuantisationNoise):
        for wrong in ("0.1", True, 1j):
            with pytest.raises(TypeError, match=r"^\w+: expected [^\n]*got (str|bool|complex)$"):
                build(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"sigma: expected floats in image units, got torch.int64"):
        GaussianNoise(torch.tensor([1, 2]))
    blur = operators.Blur(operators.kernels.motion(3, 20), SHAPE, "replicate")
    with pytest.raises(TypeError, match="operator: expected a SpectralOperator"):
        ColouredNoise(blur, SIGMAS)  # type: ignore[arg-type]


def test_noise_of_no_width_has_no_density() -> None:
    y = random(1, *SHAPE)
    for noise in (
        GaussianNoise(0.0),
        GaussianNoise(torch.tensor([0.1, 0.1, 0.0, 0.1, 0.1])),
        ColouredNoise(BLUR, torch.zeros(N)),
        PoissonGaussianNoise(10.0, 0.0),
        LaplaceNoise(0.0),
    ):
        for method in (noise.log_likelihood, noise.score, noise.deviance):
            with pytest.raises(ValueError, match=r"^\w+: noise with \w+ = 0 has no density; [^\n]*$"):
                method(y, y)


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"sigma: expected a map that broadcasts to \(1, 4, 5\), got \(3, 5\)"
    ):
        GaussianNoise(torch.ones(3, 5)).sample(random(2, *SHAPE), generator())


# ----------------------------------------------------------------------------------------------------- estimation


def test_sigma_is_estimated_as_the_command_line_does() -> None:
    from invdiff.images import Picture
    from invdiff.noise import estimate_noise

    y, keep = 0.5 + 0.1 * random(2, 3, 40, 37), random(40, 37, seed=1) > -2.5
    y[1, :, :20] = 0.0  # clipped: no noise to show there
    for given in (None, keep):
        mask = None if given is None else given.numpy()
        wanted = [estimate_noise(Picture(array=one.permute(1, 2, 0).numpy()), mask) for one in y]
        got = estimate_sigma(y, given)
        assert (got.shape, got.dtype) == ((2,), torch.float64)
        assert torch.allclose(got, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigma_of_noise_on_a_slope_is_found(dtype: torch.dtype) -> None:
    """Within 5 %: of 3·149² coefficients the median absolute deviation has a standard error of 0.5 %."""
    slope = torch.linspace(0, 1, 300).expand(2, 3, 300, 300)
    sigmas = torch.tensor([0.02, 0.1]).view(2, 1, 1, 1)
    y = (slope + sigmas * random(2, 3, 300, 300)).to(dtype)
    assert torch.allclose(estimate_sigma(y), sigmas.flatten().double(), rtol=0.05)
    y[..., :150, :] += 100 * random(2, 3, 150, 300, seed=1).to(dtype)
    keep = torch.ones(300, 300)
    keep[:150] = 0
    for mask in (keep, keep[None], keep.expand(3, 300, 300)):
        assert torch.allclose(estimate_sigma(y, mask), sigmas.flatten().double(), rtol=0.05)


def test_what_is_flat_shows_no_noise() -> None:
    y = torch.full((1, 1, 60, 60), 200 / 255)
    assert estimate_sigma(y).tolist() == [0.0]
    y[..., 50:] += 0.1 * random(60, 10).float()
    assert estimate_sigma(y).item() == pytest.approx(0.1, rel=0.2)


def test_too_little_to_estimate_from_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"y: expected \(B, C, H, W\) of 5 pixels a side or more, got \(1, 1, 4, 9\)"
    ):
        estimate_sigma(random(1, 1, 4, 9))
    with pytest.raises(ValueError, match="keep: leaves fewer than 64 places"):
        estimate_sigma(random(1, 1, 64, 64), random(64, 64) > 0.8)
    with pytest.raises(ValueError, match=r"keep: expected \(H, W\), .* 1x9x9, got \(9, 8\)"):
        estimate_sigma(random(1, 1, 9, 9), torch.ones(9, 8))


def test_salt_alone_leaves_black_and_no_salt_and_pepper_leaves_all() -> None:
    y = torch.tensor([[0.0, 0.5, 1.0]])
    assert operators.SaltAndPepperNoise(0.3, salt=1.0).std(y).tolist() == [[0.0, 0.0, inf]]
    assert operators.SaltAndPepperNoise(0.3, salt=0.0).std(y).tolist() == [[inf, 0.0, 0.0]]
    assert operators.SaltAndPepperNoise(0.0).std(y).tolist() == [[0.0, 0.0, 0.0]]
