"""The UNet of guided-diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3; ADM), with its weights' names.

No installed library builds it from its shape: deepinv's DiffUNet is two fixed ones without classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.errors import RequestError
from invdiff.priors.nets.blocks import Conv2d


class Resample(nn.Module):
    """Half the size by averaging, or twice by repeating; with a convolution (stride 2, or after) if it has channels."""

    def __init__(self, way: Literal["up", "down"], channels: int = 0) -> None:
        super().__init__()
        self.way = way
        if channels and way == "down":
            self.op = Conv2d(channels, channels, 3, stride=2, padding=1)
        elif channels:
            self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "down":
            return self.op(x) if hasattr(self, "op") else F.avg_pool2d(x, 2)
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if hasattr(self, "conv") else x


class ResBlock(nn.Module):
    """skip(x) + conv(SiLU(norm(conv(SiLU(norm(x)))) modulated by the embedding)), resampled before its first conv."""

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        scale_shift: bool,
        way: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = Resample(way) if way else nn.Identity()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out if scale_shift else out))
        self.out_layers = nn.Sequential(  # the identity stands where training had its dropout
            nn.GroupNorm(32, out), nn.SiLU(), nn.Identity(), Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out else Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(self.resample(act(norm(x))))
        told = self.emb_layers(embedding)[:, :, None, None].to(h.dtype)
        norm, act, _, conv = self.out_layers
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = torch.addcmul(shift, norm(h), 1 + scale)
        else:
            h = norm(h + told)
        return self.skip_connection(self.resample(x)) + conv(act(h))


class Attention(nn.Module):
    """x + attention over all pixels. legacy: q, k, v lie together for each head, else all q before all k and all v."""

    def __init__(self, channels: int, heads: int, legacy: bool) -> None:
        super().__init__()
        self.heads, self.legacy = heads, legacy
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm(x).flatten(2)
        split = (self.heads, 3, -1) if self.legacy else (3, self.heads, -1)
        qkv = self.qkv(flat).unflatten(1, split).transpose(-1, -2)
        q, k, v = qkv.unbind(2 if self.legacy else 1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)
        return x + self.proj_out(mixed).view_as(x)


class ADM(nn.Module):
    """F(x, t) or, with classes, F(x, t, labels): (B, C, H, W), (B,), (B,) → (B, outputs, H, W).

    H and W are multiples of `multiple`. Level i has `mults[i]`·`width` channels, `blocks` residual blocks on the way
    down and one more on the way up, and attention where `attention[i]` says so, with `heads` heads or, where that is 0,
    heads of `head_channels`. All numbers of channels are multiples of 32.
    """

    def __init__(
        self,
        channels: int = 3,
        outputs: int = 6,
        width: int = 128,
        mults: Sequence[float] = (1, 1, 2, 2, 4, 4),
        blocks: int = 1,
        attention: Sequence[bool] = (False, False, False, False, True, False),
        heads: int = 0,
        head_channels: int = 64,
        legacy: bool = True,
        scale_shift: bool = True,
        residual_resampling: bool = True,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "channels": channels,
            "outputs": outputs,
            "width": width,
            "mults": list(mults),
            "blocks": blocks,
            "attention": list(attention),
            "heads": heads,
            "head_channels": head_channels,
            "legacy": legacy,
            "scale_shift": scale_shift,
            "residual_resampling": residual_resampling,
            "classes": classes,
        }
        widths = [int(mult * width) for mult in mults]
        if not widths or len(widths) != len(attention) or min(*widths, width, blocks) < 1:
            raise ValueError(
                "ADM: expected positive numbers, and attention or not for each of mults, got "
                f"width {width}, mults {list(mults)}, blocks {blocks}, attention {list(attention)}"
            )
        self.channels, self.classes, self.width = channels, classes, width
        self.multiple = 2 ** (len(widths) - 1)
        embedding = 4 * width

        def block(channels: int, out: int, level: int, attends: bool) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(channels, out, embedding, scale_shift)]
            if attends:
                layers.append(Attention(out, heads or out // head_channels, legacy))
            return layers

        def resample(channels: int, way: Literal["up", "down"]) -> nn.Module:
            if residual_resampling:
                return ResBlock(channels, channels, embedding, scale_shift, way)
            return Resample(way, channels)

        self.time_embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if classes:
            # at first no label tells anything; the usual random table takes seconds on the meta device
            self.label_emb = nn.Embedding.from_pretrained(torch.zeros(classes, embedding), freeze=False)
        at = widths[0]
        down: list[list[nn.Module]] = [[Conv2d(channels, at, 3, padding=1)]]
        skips = [at]
        for level, out in enumerate(widths):
            for _ in range(blocks):
                down.append(block(at, out, level, attention[level]))
                at = out
                skips.append(at)
            if level < len(widths) - 1:
                down.append([resample(at, "down")])
                skips.append(at)
        self.input_blocks = _lists(down)
        self.middle_block = nn.ModuleList(
            [*block(at, at, -1, True), ResBlock(at, at, embedding, scale_shift)]
        )
        up: list[list[nn.Module]] = []
        for level in reversed(range(len(widths))):
            for i in range(blocks + 1):
                layers = block(at + skips.pop(), widths[level], level, attention[level])
                at = widths[level]
                if level and i == blocks:
                    layers.append(resample(at, "up"))
                up.append(layers)
        self.output_blocks = _lists(up)
        self.out = nn.Sequential(nn.GroupNorm(32, at), nn.SiLU(), Conv2d(widths[0], outputs, 3, padding=1))

    @staticmethod
    def weights_at_least(width: int, mults: Sequence[float], blocks: int, **_: Any) -> int:
        """A lower bound on a network's number of weights, before any memory is taken for it."""
        return 16 * width**2 + sum(2 * 18 * blocks * int(mult * width) ** 2 for mult in mults)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self.time_embed(waves(t, self.width))
        if self.classes:
            embedding = embedding + self.label_emb(self._known(labels))
        h, skips = x, []
        for layers in self.input_blocks:
            h = _run(layers, h, embedding)
            skips.append(h)
        h = _run(self.middle_block, h, embedding)
        for layers in self.output_blocks:
            h = _run(layers, torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)

    def _known(self, labels: Tensor | None) -> Tensor:
        if labels is None or (labels >= self.classes).any():
            raise RequestError(
                f"this network was never trained without a label: give one of 0 to {self.classes - 1} "
                "(prior.given(label), or --label), and no guidance"
            )
        return labels


def waves(t: Tensor, width: int) -> Tensor:
    """(B,) → (B, width): cosines, then sines of t at frequencies from 1 down to 1/10000, that one left out."""
    half = width // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    angle = t[:, None].float() * torch.exp(-math.log(10000) / half * steps)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _lists(rows: Iterable[Iterable[nn.Module]]) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleList(row) for row in rows)


def _run(layers: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    for layer in cast(nn.ModuleList, layers):
        h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
    return h
