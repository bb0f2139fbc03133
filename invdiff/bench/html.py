"""A run's report: one HTML file that needs no network and no other file.

Whatever comes from a run is text to it: `tag` escapes all that `tag` itself did not make, and the page's policy lets a
browser run its one script, known by its hash, and load nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InvdiffError
from ..images import STD_WHITE, atomic, read_image, viridis
from .store import Row, Store
from .tables import (
    NONE,
    TIE,
    Cell,
    Column,
    Line,
    Table,
    between,
    duration,
    number,
    overviews,
    wins,
)

SIDE = 512
"""Pixels of an embedded picture's longer side, at most."""
LOSSLESS = 24_000
"""Bytes up to which a picture is embedded as PNG; larger ones become JPEG."""
BUDGET = 20_000_000
"""Bytes of all embedded pictures, at most."""
SHOWN = 4
"""Pictures of a gallery that are open from the start."""
REASONS = 200
"""Kinds of failure that are listed, at most."""


class Markup(str):
    """HTML that needs no escaping."""

    __slots__ = ()


Content = str | int | None | Iterable["Content"]

VOID = {"meta", "img"}


def tag(element: str, *children: Content, **attributes: str | float | bool | None) -> Markup:
    """An element: `class_` is class, `data_x` is data-x, True an attribute without value, None and False none."""
    inside = "".join(_attribute(name, value) for name, value in attributes.items())
    end = "" if element in VOID else f"{text(children)}</{element}>"
    return Markup(f"<{element}{inside}>{end}")


def text(content: Content) -> Markup:
    """Escaped, but for what is Markup."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup()
    if isinstance(content, str | int):
        return Markup(html.escape(str(content)))
    return Markup("".join(map(text, content)))


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f" {name}" if value is True else f' {name}="{html.escape(shown)}"'


# ------------------------------------------------------------------------------------------------------------ the page


def write(store: Store, found: Sequence[Table], path: Path, *, pictures: int = 6) -> None:
    """Write the report of a run with these tables, with so many pictures of each task."""
    whole = page(store, found, pictures=pictures).encode()
    with atomic(path) as part:
        part.write_bytes(whole)


def page(store: Store, found: Sequence[Table], *, pictures: int = 6, budget: int = BUDGET) -> Markup:
    """The report of a run. pictures: of each task, fewer where `budget` bytes are spent; 0: none."""
    name = str(store.definition.get("name") or store.folder.name)
    shelves = fill(store, found, pictures, budget)
    body = [
        tag("a", "Skip to the tables", class_="skip", href="#tables"),
        _header(store, name, found),
        tag(
            "main",
            *_overviews(found),
            [
                _section(table, shelf, _anchor(i))
                for i, (table, shelf) in enumerate(zip(found, shelves, strict=True))
            ],
            _failures(store),
            _configuration(store),
            tag("footer", "Made by invdiff report from ", tag("code", store.folder.name), class_="quiet"),
            id="tables",
        ),
    ]
    return _document(f"{name}: invdiff report", body)


def _document(title: str, body: Content) -> Markup:
    style, script = (_asset(file) for file in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    whole = tag("html", head, "\n", tag("body", body, tag("script", Markup(script))), lang="en")
    return Markup(f"<!doctype html>\n{whole}\n")


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _anchor(index: int) -> str:
    return f"task-{index + 1}"


def _header(store: Store, name: str, found: Sequence[Table]) -> Markup:
    definition, sessions = store.definition, store.sessions()
    failed = store.count("failed")
    devices = dict.fromkeys(str(one["device"]) for one in sessions if one.get("device"))
    facts: dict[str, Content] = {
        "results": f"{store.count('done'):,}",
        "failed": f"{failed:,}" if failed else "none",
        "data sets": len({table.dataset for table in found}),
        "tasks": len({table.task for table in found}),
        "methods": len({line.name for table in found for line in table.lines}),
        "device": ", ".join(devices) or None,
        "begun": _date(sessions[0]["started"]) if sessions else None,
    }
    links = [(f"#{_anchor(i)}", f"{table.task}, {table.dataset}") for i, table in enumerate(found)]
    links += [("#failures", "Failures")] if failed else []
    links += [("#configuration", "Configuration")]
    summary, reproduces = definition.get("summary"), definition.get("reproduces")
    return tag(
        "header",
        tag("p", "invdiff benchmark", class_="over"),
        tag("h1", name),
        tag("p", str(summary), class_="lead") if summary else None,
        tag("p", tag("b", "Reproduces "), str(reproduces), class_="said") if reproduces else None,
        tag(
            "dl",
            [tag("div", tag("dt", k), tag("dd", v)) for k, v in facts.items() if v is not None],
            class_="facts",
        ),
        tag(
            "nav",
            tag("ul", [tag("li", tag("a", label, href=to)) for to, label in links]),
            aria_label="Contents",
        ),
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _date(iso: str) -> str:
    return iso[:16].replace("T", " ") + (" UTC" if iso.endswith("+00:00") else "")


def _section(table: Table, shelf: Shelf, anchor: str) -> Markup:
    plots = [plot for column in plotted(table) if (plot := scatter(table, column))]
    return tag(
        "section",
        tag("h2", table.task, id=f"{anchor}-title"),
        tag(
            "p",
            f"{table.dataset}: {_counted(max(line.pictures for line in table.lines), 'picture')}",
            class_="quiet",
        ),
        _table(table, f"{anchor}-title"),
        tag("ul", [tag("li", note) for note in table.notes], class_="notes"),
        tag("div", plots, class_="plots") if plots else None,
        _gallery(shelf),
        id=anchor,
        aria_labelledby=f"{anchor}-title",
    )


# ---------------------------------------------------------------------------------------------------------- the tables


def _table(table: Table, label: str) -> Markup:
    heads = [tag("th", "method", scope="col"), *map(_metric_head, table.columns)]
    if not table.brief:
        heads += [
            _head("seconds", "lower", "of a picture, all its samples"),
            _head("evaluations", "lower", "of the network, for a picture, all its samples"),
            _head("MiB", "lower", "the most memory that was held at a time"),
        ]
    if table.compared:
        first, better = table.lines[0].name, table.compared.better
        heads += [
            _head("rank", "lower", f"by {table.compared.title}; shared letters: not significantly different"),
            _head(f"{table.compared.title} − {first}", better, "mean difference on the pictures both have"),
            _head(f"better than {first}", "higher", f"pictures with a better {table.compared.title}"),
        ]
    rows = [tag("tr", tag("th", line.name, scope="row"), _cells(table, line)) for line in table.lines]
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", heads)),
            tag("tbody", rows),
            class_="sortable brief" if table.brief else "sortable",
            aria_labelledby=label,
        ),
        class_="scroll",
        role="region",
        aria_labelledby=label,
        tabindex="0",
    )


def _cells(table: Table, line: Line) -> list[Markup]:
    cells = [_cell(cell, column.digits) for cell, column in zip(line.cells, table.columns, strict=True)]
    if not table.brief:
        cells += [
            _value(line.seconds, duration(line.seconds)),
            _value(line.evaluations, number(line.evaluations, 0)),
            _value(line.peak_mib, number(line.peak_mib, 0)),
        ]
    if table.compared:
        share = line.wins[0] / line.wins[2] if line.wins and line.wins[2] else None
        cells += [
            _value(line.rank, [line.rank or NONE, tag("sup", line.groups)]),
            _cell(line.difference or Cell(), table.compared.digits, signed=True),
            _value(share, wins(line)),
        ]
    return cells


def _metric_head(column: Column) -> Markup:
    hint = f"{column.better} is better" if column.better else ""
    return _head(column.heading, column.better, hint)


def _head(title: str, better: str | None, hint: str = "") -> Markup:
    first = "ascending" if better == "lower" else "descending"
    return tag("th", title, scope="col", title=hint or None, data_first=first)


def _cell(cell: Cell, digits: int, *, signed: bool = False) -> Markup:
    shown: Content = number(cell.value, digits, signed=signed)
    if cell.best:
        shown = tag("strong", shown)
    elif cell.tied:
        shown = [tag("span", TIE, class_="tie", title="not significantly worse than the best"), " ", shown]
    interval = between(cell, digits, signed=signed)
    return _value(cell.value, [shown, tag("small", interval) if interval else None])


def _value(value: float | None, shown: Content) -> Markup:
    """A cell with the number it is sorted by, or without."""
    return tag("td", shown, data_value=None if value is None or math.isnan(value) else repr(float(value)))


def _overviews(found: Sequence[Table]) -> list[Markup]:
    sections = []
    for i, table in enumerate(overviews(found)):
        label = f"all-{i}-title"
        section = tag(
            "section",
            tag("h2", table.title, id=label),
            _table(table, label),
            tag("ul", [tag("li", note) for note in table.notes], class_="notes"),
            aria_labelledby=label,
        )
        sections.append(section)
    return sections


# ----------------------------------------------------------------------------------------------------------- the plots

WIDTH, HEIGHT = 400, 290
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 44


@dataclass(frozen=True)
class Point:
    """A method in a plot's units: x seconds, y its mean."""

    name: str
    x: float
    y: float
    cell: Cell


def pareto(points: Sequence[Point], better: str) -> list[Point]:
    """Those that no other beats in both, fastest first: as fast and better, or faster and as good."""
    sign = 1 if better == "higher" else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -sign * p.y)):
        if not front or sign * point.y > sign * front[-1].y:
            front.append(point)
    return front


def plotted(table: Table) -> list[int]:
    """The columns that have a plot: the first that says which value is better, and the first of the LPIPS."""
    directed = [i for i, column in enumerate(table.columns) if column.better]
    lpips = [i for i in directed if table.columns[i].name.startswith("lpips")]
    return list(dict.fromkeys([*directed[:1], *lpips[:1]]))


def scatter(table: Table, index: int) -> Markup | None:
    """A metric against seconds, the Pareto front in colour; None of fewer than two methods."""
    column = table.columns[index]
    points = [
        Point(line.name, line.seconds, cell.value, cell)
        for line in table.lines
        if line.seconds and (cell := line.cells[index]).value is not None and math.isfinite(cell.value)
    ]
    if len(points) < 2 or column.better is None:
        return None
    front = pareto(points, column.better)
    across, down = _seconds_axis(points), _axis(points)
    x, y = _scale(across, LEFT, WIDTH - RIGHT, math.log10), _scale(down, HEIGHT - BOTTOM, TOP)
    parts: list[Markup] = []
    for at in _decades(*across):
        parts.append(tag("line", class_="grid", x1=x(at), x2=x(at), y1=TOP, y2=HEIGHT - BOTTOM))
        parts.append(tag("text", f"{at:g}", x=x(at), y=HEIGHT - BOTTOM + 18, text_anchor="middle"))
    step, ticks = _ticks(*down)
    digits = max(0, -math.floor(math.log10(step)))
    for at in ticks:
        parts.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y(at), y2=y(at)))
        parts.append(tag("text", f"{at:.{digits}f}", x=LEFT - 8, y=y(at) + 4, text_anchor="end"))
    parts.append(
        tag("text", "seconds a picture", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle")
    )
    corners = [f"{x(a.x):.1f},{y(a.y):.1f} {x(b.x):.1f},{y(a.y):.1f}" for a, b in pairwise(front)]
    last = f"{x(front[-1].x):.1f},{y(front[-1].y):.1f} {WIDTH - RIGHT},{y(front[-1].y):.1f}"
    parts.append(tag("polyline", class_="front", points=" ".join([*corners, last])))
    places = _labels([(x(p.x), y(p.y), p.name, p in front) for p in points])
    for point, label in sorted(zip(points, places, strict=True), key=lambda pair: pair[0] in front):
        parts.append(_point(point, column, point in front, x, y, label))
    name = f"{column.title} against seconds, {table.task}, {table.dataset}"
    best = f"Not beaten in both: {', '.join(point.name for point in front)}."
    return tag(
        "figure",
        tag("h3", f"{column.title} against seconds"),
        tag("svg", tag("title", f"{name}. {best}"), parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img"),
        tag(
            "figcaption",
            f"{column.better.capitalize()} is better. Filled: the Pareto front, beaten by none in both.",
        ),
    )


def _point(
    point: Point,
    column: Column,
    on_front: bool,
    x: Callable[[float], float],
    y: Callable[[float], float],
    label: tuple[float, float, str] | None,
) -> Markup:
    bar = None
    said = f"{point.name}: {column.title} {number(point.y, column.digits)}"
    low, high = point.cell.low, point.cell.high
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        bar = tag("line", class_="bar", x1=x(point.x), x2=x(point.x), y1=y(low), y2=y(high))
        said += f" ({between(point.cell, column.digits)})"
    return tag(
        "g",
        tag("title", f"{said}, {duration(point.x)} s"),
        bar,
        tag("circle", cx=x(point.x), cy=y(point.y), r=4.5),
        tag("text", point.name, x=label[0], y=label[1], text_anchor=label[2]) if label else None,
        class_="point on" if on_front else "point",
    )


def _labels(points: Sequence[tuple[float, float, str, bool]]) -> list[tuple[float, float, str] | None]:
    """(x, y, anchor) of each name where it is over nothing else; None where there is no such place."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _, _ in points]
    found: list[tuple[float, float, str] | None] = [None] * len(points)
    for i in sorted(range(len(points)), key=lambda i: not points[i][3]):  # the front's first
        x, y, name, _ = points[i]
        width = 7.2 * len(name)
        for dx, dy, anchor in _AROUND:
            left = x + dx - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (left, y + dy - 10, left + width, y + dy + 3)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found[i] = (x + dx, y + dy, anchor)
                break
    return found


_AROUND = (
    (9, 4, "start"), (-9, 4, "end"), (7, -7, "start"), (7, 15, "start"), (-7, -7, "end"), (-7, 15, "end"),
    (0, -10, "middle"), (0, 19, "middle"), (12, -20, "start"), (12, 28, "start"), (-12, -20, "end"), (-12, 28, "end"),
)  # fmt: skip

Box = tuple[float, float, float, float]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _seconds_axis(points: Sequence[Point]) -> tuple[float, float]:
    low, high = min(p.x for p in points), max(p.x for p in points)
    room = max(0.12 * math.log10(high / low), 0.15)
    return low / 10**room, high * 10**room


def _axis(points: Sequence[Point]) -> tuple[float, float]:
    ends = [v for p in points for v in (p.y, p.cell.low, p.cell.high) if v is not None and math.isfinite(v)]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _scale(
    ends: tuple[float, float], start: float, stop: float, shape: Callable[[float], float] = float
) -> Callable[[float], float]:
    low, high = map(shape, ends)
    return lambda value: start + (stop - start) * (shape(value) - low) / (high - low)


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between the two, or powers of ten alone where that would be many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    all_of_them = [digit * 10.0**e for e in exponents for digit in (1, 2, 5)]
    found = [at for at in all_of_them if low <= at <= high]
    return found if len(found) <= 7 else [at for at in (10.0**e for e in exponents) if low <= at <= high]


def _ticks(low: float, high: float) -> tuple[float, list[float]]:
    """Their distance and about five round numbers between the two."""
    rough = (high - low) / 5
    step = min(
        (digit * 10 ** math.floor(math.log10(rough)) for digit in (1, 2, 5, 10)), key=lambda s: abs(s - rough)
    )
    return step, [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


# --------------------------------------------------------------------------------------------------------- the gallery


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture in a card. role: as in a row's files; source: a data URI; coarse: much smaller than the truth."""

    name: str
    role: str
    source: str
    size: tuple[int, int]
    caption: str = ""
    coarse: bool = False


@dataclass(frozen=True, kw_only=True)
class Card:
    """A picture and what became of it. places: for each line of the table, 0 where it is its worst picture."""

    title: str
    figures: tuple[Figure, ...]
    places: tuple[int | None, ...]

    @property
    def size(self) -> int:
        return sum(len(figure.source) for figure in self.figures)


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A task's gallery, and of how many pictures; full: whether the page's size ended it."""

    table: Table
    cards: tuple[Card, ...]
    pictures: int
    full: bool


def fill(store: Store, found: Sequence[Table], pictures: int, budget: int) -> list[Shelf]:
    """Every task's gallery: each method's worst picture, then each one's second worst, task by task in turn."""
    orders = [_worst_first(table) for table in found]
    cards: list[list[Card]] = [[] for _ in found]
    left, full = budget, False
    for depth in range(pictures):
        for table, order, own in zip(found, orders, cards, strict=True):
            if depth >= len(order) or full:
                continue
            card = _card(store, table, *order[depth])
            full = card.size > left
            if card.figures and not full:
                left -= card.size
                own.append(card)
    return [
        Shelf(table=table, cards=tuple(own), pictures=len(order), full=full)
        for table, order, own in zip(found, orders, cards, strict=True)
    ]


def _worst_first(table: Table) -> list[tuple[str, tuple[int | None, ...]]]:
    """(picture, its place in each line's own order)."""
    higher = table.key is not None and table.columns[table.key].better == "higher"
    places: list[dict[str, int]] = []
    for line in table.lines:
        told = [
            (value, name)
            for name, value in line.scores.items()
            if value is not None and not math.isnan(value)
        ]
        ordered = sorted(told, key=lambda pair: (pair[0] if higher else -pair[0], pair[1]))
        places.append({name: place for place, (_, name) in enumerate(ordered)})
    names = dict.fromkeys(name for line in table.lines for name in line.scores)
    of = {name: tuple(own.get(name) for own in places) for name in names}

    def first(name: str) -> tuple[float, float, str]:
        told = [place for place in of[name] if place is not None]
        return (min(told), sum(told) / len(told), name) if told else (math.inf, math.inf, name)

    return [(name, of[name]) for name in sorted(names, key=first)]


def _card(store: Store, table: Table, picture: str, places: tuple[int | None, ...]) -> Card:
    rows: dict[tuple[str, str], Row] = {}
    for row in store.rows(dataset=table.dataset, task=table.task, picture=picture, status="done"):
        rows.setdefault((row.method, row.prior), row)  # the first seed's
    figures: list[Figure] = []
    for role in ("truth", "measured"):
        for file in dict.fromkeys(row.files[role] for row in rows.values() if role in row.files):
            figures += _figures(store.folder, file, name=role, role=role)
            break
    for line in table.lines:
        if (own := rows.get((line.method, line.prior))) is None:
            continue
        shown = [table.columns[i] for i in plotted(table)]
        caption = ", ".join(
            f"{c.title.partition(' (')[0]} {number(own.metrics.get(c.name), c.digits)}" for c in shown
        )
        figures += _figures(
            store.folder, own.files.get("restored"), name=line.name, role="restored", caption=caption
        )
        if "std" in own.files:
            figures += _figures(store.folder, own.files["std"], name=f"{line.name}, uncertainty", role="std")
    largest = max((max(figure.size) for figure in figures if figure.role != "measured"), default=0)
    figures = [replace(figure, coarse=max(figure.size) * 2 <= min(largest, SIDE)) for figure in figures]
    return Card(title=picture, figures=tuple(figures), places=places)


def _figures(folder: Path, file: str | None, *, name: str, role: str, caption: str = "") -> list[Figure]:
    """One figure; none where the file is missing, broken or not in the run's folder."""
    if file is None or not (folder / file).resolve().is_relative_to(folder.resolve()):
        return []
    try:
        array = read_image(folder / file).array
    except (InvdiffError, OSError, ValueError):
        return []
    source, size = embedded(viridis(array.mean(axis=2)) if role == "std" else array)
    return [Figure(name=name, role=role, source=source, size=size, caption=caption)]


def embedded(array: NDArray[Any]) -> tuple[str, tuple[int, int]]:
    """(H, W, C) in [0, 1] as a data URI and its size (width, height): PNG where that is small, else JPEG."""
    whole = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 88, "subsampling": 0})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if file.tell() <= LOSSLESS:
            break
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}", image.size


def _gallery(shelf: Shelf) -> Markup | None:
    if not shelf.cards:
        return None
    table, cards = shelf.table, [_drawn(card) for card in shelf.cards]
    key = table.columns[table.key].title if table.key is not None else None
    said = f"{len(cards)} of {_counted(shelf.pictures, 'picture')}"
    if key and len(cards) > 1:
        said += (
            f", by {key}: each method's worst, then each one's second worst"
            if len(table.lines) > 1
            else ", worst first"
        )
    if shelf.full and len(cards) < shelf.pictures:
        said += "; more would make this page too large"
    if any(figure.role == "std" for card in shelf.cards for figure in card.figures):
        said += ". Below a restored picture its uncertainty, the standard deviation of the samples: "
        said += f"0 is dark, {STD_WHITE:g} or more bright"
    more = None
    if len(cards) > SHOWN:
        rest = tag("div", cards[SHOWN:], class_="cards")
        more = tag("details", tag("summary", f"{_counted(len(cards) - SHOWN, 'more picture')}"), rest)
    return tag(
        "div",
        tag("div", tag("h3", "Pictures"), class_="order"),
        tag("p", f"{said}.", class_="quiet"),
        tag("div", cards[:SHOWN], class_="cards"),
        more,
        class_="gallery",
        data_methods=json.dumps([line.name for line in table.lines], ensure_ascii=False),
    )


def _drawn(card: Card) -> Markup:
    width, height = next(
        (figure.size for figure in card.figures if figure.role != "measured"), card.figures[0].size
    )
    together: list[list[Figure]] = []
    for figure in card.figures:
        if figure.role == "std" and together:
            together[-1].append(figure)  # below what it is the uncertainty of
        else:
            together.append([figure])
    items = []
    for figures in together:
        caption = tag("figcaption", tag("b", figures[0].name), figures[0].caption)
        items.append(tag("li", tag("figure", [_image(card, figure) for figure in figures], caption)))
    return tag(
        "article",
        tag("h4", card.title),
        tag("ul", items, class_="strip"),
        class_="card",
        data_places=json.dumps(card.places),
        data_shape=f"{width} / {height}",
    )


def _image(card: Card, figure: Figure) -> Markup:
    return tag(
        "img",
        src=figure.source,
        alt=f"{card.title}: {figure.name}",
        width=figure.size[0],
        height=figure.size[1],
        class_="coarse" if figure.coarse else None,
        decoding="async",
        data_role=figure.role,
        data_name=figure.name,
    )


# ------------------------------------------------------------------------------------------------ failures, provenance


def _failures(store: Store) -> Markup | None:
    kinds: dict[tuple[str, str, str, str, str], list[str]] = {}
    left_out = 0
    for row in store.failures():
        kind = row.dataset, row.task, row.method, row.prior, row.reason
        if kind not in kinds and len(kinds) >= REASONS:
            left_out += 1
            continue
        kinds.setdefault(kind, []).append(
            row.picture if row.seed == 0 else f"{row.picture} (seed {row.seed})"
        )
    if not kinds:
        return None
    rows = []
    for (dataset, task, method, prior, reason), pictures in kinds.items():
        named = ", ".join(pictures[:3]) + (f" and {len(pictures) - 3:,} more" if len(pictures) > 3 else "")
        rows.append(
            tag("tr", [tag("td", value) for value in (f"{task}, {dataset}", method, prior, named, reason)])
        )
    heads = [tag("th", head, scope="col") for head in ("task", "method", "prior", "pictures", "reason")]
    return tag(
        "section",
        tag("h2", "Failures", id="failures-title"),
        tag(
            "p",
            f"{_counted(store.count('failed'), 'result')} failed; invdiff bench --retry tries again.",
            class_="quiet",
        ),
        tag(
            "div",
            tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="text"),
            class_="scroll",
            role="region",
            aria_labelledby="failures-title",
            tabindex="0",
        ),
        tag("p", f"{left_out:,} others are not listed.", class_="notes") if left_out else None,
        id="failures",
        aria_labelledby="failures-title",
    )


def _configuration(store: Store) -> Markup:
    sessions = store.sessions()
    keys = list(dict.fromkeys(["started", "units", *(key for one in sessions for key in one)]))
    heads = [tag("th", key, scope="col") for key in keys]
    rows = [tag("tr", [tag("td", _plain(one.get(key))) for key in keys]) for one in sessions]
    made = tag(
        "div",
        tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="text"),
        class_="scroll",
        role="region",
        aria_label="What the results were made with",
        tabindex="0",
    )
    return tag(
        "section",
        tag("h2", "Configuration", id="configuration-title"),
        tag("p", "What the results were made with, a line for each start of the run.", class_="quiet")
        if rows
        else None,
        made if rows else None,
        tag(
            "details",
            tag("summary", "The benchmark's definition, as it was resolved"),
            tag("pre", _yaml(store.definition), tabindex="0"),
        ),
        id="configuration",
        aria_labelledby="configuration-title",
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return NONE if value is None else str(value)


def _yaml(definition: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(definition, sort_keys=False, allow_unicode=True, width=100)
