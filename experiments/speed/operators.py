"""Forward, adjoint and prox of our operators beside deepinv's, in one run, pair by pair: time and peak memory.

    python experiments/speed/operators.py [--sizes 256 1024] [--only blur] [--repeats 7] [--device cpu]
    [--threads 1] [--json FILE]
    python experiments/speed/operators.py --crossover       direct sum, two passes or FFT: where Blur changes over

One colour picture of each size, float32. A pair is one call of ours and one of theirs, one right after the other
(short ones several times over), so that what disturbs the machine disturbs both; on one CPU thread it is the time of
that thread which counts, so that others' work disturbs less. Times are medians over pairs, the ratio the median of
the pairs' ratios. deepinv's blurs are run with use_fft on and off and the faster is taken; where
both sides solve by conjugate gradients they stop at the same relative tolerance, 1e-4. Peak memory: what A, adjoint
and prox add to the resident set of a forked process (on CUDA: the allocator's peak), with the operator built and warm.
`first` is what comes once: building ours, and its first A, adjoint and prox.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from invdiff import operators
from invdiff.operators import Operator, ProximalOperator, kernels
from invdiff.operators.blur import Border

Pair = tuple[Operator, Any]
TOLERANCE, WEIGHT = 1e-4, 1.0
METHODS = ("A", "adjoint", "prox")


def blur(kernel: Tensor, border: Border) -> Callable[[Any, int], Pair]:
    def pair(physics: Any, n: int) -> Pair:
        given, padding = kernel.float()[None, None], "constant" if border == "zero" else border
        if border == "circular":
            theirs = physics.BlurFFT(img_size=(3, n, n), filter=given)
        else:
            theirs = faster(
                [physics.Blur(filter=given, padding=padding, use_fft=fft, tol=TOLERANCE, max_iter=100)
                 for fft in (True, False) if fft or kernel.numel() < 1000], n
            )  # fmt: skip
        return operators.Blur(kernel, (3, n, n), border, rtol=TOLERANCE), theirs

    return pair


def faster(candidates: Sequence[Any], n: int) -> Any:
    x = torch.rand(1, 3, n, n)
    return min(candidates, key=lambda one: min(seconds(lambda: one.A(x), 1) for _ in range(2)))


def mask(physics: Any, n: int) -> Pair:
    keep = torch.rand(n, n, generator=torch.Generator().manual_seed(0)) > 0.5
    return operators.Mask(keep), physics.Inpainting(mask=keep.float().expand(3, n, n), img_size=(3, n, n))


def downsample(factor: int, kernel: Any) -> Callable[[Any, int], Pair]:
    def pair(physics: Any, n: int) -> Pair:
        box = torch.full((1, 1, factor, factor), 1 / factor**2)
        theirs = physics.Downsampling(
            img_size=(3, n, n), filter=box if kernel == "box" else kernel, factor=factor,
            padding="valid" if kernel == "box" else "circular", tol=TOLERANCE, max_iter=100,
        )  # fmt: skip
        return operators.Downsample(factor, (3, n, n), kernel), theirs

    return pair


def matlab(factor: int) -> Callable[[Any, int], Pair]:
    def pair(physics: Any, n: int) -> Pair:
        theirs = physics.DownsamplingMatlab(factor=factor, img_size=(3, n, n), tol=TOLERANCE, max_iter=100)
        return operators.Downsample(factor, (3, n, n), "bicubic", edges="reflect"), theirs

    return pair


def blur_downsample(kernel: Tensor, factor: int, border: Border) -> Callable[[Any, int], Pair]:
    def pair(physics: Any, n: int) -> Pair:
        theirs = physics.Downsampling(
            img_size=(3, n, n), filter=kernel.float()[None, None], factor=factor, padding=border,
            tol=TOLERANCE, max_iter=100,
        )  # fmt: skip
        return operators.BlurDownsample(kernel, factor, (3, n, n), border, rtol=TOLERANCE), theirs

    return pair


def compressed_sensing(transform: Any) -> Callable[[Any, int], Pair]:
    """deepinv's dense CompressedSensing holds m x n numbers; at these sizes its StructuredRandom is what there is."""

    def pair(physics: Any, n: int) -> Pair:
        theirs = physics.StructuredRandom(img_size=(3, n, n), output_size=(3, n // 2, n), tol=TOLERANCE)
        return operators.CompressedSensing((3, n, n), 0.5, transform), theirs

    return pair


def phase_retrieval(physics: Any, n: int) -> Pair:
    """One Fourier transform on twice the grid, and its magnitude (theirs squared); neither has an adjoint."""
    theirs = physics.StructuredRandomPhaseRetrieval(
        img_size=(3, n, n), output_size=(3, 2 * n, 2 * n), n_layers=1
    )
    return operators.PhaseRetrieval((3, n, n)), theirs


shake = kernels.random_motion
CASES: dict[str, Callable[[Any, int], Pair]] = {
    "mask": mask,
    "demosaic": lambda physics, n: (
        operators.Demosaic((3, n, n), "bggr"),
        physics.Demosaicing(img_size=(3, n, n)),
    ),
    "grayscale": lambda physics, n: (operators.Grayscale((3, n, n)), physics.Decolorize()),
    "blur 5x5 circular": blur(shake(5), "circular"),
    "blur 5x5 reflect": blur(shake(5), "reflect"),
    "blur 5x5 valid": blur(shake(5), "valid"),
    "blur 9x9 gaussian circular": blur(kernels.gaussian(1.0), "circular"),
    "blur 9x9 gaussian reflect": blur(kernels.gaussian(1.0), "reflect"),
    "blur 9x9 gaussian valid": blur(kernels.gaussian(1.0), "valid"),
    "blur 25x25 circular": blur(shake(25), "circular"),
    "blur 25x25 reflect": blur(shake(25), "reflect"),
    "blur 25x25 valid": blur(shake(25), "valid"),
    "blur 61x61 circular": blur(shake(61), "circular"),
    "blur 61x61 reflect": blur(shake(61), "reflect"),
    "blur 61x61 valid": blur(shake(61), "valid"),
    "blur 61x61 gaussian reflect": blur(kernels.gaussian(10.0, 61), "reflect"),
    "downsample 2 box": downsample(2, "box"),
    "downsample 4 box": downsample(4, "box"),
    "downsample 2 bicubic": downsample(2, "bicubic"),
    "downsample 4 bicubic": downsample(4, "bicubic"),
    "downsample 4 matlab bicubic": matlab(4),
    "blur_downsample 25x25 4 circular": blur_downsample(shake(25), 4, "circular"),
    "blur_downsample 25x25 4 reflect": blur_downsample(shake(25), 4, "reflect"),
    "compressed_sensing hadamard": compressed_sensing("hadamard"),
    "compressed_sensing dct": compressed_sensing("dct"),
    "phase_retrieval": phase_retrieval,
}


def calls(op: Operator, physics: Any, x: Tensor) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """method → (ours, theirs). z is noise, so that an iterative prox has something to do."""
    ours_y, theirs_y, z = op.A(x), physics.A(x), torch.rand_like(x)
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "A": (lambda: op.A(x), lambda: physics.A(x))
    }
    if isinstance(op, operators.LinearOperator):
        pairs["adjoint"] = (lambda: op.A_adjoint(ours_y), lambda: physics.A_adjoint(theirs_y))
    if isinstance(op, ProximalOperator) and hasattr(physics, "prox_l2"):
        pairs["prox"] = (
            lambda: op.prox(z, ours_y, WEIGHT),
            lambda: physics.prox_l2(z, theirs_y, gamma=WEIGHT),
        )
    return pairs


def seconds(call: Callable[[], Any], count: int) -> float:
    clock = (
        time.thread_time
        if torch.get_num_threads() == 1 and not torch.cuda.is_available()
        else time.perf_counter
    )
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    for _ in range(count):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - start) / count


def compared(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds of each and the ratio; at least three pairs, and no new one after a second."""
    once = min(seconds(ours, 1), seconds(ours, 1)), min(seconds(theirs, 1), seconds(theirs, 1))  # warm, too
    counts = [max(1, min(50, int(5e-3 / one))) for one in once]
    pairs: list[tuple[float, float]] = []
    start = time.perf_counter()
    while len(pairs) < (3 if time.perf_counter() - start > 1 else repeats):
        pairs.append((seconds(ours, counts[0]), seconds(theirs, counts[1])))
    return {
        "ours_ms": 1e3 * median(ours for ours, _ in pairs),
        "theirs_ms": 1e3 * median(theirs for _, theirs in pairs),
        "ratio": median(ours / theirs for ours, theirs in pairs),
    }


def peak(works: Sequence[Callable[[], Any]], device: torch.device) -> float | None:
    """MiB that the calls add, one after the other; None where there is no way to tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for work in works:
            work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/status").exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what is free and still resident would be used first, and not be seen
    reader, writer = os.pipe()
    if os.fork() == 0:
        before = resident("VmRSS")
        for work in works:
            work()
        os.write(writer, str(resident("VmHWM") - before).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        answer = told.read()
    os.wait()
    return int(answer) / 1024 if answer else None


def resident(name: str) -> int:
    """KiB, as the system counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


def measured(name: str, n: int, physics: Any, repeats: int, device: torch.device) -> dict[str, Any]:
    x = torch.rand(1, 3, n, n, generator=torch.Generator().manual_seed(0)).to(device)
    start = time.perf_counter()
    op, theirs = CASES[name](physics, n)
    op, theirs = op.to(device, torch.float32), theirs.to(device)
    pairs = calls(op, theirs, x)
    first = sum(seconds(ours, 1) for ours, _ in pairs.values())
    row: dict[str, Any] = {"case": name, "size": n, "first_ms": 1e3 * first}
    for method, pair in pairs.items():
        row[method] = compared(*pair, repeats)
    spent = [sum(row[method][key] for method in pairs) for key in ("ours_ms", "theirs_ms")]
    row["ratio"] = spent[0] / spent[1]
    row["ours_MiB"], row["theirs_MiB"] = (
        peak([pair[side] for pair in pairs.values()], device) for side in (0, 1)
    )
    row["seconds"] = time.perf_counter() - start
    return row


def line(row: dict[str, Any]) -> str:
    cells = [f"{row['case']:33s}", f"{row['size']:5d}"]
    for method in METHODS:
        one = row.get(method)
        cells.append(
            f"{one['ours_ms']:8.2f} {one['theirs_ms']:9.2f} {one['ratio']:5.2f}" if one else f"{'-':>24s}"
        )
    memory = [row["ours_MiB"], row["theirs_MiB"]]
    cells.append(" ".join("     -" if one is None else f"{one:6.0f}" for one in memory))
    return " | ".join([*cells, f"{row['first_ms']:7.0f}"])


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ratios = {(row["case"], row["size"], m): row[m]["ratio"] for row in rows for m in METHODS if m in row}
    worst = max(ratios, key=lambda key: ratios[key])
    return {
        "median_ratio": median(ratios.values()),
        "worst_ratio": ratios[worst],
        "worst": " ".join(map(str, worst)),
        "above_1.2": sum(ratio > 1.2 for ratio in ratios.values()),
        "of": len(ratios),
        "median_together": median(row["ratio"] for row in rows),
        "worst_together": max(rows, key=lambda row: row["ratio"])["ratio"],
        "worst_case": "{case} {size}".format(**max(rows, key=lambda row: row["ratio"])),
    }


def crossover(sizes: Sequence[int], repeats: int) -> None:
    """Milliseconds of A by each of its three ways, for an outer product of k x k weights at the border reflect."""
    ways = {"direct": (inf, inf, 0), "two passes": (0, 0, inf), "FFT": (0, 0, 0)}
    names = ("_DIRECT", "_DIRECT_IF_SEPARABLE", "_TWO_PASSES")
    print(f"{'size':>5s} {'k':>4s} " + "".join(f"{way:>12s}" for way in ways) + "   fastest")
    for n in sizes:
        x = torch.rand(1, 3, n, n)
        for k in (3, 5, 7, 9, 11, 13, 15, 17, 21, 31, 45, 61, 81, 101, 121):
            op = operators.Blur(kernels.gaussian(k / 6, k), (3, n, n), "reflect").to(dtype=torch.float32)
            times: dict[str, list[float]] = {way: [] for way in ways if way != "direct" or k < 30}
            for _ in range(repeats):
                call = partial(op.A, x)
                for way, every in times.items():
                    limits: dict[str, Any] = dict(zip(names, ways[way], strict=True))
                    with patch.multiple("invdiff.operators.blur", **limits):
                        seconds(call, 1)
                        every.append(seconds(call, 3))
            ms = {way: 1e3 * median(every) for way, every in times.items()}
            shown = "".join(f"{ms[way]:12.2f}" if way in ms else f"{'-':>12s}" for way in ways)
            print(f"{n:5d} {k:4d} {shown}   {min(ms, key=lambda way: ms[way])}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--repeats", type=int, default=7, help="pairs, at least 3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows and the summary there")
    parser.add_argument(
        "--crossover", action="store_true", help="ours alone: which way of blurring is faster"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # deepinv's own, and that short solves stop short
    if options.crossover:
        with torch.no_grad():
            crossover(options.sizes, options.repeats)
        return 0
    names = [name for name in CASES if options.only in name]
    if not names:
        parser.error(f"--only: expected a part of one of {', '.join(CASES)}, got {options.only!r}")
    import deepinv

    print(
        f"torch {torch.__version__}, deepinv {deepinv.__version__}, {options.device}, {options.threads} thread(s)"
    )
    head = "".join(f" | {method + ': ms ours, deepinv, ratio':>24s}" for method in METHODS)
    print(f"{'case':33s} | {'size':>5s}{head} | MiB ours, d. | first ms")
    rows = []
    with torch.no_grad():
        for name in names:
            for n in options.sizes:
                rows.append(measured(name, n, deepinv.physics, options.repeats, torch.device(options.device)))
                print(line(rows[-1]), flush=True)
    found = summary(rows)
    print(
        f"\nmedian ratio {found['median_ratio']:.2f}; worst {found['worst_ratio']:.2f} ({found['worst']}); "
        f"above 1.2: {found['above_1.2']} of {found['of']}\n"
        f"A, adjoint and prox together: median {found['median_together']:.2f}; "
        f"worst {found['worst_together']:.2f} ({found['worst_case']})"
    )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "summary": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
