"""Exact moments of a method's samples, and of the posterior, where prior and measurement are Gaussian and linear.

A step that is affine in the state and in its noise maps a Gaussian to a Gaussian: x' = M x + Σ N_k ε_k + c. M, N_k and
c are read off by applying the step to unit vectors, so that no Monte-Carlo error hides a wrong factor.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from invdiff.likelihood import Measurement
from invdiff.methods import Method, Problem
from invdiff.methods.kernel import renoise
from invdiff.operators import Operator
from invdiff.priors.analytic import GaussianPrior


class Script:
    """Noise that a test decides: zero, but for one of the calls of a step, which gets `row` values."""

    def __init__(self, shape: tuple[int, ...], at: int = -1, value: Tensor | None = None) -> None:
        self.shape, self.at, self.value, self.calls = shape, at, value, 0

    def __call__(self) -> Tensor:
        mine = self.value is not None and self.calls == self.at
        self.calls += 1
        return self.value.clone() if mine else torch.zeros(self.shape, dtype=torch.float64)  # type: ignore[union-attr]


@torch.no_grad()
def sampled(
    method: Method, prior: GaussianPrior, op: Operator, y: Tensor, sigma_y: float
) -> tuple[Tensor, Tensor]:
    """Mean (n,) and covariance (n, n) of what `method` returns, propagated step by step."""
    shape = op.in_shape
    n = y.new_empty(shape).numel()
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    zero = torch.zeros(1, *shape, dtype=torch.float64)

    def problem(rows: int) -> Problem:
        return Problem(prior, Measurement(y.expand(rows, *y.shape[1:]), op, sigma_y))

    def affine(step) -> tuple[Tensor, Tensor, list[Tensor]]:  # type: ignore[no-untyped-def]
        counter = Script(zero.shape)
        c = step(problem(1), zero, counter).flatten()
        m = step(problem(n), unit, Script(unit.shape)).flatten(1).T - c[:, None]
        zeros = torch.zeros_like(unit)
        parts = [
            step(problem(n), zeros, Script(unit.shape, k, unit)).flatten(1).T - c[:, None]
            for k in range(counter.calls)
        ]
        return c, m, parts

    walk = method.levels(problem(1))
    c, _, (spread,) = affine(lambda p, x, noise: method.start(p, walk[0], noise()).expand_as(x).clone())
    mean, covariance = c, spread @ spread.T
    for sigma, s in pairwise(walk):
        if s < sigma:
            c, m, parts = affine(lambda p, x, noise, a=sigma, b=s: method.step(p, x, a, b, noise))
        else:
            c, m, parts = affine(lambda p, x, noise, a=sigma, b=s: renoise(x, a, b, noise()))
        mean = m @ mean + c
        covariance = m @ covariance @ m.T + sum((q @ q.T for q in parts), torch.zeros_like(covariance))
    return mean, covariance


def posterior(prior: GaussianPrior, op: Operator, y: Tensor, sigma_y: float) -> tuple[Tensor, Tensor]:
    """The exact posterior's mean and covariance; y (1, *out_shape)."""
    n = y.new_empty(op.in_shape).numel()
    unit = torch.eye(n, dtype=torch.float64)
    a = op.A(unit.reshape(n, *op.in_shape)).flatten(1).T
    c = prior.covariance_times(unit)
    mu = prior.mean.expand(op.in_shape).flatten()
    noise = max(sigma_y, 1e-9) ** 2 * torch.eye(len(a), dtype=torch.float64)
    gain = c @ a.T @ torch.linalg.pinv(a @ c @ a.T + noise, rtol=1e-12, hermitian=True)
    return mu + gain @ (y.flatten() - a @ mu), c - gain @ a @ c


def errors(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """(mean's error in root-mean-square posterior standard deviations, covariance's relative Frobenius error)."""
    mean = (found[0] - exact[0]).norm() / exact[1].trace().sqrt()
    return float(mean), float((found[1] - exact[1]).norm() / exact[1].norm())
