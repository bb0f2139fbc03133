"""No NaN, no infinity: every method with 10 to 1000 steps, in float32 and bfloat16.

    python experiments/quality/robustness.py [--jobs 2] [--only METHOD,TASK,...] [--fresh]

The five tasks of the gallery (experiments/figures/gallery.py) on one photograph of 64², the prior `natural`, every
setting but the steps as `restore(method=NAME)` has it. A cell may take 2,000 network evaluations: where it would take
more, what a method repeats at each step (`REPEATED`) is repeated less often, which the table says.

A row is written to --out as it is finished, and the table beside it as .md; a run that was stopped goes on from there.
After a change of the code itself say --fresh. Exit code 1 where a result is not finite.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "figures"))

import gallery

import invdiff
from invdiff.catalog import METHODS
from invdiff.errors import RequestError
from invdiff.evaluation import psnr
from invdiff.restore import choose_method

SIZE = 64
PHOTO = "coffee"
STEPS = (10, 30, 100, 300, 1000)
PRECISIONS = ("float32", "bfloat16")
EVALUATIONS = 2000
"""Of the network, in one cell, at most."""


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """What a method does several times at each step: how often, and the settings for another number."""

    word: str
    times: Callable[[Any], int]
    settings: Callable[[int], dict[str, Any]]


REPEATED: dict[str, Repeated] = {
    "smc": Repeated(word="particles", times=lambda m: m.particles, settings=lambda n: {"particles": n}),
    "daps": Repeated(word="ode_steps", times=lambda m: m.ode_steps, settings=lambda n: {"ode_steps": n}),
    "repaint": Repeated(word="repeats", times=lambda m: m.repeats, settings=lambda n: {"repeats": n}),
    "score_ald": Repeated(
        word="corrections",
        times=lambda m: getattr(m.solver, "corrections", 1),
        settings=lambda n: {"integrator": f"annealed_langevin:corrections={n}"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One restoration. options: what is set beside the method's own defaults."""

    task: str
    method: str
    steps: int
    precision: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    """All, resolved."""
    common: Mapping[str, Any]

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def cells(
    common: Mapping[str, Any], methods: Collection[str], tasks: Iterable[str], steps: Iterable[int]
) -> list[Cell]:
    found = []
    for task in tasks:
        op = gallery.TASKS[task].operator(common["size"])
        for method in gallery.methods_for(gallery.TASKS[task], common["size"]):
            for n in steps if method in methods else ():
                options = affordable(task, method, n)
                chosen, _ = choose_method(op, method, gallery.TASKS[task].sigma_y, steps=n, options=options)
                found += [
                    Cell(
                        task=task, method=method, steps=n, precision=precision, options=options,
                        settings=asdict(chosen), common=common,
                    )
                    for precision in PRECISIONS
                ]  # fmt: skip
    return found


def affordable(task: str, method: str, steps: int) -> dict[str, Any]:
    """The options that keep a cell within EVALUATIONS; a travel longer than the walk is made shorter too."""
    op, sigma_y = gallery.TASKS[task].operator(24), gallery.TASKS[task].sigma_y
    usual: Any = choose_method(op, method, sigma_y)[0]
    options: dict[str, Any] = {}
    if usual.repeats > 1 and usual.jump >= steps:
        options["jump"] = max(1, steps // 2)
    if method in REPEATED:
        own = REPEATED[method]
        times = own.times(usual)
        once = needed(task, method, steps) / times
        if once * times > EVALUATIONS:
            options |= own.settings(max(1, int(EVALUATIONS / once)))
    return options


def needed(task: str, method: str, steps: int, options: Mapping[str, Any] | None = None) -> float:
    """Evaluations of one sample, as many for each step as a short walk has."""
    op, sigma_y = gallery.TASKS[task].operator(24), gallery.TASKS[task].sigma_y
    short = max(10, 2 * choose_method(op, method, sigma_y)[0].jump)
    counted = gallery.evaluations(task, method, tuple({**(options or {}), "steps": short}.items()))
    return counted * steps / short


@cache
def _prior(name: str, precision: str) -> Any:
    return invdiff.load_prior(name, precision=precision)


def tried(cell: Cell) -> dict[str, Any]:
    """The row of one restoration. Whatever goes wrong is its finding."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    task = gallery.TASKS[cell.task]
    x = gallery.photograph(PHOTO, cell.common["size"])
    op, y = gallery.measure(task, x)
    row: dict[str, Any] = {"cell": json.loads(cell.key), "error": "", "low": None, "high": None, "psnr": None}
    began = time.process_time()
    try:
        result = invdiff.restore(
            y, op, _prior(cell.common["prior"], cell.precision), method=cell.method, sigma_y=task.sigma_y,
            steps=cell.steps, options=cell.options, seed=gallery.SEED,
        )  # fmt: skip
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
    else:
        low, high = (float(v) for v in torch.aminmax(result.samples))
        score = float(psnr(result.samples[0].clip(0, 1), x))
        row |= {"low": low, "high": high, "psnr": score, "evaluations": result.evaluations}
    return {**row, "seconds": time.process_time() - began}


def read_rows(file: Path) -> dict[str, dict[str, Any]]:
    """Cell → row; a line that was cut off by a kill is passed over."""
    rows = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[json.dumps(row["cell"], sort_keys=True)] = row
    return rows


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown, a table for each task: PSNR in float32 and bfloat16 at each number of steps, and the range of all."""
    rows = list(rows)
    steps = sorted({row["cell"]["steps"] for row in rows})
    parts = []
    for task in dict.fromkeys(row["cell"]["task"] for row in rows):
        lines = [
            f"| {task}: method | {' | '.join(map(str, steps))} | range | repeated less |",
            f"|---|{'---|' * len(steps)}---|---|",
        ]
        own = [row for row in rows if row["cell"]["task"] == task]
        for method in dict.fromkeys(row["cell"]["method"] for row in own):
            its = [row for row in own if row["cell"]["method"] == method]
            at = {(row["cell"]["steps"], row["cell"]["precision"]): row for row in its}
            scores = [" / ".join(_score(at.get((n, precision))) for precision in PRECISIONS) for n in steps]
            ends = [row for row in its if not row["error"]]
            span = (
                f"{min(row['low'] for row in ends):.2f} to {max(row['high'] for row in ends):.2f}"
                if ends
                else ""
            )
            less = {
                row["cell"]["steps"]: ", ".join(f"{k} {v}" for k, v in row["cell"]["options"].items())
                for row in its
                if row["cell"]["options"]
            }
            words = "; ".join(f"{n}: {how}" for n, how in less.items())
            lines.append(f"| {method} | {' | '.join(scores)} | {span} | {words} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _score(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return "**failed**" if row["error"] else f"{row['psnr']:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, a thread each")
    parser.add_argument(
        "--only", default="", help="names of methods, of tasks, or of both, with commas between"
    )
    parser.add_argument("--steps", default=",".join(map(str, STEPS)), help="default: %(default)s")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side, a multiple of 4")
    parser.add_argument("--prior", default="natural")
    parser.add_argument("--fresh", action="store_true", help="forget the rows in --out")
    parser.add_argument("--out", type=Path, default=Path("results/robustness.jsonl"))
    parser.add_argument("--dry-run", action="store_true", help="say what is left to do, and stop")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        methods, tasks = gallery.chosen_by(options.only)
        priors = {precision: _prior(options.prior, precision) for precision in PRECISIONS}
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    common = {"prior": options.prior, "checksum": priors["float32"].card.checksum, "size": options.size}
    steps = [int(n) for n in options.steps.split(",")]
    wanted = cells(
        common,
        [name for name in gallery.walkers() if name in methods],
        [t for t in gallery.TASKS if t in tasks],
        steps,
    )
    if options.fresh:
        options.out.unlink(missing_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options.out)
    left = [cell for cell in wanted if cell.key not in rows]
    if left:
        once = {precision: gallery.speed(prior, options.size) for precision, prior in priors.items()}
        needs = {
            cell.key: needed(cell.task, cell.method, cell.steps, cell.options)
            * once[cell.precision][METHODS[cell.method].gradient]
            for cell in left
        }
        left.sort(key=lambda cell: needs[cell.key])
        print(
            f"{len(left)} of {len(wanted)} restorations to do: about {sum(needs.values()) / options.jobs / 60:.0f} "
            f"minutes of {options.jobs} processes, each alone on a core",
            file=sys.stderr,
        )
    if options.dry_run:
        return 0
    for done, row in enumerate(gallery.worked(tried, [(cell,) for cell in left], options.jobs), 1):
        gallery.append(options.out, row)
        cell = row["cell"]
        rows[json.dumps(cell, sort_keys=True)] = row
        said = row["error"] or f"{row['low']:.2f} to {row['high']:.2f}, {row['psnr']:.1f} dB"
        print(
            f"[{done}/{len(left)}] {cell['task']} {cell['method']} {cell['steps']} {cell['precision']}: {said}, "
            f"{row['seconds']:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    found = [rows[cell.key] for cell in wanted]
    wrong = [row for row in found if row["error"]]
    text = (
        f"{table(found)}\n\nPSNR in dB, float32 / bfloat16; {options.size}² pixels, one sample, at most {EVALUATIONS} "
        f"evaluations.\nNot finite, or not done: {len(wrong)} of {len(found)}.\n"
    )
    text += "".join(f"* {json.dumps(row['cell'], sort_keys=True)}: {row['error']}\n" for row in wrong)
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
