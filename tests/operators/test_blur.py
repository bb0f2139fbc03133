"""Blur against scipy's convolutions, and what it makes of which kernel."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from torch import Tensor

from invdiff.operators import Blur, CircularBlur, LinearOperator, SeparableBlur, SpectralOperator, kernels
from invdiff.operators.base import damping
from invdiff.operators.blur import Border

SCIPY = {"circular": "wrap", "reflect": "mirror", "replicate": "nearest", "zero": "constant"}
SIZES = [(1, 1), (3, 3), (5, 3), (4, 6), (2, 7), (9, 11)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("border", SCIPY)
def test_each_border_is_scipys(border: Border, size: tuple[int, int]) -> None:
    kernel, x = random(*size), random(2, 3, 9, 11, seed=1)
    wanted = np.stack([[ndimage.convolve(c, kernel, mode=SCIPY[border]) for c in b] for b in x.numpy()])
    assert np.allclose(Blur(kernel, (3, 9, 11), border)(x), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_valid_is_the_part_of_the_convolution_that_knows_its_pixels(size: tuple[int, int]) -> None:
    kernel, x = random(*size), random(1, 1, 9, 11, seed=1)
    wanted = signal.convolve2d(x[0, 0], kernel, mode="valid")
    op = Blur(kernel, (1, 9, 11), "valid")
    assert op.out_shape == (1, *wanted.shape)
    assert np.allclose(op(x)[0, 0], wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("border", get_args(Border))
def test_the_kernel_is_flipped_so_that_a_point_becomes_the_kernel(border: Border) -> None:
    x, kernel = torch.zeros(1, 1, 9, 9), random(3, 3).float()
    x[..., 4, 4] = 1
    y = Blur(kernel, (1, 9, 9), border)(x)[0, 0]
    corner = 2 if border == "valid" else 3
    assert torch.allclose(y[corner : corner + 3, corner : corner + 3], kernel, atol=1e-6)


@pytest.mark.parametrize("border", ["circular", "reflect", "replicate", "valid"])
def test_a_flat_image_stays_as_bright_as_it_is(border: Border) -> None:
    y = Blur(kernels.motion(7, 20), (1, 16, 17), border)(torch.full((1, 1, 16, 17), 0.3))
    assert torch.allclose(y, torch.tensor(0.3))


def test_what_can_be_spectral_is_and_says_so_in_its_type() -> None:
    shape = (3, 20, 20)
    gaussian, disk = kernels.gaussian(1.0), kernels.disk(2.3)
    assert isinstance(Blur(disk, shape, "circular"), CircularBlur)
    assert isinstance(Blur(gaussian, shape, "circular"), CircularBlur)
    assert isinstance(Blur(gaussian, shape, "reflect"), SeparableBlur)
    assert issubclass(CircularBlur, SpectralOperator)
    assert issubclass(SeparableBlur, SpectralOperator)
    plain = Blur(disk, shape, "reflect")
    assert isinstance(plain, LinearOperator)
    assert not isinstance(plain, SpectralOperator)


def test_a_separable_blur_solves_as_conjugate_gradients_would() -> None:
    kernel, z, y = kernels.gaussian(0.7), random(2, 1, 20, 21), random(2, 1, 20, 21, seed=1)
    op = Blur(kernel, (1, 20, 21), "replicate", rtol=1e-12, max_iter=1000)
    wanted = LinearOperator.prox(op, z, y, 50.0)
    by_gradients = z + LinearOperator._least_squares(op, y - op(z), damping(50.0, z))
    assert torch.allclose(wanted, by_gradients, rtol=0, atol=1e-8)


def test_conjugate_gradients_stop_where_they_are_told_to() -> None:
    shape = (1, 32, 32)
    z, y = random(1, *shape), random(1, *shape, seed=1)
    exact = Blur(kernels.disk(3), shape, "reflect", rtol=1e-12, max_iter=2000).prox(z, y, 100.0)

    def off(**limits: float) -> float:
        op = Blur(kernels.disk(3), shape, "reflect", **limits)  # type: ignore[arg-type]
        return (op.prox(z, y, 100.0) - exact).norm().item()

    assert off(max_iter=2) > off(max_iter=10) > 1e2 * off(rtol=1e-4) > 1e4 * off(rtol=1e-8, max_iter=500)


def test_conjugate_gradients_stop_for_each_sample_on_its_own() -> None:
    op = Blur(kernels.disk(3), (1, 32, 32), "reflect", rtol=1e-2)
    z, y = random(3, 1, 32, 32), random(3, 1, 32, 32, seed=1)
    y[0] = op(z[:1])[0]  # nothing to do
    weights = torch.tensor([1.0, 1.0, 20.0])  # and soon done, and late
    together = op.prox(z, y, weights)
    for i in range(3):
        assert torch.allclose(
            op.prox(z[i : i + 1], y[i : i + 1], weights[i]), together[i], rtol=0, atol=1e-13
        )


def test_a_kernel_that_loses_frequencies_leaves_them_at_zero() -> None:
    """The mean of two neighbours loses the highest frequency: nothing there may be blown up."""
    op = Blur(torch.full((1, 2), 0.5), (1, 4, 6), "circular")
    assert isinstance(op, CircularBlur)
    assert (op.singular_values == 0).sum() == 4
    stripes = torch.tensor([1.0, -1.0]).repeat(3).expand(1, 1, 4, 6)
    assert torch.allclose(op.A_dagger(stripes), torch.zeros(1), atol=1e-6)


def test_the_kernel_is_the_operators_own() -> None:
    kernel, x = kernels.disk(1.5), random(1, 1, 9, 9)
    op = Blur(kernel, (1, 9, 9))
    kernel.zero_()
    assert op(x).norm() > 1


GOOD = torch.ones(3, 3)


@pytest.mark.parametrize(
    ("kernel", "border", "message"),
    [
        (GOOD, "mirror", "border: expected one of circular, reflect, replicate, zero, valid, got 'mirror'"),
        (torch.ones(9, 3), "zero", "9x3 is larger than the image, 8x8; crop it"),
        (torch.ones(3), "zero", r"expected \(h, w\), got \(3,\)"),
        (torch.ones(0, 3), "zero", r"got \(0, 3\)"),
        (torch.tensor([[1.0, -1.0]]), "zero", "sums to zero"),
        (torch.zeros(3, 3), "circular", "sums to zero"),
        (GOOD * torch.nan, "reflect", "got NaN or infinity"),
    ],
)
def test_a_kernel_or_border_that_cannot_be_is_refused(kernel: Tensor, border: Border, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        Blur(kernel, (1, 8, 8), border)


def test_the_spectral_classes_refuse_what_is_not_theirs() -> None:
    with pytest.raises(ValueError, match="the border is reflect, not circular"):
        CircularBlur(GOOD, (1, 8, 8), "reflect")
    with pytest.raises(ValueError, match="no outer product"):
        SeparableBlur(kernels.disk(2), (1, 8, 8), "reflect")


def test_it_says_in_one_line_what_it_is() -> None:
    assert repr(Blur(GOOD, (3, 8, 9), "valid")) == "Blur(3x3, valid, 3x8x9)"
