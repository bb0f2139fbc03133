"""LPIPS, always named by its backbone: `Lpips("squeeze")`, `"alex"` and `"vgg"` are three different numbers.

Papers that say only "LPIPS" mostly mean "alex", the default of the authors' package (some diffusion papers,
and torch-fidelity users, "vgg"). invdiff's own tables use "squeeze" and say so.

The linear weights come with the `lpips` package, the ImageNet backbone does not. It is looked for in this
order and never downloaded: the `weights` argument, INVDIFF_LPIPS_WEIGHTS, torchvision's own download cache.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError, unknown

# net → torchvision's name of the model, and its checkpoints (two names of the same features, newest first)
BACKBONES: dict[str, tuple[str, tuple[str, ...]]] = {
    "squeeze": ("squeezenet1_1", ("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1-f364aa15.pth")),
    "alex": ("alexnet", ("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth")),
    "vgg": ("vgg16", ("vgg16-397923af.pth",)),
}
VARIABLE = "INVDIFF_LPIPS_WEIGHTS"
SUFFIXES = (".npz", ".pth", ".pt")


class Lpips:
    """Learned perceptual distance, version 0.1 (Zhang et al. 2018, arXiv:1801.03924); smaller is more alike.

        d(x, y) = Σ_layers mean_pixels w_layer · (φ(x) − φ(y))²,  φ unit-normalised over channels

    net: "squeeze", "alex" or "vgg". weights: a .npz of torchvision's `features.*` arrays, a torchvision state
    dict (.pth, read with weights_only), or a folder holding such a file named after the model; None looks as
    above.

    Raises RequestError for an unknown net, for weights that are not there (with the remedy) or do not fit.
    """

    def __init__(
        self, net: str = "squeeze", *, weights: Path | str | None = None, device: str = "cpu"
    ) -> None:
        file = find_weights(net, weights)
        import lpips

        # The package draws random weights before ours replace them: not from the caller's generator. It also
        # warns about torchvision's deprecated spelling of "no weights".
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        _load_backbone(model.net, file, net)
        self.net = net
        self.weights = file
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)

    def __call__(self, image: Any, reference: Any) -> Tensor:
        """image, reference: (B, 3, H, W) or (3, H, W), image units ([0, 1]; the change to [-1, 1] happens
        here).

        Returns (B,), or a single number for a single image; float32. Raises RequestError for other shapes.
        """
        x, y = (torch.as_tensor(z).detach().to(self._device, torch.float32) for z in (image, reference))
        if x.shape != y.shape or x.ndim not in (3, 4) or x.shape[-3] != 3:
            raise RequestError(
                f"LPIPS ({self.net}): expected two images (B, 3, H, W) of one shape, got {tuple(x.shape)} "
                f"and {tuple(y.shape)}; repeat a grey image three times"
            )
        lead = x.shape[:-3]
        with torch.no_grad():
            distance = self._model(2 * x.reshape(-1, *x.shape[-3:]) - 1, 2 * y.reshape(-1, *y.shape[-3:]) - 1)
        return distance.reshape(lead).cpu()


def find_weights(net: str, weights: Path | str | None = None) -> Path:
    """The file holding net's backbone; nothing is read or downloaded. Raises RequestError, remedy
    included."""
    if net not in BACKBONES:
        raise unknown("LPIPS backbone", net, BACKBONES)
    model, cached = BACKBONES[net]
    given = weights if weights is not None else os.environ.get(VARIABLE) or None
    if given is not None:
        path, origin = Path(given), "" if weights is not None else f" (from {VARIABLE})"
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.startswith(model) and p.suffix in SUFFIXES)
            if inside:
                return inside[0]
        elif path.is_file() and (weights is not None or not _is_another(path, net)):
            return path
        elif not path.exists():
            raise RequestError(f"LPIPS weights: there is no {path}{origin}")
        # A place for other backbones: a request that names it fails, the variable lets the cache answer.
        if weights is not None:
            raise RequestError(f"LPIPS ({net}): no {model}*.npz or {model}*.pth in the folder {path}")
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for name in cached:
        if (cache / name).is_file():
            return cache / name
    raise RequestError(
        f"LPIPS ({net}): the weights of its backbone, torchvision's {model}, are not on this machine and "
        f"invdiff does not download them: set {VARIABLE} to a file or folder that has them, or let "
        "torchvision fetch them once with network access: "
        f"python -c \"import torchvision.models as m; m.{model}(weights='IMAGENET1K_V1')\""
    )


def available() -> dict[str, Path]:
    """The backbones found on this machine, net → file; what `invdiff doctor` prints."""
    found = {}
    for net in BACKBONES:
        try:
            found[net] = find_weights(net)
        except RequestError:
            continue
    return found


def _is_another(file: Path, net: str) -> bool:
    """Whether a file is named after a backbone that is not `net` (a name that says nothing is believed to
    fit)."""
    return any(file.name.startswith(model) for other, (model, _) in BACKBONES.items() if other != net)


def _load_backbone(slices: torch.nn.Module, file: Path, net: str) -> None:
    """Copy `features.<layer>.<name>` into the slices `lpips` cuts the backbone into; they keep layers'
    numbers."""
    layer_of = {key.split(".", 1)[1]: key for key in slices.state_dict()}
    try:
        arrays = _read(file)
        found = {k.removeprefix("features."): v for k, v in arrays.items() if re.match(r"features\.\d+\.", k)}
        state = {key: found[layer] for layer, key in layer_of.items()}
        slices.load_state_dict(state, strict=True)
    except KeyError as missing:
        raise RequestError(
            f"{file}: not the weights of LPIPS' {net} backbone ({BACKBONES[net][0]}): "
            f"features.{missing.args[0]} is missing"
        ) from None
    except Exception as error:  # whatever a foreign or truncated file makes the readers raise
        reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
        raise RequestError(f"{file}: cannot be read as weights of LPIPS' {net} backbone: {reason}") from None


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".npz":
        import numpy as np

        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torch.load(file, map_location="cpu", weights_only=True)
