"""How long a benchmark will take, before anything of it has run: by the network, timed here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

from invdiff.bench.definition import Benchmark, Method
from invdiff.bench.peers import PEERS
from invdiff.bench.plan import Part, units
from invdiff.bench.work import Case, Worker, settled
from invdiff.catalog import AUTO, METHODS
from invdiff.effort import DEFAULT
from invdiff.errors import InvdiffError
from invdiff.priors import fitted
from invdiff.priors.conditional import ConditionalPrior
from invdiff.profiling import evaluation_seconds
from invdiff.restore import affordable, as_known_to, choose_method, measured

GUIDED_PEERS = ("dps", "pigdm", "mmps", "tmpd")
"""Peers that differentiate through the network, by how their names end or go on."""


def forecast(benchmark: Benchmark, parts: Sequence[Part]) -> list[Part]:
    """The parts, with evaluations and seconds where a run has not told them yet.

    Seconds are those of the network on the first picture of the data set, by one evaluation of it, with its
    gradient where the method takes that, times how many there will be; nothing else is counted, and a method
    without a network counts nothing; of a hole that is filled coarse to fine the last size alone counts. A part
    whose prior or picture cannot be read stays as it is.
    """
    worker = Worker(replace(benchmark, metrics=["psnr"], pictures=False), "")
    methods = {one.name: one for one in benchmark.methods}
    timed: dict[tuple[Any, ...], float] = {}
    found = []
    for part in parts:
        if part.seconds is None and part.done < part.runs:
            with suppress(InvdiffError, OSError, ValueError):
                part = _foreseen(worker, part, methods[part.method], timed)
        found.append(part)
    return found


def _foreseen(worker: Worker, part: Part, method: Method, timed: dict[tuple[Any, ...], float]) -> Part:
    if method.peer is not None and not PEERS[method.peer].uses_prior:
        return replace(part, seconds=0.0)
    only = [f"{axis}={getattr(part, axis)}" for axis in ("dataset", "task", "prior", "method")]
    unit = next(units(worker.benchmark, only=only, limit=1))
    case = worker.case(unit, unit.pictures[0])
    if method.peer is not None:
        steps = method.steps or PEERS[method.peer].steps or 8
        each, gradient = 1, method.peer.partition("/")[2].startswith(GUIDED_PEERS)
    else:
        name, count = method.method or AUTO, method.samples * method.best_of
        given = as_known_to(name, measured(case.y, case.operator, **case.given)).pick([0])
        if method.effort != DEFAULT:
            point = affordable(
                given.operator, given.sigma_y, method.effort, samples=count, options=method.settings
            )
            chosen = point[0][1]
        else:
            chosen, _ = choose_method(
                given.operator,
                name,
                given.sigma_y,
                samples=count,
                steps=method.steps,
                options=method.settings,
            )
        info = METHODS[chosen.info.name]
        walk = chosen.travelled([*range(chosen.steps, -1, -1)])
        steps, gradient = sum(s < sigma for sigma, s in pairwise(walk)), info.gradient
        each = int(info.evaluations.split()[0])
    total = float(steps * each * method.samples * method.best_of)
    key = part.prior, tuple(case.truth.shape), gradient
    if key not in timed:
        timed[key] = _time(worker, part.prior, case, gradient)
    return replace(part, evaluations=part.evaluations or total, seconds=total * timed[key])


def _time(worker: Worker, name: str, case: Case, gradient: bool) -> float:
    """Seconds of one evaluation."""
    prior: Any = worker.prior(name)
    if isinstance(prior, ConditionalPrior):
        y = case.y.to(worker.device)
        prior = prior.seeing(y, case.operator.to(worker.device, y.dtype), case.sigma_y)
    else:
        prior = fitted(prior, case.operator.in_shape)
    with settled(worker.benchmark.threads, worker.device):
        return evaluation_seconds(prior, case.operator.in_shape, gradient, worker.device)
