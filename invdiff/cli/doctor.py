"""`invdiff doctor`: what this installation can do on this machine, and what to do about what is missing."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from .. import __version__
from ..catalog import PRIORS, PriorInfo
from ..errors import RequestError
from .listings import Json, print_json, print_table

PACKAGES = (
    *("torch", "torchvision", "deepinv", "numpy", "scikit-image", "lpips", "pillow"),
    *("safetensors", "pydantic", "pyyaml", "typer", "rich", "h5py"),
)
OPTIONAL = "optional"
REINSTALL = "reinstall invdiff, or fetch the file again (git checkout, git lfs pull)"


def doctor_command(as_json: Json = False) -> None:
    """Show device, memory, versions, priors and LPIPS weights. Exit code 1: a prior is missing or damaged."""
    machine, priors, lpips = _machine(), [_prior(p) for p in PRIORS.values()], _lpips()
    versions = {"invdiff": __version__, **{name: _version(name) for name in PACKAGES}}
    if as_json:
        print_json({"machine": machine, "versions": versions, "priors": priors, "lpips": lpips})
    else:
        print_table(("machine", ""), [(key.replace("_", " "), str(value)) for key, value in machine.items()])
        print_table(("package", "version"), [(name, v or "not installed") for name, v in versions.items()])
        print_table(("prior", "size", "state", "file"), [_prior_row(p) for p in priors])
        print_table(("LPIPS", "weights"), [(net, at or lpips["remedy"]) for net, at in lpips["nets"].items()])
    if any(p["state"] != "ok" and not p["state"].startswith(OPTIONAL) for p in priors):
        raise typer.Exit(1)


def _machine() -> dict[str, Any]:
    """Devices, processors and memory. native_bf16: the devices where precision "auto" means bfloat16."""
    import torch

    from ..priors.network import choose_precision

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    devices = [name for name, is_here in here.items() if is_here]
    bf16 = [name for name in devices if choose_precision("auto", torch.device(name)) is torch.bfloat16]
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": devices[0],
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "native_bf16": ", ".join(bf16) or "none",
        "memory_GiB": _memory(),
    }
    if here["cuda"]:
        free, total = torch.cuda.mem_get_info()
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_GiB"] = round(total / 2**30, 1)
        found["gpu_memory_free_GiB"] = round(free / 2**30, 1)
    return found


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # Windows does not tell
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _prior(prior: PriorInfo) -> dict[str, Any]:
    """What is known of a built-in prior's file: state is "ok", or what is wrong with it and the remedy."""
    from ..priors import load_prior

    found: dict[str, Any] = {"name": prior.name, "file": str(prior.path), "bytes": None, "sha256": None}
    if not prior.path.is_file():
        return {
            **found,
            "state": f"missing: {REINSTALL}" if prior.packaged else f"{OPTIONAL}: {prior.missing()}",
        }
    content = prior.path.read_bytes()
    found |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if prior.sha256 and found["sha256"] != prior.sha256:
        return {**found, "state": f"checksum differs from the one released: {REINSTALL}"}
    try:
        load_prior(prior.name)
    except RequestError as error:
        return {**found, "state": f"{error}: {REINSTALL}"}
    return {**found, "state": "ok"}


def _prior_row(prior: dict[str, Any]) -> tuple[str, ...]:
    size = f"{prior['bytes'] / 2**20:.1f} MiB" if prior["bytes"] else ""
    return prior["name"], size, prior["state"], prior["file"]


def _lpips() -> dict[str, Any]:
    """The backbones' files by net (None: not here), and what to do about the missing ones."""
    from ..evaluation.lpips import BACKBONES, VARIABLE, available

    here = available()
    return {
        "nets": {net: str(here[net]) if net in here else None for net in BACKBONES},
        "remedy": f"not here (scores only): set {VARIABLE} to a file or folder of torchvision's weights",
    }
