"""A run's tables: one for each task and data set, a line for each method; as data, as Markdown and as LaTeX.

The unit of every statistic is the picture: what several seeds gave is averaged over them first. A column's best is in
bold, and what is not significantly worse has the sign ≈ before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

from . import statistics
from .scores import METRICS
from .store import Row

Better = Literal["higher", "lower"]

TIE = "≈"
NONE = "–"
DEFAULT = ("psnr", "ssim")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A metric as a table shows it. better: which values are, None where neither is; target: where all is right."""

    name: str
    title: str
    unit: str = ""
    better: Better | None = None
    target: float | None = None
    digits: int = 3

    @property
    def heading(self) -> str:
        sign = {"higher": " ↑", "lower": " ↓"}.get(self.better or "", "")
        goal = f" → {self.target:g}" if self.target is not None else ""
        return f"{self.title}{f', {self.unit}' if self.unit else ''}{sign}{goal}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A mean over pictures. low, high: its interval; tied: not significantly worse than the best."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    best: bool = False
    tied: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method's line.

    seconds and evaluations: a picture's, means; peak_mib: the most of all. rank and groups: by the table's key metric,
    as `statistics.ranking` has them. difference and wins: to the first line, by that metric, on the pictures both have;
    wins: pictures on which this line is better, on which none is, and all of them. Both None in the first line.
    """

    name: str
    method: str
    prior: str = ""
    pictures: int
    failed: int
    cells: tuple[Cell, ...]
    seconds: float | None = None
    evaluations: float | None = None
    peak_mib: float | None = None
    rank: int | None = None
    groups: str = ""
    difference: Cell | None = None
    wins: tuple[int, int, int] | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict, repr=False)
    """Picture → the key metric, by which a gallery finds the worst."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """key: the column that lines are compared by, None where no metric tells which value is better."""

    title: str
    dataset: str
    task: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    key: int | None
    notes: tuple[str, ...]
    brief: bool = False
    """Without seconds, memory and the comparison with the first line."""

    @property
    def compared(self) -> Column | None:
        """The key column, where there are several lines to compare by it."""
        return (
            self.columns[self.key]
            if self.key is not None and len(self.lines) > 1 and not self.brief
            else None
        )


# ------------------------------------------------------------------------------------------------------- from the rows


def tables(
    rows: Iterable[Row], definition: Mapping[str, Any], whole: Iterable[Mapping[str, Any]] = ()
) -> list[Table]:
    """Of rows in the store's order, the tables in the definition's: its tasks, its data sets, its methods.

    whole: as `Store.whole` has it.
    """
    tasks, datasets = (_named(definition, key) for key in ("tasks", "datasets"))
    together = {tuple(one[axis] for axis in _WAY): one["metrics"] for one in whole}
    found = [
        _table(dataset, task, of_it, definition, together)
        for (dataset, task), of_it in groupby(rows, key=lambda row: (row.dataset, row.task))
    ]
    return sorted(found, key=lambda table: (_place(tasks, table.task), _place(datasets, table.dataset)))


_WAY = ("dataset", "task", "method", "prior")


def _table(
    dataset: str,
    task: str,
    rows: Iterable[Row],
    definition: Mapping[str, Any],
    together: Mapping[tuple[Any, ...], Mapping[str, float | None]],
) -> Table:
    collected: dict[tuple[str, str], _Collected] = {}
    for row in rows:
        collected.setdefault((row.method, row.prior), _Collected()).add(row)
    methods, priors = _named(definition, "methods"), _named(definition, "priors")
    order = sorted(collected, key=lambda pair: (_place(methods, pair[0]), _place(priors, pair[1]), pair))
    several = len({prior for _, prior in collected}) > 1
    names = {pair: ", ".join(pair) if several and pair[1] else pair[0] for pair in order}
    columns = _columns([collected[pair] for pair in order], definition)
    key = next((i for i, column in enumerate(columns) if column.better), None)
    cells: dict[tuple[str, str], list[Cell]] = {pair: [] for pair in order}
    ranked: dict[str, statistics.Ranked] = {}
    pictures = dict.fromkeys(picture for one in collected.values() for picture in one.pictures)
    for i, column in enumerate(columns):
        scored = {names[pair]: collected[pair].metric(column.name, pictures) for pair in order}
        found = _ranking(scored, column)
        for pair in order:
            cells[pair].append(_cell(found[names[pair]], column, len(order) > 1))
        if i == key:
            ranked = found
    of_all = {pair: together.get((dataset, task, *pair), {}) for pair in order}
    columns += map(column_of, dict.fromkeys(name for one in of_all.values() for name in one))
    for pair in order:
        cells[pair] += [Cell(value=of_all[pair].get(one.name)) for one in columns[len(cells[pair]) :]]
    lines = []
    for pair in order:
        one, place = collected[pair], ranked.get(names[pair])
        line: dict[str, Any] = {}
        if key is not None and place and place.summary.mean is not None:
            line = {"rank": place.rank, "groups": place.groups}
        if key is not None and pair != order[0]:
            name, higher = columns[key].name, columns[key].better == "higher"
            of = statistics.paired(
                one.metric(name, pictures), collected[order[0]].metric(name, pictures), higher=higher
            )
            line |= {"difference": Cell(value=of.difference, low=of.low, high=of.high)}
            line |= {"wins": (of.wins, of.ties, of.count)}
        lines.append(
            Line(
                name=names[pair],
                method=pair[0],
                prior=pair[1],
                pictures=len(one.pictures),
                failed=one.failed,
                cells=tuple(cells[pair]),
                seconds=one.mean("seconds"),
                evaluations=one.mean("evaluations"),
                peak_mib=one.peak_mib or None,
                scores=one.metric(columns[key].name, pictures)
                if key is not None
                else dict.fromkeys(pictures),
                **line,
            )
        )
    return Table(
        title=f"{task}, {dataset}",
        dataset=dataset,
        task=task,
        columns=tuple(columns),
        lines=tuple(lines),
        key=key,
        notes=(*_notes(columns, lines, key, definition), *_changed(collected.values())),
    )


class _Collected:
    """What the rows of one line say."""

    def __init__(self) -> None:
        self.pictures: dict[str, None] = {}
        self.failed = 0
        self.peak_mib = 0.0
        self._metrics: dict[str, list[tuple[str, float | None]]] = {}
        self._costs: dict[str, list[float]] = {"seconds": [], "evaluations": []}
        self.truths: dict[str, set[str]] = {}
        """Of each picture the files of what it was: several, where it was changed between two starts."""

    def add(self, row: Row) -> None:
        if row.status == "failed":
            self.failed += 1
            self.pictures.setdefault(row.picture)
            return
        self.pictures.setdefault(row.picture)
        if "truth" in row.files:
            self.truths.setdefault(row.picture, set()).add(row.files["truth"])
        for name, value in row.metrics.items():
            self._metrics.setdefault(name, []).append((row.picture, value))
        self._costs["seconds"].append(row.seconds)
        self._costs["evaluations"].append(row.evaluations)
        self.peak_mib = max(self.peak_mib, row.peak_mib)

    @property
    def metrics(self) -> Iterable[str]:
        return self._metrics

    def metric(self, name: str, pictures: Iterable[str]) -> dict[str, float | None]:
        there = statistics.per_picture(self._metrics.get(name, ()))
        return {picture: there.get(picture) for picture in pictures}

    def mean(self, cost: str) -> float | None:
        values = self._costs[cost]
        return math.fsum(values) / len(values) if values else None


def _ranking(scored: Mapping[str, statistics.Column], column: Column) -> dict[str, statistics.Ranked]:
    if column.better is not None:
        found = statistics.ranking(scored, higher=column.better == "higher")
        return {one.method: one for one in found}
    return {
        name: statistics.Ranked(
            method=name, rank=0, summary=statistics.summary(values.values()), groups="", best=False
        )
        for name, values in scored.items()
    }


def _cell(found: statistics.Ranked, column: Column, several: bool) -> Cell:
    of = found.summary
    best = several and column.better is not None and of.mean is not None and found.rank == 1
    return Cell(value=of.mean, low=of.low, high=of.high, best=best, tied=several and found.best and not best)


def _named(definition: Mapping[str, Any], key: str) -> dict[str, int]:
    """The names a definition has under a key, which holds them as keys or as a list, and their places."""
    return {str(name): i for i, name in enumerate(definition.get(key) or ())}


def _place(order: Mapping[str, int], name: str) -> tuple[int, str]:
    return order.get(name, len(order)), name


# --------------------------------------------------------------------------------------------------------- the columns

_SINGLE = ", average over single samples"
"""How the words of such a metric end."""
_TITLES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS (alex)",
    "lpips_vgg": "LPIPS (vgg)",
    "lpips_squeeze": "LPIPS (squeeze)",
    "fid": "FID",
    "kid": "KID",
    "coverage_50": "in 50 %",
    "coverage_80": "in 80 %",
    "coverage_95": "in 95 %",
    "z_square": "z²",
}
_DIGITS = {
    "psnr": 2,
    "consistency": 2,
    "coverage_50": 2,
    "coverage_80": 2,
    "coverage_95": 2,
    "fid": 1,
    "z_square": 2,
}


def column_of(name: str) -> Column:
    """A metric's; of an unknown one its name alone."""
    metric = METRICS.get(name)
    if metric is None:
        return Column(name=name, title=name)
    of = {"_mean": " of mean", "_best": ", best"}.get(name.removeprefix(metric.base), "")
    return Column(
        name=name,
        title=_TITLES.get(metric.base, metric.base.replace("_", " ")) + of,
        unit=metric.unit,
        better=None if metric.higher is None else "higher" if metric.higher else "lower",
        target=metric.target,
        digits=_DIGITS.get(metric.base, 3),
    )


def _columns(collected: Sequence[_Collected], definition: Mapping[str, Any]) -> list[Column]:
    """Those the definition names that some row has, then what else rows have."""
    seen = dict.fromkeys(name for one in collected for name in one.metrics)
    wanted = [str(name) for name in definition.get("metrics") or DEFAULT]
    return [column_of(name) for name in dict.fromkeys([*(n for n in wanted if n in seen), *seen])]


def _notes(
    columns: Sequence[Column], lines: Sequence[Line], key: int | None, definition: Mapping[str, Any]
) -> list[str]:
    """What one must know to read the numbers: conventions first, then what is missing."""
    seeds = len(definition.get("seeds") or (0,))
    averaged = f", each averaged over {seeds} seeds" if seeds > 1 else ""
    level = f"{statistics.LEVEL:.0%}".replace("%", " %")
    notes = [f"Means over pictures{averaged}; in brackets their {level} bootstrap intervals."]
    if key is not None and len(lines) > 1:
        notes[0] += (
            f" Bold: a column's best; {TIE}: not significantly worse than it (paired bootstrap, Holm's correction,"
            f" 5 %). Ranks are by {columns[key].title}; those that share a letter are not significantly different."
            f" Compared with {lines[0].name} on the pictures both have."
        )
    said = {one.title: METRICS[one.name].words for one in columns if one.name in METRICS}
    described = [
        words if words.startswith("LPIPS") else f"{title}: {words.removeprefix('SSIM, ')}"
        for title, words in ((title, words.removesuffix(_SINGLE)) for title, words in said.items())
        if words != title
    ]
    if described:
        notes.append(f"{'; '.join(described)}.")
    if any(words.endswith(_SINGLE) for words in said.values()):
        notes[-1] += " Of several samples each is scored alone, and the scores are averaged."
    if any(one.name.startswith(("psnr", "ssim")) for one in columns):
        colour = {"rgb": "all channels, RGB", "luma": "luma (Y of BT.601)"}.get(
            str(definition.get("colour", "rgb"))
        )
        border = definition.get("border") or 0
        cut = f", {border} pixels cut off at each side" if border else ", nothing cut off"
        notes.append(
            f"{_CONVENTIONS} of {colour or definition['colour']}{cut}; values in [0, 1], data range 1."
        )
    notes += [
        f"{line.name}: the best of {count} samples, chosen with the truth at hand."
        for line in lines
        if (count := _best_of(definition, line.method)) > 1
    ]
    notes += [f"{line.name}: {line.failed} failed, not in its means." for line in lines if line.failed]
    notes += [
        f"{line.name}: {columns[0].title} of {told} of {line.pictures} pictures."
        for line in lines
        if key == 0 and not line.failed and (told := _told(line)) < line.pictures
    ]
    return notes


def _changed(collected: Iterable[_Collected]) -> list[str]:
    """A warning where rows that are compared are of pictures that are called the same and are not."""
    truths: dict[str, set[str]] = {}
    for one in collected:
        for picture, files in one.truths.items():
            truths.setdefault(picture, set()).update(files)
    names = [picture for picture, files in truths.items() if len(files) > 1]
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [
        f"Not to be compared: {', '.join(names[:3])}{more} changed between two starts of the run; run it anew "
        "(--overwrite)."
    ]


def _best_of(definition: Mapping[str, Any], method: str) -> int:
    given = (definition.get("methods") or {}).get(method) or {}
    return int(given.get("best_of") or 1)


def _told(line: Line) -> int:
    return sum(value is not None and math.isfinite(value) for value in line.scores.values())


_CONVENTIONS = "PSNR and SSIM"


def overviews(found: Sequence[Table]) -> list[Table]:
    """Every table's key metric in one table, and its first LPIPS in another; none of fewer than two tables."""
    by_key = [(table, table.key) for table in found if table.key is not None]
    by_lpips = [
        (table, place)
        for table in found
        for place in [i for i, one in enumerate(table.columns) if one.name.startswith("lpips")][:1]
    ]
    chosen = [by_key] if by_lpips == by_key else [by_key, by_lpips]
    return [_overview(keyed) for keyed in chosen if len(keyed) > 1]


def _overview(keyed: Sequence[tuple[Table, int]]) -> Table:
    titles = {table.columns[place].title for table, place in keyed}
    alone = len({table.dataset for table, _ in keyed}) == 1
    columns = []
    for table, place in keyed:
        of, title = table.columns[place], table.task if alone else table.title
        columns.append(replace(of, title=title if len(titles) == 1 else f"{title}: {of.title}"))
    by_name: dict[str, list[Cell]] = {}
    for i, (table, place) in enumerate(keyed):
        for line in table.lines:
            by_name.setdefault(line.name, [Cell()] * len(keyed))[i] = line.cells[place]
    lines = tuple(
        Line(name=name, method=name, pictures=0, failed=0, cells=tuple(cells))
        for name, cells in by_name.items()
    )
    notes = tuple(
        dict.fromkeys(note for table, _ in keyed for note in table.notes if note.startswith(_CONVENTIONS))
        if any(title.startswith(("PSNR", "SSIM")) for title in titles)
        else ()
    )
    title = f"All tasks: {titles.pop()}" if len(titles) == 1 else "All tasks"
    return Table(
        title=title, dataset="", task="", columns=tuple(columns), lines=lines, key=None, notes=notes, brief=True
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- in letters


def number(value: float | None, digits: int, *, signed: bool = False) -> str:
    """With so many decimals and a real minus; – where there is none."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    rounded = round(value, digits) + 0.0  # no −0.00
    return f"{rounded:{'+' if signed and rounded else ''},.{digits}f}".replace("-", "−")


def between(cell: Cell, digits: int, *, signed: bool = False) -> str:
    """A cell's interval, "" where it has none."""
    if cell.low is None or cell.high is None:
        return ""
    return f"[{number(cell.low, digits, signed=signed)}, {number(cell.high, digits, signed=signed)}]"


def duration(seconds: float | None) -> str:
    """Three digits, never as a power of ten."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NONE
    digits = 2 - math.floor(math.log10(seconds)) if seconds else 0
    return f"{seconds:,.{max(0, min(digits, 6))}f}"


def wins(line: Line) -> str:
    """7 of 10, and how many pictures are equal in both."""
    if line.wins is None or not line.wins[2]:
        return NONE
    won, equal, of = line.wins
    return f"{won} of {of}{f', {equal} equal' if equal else ''}"


@dataclass(frozen=True, kw_only=True)
class _Language:
    """How one writes: plain text, what is bold, an interval, a rank with its letters."""

    text: Callable[[str], str]
    bold: Callable[[str], str]
    interval: Callable[[str], str]
    rank: Callable[[str, str], str]


def _grid(table: Table, write: _Language) -> tuple[list[str], list[list[str]]]:
    """The headings and the lines."""
    heads = ["method", *(one.heading for one in table.columns)]
    if not table.brief:
        heads += ["seconds", "evaluations", "MiB"]
    if table.compared:
        first = table.lines[0].name
        heads += ["rank", f"{table.compared.title} − {first}", f"better than {first}"]
    rows = []
    for line in table.lines:
        row = [write.text(line.name)]
        row += [
            _written(cell, one.digits, write) for cell, one in zip(line.cells, table.columns, strict=True)
        ]
        if not table.brief:
            costs = duration(line.seconds), number(line.evaluations, 0), number(line.peak_mib, 0)
            row += map(write.text, costs)
        if table.compared:
            row.append(write.rank(write.text(str(line.rank or NONE)), line.groups))
            row.append(_written(line.difference or Cell(), table.compared.digits, write, signed=True))
            row.append(write.text(wins(line)))
        rows.append(row)
    return [write.text(head) for head in heads], rows


def _written(cell: Cell, digits: int, write: _Language, *, signed: bool = False) -> str:
    shown = write.text(number(cell.value, digits, signed=signed))
    if cell.best:
        shown = write.bold(shown)
    elif cell.tied:
        shown = f"{write.text(TIE)} {shown}"
    interval = between(cell, digits, signed=signed)
    return f"{shown} {write.interval(write.text(interval))}" if interval else shown


def markdown(found: Sequence[Table]) -> str:
    """All tables, GitHub's kind, each under its heading and with its notes."""
    parts = []
    for table in [*overviews(found), *found]:
        heads, rows = _grid(table, _MARKDOWN)
        lines = [f"### {_markdown_text(table.title)}", ""] if len(found) > 1 else []
        lines += [_piped(heads), _piped([":---", *["---:"] * (len(heads) - 1)]), *map(_piped, rows)]
        for note in table.notes:
            lines += ["", _markdown_text(note)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_text(given: str) -> str:
    escaped = re.sub(r"([\\`*<>|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(given.split()))
    return escaped.replace("&", "&amp;")


_MARKDOWN = _Language(
    text=_markdown_text,
    bold=lambda shown: f"**{shown}**",
    interval=lambda shown: shown.replace("\\", ""),
    rank=lambda rank, groups: f"{rank} {groups}".strip(),
)


def latex(found: Sequence[Table]) -> str:
    """All tables for LaTeX with the package booktabs, each with its notes below it."""
    parts = ["% \\usepackage{booktabs}"]
    for i, table in enumerate([*overviews(found), *found]):
        heads, rows = _grid(table, _LATEX)
        body = [f"{' & '.join(row)} \\\\" for row in rows]
        parts.append(
            "\n".join(
                [
                    "\\begin{table}",
                    "\\centering",
                    f"\\caption{{{_latex_text(table.title)}}}",
                    f"\\label{{tab:{i + 1}}}",
                    f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
                    "\\toprule",
                    f"{' & '.join(heads)} \\\\",
                    "\\midrule",
                    *body,
                    "\\bottomrule",
                    "\\end{tabular}",
                    *(f"\\par\\smallskip{{\\footnotesize {_latex_text(note)}}}" for note in table.notes),
                    "\\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


_LATEX_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": "$|$",
    "−": "$-$", "–": "--", "≈": r"$\approx$", "×": r"$\times$", "→": r"$\to$", "↑": r"$\uparrow$", "∞": r"$\infty$",
    "↓": r"$\downarrow$", "σ": r"$\sigma$", "η": r"$\eta$", "ζ": r"$\zeta$", "Π": r"$\Pi$", "π": r"$\pi$",
    "√": r"$\surd$", "‖": r"$\|$", "²": "$^2$", "₀": "$_0$", "[": "{[}", "]": "{]}",
}  # fmt: skip


def _latex_text(given: str) -> str:
    hats = re.compile("(\\w)([\u0302\u0304])|(.)", re.DOTALL)

    def one(found: re.Match[str]) -> str:
        if found[2]:
            return f"$\\{'hat' if found[2] == chr(0x302) else 'bar'}{{{found[1]}}}$"
        return _LATEX_SIGNS.get(found[3], found[3])

    return hats.sub(one, " ".join(given.split()))


_LATEX = _Language(
    text=_latex_text,
    bold=lambda shown: f"\\textbf{{{shown}}}",
    interval=lambda shown: f"{{\\scriptsize {shown}}}",
    rank=lambda rank, groups: f"{rank}\\textsuperscript{{{groups}}}" if groups else rank,
)
