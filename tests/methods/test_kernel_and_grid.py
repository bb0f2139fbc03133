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


@pytest.mark.parametrize("name", ["karras", "karras:3", "log_uniform"])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_grids_fall_from_sigma_max_to_sigma_min_and_end_in_zero(name: str, steps: int) -> None:
    levels = grid.levels(name, steps, 10.0, 0.01)
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(10.0)
    assert levels[-1] == 0
    assert steps == 1 or levels[-2] == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(levels))


@pytest.mark.parametrize(("name", "rho"), [("karras", 7.0), ("karras:7", 7.0), ("karras:1.5", 1.5)])
def test_karras_levels_are_even_in_the_rho_th_root(name: str, rho: float) -> None:
    roots = torch.tensor(grid.levels(name, 9, 10.0, 0.01)[:-1]).double() ** (1 / rho)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(8), rtol=1e-5, atol=0)


def test_log_uniform_levels_are_even_in_their_logarithm() -> None:
    logs = torch.tensor(grid.levels("log_uniform", 9, 10.0, 0.01)[:-1], dtype=torch.float64).log()
    torch.testing.assert_close(logs.diff(), logs.diff().mean().expand(8), rtol=1e-12, atol=0)


def ddpm_sigmas() -> list[float]:
    """√((1 − ᾱ_t)/ᾱ_t)/2, ᾱ_t a running product of 1 − β_t, β_t = 1e-4 … .02 (Ho et al. 2020, section 4)."""
    found, kept = [], 1.0
    for t in range(1000):
        kept *= 1 - (1e-4 + t / 999 * (0.02 - 1e-4))
        found.append(((1 - kept) / kept) ** 0.5 / 2)
    return found


def test_the_grid_ddpm_walks_levels_of_its_network_evenly_in_time() -> None:
    sigmas = ddpm_sigmas()
    levels = grid.levels("ddpm", 25, 10.0, 0.01)
    times = [min(range(1000), key=lambda t: abs(sigmas[t] - level)) for level in levels[:-1]]
    assert levels[:-1] == pytest.approx([sigmas[t] for t in times], rel=1e-12)
    assert levels[-1] == 0
    gaps = [a - b for a, b in pairwise(times)]
    assert max(gaps) - min(gaps) <= 1
    assert levels[0] <= 10.0 < sigmas[times[0] + 1]
    assert levels[-2] >= 0.01 > (sigmas[times[-1] - 1] if times[-1] else 0.0)


def test_the_whole_grid_ddpm_is_its_networks_thousand_steps() -> None:
    assert grid.levels("ddpm", 1000, 100.0, 1e-3) == pytest.approx([*reversed(ddpm_sigmas()), 0.0], rel=1e-9)


def test_the_whole_grid_sr3_is_its_networks_two_thousand_steps() -> None:
    """β from 1e-6 to .01: √ᾱ as the network is told it, from .999 999 5 to .0066."""
    kept, levels = 1.0, []
    for t in range(2000):
        kept *= 1 - (1e-6 + (0.01 - 1e-6) * t / 1999)
        levels.append(((1 - kept) / kept) ** 0.5 / 2)
    assert grid.levels("sr3", 2000, 100.0, 1e-4) == pytest.approx([*reversed(levels), 0.0], rel=1e-9)
    assert len(grid.levels("sr3", 50, 10.0, 0.005)) == 51


def test_the_grid_ddpm_has_no_more_levels_than_its_network_has_between() -> None:
    with pytest.raises(ValueError, match=r"ddpm has \d+ levels between 1 and 0\.1, got 1000"):
        grid.levels("ddpm", 1000, 1.0, 0.1)
    with pytest.raises(ValueError, match="ddpm has 0 levels"):
        grid.levels("ddpm", 1, 200.0, 150.0)


def test_levels_may_be_given_themselves_with_or_without_the_zero() -> None:
    assert grid.levels([3.0, 1.0, 0.1], 99, 5.0, 0.5) == [3.0, 1.0, 0.1, 0.0]
    assert grid.levels((3, 1, 0), 99, 5.0, 0.5) == [3.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "bad", [[], [0.0], [1.0, 2.0], [1.0, 1.0], [1.0, -1.0], [math.inf, 1.0], [math.nan, 1.0], [1.0, 0.0, 0.0]]
)
def test_levels_that_do_not_descend_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="grid: expected descending noise levels in image units, got"):
        grid.levels(bad, 5, 1.0, 0.1)


@pytest.mark.parametrize("bad", ["karas", "", "log_uniform:3", "ddpm:2", "sr3:2", "linear"])
def test_a_grid_nobody_knows_is_refused_with_those_there_are(bad: str) -> None:
    with pytest.raises(ValueError, match="expected one of karras, log_uniform, ddpm, sr3 or a list"):
        grid.levels(bad, 5, 1.0, 0.1)


@pytest.mark.parametrize("bad", ["karras:0", "karras:-1", "karras:seven", "karras:inf", "karras:nan"])
def test_a_rho_that_is_no_number_above_zero_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="karras:RHO with a number above 0"):
        grid.levels(bad, 5, 1.0, 0.1)


@pytest.mark.parametrize(
    "bad", [(0, 1.0, 0.1), (-1, 1.0, 0.1), (5, 0.1, 1.0), (5, 1.0, 0.0), (5, 1.0, -1.0), (5, math.inf, 0.1)]
)
@pytest.mark.parametrize("name", grid.GRIDS)
def test_a_grid_that_cannot_descend_is_refused(name: str, bad: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        grid.levels(name, *bad)


def counts(walk: list[float]) -> tuple[int, int]:
    """Steps down and steps up."""
    down = sum(b < a for a, b in pairwise(walk))
    return down, len(walk) - 1 - down


def test_repaint_walks_its_published_schedule() -> None:
    """T = 250, jump 10, resample 10: 2,410 denoising and 2,160 re-noising steps; T = 100: 910."""
    levels = grid.karras(250, 10.0, 0.01)
    assert counts(grid.resample(levels, jump=10, repeats=10)) == (2410, 2160)
    assert counts(grid.resample(grid.karras(100, 10.0, 0.01), jump=10, repeats=10))[0] == 910


def test_ddnms_time_travel_goes_back_and_comes_again() -> None:
    """Wang et al. 2023, algorithm 2, travel length 2, twice: the released schedule for T = 6, by hand."""
    levels = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    walk = [6, 5, 4, 3, 4, 5, 4, 3, 2, 1, 2, 3, 2, 1]
    assert grid.resample(levels, jump=2, repeats=2) == [*map(float, walk), 0.0]


@pytest.mark.parametrize(("jump", "repeats"), [(1, 1), (5, 1), (99, 1)])
def test_one_pass_is_no_travel(jump: int, repeats: int) -> None:
    levels = grid.karras(20, 10.0, 0.01)
    assert grid.resample(levels, jump, repeats) == levels


@pytest.mark.parametrize("jump", [1, 2, 3, 7])
@pytest.mark.parametrize("repeats", [2, 4])
def test_a_walk_that_travels_steps_to_neighbours_and_ends_once(jump: int, repeats: int) -> None:
    levels = grid.karras(20, 10.0, 0.01)
    walk = grid.resample(levels, jump, repeats)
    places = [levels.index(level) for level in walk]
    assert (walk[0], walk[-1], walk.count(0.0)) == (levels[0], 0.0, 1)
    assert all(abs(a - b) == 1 for a, b in pairwise(places))
    stretches = len(range(0, 20 - jump, jump))
    assert counts(walk) == (20 + stretches * jump * (repeats - 1), stretches * jump * (repeats - 1))


@pytest.mark.parametrize("bad", [(0, 2), (-1, 2), (2, 0), (2, -3)])
def test_travel_of_no_length_or_no_times_is_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected jump ≥ 1 and repeats ≥ 1, got"):
        grid.resample([2.0, 1.0, 0.0], *bad)


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
