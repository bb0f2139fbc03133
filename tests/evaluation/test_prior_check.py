"""A mistake of convention planted in a network's adapter is named, and a denoiser that is right passes.

The network is an exact denoiser of correlated Gaussian pictures, in the clothes of a convention: what it is given and
answers is worked out from a precondition; the prior is then made with another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from invdiff.errors import InvdiffError, RequestError
from invdiff.evaluation.prior_check import (
    Report,
    check_prior,
    conventions,
    is_of_photographs,
    pictures_for,
)
from invdiff.priors import (
    EDM,
    VE,
    VP,
    Card,
    Flow,
    FunctionPrior,
    GaussianPrior,
    NetworkPrior,
    Precondition,
    Prior,
    load_prior,
)

SHAPE = (3, 8, 8)
CARD = Card(name="dressed", channels=3, sigma_min=0.002, sigma_max=40.0)


def gaussian() -> GaussianPrior:
    """Smooth pictures, more so in space than in colour, red the brightest."""
    _, h, w = SHAPE
    at = torch.cartesian_prod(torch.arange(h), torch.arange(w)).double()
    space = torch.exp(-(torch.cdist(at, at) ** 2) / 5)
    colour = torch.tensor([[1.0, 0.8, 0.5], [0.8, 1.0, 0.7], [0.5, 0.7, 0.8]], dtype=torch.float64)
    mean = torch.tensor([0.6, 0.5, 0.35], dtype=torch.float64).view(3, 1, 1).expand(SHAPE)
    return GaussianPrior.correlated(mean, 0.03 * torch.kron(colour, space))


PRIOR = gaussian()
PICTURES = PRIOR.sample((16, *SHAPE), torch.Generator().manual_seed(0)).float()


class Network(nn.Module):
    """What a perfect network of a convention answers, from σ as its time says it; a little beyond its times too."""

    def __init__(self, true: Precondition) -> None:
        super().__init__()
        self.true = true

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        gain = self.true.white - self.true.black
        sigma = self.sigma(time.double())
        kept = self.true.scalings(sigma)[2][:, None, None, None]
        x = (z.double() / kept - self.true.black) / gain
        return self.true.target(PRIOR(x, sigma / gain), x, sigma / gain).float()

    def sigma(self, time: Tensor) -> Tensor:
        true = self.true
        if isinstance(true, VP) and true.levels:
            clock = torch.arange(len(true.levels)).double() * true.scale + true.first
            ln_sigma = (torch.tensor(true.levels, dtype=torch.float64) * (true.white - true.black)).log()
        else:
            ln_sigma = torch.linspace(-9, 6, 3001, dtype=torch.float64)
            clock = true.scalings(ln_sigma.exp())[3]
        place = torch.searchsorted(clock, time).clamp(1, len(clock) - 1)
        low, high = clock[place - 1], clock[place]
        part = ((time - low) / (high - low).clamp(min=1e-12)).clamp(-1, 2)
        return torch.lerp(ln_sigma[place - 1], ln_sigma[place], part).exp()


def dressed(true: Precondition, said: Precondition) -> NetworkPrior:
    return NetworkPrior(Network(true), said, CARD)


def checked(prior: Prior) -> Report:
    return check_prior(prior, PICTURES, batch=16)


def table(vp: VP) -> tuple[float, ...]:
    """Its ᾱ_t, as a checkpoint with a table of its own has them."""
    return tuple(1 / (1 + (sigma * (vp.white - vp.black)) ** 2) for sigma in vp.levels)


RIGHT: list[Precondition] = [
    *(EDM(), EDM(black=0.0, sigma_data=0.25)),
    *(VP(), VP(black=0.0), VP(first=1.0), VP(prediction="v"), VP(prediction="x0", schedule="scaled_linear")),
    *(VP(schedule="cosine"), VP(schedule="sde", scale=999.0), VP(alphas=table(VP(schedule="scaled_linear")))),
    *(VE(), VE(black=0.0, prediction="epsilon", clock="ln_sigma")),
    *(Flow(), Flow(scale=1000.0)),
]


@pytest.mark.parametrize("true", RIGHT, ids=str)
def test_a_denoiser_that_is_right_passes_without_a_false_alarm(true: Precondition) -> None:
    report = checked(dressed(true, true))
    assert report.fine, report.findings
    assert report.mistake == ""
    assert "behaves as a denoiser" in report.verdict()


PLANTED: list[tuple[Precondition, Precondition, str]] = [
    (VP(), VP(black=0.0), "its range is [-1, 1], not [0, 1]"),
    (VP(black=0.0), VP(), "its range is [0, 1], not [-1, 1]"),
    (EDM(), EDM(black=0.0), "its range is [-1, 1], not [0, 1]"),
    (EDM(black=0.0, sigma_data=0.25), EDM(), "its range is [0, 1], not [-1, 1], and its sigma_data 0.25"),
    (Flow(black=0.0), Flow(), "its range is [0, 1], not [-1, 1]"),
    (VP(), VP(first=1.0), "its time is one step less (off by one)"),
    (VP(first=1.0), VP(), "its time is one step more (off by one)"),
    (VP(prediction="v"), VP(prediction="v", first=1.0), "its time is one step less (off by one)"),
    (VP(prediction="x0", first=1.0), VP(prediction="x0"), "its time is one step more (off by one)"),
    (VP(prediction="v"), VP(), "it predicts v, not epsilon"),
    (VP(), VP(prediction="v"), "it predicts epsilon, not v"),
    (VP(prediction="x0"), VP(), "it predicts x0, not epsilon"),
    (Flow(), Flow(prediction="v"), "it predicts velocity, not v"),
    (VP(prediction="v", black=0.0), VP(), "its range is [0, 1] and it predicts v"),
    (VP(schedule="cosine"), VP(), "its schedule is cosine, not linear"),
    (VP(schedule="cosine"), VP(schedule="sde", scale=999.0), "its schedule is cosine, not sde"),
    (
        VP(),
        VP(alphas=table(VP(schedule="cosine"))),
        "its schedule is linear, not the table of ᾱ it came with",
    ),
    (
        VP(schedule="cosine"),
        VP(alphas=table(VP())),
        "its schedule is cosine, not the table of ᾱ it came with",
    ),
    (Flow(scale=1000.0), Flow(), "its time is 1000 times that"),
    (VP(), VP(scale=1000.0), "its time is 0.001 times that"),
    (VE(clock="ln_sigma"), VE(), "its clock is ln_sigma, not sigma"),
    (EDM(), VP(), "it is EDM's F"),
    (Flow(), VP(), "it is a flow's velocity"),
]


@pytest.mark.parametrize(("true", "said", "named"), PLANTED, ids=lambda p: p if isinstance(p, str) else "")
def test_a_wrong_convention_is_named(true: Precondition, said: Precondition, named: str) -> None:
    report = checked(dressed(true, said))
    assert report.mistake == named, report.tried
    assert not report.fine
    assert named in report.verdict()
    assert "suspicious" in report.verdict()


def s_above(level: float) -> Callable[[Tensor], Tensor]:
    return lambda s: (s > level)[:, None, None, None]


def around(change: Callable[[Tensor, Any], Tensor]) -> FunctionPrior:
    return FunctionPrior(change, CARD)


FUNCTIONS: list[tuple[Callable[[Tensor, Any], Tensor], str]] = [
    (lambda x, s: PRIOR(x, 2 * s), "it is told half the σ"),
    (lambda x, s: PRIOR(x, s / 2), "it is told twice the σ"),
    (lambda x, s: 2 * PRIOR(x, s) - 1, "its output is on [-1, 1], not [0, 1]"),
    (lambda x, s: 255 * PRIOR(x, s), "its output is on [0, 255], not [0, 1]"),
    (lambda x, s: 2 * PRIOR((x + 1) / 2, s / 2) - 1, "its pictures are on [-1, 1], σ too"),
    (lambda x, s: PRIOR(x, s / 255), "its σ is on [0, 255]"),
    (lambda x, s: x - PRIOR(x, s), "what it returns is the noise, x − D"),
    (lambda x, s: PRIOR(x.flip(1), s).flip(1), "its colours are blue, green, red"),
]


@pytest.mark.parametrize(("function", "named"), FUNCTIONS, ids=[named for _, named in FUNCTIONS])
def test_a_wrong_function_is_named(function: Callable[[Tensor, Any], Tensor], named: str) -> None:
    report = checked(around(function))
    assert report.mistake == named, report.tried
    assert not report.fine


def test_the_colours_of_a_function_without_a_card_are_those_of_the_pictures() -> None:
    prior = load_prior(lambda x, s: PRIOR(x.flip(1), s).flip(1))
    assert prior.card.channels is None
    assert checked(prior).mistake == "its colours are blue, green, red"
    assert checked(load_prior(lambda x, s: PRIOR(x, s))).fine
    grey = PICTURES.mean(1, keepdim=True)
    assert not any("colours" in words for words, _ in conventions(prior, grey.shape[1]))


def test_the_exact_denoiser_passes_and_its_figures_are_those_of_an_expectation() -> None:
    report = checked(PRIOR)
    assert report.fine, report.findings
    for level in report.levels:
        assert level.psnr > level.psnr_noisy
        if 0.02 <= level.sigma <= 0.5:
            assert level.tweedie == pytest.approx(1, abs=0.15)
            assert level.removed == pytest.approx(level.expected, abs=0.05)
            assert level.slope == pytest.approx(1, abs=0.1)
            assert level.psnr > level.psnr_baseline - 0.3


def test_what_denoises_nothing_is_suspicious_though_no_convention_explains_it() -> None:
    report = checked(around(lambda x, s: x))
    assert not report.fine
    assert report.mistake == ""
    assert "no other convention" in report.verdict()
    assert any("Gaussian blur does better" in words for words in report.findings)
    random = checked(around(lambda x, s: torch.zeros_like(x)))
    assert any("farther from the truth than its input" in words for words in random.findings)
    faint = checked(around(lambda x, s: 0.5 * PRIOR(x, s) + 0.1))
    assert any("contrast" in words for words in faint.findings)
    assert any("off on average" in words for words in faint.findings)


def test_an_error_that_its_own_derivative_does_not_explain_is_suspicious_by_itself() -> None:
    """D(x) that knows the truth otherwise than from x: much nearer to it than it follows x, or farther."""
    pattern = 0.02 * (torch.arange(8) % 2 - 0.5).expand(SHAPE)

    def leaning(x: Tensor, s: Any) -> Tensor:
        truth = PICTURES[: len(x)]
        return truth + 0.1 * (PRIOR(x, s) - truth)

    def stiff(x: Tensor, s: Any) -> Tensor:
        truth = PICTURES[: len(x)]
        return truth + pattern + 0.001 * (x - truth)

    for function in (leaning, stiff):
        (finding,) = checked(around(function)).findings
        assert "what its own derivative says" in finding


def test_on_pictures_of_another_kind_only_what_is_gross_is_found_and_nothing_certified() -> None:
    """A prior of bright smooth pictures, on dark ones of noise."""
    other = 0.1 * torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(5))
    right = dressed(EDM(), EDM())
    assert not check_prior(right, other, batch=16).fine
    report = check_prior(right, other, own_kind=False, batch=16)
    assert report.fine
    assert not report.judged
    assert "cannot be judged" in report.verdict()
    assert "behaves" not in report.verdict()
    gross = check_prior(dressed(VP(), EDM()), other, own_kind=False, batch=16)
    assert gross.mistake == ""
    assert any("in another convention" in words for words in gross.findings)
    assert gross.findings[0] in gross.verdict()
    unbounded = check_prior(around(lambda x, s: x), other, own_kind=False, batch=16)
    assert any("farther from the truth than any picture" in words for words in unbounded.findings)
    nan = check_prior(around(lambda x, s: x * float("nan")), other, own_kind=False, batch=16)
    assert nan.findings[0].startswith("D is not finite")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"channels": None}, True),
        ({"channels": 1}, False),
        ({"size": 32}, False),
        ({"classes": 2}, False),
    ],
)
def test_photographs_are_the_kind_of_colour_priors_of_any_size(
    changes: dict[str, Any], expected: bool
) -> None:
    assert is_of_photographs(dataclasses.replace(CARD, **changes)) is expected


def test_a_denoiser_that_answers_nan_or_cannot_be_evaluated_is_said_so() -> None:
    report = checked(around(lambda x, s: x * float("nan")))
    sigmas = ", ".join(f"{at.sigma:g}" for at in report.levels)
    assert report.findings == (f"D is not finite at σ = {sigmas}",)
    assert report.findings[0] in report.verdict()
    above = s_above(0.3)
    found = checked(around(lambda x, s: torch.where(above(s), x * float("inf"), PRIOR(x, s)))).findings
    assert found[0] == "D is not finite at σ = 0.5, 1, 3, 10"
    assert all(words for words in found)

    def broken(x: Tensor, s: Any) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(InvdiffError, match="cannot be evaluated: mat1"):
        checked(around(broken))


def test_pictures_must_be_the_priors() -> None:
    with pytest.raises(RequestError, match="expected 3 channels, got 1"):
        check_prior(around(PRIOR), PICTURES[:, :1])
    with pytest.raises(RequestError, match="divide by 255"):
        check_prior(around(PRIOR), PICTURES * 255)
    with pytest.raises(RequestError, match="N, C, H, W"):
        check_prior(around(PRIOR), PICTURES[0])


def test_the_report_is_json_and_counts_up() -> None:
    import json

    seen: list[tuple[int, int]] = []
    report = check_prior(PRIOR, PICTURES, callback=lambda done, total: seen.append((done, total)))
    document = json.loads(json.dumps(report.as_dict()))
    assert document["fine"] is True
    assert document["levels"][0]["sigma"] == report.levels[0].sigma
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]


def test_every_convention_has_words_of_its_own() -> None:
    for precondition in (EDM(), VP(), VE(), Flow()):
        words = [w for w, _ in conventions(dressed(precondition, precondition))]
        assert len(words) == len(set(words))
        assert len(words) > 10


@pytest.mark.parametrize(("channels", "size"), [(3, None), (1, 28)])
def test_pictures_are_photographs_or_a_folders_of_the_priors_shape(
    channels: int, size: int | None, tmp_path: Path
) -> None:
    card = dataclasses.replace(CARD, channels=channels, size=size)
    photographs = pictures_for(card, count=2)
    assert photographs.shape == (2, channels, size or 48, size or 48)
    assert 0 <= photographs.min() < photographs.max() <= 1
    Image.fromarray(np.full((40, 90, 3), 51, np.uint8)).save(tmp_path / "a.png")
    own = pictures_for(card, tmp_path, side=32)
    assert own.shape[1:] == (channels, size or 32, size or 32)
    torch.testing.assert_close(own, torch.full_like(own, 0.2), rtol=0, atol=1e-6)
    (tmp_path / "none").mkdir()
    with pytest.raises(RequestError, match="no pictures in this folder"):
        pictures_for(card, tmp_path / "none")
