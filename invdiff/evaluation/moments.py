"""Moments of a method's samples without sampling, where the prior is Gaussian and the method affine.

A step that is affine in the state and in its noise maps a Gaussian to a Gaussian: z' = M z + Σ N_k ε_k + c, z the state
with what the method carries from step to step. M, N_k and c are read off by applying the step to unit vectors, so that
no Monte-Carlo error hides a wrong factor. Methods whose step is not affine: dps, mcg, red_diff, smc, mala, mmps with
fewer iterations than solve its system, and the integrator predictor_corrector: they divide by norms, weigh or reject.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from invdiff.likelihood import Measurement
from invdiff.methods import Method, Problem
from invdiff.operators import Operator
from invdiff.priors import Prior

Step = Callable[[Problem, Tensor, "_Script", Any], tuple[Tensor, Any]]


@torch.no_grad()
def sampled(
    method: Method,
    prior: Prior,
    op: Operator,
    y: Tensor,
    sigma_y: float,
    *,
    levels: list[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean (n,) and covariance (n, n) of what `method` returns for y (1, *op.out_shape), float64, before pasting.

    ValueError where a step is not affine, to a thousandth, on a random combination of the unit vectors.
    """
    probe = _Probe(prior, op, y, sigma_y)
    walk = levels or method.levels(probe.problem(1))

    def start(problem: Problem, x: Tensor, noise: _Script, carry: Any) -> tuple[Tensor, Any]:
        return method.start(problem, walk[0], noise).expand_as(x).clone(), None

    c, m, spread, carry = probe.affine(start, None)
    mean, covariance = c, spread
    known: dict[tuple[float, float, bool], tuple[Tensor, Tensor, Tensor, Any]] = {}
    for sigma, s in pairwise(walk):
        move = method.step if s <= sigma else method.rise

        def step(
            problem: Problem,
            x: Tensor,
            noise: _Script,
            carry: Any,
            move: Any = move,
            a: float = sigma,
            b: float = s,
        ) -> tuple[Tensor, Any]:
            return move(problem, x, a, b, noise, carry)

        key = (sigma, s, carry is None)
        if key not in known:
            known[key] = probe.affine(step, carry)
        c, m, spread, carry = known[key]
        mean, covariance = m @ mean + c, m @ covariance @ m.T + spread
    n = y.new_empty(op.in_shape).numel()
    return mean[:n], covariance[:n, :n]


class _Probe:
    """What a step does to unit vectors."""

    def __init__(self, prior: Prior, op: Operator, y: Tensor, sigma_y: float) -> None:
        self.prior, self.measurement, self.shape = prior, Measurement(y.double(), op, sigma_y), op.in_shape

    def problem(self, rows: int) -> Problem:
        return Problem(self.prior, self.measurement.pick([0] * rows))

    def affine(self, step: Step, carry: Any) -> tuple[Tensor, Tensor, Tensor, Any]:
        """c, M, Σ N_k N_kᵀ of a step, and the shape of what it carries on. carry: that of the step before."""
        carried = _tensors(carry)
        sizes = [torch.Size(self.shape), *[t.shape[1:] for t in carried]]
        zeros = [torch.zeros(1, *size, dtype=torch.float64) for size in sizes]
        script = _Script(1, self.shape)
        step(self.problem(1), zeros[0], script, _with(carry, zeros[1:]))
        widths = [size.numel() for size in [*sizes, *script.shapes]]
        rows = 2 + sum(
            widths
        )  # zero, a unit vector for each number of state and noise, and all of them mixed
        mixed = torch.randn(rows - 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        units = []
        before = 1
        for size, width in zip([*sizes, *script.shapes], widths, strict=True):
            unit = torch.zeros(rows, width, dtype=torch.float64)
            unit[before : before + width] = torch.eye(width, dtype=torch.float64)
            unit[-1] = mixed[before - 1 : before - 1 + width]
            units.append(unit.view(rows, *size))
            before += width
        state, noise = units[: len(sizes)], units[len(sizes) :]
        x, after = step(
            self.problem(rows), state[0], _Script(rows, self.shape, noise), _with(carry, state[1:])
        )
        out = torch.cat([x.flatten(1), *[t.flatten(1) for t in _tensors(after)]], dim=1)
        c, columns = out[0], (out[1:-1] - out[:1]).T
        if (c + columns @ mixed - out[-1]).norm() > 1e-3 * (out[-1] - c).norm():
            raise ValueError(
                "expected a method whose steps are affine, got one that is not; sample it instead"
            )
        width = sum(widths[: len(sizes)])
        spread = columns[:, width:] @ columns[:, width:].T
        return c, columns[:, :width], spread, _with(after, [t[:1] for t in _tensors(after)])


class _Script:
    """Noise that is decided beforehand, zero where it is not; remembers the shapes it was asked for."""

    def __init__(self, rows: int, shape: tuple[int, ...], values: list[Tensor] | None = None) -> None:
        self.rows, self.shape, self.values = rows, shape, values
        self.shapes: list[torch.Size] = []

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        self.shapes.append(torch.Size(shape or self.shape))
        if self.values is not None:
            return self.values[len(self.shapes) - 1].clone()
        return torch.zeros(self.rows, *self.shapes[-1], dtype=torch.float64)

    def uniform(self) -> Tensor:
        raise ValueError(
            "expected a method whose steps are affine, got one that draws by chance; sample it instead"
        )


def _tensors(carry: Any) -> list[Tensor]:
    return [part for part in carry if isinstance(part, Tensor)] if isinstance(carry, tuple) else []


def _with(carry: Any, tensors: list[Tensor]) -> Any:
    if not isinstance(carry, tuple):
        return carry
    left = iter(tensors)
    return tuple(next(left) if isinstance(part, Tensor) else part for part in carry)
