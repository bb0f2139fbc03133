"""SR3 by few steps: integrators, grids, consistency, and zero-shot methods on the network that sees y.

    python experiments/conditional/steps.py [--count 64] [--model celeba64-sr4] [--evaluations 4,8,12,20,50,100]

Pictures, measurements and scores as in faces.py, and as there a run that was stopped goes on. Writes OUT/steps.md and
steps.json. Heun, which takes two evaluations for a step and one for the last, has as many as fit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

import faces

from invdiff.errors import RequestError

EVALUATIONS = (4, 8, 12, 20, 50, 100)
INTEGRATORS = ("ancestral", "ddim", "heun", "dpmpp_2m")
GRIDS = ("karras", "sr3")
PIVOTS = {"lpips": "LPIPS", "psnr": "PSNR, dB", "colour": "Mean colour error"}
BESIDE = ("psnr", "ssim", "lpips", "consistency", "colour", "colour of A x̂", "evaluations")


def steps_for(integrator: str, evaluations: int) -> int:
    """Steps of so many network evaluations at most."""
    return (evaluations + 1) // 2 if integrator == "heun" else evaluations


def walks(budgets: Sequence[int]) -> dict[tuple[str, str, int], faces.Entry]:
    """(integrator, grid, evaluations) → SR3 by these."""
    return {
        (integrator, grid, n): faces.Entry(
            title=f"{integrator}, {grid}, {n}",
            method="sr3",
            sees=True,
            options={"integrator": integrator, "grid": grid, "steps": steps_for(integrator, n)}
            if integrator != "ancestral"
            else {"grid": grid, "steps": n},  # SR3's own: what `besides` has too is not restored twice
        )
        for integrator in INTEGRATORS
        for grid in GRIDS
        for n in budgets
    }


def besides(budgets: Sequence[int]) -> list[faces.Entry]:
    """SR3 without and with `consistency`, and other methods with the same network as their prior."""
    found = [
        faces.Entry(
            title=f"SR3, {n} steps{', consistency' if consistency else ''}",
            method="sr3",
            sees=True,
            options={"steps": n, "consistency": consistency},
        )
        for n in budgets
        for consistency in (False, True)
    ]
    for method in ("ddnm", "dps"):
        for options in ({"steps": 20}, {}):
            said = "".join(f", {n} steps" for n in options.values())
            found.append(
                faces.Entry(title=f"{method}{said} on the model", method=method, sees=True, options=options)
            )
    return found


def pivot(rows: Mapping[tuple[str, str, int], faces.Row], score: str, budgets: Sequence[int]) -> str:
    """Markdown: a line for each integrator and grid, a column for each number of evaluations."""
    lines = [
        f"| {PIVOTS[score]}: integrator | grid | {' | '.join(map(str, budgets))} |",
        f"|---|---|{'---|' * len(budgets)}",
    ]
    how = faces.FORMATS[score][1]
    for integrator in INTEGRATORS:
        for grid in GRIDS:
            numbers = [format(rows[integrator, grid, n][score], how) for n in budgets]
            lines.append(f"| {integrator} | {grid} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    given = faces.parser(__doc__, "runs/conditional", 64)
    given.add_argument("--evaluations", default=",".join(map(str, EVALUATIONS)), help="default: %(default)s")
    options = given.parse_args(arguments)
    budgets = [int(n) for n in options.evaluations.split(",")]
    few, beside = walks(budgets), besides(budgets)
    bicubic = faces.Entry(title="bicubic", method="bicubic")
    wanted = [bicubic, *beside, *few.values()]
    try:
        study, lpips = faces.study_of(options, (True,)), faces.perceptual(options)
        study.restore(wanted, options.fresh)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    def row(entry: faces.Entry) -> faces.Row:
        pictures, evaluations = study.found(entry)
        each = faces.scores(pictures, study, lpips)
        return faces.Row(title=entry.title, each=each, more={"evaluations": evaluations})

    others = [row(entry) for entry in (bicubic, *beside)]
    walked = {key: row(entry) for key, entry in few.items()}
    parts = [
        *(pivot(walked, score, budgets) for score in PIVOTS),
        faces.table(others, BESIDE),
        faces.about(study).partition(" Seconds for")[0] + "\n",
    ]
    means = {r.title: {name: r[name] for name in BESIDE} for r in (*others, *walked.values())}
    faces.write(options.out, "steps", "\n\n".join(parts), {"means": means})
    return 0


if __name__ == "__main__":
    sys.exit(main())
