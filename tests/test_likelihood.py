"""What a measurement says under any noise: whitening that loses nothing, and distances methods may descend."""

from __future__ import annotations

import pytest
import torch
from examples import random
from torch import Tensor

from invdiff import operators
from invdiff.likelihood import NOISE_FLOOR, Measurement, gaussian
from invdiff.operators import Diagonal, Identity, LinearOperator, Mask, SpectralOperator

SHAPE = (1, 5, 4)


def operator(name: str) -> LinearOperator:
    if name == "mask":
        return Mask(random(5, 4) > -0.5, channels=1)
    if name == "blur":
        return operators.Blur(operators.kernels.gaussian(0.6)[1:-1, 1:-1], SHAPE, "reflect")
    return operators.Downsample(2, SHAPE)


def posterior(op: LinearOperator, y: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x₀ ~ N(0, I) given y = A x₀ + n, n ~ N(0, covariance); y: (*out_shape)."""
    n = torch.eye(20, dtype=torch.float64)
    A = op.A(n.view(20, *SHAPE)).flatten(1).mT
    precision = n + A.mT @ torch.linalg.pinv(covariance) @ A
    mean = torch.linalg.solve(precision, A.mT @ torch.linalg.pinv(covariance) @ y.flatten())
    return mean, torch.linalg.inv(precision)


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(torch.allclose(p, q, rtol=1e-8, atol=1e-10) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["mask", "blur", "downsample"])
def test_a_map_of_noise_is_whitened_without_loss(name: str) -> None:
    op = operator(name)
    sigma = 0.05 + 0.2 * random(*op.out_shape, seed=1).abs()
    y = op.A(random(3, *SHAPE, seed=2)) + 0.1 * random(3, *op.out_shape, seed=3)
    y = op.A(y) if isinstance(op, Mask) else y
    white = Measurement(y, op, 0.0, operators.GaussianNoise(sigma)).white()
    assert white.noise is None
    for i in range(3):
        one = white.pick([i])
        assert isinstance(one.operator, LinearOperator)
        flat = white.sigma_y**2 * torch.eye(sigma.numel(), dtype=torch.float64)
        exact = posterior(op, y[i], sigma.flatten().square().diag())
        assert same(posterior(one.operator, one.y[0], flat), exact)


def test_noise_coloured_in_the_operators_basis_is_whitened_without_loss_and_stays_spectral() -> None:
    op = operators.Blur(operators.kernels.motion(3, 20), SHAPE)
    assert isinstance(op, SpectralOperator)
    sigmas = 0.05 + 0.2 * random(20, seed=1).abs()
    noise = operators.ColouredNoise(op, sigmas)
    y = op.A(random(2, *SHAPE))
    white = Measurement(y, op, 0.0, noise).white()
    assert isinstance(white.operator, SpectralOperator)
    U = op.U(torch.eye(20, dtype=torch.float64)).flatten(1).mT
    exact = posterior(op, y[0], U @ sigmas.square().diag() @ U.mT)
    flat = white.sigma_y**2 * torch.eye(20, dtype=torch.float64)
    assert same(posterior(white.operator, white.y[0], flat), exact)


def test_white_gaussian_noise_is_its_number_and_is_left_as_it_is() -> None:
    assert gaussian(operators.GaussianNoise(0.1)) == 0.1
    assert gaussian(operators.GaussianNoise(torch.full((1, 5, 4), 0.1))) is None
    assert gaussian(operators.PoissonNoise(30.0)) is None
    assert gaussian(None) is None
    plain = Measurement(random(1, *SHAPE), Identity(SHAPE), 0.1)
    assert plain.white() is plain


def test_poisson_noise_trusts_the_dark_more() -> None:
    y = torch.tensor([0.0, 0.25, 1.0, 0.5], dtype=torch.float64).view(1, 1, 2, 2)
    white = Measurement(y, Identity((1, 2, 2)), 0.0, operators.PoissonNoise(100.0)).white()
    assert white.sigma_y == pytest.approx(0.01)  # one photon, at 0
    assert isinstance(white.operator, Diagonal)
    wanted = torch.tensor([1.0, 0.2, 0.1, 0.01 / 0.005**0.5], dtype=torch.float64)
    assert torch.allclose(white.operator.weights.flatten(), wanted)
    assert torch.allclose(white.y.flatten(), wanted * y.flatten())


def test_salt_and_pepper_leave_a_mask_of_what_they_spared() -> None:
    y = torch.tensor([0.0, 0.25, 1.0, 0.5], dtype=torch.float64).view(1, 1, 2, 2)
    white = Measurement(y, Identity((1, 2, 2)), 0.0, operators.SaltAndPepperNoise(0.5)).white()
    assert white.sigma_y == 0
    x = random(1, 1, 2, 2)
    assert torch.equal(white.operator.A(x).flatten() != 0, torch.tensor([False, True, False, True]))
    assert torch.equal(white.operator.A(x).flatten()[1], x.flatten()[1])
    keep = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    spared = Measurement(y, Mask(keep, 1), 0.0, operators.SaltAndPepperNoise(0.5)).white().operator
    assert isinstance(spared, Mask)
    assert spared.keep.flatten().tolist() == [False, True, False, False]


def test_noise_below_the_floor_is_weighted_as_the_floor() -> None:
    sigma = torch.tensor([1e-9, 0.1], dtype=torch.float64).view(1, 1, 2)
    y = random(1, 1, 1, 2)
    white = Measurement(y, Identity((1, 1, 2)), 0.0, operators.GaussianNoise(sigma)).white()
    assert white.sigma_y == NOISE_FLOOR
    assert white.operator.A(torch.ones(1, 1, 1, 2, dtype=torch.float64)).flatten().tolist() == [1.0, 0.01]


@pytest.mark.parametrize("peak", [10.0, 1000.0])
def test_the_distance_under_poisson_noise_falls_toward_what_was_measured(peak: float) -> None:
    op = Identity(SHAPE)
    clean = 0.5 + 0.1 * random(2, *SHAPE)
    y = operators.PoissonNoise(peak).sample(clean, torch.Generator().manual_seed(0))
    measured = Measurement(y, op, 0.0, operators.PoissonNoise(peak))
    x = (y.clamp(min=0.05) + 0.2).requires_grad_()
    far = measured.distance(x)
    (slope,) = torch.autograd.grad(far.sum(), x)
    assert far.shape == (2,)
    assert (measured.distance(x.detach() - 0.05 * slope) < far).all()
    assert torch.allclose(
        measured.distance(y.clamp(min=1e-9)), torch.zeros(2, dtype=torch.float64), atol=1e-3
    )


def test_the_distance_under_gaussian_noise_is_the_residuals_norm_whatever_says_so() -> None:
    op, y, x = operator("blur"), random(2, 1, 5, 4), random(2, *SHAPE, seed=4)
    plain = Measurement(y, op, 0.1)
    assert torch.allclose(plain.distance(x), (y - op.A(x)).flatten(1).norm(dim=1))
    as_a_map = Measurement(y, op, 0.0, operators.GaussianNoise(torch.full(SHAPE, 0.1, dtype=torch.float64)))
    assert torch.allclose(as_a_map.distance(x), plain.distance(x), rtol=1e-8)
