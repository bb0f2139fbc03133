"""The prior: one denoiser D(x, σ) = E[x₀ | x₀ + σ·ε = x], whatever stands behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from invdiff.catalog import trained_for


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a conditional network, D(x, σ; y), is shown of y, and the measurements it was trained on."""

    tasks: tuple[str, ...]
    """Those measurements, as `conditional.task_of` names their operators; (): any."""
    operators: Any = None
    """The family they were drawn from, as the recipe has it."""
    noise: float = 0.0
    """They had σ_y up to this, in image units."""
    mask: bool = False
    """Whether it is told which pixels were observed."""
    augment: float = 0.0
    """What it was shown had noise of its own up to this σ (image units), which it was told; 0: none."""
    dropout: float = 0.0
    """The share of pictures it was shown nothing of: above 0 it can do without y, and be guided towards it."""
    residual: bool = False
    """Whether it denoises x₀ − shown, so that D begins from what it is shown."""

    def channels(self, of: int) -> int:
        """Channels that a network of pictures of so many is shown beside them."""
        return of + self.mask + (self.augment > 0)

    @property
    def said(self) -> str:
        """What it was trained for, in words."""
        return trained_for(self.tasks, self.noise)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a prior is and what it may be asked. σ, mean and standard deviation are in image units."""

    name: str
    channels: int | None = None
    """Channels of its pictures; None: any number."""
    multiple: int = 1
    """Sizes the network itself takes are multiples of this; the prior pads and crops, and takes any."""
    size: int | None = None
    """Height and width of its pictures where the network knows no other; None: any."""
    classes: int = 0
    """Labels 0 … classes − 1 that it can be told; 0: none."""
    condition: Condition | None = None
    """Of a conditional network: what it must be shown."""
    sigma_min: float = 0.001
    sigma_max: float = 20.0
    data_mean: float = 0.5
    data_std: float = 0.25
    licence: str = "unknown"
    training_data: str = "unknown"
    images_seen: int = 0
    summary: str = ""
    format: str = ""
    """What kind of checkpoint it was loaded from, in words."""
    checksum: str = ""
    """SHA-256 of the file it was loaded from."""

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@runtime_checkable
class Prior(Protocol):
    """A denoiser with a card: prior(x, sigma) → D; x, D (B, C, H, W), image units; sigma float or (B,)."""

    @property
    def card(self) -> Card: ...

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FunctionPrior:
    """Any callable D(x, sigma) as a prior, e.g. a deepinv denoiser or a function of one's own.

    It is handed x and sigma as they come; ValueError where its answer has not x's shape.
    """

    function: Callable[[Tensor, Any], Tensor]
    card: Card

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        out = self.function(x, sigma)
        came = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if came != tuple(x.shape):
            raise ValueError(
                f"prior {self.card.name}: expected D(x, sigma) of x's shape {tuple(x.shape)}, got {came}"
            )
        return out


def per_image(sigma: float | Tensor, x: Tensor) -> Tensor:
    """σ as one value per image, (B,), in x's type and on its device, from a number, (B,) or (B, 1, 1, 1).

    ValueError for another shape, and for a number that is negative or not one.
    """
    if not isinstance(sigma, Tensor):
        if not sigma >= 0:
            raise ValueError(f"sigma: expected a standard deviation in image units, got {sigma}")
        return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
    if sigma.numel() not in (1, len(x)):
        raise ValueError(
            f"sigma: expected one value, or one for each of {len(x)} images, got {sigma.numel()}"
        )
    return sigma.to(x).flatten().expand(len(x))
