"""A network as a prior: any size, any batch, frozen, in the precision asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.priors import EDM, Card, GaussianPrior, NetworkPrior, Prior
from invdiff.priors.nets.unet import UNet
from invdiff.priors.network import choose_precision, reflect_to_multiple, resolve_device

Make = Callable[..., Tensor]


def test_it_is_a_prior_and_its_card_says_the_networks_multiple(prior: NetworkPrior) -> None:
    assert isinstance(prior, Prior)
    assert (prior.card.name, prior.card.multiple) == ("tiny", 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (4, 4), (5, 7), (17, 12), (33, 1)])
def test_any_size_is_taken_and_given_back(prior: NetworkPrior, pictures: Make, size: tuple[int, int]) -> None:
    x = pictures(2, 3, *size)
    d = prior(x, 0.2)
    assert d.shape == x.shape
    assert d.isfinite().all()


@pytest.mark.parametrize("size", [(5, 7), (10, 9), (3, 13)])
def test_padding_is_by_reflection_at_the_right_and_the_bottom(
    prior: NetworkPrior, pictures: Make, size: tuple[int, int]
) -> None:
    x = pictures(1, 3, *size)
    height, width = size
    padded = F.pad(x, (0, -width % 4, 0, -height % 4), mode="reflect")
    assert torch.equal(reflect_to_multiple(x, 4), padded)
    expected = prior(padded, 0.2)[..., :height, :width]
    assert torch.allclose(prior(x, 0.2), expected, rtol=0, atol=1e-6)


def test_a_picture_smaller_than_its_padding_is_reflected_again_and_again() -> None:
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert reflect_to_multiple(row, 8)[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2]
    assert reflect_to_multiple(row, 8).shape == (1, 1, 8, 8)
    assert reflect_to_multiple(row[..., :1], 3).unique().tolist() == [1]


@pytest.mark.parametrize("sigma", [0.01, 0.25, 7.0])
def test_one_sigma_for_each_image_is_the_same_as_a_number(
    prior: NetworkPrior, pictures: Make, sigma: float
) -> None:
    x = pictures(3, 3, 8, 8)
    for same in (torch.tensor(sigma), torch.full((3,), sigma), torch.full((3, 1, 1, 1), sigma)):
        torch.testing.assert_close(prior(x, same), prior(x, sigma))  # but for the rounding of another kernel


def test_each_image_of_a_batch_is_as_if_it_were_alone(prior: NetworkPrior, pictures: Make) -> None:
    x, sigma = pictures(4, 3, 11, 6), torch.tensor([0.01, 0.1, 1.0, 10.0])
    together = prior(x, sigma)
    for row in range(4):
        alone = prior(x[row : row + 1], float(sigma[row]))
        assert torch.allclose(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_used_where_asked_for_and_within_its_error(
    make_network: Callable[..., UNet], pictures: Make
) -> None:
    card = Card(name="tiny", channels=3)
    x = pictures(2, 3, 13, 16)
    full = NetworkPrior(make_network(), EDM(), card)(x, 0.25)
    prior = NetworkPrior(make_network(), EDM(), card, precision=torch.bfloat16)
    assert prior.network.get_parameter("stem.weight").dtype is torch.bfloat16  # not cast at every call
    half = prior(x, 0.25)
    assert half.dtype is torch.float32
    error = (half - full).abs().max() / (full - EDM().denoised(x, torch.full((2,), 0.25), 0 * x)).abs().max()
    assert 0 < float(error) < 8 * 2**-8  # eight roundings to bfloat16's 8 bits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_answer_is_of_the_pictures_type(
    network: UNet, pictures: Make, dtype: torch.dtype, precision: torch.dtype
) -> None:
    prior = NetworkPrior(network, EDM(), Card(name="tiny"), precision=precision)
    x = pictures(1, 3, 6, 6)
    d = prior(x.to(dtype), 0.2)
    assert d.dtype is dtype
    assert torch.allclose(d.float(), prior(x, 0.2), atol=0.02)


def test_weights_are_frozen_and_the_gradient_goes_to_the_picture_alone(
    prior: NetworkPrior, pictures: Make
) -> None:
    x = pictures(1, 3, 5, 6).requires_grad_()
    prior(x, 0.2).square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().min(dim=1).values.max()) > 0
    assert all(p.grad is None and not p.requires_grad for p in prior.network.parameters())
    assert not prior.network.training


def test_the_gradient_is_the_derivative_padding_included(
    make_network: Callable[..., UNet], pictures: Make
) -> None:
    prior = NetworkPrior(make_network(), EDM(), Card(name="tiny"))
    x, direction = pictures(1, 3, 5, 6), pictures(1, 3, 5, 6) - 0.5
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prior(leaf, 0.3).square().sum(), leaf)
    step = 1e-2
    ahead, behind = (prior(x + s * direction, 0.3).double().square().sum() for s in (step, -step))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=5e-3)


def test_a_new_network_is_the_white_gaussian_prior_of_its_sigma_data(pictures: Make) -> None:
    prior = NetworkPrior(UNet(widths=[4], blocks=[1]), EDM(sigma_data=0.4), Card(name="new"))
    gaussian = GaussianPrior.white(mean=0.5, std=0.2)
    x, sigma = pictures(3, 3, 7, 5, dtype=torch.float64), torch.tensor([0.01, 0.5, 30.0])
    assert torch.allclose(prior(x, sigma), gaussian(x, sigma.double()), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((1, 1, 8, 8), torch.float32, "expected 3 channels, got 1"),
        ((3, 8, 8), torch.float32, r"\(B, C, H, W\)"),
        ((1, 3, 8, 8), torch.uint8, "floating-point"),
        ((1, 3, 0, 8), torch.float32, r"\(1, 3, 0, 8\)"),
    ],
)
def test_what_is_no_picture_of_its_kind_is_refused(
    prior: NetworkPrior, shape: tuple[int, ...], dtype: torch.dtype, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        prior(torch.zeros(shape, dtype=dtype), 0.1)


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), torch.tensor([0.1, 0.2])])
def test_a_sigma_that_cannot_be_is_refused(prior: NetworkPrior, pictures: Make, sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma: expected"):
        prior(pictures(3, 3, 4, 4), sigma)


@pytest.mark.parametrize(
    ("device", "said"),
    [("cdua", "Did you mean 'cuda'"), ("meta", "unknown device"), ("cpu:4", "not available")],
)
def test_a_device_that_is_not_there_is_a_wrong_request(device: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        resolve_device(device)


def test_the_cpu_and_auto_are_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


def test_auto_precision_is_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert choose_precision("auto", cpu) is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert choose_precision("auto", cpu) is torch.bfloat16
    assert choose_precision("float32", cpu) is torch.float32
