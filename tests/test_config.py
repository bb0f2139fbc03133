"""YAML overrides a dataclass's defaults, and says what is wrong with it in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from invdiff import config
from invdiff.errors import RequestError

Write = Callable[[str | bytes], Path]


@dataclass(frozen=True, kw_only=True)
class Wheel:
    size: int = 28
    spokes: list[int] = field(default_factory=lambda: [32])

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: expected at least 1, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class Bicycle:
    name: str
    front: Wheel = Wheel()
    rear: Wheel | None = None
    weight: float = 12.5

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight: expected a positive number, got {self.weight}")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "bicycle.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_what_the_file_says_overrides_and_the_rest_is_default(write: Write) -> None:
    got = config.load(Bicycle, write("name: red\nfront: {size: 26}\nweight: 1e1\n"))
    assert got == Bicycle(name="red", front=Wheel(size=26), weight=10.0)


def test_overrides_come_last_and_reach_into_sections_the_file_has_not(write: Write) -> None:
    path = write("name: red\nrear:\nweight: 9\n")
    got = config.load(Bicycle, path, ["weight=8", "front.size=20", "rear.spokes=[1, 2]", "name=blue=green"])
    assert got == Bicycle(name="blue=green", weight=8.0, front=Wheel(size=20), rear=Wheel(spokes=[1, 2]))


def test_a_dumped_dataclass_builds_itself(write: Write) -> None:
    one = Bicycle(name="red", rear=Wheel(size=20))
    assert config.build(Bicycle, config.dump(one), "here") == one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nmae: red", "unknown key nmae. Did you mean 'name'? Known: name, front, rear, weight"),
        ("name: red\nfront: {spoke: [3]}", "unknown key front.spoke. Did you mean 'spokes'?"),
        ("name: red\nrear: {xyzzy: 3}", "unknown key rear.xyzzy. Known: size, spokes"),
        ("name: red\n1: 2", "unknown key 1. Known: name"),
        ("front: {size: 3}", "name is missing"),
        ("", "name is missing"),
        ("name: red\nfront: {size: big}", "front.size: expected a valid integer"),
        ("name: red\nfront: {size: 2.5}", "front.size: expected a valid integer"),
        ("name: red\nfront: 3", "front: expected a dictionary or keys of Wheel, got 3"),
        ("name: red\nfront: {spokes: 3}", "front.spokes: expected a valid list, got 3"),
        ("name: red\nfront: {spokes: [3, x]}", "front.spokes.1: expected a valid integer"),
        ("name: red\nfront: {size: true}", "front.size: expected a number, got true"),
        ("name: red\nfront: {spokes: [3, no]}", "front.spokes.1: expected a number, got false"),
        ("name: red\nweight: on", "weight: expected a number, got true"),
        ("name: [red]", "name: expected a valid string, got ['red']"),
        ("name: red\nfront: {size: 0}", "front.size: expected at least 1, got 0"),
        ("name: red\nweight: -1", "yaml: weight: expected a positive number, got -1.0"),
        ("- red\n- blue", "expected keys and values, got list"),
        ("red", "expected keys and values, got str"),
        ("name: red\nfront:\n\tsize: 3", "line 3: not valid YAML"),
        ("name: red\nfront: {size: 3", "not valid YAML"),
        ("name: red\nfront: *wheel", "line 2: not valid YAML"),
        ("name: !!python/object/apply:os.getcwd []", "line 1: not valid YAML"),
        (b"\xff\xfe\x00name", "expected YAML in UTF-8"),
        ("name: \x01", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_file_and_key(
    write: Write, text: str | bytes, said: str
) -> None:
    path = write(text)
    with pytest.raises(RequestError) as caught:
        config.load(Bicycle, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 160


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("weight", "expected key=value"),
        ("=3", "expected key=value"),
        ("wieght=3", "Did you mean 'weight'?"),
        ("front.sise=3", "unknown key front.sise. Did you mean 'size'?"),
        ("name.first=x", "name holds a value, not keys"),
        ("weight=[1", "is not a YAML value"),
        ("weight=heavy", "weight: expected a valid number"),
    ],
)
def test_a_wrong_override_is_told(write: Write, override: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        config.load(Bicycle, write("name: red"), [override])
    assert said in str(caught.value)


def test_a_file_that_is_missing_or_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        config.load(Bicycle, tmp_path / "missing.yaml")
    with pytest.raises(RequestError, match="cannot be read"):
        config.load(Bicycle, tmp_path)
