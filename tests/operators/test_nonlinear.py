"""Clipped and rounded values: against numbers worked out by hand, and prox against a dense search."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch
from examples import random
from torch import Tensor

from invdiff import operators
from invdiff.operators import ProximalOperator

WEIGHTS = [0.02, 0.3, 1.0, 4.0, 100.0, inf]


def row(*values: float) -> Tensor:
    """An image of one row."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def make(kind: str, n: int) -> ProximalOperator:
    """Each kind for n pixels in a row."""
    shape = (1, 1, n)
    options: dict[str, Callable[[], ProximalOperator]] = {
        "clip ½": lambda: operators.Clip(shape, 0.5),
        "clip 2": lambda: operators.Clip(shape),
        "clip 7": lambda: operators.Clip(shape, 7.0),
        "1 bit": lambda: operators.Quantize(shape, 1),
        "2 bits": lambda: operators.Quantize(shape, 2),
        "5 bits": lambda: operators.Quantize(shape, 5),
    }
    return options[kind]()


every = pytest.mark.parametrize("kind", ["clip ½", "clip 2", "clip 7", "1 bit", "2 bits", "5 bits"])


# ---------------------------------------------------------------------------------------------------- prox


@every
@pytest.mark.parametrize("weight", WEIGHTS)
def test_no_number_of_a_dense_search_costs_less_than_the_prox(kind: str, weight: float) -> None:
    """The misfit counts first where the weight is infinite. y is noisy: no number that A could give."""
    n, d, step = 100, 1 / weight, 2e-4
    op, candidates = make(kind, n), torch.arange(-2.5, 3.5, step, dtype=torch.float64)
    measured = make(kind, len(candidates)).A(candidates.view(1, 1, 1, -1)).flatten()
    z, y = 0.5 + 0.8 * random(1, 1, 1, n), 0.5 + 0.4 * random(1, 1, 1, n, seed=1)
    x = op.prox(z, y, weight)
    away = (candidates[:, None] - z.flatten()).abs()
    costs = d * away.square() + (measured[:, None] - y.flatten()).square()
    ours = d * (x - z).flatten().square() + (op.A(x) - y).flatten().square()
    assert (ours <= costs.min(0).values + 1e-12).all()
    if weight == inf:
        fits = costs <= ours + (7 * step) ** 2  # a step of the search, at the largest gain
        assert fits.any(0).all()
        assert ((x - z).flatten().abs() <= away.where(fits, inf).min(0).values + 14 * step).all()


@every
def test_an_infinite_weight_gives_an_x_that_measures_y_and_keeps_one_that_does(kind: str) -> None:
    op, x, z = make(kind, 300), 0.5 + 0.5 * random(1, 1, 1, 300), random(1, 1, 1, 300, seed=1)
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        y = op.A(x.to(dtype))
        assert (op.A(op.prox(z.to(dtype), y, inf)) - y).abs().max() <= tolerance
        assert (op.prox(x.to(dtype), y, inf) - x).abs().max() <= tolerance


@every
def test_a_weight_for_each_sample_and_single_precision_give_the_same_prox(kind: str) -> None:
    op, weights = make(kind, 50), torch.tensor(WEIGHTS, dtype=torch.float64)
    z, y = 0.5 + 0.8 * random(6, 1, 1, 50), 0.5 + 0.4 * random(6, 1, 1, 50, seed=1)
    x, single = op.prox(z, y, weights), op.prox(z.float(), y.float(), weights)
    for i, weight in enumerate(WEIGHTS):
        assert torch.equal(op.prox(z[i : i + 1], y[i : i + 1], weight), x[i : i + 1])
    assert single.dtype == torch.float32
    assert (single - x).abs().max() < 1e-5


# ---------------------------------------------------------------------------------------------------- clip


def test_clip_raises_contrast_about_middle_grey_and_loses_the_ends() -> None:
    y = operators.Clip((1, 1, 6)).A(row(-1, 0.2, 0.25, 0.4, 0.8, 2))
    assert torch.allclose(y, row(0, 0, 0, 0.3, 1, 1), atol=1e-15)


def test_clip_is_the_fields_hdr_operator_on_its_own_range() -> None:
    x = random(2, 3, 4, 5)
    theirs = (2 * x).clamp(-1, 1)  # DAPS, RED-diff
    assert torch.allclose(2 * operators.Clip((3, 4, 5)).A((x + 1) / 2) - 1, theirs, atol=1e-14)


def test_the_derivative_of_clip_is_its_gain_and_none_where_it_is_saturated() -> None:
    x = row(-1, 0.1, 0.4, 0.6, 0.9, 2).requires_grad_()
    (slope,) = torch.autograd.grad(operators.Clip((1, 1, 6), 2.5).A(x).sum(), x)
    assert torch.equal(slope, row(0, 0, 2.5, 2.5, 0, 0))


def test_the_likelihood_of_clip_has_the_gradient_of_finite_differences() -> None:
    op, x, y = operators.Clip((2, 4, 3), 3.0), 0.5 + 0.2 * random(1, 2, 4, 3), random(1, 2, 4, 3, seed=1)
    edge, h = (3 * (x - 0.5)).abs() - 0.5, 1e-5
    assert edge.abs().min() > 10 * h  # no kink within reach
    assert (edge > 0).any()

    def misfit(v: Tensor) -> Tensor:
        return (y - op.A(v)).square().flatten(1).sum(1) / 2

    (slope,) = torch.autograd.grad(misfit(x.requires_grad_()).sum(), x)
    steps = h * torch.eye(24, dtype=torch.float64).view(24, 2, 4, 3)
    assert torch.allclose(slope.flatten(), (misfit(x + steps) - misfit(x - steps)) / (2 * h), atol=1e-9)


# ------------------------------------------------------------------------------------------------ quantise


def test_quantize_gives_the_nearest_of_its_levels() -> None:
    y = operators.Quantize((1, 1, 7), 2).A(row(-0.4, 0.1, 0.2, 0.49, 0.51, 0.9, 1.7))
    assert torch.allclose(y, row(0, 0, 1, 1, 2, 3, 3) / 3, atol=1e-15)
    x = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for bits in (1, 8, 16):
        y = operators.Quantize((3, 9, 9), bits).A(x)
        assert (y * (2**bits - 1) - (y * (2**bits - 1)).round()).abs().max() < 1e-9
        assert (y - x).abs().max() <= 0.5 / (2**bits - 1) + 1e-12


def test_eight_bits_are_those_of_an_image_file() -> None:
    x = torch.arange(256, dtype=torch.float64).view(1, 1, 16, 16) / 255
    assert torch.equal(operators.Quantize((1, 16, 16), 8).A(x), x)


def test_the_derivative_of_quantize_passes_straight_through_outside_the_range_too() -> None:
    op, x, y = operators.Quantize((1, 1, 5), 3), row(-0.5, 0.01, 0.3, 0.9, 1.5), row(0.2, 0.2, 0.2, 0.2, 0.2)
    (slope,) = torch.autograd.grad((y - op.A(x.requires_grad_())).square().sum() / 2, x)
    assert torch.allclose(slope, op.A(x.detach()) - y, atol=1e-15)
    assert slope[..., 0] < 0 < slope[..., -1]  # both ends are brought back
    assert torch.equal(op.A(x), op.A(x.detach()))
    assert op.surrogate


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_the_interval_of_a_value_is_what_gives_that_value(bits: int) -> None:
    op, x = operators.Quantize((1, 20, 20), bits), 0.5 + 0.6 * random(1, 1, 20, 20)
    y = op.A(x)
    low, high = op.interval(y)
    assert ((low <= x) & (x <= high)).all()
    assert torch.equal(low == -inf, y == 0)
    assert torch.equal(high == inf, y == 1)
    inside = 1e-9
    for edge, beyond in ((low, low - inside), (high, high + inside)):
        finite = edge.isfinite()
        within = edge + (edge - beyond)
        assert torch.equal(op.A(within.where(finite, x)), y)
        assert (op.A(beyond.where(finite, x)) != y)[finite].all()


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "construct, line",
    [
        (lambda: operators.Clip((3, 4, 4), 0), r"^gain: expected a number above 0, got 0; 2 is usual$"),
        (lambda: operators.Clip((3, 4, 4), nan), r"^gain: expected a number above 0, got nan; 2 is usual$"),
        (lambda: operators.Clip((3, 4, 4), inf), r"^gain: expected a number above 0, got inf; 2 is usual$"),
        (lambda: operators.Quantize((3, 4, 4), 0), r"^bits: expected a whole number from 1 to 16, got 0$"),
        (
            lambda: operators.Quantize((3, 4, 4), 2.5),
            r"^bits: expected a whole number from 1 to 16, got 2\.5$",
        ),  # type: ignore[arg-type]
        (lambda: operators.Quantize((3, 4, 4), 17), r"^bits: expected a whole number from 1 to 16, got 17$"),
        (lambda: operators.Quantize((3, 0, 4), 2), r"^shape: expected \(C, H, W\)[^\n]*got \(3, 0, 4\)$"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(construct: Callable[[], Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        construct()


def test_they_describe_themselves_in_one_line() -> None:
    assert repr(operators.Clip((3, 4, 5))) == "Clip(gain 2, 3x4x5)"
    assert repr(operators.Quantize((1, 4, 5), 3)) == "Quantize(3 bits, 1x4x5)"
