"""Priors window by window, for pictures larger than a network knows, or than memory holds.

`Tiled` blends the answers of overlapping windows: for networks that know one size. `Cropped` keeps of each window only
what its border cannot have reached: for convolutional networks, whose D of the whole picture it gives.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from math import ceil, log10, pi
from typing import Any, cast

import torch
from torch import Tensor

from invdiff.errors import InvdiffError
from invdiff.priors.base import Card, Prior, per_image
from invdiff.priors.network import reflect_to

INFLUENCE = 1e-6
"""How much of D may come from what a window does not see, white being 1. On photographs D then differs by up to 2e-5 in
single pixels, a hundredth of what bfloat16 rounds off."""


@dataclass(frozen=True)
class Span:
    """A window along one axis, start to stop, and what of its answer counts: first to last, by these weights."""

    start: int
    stop: int
    first: int
    last: int
    weight: Tensor | None = None
    """(last − first,), or None for 1."""


@dataclass(frozen=True)
class _Window:
    """One window of one image of a batch."""

    image: int
    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def seen(self, x: Tensor) -> Tensor:
        """What the network is shown of x (B, C, H, W): a view (1, C, h, w)."""
        rows, columns = slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)
        return x[self.image : self.image + 1, :, rows, columns]

    def counted(self, x: Tensor) -> Tensor:
        """Where its answer counts in x (B, C, H, W): a view (C, h', w')."""
        rows, columns = slice(self.rows.first, self.rows.last), slice(self.columns.first, self.columns.last)
        return x[self.image, :, rows, columns]

    def own(self, d: Tensor) -> Tensor:
        """What counts of its answer d (C, h, w): a view (C, h', w')."""
        top, left = self.rows.first - self.rows.start, self.columns.first - self.columns.start
        height, width = self.rows.last - self.rows.first, self.columns.last - self.columns.first
        return d[:, top : top + height, left : left + width]

    def weighted(self, d: Tensor) -> Tensor:
        """By its weights, (C, h', w')."""
        if self.rows.weight is not None:
            d = d * self.rows.weight.to(d)[:, None]
        return d if self.columns.weight is None else d * self.columns.weight.to(d)


class _Windows(ABC):
    """D(x, σ) = Σ_w weight_w · D_w, each window's D_w from its own pixels of x alone.

    Jᵀv goes window by window too: nothing of the network is kept between D and it, each window is evaluated again. So
    the network's memory is that of `batch` windows, whatever the picture's size. It can be pulled any number of times;
    a second derivative is refused (InvdiffError).
    """

    prior: Prior
    batch: int
    """Windows that go through the network together."""

    def _check_batch(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch: expected at least 1 window, got {self.batch}")

    @property
    def card(self) -> Card:
        return self.prior.card

    @abstractmethod
    def spans(
        self, size: tuple[int, int], sigma: float, *, pulled: bool = False
    ) -> tuple[list[Span], list[Span]]:
        """The windows' rows and columns in a picture of this size; pulled: those that Jᵀv is to go by."""

    @abstractmethod
    def describe(self) -> str:
        """In words, for a record."""

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        sigmas = per_image(sigma, x)
        size, differentiated = (x.shape[-2], x.shape[-1]), torch.is_grad_enabled() and x.requires_grad
        if all(len(spans) == 1 for spans in self.spans(size, 0.0, pulled=differentiated)):
            return self.prior(x, sigma)
        if differentiated:
            return cast(Tensor, _ByWindow.apply(x, sigmas, self))
        with torch.no_grad():
            return self.blended(x, sigmas)

    def blended(self, x: Tensor, sigmas: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for windows in self._windows(x, sigmas, pulled=False):
            d = self._of(windows, torch.cat([window.seen(x) for window in windows]), sigmas)
            for window, one in zip(windows, d, strict=True):
                window.counted(out).add_(window.weighted(window.own(one)))
        return out

    def pulled(self, x: Tensor, sigmas: Tensor, v: Tensor) -> Tensor:
        """Jᵀv, (B, C, H, W)."""
        out = torch.zeros_like(x)
        for windows in self._windows(x, sigmas, pulled=True):
            with torch.enable_grad():
                leaf = torch.cat([window.seen(x) for window in windows]).detach().requires_grad_()
                d = self._of(windows, leaf, sigmas)
                if not d.requires_grad:
                    raise InvdiffError(
                        f"prior {self.card.name} cannot be differentiated; use a method that needs no gradient "
                        "(diffpir)"
                    )
                product = sum(
                    (window.own(one) * window.weighted(window.counted(v))).sum()
                    for window, one in zip(windows, d, strict=True)
                )
            (gradient,) = torch.autograd.grad(cast(Tensor, product), leaf)
            for window, one in zip(windows, gradient, strict=True):
                window.seen(out)[0].add_(one)
        return out

    def _of(self, windows: list[_Window], seen: Tensor, sigmas: Tensor) -> Tensor:
        return self.prior(seen, sigmas[[window.image for window in windows]])

    def _windows(self, x: Tensor, sigmas: Tensor, *, pulled: bool) -> Iterator[list[_Window]]:
        """All of them, those of one size together, `batch` at most."""
        size = x.shape[-2], x.shape[-1]
        levels = sigmas.tolist()
        axes = {sigma: self.spans(size, sigma, pulled=pulled) for sigma in set(levels)}
        every = (
            _Window(image, rows, columns)
            for image, sigma in enumerate(levels)
            for rows in axes[sigma][0]
            for columns in axes[sigma][1]
        )
        for _, same in groupby(every, key=lambda window: window.size):
            while some := list(islice(same, self.batch)):
                yield some


class _ByWindow(torch.autograd.Function):
    """The windows' D, and Jᵀv by evaluating each again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sigmas: Tensor, windows: _Windows) -> Tensor:
        ctx.save_for_backward(x, sigmas)
        ctx.windows = windows
        return windows.blended(x, sigmas)

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # only where a graph of the derivative is asked for
            raise InvdiffError(
                f"prior {ctx.windows.card.name}: the second derivative of a D made window by window is not there; "
                "ask for it on a picture that one window holds"
            )
        x, sigmas = ctx.saved_tensors
        return ctx.windows.pulled(x, sigmas, v[0]), None, None


@dataclass(frozen=True, eq=False)
class Tiled(_Windows):
    """A prior in overlapping square windows, its D blended where they overlap (cf. MultiDiffusion, Bar-Tal et al. 2023,
    arXiv:2302.08113, which averages the steps; the mean of D is the same with smooth weights).

    Each window's weight falls to zero as a squared sine over the overlap, but not at the picture's own border; weights
    are normalised to sum to 1. The windows' places are shifted from one σ to another, by an amount that σ alone fixes,
    so that no two steps have their borders in the same place. A picture smaller than a window is one evaluation;
    where the prior's card names one size, it is padded to it by reflection.

    ValueError for a window that is not the card's size, and an overlap that is not below half the window.
    """

    prior: Prior
    window: int
    overlap: int
    batch: int = 1
    shift: bool = True

    def __post_init__(self) -> None:
        self._check_batch()
        size = self.prior.card.size
        if self.window < 1 or (size is not None and self.window != size):
            raise ValueError(f"window: expected {size or 'at least 1'}, got {self.window}")
        if not 0 <= self.overlap <= self.window // 2:
            raise ValueError(
                f"overlap: expected 0 to half the window, {self.window // 2}, got {self.overlap}"
            )

    @property
    def card(self) -> Card:
        """The prior's; any size."""
        return dataclasses.replace(self.prior.card, size=None, multiple=1)

    def describe(self) -> str:
        return f"windows of {self.window}×{self.window}, overlapping by {self.overlap}, blended" + (
            ", shifted from step to step" if self.shift else ""
        )

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if self.prior.card.size is None:
            return super().__call__(x, sigma)
        height, width = x.shape[-2:]
        padded = reflect_to(x, max(height, self.window), max(width, self.window))
        return super().__call__(padded, sigma)[..., :height, :width]

    def spans(
        self, size: tuple[int, int], sigma: float, *, pulled: bool = False
    ) -> tuple[list[Span], list[Span]]:
        rows, columns = shifts(sigma, self.window - self.overlap) if self.shift else (0, 0)
        return self._spans(size[0], rows), self._spans(size[1], columns)

    def _spans(self, n: int, shift: int) -> list[Span]:
        window, stride = min(self.window, n), self.window - self.overlap
        count = ceil((n - window + shift) / stride) + 1 if n > window else 1
        starts = sorted({min(max(k * stride - shift, 0), n - window) for k in range(count)})
        ramp = (
            pi / 2 * (torch.arange(self.overlap, dtype=torch.float64) + 0.5) / max(self.overlap, 1)
        ).sin() ** 2
        weights = torch.ones(len(starts), window, dtype=torch.float64)
        total = torch.zeros(n, dtype=torch.float64)
        for start, weight in zip(starts, weights, strict=True):
            if start > 0:
                weight[: self.overlap] *= ramp
            if start + window < n:
                weight[window - self.overlap :] *= ramp.flip(0)
            total[start : start + window] += weight
        return [
            Span(start, start + window, start, start + window, weight / total[start : start + window])
            for start, weight in zip(starts, weights, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Cropped(_Windows):
    """A convolutional prior in windows: squares of `core` pixels, each with the `halo` around it that can reach it.

    The D of the whole picture, and its derivative, to rounding where nothing beyond the halo has influence and as far
    as `reach` says where little has: a window's corner lies on a multiple of what the network needs, its answer counts
    `halo` pixels from its border on, and the picture's own border is left as it is.
    """

    prior: Prior
    core: int
    halo: int
    ahead: int | None = None
    """The core where no derivative is kept, which takes less memory (None: the same)."""
    batch: int = 1

    def __post_init__(self) -> None:
        self._check_batch()
        if self.core < 1 or self.halo < 0 or (self.ahead is not None and self.ahead < 1):
            raise ValueError(
                f"expected a core of at least 1 and a halo of at least 0, got {self.core} and {self.halo}"
            )

    def describe(self) -> str:
        return f"windows of {self.core}×{self.core} with {self.halo} pixels around"

    def spans(
        self, size: tuple[int, int], sigma: float, *, pulled: bool = False
    ) -> tuple[list[Span], list[Span]]:
        core = self.core if pulled or self.ahead is None else self.ahead
        return self._spans(size[0], core), self._spans(size[1], core)

    def _spans(self, n: int, core: int) -> list[Span]:
        multiple = self.prior.card.multiple
        core = _up(ceil(n / ceil(n / core)), multiple)  # of nearly the same size
        spans = []
        for first in range(0, n, core):
            last = min(first + core, n)
            start = max(first - self.halo, 0) // multiple * multiple
            spans.append(Span(start, min(_up(last + self.halo, multiple), n), first, last))
        return spans


def reach(
    prior: Prior, halo: int, *, influence: float = INFLUENCE, device: torch.device | None = None
) -> int:
    """How many of a convolutional prior's `halo` pixels on each side are worth seeing: a multiple of its card's.

    With so many, all pixels farther off taken from another picture change D by less than `influence` in root mean
    square, at the worst of five noise levels. It is measured from the gradient, E‖sᵀJ‖² over random signs s = Σ J², in
    strips of noise on grey, across and upright; pixels of pictures of standard deviation .3 are taken as independent.
    The last `prior.noiseless` channels, where it has such an attribute, are pictures without noise.
    """
    card = prior.card
    multiple, channels = card.multiple, card.channels or 3
    clean = getattr(prior, "noiseless", 0)
    margin, width = _up(halo, multiple), _up(32, multiple)
    levels = torch.logspace(log10(card.sigma_min), log10(card.sigma_max), 5)
    spread = levels[:, None].repeat(1, channels)
    spread[:, channels - clean :] = 0.3
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(len(levels), channels, width, 2 * margin + multiple, generator=draws)
    signs = torch.randn(len(levels), channels, width, 1, generator=draws).sign()
    farthest = 0
    for turn in (lambda strip: strip, lambda strip: strip.mT.contiguous()):
        x = turn(0.5 + spread[:, :, None, None] * noise).to(device).requires_grad_()
        with torch.enable_grad():
            middle = turn(prior(x, levels.to(device))).narrow(-1, margin, 1)
            (gradient,) = torch.autograd.grad((middle * signs.to(device)).sum(), x)
        change = 2 * (spread**2 + 0.3**2)
        squares = (change[:, :, None, None] * turn(gradient).cpu().double().square()).sum(dim=(1, 2))
        for side in (squares[:, :margin].flip(1), squares[:, margin + 1 :]):
            beyond = side.flip(1).cumsum(1).flip(1) / signs[0].numel()  # of what is that far off, or farther
            farthest = max(farthest, int((beyond.sqrt() >= influence).sum(dim=1).max()))
    return min(_up(farthest, multiple), halo)


def shifts(sigma: float, stride: int) -> tuple[int, int]:
    """How far the windows of a noise level are moved up and to the left, each 0 … stride − 1.

    A function of σ to five digits, and of nothing else: so that a step is the same in every batch, order and precision.
    """
    digest = hashlib.sha256(f"{sigma:.4e}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % stride, int.from_bytes(digest[8:16], "little") % stride


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
