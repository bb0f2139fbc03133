"""EDM's state dicts (Karras et al. 2022, arXiv:2206.00364): DDPM++, NCSN++ and ADM under its preconditioning.

The networks are deepinv's ports (NCSNpp, ADMUNet); the architecture is read off names and shapes. "model." before every
name is taken off. EDM publishes pickled objects, which are never opened; docs/priors.md tells how to make state
dicts of them. The preconditioning leaves no trace in the weights: EDM's own unless `Options` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff import config
from invdiff.errors import RequestError
from invdiff.priors.base import Card
from invdiff.priors.formats.base import fill
from invdiff.priors.formats.score_sde import vp_sigma
from invdiff.priors.precondition import EDM, VE, VP, Precondition

NAME = "EDM"
_EMBEDDING = "map_layer0.weight"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the weights do not say."""

    precondition: Literal["edm", "vp", "ve"] = "edm"
    """vp, ve: the baselines of EDM's tables, score_sde's networks in its code."""
    sigma_data: float = 0.5
    """Of the pictures on [-1, 1]."""

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data: expected a positive number, got {self.sigma_data}")


class Ported(nn.Module):
    """deepinv's network called as ours: F(x, c_noise, labels), the label `classes` being none.

    sign, offset: what is done to F, and to c_noise before.
    """

    def __init__(
        self, network: nn.Module, classes: int, multiple: int, *, sign: float = 1.0, offset: float = 0.0
    ) -> None:
        super().__init__()
        self.network, self.classes, self.multiple = network, classes, multiple
        self.sign, self.offset = sign, offset

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        told: dict[str, Tensor] = {}
        if self.classes:
            if labels is None:
                labels = torch.full((len(x),), self.classes, device=x.device)
            told["class_labels"] = F.one_hot(labels, self.classes + 1)[:, : self.classes].to(x.dtype)
        return self.sign * cast(Any, self.network).forward_unet(x, c_noise + self.offset, **told)


OPTIONS = tuple(field.name for field in fields(Options))


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """By names alone, with or without "model." before each."""
    names = {name.removeprefix("model.") for name in tensors}
    return _EMBEDDING in names and any(
        name.startswith("enc.") and name.endswith("_conv.weight") for name in names
    )


def build(
    tensors: Mapping[str, Tensor], path: Path, options: Mapping[str, Any]
) -> tuple[nn.Module, Precondition, Card]:
    """The network with its weights, its preconditioning and card. RequestError for what does not fit together."""
    from deepinv.models import ADMUNet, NCSNpp

    told = config.build(
        Options, {key: value for key, value in options.items() if key in OPTIONS}, f"{path}: options"
    )
    if told.precondition != "edm" and "sigma_data" in options:
        raise RequestError(
            f"{path}: options: sigma_data with precondition {told.precondition}, which has none; leave it out"
        )
    tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    shape = architecture(tensors, path)
    family = shape.pop("family")
    with torch.device("meta"):
        if family == "ADM":
            network: nn.Module = ADMUNet(**shape, pretrained=None)
        else:
            kind = "ncsn" if family == "NCSN++" else "ddpm"
            network = NCSNpp(kind, **shape, pretrained=None)
    fill(network, tensors, path, f"{NAME} weights of this shape ({family}) hold")
    for layer in network.modules():  # EDM's groups have at least four channels, its ports' any number
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = min(32, layer.num_channels // 4)

    precondition, (low, high) = _precondition(told)
    size, classes = shape["img_resolution"], shape["label_dim"]
    baseline = told.precondition == "ve"
    wrapped = Ported(
        network,
        classes,
        2 ** (len(shape["channel_mult"]) - 1),
        sign=-1.0 if baseline else 1.0,  # of the noise, where ours is its negative
        offset=-math.log(2) if baseline else 0.0,  # told ln σ/2
    )
    labels = f", {classes} classes" if classes else ""
    how = "" if told.precondition == "edm" else f", {told.precondition} baseline"
    card = Card(
        name=path.stem,
        channels=shape["in_channels"],
        size=size,
        classes=classes,
        sigma_min=low / 2,
        sigma_max=high / 2,
        data_std=told.sigma_data / 2,
        format=f"{NAME} {family}, {size}×{size}{labels}{how}",
    )
    return wrapped, precondition, card


def architecture(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The arguments of deepinv's networks, and the `family`, from names and shapes. RequestError for other weights'."""
    if "u" in tensors:
        raise RequestError(f"{path}: an iDDPM baseline of EDM's; expected EDM, or its VP or VE baselines")
    try:
        family = (
            "ADM" if "out_conv.weight" in tensors else "NCSN++" if "map_noise.freqs" in tensors else "DDPM++"
        )
        sides = sorted(
            {int(n.split(".")[1].split("x")[0]) for n in tensors if n.startswith("enc.")}, reverse=True
        )
        outer = tensors[f"enc.{sides[0]}x{sides[0]}_conv.weight"]
        embedding, noise = tensors[_EMBEDDING].shape
        width = noise if family == "ADM" else outer.shape[0]
        blocks = sum(
            f"enc.{sides[0]}x{sides[0]}_block{i}.conv0.weight" in tensors for i in range(len(tensors))
        )
        widths = [tensors[f"enc.{side}x{side}_block0.conv0.weight"].shape[0] for side in sides]
        last = tensors["out_conv.weight" if family == "ADM" else f"dec.{sides[0]}x{sides[0]}_aux_conv.weight"]
    except (KeyError, IndexError, ValueError) as error:
        raise RequestError(f"{path}: not what {NAME} weights hold: {error} is missing") from None
    if sides != [sides[0] >> level for level in range(len(sides))] or any(w % width for w in widths):
        raise RequestError(
            f"{path}: expected sides each half of the one before, and channels that are multiples of {width}; "
            f"got sides {sides}, channels {widths}"
        )
    if any(w % 32 for w in (*widths, width)):
        raise RequestError(f"{path}: expected multiples of 32 channels on each level, got {widths}")
    has = tensors.get
    return {
        "family": family,
        "img_resolution": sides[0],
        "in_channels": outer.shape[1],
        "out_channels": last.shape[0],
        "label_dim": 0 if (label := has("map_label.weight")) is None else label.shape[1],
        "augment_dim": 0 if (augment := has("map_augment.weight")) is None else augment.shape[1],
        "model_channels": width,
        "channel_mult": [w // width for w in widths],
        "channel_mult_emb": embedding // width,
        "num_blocks": blocks,
        "attn_resolutions": [side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in tensors],
    }


def _precondition(told: Options) -> tuple[Precondition, tuple[float, float]]:
    """And the noise levels on [-1, 1] that it is for."""
    if told.precondition == "vp":
        return VP(schedule="sde", scale=999.0), (vp_sigma(1e-3), vp_sigma(1.0))
    if told.precondition == "ve":
        return VE(prediction="epsilon", clock="ln_sigma"), (0.02, 100.0)
    return EDM(sigma_data=told.sigma_data), (0.002, 80.0)
