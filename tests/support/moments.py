"""The posterior of a Gaussian prior written out by Bayes' rule, to hold `exact_posterior` against."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import Operator
from invdiff.priors.analytic import GaussianPrior


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
