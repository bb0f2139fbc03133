"""The one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from invdiff.methods.base import Method, Problem
from invdiff.methods.integrators import Noise


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
    noise draws for the B samples; callback(step, steps) is told of every step done.
    """
    walk = list(levels if levels is not None else method.levels(problem))
    x = method.start(problem, walk[0], noise) if start is None else start + walk[0] * noise()
    carry: Any = None
    for done, (sigma, s) in enumerate(pairwise(walk), 1):
        move = method.step if s <= sigma else method.rise
        x, carry = move(problem, x, sigma, s, noise, carry)
        callback(done, len(walk) - 1)
    return problem.measurement.paste(x)
