"""Exact posteriors against the Gaussian formula, against quadrature, and against their limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import moments
import pytest
import torch
from torch import Tensor

from invdiff import operators
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import (
    ConditionalPrior,
    ExactConditional,
    GaussianPrior,
    MixturePrior,
    Posterior,
    exact_posterior,
)
from invdiff.priors.conditional import Sees, check_task

SHAPE = (1, 4, 4)
N = math.prod(SHAPE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, eq=False, repr=False)
class Rows(LinearOperator):
    """y = matrix · x."""

    matrix: Tensor
    in_shape: tuple[int, int, int] = SHAPE

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (len(self.matrix),)

    def A(self, x: Tensor) -> Tensor:
        return self._image(x).flatten(1) @ self.matrix.T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (self._measurement(y) @ self.matrix).reshape(-1, *self.in_shape)


def operator_of(name: str) -> Operator:
    if name == "mask":
        return operators.Mask((torch.rand(4, 4, generator=generator(1)) < 0.4).float(), channels=1)
    if name == "blur":
        return operators.Blur(operators.kernels.gaussian(0.8, 3), SHAPE, "reflect")
    if name == "more numbers than pixels":
        return Rows(torch.randn(20, N, generator=generator(2), dtype=torch.float64))
    return Rows(torch.randn(5, N, generator=generator(2), dtype=torch.float64))


def gaussian(name: str) -> GaussianPrior:
    mean = torch.rand(SHAPE, generator=generator(3), dtype=torch.float64)
    if name == "white":
        return GaussianPrior.white(mean, 0.2)
    root = torch.randn(N, N, generator=generator(4), dtype=torch.float64)
    if name == "singular":
        root[:, 6:] = 0
    return GaussianPrior.correlated(mean, 0.02 * root @ root.T)


def mixture(std: float | Tensor = 0.1, count: int = 3) -> MixturePrior:
    means = 0.5 + 0.1 * torch.randn(count, *SHAPE, generator=generator(5), dtype=torch.float64)
    return MixturePrior.make(means, std, torch.arange(1.0, count + 1))


def measured(prior: GaussianPrior | MixturePrior, op: Operator, sigma_y: float) -> Tensor:
    clean = op.A(prior.sample((1, *op.in_shape), generator(6)))
    return clean + sigma_y * torch.randn(clean.shape, generator=generator(7), dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= tolerance * b.norm())


@pytest.mark.parametrize("sigma_y", [0.05, 0.0])
@pytest.mark.parametrize("operator", ["mask", "blur", "rows", "more numbers than pixels"])
@pytest.mark.parametrize("prior", ["white", "correlated", "singular"])
def test_a_gaussian_priors_posterior_is_the_gaussian_formulas(
    prior: str, operator: str, sigma_y: float
) -> None:
    p, op = gaussian(prior), operator_of(operator)
    y = measured(p, op, sigma_y)
    mean, covariance = moments.posterior(p, op, y, sigma_y)
    got = exact_posterior(p, op, y, sigma_y)
    assert close(got.mean, mean, 1e-6)
    assert (got.covariance - covariance).norm() <= 1e-7 * p.covariance_times(torch.eye(N).double()).norm()
    assert got.weights.tolist() == [1]
    assert got.modes(got.sample(3, generator())).tolist() == [1]


def test_a_measurement_no_picture_explains_moves_only_what_the_prior_lets_vary() -> None:
    p, op = gaussian("singular"), operator_of("more numbers than pixels")
    y = measured(p, op, 0.0) + torch.randn(1, 20, generator=generator(8), dtype=torch.float64)
    moved = exact_posterior(p, op, y, 0.0).mean - p.mean.flatten()
    flat = p.basis[:, p.variances < 1e-12]  # type: ignore[index]
    assert flat.shape[1] == 10
    assert (flat.T @ moved).norm() < 1e-6 * moved.norm()


@pytest.mark.parametrize("sigma_y", [0.05, 0.0])
def test_a_mixture_of_one_has_the_white_gaussians_posterior(sigma_y: float) -> None:
    white, op = gaussian("white"), operator_of("rows")
    one = MixturePrior.make(white.mean[None], 0.2)
    y = measured(white, op, sigma_y)
    got, expected = exact_posterior(one, op, y, sigma_y), exact_posterior(white, op, y, sigma_y)
    assert close(got.mean, expected.mean, 1e-12)
    assert close(got.covariance, expected.covariance, 1e-12)


@pytest.mark.parametrize("sigma_y", [0.05, 0.3])
def test_a_mixtures_posterior_is_what_quadrature_in_two_dimensions_gives(sigma_y: float) -> None:
    means = torch.tensor([[0.1, 0.2], [0.6, 0.3], [0.4, 0.9]]).double()
    stds, weights = torch.tensor([0.05, 0.1, 0.2]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    prior = MixturePrior.make(means.view(3, 1, 1, 2), stds, weights)
    op = Rows(torch.tensor([[1.0, 0.7], [0.5, 0.35]]).double(), (1, 1, 2))  # of rank 1: y may be out of reach
    y = torch.tensor([[0.9, 0.4]]).double()
    got = exact_posterior(prior, op, y, sigma_y)

    axis = torch.linspace(-1.5, 2.5, 801, dtype=torch.float64)
    x0 = torch.cartesian_prod(axis, axis)
    likelihood = torch.exp(-(y - x0 @ op.matrix.T).square().sum(1) / (2 * sigma_y**2))
    apart = (
        torch.exp(-torch.cdist(x0, means).square() / (2 * stds**2)) / stds**2 * weights * likelihood[:, None]
    )
    mass = apart.sum(0)
    mean = apart.sum(1) @ x0 / mass.sum()
    covariance = ((x0 - mean) * apart.sum(1)[:, None]).T @ (x0 - mean) / mass.sum()
    assert torch.allclose(got.weights, mass / mass.sum(), rtol=1e-9)
    assert torch.allclose(got.means, apart.T @ x0 / mass[:, None], rtol=1e-9)
    assert torch.allclose(got.mean, mean, rtol=1e-9)
    assert torch.allclose(got.covariance, covariance, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("operator", ["mask", "rows"])
@pytest.mark.parametrize("std", [0.1, torch.tensor([0.05, 0.1, 0.2])], ids=["one std", "each its own"])
def test_without_noise_it_is_the_limit_and_what_is_measured_is_certain(
    operator: str, std: float | Tensor
) -> None:
    prior, op = mixture(std), operator_of(operator)
    y = measured(prior, op, 0.0)
    exact, near = exact_posterior(prior, op, y, 0.0), exact_posterior(prior, op, y, 1e-5)
    assert torch.allclose(exact.weights, near.weights, rtol=1e-5)
    assert close(exact.mean, near.mean, 1e-6)
    assert close(exact.covariance, near.covariance, 1e-6)
    assert torch.allclose(
        op.A(exact.means.reshape(-1, *SHAPE)), y.expand(3, *y.shape[1:]), rtol=1e-9, atol=1e-12
    )
    again = op.A(exact.sample(20, generator()).reshape(-1, *SHAPE))
    assert torch.allclose(again, y.expand_as(again), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sigma_y", [0.3, 0.1, 0.0])
def test_components_without_a_width_are_the_limit_of_narrow_ones(sigma_y: float) -> None:
    op = operator_of("rows")
    y = measured(mixture(), op, sigma_y)
    narrow, none = torch.tensor([1e-7, 0.1, 0.2]).double(), torch.tensor([0.0, 0.1, 0.2]).double()
    got, limit = (exact_posterior(mixture(std), op, y, sigma_y) for std in (none, narrow))
    assert torch.allclose(got.weights, limit.weights, rtol=1e-6, atol=1e-12)
    assert close(got.mean, limit.mean, 1e-6)
    assert close(got.covariance, limit.covariance, 1e-6)
    if sigma_y:  # without noise, y is none of the three pictures'
        got, limit = (exact_posterior(mixture(std), op, y, sigma_y) for std in (0.0, 1e-7))
        assert torch.allclose(got.weights, limit.weights, rtol=1e-6)
        assert (got.covariance - limit.covariance).norm() <= 1e-6 * limit.covariance.norm() + 1e-13
        assert close(got.sample(50, generator()), limit.sample(50, generator()), 1e-5)


def test_a_picture_measured_without_noise_is_found_among_wider_components() -> None:
    prior, op = mixture(torch.tensor([0.0, 0.1, 0.2])), operator_of("rows")
    got = exact_posterior(prior, op, op.A(prior.means[:1]), 0.0)
    assert got.weights[0] == pytest.approx(1, rel=1e-12)
    pictures = mixture(0.0)
    got = exact_posterior(pictures, op, op.A(pictures.means[1:2]) + 1e-3, 0.0)
    assert got.weights.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "noise",
    [operators.PoissonNoise(5.0), operators.LaplaceNoise(0.3), operators.GaussianNoise(0.4)],
    ids=lambda noise: noise.describe(),
)
def test_pictures_are_weighed_by_bayes_rule_under_any_operator_and_noise(noise: operators.Noise) -> None:
    prior, op = mixture(0.0), operators.Clip(SHAPE)
    y = noise.sample(op.A(prior.means[1:2]), generator())
    likelihood = torch.stack([noise.log_likelihood(y, op.A(m[None]))[0] for m in prior.means]).exp()
    expected = prior.weights * likelihood / (prior.weights * likelihood).sum()
    got = exact_posterior(prior, op, y, 0.0, noise)
    assert 0.01 < float(expected.max()) < 0.999
    assert torch.allclose(got.weights, expected, rtol=1e-10)
    assert torch.allclose(got.mean, expected @ prior.means.flatten(1), rtol=1e-10)
    away = prior.means.flatten(1) - got.mean
    assert torch.allclose(
        got.covariance, torch.einsum("k,ki,kj->ij", expected, away, away), rtol=1e-9, atol=1e-15
    )
    draws = got.sample(4000, generator())
    assert (draws[:, None] - prior.means.flatten(1)).abs().amax(dim=2).amin(dim=1).max() == 0
    assert torch.allclose(got.modes(draws), expected, atol=3 * 0.5 / 4000**0.5)


def test_gaussian_noise_given_as_a_model_is_the_same_as_its_sigma() -> None:
    prior, op = mixture(), operator_of("blur")
    y = measured(prior, op, 0.1)
    got = exact_posterior(prior, op, y, 0.7, operators.GaussianNoise(0.1))
    expected = exact_posterior(prior, op, y, 0.1)
    assert torch.equal(got.mean, expected.mean)
    assert not close(got.mean, exact_posterior(prior, op, y, 0.7).mean, 1e-3)


@pytest.mark.parametrize("sigma_y", [0.2, 0.0])
@pytest.mark.parametrize("prior", ["correlated", "singular", "mixture"])
def test_draws_have_the_posteriors_moments_and_mode_weights(prior: str, sigma_y: float) -> None:
    p = mixture(torch.tensor([0.1, 0.15, 0.2])) if prior == "mixture" else gaussian(prior)
    op = Rows(torch.randn(2, N, generator=generator(2), dtype=torch.float64))
    got = exact_posterior(p, op, measured(p, op, sigma_y), sigma_y)
    draws = got.sample(40_000, generator())
    assert draws.dtype is torch.float64
    spread = got.covariance.trace().sqrt()
    assert (draws.mean(dim=0) - got.mean).norm() < 0.02 * spread
    assert close(draws.T.cov(), got.covariance, 0.04)
    assert torch.allclose(got.modes(draws), got.weights, atol=0.01)
    assert torch.equal(got.modes(draws.reshape(-1, *SHAPE)), got.modes(draws))
    assert torch.equal(draws[:9], got.sample(40_000, generator())[:9])


def test_modes_tell_samples_of_the_wrong_component() -> None:
    prior, op = mixture(0.02), operator_of("mask")
    got = exact_posterior(prior, op, op.A(prior.means[:1]), 0.5)
    assert got.modes(prior.means[2:].flatten(1)).tolist() == pytest.approx([0, 0, 1], abs=1e-9)
    assert got.modes(prior.means[[0, 1, 1, 2]].flatten(1)).tolist() == pytest.approx([0.25, 0.5, 0.25])


def test_one_factorisation_serves_25_components_of_800_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, calls = (2, 20, 20), []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: calls.append(1) or svd(*a, **k))
    means = torch.rand(25, *shape, generator=generator(), dtype=torch.float64)
    prior = MixturePrior.make(means, torch.linspace(0.1, 0.3, 25))
    op = operators.Mask((torch.rand(20, 20, generator=generator(1)) < 0.2).float(), channels=2)
    got = exact_posterior(prior, op, measured(prior, op, 0.1), 0.1)
    assert len(calls) == 1
    assert got.sample(10, generator()).isfinite().all()
    assert float(got.covariance.diagonal().min()) > 0


def test_each_image_may_have_an_operator_of_its_own() -> None:
    parts = [operator_of("rows"), Rows(torch.eye(5, N, dtype=torch.float64))]
    op = operators.per_image(parts).pick([1])
    prior = mixture()
    y = measured(prior, parts[1], 0.1)
    assert torch.equal(exact_posterior(prior, op, y, 0.1).mean, exact_posterior(prior, parts[1], y, 0.1).mean)


def test_requests_without_a_closed_form_are_refused() -> None:
    prior, op = mixture(), operator_of("mask")
    y = measured(prior, op, 0.1)
    with pytest.raises(TypeError, match=r"LinearOperator and white Gaussian noise, .* got Clip"):
        exact_posterior(prior, operators.Clip(SHAPE), torch.zeros(1, *SHAPE), 0.1)
    with pytest.raises(TypeError, match="PoissonNoise"):
        exact_posterior(prior, op, y, 0.1, operators.PoissonNoise(30.0))
    with pytest.raises(TypeError, match="a map"):
        exact_posterior(gaussian("white"), op, y, 0.1, operators.GaussianNoise(torch.ones(SHAPE)))


def test_requests_that_do_not_fit_are_refused() -> None:
    prior, op = mixture(), operator_of("rows")
    with pytest.raises(ValueError, match=r"y: expected one measurement \(1, 5\), got \(2, 5\)"):
        exact_posterior(prior, op, torch.zeros(2, 5), 0.1)
    for sigma_y in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma_y: expected a standard deviation"):
            exact_posterior(prior, op, torch.zeros(1, 5), sigma_y)
    other = Rows(torch.zeros(5, 12, dtype=torch.float64), (3, 2, 2))
    for p in (prior, mixture(0.0), gaussian("correlated")):
        with pytest.raises(ValueError, match="op: expected one for"):
            exact_posterior(p, other, torch.zeros(1, 5), 0.1)
    with pytest.raises(ValueError, match="one of the pictures explains"):
        exact_posterior(
            mixture(0.0),
            operators.Identity(SHAPE),
            torch.full((1, *SHAPE), 0.123),
            0.0,
            operators.PoissonNoise(10.0),
        )


def test_samples_of_another_size_are_refused() -> None:
    prior, op = mixture(), operator_of("rows")
    got = exact_posterior(prior, op, torch.zeros(1, 5), 0.1)
    assert isinstance(got, Posterior)
    with pytest.raises(ValueError, match=r"samples: expected \(S, 16\), at least one, got \(3, 12\)"):
        got.modes(torch.zeros(3, 12))


# The denoiser that sees a measurement


def both(op: Operator, y: Tensor, sigma_y: float, x: Tensor, sigma: float) -> tuple[Operator, Tensor]:
    """y and x as one measurement under noise of 1."""
    unit = torch.eye(N, dtype=torch.float64).view(-1, *SHAPE)
    matrix = torch.cat([op.A(unit).flatten(1).T / sigma_y, unit.flatten(1) / sigma])
    return Rows(matrix), torch.cat([y.flatten(1) / sigma_y, x.flatten(1) / sigma], dim=1)


@pytest.mark.parametrize("operator", ["mask", "blur", "rows"])
@pytest.mark.parametrize("prior", ["white", "correlated", "singular", "mixture"])
def test_a_denoiser_that_sees_y_is_the_posterior_mean_given_y_and_the_noisy_picture(
    prior: str, operator: str
) -> None:
    p: Any = mixture(torch.tensor([0.05, 0.1, 0.2])) if prior == "mixture" else gaussian(prior)
    op = operator_of(operator)
    y = torch.cat([measured(p, op, 0.1), measured(p, op, 0.1) + 0.2])
    sees = ExactConditional(p).seeing(y, op, 0.1)
    for sigma in (0.03, 0.2, 3.0):
        x = (
            p.sample((2, *SHAPE), generator(8))
            + sigma * torch.randn(2, *SHAPE, generator=generator(9)).double()
        )
        wanted = [
            exact_posterior(p, *both(op, y[i : i + 1], 0.1, x[i : i + 1], sigma), 1.0).mean for i in (0, 1)
        ]
        torch.testing.assert_close(sees(x, sigma).flatten(1), torch.stack(wanted), rtol=1e-7, atol=1e-7)


def test_a_denoiser_that_sees_an_exact_measurement_agrees_with_it_at_every_level() -> None:
    for p in (mixture(), gaussian("correlated")):
        op = operator_of("rows")
        y = measured(p, op, 0.0)
        sees = ExactConditional(p).seeing(y, op)
        for sigma in (1e-3, 0.1, 10.0):
            x = torch.randn(3, *SHAPE, generator=generator(9), dtype=torch.float64)
            assert (op.A(sees(x, sigma)) - y).abs().max() < 1e-9


def test_among_pictures_the_measurement_weighs_them_whatever_it_is() -> None:
    """A clipped picture: y and x have their likelihoods multiplied."""
    pictures = torch.rand(6, *SHAPE, generator=generator(5), dtype=torch.float64)
    p, op = MixturePrior.empirical(pictures), operators.Clip(SHAPE)
    y, x = op.A(pictures[:1]) + 0.3, pictures[2:3] + 0.2
    log_p = -((y - op.A(pictures)).square().flatten(1).sum(1) / (2 * 0.5**2))
    log_p = log_p - (x - pictures).square().flatten(1).sum(1) / (2 * 0.4**2)
    wanted = torch.einsum("k,kchw->chw", log_p.softmax(0), pictures)[None]
    found = ExactConditional(p).seeing(y, op, 0.5)(x, 0.4)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_each_row_sees_its_own_measurement_and_all_of_them_a_single_one() -> None:
    p, op = mixture(), operator_of("mask")
    y = torch.cat([measured(p, op, 0.1) + k for k in (0.0, 0.3, -0.2)])
    x = p.sample((3, *SHAPE), generator(8))
    sees, sigmas = ExactConditional(p).seeing(y, op, 0.1), torch.tensor([0.1, 0.5, 2.0])
    assert isinstance(sees, Sees)
    alone = [
        ExactConditional(p).seeing(y[i : i + 1], op, 0.1)(x[i : i + 1], float(sigmas[i])) for i in range(3)
    ]
    torch.testing.assert_close(sees(x, sigmas), torch.cat(alone), rtol=1e-7, atol=1e-7)
    assert torch.equal(sees.pick([2, 0])(x[[2, 0]], 0.1), sees(x, 0.1)[[2, 0]])
    assert torch.equal(sees.pick([1])(x, 0.1), sees.pick([1, 1, 1])(x, 0.1))
    with pytest.raises(ValueError, match="sees 3 measurements, expected as many pictures, got 2"):
        sees(x[:2], 0.1)
    with pytest.raises(ValueError, match="expected 16 values, got 9"):
        sees(torch.zeros(3, 1, 3, 3), 0.1)


def test_without_a_measurement_it_is_the_prior_and_guidance_goes_on_from_there() -> None:
    p, op = mixture(), operator_of("mask")
    y, x = measured(p, op, 0.1), p.sample((1, *SHAPE), generator(8))
    exact = ExactConditional(p)
    assert isinstance(exact, ConditionalPrior)
    assert torch.equal(exact(x, 0.3), p(x, 0.3))
    seen, guided = (exact.seeing(y, op, 0.1, guidance=g)(x, 0.3) for g in (1.0, 1.5))
    torch.testing.assert_close(guided, p(x, 0.3) + 1.5 * (seen - p(x, 0.3)), rtol=1e-12, atol=1e-12)


def test_it_is_for_any_task_and_any_noise() -> None:
    condition = ExactConditional(mixture()).card.condition
    assert condition is not None
    assert condition.said == "any measurement, any noise"
    check_task("exact", condition, operator_of("blur"), 5.0)
