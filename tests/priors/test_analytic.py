"""The Gaussian prior against its closed form and against Tweedie's formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invdiff.priors import GaussianPrior, Prior

SHAPE = (2, 3, 2)
N = math.prod(SHAPE)


@pytest.fixture
def covariance() -> Tensor:
    root = torch.randn(N, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return 0.02 * root @ root.T


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 3.0, 100.0])
def test_white_is_the_closed_form(x: Tensor, sigma: float) -> None:
    prior = GaussianPrior.white(mean=0.4, std=0.3)
    expected = (0.3**2 * x + sigma**2 * 0.4) / (0.3**2 + sigma**2)
    assert isinstance(prior, Prior)
    assert torch.allclose(prior(x, sigma), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 20.0])
def test_correlated_is_the_closed_form(x: Tensor, covariance: Tensor, sigma: float) -> None:
    mean = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noisy = covariance + sigma**2 * torch.eye(N, dtype=torch.float64)
    expected = mean.flatten() + (x - mean).flatten(1) @ torch.linalg.solve(noisy, covariance)
    got = GaussianPrior.correlated(mean, covariance)(x, sigma)
    assert torch.allclose(got.flatten(1), expected, rtol=1e-11, atol=1e-13)


def test_d_is_x_plus_sigma_squared_times_the_score(x: Tensor, covariance: Tensor) -> None:
    sigma = 0.3
    noisy = covariance + sigma**2 * torch.eye(N, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    away = leaf.flatten(1) - 0.5
    log_density = -(away * torch.linalg.solve(noisy, away.T).T).sum() / 2
    (score,) = torch.autograd.grad(log_density, leaf)
    got = GaussianPrior.correlated(0.5, covariance)(x, sigma)
    assert torch.allclose(got, x + sigma**2 * score, rtol=1e-9, atol=1e-11)


def test_a_correlated_prior_of_a_multiple_of_the_identity_is_the_white_one(x: Tensor) -> None:
    same = GaussianPrior.correlated(0.4, 0.09 * torch.eye(N))
    assert torch.allclose(same(x, 0.2), GaussianPrior.white(0.4, 0.3)(x, 0.2), rtol=1e-6, atol=1e-7)


def test_one_sigma_for_each_image_is_the_same_as_a_number(x: Tensor, covariance: Tensor) -> None:
    sigma = torch.tensor([0.1, 0.5, 1.0, 9.0], dtype=torch.float64)
    for prior in (GaussianPrior.white(), GaussianPrior.correlated(0.5, covariance)):
        together = prior(x, sigma)
        for row in range(4):
            alone = prior(x[row : row + 1], float(sigma[row]))
            assert torch.allclose(together[row : row + 1], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_is_of_the_pictures_type(x: Tensor, covariance: Tensor, dtype: torch.dtype) -> None:
    assert GaussianPrior.correlated(0.5, covariance)(x.to(dtype), 0.1).dtype is dtype


def test_a_singular_covariance_at_no_noise_keeps_the_picture_where_it_can_vary(x: Tensor) -> None:
    prior = GaussianPrior.correlated(0.0, torch.diag(torch.tensor([1.0] * 6 + [0.0] * 6)))
    d = prior(x, 0.0).flatten(1)
    assert torch.allclose(d[:, :6], x.flatten(1)[:, :6])
    assert d[:, 6:].abs().max() == 0


def test_samples_have_the_mean_and_the_covariance(covariance: Tensor) -> None:
    prior = GaussianPrior.correlated(0.5, covariance)
    draws = prior.sample((40_000, *SHAPE), torch.Generator().manual_seed(0)).flatten(1)
    assert torch.allclose(draws.mean(dim=0), torch.full((N,), 0.5, dtype=torch.float64), atol=0.02)
    assert torch.allclose(draws.T.cov(), covariance, atol=0.03 * float(covariance.diagonal().max()))
    white = GaussianPrior.white(std=0.3).sample((5000, 1, 2, 2), torch.Generator().manual_seed(0))
    assert float(white.std()) == pytest.approx(0.3, rel=0.03)


def test_the_covariance_is_applied_to_vectors(covariance: Tensor) -> None:
    v = torch.randn(3, N, dtype=torch.float64)
    product = GaussianPrior.correlated(0.5, covariance).covariance_times(v)
    assert torch.allclose(product, v @ covariance, rtol=1e-10, atol=1e-12)
    assert torch.allclose(GaussianPrior.white(std=0.3).covariance_times(v), 0.09 * v)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (torch.ones(2, 3), r"symmetric .*\(2, 3\)"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "positive semi-definite .* -1"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GaussianPrior.correlated(0.5, matrix)


def test_a_picture_of_another_size_than_the_covariance_is_refused(covariance: Tensor) -> None:
    with pytest.raises(ValueError, match="expected 12 values, got 16"):
        GaussianPrior.correlated(0.5, covariance)(torch.zeros(1, 1, 4, 4), 0.1)
    with pytest.raises(ValueError, match="positive standard deviation"):
        GaussianPrior.white(std=0.0)
