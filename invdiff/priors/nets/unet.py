"""A convolutional UNet for any image size.

No attention and no normalisation over the image: both make the answer at one pixel depend on the size of the
whole picture. Channels are normalised per pixel instead, so a pixel sees its receptive field and nothing
else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoiseEmbedding(nn.Module):
    """A scalar per image, (B,) → (B, width): sines and cosines of it through a two-layer perceptron."""

    frequencies: Tensor

    def __init__(self, width: int, frequencies: int = 16) -> None:
        super().__init__()
        octaves = torch.linspace(-3, 3, frequencies)
        self.register_buffer("frequencies", math.pi * 2.0**octaves, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise[:, None] * self.frequencies.to(c_noise)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1))


class Block(nn.Module):
    """x + conv(SiLU(conv(scale · norm(x) + shift))), scale and shift from the noise level."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _zero(self.modulation)
        _zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].to(x.dtype).chunk(2, dim=1)
        h = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
        h = torch.addcmul(shift, h, 1 + scale)
        return x + self.conv2(F.silu(self.conv1(h)))


class UNet(nn.Module):
    """F(x, c_noise): (B, C, H, W), (B,) → (B, C, H, W), for H and W any multiple of `multiple`.

    The picture is folded `fold`-fold into channels first (pixel-unshuffle: on a CPU most of the time would
    go to the full resolution otherwise). Level i has `widths[i]` channels, half the resolution of the level
    before, and `blocks[i]` residual blocks on the way down and as many on the way up; skips are added, not
    concatenated.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (96, 128, 192),
        blocks: Sequence[int] = (2, 2, 2),
        fold: int = 2,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        widths, blocks = list(widths), list(blocks)
        numbers = [*widths, *blocks, channels, fold, embedding]
        if not widths or len(widths) != len(blocks) or min(numbers) < 1:
            raise ValueError(
                "UNet: expected positive numbers, and a width for each number of blocks, got "
                f"channels {channels}, widths {widths}, blocks {blocks}, fold {fold}, embedding {embedding}"
            )
        self.channels, self.fold, self.multiple = channels, fold, fold * 2 ** (len(widths) - 1)
        self.config: dict[str, Any] = {
            "channels": channels,
            "widths": widths,
            "blocks": blocks,
            "fold": fold,
            "embedding": embedding,
        }
        self.embedding = NoiseEmbedding(embedding)
        folded = channels * fold**2
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down = _stages(widths, blocks, embedding)
        self.up = _stages(widths, blocks, embedding)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.head = nn.Conv2d(widths[0], folded, 3, padding=1)
        _zero(self.head)

    @staticmethod
    def weights_at_least(
        channels: int, widths: Sequence[int], blocks: Sequence[int], fold: int, embedding: int
    ) -> int:
        """A lower bound on a network's number of weights, before any memory is taken for it."""
        ends = 18 * channels * fold**2 * widths[0] + embedding**2
        return ends + sum(36 * n * width**2 for width, n in zip(widths, blocks, strict=True))

    @property
    def halo(self) -> int:
        """Pixels on each side that can influence a pixel: a bound, from the layers' own reach.

        A window whose corner lies on a multiple of `multiple` has the whole picture's F this far from its
        border.
        """
        reach = 2 * self.fold  # stem and head, one folded pixel each
        for level, n in enumerate(self.config["blocks"]):
            scale = self.fold * 2**level
            reach += 4 * n * scale + (2 * scale if level else 0)
        return reach + self.multiple

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        e = self.embedding(c_noise)
        h = self.stem(F.pixel_unshuffle(x, self.fold))
        skips: list[Tensor] = []
        for level, stage in enumerate(self.down):
            for block in cast(nn.ModuleList, stage):
                h = block(h, e)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                h = skips.pop() + F.pixel_shuffle(self.grow[level](h), 2)
            for block in cast(nn.ModuleList, self.up[level]):
                h = block(h, e)
        return F.pixel_shuffle(self.head(h), self.fold)


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    """So that a block begins as the identity, and the network as F = 0, which is D = c_skip·x."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _stages(widths: Sequence[int], blocks: Sequence[int], embedding: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.ModuleList(Block(width, embedding) for _ in range(n))
        for width, n in zip(widths, blocks, strict=True)
    )
