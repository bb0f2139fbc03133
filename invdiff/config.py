"""Dataclasses ↔ YAML: a file overrides a dataclass's defaults and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from invdiff.errors import RequestError, nearest

T = TypeVar("T")


def load(kind: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """The dataclass `kind` from a YAML file, then `key.sub=value` overrides (values are YAML too).

    RequestError (file, key or line, expected, got) for an unreadable file, an unknown or missing key, a
    value of a wrong type or out of its range.
    """
    data = read(Path(path))
    for override in overrides:
        _override(data, override)
    return build(kind, data, str(path))


def build(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    """The dataclass `kind` from plain keys and values, nested dataclasses too; `where` begins every error."""
    import pydantic

    _check_keys(kind, data, where, "")
    try:
        return _adapter(kind).validate_python(dict(data))  # type: ignore[arg-type]  # a class is hashable
    except pydantic.ValidationError as error:
        first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        raise RequestError(f"{where}: {key} is missing")
    if first["type"] == "value_error":  # raised by the dataclass itself, and complete: key, expected, got
        raise RequestError(f"{where}: {key + '.' if key else ''}{first['msg'].removeprefix('Value error, ')}")
    reason = first["msg"].replace("Input should be", "expected").replace("an instance of", "keys of")
    raise RequestError(f"{where}: {key}: {reason}, got {first['input']!r}")


@cache
def _adapter(kind: Any) -> Any:
    """pydantic's, which takes milliseconds to make: training builds an operator for every picture."""
    import pydantic

    return pydantic.TypeAdapter(kind)


def dump(config: Any) -> dict[str, Any]:
    """A dataclass as plain keys and values, as `build` takes them."""
    return dataclasses.asdict(config)


def read(path: Path) -> dict[str, Any]:
    """A YAML file's keys and values. RequestError where it cannot be read or holds something else."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path}: expected YAML in UTF-8, this is not text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RequestError(f"{path}: {line}not valid YAML ({reason})") from None
    if data is not None and not isinstance(data, dict):
        raise RequestError(f"{path}: expected keys and values, got {type(data).__name__}")
    return data or {}


def _override(data: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, value = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise RequestError(f"override {override!r}: expected key=value, such as seed=1 or data.crop=48")
    here = data
    for parent in parents:
        if here.get(parent) is None:
            here[parent] = {}
        here = here[parent]
        if not isinstance(here, dict):
            raise RequestError(f"override {override!r}: {parent} holds a value, not keys")
    try:
        here[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RequestError(f"override {override!r}: {value!r} is not a YAML value") from None


_hints = cache(get_type_hints)


def _check_keys(kind: Any, data: Mapping[str, Any], where: str, prefix: str) -> None:
    hints = _hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in data.items():
        if key not in known:
            near = nearest(str(key), known)
            raise RequestError(f"{where}: unknown key {prefix}{key}.{near} Known: {', '.join(known)}")
        for inner in (hints[key], *get_args(hints[key])):
            if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
                _check_keys(inner, value, where, f"{prefix}{key}.")
