"""Moments without sampling: right where steps are affine, refused where they are not."""

from __future__ import annotations

import problems
import pytest
import torch

from invdiff.evaluation.distances import moment_errors
from invdiff.evaluation.moments import sampled
from invdiff.methods import DPS, MALA, MMPS, DiffPIR, Method, PiGDM, RedDiff


@pytest.mark.parametrize(
    "method",
    [
        DPS(steps=5),
        MMPS(steps=5),
        RedDiff(steps=5),
        MALA(steps=5),
        PiGDM(steps=5, integrator="predictor_corrector"),
    ],
    ids=lambda method: method.info.name,
)
def test_a_step_that_is_not_affine_is_refused(method: Method) -> None:
    known = problems.known("correlated", "mask", 0.05)
    with pytest.raises(ValueError, match="sample it instead"):
        sampled(method, known.prior, known.operator, known.y, 0.05)


@pytest.mark.parametrize(
    "method",
    [PiGDM(steps=12), PiGDM(steps=12, integrator="dpmpp_2m"), DiffPIR(steps=12, jump=3, repeats=2)],
    ids=["ancestral", "carried", "travel"],
)
def test_moments_are_those_of_samples(method: Method) -> None:
    known = problems.known("correlated", "mask", 0.05)
    samples = problems.draw(method, known, 20_000)
    found = sampled(method, known.prior, known.operator, known.y, 0.05)
    mean, covariance = moment_errors((samples.mean(0), torch.cov(samples.T)), found)
    assert mean < 0.02
    assert covariance < 0.03
