"""Downsample against Pillow, and on sizes that do not divide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from invdiff.operators import Downsample
from invdiff.operators.resample import Kernel

PILLOW = {
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("kernel", PILLOW)
def test_it_is_pillows_resize_where_the_factor_divides(kernel: Kernel, factor: int) -> None:
    x = random(1, 1, 24, 48).float()
    wanted = Image.fromarray(x[0, 0].numpy()).resize((48 // factor, 24 // factor), PILLOW[kernel])
    assert np.abs(Downsample(factor, (1, 24, 48), kernel)(x)[0, 0].numpy() - np.asarray(wanted)).max() < 5e-7


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_box_is_the_mean_of_the_pixels_of_a_block_that_exist(factor: int) -> None:
    x = random(2, 3, 11, 13)
    wanted = avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)
    y = Downsample(factor, (3, 11, 13), "box")(x)
    assert torch.allclose(y, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kernel", PILLOW)
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_where_the_factor_does_not_divide_the_grid_stays_regular(kernel: Kernel, factor: int) -> None:
    """Away from the border a crop of an image is reduced to a crop of the reduced image; flat stays flat."""
    whole, part = Downsample(factor, (1, 60, 60), kernel), Downsample(factor, (1, 47, 46), kernel)
    assert part.out_shape == (1, -(-47 // factor), -(-46 // factor))
    x = random(1, 1, 60, 60)
    inside = 47 // factor - 3
    a, b = whole(x), part(x[..., :47, :46])
    assert torch.allclose(a[..., :inside, :inside], b[..., :inside, :inside], rtol=0, atol=1e-14)
    assert torch.allclose(part(torch.ones(1, 1, 47, 46)), torch.ones(1))


@pytest.mark.parametrize("size", [2, 3, 17, 64])
@pytest.mark.parametrize("kernel", PILLOW)
def test_every_size_and_factor_loses_no_more_than_it_must(kernel: Kernel, size: int) -> None:
    """No new pixel is nearly a combination of the others, so the pseudo-inverse amplifies noise little."""
    for factor in range(2, min(size, 9) + 1):
        op = Downsample(factor, (1, size, size), kernel)
        s = op.singular_values[op.singular_values > 0]
        assert len(s) == op.out_shape[1] * op.out_shape[2]
        assert s.max() / s.min() < 20


@pytest.mark.parametrize(
    ("factor", "kernel", "message"),
    [
        (1, "box", "whole number, 2 to 8, got 1"),
        (9, "box", "2 to 8, got 9"),
        (2.5, "box", "got 2.5"),
        (float("nan"), "box", "got nan"),
        (2, "cubic", "kernel: expected one of box, bicubic, lanczos, got 'cubic'"),
    ],
)
def test_a_factor_or_kernel_that_cannot_be_is_refused(factor: int, kernel: Kernel, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Downsample(factor, (1, 8, 9), kernel)


def test_it_says_in_one_line_what_it_is() -> None:
    assert repr(Downsample(4, (3, 9, 8), "box")) == "Downsample(4, box, 3x9x8 to 3x3x2)"
