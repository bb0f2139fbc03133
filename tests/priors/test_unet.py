"""The network sees its receptive field and the noise level, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff.priors import EDM, VP, Card, NetworkPrior, load_prior, save_prior
from invdiff.priors.nets.blocks import Block, PixelAttention, SelfAttention
from invdiff.priors.nets.unet import UNet, attention_levels

Make = Callable[..., Tensor]


def window_error(prior: NetworkPrior, image: Tensor, sigma: float, halo: int) -> float:
    """How far D of a window of `image`, with this halo around its core, is from the whole's D there."""
    multiple = prior.card.multiple
    halo += -halo % multiple
    top, left, size = 60 - 60 % multiple, 56 - 56 % multiple, 2 * multiple
    core = slice(top, top + size), slice(left, left + size)
    window = image[..., top - halo : top + size + halo, left - halo : left + size + halo]
    assert window.shape[-2:] == (size + 2 * halo, size + 2 * halo)
    inside = prior(window, sigma)[..., halo : halo + size, halo : halo + size]
    return float((inside - prior(image, sigma)[..., core[0], core[1]]).abs().max())


@pytest.mark.parametrize("sigma", [0.01, 0.3, 10.0])
def test_d_of_a_window_is_d_of_the_whole_picture(prior: NetworkPrior, pictures: Make, sigma: float) -> None:
    image = pictures(2, 3, 131, 126) + sigma * torch.randn(2, 3, 131, 126)
    halo = prior.network.halo
    assert isinstance(halo, int)
    assert window_error(prior, image, sigma, halo + 1) < 1e-5


def test_a_window_without_enough_halo_differs_so_the_law_above_could_fail(
    prior: NetworkPrior, pictures: Make
) -> None:
    assert window_error(prior, pictures(1, 3, 131, 126), 0.3, prior.card.multiple) > 1e-4


@pytest.mark.parametrize(
    "shape", [{}, {"widths": [4], "blocks": [2]}, {"fold": 1}, {"widths": [4, 4, 4], "blocks": [1, 1, 2]}]
)
def test_no_pixel_beyond_the_halo_has_influence_and_the_halo_is_not_wildly_wide(
    make_network: Callable[..., UNet], shape: dict[str, object]
) -> None:
    network = make_network(**shape).double()
    halo, multiple = network.halo, network.multiple
    size = 2 * (halo + multiple) + multiple
    size += -size % multiple
    x = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    middle = size // 2
    output = network(x, torch.zeros(1, dtype=torch.float64))[0, 0, middle, middle]
    (gradient,) = torch.autograd.grad(output, x)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    reach = int((rows - middle).abs().max())
    assert 0.4 * halo < reach <= halo


def test_sizes_are_multiples_of_the_fold_and_the_levels(make_network: Callable[..., UNet]) -> None:
    network = make_network(widths=[4, 4, 4], blocks=[1, 1, 1], fold=3)
    assert network.multiple == 12
    assert network(torch.rand(1, 3, 12, 24), torch.zeros(1)).shape == (1, 3, 12, 24)


@pytest.mark.parametrize("shape", [{}, {"attention": [1]}, {"classes": 3}, {"variance": True}])
def test_a_new_network_answers_zero_whatever_it_is_given(pictures: Make, shape: dict[str, Any]) -> None:
    network = UNet(widths=[8, 16], blocks=[1, 1], **shape)
    assert network(pictures(1, 3, 8, 8), torch.zeros(1)).abs().max() == 0


def test_the_noise_level_changes_the_answer(network: UNet, pictures: Make) -> None:
    x = pictures(1, 3, 8, 8)
    low, high = network(x, torch.tensor([-1.0])), network(x, torch.tensor([0.5]))
    assert (low - high).abs().mean() > 0.01


@pytest.mark.parametrize(
    "shape",
    [{"blocks": [1]}, {"widths": [], "blocks": []}, {"widths": [8, 0]}, {"blocks": [1, -1]}, {"fold": 0}],
)
def test_a_shape_that_cannot_be_is_refused(shape: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="UNet: expected positive numbers"):
        UNet(**{"widths": [8, 16], "blocks": [1, 1], **shape})  # type: ignore[arg-type]


FULL: dict[str, Any] = {"attention": [1], "classes": 3, "variance": True, "dropout": 0.3}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"attention": [2]}, r"levels from 0 \(the finest\) to 1, got \[2\]"),
        ({"attention": [-1]}, "levels from 0"),
        ({"dropout": 1.0}, "dropout: expected a share"),
        ({"classes": -1}, "classes: expected a number"),
    ],
)
def test_an_option_that_cannot_be_is_refused(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(widths=[8, 16], blocks=[1, 1], **shape)


def test_options_that_are_off_add_no_weights_and_change_no_answer(
    make_network: Callable[..., UNet], pictures: Make
) -> None:
    old = make_network()
    new = UNet(**old.config)
    assert {"attention", "dropout", "classes", "variance"} <= set(old.config)
    assert not [name for name in old.state_dict() if "attention" in name or "labels" in name]
    new.load_state_dict(old.state_dict())
    x = pictures(2, 3, 8, 8)
    assert torch.equal(new(x, torch.zeros(2)), old(x, torch.zeros(2)))


@pytest.mark.parametrize("shape", [{}, FULL, {"widths": [8], "blocks": [2], "fold": 1}])
def test_the_bound_on_the_weights_is_below_and_not_far_below(shape: dict[str, Any]) -> None:
    network = UNet(**{"widths": [32, 64], "blocks": [1, 2], "embedding": 32, **shape})
    weights = sum(value.numel() for value in network.parameters())
    bound = UNet.weights_at_least(**network.config)
    assert 0.6 * weights < bound <= weights


def test_attention_is_the_formula_written_out(pictures: Make) -> None:
    torch.manual_seed(0)
    tokens, layer = pictures(2, 7, 12, dtype=torch.float64), SelfAttention(12, 3).double()
    mixed = torch.zeros(2, 7, 12, dtype=torch.float64)
    for image in range(2):
        q, k, v = (tokens[image] @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, dim=1)
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            for i in range(7):
                weight = torch.exp(torch.stack([q[i, part] @ k[j, part] / 2 for j in range(7)]))
                mixed[image, i, part] = (weight / weight.sum()) @ v[:, part]
    expected = mixed @ layer.out.weight.T + layer.out.bias
    assert (layer(tokens) - expected).abs().max() < 1e-12
    layer.fused = False
    assert (layer(tokens) - expected).abs().max() < 1e-12


def test_attention_over_pixels_knows_no_order_of_them(pictures: Make, randomised: Callable[..., Any]) -> None:
    layer = randomised(PixelAttention(64)).double()
    x = pictures(1, 64, 3, 5, dtype=torch.float64)
    assert layer.attend.heads == 2
    order = torch.randperm(15)
    moved = layer(x.flatten(2)[:, :, order].view_as(x))
    assert (moved.flatten(2) - layer(x).flatten(2)[:, :, order]).abs().max() < 1e-12
    assert (layer(x) - x).abs().mean() > 0.1


@pytest.mark.parametrize(("width", "heads"), [(8, 1), (48, 1), (96, 3), (112, 2), (192, 6)])
def test_the_heads_divide_the_width(width: int, heads: int) -> None:
    assert PixelAttention(width).attend.heads == heads


def test_attention_reaches_the_whole_picture_and_there_is_no_halo(make_network: Callable[..., UNet]) -> None:
    network = make_network(attention=[1])
    assert network.halo is None
    x = torch.rand(1, 3, 128, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x, torch.zeros(1))[0, 0, 0, 0], x)
    assert gradient[..., -1, :].abs().max() > 0
    x = torch.rand(1, 3, 128, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(make_network()(x, torch.zeros(1))[0, 0, 0, 0], x)
    assert gradient[..., -1, :].abs().max() == 0


def test_attention_stands_at_its_levels_alone() -> None:
    network = UNet(widths=[8, 8, 8], blocks=[1, 2, 1], attention=[1, 2, 1])
    assert network.config["attention"] == [1, 2]
    for stage in (network.down, network.up):
        there = [[b.attention is not None for b in level] for level in stage]  # type: ignore[union-attr]
        assert there == [[False], [True, True], [True]]


def test_the_levels_of_a_size_are_found_and_a_size_that_is_none_is_refused() -> None:
    assert attention_levels([8, 16], size=32, fold=2, levels=3) == [0, 1]
    assert attention_levels([], size=32, fold=2, levels=3) == []
    with pytest.raises(ValueError, match=r"expected among \[16, 8, 4\], the levels' sizes of 32, got 32"):
        attention_levels([32], size=32, fold=2, levels=3)


def test_the_label_changes_the_answer_and_none_is_the_last_row(
    make_network: Callable[..., UNet], pictures: Make
) -> None:
    network, x, t = make_network(classes=3), pictures(2, 3, 8, 8), torch.zeros(2)
    answers = [network(x, t, torch.full((2,), label)) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert (answers[i] - answers[j]).abs().mean() > 0.01
    assert torch.equal(network(x, t), answers[3])
    both = network(x, t, torch.tensor([0, 2]))
    assert (both[0] - answers[0][0]).abs().max() < 1e-6
    assert (both[1] - answers[2][1]).abs().max() < 1e-6


def test_a_network_without_classes_refuses_labels(network: UNet, pictures: Make) -> None:
    with pytest.raises(ValueError, match="knows no classes"):
        network(pictures(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))


def test_a_prior_of_a_class_tells_the_network_its_label(
    make_network: Callable[..., UNet], pictures: Make
) -> None:
    network, x = make_network(classes=3, variance=True), pictures(2, 3, 8, 8)
    prior = NetworkPrior(network, EDM(), Card(name="digits", channels=3, classes=3))
    assert prior(x, 0.3).shape == x.shape
    assert (prior.given(1)(x, 0.3) - prior(x, 0.3)).abs().mean() > 1e-3
    assert torch.equal(prior.given(None)(x, 0.3), prior(x, 0.3))


def test_a_learned_variance_comes_after_the_answer_and_leaves_it_as_it_is(
    make_network: Callable[..., UNet], pictures: Make
) -> None:
    plain, both = make_network(), make_network(variance=True)
    weights = {**both.state_dict(), **plain.state_dict()}
    for name in ("head.weight", "head.bias"):
        weights[name] = torch.cat([plain.state_dict()[name], both.state_dict()[name][12:]])
    both.load_state_dict(weights)
    x, t = pictures(2, 3, 8, 8), torch.zeros(2)
    answer = both(x, t)
    assert answer.shape == (2, 6, 8, 8)
    assert (answer[:, :3] - plain(x, t)).abs().max() < 1e-5
    assert answer[:, 3:].abs().mean() > 0.01


def test_dropout_acts_in_training_alone(make_network: Callable[..., UNet], pictures: Make) -> None:
    dropping, x, t = make_network(dropout=0.5), pictures(2, 3, 8, 8), torch.zeros(2)
    kept = make_network()(x, t)
    assert torch.equal(dropping.eval()(x, t), kept)
    dropping.train()
    torch.manual_seed(0)
    assert (dropping(x, t) - kept).abs().mean() > 0.01


def test_dropout_keeps_the_mean_of_what_a_block_adds(randomised: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    block = randomised(Block(8, 4, dropout=0.4))
    x, e = torch.randn(1, 8, 4, 4), torch.randn(1, 4)
    many = block.train()(x.expand(20000, -1, -1, -1), e.expand(20000, -1)).mean(0)
    assert (many - block.eval()(x, e)[0]).abs().max() < 0.05


@pytest.mark.parametrize("shape", [{}, FULL])
def test_each_picture_is_answered_as_if_alone(
    make_network: Callable[..., UNet], pictures: Make, shape: dict[str, Any]
) -> None:
    network = make_network(**shape).double().eval()
    x, t = pictures(3, 3, 8, 12, dtype=torch.float64), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    labels = torch.tensor([0, 3, 2]) if network.classes else None
    together = network(x, t, labels)
    for i in range(3):
        alone = network(x[i : i + 1], t[i : i + 1], None if labels is None else labels[i : i + 1])
        assert (together[i] - alone[0]).abs().max() < 1e-12


def test_the_gradient_is_that_of_finite_differences(
    make_network: Callable[..., UNet], pictures: Make
) -> None:
    network = make_network(channels=1, **FULL).double().eval().requires_grad_(False)
    x = pictures(1, 1, 4, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: network(z, torch.zeros(1).double()), (x,), fast_mode=True)


@pytest.mark.parametrize("shape", [{}, FULL])
def test_memory_format_changes_nothing_but_rounding(
    make_network: Callable[..., UNet], pictures: Make, shape: dict[str, Any]
) -> None:
    network, x = make_network(**shape).double().eval(), pictures(2, 3, 8, 8, dtype=torch.float64)
    t = torch.zeros(2, dtype=torch.float64)
    before = network(x, t)
    network.to(memory_format=torch.channels_last)
    assert (network(x.contiguous(memory_format=torch.channels_last), t) - before).abs().max() < 1e-12


def test_every_weight_is_trained(make_network: Callable[..., UNet], pictures: Make) -> None:
    network = make_network(**FULL)
    labels = torch.tensor([0, 1, 2, 3])
    network(pictures(4, 3, 8, 8), torch.randn(4), labels).square().sum().backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []


def test_it_comes_back_from_its_file_with_labels_and_attention(
    tmp_path: Path, make_network: Callable[..., UNet], pictures: Make
) -> None:
    network, x = make_network(**FULL), pictures(2, 3, 8, 8)
    card = Card(name="digits", channels=3, classes=3)
    save_prior(tmp_path / "p.safetensors", network, VP(scale=0.001), card, dtype=torch.float32)
    before = NetworkPrior(network, VP(scale=0.001), card)
    after = load_prior(tmp_path / "p.safetensors", precision="float32")
    assert isinstance(after, NetworkPrior)
    assert after.network.config == network.config
    for label in (None, 0, 2):
        assert torch.equal(after.given(label)(x, 0.3), before.given(label)(x, 0.3))


def test_one_noise_level_for_all_pictures_is_each_ones_own() -> None:
    torch.manual_seed(0)
    network = UNet(channels=3, widths=(8, 12), blocks=(1, 1), embedding=16, classes=3)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape)
    x, level, label = torch.rand(3, 3, 8, 8), torch.tensor([0.3]), torch.tensor([1])
    shared = network(x, level, label)
    torch.testing.assert_close(shared, network(x, level.expand(3), label.expand(3)), rtol=1e-4, atol=1e-5)
    other = network(x, torch.tensor([0.9]), label)
    assert (shared - other).abs().max() > 1e-3


def test_a_picture_without_its_gradient_is_the_picture_with_it() -> None:
    """In place where nothing must be kept, and never in what was given."""
    torch.manual_seed(0)
    network = UNet(channels=3, widths=(8,), blocks=(2,), embedding=16).requires_grad_(False)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape)
    x, level = torch.rand(2, 3, 8, 8), torch.tensor([0.3])
    given = x.clone()
    with torch.no_grad():
        plain = network(x, level)
    assert torch.equal(x, given)
    torch.testing.assert_close(plain, network(x.requires_grad_(), level))
