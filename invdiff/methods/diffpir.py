"""DiffPIR (Zhu et al. 2023, arXiv:2305.08995, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.base import Guided, Problem
from invdiff.methods.integrators import Integrator, Renew


@dataclass(frozen=True, kw_only=True)
class DiffPIR(Guided):
    """x̂₀ = argmin_x ‖y − A x‖² + ρ‖x − D‖², ρ = λ·σ_y²/σ² (eq. 12), then a step with the fraction ζ of fresh noise."""

    info: ClassVar[MethodInfo] = METHODS["diffpir"]

    weight: float = 1.0
    """The paper's λ."""
    zeta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight: expected a number > 0, got {self.weight}")
        if not 0 <= self.zeta <= 1:
            raise ValueError(f"zeta: expected a number in [0, 1], got {self.zeta}")
        super().__post_init__()

    def estimate(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        return problem.measurement.prox(problem.prior(x, sigma), sigma**2 / self.weight)

    @property
    def own(self) -> Integrator:
        return Renew(fresh=self.zeta)
