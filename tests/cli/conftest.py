"""A prior small enough to run in a test, and pictures to run it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of a real network, untrained: its head is zero, so that it is N(0.5, 0.25²) exactly."""
    from invdiff.priors import Card
    from invdiff.priors.files import save_prior
    from invdiff.priors.nets.unet import UNet
    from invdiff.priors.precondition import EDM

    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    network = UNet(channels=3, widths=(8,), blocks=(1,), embedding=16)
    save_prior(path, network, EDM(), Card(name="tiny", channels=3))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: photo.png (32×28, colour), m.png (a mask of its size, white in the middle)."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(60, 200, (28, 32, 3), np.uint8)
    Image.fromarray(values).save("photo.png")
    mask = np.zeros((28, 32), np.uint8)
    mask[10:16, 12:20] = 255
    Image.fromarray(mask).save("m.png")
    return tmp_path
