"""Whether the prior `mnist` draws the digit it is told, by a classifier trained beside it.

    python experiments/quality/digits.py

Prints, for each guidance, the share of samples that the classifier takes for the digit asked for; the classifier's own
accuracy on MNIST's test digits stands beside it. Writes a sheet of digits, a row for each label.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import invdiff
from invdiff.images import write_image
from invdiff.priors.classifier import NoisyClassifier, load_classifier

CLASSIFIER = Path(__file__).parents[1] / "weights" / "mnist_classifier.safetensors"
"""What experiments/train/mnist_classifier.yaml made."""

FLOOR = 0.01
"""σ at which the classifier is asked of pictures without noise, in image units."""


def test_digits(file: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first test digits, (N, 1, 32, 32) in image units, and what they are, (N,)."""
    with np.load(file) as arrays:
        digits, labels = arrays["test_images"][:count], arrays["test_labels"][:count]
    pictures = torch.nn.functional.pad(torch.from_numpy(digits).float()[:, None] / 255, (2, 2, 2, 2))
    return pictures, torch.from_numpy(labels).long()


def share(classifier: NoisyClassifier, pictures: Tensor, labels: Tensor) -> float:
    """The share of pictures that are taken for their label."""
    with torch.inference_mode():
        return (classifier(pictures.clamp(0, 1), FLOOR).argmax(dim=1) == labels).float().mean().item()


def write_sheet(path: Path, rows: list[Tensor]) -> None:
    """Ten pictures of each of the rows, (N, 1, H, W)."""
    sheet = torch.cat([torch.cat(list(row[:10]), dim=2) for row in rows], dim=1)
    write_image(path, sheet.permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--prior", default="mnist")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("INVDIFF_DATA", "../shared/data")))
    parser.add_argument("--samples", type=int, default=20, help="of each label")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    args = parser.parse_args()

    classifier, prior = load_classifier(args.classifier), invdiff.load_prior(args.prior)
    pictures, labels = test_digits(args.data / "train" / "mnist.npz", 2000)
    print(f"classifier on {len(labels)} test digits: {share(classifier, pictures, labels):.1%}")
    args.out.mkdir(parents=True, exist_ok=True)
    for guidance in args.guidance:
        rows = []
        for label in range(10):
            drawn = invdiff.sample(
                prior, (1, 32, 32), samples=args.samples, batch=args.samples, steps=args.steps, label=label,
                guidance=guidance,
            )  # fmt: skip
            rows.append(drawn.samples)
        found = [share(classifier, row, torch.tensor(label)) for label, row in enumerate(rows)]
        each = ", ".join(f"{label}: {agreed:.0%}" for label, agreed in enumerate(found))
        print(f"guidance {guidance:g}: {sum(found) / 10:.1%} of {10 * args.samples} digits agree ({each})")
        write_sheet(args.out / f"guidance{guidance:g}.png", rows)
    free = invdiff.sample(prior, (1, 32, 32), samples=100, batch=20, steps=args.steps).samples
    write_sheet(args.out / "unconditional.png", list(free.split(10)))
    print(f"{args.out}: sheets of digits, a row for each label; unconditional.png: whatever comes")


if __name__ == "__main__":
    main()
