"""ILVR: iterative latent variable refinement (Choi et al. 2021, arXiv:2108.02938, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.likelihood import Measurement
from invdiff.methods.ancestral import Unconditional
from invdiff.methods.base import Problem
from invdiff.methods.integrators import Noise
from invdiff.methods.kernel import ancestral


@dataclass(frozen=True, kw_only=True)
class ILVR(Unconditional):
    """An unconditional step to x', then x_s = x' + A†(y_s − A x'), y_s = y + s·A ε (eq. 8).

    The paper's A†A is a low-pass filter; any linear A will do. With noise, which the paper has not, the projection is
    the prox argmin_x ‖x − x'‖²/(2v) + ‖y_s − A x‖²/(2σ_y²), v = s²·(1 − s²/σ²) the fresh noise of an ancestral step, so
    that more steps do not count y more often.
    """

    info: ClassVar[MethodInfo] = METHODS["ilvr"]

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        x, carry = super().step(problem, x, sigma, s, noise, carry)
        return projected(problem.measurement, x, sigma, s, noise()), carry


def projected(measurement: Measurement, x: Tensor, sigma: float, s: float, noise: Tensor) -> Tensor:
    """The nearest to x with A x = y + s·A ε; with noise the compromise, by the variances of the two."""
    if s == 0:
        return x if measurement.sigma_y > 0 else measurement.prox(x, float("inf"))
    noised = replace(measurement, y=measurement.y + s * measurement.linear.A(noise))
    return noised.prox(x, s**2 * ancestral(sigma, s))
