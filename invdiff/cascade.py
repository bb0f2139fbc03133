"""Samples of a `Cascade`: those of its first stage or base, by `restore` or `sample`, enlarged by every stage after."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from invdiff import catalog, methods
from invdiff.errors import RequestError
from invdiff.likelihood import Measurement
from invdiff.methods import Method, Problem, Unconditional
from invdiff.methods.streams import Streams
from invdiff.operators import Operator
from invdiff.priors import Prior, load_prior
from invdiff.priors.cascade import Cascade
from invdiff.priors.conditional import Sees, check_task
from invdiff.priors.fit import fit
from invdiff.priors.guidance import with_label
from invdiff.priors.network import resolve_device
from invdiff.profiling import Clock
from invdiff.restore import Result, check_prior, choose_method, measured, restore
from invdiff.running import Counter, Progress, check_finite, in_batches
from invdiff.sample import Samples, sample

Tell = Callable[[Progress], None] | None


def restored(
    y: Tensor,
    op: Operator,
    cascade: Cascade,
    sigma_y: float | Literal["auto"],
    callback: Tell,
    arguments: dict[str, Any],
) -> Result:
    """`restore` with a cascade as its prior; arguments: its others. The stage that y goes into has y's draws."""
    began = time.perf_counter()
    given = measured(y, op, sigma_y, arguments["noise"])
    chain = cascade.chain(op)
    chosen: list[Method] = []
    for k, operator in chain:  # what cannot be, before any weight is loaded
        part, level = cascade.parts[k], 0.0 if chosen else given.sigma_y
        check_task(part.name, part.condition, operator, level)
        method, steps, options = _settings(cascade, k, arguments)
        chosen.append(choose_method(operator.pick([0]), method, level, steps=steps, options=options)[0])
    place = resolve_device(arguments["device"])
    loaded = _loaded(cascade, [cascade.stages[k] for k, _ in chain], place, arguments)
    like, guidance = y.new_empty(0, device=place), arguments["guidance"]
    later = [
        _Stage.make(prior, operator, method, cascade.augment, guidance, arguments["label"], like)
        for prior, (_, operator), method in list(zip(loaded, chain, chosen, strict=True))[1:]
    ]
    progress = _Progress(callback, arguments["samples"] * len(y) * sum(stage.steps for stage in later))
    k, operator = chain[0]
    _, steps, _ = _settings(cascade, k, arguments)
    told = _told(loaded[0], arguments["label"])
    first = restore(
        y, operator, loaded[0], sigma_y=sigma_y, callback=progress.first,
        **{**arguments, "steps": steps, "label": told},
    )  # fmt: skip
    keys = [(image, k) for k in range(arguments["samples"]) for image in first.checksums]
    x, done = _through(later, first.samples.flatten(0, 1), keys, progress, arguments)
    network = [first.network_seconds or 0.0, *(one.network_seconds for one in done)]
    stages = [_own(loaded[0], first.config, first.method), *(one.config for one in done)]
    return Result(
        samples=x.reshape(*first.samples.shape[:2], *op.in_shape),
        method=first.method,
        reason=f"{first.reason}; {len(chain)} of the stages of {cascade.name}",
        config={
            **first.config,
            "sizes": [size for stage in stages for size in stage["sizes"]],
            "walk": sum(stage["walk"] for stage in stages),
            "label": arguments["label"],
            "stages": stages,
        },
        checksums=first.checksums,
        evaluations=first.evaluations + sum(one.evaluations for one in done),
        seconds=time.perf_counter() - began,
        network_seconds=sum(network) if arguments["profile"] else None,
    )


def sampled(
    shape: tuple[int, int, int],
    cascade: Cascade,
    method: Unconditional,
    callback: Tell,
    arguments: dict[str, Any],
) -> Samples:
    """`sample` with a cascade as its prior; arguments: its others. The base has its own draws.

    A stage walks as the base does, from no more noise than it knows; guidance is the base's alone.
    """
    began = time.perf_counter()
    if cascade.base is None:
        raise RequestError(
            f"{cascade.name}: needs a measurement or a base; use invdiff.restore, or give the cascade a base, a prior "
            "of the smallest pictures"
        )
    chain = cascade.chained(shape)
    settings = dataclasses.asdict(method)
    asked = settings.pop("steps")
    chosen = []
    for k, operator in chain:
        steps = asked if cascade.steps is None else cascade.steps[k]
        steps = steps if isinstance(method.grid, str) else None  # levels say how many
        chosen.append(choose_method(operator, "sr3", steps=steps, options=settings)[0])
    place = resolve_device(arguments["device"])
    base, *loaded = _loaded(cascade, [cascade.base, *cascade.stages], place, arguments)
    like, stages = torch.empty(0, device=place), []
    for prior, (_, operator), one in zip(loaded, chain, chosen, strict=True):
        if isinstance(one.grid, str):
            one = replace(one, sigma_max=min(one.sigma_max, prior.card.sigma_max))
        stages.append(_Stage.make(prior, operator, one, cascade.augment, 1.0, arguments["label"], like))
    progress = _Progress(callback, arguments["samples"] * sum(stage.steps for stage in stages))
    told = {"label": _told(base, arguments["label"])}
    first = sample(base, chain[0][1].out_shape, callback=progress.first, **{**arguments, **told})
    keys = [("prior", arguments["first"] + k) for k in range(arguments["samples"])]
    x, done = _through(stages, first.samples, keys, progress, arguments)
    each = [_own(base, first.config, "sample"), *(one.config for one in done)]
    return Samples(
        samples=x,
        config={
            **first.config,
            "shape": list(shape),
            "walk": sum(stage["walk"] for stage in each),
            "label": arguments["label"],
            "stages": each,
        },
        evaluations=first.evaluations + sum(one.evaluations for one in done),
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What a stage has done."""

    config: dict[str, Any]
    evaluations: int
    network_seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class _Stage:
    """One that is shown samples of another."""

    prior: Any
    """A `ConditionalPrior`; where augment > 0 its `seeing` takes that and noise, as `ConditionalNetwork.seeing`."""
    operator: Operator
    method: Method
    augment: float
    guidance: float
    steps: int = 0
    """Of the walk."""

    @classmethod
    def make(
        cls,
        prior: Prior,
        operator: Operator,
        method: Method,
        augment: float,
        guidance: float,
        label: int | None,
        like: Tensor,
    ) -> _Stage:
        """RequestError for a prior that does not know the method's noise, or cannot see such pictures."""
        check_prior(prior, method)
        condition = prior.card.condition
        stage = cls(
            prior=with_label(prior, _told(prior, label)),
            operator=operator.to(like.device, like.dtype),
            method=method,
            augment=augment if condition is not None and condition.augment else 0.0,
            guidance=guidance,
        )
        y = like.new_zeros(1, *operator.out_shape)
        seen = stage.seeing(y, like.new_zeros(1, *operator.in_shape))
        return replace(stage, steps=len(stage.walk(seen, y)) - 1)

    def seeing(self, y: Tensor, noise: Tensor | None) -> Sees:
        more = {"augment": self.augment, "noise": noise} if self.augment else {}
        seen: Sees = self.prior.seeing(y, self.operator, 0.0, guidance=self.guidance, **more)
        return seen

    def walk(self, seen: Prior, y: Tensor) -> list[float]:
        return self.method.levels(Problem(seen, Measurement(y, self.operator, 0.0)))

    def enlarged(
        self, y: Tensor, keys: Sequence[tuple[str, int]], tell: Tell, arguments: dict[str, Any]
    ) -> tuple[Tensor, _Done]:
        """A sample for each of y (N, C, h, w). keys: of each, (image checksum, sample index), which fix its draws."""
        shape, everything = self.operator.in_shape, range(len(y))

        def streams(rows: Sequence[int], purpose: str = "") -> Streams:
            names = [(f"{keys[row][0]}/{shape}{purpose}", keys[row][1]) for row in rows]
            return Streams.make(arguments["seed"], names, shape, y)

        seen = self.seeing(y, streams(everything, "/shown")() if self.augment else None)
        counter, measurement = (
            Counter(seen, Clock(y.device) if arguments.get("profile") else None),
            Measurement(y, self.operator, 0.0),
        )
        walk = self.walk(counter.seeing(everything), y)

        def solve(rows: Sequence[int], tell: Callable[[int], None]) -> Tensor:
            problem = Problem(counter.seeing(rows), measurement.pick(list(rows)))
            return methods.sample(
                self.method, problem, streams(rows), levels=walk, callback=lambda step, steps: tell(step)
            )

        x = y.new_empty(len(y), *shape)
        for rows, found in in_batches(
            everything, arguments["batch"], y.device, counter, len(walk) - 1, tell, solve
        ):
            x[rows[0] : rows[-1] + 1] = found
        check_finite(x, f"{self.method.info.name} with {self.prior.card.name}")
        config = {
            **dataclasses.asdict(self.method),
            "sizes": [list(shape[1:])],
            "walk": len(walk) - 1,
            "fit": fit(getattr(seen, "prior", seen)),
        }
        return x, _Done(
            config=_own(self.prior, config, self.method.info.name, self.augment),
            evaluations=counter.evaluations // len(y),
            network_seconds=counter.seconds,
        )


class _Progress:
    """Counts done and total over all stages."""

    def __init__(self, callback: Tell, later: int) -> None:
        self.callback, self.later, self.before = callback, later, 0

    def first(self, progress: Progress) -> None:
        self.before = progress.total
        if self.callback is not None:
            self.callback(replace(progress, total=progress.total + self.later))

    def then(self, progress: Progress) -> None:
        if self.callback is not None:
            total = self.before + self.later
            self.callback(replace(progress, done=self.before + progress.done, total=total))
        if progress.done == progress.total:
            self.before, self.later = self.before + progress.total, self.later - progress.total


def _through(
    stages: Sequence[_Stage],
    x: Tensor,
    keys: Sequence[tuple[str, int]],
    progress: _Progress,
    arguments: dict[str, Any],
) -> tuple[Tensor, list[_Done]]:
    """Pictures x (N, C, h, w) enlarged by one stage after another, with what each has done."""
    done = []
    for stage in stages:
        x, one = stage.enlarged(x, keys, progress.then, arguments)
        done.append(one)
    return x, done


def _settings(
    cascade: Cascade, k: int, arguments: dict[str, Any]
) -> tuple[str | Method, int | None, dict[str, Any]]:
    """Method, steps and options of a stage: the cascade's own steps where nobody else says how many."""
    method, steps, options = arguments["method"], arguments["steps"], dict(arguments["options"] or {})
    said = steps is not None or "steps" in options or not isinstance(options.get("grid", ""), str)
    if cascade.steps is not None and not said and not isinstance(method, Method):
        steps = cascade.steps[k]
    return "sr3" if method == catalog.AUTO else method, steps, options


def _loaded(
    cascade: Cascade, sources: Sequence[Any], place: torch.device, arguments: dict[str, Any]
) -> list[Prior]:
    """Some of its members. RequestError where a label is wanted and none of them knows any."""
    found = [load_prior(source, device=place, precision=arguments["precision"]) for source in sources]
    label = arguments["label"]
    if label is not None and not any(prior.card.classes for prior in found):
        raise RequestError(f"label {label}: no prior of {cascade.name} knows labels; leave it out")
    return found


def _told(prior: Prior, label: int | None) -> int | None:
    """The label, for a prior that knows labels."""
    return label if prior.card.classes else None


def _own(prior: Prior, config: dict[str, Any], method: str, augment: float = 0.0) -> dict[str, Any]:
    """What one stage did: a call's settings without those that are all stages'."""
    shared = ("sigma_y", "noise", "samples", "seed", "label", "guidance", "first")
    own = {key: value for key, value in config.items() if key not in shared}
    return {"prior": prior.card.name, "method": method, "augment": augment, **own}
