"""Low-rank adaptation (LoRA: Hu et al. 2022, arXiv:2106.09685): W + U·V, U and V of a small rank, in W's place."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter


class LowRank(nn.Module):
    """base(x) + widen(narrow(x)) for a linear layer or a convolution, `rank` channels between; base(x) at first."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.base = base
        self.narrow: nn.Linear | nn.Conv2d
        self.widen: nn.Linear | nn.Conv2d
        if isinstance(base, nn.Linear):
            self.narrow = nn.Linear(base.in_features, rank, bias=False)
            self.widen = nn.Linear(rank, base.out_features, bias=False)
        else:
            self.narrow = nn.Conv2d(
                base.in_channels,
                rank,
                base.kernel_size,  # type: ignore[arg-type]
                base.stride,  # type: ignore[arg-type]
                base.padding,  # type: ignore[arg-type]
                base.dilation,  # type: ignore[arg-type]
                bias=False,
                padding_mode=base.padding_mode,
            )
            self.widen = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        weight = base.weight
        self.to(weight.device, weight.dtype)
        fan_in = self.narrow.weight[0].numel()
        with torch.no_grad():  # drawn on the CPU, so that a seed means the same everywhere
            drawn = torch.randn(self.narrow.weight.shape, generator=generator)
            self.narrow.weight.copy_(drawn * fan_in**-0.5)
            self.widen.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.widen(self.narrow(x))

    def merged(self) -> nn.Linear | nn.Conv2d:
        """The base layer, with what was learned added to its weight."""
        with torch.no_grad():
            narrow, widen = self.narrow.weight.double(), self.widen.weight.double()
            change = widen.flatten(1) @ narrow.flatten(1)
            weight = self.base.weight
            weight.copy_((weight.double() + change.view(weight.shape)).to(weight.dtype))
        return self.base


def add_lora(network: nn.Module, rank: int, *, generator: torch.Generator | None = None) -> list[Parameter]:
    """Freeze `network` and give every linear layer and every convolution a low-rank companion; returns what is to be
    trained. The network answers as before until it is. Layers with groups and layers no larger than their companion
    are left alone.

    generator: of the CPU, for the companions' first values; None: torch's own. ValueError for a rank below 1, and
    where the network has companions already or no layer for one.
    """
    if rank < 1:
        raise ValueError(f"rank: expected 1 or more, got {rank}")
    if any(isinstance(layer, LowRank) for layer in network.modules()):
        raise ValueError("the network has LoRA layers already; merge_lora them first")
    network.requires_grad_(False)
    trained: list[Parameter] = []
    for owner, name, layer in _children(network, (nn.Linear, nn.Conv2d)):
        inputs, outputs = cast(Tensor, layer.weight)[0].numel(), len(cast(Tensor, layer.weight))
        if getattr(layer, "groups", 1) != 1 or rank * (inputs + outputs) >= inputs * outputs:
            continue
        low_rank = LowRank(cast(nn.Linear | nn.Conv2d, layer), rank, generator)
        setattr(owner, name, low_rank)
        trained += low_rank.narrow.parameters()
        trained += low_rank.widen.parameters()
    if not trained:
        raise ValueError(f"rank: no layer of the network is large enough for {rank}; use a smaller one")
    return trained


def merge_lora(network: nn.Module) -> None:
    """Put plain layers back that answer what the low-rank ones did, so that it saves as it loaded."""
    for owner, name, layer in _children(network, (LowRank,)):
        setattr(owner, name, cast(LowRank, layer).merged())


def _children(
    network: nn.Module, kinds: tuple[type[nn.Module], ...]
) -> list[tuple[nn.Module, str, nn.Module]]:
    """(owner, name, layer) of every layer of these kinds below `network`."""
    return [
        (owner, name, layer)
        for owner in network.modules()
        for name, layer in owner.named_children()
        if isinstance(layer, kinds)
    ]
