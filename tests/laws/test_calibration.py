"""Law 3: the 50, 80 and 95 % credible intervals hold the truth that often, or as often as the table says."""

from __future__ import annotations

import pytest
import torch
from problems import SHAPE, Draws, operator_of, prior_for, prior_of, random
from tolerances import CALIBRATED, Coverage
from torch import Tensor

from invdiff.evaluation.calibration import coverage
from invdiff.likelihood import Measurement
from invdiff.methods import METHODS, Problem, sample
from invdiff.operators import Mask

LEVELS = (0.5, 0.8, 0.95)
SAMPLES = 9


def drawn(row: Coverage) -> tuple[Tensor, Tensor]:
    """(SAMPLES, truths, n) of draws of the prior measured, and the draws; what is known exactly left out."""
    prior, op = prior_of(row.prior), operator_of(row.operator)
    truths = prior.sample((row.truths, *SHAPE), torch.Generator().manual_seed(21))
    clean = op.A(truths)
    y = clean + row.sigma_y * random(*clean.shape, seed=22)
    rows = [*range(row.truths)] * SAMPLES
    walked = prior_for(row.method, prior, op, y, row.sigma_y, rows)
    problem = Problem(walked, Measurement(y, op, row.sigma_y).pick(rows))
    x = sample(row.method, problem, Draws(SAMPLES * row.truths, 23)).view(SAMPLES, row.truths, -1)
    unknown = slice(None)
    if isinstance(op, Mask) and row.sigma_y == 0:
        unknown = ~op.keep.flatten()  # type: ignore[assignment]
    return x[..., unknown], truths.flatten(1)[:, unknown]


@pytest.mark.parametrize("row", CALIBRATED, ids=lambda row: row.id)
def test_credible_intervals_hold_the_truth_as_often_as_they_should_or_as_recorded(row: Coverage) -> None:
    samples, truths = drawn(row)
    for level, share in zip(LEVELS, row.shares, strict=True):
        found, error = coverage(samples, truths, level)
        assert abs(found - share) < max(3 * error, 0.005), (level, found, error)


def test_every_method_is_calibrated_or_has_its_coverage_recorded() -> None:
    assert {row.method.info.name for row in CALIBRATED} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_marked_exact_is_held_to_the_levels_themselves(name: str) -> None:
    exact = [row for row in CALIBRATED if row.method.info.name == name and row.exact]
    assert bool(exact) == (not METHODS[name].info.exact.startswith("no"))
    assert all(row.shares == LEVELS for row in exact)
