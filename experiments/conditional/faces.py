"""Faces, 16² to 64²: SR3's conditional model against bicubic interpolation and the zero-shot methods with a prior.

    python experiments/conditional/faces.py [--count 200] [--prior celeba64] [--model celeba64-sr4] [--device cuda]

The pictures of eval/celeba-val-200.zip (in $INVDIFF_DATA), cut and reduced as the training data are, measured by
Downsample(4), bicubic, without rounding. Every method has the settings that `restore(method=NAME)` starts from, and
those of its paper where these are others (--slow: DPS's 1000 steps too).

What is restored goes to OUT/restored, some pictures at a time, and is taken from there when nothing that decides it has
changed: a run that was stopped goes on. After a change of the code itself say --fresh. Seconds are of one process, one
batch for each method in turn, after everything is restored: on a CPU the process's own on one thread, elsewhere those
of the wall clock. Writes OUT/faces.md, faces.json and a sheet, faces.png. Exit code 1 where a check does not hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1] / "figures"))

import gallery

import invdiff
from invdiff import operators
from invdiff.catalog import METHODS
from invdiff.errors import RequestError
from invdiff.evaluation import Lpips, baselines, paired, psnr, ssim
from invdiff.images import atomic
from invdiff.methods.streams import checksum
from invdiff.operators import Operator
from invdiff.priors.network import resolve_device
from invdiff.restore import choose_method
from invdiff.training.data import load_pictures
from invdiff.training.recipe import Data

FACTOR = 4
SEED = 0
SHOWN = 6
"""Faces on the sheet."""


def faces(data: Path, count: int) -> Tensor:
    """The first validation faces, (count, 3, 64, 64), image units, made as the training data are."""
    held = Data(
        train=["eval/celeba-val-200.zip"],
        root=str(data),
        crop=64,
        square=64,
        validation=0,
        validation_crop=64,
    )
    pictures = load_pictures(held, 3).train[:count]
    return torch.stack(pictures).float() / 255


# ------------------------------------------------------------------------------------------------ what is compared


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a table: a method with its settings. sees: on the model, which sees y, or on the prior."""

    title: str
    method: str
    """Of METHODS, or bicubic."""
    sees: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    """What counts is their mean."""


ENTRIES: tuple[Entry, ...] = (
    Entry(title="bicubic", method="bicubic"),
    Entry(title="SR3", method="sr3", sees=True),
    Entry(title="SR3, mean of eight", method="sr3", sees=True, samples=8),
    *(Entry(title=title, method=title.lower()) for title in ("DPS", "DDRM", "DDNM", "DiffPIR", "MMPS")),
)

PUBLISHED: dict[str, dict[str, Any]] = {
    "ddrm": {"steps": 20, "sigma_max": 10.0, "eta": 0.85, "eta_b": 1.0},
    "ddnm": {"steps": 100, "sigma_max": 10.0, "eta": 0.85},
    "diffpir": {"steps": 100, "sigma_max": 10.0, "weight": 1.0, "zeta": 0.1},
    "dps": {"steps": 1000, "sigma_max": 10.0, "zeta": 0.3},
}
"""Settings of the papers' released code for super-resolution, on our grid (docs/methods.md)."""

SLOW = ("dps",)


def entries(op: Operator, slow: bool = False) -> list[Entry]:
    """Those above, and those with their published settings where these are others than ours."""
    found: list[Entry] = []
    for entry in ENTRIES:
        found.append(entry)
        options = PUBLISHED.get(entry.method)
        if options is None or (entry.method in SLOW and not slow):
            continue
        ours, theirs = (choose_method(op, entry.method, options=given)[0] for given in (None, options))
        if ours != theirs:
            found.append(dataclasses.replace(entry, title=f"{entry.title}, published", options=options))
    return found


@dataclass(frozen=True, kw_only=True)
class Study:
    """Pictures and their measurements, what restores them, and where that is kept.

    priors: by Entry.sees. batch: pictures (or samples) that go through the network together, for every method.
    """

    truth: Tensor
    """(N, C, H, W), image units."""
    priors: Mapping[bool, Any]
    runs: Path
    batch: int = 8
    device: str = "cpu"
    precision: str = "float32"

    @property
    def operator(self) -> Operator:
        return operators.Downsample(FACTOR, tuple(self.truth.shape[1:]))  # type: ignore[arg-type]  # (C, H, W)

    @property
    def y(self) -> Tensor:
        return self.operator.A(self.truth)

    def solved(self, entry: Entry, y: Tensor) -> tuple[Tensor, int]:
        """What it makes of y, (B, C, H, W), unclipped, and its network evaluations for a picture."""
        _, height, width = self.operator.in_shape
        if entry.method == "bicubic":
            enlarged = [baselines.bicubic(one, FACTOR, height, width).image for one in y]
            return torch.from_numpy(np.stack(enlarged)).float(), 0
        result = invdiff.restore(
            y, self.operator, self.priors[entry.sees], method=entry.method, options=entry.options,
            samples=entry.samples, seed=SEED, batch=self.batch, device=self.device,
        )  # fmt: skip
        return result.mean.cpu(), result.evaluations * entry.samples

    def cells(self, entry: Entry) -> list[tuple[slice, str]]:
        """Some pictures at a time: which, and the file for what is made of them, named after all that decides it."""
        settings: dict[str, Any] = {}
        if entry.method != "bicubic":
            chosen, _ = choose_method(self.operator, entry.method, options=entry.options)
            card = self.priors[entry.sees].card
            settings = {
                **dataclasses.asdict(chosen), "prior": card.checksum or card.name, "samples": entry.samples,
                "device": self.device, "precision": self.precision,
            }  # fmt: skip
        y, found = self.y, []
        for first in range(0, len(y), self.batch):
            rows = slice(first, min(first + self.batch, len(y)))
            words = json.dumps([entry.method, settings, checksum(y[rows])], sort_keys=True)
            found.append((rows, f"{entry.method}-{hashlib.sha256(words.encode()).hexdigest()[:16]}.npy"))
        return found

    def restore(self, entries: Iterable[Entry], fresh: bool = False) -> None:
        """Whatever is not there yet, or with `fresh` all; how far it is goes to standard error."""
        self.runs.mkdir(parents=True, exist_ok=True)
        done = {} if fresh else gallery.read_rows(self.runs)
        for kept in self.runs.glob("seconds-*.json") if fresh else ():
            kept.unlink()
        cells = {file: (entry, rows) for entry in entries for rows, file in self.cells(entry)}
        left = [(entry, rows, file) for file, (entry, rows) in cells.items() if file not in done]
        y = self.y
        for number, (entry, rows, file) in enumerate(left, 1):
            began = time.perf_counter()
            pictures, evaluations = self.solved(entry, y[rows])
            with atomic(self.runs / file) as part, part.open("wb") as out:
                np.save(out, pictures.numpy())
            gallery.append(self.runs / "rows.jsonl", {"file": file, "evaluations": evaluations})
            print(
                f"[{number}/{len(left)}] {entry.title}: pictures {rows.start + 1} to {rows.stop}, "
                f"{evaluations} evaluations each, {time.perf_counter() - began:.1f} s",
                file=sys.stderr,
                flush=True,
            )

    def found(self, entry: Entry) -> tuple[Tensor, int]:
        """The restored pictures, (N, C, H, W), and network evaluations for each."""
        rows, files = gallery.read_rows(self.runs), [file for _, file in self.cells(entry)]
        pictures = torch.cat([torch.from_numpy(np.load(self.runs / file)) for file in files])
        return pictures, rows[files[0]]["evaluations"]

    def seconds(self, entries: Sequence[Entry]) -> dict[str, float]:
        """Title → seconds for a picture, restoring the first batch by each; kept for these entries as they are."""
        files = [file for entry in entries for _, file in self.cells(entry)]
        key = hashlib.sha256("\n".join([str(self.batch), *files]).encode()).hexdigest()[:16]
        kept = self.runs / f"seconds-{key}.json"
        if kept.is_file():
            found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
            return found
        y, found = self.y[: self.batch], {}
        for entry in entries:
            self.solved(dataclasses.replace(entry, options={**entry.options, **_short(entry)}, samples=1), y)
            began = self._clock()
            self.solved(entry, y)
            found[entry.title] = (self._clock() - began) / len(y)
            print(f"{entry.title}: {found[entry.title]:.3f} s a picture", file=sys.stderr, flush=True)
        with atomic(kept) as part:
            part.write_text(json.dumps(found), encoding="utf-8")
        return found

    def _clock(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.process_time() if self.device == "cpu" else time.perf_counter()


def _short(entry: Entry) -> dict[str, Any]:
    """Settings for a run before the clock starts, which leaves nothing to be made for the first time."""
    return {"steps": 2} if entry.method in METHODS else {}


# ------------------------------------------------------------------------------------------------ scores and tables


def scores(pictures: Tensor, study: Study, lpips: Any) -> dict[str, list[float]]:
    """One number for each picture (N, C, H, W): psnr, ssim and lpips, clipped to [0, 1] as a file would be; unclipped
    consistency, the RMS of A x̂ − y, and the mean over channels of how far the mean colour is from the truth's, and that
    of A x̂ from y's."""
    clipped, truth, y = pictures.clip(0, 1), study.truth, study.y
    again = study.operator.A(pictures)

    def colours(a: Tensor, b: Tensor) -> Tensor:
        return (a.mean(dim=(2, 3)) - b.mean(dim=(2, 3))).abs().mean(dim=1)

    found = {
        "psnr": psnr(clipped, truth),
        "ssim": ssim(clipped, truth),
        "lpips": torch.cat([lpips(a, b) for a, b in zip(clipped.split(32), truth.split(32), strict=True)]),
        "consistency": (again - y).square().mean(dim=(1, 2, 3)).sqrt(),
        "colour": colours(pictures, truth),
        "colour of A x̂": colours(again, y),
    }
    return {name: [round(value, 7) for value in values.tolist()] for name, values in found.items()}


FORMATS = {
    "psnr": ("PSNR, dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "lpips": ("LPIPS", ".4f"),
    "consistency": ("consistency", ".5f"),
    "colour": ("colour error", ".4f"),
    "colour of A x̂": ("against y", ".4f"),
    "seconds": ("seconds", ".3f"),
    "evaluations": ("evaluations", ".0f"),
    "speed": ("images/s in training", ".1f"),
    "trained": ("trained parameters", ",.0f"),
}
"""Column → its title, and how its numbers are written."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table. each: score → one number for each picture; more: what there is one of."""

    title: str
    each: Mapping[str, Sequence[float]]
    more: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        """A score's mean over the pictures, or what there is one of."""
        return self.more[name] if name in self.more else float(np.mean(self.each[name]))


def table(rows: Sequence[Row], columns: Sequence[str], first: str = "method") -> str:
    """Markdown."""
    lines = [
        f"| {first} | {' | '.join(FORMATS[name][0] for name in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row in rows:
        numbers = [format(row[name], FORMATS[name][1]) if _has(row, name) else "–" for name in columns]
        lines.append(f"| {row.title} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _has(row: Row, name: str) -> bool:
    return name in row.more or name in row.each


def checks(rows: Mapping[str, Row], zero_shot: Iterable[str]) -> list[tuple[str, bool, str]]:
    """(what is to hold, whether it does, the numbers). rows: by title."""
    bicubic, one, mean = (rows[title] for title in ("bicubic", "SR3", "SR3, mean of eight"))
    less = 1 - one["lpips"] / bicubic["lpips"]
    more, error = paired([a - b for a, b in zip(mean.each["psnr"], bicubic.each["psnr"], strict=True)])
    better = [
        title
        for title in zero_shot
        if rows[title]["lpips"] < one["lpips"] and rows[title]["seconds"] < one["seconds"]
    ]
    return [
        (
            "one SR3 sample has at least 30 % lower LPIPS than bicubic",
            less >= 0.3,
            f"{100 * less:.0f} % lower, {one['lpips']:.4f} against {bicubic['lpips']:.4f}",
        ),
        (
            "the mean of eight is at least 1 dB above bicubic",
            more >= 1,
            f"{more:+.2f} ± {error:.2f} dB, {mean['psnr']:.2f} against {bicubic['psnr']:.2f}",
        ),
        (
            "no zero-shot method is better in both LPIPS and seconds",
            not better,
            ", ".join(better) if better else "none is",
        ),
    ]


def sheet(study: Study, entries: Sequence[Entry]) -> Any:
    """The first faces, a column for each method, PSNR beneath."""
    names = [str(i) for i in range(min(SHOWN, len(study.truth)))]
    small = dict(zip(names, study.y, strict=False))
    truth = dict(zip(names, study.truth, strict=False))
    columns = [
        gallery.Column(title="truth", pictures=truth, captions={}),
        gallery.Column(title="measured", pictures=small, captions={}),
    ]
    for entry in entries:
        pictures, _ = study.found(entry)
        restored = dict(zip(names, pictures, strict=False))
        said = {name: f"{float(psnr(restored[name].clip(0, 1), truth[name])):.1f} dB" for name in names}
        columns.append(
            gallery.Column(title=entry.title.replace("published", "publ."), pictures=restored, captions=said)
        )
    return gallery.sheet(columns, 2 * study.truth.shape[-1])


# ------------------------------------------------------------------------------------------------ the commands


def parser(doc: str | None, out: str, count: int) -> argparse.ArgumentParser:
    """What the scripts of this folder have in common."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument(
        "--count", type=int, default=count, help="faces, the first of the 200; default: %(default)s"
    )
    found.add_argument("--prior", default="celeba64", help="a name, file or folder; default: %(default)s")
    found.add_argument("--model", default="celeba64-sr4", help="the conditional one; default: %(default)s")
    found.add_argument("--data", type=Path, default=Path(os.environ.get("INVDIFF_DATA", "../shared/data")))
    found.add_argument("--batch", type=int, default=8, help="pictures that go through the network together")
    found.add_argument("--device", default="cpu")
    found.add_argument("--precision", default="float32", help="auto, float32, bfloat16")
    found.add_argument("--lpips-weights", type=Path, help="default: as invdiff.evaluation.lpips looks")
    found.add_argument("--fresh", action="store_true", help="restore again what is there already")
    found.add_argument("--out", type=Path, default=Path(out))
    return found


def perceptual(options: argparse.Namespace) -> Lpips:
    """LPIPS (squeeze). RequestError where its weights are nowhere."""
    beside = options.data / "weights"
    return Lpips("squeeze", weights=options.lpips_weights or (beside if beside.is_dir() else None))


def study_of(options: argparse.Namespace, kinds: Iterable[bool] = (False, True)) -> Study:
    """The pictures with the prior (False), the model (True), or both. RequestError for what is not there."""
    warnings.simplefilter("ignore", UserWarning)
    options.device = str(resolve_device(options.device))
    if options.device == "cpu":
        torch.set_num_threads(1)
    sources = {False: options.prior, True: options.model}
    loaded = {
        kind: invdiff.load_prior(sources[kind], device=options.device, precision=options.precision)
        for kind in kinds
    }
    for kind, prior in loaded.items():
        if (prior.card.condition is not None) != kind:
            wanted = "a conditional model" if kind else "a prior, not a conditional model"
            raise RequestError(f"--{'model' if kind else 'prior'} {sources[kind]}: expected {wanted}")
    return Study(
        truth=faces(options.data, options.count),
        priors=loaded,
        runs=options.out / "restored",
        batch=options.batch,
        device=options.device,
        precision=options.precision,
    )


def write(out: Path, name: str, text: str, content: Any) -> None:
    """OUT/NAME.md and NAME.json; the text to standard output too."""
    for suffix, what in ((".md", text), (".json", json.dumps(content, indent=1) + "\n")):
        with atomic(out / f"{name}{suffix}") as part:
            part.write_text(what, encoding="utf-8")
    print(text)


def about(study: Study) -> str:
    """How the numbers of a table came about, in a few lines."""
    cards = [prior.card for prior in study.priors.values()]
    who = " and ".join(f"`{card.name}` ({card.images_seen:,} pictures seen)" for card in cards)
    where = "the process's own on one CPU thread" if study.device == "cpu" else f"on {study.device}"
    return (
        f"{len(study.truth)} faces, {study.operator.describe()}, no noise, no rounding; {who}; {study.precision}, seed "
        f"{SEED}.\nEvery sample is scored alone; scores are means over pictures. PSNR, SSIM and LPIPS (squeeze) are of "
        "what is clipped to [0, 1];\nconsistency is the RMS of A x̂ − y, colour error the mean of |mean x̂ − mean x| "
        "over pictures and channels, against y\nthat of A x̂ and y; image units. Seconds for a picture are "
        f"{where}, {study.batch} at a time through the network.\n"
    )


COLUMNS = (
    "psnr", "ssim", "lpips", "consistency", "colour", "colour of A x̂", "seconds", "evaluations",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser(__doc__, "runs/conditional", 200)
    given.add_argument("--slow", action="store_true", help="DPS with its published 1000 steps too")
    options = given.parse_args(arguments)
    try:
        study, lpips = study_of(options), perceptual(options)
        wanted = entries(study.operator, options.slow)
        study.restore(wanted, options.fresh)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = study.seconds(wanted)
    rows = []
    for entry in wanted:
        pictures, evaluations = study.found(entry)
        more = {"seconds": seconds[entry.title], "evaluations": evaluations}
        rows.append(Row(title=entry.title, each=scores(pictures, study, lpips), more=more))
    zero_shot = [entry.title for entry in wanted if entry.method in METHODS and not entry.sees]
    verdicts = checks({row.title: row for row in rows}, zero_shot)
    said = "\n".join(f"* {what}: {'yes' if holds else 'no'} ({numbers})" for what, holds, numbers in verdicts)
    settings = {
        entry.title: dataclasses.asdict(choose_method(study.operator, entry.method, options=entry.options)[0])
        for entry in wanted
        if entry.method in METHODS
    }
    write(
        options.out,
        "faces",
        f"{table(rows, COLUMNS)}\n\n{about(study)}\n{said}\n",
        {
            "settings": settings,
            "cards": {str(kind): prior.card.as_dict() for kind, prior in study.priors.items()},
            "means": {row.title: {name: row[name] for name in COLUMNS} for row in rows},
            "each": {row.title: row.each for row in rows},
            "checks": {what: holds for what, holds, _ in verdicts},
        },
    )
    with atomic(options.out / "faces.png") as part:
        sheet(study, wanted).save(part, format="PNG")
    return 0 if all(holds for _, holds, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
