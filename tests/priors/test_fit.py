"""Any prior for pictures of any shape: channels bridged, one size padded or tiled, large pictures in windows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.priors import (
    EDM,
    Card,
    Cropped,
    FunctionPrior,
    GaussianPrior,
    NetworkPrior,
    Prior,
    Tiled,
    fitted,
    load_prior,
    with_label,
)
from invdiff.priors.fit import Luma, PerChannel, Repeated, _bytes_per_pixel, _device, fit
from invdiff.priors.nets.unet import UNet

Make = Callable[..., Tensor]
DOUBLE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def affine(turn: Tensor, variances: Tensor, channels: int) -> Prior:
    """The exact prior of pixels whose channels, turned, are independent Gaussians around ½ of these variances."""

    def denoise(x: Tensor, sigma: Any) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).flatten().expand(len(x)) ** 2
        share = variances / (variances + level[:, None])
        matrices = turn.T @ (share[:, :, None] * turn)
        return 0.5 + (matrices @ (x - 0.5).flatten(2)).reshape(x.shape)

    return FunctionPrior(denoise, Card(name="turned", channels=channels))


TURN = torch.tensor([[1, 1, 1], [1, -1, 0], [1, 1, -2]], dtype=torch.float64)
TURN = TURN / TURN.norm(dim=1, keepdim=True)


def one_size(prior: Prior, size: int, channels: int | None = None) -> Prior:
    return FunctionPrior(
        lambda x, sigma: prior(x, sigma), Card(name="one size", size=size, channels=channels)
    )


def bytes_for(prior: Prior, pixels: int) -> int:
    """The memory that holds a picture of so many."""
    return int(pixels * _bytes_per_pixel(prior))


def test_what_fits_is_left_as_it_is(prior: NetworkPrior) -> None:
    for shape in ((3, 8, 8), (3, 200, 300)):
        assert fitted(prior, shape) is prior
    gaussian = GaussianPrior.white(0.5, 0.2)
    assert fitted(gaussian, (5, 4096, 4096)) is gaussian
    assert fit(gaussian) == []


def test_a_colour_prior_denoises_the_mean_of_its_channels_where_the_picture_is_grey(pictures: Make) -> None:
    """Var((r+g+b)/3) is a third of the variance along (1,1,1)/√3; colours are independent of it."""
    variances = torch.tensor([0.12, 0.004, 0.01], dtype=torch.float64)
    grey = fitted(affine(TURN, variances, 3), (1, 5, 4))
    assert isinstance(grey, Repeated)
    x, sigma = pictures(2, 1, 5, 4, dtype=torch.float64), torch.tensor([0.1, 0.7], dtype=torch.float64)
    exact = GaussianPrior.white(0.5, (0.12 / 3) ** 0.5)
    torch.testing.assert_close(grey(x, sigma), exact(x, sigma), rtol=1e-6, atol=1e-6)
    assert grey.card.channels == 1
    assert grey.card.sigma_max == pytest.approx(20 / 3**0.5)


def test_a_colour_prior_of_grey_pictures_is_their_prior(pictures: Make) -> None:
    """All of it on two grey pictures: the posterior of which it was, from three channels or from one."""
    two = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).double()

    def denoise(x: Tensor, sigma: Any) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).flatten().expand(len(x))
        distance = (x[:, None] - two[None, :, None]).square().sum(dim=(2, 3, 4))  # of every channel
        weights = (-distance / (2 * level[:, None] ** 2)).softmax(dim=1)
        return (weights @ two.flatten(1)).view(-1, 1, 4, 4).expand_as(x)

    colour = FunctionPrior(denoise, Card(name="two", channels=3))
    x, sigma = pictures(3, 1, 4, 4, dtype=torch.float64), torch.tensor([0.5, 1.0, 3.0]).double()
    torch.testing.assert_close(fitted(colour, (1, 4, 4))(x, sigma), denoise(x, sigma), rtol=1e-5, atol=1e-6)


def test_a_grey_prior_takes_each_channel_by_itself(pictures: Make) -> None:
    grey = FunctionPrior(GaussianPrior.white(0.3, 0.1), Card(name="grey", channels=1))
    x, sigma = pictures(2, 4, 5, 4, dtype=torch.float64), torch.tensor([0.1, 0.7], dtype=torch.float64)
    several = fitted(grey, (4, 5, 4))
    assert isinstance(several, PerChannel)
    assert several.card.channels == 4
    for channel in range(4):
        alone = grey(x[:, channel : channel + 1], sigma)
        torch.testing.assert_close(several(x, sigma)[:, channel : channel + 1], alone, **DOUBLE)


def test_a_grey_prior_by_luma_and_chroma_is_the_prior_of_its_rotation(pictures: Make) -> None:
    """(R+G+B)/3 of variance τ² is (R+G+B)/√3 of 3τ²; the chromas have τ² themselves."""
    grey = FunctionPrior(GaussianPrior.white(0.5, 0.2), Card(name="grey", channels=1))
    luma = fitted(grey, (3, 5, 4), colour="luma")
    assert isinstance(luma, Luma)
    x, sigma = pictures(2, 3, 5, 4, dtype=torch.float64), torch.tensor([0.1, 0.7], dtype=torch.float64)
    exact = affine(TURN, torch.tensor([0.12, 0.04, 0.04], dtype=torch.float64), 3)
    torch.testing.assert_close(luma(x, sigma), exact(x, sigma), **DOUBLE)
    assert luma.card.channels == 3


@pytest.mark.parametrize(
    ("knows", "shape", "colour"),
    [(3, (1, 5, 6), "channels"), (1, (2, 5, 6), "channels"), (1, (3, 5, 6), "luma")],
)
def test_bridges_can_be_differentiated_and_keep_images_apart(
    make_network: Callable[..., UNet], pictures: Make, knows: int, shape: tuple[int, ...], colour: Any
) -> None:
    network = NetworkPrior(make_network(channels=knows), EDM(), Card(name="tiny", channels=knows))
    bridged = fitted(network, shape, colour=colour)
    x, sigma = pictures(3, *shape).requires_grad_(), torch.tensor([0.1, 1.0, 5.0])
    d = bridged(x, sigma)
    assert d.shape == x.shape
    (gradient,) = torch.autograd.grad(d[1].sum(), x)
    assert gradient[1].abs().max() > 0
    assert not gradient[[0, 2]].any()
    torch.testing.assert_close(bridged(x[2:], 5.0), d[2:], rtol=1e-5, atol=1e-6)


def test_one_size_is_padded_to_or_tiled(pictures: Make) -> None:
    gaussian = GaussianPrior.white(0.5, 0.2)
    for size in ((16, 16), (9, 16), (3, 40), (50, 33), (1, 1)):
        prior = fitted(one_size(gaussian, 16), (3, *size))
        assert isinstance(prior, Tiled)
        assert (prior.window, prior.overlap, prior.card.size) == (16, 4, None)
        x = pictures(2, 3, *size)
        torch.testing.assert_close(prior(x, 0.3), gaussian(x, 0.3))


def test_channels_and_size_are_bridged_together(pictures: Make) -> None:
    prior = fitted(one_size(GaussianPrior.white(0.5, 0.2), 16, channels=3), (1, 40, 20))
    x = pictures(1, 1, 40, 20)
    exact = GaussianPrior.white(0.5, 0.2 / 3**0.5)(x, 0.3)
    torch.testing.assert_close(prior(x, 0.3), exact, rtol=1e-5, atol=1e-6)
    assert fit(prior) == [
        "grey as the mean of 3 channels",
        "windows of 16×16, overlapping by 4, blended, shifted from step to step",
    ]


def test_a_convolutional_network_goes_in_exact_windows_where_memory_does_not_hold_the_picture(
    prior: NetworkPrior, pictures: Make
) -> None:
    shape = (3, 260, 300)
    assert fitted(prior, shape) is prior
    least = fitted(prior, shape, memory=1)
    assert isinstance(least, Cropped)
    more = fitted(prior, shape, memory=bytes_for(prior, 180 * 180))
    assert isinstance(more, Cropped)
    assert least.core < more.core < 260
    assert more.ahead is not None
    assert more.ahead > more.core
    x = pictures(1, *shape)
    torch.testing.assert_close(more(x, 0.3), prior(x, 0.3), rtol=1e-5, atol=1e-6)
    assert fit(more)[0].startswith("windows of ")


def test_the_built_in_prior_takes_pictures_whole_as_far_as_three_gib_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What docs/priors.md says; experiments/speed/memory.py measures the bytes."""
    monkeypatch.setattr("invdiff.priors.fit.reach", lambda prior, halo, device: 72)
    natural = load_prior("natural", precision="bfloat16")
    assert fitted(natural, (3, 1700, 1700)) is natural
    large, larger = (fitted(natural, (3, side, side)) for side in (1800, 4096))
    assert isinstance(large, Cropped)
    assert isinstance(larger, Cropped)
    assert large.halo == 72  # what has influence, not the 148 that could
    assert 1400 < large.core + 2 * large.halo < 1800
    assert 900 < larger.core + 2 * larger.halo < 1200  # the method's own copies of the picture take the rest


def test_a_network_that_sees_the_whole_picture_is_blended_instead(
    prior: NetworkPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NetworkPrior, "halo", None)
    tiled = fitted(prior, (3, 260, 300), memory=bytes_for(prior, 180 * 180))
    assert isinstance(tiled, Tiled)
    assert tiled.window % prior.card.multiple == 0
    assert tiled.window < 260


@pytest.mark.parametrize(
    ("knows", "shape", "how", "said"),
    [
        (3, (4, 8, 8), {}, "expected pictures of 3 channels, or grey ones, got 4"),
        (1, (4, 8, 8), {"colour": "luma"}, "1 channels or in colour, got 4"),
        (1, (3, 8, 8), {"colour": "lume"}, "luma"),
        (3, (3, 8), {}, "channels, height, width"),
        (3, (3, 8, 8), {"memory": 0}, "number of bytes"),
    ],
)
def test_what_cannot_be_bridged_is_said(knows: int, shape: Any, how: Any, said: str) -> None:
    prior = FunctionPrior(GaussianPrior.white(), Card(name="some", channels=knows))
    with pytest.raises(RequestError, match=said):
        fitted(prior, shape, **how)


def test_a_bridge_refuses_pictures_of_other_channels(pictures: Make) -> None:
    colour, grey = (FunctionPrior(GaussianPrior.white(), Card(name="some", channels=n)) for n in (3, 1))
    for prior in (fitted(colour, (1, 8, 8)), fitted(grey, (3, 8, 8)), fitted(grey, (3, 8, 8), colour="luma")):
        with pytest.raises(ValueError, match="expected pictures"):
            prior(pictures(1, 2, 8, 8), 0.1)


def test_a_guided_prior_goes_in_the_windows_of_its_network(pictures: Make) -> None:
    """And its network's device is found behind the guidance, where the memory it takes is tried."""
    network = UNet(3, widths=(8, 8), blocks=(1, 1), classes=2, embedding=8)
    draws = torch.Generator().manual_seed(0)
    for values in network.parameters():
        values.data = 0.1 * torch.randn(values.shape, generator=draws)
    labelled = NetworkPrior(network, EDM(), Card(name="labelled", channels=3, classes=2))
    guided = with_label(labelled, 1, 2.0)
    assert _device(guided) == torch.device("cpu")
    elsewhere = copy.copy(labelled)
    elsewhere.network = copy.deepcopy(network).to("meta")
    assert _device(with_label(elsewhere, 1, 2.0)) == torch.device("meta")
    cut = fitted(guided, (3, 260, 300), memory=1)
    assert isinstance(cut, Cropped)
    assert 0 < cut.halo <= (labelled.halo or 0)
    x = pictures(1, 3, 260, 300)
    torch.testing.assert_close(cut(x, 0.3), guided(x, 0.3), rtol=1e-5, atol=1e-6)
