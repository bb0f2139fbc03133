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


WAYS = {"direct": (10**9, 10**9, 0), "two passes": (0, 0, 10**9), "FFT": (0, 0, 0)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("border", get_args(Border))
def test_summed_directly_in_two_passes_or_by_fft_it_is_the_same(
    border: Border, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    op = Blur(torch.outer(random(size[0]), random(size[1], seed=2)), (2, 9, 11), border)
    assert isinstance(op, SeparableBlur | CircularBlur)
    x, v = random(2, 2, 9, 11, seed=1), random(2, *op.out_shape, seed=3)
    forward, back = op(x), op.A_adjoint(v)  # float64
    for limits in WAYS.values():
        names = ("_DIRECT", "_DIRECT_IF_SEPARABLE", "_TWO_PASSES")
        for name, limit in zip(names, limits, strict=True):
            monkeypatch.setattr(f"invdiff.operators.blur.{name}", limit)
        leaf = x.float().requires_grad_()
        y = op(leaf)
        (slope,) = torch.autograd.grad(y, leaf, v.float())
        for got, wanted in ((y, forward), (op.A_adjoint(v.float()), back), (slope, back)):
            assert (got.double() - wanted).norm() < 1e-6 * wanted.norm()
        assert op(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize(
    "kernel", [kernels.random_motion(5), kernels.random_motion(21), kernels.gaussian(2.0)]
)
def test_large_planes_one_by_one_and_in_strips_are_small_ones_at_once(border: Border, kernel: Tensor) -> None:
    """Away from the border, a crop of what is blurred is what a crop is blurred to."""
    x = random(1, 2, 401, 390).float()
    large, small = Blur(kernel, (2, 401, 390), border), Blur(kernel, (2, 101, 90), border)
    y, part = large(x), small(x[..., :101, :90])
    assert torch.allclose(y[..., 20:70, 20:60], part[..., 20:70, 20:60], rtol=0, atol=1e-6)
    v = random(1, *large.out_shape, seed=1).float()
    assert abs((y * v).sum() - (x * large.A_adjoint(v)).sum()) < 1e-5 * y.norm() * v.norm()


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


@pytest.mark.filterwarnings("ignore:.*stopped at max_iter")
def test_conjugate_gradients_stop_where_they_are_told_to() -> None:
    shape = (1, 32, 32)
    z, y = random(1, *shape), random(1, *shape, seed=1)
    exact = Blur(kernels.disk(3), shape, "reflect", rtol=1e-12, max_iter=2000).prox(z, y, 100.0)

    def off(**limits: float) -> float:
        op = Blur(kernels.disk(3), shape, "reflect", **limits)  # type: ignore[arg-type]
        return (op.prox(z, y, 100.0) - exact).norm().item()

    assert off(max_iter=2) > off(max_iter=10) > 1e2 * off(rtol=1e-4) > 1e4 * off(rtol=1e-8, max_iter=500)


@pytest.mark.parametrize("border", ["reflect", "valid"])
def test_conjugate_gradients_that_stop_short_say_so(border: Border) -> None:
    op = Blur(kernels.disk(3), (1, 32, 32), border, max_iter=2)
    with pytest.warns(
        UserWarning, match=r"stopped at max_iter = 2, short of rtol = 1e-06; raise max_iter or rtol"
    ):
        op.prox(random(1, *op.in_shape), random(1, *op.out_shape, seed=1), 100.0)


def test_a_valid_blurs_preconditioned_solve_is_the_plain_one_in_a_fraction_of_the_steps() -> None:
    kernel = kernels.random_motion(9, seed=3)
    z, y = random(3, 1, 48, 40), random(3, 1, 40, 32, seed=1)
    weights = torch.tensor([1.0, 300.0, 1e4], dtype=torch.float64)
    plain = Blur(kernel, (1, 48, 40), "valid", rtol=1e-10, max_iter=4000)
    wanted = z + LinearOperator._least_squares(plain, y - plain(z), damping(weights, z))
    few = Blur(kernel, (1, 48, 40), "valid", rtol=1e-8, max_iter=100)
    assert torch.allclose(few.prox(z, y, weights), wanted, rtol=0, atol=1e-6)
    with pytest.warns(UserWarning, match="stopped at max_iter"):
        LinearOperator._least_squares(few, y - few(z), damping(weights, z))


def test_a_valid_blur_projects_some_samples_and_damps_others() -> None:
    kernel = 0.1 * random(3, 3)
    kernel[1, 1] = 1.0
    op = Blur(kernel, (1, 12, 11), "valid", rtol=1e-10)
    z, y = random(2, 1, 12, 11), random(2, 1, 10, 9, seed=1)
    together = op.prox(z, y, torch.tensor([torch.inf, 3.0]))
    assert torch.allclose(together[:1], op.prox(z[:1], y[:1], torch.inf), rtol=0, atol=1e-12)
    assert torch.allclose(together[1:], op.prox(z[1:], y[1:], 3.0), rtol=0, atol=1e-12)
    assert torch.allclose(op(together[:1]), y[:1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [1, 2, 9, 16, 33])
def test_the_svd_of_a_symmetric_blur_by_halves_is_an_svd(size: int) -> None:
    kernel = (
        kernels.gaussian(1.0)[:, 3:-3]
        if size > 9
        else torch.tensor([[1.0], [4.0], [1.0]])[: 1 if size < 3 else 3]
    )
    op = Blur(kernel, (1, size, max(size, 5)), "replicate")
    assert isinstance(op, SeparableBlur)
    (U, s, V), _ = op._parts
    assert torch.equal(U.abs(), U.flip(0).abs())  # each is even or odd, to the bit
    one = torch.eye(size, dtype=torch.float64)
    for wanted, got in ((op.rows, (U * s) @ V.mT), (one, U.mT @ U), (one, V.mT @ V)):
        assert torch.allclose(got, wanted, rtol=0, atol=1e-14)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # of torch.func, in torch's own words
def test_a_separable_blur_has_the_derivatives_of_a_linear_map_in_every_mode() -> None:
    op = Blur(kernels.gaussian(1.0, 3), (1, 70, 5), "reflect")
    x, v = random(2, 1, 70, 5), random(2, 1, 70, 5, seed=1)
    assert torch.equal(torch.func.jvp(op, (x,), (v,))[1], op(v))
    assert torch.equal(torch.func.vjp(op, x)[1](v)[0], op.A_adjoint(v))
    assert torch.allclose(torch.vmap(op)(torch.stack((x, v)))[1], op(v), rtol=0, atol=1e-15)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(op(x), x, v.requires_grad_(), create_graph=True)
    assert torch.equal(torch.autograd.grad(slope, v, x.detach())[0], op(x.detach()))


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
