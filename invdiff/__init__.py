"""Posterior samples of an image given a measurement of it: any diffusion prior, any operator, any method.

`import invdiff` is light: torch is imported with the first of the names below that is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import methods, operators
    from .errors import InvdiffError, RequestError
    from .priors import Cascade, load_prior
    from .restore import Result, restore
    from .sample import Samples, sample

__all__ = [
    "Cascade",
    "InvdiffError",
    "RequestError",
    "Result",
    "Samples",
    "load_prior",
    "methods",
    "operators",
    "restore",
    "sample",
]

__version__ = "0.1.0"

# Where each public name lives: (module, attribute), or (module, "") for the module itself.
_WHERE = {
    "Cascade": ("invdiff.priors", "Cascade"),
    "InvdiffError": ("invdiff.errors", "InvdiffError"),
    "RequestError": ("invdiff.errors", "RequestError"),
    "Result": ("invdiff.restore", "Result"),
    "Samples": ("invdiff.sample", "Samples"),
    "load_prior": ("invdiff.priors", "load_prior"),
    "methods": ("invdiff.methods", ""),
    "operators": ("invdiff.operators", ""),
    "restore": ("invdiff.restore", "restore"),
    "sample": ("invdiff.sample", "sample"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'invdiff' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value: Any = import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(ModuleType):
    """Keeps `invdiff.restore` and `sample` functions: importing the module of that name would bind the module here."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("restore", "sample") and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
