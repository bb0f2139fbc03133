"""Samples through a network in batches: what `restore` and `sample` have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from invdiff.errors import InvdiffError
from invdiff.priors import Card, Prior
from invdiff.priors.conditional import Sees
from invdiff.priors.guidance import evaluations

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Where a restoration stands. step of steps within the batch under way; done of total over the whole call."""

    step: int
    steps: int
    done: int
    total: int


def together(batch: int | None, place: torch.device) -> int:
    """Samples that go through the network together where `batch` does not say."""
    return batch or (8 if place.type == "cuda" else 1)


def in_batches(
    rows: Sequence[T],
    batch: int | None,
    place: torch.device,
    counter: Counter,
    steps: int,
    callback: Callable[[Progress], None] | None,
    solve: Callable[[Sequence[T], Callable[[int], None]], Tensor],
) -> Iterator[tuple[Sequence[T], Tensor]]:
    """solve(some of the rows, tell) for all of them, some at a time, each with what it was for.

    batch: so many (default: eight on a GPU, one on a CPU); halved when a GPU's memory does not hold them, InvdiffError
    where one is too many. tell(step) is to be called after each of `steps` steps.
    """
    size, done = together(batch, place), 0
    while done < len(rows):
        now, evaluated = rows[done : done + size], counter.evaluations

        def tell(step: int, done: int = done, count: int = len(now)) -> None:
            if callback is not None:
                callback(Progress(step, steps, done * steps + step * count, len(rows) * steps))

        try:
            found = solve(now, tell)
        except torch.cuda.OutOfMemoryError:
            if len(now) == 1:
                raise InvdiffError(
                    "out of GPU memory with a single sample; ask for a smaller picture, or use --device cpu"
                ) from None
            size, counter.evaluations = len(now) // 2, evaluated
            torch.cuda.empty_cache()
            continue
        yield now, found
        done += len(now)


def check_finite(pictures: Tensor, name: str) -> None:
    """InvdiffError where a result is no picture: not finite, or 10¹² times as bright as white."""
    if not (pictures.abs() <= 1e12).all():
        raise InvdiffError(
            f"{name} diverged: the result is not finite, or no picture; use more steps or a weaker guidance"
        )


class Counter:
    """The prior, counting network evaluations; with `profile` also the seconds inside it, forward and backward."""

    def __init__(self, prior: Prior, profile: bool = False) -> None:
        self.prior, self.profile = prior, profile
        self.evaluations, self.seconds, self._each = 0, 0.0, evaluations(prior)

    @property
    def card(self) -> Card:
        return self.prior.card

    def seeing(self, images: Sequence[int]) -> Prior:
        """For some images of the batch alone: of a prior that sees their measurements, those of these."""
        return _Picked(self, self.prior.pick(images)) if isinstance(self.prior, Sees) else self

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.counted(self.prior, x, sigma)

    def counted(self, prior: Prior, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D of this prior, counted as the one's that was given."""
        self.evaluations += self._each * len(x)
        if not self.profile:
            return prior(x, sigma)
        began = _now(x.device)
        denoised = prior(x, sigma)
        self.seconds += _now(x.device) - began
        if (
            denoised.requires_grad
        ):  # the way back passes these two hooks: entering the network, and leaving it

            def enter(gradient: Tensor) -> None:
                self.seconds -= _now(gradient.device)

            def leave(gradient: Tensor) -> None:
                self.seconds += _now(gradient.device)

            denoised.register_hook(enter)
            x.register_hook(leave)
        return denoised


@dataclass(frozen=True, eq=False)
class _Picked:
    """Of a counted prior that sees a measurement each, that of some images."""

    counter: Counter
    prior: Sees

    @property
    def card(self) -> Card:
        return self.prior.card

    @property
    def centre(self) -> Tensor | None:
        return self.prior.centre

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.counter.counted(self.prior, x, sigma)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
