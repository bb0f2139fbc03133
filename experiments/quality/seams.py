"""Seams of priors in windows: steps of the picture across the borders of windows against steps inside them.

python experiments/quality/seams.py                       an analytic prior of one size; the test's figures
python experiments/quality/seams.py --prior FILE --size 512 --steps 30
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import invdiff
from invdiff.priors import Card, FunctionPrior, Prior, Tiled
from invdiff.priors.base import per_image


@dataclass(frozen=True)
class Seams:
    """Root mean square steps between neighbouring pixels, image units."""

    across: float
    """From the last pixel before a border to the first after it."""
    inside: float
    """All others."""

    @property
    def ratio(self) -> float:
        """1 without a seam."""
        return self.across / self.inside


def steps_at(pictures: Tensor, rows: Iterable[int], columns: Iterable[int]) -> Seams:
    """Steps of (B, C, H, W) into these rows and columns, and all others."""
    across, inside = [], []
    for steps, borders in ((pictures.diff(dim=-1), columns), (pictures.diff(dim=-2).transpose(-1, -2), rows)):
        border = torch.zeros(steps.shape[-1], dtype=torch.bool)
        border[[n - 1 for n in borders]] = True
        across.append(steps[..., border].flatten())
        inside.append(steps[..., ~border].flatten())
    rms = [float(torch.cat(some).square().mean().sqrt()) for some in (across, inside)]
    return Seams(*rms)


def seams(tiled: Tiled, size: int, *, steps: int, seeds: Iterable[int]) -> Seams:
    """Of samples of a tiled prior, size × size: at the borders of the windows of the last step, which is D itself."""
    shape, last = (tiled.card.channels or 1, size, size), 0.005
    settings: dict[str, Any] = {"integrator": "ddim:0", "steps": steps, "sigma_min": last}
    found = torch.cat([invdiff.sample(tiled, shape, seed=seed, **settings).samples for seed in seeds])
    borders = [
        {n for span in spans for n in (span.start, span.stop) if 0 < n < size}
        for spans in tiled.spans((size, size), last)
    ]
    return steps_at(found, *borders)


def smooth(size: int, *, std: float = 0.25, length: float = 6.0, least: float = 1e-4) -> Prior:
    """The exact prior of smooth stationary pictures of one size alone: Gaussian, ½ ± std, of a correlation length.

    It is diagonal in the cosine transform of a window, so each window is smooth up to its border and knows nothing
    beyond: windows that are put side by side have steps between them.
    """
    n = torch.arange(size, dtype=torch.float64)
    basis = (torch.pi / size * (n + 0.5) * n[:, None]).cos() * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    power = (-((n[:, None] ** 2 + n**2) * (length * torch.pi / size) ** 2) / 2).exp() + least
    power *= std**2 * size**2 / power.sum()

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        turn, variance = basis.to(x), per_image(sigma, x)[:, None, None, None] ** 2
        c = turn @ (x - 0.5) @ turn.T
        return turn.T @ (c * power.to(x) / (power.to(x) + variance)) @ turn + 0.5

    return FunctionPrior(denoise, Card(name="smooth", channels=1, size=size, data_std=std))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", help="a prior's name or file, of one size; without: an analytic one")
    parser.add_argument("--window", type=int, default=32, help="where the prior has no size of its own")
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    prior = smooth(arguments.window) if arguments.prior is None else invdiff.load_prior(arguments.prior)
    window = prior.card.size or arguments.window
    print("overlap  shifted  across   inside   ratio")
    for overlap in (0, window // 8, window // 4, window // 2):
        for shift in (False, True):
            tiled = Tiled(prior, window, overlap, shift=shift)
            found = seams(tiled, arguments.size, steps=arguments.steps, seeds=range(arguments.seeds))
            print(f"{overlap:7} {shift!s:>8}  {found.across:.4f}   {found.inside:.4f}   {found.ratio:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
