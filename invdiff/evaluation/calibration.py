"""Whether samples are as far apart as the truth is from them, and credible intervals hold it as often as they say."""

from __future__ import annotations

import torch
from torch import Tensor

from .metrics import paired


def coverage(samples: Tensor, truths: Tensor, level: float) -> tuple[float, float]:
    """How often the central credible interval of `level` holds the truth, and that share's standard error.

    samples: (S, N, n), S from each of N posteriors; truths: (N, n), the x₀ each y was made of, itself drawn from the
    prior. With exact samples the truth's rank, the number of samples below it, is uniform on 0..S (Talts et al. 2018,
    Validating Bayesian inference algorithms with simulation-based calibration, arXiv:1804.06788, theorem 1). Rank r
    takes [r, r + 1] of [0, S + 1] and counts by the part of it within (S + 1)·[(1 − level)/2, (1 + level)/2], so an
    exact sampler has `level` on average, however small S is. A truth equal to samples takes all ranks it could have,
    in equal parts: a pixel known exactly, to the last bit in samples and truth alike, counts as `level`; where the
    bits may differ, leave it out.

    The error takes the N truths as independent and nothing else: the values of one are averaged first. nan for N = 1.
    ValueError for other shapes, values that are not finite, or a level outside (0, 1).
    """
    _check(samples, truths, 1)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    places = len(samples) + 1
    first = (samples < truths).sum(0).double()
    last = first + (samples == truths).sum(0) + 1
    margin = places * (1 - level) / 2
    held = last.clamp(max=places - margin) - first.clamp(min=margin)
    return paired((held.clamp(min=0) / (last - first)).mean(dim=1).tolist())


def z_square(samples: Tensor, truths: Tensor) -> tuple[float, float]:
    """Mean of z² = (x₀ − x̄)²/s², corrected so that exact samples give 1, and its standard error; above 1: too sure.

    samples: (S, N, n), S ≥ 4, truths: (N, n), as for `coverage`; x̄ and s² (with S − 1) are value by value. Of S draws
    of the Gaussian that x₀ is drawn from too, z²·S/(S + 1) follows the F distribution with 1 and S − 1 degrees of
    freedom, whose mean is (S − 1)/(S − 3): z² is divided by (1 + 1/S)·(S − 1)/(S − 3). Under S = 6 its variance is
    infinite. Where samples agree on a value it is inf or, if the truth is that value, nan: leave those out. ValueError
    as for `coverage`, or for fewer samples.
    """
    _check(samples, truths, 4)
    count, x, x0 = len(samples), samples.double(), truths.double()
    z2 = (x0 - x.mean(dim=0)).square() / x.var(dim=0, correction=1)
    return paired((z2.mean(dim=1) / ((1 + 1 / count) * (count - 1) / (count - 3))).tolist())


def spread_error(samples: Tensor, truths: Tensor) -> float:
    """√((1 + 1/S)·mean s² / mean (x₀ − x̄)²): the spread the samples have over the error they should show; below 1: too
    sure.

    samples: (S, N, n), S ≥ 2, truths: (N, n), as for `coverage`. Numerator and denominator have one expectation where
    samples and truth come from one distribution, whatever its form; no value is divided by its own s², so that none
    weighs more for being sure. inf where the mean is the truth, nan where there is no spread either. Source: Fortin,
    Abaza, Anctil, Turcotte 2014, Why should ensemble spread match the RMSE of the ensemble mean?,
    doi:10.1175/JHM-D-14-0008.1. ValueError as for `coverage`, or for fewer samples.
    """
    _check(samples, truths, 2)
    x, x0 = samples.double(), truths.double()
    expected = (1 + 1 / len(x)) * x.var(dim=0, correction=1).mean()
    return float((expected / (x0 - x.mean(dim=0)).square().mean()).sqrt())


def known(samples: Tensor, truths: Tensor, tolerance: float = 1e-6) -> Tensor:
    """The values all samples and the truth share to `tolerance`, as booleans (N, n): they were not to be found."""
    low = torch.minimum(samples.amin(dim=0), truths)
    return torch.maximum(samples.amax(dim=0), truths) - low <= tolerance


def _check(samples: Tensor, truths: Tensor, least: int) -> None:
    if samples.ndim != 3 or samples.shape[1:] != truths.shape or not samples.numel():
        raise ValueError(
            f"expected samples (S, N, n) of truths (N, n), got {tuple(samples.shape)} and {tuple(truths.shape)}"
        )
    if len(samples) < least:
        raise ValueError(f"samples: expected at least {least}, got {len(samples)}")
    if not (samples.isfinite().all() and truths.isfinite().all()):
        raise ValueError("expected finite samples and truths, got inf or nan")
