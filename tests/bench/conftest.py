"""A benchmark small enough to run in a test: a network that was never trained, pictures of 16², few steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a network with random weights, every one of which is used."""
    import torch

    from invdiff.priors import Card
    from invdiff.priors.files import save_prior
    from invdiff.priors.nets.unet import UNet
    from invdiff.priors.precondition import EDM

    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    network = UNet(channels=3, widths=(8,), blocks=(1,), embedding=16)
    draws = torch.Generator().manual_seed(0)
    for values in network.parameters():
        values.data = 0.1 * torch.randn(values.shape, generator=draws)
    save_prior(path, network, EDM(), Card(name="tiny", channels=3))
    return path


@pytest.fixture
def write(tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """write(batch=2, tasks=[...]): the file of a small benchmark with these changes, and five pictures of 16²."""
    monkeypatch.delenv("INVDIFF_DATA", raising=False)  # its pictures lie beside it
    folder = tmp_path / "pictures"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(draws.integers(30, 220, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")

    def write(**changes: Any) -> Path:
        given: dict[str, Any] = {
            "name": "small",
            "datasets": [{"name": "set", "path": "pictures", "crop": 16}],
            "tasks": [
                {"name": "half", "operator": {"mask": {"pattern": "random", "missing": 0.5}}},
                {"name": "sr", "operator": {"downsample": {"factor": 2, "kernel": "box"}}, "noise": 0.05},
            ],
            "priors": [str(tiny_prior)],
            "methods": [{"method": "ddnm", "steps": 3}, {"method": "dps", "steps": 3, "samples": 2}],
            "metrics": ["psnr", "consistency"],
            **changes,
        }
        path = tmp_path / "small.yaml"
        path.write_text(json.dumps({k: v for k, v in given.items() if v is not None}))  # JSON is YAML
        return path

    return write
