"""What the networks here are made of: the noise level's and label's embedding, residual blocks, self-attention."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

HEAD_WIDTH = 32
"""Channels of an attention head in a `Block`, or more where the width is no multiple."""


class Conv2d(nn.Conv2d):
    """torch's; frozen, it keeps no input for the backward pass, which asks for the weights alone.

    torch's keeps it all the same: half of what a network's `Block`s keep of each pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        frozen = not self.weight.requires_grad and (self.bias is None or not self.bias.requires_grad)
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if not (frozen and plain and x.requires_grad and torch.is_grad_enabled()):
            return super().forward(x)
        how = self.stride, self.padding, self.dilation, self.groups
        return cast(Tensor, _Frozen.apply(x, self.weight, self.bias, how))


class _Frozen(torch.autograd.Function):
    """F.conv2d(x, weight, bias, *how) as a function of x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...]) -> Tensor:
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.how = inputs
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.save_for_backward(weight)
        ctx.save_for_forward(weight)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        slope, (weight,) = slopes[0], ctx.saved_tensors
        gradient = conv2d_input(ctx.shape, weight.to(slope.dtype), slope, *ctx.how)
        return gradient.to(ctx.dtype), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return F.conv2d(tangent, ctx.saved_tensors[0], None, *ctx.how)


class NoiseEmbedding(nn.Module):
    """A scalar per image, (B,) → (B, width): sines and cosines of it through a two-layer perceptron.

    The scalar should be of order one, as EDM's c_noise is; a clock that counts to 1000 is to be scaled to [0, 1].
    classes: rows of a table, one more for "no label", are added before the last SiLU. labels (B,) int64, 0 … classes;
    None: no label. ValueError for labels where there are no classes.
    """

    frequencies: Tensor

    def __init__(self, width: int, frequencies: int = 16, classes: int = 0) -> None:
        super().__init__()
        octaves = torch.linspace(-3, 3, frequencies)
        self.register_buffer("frequencies", math.pi * 2.0**octaves, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.labels = nn.Embedding(classes + 1, width) if classes else None
        if self.labels is not None:  # as large as what they are added to
            nn.init.normal_(self.labels.weight, std=0.3)

    def forward(self, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        angle = c_noise[:, None] * self.frequencies.to(c_noise)
        widen, bend, mix, last = self.mlp
        h = mix(bend(widen(torch.cat([angle.cos(), angle.sin()], dim=1))))
        if self.labels is not None:
            if labels is None:
                labels = torch.full((len(h),), self.labels.num_embeddings - 1, device=h.device)
            h = h + self.labels(labels).to(h.dtype)
        elif labels is not None:
            raise ValueError("labels: this network knows no classes")
        return last(h)


class SelfAttention(nn.Module):
    """softmax(q·kᵀ/√d)·v over tokens, (B, N, width) → (B, N, width) (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).

    fused: torch's own kernel, which keeps no N×N matrix and has no second derivative; else the formula as it stands.
    """

    def __init__(self, width: int, heads: int, *, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))


class PixelAttention(nn.Module):
    """x + attention(norm(x)) over all pixels; x (B, C, H, W). Begins as the identity."""

    def __init__(self, channels: int, *, fused: bool = True) -> None:
        super().__init__()
        most = max(channels // HEAD_WIDTH, 1)
        heads = next(n for n in range(most, 0, -1) if channels % n == 0)
        self.attend = SelfAttention(channels, heads, fused=fused)
        zero(self.attend.out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2])  # no copy where x is channels-last
        mixed = self.attend(tokens.flatten(1, 2)).view(tokens.shape)
        return x + mixed.permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + conv(dropout(SiLU(conv(scale · norm(x) + shift)))), scale and shift from the embedding; then attention.

    An embedding of one row is that of every picture; normalising, scaling and shifting are then one pass over x.
    """

    def __init__(
        self,
        channels: int,
        embedding: int,
        dropout: float = 0.0,
        *,
        attention: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)
        zero(self.modulation)
        zero(self.conv2)
        self.attention = PixelAttention(channels, fused=fused) if attention else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).to(x.dtype).chunk(2, dim=1)
        pixels = x.permute(0, 2, 3, 1)
        if len(embedding) == 1:
            h = F.layer_norm(pixels, x.shape[1:2], 1 + scale[0], shift[0]).permute(0, 3, 1, 2)
        else:
            h = F.layer_norm(pixels, x.shape[1:2]).permute(0, 3, 1, 2)
            h = torch.addcmul(shift[:, :, None, None], h, 1 + scale[:, :, None, None])
        h = self.conv1(h)
        h = F.silu(h, inplace=not torch.is_grad_enabled())
        if self.training and self.dropout:
            h = F.dropout(h, self.dropout)
        x = self.conv2(h).add_(x)  # no backward pass asks for what a convolution gave
        return x if self.attention is None else self.attention(x)


def zero(layer: nn.Conv2d | nn.Linear) -> None:
    """So that a block begins as the identity, and the network as F = 0, which is D = c_skip·x."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def stages(
    widths: Sequence[int],
    blocks: Sequence[int],
    embedding: int,
    dropout: float = 0.0,
    attention: Collection[int] = (),
    *,
    fused: bool = True,
) -> nn.ModuleList:
    """Level i: blocks[i] of `Block` with widths[i] channels, with attention where i is in `attention`."""
    return nn.ModuleList(
        nn.ModuleList(
            Block(width, embedding, dropout, attention=level in attention, fused=fused) for _ in range(n)
        )
        for level, (width, n) in enumerate(zip(widths, blocks, strict=True))
    )


def descend(down: nn.ModuleList, shrink: nn.ModuleList, h: Tensor, e: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Through the levels, each half the resolution of the one before: the last level's h, and the others'."""
    skips: list[Tensor] = []
    for level, stage in enumerate(down):
        for block in cast(nn.ModuleList, stage):
            h = block(h, e)
        if level < len(shrink):
            skips.append(h)
            h = shrink[level](h)
    return h, skips


def check_levels(
    who: str,
    numbers: dict[str, int],
    widths: Sequence[int],
    blocks: Sequence[int],
    attention: Sequence[int],
    dropout: float,
    classes: int,
) -> None:
    """ValueError where no network of levels can have this shape."""
    if not widths or len(widths) != len(blocks) or min([*widths, *blocks, *numbers.values()]) < 1:
        others = ", ".join(f"{name} {value}" for name, value in numbers.items())
        raise ValueError(
            f"{who}: expected positive numbers, and a width for each number of blocks, got "
            f"widths {list(widths)}, blocks {list(blocks)}, {others}"
        )
    if any(level not in range(len(widths)) for level in attention):
        raise ValueError(
            f"{who}: attention: expected levels from 0 (the finest) to {len(widths) - 1}, got {list(attention)}"
        )
    check_dropout_and_classes(who, dropout, classes)


def check_dropout_and_classes(who: str, dropout: float, classes: int) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"{who}: dropout: expected a share of at least 0 and less than 1, got {dropout}")
    if classes < 0:
        raise ValueError(f"{who}: classes: expected a number of classes, 0 for none, got {classes}")


def check_condition(who: str, condition: int) -> None:
    if condition < 0:
        raise ValueError(f"{who}: condition: expected a number of channels, 0 for none, got {condition}")
