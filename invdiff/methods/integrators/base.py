"""What an integrator is: a way from x_σ to x_s for any denoiser, a conditioned one too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""x̂₀ from x_σ (B, C, H, W) and σ."""


class Noise(Protocol):
    """Draws for each sample from a stream of its own."""

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        """ε ~ N(0, I), (B, C, H, W), or (B, *shape)."""
        ...

    def uniform(self) -> Tensor:
        """One number in [0, 1) for each sample, (B,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Integrator(ABC):
    """One step of a solver of the reverse SDE or the probability-flow ODE, in x_σ = x₀ + σ·ε, image units."""

    @abstractmethod
    def step(
        self, denoise: Denoise, x: Tensor, sigma: float, s: float, noise: Noise, carry: Any
    ) -> tuple[Tensor, Any]:
        """x_s, s < σ, and what the next step is to know of this one. carry: the last step's, None at first."""
