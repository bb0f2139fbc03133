"""Downsample against Pillow, and on sizes that do not divide."""

from __future__ import annotations

from math import log10
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from invdiff.operators import (
    Blur,
    BlurDownsample,
    Downsample,
    LinearOperator,
    SpectralOperator,
    kernels,
)
from invdiff.operators.base import damping
from invdiff.operators.blur import Border
from invdiff.operators.resample import BoxDownsample, CircularBlurDownsample, Kernel, SeparableBlurDownsample

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


def imresize(x: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """One axis of MATLAB's imresize(x, 1/factor), bicubic, from 0 and not from 1, as its documentation has it."""
    size = x.shape[axis]
    scale, width = 1 / factor, 4 * factor
    u = (np.arange(int(np.ceil(size * scale))) + 1) / scale + 0.5 * (1 - 1 / scale)
    taps = np.floor(u - width / 2)[:, None] + np.arange(int(np.ceil(width)) + 2)
    a = np.abs(scale * (u[:, None] - taps))
    cubic = (1.5 * a**3 - 2.5 * a**2 + 1) * (a <= 1) + (-0.5 * a**3 + 2.5 * a**2 - 4 * a + 2) * (
        (a > 1) & (a <= 2)
    )
    weights = cubic / cubic.sum(1, keepdims=True)
    mirrored = np.concatenate((np.arange(size), np.arange(size)[::-1]))
    seen = mirrored[(taps - 1).astype(int) % (2 * size)]
    return np.moveaxis((np.moveaxis(x, axis, -1)[..., seen] * weights).sum(-1), -1, axis)


@pytest.mark.parametrize("size", [(24, 36), (23, 37), (7, 10), (5, 5)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_reflect_is_matlabs_imresize_to_the_border_at_any_size(factor: int, size: tuple[int, int]) -> None:
    x = random(1, 2, *size)
    wanted = imresize(imresize(x.numpy(), factor, 2), factor, 3)
    got = Downsample(factor, (2, *size), "bicubic", edges="reflect")(x)
    assert got.shape == wanted.shape
    assert np.abs(got.numpy() - wanted).max() < 1e-14


@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_edges_matter_at_the_border_alone(kernel: Kernel) -> None:
    x = random(1, 1, 48, 48)
    a, b = Downsample(4, (1, 48, 48), kernel)(x), Downsample(4, (1, 48, 48), kernel, edges="reflect")(x)
    assert torch.allclose(a[..., 3:-3, 3:-3], b[..., 3:-3, 3:-3], rtol=0, atol=1e-14)
    assert torch.allclose(a, b, rtol=0, atol=1e-14) == (kernel == "box")
    flat = Downsample(4, (1, 47, 46), kernel, edges="reflect")(torch.ones(1, 1, 47, 46))
    assert torch.allclose(flat, torch.ones(1))


@pytest.mark.parametrize("size", [(12, 8), (11, 13), (4, 5), (5, 9)])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_box_moves_every_block_by_its_share_of_what_it_misses(factor: int, size: tuple[int, int]) -> None:
    op = Downsample(factor, (2, *size), "box")
    assert isinstance(op, BoxDownsample)
    z, y = random(2, 2, *size), random(2, *op.out_shape).flip(0)
    x = op.prox(z, y, 3.0)
    for i in range(op.out_shape[1]):
        for j in range(op.out_shape[2]):
            block = (..., slice(i * factor, (i + 1) * factor), slice(j * factor, (j + 1) * factor))
            pixels = z[block].shape[-2] * z[block].shape[-1]
            missing = y[..., i, j, None, None] - z[block].mean((-2, -1), keepdim=True)
            assert torch.allclose(x[block], z[block] + 3 / (3 + pixels) * missing, rtol=0, atol=1e-14)
    assert torch.allclose(op(x := op.A_dagger(y)), y, rtol=0, atol=1e-14)
    assert torch.equal(x[..., 0, 0], y[..., 0, 0])  # each block is filled with its mean
    assert torch.equal(x[..., factor - 1, factor - 1], y[..., 0, 0])


def test_a_box_of_mirrored_pixels_is_no_mean_of_a_block() -> None:
    op = Downsample(4, (1, 6, 6), "box", edges="reflect")
    assert not isinstance(op, BoxDownsample)
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    assert torch.allclose(op(ramp)[0, 0, 0], torch.tensor([1.5, 4.5]))  # 4 5 | 5 4
    with pytest.raises(
        ValueError, match="BoxDownsample: the kernel is lanczos, edges renormalise; make a Downsample"
    ):
        BoxDownsample(2, (1, 6, 6), "lanczos")


# ------------------------------------------------------------------------------------------- blur, then fewer


BORDERS = get_args(Border)


@pytest.mark.parametrize("kernel", [kernels.gaussian(0.7), kernels.random_motion(5), kernels.disk(1.5)[:4]])
@pytest.mark.parametrize("size", [(12, 18), (11, 13)])
@pytest.mark.parametrize("border", BORDERS)
def test_it_is_every_factor_th_pixel_of_the_blurred_image(
    border: Border, size: tuple[int, int], kernel: Tensor
) -> None:
    x = random(2, 3, *size)
    op = BlurDownsample(kernel, 3, (3, *size), border)
    y = op(x)
    assert torch.allclose(y, Blur(kernel, (3, *size), border)(x)[..., ::3, ::3], rtol=0, atol=1e-14)
    assert op.out_shape == tuple(y.shape[1:])


def test_what_can_be_spectral_says_so_in_its_type() -> None:
    gaussian, shake = kernels.gaussian(0.7), kernels.random_motion(7)
    assert type(BlurDownsample(shake, 3, (1, 12, 18))) is CircularBlurDownsample
    assert type(BlurDownsample(gaussian, 3, (1, 12, 18))) is CircularBlurDownsample
    assert type(BlurDownsample(shake, 3, (1, 12, 17))) is BlurDownsample
    assert type(BlurDownsample(shake, 3, (1, 12, 18), "reflect")) is BlurDownsample
    assert type(BlurDownsample(gaussian, 3, (1, 11, 13), "valid")) is SeparableBlurDownsample
    assert issubclass(CircularBlurDownsample, SpectralOperator)
    assert issubclass(SeparableBlurDownsample, SpectralOperator)


def test_the_circular_closed_form_solves_as_conjugate_gradients_do() -> None:
    kernel = 0.1 * random(5, 4)
    kernel[2, 1] = 1.0
    op = BlurDownsample(kernel, 2, (2, 12, 16), rtol=1e-12, max_iter=500)
    z, y = random(3, 2, 12, 16), random(3, 2, 6, 8)
    by_gradients = z + LinearOperator._least_squares(op, y - op(z), damping(3.0, z))
    assert torch.allclose(op.prox(z, y, 3.0), by_gradients, rtol=0, atol=1e-10)
    assert torch.allclose(op(op.prox(z, y, torch.inf)), y, rtol=0, atol=1e-12)


def test_what_a_circular_blur_loses_stays_zero() -> None:
    """The mean of four neighbours in a row, every second one kept: the stripes that survive folding are lost."""
    op = BlurDownsample(torch.full((1, 4), 0.25), 2, (1, 4, 16))
    assert isinstance(op, CircularBlurDownsample)
    assert (op.singular_values == 0).sum() == 64 - 16 + 2  # of y's 16 frequencies, one in each of 2 rows
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 2, 8)
    assert torch.allclose(op.A_dagger(stripes), torch.zeros(1), atol=1e-6)


@pytest.mark.parametrize(("factor", "decibels", "place"), [(2, 53.8, 0), (3, 69.8, 1), (4, 63.9, 2)])
def test_the_kernels_that_stand_for_matlabs_bicubic_do(
    shared_data: Path, factor: int, decibels: float, place: int
) -> None:
    """kernels_bicubicx234.mat (Zhang et al. 2020): centre of mass (factor − 1)/2 before the middle, as documented."""
    scipy_io = pytest.importorskip("scipy.io")
    files: Any = scipy_io.loadmat(shared_data / "eval" / "kernels" / "kernels_bicubicx234.mat")["kernels"][0]
    kernel = torch.from_numpy(files[place]).double()
    offset = torch.arange(25) - 12
    for axis in (0, 1):
        assert (kernel.sum(axis) * offset).sum().item() == pytest.approx(-(factor - 1) / 2, abs=2e-3)
    picture = np.asarray(Image.open(shared_data / "eval" / "set5" / "butterfly_GT.bmp")) / 255
    side = 256 // factor * factor
    x = torch.from_numpy(picture).permute(2, 0, 1)[None, :, :side, :side]
    wanted = Downsample(factor, (3, side, side), "bicubic", edges="reflect")(x)
    off = (BlurDownsample(kernel, factor, (3, side, side))(x) - wanted)[..., 6:-6, 6:-6]
    assert -10 * log10(off.square().mean()) == pytest.approx(decibels, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 3), 1, (1, 8, 9)), "factor: expected a whole number, 2 to 8, got 1"),
        ((torch.ones(3, 3), 7, (1, 8, 9), "valid"), "factor: expected a whole number, 2 to 6, got 7"),
        ((torch.ones(3, 3), 0, (1, 8, 9)), "got 0"),
        ((torch.ones(3, 3), 2.5, (1, 8, 9)), "got 2.5"),
        ((torch.ones(3, 3) * torch.nan, 2, (1, 8, 9)), "kernel: expected finite numbers"),
        ((torch.ones(9, 3), 2, (1, 8, 9)), "9x3 is larger than the image, 8x9; crop it"),
        ((torch.ones(3), 2, (1, 8, 9)), r"kernel: expected \(h, w\), got \(3,\)"),
        ((torch.ones(3, 3), 2, (8, 9)), r"shape: expected \(C, H, W\)"),
        ((torch.ones(3, 3), 2, (1, 8, 9), "mirror"), "border: expected one of circular, .* got 'mirror'"),
    ],
)
def test_a_blur_and_factor_that_cannot_be_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        BlurDownsample(*arguments)


def test_the_spectral_classes_refuse_what_is_not_theirs() -> None:
    with pytest.raises(
        ValueError, match="the border is circular, the factor 2, the image 1x8x9; make a BlurDown"
    ):
        CircularBlurDownsample(torch.ones(3, 3), 2, (1, 8, 9))
    with pytest.raises(ValueError, match="no outer product, or the border circular; make a BlurDownsample"):
        SeparableBlurDownsample(kernels.disk(2), 2, (1, 8, 9), "reflect")


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
    matlab = Downsample(4, (3, 9, 8), edges="reflect")
    assert repr(matlab) == "Downsample(4, bicubic, reflect, 3x9x8 to 3x3x2)"
    op = BlurDownsample(kernels.disk(1), 2, (3, 8, 9), "zero")
    assert repr(op) == "BlurDownsample(3x3, 2, zero, 3x8x9 to 3x4x5)"


def test_edges_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="edges: expected one of renormalise, reflect, got 'zero'"):
        Downsample(2, (1, 8, 9), edges="zero")  # type: ignore[arg-type]
