"""Measurements that were checked, the tensors a restoration takes, and the way back to pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import RequestError
from .masks import MaskFile
from .noise import NoiseSpec
from .specs import Fold, Shape, Size, Spec
from .words import about

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from . import operators
    from .images import Array, Numbers, Picture
    from .operators import Operator

    Source = Picture | Numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """A picture, or numbers, checked against the task: all that a restoration of it needs but the prior."""

    spec: Spec
    source: Source
    shape: Shape
    """Of the picture to be restored."""
    sigma_y: float
    """Resolved noise, image units; about its standard deviation where it is not Gaussian."""
    noise: NoiseSpec | None = None
    """The noise, where it is not Gaussian."""
    mask: MaskFile | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        """(height, width) of the result: without what only a valid blur has seen."""
        return self.shape[1] - self.spec.overhang[0], self.shape[2] - self.spec.overhang[1]

    @property
    def like(self) -> Picture:
        """What results are written like: the measurement's file, where it can hold them."""
        import numpy as np

        from .images import Numbers, Picture

        if isinstance(self.source, Numbers):
            return Picture(array=np.zeros((*self.size, self.shape[0]), np.float32))
        if self.shape[0] == self.source.channels and "tones" not in self.spec.traits:
            return self.source
        icc = self.source.icc if self.shape[0] == self.source.channels else None
        return replace(self.source, palette=None, bits=max(8, self.source.bits), icc=icc)

    @property
    def values(self) -> NDArray[np.float32]:
        """The measurement in its own shape: (C, H, W) for a picture."""
        from .images import Numbers

        if isinstance(self.source, Numbers):
            return self.source.array
        return self.source.array.transpose(2, 0, 1)

    def seen(self) -> tuple[str, Array] | None:
        """What a panel shows of it, and its caption; None for numbers, of which `Problem.seen` may make something."""
        from .images import Numbers

        if isinstance(self.source, Numbers):
            return None
        array = self.source.array
        return "measured", array * self.mask.keep[:, :, None] if self.mask else array

    def problem(self, channels: int | None) -> Problem:
        """Tensors for a prior of so many channels (None: any).

        A grey picture meets a colour prior as three equal channels, averaged in the end. Three copies of one
        measurement count as one where each has σ_y·√3: Σ_c (y − x_c)²/(2·3σ_y²) = (y − x)²/(2σ_y²), grey x.
        A colour picture meets a grey prior channel by channel. RequestError for any other number of channels.
        """
        import torch

        own = self.shape[0]
        if channels not in (None, 1, 3):
            raise RequestError(f"expected a prior of 1 or 3 channels for pictures, got one of {channels}")
        fold: Fold | None = None if channels in (None, own) else "repeat" if own == 1 else "split"
        apart = {"mixes"} if fold == "repeat" else {"mixes", "chroma"}
        if fold and (apart & self.spec.traits or own not in (1, 3)):
            raise RequestError(
                f"{self.source.path}: the operator treats the channels of a picture unlike, so one of {own} needs a "
                f"prior of as many, got one of {channels}; give {'a picture in colour' if own == 1 else 'another'}"
            )
        noisy = self.sigma_y > 0
        y = torch.tensor(self.values[None])
        with about(self.source.path):
            y = quietly(lambda: self.spec.settled(y, self.shape, noisy))
            if fold:
                y = self.spec.folded(y, self.shape, fold)
            spec = self.spec.repeated() if fold == "repeat" else self.spec
            operator = quietly(lambda: spec.operator((channels or own, *self.shape[1:])))
        sigma_y, noise = self.sigma_y, self.noise
        if fold == "repeat":
            sigma_y, noise = min(1.0, sigma_y * 3**0.5), noise and noise.copied(3)
        return Problem(
            y=y,
            operator=operator,
            sigma_y=0.0 if noise else sigma_y,
            noise=noise.model() if noise else None,
            fold=fold,
            overhang=self.spec.overhang,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What `invdiff.restore` takes, and the way back from its samples to pictures."""

    y: Tensor
    operator: Operator
    sigma_y: float
    noise: operators.Noise | None
    """In place of sigma_y, where it is not Gaussian."""
    fold: Fold | None
    overhang: Size

    def pictures(self, samples: Tensor) -> Array:
        """(S, B, C, H, W) → (S, H, W, channels of the picture), not clipped, the overhang of a valid blur cut
        off.
        """
        if self.fold == "split":
            samples = samples.transpose(1, 2)
        one = samples[:, 0]
        if self.fold == "repeat":
            one = one.mean(dim=1, keepdim=True)
        array = one.detach().float().cpu().permute(0, 2, 3, 1).numpy()
        return cut(array, self.overhang)

    def seen(self) -> tuple[str, Array] | None:
        """Something to look at of a measurement that is no picture, and what it is; None where there is nothing."""
        from . import operators

        if isinstance(self.operator, operators.LinearOperator):
            dagger = self.operator.A_dagger
            return "pseudo-inverse of the measurement", self.pictures(quietly(lambda: dagger(self.y))[None])[
                0
            ]
        if isinstance(self.operator, operators.PhaseRetrieval):
            magnitude = self.y[0].mean(dim=0).clamp(min=0)  # noise can take one below
            decades = 1 + (magnitude / magnitude.max().clamp(min=1e-12)).log10() / 4
            centred = decades.clamp(min=0).roll([n // 2 for n in magnitude.shape], (0, 1))
            return "log magnitude, 4 decades", centred.numpy()
        return None


def cut(pictures: Array, overhang: Size) -> Array:
    """(..., H, W, C) without what only the blur has seen; a kernel's middle is at (h // 2, w // 2)."""
    height, width = pictures.shape[-3] - overhang[0], pictures.shape[-2] - overhang[1]
    top, left = overhang[0] // 2, overhang[1] // 2
    return pictures[..., top : top + height, left : left + width, :]


def align_reference(reference: Array, size: Size, spec: Spec) -> Array | None:
    """The reference (H, W, C) cut to a result's size; None where it cannot be the same picture.

    It may be larger by a valid blur's overhang, or smaller than an enlargement by less than the factor.
    """
    height, width = reference.shape[:2]
    if (height - size[0], width - size[1]) == spec.overhang:
        return cut(reference, spec.overhang)
    if 0 <= size[0] - height < spec.reduction and 0 <= size[1] - width < spec.reduction:
        return reference
    return None


def quietly(build: Callable[[], Any]) -> Any:
    """What an operator warns of (a mask that keeps everything) has been said before, in better words."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return build()
