"""What Demosaic and Grayscale promise beyond the laws."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from invdiff.operators import Demosaic, Grayscale

PATTERNS = {
    "rggb": [[0, 1], [1, 2]],
    "bggr": [[2, 1], [1, 0]],
    "grbg": [[1, 0], [2, 1]],
    "gbrg": [[1, 2], [0, 1]],
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 2), (1, 1)])
def test_a_mosaic_has_at_each_pixel_the_colour_of_its_filter(pattern: Any, size: tuple[int, int]) -> None:
    height, width = size
    colour = np.tile(PATTERNS[pattern], (height, width))[:height, :width]
    x = random(2, 3, height, width)
    y = Demosaic((3, height, width), pattern).A(x)
    wanted = np.take_along_axis(x.numpy(), np.broadcast_to(colour, (2, 1, height, width)), 1)
    assert np.array_equal(y.numpy(), wanted)


def test_the_adjoint_puts_every_number_of_a_mosaic_where_it_came_from() -> None:
    op, y = Demosaic((3, 5, 4)), random(2, 1, 5, 4)
    x = op.A_adjoint(y)
    assert torch.equal(op.A(x), y)
    assert (x != 0).sum() == y.numel()
    assert torch.equal(op.A_dagger(y), x)
    assert op.singular_values.sum() == 5 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_infinite_weight_returns_the_mosaic_bit_for_bit_and_leaves_the_other_colours(
    dtype: torch.dtype,
) -> None:
    op = Demosaic((3, 5, 4), "gbrg")
    z, y = 1e3 * random(3, 3, 5, 4).to(dtype), random(3, 1, 5, 4, seed=1).to(dtype)
    x = op.prox(z, y, torch.tensor([inf, 2.0, inf]))
    assert torch.equal(op.A(x)[::2], y[::2])
    lost = op.singular_values.view(op.in_shape).expand_as(x) == 0
    assert torch.equal(x[lost], z[lost])


def test_what_a_mosaic_does_not_see_may_be_nan() -> None:
    op, z, y = Demosaic((3, 4, 4)), random(1, 3, 4, 4), random(1, 1, 4, 4)
    x = torch.where(op.A_adjoint(torch.ones_like(y)) == 1, z, nan)
    assert torch.equal(op.A(x), op.A(z))


def test_grey_is_pillows_luma() -> None:
    """Pillow works in whole numbers, its weights rounded to 16 bits, and rounds: half a level, and a little."""
    rgb = (random(16, 16, 3) * 255).byte()
    wanted = np.asarray(Image.fromarray(rgb.numpy()).convert("L"), dtype=np.float64)
    grey = 255 * Grayscale((3, 16, 16)).A(rgb.permute(2, 0, 1)[None] / 255)
    assert np.abs(grey[0, 0].double().numpy() - wanted).max() < 0.502


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_mean_is_that_of_any_number_of_channels(channels: int) -> None:
    x = random(2, channels, 3, 4).double()
    got = Grayscale((channels, 3, 4), "mean").A(x)
    assert torch.allclose(got, x.mean(1, keepdim=True), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "weights", [(0.5, -2.0, 0.25), [0, 0, 3], torch.tensor([1.0, 2.0, 3.0]), np.array([0.0, -1.0, 0.0])]
)
def test_weights_of_ones_own_are_kept_as_given(weights: Any) -> None:
    x, op = random(2, 3, 3, 4).double(), Grayscale((3, 3, 4), weights)
    wanted = sum(float(w) * x[:, c : c + 1] for c, w in enumerate(weights))
    assert torch.allclose(op.A(x), wanted, rtol=1e-14, atol=1e-15)
    assert torch.linalg.vector_norm(op.response) == op.singular_values.max()


def test_the_shortest_picture_of_a_grey_one_is_grey_under_equal_weights() -> None:
    y = random(1, 1, 3, 4).double()
    back = Grayscale((3, 3, 4), "mean").A_dagger(y)
    assert torch.allclose(back, y.expand(1, 3, 3, 4), rtol=1e-14, atol=0)


def test_weights_changed_afterwards_do_not_change_the_operator() -> None:
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    op, x = Grayscale((3, 2, 2), weights), random(1, 3, 2, 2)  # type: ignore[arg-type]
    before = op.A(x)
    weights *= 2
    assert torch.equal(op.A(x), before)


@pytest.mark.parametrize(
    ("shape", "pattern", "message"),
    [
        ((1, 4, 4), "rggb", r"shape: expected \(3, H, W\), red, green and blue, got \(1, 4, 4\); "),
        ((3, 4), "rggb", r"shape: expected \(C, H, W\)"),
        ((3, 4, 4), "rgbg", r"pattern: expected one of rggb, bggr, grbg, gbrg, got 'rgbg'"),
        ((3, 4, 4), "RGGB", r"pattern: expected one of .* got 'RGGB'"),
    ],
)
def test_a_mosaic_that_cannot_be_is_refused(shape: Any, pattern: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        Demosaic(shape, pattern)


@pytest.mark.parametrize(
    ("shape", "weights", "message"),
    [
        ((1, 4, 4), "rec601", r"weights: expected 1 numbers or mean, got 3 numbers"),
        ((3, 4, 4), (0.5, 0.5), r"weights: expected 3 numbers or mean, got 2 numbers"),
        ((3, 4, 4), (), r"weights: expected 3 numbers or mean, got 0 numbers"),
        ((3, 4, 4), "rec709", r"weights: expected rec601, mean or 3 numbers, got 'rec709'"),
        ((3, 4, 4), (0, 0, 0), r"weights: expected finite numbers, not all zero, got \[0\.0, 0\.0, 0\.0\]"),
        ((3, 4, 4), (1, nan, 0), r"weights: expected finite numbers, .* got \[1\.0, nan, 0\.0\]"),
        ((3, 4, 4), (1, inf, 0), r"weights: expected finite numbers, .* got \[1\.0, inf, 0\.0\]"),
        ((3, 0, 4), "mean", r"shape: expected \(C, H, W\)"),
    ],
)
def test_weights_that_cannot_be_are_refused(shape: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        Grayscale(shape, weights)


def test_they_say_in_one_line_what_they_are() -> None:
    assert repr(Demosaic((3, 4, 5), "grbg")) == "Demosaic(grbg, 3x4x5)"
    assert repr(Grayscale((3, 4, 5))) == "Grayscale(rec601, 3x4x5)"
    assert repr(Grayscale((2, 4, 5), (1, 2))) == "Grayscale((1, 2), 2x4x5)"
