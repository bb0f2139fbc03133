"""What `invdiff bench` is to run, from YAML: data sets × tasks × priors × methods × seeds.

Everything that can be checked without torch is checked by `load`, before anything heavy is imported: keys, files,
masks, priors, and whether each method can do each task. Operators' files, masks and priors are looked for beside the
YAML file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from .. import config, spec_files
from ..catalog import AUTO, METHODS, PRIORS, MethodInfo, check_info, is_hub_name, method_info, model_for
from ..effort import DEFAULT
from ..effort import NAMES as EFFORTS
from ..errors import RequestError, nearest, unknown
from ..known import Known, check_prior, checksum, known
from ..masks import Colour, Masks, checked, read_mask_file
from ..noise import NoiseSpec, as_yaml, known_sigma, parse_noise
from ..specs import Kept, Shape, Spec
from ..words import by, dims
from .peers import PEERS, peer
from .plan import Picture, pictures, size_of
from .scores import METRICS, without_lpips

VARIABLE = "INVDIFF_DATA"
"""The environment variable that names the folder that data sets' paths are relative to."""

METRIC_NAMES = tuple(METRICS)
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Pictures, as they are restored."""

    name: str
    path: str
    """A folder, with its subfolders, a zip file or a picture, relative to `Benchmark.root`."""
    resize: int | None = None
    """The middle square, resized to this side, bicubic and antialiased; before `crop`."""
    crop: int | None = None
    """The middle, this large."""
    limit: int | None = None
    """The first so many by name."""
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        _check_name(self.name)
        _at_least(1, resize=self.resize, crop=self.crop, limit=self.limit)
        if self.resize and self.crop and self.crop > self.resize:
            raise ValueError(
                f"crop: expected at most resize, which comes first, {self.resize}, got {self.crop}"
            )

    def shape_of(self, size: tuple[int, int]) -> Shape:
        """(C, H, W) of a picture of this (height, width). RequestError where it is too small."""
        height, width = (self.resize, self.resize) if self.resize else size
        if self.crop is None:
            return self.channels, height, width
        if min(height, width) < self.crop:
            raise RequestError(
                f"expected at least {self.crop} pixels a side, for crop, got {by((height, width))}"
            )
        return self.channels, self.crop, self.crop


@dataclass(frozen=True, kw_only=True)
class Task:
    """A measurement. Either an operator or masks."""

    name: str
    operator: Any = None
    """As in a spec file (`spec_files`). A random mask without a seed is each picture's own."""
    noise: Any = 0.0
    """σ_y in image units, or a model of noise, as {poisson: {peak: 50}}."""
    mask: str | None = None
    """A file, or a folder of NAME.* or NAME_mask.*, white where to fill in."""
    mask_keep: Colour = "black"
    """The colour in the mask's file of what is observed."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if (self.operator is None) == (self.mask is None):
            raise ValueError("operator: expected one, or mask: a file or folder instead; give one of them")
        if self.operator is not None:
            _explained("operator", lambda: spec_files.build(self.operator, "operator"))
        if _explained("noise", lambda: parse_noise(self.noise, "noise")) == "auto":
            raise ValueError("noise: expected how much is added, as 0.05 or {poisson: {peak: 50}}, got auto")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the tables: a method of ours with its settings, or a peer's."""

    name: str = ""
    """Empty: what runs."""
    method: str | None = None
    """A name of `catalog.METHODS`, or auto."""
    peer: str | None = None
    """A name of `peers.PEERS` in its stead."""
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    effort: str = DEFAULT
    """Of auto, in place of steps: fast or best."""
    samples: int = 1
    best_of: int = 1
    """Each sample is of so many the one nearest to the truth, as phase retrieval is reported."""

    def __post_init__(self) -> None:
        if (self.method is None) == (self.peer is None):
            raise ValueError("method: expected a name, as dps, or peer: another package's; give one of them")
        if not self.name:
            object.__setattr__(self, "name", self.method or self.peer)
        _check_name(self.name)
        if self.effort not in EFFORTS:  # a budget in seconds would make the result depend on the machine
            raise ValueError(f"effort: {unknown('effort', self.effort, EFFORTS)}")
        chosen = self.steps is not None or "steps" in self.settings
        if self.effort != DEFAULT and (self.method != AUTO or chosen):
            raise ValueError("effort: expected method: auto, and no steps, which it chooses")
        _at_least(1, steps=self.steps, samples=self.samples, best_of=self.best_of)


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A pairing that is left out on purpose: all that is called so, or of what is said here."""

    task: str | None = None
    method: str | None = None
    dataset: str | None = None
    prior: str | None = None

    def __post_init__(self) -> None:
        if not any(asdict(self).values()):
            raise ValueError("task: expected a task and a method, a data set or a prior, got nothing")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark. What `load` gives is checked."""

    name: str
    summary: str = ""
    reproduces: str = ""
    """The published row, in words."""
    root: str | None = None
    """Where data sets are looked for; None: the environment's INVDIFF_DATA, else the YAML's folder."""
    folder: str | None = None
    """Where operators' files, masks and priors are looked for; None: the YAML's."""
    datasets: list[Dataset] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    priors: list[str] = field(default_factory=lambda: ["natural"])
    methods: list[Method] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    metrics: list[str] = field(default_factory=lambda: ["psnr", "ssim", "lpips_squeeze", "consistency"])
    """Names of `scores.METRICS`."""
    colour: Literal["rgb", "luma"] = "rgb"
    """What PSNR and SSIM see."""
    border: int = 0
    """Pixels that PSNR and SSIM leave out at each side."""
    batch: int = 1
    """Pictures of a unit, which go through the network together where they are of one size."""
    threads: int = 1
    device: str = "cpu"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    pictures: bool = True
    """Whether the pictures are kept."""
    skip: list[Skip] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key in ("datasets", "tasks", "methods", "priors", "seeds", "metrics"):
            if not getattr(self, key):
                raise ValueError(f"{key}: expected at least one, got none")
        _at_least(1, batch=self.batch, threads=self.threads)
        _at_least(0, border=self.border)
        for i, seed in enumerate(self.seeds):
            if not 0 <= seed < 2**63:
                raise ValueError(f"seeds.{i}: expected a whole number from 0 to 2^63 - 1, got {seed}")
        if self.device.partition(":")[0] not in DEVICES:
            raise ValueError(f"device: {unknown('device', self.device, DEVICES)}")

    @property
    def data_root(self) -> Path:
        """The folder that data sets' paths are relative to."""
        return Path(self.root or os.environ.get(VARIABLE) or self.folder or ".").expanduser()

    def spec_of(self, task: Task) -> Spec:
        """Its operator to be; with masks, that which will be each picture's own."""
        if task.operator is None:
            return Kept()
        return _spec(json.dumps(task.operator, default=str), self.folder or ".")

    def noise_of(self, task: Task) -> float | NoiseSpec:
        noise = parse_noise(task.noise, f"tasks.{task.name}.noise")
        return 0.0 if noise == "auto" else noise

    def masks_of(self, task: Task) -> Masks | None:
        """Where a task's masks come from, if they do not come from its operator."""
        if task.mask is None:
            return None
        return Masks(given=str(Path(self.folder or ".") / Path(task.mask).expanduser()), keep=task.mask_keep)

    def prior_source(self, name: str) -> str:
        """A prior as `load_prior` takes it: a name as it is, of a file or folder its place, beside the YAML or here."""
        if name in PRIORS:
            return name
        for there in (Path(self.folder or ".") / Path(name).expanduser(), Path(name).expanduser()):
            if there.exists():
                return str(there.resolve())
        return name

    def skips(self, *, dataset: str, task: str, prior: str, method: str) -> bool:
        """Whether this was left out on purpose."""
        return any(
            (one.dataset or dataset, one.task or task, one.prior or prior, one.method or method)
            == (dataset, task, prior, method)
            for one in self.skip
        )

    def record(self) -> dict[str, Any]:
        """All that decides the rows, JSON-able: names in place of lists, files by their checksums."""
        plain = {k: v for k, v in asdict(self).items() if k not in ("root", "folder")}
        return {
            **plain,
            "datasets": {one.name: _without(asdict(one), "name") for one in self.datasets},
            "tasks": {one.name: self.task_record(one) for one in self.tasks},
            "methods": {one.name: _without(asdict(one), "name") for one in self.methods},
            "priors": {name: check_prior(self.prior_source(name))["sha256"] for name in self.priors},
            "skip": [{k: v for k, v in asdict(one).items() if v is not None} for one in self.skip],
        }

    def task_record(self, task: Task) -> dict[str, Any]:
        """All that decides what is measured, JSON-able, wherever the definition lies."""
        found: dict[str, Any] = {"noise": as_yaml(self.noise_of(task))}
        masks = self.masks_of(task)
        if masks is None:
            return {
                **found,
                "operator": _beside(self.spec_of(task).describe(), f"{self.folder or '.'}{os.sep}"),
            }
        file = Path(masks.given)
        return {**found, "mask": checksum(file) if file.is_file() else task.mask, "mask_keep": task.mask_keep}


SECTIONS: dict[str, type] = {"datasets": Dataset, "tasks": Task, "methods": Method, "skip": Skip}


def load(path: str | Path, overrides: Iterable[str] = (), *, lpips: bool = True) -> Benchmark:
    """The checked benchmark of a YAML file, then `key.sub=value` overrides, as methods.dps.steps=20.

    A root is relative to the YAML's folder, in an override to where you are. RequestError (file, line where it is
    known, key, expected, got, remedy) for what is wrong; of a data set the first picture alone is looked at. lpips: or
    leave out the metrics that need it.
    """
    path, overrides = Path(path), tuple(overrides)
    if not path.is_file():
        near = nearest(path.name, (p.name for p in path.parent.glob("*.yaml")))
        raise RequestError(f"no benchmark {path}: expected a YAML file.{near}")
    places = config.Places(path, overrides)
    benchmark = _placed(_built(path, overrides, places), path, overrides)
    check = _Check(benchmark, places, lpips)
    check.names()
    check.priors()
    check.methods()
    check.data()
    check.metrics()
    check.pairs()
    return benchmark if lpips else replace(benchmark, metrics=without_lpips(benchmark.metrics))


def _built(path: Path, overrides: Collection[str], places: config.Places) -> Benchmark:
    try:
        return config.load(Benchmark, path, overrides)
    except config.KeyProblem as error:
        hint = ""
        if error.said.startswith("unknown key") and "." not in error.key:
            homes = [
                name for name, kind in SECTIONS.items() if error.key in {one.name for one in fields(kind)}
            ]
            hint = f". {error.key} belongs to an entry of {' or '.join(homes)}: indent it" if homes else ""
        raise RequestError(f"{places.of(error.key)}: {error.said}{hint}") from None


def _placed(benchmark: Benchmark, path: Path, overrides: Collection[str]) -> Benchmark:
    """With `root` and `folder` absolute: workers may be elsewhere."""
    beside = path.resolve().parent
    folder = beside / Path(benchmark.folder or ".").expanduser()
    if benchmark.root is not None:
        here = any(one.partition("=")[0].strip() == "root" for one in overrides)
        root = (Path() if here else beside) / Path(benchmark.root).expanduser()
    else:
        root = Path(os.environ.get(VARIABLE) or folder).expanduser()
    return replace(benchmark, root=str(root.resolve()), folder=str(folder.resolve()))


class _Check:
    """What is not seen key by key."""

    def __init__(self, benchmark: Benchmark, places: config.Places, lpips: bool) -> None:
        self.benchmark, self.places, self.lpips = benchmark, places, lpips
        self.known: dict[str, Known] = {}
        self.first: dict[str, Picture] = {}
        self.shapes: dict[str, Shape] = {}

    @contextmanager
    def at(self, *key: str | int, said: str = "") -> Iterator[None]:
        """Begins every error with where that key stands and what it is; said: instead of the key."""
        try:
            yield
        except (RequestError, OSError) as error:
            text = (
                f"{error.filename}: {error.strerror}"
                if isinstance(error, OSError) and error.filename
                else str(error)
            )
            raise RequestError(f"{self.places.of(key)}: {said or '.'.join(map(str, key))}: {text}") from None

    def names(self) -> None:
        b = self.benchmark
        for section in ("datasets", "tasks", "methods"):
            self._unlike(section, [one.name for one in getattr(b, section)])
        for section in ("priors", "seeds", "metrics"):
            self._unlike(section, [str(value) for value in getattr(b, section)])
        for i, one in enumerate(b.skip):
            for axis, there in {
                "dataset": [d.name for d in b.datasets],
                "task": [t.name for t in b.tasks],
                "prior": b.priors,
                "method": [m.name for m in b.methods],
            }.items():
                name = getattr(one, axis)
                if name is not None and name not in there:
                    with self.at("skip", i, axis):
                        raise unknown(axis, name, there)

    def _unlike(self, section: str, names: list[str]) -> None:
        seen: dict[str, int] = {}
        for i, name in enumerate(names):
            if name.casefold() in seen:
                first = self.places.of((section, seen[name.casefold()])).rpartition(": ")[2]
                with self.at(section, i):
                    raise RequestError(
                        f"expected names that differ, got {name!r} again (first: {first}); rename one"
                    )
            seen[name.casefold()] = i

    def priors(self) -> None:
        for i, name in enumerate(self.benchmark.priors):
            with self.at("priors", i):
                source = self.benchmark.prior_source(name)
                if not Path(source).exists() and (Path(name).suffix or "/" in name) and not is_hub_name(name):
                    raise RequestError(f"{name}: no such file, in {self.benchmark.folder} or here")
                check_prior(source)
                if name in PRIORS and not PRIORS[name].path.is_file():
                    raise RequestError(PRIORS[name].missing())
                self.known[name] = replace(known(source), name=name)

    def methods(self) -> None:
        for i, one in enumerate(self.benchmark.methods):
            if one.peer is not None:
                with self.at("methods", i, "peer"):
                    missing = peer(one.peer).missing()
                    if missing is not None:
                        raise RequestError(f"{one.peer} {missing}")
                with self.at("methods", i):
                    PEERS[one.peer].check_settings(one.settings, one.steps, one.samples * one.best_of)
                continue
            name = str(one.method)
            with self.at("methods", i, "method"):
                info = None if name == AUTO else method_info(name)
            options = info.options if info else _of_every_method()
            for key in one.settings:
                if key not in options:
                    with self.at("methods", i, "settings", key):
                        raise RequestError(
                            f"unknown setting of {name}.{nearest(str(key), options)} Known: {', '.join(options)}"
                        )
            if one.steps is not None and "steps" in one.settings:
                with self.at("methods", i, "settings", "steps"):
                    raise RequestError(
                        f"expected one number of steps, got {one.steps} beside it; leave one out"
                    )

    def data(self) -> None:
        with self.at("root"):
            root = self.benchmark.data_root
            if not root.is_dir():
                raise RequestError(f"{root}: no such folder; set root, or {VARIABLE}, to where the data lie")
        for i, one in enumerate(self.benchmark.datasets):
            with self.at("datasets", i, "path"):
                self.first[one.name] = next(pictures(replace(one, limit=1), root))
                size = size_of(self.first[one.name])
            with self.at("datasets", i, "crop"):
                self.shapes[one.name] = self._shape(one, size)
            if self.benchmark.batch > 1 and one.crop is None and one.resize is None:
                with self.at("batch"):
                    raise RequestError(
                        f"expected 1 where pictures keep the sizes they have, as those of {one.name} do, got "
                        f"{self.benchmark.batch}; give it a crop, as {min(size)}"
                    )

    def _shape(self, dataset: Dataset, size: tuple[int, int]) -> Shape:
        try:
            return dataset.shape_of(size)
        except RequestError as error:
            raise RequestError(
                f"{self.first[dataset.name].place}: {error}; lower crop, or resize first"
            ) from None

    def metrics(self) -> None:
        b = self.benchmark
        most = max(one.samples for one in b.methods)
        name, shape = min(self.shapes.items(), key=lambda item: min(item[1][1:]))
        side = min(shape[1:])
        if side <= 2 * b.border:
            with self.at("border"):
                raise RequestError(
                    f"expected less than half of the pictures of {name}, {dims(shape)}, got {b.border}"
                )
        for i, metric in enumerate(b.metrics):
            with self.at("metrics", i):
                if metric not in METRICS:
                    raise unknown("metric", metric, METRICS)
                info = METRICS[metric]
                if info.lpips and not self.lpips:
                    continue
                if info.scope == "run" and not b.pictures:
                    raise RequestError(
                        f"{metric} is of the pictures that are kept; leave it or pictures: false out"
                    )
                if info.samples > most:
                    raise RequestError(
                        f"{metric} needs {info.samples} samples, no method draws so many; set samples: {info.samples} "
                        "in methods"
                    )
                least = 32 if info.lpips else 11 + 2 * b.border if info.base == "ssim" else 0
                if side < least:
                    raise RequestError(
                        f"{metric} needs pictures of at least {least} pixels a side, those of {name} have {side}; "
                        "leave it out"
                    )
        if not self.lpips and not without_lpips(b.metrics):
            with self.at("metrics"):
                raise RequestError("--no-lpips leaves none of them; name others, as [psnr, ssim]")

    def pairs(self) -> None:
        b = self.benchmark
        for j, task in enumerate(b.tasks):
            for i, dataset in enumerate(b.datasets):
                ways = [
                    (k, method, prior)
                    for k, method in enumerate(b.methods)
                    for prior in b.priors
                    if not b.skips(dataset=dataset.name, task=task.name, prior=prior, method=method.name)
                ]
                if ways:
                    self._measurable(j, task, i, dataset)
                for k, method, prior in ways:
                    said = f"method {method.name} on task {task.name}"
                    with self.at("methods", k, said=said):
                        self._doable(task, dataset, method, prior)

    def _measurable(self, j: int, task: Task, i: int, dataset: Dataset) -> None:
        """Whether the task can be given the data set's pictures."""
        b, shape, picture = self.benchmark, self.shapes[dataset.name], self.first[dataset.name]
        masks = b.masks_of(task)
        if masks is not None:
            with self.at("tasks", j, "mask"):
                if not Path(masks.given).exists():
                    raise RequestError(f"{masks.given}: no such file or folder")
                name = Path(picture.member or picture.path)
                file = masks.path_for(name)
                mask = read_mask_file(file, masks.keep)
                if mask.keep.shape != shape[1:]:
                    raise RequestError(
                        f"{file}: the mask is {by(mask.keep.shape)}, the picture {picture.place} of {dataset.name} is "
                        f"{by(shape[1:])}; expected the same size: change crop or resize of {dataset.name}, or the mask"
                    )
                _of_yaml(lambda: checked(mask, name, (shape[1], shape[2]), masks.keep))
            return
        spec = b.spec_of(task)
        with self.at("tasks", j, "operator"):
            for part in spec_files.foreign(spec):
                if part.path is not None and not part.path.is_file():
                    raise RequestError(f"{part.path}: no such file")
            if "code" not in spec.traits:  # which only running it would tell of
                with self._of(dataset, shape):
                    spec.measured(shape)
        if spec.kind == "identity" and b.noise_of(task) == 0:
            with self.at("tasks", j, "noise"):
                raise RequestError("expected some, as 0.1, or there is nothing to restore, got none")

    @contextmanager
    def _of(self, dataset: Dataset, shape: Shape) -> Iterator[None]:
        try:
            yield
        except RequestError as error:
            raise RequestError(f"{error} (pictures of {dataset.name} are {dims(shape)})") from None

    def _doable(self, task: Task, dataset: Dataset, method: Method, prior: str) -> None:
        """RequestError, with the remedy, where a method cannot do a task, or not with this prior."""
        b, shape = self.benchmark, self.shapes[dataset.name]
        spec, noise = b.spec_of(task), b.noise_of(task)
        sigma_y = known_sigma(noise)
        told = None if "code" in spec.traits else shape
        of_prior = self.known[prior]
        pairing, remedy = f"task: {task.name}, method: {method.name}", ""
        try:
            if method.peer is not None:
                PEERS[method.peer].check(
                    spec, told, sigma_y, settings=method.settings, steps=method.steps,
                    samples=method.samples * method.best_of,
                )  # fmt: skip
            elif method.method != AUTO:
                check_info(_info(method), spec.abilities(told), sigma_y)
            remedy, what = f", prior: {prior}", spec.task(told)
            light = sigma_y * (2**0.5 if isinstance(noise, NoiseSpec) else 1)  # as where all is white
            if method.peer is not None and of_prior.conditional and PEERS[method.peer].uses_prior:
                raise RequestError(
                    f"prior {prior} is a conditional model, which {method.peer} cannot be given"
                )
            of_prior.check_task(what, light)
            alone = method.method == "sr3" and not of_prior.conditional and what is not None
            if alone and model_for(prior, str(what), light) is None:
                raise RequestError(
                    f"there is no conditional model of prior {prior} for {what} with noise {light:.3g}; name one in "
                    "priors (invdiff train makes one)"
                )
        except RequestError as error:
            stop = "" if str(error).endswith(".") else "."
            raise RequestError(f"{error}{stop} To leave it out: skip: [{{{pairing}{remedy}}}]") from None


# ------------------------------------------------------------------------------------------------------- small things


@lru_cache(maxsize=256)
def _spec(operator: str, folder: str) -> Spec:
    """Of an operator as JSON: its files are read once."""
    return spec_files.build(json.loads(operator), "operator").at(Path(folder))


def _info(method: Method) -> MethodInfo:
    return METHODS[str(method.method)]


def _of_every_method() -> tuple[str, ...]:
    """Settings that auto has, whatever it will be."""
    others = [info.options for info in METHODS.values()]
    return tuple(name for name in others[0] if all(name in options for options in others))


def _of_yaml(check: Callable[[], object]) -> None:
    """What the command line's options are called here."""
    try:
        check()
    except RequestError as error:
        raise RequestError(str(error).replace("add --mask-keep ", "set mask_keep: ")) from None


def _beside(found: Any, folder: str) -> Any:
    """With the names of files as they are seen from this folder."""
    if isinstance(found, Mapping):
        return {key.removeprefix(folder): _beside(value, folder) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_beside(value, folder) for value in found]
    return found.removeprefix(folder) if isinstance(found, str) else found


def _explained(key: str, make: Callable[[], Any]) -> Any:
    """Its errors as a dataclass's own, which begin with the key."""
    try:
        return make()
    except RequestError as error:
        text = str(error)
        raise ValueError(text if text.startswith(f"{key}:") else f"{key}: {text}") from None


def _check_name(name: str) -> None:
    """Names stand in --only, in tables and in files."""
    if not re.fullmatch(r"[^\s,;=|\\]([^,;=|\\\n\r\t]*[^\s,;=|\\])?", name) or name in (".", ".."):
        raise ValueError(f"name: expected a name without , ; = | or \\, got {name!r}")


def _at_least(least: int, **numbers: int | None) -> None:
    for key, value in numbers.items():
        if value is not None and value < least:
            raise ValueError(f"{key}: expected a whole number of at least {least}, got {value}")


def _without(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in found.items() if k != key}
