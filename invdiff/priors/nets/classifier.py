"""A classifier of noisy pictures: the way down of the UNet, then the mean over all pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.nets.blocks import Conv2d, NoiseEmbedding, check_levels, descend, stages, zero


class Classifier(nn.Module):
    """Logits of p(c | x_σ), (B, C, H, W), (B,) → (B, classes), for H and W any multiple of `multiple`.

    For classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4), which differentiates it: it can be
    differentiated twice, with attention too. fold, widths, blocks, embedding, attention, dropout: as of `UNet`.
    ValueError for a shape that cannot be.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 96),
        blocks: Sequence[int] = (1, 1, 1),
        fold: int = 2,
        embedding: int = 64,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths, blocks, attention = list(widths), list(blocks), sorted(set(attention))
        numbers = {"classes": classes, "channels": channels, "fold": fold, "embedding": embedding}
        check_levels("Classifier", numbers, widths, blocks, attention, dropout, classes)
        self.channels, self.classes, self.fold = channels, classes, fold
        self.multiple = fold * 2 ** (len(widths) - 1)
        self.config: dict[str, Any] = {
            "classes": classes,
            "channels": channels,
            "widths": widths,
            "blocks": blocks,
            "fold": fold,
            "embedding": embedding,
            "attention": attention,
            "dropout": dropout,
        }
        self.embedding = NoiseEmbedding(embedding)
        self.stem = Conv2d(channels * fold**2, widths[0], 3, padding=1)
        self.down = stages(widths, blocks, embedding, dropout, attention, fused=False)
        self.shrink = nn.ModuleList(Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)
        zero(self.head)

    @staticmethod
    def weights_at_least(
        classes: int,
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        fold: int,
        embedding: int,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> int:
        """A lower bound on a network's number of weights, before any memory is taken for it."""
        ends = 9 * channels * fold**2 * widths[0] + embedding**2 + classes * widths[-1]
        ends += 4 * sum(blocks[level] * widths[level] ** 2 for level in set(attention))
        return ends + sum(18 * n * width**2 for width, n in zip(widths, blocks, strict=True))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        e = self.embedding(c_noise)
        h, _ = descend(self.down, self.shrink, self.stem(F.pixel_unshuffle(x, self.fold)), e)
        pixels = F.layer_norm(h.permute(0, 2, 3, 1), h.shape[1:2])
        return self.head(F.silu(pixels).mean(dim=(1, 2)))
