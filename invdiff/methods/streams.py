"""Randomness as an argument: a stream for each sample, fixed by (seed, image, sample index)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def checksum(y: Tensor) -> str:
    """SHA-256 of one image's measurement as float32: the image's identity, wherever it stands in a batch."""
    return hashlib.sha256(y.detach().to("cpu", torch.float32).contiguous().numpy().data).hexdigest()


@dataclass(frozen=True)
class Streams:
    """ε ~ N(0, I) of `shape` for each of several samples; calling it draws the next (B, *shape). A `Noise`.

    Drawn on the CPU in float32, so that every device and precision sees the same numbers.
    """

    generators: Sequence[torch.Generator]
    shape: tuple[int, ...]
    like: Tensor

    @classmethod
    def make(
        cls, seed: int, keys: Sequence[tuple[str, int]], shape: tuple[int, ...], like: Tensor
    ) -> Streams:
        """keys: (image checksum, sample index) of each sample."""
        generators = []
        for image, index in keys:
            digest = hashlib.sha256(f"{seed}/{image}/{index}".encode()).digest()
            generators.append(
                torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            )
        return cls(generators, shape, like)

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        gpu = self.like.is_cuda  # which copies from pinned memory without being waited for
        draws = torch.empty(len(self.generators), *(shape or self.shape), pin_memory=gpu)
        for one, generator in zip(draws, self.generators, strict=True):
            torch.randn(one.shape, generator=generator, out=one)
        return draws.to(self.like, non_blocking=gpu)

    def uniform(self) -> Tensor:
        """One number in [0, 1) for each sample, (B,)."""
        return torch.stack([torch.rand((), generator=g) for g in self.generators]).to(self.like)
