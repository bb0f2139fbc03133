"""Small priors, operators and measurements whose posterior is known: what the laws hold the methods against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from invdiff import operators
from invdiff.likelihood import Measurement
from invdiff.methods import Method, Problem, sample
from invdiff.operators import LinearOperator, SpectralOperator
from invdiff.operators.base import cached_property
from invdiff.priors import Prior
from invdiff.priors.analytic import GaussianPrior, MixturePrior
from invdiff.priors.exact import ExactConditional, Posterior, exact_posterior

SIDE = 4
SHAPE = (1, SIDE, SIDE)
SIGMA_Y = 0.05
PriorName = Literal["white", "correlated", "mixture"]
OPERATORS = (
    "mask", "blur", "reflected blur", "downsample", "matrix", "sensing", "hadamard", "stack",
    "blur and reduction", "weights", "identity",
)  # fmt: skip


def random(*shape: int, seed: int) -> Tensor:
    """ε ~ N(0, I), float64, fixed by the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
def prior_of(name: str) -> GaussianPrior | MixturePrior:
    """white: pixels on their own; correlated: ρ = e^(−distance/2); mixture: three widths apart of unequal weights."""
    if name == "white":
        return GaussianPrior.white(0.5, 0.25)
    if name == "correlated":
        at = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
        return GaussianPrior.correlated(0.4, 0.0625 * torch.exp(-torch.cdist(at, at) / 2))
    means = 0.5 + 0.2 * random(3, *SHAPE, seed=11)
    return MixturePrior.make(means, torch.tensor([0.1, 0.15, 0.1]), torch.tensor([0.5, 0.3, 0.2]))


@cache
def operator_of(name: str) -> LinearOperator:
    """One of OPERATORS, over pictures of SHAPE."""
    if name == "mask":
        return operators.Mask((torch.arange(SIDE * SIDE) * 7 % 16 < 7).float().view(SIDE, SIDE), channels=1)
    if name == "identity":
        return operators.Identity(SHAPE)
    if name == "downsample":
        return operators.Downsample(2, SHAPE)
    if name == "matrix":
        return Matrix(random(9, SIDE * SIDE, seed=5) / SIDE)
    if name == "sensing":
        return operators.CompressedSensing(SHAPE, 0.4, "dct")
    if name == "hadamard":
        return operators.CompressedSensing(SHAPE, 0.4, "hadamard")
    if name == "stack":
        blur = operators.Blur(operators.kernels.motion(3, 20), SHAPE, "zero", rtol=1e-12)
        return operators.stacked([operators.Downsample(2, SHAPE), blur])
    if name == "blur and reduction":
        return operators.BlurDownsample(operators.kernels.gaussian(0.8, 3), 2, SHAPE, "replicate", rtol=1e-12)
    if name == "weights":
        return operators.Diagonal(torch.linspace(0.2, 1.5, SIDE * SIDE, dtype=torch.float64).view(SHAPE))
    border = {"blur": "circular", "reflected blur": "reflect"}[name]
    return operators.Blur(operators.kernels.gaussian(0.8, 3), SHAPE, border=border)  # type: ignore[arg-type]


class Matrix(SpectralOperator):
    """y = M x for a dense M (m, n), m ≤ n."""

    def __init__(self, matrix: Tensor) -> None:
        self.in_shape, self.out_shape = SHAPE, (len(matrix),)
        u, s, vt = torch.linalg.svd(matrix, full_matrices=True)
        lost = matrix.shape[1] - len(s)
        self.left = torch.cat([u, u.new_zeros(len(u), lost)], dim=1)
        self.right, self.values = vt.T, torch.cat([s, s.new_zeros(lost)])

    @cached_property
    def singular_values(self) -> Tensor:
        return self.values

    def V(self, c: Tensor) -> Tensor:
        return (c @ self.right.T.to(c)).view(-1, *SHAPE)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.right.to(x)

    def U(self, c: Tensor) -> Tensor:
        return c @ self.left.T.to(c)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.left.to(y)


@dataclass(frozen=True, eq=False)
class Known:
    """A measurement and its exact posterior."""

    prior: GaussianPrior | MixturePrior
    operator: LinearOperator
    y: Tensor
    sigma_y: float
    posterior: Posterior

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        return self.posterior.mean, self.posterior.covariance


@cache
def known(prior: str, operator: str, sigma_y: float = SIGMA_Y) -> Known:
    """One draw of x₀ measured. σ_y = 0: the posterior is the limit."""
    p, op = prior_of(prior), operator_of(operator)
    clean = op.A(p.sample((1, *SHAPE), torch.Generator().manual_seed(3)))
    y = clean + sigma_y * random(*clean.shape, seed=4)
    return Known(p, op, y, sigma_y, exact_posterior(p, op, y, sigma_y))


def prior_for(
    method: Method,
    prior: GaussianPrior | MixturePrior,
    op: LinearOperator,
    y: Tensor,
    sigma_y: float,
    rows: Sequence[int] = (0,),
) -> Prior:
    """What a method walks: the prior, or of a conditional method the prior that sees y, row i of x the y of rows[i]."""
    if not method.info.conditional:
        return prior
    return ExactConditional(prior).seeing(y, op, sigma_y).pick(rows)


class Draws:
    """A `Noise` for a whole batch from one generator: the laws' samples need no streams of their own."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.generator = rows, torch.Generator().manual_seed(seed)

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        return torch.randn(self.rows, *(shape or SHAPE), generator=self.generator).double()

    def uniform(self) -> Tensor:
        return torch.rand(self.rows, generator=self.generator, dtype=torch.float64)


def draw(method: Method, at: Known, samples: int, seed: int = 0) -> Tensor:
    """(samples, n): what `method` makes of one measurement."""
    measurement = Measurement(at.y, at.operator, at.sigma_y).pick([0] * samples)
    prior = prior_for(method, at.prior, at.operator, at.y, at.sigma_y)
    return sample(method, Problem(prior, measurement), Draws(samples, seed)).flatten(1)
