"""Law 5: every method equals its paper's algorithm, written out in the paper's coordinates (support/papers.py).

The problem is small and correlated, its mean varies from pixel to pixel, two images go together, and both sides draw
the same noise. Where ours departs from a paper the transcription says so.
"""

from __future__ import annotations

import papers
import pytest
import torch

from invdiff.methods import DDNM, METHODS, SMC, Method, smc
from invdiff.methods.loop import sample

PAPERS = papers.make_papers()


@pytest.mark.parametrize("name", PAPERS)
def test_a_method_equals_its_papers_algorithm(name: str) -> None:
    torch.testing.assert_close(PAPERS[name].ours(), PAPERS[name].literal, rtol=1e-10, atol=1e-10)


def test_every_method_has_its_paper_written_out() -> None:
    assert {name.partition(",")[0] for name in PAPERS} == set(METHODS)
    assert all(METHODS[name.partition(",")[0]] is type(paper.method) for name, paper in PAPERS.items())


def test_the_start_is_the_published_one_in_variance_preserving_coordinates() -> None:
    """u_T ~ N(0, I) on [-1, 1], where the data's mean is ½ and their standard deviation ½ in image units."""
    case = PAPERS["pigdm"].case
    start = PAPERS["pigdm"].method.start(case.problem, case.levels[0], papers.Draws())
    torch.testing.assert_close(
        case.kept[-1].sqrt() * (2 * start - 1), papers.Draws()(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", ["dps", "pigdm", "ddnm, as printed", "ilvr", "mcg"])
def test_a_transcription_is_ddpm_where_the_measurement_says_nothing(name: str) -> None:
    """Without guidance each is Ho et al. 2020's algorithm 2."""
    case = PAPERS[name].case
    silent = papers.Case(case.operator, case.sigma_y)
    nothing = {"A": torch.zeros_like(case.A), "inverse": torch.zeros_like(case.inverse)}
    vars(silent).update(nothing, wanted=case.wanted)
    noise, u = papers.Draws(), papers.Draws().flat()
    noise.flat()
    for t in silent.down:
        u = silent.posterior(u, silent.clean(u, t), t, noise.flat())
        if name in ("ilvr", "mcg"):
            noise.flat()
    found = PAPERS[name].algorithm(silent, papers.Draws())
    torch.testing.assert_close(found, u, rtol=1e-10, atol=1e-10)


def test_ddnm_departs_from_its_released_step_in_the_direction_alone_that_is_kept_of_the_noise() -> None:
    """Released: x̂ + √(1−η²)·s·(x − D)/σ + …, the network's own ε; ours: (x − x̂)/σ, as in algorithm 1 and DDIM.

    They differ where y was measured, by √(1−η²)·s/σ of the correction, so not at η = 1, nor in the null space of A.
    """
    case = PAPERS["ddnm"].case

    def both(eta: float, levels: list[float]) -> torch.Tensor:
        ours = sample(DDNM(eta=eta), case.problem, papers.Draws(), levels=levels)  # type: ignore[arg-type]
        return (2 * ours - 1).flatten(1) - papers.ddnm_released(eta)(case, papers.Draws())

    assert both(1.0, case.levels).abs().max() < 1e-12
    assert both(0.7, case.levels).abs().max() > 1e-3


def test_the_particles_of_the_transcription_are_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its weights would not be tested."""
    drawn: list[bool] = []
    places = smc._places

    def seen(log_w: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        found = places(log_w, points)
        drawn.append(len(points) > 1 and bool((1 / log_w.softmax(0).square().sum(0) < 1.5).any()))
        return found

    monkeypatch.setattr(smc, "_places", seen)
    assert isinstance(PAPERS["smc"].method, SMC)
    PAPERS["smc"].ours()
    assert any(drawn)


def test_a_method_that_is_not_the_papers_is_told_apart() -> None:
    """The comparison can fail: every method but its own gives another picture."""
    paper = PAPERS["pigdm"]
    others: list[Method] = [PAPERS[name].method for name in ("tmpd", "diffpir", "dps", "ilvr")]
    assert all(paper.error(other) > 1e-3 for other in others)
