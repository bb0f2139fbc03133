"""score_sde state dicts (Song et al. 2021, arXiv:2011.13456): NCSN++, DDPM++ and DDPM, read off names and shapes.

A Fourier embedding (all_modules.0.W) means the VE SDE: pictures in [0, 1], the network told σ, its output divided by σ,
which is the score. A positional one means the VP SDE: pictures in [-1, 1], the network told 999·t, its output ε.
What the shapes do not show, and is chosen as the released networks are (`Options` overrides each): the size, from the
attention at 16×16; FIR filters wherever there is an input pyramid; sums divided by √2 unless the blocks are DDPM's,
whose clock is then the discrete one. The sub-VP SDE leaves no trace in the weights and is not supported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from invdiff import config
from invdiff.errors import RequestError
from invdiff.priors.base import Card
from invdiff.priors.formats.base import fill, numbered
from invdiff.priors.nets.ncsnpp import NCSNpp
from invdiff.priors.precondition import VE, VP, Precondition

NAME = "score_sde"
_SIGMA_MAX = {32: 50.0, 64: 90.0, 256: 348.0, 1024: 1348.0}
"""Of the released VE networks, by size."""
_FIRST_T = 1e-3
"""Where sampling with the VP SDE ends."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the weights do not say. None: as the released networks of this shape have it."""

    size: int | None = None
    clock: Literal["continuous", "discrete"] | None = None
    """Of a VP network: t in [0, 1] or one of 1000 steps."""
    fir: bool | None = None
    rescale: bool | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size: expected a positive number, got {self.size}")


OPTIONS = tuple(field.name for field in fields(Options))


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """By names alone."""
    return any(name.startswith("all_modules.") for name in tensors)


def averaged(checkpoint: Any) -> Mapping[str, Tensor] | None:
    """The averaged weights of a training checkpoint with "model" and "ema", a list without names; None for others.

    The list has the trained parameters in the model's order; what was not trained keeps the model's values.
    """
    if not isinstance(checkpoint, Mapping):
        return None
    model, ema = checkpoint.get("model"), checkpoint.get("ema")
    if not (isinstance(model, Mapping) and isinstance(ema, Mapping) and "shadow_params" in ema):
        return None
    shadow, merged = list(ema["shadow_params"]), dict(model)
    for name, value in model.items():
        if shadow and isinstance(value, Tensor) and shadow[0].shape == value.shape:
            merged[name] = shadow.pop(0)
    return None if shadow else merged


def build(
    tensors: Mapping[str, Tensor], path: Path, options: Mapping[str, Any]
) -> tuple[nn.Module, Precondition, Card]:
    """The network with its weights, its preconditioning and card. RequestError for what does not fit together."""
    told = config.build(
        Options, {key: value for key, value in options.items() if key in OPTIONS}, f"{path}: options"
    )
    shape = architecture(tensors, path)
    if told.clock is not None and shape["fourier"]:
        raise RequestError(
            f"{path}: options: clock {told.clock}: this is a VE network (it has a Fourier embedding), which is told σ; "
            "leave it out"
        )
    shape |= {key: value for key in ("fir", "rescale") if (value := getattr(told, key)) is not None}
    with torch.device("meta"):
        network = NCSNpp(**shape)
    weights = {name: value for name, value in tensors.items() if name != "sigmas"}
    fill(network, weights, path, f"{NAME} weights of this shape hold")

    size, words, precondition, (low, high) = described(shape, told)
    if "sigmas" in tensors and shape["fourier"]:
        low, high = float(tensors["sigmas"].min()), float(tensors["sigmas"].max())
    card = Card(
        name=path.stem,
        channels=shape["channels"],
        size=size,
        sigma_min=low,
        sigma_max=high,
        format=words,
    )
    return network, precondition, card


def described(shape: Mapping[str, Any], told: Options) -> tuple[int, str, Precondition, tuple[float, float]]:
    """Size, format in words, preconditioning and noise levels in image units of the released networks of this shape."""
    attention = shape["attention"]
    attended = 16 * 2 ** attention.index(True) if True in attention else 4 * 2 ** (len(attention) - 1)
    size = told.size or attended
    precondition: Precondition
    if shape["fourier"]:
        kind, precondition = "VE", VE(black=0.0, white=1.0, prediction="score", clock="sigma")
        levels = 0.01, _SIGMA_MAX.get(size, 50.0)
    elif told.clock == "discrete" or (told.clock is None and shape["ddpm"]):
        kind, precondition = "VP, 1000 steps", VP()
        levels = precondition.levels[0], precondition.levels[-1]
    else:
        kind, precondition = "VP", VP(schedule="sde", scale=999.0)
        levels = vp_sigma(_FIRST_T) / 2, vp_sigma(1.0) / 2
    family = "DDPM" if shape["ddpm"] else "NCSN++" if shape["pyramid_in"] != "none" else "DDPM++"
    return size, f"{NAME} {family}, {size}×{size}, {kind}", precondition, levels


def architecture(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """NCSNpp's arguments, from names and shapes. RequestError where they are another network's."""
    kinds: list[str] = []
    try:
        layers = _layers(tensors)
        kinds += map(_kind, layers)
        first = kinds.index("conv")
        fourier = kinds[0] == "fourier"
        middle = _middle(kinds, layers)
        width, channels = layers[first]["weight"].shape[:2]
        down, up = range(first + 1, middle), range(middle + 3, len(kinds))
        steps = [i for i in down if _halves(kinds[i], layers[i])]
        levels = [range(a + 1, b) for a, b in zip([first, *steps], [*steps, middle], strict=True)]
        blocks = sum(kinds[i] == "block" for i in levels[0])
        widths = [
            next(layers[i]["Conv_0.weight"].shape[0] for i in reversed(level) if kinds[i] == "block")
            for level in levels
        ]
        if any(number % width for number in widths):
            raise ValueError("channels are no multiples of the first's")
    except (ValueError, KeyError, StopIteration, IndexError):
        raise RequestError(
            f"{path}: not what {NAME} weights hold; expected NCSN++, DDPM++ or DDPM: all_modules from the "
            f"embedding to the last convolution, got {' '.join(kinds[:12])} …"
        ) from None
    ddpm = "convresample" in kinds or any(
        "NIN_0.W" in layers[i] and kinds[i] == "block" for i in (*down, *up)
    )
    pyramid_in = "residual" if "smaller" in kinds else "input_skip" if "combine" in kinds else "none"
    return {
        "channels": channels,
        "width": width,
        "mults": [number // width for number in widths],
        "blocks": blocks,
        "attention": ["attention" in [kinds[i] for i in level] for level in levels],
        "fourier": fourier,
        "ddpm": ddpm,
        "pyramid_in": pyramid_in,
        "pyramid_out": "output_skip" if kinds[up[0] :].count("norm") > 1 else "none",
        "fir": pyramid_in != "none",
        "rescale": not ddpm,
        "centered": not fourier,
        "over_sigma": fourier,
    }


def _layers(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """For each of all_modules its tensors by the rest of their names; {} for one without weights."""
    found = numbered(tensors, "all_modules")
    if max(found) >= 2 * len(found):  # few have no weights
        raise ValueError("too many without weights")
    return [found.get(i, {}) for i in range(max(found) + 1)]


def _kind(layer: Mapping[str, Tensor]) -> str:
    """What a layer is, by the names and dimensions of its weights."""
    for name, kind in (
        ("W", "fourier"),
        ("Conv_1.weight", "block"),
        ("NIN_3.W", "attention"),
        ("Conv2d_0.weight", "smaller"),
        ("Conv.weight", "combine"),
        ("Conv_0.weight", "convresample"),
    ):
        if name in layer:
            return kind
    if "weight" not in layer:
        return "nothing" if not layer else "unknown"
    return {1: "norm", 2: "linear", 4: "conv"}.get(layer["weight"].ndim, "unknown")


def _middle(kinds: Sequence[str], layers: Sequence[Mapping[str, Tensor]]) -> int:
    """Where the three layers between the way down and the way up begin: the way up begins where skips come in."""
    blocks = [i for i, kind in enumerate(kinds) if kind == "block"]
    for before, here in pairwise(blocks):
        if layers[here]["Conv_0.weight"].shape[1] != layers[before]["Conv_0.weight"].shape[0]:
            return here - 3
    raise ValueError("no block takes skips")


def _halves(kind: str, layer: Mapping[str, Tensor]) -> bool:
    """Whether a layer on the way down halves the size: a block with a skip of its own that changes no channels."""
    if kind != "block":
        return kind == "convresample"
    return "Conv_2.weight" in layer and layer["Conv_2.weight"].shape[0] == layer["Conv_2.weight"].shape[1]


def vp_sigma(t: float) -> float:
    """σ of the VP SDE with β from 0.1 to 20, on [-1, 1]."""
    return math.sqrt(math.expm1(0.1 * t + 19.9 * t**2 / 2))
