"""What a measurement says of the picture: y = A(x₀) + σ_y·n."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.operators import LinearOperator, Mask, Operator

NOISE_FLOOR = 1e-3
"""σ_y that stands in for 0 where a formula divides by it: a quarter of an 8-bit step."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """y (B, *operator.out_shape) and its noise: Gaussian of standard deviation sigma_y ≥ 0, in image units."""

    y: Tensor
    operator: Operator
    sigma_y: float

    @property
    def variance(self) -> float:
        """σ_y², never below NOISE_FLOOR²."""
        return max(self.sigma_y, NOISE_FLOOR) ** 2

    @property
    def linear(self) -> LinearOperator:
        """The operator, where a method has asked for a linear one."""
        if not isinstance(self.operator, LinearOperator):
            raise TypeError(f"expected a linear operator, got {self.operator.describe()}")
        return self.operator

    def residual(self, x0: Tensor) -> Tensor:
        """y − A(x₀), (B, *out_shape)."""
        return self.y - self.operator.A(x0)

    def prox(self, z: Tensor, variance: float) -> Tensor:
        """argmin_x ‖x − z‖²/(2·variance) + ‖y − A x‖²/(2σ_y²): the mean of x₀ given y where x₀ ~ N(z, variance·I)."""
        weight = variance / self.sigma_y**2 if self.sigma_y > 0 else float("inf")
        return self.linear.prox(z, self.y, weight)

    def paste(self, x: Tensor) -> Tensor:
        """x with the pixels that an exact mask observed put back, bit for bit; x itself for any other measurement."""
        if isinstance(self.operator, Mask) and self.sigma_y == 0:
            return torch.where(self.operator.keep.to(x.device), self.y, x)
        return x
