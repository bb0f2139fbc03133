"""What CompressedSensing promises beyond the laws."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest
import torch
from scipy.fft import dct
from scipy.linalg import hadamard
from torch import Tensor

from invdiff.operators import CompressedSensing, stacked


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 1), (1, 4, 8), (3, 16, 4), (1, 16, 32)])
def test_hadamard_is_scipys_matrix_of_signed_pixels_some_rows_of_it(shape: tuple[int, int, int]) -> None:
    op, n = CompressedSensing(shape, 0.4, seed=3), shape[1] * shape[2]
    x = random(2, *shape)
    rows = torch.from_numpy(hadamard(n)).double()[op.rows] / n**0.5
    assert error(op.A(x), (op.signs * x.flatten(2)) @ rows.mT) < 1e-14


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 2), (1, 3, 1), (1, 5, 7), (3, 4, 6), (2, 31, 1)])
def test_dct_is_scipys_of_signed_pixels_some_coefficients_of_it(shape: tuple[int, int, int]) -> None:
    op, x = CompressedSensing(shape, 0.4, "dct", seed=3), random(2, *shape)
    wanted = torch.from_numpy(dct((op.signs * x.flatten(2)).numpy(), norm="ortho"))[..., op.rows]
    assert error(op.A(x), wanted) < 1e-14


@pytest.mark.parametrize(("ratio", "m"), [(1.0, 64), (0.25, 16), (0.1, 6), (1e-6, 1), (1, 64)])
def test_the_ratio_says_how_many_measurements_a_channel_has_at_least_one(ratio: float, m: int) -> None:
    op = CompressedSensing((3, 8, 8), ratio)
    assert op.out_shape == (3, m)
    assert op.singular_values.sum() == 3 * m
    assert len(op.rows.unique()) == m
    assert op.rows.min() >= 0
    assert op.rows.max() < 64


@pytest.mark.parametrize("transform", ["hadamard", "dct"])
def test_all_measurements_give_the_picture_back_and_some_of_them_their_own(transform: Any) -> None:
    x = random(2, 3, 16, 16)
    whole, part = (CompressedSensing((3, 16, 16), ratio, transform) for ratio in (1.0, 0.3))
    assert error(whole.A_dagger(whole.A(x)), x) < 1e-14
    assert error(part.A(part.A_dagger(part.A(x))), part.A(x)) < 1e-14


@pytest.mark.parametrize("transform", ["hadamard", "dct"])
def test_every_measurement_is_a_sum_over_all_pixels_and_a_flat_picture_is_spread_evenly(
    transform: Any,
) -> None:
    """Without the random signs a flat picture would be one coefficient, and lost unless that is chosen."""
    op = CompressedSensing((1, 32, 32), 0.25, transform)
    y = op.A(torch.ones(1, 1, 32, 32, dtype=torch.float64))
    assert y.square().mean().item() == pytest.approx(1, rel=0.3)  # 1024 of energy over 1024 coefficients
    assert y.abs().max() < 5
    pixel = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    pixel[..., 20, 7] = 1
    assert op.A(pixel).abs().max() <= (2 / 1024) ** 0.5 + 1e-12


def test_the_seed_alone_fixes_signs_and_rows() -> None:
    before = torch.get_rng_state()
    first, again, other = (CompressedSensing((1, 8, 8), 0.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.signs, again.signs)
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.signs, other.signs)
    assert not torch.equal(first.rows, other.rows)
    assert set(first.signs.tolist()) == {-1.0, 1.0}


def test_the_rows_of_a_seed_are_those_they_always_were() -> None:
    """As recorded: a change would make every measurement kept in a file another one."""
    op = CompressedSensing((1, 2, 4), 0.5)
    assert op.rows.tolist() == [1, 4, 6, 7]
    assert op.signs.tolist() == [1, -1, -1, 1, -1, -1, -1, -1]


def test_a_larger_ratio_keeps_a_smaller_ones_rows_so_that_measurements_can_be_added() -> None:
    few, many = (CompressedSensing((1, 8, 8), ratio, "dct", seed=7) for ratio in (0.2, 0.6))
    assert set(few.rows.tolist()) < set(many.rows.tolist())
    assert few.basis == many.basis
    both = stacked([few, many])
    assert both.singular_values.square().sum() == pytest.approx(len(few.rows) + len(many.rows))  # type: ignore[attr-defined]
    for different in (
        CompressedSensing((1, 8, 8), 0.2, "dct", seed=8),
        CompressedSensing((1, 8, 8), 0.2, "hadamard", seed=7),
    ):
        assert different.basis != few.basis


@pytest.mark.parametrize("transform", ["hadamard", "dct"])
def test_bfloat16_loses_no_more_than_its_own_rounding(transform: Any) -> None:
    op, x = CompressedSensing((2, 16, 16), 0.5, transform), random(2, 2, 16, 16)
    half = x.bfloat16()
    for maker in (op, op.to(dtype=torch.bfloat16)):
        y = maker.A(half)
        assert y.dtype == torch.bfloat16
        assert error(y.double(), op.A(half.double())) < 2**-8


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 6, 8), {}, r"shape: expected a power of two of pixels for hadamard, got 6x8 = 48; use dct"),
        ((3, 8), {}, r"shape: expected \(C, H, W\)"),
        ((3, 8, 8), {"ratio": 0.0}, r"ratio: expected measurements per pixel, in \(0, 1\], got 0\.0"),
        ((3, 8, 8), {"ratio": 1.1}, r"ratio: .* got 1\.1"),
        ((3, 8, 8), {"ratio": -0.5}, r"ratio: .* got -0\.5"),
        ((3, 8, 8), {"ratio": nan}, r"ratio: .* got nan"),
        ((3, 8, 8), {"ratio": "half"}, r"ratio: .* got half"),
        ((3, 8, 8), {"transform": "fourier"}, r"transform: expected one of hadamard, dct, got 'fourier'"),
        ((3, 8, 8), {"seed": -1}, r"seed: expected a whole number from 0 to 4294967295, got -1"),
        ((3, 8, 8), {"seed": 0.5}, r"seed: .* got 0\.5"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(shape: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        CompressedSensing(shape, **{"ratio": 0.5, **options})


def test_it_says_in_one_line_what_it_is() -> None:
    wanted = "CompressedSensing(dct, 12 per channel of 3x6x8)"
    assert repr(CompressedSensing((3, 6, 8), 0.25, "dct")) == wanted


def test_the_number_of_measurements_is_rounded_not_cut() -> None:
    assert CompressedSensing((1, 3, 5), 0.58, "dct").out_shape == (1, 9)  # 8.7
