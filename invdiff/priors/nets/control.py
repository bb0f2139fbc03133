"""ControlNet (Zhang et al. 2023, arXiv:2302.05543): a frozen prior, and a copy of its encoder that is shown y."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.nets.blocks import Conv2d, zero
from invdiff.priors.nets.unet import UNet


class ControlNet(nn.Module):
    """F(x, c_noise): (B, C + condition, H, W), (B,) → (B, C, H, W): the last `condition` channels are what it is shown.

    `base`, a `UNet` of the other arguments, is frozen. `copy`, as its encoder, has what is shown added behind its stem
    by a convolution of zeros, and adds to the base's skips and to its lowest level by others: so at first F is the
    base's (figure 3 of the paper). ValueError for a shape that cannot be.
    """

    one_row = True

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (96, 128, 192),
        blocks: Sequence[int] = (2, 2, 2),
        fold: int = 2,
        embedding: int = 128,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
        classes: int = 0,
        variance: bool = False,
        condition: int = 3,
    ) -> None:
        super().__init__()
        if condition < 1:
            raise ValueError(f"ControlNet: condition: expected channels that it is shown, got {condition}")
        shape: tuple[Any, ...] = (
            channels,
            widths,
            blocks,
            fold,
            embedding,
            attention,
            dropout,
            classes,
            variance,
        )
        self.base, self.copy = UNet(*shape), UNet(*shape)
        del self.copy.up, self.copy.grow, self.copy.head
        self.channels, self.fold, self.multiple = channels, fold, self.base.multiple
        self.classes, self.variance, self.condition = classes, variance, condition
        self.config: dict[str, Any] = {**self.base.config, "condition": condition}
        widths = self.base.config["widths"]
        self.hint = Conv2d(condition * fold**2, widths[0], 3, padding=1)
        self.join = nn.ModuleList(Conv2d(width, width, 1) for width in widths)
        for layer in (self.hint, *self.join):
            zero(layer)
        self.base.requires_grad_(False)

    @staticmethod
    def weights_at_least(condition: int, **shape: Any) -> int:
        """A lower bound on a network's number of weights, before any memory is taken for it."""
        return UNet.weights_at_least(**shape)

    @property
    def halo(self) -> int | None:
        return None if self.base.halo is None else self.base.halo + 2 * self.fold

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """The base's and the copy's weights: those of a prior. RuntimeError where they are of another shape."""
        self.base.load_state_dict(weights)
        own = self.copy.state_dict()
        self.copy.load_state_dict({name: weights[name] for name in own})

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        x, shown = x[:, : self.channels], x[:, self.channels :]
        e, own = self.base.embedding(c_noise, labels), self.copy.embedding(c_noise, labels)
        h, skips = self.base.descend(x, e)
        beside = self.hint(F.pixel_unshuffle(shown, self.fold))
        low, others = self.copy.descend(x, own, beside)
        *joins, last = self.join
        skips = [skip + join(other) for skip, join, other in zip(skips, joins, others, strict=True)]
        return self.base.ascend(h + last(low), skips, e)
