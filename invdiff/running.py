"""Samples through a network in batches: what `restore` and `sample` have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from invdiff.errors import InvdiffError
from invdiff.priors import Card, Prior
from invdiff.priors.conditional import Sees
from invdiff.priors.guidance import evaluations
from invdiff.profiling import Clock, Peak, Profile, network_flops, peak_flops

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
    """The prior, counting network evaluations; with a clock also the seconds inside it, and the passes by shape.

    passes: (C, H, W) → pictures that went forward, and backward.
    """

    def __init__(self, prior: Prior, clock: Clock | None = None) -> None:
        self.prior, self.clock = prior, clock
        self.evaluations, self._each = 0, evaluations(prior)
        self.passes: dict[tuple[int, ...], tuple[int, int]] = {}

    @property
    def card(self) -> Card:
        return self.prior.card

    @property
    def seconds(self) -> float:
        """In the network, forward and backward; 0 without a clock."""
        return (
            sum(self.clock.seconds.get(part, 0.0) for part in ("forward", "backward")) if self.clock else 0.0
        )

    def seeing(self, images: Sequence[int]) -> Prior:
        """For some images of the batch alone: of a prior that sees their measurements, those of these."""
        return _Picked(self, self.prior.pick(images)) if isinstance(self.prior, Sees) else self

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.counted(self.prior, x, sigma)

    def counted(self, prior: Prior, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D of this prior, counted as the one's that was given."""
        self.evaluations += self._each * len(x)
        clock = self.clock
        if clock is None:
            return prior(x, sigma)
        denoised: Tensor = clock.timed("forward", prior)(x, sigma)
        self._passed(x, 1, 0)
        if (
            denoised.requires_grad
        ):  # the way back passes these two hooks: entering the network, and leaving it

            def enter(gradient: Tensor) -> None:
                clock.add("backward", -clock.now())

            def leave(gradient: Tensor) -> None:
                clock.add("backward", clock.now())
                self._passed(gradient, 0, 1)

            denoised.register_hook(enter)
            x.register_hook(leave)
        return denoised

    def _passed(self, x: Tensor, forward: int, backward: int) -> None:
        there = self.passes.get(tuple(x.shape[1:]), (0, 0))
        self.passes[tuple(x.shape[1:])] = there[0] + forward * len(x), there[1] + backward * len(x)

    def profile(self, seconds: float, peak: Peak) -> Profile:
        """What the clock tells of a call that took so long; a few evaluations are run to count their operations."""
        assert self.clock is not None
        device, told = self.clock.device, self.clock.seconds
        prior = self.prior.pick([0]) if isinstance(self.prior, Sees) else self.prior
        mib, flops = peak.mib(), 0.0
        for shape, (forward, backward) in self.passes.items():
            there, back = network_flops(prior, shape, backward > 0, device)
            flops += forward * there + backward * back
        return Profile(
            seconds=seconds, forward=told.get("forward", 0.0), backward=told.get("backward", 0.0),
            operator=told.get("operator", 0.0), flops=flops, peak_flops=peak_flops(device, precision_of(prior)),
            peak_mib=mib,
        )  # fmt: skip


def precision_of(prior: Any) -> torch.dtype:
    """That a prior's network computes in, whatever makes it fit; float32 where it has none."""
    while not hasattr(prior, "precision") and hasattr(prior, "prior"):
        prior = prior.prior
    found = getattr(prior, "precision", None)
    return found if isinstance(found, torch.dtype) else torch.float32


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
