"""The network sees its receptive field and the noise level, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from invdiff.priors import NetworkPrior
from invdiff.priors.nets.unet import UNet

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


def test_a_new_network_answers_zero_whatever_it_is_given(pictures: Make) -> None:
    network = UNet(widths=[8, 16], blocks=[1, 1])
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
