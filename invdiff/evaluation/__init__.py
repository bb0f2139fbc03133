"""Scores of restored images, and the classical methods they are held against."""

from __future__ import annotations

from . import baselines
from .lpips import Lpips
from .metrics import paired, psnr, ssim

__all__ = ["Lpips", "baselines", "paired", "psnr", "ssim"]
