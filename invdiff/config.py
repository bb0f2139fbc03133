"""Dataclasses ↔ YAML: a file overrides a dataclass's defaults and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from invdiff.errors import RequestError, nearest

T = TypeVar("T")
Key = tuple[str | int, ...]
"""The way to a value: ("datasets", 0, "path")."""


class KeyProblem(RequestError):
    """A RequestError about one key, dotted, "" for all of them; said: what is wrong, without the place."""

    key: str = ""
    said: str = ""


def _problem(where: str, key: str, said: str) -> KeyProblem:
    error = KeyProblem(f"{where}: {said}")
    error.key, error.said = key, said
    return error


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
        built: T = _adapter(kind).validate_python(dict(data))  # type: ignore[arg-type]  # a class is hashable
    except pydantic.ValidationError as error:
        first = error.errors()[0]
    else:
        for way, switch in _switches(data, built):
            key = ".".join(way)
            raise _problem(where, key, f"{key}: expected a number, got {str(switch).lower()}")
        return built
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        raise _problem(where, key, f"{key} is missing")
    if first["type"] == "value_error":  # raised by the dataclass itself, and complete: key, expected, got
        said = f"{key + '.' if key else ''}{first['msg'].removeprefix('Value error, ')}"
        raise _problem(where, said.partition(":")[0], said)
    reason = first["msg"].replace("Input should be", "expected").replace("an instance of", "keys of")
    raise _problem(where, key, f"{key}: {reason}, got {_brief(first['input'])}")


def _switches(given: Any, built: Any, *way: str) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Where true or false was given and taken for 1 or 0."""
    if isinstance(given, bool) and isinstance(built, int | float) and not isinstance(built, bool):
        yield way, given
    elif isinstance(given, Mapping) and not isinstance(built, str):
        for key, value in given.items():
            inside = built.get(key) if isinstance(built, Mapping) else getattr(built, str(key), None)
            yield from _switches(value, inside, *way, str(key))
    elif isinstance(given, list | tuple) and isinstance(built, list | tuple):
        for place, (value, inside) in enumerate(zip(given, built, strict=False)):
            yield from _switches(value, inside, *way, str(place))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
        raise RequestError(f"{path}: {line}not valid YAML ({reason}){_remedy(path, reason, mark)}") from None
    if data is not None and not isinstance(data, dict):
        raise RequestError(f"{path}: expected keys and values, got {type(data).__name__}")
    return data or {}


def _remedy(path: Path, reason: str, mark: Any) -> str:
    """What to do about YAML that cannot be read, where that can be said."""
    lines = path.read_text(encoding="utf-8").splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "\\t" in reason:
        return "; indent with blanks, not with a tab"
    if any(
        sign in reason for sign in ("expected <block end>", "mapping values", "could not find expected ':'")
    ):
        return "; check the indentation, and that a blank follows each colon"
    return ""


def _override(data: dict[str, Any], override: str) -> Key:
    """Put a value in its place, and say where that is. An entry of a list goes by its number or its name."""
    import yaml

    key, equals, value = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise RequestError(f"override {override!r}: expected key=value, such as seed=1 or data.crop=48")
    here: Any = data
    way: list[str | int] = []
    for parent in parents:
        if isinstance(here, list):
            way.append(_entry(here, parent, override))
        else:
            way.append(parent)
            if here.get(parent) is None:
                here[parent] = {}
        here = here[way[-1]]
        if not isinstance(here, dict | list):
            raise RequestError(f"override {override!r}: {parent} holds a value, not keys")
    way.append(_entry(here, last, override) if isinstance(here, list) else last)
    try:
        here[way[-1]] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RequestError(f"override {override!r}: {value!r} is not a YAML value") from None
    return tuple(way)


def _entry(entries: list[Any], given: str, override: str) -> int:
    """Which of them is meant: by its name, by another of its words if no other has that, or by its number."""
    keyed = [one if isinstance(one, dict) else {} for one in entries]
    named = [i for i, one in enumerate(keyed) if one.get("name") == given]
    worded = [
        i
        for i, one in enumerate(keyed)
        if given in [value for value in one.values() if isinstance(value, str)]
    ]
    found = named or worded
    if len(found) == 1:
        return found[0]
    if given.isdecimal() and int(given) < len(entries):
        return int(given)
    words = [
        next((value for value in one.values() if isinstance(value, str)), str(i))
        for i, one in enumerate(keyed)
    ]
    known = ", ".join(words) or "none, the list is empty"
    raise RequestError(f"override {override!r}: no entry {given!r}, expected {known}.{nearest(given, words)}")


class Places:
    """Where the keys of a YAML file stand, for messages; of those that were overridden, the override."""

    def __init__(self, path: str | Path, overrides: Iterable[str] = ()) -> None:
        """RequestError for a file that cannot be read, or names a key twice, of which YAML takes the last."""
        import yaml

        self.path = Path(path)
        data = read(self.path)
        self._overrides = [(_override(data, override), override) for override in overrides]
        self._root = yaml.compose(self.path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        self._check_twice(self._root, set())

    def of(self, key: Key | str) -> str:
        """ "FILE: line 12" for a key, dotted or not; where it is not in the file, that of what it would be in."""
        way = tuple(key.split(".")) if isinstance(key, str) else key
        for overridden, override in reversed(self._overrides):
            if [*map(str, overridden)] == [*map(str, way[: len(overridden)])]:
                return f"{self.path}: override {override!r}"
        line = self._line(way)
        return f"{self.path}: line {line}" if line else str(self.path)

    def _line(self, way: Sequence[str | int]) -> int:
        import yaml

        node, line = self._root, 0
        for part in way:
            if isinstance(node, yaml.MappingNode):
                found = [(k, v) for k, v in node.value if k.value == str(part)]
                if not found:
                    break
                (at, node) = found[-1]
                line = at.start_mark.line + 1
            elif (
                isinstance(node, yaml.SequenceNode) and str(part).isdecimal() and int(part) < len(node.value)
            ):
                node = node.value[int(part)]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def _check_twice(self, node: Any, seen: set[int]) -> None:
        import yaml

        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            return
        seen.add(id(node))
        lines: dict[str, int] = {}
        for one in node.value:
            if isinstance(one, tuple):
                line = one[0].start_mark.line + 1
                if isinstance(one[0], yaml.ScalarNode):
                    if one[0].value in lines:
                        raise RequestError(
                            f"{self.path}: line {line}: {one[0].value}: the same key again, first in line "
                            f"{lines[one[0].value]}; leave one, or look at the indentation"
                        )
                    lines[one[0].value] = line
                self._check_twice(one[1], seen)
            else:
                self._check_twice(one, seen)


_hints = cache(get_type_hints)


def _check_keys(kind: Any, data: Mapping[str, Any], where: str, prefix: str) -> None:
    hints = _hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in data.items():
        if key not in known:
            near = nearest(str(key), known)
            said = f"unknown key {prefix}{key}.{near} Known: {', '.join(known)}"
            raise _problem(where, f"{prefix}{key}", said)
        for inner in (hints[key], *get_args(hints[key])):
            if not dataclasses.is_dataclass(inner):
                continue
            entries = (
                {f"{key}.{i}": one for i, one in enumerate(value)}
                if isinstance(value, list)
                else {key: value}
            )
            for name, one in entries.items():
                if isinstance(one, Mapping):
                    _check_keys(inner, one, where, f"{prefix}{name}.")
