"""Parity with deepinv, of what it has of operators that are not linear: phase retrieval.

It measures the squared magnitude |B x|², we |F P x|; and it has no clipping, quantising or JPEG of its own, only a
`sensor` that takes any function of y.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff import operators

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # deepinv's own
]

SHAPE = (2, 9, 8)


@pytest.fixture(scope="module")
def deepinv() -> Any:
    return pytest.importorskip("deepinv")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    """Both in single precision."""
    return ((a - b).norm() / b.norm()).item() < 2e-6


@pytest.mark.parametrize("oversampling", [1.0, 1.5, 2.0])
def test_our_magnitude_squared_is_its_phase_retrieval_by_a_padded_fourier_transform(
    deepinv: Any, oversampling: float
) -> None:
    ours = operators.PhaseRetrieval(SHAPE, oversampling)
    _, height, width = ours.out_shape
    padding = (0, width - SHAPE[2], 0, height - SHAPE[1])

    def forward(x: Tensor, **_: Any) -> Tensor:
        return torch.fft.fft2(torch.nn.functional.pad(x, padding), norm="ortho")

    def adjoint(y: Tensor, **_: Any) -> Tensor:
        return torch.fft.ifft2(y, norm="ortho")[..., : SHAPE[1], : SHAPE[2]]

    linear = deepinv.physics.LinearPhysics(A=forward, A_adjoint=adjoint)
    theirs, x = deepinv.physics.PhaseRetrieval(linear), random(3, *SHAPE).requires_grad_()
    y, v = ours.A(x), random(3, *ours.out_shape, seed=1)
    assert close(y.square(), theirs.A(x))
    (slope,) = torch.autograd.grad((y.square() * v).sum(), x)
    assert close(slope, theirs.A_vjp(x.detach(), v).real)


@pytest.mark.parametrize("op", [operators.Clip(SHAPE, 3.0), operators.Quantize(SHAPE, 3)], ids=repr)
def test_clip_and_quantize_serve_as_its_sensor(deepinv: Any, op: Any) -> None:
    x = 2 * random(3, *SHAPE) - 0.5
    theirs = deepinv.physics.Denoising(noise_model=deepinv.physics.ZeroNoise(), sensor_model=op)
    assert torch.equal(theirs(x), op.A(x))
