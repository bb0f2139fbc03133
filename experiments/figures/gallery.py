"""docs/gallery.md and its pictures: every method at its defaults with the prior `natural`, five tasks.

    python experiments/figures/gallery.py [--jobs 2] [--only METHOD,TASK,...] [--fresh]

Photographs: five windows of 256² in those that come with scikit-image (`PHOTOS`), reduced to 128². One sample each,
seed 0, float32, every setting as `restore(method=NAME)` has it. It begins by saying how much is left to do.

A restored picture goes to --runs as it is finished, NAME.npy and a line in rows.jsonl, and is taken from there when the
method's resolved settings are the same: a run that was stopped goes on. After a change of the code itself say --fresh.
Sheets of whatever is there are drawn in --runs; the page and its sheets are written to --out once nothing is missing.
Seconds are a process's own on one thread, so that other work on the machine hardly shows in their ratios.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

import invdiff
from invdiff import operators
from invdiff.catalog import AUTO, METHODS
from invdiff.errors import RequestError, unknown
from invdiff.evaluation import Lpips, psnr
from invdiff.images import atomic, to_array
from invdiff.operators import Mask, Operator, kernels, patterns
from invdiff.priors import GaussianPrior
from invdiff.restore import abilities, choose_method

SIZE = 128
SEED = 0
LARGEST = 500_000
"""Bytes of a sheet, at most."""
LPIPS_WEIGHTS = Path("../shared/data/weights")


@dataclass(frozen=True, kw_only=True)
class Photo:
    """corner: (top, left) of its window of 256²; source: who gave it to whom."""

    corner: tuple[int, int]
    source: str


PHOTOS: dict[str, Photo] = {  # names in skimage.data
    "astronaut": Photo(corner=(0, 88), source="NASA, public domain"),
    "chelsea": Photo(corner=(20, 100), source="Stefan van der Walt, CC0"),
    "coffee": Photo(corner=(40, 180), source="Rachel Michetti, CC0"),
    "rocket": Photo(corner=(160, 195), source="SpaceX, public domain"),
    "hubble_deep_field": Photo(corner=(400, 560), source="NASA, public domain"),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    title: str
    operator: Callable[[int], Operator]
    """Of pictures (3, size, size)."""
    sigma_y: float = 0.0


TASKS: dict[str, Task] = {
    "inpaint80": Task(
        title="Inpainting, 80 % of the pixels missing at random",
        operator=lambda size: Mask(patterns.random((size, size), 0.8, seed=SEED)),
    ),
    "box": Task(
        title="Inpainting, a square of 3/8 of the side missing",
        operator=lambda size: Mask(patterns.box((size, size), size * 3 // 8)),
    ),
    "deblur": Task(
        title="Deblurring, Gaussian of 1.6 pixels, circular border, σ_y = .01",
        operator=lambda size: operators.Blur(kernels.gaussian(1.6), (3, size, size), border="circular"),
        sigma_y=0.01,
    ),
    "sr4": Task(
        title="Super-resolution ×4, means over 4 × 4 pixels",
        operator=lambda size: operators.Downsample(4, (3, size, size), kernel="box"),
    ),
    "denoise": Task(
        title="Denoising, σ_y = 25/255",
        operator=lambda size: operators.Identity((3, size, size)),
        sigma_y=25 / 255,
    ),
}

SEEN: dict[str, str] = {
    AUTO: "is `mmps` where the operator is linear, with travel where pixels are missing and coarse to fine in the "
    "square hole, which it fills in the right colours without a seam but not with an eye or a mouth; denoised in one "
    "step, all is clean, a little soft.",
    "dps": "draws crisp, believable detail from few pixels; in the hole it paints bold shapes that may be wrong, such "
    "as a second muzzle for the cat; blur and noise leave a slight grain.",
    "pigdm": "is good at blur and super-resolution, with a slight grain in denoising; of few random pixels it makes a "
    "scratchy picture with frayed edges, and a large hole goes grey.",
    "mmps": "is natural in texture in every task and seldom odd; the middle of a large hole goes grey or blotched.",
    "tmpd": "does well with random pixels and super-resolution; deblurred, edges ring and some blur stays, and "
    "denoising takes the fine texture away: row sums count far too much there.",
    "ddrm": "is clean in every task, the best of the samplers at denoising, but for single specks in the finest "
    "detail of random pixels; a large hole becomes a plain patch of the right colour.",
    "ddnm": "is clean and smooth everywhere; at random pixels fine detail is lost and specks remain, and a large hole "
    "becomes a plain patch.",
    "diffpir": "is smooth, near to an average, and high in PSNR for it with masks and blur; the hole is a plain patch, "
    "grey among the stars, and denoising smears all fine detail.",
    "repaint": "fills the hole with soft colours that go on from what is around it; 80 % missing at random leave it "
    "scratchy, with doubled edges.",
    "ilvr": "projects and nothing more: at random pixels the picture stays a web of scratches, while deblurring at "
    "this little noise, super-resolution and denoising are fair, if rough.",
    "mcg": "is a rougher `dps` with masks; super-resolution exaggerates edges; at this little noise it deblurs well.",
    "red_diff": "gives one smooth answer, high in PSNR and short of texture in super-resolution and deblurring; "
    "denoised, nearly all of the noise is still there.",
    "daps": "fills the hole plainly and well and is soft and grainy elsewhere; where the measurement's noise is large, "
    "its published step sizes hardly reach the measurement, and denoising gives a blur in wrong colours.",
    "score_ald": "leaves random pixels in grain and a grey veil in the hole: too few Langevin steps at every level for "
    "directions that are not measured at all; where all is measured, in denoising above all, it is fair.",
    "smc": "looks like `pigdm`, smoother at random pixels and with bolder, odd colours in the hole, for three times "
    "the time.",
    "ula": "has not mixed in two hundred steps: what the measurement says is right, everything else is noise.",
    "mala": "as `ula`, and slower still to move.",
    "ancestral": "is denoising as it should look, sharp and with texture, 2 dB below the posterior mean of `auto`, "
    "as a sample is.",
}
"""What one sees on the sheets, method by method."""


def photograph(name: str, size: int) -> Tensor:
    """(1, 3, size, size), float32."""
    import skimage.data

    top, left = PHOTOS[name].corner
    whole = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float() / 255
    return interpolate(whole[..., top : top + 256, left : left + 256], size=(size, size), mode="area")


def measure(task: Task, x: Tensor) -> tuple[Operator, Tensor]:
    """The operator and y (1, ...), the same for every method."""
    op = task.operator(x.shape[-1])
    y = op.A(x)
    return op, y + task.sigma_y * torch.randn(y.shape, generator=torch.Generator().manual_seed(SEED))


def walkers() -> list[str]:
    """Names of the methods that walk any prior: one for conditional models would show another model than the others."""
    return [name for name, info in METHODS.items() if not info.conditional]


def methods_for(task: Task, size: int = 32) -> list[str]:
    """Names of the methods that can do it, "auto" first."""
    able = abilities(task.operator(size))
    return [AUTO, *(name for name in walkers() if METHODS[name].accepts(able, task.sigma_y))]


# -------------------------------------------------------------------------------------- the restored pictures


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One restoration. settings: the method's resolved ones; common: prior's checksum, device, size."""

    task: str
    photo: str
    method: str
    settings: Mapping[str, Any]
    common: Mapping[str, Any]

    @property
    def words(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))  # as a file gives them back

    @property
    def file(self) -> str:
        digest = hashlib.sha256(json.dumps(self.words, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.task}-{self.photo}-{self.method}-{digest}.npy"


def cells(common: Mapping[str, Any]) -> list[Cell]:
    """All there are."""
    found = []
    for name, task in TASKS.items():
        op = task.operator(common["size"])
        for method in methods_for(task, common["size"]):
            chosen, _ = choose_method(op, method, task.sigma_y)
            settings = {"name": chosen.info.name, **dataclasses.asdict(chosen)}
            found += [
                Cell(task=name, photo=photo, method=method, settings=settings, common=common)
                for photo in PHOTOS
            ]
    return found


@cache
def _prior(name: str, device: str) -> Any:
    return invdiff.load_prior(name, device=device, precision="float32")


def restored(cell: Cell, runs: Path) -> dict[str, Any]:
    """Write the restored picture, (3, size, size), to runs, and return its row."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    task, device = TASKS[cell.task], cell.common["device"]
    op, y = measure(task, photograph(cell.photo, cell.common["size"]))
    prior = _prior(cell.common["prior"], device)
    began = _clock(device)
    result = invdiff.restore(y, op, prior, method=cell.method, sigma_y=task.sigma_y, seed=SEED, device=device)
    seconds = _clock(device) - began
    with atomic(runs / cell.file) as part, part.open("wb") as file:
        np.save(file, result.samples[0, 0].cpu().numpy())
    return {**cell.words, "file": cell.file, "evaluations": result.evaluations, "seconds": seconds}


def read_rows(runs: Path) -> dict[str, dict[str, Any]]:
    """File → row, of the pictures that are there; a line that was cut off by a kill is passed over."""
    found = {}
    log = runs / "rows.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if (runs / row["file"]).exists():
            found[row["file"]] = row
    return found


def append(log: Path, row: Mapping[str, Any]) -> None:
    """One more line, on a line of its own whatever was written last, and on the disk."""
    with log.open("ab+") as out:
        torn = out.tell() > 0 and (out.seek(-1, os.SEEK_END), out.read(1))[1] != b"\n"
        out.write((b"\n" if torn else b"") + json.dumps(row).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


def worked(
    work: Callable[..., dict[str, Any]], arguments: Iterable[tuple[Any, ...]], jobs: int
) -> Iterator[dict[str, Any]]:
    """work(*one) for each, as they are finished; in this process for one job."""
    arguments = list(arguments)
    if jobs == 1:
        yield from (work(*one) for one in arguments)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(work, *one) for one in arguments]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------------------------- what it costs


@cache
def evaluations(task: str, method: str, options: tuple[tuple[str, Any], ...] = ()) -> int:
    """Of the network for one sample, counted on a small picture with a prior that is a formula."""
    op, y = measure(TASKS[task], photograph(next(iter(PHOTOS)), 24))
    result = invdiff.restore(
        y, op, GaussianPrior.white(), method=method, sigma_y=TASKS[task].sigma_y, options=dict(options)
    )
    return result.evaluations


def speed(prior: Any, size: int, device: str = "cpu") -> dict[bool, float]:
    """Seconds of one evaluation, without (False) and with (True) its gradient."""
    x = photograph(next(iter(PHOTOS)), size).to(device)
    seconds = {}
    for gradient in (False, True):
        times = []
        for _ in range(4):
            began = _clock(device)
            with torch.set_grad_enabled(gradient):
                leaf = x.clone().requires_grad_(gradient)
                total = prior(leaf, 0.5).sum()
                if gradient:
                    torch.autograd.grad(total, leaf)
                total.item()
            times.append(_clock(device) - began)
        seconds[gradient] = min(times)
    return seconds


def _clock(device: str) -> float:
    """A process's own seconds; another device's are waited for."""
    return time.process_time() if device == "cpu" else time.perf_counter()


# --------------------------------------------------------------------------------------- the sheets, the page


@dataclass(frozen=True, kw_only=True)
class Column:
    """One picture for each photograph, and what stands beneath it."""

    title: str
    pictures: Mapping[str, Tensor]
    captions: Mapping[str, str]


def sheet(columns: Sequence[Column], size: int, across: int = 7) -> Image.Image:
    """Rows are photographs; the first column, the truth, begins every line of columns again."""
    first, rest = columns[0], list(columns[1:])
    lines = [[first, *rest[i : i + across - 1]] for i in range(0, len(rest), across - 1)]
    gap, head, foot = 4, 18, 15
    side = max(size, 96)
    height = head + len(first.pictures) * (side + foot) + gap
    drawn = Image.new("RGB", (across * (side + gap) + gap, len(lines) * height), "white")
    pen = ImageDraw.Draw(drawn)
    large, small = ImageFont.load_default(size=13), ImageFont.load_default(size=11)
    for i, line in enumerate(lines):
        for j, column in enumerate(line):
            left, top = gap + j * (side + gap), i * height
            pen.text((left, top + 2), column.title, fill="black", font=large)
            for k, (name, picture) in enumerate(column.pictures.items()):
                at = top + head + k * (side + foot)
                drawn.paste(_tile(picture, side), (left, at))
                pen.text((left, at + side), column.captions.get(name, ""), fill="#555555", font=small)
    return drawn


def _tile(picture: Tensor, side: int) -> Image.Image:
    """Its pixels repeated where it is smaller."""
    array = (to_array(picture[None] if picture.ndim == 3 else picture).clip(0, 1) * 255).round()
    return Image.fromarray(array.astype("uint8")).resize((side, side), Image.Resampling.NEAREST)


def write_jpeg(image: Image.Image, path: Path) -> None:
    """As good as LARGEST bytes allow, quality 85 at most."""
    with atomic(path) as part:
        for quality in range(85, 20, -5):
            image.save(part, format="JPEG", quality=quality, optimize=True)
            if part.stat().st_size <= LARGEST:
                return


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one method in one task, means over the photographs. seconds: those of all of them."""

    psnr: float
    lpips: float | None
    evaluations: float
    seconds: float


def columns_of(
    task: str, there: Mapping[str, Mapping[str, dict[str, Any]]], runs: Path, size: int, lpips: Lpips | None
) -> tuple[list[Column], dict[str, Score]]:
    """Truth, measurement and methods, with their scores. there: method → photograph → row.

    Where auto is one of the methods to the last bit, it shares that one's column.
    """
    truth = {name: photograph(name, size) for name in PHOTOS}
    measured = {name: measure(TASKS[task], x)[1] for name, x in truth.items()}
    columns = [
        Column(title="truth", pictures=truth, captions={name: name.split("_")[0] for name in PHOTOS}),
        Column(title="measured", pictures=measured, captions={}),
    ]
    restored = {
        method: {name: torch.from_numpy(np.load(runs / row["file"]))[None] for name, row in rows.items()}
        for method, rows in there.items()
    }
    twin = _twin(restored)
    scores = {}
    for method, pictures in restored.items():
        if method == AUTO and twin:
            continue
        db, perceptual, captions = {}, {}, {}
        for name, picture in pictures.items():
            clipped = picture.clip(0, 1)
            db[name] = float(psnr(clipped, truth[name]))
            captions[name] = f"{db[name]:.1f} dB"
            if lpips is not None:
                perceptual[name] = float(lpips(clipped, truth[name]))
                captions[name] += f"  {perceptual[name]:.3f}"
        title = f"{method} = {AUTO}" if method == twin else method
        columns.append(Column(title=title, pictures=pictures, captions=captions))
        scores[title] = Score(
            psnr=_mean(db.values()),
            lpips=_mean(perceptual.values()) if perceptual else None,
            evaluations=_mean(row["evaluations"] for row in there[method].values()),
            seconds=sum(row["seconds"] for row in there[method].values()),
        )
    return columns, scores


def _twin(restored: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The method that auto is, or none."""
    auto = restored.get(AUTO, {})
    for method, pictures in restored.items():
        same = pictures.keys() == auto.keys() and all(torch.equal(pictures[k], auto[k]) for k in auto)
        if method != AUTO and same:
            return method
    return ""


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def table(scores: Mapping[str, Score]) -> str:
    """Markdown; the best first."""
    perceptual = all(score.lpips is not None for score in scores.values())
    unit = next((score.seconds for title, score in scores.items() if title.split()[0] == "mmps"), 0.0)
    lines = [
        f"| method | PSNR, dB |{' LPIPS |' if perceptual else ''} evaluations | seconds, mmps = 1 |",
        f"|---|---|{'---|' if perceptual else ''}---|---|",
    ]
    for method, score in sorted(scores.items(), key=lambda item: -item[1].psnr):
        ratio = f"{score.seconds / unit:.2g}" if unit else "–"
        ratio = f"{score.seconds / unit:.0f}" if unit and score.seconds >= 10 * unit else ratio
        lines.append(
            f"| {method} | {score.psnr:.2f} |{f' {score.lpips:.3f} |' if perceptual else ''} "
            f"{score.evaluations:.0f} | {ratio} |"
        )
    return "\n".join(lines)


def page(tables: Mapping[str, str], size: int) -> str:
    """docs/gallery.md. tables: task → Markdown."""
    sources = "; ".join(f"{name.replace('_', ' ')} ({photo.source})" for name, photo in PHOTOS.items())
    parts = [
        "# Gallery: every method at its defaults",
        f"Five photographs of {size} × {size} pixels, five tasks, the prior [`natural`](natural.md), one sample each, "
        "seed 0;\nevery setting is the one that `restore(method=NAME)` starts from. Beneath each picture stand its "
        "PSNR and LPIPS (squeeze). Made, with this page, by",
        "    python experiments/figures/gallery.py --jobs 2",
        f"The photographs come with scikit-image: {sources}.",
        "A sample of the posterior is by its nature up to 3 dB below the posterior's mean: the tables, best PSNR "
        "first, say how near a sample is\nto the truth, not how good it looks. LPIPS is nearer to that; smaller is "
        "better. Seconds are relative to those of `mmps` in the same task,\non one CPU thread.",
        "## What one sees",
        "\n".join(f"* **`{name}`** {words}" for name, words in SEEN.items()),
    ]
    for name, text in tables.items():
        missing = [m for m in walkers() if m not in methods_for(TASKS[name])]
        parts += [
            f"## {TASKS[name].title}",
            f"![{TASKS[name].title}: each method's pictures](gallery/{name}.jpg)",
            text,
            f"Not for this: {', '.join(missing)}." if missing else "",
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


# ------------------------------------------------------------------------------------------------ the command


def chosen_by(only: str, tasks: Collection[str] = tuple(TASKS)) -> tuple[set[str], set[str]]:
    """Methods and tasks named, separated by commas; all of a kind of which none is. RequestError for other names."""
    names = {name for name in only.split(",") if name}
    methods = {AUTO, *walkers()}
    for name in names - methods - set(tasks):
        raise unknown("method or task", name, (*walkers(), AUTO, *tasks))
    return (names & methods) or methods, (names & set(tasks)) or set(tasks)


def publish(
    everything: Sequence[Cell], rows: Mapping[str, dict[str, Any]], tasks: Collection[str], runs: Path, out: Path,
    lpips: Lpips | None,
) -> None:  # fmt: skip
    """Sheets of what is there into runs; the page, and its sheets, into out where nothing is missing."""
    size = everything[0].common["size"]
    complete = all(cell.file in rows for cell in everything)
    tables = {}
    for task in TASKS:
        there: dict[str, dict[str, dict[str, Any]]] = {}
        for cell in everything:
            if cell.task == task and cell.file in rows:
                there.setdefault(cell.method, {})[cell.photo] = rows[cell.file]
        if not there or not (complete or task in tasks):
            continue
        columns, scores = columns_of(task, there, runs, size, lpips)
        drawn = sheet(columns, size)
        write_jpeg(drawn, runs / f"{task}.jpg")
        tables[task] = table(scores)
        if complete:
            (out / "gallery").mkdir(parents=True, exist_ok=True)
            write_jpeg(drawn, out / "gallery" / f"{task}.jpg")
    if complete:
        (out / "gallery.md").write_text(page(tables, size), encoding="utf-8")
    for name, text in tables.items():
        print(f"{TASKS[name].title}\n\n{text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, a thread each")
    parser.add_argument(
        "--only", default="", help="names of methods, of tasks, or of both, with commas between"
    )
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side, a multiple of 4")
    parser.add_argument("--prior", default="natural")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fresh", action="store_true", help="restore again what is there already")
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--lpips-weights", type=Path, help="default: as invdiff.evaluation.lpips looks")
    parser.add_argument("--dry-run", action="store_true", help="say what is left to do, and stop")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        methods, tasks = chosen_by(options.only)
        prior = _prior(options.prior, options.device)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        found = options.lpips_weights or (LPIPS_WEIGHTS if LPIPS_WEIGHTS.is_dir() else None)
        lpips = Lpips("squeeze", weights=found)
    except RequestError as error:
        lpips = None
        print(f"no LPIPS: {error}", file=sys.stderr)
    common = {
        "prior": options.prior, "checksum": prior.card.checksum, "device": options.device, "size": options.size,
    }  # fmt: skip
    everything = cells(common)
    options.runs.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options.runs)
    wanted = [cell for cell in everything if cell.method in methods and cell.task in tasks]
    left = [cell for cell in wanted if options.fresh or cell.file not in rows]
    if left:
        once = speed(prior, options.size, options.device)
        needs = {
            cell.file: evaluations(cell.task, cell.method) * once[METHODS[cell.settings["name"]].gradient]
            for cell in left
        }
        left.sort(key=lambda cell: needs[cell.file])
        total = sum(needs.values()) / options.jobs
        print(
            f"{len(left)} of {len(wanted)} pictures to restore, {1000 * once[False]:.0f} ms an evaluation, "
            f"{1000 * once[True]:.0f} with its gradient: about {total / 60:.0f} minutes of {options.jobs} processes",
            file=sys.stderr,
        )
    if options.dry_run:
        return 0
    for done, row in enumerate(worked(restored, [(cell, options.runs) for cell in left], options.jobs), 1):
        append(options.runs / "rows.jsonl", row)
        rows[row["file"]] = row
        print(
            f"[{done}/{len(left)}] {row['task']} {row['photo']} {row['method']}: {row['evaluations']} evaluations, "
            f"{row['seconds']:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    publish(everything, rows, tasks, options.runs, options.out, lpips)
    return 0


if __name__ == "__main__":
    sys.exit(main())
