"""fast, default, best and a budget: what auto takes for them, and that a budget is kept."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

import invdiff
from invdiff import effort, operators
from invdiff.effort import LINEAR, front, parse
from invdiff.errors import RequestError
from invdiff.priors import GaussianPrior

SHAPE = (3, 16, 16)
PRIOR = GaussianPrior.white()
module = import_module("invdiff.restore")  # whose name is the function's


def mask() -> operators.Mask:
    keep = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    return operators.Mask(keep.float())


def restored(**given: Any) -> invdiff.Result:
    return invdiff.restore(mask().A(torch.full((1, *SHAPE), 0.5)), mask(), PRIOR, **given)


def test_each_name_is_a_point_of_the_front_and_default_is_what_auto_takes_anyway() -> None:
    fast, default, best = (restored(effort=name) for name in effort.NAMES)
    assert [one.evaluations for one in (fast, default, best)] == [13, 35, 95]  # with the travel of masks
    assert torch.equal(default.samples, restored().samples)
    assert fast.config["warm"]
    assert fast.config["sigma_max"] == 3.0
    assert "fast" in fast.reason
    assert restored(effort="fast", options={"sigma_max": 5.0}).config["sigma_max"] == 5.0


def test_a_method_that_is_not_linears_takes_shares_of_its_own_steps() -> None:
    clip = operators.Clip(SHAPE)
    y = clip.A(torch.full((1, *SHAPE), 0.5))
    own, fast = (invdiff.restore(y, clip, PRIOR, effort=name) for name in ("default", "fast"))
    assert own.method == fast.method == "diffpir"
    assert fast.config["steps"] == round(0.4 * own.config["steps"])
    identity = operators.Identity(SHAPE)
    assert invdiff.restore(y, identity, PRIOR, sigma_y=0.1, effort="best").evaluations == 1


@pytest.mark.parametrize(
    ("budget", "steps", "walk"),
    [(1.6, 5, 5), (2.7, 8, 13), (6.9, 12, 22), (7.1, 20, 35), (18.9, 20, 35), (19.1, 50, 95), (99.0, 50, 95)],
)
def test_a_budget_takes_the_best_point_that_fits(
    budget: float, steps: int, walk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "evaluation_seconds", lambda *given: 0.1)
    found = restored(effort=budget, samples=2)
    assert found.evaluations == walk
    assert f"{steps} steps, about {walk * 0.2:.1f} of {budget:g} s" in found.reason


def test_a_budget_that_nothing_fits_in_takes_the_fastest_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "evaluation_seconds", lambda *given: 10.0)
    with pytest.warns(UserWarning, match=r"budget: 3 s are too few here, the fastest takes about 50\.0 s"):
        assert restored(effort="3s").evaluations == LINEAR[0].steps


def test_a_blurs_further_products_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "evaluation_seconds", lambda *given: 0.1)
    blur = operators.Blur(torch.full((3, 3), 1 / 9), SHAPE)
    y = blur.A(torch.full((1, *SHAPE), 0.5))
    assert (
        invdiff.restore(y, blur, PRIOR, sigma_y=0.01, effort=2.0).evaluations == 8
    )  # three products: twice as long


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("20s", 20.0), ("1.5min", 90.0), ("2 m", 120.0), ("1h", 3600.0), (7, 7.0), (".5", 0.5)],
)
def test_times_are_read_as_people_write_them(given: Any, seconds: float) -> None:
    assert parse(given) == seconds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("fats", "Did you mean 'fast'"), ("-3", "expected seconds for a picture"), ("0s", "expected seconds"),
        ("3 days", "expected seconds"), (float("nan"), "unknown effort"), ("", "expected seconds"),
    ],
)  # fmt: skip
def test_what_is_no_effort_is_refused(given: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse(given)


@pytest.mark.parametrize("given", [{"method": "dps"}, {"steps": 4}, {"options": {"steps": 4}}])
def test_who_chooses_the_steps_himself_cannot_ask_for_an_effort(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="effort: with it auto chooses the steps"):
        restored(effort="fast", **given)


def test_auto_travels_where_pixels_are_missing_unless_told_otherwise_or_the_steps_are_too_few() -> None:
    assert (restored().config["jump"], restored().config["repeats"]) == (5, 2)
    assert restored(options={"repeats": 1}).evaluations == 20
    assert restored(steps=5).evaluations == 5
    assert restored(steps=1).evaluations == 1
    assert restored(method="mmps").evaluations == 20


def test_fronts_rise_and_hold_every_name() -> None:
    for method in ("mmps", "dps", "diffpir"):
        points = front(method, 30)
        assert [point.steps for point in points] == sorted(point.steps for point in points)
        assert [point.name for point in points if point.name] == list(effort.NAMES)
