"""EDM's state dicts: deepinv's ports of its networks under EDMPrecond's algebra."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invdiff.errors import RequestError
from invdiff.priors import NetworkPrior
from invdiff.priors.formats import edm

FILE = Path("weights.pt")
FAMILIES = ["NCSN++", "DDPM++", "ADM"]


def network_of(family: str, **changes: Any) -> nn.Module:
    """deepinv's, random, every group of at least four channels as in EDM's."""
    from deepinv.models import ADMUNet, NCSNpp

    shape: dict[str, Any] = {
        "img_resolution": 16,
        "model_channels": 32,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [8],
        "pretrained": None,
        **changes,
    }
    if family == "ADM":
        network: nn.Module = ADMUNet(**{**shape, "channel_mult": [2 * m for m in shape["channel_mult"]]})
    else:
        network = NCSNpp("ncsn" if family == "NCSN++" else "ddpm", **shape)
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        spread = 0.1 if value.ndim == 1 else value[0].numel() ** -0.5
        value.data = spread * torch.randn(value.shape, generator=generator)
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = min(32, layer.num_channels // 4)
    return network.eval()


def saved(network: nn.Module) -> dict[str, Tensor]:
    """As EDMPrecond's state dict names them."""
    return {f"model.{name}": value.clone() for name, value in network.state_dict().items()}


def prior_of(weights: Mapping[str, Tensor], **options: Any) -> NetworkPrior:
    return NetworkPrior(*edm.build(weights, FILE, options))


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_d_is_edm_preconditioning_of_the_network_called_by_hand(family: str, classes: int) -> None:
    theirs = network_of(family, label_dim=classes)
    prior = prior_of(saved(theirs), sigma_data=0.4)
    for label in (None, 0, 4) if classes else (None,):
        for s in (0.01, 0.7, 30.0):  # on [-1, 1]
            x = torch.randn(2, 3, 16, 16) * (1 + s)
            told = torch.zeros(2, classes) if classes else None  # EDMPrecond's own label for none
            if label is not None and told is not None:
                told[:, label] = 1
            c_skip, c_out = 0.4**2 / (s**2 + 0.4**2), s * 0.4 / (s**2 + 0.4**2) ** 0.5
            c_in, c_noise = 1 / (s**2 + 0.4**2) ** 0.5, math.log(s) / 4
            with torch.no_grad():
                f = theirs.forward_unet(c_in * x, torch.full((2,), c_noise), class_labels=told)  # type: ignore[operator]
            expected = (c_skip * x + c_out * f + 1) / 2
            came = prior.given(label)((x + 1) / 2, s / 2)
            torch.testing.assert_close(came, expected, rtol=1e-5, atol=1e-5 * max(1, s / 10))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_label_changes_d(family: str) -> None:
    prior = prior_of(saved(network_of(family, label_dim=5)))
    x = torch.rand(1, 3, 16, 16)
    assert (prior.given(1)(x, 0.3) - prior.given(2)(x, 0.3)).abs().max() > 1e-3
    assert (prior.given(1)(x, 0.3) - prior(x, 0.3)).abs().max() > 2e-4


def test_the_baselines_are_preconditioned_as_in_edm() -> None:
    theirs = network_of("DDPM++")
    vp = prior_of(saved(theirs), precondition="vp")
    ve = prior_of(saved(theirs), precondition="ve")
    for s in (0.05, 0.7, 20.0):  # on [-1, 1]
        x = torch.randn(2, 3, 16, 16) * (1 + s)
        t = ((0.1**2 + 2 * 19.9 * math.log(1 + s**2)) ** 0.5 - 0.1) / 19.9
        with torch.no_grad():
            as_vp = theirs.forward_unet(x / (s**2 + 1) ** 0.5, torch.full((2,), 999 * t))  # type: ignore[operator]
            as_ve = theirs.forward_unet(x, torch.full((2,), math.log(s / 2)))  # type: ignore[operator]
        scale = {"rtol": 1e-5, "atol": 2e-5 * max(1, s)}
        torch.testing.assert_close(vp((x + 1) / 2, s / 2), (x - s * as_vp + 1) / 2, **scale)
        torch.testing.assert_close(ve((x + 1) / 2, s / 2), (x + s * as_ve + 1) / 2, **scale)


RELEASED: dict[str, tuple[str, dict[str, Any]]] = {  # by NVlabs/edm's training commands
    "cifar10-32x32-cond-vp": (
        "DDPM++",
        {
            "img_resolution": 32,
            "model_channels": 128,
            "channel_mult": [2, 2, 2],
            "num_blocks": 4,
            "label_dim": 10,
        },
    ),
    "ffhq-64x64-uncond-ve": (
        "NCSN++",
        {"img_resolution": 64, "model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4},
    ),
    "imagenet-64x64-cond-adm": (
        "ADM",
        {
            "img_resolution": 64,
            "model_channels": 192,
            "channel_mult": [1, 2, 3, 4],
            "num_blocks": 3,
            "label_dim": 1000,
            "attn_resolutions": [32, 16, 8],
        },
    ),
}


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("augment", [0, 9])
def test_released_networks_are_read_off_their_shapes(name: str, augment: int) -> None:
    from deepinv.models import ADMUNet, NCSNpp

    family, shape = RELEASED[name]
    shape = {"attn_resolutions": [16], "label_dim": 0, "augment_dim": augment, **shape}
    with torch.device("meta"):
        if family == "ADM":
            network: nn.Module = ADMUNet(**shape, pretrained=None)
        else:
            network = NCSNpp("ncsn" if family == "NCSN++" else "ddpm", **shape, pretrained=None)
    weights = network.state_dict()
    assert edm.recognises(weights)
    assert edm.recognises({f"model.{key}": value for key, value in weights.items()})
    came = edm.architecture(weights, FILE)
    fixed = {"family": family, "in_channels": 3, "out_channels": 3, "channel_mult_emb": 4}
    assert came == {**fixed, **shape}


def test_the_card_says_what_was_recognised() -> None:
    network, _, card = edm.build(saved(network_of("ADM", label_dim=5)), Path("some/where.pt"), {})
    assert (card.name, card.channels, card.size, card.classes) == ("where", 3, 16, 5)
    assert (card.sigma_min, card.sigma_max, card.data_std) == (0.001, 40.0, 0.25)
    assert card.format == "EDM ADM, 16×16, 5 classes"
    assert network.multiple == 2


def broken(change: str) -> dict[str, Tensor]:
    weights = saved(network_of("DDPM++"))
    if change == "missing":
        del weights["model.dec.8x8_in1.conv0.bias"]
    if change == "unexpected":
        weights["model.enc.8x8_block7.conv0.bias"] = torch.zeros(1)
    if change == "shape":
        weights["model.map_layer1.bias"] = torch.zeros(3)
    if change == "hole":
        del weights["model.enc.8x8_block0.conv0.weight"]
    if change == "iddpm":
        weights["u"] = torch.zeros(1001)
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"dec\.8x8_in1\.conv0\.bias: expected \(64,\), got nothing"),
        ("unexpected", r"enc\.8x8_block7\.conv0\.bias: expected nothing, got \(1,\)"),
        ("shape", r"map_layer1\.bias: expected \(128,\), got \(3,\)"),
        ("hole", r"enc\.8x8_block0\.conv0\.weight' is missing"),
        ("iddpm", "iDDPM baseline"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_what_differs(change: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        edm.build(broken(change), FILE, {})


@pytest.mark.parametrize("options", [{"sigma_data": 0}, {"precondition": "iddpm"}], ids=str)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        edm.build(saved(network_of("DDPM++")), FILE, options)


def test_sigma_data_of_a_baseline_that_has_none_is_refused() -> None:
    for kind in ("vp", "ve"):
        with pytest.raises(RequestError, match=f"sigma_data with precondition {kind}, which has none"):
            edm.build(saved(network_of("DDPM++")), FILE, {"precondition": kind, "sigma_data": 0.4})
