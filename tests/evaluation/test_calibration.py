"""Coverage of credible intervals: exact for an exact sampler, and wrong for one that is too sure or not sure enough."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invdiff.evaluation.calibration import coverage

LEVELS = (0.5, 0.8, 0.95)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10, 39])
def test_over_all_ranks_the_truth_can_have_the_coverage_is_the_level(count: int, level: float) -> None:
    samples = torch.arange(count).double().view(-1, 1, 1).expand(count, count + 1, 1)
    truths = torch.arange(count + 1).double().view(-1, 1) - 0.5
    assert coverage(samples, truths, level)[0] == pytest.approx(level, rel=1e-12)


def test_the_interval_is_the_central_one() -> None:
    samples = torch.arange(9).double().view(9, 1, 1)
    held = [coverage(samples, torch.tensor([[r - 0.5]]).double(), 0.5)[0] for r in range(10)]
    assert held == pytest.approx([0, 0, 0.5, 1, 1, 1, 1, 0.5, 0, 0], abs=1e-12)


def drawn(seed: int, width: float = 1.0, move: float = 0.0, n: int = 30) -> tuple[Tensor, Tensor]:
    """19 samples of 200 truths whose n values are nearly one: x₀ ~ N(0, 1), y = x₀ + N(0, 1), posterior N(y/2, 1/2)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        common = torch.randn(*shape[:-1], 1, generator=generator, dtype=torch.float64)
        own = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return 0.95**0.5 * common + 0.05**0.5 * own

    truths = normal(200, n)
    y = truths + normal(200, n)
    return y / 2 + 0.5**0.5 * (width * normal(19, 200, n) + move), truths


@pytest.mark.parametrize("level", LEVELS)
def test_exact_samples_cover_as_they_should_and_others_do_not(level: float) -> None:
    share, error = coverage(*drawn(1), level)
    assert abs(share - level) < 3 * error
    assert 0.005 < error < 0.05
    sure, error = coverage(*drawn(1, width=0.5**0.5), level)
    assert sure < level - 3 * error
    unsure, error = coverage(*drawn(1, width=2**0.5), level)
    assert unsure > level + 3 * error
    aside, error = coverage(*drawn(1, move=1.0), level)
    assert aside < level - 3 * error


def test_the_standard_error_is_how_far_the_coverage_strays_though_pixels_depend_on_each_other() -> None:
    found = torch.tensor([coverage(*drawn(seed), 0.8) for seed in range(150)])
    assert float(found[:, 0].std()) == pytest.approx(float(found[:, 1].mean()), rel=0.15)
    assert float(found[:, 0].mean()) == pytest.approx(0.8, abs=3 * float(found[:, 0].std()) / 150**0.5)


def test_a_value_known_exactly_counts_as_the_level_and_a_partial_tie_as_the_ranks_it_could_have() -> None:
    assert coverage(torch.full((7, 2, 3), 0.3), torch.full((2, 3), 0.3), 0.8) == (
        pytest.approx(0.8),
        pytest.approx(0),
    )
    samples = torch.tensor([0.0, 1.0, 1.0, 2.0]).view(4, 1, 1)
    assert coverage(samples, torch.tensor([[1.0]]), 0.6)[0] == pytest.approx(1)  # ranks 1 to 3 of 0 to 4
    assert coverage(samples, torch.tensor([[0.0]]), 0.6)[0] == pytest.approx(0.5)  # ranks 0 and 1


def test_a_single_truth_tells_no_standard_error() -> None:
    share, error = coverage(torch.zeros(3, 1, 2), torch.ones(1, 2), 0.5)
    assert share == 0
    assert math.isnan(error)


def test_what_is_no_set_of_samples_or_no_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(S, N, n\) of truths \(N, n\), got \(3, 2, 4\) and \(3, 4\)"):
        coverage(torch.zeros(3, 2, 4), torch.zeros(3, 4), 0.5)
    with pytest.raises(ValueError, match="finite"):
        coverage(torch.full((3, 2, 4), math.nan), torch.zeros(2, 4), 0.5)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
            coverage(torch.zeros(3, 2, 4), torch.zeros(2, 4), level)
