"""What a measurement says under any noise: whitening that loses nothing, and distances methods may descend."""

from __future__ import annotations

import pytest
import torch
from examples import random
from torch import Tensor

from invdiff import operators
from invdiff.errors import RequestError
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


def test_rounding_is_taken_as_white_noise_of_a_step_over_root_twelve() -> None:
    op = operators.Quantize(SHAPE, 2)
    assert Measurement(op.A(random(1, *SHAPE)), op, 0.0).unrounded().sigma_y == pytest.approx(1 / 3 / 12**0.5)
    noisy = Measurement(op.A(random(1, *SHAPE)), op, 0.2).unrounded()
    assert noisy.sigma_y == pytest.approx((0.2**2 + 1 / 108) ** 0.5)
    assert isinstance(noisy.operator, Identity)
    plain = Measurement(random(1, *SHAPE), Identity(SHAPE), 0.1)
    assert plain.unrounded() is plain


def test_each_picture_of_its_own_operator_is_whitened_with_that_one() -> None:
    parts = [Diagonal(0.5 + random(*SHAPE, seed=i).abs()) for i in range(2)]
    noise = operators.PoissonNoise(50.0)
    y = 0.2 + random(2, *SHAPE).abs()
    together = Measurement(y, operators.per_image(parts), 0.0, noise).white()
    for i, part in enumerate(parts):
        alone = Measurement(y[i : i + 1], part, 0.0, noise).white()
        x = random(1, *SHAPE) * together.sigma_y / alone.sigma_y  # of whitened units
        got = together.pick([i]).operator.A(x) / together.sigma_y
        assert torch.allclose(got, alone.operator.A(x) / alone.sigma_y)


def test_only_exact_measurements_are_pasted() -> None:
    op = Mask(random(5, 4) > 0, channels=1)
    x, y = random(1, *SHAPE), op.A(random(1, *SHAPE, seed=1))
    assert torch.equal(op.A(Measurement(y, op, 0.0).paste(x)), y)
    for noisy in (Measurement(y, op, 0.1), Measurement(y, op, 0.0, operators.PoissonNoise(9.0))):
        assert noisy.paste(x) is x


def test_what_has_too_little_light_still_has_a_way_back() -> None:
    noise = operators.PoissonNoise(20.0)
    dark = torch.full((1, *SHAPE), -0.01, dtype=torch.float64).requires_grad_()
    measured = Measurement(torch.full((1, *SHAPE), 0.5, dtype=torch.float64), Identity(SHAPE), 0.0, noise)
    (slope,) = torch.autograd.grad(measured.distance(dark).sum(), dark)
    assert (slope < 0).all()  # brighter is nearer
    assert slope.isfinite().all()


def test_the_distance_under_photons_and_electronics_is_nearly_that_of_their_exact_sum() -> None:
    noise = operators.PoissonGaussianNoise(50.0, 0.1)
    clean = 0.5 + 0.1 * random(1, *SHAPE)
    y = noise.sample(clean, torch.Generator().manual_seed(0))
    x = clean + 0.15
    exact = noise.std(y).square().mean().sqrt() * noise.deviance(y, x).sqrt()  # type: ignore[union-attr]
    assert Measurement(y, Identity(SHAPE), 0.0, noise).distance(x).item() == pytest.approx(
        exact.item(), rel=0.05
    )


def test_lost_pixels_take_no_part_in_the_distance() -> None:
    """Photons behind a mask pull as hard as on the picture cut to what was seen."""
    keep = torch.zeros(8, 6)
    keep[:4] = 1
    noise, op = operators.PoissonNoise(30.0), Mask(keep, channels=1)
    y = op.A(noise.sample(0.5 + 0.1 * random(1, 1, 8, 6), torch.Generator().manual_seed(0)))
    x = (0.4 + 0.1 * random(1, 1, 8, 6, seed=2)).requires_grad_()
    (masked,) = torch.autograd.grad(Measurement(y, op, 0.0, noise).distance(x).sum(), x)
    cut = x.detach()[..., :4, :].clone().requires_grad_()
    (seen,) = torch.autograd.grad(
        Measurement(y[..., :4, :], Identity((1, 4, 6)), 0.0, noise).distance(cut).sum(), cut
    )
    assert torch.allclose(masked[..., :4, :], seen)
    assert not masked[..., 4:, :].any()


def test_a_map_with_a_perfect_pixel_keeps_a_finite_distance() -> None:
    sigma = torch.full(SHAPE, 0.1, dtype=torch.float64)
    sigma[0, 0, 0] = 0
    measured = Measurement(random(1, *SHAPE), Identity(SHAPE), 0.0, operators.GaussianNoise(sigma))
    assert measured.distance(random(1, *SHAPE, seed=1)).isfinite().all()


def test_a_picture_of_which_nothing_is_known_is_refused_and_a_single_pixel_is_not_a_number() -> None:
    noise = operators.SaltAndPepperNoise(0.5)
    y = torch.stack((torch.zeros(SHAPE), torch.full(SHAPE, 0.5)))
    with pytest.raises(RequestError, match="nothing is known of a picture"):
        Measurement(y, Identity(SHAPE), 0.0, noise).white()
    one = Measurement(torch.full((1, 1, 1, 1), 0.5), Identity((1, 1, 1)), 0.0, noise).white()
    assert one.sigma_y == 0
    same = operators.GaussianNoise(torch.full(SHAPE, 0.1, dtype=torch.float64))
    white = Measurement(random(1, *SHAPE), operator("blur"), 0.0, same).white()
    assert white.operator is not None
    assert white.sigma_y == pytest.approx(0.1)
    assert isinstance(white.operator, operators.SeparableBlur)


def test_the_gain_is_the_squared_norm_of_the_operator_and_one_where_it_is_less() -> None:
    shape = (1, 3, 3)
    wide = operators.per_image([3 * operators.Identity(shape), 0.5 * operators.Identity(shape)])
    gain = Measurement(torch.zeros(2, *shape, dtype=torch.float64), wide, 0.1).gain
    assert gain.tolist() == pytest.approx([9.0, 1.0], rel=1e-12)
    twice = 2 * operators.Blur(operators.kernels.gaussian(0.6)[1:-1, 1:-1], SHAPE, "reflect")
    dense = twice.A(torch.eye(20, dtype=torch.float64).view(20, *SHAPE)).flatten(1)
    largest = float(torch.linalg.matrix_norm(dense, 2)) ** 2
    assert Measurement(torch.zeros(1, *SHAPE), twice, 0.1).gain.item() == pytest.approx(largest, rel=0.05)
