"""The kernel that moves every method, and the noise levels it moves through."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from invdiff.methods import grid
from invdiff.methods.kernel import ancestral, move, renoise
from invdiff.methods.streams import Streams


@pytest.mark.parametrize("fresh", [0.0, 0.3, ancestral(0.8, 0.5), 1.0])
def test_the_kernel_keeps_the_marginal_where_the_clean_picture_is_known(fresh: float) -> None:
    """x_σ = x₀ + σε goes to x₀ + s·ε', of variance exactly s², whatever the fraction of fresh noise."""
    sigma, s = 0.8, 0.5
    old, new = (
        move(torch.tensor(1.0), torch.tensor(0.0), sigma, s, fresh, torch.tensor(0.0)),
        s * math.sqrt(fresh),
    )
    assert float(old) ** 2 * sigma**2 + new**2 == pytest.approx(s**2)
    noise_part = move(torch.tensor(0.0), torch.tensor(0.0), sigma, s, fresh, torch.tensor(1.0))
    assert float(noise_part) == pytest.approx(new)


def test_the_ancestral_fraction_is_ddpms_posterior() -> None:
    """Mean (s²/σ²)x + (1 − s²/σ²)x̂₀ and variance s²(1 − s²/σ²) (Ho et al. 2020, eq. 7, variance exploding)."""
    sigma, s = 0.8, 0.5
    one, zero = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    f = ancestral(sigma, s)
    assert float(move(one, zero, sigma, s, f, zero)) == pytest.approx((s / sigma) ** 2)
    assert float(move(zero, one, sigma, s, f, zero)) == pytest.approx(1 - (s / sigma) ** 2)
    assert float(move(zero, zero, sigma, s, f, one)) ** 2 == pytest.approx(s**2 * (1 - (s / sigma) ** 2))


def test_a_step_to_zero_lands_on_the_estimate_and_a_step_up_adds_the_missing_variance() -> None:
    x, x0, noise = torch.rand(3, 1, 2, 3, 4).unbind()
    torch.testing.assert_close(move(x, x0, 0.5, 0.0, 1.0, noise), x0)
    torch.testing.assert_close(renoise(x, 0.3, 0.5, noise), x + 0.4 * noise)


@pytest.mark.parametrize("make", [grid.karras, grid.log_uniform])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_grids_fall_from_sigma_max_to_sigma_min_and_end_in_zero(make, steps: int) -> None:  # type: ignore[no-untyped-def]
    levels = make(steps, 10.0, 0.01)
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(10.0)
    assert levels[-1] == 0
    assert steps == 1 or levels[-2] == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(levels))


def test_karras_levels_are_even_in_the_rho_th_root() -> None:
    roots = torch.tensor(grid.karras(9, 10.0, 0.01, rho=7.0)[:-1]).double() ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(8), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [(0, 1.0, 0.1), (5, 0.1, 1.0), (5, 1.0, 0.0), (5, 1.0, -1.0)])
@pytest.mark.parametrize("make", [grid.karras, grid.log_uniform])
def test_a_grid_that_cannot_descend_is_refused(make, bad: tuple[int, float, float]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="expected"):
        make(*bad)


def test_a_sample_draws_the_same_noise_whatever_stands_beside_it() -> None:
    like = torch.zeros(1)
    both = Streams.make(0, [("a", 0), ("b", 1)], (3, 4, 5), like)
    alone = Streams.make(0, [("b", 1)], (3, 4, 5), like)
    for _ in range(3):
        assert torch.equal(both()[1], alone()[0])
    others = [
        Streams.make(*key, (3, 4, 5), like)() for key in ((1, [("b", 1)]), (0, [("b", 0)]), (0, [("c", 1)]))
    ]
    assert all(not torch.equal(Streams.make(0, [("b", 1)], (3, 4, 5), like)(), other) for other in others)
