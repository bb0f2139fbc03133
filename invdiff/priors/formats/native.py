"""invdiff's own format: safetensors with the card inside. Reading one never executes anything that is in it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff import config
from invdiff.errors import RequestError
from invdiff.images import atomic
from invdiff.priors.base import Card
from invdiff.priors.formats.base import Loaded, check, checksum, line, read_safetensors, unreadable
from invdiff.priors.nets.adm import ADM
from invdiff.priors.nets.classifier import Classifier
from invdiff.priors.nets.control import ControlNet
from invdiff.priors.nets.dit import DiT
from invdiff.priors.nets.ncsnpp import NCSNpp
from invdiff.priors.nets.unet import UNet
from invdiff.priors.precondition import PRECONDITIONS, Precondition

NETWORKS: dict[str, type[Any]] = {
    "unet": UNet,
    "dit": DiT,
    "adm": ADM,
    "ncsnpp": NCSNpp,
    "control": ControlNet,
}
"""By the name they have in a file; each has `config`, its arguments, and `weights_at_least(**config)`, in bytes."""

CLASSIFIERS: dict[str, type[Any]] = {"classifier": Classifier}
"""Networks that are no denoisers and lie in the same kind of file (`priors.classifier`)."""

FORMAT = "1"
_EXPECTED = "expected one written by invdiff train or save_prior"
_MADE_BY_LOADING = ("checksum", "format", "multiple")
"""Parts of the card that are not in the file."""


def save_prior(
    path: str | Path,
    network: Any,
    precondition: Precondition,
    card: Card,
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a network (one of NETWORKS), its preconditioning and its card as one safetensors file, whole or not at all.

    ValueError where a weight is not finite in `dtype` (float16 ends at 65504). OSError where it cannot be
    written.
    """
    about = {
        "network": {"kind": _kind({**NETWORKS, **CLASSIFIERS}, network), **network.config},
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


def read_about(path: Path) -> dict[str, dict[str, Any]]:
    """What a prior's file says of itself: network, precondition, card. RequestError where it is not ours."""
    metadata = _metadata(path)
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


def is_native(path: Path) -> bool:
    """Whether a safetensors file says that it is one of ours. RequestError where it cannot be read."""
    return "invdiff" in _metadata(path)


def load(path: Path, networks: Mapping[str, type[Any]] = NETWORKS) -> Loaded:
    """The network, one of `networks`, preconditioning and card of one of our files.

    RequestError where they do not go together.
    """
    about = read_about(path)
    kinds = [str(about[part].get("kind")) for part in ("network", "precondition")]
    if kinds[0] in {**NETWORKS, **CLASSIFIERS} and kinds[0] not in networks:
        raise RequestError(f"{path}: holds a {kinds[0]}, expected {' or '.join(networks)}")
    made = {"checksum": checksum(path), "format": f"invdiff safetensors, {', '.join(kinds)}"}
    card = config.build(Card, {**about["card"], **made}, f"{path}: card")
    try:
        make = networks[about["network"].pop("kind")]
        precondition = PRECONDITIONS[about["precondition"].pop("kind")](**about["precondition"])
        if make.weights_at_least(**about["network"]) > path.stat().st_size:
            raise ValueError("larger than the file")
        network = make(**about["network"])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise RequestError(
            f"{path}: its card names a network this version cannot build ({line(error)})"
        ) from None
    network.load_state_dict(check(network.state_dict(), read_safetensors(path), path, "its card says"))
    return Loaded(network, precondition, card)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, "not a readable safetensors file", error) from None


def _kind(kinds: Mapping[str, type], thing: object) -> str:
    for name, cls in kinds.items():
        if type(thing) is cls:
            return name
    raise TypeError(
        f"expected one of {', '.join(c.__name__ for c in kinds.values())}, got {type(thing).__name__}"
    )
