"""How far a method's samples are from the posterior, on problems whose posterior is known in closed form."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.likelihood import Measurement
from invdiff.methods import MALA, SMC, Method, Problem, sample
from invdiff.operators import Operator
from invdiff.priors import (
    Card,
    ExactConditional,
    GaussianPrior,
    MixturePrior,
    Posterior,
    Prior,
    exact_posterior,
)
from invdiff.priors.conditional import Sees

from .calibration import coverage
from .distances import sliced_wasserstein
from .moments import sampled

LEVELS = (0.5, 0.8, 0.95)
"""Of the credible intervals."""
Moments = tuple[Tensor, Tensor]
"""Mean (n,) and covariance (n, n)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Known:
    """M measurements y = A x₀ + σ_y·n of draws x₀ of a prior. See `make`."""

    prior: GaussianPrior | MixturePrior
    operator: Operator
    sigma_y: float
    truths: Tensor
    """x₀, (M, C, H, W), float64."""
    y: Tensor
    """(M, *out_shape)."""

    @classmethod
    def make(
        cls, prior: GaussianPrior | MixturePrior, operator: Operator, sigma_y: float, *, count: int, seed: int
    ) -> Known:
        generator = torch.Generator().manual_seed(seed)
        truths = prior.sample((count, *operator.in_shape), generator)
        clean = operator.A(truths)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        return cls(prior=prior, operator=operator, sigma_y=sigma_y, truths=truths, y=clean + sigma_y * noise)

    @property
    def measurement(self) -> Measurement:
        return Measurement(self.y, self.operator, self.sigma_y)

    @cached_property
    def posteriors(self) -> list[Posterior]:
        """One for each measurement."""
        return [exact_posterior(self.prior, self.operator, y, self.sigma_y) for y in self.y.split(1)]

    @cached_property
    def seen(self) -> Sees:
        """The prior that sees each measurement."""
        return ExactConditional(self.prior).seeing(self.y, self.operator, self.sigma_y)

    def prior_for(self, method: Method, rows: Sequence[int]) -> Prior:
        """What a method walks for these measurements: the prior, or of a conditional method the one that sees them."""
        return self.seen.pick(rows) if method.info.conditional else self.prior

    @cached_property
    def spread(self) -> float:
        """The posteriors' standard deviation: the root of their variance's mean over pixels and measurements."""
        return float(
            torch.stack([p.covariance.diagonal() for p in self.posteriors]).mean().clamp(min=0).sqrt()
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Drawn:
    samples: Tensor
    """(S, M, n): S of each of M measurements."""
    evaluations: float
    """Of the denoiser, for each sample."""
    seconds: float
    """Of one core's time, for all of them."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far samples are from the posteriors of `Known`, a number for each of the M measurements.

    mean: ‖μ − μ*‖/(√n·spread), in posterior standard deviations; covariance: ‖C − C*‖_F/‖C*‖_F, the norm below of the
    mean over measurements; wasserstein: sliced, against as many exact draws, in posterior standard deviations;
    the first two without what Monte-Carlo error adds to their squares, where that is less;
    modes: ½·Σ_k |share_k − weight_k|, the share of samples on wrong components of a mixture; [] for a Gaussian.
    """

    mean: list[float]
    covariance: list[float]
    wasserstein: list[float]
    modes: list[float] = field(default_factory=list)


class Draws:
    """A `Noise` for a whole batch from one generator. same: every row gets the same draws."""

    def __init__(self, rows: int, shape: tuple[int, ...], seed: int, *, same: bool = False) -> None:
        self.rows, self.shape, self.same = rows, shape, same
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        size = (1 if self.same else self.rows, *(shape or self.shape))
        draws = torch.randn(size, generator=self.generator, dtype=torch.float64)
        return draws.expand(self.rows, *size[1:])

    def uniform(self) -> Tensor:
        return torch.rand(self.rows, generator=self.generator, dtype=torch.float64)


class Silence:
    """A `Noise` of zeros."""

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        self.rows, self.shape = rows, shape

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        return torch.zeros(self.rows, *(shape or self.shape), dtype=torch.float64)

    def uniform(self) -> Tensor:
        return torch.zeros(self.rows, dtype=torch.float64)


class _Counting:
    """A prior that counts its evaluations."""

    def __init__(self, prior: Prior) -> None:
        self.prior, self.count = prior, 0

    @property
    def card(self) -> Card:
        return self.prior.card

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.count += len(x)
        return self.prior(x, sigma)


def draw(method: Method, known: Known, samples: int, seed: int) -> Drawn:
    """`samples` of each measurement, all in one batch."""
    count = len(known.y)
    rows = [*range(count)] * samples
    counting = _Counting(known.prior_for(method, rows))
    problem = Problem(counting, known.measurement.pick(rows))
    began = time.process_time()
    x = sample(method, problem, Draws(samples * count, tuple(known.operator.in_shape), seed))
    seconds = time.process_time() - began
    return Drawn(
        samples=x.reshape(samples, count, -1),
        evaluations=counting.count / (samples * count),
        seconds=seconds,
    )


def exact(known: Known, samples: int, seed: int) -> Drawn:
    """Draws of the posteriors themselves: what they score is Monte-Carlo error."""
    generator = torch.Generator().manual_seed(seed)
    began = time.process_time()
    x = torch.stack([posterior.sample(samples, generator) for posterior in known.posteriors], dim=1)
    return Drawn(samples=x, evaluations=0, seconds=time.process_time() - began)


def distance(samples: Tensor, known: Known, seed: int, moments: Sequence[Moments] = ()) -> Distance:
    """samples: (S, M, n). moments: the first two of the samples, where they are known better than from them."""
    generator = torch.Generator().manual_seed(seed)
    n, posteriors = samples.shape[2], known.posteriors
    sizes = torch.stack([p.covariance.norm() for p in posteriors]).mean()
    found = Distance(mean=[], covariance=[], wasserstein=[])
    for i, posterior in enumerate(posteriors):
        rows = samples[:, i]
        mean, covariance, noise = _moments(rows) if not moments else (*moments[i], (0.0, 0.0))
        found.mean.append(_beyond(mean - posterior.mean, noise[0]) / (n**0.5 * known.spread))
        found.covariance.append(_beyond(covariance - posterior.covariance, noise[1]) / float(sizes))
        w = sliced_wasserstein(rows, posterior.sample(len(rows), generator), generator=generator)
        found.wasserstein.append(w / known.spread)
        if len(posterior.weights) > 1:
            found.modes.append(float((posterior.modes(rows) - posterior.weights).abs().sum() / 2))
    return found


def _moments(rows: Tensor) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Mean and covariance of rows (S, n), and the expected squares of what they are off by, in Frobenius norm."""
    mean, covariance = rows.mean(dim=0), rows.T.cov()
    fourth = (rows - mean).square().sum(dim=1).square().mean()
    return (
        mean,
        covariance,
        (
            float(covariance.trace()) / len(rows),
            float(fourth - covariance.square().sum()) / len(rows),
        ),
    )


def _beyond(difference: Tensor, noise: float) -> float:
    """√(‖difference‖² − noise), 0 where that is none."""
    return max(float(difference.square().sum()) - noise, 0.0) ** 0.5


def shares(samples: Tensor, known: Known) -> list[tuple[float, float]]:
    """How often the intervals of LEVELS hold the truth, with standard errors. samples: (S, M, n).

    Over the pixels that a measurement leaves uncertain.
    """
    uncertain = known.posteriors[0].covariance.diagonal() > 1e-12
    truths = known.truths.flatten(1)[:, uncertain]
    return [coverage(samples[..., uncertain], truths, level) for level in LEVELS]


def propagated(method: Method, known: Known) -> list[Moments]:
    """The moments of what `method` returns, without Monte-Carlo error; [] where that cannot be had.

    It can where the prior is Gaussian and every step is affine, which is tried on states such as the walk meets. Then
    the covariance is that of `moments.sampled`, the same for each y, and the mean is what comes of no noise.
    """
    prior, operator = known.prior, known.operator
    if (
        not isinstance(prior, GaussianPrior)
        or isinstance(method, SMC | MALA)
        or not _is_affine(method, known)
    ):
        return []
    shape = tuple(operator.in_shape)
    first = known.prior_for(method, [0])
    _, covariance = sampled(method, first, operator, known.y[:1], known.sigma_y)
    n = len(covariance)
    unit = torch.cat([torch.eye(n, dtype=torch.float64), torch.zeros(1, n, dtype=torch.float64)])
    pasted = known.measurement.pick([0] * (n + 1)).paste(unit.view(-1, *shape)).flatten(1)
    kept = pasted[:-1] - pasted[-1]
    every = known.prior_for(method, range(len(known.y)))
    means = sample(method, Problem(every, known.measurement), Silence(len(known.y), shape)).flatten(1)
    return [(mean, kept.T @ covariance @ kept) for mean in means]


@torch.no_grad()
def _is_affine(method: Method, known: Known) -> bool:
    """Whether each step takes the middle of two states to the middle of where it takes the two."""
    measurement = Measurement(known.y[:1], known.operator, known.sigma_y).pick([0] * 3)
    problem = Problem(known.prior_for(method, [0] * 3), measurement)
    shape = tuple(known.operator.in_shape)
    for sigma, s in {(a, b) for a, b in pairwise(method.levels(problem)) if b <= a}:
        ends = (
            known.prior.sample((2, *shape), torch.Generator().manual_seed(0)) + sigma * Draws(2, shape, 1)()
        )
        states = torch.cat([ends, ends.mean(dim=0, keepdim=True)])
        a, b, middle = method.step(problem, states, sigma, s, Draws(3, shape, 2, same=True), None)[0]
        if (middle - (a + b) / 2).norm() > 1e-6 * (a - b).norm():
            return False
    return True
