"""invdiff against what people have without it: same measurements, PSNR, SSIM and LPIPS (squeeze).

    python experiments/quality/baselines.py [--data ../shared/data/eval] [--tasks sr4,deblur] [--images N]

Pictures: 192² centre crops of Set5 and of the first ten of CBSD68 by name. Everything is clipped to [0, 1]
before it is scored, ours and theirs. "One sample" is the average score of the single samples, "mean" the
score of their mean. Baselines that have parameters get the best of a grid, chosen on each image with the
truth at hand (invdiff/evaluation/baselines.py); invdiff gets no such choice.

| task | measurement | baseline |
|---|---|---|
| inpaint80 | 80 % of the pixels missing at random, a mask per image | biharmonic |
| scratch | scratches and lines of text over the picture, a mask per image | biharmonic |
| sr2, sr4 | means over 2×2, 4×4 pixels (box kernel) | bicubic |
| deblur | Gaussian blur σ_k = 1.6 pixels, circular border, noise σ_y = 0.01 | Wiener or Richardson-Lucy |
| denoise | noise 25/255; the "mean" is the denoiser itself, D(y, 25/255) | NL-means or TV |

A row per picture and task goes to --out as it is finished, and a run that was stopped goes on from there;
rows made with other settings are left alone and not used. After a change of the code itself say --fresh.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.errors import RequestError, unknown
from invdiff.evaluation import Lpips, baselines, paired, psnr, ssim
from invdiff.evaluation.lpips import VARIABLE
from invdiff.images import list_images, read_image, to_tensor
from invdiff.masks import make_mask
from invdiff.priors.network import resolve_device

SIZE = 192
SIGMA_25 = 25 / 255
SCORES = ("psnr", "ssim", "lpips")


@dataclass(frozen=True, kw_only=True)
class Task:
    """gain: what the mean must be better than the baseline by, in dB of PSNR."""

    measurement: str
    gain: float
    operator: Callable[[tuple[int, int, int], int], Any]  # shape of the image, seed
    baseline: Callable[[Tensor, Any, Tensor], baselines.Baseline]  # y, operator, truth; no batch
    sigma_y: float = 0.0


def inpainting(measurement: str, *masks: str) -> Task:
    """What any of the made-up masks takes away is missing."""

    def operator(shape: tuple[int, int, int], seed: int) -> operators.Mask:
        keep = [torch.from_numpy(make_mask(how, shape[1:], seed)) for how in masks]
        return operators.Mask(torch.stack(keep).amin(dim=0))

    return Task(
        measurement=measurement,
        gain=0.5,
        operator=operator,
        baseline=lambda y, op, x: baselines.biharmonic(y, op.keep[0]),
    )


def superresolution(factor: int, gain: float) -> Task:
    return Task(
        measurement=f"×{factor}, box",
        gain=gain,
        operator=lambda shape, seed: operators.Downsample(factor, shape, kernel="box"),
        baseline=lambda y, op, x: baselines.bicubic(y, factor, *x.shape[1:]),
    )


TASKS: dict[str, Task] = {
    "inpaint80": inpainting("80 % missing", "random:0.8"),
    "scratch": inpainting("scratches and text", "scratch", "text"),
    "sr2": superresolution(2, 0.5),
    "sr4": superresolution(4, 0.8),
    "deblur": Task(
        measurement="Gaussian 1.6, σ_y .01",
        gain=1.3,
        operator=lambda shape, seed: operators.Blur(
            operators.kernels.gaussian(1.6), shape, border="circular"
        ),
        baseline=lambda y, op, x: baselines.deblur(y, op.kernel, x),
        sigma_y=0.01,
    ),
    "denoise": Task(
        measurement="σ_y 25/255",
        gain=1.2,
        operator=lambda shape, seed: operators.Identity(shape),
        baseline=lambda y, op, x: baselines.denoise(y, SIGMA_25, x),
        sigma_y=SIGMA_25,
    ),
}


def pictures(data: Path, limit: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """("set5/baby_GT", (3, 192, 192)) and so on; cropped about the centre, never enlarged."""
    files = list_images(data / "set5") + sorted(list_images(data / "cbsd68"), key=lambda f: f.name)[:10]
    for file in files[:limit]:
        x = to_tensor(read_image(file)).squeeze(0)
        height, width = x.shape[-2:]
        if min(height, width) < SIZE:
            raise RequestError(f"{file}: expected at least {SIZE}×{SIZE}, got {height}×{width}")
        top, left = (height - SIZE) // 2, (width - SIZE) // 2
        yield f"{file.parent.name}/{file.stem}", x[:, top : top + SIZE, left : left + SIZE].contiguous()


def measure(task: Task, x: Tensor, seed: int) -> tuple[Any, Tensor]:
    """The operator and y (1, ...) = A x + σ_y·n, the same for every method and every run."""
    op = task.operator((x.shape[0], x.shape[1], x.shape[2]), seed)
    y = op.A(x[None])
    return op, y + task.sigma_y * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))


def compare(
    name: str, image: str, x: Tensor, prior: Any, lpips: Lpips, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """One row: the task `name` on the picture `x` (3, H, W), scores of baseline, one sample and mean."""
    task = TASKS[name]
    op, y = measure(task, x, seed=zlib.crc32(f"{name}/{image}".encode()))
    classical = task.baseline(y[0], op, x)
    result = invdiff.restore(
        y, op, prior, method=settings["method"], sigma_y=task.sigma_y, steps=settings["steps"],
        samples=settings["samples"], seed=settings["seed"], device=settings["device"],
    )  # fmt: skip
    samples, mean, seconds = result.samples[:, 0].cpu(), result.mean[0].cpu(), result.seconds
    if name == "denoise":
        start = time.perf_counter()
        with torch.no_grad():
            mean = prior(y.to(settings["device"]), task.sigma_y)[0].cpu()
        seconds += time.perf_counter() - start

    def score(pictures: Tensor) -> dict[str, float]:
        pictures = pictures.clip(0, 1).float()
        truth = x.expand_as(pictures)
        return {
            "psnr": psnr(pictures, truth).mean().item(),
            "ssim": ssim(pictures, truth).mean().item(),
            "lpips": lpips(pictures, truth).mean().item(),
        }

    return {
        "task": name,
        "image": image,
        "settings": dict(settings),
        "method": result.method,
        "classical": classical.name,
        "baseline": score(torch.as_tensor(classical.image)[None]),
        "sample": score(samples),
        "mean": score(mean[None]),
        "seconds": seconds,
        "evaluations": result.evaluations,
    }


def read_rows(file: Path, settings: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a JSONL file made with these settings; a line that was cut off by a kill is passed over."""
    rows = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row.get("settings") == settings:
            rows[row["task"], row["image"]] = row
    return rows


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: scores averaged over the pictures; differences paired by picture, ± standard error;
    targets."""
    rows = list(rows)
    lines = [
        "| task | pictures | method | baseline PSNR / SSIM / LPIPS | one sample | mean "
        "| PSNR, mean − baseline (target) | LPIPS, sample − baseline (target) | s per picture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, task in TASKS.items():
        own = [row for row in rows if row["task"] == name]
        if not own:
            continue
        scores = {
            who: " / ".join(
                f"{sum(row[who][score] for row in own) / len(own):{'.2f' if score == 'psnr' else '.3f'}}"
                for score in SCORES
            )
            for who in ("baseline", "sample", "mean")
        }
        gain, error = paired([row["mean"]["psnr"] - row["baseline"]["psnr"] for row in own])
        in_psnr = f"{gain:+.2f} ± {error:.2f} ({verdict(gain - task.gain, f'{task.gain:+.1f}', '.2f')})"
        lpips, error = paired([row["sample"]["lpips"] - row["baseline"]["lpips"] for row in own])
        in_lpips = f"{lpips:+.3f} ± {error:.3f} ({verdict(-lpips, '< 0', '.3f')})"
        methods = ", ".join(sorted({row["method"] for row in own}))
        seconds = sum(row["seconds"] for row in own) / len(own)
        lines.append(
            f"| {name}: {task.measurement} | {len(own)} | {methods} | {' | '.join(scores.values())} "
            f"| {in_psnr} | {in_lpips} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def verdict(margin: float, target: str, digits: str) -> str:
    return f"{target}: met" if margin >= 0 else f"{target}: **missed by {-margin:{digits}}**"


def append(file: Path, row: Mapping[str, Any]) -> None:
    """One whole line, on the disk before the next picture starts; a line cut off earlier is closed first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as out:
        torn = out.tell() > 0 and (out.seek(-1, os.SEEK_END), out.read(1))[1] != b"\n"
        out.write((b"\n" if torn else b"") + json.dumps(row).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


def run(
    names: Sequence[str],
    images: Iterable[tuple[str, Tensor]],
    prior: Any,
    lpips: Lpips,
    settings: Mapping[str, Any],
    out: Path,
) -> list[dict[str, Any]]:
    """Every task on every picture, those already in `out` taken from there."""
    done, images = read_rows(out, settings), list(images)
    total, rows = len(names) * len(images), []
    for name in names:
        for image, x in images:
            row = done.get((name, image))
            if row is None:
                row = compare(name, image, x, prior, lpips, settings)
                append(out, row)
            rows.append(row)
            print(
                f"[{len(rows)}/{total}] {name} {image}: PSNR {row['baseline']['psnr']:.2f} → sample "
                f"{row['sample']['psnr']:.2f}, mean {row['mean']['psnr']:.2f}; LPIPS "
                f"{row['baseline']['lpips']:.3f} → {row['sample']['lpips']:.3f}, {row['mean']['lpips']:.3f}; "
                f"{row['seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/eval"), help="folder with set5 and cbsd68"
    )
    parser.add_argument("--images", type=int, help="only the first N pictures")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated, default all: %(default)s")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, help="default: the method's own")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--prior", default="natural")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--lpips-weights",
        type=Path,
        help="default: as invdiff.evaluation.lpips looks, or DATA/../weights",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/baselines.jsonl"),
        help="rows; the table goes beside it as .md",
    )
    parser.add_argument("--fresh", action="store_true", help="forget the rows in --out")
    options = parser.parse_args(arguments)
    try:
        names = options.tasks.split(",")
        for name in names:
            if name not in TASKS:
                raise unknown("task", name, TASKS)
        images = list(pictures(options.data, options.images))
        weights = options.lpips_weights
        if weights is None and VARIABLE not in os.environ and (options.data.parent / "weights").is_dir():
            weights = options.data.parent / "weights"
        lpips = Lpips("squeeze", weights=weights)
        options.device = str(resolve_device(options.device))
        prior = invdiff.load_prior(options.prior, device=options.device)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    settings = {
        name: getattr(options, name) for name in ("samples", "steps", "method", "prior", "seed", "device")
    }
    settings["checksum"] = prior.card.checksum
    if options.fresh:
        options.out.unlink(missing_ok=True)
    text = table(run(names, images, prior, lpips, settings, options.out))
    text += (
        f"\n\n{options.samples} samples a picture, prior {options.prior}, method {options.method}, "
        f"seed {options.seed}; LPIPS is squeeze; ± is the standard error over pictures."
    )
    options.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
