"""`load_prior`: whatever holds a denoiser, by name, file, folder, hub name or object, as a prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invdiff import catalog, config
from invdiff.errors import RequestError, unknown
from invdiff.priors import formats, hub
from invdiff.priors.base import Card, FunctionPrior, Prior
from invdiff.priors.cascade import cascade_of
from invdiff.priors.conditional import ConditionalNetwork
from invdiff.priors.formats import native
from invdiff.priors.formats.base import Loaded, carded, check_options, checksum, looks_like_safetensors
from invdiff.priors.formats.native import NETWORKS, read_about, save_prior, tensors_to_bytes, write_durably
from invdiff.priors.network import PRECISIONS, NetworkPrior, choose_precision, resolve_device

IN_A_FOLDER = "prior.safetensors"
"""The file that is meant where a folder is named: what a training run writes."""

__all__ = [
    "IN_A_FOLDER",
    "NETWORKS",
    "load_prior",
    "read_about",
    "save_prior",
    "tensors_to_bytes",
    "write_durably",
]


def load_prior(
    source: str | Path | Prior | Callable[[Tensor, Any], Tensor],
    *,
    device: str | torch.device = "cpu",
    precision: str = "auto",
    options: Mapping[str, Any] | None = None,
    offline: bool = False,
) -> Prior:
    """A prior from whatever holds one; `prior.card.format` says what it was recognised as.

    source: a built-in prior's name; a file that `save_prior` wrote, or of weights (.pt, .pth, .ckpt, .bin,
    .safetensors) in a format of `priors.formats`; the folder of a training run or of a diffusers model or pipeline; a
    diffusers model's name on the Hugging Face hub, "owner/name" or "owner/name@revision"; a `Cascade` of such, or its
    YAML (`invdiff.cascade_files`), all of whose members are loaded; a deepinv or azula denoiser
    or a diffusers pipeline; any callable D(x, sigma) in image units. Nothing in a file is ever executed. A torch module
    among these is frozen and moved to the device; a Prior is returned as it is.

    device: auto, cpu, cuda, cuda:1, mps. precision: auto (bfloat16 where the device is native in it), float32, bfloat16
    or float16, of networks from files. options: what weights do not say of themselves, such as prediction or range, by
    format (docs/priors.md); of a file or a diffusers folder they may stand in NAME.yaml beside it too. offline: take
    hub names from the cache alone, as the environment's INVDIFF_OFFLINE and HF_HUB_OFFLINE say too.
    RequestError for an unknown name, device, precision or option, a missing, corrupt, foreign or unsafe file.
    """
    if precision not in ("auto", *PRECISIONS):
        raise unknown("precision", precision, ("auto", *PRECISIONS))
    place = resolve_device(device)
    said = dict(options or {})
    cascade = cascade_of(source)
    if cascade is not None:
        check_options(said, (), cascade.name)
        return cascade.loaded(
            lambda member: load_prior(member, device=device, precision=precision, offline=offline)  # type: ignore[arg-type]
        )
    if isinstance(getattr(source, "card", None), Card):
        return source  # type: ignore[return-value]
    loaded: Prior | Loaded | None
    if isinstance(source, (str, Path)):
        loaded = _load_path(*_find(source, offline), said)
    elif not callable(source):
        raise RequestError(
            f"expected a prior's name, a file or a callable D(x, sigma), got {type(source).__name__}"
        )
    else:
        loaded = formats.of_module(source, said)
    if isinstance(loaded, Loaded):
        network, precondition, card = loaded
        kind = NetworkPrior if card.condition is None else ConditionalNetwork
        return kind(network.to(place), precondition, card, precision=choose_precision(precision, place))
    if isinstance(source, nn.Module):
        source.eval().requires_grad_(False).to(place)
    if loaded is not None:
        return loaded
    name = getattr(source, "__name__", type(source).__name__)
    check_options(said, (), name)
    return FunctionPrior(source, carded(Card(name=name, format="a function D(x, sigma)"), said, name))  # type: ignore[arg-type]


def _find(source: str | Path, offline: bool) -> tuple[Path, str]:
    """The file or folder that is meant, and what the prior is called."""
    name = str(source)
    if not name.strip():
        raise RequestError("prior: expected a name, a file or a folder, got an empty name")
    if name in catalog.PRIORS:
        info = catalog.PRIORS[name]
        if not info.path.is_file():
            raise RequestError(info.missing())
        if info.sha256 and info.sha256 != checksum(info.path):
            raise RequestError(f"prior {name}: {info.path} is not the file that was shipped; reinstall")
        return info.path, name
    path = Path(source).expanduser()
    if path.is_file():
        return path, path.stem
    if path.is_dir():
        return (path / IN_A_FOLDER if (path / IN_A_FOLDER).is_file() else path), path.resolve().name
    if catalog.is_hub_name(name):
        return hub.snapshot(name, offline=offline), name
    if path.suffix or len(path.parts) > 1:
        raise RequestError(f"prior {source}: no such file")
    raise unknown("prior", name, catalog.PRIORS)


def _load_path(path: Path, name: str, options: dict[str, Any]) -> Loaded:
    options = {**_beside(path), **options}
    if path.is_dir():
        from invdiff.priors.formats import diffusers

        if not diffusers.is_folder(path):
            raise RequestError(
                f"prior {path}: expected a file, or a folder with {IN_A_FOLDER} or a diffusers model (model_index.json "
                "or config.json), found none of them"
            )
        loaded = diffusers.load(path, options, name)
    elif looks_like_safetensors(path) and native.is_native(path):
        check_options(options, (), str(path))
        loaded = native.load(path)
    else:
        loaded = formats.load_weights(path, options)
        loaded = loaded._replace(card=dataclasses.replace(loaded.card, checksum=checksum(path)))
    return loaded._replace(card=carded(loaded.card, options, str(path)))


def _beside(path: Path) -> dict[str, Any]:
    """Options in NAME.yaml beside the file or folder; none where there is no such file."""
    path = path.resolve() if path.name in ("", "..") else path.absolute()
    beside = path.parent / f"{path.name}.yaml"
    return config.read(beside) if beside.is_file() else {}
