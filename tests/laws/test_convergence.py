"""Laws 2 and 7: orders of convergence of the integrators, SMC in its particles, Langevin in its size and steps."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from problems import SHAPE, SIGMA_Y, draw, known, prior_of, random
from torch import Tensor

from invdiff.evaluation.distances import moment_errors
from invdiff.evaluation.moments import sampled
from invdiff.methods import MALA, SMC, ULA, Method, Unconditional, grid, integrator
from invdiff.priors.analytic import GaussianPrior
from invdiff.priors.exact import exact_posterior


def flow(spec: str, steps: int) -> Tensor:
    """Twenty states of the mixture's probability-flow ODE at σ = .05, begun at the same ones at σ = 2."""
    prior, solver = prior_of("mixture"), integrator(spec)
    x, carry = 0.5 + 2 * random(20, *SHAPE, seed=1), None
    levels = grid.log_uniform(steps + 1, 2.0, 0.05)[:-1]
    for sigma, s in pairwise(levels):
        x, carry = solver.step(prior, x, sigma, s, lambda: torch.zeros(20, *SHAPE), carry)  # type: ignore[arg-type]
    return x


@cache
def solution() -> Tensor:
    return flow("heun", 2000)


@pytest.mark.parametrize(("spec", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_on_the_ode_of_a_mixture_each_solver_has_its_order(spec: str, order: int) -> None:
    gone = [float((flow(spec, steps) - solution()).norm()) for steps in (40, 80, 160)]
    for coarse, fine in pairwise(gone):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def drift_of(spec: str, steps: int) -> float:
    """The covariance's error of unconditional samples of the correlated Gaussian."""
    at = known("correlated", "identity")
    levels = grid.log_uniform(steps, 20.0, 1e-3)
    found = sampled(Unconditional(integrator=spec), at.prior, at.operator, at.y, SIGMA_Y, levels=levels)
    mean = torch.full((16,), 0.4, dtype=torch.float64)
    return moment_errors(found, (mean, at.prior.covariance_times(torch.eye(16, dtype=torch.float64))))[1]  # type: ignore[union-attr]


@pytest.mark.parametrize("spec", ["euler_maruyama", "euler_maruyama:vp", "ancestral", "ddim:0.5", "euler"])
def test_the_weak_error_in_the_covariance_falls_as_one_over_steps(spec: str) -> None:
    coarse, fine = drift_of(spec, 100), drift_of(spec, 200)
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.1)


def blurred(sigma: float) -> GaussianPrior:
    """The correlated prior as Langevin at σ = sigma_min sees it."""
    unit = torch.eye(16, dtype=torch.float64)
    prior = prior_of("correlated")
    assert isinstance(prior, GaussianPrior)
    return GaussianPrior.correlated(0.4, prior.covariance_times(unit) + sigma**2 * unit)


def langevin(size: float, sigma_min: float, stay: int) -> tuple[Tensor, Tensor]:
    """ULA's moments with `stay` steps at its last level."""
    at = known("correlated", "identity", 0.1)
    levels = [*grid.log_uniform(30, 1.0, sigma_min)[:-1], *[sigma_min] * stay, 0.0]
    method = ULA(size=size, sigma_min=sigma_min)
    return sampled(method, at.prior, at.operator, at.y, 0.1, levels=levels)


def test_ula_has_a_bias_of_first_order_in_its_size_and_none_in_the_mean() -> None:
    at = known("correlated", "identity", 0.1)
    aim = exact_posterior(blurred(0.05), at.operator, at.y, 0.1)
    gone = []
    for size in (0.2, 0.1, 0.05):
        mean, covariance = moment_errors(langevin(size, 0.05, int(400 / size)), (aim.mean, aim.covariance))
        assert mean < 1e-9
        gone.append(covariance)
    assert gone[0] < 0.03
    assert [gone[0] / gone[1], gone[1] / gone[2]] == pytest.approx([2, 2], abs=0.1)


def test_ula_converges_to_the_posterior_as_its_size_and_blur_fall() -> None:
    exact = known("correlated", "identity", 0.1).moments
    gone = [
        max(moment_errors(langevin(size, sigma, stay), exact))
        for size, sigma, stay in ((0.2, 0.1, 1000), (0.1, 0.03, 5000), (0.05, 0.01, 60000))
    ]
    assert gone[0] > 3 * gone[1] > 9 * gone[2]
    assert gone[2] < 0.01


def test_ula_forgets_its_start_in_steps_at_the_rate_of_its_slowest_direction() -> None:
    """|1 − h·λ| a step, λ the least precision of the posterior of the blurred prior, h = size/(1/σ² + 1/σ_y²)."""
    at, size, sigma = known("correlated", "identity", 0.1), 0.1, 0.05
    aim = exact_posterior(blurred(sigma), at.operator, at.y, 0.1)
    gone = [float((langevin(size, sigma, stay)[0] - aim.mean).norm()) for stay in (600, 700)]
    h = size / (1 / sigma**2 + 1 / 0.1**2)
    slowest = float(torch.linalg.eigvalsh(aim.covariance)[-1])
    assert 1 - (gone[1] / gone[0]) ** (1 / 100) == pytest.approx(h / slowest, rel=0.03)


def test_mala_has_no_bias_at_a_size_where_that_of_ula_is_plain() -> None:
    at, size, sigma = known("correlated", "identity", 0.1), 0.9, 0.05
    aim = exact_posterior(blurred(sigma), at.operator, at.y, 0.1)
    method = MALA(steps=250, size=size, sigma_min=sigma, sigma_max=0.2)
    x = draw(method, at, 4000)
    trace = float(x.T.cov().trace() / aim.covariance.trace())
    plain = langevin(size, sigma, 1000)[1]
    assert float(plain.trace() / aim.covariance.trace()) > 1.1
    assert trace == pytest.approx(1, abs=0.015)
    assert moment_errors((x.mean(0), x.T.cov()), (aim.mean, aim.covariance))[0] < 0.04


def far(method: Method, prior: str, operator: str, sigma_y: float, samples: int) -> tuple[float, float]:
    at = known(prior, operator, sigma_y)
    x = draw(method, at, samples)
    return moment_errors((x.mean(0), x.T.cov()), at.moments)


def smc(particles: int) -> SMC:
    """With a τ that is far from the prior's, so that the proposal alone is plainly biased."""
    return SMC(particles=particles, tau=0.6, steps=60, sigma_max=2.0, sigma_min=0.02)


def test_smc_converges_in_particles_where_its_proposal_is_biased() -> None:
    """The mean; of the covariance's error most is Monte-Carlo error and, as 1/steps, that of ancestral steps."""
    gone = [far(smc(particles), "correlated", "mask", 0.05, 800) for particles in (1, 4, 16)]
    assert gone[0][0] > 1.8 * gone[1][0] > 2.5 * gone[2][0]
    assert gone[2][0] < 0.06
    assert gone[0][1] > 1.4 * gone[2][1]


def test_smc_finds_the_weights_of_a_mixtures_modes_as_particles_grow() -> None:
    at = known("mixture", "mask", 0.2)
    gone = []
    for particles in (1, 4, 16):
        found = at.posterior.modes(draw(smc(particles), at, 800))
        gone.append(float((found - at.posterior.weights).abs().sum() / 2))
    assert gone[0] > 2 * gone[1] > 4 * gone[2]
    assert gone[2] < 0.03


def test_smc_has_the_covariance_too_as_its_steps_grow() -> None:
    def missing(steps: int) -> float:
        at = known("correlated", "mask", 0.05)
        method = SMC(particles=4, steps=steps, sigma_max=2.0, sigma_min=0.02)
        return 1 - float(draw(method, at, 2000).T.cov().trace() / at.moments[1].trace())

    assert missing(20) > 0.12
    assert abs(missing(150)) < 0.035
