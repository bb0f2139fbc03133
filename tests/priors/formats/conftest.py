"""Small checkpoints with random weights, as the libraries that define their formats write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of a size that keeps the answer's near the input's, for layers that begin at zero too."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.parameters():
        spread = 0.1 if value.ndim == 1 else value[0].numel() ** -0.5
        value.data = (spread * torch.randn(value.shape, generator=generator)).to(value.dtype)
    return network.eval()


@pytest.fixture
def make_unet() -> Callable[..., Any]:
    """make_unet(out_channels=6): a diffusers UNet2DModel of two levels for pictures of 16 × 16."""

    def make(seed: int = 0, **config: Any) -> Any:
        from diffusers import UNet2DModel

        small = {
            "sample_size": 16,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        return randomise(UNet2DModel(**{**small, **config}), seed)

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """save(network, scheduler): the folder of a pipeline of both, as diffusers lays it out."""

    def save(network: Any, scheduler: Any = None, *, bare: bool = False, **how: Any) -> Path:
        import json

        folder = tmp_path / "model"
        part = "unet" if type(network).__name__ == "UNet2DModel" else "transformer"
        network.save_pretrained(folder if bare else folder / part, **how)
        if scheduler is not None:
            scheduler.save_pretrained(folder if bare else folder / "scheduler")
        if not bare:
            index = {
                "_class_name": "DDPMPipeline",
                part: ["diffusers", type(network).__name__],
                "scheduler": ["diffusers", type(scheduler).__name__],
            }
            (folder / "model_index.json").write_text(json.dumps(index))
        return folder

    return save
