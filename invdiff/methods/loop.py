"""The one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.methods.base import Method, Noise, Problem
from invdiff.methods.kernel import renoise


@torch.no_grad()
def sample(
    method: Method,
    problem: Problem,
    noise: Noise,
    *,
    levels: Sequence[float] | None = None,
    start: Tensor | None = None,
    callback: Callable[[int, int], None] = lambda step, steps: None,
) -> Tensor:
    """Posterior samples, (B, C, H, W): from the first level of the method's walk to 0, known pixels put back last.

    start: a picture to begin with, noised to the first level, instead of pure noise.
    noise draws ε for the B samples; callback(step, steps) is told of every step done.
    """
    walk = list(levels if levels is not None else method.levels(problem))
    x = method.start(problem, walk[0], noise()) if start is None else start + walk[0] * noise()
    for done, (sigma, s) in enumerate(pairwise(walk), 1):
        x = method.step(problem, x, sigma, s, noise) if s < sigma else renoise(x, sigma, s, noise())
        callback(done, len(walk) - 1)
    return problem.measurement.paste(x)
