"""Parity with deepinv where the conventions agree, and its physics as operators. Its import takes seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff import operators
from invdiff.operators import LinearOperator, Operator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # deepinv's own
]


@pytest.fixture(scope="module")
def physics() -> Any:
    return pytest.importorskip("deepinv").physics


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float = 2e-6) -> bool:
    return ((a - b).norm() / b.norm()).item() < tolerance


def test_mask_is_deepinvs_inpainting(physics: Any) -> None:
    keep, x = (random(9, 8) > 0.5).float(), random(2, 3, 9, 8, seed=1)
    theirs, ours = physics.Inpainting(mask=keep[None], img_size=(3, 9, 8)), operators.Mask(keep)
    assert torch.equal(ours.A(x), theirs.A(x))
    assert torch.equal(ours.A_adjoint(x), theirs.A_adjoint(x))
    assert torch.equal(ours.A_dagger(x), theirs.A_dagger(x))
    assert close(ours.prox(x, x.flip(0), 0.7), theirs.prox_l2(x, x.flip(0), 0.7))


@pytest.mark.parametrize("size", [(3, 5), (4, 6)])
@pytest.mark.parametrize("border", ["circular", "reflect", "replicate", "zero", "valid"])
def test_blur_is_deepinvs_with_each_border(physics: Any, border: Any, size: tuple[int, int]) -> None:
    kernel, x = random(*size), random(2, 3, 12, 11, seed=1)
    theirs = physics.Blur(filter=kernel[None, None], padding="constant" if border == "zero" else border)
    ours = operators.Blur(kernel, (3, 12, 11), border)
    y = theirs.A(x)
    assert close(ours.A(x), y)
    assert close(ours.A_adjoint(y), theirs.A_adjoint(y))


def test_circular_blur_solves_as_deepinvs_blur_fft(physics: Any) -> None:
    kernel, x, y = operators.kernels.gaussian(0.8).float(), random(2, 3, 12, 11), random(2, 3, 12, 11, seed=1)
    theirs = physics.BlurFFT(img_size=(3, 12, 11), filter=kernel[None, None])
    ours = operators.Blur(kernel, (3, 12, 11))
    assert close(ours.A(x), theirs.A(x))
    assert close(ours.prox(x, y, 3.0), theirs.prox_l2(x, y, 3.0), 1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_is_deepinvs_matlab_resize_away_from_the_border(physics: Any, factor: int) -> None:
    """Inside only: at the border MATLAB mirrors the image, and Pillow and we weigh the pixels that exist."""
    x = random(1, 3, 64, 56)
    theirs = physics.DownsamplingMatlab(factor=factor, img_size=(3, 64, 56)).A(x)
    ours = operators.Downsample(factor, (3, 64, 56), "bicubic").A(x)
    assert theirs.shape == ours.shape
    assert close(ours[..., 3:-3, 3:-3], theirs[..., 3:-3, 3:-3], 1e-5)


def test_box_is_deepinvs_downsampling_by_the_mean_filter(physics: Any) -> None:
    x, mean = random(2, 3, 12, 16), torch.full((1, 1, 4, 4), 1 / 16)
    filtered = physics.Blur(filter=mean, padding="valid").A(x)[..., ::4, ::4]
    assert close(operators.Downsample(4, (3, 12, 16), "box").A(x), filtered)


def test_a_linear_physics_becomes_a_linear_operator(physics: Any) -> None:
    kernel = 0.1 * random(3, 3)
    kernel[1, 1] = 1.0
    theirs = physics.Blur(filter=kernel[None, None], padding="reflect")
    op = operators.from_deepinv(theirs, (3, 12, 11))
    ours = operators.Blur(kernel, (3, 12, 11), "reflect")
    assert isinstance(op, LinearOperator)
    assert (op.in_shape, op.out_shape, repr(op)) == ((3, 12, 11),) * 2 + ("deepinv.Blur(3x12x11 to 3x12x11)",)
    x, y = random(2, 3, 12, 11), random(2, 3, 12, 11, seed=1)
    assert close(op.A(x), ours.A(x))
    assert close(op.A_adjoint(y), ours.A_adjoint(y))
    assert close(op.A_dagger(y), ours.A_dagger(y), 1e-4)
    assert close(op.prox(x, y, torch.tensor([0.5, 20.0])), ours.prox(x, y, torch.tensor([0.5, 20.0])), 1e-4)
    double = op.to(dtype=torch.float64)
    assert double.A(x.double()).dtype == torch.float64
    assert op.A(x).dtype == torch.float32


def test_a_measurement_of_another_kind_of_shape_solves_too(physics: Any) -> None:
    op = operators.from_deepinv(physics.CompressedSensing(m=30, img_size=(1, 6, 5)), (1, 6, 5))
    assert isinstance(op, LinearOperator)
    assert op.out_shape == (30,)
    x = random(2, 1, 6, 5)
    assert close(op.A(op.A_dagger(op.A(x))), op.A(x), 1e-2)
    weights = torch.tensor([1.0, 2.0])
    slope = op.prox(x, op.A(2 * x), weights) - x
    slope = slope + weights.view(2, 1, 1, 1) * op.A_adjoint(op.A(slope - x))
    assert slope.norm() < 1e-4 * x.norm()


def test_a_physics_that_is_not_linear_becomes_an_operator(physics: Any) -> None:
    class Square(physics.Physics):  # type: ignore[misc]
        def A(self, x: Tensor, **_: Any) -> Tensor:
            return x.square()

    op = operators.from_deepinv(Square(), (1, 4, 4))
    assert isinstance(op, Operator)
    assert not isinstance(op, LinearOperator)
    assert torch.equal(op(torch.full((1, 1, 4, 4), 3.0)), torch.full((1, 1, 4, 4), 9.0))


def test_what_is_no_physics_or_does_not_fit_is_refused(physics: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a deepinv\.physics\.Physics, got int"):
        operators.from_deepinv(3, (1, 4, 4))
    inpainting = physics.Inpainting(mask=torch.ones(3, 5, 5), img_size=(3, 5, 5))
    with pytest.raises(ValueError, match="Inpainting does not take images of shape"):
        operators.from_deepinv(inpainting, (3, 4, 4))

    class NotItsAdjoint(physics.LinearPhysics):  # type: ignore[misc]
        def A(self, x: Tensor, **_: Any) -> Tensor:
            return 2 * x

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return y

    with pytest.raises(ValueError, match="A_adjoint is not the adjoint of A"):
        operators.from_deepinv(NotItsAdjoint(), (1, 4, 4))
