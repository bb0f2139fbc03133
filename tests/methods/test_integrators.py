"""Integrators: how they are written, what the papers say they do, and how near they bring samples to a known prior."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from invdiff import catalog, operators
from invdiff.errors import RequestError
from invdiff.evaluation import moments
from invdiff.likelihood import Measurement
from invdiff.methods import INTEGRATORS, METHODS, Guided, Problem, Unconditional, grid, integrator, sample
from invdiff.methods.integrators import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    Integrator,
    PredictorCorrector,
    Renew,
)
from invdiff.priors.analytic import GaussianPrior

N = 3
SHAPE = (1, N, N)
SPECS = [*INTEGRATORS, "ddim:0.5", "heun:churn=0.2", "euler_maruyama:vp", "predictor_corrector:vp"]


def covariance_of(name: str) -> Tensor:
    at = torch.cartesian_prod(torch.arange(N), torch.arange(N)).double()
    return 0.0625 * (
        torch.eye(N * N, dtype=torch.float64) if name == "white" else torch.exp(-torch.cdist(at, at) / 2)
    )


def prior_of(name: str) -> GaussianPrior:
    return (
        GaussianPrior.white(0.5, 0.25)
        if name == "white"
        else GaussianPrior.correlated(0.4, covariance_of(name))
    )


class Draws:
    """The same numbers for everyone who asks in the same order; for some samples of the batch, theirs."""

    def __init__(self, batch: int, shape: tuple[int, ...] = SHAPE, pick: list[int] | None = None) -> None:
        self.batch, self.shape, self.pick = batch, shape, pick
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        draws = torch.randn(self.batch, *(shape or self.shape), generator=self.generator, dtype=torch.float64)
        return draws if self.pick is None else draws[self.pick]

    def uniform(self) -> Tensor:
        return torch.rand(self.batch, generator=self.generator, dtype=torch.float64)


def problem(prior: GaussianPrior, batch: int, shape: tuple[int, int, int] = SHAPE) -> Problem:
    """One whose measurement nobody looks at."""
    y = torch.zeros(batch, *shape, dtype=torch.float64)
    return Problem(prior, Measurement(y, operators.Mask(torch.eye(shape[1]), channels=shape[0]), 1.0))


def state(batch: int = 4, sigma: float = 1.0, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + sigma * torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float64)


def close(a: Tensor, b: Tensor, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


# ------------------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("heun", Heun()),
        ("ddim:0.5", DDIM(eta=0.5)),
        ("ancestral", Ancestral(eta=1.0)),
        ("renew:0.3", Renew(fresh=0.3)),
        ("dpmpp_2m", DPMSolver()),
        ("euler:0.1,churn_max=2", Euler(churn=0.1, churn_max=2.0)),
        ("heun:churn=0.2, churn_noise=1.003", Heun(churn=0.2, churn_noise=1.003)),
        ("euler_maruyama:vp", EulerMaruyama(form="vp")),
        (
            "predictor_corrector:form=vp,corrections=2",
            PredictorCorrector(form="vp", corrections=2, snr=0.16),
        ),
        ("annealed_langevin:corrections=3,size=.05", AnnealedLangevin(corrections=3, size=0.05)),
    ],
)
def test_an_integrator_is_read_as_it_is_written(spec: str, expected: Integrator) -> None:
    assert integrator(spec) == expected


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hun", "Did you mean 'heun'?"),
        ("", "unknown integrator ''"),
        ("heun:chrun=0.1", "unknown key chrun. Did you mean 'churn'?"),
        ("heun:churn=", "expected NAME, NAME:VALUE or NAME:SETTING=VALUE"),
        ("heun:churn=0.1,2", "settings of heun: churn, churn_min, churn_max, churn_noise"),
        ("dpmpp_2m:2", "settings of dpmpp_2m: none"),
        ("heun:churn=much", "churn: expected"),
        ("heun:0.5", "churn: expected S_churn/steps in [0, 0.4142], got 0.5"),
        ("heun:churn_noise=0", "churn_noise: expected a number above 0"),
        ("ddim:1.5", "eta: expected a number in [0, 1], got 1.5"),
        ("ddim:nan", "eta: expected a number in [0, 1]"),
        ("renew:-0.1", "fresh: expected a number in [0, 1]"),
        ("euler_maruyama:form=sub", "form: expected 've' or 'vp'"),
        ("predictor_corrector:corrections=-1", "corrections: expected at least 0"),
        ("predictor_corrector:snr=0", "snr: expected a number between 0 and 1"),
        ("annealed_langevin:0", "corrections: expected at least 1"),
        ("annealed_langevin:size=4", "size: expected a number between 0 and 4"),
    ],
)
def test_what_is_no_integrator_is_refused_in_one_line(spec: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        integrator(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_catalog_lists_the_integrators_and_their_settings_in_order() -> None:
    assert list(catalog.INTEGRATORS) == list(INTEGRATORS)
    for name, info in catalog.INTEGRATORS.items():
        assert info.name == name
        assert info.options == tuple(field.name for field in dataclasses.fields(INTEGRATORS[name]))


@pytest.mark.parametrize("name", catalog.METHODS)
def test_the_catalog_knows_a_methods_settings_its_noise_and_whether_integrators_walk_it(name: str) -> None:
    info, kind = catalog.METHODS[name], METHODS[name]
    assert kind.info is info
    assert set(info.options) == {field.name for field in dataclasses.fields(kind)}
    assert info.any_noise == kind.any_noise
    assert info.guided == issubclass(kind, Guided)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_the_catalog_says_how_often_a_step_evaluates_the_network(name: str) -> None:
    solver, calls = integrator(name), 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return prior_of("white")(x, sigma)

    solver.step(denoise, state(), 1.0, 0.5, Draws(4), None)
    corrections = getattr(solver, "corrections", 0)
    said = {"1": 1, "2": 2, "1 and 1 per correction": 1 + corrections, "1 per correction": corrections}
    assert calls == said[catalog.INTEGRATORS[name].evaluations]


# ------------------------------------------------------------------------------------- what the papers say


def test_ddim_without_noise_is_eulers_step_and_ancestral_is_ddim_with_all_of_it() -> None:
    prior, x = prior_of("correlated"), state()
    for sigma, s in [(2.0, 1.3), (0.4, 0.1), (0.1, 0.0)]:
        euler, _ = Euler().step(prior, x, sigma, s, Draws(4), None)
        ddim, _ = DDIM(eta=0.0).step(prior, x, sigma, s, Draws(4), None)
        close(ddim, euler, 1e-12)
        one, _ = DDIM(eta=1.0).step(prior, x, sigma, s, Draws(4), None)
        ancestral, _ = Ancestral().step(prior, x, sigma, s, Draws(4), None)
        assert torch.equal(one, ancestral)


def test_churn_is_noise_up_to_a_higher_level_and_then_the_same_step_from_there() -> None:
    """Karras et al. 2022, algorithm 2, line by line."""
    prior, x, t, t_next = prior_of("correlated"), state(), 0.8, 0.5
    gamma, s_noise = 0.2, 1.003
    t_hat = t + gamma * t
    x_hat = x + math.sqrt(t_hat**2 - t**2) * s_noise * Draws(4)()
    d = (x_hat - prior(x_hat, t_hat)) / t_hat
    x_next = x_hat + (t_next - t_hat) * d
    d_ahead = (x_next - prior(x_next, t_next)) / t_next
    expected = x_hat + (t_next - t_hat) * (d / 2 + d_ahead / 2)
    found, _ = Heun(churn=gamma, churn_noise=s_noise).step(prior, x, t, t_next, Draws(4), None)
    close(found, expected)
    outside, _ = Heun(churn=gamma, churn_min=0.9).step(prior, x, t, t_next, Draws(4), None)
    close(outside, Heun().step(prior, x, t, t_next, Draws(4), None)[0])


def walked(spec: str, prior: GaussianPrior, walk: list[float], x: Tensor) -> Tensor:
    noise, carry = Draws(len(x)), None
    for sigma, s in pairwise(walk):
        x, carry = integrator(spec).step(prior, x, sigma, s, noise, carry)
    return x


WALK = [5.0, 3.0, 1.5, 0.7, 0.3, 0.1, 0.02]


def test_euler_maruyama_is_the_step_of_the_variance_exploding_sde() -> None:
    """Song et al. 2021, eq. 6 with dx = √(dσ²/dt)·dw (eq. 9): x ← x + (σ² − s²)·∇log p + √(σ² − s²)·z."""
    prior, x = prior_of("correlated"), state(sigma=5.0)
    expected, z = x, Draws(4)
    for sigma, s in pairwise(WALK):
        score = (prior(expected, sigma) - expected) / sigma**2
        expected = expected + (sigma**2 - s**2) * score + math.sqrt(sigma**2 - s**2) * z()
    close(walked("euler_maruyama", prior, WALK, x), expected, 1e-8)


class Preserving:
    """The prior as a variance-preserving network on [-1, 1] sees it: u_i = √ᾱ_i·(2·x₀ − 1) + √(1 − ᾱ_i)·ε."""

    def __init__(self, prior: GaussianPrior, alpha_bar: list[float]) -> None:
        self.prior, self.alpha_bar = prior, alpha_bar

    def sigma(self, i: int) -> float:
        """σ in image units: half of √((1 − ᾱ)/ᾱ)."""
        return math.sqrt((1 - self.alpha_bar[i]) / self.alpha_bar[i]) / 2

    def picture(self, u: Tensor, i: int) -> Tensor:
        return (u / math.sqrt(self.alpha_bar[i]) + 1) / 2

    def score(self, u: Tensor, i: int) -> Tensor:
        """−ε/√(1 − ᾱ), ε the noise the network predicts."""
        u0 = 2 * self.prior(self.picture(u, i), self.sigma(i)) - 1
        epsilon = (u - math.sqrt(self.alpha_bar[i]) * u0) / math.sqrt(1 - self.alpha_bar[i])
        return -epsilon / math.sqrt(1 - self.alpha_bar[i])


def test_euler_maruyama_is_the_step_of_the_variance_preserving_sde() -> None:
    """Song et al. 2021, eq. 6 with du = −½β·u dt + √β·dw (eq. 11): u ← u + b·(u/2 + ∇log p) + √b·z, ᾱ = exp(−∫β)."""
    prior = prior_of("correlated")
    b = [0.02, 0.1, 0.4, 0.9, 2.0]  # ∫β over each step, b[i] from level i to level i − 1
    net = Preserving(prior, [math.exp(-sum(b[: i + 1])) for i in range(5)])
    u, z = state(sigma=1.0), Draws(4)
    x = net.picture(u, 4)
    for i in range(4, 0, -1):
        u = u + b[i] * (u / 2 + net.score(u, i)) + math.sqrt(b[i]) * z()
    walk = [net.sigma(i) for i in range(4, -1, -1)]
    close(walked("euler_maruyama:vp", prior, walk, x), net.picture(u, 0), 1e-8)


def norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def test_predictor_corrector_is_algorithm_2_of_the_variance_exploding_sde() -> None:
    """Song et al. 2021: reverse diffusion, then M Langevin steps with ε = 2·(r·‖z‖/‖g‖)² (appendix G, algorithm 4)."""
    prior, x, r = prior_of("correlated"), state(sigma=5.0), 0.16
    expected, z = x, Draws(4)
    for sigma, s in pairwise(WALK):
        expected = expected + (sigma**2 - s**2) * (prior(expected, sigma) - expected) / sigma**2
        expected = expected + math.sqrt(sigma**2 - s**2) * z()
        for _ in range(2):
            fresh, g = z(), (prior(expected, s) - expected) / s**2
            epsilon = 2 * (r * norms(fresh) / norms(g)) ** 2
            expected = expected + epsilon * g + (2 * epsilon).sqrt() * fresh
    close(walked("predictor_corrector:corrections=2", prior, WALK, x), expected, 1e-8)


def test_predictor_corrector_is_algorithm_3_of_the_variance_preserving_sde() -> None:
    """Song et al. 2021: u_i = (2 − √(1 − β))·u + β·∇log p + √β·z, then ε = 2·α·(r·‖z‖/‖g‖)² (algorithm 5).

    α = 1 − β of the step just done; the paper's α_i is that of the next one, which a step does not know.
    """
    prior, r = prior_of("correlated"), 0.16
    beta = [1e-4, 0.05, 0.2, 0.5, 0.8]
    net = Preserving(prior, [math.prod(1 - b for b in beta[: i + 1]) for i in range(5)])
    u, z = state(sigma=1.0), Draws(4)
    x = net.picture(u, 4)
    for i in range(3, -1, -1):
        u = (2 - math.sqrt(1 - beta[i + 1])) * u + beta[i + 1] * net.score(u, i + 1)
        u = u + math.sqrt(beta[i + 1]) * z()
        fresh, g = z(), net.score(u, i)
        epsilon = 2 * (1 - beta[i + 1]) * (r * norms(fresh) / norms(g)) ** 2
        u = u + epsilon * g + (2 * epsilon).sqrt() * fresh
    walk = [net.sigma(i) for i in range(4, -1, -1)]
    close(walked("predictor_corrector:vp", prior, walk, x), net.picture(u, 0), 1e-8)


def test_annealed_langevin_is_algorithm_1() -> None:
    """Song & Ermon 2019: α_i = ε·σ_i²/σ_L², ε = 2e-5, σ_L = .01; x ← x + α_i/2·∇log p + √α_i·z, T times a level."""
    prior, x, z = prior_of("correlated"), state(sigma=5.0), Draws(4)
    expected = x
    for sigma in WALK[1:]:
        alpha = 2e-5 * sigma**2 / 0.01**2
        for _ in range(3):
            score = (prior(expected, sigma) - expected) / sigma**2
            expected = expected + alpha / 2 * score + math.sqrt(alpha) * z()
    close(walked("annealed_langevin:corrections=3", prior, WALK, x), expected, 1e-8)
    close(walked("annealed_langevin:corrections=3", prior, [*WALK, 0.0], x), prior(expected, WALK[-1]), 1e-8)


def test_dpm_solver_is_algorithm_2() -> None:
    """Lu et al. 2022 with λ = −ln σ, α = 1: x_i = σ_i/σ_{i−1}·x − (e^{−h} − 1)·((1 + 1/2r)·D_{i−1} − 1/2r·D_{i−2})."""
    prior, x = prior_of("correlated"), state(sigma=5.0)
    expected, buffer, h_before = x, None, 0.0
    for sigma, s in pairwise([*WALK, 0.0]):
        d, h = prior(expected, sigma), math.log(sigma / s) if s else math.inf
        ahead = d
        if buffer is not None and s:
            r = h_before / h
            ahead = (1 + 1 / (2 * r)) * d - 1 / (2 * r) * buffer
        expected = s / sigma * expected - math.expm1(-h) * ahead
        buffer, h_before = d, h
    close(walked("dpmpp_2m", prior, [*WALK, 0.0], x), expected)


def test_after_a_rise_in_noise_the_multistep_solver_has_forgotten_the_step_before() -> None:
    prior, walk = prior_of("correlated"), [2.0, 1.0, 0.5, 1.0, 0.4, 0.2, 0.0]
    method = Unconditional(integrator="dpmpp_2m")
    found = sample(method, problem(prior, 4), Draws(4), levels=walk)
    noise, solver = Draws(4), DPMSolver()
    x = method.start(problem(prior, 4), 2.0, noise)
    for part in ([2.0, 1.0, 0.5], [1.0, 0.4, 0.2, 0.0]):
        if part[0] == 1.0:
            x = x + math.sqrt(1.0**2 - 0.5**2) * noise()
        carry = None
        for sigma, s in pairwise(part):
            x, carry = solver.step(prior, x, sigma, s, noise, carry)
    close(found, x)


# ------------------------------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("spec", SPECS)
def test_no_sample_feels_the_others(spec: str) -> None:
    prior = prior_of("correlated")
    method = Unconditional(steps=6, integrator=spec, jump=2, repeats=2)
    together = sample(method, problem(prior, 4), Draws(4))
    for i in range(4):
        alone = sample(method, problem(prior, 1), Draws(4, pick=[i]))
        close(alone[0], together[i])


@pytest.mark.parametrize(
    ("spec", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpmpp_2m", 2)], ids=lambda v: str(v)
)
def test_the_order_of_convergence_is_the_catalogs(spec: str, order: int) -> None:
    """Against x_s = m + √((v + s²)/(v + σ²))·(x_σ − m) along each eigenvector, the probability flow's solution."""
    prior, x = prior_of("correlated"), state(sigma=5.0)
    along = (x - prior.mean).flatten(1) @ prior.basis
    along = along * ((prior.variances + 0.05**2) / (prior.variances + 25)).sqrt()
    exact = prior.mean + (along @ prior.basis.T).view_as(x)
    errors = [
        float((walked(spec, prior, grid.log_uniform(steps, 5.0, 0.05)[:-1], x) - exact).norm())
        for steps in (41, 81, 161)
    ]
    assert int(catalog.INTEGRATORS[spec].order) == order
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([order, order], abs=0.15)


def errors(spec: str, name: str, steps: int) -> tuple[float, float]:
    """Mean in prior standard deviations, covariance relative to the prior's (Frobenius), moments propagated exactly."""
    y, exact = torch.zeros(1, *SHAPE, dtype=torch.float64), covariance_of(name)
    method = Unconditional(steps=steps, sigma_min=1e-3, sigma_max=40.0, integrator=spec)
    prior = prior_of(name)
    mean, covariance = moments.sampled(method, prior, operators.Identity(SHAPE), y, 0.0)
    away = (mean - prior.mean.expand(SHAPE).flatten()).norm() / exact.trace().sqrt()
    return float(away), float((covariance - exact).norm() / exact.norm())


# Error of the covariance at 100 steps (karras, σ 40 … .001) on the white and on the correlated prior, and by how much
# it falls when the steps are doubled: 2 for stochastic steps and solvers of first order, 4 for those of second. Churn
# at a fixed S_churn = 10, as the paper has it, so that each step's falls with the steps. Annealed Langevin steps lag
# behind the falling noise, in proportion to 1/(steps·corrections·size); their stationary bias, size/4 of a variance
# like s², goes with the last step, to x̂₀.
EXACT = {
    "ancestral": (0.1128, 0.1035, 2),
    "ddim": (0.0558, 0.0511, 2),
    "ddim:0.5": (0.0692, 0.0634, 2),
    "euler": (0.0558, 0.0511, 2),
    "heun": (0.00292, 0.00232, 4),
    "dpmpp_2m": (0.00299, 0.00237, 4),
    "heun:churn={churn}": (0.00818, 0.00725, 4),
    "euler_maruyama": (0.1141, 0.1033, 2),
    "euler_maruyama:vp": (0.0715, 0.0324, 2),
    "annealed_langevin": (0.1632, 0.1479, 2),
}


@pytest.mark.parametrize("name", ["white", "correlated"])
@pytest.mark.parametrize("spec", EXACT)
def test_samples_of_a_gaussian_prior_have_its_moments_as_steps_grow(spec: str, name: str) -> None:
    recorded = EXACT[spec]
    found = [errors(spec.format(churn=10 / steps), name, steps) for steps in (100, 200)]
    assert found[0][1] == pytest.approx(recorded[name == "correlated"], rel=0.01)
    assert found[0][1] / found[1][1] == pytest.approx(recorded[2], rel=0.25)
    assert found[1][0] < 5e-3


@pytest.mark.parametrize("fresh", [1.0, 0.3])
def test_a_constant_share_of_fresh_noise_keeps_a_bias_however_many_the_steps(fresh: float) -> None:
    """Where σ² ≪ v, x ← D + √(1 − f)·(x − D) + σ√f·ε is at rest at the variance v·(1 + √(1 − f))/2."""
    limit = (1 - math.sqrt(1 - fresh)) / 2
    few, many = (errors(f"renew:{fresh}", "white", steps)[1] for steps in (100, 400))
    assert limit < many < few
    assert many == pytest.approx(limit, rel=0.2)


def test_langevin_steps_lag_behind_the_falling_noise_the_less_the_more_there_are_of_them() -> None:
    few, many = (errors(f"annealed_langevin:{t}", "correlated", 60)[1] for t in (10, 20))
    assert few / many == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("form", ["ve", "vp"])
def test_corrections_leave_the_variance_that_their_step_size_asks_for(form: str) -> None:
    """ε = 2r²·v where ‖z‖/‖g‖ = √v, so that x ← x + ε·g + √(2ε)·z is at rest at the variance v/(1 − r²).

    That is 2.6 % too much for r = .16 with 256 pixels or more. ‖g‖ varies with fewer, and 9 pixels get half too much.
    """
    shape, batch = (1, 16, 16), 400
    method = Unconditional(
        steps=150, sigma_min=1e-3, sigma_max=40.0, integrator=f"predictor_corrector:{form}"
    )
    x = sample(method, problem(prior_of("white"), batch, shape), Draws(batch, shape))
    deviation = math.sqrt(2 / x.numel())
    assert float((x - 0.5).square().mean()) / 0.0625 == pytest.approx(
        1 / (1 - 0.16**2), abs=0.01 + 4 * deviation
    )
    assert float((x.mean() - 0.5).abs()) < 4 * 0.25 / math.sqrt(x.numel())
    small = sample(method, problem(prior_of("white"), batch, SHAPE), Draws(batch))
    assert float((small - 0.5).square().mean()) / 0.0625 == pytest.approx(1.5, abs=0.15)
