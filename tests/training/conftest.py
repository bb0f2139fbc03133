"""Pictures made on the fly and a recipe that trains on them in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """picture(seed, width, height, mode): soft colour gradients with an edge, no two alike."""

    def make(seed: int, width: int = 40, height: int = 32, mode: str = "RGB") -> Image.Image:
        generator = np.random.default_rng(seed)
        down, right = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        slopes = generator.uniform(-0.5, 0.5, (3, 2))
        values = 0.5 + np.stack([a * (down - 0.5) + b * (right - 0.5) for a, b in slopes], axis=2)
        values += 0.2 * (right > generator.uniform(0.2, 0.8))[:, :, None]
        return Image.fromarray((255 * values.clip(0, 1)).astype(np.uint8)).convert(mode)

    return make


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
    """Eight pictures in a folder."""
    path = tmp_path / "pictures"
    path.mkdir()
    for seed in range(8):
        picture(seed).save(path / f"{seed}.png")
    return path


@pytest.fixture
def recipe(tmp_path: Path, folder: Path) -> Callable[..., Path]:
    """recipe(images=80, data={...}): the file of a tiny recipe with these changes."""

    def write(**changes: Any) -> Path:
        settings: dict[str, Any] = {
            "name": "tiny",
            "data": {"train": [str(folder)], "crop": 16, "validation": 2, "validation_crop": 24},
            "network": {"widths": [8, 16], "blocks": [1, 1], "embedding": 16},
            "optimiser": {"learning_rate": 0.003, "warmup": 5, "ema": 0.9},
            "batch": 4,
            "samples": 4,
            "sample_steps": 2,
            "images": 80,
            "precision": "float32",
            "device": "cpu",
        }
        for key, value in changes.items():
            settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(settings))  # JSON is YAML
        return path

    return write
