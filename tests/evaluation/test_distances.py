"""Distances between samples against the exact one-dimensional transport, and moments' errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invdiff.evaluation.distances import moment_errors, sliced_wasserstein


def draws(count: int, n: int, seed: int) -> Tensor:
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(a: Tensor, b: Tensor, directions: int = 256, seed: int = 0) -> float:
    return sliced_wasserstein(a, b, directions=directions, generator=torch.Generator().manual_seed(seed))


def matched(a: Tensor, b: Tensor) -> Tensor:
    """W₂² of values (S,) and (T,), each repeated so often that there are as many of both."""
    a, b = (
        a.repeat_interleave(math.lcm(len(a), len(b)) // len(a)),
        b.repeat_interleave(math.lcm(len(a), len(b)) // len(b)),
    )
    return (a.sort().values - b.sort().values).square().mean()


@pytest.mark.parametrize("counts", [(1, 1), (7, 7), (6, 4), (5, 13), (1, 9)])
def test_in_one_dimension_it_is_the_exact_transport_for_any_counts(counts: tuple[int, int]) -> None:
    a, b = draws(counts[0], 1, 1), 2 * draws(counts[1], 1, 2) + 1
    expected = float(matched(a[:, 0], b[:, 0]).sqrt())
    assert distance(a, b, directions=3) == pytest.approx(expected, rel=1e-12)
    assert distance(b, a, directions=3) == pytest.approx(expected, rel=1e-12)


def test_it_is_the_root_of_the_mean_of_squares_over_the_directions() -> None:
    a, b = draws(6, 3, 1), draws(4, 3, 2) + 1
    theta = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squares = [matched(a @ t / t.norm(), b @ t / t.norm()) for t in theta.T]
    assert distance(a, b, directions=5) == pytest.approx(float(torch.stack(squares).mean().sqrt()), rel=1e-12)


def test_samples_moved_by_delta_are_its_length_over_root_n_away() -> None:
    a, delta = draws(50, 8, 1), torch.linspace(0, 1, 8, dtype=torch.float64)
    assert distance(a, a + delta, directions=20_000) == pytest.approx(float(delta.norm()) / 8**0.5, rel=0.02)


def test_two_isotropic_gaussians_are_as_far_as_their_deviations_differ() -> None:
    assert distance(draws(6000, 5, 1), 2 * draws(4000, 5, 2), directions=50) == pytest.approx(1.0, rel=0.03)
    assert distance(draws(6000, 5, 1), draws(4000, 5, 2), directions=50) < 0.05


def test_the_order_of_samples_and_their_type_do_not_count() -> None:
    a, b = draws(30, 4, 1), draws(20, 4, 2)
    assert distance(a, a.flip(0)) < 1e-15
    assert distance(a.flip(0), b) == pytest.approx(distance(a, b), rel=1e-12)
    assert distance(a.float(), b.float()) == pytest.approx(distance(a, b), rel=1e-6)


def test_a_sample_that_is_no_number_makes_a_distance_that_is_none() -> None:
    a, b = draws(30, 4, 1), draws(20, 4, 2)
    a[3, 1] = math.nan
    assert math.isnan(distance(a, b))


def test_samples_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(S, n\) and \(T, n\), got \(3, 4\) and \(3, 5\)"):
        distance(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="expected samples"):
        distance(torch.zeros(0, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="directions: expected at least 1, got 0"):
        distance(torch.zeros(3, 4), torch.zeros(3, 4), directions=0)


def test_moment_errors_are_relative_to_the_exact_spread() -> None:
    covariance = torch.diag(torch.tensor([3.0, 4.0]))
    mean = torch.tensor([1.0, 2.0])
    assert moment_errors((mean, covariance), (mean, covariance)) == (0, 0)
    off, wider = moment_errors((mean + torch.tensor([0.7, 0.0]), 1.1 * covariance), (mean, covariance))
    assert off == pytest.approx(0.7 / 7**0.5)
    assert wider == pytest.approx(0.1, rel=1e-5)


def test_moments_without_a_scale_or_of_other_shapes_are_refused() -> None:
    zero, one = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="covariance above 0"):
        moment_errors((zero, one), (zero, 0 * one))
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(2, 2\), got \(1, 2\) and \(2, 2\)"):
        moment_errors((zero[None], one), (zero, one))
