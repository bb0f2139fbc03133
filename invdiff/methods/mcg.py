"""MCG: manifold constrained gradients (Chung et al. 2022, arXiv:2206.00941, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Problem
from invdiff.methods.dps import DPS
from invdiff.methods.ilvr import projected
from invdiff.methods.integrators import Noise


@dataclass(frozen=True, kw_only=True)
class MCG(DPS):
    """DPS's step, then the projection onto A x_s = y + s·A ε (eqs. 14 and 15), softened by noise as in ILVR."""

    info: ClassVar[MethodInfo] = METHODS["mcg"]
    any_noise: ClassVar[bool] = False

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        x, carry = super().step(problem, x, sigma, s, noise, carry)
        return projected(problem.measurement, x, sigma, s, noise()), carry
