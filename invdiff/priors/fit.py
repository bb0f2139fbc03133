"""Any prior for pictures of any shape: its channels and its size made to fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from invdiff.errors import RequestError, unknown
from invdiff.priors.base import Card, Prior, per_image
from invdiff.priors.network import NetworkPrior
from invdiff.priors.tiled import Cropped, Tiled, reach, shifts

Colour = Literal["channels", "luma"]
BEYOND = 2900 * 2**20
"""Bytes that a restoration may take beyond its picture, where nobody says otherwise,"""
STATE = 10
"""less so many pictures in float32, which a method holds: that much is for the network's activations and way back,"""
LEAST = 640 * 2**20
"""or this if it is more."""
SMALL = 256 * 256
"""Pixels of a picture that always goes through a convolutional network whole."""


def fitted(
    prior: Prior, shape: Sequence[int], *, memory: int | None = None, colour: Colour = "channels"
) -> Prior:
    """The prior for pictures of shape (C, H, W); itself where it fits already.

    Channels: `Repeated` where the pictures are grey and the prior knows several; `PerChannel`, or `Luma` with
    colour="luma", where it knows one. Size: where the card names one, pictures that are smaller are padded to it by
    reflection and larger ones `Tiled`, overlapping by a quarter. A network for any size takes pictures whole as long as
    its activations and their way back fit into `memory` bytes (default: what BEYOND leaves); larger ones go through a
    convolutional one in windows that see all that has influence (`Cropped`, `reach`), and are `Tiled` for others. What
    is no network is left.

    The result takes smaller pictures too. RequestError for channels that cannot be bridged.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise RequestError(f"shape: expected (channels, height, width), got {tuple(shape)}")
    if memory is not None and memory < 1:
        raise RequestError(f"memory: expected a number of bytes, got {memory}")
    if colour not in get_args(Colour):
        raise unknown("colour", colour, get_args(Colour))
    channels, height, width = shape
    knows = prior.card.channels
    if memory is None:
        memory = max(LEAST, BEYOND - STATE * 4 * channels * height * width)
    prior = _sized(prior, height, width, memory)
    if knows is None or knows == channels:
        return prior
    if channels == 1:
        return Repeated(prior)
    if knows == 1 and colour == "channels":
        return PerChannel(prior, channels)
    if knows == 1 and channels == 3:
        return Luma(prior)
    raise RequestError(
        f"prior {prior.card.name}: expected pictures of {knows} channels"
        f"{' or in colour' if knows == 1 else ', or grey ones'}, got {channels}"
    )


def fit(prior: Prior) -> list[str]:
    """What `fitted` did, in words for a record; the outermost first."""
    return [one.describe() for one in _layers(prior)]


def whole(prior: Prior) -> bool:
    """Whether pictures go through it in one piece, and not in windows."""
    return not any(isinstance(one, Tiled | Cropped) for one in _layers(prior))


def _layers(prior: Prior) -> Iterator[Repeated | PerChannel | Luma | Tiled | Cropped]:
    while isinstance(prior, Repeated | PerChannel | Luma | Tiled | Cropped):
        yield prior
        prior = prior.prior


@dataclass(frozen=True, eq=False)
class Repeated:
    """A prior of K channels for grey pictures: D(x, σ) = mean_c D_K((x, …, x) + √K·σ·η, √K·σ), Σ_c η_c = 0.

    K channels under independent noise √K·σ say of a grey picture what their mean under σ says. So this is exactly the
    denoiser of the channels' mean where all of the prior's pictures are grey, or their colours independent of it. η is
    what such noise has between the channels: without it a network takes noise that is grey for texture. It is fixed by
    σ and the picture's size, the same for every picture.
    """

    prior: Prior

    @property
    def card(self) -> Card:
        card = self.prior.card
        root = self._channels**0.5
        return dataclasses.replace(
            card, channels=1, sigma_min=card.sigma_min / root, sigma_max=card.sigma_max / root
        )

    @property
    def _channels(self) -> int:
        return self.prior.card.channels or 3

    def describe(self) -> str:
        return f"grey as the mean of {self._channels} channels"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        channels = self._channels
        _check(self, x, 1)
        sigmas = channels**0.5 * per_image(sigma, x)
        repeated = torch.stack(
            [
                one + level * _between(channels, one, level)
                for one, level in zip(x, sigmas.tolist(), strict=True)
            ]
        )
        return self.prior(repeated, sigmas).mean(dim=1, keepdim=True)


@dataclass(frozen=True, eq=False)
class PerChannel:
    """A prior of one channel for pictures of several, each on its own: exact where they are independent."""

    prior: Prior
    channels: int

    @property
    def card(self) -> Card:
        return dataclasses.replace(self.prior.card, channels=self.channels)

    def describe(self) -> str:
        return f"{self.channels} channels, each on its own"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        _check(self, x, self.channels)
        sigmas = per_image(sigma, x).repeat_interleave(self.channels)
        return self.prior(x.reshape(-1, 1, *x.shape[2:]), sigmas).reshape(x.shape)


@dataclass(frozen=True, eq=False)
class Luma:
    """A prior of one channel for colour pictures by luma and chroma: the channels rotated, so that noise stays white.

    The luma (R + G + B)/3 is a picture under noise σ/√3. The chromas, (R − G)/√2 and (R + G − 2B)/√6, are pictures
    around grey, ½ added, under σ. Exact where the three are independent, and chroma is distributed so.
    """

    prior: Prior

    @property
    def card(self) -> Card:
        """The prior's noise levels, as far as both the luma's and the chroma's are among them."""
        card = self.prior.card
        return dataclasses.replace(card, channels=3, sigma_min=card.sigma_min * 3**0.5)

    def describe(self) -> str:
        return "luma and two chromas, each on its own"

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        _check(self, x, 3)
        turn = x.new_tensor([[1, 1, 1], [1, -1, 0], [1, 1, -2]])
        turn = turn / turn.norm(dim=1, keepdim=True)
        scale, shift = x.new_tensor([3**-0.5, 1, 1]), x.new_tensor([0, 0.5, 0.5])
        pictures = torch.einsum("kc,bchw->bkhw", scale[:, None] * turn, x) + shift[:, None, None]
        sigmas = per_image(sigma, x)[:, None] * scale
        d = self.prior(pictures.reshape(-1, 1, *x.shape[2:]), sigmas.flatten()).reshape(x.shape)
        return torch.einsum("kc,bkhw->bchw", turn / scale[:, None], d - shift[:, None, None])


def _between(channels: int, like: Tensor, sigma: float) -> Tensor:
    """η (K, H, W) for `like` (1, H, W): standard normal but for its mean over the channels, which is 0."""
    generator = torch.Generator().manual_seed(shifts(sigma, 2**31)[0])
    noise = torch.randn(channels, *like.shape[1:], generator=generator)
    return noise.sub_(noise.mean(dim=0)).to(like)


def _check(prior: Prior, x: Tensor, channels: int) -> None:
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(
            f"prior {prior.card.name}: expected pictures (B, {channels}, H, W), got {tuple(x.shape)}"
        )


def _sized(prior: Prior, height: int, width: int, memory: int) -> Prior:
    size = prior.card.size
    if size is not None:
        return Tiled(prior, size, size // 4)
    halo = getattr(prior, "halo", None)
    if height * width <= SMALL or not (halo is not None or isinstance(prior, NetworkPrior)):
        return prior
    multiple = prior.card.multiple
    pixels = memory / _bytes_per_pixel(prior)
    if height * width <= pixels:
        return prior
    side = int(pixels**0.5) // multiple * multiple
    if halo is None:
        side = max(side, 8 * multiple)
        return Tiled(prior, side, side // 4)
    halo = reach(prior, halo, device=_device(prior))
    core, ahead = (max(n - 2 * halo, halo // 2, multiple) for n in (side, 2 * side))
    return Cropped(prior, core, halo, ahead)


def _device(prior: Prior) -> torch.device | None:
    """Where the network behind a prior is; None where there is none to be found."""
    inner = getattr(prior, "conditional", None) or getattr(prior, "prior", None)
    if isinstance(prior, NetworkPrior):
        return next((parameter.device for parameter in prior.network.parameters()), None)
    return None if inner is None else _device(inner)


def _bytes_per_pixel(prior: Prior) -> float:
    """What the network keeps of each pixel for the way back, and three fifths more for what comes and goes.

    Without it, it takes about a quarter of that: `Cropped.ahead` has four times the pixels.
    """
    kept: list[int] = []
    for side in (64, 128):
        side = -(-side // prior.card.multiple) * prior.card.multiple
        storages: dict[int, int] = {}

        def keep(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        place = _device(prior)
        x = torch.full((1, prior.card.channels or 3, side, side), 0.5, device=place, requires_grad=True)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            denoised = prior(x, 1.0)
        kept += [side**2, sum(storages.values())]
        del denoised
    return max(1.6 * (kept[3] - kept[1]) / max(kept[2] - kept[0], 1), 64.0)
