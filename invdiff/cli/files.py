"""What goes in and what comes out of a run over files: inputs, names for results, writing them as one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RequestError


def expand(inputs: Sequence[Path], *, without: Callable[[Path], bool] = lambda path: False) -> list[Path]:
    """Files as they are and folders as the pictures in them, each once. without: what a folder's search
    passes by.

    RequestError for no input, a folder without pictures, or where none of the inputs is there.
    """
    if not any(
        given.exists() for given in inputs
    ):  # said here, it is said before numpy and Pillow are imported
        raise RequestError(f"{', '.join(map(str, inputs))}: no such file")
    found: dict[Path, Path] = {}
    for given in inputs:
        for path in _pictures_in(given, without) if given.is_dir() else [given]:
            found.setdefault(path.resolve(), path)
    if not found:
        raise RequestError("no picture to work on; give an image file or a folder of them")
    return list(found.values())


def _pictures_in(folder: Path, without: Callable[[Path], bool]) -> list[Path]:
    from ..images import list_images

    return [path for path in list_images(folder) if not without(path)]


def names(paths: Sequence[Path], results: Callable[[str], Iterable[str]]) -> list[str]:
    """A name for each input's results: its stem where no other input's results would be called the same.

    results: name → the stems of all files written for it. Those that clash get their ending too, then their
    folder's name, then a number made from the whole path: a.png and a.jpg become a_png and a_jpg.
    """
    longer: list[Callable[[Path], str]] = [
        lambda p: f"{p.stem}_{p.suffix[1:]}",
        lambda p: f"{p.resolve().parent.name}_{p.stem}_{p.suffix[1:]}",
        lambda p: f"{p.stem}_{p.suffix[1:]}_{_short_hash(str(p.resolve()))}",
    ]
    chosen = [path.stem for path in paths]
    for rule in longer:
        taken = Counter(stem.casefold() for name in chosen for stem in set(results(name)))
        clashing = [any(taken[stem.casefold()] > 1 for stem in results(name)) for name in chosen]
        chosen = [
            rule(path) if clash else name for path, name, clash in zip(paths, chosen, clashing, strict=True)
        ]
    return chosen


def check_writable(folder: Path) -> None:
    """RequestError unless files can be made in `folder`, or the folder itself; nothing is left behind."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise RequestError(f"--out {folder}: {there} is a file, expected a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise RequestError(
            f"--out {folder}: cannot write there ({error.strerror}); choose another folder"
        ) from None


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """RequestError where a result would be written over something that was read."""
    sources = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in sources:
            raise RequestError(f"{path}: the result would replace its own input; choose another --out")


@contextmanager
def together(folder: Path, name: str) -> Iterator[Path]:
    """A place to write one result's files to; in the end all move into `folder`, NAME.json last, or none do.

    Where a run is killed while they move, the place stays behind and `unfinished` tells the next run.
    """
    part = _part(folder, name)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for file in sorted(part.iterdir(), key=lambda p: (p.suffix == ".json", p.name)):
        file.replace(folder / file.name)
    part.rmdir()


def unfinished(folder: Path, name: str) -> bool:
    """Whether a run was killed while it wrote the files of this result."""
    return _part(folder, name).exists()


def _part(folder: Path, name: str) -> Path:
    return folder / f".{name}.part"


def read_record(path: Path) -> dict[str, Any] | None:
    """A record as it was written; None where there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def differences(old: Any, new: Mapping[str, Any]) -> str:
    """What was asked for otherwise, in words: "steps 30 (now 50), seed 0 (now 1)"; "" where nothing."""
    old = old if isinstance(old, dict) else {}
    keys = [key for key in {**old, **new} if _plain(old.get(key)) != _plain(new.get(key))]
    return ", ".join(f"{key} {_brief(old.get(key))} (now {_brief(new.get(key))})" for key in keys)


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    import platform
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        **{p: version(p) for p in ("invdiff", "torch", "numpy", "pillow")},
    }


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _brief(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text[:8] + "…" if len(text) == 64 else text


def _short_hash(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:8]
