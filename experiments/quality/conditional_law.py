"""How near a trained conditional network comes to the optimal one, where that one is known.

    python experiments/quality/conditional_law.py

Pictures of a Gaussian field have a Gaussian posterior, so that D*(x, σ; y) = E[x₀ | x₀ + σε = x, y] is known:

    precision = C⁻¹ + AᵀA/σ_y² + I/σ²,   D* = mean + precision⁻¹ (Aᵀ(y − A·mean)/σ_y² + (x − mean)/σ²)

A small network is trained on such pictures by `invdiff.training.train` with a `condition:` block, and its D is held
against D* on new pictures: √(E|D − D*|² / E|D* − mean|²) at each σ, and over all of them. Beside it stand the network
before training, and D*(x, σ), the optimum of one that is not shown y.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff import load_prior
from invdiff.operators import Downsample, LinearOperator
from invdiff.priors.conditional import ConditionalNetwork
from invdiff.training import train

SIDE = 8
"""Pixels on a side of a picture; one channel."""

STD, LENGTH, MEAN = 0.12, 1.5, 0.5
"""Of the field: C = STD²·exp(−d²/(2·LENGTH²)) for pixels a distance d apart; image units and pixels."""

SIGMA_Y = 0.05
"""Of the measurement."""

OPERATOR: dict[str, Any] = {"downsample": {"factor": 2}}

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Where D is looked at, image units."""


@dataclass(frozen=True)
class Row:
    """Relative errors at a σ, or over all of them."""

    sigma: float | None
    trained: float
    untrained: float
    blind: float
    """Of D*(x, σ)."""


def covariance() -> Tensor:
    """(N, N), float64: the field's, rounded to 8 bits."""
    place = torch.cartesian_prod(*2 * [torch.arange(SIDE, dtype=torch.float64)])
    field = STD**2 * torch.exp(-(torch.cdist(place, place) ** 2) / (2 * LENGTH**2))
    return field + torch.eye(SIDE**2, dtype=torch.float64) / (12 * 255**2)


def draw(count: int, seed: int) -> Tensor:
    """(count, 1, SIDE, SIDE), float64."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, SIDE**2, generator=generator, dtype=torch.float64)
    return (MEAN + white @ torch.linalg.cholesky(covariance()).T).view(count, 1, SIDE, SIDE)


def learned(folder: Path, pictures: int, images: int) -> ConditionalNetwork:
    """The network, trained on `images` of so many pictures; its run lies in `folder`."""
    data, file = folder / "field.npz", folder / "law.yaml"
    in_bytes = (255 * draw(pictures, seed=0)).round().clamp(0, 255).to(torch.uint8)
    np.savez(data, train_images=in_bytes[:, 0].numpy())
    recipe = {
        "name": "law",
        "data": {"train": [str(data)], "crop": SIDE, "whole": True, "validation": 0},
        "condition": {"operator": OPERATOR, "noise": SIGMA_Y},
        "network": {"channels": 1, "widths": [32], "blocks": [1], "embedding": 32},
        "noise": {"uniform": 1.0, "sigma_min": 0.015, "sigma_max": 5.0, "sigma_data": 2 * STD},
        "optimiser": {"learning_rate": 3e-3, "warmup": 50, "ema": 0.99, "weight_decay": 0.0},
        "batch": 64,
        "images": images,
        "precision": "float32",
        "device": "cpu",
    }
    file.write_text(json.dumps(recipe), encoding="utf-8")
    prior = load_prior(train(file, folder / "run"), precision="float32")
    assert isinstance(prior, ConditionalNetwork)
    return prior


def exact(x: Tensor, sigma: float, y: Tensor | None, operator: LinearOperator) -> Tensor:
    """D*(x, σ; y), or D*(x, σ) without y; x (B, 1, SIDE, SIDE), float64."""
    eye = torch.eye(SIDE**2, dtype=torch.float64)
    precision = torch.linalg.inv(covariance()) + eye / sigma**2
    pull = (x.flatten(1) - MEAN) / sigma**2
    if y is not None:
        matrix = operator.A(eye.view(-1, 1, SIDE, SIDE)).flatten(1).T  # (M, N)
        precision = precision + matrix.T @ matrix / SIGMA_Y**2
        pull = pull + (y.flatten(1) - MEAN * matrix.sum(dim=1)) @ matrix / SIGMA_Y**2
    return MEAN + torch.linalg.solve(precision, pull.T).T.view_as(x)


@torch.inference_mode()
def measure(prior: ConditionalNetwork, count: int = 2000, seed: int = 10) -> list[Row]:
    """A row for each of SIGMAS, and the one of all, on `count` new pictures."""
    operator = Downsample(OPERATOR["downsample"]["factor"], (1, SIDE, SIDE)).to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    x0 = draw(count, seed + 1)
    y = operator.A(x0)
    y = y + SIGMA_Y * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    seeing = prior.seeing(y, operator, SIGMA_Y)
    rows, total = [], torch.zeros(4, dtype=torch.float64)
    for sigma in SIGMAS:
        x = x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        best = exact(x, sigma, y, operator)
        at_first = MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)  # F = 0
        answers = (seeing(x, sigma), at_first, exact(x, sigma, None, operator), torch.full_like(x, MEAN))
        squares = torch.stack([(answer - best).square().mean() for answer in answers])
        rows.append(Row(sigma, *_relative(squares)))
        total += squares
    return [*rows, Row(None, *_relative(total))]


def _relative(squares: Tensor) -> list[float]:
    return (squares[:3] / squares[3]).sqrt().tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--pictures", type=int, default=8_000, help="that are drawn to train on")
    parser.add_argument(
        "--images", type=int, default=160_000, help="to train on in all, repeated ones counted"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        prior = learned(Path(folder), args.pictures, args.images)
        seconds = time.process_time() - began
    weights = sum(value.numel() for value in prior.network.parameters())
    rows = measure(prior)
    worst = max(rows[:-1], key=lambda row: row.trained)
    print(f"{weights:,} weights, {args.images:,} images, {seconds:.0f} s of one core; relative error in %\n")
    print("| σ | trained | untrained | the optimum without y |\n|---|---|---|---|")
    for row in rows:
        errors = " | ".join(f"{100 * error:.1f}" for error in (row.trained, row.untrained, row.blind))
        print(f"| {'all' if row.sigma is None else row.sigma} | {errors} |")
    print(f"\nworst: {100 * worst.trained:.1f} % at σ = {worst.sigma}")


if __name__ == "__main__":
    main()
