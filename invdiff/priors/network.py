"""A network as a prior, and where and how finely it computes."""

from __future__ import annotations

import copy
import dataclasses
from typing import Self

import torch
from torch import Tensor, nn

from invdiff.errors import RequestError, unknown
from invdiff.priors.base import Card, per_image
from invdiff.priors.precondition import Precondition

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NetworkPrior:
    """F(x, c_noise), or F(x, c_noise, label), and its preconditioning as D(x, σ), at any image size.

    Pictures are padded by reflection on the right and at the bottom to the multiple the network needs, and
    cropped after; where the card names one size, others are refused (`priors.fitted` makes them fit). The network is
    frozen and becomes the prior's own: gradients flow to x alone. Computes in `precision`, answers in x's type.

    label: of a network with classes (`given` sets it); None tells it none, which is its label `card.classes`.
    """

    label: int | None = None

    def __init__(
        self,
        network: nn.Module,
        precondition: Precondition,
        card: Card,
        *,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.precondition = precondition
        self.precision = precision
        self.card = dataclasses.replace(card, multiple=getattr(network, "multiple", 1))
        if precision is not torch.float32:  # now, not at every call: autocast keeps no copy of frozen weights
            for layer in self.network.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.to(precision)

    @property
    def halo(self) -> int | None:
        """Pixels on each side that can influence one of D; None: all may."""
        return getattr(self.network, "halo", None)

    def given(self, label: int | None) -> Self:
        """The prior of the pictures of one class, its network shared. RequestError for a label it does not have."""
        classes = self.card.classes
        if label is not None and not 0 <= label < classes:
            knows = f"labels 0 to {classes - 1}" if classes else "no labels"
            raise RequestError(f"label {label}: prior {self.card.name} knows {knows}")
        other = copy.copy(self)
        other.label = label
        return other

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, σ): x (B, C, H, W), image units, any size from 1×1; σ a number or (B,). ValueError else."""
        self._check(x)
        height, width = x.shape[-2:]
        sigmas = per_image(sigma, x)
        given, c_noise = self.precondition.inputs(reflect_to_multiple(x, self.card.multiple), sigmas)
        if self._one_row and not isinstance(sigma, Tensor):
            c_noise = c_noise[:1]
        output = self._network(given, c_noise)[..., :height, :width].to(x.dtype)
        return self.precondition.denoised(x, sigmas, output)

    def _network(self, given: Tensor, c_noise: Tensor) -> Tensor:
        given = given.float().contiguous(memory_format=torch.channels_last)
        mixed = self.precision is not torch.float32
        with torch.autocast(given.device.type, self.precision, enabled=mixed, cache_enabled=False):
            if not self.card.classes:
                return self.network(given, c_noise.float())
            label = self.card.classes if self.label is None else self.label
            labels = torch.full((len(c_noise),), label, device=given.device)
            return self.network(given, c_noise.float(), labels)

    @property
    def _one_row(self) -> bool:
        """Whether the network takes one noise level and label for all pictures."""
        return bool(getattr(self.network, "one_row", False))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[2:]:
            raise ValueError(
                f"prior {self.card.name}: expected pictures (B, C, H, W), floating-point in image units, "
                f"got {tuple(x.shape)}, {x.dtype}"
            )
        if self.card.channels not in (None, x.shape[1]):
            raise ValueError(
                f"prior {self.card.name}: expected {self.card.channels} channels, got {x.shape[1]}; "
                "repeat a grey picture to three channels and average the result"
            )
        if self.card.size is not None and tuple(x.shape[2:]) != (self.card.size,) * 2:
            raise ValueError(
                f"prior {self.card.name}: expected pictures of {self.card.size}×{self.card.size}, "
                f"got {x.shape[2]}×{x.shape[3]}; priors.fitted makes it fit"
            )


def reflect_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) grown to the next multiples by reflection, for any H and W ≥ 1, however small."""
    height, width = (size + -size % multiple for size in x.shape[-2:])
    return reflect_to(x, height, width)


def reflect_to(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W) grown by reflection on the right and at the bottom to this height and width, where it is smaller."""
    for dim, wanted in ((-2, height), (-1, width)):
        size = x.shape[dim]
        if wanted > size:
            period = max(2 * size - 2, 1)
            there = torch.arange(wanted, device=x.device) % period
            x = x.index_select(dim, torch.minimum(there, period - there))
    return x


def resolve_device(device: str | torch.device) -> torch.device:
    """auto, cpu, cuda, cuda:1 or mps as a device that is there. RequestError otherwise."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    try:
        place = torch.device(device)
    except RuntimeError:
        raise unknown("device", str(device), ("auto", *there)) from None
    if place.type not in there:
        raise unknown("device", str(device), ("auto", *there))
    if (place.index or 0) >= there[place.type]:
        raise RequestError(f"device {device}: not available on this machine; use auto or cpu")
    return place


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 where the device multiplies it natively (faster, same pictures), else float32."""
    if precision != "auto":
        return PRECISIONS[precision]
    native = False
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":  # both functions are torch's own and unannounced: absent means not native
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        native = any(getattr(torch.cpu, name, lambda: False)() for name in names)
    return torch.bfloat16 if native else torch.float32
