"""Memory and time of restoring a large picture: a process's peak beyond what it held before the call.

    python experiments/speed/memory.py --size 2048 --steps 2
    python experiments/speed/memory.py --size 4096 --steps 1
    python experiments/speed/memory.py --size 4096 --prior white        the method's own copies, without a network

The picture is random blobs, a fifth of its pixels lost in lines two pixels wide. Held before: torch, the prior's
weights, and the picture with its mask. At most 3 GiB beyond them is the bound; the exit code says whether it is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

GIB = 2**30
BOUND = 3.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048, help="pixels a side")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--prior", default="natural", help="white: one without a network")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels", type=int, default=3)
    arguments = parser.parse_args()
    if os.environ.get("INVDIFF_MEMORY_CHILD") != "1":  # a fresh process: a peak cannot be unmade
        child = {**os.environ, "INVDIFF_MEMORY_CHILD": "1", "OMP_NUM_THREADS": str(arguments.threads)}
        return subprocess.run([sys.executable, *sys.argv], env=child, check=False).returncode
    found = measure(**vars(arguments))
    print(json.dumps(found, indent=1))
    return 0 if found["kept"] else 1


def measure(
    size: int, steps: int, method: str, prior: str, precision: str, threads: int, channels: int
) -> dict[str, object]:
    """Peak resident memory of one restoration, GiB, beyond what was held before it."""
    import torch

    import invdiff
    from invdiff import operators
    from invdiff.allocator import keep_freed
    from invdiff.priors import Cropped, GaussianPrior, Prior

    torch.set_num_threads(threads)
    keep_freed()  # as the command line does
    loaded: Prior
    if prior == "white":
        loaded = Cropped(GaussianPrior.white(0.5, 0.25), 512, 0)
    else:
        loaded = invdiff.load_prior(prior, precision=precision)
    picture, keep = blobs(channels, size), lines(size)
    operator = operators.Mask(keep, channels)
    y = operator.A(picture)
    del picture
    with torch.no_grad():
        loaded(torch.zeros(1, loaded.card.channels or channels, 64, 64), 1.0)
    before, began = resident(), time.perf_counter()
    result = invdiff.restore(y, operator, loaded, method=method, steps=steps)
    beyond = (peak() - before) / GIB
    return {
        "size": size,
        "method": result.method,
        "steps": steps,
        "fit": result.config["fit"],
        "picture_gib": round(y.nbytes / GIB, 3),
        "held_before_gib": round(before / GIB, 3),
        "beyond_gib": round(beyond, 3),
        "kept": beyond <= BOUND,
        "seconds": round(time.perf_counter() - began, 1),
        "threads": threads,
        "precision": str(getattr(loaded, "precision", "")),
    }


def blobs(channels: int, size: int):  # type: ignore[no-untyped-def]  # torch is imported late
    """(1, C, size, size): smooth and in [0, 1]."""
    import torch

    coarse = torch.rand(1, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def lines(size: int):  # type: ignore[no-untyped-def]
    """(size, size): 1 but for lines two pixels wide, every tenth."""
    import torch

    keep = torch.ones(size, size)
    keep[torch.arange(size) % 10 < 2] = 0
    return keep


def resident() -> int:
    """Bytes held now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def peak() -> int:
    """The most bytes held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
