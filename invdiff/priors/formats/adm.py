"""guided-diffusion (ADM) `.pt` files: OpenAI's, and those of DPS; the architecture is read off the weights' shapes.

Not visible in the shapes, and chosen as the released files are (`Options` overrides each):

| | chosen | because |
|---|---|---|
| size | 8·2^(levels − 1); 32 where mults are (1, 2, 2, 2) | the released networks end at 8×8 |
| schedule | linear, 1000 steps; cosine for width 192 and mults (1, 2, 3, 4) | ImageNet 64×64 |
| heads | 64 channels each; 4 heads for ImageNet 128×128 and plain resampling | the releases' flags |
| order of q, k, v | by head ("legacy"); "new" for ImageNet 64×64 | its use_new_attention_order |

Networks with plain resampling and mults (1, 2, 2, 2) or (1, 2, 3, 4) are taken for those of improved-diffusion: cosine,
4000 steps, timesteps rescaled to 1000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from invdiff import config
from invdiff.errors import RequestError
from invdiff.priors.base import Card
from invdiff.priors.formats.base import fill, numbered
from invdiff.priors.nets.adm import ADM
from invdiff.priors.precondition import VP, Precondition

NAME = "guided-diffusion (ADM)"
Schedule = Literal["linear", "cosine"]
_FIRST = (
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
    "middle_block.0.in_layers.0.weight",
    "out.2.weight",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the weights do not say. None: as the released files of this shape have it."""

    size: int | None = None
    schedule: Schedule | None = None
    steps: int | None = None
    prediction: Literal["epsilon", "x0", "v"] = "epsilon"
    heads: int | None = None
    head_channels: int | None = None
    attention_order: Literal["legacy", "new"] | None = None

    def __post_init__(self) -> None:
        for key in ("size", "steps", "heads", "head_channels"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}: expected a positive number, got {value}")
        if self.heads and self.head_channels:
            raise ValueError("expected heads or head_channels, got both")


OPTIONS = tuple(field.name for field in fields(Options))


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """By names alone; the networks of latent diffusion share them and are refused by `build`."""
    return all(name in tensors for name in _FIRST)


def build(
    tensors: Mapping[str, Tensor], path: Path, options: Mapping[str, Any]
) -> tuple[nn.Module, Precondition, Card]:
    """The network with its weights, its preconditioning and card. RequestError for what does not fit together."""
    told = config.build(
        Options, {key: value for key, value in options.items() if key in OPTIONS}, f"{path}: options"
    )
    shape = architecture(tensors, path)
    size, schedule, steps, heads = chosen(shape, told, path)
    shape |= heads
    with torch.device("meta"):
        network = ADM(**shape)
    fill(network, tensors, path, f"{NAME} weights of this shape hold")

    try:
        precondition = VP(
            prediction=told.prediction,
            schedule=schedule,
            steps=steps,
            beta_start=0.1 / steps,
            beta_end=20 / steps,
            scale=1000 / steps,
        )
    except ValueError as error:
        raise RequestError(f"{path}: options: steps: {error}") from None
    learned = "learned variance" if shape["outputs"] > shape["channels"] else "fixed variance"
    labels = f", {shape['classes']} classes" if shape["classes"] else ""
    card = Card(
        name=path.stem,
        channels=shape["channels"],
        size=size,
        classes=shape["classes"],
        sigma_min=precondition.levels[0],
        sigma_max=precondition.levels[-1],
        format=f"{NAME}, {size}×{size}, {learned}{labels}, {schedule} schedule of {steps} steps",
    )
    return network, precondition, card


def chosen(shape: Mapping[str, Any], told: Options, path: Path) -> tuple[int, Schedule, int, dict[str, Any]]:
    """Size, schedule, its steps, and ADM's arguments about heads. RequestError for impossible ones."""
    mults = shape["mults"]
    improved = not shape["residual_resampling"] and mults in ([1, 2, 2, 2], [1, 2, 3, 4])
    size = told.size or (32 if mults == [1, 2, 2, 2] else 8 * 2 ** (len(mults) - 1))
    schedule: Schedule = told.schedule or ("cosine" if improved or _is_imagenet64(shape) else "linear")
    steps = told.steps or (4000 if improved and schedule == "cosine" else 1000)
    return size, schedule, steps, _heads(shape, told, path)


def architecture(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """ADM's arguments but for its heads, from names and shapes. RequestError where they are another network's."""
    if any("transformer_blocks" in name for name in tensors):
        raise RequestError(
            f"{path}: a latent diffusion network (it has transformer blocks); expected one that denoises pixels"
        )
    try:
        width = tensors["time_embed.0.weight"].shape[1]
        channels = tensors["input_blocks.0.0.weight"].shape[1]
        outputs = tensors["out.2.weight"].shape[0]
        rows = _rows(tensors)
        last = [any(".up." in name for name in _parts(row)) for row in rows]
        per_level = last.index(True) + 1 if True in last else len(rows)
        ends = rows[per_level - 1 :: per_level][::-1]  # the last row of each level, the finest first
        widths = [row["0.out_layers.3.weight"].shape[0] for row in ends]
        scale_shift = rows[0]["0.emb_layers.1.weight"].shape[0] == 2 * widths[-1]
        attention = ["1.qkv.weight" in row for row in ends]
        residual = not any(name.endswith("conv.weight") for row in rows for name in row)
        classes = tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else 0
    except (KeyError, IndexError, ValueError) as error:
        raise RequestError(f"{path}: not what {NAME} weights hold: {error} is missing") from None
    if outputs not in (channels, 2 * channels) or (channels, outputs) == (6, 6):
        raise RequestError(
            f"{path}: takes {channels} channels and gives {outputs}; expected as many or twice as many "
            "(one that is given a low-resolution picture too is not a denoiser of pictures alone)"
        )
    if any(number % 32 for number in widths):
        raise RequestError(f"{path}: expected multiples of 32 channels on each level, got {widths}")
    mults = [number / width for number in widths]
    return {
        "channels": channels,
        "outputs": outputs,
        "width": width,
        "mults": [int(m) if m == int(m) else m for m in mults],
        "blocks": per_level - 1,
        "attention": attention,
        "scale_shift": scale_shift,
        "residual_resampling": residual,
        "classes": classes,
    }


def _rows(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The output blocks, coarsest first: for each its tensors by the rest of their names."""
    found = numbered(tensors, "output_blocks")
    return [found[i] for i in range(len(found))]


def _parts(row: Mapping[str, Tensor]) -> set[str]:
    """Which layers an output block has after its first, ".up." for one that doubles the size."""
    return {
        ".up."
        for name in row
        if name[:2] != "0." and name.split(".", 1)[1].startswith(("in_layers", "conv."))
    }


def _heads(shape: Mapping[str, Any], told: Options, path: Path) -> dict[str, Any]:
    """ADM's heads, head_channels and legacy."""
    widths = [int(m * shape["width"]) for m in shape["mults"]]
    attending = {widths[-1], *(w for w, attends in zip(widths, shape["attention"], strict=True) if attends)}
    heads, each = told.heads or 0, told.head_channels or 64
    if not told.heads and not told.head_channels:
        by_number = not shape["residual_resampling"] or shape["mults"] == [1, 1, 2, 3, 4]
        heads = 4 if by_number or any(w % 64 for w in attending) else 0
    for w in attending:
        if w % (heads or each):
            raise RequestError(
                f"{path}: attention over {w} channels cannot have {heads or each} "
                f"{'heads' if heads else 'channels a head'}; "
                "give heads or head_channels in options"
            )
    legacy = told.attention_order == "legacy" if told.attention_order else not _is_imagenet64(shape)
    return {"heads": heads, "head_channels": each, "legacy": legacy}


def _is_imagenet64(shape: Mapping[str, Any]) -> bool:
    return shape["residual_resampling"] and (shape["width"], shape["mults"]) == (192, [1, 2, 3, 4])
