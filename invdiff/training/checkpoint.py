"""Checkpoints: a folder per step, complete or absent, of a safetensors file, in parts, and a JSON state."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from invdiff.errors import RequestError
from invdiff.priors.files import tensors_to_bytes, write_durably

STATE = "state.json"


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    part_mib: float | None = None,
) -> Path:
    """Write checkpoint `step` under `folder` atomically, then remove the older ones.

    part_mib: no file of it is larger; parts 000, 001, ... joined are the safetensors file. OSError where the
    disk is full: what was there before is still there.
    """
    final = folder / f"{step:09d}"
    if (final / STATE).is_file():  # a step has one state: nothing to add, and no moment without a checkpoint
        return final
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{step:09d}.{os.getpid()}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    data = memoryview(tensors_to_bytes(tensors))
    size = len(data) if part_mib is None else max(1, int(part_mib * 2**20))
    for index, begin in enumerate(range(0, len(data), size)):
        write_durably(draft / f"part-{index:03d}.safetensors", data[begin : begin + size])
    write_durably(draft / STATE, json.dumps({**state, "step": step, "tensors": sorted(tensors)}).encode())
    draft.rename(final)
    for old in folder.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def joined(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Groups of tensors as one, each name beginning with its group's; `grouped` takes them apart."""
    return {f"{group}.{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def grouped(tensors: Mapping[str, Tensor], *groups: str) -> list[dict[str, Tensor]]:
    """The tensors of each of these groups. KeyError for one of another group."""
    found: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
    for name, value in tensors.items():
        group, _, rest = name.partition(".")
        found[group][rest] = value
    return [found[group] for group in groups]


def of_optimiser(optimiser: Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each weight, as tensors; `into_optimiser` gives it back."""
    slots = optimiser.state_dict()["state"]
    return {f"{index}.{slot}": value for index, of in slots.items() for slot, value in of.items()}


def into_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """ValueError where it is of other weights."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})


def newest(folder: Path) -> Path | None:
    """The latest complete checkpoint under `folder`."""
    return max((p for p in folder.glob("[0-9]*") if (p / STATE).is_file()), default=None)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint. RequestError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    damaged = f"{path}: damaged checkpoint; remove it to start anew"
    try:
        state = json.loads((path / STATE).read_text())
        tensors = from_bytes(b"".join(p.read_bytes() for p in sorted(path.glob("part-*.safetensors"))))
    except (OSError, ValueError, SafetensorError) as error:
        raise RequestError(f"{damaged} ({' '.join(str(error).split())})") from None
    if not isinstance(state, dict) or state.get("tensors") != sorted(tensors):
        raise RequestError(damaged)
    return tensors, state
