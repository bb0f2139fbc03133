"""The samplers of deepinv and azula, run as they are on a problem of ours, so that they can be measured beside ours.

`PEERS` names them. What translates our prior D(x, σ) and our operator into their interfaces is `invdiff.bench.peers`;
settings are their defaults, or what their own examples use where a class has no default; the number of steps is the
caller's. azula's TDS is here alone, for it needs the matrix of A.

Both draw from torch's global generator (deepinv's seed=0 is no seed): it is seeded for the run, and put back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from invdiff.bench import peers as bench
from invdiff.bench.peers import of_azula, of_deepinv
from invdiff.bench.peers.of_azula import AzulaDenoiser, Flat
from invdiff.bench.peers.of_deepinv import DeepinvDenoiser
from invdiff.bench.peers.run import drawing
from invdiff.operators import LinearOperator, Mask, Operator, SpectralOperator

__all__ = ["PEERS", "AzulaDenoiser", "DeepinvDenoiser", "Flat", "Peer"]

Prior = Callable[[Tensor, Any], Tensor]


class Sampler(Protocol):
    """y: one row per sample, float64, its own to alter; the answer (S, C, H, W), image units."""

    def __call__(self, prior: Prior, op: Any, y: Tensor, sigma_y: float, steps: int) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A sampler of another package.

    method: the one of ours it stands beside, a name in METHODS; needs: the least an operator
    must be; settings: with what it runs, and why; note: what to know when reading its figures; noisy: whether it
    takes σ_y into account; evaluations: of the denoiser, per step; sampler: what runs it.
    """

    name: str
    package: str
    title: str
    method: str
    needs: type[Operator]
    settings: str
    note: str = ""
    noisy: bool = True
    evaluations: int = 1
    levels: Callable[[int], list[float]] | None = None
    """The noise levels it walks, in image units, by the number of steps, where ours can walk the same."""
    sampler: Sampler

    def run(
        self, prior: Prior, op: Operator, y: Tensor, sigma_y: float, steps: int, samples: int, seed: int
    ) -> Tensor:
        """(S, C, H, W) posterior samples, float64, image units, for one y, (1, *out_shape) or (*out_shape).

        The samples are rows of one batch. TypeError where the operator is not what the peer needs; ValueError for
        a y of another shape, or steps below 2.
        """
        if not isinstance(op, self.needs):
            raise TypeError(f"{self.name}: expected a {self.needs.__name__}, got {op}")
        if y.numel() != y.new_empty(op.out_shape).numel():
            raise ValueError(f"y: expected one measurement, {op.out_shape}, got {tuple(y.shape)}")
        if steps < 2:
            raise ValueError(f"steps: expected at least 2, got {steps}")
        rows = y.detach().double().reshape(1, *op.out_shape).repeat(samples, *(1 for _ in op.out_shape))
        with drawing(seed, rows.device):
            found = self.sampler(prior, op, rows, sigma_y, steps)
        return found.detach().double().reshape(samples, *op.in_shape)


def _tds(prior: Prior, op: LinearOperator, y: Tensor, sigma_y: float, steps: int) -> Tensor:
    from azula.guidance import TDSSampler

    flat = Flat.of(prior, op, y, sigma_y)
    n = y.new_empty(op.in_shape).numel()
    gain = flat.A(torch.eye(n, dtype=y.dtype)).square().sum(0)  # the diagonal of A Aᵀ

    def twist(mean: Tensor, noise: Tensor) -> Tensor:
        variance = flat.sigma_y**2 + noise**2 * gain
        return -((flat.y - flat.A(mean)) ** 2 / variance + variance.log()) / 2

    return flat.sampled(TDSSampler, flat.denoiser, twist, steps=steps)


NEEDS: dict[str, type[Operator]] = {
    "any": Operator,
    "linear": LinearOperator,
    "spectral": SpectralOperator,
    "mask": Mask,
}


def _beside(
    name: str,
    method: str,
    *,
    noisy: bool = True,
    evaluations: int = 1,
    levels: Callable[[int], list[float]] | None = None,
) -> Peer:
    """A peer of the benchmarks, with its defaults."""
    peer = bench.PEERS[name]
    adapter = (of_azula if peer.package == "azula" else of_deepinv).ADAPTERS[name]

    def sampler(prior: Prior, op: Any, y: Tensor, sigma_y: float, steps: int) -> Tensor:
        return adapter(prior, op, y, sigma_y, steps, **peer.defaults)

    return Peer(
        name=name,
        package=peer.package,
        title=peer.title,
        method=method,
        needs=NEEDS[peer.needs],
        settings=peer.settings,
        note=peer.note,
        noisy=noisy,
        evaluations=evaluations,
        levels=levels,
        sampler=sampler,
    )


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        _beside("deepinv/dps", "dps"),
        _beside("deepinv/dps-annealed", "dps"),
        _beside("deepinv/pigdm", "pigdm"),
        _beside("deepinv/mmps", "mmps"),
        _beside("deepinv/score-ald", "score_ald"),
        _beside("deepinv/ilvr", "ilvr"),
        _beside("deepinv/ddrm", "ddrm", levels=of_deepinv.even_levels),
        _beside("deepinv/diffpir", "diffpir", levels=of_deepinv.ddpm_levels),
        _beside("azula/dps", "dps", levels=of_azula.levels),
        _beside("azula/pigdm", "pigdm", noisy=False, levels=of_azula.levels),
        _beside("azula/mmps", "mmps", levels=of_azula.levels),
        _beside("azula/tmpd", "tmpd", levels=of_azula.levels),
        _beside("azula/diffpir", "diffpir", levels=of_azula.levels),
        _beside("azula/repaint", "repaint", noisy=False, evaluations=3, levels=of_azula.levels),
        Peer(
            name="azula/tds",
            package="azula",
            title="TDS",
            method="smc",
            needs=LinearOperator,
            settings="twist N(y; A x̂₀, σ_y² + σ_t²/α_t² diag(A Aᵀ)) as in its own example; VPSchedule()",
            note="the samples are the particles of one run, so not independent",
            levels=of_azula.levels,
            sampler=_tds,
        ),
    )
}
