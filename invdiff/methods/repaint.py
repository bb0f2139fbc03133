"""RePaint (Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods import grid
from invdiff.methods.base import Method, Noise, Problem
from invdiff.methods.kernel import move
from invdiff.operators import Mask


@dataclass(frozen=True, kw_only=True)
class RePaint(Method):
    """An unconditional step, then the observed pixels replaced by y + s·ε; the walk jumps back up to harmonise.

    Published: 250 steps, jump 10, repeats 10. The defaults spend fewer evaluations.
    """

    info: ClassVar[MethodInfo] = METHODS["repaint"]

    steps: int = 50
    jump: int = 5
    """Levels climbed at a jump."""
    repeats: int = 4
    """Times each stretch is walked down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        grid.resample([1.0, 0.0], self.jump, self.repeats)  # says what is wrong with them

    def levels(self, problem: Problem) -> list[float]:
        return grid.resample(super().levels(problem), self.jump, self.repeats)

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        return problem.prior(x, sigma)

    def step(self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise) -> Tensor:
        measurement, operator = problem.measurement, problem.measurement.operator
        if not isinstance(operator, Mask):
            raise TypeError(f"repaint: expected a mask, got {operator.describe()}")
        x0 = self.clipped(self.estimate(problem, x, sigma))
        unknown = move(x, x0, sigma, s, self.fresh(sigma, s), noise())
        known = measurement.y + s * noise()
        return torch.where(operator.keep.to(x.device), known, unknown)
