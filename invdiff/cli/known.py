"""What can be said of a prior before torch is loaded: by the catalog, or by its file's own card."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import cascade_files
from ..catalog import PRIORS, check_label, check_trained, needs_a_measurement
from ..errors import RequestError

IN_A_FOLDER = "prior.safetensors"
"""What `invdiff train` leaves in its folder."""


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
