"""deepinv's denoisers: D(x, σ) on [0, 1] already; those that are diffusion networks are taken apart, for labels, sizes
and an x̂₀ that is not clipped. Their weights are the user's: nothing is downloaded here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from invdiff.priors.base import Card, FunctionPrior, Prior
from invdiff.priors.formats.base import Loaded, carded, check_options
from invdiff.priors.formats.edm import Ported
from invdiff.priors.precondition import EDM, VP

_BLIND = (
    *(
        "DnCNN",
        "SCUNet",
        "SwinIR",
        "Restormer",
        "UNet",
        "ConvNextUNet",
        "MedianFilter",
        "DScCP",
        "TVDenoiser",
    ),
    *("TVL1Denoiser", "TGVDenoiser"),
)
"""Denoisers whose strength is fixed or a parameter of another kind: σ does not tell them the noise's."""

_SEEN = {"DRUNet": 50 / 255, "GSDRUNet": 50 / 255, "FFDNet": 75 / 255}
"""The strongest noise in training (Zhang et al. 2021, arXiv:2008.13751; Hurault et al. 2022; Zhang et al. 2018)."""


def adapt(denoiser: Any, options: Mapping[str, Any]) -> Prior | Loaded:
    """A prior of a deepinv.models.Denoiser. RequestError for an option that a card has not."""
    kind = type(denoiser).__name__
    check_options(options, (), kind)
    loaded = _taken_apart(denoiser, kind)
    if loaded is not None:
        return loaded._replace(card=carded(loaded.card, options, kind))
    about: dict[str, Any] = {"name": kind, "channels": _channels(denoiser), "format": f"deepinv {kind}"}
    if kind in _BLIND:
        about["format"] += ", blind"
        about["summary"] = "Does not know σ: its answer is D at no more than one noise level."
    if kind in _SEEN:
        about["sigma_max"] = _SEEN[kind]
        about["summary"] = f"Trained up to σ = {_SEEN[kind]:.3f}: no pictures come from noise alone."
    if getattr(denoiser, "clip_output", False):
        denoiser = copy.copy(denoiser)
        denoiser.clip_output = False
    return FunctionPrior(denoiser, carded(Card(**about), options, kind))


def _taken_apart(denoiser: Any, kind: str) -> Loaded | None:
    if kind == "DiffUNet":  # arXiv:2105.05233's network: ε and a variance of pictures on [-1, 1], β linear
        alphas = tuple((denoiser.sqrt_alphas_cumprod.double() ** 2).tolist())
        precondition = VP(alphas=alphas)
        card = Card(
            name=kind,
            channels=denoiser.in_channels,
            size=denoiser.img_size,
            sigma_min=precondition.levels[0],
            sigma_max=precondition.levels[-1],
            format="deepinv DiffUNet, epsilon",
        )
        return Loaded(_Diffusion(denoiser), precondition, card)
    if kind in ("NCSNpp", "ADMUNet") and getattr(denoiser, "precondition_type", "edm") == "edm":
        black = -1.0 if denoiser._was_trained_on_minus_one_one else 0.0
        classes = 0 if denoiser.map_label is None else denoiser.map_label.in_features
        gain = 1 - black
        first = next(iter(denoiser.enc))
        card = Card(
            name=kind,
            channels=denoiser.enc[first].in_channels,
            size=int(first.split("x")[0]),
            classes=classes,
            sigma_min=0.002 / gain,
            sigma_max=80 / gain,
            format=f"deepinv {kind}, EDM",
        )
        levels = 1 + sum(name.endswith("_down") and "aux" not in name for name in denoiser.enc)
        return Loaded(
            Ported(denoiser, classes, 2 ** (levels - 1)),
            EDM(sigma_data=denoiser.pixel_std, black=black),
            card,
        )
    return None


class _Diffusion(nn.Module):
    multiple = 32

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.denoiser.forward_diffusion(x, c_noise)


def _channels(denoiser: nn.Module) -> int | None:
    """Of a network, those of its last convolution's answer; of an algorithm, any."""
    layers = [layer for layer in denoiser.modules() if isinstance(layer, nn.Conv2d)]
    return layers[-1].out_channels if layers and type(denoiser).__name__ == "DRUNet" else None
