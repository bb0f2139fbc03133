"""What a benchmark is to do, piece by piece: its pictures as they lie on the disk, in units that always run whole.

Nothing here is held in memory that grows with the number of pictures, but for a zip file's own list of what is in it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import sqlite3
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..catalog import METHODS
from ..errors import RequestError, nearest, unknown
from .peers import PEERS

if TYPE_CHECKING:
    from .definition import Benchmark, Dataset, Method
    from .store import Store

AXES = ("dataset", "task", "prior", "method", "seed")
"""What --only may choose from."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A data set's picture, not read yet. name: its own in the data set: its path there, "/"-separated."""

    dataset: str
    name: str
    path: Path
    member: str | None = None
    """Its name in the zip file `path`."""

    @property
    def place(self) -> str:
        """For messages."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What runs as a whole: some pictures, measured and restored in one way.

    id: a digest of all that decides its result, wherever its files lie, but for the pictures' contents.
    """

    id: str
    dataset: str
    task: str
    prior: str
    method: str
    seed: int
    pictures: tuple[Picture, ...]


# ------------------------------------------------------------------------------------------------------- pictures


def pictures(dataset: Dataset, root: str | Path) -> Iterator[Picture]:
    """The pictures of a data set by name, the first `limit` of them: of a folder and its subfolders, or a zip file.

    They are sorted on the disk, by SQLite, where there is no limit. RequestError, with the file or folder, for one
    that is not there, cannot be read, or holds no picture.
    """
    path = Path(root) / Path(dataset.path).expanduser()
    found: Iterator[tuple[str, Path, str | None]]
    if path.is_dir():
        names: Iterable[str] = _names_in_folder(path)
        found = ((name, path / name, None) for name in _by_name(names, dataset.limit))
    elif path.suffix.lower() == ".zip" and path.is_file():
        names = _names_in_zip(path)
        found = ((name, path, name) for name in _by_name(names, dataset.limit))
    elif path.is_file():
        found = ((name, path, None) for name in (path.name,))
    else:
        near = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise RequestError(
            f"{path}: no such file or folder.{near} Set root, or INVDIFF_DATA, to where the data lie"
        )
    empty = True
    for name, place, member in found:
        empty = False
        try:
            name.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{path}: a picture's name is no UTF-8, {name!r}; rename it") from None
        yield Picture(dataset=dataset.name, name=name, path=place, member=member)
    if empty:
        from ..images import SUFFIXES

        raise RequestError(f"{path}: no pictures in it; expected files such as *{' *'.join(SUFFIXES[:4])}")


def size_of(picture: Picture) -> tuple[int, int]:
    """(height, width) of a picture, upright, by its file's first bytes. RequestError for what is none."""
    from PIL import Image

    from ..images import explained, read_image

    place = Path(picture.place)
    if picture.path.suffix.lower() == ".npy":
        return read_image(picture.path).size
    try:
        if picture.member is None:
            file: Any = picture.path.open("rb")
        else:
            with zipfile.ZipFile(picture.path) as archive:
                file = BytesIO(archive.read(picture.member))
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"{place}: cannot be read ({error})") from None
    with explained(place), file, Image.open(file) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5
    return (width, height) if turned else (height, width)


def _names_in_folder(folder: Path) -> Iterator[str]:
    """Relative names of the pictures in a folder and its subfolders, in no order. Links are followed once."""
    waiting = [("", frozenset({folder.resolve()}))]
    while waiting:
        inside, above = waiting.pop()
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    name = f"{inside}{entry.name}"
                    if not _counts(entry.name):
                        continue
                    if entry.is_dir():
                        there = Path(entry.path).resolve() if entry.is_symlink() else None
                        if there not in above:
                            waiting.append((f"{name}/", above | {there} if there else above))
                    elif _is_picture(entry.name) and entry.is_file():
                        yield name
        except OSError as error:
            raise RequestError(f"{folder / inside}: the folder cannot be read ({error.strerror})") from None


def _names_in_zip(path: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise RequestError(f"{path}: not a readable zip file ({error})") from None
    for name in names:
        if all(map(_counts, PurePosixPath(name).parts)) and _is_picture(name):
            yield name


def _counts(part: str) -> bool:
    """Whether a file or folder of this name is looked at: not what macOS leaves behind."""
    return not part.startswith((".", "__MACOSX"))


def _is_picture(name: str) -> bool:
    from ..images import SUFFIXES

    return name.lower().endswith(SUFFIXES)


def _by_name(names: Iterable[str], limit: int | None) -> Iterator[str]:
    """Sorted by their bytes, which for UTF-8 is by code point."""
    if limit is not None:
        yield from heapq.nsmallest(limit, names, key=os.fsencode)
        return
    with closing(sqlite3.connect("")) as database:  # a file of its own, gone when closed
        database.execute("CREATE TABLE found (name BLOB)")
        database.executemany("INSERT INTO found VALUES (?)", ((os.fsencode(name),) for name in names))
        for (name,) in database.execute("SELECT name FROM found ORDER BY name"):
            yield os.fsdecode(name)


# ----------------------------------------------------------------------------------------------------------- units


def units(benchmark: Benchmark, *, only: Collection[str] = (), limit: int | None = None) -> Iterator[Unit]:
    """All of a benchmark's units, a prior's one after the other; the same, of the same pictures, each time.

    only: as ("method=dps,ddnm", "task=sr4"); limit: so many pictures of each data set, to whole
    units. RequestError for a name in `only` that the benchmark does not have, and as `pictures` raises it.
    """
    if limit is not None:  # whole units: a part of one would be another, of the same rows
        limit = -(-limit // benchmark.batch) * benchmark.batch
    chosen = chosen_by(benchmark, only)
    settings = benchmark.record()
    common = {key: settings[key] for key in ("metrics", "colour", "border", "batch", "threads", "precision")}
    common["device"] = benchmark.device.partition(":")[0]
    for prior in chosen["prior"]:
        identity = {**common, "prior": settings["priors"][prior]}
        for dataset in benchmark.datasets:
            if dataset.name not in chosen["dataset"]:
                continue
            ways = [
                (task, method)
                for task in chosen["task"]
                for method in chosen["method"]
                if not benchmark.skips(dataset=dataset.name, task=task, prior=prior, method=method)
            ]
            look = {key: getattr(dataset, key) for key in ("name", "crop", "resize", "channels")}
            for group in _groups(limited(dataset, limit), benchmark) if ways else ():
                for task, method in ways:
                    for seed in chosen["seed"]:
                        decided = {
                            **identity,
                            "dataset": look,
                            "pictures": [picture.name for picture in group],
                            "task": {"name": task, **settings["tasks"][task]},
                            "method": {"name": method, **settings["methods"][method]},
                            "seed": int(seed),
                        }
                        yield Unit(
                            id=_digest(decided),
                            dataset=dataset.name,
                            task=task,
                            prior=prior,
                            method=method,
                            seed=int(seed),
                            pictures=group,
                        )


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """With at most so many pictures."""
    least = min((n for n in (dataset.limit, limit) if n is not None), default=None)
    return replace(dataset, limit=least)


def chosen_by(benchmark: Benchmark, only: Collection[str]) -> dict[str, list[str]]:
    """Axis → the names on it that `only` leaves, in the benchmark's order; seeds as text. RequestError for others."""
    known = {
        "dataset": [one.name for one in benchmark.datasets],
        "task": [one.name for one in benchmark.tasks],
        "prior": list(benchmark.priors),
        "method": [one.name for one in benchmark.methods],
        "seed": [str(seed) for seed in benchmark.seeds],
    }
    chosen = dict(known)
    for one in only:
        axis, equals, given = one.partition("=")
        axis, names = axis.strip(), [name.strip() for name in given.split(",")]
        if axis not in known:
            raise RequestError(
                f"--only {one}: expected {', '.join(AXES[:-1])} or seed, and names, as in method=dps,ddnm."
                f"{nearest(axis, AXES)}"
            )
        if not equals or not all(names):
            raise RequestError(f"--only {one}: expected names after {axis}=, of {', '.join(known[axis])}")
        for name in names:
            if name not in known[axis]:
                raise RequestError(f"--only {one}: {unknown(axis, name, known[axis])}")
        chosen[axis] = [name for name in chosen[axis] if name in names]
    return chosen


def _groups(dataset: Dataset, benchmark: Benchmark) -> Iterator[tuple[Picture, ...]]:
    found = pictures(dataset, benchmark.data_root)
    while group := tuple(islice(found, benchmark.batch)):
        yield group


def _digest(decided: Mapping[str, Any]) -> str:
    text = json.dumps(decided, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------- how much there is to do


@dataclass(frozen=True, kw_only=True)
class Part:
    """The runs of one method on one task of a data set, with one prior; a run is a picture with a seed."""

    dataset: str
    task: str
    prior: str
    method: str
    runs: int
    done: int = 0
    """Of them, those that are in the store already."""
    evaluations: float | None = None
    """Of the network, for a run; None where only running it would tell."""
    seconds: float | None = None
    """For a run, by those like it that are in the store; None where there are none."""


def parts(
    benchmark: Benchmark,
    folder: Path | None = None,
    *,
    only: Collection[str] = (),
    limit: int | None = None,
    retry: bool = False,
) -> list[Part]:
    """How much there is to do, and what the rows of a run in `folder` tell of how long it takes.

    Where a method has not run on a task yet, but on others, a run is taken to last as long as there on average.
    RequestError where the folder holds a run of another configuration.
    """
    counts: dict[tuple[str, ...], list[int]] = {}
    told: dict[tuple[str, ...], list[float]] = {}
    store = _store(benchmark, folder)
    with closing(store) if store else nullcontext():
        for unit in units(benchmark, only=only, limit=limit):
            count = counts.setdefault((unit.dataset, unit.task, unit.prior, unit.method), [0, 0])
            count[0] += len(unit.pictures)
            if store and store.done(unit.id) and not (retry and store.failed(unit.id)):
                count[1] += len(unit.pictures)
        for row in store.rows(status="done") if store else ():
            for key in ((row.dataset, row.task, row.prior, row.method), (row.method,)):
                total = told.setdefault(key, [0.0, 0.0, 0.0])
                total[:] = total[0] + 1, total[1] + row.seconds, total[2] + row.evaluations
    methods = {one.name: one for one in benchmark.methods}
    found = []
    for way, (runs, done) in counts.items():
        own, like = told.get(way), told.get(way) or told.get(way[3:])
        part = Part(
            **dict(zip(AXES, way, strict=False)),
            runs=runs,
            done=done,
            evaluations=own[2] / own[0] if own else evaluations(methods[way[3]]),
            seconds=like[1] / like[0] if like else None,
        )
        found.append(part)
    return found


def evaluations(method: Method) -> float | None:
    """A run's network evaluations, as far as the definition and the catalog tell; None where they do not."""
    if method.peer is not None:
        return None if PEERS[method.peer].uses_prior else 0.0
    info = METHODS.get(str(method.method))
    steps = method.steps or method.settings.get("steps")
    each = re.fullmatch(r"(\d+)( with .*)?", info.evaluations) if info else None
    varied = {"integrator", "grid", "jump", "repeats", "ode_steps"} & method.settings.keys()
    if not isinstance(steps, int) or each is None or varied or "per particle" in each[0]:
        return None
    return float(steps * int(each[1]) * method.samples * method.best_of)


def _store(benchmark: Benchmark, folder: Path | None) -> Store | None:
    from .store import DATABASE, Store, differences

    if folder is None or not (folder / DATABASE).is_file():
        return None
    store = Store.read(folder)
    begun = store.count() > 0
    keys = differences(store.definition, json.loads(json.dumps(benchmark.record())))
    if keys:
        store.close()
        if not begun:
            return None
        raise RequestError(
            f"{folder} holds a run of another configuration, which differs in {', '.join(keys[:6])}: choose another "
            "--out, or --overwrite to remove it"
        )
    return store
