"""Phase retrieval, and what its measurements cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import Operator, Shape, by, image_shape, wide

_LOST = 1e-4  # of an image's energy, that a translation may push out of the picture


@dataclass(frozen=True, eq=False, repr=False)
class PhaseRetrieval(Operator):
    """y = |F P x|: the magnitude of the Fourier transform of each channel, padded by zeros.

    shape: (C, H, W). P pads to ceil(oversampling · size) on both axes, oversampling ≥ 1; F is orthonormal, so that
    ‖y‖ = ‖x‖ and noise of σ_y per number is comparable with that of an image. y: (C, H', W'), zero frequency first.
    Magnitudes, as DPS and DAPS measure them (what their code calls oversampling 2 pads 256 to 384 pixels: 1.5 here);
    deepinv's physics square theirs. The derivative of |z| at z = 0 is taken as 0.

    x turned by 180°, −x, and x moved where that pushes nothing out of the picture measure the same, each channel on
    its own: `align` undoes it. Solutions differ from start to start: the field reports the `best_of` several.
    ValueError for an oversampling below 1.
    """

    shape: Shape
    oversampling: float = 2.0

    def __post_init__(self) -> None:
        channels, height, width = shape = image_shape(self.shape)
        if not 1 <= self.oversampling < inf:
            raise ValueError(
                f"oversampling: expected a number from 1 up, got {self.oversampling}; 2 is usual"
            )
        padded = [ceil(round(self.oversampling * size, 6)) for size in (height, width)]  # 1.1 · 10 is 11
        vars(self).update(shape=shape, in_shape=shape, out_shape=(channels, *padded))

    def describe(self) -> str:
        return f"PhaseRetrieval(oversampling {self.oversampling:g}, {by(*self.shape)})"

    def A(self, x: Tensor) -> Tensor:
        padded = torch.fft.fft2(wide(self._image(x)), s=self.out_shape[1:], norm="ortho")
        return padded.abs().to(x)


def align(x: Tensor, reference: Tensor, operator: PhaseRetrieval | None = None) -> Tensor:
    """x with what a Fourier magnitude cannot tell set as in the reference: turn by 180°, sign and translation.

    x, reference: (B, C, H, W). Each channel becomes, of all that measure the same, the one nearest to the reference.
    A translation is one of them where all but 0.01 % of the energy stays in the picture, on the padded grid of the
    operator (twice the size where none is given). So pictures with black borders have some, others none; without
    padding, at oversampling 1, they are circular and all allowed.

    For scores against a known truth only. ValueError where shapes differ.
    """
    if x.ndim != 4 or x.shape != reference.shape:
        raise ValueError(
            f"align: expected x and reference (B, C, H, W) alike, got {tuple(x.shape)} and {tuple(reference.shape)}"
        )
    if operator is None:
        operator = PhaseRetrieval(image_shape(tuple(x.shape[1:])))
    (_, height, width), grid = operator.in_shape, operator.out_shape[1:]
    given, wanted = wide(operator._image(x)), wide(reference)
    turned = torch.stack((given, given.flip(-2, -1)), dim=2)

    def overlap(a: Tensor, b: Tensor) -> Tensor:
        """⟨a moved by s, b⟩ for every s of the grid, (B, C, 2, H', W')."""
        return torch.fft.irfft2(torch.fft.rfft2(a, s=grid).conj() * torch.fft.rfft2(b, s=grid), s=grid)

    agreement = overlap(turned, wanted.unsqueeze(2))
    energy = turned.square()
    inside = overlap(energy, energy.new_ones(height, width))
    kept = inside >= (1 - _LOST) * energy.sum((-2, -1), keepdim=True)
    best = torch.where(kept, agreement.abs(), -1).flatten(2).argmax(-1)
    right, down = best % grid[1], best // grid[1] % grid[0]
    sign = agreement.flatten(2).gather(2, best.unsqueeze(-1)).unsqueeze(-1)
    rows = (torch.arange(height, device=x.device) - down.unsqueeze(-1)) % grid[0]
    columns = (torch.arange(width, device=x.device) - right.unsqueeze(-1)) % grid[1]
    image = torch.where((best < grid[0] * grid[1])[..., None, None], turned[:, :, 0], turned[:, :, 1])
    moved = pad(image, (0, grid[1] - width, 0, grid[0] - height))
    moved = moved.take_along_dim(rows.unsqueeze(-1), dim=2).take_along_dim(columns.unsqueeze(-2), dim=3)
    return torch.where(sign < 0, -moved, moved).to(x)


def best_of(samples: Tensor, y: Tensor, operator: Operator) -> Tensor:
    """Which sample of each image fits its measurement best, argmin_s ‖y − A(samples[s])‖, (B,).

    samples: (S, B, C, H, W); y: (B, *out_shape). By the measurement alone, as who does not know the truth must choose;
    not finite never wins. The images: samples[best_of(...), torch.arange(B)]. ValueError where shapes differ.
    """
    if samples.ndim != 5 or samples.shape[1] != len(y) or not len(samples):
        raise ValueError(
            f"best_of: expected samples (S, B, C, H, W) and y (B, ...), got {tuple(samples.shape)} and {tuple(y.shape)}"
        )
    if samples.shape[2:] != operator.in_shape or y.shape[1:] != operator.out_shape:
        raise ValueError(
            f"best_of: expected samples of {by(*operator.in_shape)} and y of {by(*operator.out_shape)}, "
            f"got {by(*samples.shape[2:])} and {by(*y.shape[1:])}"
        )
    misfit = torch.stack([(y - operator.A(one)).flatten(1).norm(dim=1) for one in samples])
    return misfit.nan_to_num(inf, posinf=inf).argmin(0)
