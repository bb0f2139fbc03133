"""Intervals hold what they say, differences are called what they are, and what is missing is counted."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from invdiff.bench import statistics
from invdiff.bench.statistics import holm, paired, per_picture, ranking, summary, t_quantile, wins


def column(values: list[float]) -> dict[str, float | None]:
    return {f"{i}.png": value for i, value in enumerate(values)}


# ----------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_percentiles_are_scipys_bootstrap(level: float) -> None:
    values = np.random.default_rng(1).exponential(size=25)
    found = summary(values.tolist(), level=level, expand=False, draws=40_000)
    expected = stats.bootstrap(
        (values,), np.mean, confidence_level=level, method="percentile", n_resamples=40_000, random_state=2
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.01)


def test_an_expanded_interval_is_at_hesterbergs_percentiles() -> None:
    values = np.random.default_rng(1).exponential(size=10)
    found = summary(values.tolist(), draws=2000)
    tail = stats.norm.cdf(-((10 / 9) ** 0.5) * stats.t.ppf(0.975, 9))
    means = next(statistics._resampled(values, 2000, 0)).mean(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [tail, 1 - tail]), rel=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 4999])
@pytest.mark.parametrize("share", [0.6, 0.95, 0.975, 0.9995])
def test_students_t_is_scipys(freedom: int, share: float) -> None:
    assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9)


@pytest.mark.parametrize(
    "draw, low",
    [
        (lambda stream, n: stream.normal(size=n), 0.92),
        (lambda stream, n: stream.exponential(size=n) - 1, 0.87),
    ],
    ids=["normal", "skewed"],
)
def test_the_interval_of_few_values_holds_the_mean_as_often_as_it_says(draw, low: float) -> None:  # type: ignore[no-untyped-def]
    stream, times = np.random.default_rng(5), 500
    held = {True: 0, False: 0}
    for seed in range(times):
        values = draw(stream, 10).tolist()
        for expand in held:
            found = summary(values, draws=1000, seed=seed, expand=expand)
            held[expand] += found.low <= 0 <= found.high  # type: ignore[operator]
    assert low < held[True] / times < 0.97
    assert held[False] < held[True] - 0.015 * times  # what the expansion is for


def test_many_values_have_the_interval_the_bootstrap_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).gamma(2.0, size=statistics.MANY).tolist()
    quick = summary(values)
    monkeypatch.setattr(statistics, "MANY", math.inf)
    drawn = summary(values, draws=4000)
    width = quick.high - quick.low  # type: ignore[operator]
    assert (drawn.low, drawn.high) == pytest.approx((quick.low, quick.high), abs=0.04 * width)


def test_the_same_values_have_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).exponential(size=40).tolist()
    assert summary(values) == summary(values)
    assert summary(values) != summary(values, seed=1)


def test_blocks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=9)
    whole = np.concatenate(list(statistics._resampled(values, 1000, 0)))
    monkeypatch.setattr(statistics, "_BLOCK", 90)
    parts = list(statistics._resampled(values, 1000, 0))
    assert len(parts) == 100
    assert np.array_equal(np.concatenate(parts), whole)


def test_what_is_missing_is_left_out_and_counted() -> None:
    found = summary([1.0, None, 3.0, math.inf, math.nan])
    assert (found.mean, found.count, found.missing) == (2.0, 2, 3)
    alone, none = summary([5.0, None]), summary([None])
    assert (alone.mean, alone.low, alone.high, alone.count) == (5.0, None, None, 1)
    assert (none.mean, none.count, none.missing) == (None, 0, 1)


def test_equal_values_have_no_width() -> None:
    found = summary([2.5] * 4)
    assert found.low == found.mean == found.high == 2.5


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_that_is_no_share_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
        summary([1.0, 2.0], level=level)


def test_seeds_are_averaged_before_pictures_are_drawn() -> None:
    rows = [("b", 1.0), ("a", 4.0), ("b", 2.0), ("c", None), ("a", None), ("b", 6.0)]
    assert per_picture(rows) == {"b": 3.0, "a": 4.0, "c": None}


# --------------------------------------------------------------------------------------------------------- pairs


def test_a_pair_is_compared_on_the_pictures_both_have() -> None:
    a = {"1": 3.0, "2": 1.0, "3": 5.0, "4": None, "5": 2.0, "7": None}
    b = {"1": 1.0, "2": 1.0, "3": 6.0, "4": 9.0, "6": 2.0, "7": None}
    found = paired(a, b, higher=True)
    assert (found.wins, found.ties, found.losses, found.count, found.missing) == (1, 1, 1, 3, 3)
    assert found.difference == pytest.approx(1 / 3)
    lower = paired(a, b, higher=False)
    assert (lower.wins, lower.losses, lower.difference) == (1, 1, found.difference)
    assert paired({"1": 2.0, "2": 4.0, "3": 4.0}, {"1": 1.0, "2": 1.0, "3": 1.0}, higher=False).losses == 3


def test_a_difference_has_the_interval_of_its_values_and_the_other_way_round_its_mirror() -> None:
    stream = np.random.default_rng(2)
    a, b = stream.normal(size=12), stream.normal(size=12)
    found, back = (paired(column(list(x)), column(list(y)), higher=True) for x, y in ((a, b), (b, a)))
    alone = summary((a - b).tolist())
    assert (found.difference, found.low, found.high) == (alone.mean, alone.low, alone.high)
    assert (back.difference, back.wins, back.losses) == (-found.difference, found.losses, found.wins)  # type: ignore[operator]
    assert back.p == found.p


def test_p_is_that_of_all_draws_there_are() -> None:
    values = np.array([0.2, 1.1, -0.3, 0.9, 0.6])
    t = values.mean() / values.std(ddof=1)
    every = np.array(list(product(values - values.mean(), repeat=5)))
    exact = np.mean(np.abs(every.mean(axis=1)) >= t * every.std(axis=1, ddof=1))
    found = paired(column(values.tolist()), column([0.0] * 5), higher=True, draws=40_000)
    assert found.p == pytest.approx(exact, abs=0.005)


def test_p_is_never_0_and_that_of_many_is_two_sided() -> None:
    values = np.random.default_rng(0).normal(50, 1, size=40)
    assert paired(column(values.tolist()), column([0.0] * 40), higher=True, draws=999).p == 1 / 1000
    many = np.random.default_rng(0).normal(0.02, 1, size=statistics.MANY)
    found = paired(column(many.tolist()), column([0.0] * len(many)), higher=True)
    assert found.p == pytest.approx(stats.ttest_1samp(many, 0).pvalue, rel=0.01)


def test_p_is_about_students_where_differences_are_normal() -> None:
    a = np.random.default_rng(4).normal(0.45, 1, size=30)
    found = paired(column(list(a)), column([0.0] * 30), higher=True, draws=40_000)
    assert found.p == pytest.approx(stats.ttest_1samp(a, 0).pvalue, rel=0.35)


@pytest.mark.parametrize("skewed", [False, True])
def test_methods_that_are_alike_are_seldom_called_different(skewed: bool) -> None:
    stream, times, zero = np.random.default_rng(8), 600, column([0.0] * 12)
    called = 0
    for seed in range(times):
        values = stream.exponential(size=12) - 1 if skewed else stream.normal(size=12)
        called += paired(column(values.tolist()), zero, higher=True, draws=500, seed=seed).p < 0.05
    assert 0.02 < called / times < (0.10 if skewed else 0.07)


def test_what_cannot_be_told_has_p_1_and_few_pictures_tell_little() -> None:
    assert paired({}, {"1": 1.0}, higher=True).p == 1
    assert paired({"1": 2.0}, {"1": 1.0}, higher=True).p == 1
    assert paired(column([1.0, 2.0]), column([1.0, 2.0]), higher=True).p == 1
    assert paired(column([2.0] * 4), column([1.0] * 4), higher=True).p == 1 / 8
    none = paired({}, {"1": 1.0}, higher=True)
    assert (none.difference, none.low, none.count, none.missing) == (None, None, 0, 1)


# ------------------------------------------------------------------------------------------------------ rankings


def test_holms_correction_is_its_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def methods(seed: int = 0, **levels: float) -> dict[str, dict[str, float | None]]:
    """30 pictures that differ by 5, methods that differ by `levels` and 0.3 of noise of their own."""
    stream = np.random.default_rng(seed)
    difficulty = 5 * stream.normal(size=30)
    return {
        name: column(list(difficulty + level + 0.3 * stream.normal(size=30)))
        for name, level in levels.items()
    }


def test_methods_are_in_order_and_those_of_one_letter_are_not_told_apart() -> None:
    table = methods(worst=20.0, best=25.0, second=24.98, third=23.0)
    found = ranking(table, higher=True)
    assert {one.method for one in found[:2]} == {"best", "second"}
    assert [one.method for one in found[2:]] == ["third", "worst"]
    assert [one.groups for one in found] == ["a", "a", "b", "c"]
    assert [one.best for one in found] == [True, True, False, False]
    assert [one.rank for one in found] == [1, 2, 3, 4]
    back = ranking(table, higher=False)
    assert [one.method for one in back] == [one.method for one in reversed(found)]


def test_a_method_between_two_has_the_letters_of_both() -> None:
    close = methods(4, a=25.12, b=25.0, c=24.88)
    found = {one.method: one.groups for one in ranking(close, higher=True)}
    pairs = [(a, b) for a, b in combinations("abc", 2)]
    p = dict(zip(pairs, holm([paired(close[a], close[b], higher=True).p for a, b in pairs]), strict=True))
    assert p["a", "c"] < 0.05
    assert {pair for pair in pairs if set(found[pair[0]]) & set(found[pair[1]])} == {
        k for k in pairs if p[k] >= 0.05
    }


@pytest.mark.parametrize("seed", range(40))
def test_two_share_a_letter_if_and_only_if_they_are_not_different(seed: int) -> None:
    stream, names = np.random.default_rng(seed), list("uvwxyz")
    different = {pair for pair in combinations(names, 2) if stream.random() < 0.4}
    letters = statistics._letters(names, different)
    for a, b in combinations(names, 2):
        assert bool(set(letters[a]) & set(letters[b])) == ((a, b) not in different)
    assert all(letters.values())


def test_equal_means_share_a_rank_and_a_method_without_values_comes_last() -> None:
    table = {
        "none": column([None, None, None]),  # type: ignore[list-item]
        "one": column([1.0, 2.0, 3.0]),
        "two": column([3.0, 2.0, 1.0]),
        "three": {"0.png": 0.5},
    }
    found = ranking(table, higher=True)
    assert [(one.method, one.rank) for one in found] == [("one", 1), ("two", 1), ("three", 3), ("none", 4)]
    assert (found[2].summary.count, found[2].summary.missing) == (1, 2)
    assert (found[3].groups, found[3].best, found[3].summary.missing) == ("", False, 3)
    assert ranking({}, higher=True) == []


def test_many_methods_that_are_alike_are_not_told_apart_by_chance() -> None:
    alike = sum(
        len(
            {
                one.groups
                for one in ranking(methods(seed, **dict.fromkeys("abcde", 20.0)), higher=True, draws=1500)
            }
        )
        == 1
        for seed in range(12)
    )
    assert alike >= 11


def test_wins_are_per_picture_ties_are_shared_and_pictures_one_lacks_do_not_count() -> None:
    table = {
        "a": {"1": 3.0, "2": 1.0, "3": 2.0, "4": 9.0},
        "b": {"1": 1.0, "2": 1.0, "3": 4.0, "4": None},
        "c": {"1": 0.0, "2": 0.0, "3": 4.0, "5": 1.0},
    }
    found = wins(table, higher=True)
    assert found.counts == {"a": 1.5, "b": 1.0, "c": 0.5}
    assert (found.pictures, found.missing) == (3, 2)
    assert wins(table, higher=False).counts == {"a": 1.0, "b": 0.0, "c": 2.0}
    assert wins({"a": {}, "b": {"1": 1.0}}, higher=True).counts == {"a": 0.0, "b": 0.0}
