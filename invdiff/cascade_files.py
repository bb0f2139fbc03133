"""Cascades from YAML: conditional priors after one another, the smallest pictures first.

    cascade:
      stages: [faces-sr4, large/prior.safetensors]     # names, or files beside this one
      base: faces                                      # for samples of nothing; may be left out
      augment: 0.05                                    # noise on what a later stage is shown, image units
      steps: [20, 8]                                   # of each stage, where nobody says otherwise

Nothing here imports torch: the command line asks before it does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from . import config
from .catalog import PRIORS
from .errors import RequestError

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class CascadeFile:
    """A cascade as its file has it; what its members are called is what `load_prior` takes."""

    stages: tuple[str, ...]
    base: str | None = None
    augment: float = 0.0
    steps: tuple[int, ...] | None = None
    name: str = ""
    """Empty: the file's."""

    @property
    def members(self) -> tuple[str, ...]:
        """All of its priors."""
        return self.stages if self.base is None else (*self.stages, self.base)


def is_cascade_file(name: object) -> bool:
    """Whether a prior of this name is a cascade's description: no other is YAML."""
    return isinstance(name, (str, Path)) and Path(name).suffix.casefold() in SUFFIXES


def read(path: str | Path) -> CascadeFile:
    """RequestError where it cannot be read, or describes none."""
    path = Path(path).expanduser()
    data = config.read(path)
    if list(data) != ["cascade"] or not isinstance(data["cascade"], dict):
        raise RequestError(f"{path}: expected a cascade of priors, {{cascade: {{stages: [...]}}}}")
    found = config.build(CascadeFile, data["cascade"], f"{path}: cascade")
    return replace(
        found,
        name=found.name or path.stem,
        stages=tuple(_beside(path.parent, stage) for stage in found.stages),
        base=None if found.base is None else _beside(path.parent, found.base),
    )


def _beside(folder: Path, member: str) -> str:
    """A name as it is, a file or folder as seen from where the cascade's file lies."""
    there = folder / Path(member).expanduser()
    return str(there) if member not in PRIORS and there.exists() else member
