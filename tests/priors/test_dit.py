"""The transformer over patches: one position table for any size, and nothing but F = 0 to begin with."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.priors import EDM, Card, NetworkPrior, load_prior, save_prior
from invdiff.priors.nets.dit import DiT, sines_of_positions

Make = Callable[..., Tensor]
FULL: dict[str, Any] = {"classes": 3, "variance": True, "dropout": 0.3}


def tiny(**shape: Any) -> DiT:
    return DiT(**{"size": 8, "patch": 2, "width": 16, "depth": 2, "heads": 2, **shape})


@pytest.fixture
def make(randomised: Callable[..., Any]) -> Callable[..., DiT]:
    return lambda **shape: randomised(tiny(**shape))


@pytest.mark.parametrize("shape", [{}, FULL])
def test_a_new_network_answers_zero_and_its_blocks_are_the_identity(
    pictures: Make, shape: dict[str, Any]
) -> None:
    network, x = tiny(**shape), pictures(2, 3, 8, 8)
    assert network(x, torch.zeros(2)).abs().max() == 0
    tokens = pictures(2, 16, 16)
    assert torch.equal(network.blocks[0].eval()(tokens, pictures(2, 16)), tokens)
    assert not tiny(**shape).blocks[0].attend.qkv.weight.eq(0).any()  # type: ignore[union-attr]


def test_a_block_is_the_papers_written_out(make: Callable[..., DiT], pictures: Make) -> None:
    block = make().blocks[0].double()
    x, e = pictures(2, 5, 16, dtype=torch.float64), pictures(2, 16, dtype=torch.float64)
    b1, g1, a1, b2, g2, a2 = (e @ block.modulation.weight.T + block.modulation.bias)[:, None].chunk(6, dim=2)

    def norm(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    h = x + a1 * block.attend((1 + g1) * norm(x) + b1)
    wide = ((1 + g2) * norm(h) + b2) @ block.mlp[0].weight.T + block.mlp[0].bias
    wide = wide / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    h = h + a2 * (wide @ block.mlp[2].weight.T + block.mlp[2].bias)
    assert (block(x, e) - h).abs().max() < 1e-12


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    table = sines_of_positions(3, 5, 16)
    assert table.shape == (15, 16)
    for row in range(3):
        for column in range(5):
            ends = []
            for n in (row, column):
                angles = [n * 10000 ** (-k / 4) for k in range(4)]
                ends += [*map(math.sin, angles), *map(math.cos, angles)]
            assert (table[5 * row + column] - torch.tensor(ends)).abs().max() < 1e-6


def test_the_positions_of_a_size_are_part_of_those_of_a_larger_one() -> None:
    large = sines_of_positions(6, 7, 16).view(6, 7, 16)
    assert torch.allclose(large[:3, :5], sines_of_positions(3, 5, 16).view(3, 5, 16))
    assert len({tuple(place.tolist()) for place in large.flatten(0, 1)}) == 42


@pytest.mark.parametrize("size", [(8, 8), (2, 2), (12, 6), (4, 16)])
def test_any_multiple_of_the_patch_runs(
    make: Callable[..., DiT], pictures: Make, size: tuple[int, int]
) -> None:
    network = make()
    assert (network.multiple, network.size) == (2, 8)
    assert network(pictures(2, 3, *size), torch.zeros(2)).shape == (2, 3, *size)


def test_patches_go_in_and_come_out_where_they_lie(make: Callable[..., DiT], pictures: Make) -> None:
    """A stem and a head that are each other's inverse give the picture back."""
    network = make(width=12, depth=1, heads=1)
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
        network.stem.weight.copy_(torch.eye(12))
        network.head.weight.copy_(torch.eye(12))
    x = pictures(1, 3, 4, 6)
    tokens = F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1).flatten(1, 2) + sines_of_positions(2, 3, 12)
    expected = F.layer_norm(tokens, (12,), eps=1e-6).view(1, 2, 3, 12).permute(0, 3, 1, 2)
    assert (network(x, torch.zeros(1)) - F.pixel_shuffle(expected, 2)).abs().max() < 1e-6


def test_it_knows_where_a_patch_lies(make: Callable[..., DiT]) -> None:
    flat = make()(torch.full((1, 3, 8, 8), 0.4), torch.zeros(1))
    assert (flat[..., :2, :2] - flat[..., :2, 4:6]).abs().max() > 0.01
    assert (flat[..., :2, :2] - flat[..., 4:6, :2]).abs().max() > 0.01


def test_label_and_noise_level_change_the_answer_and_none_is_the_last_row(
    make: Callable[..., DiT], pictures: Make
) -> None:
    network, x, t = make(classes=3), pictures(2, 3, 8, 8), torch.zeros(2)
    answers = [network(x, t, torch.full((2,), label)) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert (answers[i] - answers[j]).abs().mean() > 0.01
    assert torch.equal(network(x, t), answers[3])
    assert (network(x, t + 0.5) - answers[3]).abs().mean() > 0.01
    with pytest.raises(ValueError, match="knows no classes"):
        make()(x, t, torch.zeros(2, dtype=torch.int64))


def test_a_learned_variance_comes_after_the_answer(make: Callable[..., DiT], pictures: Make) -> None:
    plain, both = make(), make(variance=True)
    weights = {**both.state_dict(), **plain.state_dict()}
    for name in ("head.weight", "head.bias"):
        weights[name] = torch.cat([plain.state_dict()[name], both.state_dict()[name][12:]])
    both.load_state_dict(weights)
    x, t = pictures(2, 3, 8, 8), torch.zeros(2)
    assert both(x, t).shape == (2, 6, 8, 8)
    assert (both(x, t)[:, :3] - plain(x, t)).abs().max() < 1e-5


def test_dropout_acts_in_training_alone(make: Callable[..., DiT], pictures: Make) -> None:
    dropping, x, t = make(dropout=0.5), pictures(2, 3, 8, 8), torch.zeros(2)
    kept = make()(x, t)
    assert torch.equal(dropping.eval()(x, t), kept)
    torch.manual_seed(0)
    assert (dropping.train()(x, t) - kept).abs().mean() > 0.01


def test_each_picture_is_answered_as_if_alone(make: Callable[..., DiT], pictures: Make) -> None:
    network = make(**FULL).double().eval()
    x, t = pictures(3, 3, 8, 4, dtype=torch.float64), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    labels = torch.tensor([0, 3, 2])
    together = network(x, t, labels)
    for i in range(3):
        alone = network(x[i : i + 1], t[i : i + 1], labels[i : i + 1])
        assert (together[i] - alone[0]).abs().max() < 1e-12


def test_the_gradient_is_that_of_finite_differences(make: Callable[..., DiT], pictures: Make) -> None:
    network = make(**FULL).double().eval().requires_grad_(False)
    x = pictures(1, 3, 4, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: network(z, torch.zeros(1).double()), (x,), fast_mode=True)


def test_every_weight_is_trained(make: Callable[..., DiT], pictures: Make) -> None:
    network = make(**FULL)
    labels = torch.tensor([0, 1, 2, 3])
    network(pictures(4, 3, 8, 8), torch.randn(4), labels).square().sum().backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []


@pytest.mark.parametrize("shape", [{}, FULL, {"width": 64, "depth": 4}])
def test_the_bound_on_the_weights_is_below_and_not_far_below(shape: dict[str, Any]) -> None:
    network = tiny(**{"width": 32, **shape})
    weights = sum(value.numel() for value in network.parameters())
    assert 0.6 * weights < DiT.weights_at_least(**network.config) <= weights


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"depth": 0}, "expected positive numbers"),
        ({"patch": 3}, "a size that is a multiple of the patch"),
        ({"heads": 3}, "a width that 4 and 3 heads divide, got 16"),
        ({"width": 6}, "a width that 4 and 2 heads divide, got 6"),
        ({"dropout": -0.1}, "dropout: expected a share"),
        ({"classes": -2}, "classes: expected a number"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**shape)


def test_as_a_prior_it_takes_the_size_of_its_card_and_refuses_another(
    make: Callable[..., DiT], pictures: Make
) -> None:
    network = make(classes=3)
    card = Card(name="digits", channels=3, size=network.size, classes=3)
    prior = NetworkPrior(network, EDM(), card)
    x = pictures(2, 3, 8, 8)
    assert prior.card.multiple == 2
    assert (prior.given(2)(x, 0.3) - prior(x, 0.3)).abs().mean() > 1e-3
    with pytest.raises(ValueError, match="expected pictures of 8×8, got 8×10"):
        prior(pictures(1, 3, 8, 10), 0.3)


def test_bfloat16_is_float32_to_its_precision(make: Callable[..., DiT], pictures: Make) -> None:
    x, card = pictures(2, 3, 8, 8), Card(name="tiny", channels=3)
    exact = NetworkPrior(make(), EDM(), card)(x, 0.3)
    coarse = NetworkPrior(make(), EDM(), card, precision=torch.bfloat16)(x, 0.3)
    assert 0 < (coarse - exact).abs().max() < 0.02


def test_it_comes_back_from_its_file(tmp_path: Path, make: Callable[..., DiT], pictures: Make) -> None:
    network, x = make(**FULL), pictures(2, 3, 8, 8)
    card = Card(name="digits", channels=3, size=8, classes=3)
    save_prior(tmp_path / "p.safetensors", network, EDM(), card, dtype=torch.float32)
    after = load_prior(tmp_path / "p.safetensors", precision="float32")
    assert isinstance(after, NetworkPrior)
    assert (after.network.config, after.card.size) == (network.config, 8)
    assert torch.equal(after.given(1)(x, 0.3), NetworkPrior(network, EDM(), card).given(1)(x, 0.3))
