"""Which settings of a method restore best: a grid of its hyper-parameters on held-out training pictures.

    python experiments/quality/tune.py --tasks sr4,deblur --method mmps --set iterations=1,2 --set sigma_max=2,10

Pictures: centre crops of validation images of the training data (never of the evaluation sets), the tasks of
baselines.py. Every setting sees the same measurements and the same noise. `invdiff/methods/defaults.py` holds what
this found.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import zlib
from pathlib import Path

import torch
import yaml
from baselines import TASKS, measure

import invdiff
from invdiff.evaluation import Lpips, psnr
from invdiff.training.data import load_pictures
from invdiff.training.recipe import Data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--method", default="mmps")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=A,B", help="values to try")
    parser.add_argument("--prior", default="natural")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    data = Data(
        train=["train/bsds500-train-test.zip"],
        root=str(options.data),
        validation=24,
        validation_crop=options.size,
    )
    pictures = load_pictures(data, 3).validation[1 :: 24 // options.images][: options.images]
    prior, lpips = invdiff.load_prior(options.prior), Lpips("squeeze", weights=options.data / "weights")
    axes = [
        (name, [yaml.safe_load(v) for v in values.split(",")])
        for name, _, values in (s.partition("=") for s in options.set)
    ]
    print(
        "task      settings: PSNR of a sample, of the mean; LPIPS of a sample, of the mean; seconds a sample"
    )
    for task in options.tasks.split(","):
        scores = []
        for index, x in enumerate(pictures):
            op, y = measure(TASKS[task], x, seed=zlib.crc32(f"{task}/{index}".encode()))
            classical = torch.as_tensor(TASKS[task].baseline(y[0], op, x).image)[None].float().clip(0, 1)
            scores.append([psnr(classical, x[None])[0], lpips(classical, x[None])[0]])
        print(f"{task:9} baseline: {torch.tensor(scores).mean(0).tolist()}", flush=True)
        for values in itertools.product(*(v for _, v in axes)):
            settings = dict(zip((name for name, _ in axes), values, strict=True))
            rows = []
            for index, x in enumerate(pictures):
                op, y = measure(TASKS[task], x, seed=zlib.crc32(f"{task}/{index}".encode()))
                try:
                    result = invdiff.restore(
                        y, op, prior, method=options.method, sigma_y=TASKS[task].sigma_y, samples=options.samples,
                        options=settings,
                    )  # fmt: skip
                except invdiff.InvdiffError as error:
                    print(f"{task:9} {settings}: {error}")
                    break
                samples, mean = result.samples[:, 0].clip(0, 1), result.mean.clip(0, 1)
                truth = x.expand_as(samples)
                rows.append(
                    [psnr(samples, truth).mean(), psnr(mean, x[None])[0], lpips(samples, truth).mean(),
                     lpips(mean, x[None])[0], result.seconds / options.samples]
                )  # fmt: skip
            if len(rows) == len(pictures):
                sample, of_mean, perceptual, perceptual_mean, seconds = torch.tensor(rows).mean(0).tolist()
                scores = f"{sample:.2f} {of_mean:.2f}  {perceptual:.3f} {perceptual_mean:.3f}"
                print(f"{task:9} {settings}: {scores}  {seconds:.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
