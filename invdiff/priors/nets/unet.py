"""A convolutional UNet for any image size.

No attention unless asked for, and no normalisation over the image: both make the answer at one pixel depend on the
size of the whole picture. Channels are normalised per pixel instead, so a pixel sees its receptive field and nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.nets.blocks import (
    Conv2d,
    NoiseEmbedding,
    check_condition,
    check_levels,
    descend,
    stages,
    zero,
)


class UNet(nn.Module):
    """F(x, c_noise): (B, C, H, W), (B,) → (B, C, H, W), for H and W any multiple of `multiple`.

    The picture is folded `fold`-fold into channels first (pixel-unshuffle: on a CPU most of the time would
    go to the full resolution otherwise). Level i has `widths[i]` channels, half the resolution of the level
    before, and `blocks[i]` residual blocks on the way down and as many on the way up; skips are added, not
    concatenated.

    attention: levels, 0 the finest, whose blocks are each followed by self-attention over all pixels
    (`attention_levels` finds those of a size). classes: labels 0 … classes − 1 and, as label `classes` or None, "no
    label": F(x, c_noise, labels), labels (B,). variance: 2C channels come back, the first C of them F, for a learned
    variance (Nichol & Dhariwal 2021, arXiv:2102.09672). condition: so many channels that it is shown follow x's,
    F: (B, C + condition, H, W) → (B, C, H, W) (Saharia et al. 2021, arXiv:2104.07636). ValueError for a shape that
    cannot be.

    c_noise and labels of one row are those of every picture: `one_row`.
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
        condition: int = 0,
    ) -> None:
        super().__init__()
        widths, blocks, attention = list(widths), list(blocks), sorted(set(attention))
        numbers = {"channels": channels, "fold": fold, "embedding": embedding}
        check_levels("UNet", numbers, widths, blocks, attention, dropout, classes)
        check_condition("UNet", condition)
        self.channels, self.fold, self.multiple = channels, fold, fold * 2 ** (len(widths) - 1)
        self.classes, self.variance, self.condition = classes, variance, condition
        self.config: dict[str, Any] = {
            "channels": channels,
            "widths": widths,
            "blocks": blocks,
            "fold": fold,
            "embedding": embedding,
            "attention": attention,
            "dropout": dropout,
            "classes": classes,
            "variance": variance,
            "condition": condition,
        }
        self.embedding = NoiseEmbedding(embedding, classes=classes)
        folded = channels * fold**2
        self.stem = Conv2d(folded + condition * fold**2, widths[0], 3, padding=1)
        self.down = stages(widths, blocks, embedding, dropout, attention)
        self.up = stages(widths, blocks, embedding, dropout, attention)
        self.shrink = nn.ModuleList(Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.head = Conv2d(widths[0], (2 if variance else 1) * folded, 3, padding=1)
        zero(self.head)

    @staticmethod
    def weights_at_least(
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        fold: int,
        embedding: int,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
        classes: int = 0,
        variance: bool = False,
        condition: int = 0,
    ) -> int:
        """A lower bound on a network's number of weights, before any memory is taken for it."""
        ends = 18 * channels * fold**2 * widths[0] + embedding**2 + classes * embedding
        ends += 8 * sum(blocks[level] * widths[level] ** 2 for level in set(attention))
        return ends + sum(36 * n * width**2 for width, n in zip(widths, blocks, strict=True))

    @property
    def halo(self) -> int | None:
        """Pixels on each side that can influence a pixel: a bound, from the layers' own reach. None with attention.

        A window whose corner lies on a multiple of `multiple` has the whole picture's F this far from its
        border.
        """
        if self.config["attention"]:
            return None
        reach = 2 * self.fold  # stem and head, one folded pixel each
        for level, n in enumerate(self.config["blocks"]):
            scale = self.fold * 2**level
            reach += 4 * n * scale + (2 * scale if level else 0)
        return reach + self.multiple

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        e = self.embedding(c_noise, labels)
        return self.ascend(*self.descend(x, e), e)

    def descend(self, x: Tensor, e: Tensor, beside: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The lowest level's features, and the skips of those above. beside: is added behind the stem."""
        h = self.stem(F.pixel_unshuffle(x, self.fold))
        return descend(self.down, self.shrink, h if beside is None else h + beside, e)

    def ascend(self, h: Tensor, skips: list[Tensor], e: Tensor) -> Tensor:
        """F of what `descend` found; e: the embedding of noise level and label. The list is used up."""
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                h = skips.pop() + F.pixel_shuffle(self.grow[level](h), 2)
            for block in cast(nn.ModuleList, self.up[level]):
                h = block(h, e)
        return F.pixel_shuffle(self.head(h), self.fold)


def attention_levels(sizes: Sequence[int], *, size: int, fold: int, levels: int) -> list[int]:
    """The levels at which a picture of `size` pixels is `sizes` pixels wide. ValueError for a size it never is."""
    sides = [size // (fold * 2**level) for level in range(levels)]
    for wanted in sizes:
        if wanted not in sides:
            raise ValueError(f"attention: expected among {sides}, the levels' sizes of {size}, got {wanted}")
    return sorted({sides.index(wanted) for wanted in sizes})
