"""Blur kernels: their sums, sizes and shapes."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from invdiff.operators import kernels


@pytest.mark.parametrize(
    "kernel",
    [
        kernels.gaussian(1.6),
        kernels.gaussian(3.0, 61),
        kernels.disk(0.3),
        kernels.disk(4.7),
        kernels.motion(1),
    ]
    + [kernels.motion(15.5, angle) for angle in (0, 30, 45, 90, 200, -20)],
)
def test_a_kernel_is_odd_float64_positive_sums_to_one_and_is_its_own_half_turn(kernel: Tensor) -> None:
    assert kernel.dtype == torch.float64
    assert all(n % 2 == 1 for n in kernel.shape)
    assert (kernel >= 0).all()
    assert abs(kernel.sum() - 1) < 1e-14
    assert torch.allclose(kernel, kernel.rot90(2), atol=1e-14)


def test_gaussian_is_scipys() -> None:
    point = np.zeros((13, 13))
    point[6, 6] = 1
    assert np.allclose(kernels.gaussian(1.6), ndimage.gaussian_filter(point, 1.6), rtol=0, atol=1e-15)
    assert kernels.gaussian(3.0, 61).shape == (61, 61)


def test_disk_covers_its_area() -> None:
    kernel = kernels.disk(5.0)
    assert kernel.shape == (11, 11)
    assert kernel[5, 5].item() == pytest.approx(1 / (pi * 25), rel=2e-3)
    assert kernel[0, 0] == 0
    assert torch.allclose(kernel, kernel.mT, atol=1e-15)


def test_motion_is_a_line_of_its_length_at_its_angle() -> None:
    assert torch.allclose(kernels.motion(9), torch.full((1, 9), 1 / 9, dtype=torch.float64))
    upright = kernels.motion(9, 90)
    assert torch.allclose(upright, kernels.motion(9).mT, atol=1e-15)
    rising = kernels.motion(11, 45)  # counter-clockwise: from the lower left to the upper right
    assert rising[0, -1] + rising[1, -2] > 0.1
    assert rising[0, 0] == 0


@pytest.mark.parametrize("make", [kernels.gaussian, kernels.disk, kernels.motion])
@pytest.mark.parametrize("size", [0, -1.5, float("nan"), float("inf")])
def test_a_size_that_is_not_positive_is_refused(make: Callable[[float], Tensor], size: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number of pixels"):
        make(size)


@pytest.mark.parametrize("size", [0, 4, -3])
def test_a_gaussian_of_even_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="expected an odd number of pixels"):
        kernels.gaussian(1.0, size)
