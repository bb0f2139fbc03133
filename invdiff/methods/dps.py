"""DPS: diffusion posterior sampling (Chung et al. 2023, arXiv:2209.14687, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.catalog import METHODS, MethodInfo
from invdiff.methods.ancestral import Unconditional
from invdiff.methods.base import Linearised, Problem
from invdiff.methods.integrators import Noise


@dataclass(frozen=True, kw_only=True)
class DPS(Unconditional):
    """An unconditional step, then x_s −= (ζ/2)·√((1+4s²)(1+4σ²))·∇ₓ‖y − A(D(x, σ))‖, a norm for each sample.

    Under a noise that is not white Gaussian, `Measurement.distance` takes the norm's place.

    ζ is the released code's, which works on [-1, 1] in variance-preserving coordinates; the root carries it to
    ours. It does not transfer across step counts: the published .3 to 1 belong to 1000 steps, and a step of ours
    takes ζ·1000/steps, so that the guidance along the whole way stays the same.
    """

    info: ClassVar[MethodInfo] = METHODS["dps"]
    any_noise: ClassVar[bool] = True

    steps: int = 100
    zeta: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.zeta < float("inf"):
            raise ValueError(f"zeta: expected a number ≥ 0, got {self.zeta}")

    def step(
        self, problem: Problem, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        at = Linearised(problem, x, sigma)
        with torch.enable_grad():
            x0 = at.denoised.clone().requires_grad_()
            distance = problem.measurement.distance(self.clipped(x0))
            (slope,) = torch.autograd.grad(distance.sum(), x0)
        size = self.zeta * 1000 / self.steps / 2 * ((1 + 4 * s**2) * (1 + 4 * sigma**2)) ** 0.5
        ahead, carry = self.unconditional(problem, x, self.clipped(at.denoised), sigma, s, noise, carry)
        return ahead - size * at.pull(slope, last=True), carry
