"""Search over a method's own settings by successive halving, every restoration on record.

A method's candidates are judged by a few pictures, the best third by more, and so on, beside the settings the method
has by default (Jamieson and Talwalkar 2016, arXiv:1502.07943). All see the same measurements with the same noise, and
begin from the same draws. Tasks of one kind of operator share their settings, as in `invdiff.methods.defaults`.

What a restoration gave is a line of OUT/log.jsonl, known by a hash of all that decides it but the code and the device:
after a change of those, search in another folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

import invdiff
from invdiff import config, tuning
from invdiff.errors import InvdiffError, RequestError
from invdiff.evaluation.lpips import Lpips
from invdiff.evaluation.metrics import paired, psnr
from invdiff.images import atomic
from invdiff.methods import METHODS, Method
from invdiff.methods.defaults import defaults, kind
from invdiff.methods.streams import checksum
from invdiff.operators import GaussianNoise, Mask, Operator
from invdiff.priors import Card, GaussianPrior, Prior, load_prior
from invdiff.priors.network import resolve_device
from invdiff.training.data import load_pictures
from invdiff.training.recipe import Data
from invdiff.tuning import Plan, Problem, Settings

Perceptual = Callable[[Tensor, Tensor], Tensor]
Record = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A restoration that is on record now. done of total count those that a diverging candidate was spared."""

    done: int
    total: int
    record: Record
    fresh: bool
    """Whether it was restored now, and not in the log already."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The best settings of a method on a task, beside its defaults. Pairs are (mean, standard error) over pictures."""

    task: str
    method: str
    kind: str
    settings: Settings
    """Of the best candidate; {} where there was none."""
    taken: bool
    """Whether it is better than the defaults by the recipe's margin."""
    score: tuple[float, float]
    defaults: tuple[float, float]
    difference: tuple[float, float]
    """score − defaults, picture by picture."""
    psnr: tuple[float, float]
    """Best and defaults, of a sample."""
    evaluations: tuple[int, int]
    """Best and defaults, for a sample."""
    seconds: tuple[float, float]
    """Best and defaults, for a sample."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search found. best: method → kind of operator → settings, as `invdiff.methods.defaults.DEFAULTS`."""

    score: str
    pictures: int
    rows: list[Row]
    best: dict[str, dict[str, Settings]]
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The rows in Markdown."""
        lines = [
            f"| task | method | best settings | {self.score} | defaults | difference | PSNR (defaults) "
            "| evaluations (defaults) | seconds (defaults) |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            mark = "" if row.taken else ", not taken"
            said = (
                f"{', '.join(f'{k} {v}' for k, v in row.settings.items())}{mark}" if row.settings else "none"
            )
            scores = " | ".join(_with_error(pair) for pair in (row.score, row.defaults, row.difference))
            lines.append(
                f"| {row.task} | {row.method} | {said} | {scores} | {row.psnr[0]:.2f} ({row.psnr[1]:.2f}) "
                f"| {row.evaluations[0]} ({row.evaluations[1]}) | {row.seconds[0]:.2f} ({row.seconds[1]:.2f}) |"
            )
        return "\n".join(lines) + "\n"


def tune(
    recipe: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    callback: Callable[[Step], None] = lambda step: None,
    say: Callable[[str], None] = lambda line: None,
    prior: Prior | None = None,
    perceptual: Perceptual | None = None,
) -> Tuned:
    """Search as a recipe says. OUT receives recipe.json (resolved), log.jsonl, table.md and best.yaml.

    With resume, what the log has is not restored again, and the end is that of a search that was never stopped. The
    recipe may have changed, to more candidates, say: what it shares with the old one is taken from the log. callback is
    told of every restoration, say of what is left out. prior and perceptual, D(x, σ) and a distance such as Lpips, go
    in place of those the recipe names. RequestError, before any weight is loaded, for a bad recipe, a setting that a
    method refuses, or an OUT that holds a search where resume was not asked for, or none where it was.
    """
    plan, out = tuning.read(recipe, overrides), Path(out)
    tuning.check_out(out, resume)
    device = resolve_device(plan.recipe.device)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        say(line)

    races = [race for method in plan.pairs for race in _races(plan, method, note)]
    pictures = _pictures(plan)
    races = [_rehearsed(plan, race, pictures[:1], note) for race in races]
    score, distance = _scoring(plan, perceptual, device, note)
    loaded = prior if prior is not None else load_prior(plan.recipe.prior, device=device)
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / tuning.RECIPE) as part:
        part.write_text(json.dumps(config.dump(plan.recipe), indent=2) + "\n", encoding="utf-8")
    log = Log(out / tuning.LOG, needs=("psnr", "lpips") if distance else ("psnr",))
    search = Search(plan, pictures, loaded, device, score, distance, log, callback)
    rows, best = search.run(races)
    tuned = Tuned(score=NAMES[score], pictures=len(pictures), rows=rows, best=best, notes=notes)
    with atomic(out / tuning.TABLE) as part:
        part.write_text(tuned.table(), encoding="utf-8")
    with atomic(out / tuning.BEST) as part:
        part.write_text(_yaml(tuned, plan), encoding="utf-8")
    return tuned


# ------------------------------------------------------------------------------------------ what runs against what


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """settings: those tried, or {} for the defaults; method: with all it has; evaluations: for a sample."""

    settings: Settings
    method: Method
    evaluations: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Race:
    """A method on the tasks of one kind of operator: its defaults, and what may be better."""

    method: str
    kind: str
    problems: list[Problem]
    reference: Candidate
    candidates: list[Candidate]

    def __str__(self) -> str:
        return f"{self.method} on {', '.join(problem.name for problem in self.problems)}"


def _races(plan: Plan, method: str, note: Callable[[str], None]) -> Iterator[Race]:
    """RequestError for a value that the method refuses in all company; combinations it refuses are left out."""
    recipe, space, cls = plan.recipe, plan.spaces[method], METHODS[method]
    groups: dict[str, list[Problem]] = {}
    some: dict[str, Operator] = {}
    for name in plan.pairs[method]:
        op = plan.problems[name].operator_for(0).operator(_shape(plan))
        groups.setdefault(kind(op), []).append(plan.problems[name])
        some[kind(op)] = op
    whole = {name for name, hint in get_type_hints(cls).items() if int in (hint, *get_args(hint))}
    drawn = tuning.candidates(space, recipe.candidates, f"{recipe.seed} {method}", whole)
    for group, problems in groups.items():
        table = defaults(method, some[group])
        with tuning.naming(f"{plan.path}: methods"):
            reference = Candidate(settings={}, method=config.build(cls, table, method))
            for name, axis in space.items():
                for value in axis.ends():
                    _check_value(cls, table, [{}, *drawn], {name: value}, method)
        found: dict[str, Candidate] = {}
        for settings in drawn:
            try:
                built = config.build(cls, {**table, **settings}, method)
            except RequestError as error:
                note(f"left out: {method} {_said(settings)}: {error}")
                continue
            own = {name: getattr(built, name) for name in settings}
            if built != reference.method:
                found.setdefault(repr(built), Candidate(settings=own, method=built))
        yield Race(
            method=method, kind=group, problems=problems, reference=reference, candidates=list(found.values())
        )


def _check_value(
    cls: type[Method], table: Settings, company: Sequence[Settings], value: Settings, method: str
) -> None:
    errors = []
    for others in company:
        try:
            config.build(cls, {**table, **others, **value}, method)
            return
        except RequestError as error:
            errors.append(error)
    raise errors[0]


class _TooMany(Exception):
    """More evaluations than a candidate may have."""


class _Counting:
    """A cheap prior in place of the real one, to count how often a method would ask that."""

    def __init__(self, most: float) -> None:
        self.prior, self.most, self.count = GaussianPrior.white(), most, 0

    @property
    def card(self) -> Card:
        return self.prior.card

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.count += len(x)
        if self.count > self.most:
            raise _TooMany
        return self.prior(x, sigma)


def _rehearsed(plan: Plan, race: Race, picture: Tensor, note: Callable[[str], None]) -> Race:
    """The race with what each candidate costs, without those that cost too much."""
    cap = plan.recipe.evaluations
    examples = [_measurement(plan, problem, picture[0]) for problem in race.problems]

    def cost(settings: Settings, most: float) -> int:
        counts = []
        for problem, (op, y) in zip(race.problems, examples, strict=True):
            counting = _Counting(most)
            try:
                invdiff.restore(
                    y, op, counting, method=race.method, options=settings, sigma_y=problem.sigma_y
                )
            except RequestError:
                raise
            except InvdiffError:  # it diverges with this prior; what counts is how it does with the real one
                pass
            counts.append(counting.count)
        return max(counts)

    kept = []
    for candidate in race.candidates:
        try:
            count = cost(candidate.settings, cap)
        except _TooMany:
            note(f"left out: {race.method} {_said(candidate.settings)}: over {cap} evaluations")
            continue
        except ValueError as error:  # settings that only together cannot be
            note(f"left out: {race.method} {_said(candidate.settings)}: {error}")
            continue
        kept.append(dataclasses.replace(candidate, evaluations=count))
    with tuning.naming(f"{plan.path}: methods.{race.method}"):
        reference = dataclasses.replace(race.reference, evaluations=cost({}, math.inf))
    if reference.evaluations > cap:
        note(f"{race}: the defaults take {reference.evaluations} evaluations, candidates at most {cap}")
    if not kept:
        note(f"{race}: no candidate is left, only the defaults")
    return dataclasses.replace(race, reference=reference, candidates=kept)


# ------------------------------------------------------------------------------------------------------ the search


class Log:
    """Records by key, each a line of a file that is on the disk before the next is begun."""

    def __init__(self, file: Path, needs: Iterable[str]) -> None:
        """needs: scores without which a record is of no use."""
        self.file = file
        self.records: dict[str, Record] = {}
        file.touch()
        for line in file.read_bytes().splitlines():
            try:
                record = json.loads(line)
                useful = "error" in record or all(record[score] is not None for score in needs)
                if useful:
                    self.records[record["key"]] = record
            except (ValueError, KeyError, TypeError):  # cut off by a kill: made again
                continue

    def append(self, record: Record) -> None:
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with self.file.open("a+b") as file:
            torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" + line if torn else line)
            file.flush()
            os.fsync(file.fileno())
        self.records[record["key"]] = record


@dataclass(frozen=True, eq=False)
class Search:
    """Restores, or looks up, and compares."""

    plan: Plan
    pictures: Tensor
    prior: Prior
    device: torch.device
    score: str
    distance: Perceptual | None
    log: Log
    callback: Callable[[Step], None]
    counts: dict[str, int] = field(default_factory=lambda: {"done": 0, "total": 0})

    def run(self, races: Sequence[Race]) -> tuple[list[Row], dict[str, dict[str, Settings]]]:
        """Every race to its end: a row for each task, and the settings to use."""
        self.counts["total"] = sum(self._size(race) for race in races)
        rows: list[Row] = []
        best: dict[str, dict[str, Settings]] = {}
        for race in races:
            winner = self.winner(race)
            taken = winner is not race.reference and self._is_better(race, winner)
            rows += [self._row(race, problem, winner, taken) for problem in race.problems]
            chosen = winner if taken else race.reference
            if entry := _entry(race, chosen):
                best.setdefault(race.method, {})[race.kind] = entry
        return rows, best

    def winner(self, race: Race) -> Candidate:
        """The best candidate of the last round; the defaults, where there was none."""
        alive, rungs, before = race.candidates, self.plan.recipe.rungs, 0
        for number, count in enumerate(rungs):
            for candidate in (race.reference, *alive):
                self._restore_all(race, candidate, before, count)
            alive = sorted(alive, key=lambda candidate: _mean(self.losses(race, candidate, count)))
            if number + 1 < len(rungs):
                alive = alive[: math.ceil(len(alive) / self.plan.recipe.eta)]
            before = count
        return alive[0] if alive else race.reference

    def losses(self, race: Race, candidate: Candidate, pictures: int) -> list[float]:
        """One for each picture, the mean over the tasks, less is better; infinite where it diverged."""
        keys = [
            [self._key(race, problem, candidate, i) for problem in race.problems] for i in range(pictures)
        ]
        return [_mean([self._loss(self.log.records.get(key)) for key in row]) for row in keys]

    def _loss(self, record: Record | None) -> float:
        if record is None or "error" in record:
            return math.inf
        return {
            "lpips": lambda: record["lpips"],
            "psnr": lambda: -record["psnr"],
            "both": lambda: record["lpips"] - record["psnr"] / 100,
        }[self.score]()

    def _restore_all(self, race: Race, candidate: Candidate, start: int, end: int) -> None:
        """Every task on these pictures; one that diverges is spared the rest."""
        done = self.counts["done"] + (end - start) * len(race.problems)
        if math.isfinite(_mean(self.losses(race, candidate, start))):
            for index in range(start, end):
                for problem in race.problems:
                    key = self._key(race, problem, candidate, index)
                    record = self.log.records.get(key)
                    fresh = record is None
                    if record is None:
                        record = {"key": key, **self._restored(race, problem, candidate, index)}
                        self.log.append(record)
                    self.counts["done"] += 1
                    self.callback(Step(self.counts["done"], self.counts["total"], record, fresh))
                    if "error" in record:
                        self.counts["done"] = done
                        return
        self.counts["done"] = done

    def _restored(self, race: Race, problem: Problem, candidate: Candidate, index: int) -> Record:
        recipe, x = self.plan.recipe, self.pictures[index]
        op, y = _measurement(self.plan, problem, x)
        about = {
            "task": problem.name,
            "method": race.method,
            "settings": candidate.settings,
            "picture": index,
        }
        try:
            result = invdiff.restore(
                y, op, self.prior, method=race.method, options=candidate.settings, sigma_y=problem.sigma_y,
                samples=recipe.samples, seed=recipe.seed, device=self.device,
            )  # fmt: skip
        except RequestError:
            raise
        except InvdiffError as error:
            return {**about, "error": " ".join(str(error).split())}
        samples = result.samples[:, 0].float().cpu().clip(0, 1)
        truth = x.expand_as(samples)
        colour = [one.expand(-1, 3, -1, -1) for one in (samples, truth)]
        return {
            **about,
            "psnr": psnr(samples, truth).clamp(max=100).mean().item(),  # no infinity, where equal
            "lpips": self.distance(*colour).mean().item() if self.distance else None,
            "evaluations": result.evaluations,
            "seconds": round(result.seconds / recipe.samples, 4),
        }

    def _key(self, race: Race, problem: Problem, candidate: Candidate, index: int) -> str:
        card, recipe = self.prior.card, self.plan.recipe
        decides = {
            "measurement": str(problem),
            "picture": self._checksums[index],
            "method": race.method,
            "settings": dataclasses.asdict(candidate.method),
            "samples": recipe.samples,
            "seed": recipe.seed,
            "prior": card.checksum or card.name,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:24]

    @cached_property
    def _checksums(self) -> list[str]:
        return [checksum(picture) for picture in self.pictures]

    def _size(self, race: Race) -> int:
        """Restorations of a whole race."""
        total, before, alive = 0, 0, len(race.candidates)
        for count in self.plan.recipe.rungs:
            total += (1 + alive) * (count - before) * len(race.problems)
            before, alive = count, math.ceil(alive / self.plan.recipe.eta)
        return total

    def _is_better(self, race: Race, winner: Candidate) -> bool:
        """Than the defaults, by so many standard errors of their difference."""
        count = len(self.pictures)
        ours, theirs = self.losses(race, winner, count), self.losses(race, race.reference, count)
        if not all(map(math.isfinite, theirs)):
            return all(map(math.isfinite, ours))
        gain, error = _difference(theirs, ours)
        return gain > self.plan.recipe.margin * (0.0 if math.isnan(error) else error)

    def _row(self, race: Race, problem: Problem, winner: Candidate, taken: bool) -> Row:
        both = (winner, race.reference)
        keys = [[self._key(race, problem, c, i) for i in range(len(self.pictures))] for c in both]
        records = [[self.log.records.get(key) for key in row] for row in keys]
        sign = -1 if self.score == "psnr" else 1
        ours, theirs = ([sign * self._loss(record) for record in row] for row in records)
        told = [[record or {} for record in row] for row in records]

        def means(name: str) -> tuple[float, float]:
            first, second = (_mean([record.get(name, math.nan) for record in row]) for row in told)
            return first, second

        return Row(
            task=problem.name,
            method=race.method,
            kind=race.kind,
            settings=winner.settings,
            taken=taken,
            score=_summary(ours),
            defaults=_summary(theirs),
            difference=_difference(ours, theirs),
            psnr=means("psnr"),
            evaluations=(winner.evaluations, race.reference.evaluations),
            seconds=means("seconds"),
        )


NAMES = {"lpips": "LPIPS (squeeze)", "psnr": "PSNR", "both": "LPIPS (squeeze) − PSNR/100"}


def _measurement(plan: Plan, problem: Problem, x: Tensor) -> tuple[Operator, Tensor]:
    """The operator for a picture (C, H, W) and y (1, ...): the same whatever it is that restores them."""
    name = f"{plan.recipe.seed} {problem} {checksum(x)}"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    op = problem.operator_for(seed).operator(_shape(plan))
    noise = GaussianNoise(problem.sigma_y)
    y = noise.sample(op.A(x[None]), torch.Generator().manual_seed(seed))
    return op, op.A(y) if isinstance(op, Mask) else y  # what is not observed has no noise either


def _pictures(plan: Plan) -> Tensor:
    """(N, C, s, s): of those held out, in an order that the seed fixes, as many as the last round wants."""
    data, count = plan.recipe.data, plan.recipe.rungs[-1]
    held = load_pictures(
        Data(
            train=data.train,
            root=data.root,
            crop=1,
            validation=data.validation,
            validation_crop=data.crop,
        ),
        data.channels,
    ).validation
    if len(held) < count:
        raise RequestError(f"{plan.path}: rungs: {count} pictures wanted, {len(held)} of data.train held out")
    order = random.Random(plan.recipe.seed).sample(range(len(held)), len(held))
    return held[order[:count]]


def _scoring(
    plan: Plan, perceptual: Perceptual | None, device: torch.device, note: Callable[[str], None]
) -> tuple[str, Perceptual | None]:
    """The score, and LPIPS where its weights are; without them PSNR has to do."""
    if perceptual is not None:
        return plan.recipe.score, perceptual
    weights = Path(plan.recipe.data.root or os.environ.get("INVDIFF_DATA") or ".").expanduser() / "weights"
    for folder in (weights, None):
        try:
            return plan.recipe.score, Lpips("squeeze", weights=folder)
        except RequestError as error:
            missing = error
    if plan.recipe.score != "psnr":
        note(f"scored by PSNR instead of {NAMES[plan.recipe.score]}: {missing}")
    return "psnr", None


def _entry(race: Race, candidate: Candidate) -> Settings:
    """Its settings that are not the method's own defaults, whether from the table or tried."""
    own = METHODS[race.method]()
    given = {f.name: getattr(candidate.method, f.name) for f in dataclasses.fields(candidate.method)}
    return {name: value for name, value in given.items() if value != getattr(own, name)}


def _shape(plan: Plan) -> tuple[int, int, int]:
    data = plan.recipe.data
    return data.channels, data.crop, data.crop


def _yaml(tuned: Tuned, plan: Plan) -> str:
    import yaml

    text = yaml.safe_dump(tuned.best, sort_keys=False, allow_unicode=True)
    return (
        f"# Method, kind of operator, settings, as in invdiff/methods/defaults.py: found by {tuned.score}\n"
        f"# on {tuned.pictures} pictures of {plan.recipe.data.crop}², {plan.recipe.prior}; see {tuning.TABLE}.\n{text}"
    )


def _difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    return _summary(
        [x - y if math.isfinite(x) or math.isfinite(y) else 0.0 for x, y in zip(a, b, strict=True)]
    )


def _summary(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; of one that is infinite, itself."""
    return paired(values) if all(map(math.isfinite, values)) else (_mean(values), math.nan)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _with_error(pair: tuple[float, float]) -> str:
    mean, error = pair
    if not math.isfinite(mean):
        return "diverged"
    return f"{mean:.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}")
