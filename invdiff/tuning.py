"""What `invdiff tune` searches: its recipe, checked as far as it can be without torch."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from . import catalog, config, spec_files
from .errors import RequestError, nearest, unknown
from .specs import Mask, Spec

Settings = dict[str, Any]

LOG, RECIPE, BEST, TABLE = "log.jsonl", "recipe.json", "best.yaml", "table.md"


@dataclass(frozen=True, kw_only=True)
class Data:
    """Pictures to judge by: the middles of those that a training recipe with this `train` holds out."""

    train: list[str] = field(default_factory=list)
    """Folders, zip files or single images, relative to `root`."""
    root: str | None = None
    """Else the environment's INVDIFF_DATA, else the working directory."""
    validation: int = 24
    """This many images, spread evenly over the last source, are held out."""
    crop: int = 64
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("train: expected folders, zip files or images, got none")
        _at_least(1, validation=self.validation, crop=self.crop)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A measurement to restore from. operator: as in a spec file; noise: σ_y in image units."""

    operator: Any
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise: expected a standard deviation from 0 to 1, got {self.noise:g}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A search over methods' own settings by successive halving."""

    data: Data
    tasks: dict[str, Any]
    """Name → Task. Those of one kind of operator (a key of `invdiff.methods.defaults.KINDS`) share their settings."""
    methods: dict[str, Any]
    """Method → setting → a list of values, or {low, high, log}."""
    prior: str = "natural"
    score: Literal["lpips", "psnr", "both"] = "lpips"
    """Of single samples, averaged: LPIPS (squeeze), PSNR, or both, LPIPS − PSNR/100."""
    samples: int = 2
    """Of each restoration."""
    seed: int = 0
    candidates: int = 12
    """Drawn at random for each method; all there are where these are fewer."""
    rungs: list[int] = field(default_factory=lambda: [1, 3, 9])
    """Pictures that the candidates of each round are judged by."""
    eta: int = 3
    """After a round but the last the best of every `eta` candidates go on."""
    evaluations: int = 100
    """Network evaluations of a sample, at most: candidates that take more are left out."""
    margin: float = 1.0
    """Standard errors by which the best must be better than the defaults to take their place."""
    device: str = "auto"

    def __post_init__(self) -> None:
        _at_least(1, samples=self.samples, candidates=self.candidates, evaluations=self.evaluations)
        _at_least(2, eta=self.eta)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected a whole number from 0 to 2^32 - 1, got {self.seed}")
        if not self.rungs or self.rungs[0] < 1 or any(b <= a for a, b in itertools.pairwise(self.rungs)):
            raise ValueError(f"rungs: expected rising numbers of pictures, as [1, 3, 9], got {self.rungs}")
        if self.rungs[-1] > self.data.validation:
            raise ValueError(
                f"rungs: expected at most data.validation, {self.data.validation} pictures, got {self.rungs[-1]}"
            )
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin: expected a number of standard errors ≥ 0, got {self.margin:g}")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    def at(self, u: float) -> Any:
        return self.values[int(u * len(self.values))]

    def ends(self) -> tuple[Any, ...]:
        return self.values


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number from low to high, evenly in its logarithm if `log`; to three digits."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low: expected one below high, {self.high:g}, got {self.low:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low: expected one above 0 for log, got {self.low:g}")

    def at(self, u: float) -> float:
        value = self.low * (self.high / self.low) ** u if self.log else self.low + u * (self.high - self.low)
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def ends(self) -> tuple[float, float]:
        return self.low, self.high


Space = dict[str, Choice | Range]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A task that was checked."""

    name: str
    spec: Spec
    sigma_y: float

    def operator_for(self, seed: int) -> Spec:
        """The operator's spec for one picture: a random mask is its own unless the recipe gives a seed."""
        if (
            isinstance(self.spec, Mask)
            and self.spec.pattern in ("random", "strokes")
            and self.spec.seed is None
        ):
            return replace(self.spec, seed=seed)
        return self.spec

    def __str__(self) -> str:
        """What it measures, wherever the recipe lies and whatever it is called there."""
        return f"{json.dumps(self.spec.describe(), sort_keys=True)} + {self.sigma_y!r}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe that was checked: its tasks, and what to search of which method on which of them."""

    path: Path
    recipe: Recipe
    problems: dict[str, Problem]
    spaces: dict[str, Space]
    pairs: dict[str, list[str]]
    """Method → the tasks it can do."""


def read(path: str | Path, overrides: Iterable[str] = ()) -> Plan:
    """The checked recipe. RequestError (file, key, expected, got) for what is wrong with it."""
    recipe, path = config.load(Recipe, path, overrides), Path(path)
    if not recipe.tasks or not recipe.methods:
        missing = "methods" if recipe.tasks else "tasks"
        raise RequestError(f"{path}: {missing}: expected at least one, got none")
    shape = recipe.data.channels, recipe.data.crop, recipe.data.crop
    problems = {name: _problem(path, name, node, shape) for name, node in recipe.tasks.items()}
    spaces, pairs = {}, {}
    for name, node in recipe.methods.items():
        with naming(f"{path}: methods"):
            if name not in catalog.METHODS:
                raise unknown("method", str(name), catalog.METHODS)
            if catalog.METHODS[name].conditional:
                raise RequestError(
                    f"{name}: is for conditional priors, which have nothing to tune; expected a method of any prior"
                )
            spaces[name] = _space(name, node)
            pairs[name] = [p.name for p in problems.values() if _accepts(name, p, shape)]
            if not pairs[name]:
                first = next(iter(problems.values()))
                catalog.check_method(name, first.spec.abilities(shape), first.sigma_y)
    return Plan(path=path, recipe=recipe, problems=problems, spaces=spaces, pairs=pairs)


def check_out(out: Path, resume: bool) -> None:
    """RequestError where `out` cannot be begun in, or gone on with."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file: expected a folder.")
    if resume and not (out / LOG).exists():
        raise RequestError(f"no search to resume in {out}: leave --resume out to start it.")
    there = [name for name in (LOG, RECIPE, BEST, TABLE) if (out / name).exists()]
    if there and not resume:
        what = "a search" if LOG in there else there[0]
        raise RequestError(f"{out} already holds {what}: --resume goes on with it, --out DIR starts another.")


def candidates(space: Space, count: int, seed: str, whole: Collection[str] = ()) -> list[Settings]:
    """`count` settings from a space, all different, or all there are. whole: names of those that are whole numbers.

    They are drawn as a Latin hypercube: of the values of each setting, in order, every part of 1/count is visited once
    (McKay, Beckman and Conover 1979, doi:10.1080/00401706.1979.10489755).
    """
    lists = {name: axis.values for name, axis in space.items() if isinstance(axis, Choice)}
    if len(lists) == len(space) and math.prod(map(len, lists.values())) <= count:
        return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    draw = random.Random(seed)
    found: dict[str, Settings] = {}
    for _ in range(100):
        strata = {name: draw.sample(range(count), count) for name in space}
        for i in range(count):
            one = {name: axis.at((strata[name][i] + draw.random()) / count) for name, axis in space.items()}
            one |= {name: round(one[name]) for name in whole if isinstance(space.get(name), Range)}
            if len(found) < count:
                found.setdefault(repr(one), one)
    return list(found.values())


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Begins every RequestError with `where`."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _problem(path: Path, name: str, node: Any, shape: tuple[int, int, int]) -> Problem:
    where = f"{path}: tasks.{name}"
    if not isinstance(node, Mapping):
        raise RequestError(f"{where}: expected keys, operator and perhaps noise, got {node!r}")
    task = config.build(Task, node, where)
    try:
        spec = spec_files.build(task.operator, where).at(path.parent)
    except RequestError as error:
        raise error if str(error).startswith(where) else RequestError(f"{where}: {error}") from None
    if "code" in spec.traits:
        raise RequestError(
            f"{where}: expected one of invdiff's own operators, got one that runs a file's code"
        )
    if spec.kind == "identity" and task.noise == 0:
        raise RequestError(f"{where}: noise: expected a number above 0, or there is nothing to restore")
    with naming(where):
        spec.measured(shape)
    return Problem(name=name, spec=spec, sigma_y=task.noise)


def _space(method: str, node: Any) -> Space:
    if not isinstance(node, Mapping) or not node:
        raise RequestError(f"{method}: expected settings with values to try, got {node or 'none'!r}")
    known = catalog.METHODS[method].options
    space: Space = {}
    for name, values in node.items():
        where = f"{method}.{name}"
        if name not in known:
            near = nearest(str(name), known)
            raise RequestError(f"{where}: unknown setting.{near} Known: {', '.join(known)}")
        if isinstance(values, Mapping):
            space[name] = config.build(Range, values, where)
        elif isinstance(values, list) and values:
            space[name] = Choice(values=tuple({repr(value): value for value in values}.values()))
        else:
            raise RequestError(f"{where}: expected a list of values or {{low, high, log}}, got {values!r}")
    return space


def _accepts(method: str, problem: Problem, shape: tuple[int, int, int]) -> bool:
    return catalog.METHODS[method].accepts(problem.spec.abilities(shape), problem.sigma_y)


def _at_least(least: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value}")
