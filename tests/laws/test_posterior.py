"""Law 2: every method against the exact posterior, to the distance that tests/support/tolerances.py states."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from problems import OPERATORS, SHAPE, Draws, draw, known, prior_for
from tolerances import MOMENTS, SAMPLED, Row
from torch import Tensor

import invdiff
from invdiff import catalog
from invdiff.evaluation.distances import moment_errors, sliced_wasserstein
from invdiff.evaluation.moments import sampled
from invdiff.likelihood import Measurement
from invdiff.methods import METHODS, MMPS, SR3, TMPD, Ancestral, Method, PiGDM, Problem, sample
from invdiff.methods.sr3 import REACH
from invdiff.operators import Mask
from invdiff.priors import ExactConditional
from invdiff.restore import abilities


def errors(method: Method, prior: str, operator: str, sigma_y: float) -> tuple[float, float]:
    at = known(prior, operator, sigma_y)
    walked = prior_for(method, at.prior, at.operator, at.y, sigma_y)
    return moment_errors(sampled(method, walked, at.operator, at.y, sigma_y), at.moments)


def moments_of(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov()


@pytest.mark.parametrize("row", MOMENTS, ids=lambda row: row.id)
def test_affine_methods_keep_their_recorded_distance_to_a_gaussian_posterior(row: Row) -> None:
    found = errors(row.method, row.prior, row.operator, row.sigma_y)
    assert found == pytest.approx((row.mean, row.covariance), rel=0, abs=row.tolerance)


@pytest.mark.parametrize("row", SAMPLED, ids=lambda row: row.id)
def test_the_others_keep_it_within_monte_carlo_error(row: Row) -> None:
    at = known(row.prior, row.operator, row.sigma_y)
    x = draw(row.method, at, row.samples)
    assert x.isfinite().all()
    found = moment_errors(moments_of(x), at.moments)
    assert found == pytest.approx((row.mean, row.covariance), rel=0, abs=row.tolerance)


def test_every_method_has_a_row_and_another_for_exact_measurements_if_it_takes_them() -> None:
    rows = [*MOMENTS, *SAMPLED]
    assert {row.method.info.name for row in rows} == set(METHODS)
    noiseless = {row.method.info.name for row in rows if row.sigma_y == 0}
    assert noiseless == set(METHODS) - {"ancestral"}


@pytest.mark.parametrize("name", METHODS)
def test_methods_said_to_be_exact_and_no_others_have_a_row_marked_exact(name: str) -> None:
    exact = [row for row in (*MOMENTS, *SAMPLED) if row.method.info.name == name and row.exact]
    said = METHODS[name].info.exact
    assert bool(exact) == (not said.startswith("no"))
    assert {row.prior for row in exact} <= (
        {"white"} if "white" in said else {"white", "correlated", "mixture"}
    )


@pytest.mark.parametrize(
    "row", [row for row in MOMENTS if row.exact and row.method.info.name != "ula"], ids=lambda row: row.id
)
def test_what_is_exact_in_the_limit_is_there_to_one_percent_within_eighty_steps_of_heun(row: Row) -> None:
    assert max(row.mean, row.covariance) <= 0.01
    assert row.method.info.name == "ancestral" or (row.method.steps == 80 and row.method.integrator == "heun")  # type: ignore[attr-defined]


# Ancestral steps forget part of the variance, in proportion to 1/steps; the mean they get right.
ANCESTRAL: list[tuple[type[Method], dict[str, int], str, str]] = [
    *((MMPS, {}, "white", operator) for operator in ("mask", "blur", "reflected blur")),
    *((PiGDM, {}, "white", operator) for operator in ("mask", "blur", "downsample", "matrix")),
    (TMPD, {}, "white", "mask"),
    *((MMPS, {"iterations": 7}, "correlated", operator) for operator in ("mask", "sensing", "blur and reduction")),
    (MMPS, {"iterations": 9}, "correlated", "weights"),
    *((SR3, {}, "correlated", operator) for operator in ("mask", "blur", "matrix", "stack")),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings", "prior", "operator"), ANCESTRAL)
def test_by_ancestral_steps_the_mean_is_exact_and_the_covariance_converges_as_one_over_steps(
    method: type[Method], settings: dict[str, int], prior: str, operator: str
) -> None:
    (coarse_mean, coarse), (fine_mean, fine) = (
        errors(method(steps=steps, sigma_min=1e-3, **settings), prior, operator, 0.05) for steps in (40, 80)
    )
    assert max(coarse_mean, fine_mean) < 2e-3
    assert fine < 0.13
    assert 1.75 < coarse / fine < 2.1


def test_denoising_by_ancestral_steps_is_exact_in_the_mean_and_converges_in_covariance() -> None:
    (coarse_mean, coarse), (fine_mean, fine) = (
        errors(Ancestral(steps=k, sigma_min=1e-4), "correlated", "identity", 0.05) for k in (40, 80)
    )
    assert max(coarse_mean, fine_mean) < 1e-3
    assert fine < 0.11
    assert 1.7 < coarse / fine < 2.1


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("prior", ["white", "correlated"])
def test_a_network_that_sees_y_as_it_should_has_the_posterior_under_every_operator(
    prior: str, operator: str
) -> None:
    mean, covariance = errors(
        SR3(integrator="heun", steps=32, sigma_max=50.0, sigma_min=1e-3), prior, operator, 0.05
    )
    assert mean < 0.01
    assert covariance < 0.06


@pytest.mark.parametrize("sigma_y", [0.0, 0.2])
def test_and_of_a_mixture_as_steps_grow(sigma_y: float) -> None:
    """Sliced Wasserstein, in posterior standard deviations; what exact draws score is Monte-Carlo error."""
    at = known("mixture", "mask", sigma_y)
    spread = float(at.posterior.covariance.diagonal().mean().sqrt())

    def distance(x: Tensor) -> float:
        generator = torch.Generator().manual_seed(6)
        return sliced_wasserstein(x, at.posterior.sample(len(x), generator), generator=generator) / spread

    floor = distance(at.posterior.sample(3000, torch.Generator().manual_seed(5)))
    coarse, fine = (distance(draw(SR3(steps=steps), at, 3000)) for steps in (5, 80))
    assert coarse > 3 * floor
    assert fine < 1.5 * floor
    x = draw(SR3(steps=80), at, 3000)
    assert (at.posterior.modes(x) - at.posterior.weights).abs().max() < 0.03


@pytest.mark.parametrize("name", ["downsample", "reflected blur", "matrix", "sensing"])
@pytest.mark.parametrize("prior", ["correlated", "mixture"])
def test_consistency_changes_nothing_where_d_agrees_with_y_already(prior: str, name: str) -> None:
    """A D = y of the exact conditional denoiser; a prior that sees another y is brought back to this one."""
    at = known(prior, name, 0.0)

    def run(y: Tensor, consistency: bool) -> Tensor:
        sees = ExactConditional(at.prior).seeing(y, at.operator)
        measurement = Measurement(at.y, at.operator, 0.0).pick([0] * 3)
        return sample(SR3(steps=10, consistency=consistency), Problem(sees, measurement), Draws(3, 0))

    torch.testing.assert_close(run(at.y, True), run(at.y, False), rtol=0, atol=1e-8)
    other = at.y + 0.1 * at.operator.A(torch.ones(1, *SHAPE, dtype=torch.float64))
    off = [float((at.operator.A(run(other, on)) - at.y).abs().max()) for on in (False, True)]
    assert off[0] > 0.05
    assert off[1] < 1e-8


def test_a_walk_from_what_the_prior_lies_around_has_the_posterior_too() -> None:
    """A centre that is a standard deviation off, and modes wider than the pixels: the shortened walk hides both."""
    at = known("correlated", "downsample", 0.05)
    sees = ExactConditional(at.prior).seeing(at.y, at.operator, 0.05)
    std = float(at.posterior.covariance.diagonal().mean().sqrt())

    class Around:
        card = dataclasses.replace(sees.card, data_std=std)
        centre = at.posterior.mean.view(1, *SHAPE) + std

        def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return sees(x, sigma)

    around = Around()
    assert REACH * std < 50
    measurement = Measurement(at.y, at.operator, 0.05)
    problem = Problem(around, measurement)
    assert SR3(sigma_max=50.0).levels(problem)[0] == pytest.approx(REACH * std)
    assert SR3(sigma_max=0.5 * REACH * std).levels(problem)[0] == pytest.approx(0.5 * REACH * std)
    many = Problem(around, measurement.pick([0] * 4000))
    method = SR3(integrator="heun", steps=40, sigma_max=50.0, sigma_min=1e-3)
    x = sample(method, many, Draws(4000, 0)).flatten(1)
    assert ((x.mean(dim=0) - at.posterior.mean).square().mean().sqrt() / std) < 0.06
    ratio = torch.cov(x.T).diagonal() / at.posterior.covariance.diagonal()
    assert (ratio - 1).abs().max() < 0.1


def test_denoising_in_one_step_gives_the_posterior_mean() -> None:
    assert errors(Ancestral(steps=1), "correlated", "identity", 0.05)[0] < 1e-12


def test_restore_gives_the_samples_that_the_laws_are_about() -> None:
    at = known("correlated", "mask", 0.05)
    result = invdiff.restore(
        at.y, at.operator, at.prior, method=PiGDM(steps=50), sigma_y=0.05, samples=1500, batch=1500
    )
    row = next(row for row in MOMENTS if row.method == PiGDM(steps=50) and row.operator == "mask")
    found = moment_errors(moments_of(result.samples.flatten(1)), at.moments)
    assert found == pytest.approx((row.mean, row.covariance), rel=0, abs=0.05)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ancestral"])
def test_exact_measurements_are_finite_and_agreed_with_as_far_as_their_floor(name: str) -> None:
    at = known("correlated", "mask", 0.0)
    assert catalog.METHODS[name].accepts(abilities(at.operator), 0.0)
    assert isinstance(at.operator, Mask)
    method = METHODS[name](steps=12) if name != "repaint" else METHODS[name](steps=12, jump=3)
    x = draw(method, at, 20).view(20, *SHAPE)
    assert x.isfinite().all()
    assert torch.equal(at.operator.A(x), at.y.expand(20, *at.y.shape[1:]))
