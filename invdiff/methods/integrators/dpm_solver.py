"""DPM-Solver++ (2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invdiff.methods.integrators.base import Denoise, Integrator, Noise
from invdiff.methods.kernel import move


@dataclass(frozen=True, kw_only=True)
class DPMSolver(Integrator):
    """x_s = (s/σ)·x + (1 − s/σ)·D̂, D̂ = D_i + (D_i − D_{i−1})/(2r), r = h_{i−1}/h_i, h = the fall of ln σ.

    Second order at one evaluation a step. The first step, one after a rise in noise, and the last, to 0, where h is
    infinite, are of first order.
    """

    def step(
        self, denoise: Denoise, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        x0 = ahead = denoise(x, sigma)
        if carry is not None and s > 0:
            before, sigma_before = carry
            r = math.log(sigma_before / sigma) / math.log(sigma / s)
            ahead = x0 + (x0 - before) / (2 * r)
        return move(x, ahead, sigma, s, 0.0, noise(), 0.0), (x0, sigma)
