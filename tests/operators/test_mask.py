"""What Mask and Identity promise beyond the laws."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from torch import Tensor

from invdiff.operators import Identity, Mask

KEEP = torch.tensor([[1, 0, 1], [0, 1, 1]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_a_mask_keeps_where_keep_is_one_in_any_dtype(dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 2, 3)
    assert torch.equal(Mask(KEEP.to(dtype))(x), x * KEEP)


def test_a_mask_without_channels_is_for_all_of_them_and_one_with_channels_has_its_own() -> None:
    assert Mask(KEEP).keep.shape == Mask(KEEP[None]).keep.shape == (3, 2, 3)
    assert Mask(KEEP, channels=1).in_shape == (1, 2, 3)
    each = torch.stack([KEEP, 1 - KEEP])
    assert torch.equal(Mask(each).keep, each.bool())


def test_what_is_lost_may_be_nan() -> None:
    op, x = Mask(KEEP, 1), torch.where(KEEP == 1, 0.5, nan)[None, None]
    assert torch.equal(op(x)[0, 0], 0.5 * KEEP)
    assert op.prox(torch.zeros(1, 1, 2, 3), x, 1.0).isfinite().all()


def test_an_infinite_weight_returns_the_kept_pixels_bit_for_bit() -> None:
    op, z, y = Mask(KEEP), 1e3 * torch.randn(4, 3, 2, 3), torch.rand(4, 3, 2, 3)
    x = op.prox(z, y, inf)
    assert torch.equal(x, torch.where(op.keep, y, z))


def test_grey_values_are_thresholded_at_one_half_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="thresholded at 1/2"):
        op = Mask(torch.tensor([[0.2, 0.7, 1.0]]), 1)
    assert op.keep.tolist() == [[[False, True, True]]]


def test_a_mask_that_keeps_everything_warns_and_works() -> None:
    with pytest.warns(UserWarning, match="nothing to fill"):
        op = Mask(torch.ones(2, 3))
    x = torch.rand(1, 3, 2, 3)
    assert torch.equal(op(x), x)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.zeros(4, 4), "got none; is the mask inverted?"),
        (torch.ones(4), r"expected \(H, W\), .* got \(4,\)"),
        (torch.ones(1, 1, 4, 4), r"got \(1, 1, 4, 4\)"),
        (torch.ones(0, 4), r"got \(0, 4\)"),
        (torch.full((4, 4), nan), "got NaN"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(keep: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mask(keep)


def test_it_says_in_one_line_what_it_is() -> None:
    assert repr(Mask(KEEP)) == "Mask(3x2x3, 66.7% kept)"
    assert repr(Identity((3, 4, 5))) == "Identity(3x4x5)"


@pytest.mark.parametrize("shape", [(4, 5), (3, 0, 5), (1, 3, 4, 5)])
def test_identity_refuses_what_is_no_image_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape: expected \(C, H, W\)"):
        Identity(shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_lost_may_be_nan_in_any_dtype_and_with_a_gradient(dtype: torch.dtype, gradient: bool) -> None:
    op = Mask(KEEP, 1)
    x = torch.where(KEEP == 1, 0.5, nan)[None, None].to(dtype).requires_grad_(gradient)
    y = op.A(x)
    assert torch.equal(y.detach(), 0.5 * KEEP[None, None].to(dtype))
    if gradient:
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(slope, KEEP[None, None].to(dtype))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_forward_derivatives_are_not_lost_on_the_fast_way() -> None:
    op, x, v = Mask(KEEP, 1), torch.rand(1, 1, *KEEP.shape), torch.rand(1, 1, *KEEP.shape)
    assert torch.equal(torch.func.jvp(op.A, (x,), (v,))[1], op.A(v))


def test_what_is_no_array_is_refused_with_what_to_do() -> None:
    for wrong in ("mask.png", object()):
        with pytest.raises(TypeError, match=r"^keep: expected an array of 0 and 1, got .*asarray"):
            Mask(wrong)  # type: ignore[arg-type]
