"""RePaint (Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.ancestral import Unconditional
from invdiff.methods.base import Problem
from invdiff.methods.integrators import Noise
from invdiff.operators import Mask


@dataclass(frozen=True, kw_only=True)
class RePaint(Unconditional):
    """An unconditional step, then the observed pixels replaced by y + s·ε; the walk jumps back up to harmonise.

    Published: 250 steps, jump 10, repeats 10. The defaults spend fewer evaluations.
    """

    info: ClassVar[MethodInfo] = METHODS["repaint"]

    steps: int = 50
    jump: int = 5
    repeats: int = 4

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        measurement, operator = problem.measurement, problem.measurement.operator
        if not isinstance(operator, Mask):
            raise TypeError(f"repaint: expected a mask, got {operator.describe()}")
        unknown, carry = super().step(problem, x, sigma, s, noise, carry)
        known = measurement.y + s * noise()
        return torch.where(operator.keep.to(x.device), known, unknown), carry
