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


@pytest.mark.parametrize("intensity", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [1, 3, 15, 61])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_random_motion_is_a_centred_kernel_of_its_size(size: int, intensity: float, seed: int) -> None:
    kernel = kernels.random_motion(size, intensity, seed)
    assert kernel.shape == (size, size)
    assert kernel.dtype == torch.float64
    assert (kernel >= 0).all()
    assert abs(kernel.sum() - 1) < 1e-14
    place = torch.arange(size) - size // 2
    for axis in (0, 1):
        assert abs((kernel.sum(axis) * place).sum()) < 1e-12


def test_a_random_motion_follows_from_its_seed_and_from_nothing_else() -> None:
    first = kernels.random_motion(seed=0)
    torch.manual_seed(5)
    assert torch.equal(first, kernels.random_motion(seed=0))
    different = [kernels.random_motion(seed=seed) for seed in range(4)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(different) for b in different[:i])
    # worked out once: another machine must get the same path
    rows, columns = first.sum(1), first.sum(0)
    assert first.flatten().topk(3).indices.tolist() == [1563, 1623, 746]
    assert rows.nonzero().flatten()[[0, -1]].tolist() == [11, 44]
    assert columns.nonzero().flatten()[[0, -1]].tolist() == [10, 53]


def test_intensity_bends_a_line_into_a_scribble() -> None:
    """A straight line has one direction; how much a path has beside it grows with the intensity."""

    def bent(intensity: float) -> float:
        places = torch.arange(61.0, dtype=torch.float64) - 30
        ratios = []
        for seed in range(8):
            kernel = kernels.random_motion(61, intensity, seed)
            y, x = places[:, None].expand(61, 61), places.expand(61, 61)
            spread = torch.stack([(kernel * a * b).sum() for a in (y, x) for b in (y, x)]).view(2, 2)
            least, most = torch.linalg.eigvalsh(spread).tolist()
            ratios.append(least / most)
        return sum(ratios) / len(ratios)

    assert bent(0.0) < 0.01 < bent(0.1) < bent(0.5) < bent(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((60,), "size: expected an odd number of pixels, got 60"),
        ((0,), "size: expected an odd number of pixels, got 0"),
        ((61, 1.5), r"intensity: expected a number from 0 \(straight\) to 1 \(shaky\), got 1.5"),
        ((61, float("nan")), "intensity: .* got nan"),
        ((61, 0.5, -1), "seed: expected a whole number from 0 up, got -1"),
        ((61, 0.5, 0.5), "seed: .* got 0.5"),
    ],
)
def test_a_random_motion_that_cannot_be_is_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.random_motion(*arguments)


def test_a_disk_smaller_than_a_sample_is_one_pixel() -> None:
    assert kernels.disk(0.01).tolist() == [[1.0]]
