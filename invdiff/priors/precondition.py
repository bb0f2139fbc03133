"""From a network's output to the denoiser D, for every convention networks are trained in.

All of them answer the same question. A network is given z = a·(x₀ + σ·ε) and the time its noise level has on its own
clock, and predicts something affine in x₀ and ε; so D = c_skip·x + c_out·F(c_in·x, c_noise), c_in = a. Image units
become the network's range here and nowhere else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

Prediction = Literal["epsilon", "x0", "v", "velocity", "score"]
"""What a network answers of z = a·x₀ + s·ε, s = a·σ: ε; x₀; v = a·ε − s·x₀ (Salimans & Ho 2022, arXiv:2202.00512);
ε − x₀ (flow matching's linear path, Lipman et al. 2023, arXiv:2210.02747); ∇ log p(z) = −ε/s."""


@dataclass(frozen=True, kw_only=True)
class Precondition(ABC):
    """How x (B, C, H, W) and σ (B,) in image units go into a network, and its output becomes D.

    black, white: what 0 and 1 are in the network's range; σ there is (white − black)·σ. Outputs of more channels than
    x's, as networks with a learned variance have, are cut to the first.
    """

    black: float = -1.0
    white: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.black) and math.isfinite(self.white) and self.black < self.white):
            raise ValueError(f"black, white: expected black < white, got {self.black} and {self.white}")

    @abstractmethod
    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, c_noise for σ in the network's range, any shape."""

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels the network was trained at, rising, in image units; () where they are a continuum."""
        return ()

    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) and σ (B,) in image units → what the network is given: (B, C, H, W), (B,)."""
        _, _, c_in, c_noise = self.scalings(self._gain * sigma)
        return c_in[:, None, None, None] * self._of(x), c_noise

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """D in image units from the network's output F."""
        c_skip, c_out, _, _ = (c[:, None, None, None] for c in self.scalings(self._gain * sigma))
        return (c_skip * self._of(x) + c_out * output[:, : x.shape[1]] - self.black) / self._gain

    def target(self, x0: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """What F ought to be for the clean x₀: |F − target|² is λ(σ)·|D − x₀|² with λ = 1/c_out², in its range."""
        c_skip, c_out, _, _ = (c[:, None, None, None] for c in self.scalings(self._gain * sigma))
        return (self._of(x0) - c_skip * self._of(x)) / c_out

    @property
    def _gain(self) -> float:
        return self.white - self.black

    def _of(self, x: Tensor) -> Tensor:
        return self._gain * x + self.black


@dataclass(frozen=True, kw_only=True)
class EDM(Precondition):
    """Karras et al. 2022 (arXiv:2206.00364), table 1."""

    sigma_data: float = 0.5
    """The pictures' standard deviation in the network's range."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data: expected a positive number, got {self.sigma_data}")

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        level = sigma.clamp(min=torch.finfo(sigma.dtype).tiny)  # c_noise stays finite at σ = 0, where D = x
        return (self.sigma_data / total) ** 2, sigma * self.sigma_data / total, 1 / total, level.log() / 4


@dataclass(frozen=True, kw_only=True)
class VP(Precondition):
    """Variance preserving: a = √ᾱ, σ = √(1−ᾱ)/√ᾱ (Ho et al. 2020, arXiv:2006.11239).

    The clock is discrete: the network is given scale·t + first for t in 0 … T−1, between two steps the t at which ln σ
    lies, and beyond them the last. schedule: how β_t rises from beta_start to beta_end over `steps`: "linear" (DDPM),
    "scaled_linear" (√β linear: latent diffusion), "cosine" (ᾱ of Nichol & Dhariwal 2021, arXiv:2102.09672, β ≤ .999),
    or "sde", the continuous β(t) of Song et al. 2021, arXiv:2011.13456, with beta_start and beta_end times `steps` as
    its β_min and β_max, and scale·t for t in [0, 1]. alphas: ᾱ_t itself, for any other. told: "level" gives the network
    scale·√ᾱ + first instead of the step, for any ᾱ (Chen et al. 2020, arXiv:2009.00713; SR3).
    """

    prediction: Prediction = "epsilon"
    schedule: Literal["linear", "scaled_linear", "cosine", "sde"] = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    alphas: tuple[float, ...] = ()
    scale: float = 1.0
    first: float = 0.0
    told: Literal["step", "level"] = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_prediction(self.prediction)
        if self.told not in ("step", "level"):
            raise ValueError(f"told: expected step or level, got {self.told!r}")
        object.__setattr__(self, "alphas", tuple(self.alphas))
        if self.schedule not in ("linear", "scaled_linear", "cosine", "sde"):
            raise ValueError(
                f"schedule: expected linear, scaled_linear, cosine or sde, got {self.schedule!r}"
            )
        if not (self.steps >= 1 and 0 < self.beta_start <= self.beta_end < 1):
            raise ValueError(
                "expected steps ≥ 1 and 0 < beta_start ≤ beta_end < 1, got "
                f"{self.steps}, {self.beta_start}, {self.beta_end}"
            )
        if any(not 0 < b < a <= 1 for a, b in zip((1.0, *self.alphas), self.alphas, strict=False)):
            raise ValueError("alphas: expected ᾱ_t falling, between 1 and 0")

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a = (1 + sigma**2) ** -0.5
        return *_of_prediction(self.prediction, a, sigma), a, self.time(sigma)

    @property
    def levels(self) -> tuple[float, ...]:
        known = self.told == "step" and not self._continuous
        return self.ladder if known else ()

    @property
    def ladder(self) -> tuple[float, ...]:
        """The levels of its steps, rising, in image units."""
        return tuple((self._table.exp() / self._gain).tolist())

    def time(self, sigma: Tensor) -> Tensor:
        """What the network is told at σ, in its range."""
        if self.told == "level":
            return self.scale * (1 + sigma**2) ** -0.5 + self.first
        if self._continuous:
            low, high = self.beta_start * self.steps, self.beta_end * self.steps
            # ln(1 + σ²) = low·t + (high − low)·t²/2
            total = torch.log1p(sigma**2)
            t = 2 * total / (low + (low**2 + 2 * (high - low) * total).sqrt())
            return self.scale * t.clamp(max=1) + self.first
        table = self._table.to(sigma.device)
        level = sigma.double().clamp(min=1e-300).log()
        above = torch.searchsorted(table, level.contiguous()).clamp(1, max(len(table) - 1, 1))
        if len(table) == 1:
            return torch.full_like(sigma, self.first)
        low_end, high_end = table[above - 1], table[above]
        t = above - 1 + ((level - low_end) / (high_end - low_end)).clamp(0, 1)
        return (self.scale * t + self.first).to(sigma.dtype)

    @property
    def _continuous(self) -> bool:
        return self.schedule == "sde" and not self.alphas

    @cached_property
    def _table(self) -> Tensor:
        """ln σ_t, (T,), rising, in the network's range."""
        if self.alphas:
            kept = torch.tensor(self.alphas, dtype=torch.float64)
        elif self.schedule == "cosine":
            t = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            curve = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
            kept = (1 - (1 - curve[1:] / curve[:-1]).clamp(max=0.999)).cumprod(0)
        else:
            power = 2 if self.schedule == "scaled_linear" else 1
            ends = self.beta_start ** (1 / power), self.beta_end ** (1 / power)
            kept = (1 - torch.linspace(*ends, self.steps, dtype=torch.float64) ** power).cumprod(0)
        return ((1 - kept) / kept).log() / 2


@dataclass(frozen=True, kw_only=True)
class VE(Precondition):
    """Variance exploding: a = 1 (Song et al. 2021). clock: the network is told σ, or ln σ, times `scale`."""

    prediction: Prediction = "score"
    clock: Literal["sigma", "ln_sigma"] = "sigma"
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_prediction(self.prediction)
        if self.clock not in ("sigma", "ln_sigma"):
            raise ValueError(f"clock: expected sigma or ln_sigma, got {self.clock!r}")

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        level = sigma.clamp(min=torch.finfo(sigma.dtype).tiny)
        a, time = torch.ones_like(sigma), level if self.clock == "sigma" else level.log()
        return *_of_prediction(self.prediction, a, sigma), a, self.scale * time


@dataclass(frozen=True, kw_only=True)
class Flow(Precondition):
    """Flow matching's linear path: z = (1−t)·x₀ + t·ε, σ = t/(1−t); the network is told scale·t."""

    prediction: Prediction = "velocity"
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_prediction(self.prediction)

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a = 1 / (1 + sigma)
        return *_of_prediction(self.prediction, a, sigma), a, self.scale * sigma * a


PRECONDITIONS: dict[str, type[Precondition]] = {"edm": EDM, "vp": VP, "ve": VE, "flow": Flow}


def _of_prediction(prediction: str, a: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out on x = x₀ + σ·ε, the network being given a·x."""
    if prediction == "x0":
        return torch.zeros_like(sigma), torch.ones_like(sigma)
    if prediction == "epsilon":
        return torch.ones_like(sigma), -sigma
    if prediction == "score":
        return torch.ones_like(sigma), a * sigma**2
    if prediction == "v":
        total = a * (1 + sigma**2)
        return a / total, -sigma / total
    return 1 / (1 + sigma), -sigma / (1 + sigma)  # velocity


def _check_prediction(prediction: str) -> None:
    if prediction not in get_args(Prediction):
        raise ValueError(f"prediction: expected one of {', '.join(get_args(Prediction))}, got {prediction!r}")
