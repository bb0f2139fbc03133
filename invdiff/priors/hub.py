"""Models from the Hugging Face hub, through its own client: resumed, checked against its checksums, cached, with a bar.

Only what a diffusers model needs is fetched, descriptions first, so that what cannot be a prior is refused before its
weights are; and safetensors before anything else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invdiff.errors import InvdiffError, RequestError

OFFLINE = ("INVDIFF_OFFLINE", "HF_HUB_OFFLINE")
"""Environment variables that forbid the network, where they are 1, true, yes or on."""

_DESCRIPTIONS = tuple(
    f"{folder}{file}"
    for folder in ("", "unet/", "transformer/", "scheduler/")
    for file in ("model_index.json", "config.json", "scheduler_config.json")
)
_USUAL = ("model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors")
_NOT_HERE = "no such folder here, and"
"""A name on the hub may be meant for a folder's, and mistyped."""


def is_offline(offline: bool = False) -> bool:
    """Whether the network is forbidden, by the argument or by the environment."""
    return offline or any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE)


def snapshot(name: str, *, offline: bool = False) -> Path:
    """The folder of "owner/name" or "owner/name@revision" in the hub's cache, downloaded where it is not there yet.

    RequestError where there is no such model, it is no prior, or the network is forbidden and the cache has it not;
    InvdiffError where the network fails. Both name the files and where to put them.
    """
    from invdiff.priors.formats import diffusers

    repository, _, revision = name.partition("@")
    folder = _fetch(name, repository, revision, _DESCRIPTIONS, offline)
    if not diffusers.is_folder(folder):
        raise RequestError(
            f"prior {name}: the hub's repository holds no diffusers model (model_index.json or config.json); download "
            "its weights and name the file"
        )
    component = diffusers.describe(folder, name).folder.relative_to(folder)
    wanted: Sequence[str] = ()
    for wanted in diffusers.WEIGHTS:
        patterns = [(component / pattern).as_posix() for pattern in wanted]
        try:
            _fetch(name, repository, revision, [*_DESCRIPTIONS, *patterns], offline)
        except RequestError:  # an incomplete cache: perhaps of another kind of weights
            if not is_offline(offline):
                raise
        if diffusers.weights_in(folder / component):
            return folder
    if is_offline(offline):
        raise RequestError(
            _put(name, repository, [(component / diffusers.WEIGHTS[0][0]).as_posix()], "is not in the cache")
        )
    raise RequestError(f"prior {name}: the hub's repository holds no weights in {component.as_posix()}")


def _fetch(name: str, repository: str, revision: str, patterns: Sequence[str], offline: bool) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    forbidden = is_offline(offline)
    # Its own errors and its HTTP library's, which is another in each of its versions.
    network: tuple[Any, ...] = (OSError, RuntimeError, *errors.HfHubHTTPError.__bases__)
    try:
        found = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(patterns),
            local_files_only=forbidden,
            library_name="invdiff",
        )
    except errors.LocalEntryNotFoundError:
        if forbidden:
            raise RequestError(
                _put(name, repository, _USUAL, f"{_NOT_HERE} the model is not in the cache")
            ) from None
        raise InvdiffError(_put(name, repository, _USUAL, f"{_NOT_HERE} the hub cannot be reached")) from None
    except errors.GatedRepoError:
        raise RequestError(
            f"prior {name}: the hub asks for its terms to be accepted; do so at https://huggingface.co/{repository}, "
            "then `hf auth login`"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise RequestError(
            f"prior {name}: no such file or folder here, and no such model or revision on the Hugging Face hub (or a "
            "private one: `hf auth login`)"
        ) from None
    except network as error:
        raise InvdiffError(
            _put(name, repository, _USUAL, f"{_NOT_HERE} the download failed ({type(error).__name__})")
        ) from None
    return Path(found)


def _put(name: str, repository: str, files: Sequence[str], what: str) -> str:
    kept_as = f"models--{repository.replace('/', '--')}"
    return (
        f"prior {name}: {what}; where there is a network, `hf download {repository}` gets {', '.join(files)}: bring "
        f"the folder it prints here and name that, or its {kept_as} to {_cache()}"
    )


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
