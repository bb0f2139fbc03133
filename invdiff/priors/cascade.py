"""Cascades: one super-resolution after another, as one prior (Ho et al. 2021, arXiv:2106.15282)."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from invdiff import cascade_files
from invdiff.catalog import PRIORS
from invdiff.errors import InvdiffError, RequestError
from invdiff.operators import Downsample, Operator
from invdiff.priors.base import Card, Condition, Prior
from invdiff.priors.conditional import ConditionalPrior, check_task, condition_of, task_of

Source = str | Path | Prior | ConditionalPrior
"""A prior, or what `load_prior` finds one by."""

_TASK = re.compile(r"super-resolution ×(\d+) \((box|bicubic|lanczos)(, reflect)?\)")


@dataclass(frozen=True, eq=False)
class Stage:
    """A conditional prior and the one super-resolution it was trained for."""

    source: Source
    name: str
    condition: Condition
    factor: int
    kernel: str
    edges: str

    def operator(self, shape: tuple[int, ...]) -> Operator:
        """What makes pictures of this shape (C, H, W) as small as those that the stage is shown."""
        try:
            return Downsample(self.factor, cast(Any, shape), cast(Any, self.kernel), cast(Any, self.edges))
        except ValueError as error:
            raise RequestError(f"prior {self.name}: {error}") from None

    @property
    def may_be_augmented(self) -> bool:
        """Whether it was trained with noise on what it is shown, or is known by a name that does not say."""
        return self.condition.augment > 0 or (isinstance(self.source, str) and self.source in PRIORS)

    def task(self, factor: int) -> str:
        """As `task_of` names a super-resolution of this kind by another factor."""
        edges = ", reflect" if self.edges == "reflect" else ""
        return f"super-resolution ×{factor} ({self.kernel}{edges})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Cascade:
    """p(x_n | x_{n-1}) … p(x_2 | x_1) p(x_1 | y): each stage samples a larger picture given the last one's sample.

    A measurement goes in where the stages from there on have its factor: a cascade of ×4 and ×2 serves ×8 and ×2. Its
    first stage must know y's kernel and noise, and takes y for what it was trained on; so fewer pixels by two factors
    after one another stand for fewer by their product, which is the same with a box alone. `invdiff.restore` and
    `invdiff.sample` take it as a prior; it is no single denoiser.

    RequestError for a stage that is no conditional prior of one super-resolution, and values out of range. No weight is
    loaded before it is used.
    """

    stages: Sequence[Source]
    """Conditional priors, the smallest pictures first."""
    base: Source | None = None
    """A prior of what the first stage is shown, for samples of nothing (`invdiff.sample`)."""
    augment: float = 0.0
    """σ of the Gaussian noise, image units, that is added to what a stage is shown of another's sample, and told to it
    (section 4); 0 for a stage that was trained without. It hides the other's mistakes."""
    steps: Sequence[int] | None = None
    """Of each stage, where nobody says otherwise; None: the method's own."""
    name: str = "cascade"

    def __post_init__(self) -> None:
        def wrong(what: str) -> RequestError:
            return RequestError(f"{self.name}: {what}")

        stages = self.stages
        if isinstance(stages, (str, Path)) or not isinstance(stages, Sequence) or not stages:
            raise wrong(f"stages: expected conditional priors, the smallest pictures first, got {stages!r}")
        object.__setattr__(self, "stages", tuple(stages))
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(self.steps))
            if len(self.steps) != len(stages) or not all(isinstance(n, int) and n >= 1 for n in self.steps):
                raise wrong(
                    f"steps: expected {len(stages)} whole numbers, at least 1, got {list(self.steps)}"
                )
        if not (math.isfinite(self.augment) and self.augment >= 0):
            raise wrong(f"augment: expected a standard deviation in image units, got {self.augment}")
        shown = self.parts[1:] if self.base is None else self.parts
        if self.augment and not any(part.may_be_augmented for part in shown):
            raise wrong(
                f"augment {self.augment:g}: no stage that is shown another's sample was trained with such noise; "
                "leave augment out"
            )
        if self.base is not None and (
            cascade_files.is_cascade_file(self.base) or condition_of(self.base)[1] is not None
        ):
            raise wrong(f"base: expected a prior that needs no measurement, got {condition_of(self.base)[0]}")

    @classmethod
    def read(cls, path: str | Path) -> Cascade:
        """From YAML; see `cascade_files`."""
        found = cascade_files.read(path)
        return cls(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})

    @cached_property
    def parts(self) -> tuple[Stage, ...]:
        """The stages, as far as they are known before any weight is loaded."""
        return tuple(self._part(number, source) for number, source in enumerate(self.stages, 1))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What may be measured, as `task_of` names it, for each stage that y may go into."""
        factors = [math.prod(part.factor for part in self.parts[k:]) for k in range(len(self.parts))]
        return tuple(part.task(factor) for part, factor in zip(self.parts, factors, strict=True))

    @property
    def condition(self) -> Condition:
        """What it must be shown; noise as far as any stage knows it, guidance where all of them do."""
        each = [part.condition for part in self.parts]
        return Condition(
            tasks=self.tasks,
            noise=max(condition.noise for condition in each),
            dropout=min(condition.dropout for condition in each),
        )

    @property
    def card(self) -> Card:
        """The last stage's, where that is loaded, with what all of them must be shown."""
        cards = [
            self._card(source) for source in (*self.stages, *(() if self.base is None else (self.base,)))
        ]
        own = cards[len(self.stages) - 1] or Card(name=self.name)
        sums = [card.checksum for card in cards if card is not None]
        known = len(sums) == len(cards) and all(sums)
        return dataclasses.replace(
            own,
            name=self.name,
            condition=self.condition,
            classes=max(card.classes if card else 0 for card in cards),
            summary=f"A cascade of {len(self.stages)} stages: {', '.join(part.name for part in self.parts)}.",
            format=f"a cascade of {len(self.stages)} stages",
            checksum=hashlib.sha256("/".join(sums).encode()).hexdigest() if known else "",
        )

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        raise InvdiffError(
            f"{self.name}: a cascade is no single denoiser D(x, sigma); use it with invdiff.restore or invdiff.sample"
        )

    def loaded(self, load: Callable[[Source], Any]) -> Cascade:
        """With every member as `load` makes it."""
        base = None if self.base is None else load(self.base)
        return dataclasses.replace(self, stages=[load(source) for source in self.stages], base=base)

    def chain(self, operator: Operator) -> list[tuple[int, Operator]]:
        """(index of a stage, operator that it undoes) of those that a measurement by `operator` goes through.

        RequestError for one that no stages are for, with those that there are.
        """
        check_task(self.name, self.condition, operator, 0.0)
        first = self.tasks.index(task_of(operator))
        if first == len(self.parts) - 1:
            return [(first, operator)]
        if not isinstance(operator, Downsample):
            raise RequestError(f"{self.name}: expected a Downsample, got {operator.describe()}")
        return self.chained(operator.in_shape, first)

    def chained(self, shape: tuple[int, ...], first: int = 0) -> list[tuple[int, Operator]]:
        """The same, from the stage `first` on, for pictures of this shape (C, H, W) at the end."""
        found: list[tuple[int, Operator]] = []
        for k in reversed(range(first, len(self.parts))):
            operator = self.parts[k].operator(shape)
            found.insert(0, (k, operator))
            shape = operator.out_shape
        return found

    def _part(self, number: int, source: Source) -> Stage:
        name, condition = condition_of(source)
        if condition is None:
            named = isinstance(source, (str, Path)) and str(source) not in PRIORS
            missing = named and not Path(cast(str, source)).expanduser().exists()
            got = "there is no such prior or file" if missing else "this prior needs no measurement"
            if cascade_files.is_cascade_file(source):
                got = "this is another cascade; name its stages"
            raise RequestError(f"{self.name}: stage {number}, {name}: expected a conditional prior; {got}")
        found = [match for match in map(_TASK.fullmatch, condition.tasks) if match]
        if len(found) != 1:
            raise RequestError(
                f"{self.name}: stage {number}, {name}: expected a prior trained for one super-resolution, got one for "
                f"{condition.said}"
            )
        factor, kernel, edges = found[0].groups()
        return Stage(source, name, condition, int(factor), kernel, "reflect" if edges else "renormalise")

    @staticmethod
    def _card(source: Source) -> Card | None:
        card = getattr(source, "card", None)
        return card if isinstance(card, Card) else None


def cascade_of(prior: object) -> Cascade | None:
    """The cascade that is meant, the file of one too; None for any other prior."""
    if isinstance(prior, Cascade):
        return prior
    return Cascade.read(cast(str, prior)) if cascade_files.is_cascade_file(prior) else None
