"""A network small enough for a test, and random enough that every layer counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from invdiff.priors import EDM, Card, NetworkPrior
from invdiff.priors.nets.unet import UNet


@pytest.fixture
def randomised() -> Callable[..., Any]:
    """randomised(network, seed=0): the network, every weight of it drawn, those that begin at zero too."""

    def draw(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for value in network.parameters():
            spread = 0.1 if value.ndim == 1 else value[0].numel() ** -0.5
            value.data = spread * torch.randn(value.shape, generator=generator)
        return network

    return draw


@pytest.fixture
def make_network(randomised: Callable[..., Any]) -> Callable[..., UNet]:
    def make(seed: int = 0, **shape: Any) -> UNet:
        return randomised(UNet(**{"widths": [8, 16], "blocks": [1, 1], "embedding": 16, **shape}), seed)

    return make


@pytest.fixture
def network(make_network: Callable[..., UNet]) -> UNet:
    return make_network()


@pytest.fixture
def prior(network: UNet) -> NetworkPrior:
    return NetworkPrior(network, EDM(), Card(name="tiny", channels=3))


@pytest.fixture
def pictures() -> Callable[..., torch.Tensor]:
    """pictures(2, 3, 8, 8): random, in image units."""
    generator = torch.Generator().manual_seed(7)
    return lambda *shape, dtype=torch.float32: torch.rand(shape, generator=generator, dtype=dtype)
