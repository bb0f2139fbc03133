"""The exact priors against their closed forms, against quadrature, and against Tweedie's formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invdiff.priors import GaussianPrior, MixturePrior, Prior

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


def prior_of(name: str, covariance: Tensor) -> GaussianPrior | MixturePrior:
    means = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    if name == "white":
        return GaussianPrior.white(means[0], 0.3)
    if name == "correlated":
        return GaussianPrior.correlated(0.5, covariance)
    if name == "singular":
        return GaussianPrior.correlated(means[0], torch.diag(torch.tensor([0.1] * 6 + [0.0] * 6)))
    if name == "pictures":
        return MixturePrior.empirical(means)
    return MixturePrior.make(means, torch.tensor([0.0, 0.05, 0.1, 0.3]), torch.tensor([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 100.0])
@pytest.mark.parametrize("name", ["white", "correlated", "singular", "mixture", "pictures"])
def test_d_is_x_plus_sigma_squared_times_the_slope_of_the_log_density(
    covariance: Tensor, name: str, sigma: float
) -> None:
    prior = prior_of(name, covariance)
    generator = torch.Generator().manual_seed(6)
    x = prior.sample((4, *SHAPE), generator)
    x = (x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    (score,) = torch.autograd.grad(prior.log_density(x, sigma).sum(), x)
    assert torch.allclose(prior(x, sigma), x + sigma**2 * score, rtol=1e-9, atol=1e-9)


def test_the_gaussian_log_density_is_the_normalised_formula(x: Tensor, covariance: Tensor) -> None:
    mean = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.5, 1.0, 9.0], dtype=torch.float64)
    noisy = covariance + sigma.view(-1, 1, 1) ** 2 * torch.eye(N, dtype=torch.float64)
    away = (x - mean).flatten(1)
    squares = (away * torch.linalg.solve(noisy, away)).sum(1)
    expected = -0.5 * (squares + torch.linalg.slogdet(2 * math.pi * noisy).logabsdet)
    got = GaussianPrior.correlated(mean, covariance).log_density(x, sigma)
    assert torch.allclose(got, expected, rtol=1e-11)
    white = GaussianPrior.white(mean, 0.3)
    expected = -0.5 * (away.square() / 0.25 + math.log(2 * math.pi * 0.25)).sum(1)
    assert torch.allclose(white.log_density(x, 0.4), expected, rtol=1e-12)
    assert torch.equal(white.log_density(x.float(), 0.4), white.log_density(x.float().double(), 0.4))


def test_a_log_density_that_does_not_exist_is_refused(x: Tensor, covariance: Tensor) -> None:
    for name in ("singular", "mixture", "pictures"):
        with pytest.raises(ValueError, match="no density at this sigma; expected a larger"):
            prior_of(name, covariance).log_density(x, 0.0)
    flat = torch.diag(torch.tensor([1.0] * 6 + [1e-17] * 6, dtype=torch.float64))  # flat but for rounding
    with pytest.raises(ValueError, match="no density"):
        GaussianPrior.correlated(0.5, flat).log_density(x, 0.0)
    assert prior_of("white", covariance).log_density(x, 0.0).isfinite().all()


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


# ------------------------------------------------------------------------------------------------------------ mixtures


@pytest.fixture
def mixture(covariance: Tensor) -> MixturePrior:
    prior = prior_of("mixture", covariance)
    assert isinstance(prior, MixturePrior)
    return prior


def normal(away: Tensor, std: Tensor) -> Tensor:
    return torch.exp(-(away**2) / (2 * std**2)) / (2 * math.pi * std**2).sqrt()


@pytest.mark.parametrize("sigma", [0.05, 0.4, 5.0])
def test_the_mixture_is_what_quadrature_over_x0_gives(sigma: float) -> None:
    means, stds, weights = torch.tensor(
        [[-0.3, 0.2, 0.9], [0.1, 0.05, 0.3], [0.5, 0.2, 0.3]], dtype=torch.float64
    )
    prior = MixturePrior.make(means.view(3, 1, 1, 1), stds, 7 * weights)
    x = torch.linspace(-1.0, 1.5, 11, dtype=torch.float64)
    x0 = torch.linspace(-3.0, 4.0, 20_001, dtype=torch.float64)
    density = normal(x0[:, None] - means, stds) @ weights
    joint = density * normal(x[:, None] - x0, torch.tensor(sigma, dtype=torch.float64))
    mass = joint.sum(1)
    pictures = x.view(-1, 1, 1, 1)
    assert torch.allclose(prior(pictures, sigma).flatten(), (joint @ x0) / mass, rtol=1e-10)
    assert torch.allclose(
        prior.log_density(pictures, sigma), (mass * (x0[1] - x0[0])).log(), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("sigma", [0.02, 0.3, 100.0])
def test_the_denoiser_of_pictures_is_their_mean_weighted_by_how_near_they_are(
    x: Tensor, sigma: float
) -> None:
    pictures = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    near = torch.stack([torch.exp(-(x[0] - m).square().sum() / (2 * sigma**2) + 700) for m in pictures])
    near = (
        near
        if near.sum() > 0
        else torch.eye(5, dtype=torch.float64)[(pictures - x[0]).flatten(1).norm(dim=1).argmin()]
    )
    expected = torch.einsum("k,kchw->chw", near / near.sum(), pictures)
    prior = MixturePrior.empirical(pictures)
    assert isinstance(prior, Prior)
    assert torch.allclose(prior(x[:1], sigma)[0], expected, rtol=1e-11)
    nearest = torch.cdist(x.flatten(1), pictures.flatten(1)).argmin(dim=1)
    assert torch.allclose(prior(x, 0.0), pictures[nearest], rtol=1e-12)


def test_a_mixture_of_one_is_the_white_gaussian(x: Tensor) -> None:
    mean = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    one, white = MixturePrior.make(mean[None], 0.2), GaussianPrior.white(mean, 0.2)
    for sigma in (0.0, 0.1, 30.0):
        assert torch.allclose(one(x, sigma), white(x, sigma), rtol=1e-12, atol=1e-13)
        assert torch.allclose(one.log_density(x, sigma), white.log_density(x, sigma), rtol=1e-12)
    assert one.card.data_std == pytest.approx(0.2)


@pytest.mark.parametrize("std", [0.0, 0.05])
@pytest.mark.parametrize("sigma", [1e-3, 0.03, 1.0, 100.0])
def test_in_800_dimensions_float32_agrees_with_the_sum_written_out(sigma: float, std: float) -> None:
    generator = torch.Generator().manual_seed(8)
    shape = (2, 20, 20)
    prior = MixturePrior.make(torch.rand(25, *shape, generator=generator), std)
    x = prior.sample((6, *shape), generator)
    x = (x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)).float()
    v = std**2 + sigma**2
    logits = -(x[:, None].double() - prior.means).square().sum((2, 3, 4)) / (2 * v)
    expected = (std**2 * x + sigma**2 * torch.einsum("bk,kchw->bchw", logits.softmax(1), prior.means)) / v
    d = prior(x, sigma)
    assert d.dtype is torch.float32
    assert torch.allclose(d.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_slope_of_the_mixture_is_its_posterior_covariance_over_sigma_squared(dtype: torch.dtype) -> None:
    means = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    means[1, ..., 0] = 2e-3
    prior = MixturePrior.make(means, 0.0)
    middle = means.mean(dim=0, keepdim=True).to(dtype).requires_grad_()
    (slope,) = torch.autograd.grad(prior(middle, 1e-3)[..., 0].sum(), middle)
    assert torch.allclose(
        slope.flatten(), torch.tensor([1.0, 0.0], dtype=dtype), rtol=1e-6
    )  # (1e-3)² / (1e-3)²
    wide = MixturePrior.make(means, 0.1)
    at_mean = means[1:].to(dtype).requires_grad_()
    (slope,) = torch.autograd.grad(wide(at_mean, 1e-3)[..., 0].sum(), at_mean)
    assert float(slope[..., 0]) == pytest.approx(1 / (1 + 1e-4), rel=1e-3)
    far = MixturePrior.empirical(1000 * means)
    (slope,) = torch.autograd.grad(far(at_mean, 1e-3).sum(), at_mean)
    assert slope.abs().max() == 0


def test_one_sigma_for_each_image_is_the_same_as_a_number_for_a_mixture(
    x: Tensor, mixture: MixturePrior
) -> None:
    sigma = torch.tensor([0.0, 0.1, 1.0, 9.0], dtype=torch.float64)
    together = mixture(x, sigma)
    for row in range(4):
        assert torch.allclose(
            together[row : row + 1], mixture(x[row : row + 1], float(sigma[row])), rtol=1e-12
        )


def test_a_mixture_keeps_no_tensor_of_batch_times_components_times_pixels() -> None:
    prior, kept = MixturePrior.empirical(torch.rand(20, 1, 8, 8)), []
    x = torch.rand(10, 1, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        prior(x, 0.1)
    assert 0 < max(kept) <= 20 * 64


def test_draws_of_a_mixture_have_its_moments_and_its_card_says_them(mixture: MixturePrior) -> None:
    draws = mixture.sample((40_000, *SHAPE), torch.Generator().manual_seed(0))
    assert draws.dtype is torch.float64
    mean = torch.einsum("k,kchw->chw", torch.tensor([0.1, 0.2, 0.3, 0.4]).double(), mixture.means)
    assert torch.allclose(draws.mean(dim=0), mean, atol=0.01)
    assert mixture.card.data_mean == pytest.approx(float(draws.mean()), rel=5e-3)
    assert mixture.card.data_std == pytest.approx(float(draws.var(dim=0).mean().sqrt()), rel=1e-2)
    assert mixture.card.channels == SHAPE[0]
    shares = mixture.responsibilities(draws, 0.0).mean(dim=0)
    assert torch.allclose(shares, mixture.weights, atol=0.01)
    again = mixture.sample((40_000, *SHAPE), torch.Generator().manual_seed(0))
    assert torch.equal(draws, again)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"means": torch.zeros(3, 2, 2), "std": 0.1},
            r"finite pictures \(K, C, H, W\), got shape \(3, 2, 2\)",
        ),
        ({"means": torch.zeros(0, 1, 2, 2), "std": 0.1}, "finite pictures"),
        ({"means": torch.full((1, 1, 2, 2), math.nan), "std": 0.1}, "finite pictures"),
        ({"means": torch.zeros(3, 1, 2, 2), "std": -0.1}, "std: .* from 0 up, .* got -0.1"),
        ({"means": torch.zeros(3, 1, 2, 2), "std": math.inf}, "std: .* from 0 up"),
        (
            {"means": torch.zeros(3, 1, 2, 2), "std": torch.ones(2)},
            r"std: expected a number or \(3,\), got shape \(2,\)",
        ),
        (
            {"means": torch.zeros(2, 1, 2, 2), "std": 0.1, "weights": torch.tensor([1.0, 0.0])},
            "weights: .* above 0",
        ),
        (
            {"means": torch.zeros(2, 1, 2, 2), "std": 0.1, "weights": torch.ones(3)},
            r"weights: .* \(2,\), got shape",
        ),
    ],
)
def test_what_is_no_mixture_is_refused(arguments: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MixturePrior.make(**arguments)


def test_pictures_of_another_shape_than_the_mixtures_are_refused(mixture: MixturePrior) -> None:
    for ask in (
        lambda v: mixture(v, 0.1),
        lambda v: mixture.log_density(v, 0.1),
        lambda v: mixture.responsibilities(v, 0.1),
    ):
        with pytest.raises(ValueError, match=r"expected pictures \(B, 2, 3, 2\), got \(1, 1, 2, 3\)"):
            ask(torch.zeros(1, 1, 2, 3))
    with pytest.raises(ValueError, match="expected pictures"):
        mixture.sample((1, 1, 2, 3), torch.Generator())
    with pytest.raises(ValueError, match="sigma"):
        mixture(torch.zeros(1, *SHAPE), -1.0)
