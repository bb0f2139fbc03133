"""Ways to train a conditional model, at one small equal budget: what each gives for the same number of pictures.

    INVDIFF_DATA=<data folder> python experiments/conditional/ways.py [--images 12000] [--count 64] [--only ARM,...]
        [--set optimiser.learning_rate=5e-4 ...]

Each arm is `invdiff train` with experiments/train/celeba64-sr4.yaml and a few values replaced (`ARMS`), in a folder of
OUT that is named after its resolved recipe: a run that was stopped goes on from its last checkpoint, another recipe
begins anew. Then one sample of each of the first validation faces, by SR3 as it comes. Images/s are of steps in turn,
one arm after the other: on a CPU the process's own seconds on one thread. Writes OUT/ways.md and ways.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

import faces
import torch

import invdiff
from invdiff import config
from invdiff.errors import InvdiffError, RequestError
from invdiff.images import write_image
from invdiff.training import checkpoint, train
from invdiff.training.distributed import Processes
from invdiff.training.loop import Run
from invdiff.training.progress import Reporter
from invdiff.training.recipe import Recipe

RECIPE = Path(__file__).resolve().parents[1] / "train" / "celeba64-sr4.yaml"

WHOLE = ("condition.residual=false", "noise.sigma_data=0.5")
"""D of the picture itself, in place of what the recipe has: of what bicubic interpolation leaves."""

TIMED = 4
"""Steps of each arm whose median counts, after one that does not."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    title: str
    overrides: tuple[str, ...] = ()
    starts: bool = False
    """From the prior."""


ARMS: dict[str, Arm] = {
    "scratch": Arm(title="from scratch, EDM, y beside x", overrides=WHOLE),
    "residual": Arm(title="the same, of the residual"),
    "start": Arm(title="from the prior, more input channels", overrides=WHOLE, starts=True),
    "control": Arm(
        title="the prior frozen, a copy sees y (ControlNet)",
        overrides=(*WHOLE, "condition.control=true"),
        starts=True,
    ),
    "sr3": Arm(
        title="from scratch, SR3's ε objective",
        overrides=(
            *WHOLE, "objective.kind=ddpm", "objective.continuous=true", "objective.steps=2000",
            "objective.beta_start=1.0e-6", "objective.beta_end=0.01",
        ),
    ),
}  # fmt: skip

SAMPLERS: dict[str, dict[str, object]] = {
    "": {},
    ", 100 steps of its own": {"steps": 100, "grid": "sr3"},
}
"""How the samples are drawn, by what is added to the arm's title; the second for the arm sr3 alone."""

COLUMNS = ("psnr", "lpips", "colour", "colour of A x̂", "consistency", "speed", "trained")


def overrides(arm: Arm, images: int, prior: str, more: Sequence[str]) -> list[str]:
    """What is replaced in the recipe. The warm-up is a tenth of a short run."""
    warmup = max(1, min(300, images // 320))
    found = [f"images={images}", f"optimiser.warmup={warmup}", "validate_minutes=1000", *arm.overrides]
    return [*found, *([f"start_from={prior}"] if arm.starts else []), *more]


def folder(out: Path, name: str, recipe: Recipe, start: str) -> Path:
    """Where an arm is trained. start: the checksum of what it starts from."""
    anywhere = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, root=None))
    words = json.dumps([config.dump(anywhere), start if recipe.start_from else ""], sort_keys=True)
    return out / f"{name}-{hashlib.sha256(words.encode()).hexdigest()[:10]}"


def trained(path: Path, changed: Sequence[str], into: Path) -> Path:
    """The arm's weights, trained now as far as they are not yet. Stopped, after a checkpoint, at a signal."""
    done = into / "done"
    if not done.is_file():
        resume = checkpoint.newest(into / "checkpoints") is not None
        train(path, into, resume=resume, overrides=changed)
        done.touch()
    return into / "prior.safetensors"


def speeds(recipes: Mapping[str, Recipe]) -> dict[str, dict[str, float]]:
    """Arm → images a second, and how many parameters are trained; steps of the arms in turn, on a made-up picture."""
    with tempfile.TemporaryDirectory() as there:
        runs = {}
        for name, recipe in recipes.items():
            side = recipe.data.crop
            grey = torch.rand((side, side, 3), generator=torch.Generator().manual_seed(0))
            write_image(Path(there) / "picture.png", grey.numpy())
            data = dataclasses.replace(recipe.data, train=["picture.png"], root=there, validation=0)
            alone = dataclasses.replace(recipe, data=data)
            runs[name] = Run(alone, Path(there) / name, Processes(alone.device), Reporter(quiet=True))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(1 + TIMED):
            for name, run in runs.items():
                began = _clock(run.device)
                run.one_step()
                seconds[name].append(_clock(run.device) - began)
        return {
            name: {
                "speed": recipes[name].batch / statistics.median(seconds[name][1:]),
                "trained": sum(p.numel() for p in run.network.parameters() if p.requires_grad),
            }
            for name, run in runs.items()
        }


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> int:
    given = faces.parser(__doc__, "runs/conditional/ways", 64)
    given.add_argument("--images", type=int, default=12_000, help="that each arm is trained on")
    given.add_argument(
        "--only", default=",".join(ARMS), help="arms, with commas between; default: %(default)s"
    )
    given.add_argument("--recipe", type=Path, default=RECIPE)
    given.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every arm")
    options = given.parse_args(arguments)
    names = options.only.split(",")
    try:
        for name in names:
            if name not in ARMS:
                raise RequestError(f"--only: expected some of {', '.join(ARMS)}, got {name}")
        return compare(options, names)
    except InvdiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2 if isinstance(error, RequestError) else 1)


def compare(options: argparse.Namespace, names: Sequence[str]) -> int:
    study, lpips = faces.study_of(options, (False,)), faces.perceptual(options)
    prior = study.priors[False].card
    more = [f"data.root={options.data}", f"device={options.device}", *options.set]
    changed = {name: overrides(ARMS[name], options.images, options.prior, more) for name in names}
    recipes = {name: config.load(Recipe, options.recipe, changed[name]) for name in names}
    rows = [_row(study, faces.Entry(title="bicubic", method="bicubic"), lpips, {})]
    told = speeds(recipes)
    for name in names:
        into = folder(options.out, name, recipes[name], prior.checksum)
        print(f"{name}: {into}", file=sys.stderr, flush=True)
        weights = trained(options.recipe, changed[name], into)
        model = invdiff.load_prior(weights, device=options.device, precision=options.precision)
        own = dataclasses.replace(study, priors={True: model})
        for said, settings in SAMPLERS.items():
            if said and name != "sr3":
                continue
            entry = faces.Entry(title=ARMS[name].title + said, method="sr3", sees=True, options=settings)
            rows.append(_row(own, entry, lpips, {} if said else told[name]))
    start = f"`{prior.name}` has seen {prior.images_seen:,}"
    text = (
        f"{faces.table(rows, COLUMNS, 'way to train')}\n\n{options.images:,} pictures each, one recipe "
        f"({options.recipe.name}), {study.device}; the prior {start}.\n"
        f"One sample by SR3 of each of {len(study.truth)} validation faces; colour error: the mean of "
        "|mean x̂ − mean x| over pictures and channels, against y that\nof A x̂ and y; image units.\n"
    )
    means = {row.title: {**{name: row[name] for name in row.each}, **row.more} for row in rows}
    faces.write(options.out, "ways", text, {"means": means, "overrides": changed, "images": options.images})
    return 0


def _row(study: faces.Study, entry: faces.Entry, lpips: object, more: Mapping[str, float]) -> faces.Row:
    study.restore([entry])
    pictures, _ = study.found(entry)
    return faces.Row(title=entry.title, each=faces.scores(pictures, study, lpips), more=more)


if __name__ == "__main__":
    sys.exit(main())
