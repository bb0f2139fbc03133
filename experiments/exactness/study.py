"""How far every method's samples are from the true posterior, and deepinv's and azula's beside them.

    python experiments/exactness/study.py [--config experiments/exactness/full.yaml] [--jobs 2] [--quick]

Writes docs/exactness.md and its figures. Every cell measured is a line of runs/exactness/log.jsonl, known by all that
decides it but the code: an interrupted study goes on, and after a change of the code --fresh measures all again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from invdiff import catalog, config, spec_files
from invdiff.errors import RequestError, unknown
from invdiff.evaluation import exactness
from invdiff.evaluation.exactness import Known
from invdiff.evaluation.metrics import paired
from invdiff.evaluation.tune import Log
from invdiff.methods import METHODS, Method
from invdiff.operators import Operator
from invdiff.priors import GaussianPrior, MixturePrior
from invdiff.restore import abilities

sys.path.insert(0, str(Path(__file__).parent))
import peers
import report

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXACT = "exact draws"
"""The row of the posterior's own draws."""


# What a study is


@dataclass(frozen=True, kw_only=True)
class Prior:
    """white: std .25 around .5. photographs: the mean and covariance of patches. pictures: patches by heart.

    modes: of width .025 on a grid of steps of .2, its two coordinates taken in turn by the values; unequal weights.
    """

    kind: Literal["white", "photographs", "modes", "pictures"]
    shape: tuple[int, int, int]
    count: int = 25
    """Modes, or pictures."""


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A problem. operator: as in a spec file; coverage: whether to measure that."""

    prior: str
    operator: Any
    sigma_y: float = 0.0
    coverage: bool = True


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method and its settings, its own defaults otherwise and not those tuned for `natural`; None: the study's."""

    method: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    samples: int | None = None
    truths: int | None = None
    interval: int | None = None
    propagate: bool = True
    """Moments of affine methods on Gaussian priors without Monte-Carlo error."""
    problems: list[str] = field(default_factory=list)
    """Those to try it on; []: all."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One measure against one setting, a line for each entry."""

    problem: str
    over: str
    values: list[int]
    measure: Literal["mean", "covariance", "wasserstein", "modes"]
    lines: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Study:
    priors: dict[str, Any]
    problems: dict[str, Any]
    methods: dict[str, Any]
    curves: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, Any] = field(default_factory=dict)
    peer_problems: list[str] = field(default_factory=list)
    seed: int = 0
    steps: int = 50
    measurements: int = 4
    samples: int = 1000
    truths: int = 200
    interval: int = 19

    def __post_init__(self) -> None:
        for name, least in {"measurements": 2, "samples": 2, "truths": 2, "interval": 1, "steps": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


def read(path: Path, overrides: Sequence[str] = ()) -> Study:
    """RequestError for a key or a name that does not exist."""
    study = config.load(Study, path, overrides)

    def built(kind: Any, name: str) -> dict[str, Any]:
        return {
            key: config.build(kind, value, f"{path}: {name}.{key}")
            for key, value in getattr(study, name).items()
        }

    curves = {
        name: replace(
            curve,
            lines={
                key: config.build(Entry, v, f"{path}: curves.{name}.{key}") for key, v in curve.lines.items()
            },
        )
        for name, curve in built(Curve, "curves").items()
    }
    study = replace(
        study,
        priors=built(Prior, "priors"),
        problems=built(Posed, "problems"),
        methods={key: replace(e, method=e.method or key) for key, e in built(Entry, "methods").items()},
        curves=curves,
        peers=built(Entry, "peers"),
    )
    for problem in study.problems.values():
        if problem.prior not in study.priors:
            raise unknown("prior", problem.prior, study.priors)
    entries = [*study.methods.values(), *(e for c in curves.values() for e in c.lines.values())]
    for entry in entries:
        if entry.method not in METHODS:
            raise unknown("method", entry.method, METHODS)
    for name in study.peers:
        if name not in peers.PEERS:
            raise unknown("peer", name, peers.PEERS)
    named = [*study.peer_problems, *(c.problem for c in curves.values())]
    for name in [*named, *(p for e in (*entries, *study.peers.values()) for p in e.problems)]:
        if name not in study.problems:
            raise unknown("problem", name, study.problems)
    return study


# Problems


def photographs() -> list[Tensor]:
    """Grey photographs that scikit-image brings along, (H, W), reduced to a quarter, 0 black and 1 white."""
    from skimage import color, data

    found = []
    for name in ("astronaut", "camera", "chelsea", "coffee"):
        picture = torch.as_tensor(color.rgb2gray(p) if (p := getattr(data, name)()).ndim == 3 else p / 255)
        height, width = (side // 4 * 4 for side in picture.shape)
        found.append(
            picture[:height, :width].reshape(height // 4, 4, width // 4, 4).mean(dim=(1, 3)).double()
        )
    return found


def patches(shape: tuple[int, int, int], stride: int) -> Tensor:
    """(K, *shape), from all of the photographs."""
    _, height, width = shape
    cut = [p.unfold(0, height, stride).unfold(1, width, stride).reshape(-1, *shape) for p in photographs()]
    return torch.cat(cut)


@cache
def prior_of(kind: str, shape: tuple[int, int, int], count: int) -> GaussianPrior | MixturePrior:
    if kind == "white":
        return GaussianPrior.white(0.5, 0.25)
    if kind == "photographs":
        rows = patches(shape, 2).flatten(1)
        return GaussianPrior.correlated(float(rows.mean()), rows.T.cov())
    generator = torch.Generator().manual_seed(count)
    if kind == "pictures":
        every = patches(shape, shape[1])
        return MixturePrior.empirical(every[torch.randperm(len(every), generator=generator)[:count]])
    side = max(2, round(count**0.5))  # after Cardoso et al. 2024, arXiv:2308.07983, section 4.1, on [0, 1]
    at = 0.5 + 0.2 * (torch.arange(side, dtype=torch.float64) - (side - 1) / 2)
    corners = torch.cartesian_prod(at, at)[:: max(1, side**2 // count)][:count]
    n = shape[0] * shape[1] * shape[2]
    means = corners.repeat(1, (n + 1) // 2)[:, :n].reshape(-1, *shape)
    return MixturePrior.make(means, 0.025, 0.2 + torch.rand(count, generator=generator, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method, or one peer, on one problem: all that decides what it scores."""

    prior: Prior
    problem: Posed
    entry: Entry
    steps: int
    samples: int
    measurements: int
    truths: int
    interval: int
    seed: int
    peer: str = ""

    @property
    def operator(self) -> Operator:
        return spec_files.build(self.problem.operator, "operator").operator(self.prior.shape)

    @property
    def method(self) -> Method | None:
        """Resolved; None for exact draws and for peers."""
        if self.peer or self.entry.method == EXACT:
            return None
        options = {"steps": self.steps, **self.entry.options}
        return config.build(METHODS[self.entry.method], options, self.entry.method)

    @property
    def key(self) -> str:
        decides = dataclasses.asdict(replace(self, entry=replace(self.entry, options={}, problems=[])))
        decides["settings"] = dataclasses.asdict(self.method) if self.method else peers_settings(self.peer)
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:24]

    def known(self, count: int, seed: int) -> Known:
        prior = prior_of(self.prior.kind, self.prior.shape, self.prior.count)
        return Known.make(prior, self.operator, self.problem.sigma_y, count=count, seed=seed)


def peers_settings(name: str) -> str:
    return peers.PEERS[name].settings if name else ""


def cell(study: Study, problem: str, entry: Entry, *, coverage: bool, peer: str = "") -> Cell:
    posed = study.problems[problem]
    return Cell(
        prior=study.priors[posed.prior],
        problem=posed,
        entry=entry,
        steps=study.steps,
        samples=entry.samples or study.samples,
        measurements=study.measurements,
        truths=(entry.truths or study.truths) if coverage and posed.coverage else 0,
        interval=entry.interval or study.interval,
        seed=study.seed,
        peer=peer,
    )


def applies(study: Study, problem: str, method: str, only: Sequence[str] = ()) -> bool:
    posed = study.problems[problem]
    if only and problem not in only:
        return False
    operator = spec_files.build(posed.operator, "operator").operator(study.priors[posed.prior].shape)
    return method == EXACT or catalog.METHODS[method].accepts(abilities(operator), posed.sigma_y)


Place = tuple[str, str, str]
"""(table, problem, row): where a cell belongs."""


def places(study: Study) -> Iterator[tuple[Place, Cell]]:
    """All cells of a study, in the order of the report."""
    rows = {EXACT: Entry(method=EXACT), **study.methods}
    for problem in study.problems:
        for name, entry in rows.items():
            if applies(study, problem, entry.method, entry.problems):
                yield ("methods", problem, name), cell(study, problem, entry, coverage=True)
    for title, curve in study.curves.items():
        for name, entry in curve.lines.items():
            for value in curve.values:
                at = replace(entry, options={**entry.options, curve.over: value})
                yield (title, str(value), name), cell(study, curve.problem, at, coverage=False)
    for name, entry in study.peers.items():
        peer = peers.PEERS[name]
        walk = {"grid": tuple(peer.levels(study.steps))} if peer.levels else {}
        entry = replace(entry, options={**walk, **entry.options}, propagate=False, method=peer.method)
        for problem in entry.problems or study.peer_problems:
            found = cell(study, problem, entry, coverage=False)
            if isinstance(found.operator, peer.needs) and applies(study, problem, peer.method):
                yield ("ours", problem, name), found
                yield ("theirs", problem, name), replace(found, entry=Entry(), peer=name)


# Measuring


def measure(cell: Cell) -> dict[str, Any]:
    """The record of a cell."""
    torch.set_num_threads(1)
    began = time.process_time()
    known, method = cell.known(cell.measurements, cell.seed + 1), cell.method
    try:
        drawn = _drawn(cell, method, known, cell.samples, cell.seed)
        finite = bool(drawn.samples.isfinite().all())
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        if not cell.peer:
            raise
        return {"key": cell.key, "error": f"{type(error).__name__}: {error}"[:200]}
    record: dict[str, Any] = {"key": cell.key, "evaluations": drawn.evaluations, "seconds": drawn.seconds}
    if not finite:
        return {**record, "error": "not finite"}
    moments = exactness.propagated(method, known) if method and cell.entry.propagate else []
    record |= dataclasses.asdict(exactness.distance(drawn.samples, known, cell.seed + 2, moments))
    again = exactness.exact(known, cell.samples, cell.seed + 5).samples
    floor = dataclasses.asdict(exactness.distance(again, known, cell.seed + 2))
    record["floor"] = {measure: paired(values)[0] for measure, values in floor.items()}
    record["propagated"] = bool(moments)
    record["draws"] = len(drawn.samples)
    if cell.truths:
        many = cell.known(cell.truths, cell.seed + 3)
        held = _drawn(cell, method, many, cell.interval, cell.seed + 4).samples
        record["shares"] = exactness.shares(held, many)
    return {**record, "cpu": time.process_time() - began}


def _drawn(cell: Cell, method: Method | None, known: Known, samples: int, seed: int) -> exactness.Drawn:
    if cell.peer:
        peer = peers.PEERS[cell.peer]
        began = time.process_time()
        each = [
            peer.run(known.prior, known.operator, y, known.sigma_y, cell.steps, samples, seed + i).flatten(1)
            for i, y in enumerate(known.measurement.y.split(1))
        ]
        seconds = time.process_time() - began
        return exactness.Drawn(
            samples=torch.stack(each, dim=1), evaluations=cell.steps * peer.evaluations, seconds=seconds
        )
    return exactness.draw(method, known, samples, seed) if method else exactness.exact(known, samples, seed)


def run(study: Study, log: Log, jobs: int) -> dict[Place, Mapping[str, Any]]:
    """Every cell, those on record taken from there; jobs processes of one thread each."""
    todo = dict(places(study))
    keys = {place: cell.key for place, cell in todo.items()}
    missing = {keys[place]: cell for place, cell in todo.items() if keys[place] not in log.records}
    print(f"{len(todo)} cells, {len(missing)} to measure", file=sys.stderr)
    for done, record in enumerate(_measured(list(missing.values()), jobs), 1):
        log.append(record)
        print(
            f"\r{done}/{len(missing)}", end="\n" if done == len(missing) else "", file=sys.stderr, flush=True
        )
    return {place: log.records[key] for place, key in keys.items()}


def _measured(cells: Sequence[Cell], jobs: int) -> Iterator[dict[str, Any]]:
    """Their records, as they come."""
    if jobs == 1:
        yield from map(measure, cells)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(measure, cell) for cell in cells]):
            yield future.result()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=HERE / "full.yaml")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples: to try things")
    parser.add_argument("--fresh", action="store_true", help="forget what is on record")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "exactness", help="folder of log.jsonl")
    parser.add_argument("--docs", type=Path, help="folder for exactness.md (default: docs, with --quick OUT)")
    parser.add_argument("overrides", nargs="*", help="key=value for the study, such as samples=500")
    options = parser.parse_args(arguments)
    quick = ["samples=100", "truths=20", "measurements=2"] if options.quick else []
    try:
        study = read(options.config, [*quick, *options.overrides])
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "log.jsonl"
    if options.fresh:
        file.unlink(missing_ok=True)
    began = time.perf_counter()
    found = run(study, Log(file, needs=()), options.jobs)
    page = report.write(study, found, options.docs or (options.out if options.quick else ROOT / "docs"))
    cpu = sum(record.get("cpu", 0) for record in {r["key"]: r for r in found.values()}.values())
    print(f"{page}: {time.perf_counter() - began:.0f} s now; all cells took {cpu:.0f} s of one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
