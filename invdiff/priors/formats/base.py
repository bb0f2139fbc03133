"""What every format needs: tensors out of files without running anything, and errors that name what differs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from invdiff import config
from invdiff.errors import RequestError, nearest
from invdiff.priors.base import Card
from invdiff.priors.precondition import Precondition


class Loaded(NamedTuple):
    """What a format makes of a checkpoint: F(x, c_noise), or F(x, c_noise, label), with its weights in float32."""

    network: nn.Module
    precondition: Precondition
    card: Card


CARD_OPTIONS = (
    *("name", "licence", "training_data", "summary"),
    *("sigma_min", "sigma_max", "data_mean", "data_std", "size", "classes"),
)
"""Parts of the card that a user may say of a checkpoint of any format."""

NESTS = (
    "params_ema",
    "ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "params",
    "model",
)
"""Keys under which training scripts keep the weights, averaged ones first."""

_CONVERT = 'convert it to safetensors where you trust it (docs/priors.md, section "Converting EDM pickles")'
_PREFIXES = ("module.", "_orig_mod.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights of a .safetensors, .pt, .pth, .ckpt or .bin file as they lie there, by name, on the CPU.

    Nothing in the file is executed: pickles are read with `weights_only`, which knows tensors and plain containers.
    RequestError for a file that is empty, truncated, corrupt, no checkpoint, or holds more than weights.
    """
    return unwrap(read_safetensors(path) if looks_like_safetensors(path) else read_pickle(path), path)


def looks_like_safetensors(path: Path) -> bool:
    """By its name, or by its first bytes: the header's length (8 bytes), then "{"."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """RequestError where it is empty, truncated, corrupt or cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, "truncated or corrupt", error) from None


def unreadable(path: Path, kind: str, error: BaseException) -> RequestError:
    """The error to raise for a file that cannot be read: empty, or in words what is the matter, and the reader's."""
    if path.is_file() and path.stat().st_size == 0:
        return RequestError(f"{path}: an empty file")
    reason = line(error)[:200]
    return RequestError(f"{path}: {kind}{f' ({reason})' if reason else ''}")


def read_pickle(path: Path) -> Any:
    """What torch.save wrote, if it is made of tensors and plain containers alone. RequestError otherwise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:
        refused = isinstance(error, pickle.UnpicklingError)
        named = _named(error) if refused else ""
        if path.stat().st_size and not named and not _began_as_one(path):
            raise RequestError(f"{path}: not a checkpoint: neither safetensors nor of torch.save") from None
        if refused:
            raise RequestError(
                f"{path}: a pickle that holds more than weights, and unpickling runs what it names "
                f"({named or 'an old-style pickle'}); nothing was run: {_CONVERT}"
            ) from None
        raise unreadable(path, "truncated or corrupt", error) from None


def unwrap(found: Any, path: Path) -> dict[str, Tensor]:
    """The dict of tensors inside what a training script saved: nests opened, "module." taken off the names.

    Of several nests the averaged weights are taken. RequestError where there are no tensors.
    """
    from invdiff.priors.formats.score_sde import averaged

    found = averaged(found) or found  # a list without names beside the model
    for _ in range(4):
        if not isinstance(found, Mapping):
            break
        nest = next((n for n in NESTS if isinstance(found.get(n), Mapping) and found[n]), None)
        if nest is None:
            break
        found = found[nest]
    tensors = (
        {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    )
    if not tensors:
        came = (
            f"keys {', '.join(map(str, list(found)[:5]))}"
            if isinstance(found, Mapping)
            else type(found).__name__
        )
        raise RequestError(
            f"{path}: expected a dict of tensors, or one under {', '.join(NESTS)}; got {came or 'an empty dict'}"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def numbered(tensors: Mapping[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    """The tensors PREFIX.INDEX.REST, by index and then by the rest of their names."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            _, index, rest = name.split(".", 2)
            found.setdefault(int(index), {})[rest] = value
    return found


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str) -> nn.Module:
    """The network with these weights, float32. `what`: whose names and shapes they ought to have, in words.

    RequestError that names what is missing, unexpected or of another shape, or holds values that are not finite.
    """
    found = check(network.state_dict(), tensors, path, what)
    # Copies: a file's own memory is aligned anyhow, and sums in an order that depends on it.
    own = {name: value.clone() if value is tensors[name] else value for name, value in found.items()}
    network.load_state_dict(own, assign=True)
    return network


def check(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path, what: str
) -> dict[str, Tensor]:
    """The tensors, floating-point ones as float32. RequestError as `fill`."""
    wrong = []
    for name in sorted({*expected, *tensors}):
        shapes = [tuple(t[name].shape) if name in t else "nothing" for t in (expected, tensors)]
        if shapes[0] != shapes[1]:
            wrong.append(f"{name}: expected {shapes[0]}, got {shapes[1]}")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise RequestError(f"{path}: not what {what}: {'; '.join(wrong[:3])}{more}")
    found = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    for name, value in found.items():
        if not value.isfinite().all():
            raise RequestError(f"{path}: corrupt: {name} holds values that are not finite")
    return found


def check_options(options: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """RequestError for an option that neither the format (`known`) nor the card has."""
    known = (*known, *CARD_OPTIONS)
    for key in options:
        if key not in known:
            raise RequestError(
                f"{where}: unknown option {key}.{nearest(str(key), known)} Known: {', '.join(known)}"
            )


def carded(card: Card, options: Mapping[str, Any], where: str) -> Card:
    """The card with what the user said of it; of `classes`, no more than it has.

    RequestError for values of a wrong type or out of their range.
    """
    said = {key: value for key, value in options.items() if key in CARD_OPTIONS}
    if not said:
        return card
    told = config.build(Card, {**dataclasses.asdict(card), **said}, f"{where}: options")
    wrong = ""
    if not 0 <= told.classes <= card.classes:
        known = f"0 to {card.classes}, which it knows" if card.classes else "0, as it knows no labels"
        wrong = f"classes: expected {known}, got {told.classes}"
    elif told.size is not None and told.size < 1:
        wrong = f"size: expected a positive number, or null for any size, got {told.size}"
    elif {"sigma_min", "sigma_max"} & {*said} and not 0 < told.sigma_min < told.sigma_max < math.inf:
        wrong = f"expected 0 < sigma_min < sigma_max, got {told.sigma_min:g} and {told.sigma_max:g}"
    elif not math.isfinite(told.data_mean):
        wrong = f"data_mean: expected a finite number, got {told.data_mean}"
    elif "data_std" in said and not 0 < told.data_std < math.inf:
        wrong = f"data_std: expected a positive number, got {told.data_std}"
    if wrong:
        raise RequestError(f"{where}: options: {wrong}")
    return told


def span(said: Any, where: str) -> tuple[float, float]:
    """What black and white are, from option `range`. RequestError unless it is two rising numbers."""
    try:
        black, white = (float(end) for end in said)
    except (TypeError, ValueError):
        raise RequestError(f"{where}: range: expected two numbers, such as [-1, 1], got {said!r}") from None
    if not black < white:
        raise RequestError(f"{where}: range: expected black below white, got {said!r}")
    return black, white


def checksum(*paths: Path) -> str:
    """SHA-256 of the files' bytes, one after another."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def line(error: BaseException) -> str:
    """An exception's message as one line."""
    return " ".join(str(error).split())


def _named(error: BaseException) -> str:
    """What a refused pickle asked for: the name in torch's message, which runs over many lines; "" without one."""
    words = line(error)
    for before in ("GLOBAL ", "Unsupported global: ", "Trying to load unsupported GLOBAL "):
        if before in words:
            return words.split(before)[1].split(" was not ")[0].strip()[:100]
    return ""


def _began_as_one(path: Path) -> bool:
    """Whether a file begins as torch's archives do, which are zip files, or as a pickle of protocol 2 or later."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))
