"""fast, default, best and a budget: what auto takes for them, and that a budget is kept."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

import pytest
import torch

import invdiff
from invdiff import effort, operators
from invdiff.effort import LINEAR, front, parse
from invdiff.errors import RequestError
from invdiff.priors import Card, GaussianPrior, NetworkPrior
from invdiff.priors.precondition import EDM

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
    assert [one.evaluations for one in (fast, default, best)] == [13, 35, 140]  # with the travel of masks
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
    [
        (1.6, 5, 5),
        (2.7, 8, 13),
        (6.9, 12, 22),
        (7.1, 20, 35),
        (27.9, 20, 35),
        (28.1, 50, 140),
        (99.0, 50, 140),
    ],
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


def test_an_effort_takes_the_steps_of_the_method_that_auto_then_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding and light that is counted are other problems to auto than the operator alone would be."""
    monkeypatch.setattr(module, "evaluation_seconds", lambda *given: 0.1)
    x = torch.linspace(0.1, 0.9, 16).expand(1, *SHAPE)
    rounded, identity = operators.Quantize(SHAPE, 3), operators.Identity(SHAPE)
    light = operators.PoissonNoise(30)
    for given in ("fast", "best", 99.0):
        found = invdiff.restore(rounded.A(x), rounded, PRIOR, effort=given)
        assert (found.method, found.evaluations) == ("ancestral", 1)
    for given, steps in {"fast": 8, "default": 20, "best": 50, 2.1: 20}.items():
        found = invdiff.restore(x, identity, PRIOR, noise=light, effort=given)
        assert (found.method, found.evaluations) == ("mmps", steps)
    both = operators.per_image([mask(), mask()])
    found = invdiff.restore(both.A(x.expand(2, -1, -1, -1)), both, PRIOR, effort="fast")
    assert found.evaluations == 13
    assert found.reason.endswith("; fast")


def test_several_samples_of_denoising_are_walks_and_take_shares_of_their_steps() -> None:
    y, identity = torch.full((1, *SHAPE), 0.5), operators.Identity(SHAPE)
    found = [
        invdiff.restore(y, identity, PRIOR, sigma_y=0.1, samples=2, effort=name) for name in effort.NAMES
    ]
    assert [one.evaluations for one in found] == [8, 20, 50]


def test_the_sizes_of_a_large_hole_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "evaluation_seconds", lambda *given: 0.1)
    keep = torch.ones(64, 64)
    keep[8:56, 8:56] = 0
    hole = operators.Mask(keep)
    y = hole.A(torch.full((1, 3, 64, 64), 0.5))
    assert "8 steps, about 1.6 of 1.8 s" in invdiff.restore(y, hole, PRIOR, effort=1.8).reason  # 13 · (1 + ¼)
    assert "5 steps" in invdiff.restore(y, hole, PRIOR, effort=1.5).reason


def test_a_budget_knows_the_settings_and_passes_by_points_that_cannot_have_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "evaluation_seconds", lambda *given: 0.1)
    assert restored(effort=2.1, options={"repeats": 1}).evaluations == 20
    assert restored(effort=2.1, options={"repeats": 1, "iterations": 3}).evaluations == 8
    assert restored(effort=99.0, options={"jump": 15}).config["steps"] == 50
    assert restored(effort=1.9, options={"jump": 15}).config["steps"] == 5
    with pytest.raises(RequestError, match="sigma_min"):
        restored(effort=99.0, options={"sigma_min": 20.0})


def test_what_is_timed_is_what_the_method_asks_of_the_prior_made_to_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(module, "evaluation_seconds", lambda *given: asked.append(given) or 0.1)
    grey = (1, 16, 16)
    convolution = torch.nn.Conv2d(3, 3, 1)
    network = torch.nn.Module()
    network.forward = lambda x, c_noise: convolution(x)  # type: ignore[method-assign]
    colour = NetworkPrior(network, EDM(), Card(name="colour", channels=3))
    for op in (operators.Downsample(2, grey), operators.Clip(grey)):
        invdiff.restore(op.A(torch.full((1, *grey), 0.5)), op, colour, effort=2.5)
    assert [given[1:3] for given in asked] == [(grey, True), (grey, False)]
    assert all(given[0].card.channels == 1 for given in asked)


def test_what_the_timing_took_is_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*given: Any) -> float:
        time.sleep(0.3)
        return 0.001

    monkeypatch.setattr(module, "evaluation_seconds", slow)
    with pytest.warns(UserWarning, match=r"0\.1 s are too few here, the fastest takes about 0\.3 s"):
        assert restored(effort=0.1).config["steps"] == 5
    two = mask().A(torch.full((2, *SHAPE), 0.5))  # it is half as much for each
    assert "50 steps, about 0.3 of 0.35 s" in invdiff.restore(two, mask(), PRIOR, effort=0.35).reason


def test_what_is_wrong_is_said_as_without_an_effort() -> None:
    with pytest.raises(RequestError, match="op: expected an operator"):
        invdiff.restore(torch.zeros(1, *SHAPE), "mask", PRIOR, effort="fast")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="samples: expected a whole number"):
        restored(effort=3.0, samples="2")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("20s", 20.0),
        (1e-5, 1e-5),
        ("1e3", 1000.0),
        ("1.5min", 90.0),
        ("2 m", 120.0),
        ("1h", 3600.0),
        (7, 7.0),
        (".5", 0.5),
    ],
)
def test_times_are_read_as_people_write_them(given: Any, seconds: float) -> None:
    assert parse(given) == seconds


def test_names_are_read_as_people_write_them() -> None:
    assert [parse(given) for given in ("FAST", " best ", "default")] == ["fast", "best", "default"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("fats", "Did you mean 'fast'"), ("-3", "expected seconds for a picture"), ("0s", "expected seconds"),
        ("3 days", "expected seconds"), (float("nan"), "unknown effort"), ("", "expected seconds"),
        ("1e999", "expected seconds"), (True, "unknown effort"),
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


def test_few_steps_are_warm_and_stay_where_noise_is_seen() -> None:
    """As measured (docs/performance.md): a change here is a change of what the presets mean."""
    few = {"sigma_max": 3.0, "warm": True}
    assert {point.steps: dict(point.settings) for point in front("mmps", 20)} == {
        5: {**few, "sigma_min": 0.03}, 8: {**few, "sigma_min": 0.03}, 12: {**few, "sigma_min": 0.015},
        20: {}, 50: {"warm": True},
    }  # fmt: skip


def test_fronts_rise_and_hold_every_name() -> None:
    for method in ("mmps", "dps", "diffpir"):
        points = front(method, 30)
        assert [point.steps for point in points] == sorted(point.steps for point in points)
        assert [point.name for point in points if point.name] == list(effort.NAMES)
