"""What can be said of a prior before torch is loaded: by the catalog, or by its file's own card."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cascade_files
from .catalog import PRIORS, check_label, check_trained, is_hub_name, needs_a_measurement
from .errors import RequestError, unknown

IN_A_FOLDER = "prior.safetensors"
"""What `invdiff train` leaves in its folder."""

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
"""Endings of pickles, which `load_prior` reads as tensors or refuses with the reason."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A prior as --prior names it. What no file says yet, as where the weights are not here, is left open."""

    name: str
    channels: int | None = None
    conditional: bool = False
    tasks: tuple[str, ...] = ()
    """Of a conditional prior, what it was trained for; (): not known."""
    noise: float = math.inf
    """Of a conditional prior, the noise of its measurements; infinite: not known."""
    dropout: float | None = None
    """Of a conditional prior, the share of pictures it was shown nothing of; None: not known."""

    def check_task(self, task: str | None, sigma_y: float) -> None:
        """RequestError where it was not trained for such a measurement. task: None if not known."""
        if self.conditional and task is not None:
            check_trained(self.name, self.tasks, self.noise, task, sigma_y)

    def check_alone(self) -> None:
        """RequestError where it cannot do without a measurement."""
        if self.conditional and self.dropout == 0:
            raise RequestError(needs_a_measurement(self.name, self.tasks, self.noise))

    def check_label(self, classes: int | None, label: int | None, guidance: float) -> None:
        """As `catalog.check_label`, for restoring."""
        dropout = 1.0 if self.dropout is None else self.dropout
        check_label(self.name, classes, label, guidance, dropout if self.conditional else None)


def known(prior: str) -> Known:
    """What the catalog or a file of ours says; little of other priors."""
    info = PRIORS.get(prior)
    if info is not None:
        of_file = _of_card(prior, info.path) if info.tasks else None
        return of_file or Known(
            name=prior,
            channels=info.channels,
            conditional=bool(info.tasks),
            tasks=info.tasks,
            noise=info.noise if info.tasks else math.inf,
        )
    if cascade_files.is_cascade_file(prior):
        return Known(name=prior, conditional=True)
    path = Path(prior).expanduser()
    return _of_card(prior, path / IN_A_FOLDER if path.is_dir() else path) or Known(name=prior)


def _of_card(name: str, path: Path) -> Known | None:
    """None where there is no file, or none of ours; `load_prior` says what is wrong with it."""
    try:
        about = json.loads((header(path) or {})["__metadata__"]["about"])
        card = about["card"]
        channels, condition = card.get("channels"), card.get("condition")
        if condition is None:
            return Known(name=name, channels=channels)
        return Known(
            name=name,
            channels=channels,
            conditional=True,
            tasks=tuple(map(str, condition["tasks"])),
            noise=float(condition.get("noise", 0.0)),
            dropout=float(condition.get("dropout", 0.0)),
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def header(path: Path) -> dict[str, Any] | None:
    """A safetensors file's: eight bytes of length, then JSON. None where there is none. OSError for no file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            found = json.loads(file.read(length)) if length < 2**26 else None
        except ValueError:
            return None
    return found if isinstance(found, dict) else None


def is_whole(path: Path) -> bool:
    """Whether a file is a whole safetensors file: a header, and as much data as that says."""
    found = header(path)
    if found is None:
        return False
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    found.pop("__metadata__", None)
    try:
        end = max((tensor["data_offsets"][1] for tensor in found.values()), default=0)
    except (TypeError, KeyError):
        return False
    return bool(path.stat().st_size == 8 + length + end)


def check_prior(name: str) -> dict[str, str]:
    """The prior's name and checksum. RequestError for an unknown name, or a file that is plainly none."""
    if name in PRIORS:
        path = PRIORS[name].path
        # Missing weights are no fault of the request: load_prior says so once all else is known to be right.
        return {"path": name, "sha256": checksum(path) if path.is_file() else ""}
    path = Path(name).expanduser()
    if path.is_file() and cascade_files.is_cascade_file(path):
        return {"path": name, "sha256": _checksum_of_cascade(path)}
    if (path / IN_A_FOLDER).is_file():
        path = path / IN_A_FOLDER
    if path.is_dir() and any(path.rglob("*.json")):  # a diffusers model
        return {"path": name, "sha256": checksum_of_folder(path, (".json", ".safetensors", ".bin"))}
    if path.is_file() and (path.suffix.casefold() in PICKLED or is_whole(path)):
        return {"path": name, "sha256": checksum(path)}
    if path.exists():
        raise RequestError(
            f"{path}: not a prior, or cut off; expected a .safetensors file that invdiff train wrote, weights "
            f"({', '.join(PICKLED[:4])} or .safetensors) or the folder of a diffusers model; see invdiff priors"
        )
    if is_hub_name(name):
        return {"path": name, "sha256": name}
    if path.suffix or len(path.parts) > 1:
        raise RequestError(f"--prior {name}: no such file")
    raise unknown("prior", name, PRIORS)


def _checksum_of_cascade(path: Path) -> str:
    """Of its text and of its members. RequestError where it is none, or one of them is none."""
    members = cascade_files.read(path).members
    for member in members:
        if cascade_files.is_cascade_file(member):
            raise RequestError(f"{path}: {member} is another cascade; name its stages")
    sums = [checksum(path), *(check_prior(member)["sha256"] for member in members)]
    return hashlib.sha256("/".join(sums).encode()).hexdigest()


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_of_folder(folder: Path, suffixes: tuple[str, ...]) -> str:
    """SHA-256 of the names and checksums of the files in it that end so."""
    found = sorted(p for p in folder.rglob("*") if p.suffix in suffixes and p.is_file())
    text = "".join(f"{p.relative_to(folder).as_posix()} {checksum(p)}\n" for p in found)
    return hashlib.sha256(text.encode()).hexdigest()
