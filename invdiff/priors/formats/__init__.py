"""Checkpoints of other people's: one module per format, each recognised by what is in it and imported when needed.

A format of bare weights, listed in STATE_DICTS, has NAME, its name in words; OPTIONS, what a user may say that the
weights do not (beside `base.CARD_OPTIONS`); `recognises(tensors)`, by names and shapes; and `build(tensors, path,
options)`, the network with its weights, its preconditioning and its card (`base.Loaded`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from invdiff.errors import RequestError
from invdiff.priors.base import Prior
from invdiff.priors.formats import base
from invdiff.priors.formats.base import Loaded

STATE_DICTS = ("adm", "edm", "score_sde")
"""Modules of the formats of bare weights, asked in this order."""


def load_weights(path: Path, options: Mapping[str, Any]) -> Loaded:
    """A file of somebody else's weights, of whichever format knows them. RequestError where none does."""
    tensors = base.read_tensors(path)
    for name in STATE_DICTS:
        module = _module(name)
        if module.recognises(tensors):
            base.check_options(options, getattr(module, "OPTIONS", ()), str(path))
            return Loaded(*module.build(tensors, path, options))
    known = ", ".join(_module(name).NAME for name in STATE_DICTS)
    first = ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(tensors.items())[:3])
    without = " a safetensors file without an invdiff card;" if path.suffix == ".safetensors" else ""
    raise RequestError(
        f"{path}:{without} its {len(tensors)} tensors ({first}, ...) are not the weights of a network known here "
        f"({known}); build the network yourself and pass load_prior a function D(x, sigma)"
    )


def of_module(source: Any, options: Mapping[str, Any]) -> Prior | Loaded | None:
    """A deepinv or azula denoiser or a diffusers pipeline as a prior; None for anything else.

    The libraries are not imported for this: what is an instance of one of their classes has imported them.
    """
    if _is(source, "deepinv.models.base", "Denoiser"):
        return _module("deepinv").adapt(source, options)
    if _is(source, "azula.denoise", "Denoiser"):
        return _module("azula").adapt(source, options)
    if _is(source, "diffusers.pipelines.pipeline_utils", "DiffusionPipeline"):
        return _module("diffusers").of_pipeline(source, options)
    if isinstance(source, nn.Module) and _is(source, "diffusers.models.modeling_utils", "ModelMixin"):
        raise RequestError(
            f"a diffusers {type(source).__name__} without its scheduler does not say what its output means; pass the "
            "pipeline, or the folder or hub name of both"
        )
    return None


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _is(source: Any, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(source, kind)


__all__ = ["STATE_DICTS", "Loaded", "load_weights", "of_module"]
