"""How far samples, or their first two moments, are from the posterior they should have."""

from __future__ import annotations

import torch
from torch import Tensor


def sliced_wasserstein(a: Tensor, b: Tensor, *, directions: int = 256, generator: torch.Generator) -> float:
    """√ mean_θ W₂²(⟨a, θ⟩, ⟨b, θ⟩), over random unit directions θ; a (S, n), b (T, n), of any counts.

    In one dimension W₂² = ∫₀¹ (F⁻¹(t) − G⁻¹(t))² dt, F⁻¹ the quantiles, here the sorted values, as steps: no
    approximation but the choice of directions. In image units; samples moved by δ are ‖δ‖/√n away, and two sets of
    draws from one distribution are not at 0 but at their own Monte-Carlo error. Source: Bonneel, Rabin, Peyré, Pfister
    2015, Sliced and Radon Wasserstein barycenters of measures, doi:10.1007/s10851-014-0506-3. ValueError for samples
    of different lengths, or none.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.numel() or not b.numel():
        raise ValueError(f"expected samples (S, n) and (T, n), got {tuple(a.shape)} and {tuple(b.shape)}")
    if directions < 1:
        raise ValueError(f"directions: expected at least 1, got {directions}")
    theta = torch.randn(a.shape[1], directions, generator=generator, dtype=torch.float64)
    theta = theta / theta.norm(dim=0)
    s, t = len(a), len(b)
    cuts = torch.cat(
        [torch.arange(1, s + 1) * t, torch.arange(1, t + 1) * s]
    ).unique()  # of the quantiles, times s·t
    widths = cuts.diff(prepend=cuts.new_zeros(1)).double() / (s * t)
    ordered_a, ordered_b = ((v.detach().double().cpu() @ theta).sort(dim=0).values for v in (a, b))
    squares = (ordered_a[(cuts - 1) // t] - ordered_b[(cuts - 1) // s]).square()
    return float((widths @ squares).mean().sqrt())


def moment_errors(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """(‖μ − μ*‖ / √trace C*, ‖C − C*‖_F / ‖C*‖_F) of means (n,) and covariances (n, n), C* the exact one.

    The mean's error is in root-mean-square posterior standard deviations. ValueError where the exact covariance is 0,
    or shapes differ.
    """
    (mean, covariance), (true_mean, true_covariance) = found, exact
    if mean.shape != true_mean.shape or covariance.shape != true_covariance.shape:
        raise ValueError(
            f"expected moments of shapes {tuple(true_mean.shape)} and {tuple(true_covariance.shape)}, "
            f"got {tuple(mean.shape)} and {tuple(covariance.shape)}"
        )
    trace, norm = true_covariance.trace(), true_covariance.norm()
    if not trace > 0:
        raise ValueError("exact: expected a covariance above 0, got 0; compare the means themselves")
    return float((mean - true_mean).norm() / trace.sqrt()), float(
        (covariance - true_covariance).norm() / norm
    )
