"""docs/exactness.md: the page, its tables and its figures, from the records of a study."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invdiff.evaluation.metrics import paired

Records = Mapping[tuple[str, str, str], Mapping[str, Any]]
MEASURES = ("wasserstein", "mean", "covariance")
EXACT = "exact draws"
BESIDE = 3.0
"""Standard errors beyond which ours counts as worse than a peer's."""


def write(study: Any, found: Records, folder: Path) -> Path:
    """folder/exactness.md, and the figures in folder/exactness/."""
    figures, page = folder / "exactness", folder / "exactness.md"
    figures.mkdir(parents=True, exist_ok=True)
    heat_map(study, found, figures / "distance.png", "distance")
    heat_map(study, found, figures / "coverage.png", "coverage")
    curves(study, found, figures / "convergence.png")
    text = (Path(__file__).parent / "page.md").read_text(encoding="utf-8")
    parts = {
        "settings": settings(study),
        "problems": problems(study),
        "peers": "\n".join(beside(study, found, measure) for measure in MEASURES),
        "verdict": verdict(study, found),
        "tables": "\n".join(table(study, found, problem) for problem in study.problems),
    }
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    page.write_text(filled(text, found), encoding="utf-8")
    return page


def filled(text: str, found: Records) -> str:
    """{problem | row | measure} replaced by its figure; coverage of the 80 % interval in per cent."""

    def figure(match: re.Match[str]) -> str:
        problem, row, measure = (part.strip() for part in match[1].split("|"))
        record = found.get(("methods", problem, row))
        if record is None or "error" in record:
            return "–"
        if measure == "coverage":
            if "shares" not in record:
                return "–"
            return f"{100 * record['shares'][1][0]:.0f} %"
        return short(paired(record[measure])[0])

    return re.sub(r"\{([^{}\n]*\|[^{}\n]*\|[^{}\n]*)\}", figure, text)


# Tables


def settings(study: Any) -> str:
    lines = ["| row | method | settings that are not its own |", "|---|---|---|"]
    for name, entry in study.methods.items():
        said = ", ".join(f"{key} {value}" for key, value in entry.options.items())
        lines.append(f"| {name} | {entry.method} | {said or '–'} |")
    return "\n".join(lines)


def problems(study: Any) -> str:
    lines = ["| problem | prior | values | operator | σ_y |", "|---|---|---|---|---|"]
    for name, problem in study.problems.items():
        prior = study.priors[problem.prior]
        count = f", {prior.count}" if prior.kind in ("modes", "pictures") else ""
        size = " × ".join(str(side) for side in prior.shape[1:])
        said = problem.operator if isinstance(problem.operator, str) else _said(problem.operator)
        lines.append(f"| {name} | {prior.kind}{count} | {size} | {said} | {problem.sigma_y:g} |")
    return "\n".join(lines)


def _said(operator: Mapping[str, Any]) -> str:
    ((name, keys),) = operator.items()
    return f"{name}: " + ", ".join(f"{key} {value}" for key, value in keys.items())


def table(study: Any, found: Records, problem: str) -> str:
    """All that was measured on a problem."""
    lines = [
        f"### {problem}\n",
        "| method | mean | covariance | Wasserstein | wrong mode | 50 % | 80 % | 95 % | evaluations | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (EXACT, *study.methods):
        record = found.get(("methods", problem, name))
        if record is None:
            continue
        if "error" in record:
            lines.append(f"| {name} | {record['error']} |" + " |" * 8)
            continue
        cells = [
            *(number(record, measure) for measure in ("mean", "covariance", "wasserstein", "modes")),
            *(
                f"{100 * share:.1f} ± {100 * error:.1f}"
                for share, error in record.get("shares", [(math.nan, 0.0)] * 3)
            ),
            f"{record['evaluations']:.0f}",
            f"{1000 * record['seconds'] / record['draws'] / study.measurements:.2f}",
        ]
        lines.append(f"| {name} | " + " | ".join("" if "nan" in cell else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def number(record: Mapping[str, Any], measure: str) -> str:
    """With its standard error and, in brackets, what as many exact draws score; in italics where it has neither."""
    mean, error = paired(record[measure])
    if record["propagated"] and measure in ("mean", "covariance"):
        return f"*{short(mean)}*"
    return f"{short(mean)} ± {short(error)} ({short(record['floor'][measure])})" if record[measure] else ""


def short(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.3g}"


def beside(study: Any, found: Records, measure: str) -> str:
    """Ours / theirs, problem by problem."""
    names = list(dict.fromkeys(problem for table, problem, _ in found if table == "theirs"))
    lines = [
        f"**{'Wasserstein' if measure == 'wasserstein' else measure.capitalize()}**, ours / theirs:\n",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        f"| {EXACT} | " + " | ".join(number(found["methods", n, EXACT], measure) for n in names) + " |",
    ]
    for peer in study.peers:
        cells = [_pair(found, problem, peer, measure) for problem in names]
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _pair(found: Records, problem: str, peer: str, measure: str) -> str:
    ours, theirs = (found.get((side, problem, peer)) for side in ("ours", "theirs"))
    if ours is None or theirs is None:
        return ""
    if "error" in theirs:
        return f"{short(paired(ours[measure])[0])} / fails"
    mark = {1: " **worse**", -1: " ✓", 0: ""}[compared(found, problem, peer, measure)]
    return " / ".join(short(paired(side[measure])[0]) for side in (ours, theirs)) + mark


def compared(found: Records, problem: str, peer: str, measure: str) -> int:
    """1: ours is worse beyond Monte-Carlo error, −1: better, 0: neither.

    The error of a difference is that of its mean over measurements, and what exact draws scatter by.
    """
    ours, theirs, exact = (
        found[key][measure]
        for key in (("ours", problem, peer), ("theirs", problem, peer), ("methods", problem, EXACT))
    )
    difference, error = paired([a - b for a, b in zip(ours, theirs, strict=True)])
    bound = BESIDE * math.hypot(error, 2**0.5 * paired(exact)[1])
    return 0 if abs(difference) <= bound else int(math.copysign(1, difference))


def verdict(study: Any, found: Records) -> str:
    """What comes of it: counts, and each case in which ours is worse."""
    pairs = [
        (peer, problem)
        for table, problem, peer in found
        if table == "theirs" and "error" not in found[table, problem, peer]
    ]
    results = {
        (peer, problem, m): compared(found, problem, peer, m) for peer, problem in pairs for m in MEASURES
    }
    better, worse = (sum(result == sign for result in results.values()) for sign in (-1, 1))
    text = (
        f"Of {len(results)} comparisons ours is better in {better}, within Monte-Carlo error in "
        f"{len(results) - better - worse}, worse in {worse}"
    )
    cases = [f"{peer} on {problem} ({measure})" for (peer, problem, measure), r in results.items() if r == 1]
    return text + (": " + "; ".join(cases) if cases else "") + "."


# Figures


def heat_map(study: Any, found: Records, file: Path, what: str) -> None:
    """Methods by problems: the distance, or the coverage of the 80 % intervals."""
    from matplotlib import colors

    plt = _pyplot()
    rows = [EXACT, *study.methods]
    columns = [p for p, posed in study.problems.items() if what != "coverage" or posed.coverage]
    values = [[_shown(found.get(("methods", p, row)), what) for p in columns] for row in rows]
    figure, axes = plt.subplots(figsize=(2.6 + 0.62 * len(columns), 1.9 + 0.27 * len(rows)))
    if what == "coverage":
        scale: Any = colors.Normalize(0.3, 1.0)
        scale, colour, label = colors.TwoSlopeNorm(0.8, 0.0, 1.0), "RdBu", "share of truths inside"
        title = "How often 80 % intervals hold the truth"
    else:
        scale, colour, label = colors.LogNorm(0.05, 2, clip=True), "YlOrRd", "posterior standard deviations"
        title = "Sliced Wasserstein distance to the posterior, beyond Monte-Carlo error"
    shown = axes.imshow(values, norm=scale, cmap=colour, aspect="auto")
    axes.set_facecolor("#eeeeee")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if not math.isnan(value):
                dark = abs(value - 0.8) > 0.45 if what == "coverage" else value > 0.7
                text = f"{value:.2f}" if value < 9.95 else f"{value:.0f}"
                axes.text(
                    j, i, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black"
                )
    axes.set_title(title, fontsize=11)
    axes.tick_params(length=0, labelsize=8.5)
    figure.colorbar(
        shown, label=label, fraction=0.025, pad=0.015, extend="both" if what != "coverage" else "neither"
    )
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _shown(record: Mapping[str, Any] | None, what: str) -> float:
    if record is None or "error" in record or (what == "coverage" and "shares" not in record):
        return math.nan
    if what == "coverage":
        return record["shares"][1][0]
    return max(paired(record["wasserstein"])[0] ** 2 - record["floor"]["wasserstein"] ** 2, 0.0) ** 0.5


NAMES = {
    "mean": "mean's error",
    "covariance": "covariance's relative error",
    "wasserstein": "Wasserstein distance",
    "modes": "share of samples on wrong modes",
}


def curves(study: Any, found: Records, file: Path) -> None:
    """Error against steps or particles, a panel for each curve of the study."""
    if not study.curves:
        return
    plt = _pyplot()
    figure, panels = plt.subplots(1, len(study.curves), figsize=(4.6 * len(study.curves), 3.8), squeeze=False)
    for axes, (title, curve) in zip(panels[0], study.curves.items(), strict=True):
        for name in curve.lines:
            points = [found[title, str(value), name] for value in curve.values]
            means, errors = zip(
                *(paired(p[curve.measure]) if "error" not in p else (math.nan, 0.0) for p in points),
                strict=True,
            )
            bars = None if any(p.get("propagated") for p in points) else errors
            if bars:
                floor = [p.get("floor", {}).get(curve.measure, math.nan) for p in points]
                axes.plot(curve.values, floor, color="0.6", linestyle=":", linewidth=1)
            axes.errorbar(curve.values, means, yerr=bars, marker="o", markersize=4, capsize=2, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(curve.values, [str(value) for value in curve.values])
        axes.set_xlabel(curve.over)
        axes.set_ylabel(NAMES[curve.measure])
        axes.set_title(f"{title}: {curve.problem}", fontsize=10)
        axes.set_ylim(top=min(axes.get_ylim()[1], 20.0))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt
