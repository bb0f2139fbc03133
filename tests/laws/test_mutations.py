"""The laws bite: every method broken in one small way, and a law sees it.

A law is a function of a method: does it equal its paper's algorithm (support/papers.py), or, where it is exact on a
Gaussian, does it have the posterior's moments, propagated without sampling? A mutation wraps or patches a method; the
source stays as it is. Where a mutation cannot bite, SPARED says why, and the method must then be untouched by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import papers
import pytest
import torch
from torch import Tensor

from invdiff import operators
from invdiff.evaluation.distances import moment_errors
from invdiff.evaluation.moments import sampled
from invdiff.likelihood import Measurement
from invdiff.methods import (
    METHODS,
    MMPS,
    SR3,
    TMPD,
    ULA,
    Ancestral,
    Method,
    PiGDM,
    Problem,
    RePaint,
    ddnm,
    ddrm,
    ilvr,
    kernel,
    mcg,
    mmps,
    smc,
)
from invdiff.methods.base import Linearised
from invdiff.methods.integrators import Noise, ddim
from invdiff.operators import Operator
from invdiff.priors import Prior
from invdiff.priors.analytic import GaussianPrior
from invdiff.priors.exact import ExactConditional, exact_posterior

PAPERS = papers.make_papers()
Mutation = Callable[[Method, pytest.MonkeyPatch], Method]


# What a mutation is made of


@dataclass(frozen=True)
class Quieter:
    """Noise ÷ √2."""

    noise: Noise

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        return self.noise(shape) / 2**0.5

    def uniform(self) -> Tensor:
        return self.noise.uniform()


@dataclass(frozen=True)
class Misled:
    """A prior that is told other noise levels than it is asked for."""

    prior: Prior
    told: Callable[[float], float]

    @property
    def card(self) -> Any:
        return self.prior.card

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        return self.prior(x, self.told(sigma))


Change = Callable[[Problem, Tensor | None, float, float, Noise], tuple[Problem, Noise]]


def changed(method: Method, change: Change) -> Method:
    """The method, handed another problem or another noise at its start and at every step."""
    kind: Any = type(method)

    class Broken(kind):  # type: ignore[misc]
        def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
            return kind.start(self, *_apart(change(problem, None, sigma, sigma, noise), sigma))

        def step(
            self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
        ) -> tuple[Tensor, Any]:
            problem, noise = change(problem, x, sigma, s, noise)
            return kind.step(self, problem, x, sigma, s, noise, carry)

        def rise(
            self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
        ) -> tuple[Tensor, Any]:
            problem, noise = change(problem, x, sigma, s, noise)
            return kind.rise(self, problem, x, sigma, s, noise, carry)

    broken = object.__new__(Broken)
    vars(broken).update(vars(method))
    return broken


def _apart(pair: tuple[Problem, Noise], sigma: float) -> tuple[Problem, float, Noise]:
    return pair[0], sigma, pair[1]


def measured_as(kind: type[Measurement], problem: Problem) -> Problem:
    """The same problem, its measurement of another class."""
    measurement = object.__new__(kind)
    vars(measurement).update(vars(problem.measurement))
    return Problem(problem.prior, measurement)


# Mutations that any method may suffer


def unbroken(method: Method, patch: pytest.MonkeyPatch) -> Method:
    return changed(method, lambda problem, x, sigma, s, noise: (problem, noise))


def quieter(method: Method, patch: pytest.MonkeyPatch) -> Method:
    return changed(method, lambda problem, x, sigma, s, noise: (problem, Quieter(noise)))


def wrong_sign(method: Method, patch: pytest.MonkeyPatch) -> Method:
    """y is mirrored in A(D), so that y − A(D) changes its sign."""

    def change(
        problem: Problem, x: Tensor | None, sigma: float, s: float, noise: Noise
    ) -> tuple[Problem, Noise]:
        if x is None:
            return problem, noise
        measurement = problem.measurement
        seen = measurement.operator.A(problem.prior(x, sigma))
        seen = seen.view(-1, len(measurement.y), *seen.shape[1:]).mean(dim=0)  # over SMC's particles
        return Problem(problem.prior, dataclasses.replace(measurement, y=2 * seen - measurement.y)), noise

    return changed(method, change)


def next_level(method: Method, patch: pytest.MonkeyPatch) -> Method:
    """The network is told the level of the step after (and, asked for that one, of the step before)."""

    def change(
        problem: Problem, x: Tensor | None, sigma: float, s: float, noise: Noise
    ) -> tuple[Problem, Noise]:
        other = {sigma: s if s > 0 else 1.3 * sigma, s: sigma}
        return Problem(
            Misled(problem.prior, lambda asked: other.get(asked, asked)), problem.measurement
        ), noise

    return changed(method, change)


def doubled_level(method: Method, patch: pytest.MonkeyPatch) -> Method:
    """The network is told σ on [-1, 1]: the factor 2 between the ranges."""

    def change(
        problem: Problem, x: Tensor | None, sigma: float, s: float, noise: Noise
    ) -> tuple[Problem, Noise]:
        return Problem(Misled(problem.prior, lambda asked: 2 * asked), problem.measurement), noise

    return changed(method, change)


def rooted_noise_level(method: Method, patch: pytest.MonkeyPatch) -> Method:
    """σ_y where σ_y² belongs."""

    def change(
        problem: Problem, x: Tensor | None, sigma: float, s: float, noise: Noise
    ) -> tuple[Problem, Noise]:
        wrong = dataclasses.replace(problem.measurement, sigma_y=problem.measurement.sigma_y**0.5)
        return Problem(problem.prior, wrong), noise

    return changed(method, change)


def batch_norm(method: Method, patch: pytest.MonkeyPatch) -> Method:
    """One norm, or one inner product, for the whole batch."""

    class Together(Measurement):
        def distance(self, x0: Tensor) -> Tensor:
            return self.residual(x0).norm().expand(len(x0)) / len(x0)

    patch.setattr(mmps, "_dot", lambda a, b: (a * b).sum().expand(len(a)))
    return changed(method, lambda problem, x, sigma, s, noise: (measured_as(Together, problem), noise))


def rootless_fresh_noise(method: Method, patch: pytest.MonkeyPatch) -> Method:
    """τ = s·f where τ = s·√f belongs; in SMC, whose kernel has the f alone, √f for f."""

    def move(
        x: Tensor, x0: Tensor, sigma: float, s: float, fresh: float, noise: Tensor, tau: float | None = None
    ) -> Tensor:
        return kernel.move(x, x0, sigma, s, fresh, noise, s * fresh if tau is None else tau)

    patch.setattr(ddim, "move", move)
    patch.setattr(smc, "ancestral", lambda sigma, s: kernel.ancestral(sigma, s) ** 0.5)
    return method


ANY: dict[str, Mutation] = {
    "noise ÷ √2": quieter,
    "the residual's sign": wrong_sign,
    "the next level's σ": next_level,
    "σ doubled": doubled_level,
    "σ_y for σ_y²": rooted_noise_level,
    "a norm over the batch": batch_norm,
    "f for √f": rootless_fresh_noise,
}

NO_NOISE = "its measurement is exact: σ_y enters nowhere"
NO_NORM = "it takes no norm and no inner product"
NO_KERNEL = "its step is not the kernel's"
SPARED: dict[str, dict[str, str]] = {
    "the residual's sign": {"ancestral": "y is where it begins, and no residual is ever taken"},
    "σ_y for σ_y²": {
        "dps": "its step is normalised by the distance: σ_y enters nowhere",
        **dict.fromkeys(("repaint", "ilvr", "mcg"), NO_NOISE),
        "ancestral": "σ_y is where its walk begins, which the law fixes",
    },
    "a norm over the batch": dict.fromkeys(set(METHODS) - {"dps", "mcg", "mmps"}, NO_NORM),
    "f for √f": dict.fromkeys(("ddrm", "red_diff", "daps", "score_ald", "ula", "mala"), NO_KERNEL),
}
FORGOTTEN = {
    (
        "ula",
        "the next level's σ",
    ): "half of its steps stay at a level, with none next to it, and forget the way",
    (
        "sr3",
        "the residual's sign",
    ): "without `consistency` its prior alone sees y, and no residual is ever taken",
    ("sr3", "σ_y for σ_y²"): "without `consistency` its prior alone knows σ_y",
}
"""What the posterior at the end does not show; the paper's algorithm does."""


# Mutations of one method's own formula


def replaced(**settings: Callable[[Any], Any]) -> Mutation:
    def mutate(method: Method, patch: pytest.MonkeyPatch) -> Method:
        return dataclasses.replace(
            method, **{name: change(getattr(method, name)) for name, change in settings.items()}
        )

    return mutate


def unscaled_rho(method: Method, patch: pytest.MonkeyPatch) -> Method:
    class Wrong(ddrm.Spectral):
        def __init__(self, measurement: Measurement) -> None:
            super().__init__(measurement)
            self.rho = measurement.sigma_y * (~self.lost).to(measurement.y)

    patch.setattr(ddrm, "Spectral", Wrong)
    patch.setattr(ddnm, "Spectral", Wrong)
    return method


def rootless_projection(method: Method, patch: pytest.MonkeyPatch) -> Method:
    """y noised with the variance for the standard deviation."""
    plain = ilvr.projected

    def projected(measurement: Measurement, x: Tensor, sigma: float, s: float, noise: Tensor) -> Tensor:
        return plain(measurement, x, sigma, s**2, noise)

    patch.setattr(ilvr, "projected", projected)
    patch.setattr(mcg, "projected", projected)
    return method


def weightless(method: Method, patch: pytest.MonkeyPatch) -> Method:
    places = smc._places
    patch.setattr(smc, "_places", lambda log_w, points: places(torch.zeros_like(log_w), points))
    return method


def halved_pull(method: Method, patch: pytest.MonkeyPatch) -> Method:

    class Halved(Linearised):
        def pull(self, v: Tensor, *, last: bool = False) -> Tensor:
            return super().pull(v, last=last) / 2

    for module in ("pigdm", "mmps", "tmpd", "smc"):
        patch.setattr(f"invdiff.methods.{module}.Linearised", Halved)
    return method


def always_taken(method: Method, patch: pytest.MonkeyPatch) -> Method:
    @dataclass(frozen=True)
    class Sure(Quieter):
        def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
            return self.noise(shape)

        def uniform(self) -> Tensor:
            return 0 * self.noise.uniform()

    return changed(method, lambda problem, x, sigma, s, noise: (problem, Sure(noise)))


OWN: list[tuple[str, str, Mutation]] = [
    ("dps", "the ½ of ζ/2 dropped", replaced(zeta=lambda v: 2 * v)),
    ("mcg", "the ½ of ζ/2 dropped", replaced(zeta=lambda v: 2 * v)),
    ("sr3", "consistency forgotten", replaced(consistency=lambda v: False)),
    ("mcg", "s² for s in y_s", rootless_projection),
    ("ilvr", "s² for s in y_s", rootless_projection),
    ("pigdm", "τ on [-1, 1]", replaced(tau=lambda v: 1.0)),
    ("pigdm", "Jᵀv halved", halved_pull),
    ("mmps", "Jᵀv halved", halved_pull),
    ("mmps", "an iteration short", replaced(iterations=lambda v: v - 1)),
    ("tmpd", "Jᵀv halved", halved_pull),
    ("smc", "Jᵀv halved", halved_pull),
    ("smc", "τ on [-1, 1]", replaced(tau=lambda v: 1.0)),
    ("smc", "no weights", weightless),
    ("ddrm", "σ_y for σ_y/s", unscaled_rho),
    ("ddnm", "σ_y for σ_y/s", unscaled_rho),
    ("ddrm", "η² for η", replaced(eta=lambda v: v**2)),
    ("ddnm", "η² for η", replaced(eta=lambda v: v**2)),
    ("diffpir", "λ² for λ", replaced(weight=lambda v: v**2)),
    ("diffpir", "√ζ for ζ", replaced(zeta=lambda v: v**0.5)),
    ("red_diff", "the rate of [-1, 1]", replaced(rate=lambda v: 2 * v)),
    ("red_diff", "√λ for λ", replaced(weight=lambda v: v**0.5)),
    ("daps", "the rate of [-1, 1]", replaced(rate=lambda v: 4 * v)),
    ("daps", "τ of [-1, 1]", replaced(tau=lambda v: 2 * v)),
    ("score_ald", "γ for γ²", replaced(gamma=lambda v: v**0.5)),
    ("ula", "h doubled", replaced(size=lambda v: 2 * v)),
    ("mala", "h halved", replaced(size=lambda v: v / 2)),
    ("mala", "every step taken", always_taken),
]


# The laws


def is_literal(name: str, mutate: Mutation, patch: pytest.MonkeyPatch) -> bool:
    """Does the mutated method equal its paper's algorithm, in all of the forms that are written out?"""
    forms = [paper for form, paper in PAPERS.items() if form.partition(",")[0] == name]
    return all(paper.error(mutate(paper.method, patch)) < 1e-8 for paper in forms)


@dataclass(frozen=True, eq=False)
class Exact:
    """A method that is exact on a Gaussian prior, with enough steps; where, and how near it comes.

    mean: of the error in posterior standard deviations; covariance: relative. Ancestral steps forget a part of the
    variance that falls as 1/steps.
    """

    method: Method
    prior: GaussianPrior
    operator: Operator
    sigma_y: float
    mean: float
    covariance: float

    def holds(self, method: Method) -> bool:
        clean = self.operator.A(self.prior.sample((1, *SMALL), torch.Generator().manual_seed(3)))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        y = clean + self.sigma_y * noise
        if isinstance(self.operator, operators.Mask):
            y = self.operator.A(y)
        truth = exact_posterior(self.prior, self.operator, y, self.sigma_y)
        prior: Prior = self.prior
        if method.info.conditional:
            prior = ExactConditional(self.prior).seeing(y, self.operator, self.sigma_y)
        found = sampled(method, prior, self.operator, y, self.sigma_y)
        mean, covariance = moment_errors(found, (truth.mean, truth.covariance))
        return mean < self.mean and covariance < self.covariance


SMALL = (1, 3, 3)


def exact_methods() -> dict[str, Exact]:
    at = torch.cartesian_prod(torch.arange(3), torch.arange(3)).double()
    smooth = GaussianPrior.correlated(0.4, 0.0625 * torch.exp(-torch.cdist(at, at) / 2))
    white = GaussianPrior.white(0.5, 0.25)
    keep = operators.Mask(torch.tensor([[1, 0, 1], [0, 1, 0], [0, 1, 1]]), channels=1)
    blur = operators.Blur(operators.kernels.gaussian(0.8, 3), SMALL, border="reflect")
    whole = operators.Identity(SMALL)
    walk: dict[str, Any] = {"steps": 60, "sigma_max": 4.0, "sigma_min": 2e-3}
    return {
        "mmps": Exact(MMPS(**walk, iterations=5), smooth, keep, 0.05, 2e-3, 0.13),
        "pigdm": Exact(PiGDM(**walk), white, blur, 0.05, 2e-3, 0.13),
        "tmpd": Exact(TMPD(**walk), white, keep, 0.05, 2e-3, 0.13),
        "repaint": Exact(RePaint(**walk), white, keep, 0.0, 1e-9, 0.13),
        "ancestral": Exact(Ancestral(**walk), smooth, whole, 0.05, 1e-3, 0.1),
        "sr3": Exact(SR3(**walk), smooth, keep, 0.05, 2e-3, 0.13),
        "ula": Exact(ULA(steps=200, sigma_max=0.5, sigma_min=0.02, size=0.3), smooth, whole, 0.1, 0.01, 0.03),
    }


EXACT = exact_methods()


@pytest.mark.parametrize("name", METHODS)
def test_the_unbroken_method_satisfies_its_laws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_literal(name, unbroken, monkeypatch)
    if name in EXACT:
        assert EXACT[name].holds(unbroken(EXACT[name].method, monkeypatch))


@pytest.mark.parametrize("mutation", ANY)
@pytest.mark.parametrize("name", METHODS)
def test_a_broken_method_fails_its_papers_algorithm(
    name: str, mutation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_literal(name, ANY[mutation], monkeypatch) == (name in SPARED.get(mutation, {}))


@pytest.mark.parametrize(("name", "words", "mutate"), OWN, ids=lambda v: v if isinstance(v, str) else "")
def test_a_formula_off_by_a_factor_fails_its_papers_algorithm(
    name: str, words: str, mutate: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_literal(name, mutate, monkeypatch)


@pytest.mark.parametrize("mutation", [m for m in ANY if m != "a norm over the batch"])
@pytest.mark.parametrize("name", EXACT)
def test_a_broken_exact_method_misses_the_posterior(
    name: str, mutation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = EXACT[name].holds(ANY[mutation](EXACT[name].method, monkeypatch))
    assert held == (name in SPARED.get(mutation, {}) or (name, mutation) in FORGOTTEN)


def test_what_is_spared_exists_and_says_why() -> None:
    assert set(SPARED) <= set(ANY)
    assert all(set(names) <= set(METHODS) and all(names.values()) for names in SPARED.values())
    assert {name for name, *_ in OWN} | {"repaint", "ancestral"} == set(METHODS)
