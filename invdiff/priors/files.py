"""Priors as files: safetensors with the card inside. Reading one never executes anything that is in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invdiff import catalog, config
from invdiff.errors import RequestError, unknown
from invdiff.images import atomic
from invdiff.priors.base import Card, FunctionPrior, Prior
from invdiff.priors.nets.unet import UNet
from invdiff.priors.network import PRECISIONS, NetworkPrior, choose_precision, resolve_device
from invdiff.priors.precondition import PRECONDITIONS, Precondition

NETWORKS: dict[str, type[UNet]] = {"unet": UNet}
FORMAT = "1"
IN_A_FOLDER = "prior.safetensors"
"""The file that is meant where a folder is named: what a training run writes."""

_EXPECTED = "expected one written by invdiff train or save_prior"
_MADE_BY_LOADING = ("checksum", "multiple")
"""Parts of the card that are not in the file."""


def save_prior(
    path: str | Path,
    network: UNet,
    precondition: Precondition,
    card: Card,
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a network, its preconditioning and its card as one safetensors file, whole or not at all.

    ValueError where a weight is not finite in `dtype` (float16 ends at 65504). OSError where it cannot be
    written.
    """
    about = {
        "network": {"kind": _kind(NETWORKS, network), **network.config},
        "precondition": {"kind": _kind(PRECONDITIONS, precondition), **dataclasses.asdict(precondition)},
        "card": {key: value for key, value in card.as_dict().items() if key not in _MADE_BY_LOADING},
    }
    tensors = {name: value.detach().to(dtype) for name, value in network.state_dict().items()}
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: not written: {name} holds values that are not finite in {dtype}")
    data = tensors_to_bytes(tensors, {"invdiff": FORMAT, "about": json.dumps(about)})
    with atomic(Path(path)) as part:
        write_durably(part, data)


def load_prior(
    source: str | Path | Prior | Callable[[Tensor, Any], Tensor],
    *,
    device: str | torch.device = "cpu",
    precision: str = "auto",
) -> Prior:
    """A prior from a built-in one's name, a file that `save_prior` wrote, the folder of a training run or any
    callable D(x, sigma) in image units; a torch module among these is frozen and moved to the device.

    device: auto, cpu, cuda, cuda:1, mps. precision: auto (bfloat16 where the device is native in it),
    float32, bfloat16 or float16. Both are for files; a Prior is returned as it is.
    RequestError for an unknown name, device or precision, a missing, corrupt or foreign file.
    """
    if precision not in ("auto", *PRECISIONS):
        raise unknown("precision", precision, ("auto", *PRECISIONS))
    place = resolve_device(device)
    if isinstance(source, (str, Path)):
        return _load_file(_find(source), place, precision)
    if isinstance(getattr(source, "card", None), Card):
        return source  # type: ignore[return-value]
    if not callable(source):
        raise RequestError(
            f"expected a prior's name, a file or a callable D(x, sigma), got {type(source).__name__}"
        )
    if isinstance(source, nn.Module):
        source.eval().requires_grad_(False).to(place)
    return FunctionPrior(source, Card(name=getattr(source, "__name__", type(source).__name__)))


def read_about(path: Path) -> dict[str, dict[str, Any]]:
    """What a prior's file says of itself: network, precondition, card. RequestError where it is not ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RequestError(
            f"{path}: not a readable safetensors file ({_line(error)}); {_EXPECTED} (pickled checkpoints, "
            ".pt or .ckpt, are never opened: they can run code)"
        ) from None
    if metadata.get("invdiff") != FORMAT:
        raise RequestError(f"{path}: a safetensors file without an invdiff card; {_EXPECTED}")
    try:
        about = json.loads(metadata["about"])
        return {key: dict(about[key]) for key in ("network", "precondition", "card")}
    except (KeyError, TypeError, ValueError):
        raise RequestError(f"{path}: its card is damaged; {_EXPECTED}") from None


def tensors_to_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file (its own writer makes files that only their owner may read)."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write and wait for the disk, so that a rename that follows never names a file without its data."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _find(source: str | Path) -> Path:
    if str(source) in catalog.PRIORS:
        info = catalog.PRIORS[str(source)]
        if not info.path.is_file():
            raise RequestError(
                f"prior {source}: {info.path.name} is missing from this installation; reinstall"
            )
        if info.sha256 and info.sha256 != _checksum(info.path):
            raise RequestError(f"prior {source}: {info.path} is not the file that was shipped; reinstall")
        return info.path
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / IN_A_FOLDER).is_file():
            return path / IN_A_FOLDER
        raise RequestError(f"prior {source}: expected a file, or a folder with {IN_A_FOLDER}, found neither")
    if path.suffix or len(path.parts) > 1:
        raise RequestError(f"prior {source}: no such file")
    raise unknown("prior", str(source), catalog.PRIORS)


def _load_file(path: Path, device: torch.device, precision: str) -> NetworkPrior:
    about = read_about(path)
    card = config.build(Card, {**about["card"], "checksum": _checksum(path)}, f"{path}: card")
    try:
        make = NETWORKS[about["network"].pop("kind")]
        precondition = PRECONDITIONS[about["precondition"].pop("kind")](**about["precondition"])
        if make.weights_at_least(**about["network"]) > path.stat().st_size:
            raise ValueError("larger than the file")
        network = make(**about["network"])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise RequestError(
            f"{path}: its card names a network this version cannot build ({_line(error)})"
        ) from None
    network.load_state_dict(_tensors(path, network.state_dict()))
    return NetworkPrior(network.to(device), precondition, card, precision=choose_precision(precision, device))


def _tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's weights in float32: of these names and shapes, and finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{path}: truncated or corrupt ({_line(error)})") from None
    for name in sorted({*expected, *tensors}):
        shapes = [tuple(t[name].shape) if name in t else "nothing" for t in (expected, tensors)]
        if shapes[0] != shapes[1]:
            raise RequestError(
                f"{path}: not what its card says: {name}: expected {shapes[0]}, got {shapes[1]}"
            )
        if not tensors[name].isfinite().all():
            raise RequestError(f"{path}: corrupt: {name} holds values that are not finite")
    return tensors


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _kind(kinds: Mapping[str, type], thing: object) -> str:
    for name, cls in kinds.items():
        if type(thing) is cls:
            return name
    raise TypeError(
        f"expected one of {', '.join(c.__name__ for c in kinds.values())}, got {type(thing).__name__}"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
