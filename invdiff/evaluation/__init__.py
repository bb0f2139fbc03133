"""Scores of restored images and of posterior samples, and the classical methods they are held against."""

from __future__ import annotations

from . import baselines, calibration, distances, exactness, moments
from .lpips import Lpips
from .metrics import paired, psnr, ssim

__all__ = [
    "Lpips",
    "baselines",
    "calibration",
    "distances",
    "exactness",
    "moments",
    "paired",
    "psnr",
    "ssim",
]
