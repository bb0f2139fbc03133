"""PSNR of a prior's denoiser D on CBSD68 (68 full colour images) at σ = 15, 25, 50 of 255, beside published
figures.

    python experiments/quality/denoising.py [--prior natural] [--images N] [--data ../shared/data/eval]
    [--seed 0]

Protocol of the published ones: white Gaussian noise on the whole image, not clipped; PSNR over all pixels and
the three channels, averaged over images in dB. Our output is clipped to [0, 1], as a file would be. The noise
of image number i (by name) is torch.randn from a generator seeded with 1000·seed + i, the same draw at every
σ.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import invdiff
from invdiff.errors import RequestError
from invdiff.evaluation import paired, psnr
from invdiff.images import list_images, read_image, to_tensor
from invdiff.priors.network import resolve_device

LEVELS = (15, 25, 50)
PUBLISHED = {
    "CBM3D (Dabov et al. 2007)": (33.5, 30.7, 27.4),
    "FFDNet (Zhang et al. 2018)": (33.9, 31.2, 28.0),
}


def denoise(prior: Any, files: Sequence[Path], seed: int, device: torch.device) -> dict[int, list[float]]:
    """level → PSNR of each image."""
    scores: dict[int, list[float]] = {level: [] for level in LEVELS}
    for i, file in enumerate(files):
        x = to_tensor(read_image(file))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1000 * seed + i))
        for level in LEVELS:
            with torch.no_grad():
                restored = prior((x + level / 255 * noise).to(device), level / 255).cpu().float().clip(0, 1)
            scores[level].append(psnr(restored, x).item())
        done = " / ".join(f"{scores[level][-1]:.2f}" for level in LEVELS)
        print(f"[{i + 1}/{len(files)}] {file.name}: {done}", file=sys.stderr, flush=True)
    return scores


def table(scores: dict[int, list[float]], name: str) -> str:
    """Markdown; ± is the standard error over images."""
    ours = " | ".join(
        f"{mean:.2f} ± {error:.2f}" for mean, error in (paired(scores[level]) for level in LEVELS)
    )
    lines = ["| PSNR, dB | " + " | ".join(f"σ = {level}/255" for level in LEVELS) + " |", "|---|---|---|---|"]
    lines += [
        f"| {who} | " + " | ".join(f"{value:.1f}" for value in row) + " |" for who, row in PUBLISHED.items()
    ]
    return "\n".join([*lines, f"| {name} ({len(scores[LEVELS[0]])} images) | {ours} |"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", default="natural", help="name or file")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/eval"), help="folder with cbsd68")
    parser.add_argument("--images", type=int, help="only the first N by name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        files = sorted(list_images(options.data / "cbsd68"), key=lambda file: file.name)[: options.images]
        device = resolve_device(options.device)
        prior = invdiff.load_prior(options.prior, device=device)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    scores = denoise(prior, files, options.seed, device)
    print(table(scores, Path(options.prior).stem))
    seconds = (time.perf_counter() - start) / len(files)
    print(f"\nnoise seed {options.seed}; {seconds:.1f} s per image for the three levels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
