"""Whether credible intervals hold the truth as often as they say."""

from __future__ import annotations

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
    if samples.ndim != 3 or samples.shape[1:] != truths.shape or not samples.numel():
        raise ValueError(
            f"expected samples (S, N, n) of truths (N, n), got {tuple(samples.shape)} and {tuple(truths.shape)}"
        )
    if not (samples.isfinite().all() and truths.isfinite().all()):
        raise ValueError("expected finite samples and truths, got inf or nan")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    places = len(samples) + 1
    first = (samples < truths).sum(0).double()
    last = first + (samples == truths).sum(0) + 1
    margin = places * (1 - level) / 2
    held = last.clamp(max=places - margin) - first.clamp(min=margin)
    return paired((held.clamp(min=0) / (last - first)).mean(dim=1).tolist())
