"""NCSN++, DDPM++ and DDPM as in score_sde (Song et al. 2021, arXiv:2011.13456, appendix H), under its weights' names.

deepinv's NCSNpp has two of these networks, and neither the input and output pyramids of the 256×256 and 1024×1024 ones
nor DDPM's blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors.nets.blocks import Conv2d

Way = Literal["up", "down"]
PyramidIn = Literal["none", "input_skip", "residual"]
PyramidOut = Literal["none", "output_skip"]


class Fourier(nn.Module):
    """(B,) → (B, 2·width): sines, then cosines of 2π·W·ln σ, W drawn once and kept with the weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(16 * torch.randn(width, device="cpu"))  # on the meta device randn takes seconds

    def forward(self, sigma: Tensor) -> Tensor:
        angle = sigma.log()[:, None] * self.W * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class PerPixel(nn.Module):
    """The same linear map of the channels at every pixel."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(channels, out)))
        self.b = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


class Attention(nn.Module):
    """x + attention over all pixels, one head."""

    def __init__(self, channels: int, rescale: bool) -> None:
        super().__init__()
        self.rescale = rescale
        self.GroupNorm_0 = _norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (PerPixel(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.NIN_0, self.NIN_1, self.NIN_2))
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return _sum(x, self.NIN_3(mixed.transpose(1, 2).reshape(x.shape)), self.rescale)


class ResBlock(nn.Module):
    """skip(x) + conv(SiLU(norm(conv(SiLU(norm(x))) + linear of the embedding))), resampled before its first conv.

    ddpm: skips that change channels are called NIN_0 and not Conv_2, and no block resamples.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        *,
        ddpm: bool,
        rescale: bool,
        fir: bool,
        way: Way | None = None,
    ) -> None:
        super().__init__()
        self.rescale, self.fir, self.way = rescale, fir, way
        self.GroupNorm_0 = _norm(channels)
        self.Conv_0 = Conv2d(channels, out, 3, padding=1)
        self.Dense_0 = nn.Linear(embedding, out)
        self.GroupNorm_1 = _norm(out)
        self.Conv_1 = Conv2d(out, out, 3, padding=1)
        self.skip: str | None = None
        if channels != out or way:
            self.skip = "NIN_0" if ddpm else "Conv_2"
            self.add_module(self.skip, PerPixel(channels, out) if ddpm else Conv2d(channels, out, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.way:
            h, x = resample(h, self.way, self.fir), resample(x, self.way, self.fir)
        h = self.Conv_0(h) + self.Dense_0(F.silu(embedding))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        return _sum(self.get_submodule(self.skip)(x) if self.skip else x, h, self.rescale)


class Resample(nn.Module):
    """Without weights: half or twice the size."""

    def __init__(self, way: Way, fir: bool) -> None:
        super().__init__()
        self.way: Way = way
        self.fir = fir

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.way, self.fir)


class ConvResample(nn.Module):
    """DDPM's: a convolution with stride 2, the picture padded at its right and bottom, or one after repeating."""

    def __init__(self, way: Way, channels: int) -> None:
        super().__init__()
        self.way = way
        self.Conv_0 = (
            Conv2d(channels, channels, 3, padding=1)
            if way == "up"
            else Conv2d(channels, channels, 3, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "up":
            return self.Conv_0(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.Conv_0(F.pad(x, (0, 1, 0, 1)))


class Smaller(nn.Module):
    """A level of the residual input pyramid: low-pass filtered, then a convolution with stride 2."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.Conv2d_0 = Conv2d(channels, out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.Conv2d_0(_filtered(x, 2))


class Combine(nn.Module):
    """y + a linear map of the input pyramid's channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.Conv = Conv2d(channels, out, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.Conv(x)


class NCSNpp(nn.Module):
    """F(x, c_noise): (B, C, H, W), (B,) → (B, C, H, W), H and W multiples of `multiple`.

    Level i has `mults[i]`·`width` channels, `blocks` residual blocks on the way down and one more on the way up, and
    attention where `attention[i]` says so. fourier: c_noise is σ, embedded as ln σ; else a timestep.
    ddpm: DDPM's blocks and resampling; else BigGAN's. pyramid_in, pyramid_out: the picture itself joins on the way
    down, and is summed up level by level on the way up. fir: resampling with the filter (1, 3, 3, 1), else (1, 1).
    rescale: sums are divided by √2. centered: pictures come in [-1, 1], else in [0, 1]. over_sigma: F is divided by
    c_noise.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        mults: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[bool] = (False, True, False, False),
        fourier: bool = True,
        ddpm: bool = False,
        pyramid_in: PyramidIn = "residual",
        pyramid_out: PyramidOut = "none",
        fir: bool = True,
        rescale: bool = True,
        centered: bool = False,
        over_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "channels": channels,
            "width": width,
            "mults": list(mults),
            "blocks": blocks,
            "attention": list(attention),
            "fourier": fourier,
            "ddpm": ddpm,
            "pyramid_in": pyramid_in,
            "pyramid_out": pyramid_out,
            "fir": fir,
            "rescale": rescale,
            "centered": centered,
            "over_sigma": over_sigma,
        }
        if not mults or len(mults) != len(attention) or min(*mults, width // 4, blocks, channels) < 1:
            raise ValueError(
                "NCSNpp: expected positive numbers, and attention or not for each of mults, got "
                f"width {width}, mults {list(mults)}, blocks {blocks}, attention {list(attention)}"
            )
        if pyramid_in not in get_args(PyramidIn) or pyramid_out not in get_args(PyramidOut):
            raise ValueError(f"NCSNpp: no pyramids called {pyramid_in!r} and {pyramid_out!r}")
        self.width, self.blocks, self.attention = width, blocks, tuple(attention)
        self.fourier, self.ddpm, self.rescale = fourier, ddpm, rescale
        self.pyramid_in, self.pyramid_out = pyramid_in, pyramid_out
        self.centered, self.over_sigma = centered, over_sigma
        self.multiple = 2 ** (len(mults) - 1)
        widths, embedding, top = [width * mult for mult in mults], 4 * width, len(mults) - 1

        def block(channels: int, out: int, way: Way | None = None) -> nn.Module:
            return ResBlock(channels, out, embedding, ddpm=ddpm, rescale=rescale, fir=fir, way=way)

        def step(way: Way, channels: int) -> nn.Module:
            return ConvResample(way, channels) if ddpm else block(channels, channels, way)

        layers: list[nn.Module] = [Fourier(width)] if fourier else []
        layers += [nn.Linear(2 * width if fourier else width, embedding), nn.Linear(embedding, embedding)]
        layers.append(Conv2d(channels, width, 3, padding=1))
        at, picture, skips = width, channels, [width]
        for level, out in enumerate(widths):
            for _ in range(blocks):
                layers.append(block(at, out))
                at = out
                layers += [Attention(at, rescale)] if attention[level] else []
                skips.append(at)
            if level < top:
                layers.append(step("down", at))
                if pyramid_in == "input_skip":
                    layers += [Resample("down", fir), Combine(picture, at)]
                elif pyramid_in == "residual":
                    layers.append(Smaller(picture, at))
                    picture = at
                skips.append(at)
        layers += [block(at, at), Attention(at, rescale), block(at, at)]
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                layers.append(block(at + skips.pop(), widths[level]))
                at = widths[level]
            layers += [Attention(at, rescale)] if attention[level] else []
            if pyramid_out == "output_skip":
                layers += [Resample("up", fir)] if level < top else []
                layers += [_norm(at), Conv2d(at, channels, 3, padding=1)]
            layers += [step("up", at)] if level else []
        if pyramid_out == "none":
            layers += [_norm(at), Conv2d(at, channels, 3, padding=1)]
        self.all_modules = nn.ModuleList(layers)

    @staticmethod
    def weights_at_least(width: int, mults: Sequence[int], blocks: int, **_: Any) -> int:
        """A lower bound on a network's number of weights, before any memory is taken for it."""
        return 16 * width**2 + sum(2 * 18 * blocks * (mult * width) ** 2 for mult in mults)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        layer: Iterator[nn.Module] = iter(self.all_modules)
        told = next(layer)(c_noise) if self.fourier else waves(c_noise, self.width)
        told = next(layer)(told)
        told = next(layer)(F.silu(told))
        picture = x if self.centered else 2 * x - 1
        top = len(self.attention) - 1
        skips = [h := next(layer)(picture)]
        for level, attends in enumerate(self.attention):
            for _ in range(self.blocks):
                h = next(layer)(h, told)
                h = next(layer)(h) if attends else h
                skips.append(h)
            if level < top:
                h = next(layer)(h) if self.ddpm else next(layer)(h, told)
                if self.pyramid_in == "input_skip":
                    picture = next(layer)(picture)
                    h = next(layer)(picture, h)
                elif self.pyramid_in == "residual":
                    h = picture = _sum(next(layer)(picture), h, self.rescale)
                skips.append(h)
        h = next(layer)(h, told)
        h = next(layer)(h)
        h = next(layer)(h, told)
        out: Tensor | None = None
        for level in reversed(range(top + 1)):
            for _ in range(self.blocks + 1):
                h = next(layer)(torch.cat([h, skips.pop()], dim=1), told)
            h = next(layer)(h) if self.attention[level] else h
            if self.pyramid_out == "output_skip":
                larger = None if out is None else next(layer)(out)
                out = self._end(layer, h)
                out = out if larger is None else larger + out
            if level:
                h = next(layer)(h) if self.ddpm else next(layer)(h, told)
        out = self._end(layer, h) if out is None else out
        return out / c_noise[:, None, None, None] if self.over_sigma else out

    @staticmethod
    def _end(layer: Iterator[nn.Module], h: Tensor) -> Tensor:
        normed = F.silu(next(layer)(h))
        return next(layer)(normed)


def waves(t: Tensor, width: int) -> Tensor:
    """(B,) → (B, width): sines, then cosines of t at frequencies from 1 down to 1/10000."""
    half = width // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    angle = t[:, None].float() * torch.exp(-math.log(10000) / (half - 1) * steps)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def resample(x: Tensor, way: Way, fir: bool) -> Tensor:
    """Half or twice the size: by averages and repetition, or through the filter (1, 3, 3, 1), zero beyond the edge."""
    if not fir:
        return F.avg_pool2d(x, 2) if way == "down" else F.interpolate(x, scale_factor=2, mode="nearest")
    if way == "down":
        return _filtered(x, 1, stride=2)
    kernel = 4 * _kernel(x)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def _filtered(x: Tensor, padding: int, stride: int = 1) -> Tensor:
    return F.conv2d(x, _kernel(x), stride=stride, padding=padding, groups=x.shape[1])


def _kernel(x: Tensor) -> Tensor:
    """(C, 1, 4, 4), of sum 1 for each channel."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    return row.outer(row).expand(x.shape[1], 1, 4, 4)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def _sum(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    return (x + h) / math.sqrt(2) if rescale else x + h
