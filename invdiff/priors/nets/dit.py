"""A transformer over patches (DiT: Peebles & Xie 2023, arXiv:2212.09748), on pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.nets.blocks import (
    NoiseEmbedding,
    SelfAttention,
    check_condition,
    check_dropout_and_classes,
    zero,
)

MLP_RATIO = 4


class DiTBlock(nn.Module):
    """x + α₁·attention(γ₁·norm(x) + β₁), then x + α₂·mlp(γ₂·norm(x) + β₂); α, β, γ from the embedding, α = 0 at first.

    x (B, N, width), embedding (B, width): adaLN-Zero, figure 3 of the paper.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.modulation = nn.Linear(width, 6 * width)
        self.attend = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(MLP_RATIO * width, width),
        )
        for layer in (self.attend.qkv, self.attend.out, self.mlp[0], self.mlp[2]):
            _xavier(layer)
        zero(self.modulation)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        parts = self.modulation(embedding)[:, None].to(x.dtype).chunk(6, dim=2)
        for part, (shift, scale, gate) in ((self.attend, parts[:3]), (self.mlp, parts[3:])):
            h = part(_modulated(x, shift, scale))
            if self.training and self.dropout:
                h = F.dropout(h, self.dropout)
            x = torch.addcmul(x, gate, h)
        return x


class DiT(nn.Module):
    """F(x, c_noise): (B, C, H, W), (B,) → (B, C, H, W), for H and W any multiple of `multiple`, the patch.

    Positions are sines and cosines of row and column, counted in patches, and computed for the size at hand, so that
    any size runs; but what it learned is of one size, `size`, which belongs in its card. classes, variance, condition:
    as of `UNet`. dropout: of what attention and perceptron add. ValueError for a shape that cannot be.
    """

    def __init__(
        self,
        channels: int = 3,
        size: int = 64,
        patch: int = 4,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        dropout: float = 0.0,
        classes: int = 0,
        variance: bool = False,
        condition: int = 0,
    ) -> None:
        super().__init__()
        if min(channels, size, patch, width, depth, heads) < 1 or size % patch:
            raise ValueError(
                "DiT: expected positive numbers and a size that is a multiple of the patch, got "
                f"channels {channels}, size {size}, patch {patch}, width {width}, depth {depth}, heads {heads}"
            )
        if width % heads or width % 4:
            raise ValueError(f"DiT: expected a width that 4 and {heads} heads divide, got {width}")
        check_dropout_and_classes("DiT", dropout, classes)
        check_condition("DiT", condition)
        self.channels, self.size, self.multiple = channels, size, patch
        self.classes, self.variance, self.condition = classes, variance, condition
        self.config: dict[str, Any] = {
            "channels": channels,
            "size": size,
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": heads,
            "dropout": dropout,
            "classes": classes,
            "variance": variance,
            "condition": condition,
        }
        self.embedding = NoiseEmbedding(width, classes=classes)
        self.stem = nn.Linear((channels + condition) * patch**2, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, dropout) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, (2 if variance else 1) * channels * patch**2)
        _xavier(self.stem)
        zero(self.modulation)
        zero(self.head)

    @staticmethod
    def weights_at_least(
        channels: int,
        size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        classes: int = 0,
        variance: bool = False,
        condition: int = 0,
    ) -> int:
        """A lower bound on a network's number of weights, before any memory is taken for it."""
        return (6 + 4 + 2 * MLP_RATIO) * depth * width**2 + (2 * channels * patch**2 + classes) * width

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        e = self.embedding(c_noise, labels)
        folded = F.pixel_unshuffle(x, self.multiple).permute(0, 2, 3, 1)
        rows, columns = folded.shape[1:3]
        h = self.stem(folded.flatten(1, 2))
        h = h + sines_of_positions(rows, columns, h.shape[2], h.device).to(h.dtype)
        for block in self.blocks:
            h = block(h, e)
        shift, scale = self.modulation(e)[:, None].to(h.dtype).chunk(2, dim=2)
        h = self.head(_modulated(h, shift, scale))
        return F.pixel_shuffle(h.unflatten(1, (rows, columns)).permute(0, 3, 1, 2), self.multiple)


def sines_of_positions(rows: int, columns: int, width: int, device: torch.device | None = None) -> Tensor:
    """(rows·columns, width), row by row: sin and cos of the row in the first half of the channels, of the column in
    the second, at frequencies 10000^(−4k/width) (Vaswani et al. 2017, section 3.5, in two dimensions)."""
    k = torch.arange(width // 4, device=device)
    of_row, of_column = (
        torch.arange(n, device=device)[:, None] * 10000 ** (-4 / width * k) for n in (rows, columns)
    )
    row, column = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in (of_row, of_column))
    return torch.cat([row[:, None].expand(-1, columns, -1), column.expand(rows, -1, -1)], dim=2).flatten(0, 1)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def _xavier(layer: nn.Module) -> None:
    """The paper's own initialisation, of a linear layer."""
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
