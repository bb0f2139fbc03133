"""Low-rank companions change nothing until they are trained, and nothing when they are merged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invdiff.priors.nets.dit import DiT
from invdiff.priors.nets.lora import LowRank, add_lora, merge_lora
from invdiff.priors.nets.unet import UNet

Make = Callable[..., Tensor]


@pytest.fixture(params=["unet", "dit"])
def network(request: pytest.FixtureRequest, randomised: Callable[..., Any]) -> nn.Module:
    if request.param == "unet":
        made: nn.Module = UNet(widths=[8, 16], blocks=[1, 1], embedding=16, attention=[1], classes=3)
    else:
        made = DiT(size=8, patch=2, width=16, depth=2, heads=2, classes=3)
    return randomised(made).eval()


def train(network: nn.Module, trained: list[nn.Parameter], x: Tensor) -> None:
    """Four steps toward a target that is none of what it answers."""
    optimiser = torch.optim.Adam(trained, lr=0.05)
    for _ in range(4):
        optimiser.zero_grad()
        (network(x, torch.zeros(len(x))) - x).square().mean().backward()
        optimiser.step()


def test_companions_change_nothing_at_first_and_something_when_trained(
    network: nn.Module, pictures: Make
) -> None:
    x, t = pictures(2, 3, 8, 8), torch.zeros(2)
    before = network(x, t)
    trained = add_lora(network, 2)
    assert torch.equal(network(x, t), before)
    train(network, trained, x)
    assert (network(x, t) - before).abs().mean() > 0.01


def test_only_the_companions_are_trained_and_they_are_few(network: nn.Module, pictures: Make) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    total = sum(value.numel() for value in network.parameters())
    trained = add_lora(network, 1)
    assert {id(p) for p in network.parameters() if p.requires_grad} == {id(p) for p in trained}
    assert sum(p.numel() for p in trained) < total / 4
    train(network, trained, pictures(2, 3, 8, 8))
    after = {name.replace(".base.", "."): value for name, value in network.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_merged_it_answers_the_same_with_the_names_and_shapes_it_had(
    network: nn.Module, pictures: Make
) -> None:
    x, t = pictures(2, 3, 8, 8), torch.zeros(2)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    before = network(x, t)
    train(network, add_lora(network, 2), x)
    wrapped = network(x, t)
    merge_lora(network)
    assert {name: value.shape for name, value in network.state_dict().items()} == shapes
    assert (network(x, t) - wrapped).abs().max() < 1e-5 * wrapped.abs().max()
    assert (network(x, t) - before).abs().max() > 0.01
    assert not any(isinstance(layer, LowRank) for layer in network.modules())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(12, 20),
        nn.Conv2d(6, 12, 3, padding=1),
        nn.Conv2d(6, 12, 2, stride=2),
        nn.Conv2d(6, 12, 3, padding=2, dilation=2, padding_mode="reflect"),
        nn.Conv2d(6, 12, (1, 3), padding="same", bias=False),
        nn.Conv2d(12, 12, 1),
    ],
)
def test_a_layer_and_its_companion_merge_to_one_layer(layer: nn.Module) -> None:
    torch.manual_seed(0)
    holder = nn.Sequential(layer).double()
    shape = (2, 12) if isinstance(layer, nn.Linear) else (2, layer.weight.shape[1], 8, 8)  # type: ignore[union-attr,index]
    x = torch.randn(shape, dtype=torch.float64)  # type: ignore[arg-type]
    before = holder(x)
    for value in add_lora(holder, 2):
        value.data = torch.randn(value.shape, dtype=torch.float64)
    wrapped = holder(x)
    merge_lora(holder)
    assert holder[0] is layer
    assert (holder(x) - wrapped).abs().max() < 1e-12 * wrapped.abs().max()
    assert (before - wrapped).abs().max() > 0.1


def test_the_first_values_come_from_the_generator_alone() -> None:
    def drawn(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return add_lora(nn.Sequential(nn.Linear(8, 8)), 2, generator=generator)[0]

    torch.manual_seed(0)
    first = drawn(5)
    torch.manual_seed(1)
    assert torch.equal(first, drawn(5))
    assert not torch.equal(first, drawn(6))


def test_layers_that_would_not_become_cheaper_and_layers_in_groups_are_left_alone() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3), nn.Conv2d(8, 8, 3, groups=2))
    assert len(add_lora(network, 3)) == 2
    assert [isinstance(layer, LowRank) for layer in network] == [True, False, False]


@pytest.mark.parametrize(
    ("rank", "message"), [(0, "rank: expected 1"), (4, "no layer .* large enough for 4")]
)
def test_a_rank_that_cannot_be_is_refused(rank: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_lora(nn.Sequential(nn.Linear(8, 8)), rank)


def test_a_network_is_not_wrapped_twice() -> None:
    network = nn.Sequential(nn.Linear(8, 8))
    add_lora(network, 2)
    with pytest.raises(ValueError, match="has LoRA layers already"):
        add_lora(network, 2)
