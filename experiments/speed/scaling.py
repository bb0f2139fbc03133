"""How the cost of a restoration grows: with pixels, samples, batch and steps; and where it goes.

    python experiments/speed/scaling.py [--sizes 64,128,256,512,1024] [--method mmps] [--steps 2] [--device cpu]

Each size is a process of its own, so that its memory is its own; the exponents are those of lines through the
logarithms of the seconds, from the first size and from 256² on. Workers: experiments/speed/harness.py; memory of large
pictures: memory.py beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import warnings
from typing import Any

import torch

import invdiff
from invdiff import operators
from invdiff.allocator import keep_freed
from invdiff.operators import patterns

SIGMA_Y = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sizes", default="64,128,256,512,1024")
    parser.add_argument("--method", default="mmps")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(**json.loads(given.one))))
        return 0
    common = {"method": given.method, "device": given.device}
    sizes = [int(size) for size in given.sizes.split(",")]
    print(
        "| size | seconds a step | outside the network | of the machine's peak | MiB |\n|---|---|---|---|---|"
    )
    rows = []
    for size in sizes:
        row = apart(size=size, steps=given.steps, samples=1, batch=1, **common)
        rows.append(row)
        outside, each = 1 - row["network"] / row["seconds"], row["seconds"] / given.steps
        cells = (f"{each:.3g}", f"{outside:.1%}", f"{row['share']:.0%}", f"{row['mib']:,.0f}")
        print(f"| {size}² | {' | '.join(cells)} |", flush=True)
    for least in (sizes[0], 256):
        points = [
            (math.log(size**2), math.log(row["seconds"]))
            for size, row in zip(sizes, rows, strict=True)
            if size >= least
        ]
        if len(points) > 1:
            print(f"seconds grow as pixels to the power {slope(points):.3f}, from {least}² on")
    base = apart(size=128, steps=4, samples=4, batch=1, **common)["seconds"]
    for what, changed in {
        "batch 4 in place of 1": {"steps": 4, "samples": 4, "batch": 4},
        "8 samples in place of 4": {"steps": 4, "samples": 8, "batch": 1},
        "8 steps in place of 4": {"steps": 8, "samples": 4, "batch": 1},
    }.items():
        print(f"128², {what}: {apart(size=128, **changed, **common)['seconds'] / base:.2f} times the seconds")
    return 0


def apart(**settings: Any) -> dict[str, Any]:
    """`measured` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(settings)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(
    *, size: int, method: str, steps: int, samples: int, batch: int, device: str
) -> dict[str, float]:
    """The better of two restorations, after one step that warms up; above 1024² one, without."""
    warnings.simplefilter("ignore")
    keep_freed()  # as the command line does
    place = torch.device(device)
    mask = operators.Mask((patterns.random((size, size), 0.8)).float().to(place))
    y = mask.A(torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(place))
    prior = invdiff.load_prior("natural", device=place)

    def run(steps: int, profile: bool = True) -> Any:
        return invdiff.restore(
            y, mask, prior, method=method, sigma_y=SIGMA_Y, steps=steps, samples=samples, batch=batch, device=place,
            profile=profile,
        )  # fmt: skip

    if size <= 1024:
        run(1, profile=False)
    told = min((run(steps).profile for _ in range(2 if size <= 1024 else 1)), key=lambda one: one.seconds)
    return {"seconds": told.seconds, "network": told.network, "share": told.utilisation, "mib": told.peak_mib}


def slope(points: list[tuple[float, float]]) -> float:
    """Of the least-squares line."""
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


if __name__ == "__main__":
    raise SystemExit(main())
