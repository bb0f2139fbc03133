"""Parity with deepinv 0.5 of blurs and reductions, in float32 to 2e-6 unless said otherwise.

Conventions: deepinv's Blur, BlurFFT and Downsampling convolve (the kernel is flipped), as ours do; their centre of a
kernel with an even side is ours; "zeros" and "constant" are our "zero". Downsampling keeps every factor-th pixel from
the first one on, as BlurDownsample does.
"""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from examples import uniform as random
from torch import Tensor

from invdiff import operators
from invdiff.operators import LinearOperator, kernels
from invdiff.operators.blur import Border

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # deepinv's own
]
SHAPE = (3, 24, 20)


def close(a: Tensor, b: Tensor, tolerance: float = 2e-6) -> bool:
    return ((a - b).norm() / b.norm()).item() < tolerance


@pytest.mark.parametrize("fft", [True, False])
@pytest.mark.parametrize("size", [(3, 5), (4, 6), (9, 9), (17, 15)])
@pytest.mark.parametrize("border", get_args(Border))
def test_blur_is_deepinvs_summed_directly_and_by_fft(
    physics: Any, border: Border, size: tuple[int, int], fft: bool
) -> None:
    kernel, x = random(*size), random(2, *SHAPE, seed=1)
    padding = "constant" if border == "zero" else border
    theirs = physics.Blur(filter=kernel[None, None], padding=padding, use_fft=fft)
    ours, y = operators.Blur(kernel, SHAPE, border), theirs.A(x)
    assert close(ours.A(x), y)
    assert close(ours.A_adjoint(y), theirs.A_adjoint(y))


@pytest.mark.parametrize("weight", [0.5, 20.0])
def test_circular_blur_is_deepinvs_blur_fft(physics: Any, weight: float) -> None:
    kernel = kernels.random_motion(11, seed=2).float()
    x, y = random(2, *SHAPE), random(2, *SHAPE, seed=1)
    theirs, ours = physics.BlurFFT(img_size=SHAPE, filter=kernel[None, None]), operators.Blur(kernel, SHAPE)
    assert close(ours.A(x), theirs.A(x))
    assert close(ours.A_adjoint(y), theirs.A_adjoint(y))
    assert close(ours.prox(x, y, weight), theirs.prox_l2(x, y, weight), 1e-5)


def test_blurs_without_a_closed_form_solve_as_deepinv_does(physics: Any) -> None:
    """Both by conjugate gradients, theirs to 1e-6; ours of the valid blur preconditioned."""
    kernel = kernels.random_motion(7, seed=1).float()
    for border in ("reflect", "valid"):
        theirs = physics.Blur(filter=kernel[None, None], padding=border, tol=1e-6, max_iter=500)
        ours = operators.Blur(kernel, SHAPE, border)  # type: ignore[arg-type]
        z, y = random(1, *SHAPE), random(1, *ours.out_shape, seed=1)
        assert close(ours.prox(z, y, 5.0), theirs.prox_l2(z, y, 5.0), 1e-5)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("filter_", ["gaussian", "bilinear", "bicubic", "sinc", None])
def test_blur_downsample_is_deepinvs_downsampling(physics: Any, filter_: str | None, factor: int) -> None:
    shape = (3, 32, 40)
    theirs = physics.Downsampling(img_size=shape, filter=filter_, factor=factor, padding="circular")
    kernel = theirs.filter[0, 0] if filter_ else torch.ones(1, 1)
    ours = operators.BlurDownsample(kernel, factor, shape)
    x = random(2, *shape)
    y = theirs.A(x)
    assert close(ours.A(x), y)
    assert close(ours.A_adjoint(y), theirs.A_adjoint(y))
    if filter_:  # theirs needs one
        assert close(ours.prox(x, y.flip(0), 3.0), theirs.prox_l2(x, y.flip(0), 3.0), 1e-5)


@pytest.mark.parametrize("border", ["reflect", "replicate", "valid"])
def test_blur_downsample_is_deepinvs_with_its_other_borders(physics: Any, border: Any) -> None:
    kernel, shape = random(5, 7), (3, 32, 40)
    theirs = physics.Downsampling(img_size=shape, filter=kernel[None, None], factor=2, padding=border)
    ours, x = operators.BlurDownsample(kernel, 2, shape, border), random(2, *shape)
    y = theirs.A(x)
    assert close(ours.A(x), y)
    assert close(ours.A_adjoint(y), theirs.A_adjoint(y))


@pytest.mark.parametrize("size", [(60, 48), (59, 50)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_with_reflecting_edges_is_deepinvs_matlab_resize_to_the_border(
    physics: Any, factor: int, size: tuple[int, int]
) -> None:
    """In float32, so to 1e-6 of the largest number. Its adjoint knows sizes that the factor divides."""
    shape = (3, *size)
    x = random(1, *shape)
    theirs = physics.DownsamplingMatlab(factor=factor, img_size=shape)
    ours = operators.Downsample(factor, shape, "bicubic", edges="reflect")
    y = theirs.A(x)
    assert (ours.A(x) - y).abs().max() < 1e-6
    if size == (60, 48):
        assert (ours.A_adjoint(y) - theirs.A_adjoint(y)).abs().max() < 1e-6


def test_its_bicubic_filter_looks_at_other_places_than_its_matlab_resize(physics: Any) -> None:
    """deepinv's bicubic Downsampling looks at 4i + ½, whatever the factor; ours and MATLAB's at the blocks' middle."""
    shape = (1, 48, 48)
    ramp = torch.arange(48.0).expand(1, 1, 48, 48)
    theirs = physics.Downsampling(img_size=shape, filter="bicubic", factor=4, padding="replicate").A(ramp)
    ours = operators.Downsample(4, shape, "bicubic", edges="reflect").A(ramp)
    middle = torch.arange(3.0, 9.0) * 4
    assert torch.allclose(ours[0, 0, 5, 3:9], middle + 1.5, atol=1e-4)
    assert torch.allclose(theirs[0, 0, 5, 3:9], middle + 0.5, atol=1e-4)


def test_space_varying_blurs_come_as_linear_operators(physics: Any) -> None:
    from deepinv.physics.blur import SpaceVaryingBlur, TiledSpaceVaryingBlur

    shape, K = (2, 24, 24), 3
    filters = torch.stack([kernels.gaussian(s, 5).float() for s in (0.5, 1.0, 2.0)]).expand(1, 2, K, 5, 5)
    share = torch.softmax(random(1, 1, K, 24, 24, seed=1), dim=2).expand(1, 2, K, 24, 24)
    product = SpaceVaryingBlur(filters=filters.clone(), multipliers=share.clone(), padding="reflect")
    every = TiledSpaceVaryingBlur.num_filters((24, 24), (12, 12), (6, 6))
    tiles = torch.stack([kernels.gaussian(0.5 + 0.1 * i, 5).float() for i in range(every[0] * every[1])])
    tiled = TiledSpaceVaryingBlur(
        filters=tiles.expand(1, 2, *tiles.shape).clone(), patch_size=(12, 12), stride=(6, 6)
    )
    for theirs in (product, tiled):
        op = operators.from_deepinv(theirs, shape)
        assert isinstance(op, LinearOperator)
        x, v = random(2, *shape), random(2, *op.out_shape, seed=1)
        y = op.A(x)
        assert close(y, theirs.A(x))
        assert abs((y * v).sum() - (x * op.A_adjoint(v)).sum()) < 1e-5 * y.norm() * v.norm()
    assert op.out_shape == (2, 20, 20)  # valid
