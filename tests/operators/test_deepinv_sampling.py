"""Parity of what samples with deepinv, where the conventions agree. Its import takes seconds."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import torch
from examples import uniform as random
from torch import Tensor

from invdiff.operators import CompressedSensing, Demosaic, Grayscale, Mask, patterns

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # deepinv's own
]


def close(a: Tensor, b: Tensor, tolerance: float = 2e-6) -> bool:
    return ((a - b).norm() / b.norm()).item() < tolerance


def test_a_random_mask_of_every_channel_is_deepinvs_inpainting(physics: Any) -> None:
    """Bit for bit but for the prox (2e-6). Masks are made by our seeds: its generator draws other numbers."""
    keep = patterns.random((9, 8), 0.4, channels=3)
    theirs, ours = physics.Inpainting(img_size=(3, 9, 8), mask=keep.float()), Mask(keep)
    x, y = random(2, 3, 9, 8), random(2, 3, 9, 8, seed=1)
    assert torch.equal(ours.A(x), theirs.A(x))
    assert torch.equal(ours.A_adjoint(y), theirs.A_adjoint(y))
    assert torch.equal(ours.A_dagger(y), theirs.A_dagger(y))
    assert close(ours.prox(x, y, 0.7), theirs.prox_l2(x, y, 0.7))


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_the_bggr_mosaic_is_deepinvs_spread_over_three_channels(physics: Any, size: tuple[int, int]) -> None:
    """Its "bayer" has blue upper left, and its measurement is the masked picture: Aᵀ A x, not the mosaic A x."""
    shape = (3, *size)
    theirs, ours = physics.Demosaicing(img_size=shape), Demosaic(shape, "bggr")
    x, y = random(2, *shape), random(2, 1, *size, seed=1)
    assert torch.equal(ours.A_adjoint(ours.A(x)), theirs.A(x))
    assert torch.equal(ours.A_adjoint(y), theirs.A_dagger(ours.A_adjoint(y)))
    assert close(ours.prox(x, y, 3.0), theirs.prox_l2(x, ours.A_adjoint(y), 3.0))


@pytest.mark.parametrize(
    ("weights", "srf", "tolerance"),
    [
        ("rec601", "rec601", 1e-3),  # it has them as 0.66851·(0.4472, 0.8781, 0.1706), of 3 to 4 digits
        ("mean", "flat", 2e-6),
        ((0.2, 0.5, 0.3), (0.2, 0.5, 0.3), 2e-6),
    ],
)
def test_grey_is_deepinvs_decolorize(physics: Any, weights: Any, srf: Any, tolerance: float) -> None:
    """Its weights have to sum to 1, ours need not."""
    theirs, ours = physics.Decolorize(channels=3, srf=srf), Grayscale((3, 5, 4), weights)
    x, y = random(2, 3, 5, 4), random(2, 1, 5, 4, seed=1)
    assert close(ours.A(x), theirs.A(x), tolerance)
    assert close(ours.A_adjoint(y), theirs.A_adjoint(y), tolerance)
    assert close(ours.A_dagger(y), theirs.A_dagger(y), tolerance)


def test_hadamard_coefficients_are_those_deepinvs_single_pixel_camera_measures(physics: Any) -> None:
    """Its camera measures the unsigned picture, in two dimensions, and keeps a masked array of coefficients.

    The Hadamard matrix of H·W pixels row by row is that of the rows ⊗ that of the columns, so that ours are its
    coefficients of the signed picture, up to the order: it sorts them by sequency.
    """
    from deepinv.physics.singlepixel import hadamard_2d

    ours = CompressedSensing((2, 8, 16), 0.4, seed=5)
    x = random(3, 2, 8, 16)
    signed = ours.signs.view(8, 16).float() * x
    assert close(ours.A(x), hadamard_2d(signed).flatten(2)[..., ours.rows])
    camera = physics.SinglePixelCamera(m=8 * 16, img_size=(2, 8, 16), fast=True)
    every = CompressedSensing((2, 8, 16), 1.0, seed=5)
    assert close(every.A(x).sort().values, camera.A(signed).flatten(2).sort().values, 1e-5)


def test_the_dct_is_a_structured_random_physics_with_our_signs_and_transform(physics: Any) -> None:
    """Its own transform is a DST-I; given the DCT of each row of one, and our signs, its A is our A at ratio 1."""
    from scipy.fft import dct, idct

    def along(transform: Any) -> Any:
        return lambda v: torch.from_numpy(transform(v.numpy(), norm="ortho"))

    shape, ours = (1, 1, 35), CompressedSensing((1, 1, 35), 1.0, "dct", seed=2)
    theirs = physics.StructuredRandom(
        shape, shape, transform_func=along(dct), transform_func_inv=along(idct),
        diagonals=[ours.signs.view(shape).float()],
    )  # fmt: skip
    x = random(2, *shape)
    assert close(ours.A(x), theirs.A(x).flatten(2))
    assert close(ours.A_adjoint(ours.A(x)), theirs.A_adjoint(theirs.A(x)))


@pytest.mark.parametrize("transform", ["hadamard", "dct"])
def test_measurements_of_one_kind_solve_as_deepinvs_given_the_same_matrix(
    physics: Any, transform: Any
) -> None:
    """Its CompressedSensing is Gaussian (rows neither orthogonal nor of norm 1); with our rows for its, all agree."""
    ours = CompressedSensing((2, 4, 8), 0.5, transform, seed=1)
    theirs = physics.CompressedSensing(m=16, img_size=(2, 4, 8), channelwise=True)
    rows = CompressedSensing((1, 4, 8), 0.5, transform, seed=1).A(torch.eye(32).view(32, 1, 4, 8))[:, 0].mT
    theirs._A, theirs._A_adjoint, theirs._A_dagger = rows, rows.mT, torch.linalg.pinv(rows)
    x, y = random(3, 2, 4, 8), random(3, 2, 16, seed=1)
    assert close(ours.A(x), theirs.A(x))
    assert close(ours.A_adjoint(y), theirs.A_adjoint(y))
    assert close(ours.A_dagger(y), theirs.A_dagger(y))
    assert close(ours.prox(x, y, 2.0), theirs.prox_l2(x, y, 2.0), 1e-4)  # it solves by iterations
    assert close(ours.A(ours.prox(x, y, inf)), y)
