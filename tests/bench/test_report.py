"""A run's page: all of it escaped, of a stated size, and at work in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import bench_run
import chromium
import numpy as np
import pytest
from PIL import Image

from invdiff.bench import html
from invdiff.bench.html import Point, embedded, page, pareto, tag
from invdiff.bench.store import Store
from invdiff.bench.tables import Cell, tables

PICTURES = [f"{i}.png" for i in range(6)]
HOSTILE = "<script>document.title = 'taken'</script>\"'<img src=x onerror=alert(1)>"


def drawn(name: str) -> Image.Image:
    draws = np.random.default_rng(len(name) + ord(name[0]))
    return Image.fromarray(draws.integers(0, 255, (8, 12, 3), np.uint8)).resize(
        (48, 32), Image.Resampling.BICUBIC
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks with pictures, one of them with a hostile name, and a failure with a hostile reason."""
    path = tmp_path_factory.mktemp("report") / "run"
    rows = bench_run.rows("sr4", [*PICTURES[1:], HOSTILE], noise=3.0)
    rows += bench_run.rows("deblur", PICTURES[:3])
    rows = bench_run.with_pictures(path, rows, 48, drawn)
    rows[-1] = bench_run.failed(rows[-1], f"diverged {HOSTILE}")
    return bench_run.write(
        path, rows, {**bench_run.DEFINITION, "name": f"small {HOSTILE}", "summary": HOSTILE}
    )


def of(folder: Path, pictures: int = 6, budget: int = html.BUDGET) -> str:
    with Store.read(folder) as store:
        return page(store, tables(store.rows(), store.definition), pictures=pictures, budget=budget)


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    return of(folder)


class Reader(HTMLParser):
    """Every element with its attributes, and whether all are closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))
        if name not in html.VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.found if element == name]


def test_an_element_escapes_its_text_and_its_attributes_but_not_other_elements() -> None:
    made = tag("p", "a < b & c", [tag("b", 3), None], title='"<>', class_="x", hidden=True, id=None)
    assert made == '<p title="&quot;&lt;&gt;" class="x" hidden>a &lt; b &amp; c<b>3</b></p>'


def test_what_comes_from_a_run_is_never_markup(whole: str) -> None:
    reader = Reader(whole)
    assert reader.open == []
    assert len(reader.all("script")) == 1
    assert not [a for _, a in reader.found if any(name.startswith("on") for name in a)]
    assert all((a["src"] or "").startswith("data:image/") for a in reader.all("img"))
    assert "<script>document" not in whole


def test_the_page_asks_for_nothing_and_lets_nothing_else_run(whole: str) -> None:
    reader = Reader(whole)
    (policy,) = [a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert not reader.all("link")
    assert all((a["href"] or "").startswith("#") for a in reader.all("a"))
    assert not [a for _, a in reader.found if "style" in a]


def test_every_picture_and_every_box_that_scrolls_has_a_name(whole: str) -> None:
    reader = Reader(whole)
    ids = [a["id"] for _, a in reader.found if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a.get("alt") for a in reader.all("img"))
    named = [a["aria-labelledby"] for _, a in reader.found if "aria-labelledby" in a]
    assert set(named) <= set(ids)
    assert {a["href"] for a in reader.all("a")} <= {f"#{name}" for name in ids}


def test_the_worst_pictures_come_first_and_each_methods_worst_is_among_them(folder: Path, whole: str) -> None:
    with Store.read(folder) as store:
        rows = list(store.rows(task="sr4"))
    cards = re.findall(r'<article class="card" data-places="([^"]*)"', whole)
    places = [json.loads(card) for card in cards][:6]
    assert [min(card) for card in places] == sorted(min(card) for card in places)
    titles = re.findall(r"<h4>(.*?)</h4>", whole)[:6]
    for i, method in enumerate(bench_run.LEVELS):
        worst = min((r for r in rows if r.method == method), key=lambda r: r.metrics["psnr"] or 0)
        assert titles[[card[i] for card in places].index(0)] == html.text(worst.picture)


def test_pictures_end_where_the_budget_does_and_the_page_says_so(folder: Path, whole: str) -> None:
    small = of(folder, budget=len(whole) // 5)
    assert 0 < small.count("<article") < whole.count("<article")
    assert "more would make this page too large" in small
    assert "more would make" not in whole
    assert "<article" not in of(folder, pictures=0)
    assert of(folder, pictures=2).count("<article") == 4


def test_a_file_outside_the_run_or_broken_is_not_shown(folder: Path, tmp_path: Path) -> None:
    bench_run.write(tmp_path / "run", [])
    (tmp_path / "run" / "pictures").mkdir()
    drawn("a").save(tmp_path / "secret.png")
    (tmp_path / "run" / "pictures" / "broken.png").write_bytes(b"no picture")
    drawn("a").save(tmp_path / "run" / "pictures" / "good.png")
    files = {"truth": "../secret.png", "measured": "pictures/broken.png", "restored": "pictures/good.png"}
    row = bench_run.rows("sr4", ["a.png"])[0]
    bench_run.write(tmp_path / "run", [type(row)(**{**vars(row), "files": files})])
    assert of(tmp_path / "run").count("<img") == 1


def test_a_large_picture_is_made_smaller_and_a_small_one_stays_as_it_is() -> None:
    draws = np.random.default_rng(0)
    small, large = draws.random((20, 30, 3)), draws.random((600, 1200, 1))
    source, size = embedded(small)
    assert size == (30, 20)
    kept = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(kept), np.rint(small * 255))
    source, size = embedded(large)
    assert size == (512, 256)
    assert source.startswith("data:image/jpeg")


def test_the_front_is_what_none_beats_in_both() -> None:
    at = [("slow best", 9, 9), ("fast", 1, 3), ("beaten", 5, 2), ("middle", 4, 6), ("same, slower", 6, 6)]
    points = [Point(name, x, y, Cell()) for name, x, y in at]
    assert [p.name for p in pareto(points, "higher")] == ["fast", "middle", "slow best"]
    assert [p.name for p in pareto(points, "lower")] == ["fast", "beaten"]


def test_plots_have_a_point_for_each_method_and_say_its_numbers(whole: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", whole)
    assert len(figures) == 4  # two tasks, PSNR and LPIPS
    assert figures[0].count("<circle") == 3
    assert re.search(
        r"<title>dps: PSNR \d\d\.\d\d \(\[\d\d\.\d\d, \d\d\.\d\d\]\), 12\.0 s</title>", figures[0]
    )


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def report(folder: Path, whole: str) -> Path:
    path = folder / "report.html"
    path.write_text(whole, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    program = chromium.found()
    if program is None:
        pytest.skip("needs chromium: apt-get install chromium, or name it in INVDIFF_CHROMIUM")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium.Browser(program, Path(profile)) as opened,
    ):
        yield opened


NAMES = "[...document.querySelectorAll('#task-1 tbody tr')].map((row) => row.cells[0].textContent)"


def to_gallery(browser: chromium.Browser) -> None:
    """Scroll to the first gallery, whose stages are built when they come near."""
    browser.run("document.querySelector('.gallery').scrollIntoView({behavior: 'instant'})")
    browser.until("document.querySelector('.stage') !== null")


def test_a_browser_has_nothing_to_complain_of_and_asks_for_nothing(
    browser: chromium.Browser, report: Path
) -> None:
    browser.open(report)
    to_gallery(browser)
    assert browser.run("document.title").startswith("small <script>")  # and not "taken"
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [report.as_uri()]


def test_a_click_or_a_key_on_a_heading_sorts(browser: chromium.Browser, report: Path) -> None:
    browser.open(report)
    assert browser.run(NAMES) == ["mmps", "dps", "bicubic"]
    seconds = "document.querySelectorAll('#task-1 thead th')[4]"
    x, y = browser.run(
        f"{seconds}.scrollIntoView({{behavior: 'instant', block: 'center'}}); "
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
        f"({seconds}.querySelector('button').getBoundingClientRect())"
    )
    browser.click(x, y)
    assert browser.run(NAMES) == ["bicubic", "mmps", "dps"]
    assert browser.run(f"{seconds}.getAttribute('aria-sort')") == "ascending"
    browser.press("Enter", 13)
    assert browser.run(NAMES) == ["dps", "mmps", "bicubic"]
    assert browser.run(f"{seconds}.getAttribute('aria-sort')") == "descending"
    browser.run(
        "document.querySelectorAll('#task-1 thead button')[8].click()"
    )  # the difference: the first has none
    assert browser.run(NAMES) == ["dps", "bicubic", "mmps"]
    browser.run("document.querySelectorAll('#task-1 thead button')[0].click()")
    assert browser.run(NAMES) == ["bicubic", "dps", "mmps"]


def test_the_slider_moves_the_line_and_another_picture_can_be_chosen(
    browser: chromium.Browser, report: Path
) -> None:
    browser.open(report)
    to_gallery(browser)
    over = "document.querySelector('.compare img + img')"
    assert browser.run(f"getComputedStyle({over}).clipPath") == "inset(0px 0px 0px 50%)"
    browser.run("document.querySelector('.compare input').focus({preventScroll: true})")
    for _ in range(4):
        browser.press("ArrowRight", 39)
    assert browser.run(f"getComputedStyle({over}).clipPath") == "inset(0px 0px 0px 52%)"
    card = "document.querySelector('.card')"
    assert browser.run(f"{card}.querySelectorAll('.pick')[2].getAttribute('aria-pressed')") == "true"
    browser.run(f"{card}.querySelectorAll('.pick')[3].click()")
    assert browser.run(f"{over}.src === {card}.querySelectorAll('.strip img')[3].src")
    assert (
        browser.run(f"{card}.querySelectorAll('.sides option:checked')[1].textContent") == "mmps, uncertainty"
    )
    label = browser.run("document.querySelector('.compare input').getAttribute('aria-label')")
    assert label == "How much of measured is seen beside mmps, uncertainty"


def test_pictures_can_be_ordered_by_another_methods_worst(browser: chromium.Browser, report: Path) -> None:
    browser.open(report)
    places = (
        "[...document.querySelectorAll('#task-1 .card')].map((card) => JSON.parse(card.dataset.places)[2])"
    )
    assert browser.run(places) != [0, 1, 2, 3, 4, 5]
    browser.run(
        "{const s = document.querySelector('#task-1 .order select'); s.value = 2; s.dispatchEvent(new Event('change'))}"
    )
    assert browser.run(places) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_the_page_itself_never_scrolls_sideways(browser: chromium.Browser, report: Path, width: int) -> None:
    browser.open(report, width=width, height=800, phone=width < 1000)
    to_gallery(browser)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.run("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    size = "parseFloat(getComputedStyle(document.querySelector('td')).fontSize)"
    assert browser.run(size) >= 14


def test_tables_and_pictures_are_there_without_scripts_and_in_the_dark(
    browser: chromium.Browser, report: Path
) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        browser.open(report)
        assert browser.run("document.querySelectorAll('.stage, thead button').length") == 0
        seen = "[...document.querySelectorAll('.strip img')].filter((one) => one.checkVisibility()).length"
        assert browser.run(seen) > 20
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
        browser.call("Emulation.setEmulatedMedia", features=[])
