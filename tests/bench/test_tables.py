"""What a run's tables say: which line is best, what is chance, what is missing; and how they are written."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import bench_run
import pytest

from invdiff.bench.store import Row
from invdiff.bench.tables import (
    Cell,
    Line,
    Table,
    column_of,
    duration,
    latex,
    markdown,
    number,
    overviews,
    tables,
)

PICTURES = [f"{i:02}.png" for i in range(12)]


def made(rows: list[Row], **changes: Any) -> list[Table]:
    order = sorted(rows, key=lambda r: (r.dataset, r.task, r.prior, r.method, r.seed, r.picture))
    return tables(order, {**bench_run.DEFINITION, **changes})


def one(**changes: Any) -> Table:
    (table,) = made(bench_run.rows("sr4", PICTURES), **changes)
    return table


def test_tasks_lines_and_columns_stand_in_the_definitions_order() -> None:
    found = made([*bench_run.rows("deblur", PICTURES), *bench_run.rows("sr4", PICTURES)])
    assert [table.task for table in found] == ["sr4", "deblur"]
    assert [line.name for line in found[0].lines] == ["mmps", "dps", "bicubic"]
    assert [c.name for c in found[0].columns] == ["psnr", "lpips_squeeze", "consistency"]


def test_a_metric_that_the_definition_does_not_name_comes_last() -> None:
    assert [c.name for c in one(metrics=["lpips_squeeze"]).columns] == [
        "lpips_squeeze",
        "psnr",
        "consistency",
    ]


def test_the_best_is_marked_and_what_chance_may_have_put_behind_it_is_a_tie() -> None:
    mmps, dps, bicubic = one().lines
    assert (mmps.cells[0].best, dps.cells[0].tied, bicubic.cells[0].tied) == (True, True, False)
    assert not mmps.cells[0].tied
    assert set(mmps.groups) & set(dps.groups)
    assert not set(mmps.groups) & set(bicubic.groups)
    assert [line.cells[1].best for line in (mmps, dps, bicubic)] == [False, True, False]  # lower is better


def test_where_neither_way_is_better_nothing_is_marked() -> None:
    assert not [cell for line in one().lines for cell in line.cells[2:] if cell.best or cell.tied]


def test_a_line_alone_is_neither_best_nor_compared() -> None:
    (table,) = made([row for row in bench_run.rows("sr4", PICTURES) if row.method == "dps"])
    assert table.compared is None
    assert not table.lines[0].cells[0].best
    assert "**" not in markdown([table])


def test_a_mean_its_difference_and_its_wins_are_of_the_rows() -> None:
    rows = bench_run.rows("sr4", PICTURES)
    _, dps, _ = one().lines
    values = {name: [r.metrics["psnr"] for r in rows if r.method == name] for name in ("mmps", "dps")}
    assert dps.cells[0].value == pytest.approx(sum(values["dps"]) / 12)
    assert dps.difference is not None
    assert dps.difference.value == pytest.approx((sum(values["dps"]) - sum(values["mmps"])) / 12)
    better = sum(a > b for a, b in zip(values["dps"], values["mmps"], strict=True))
    assert dps.wins == (better, 0, 12)
    assert (dps.seconds, dps.evaluations, dps.peak_mib) == (12.0, 100.0, 200.0)


def test_several_seeds_of_a_picture_count_as_one_picture() -> None:
    (table,) = made(
        [*bench_run.rows("sr4", PICTURES), *bench_run.rows("sr4", PICTURES, seed=1)], seeds=[0, 1]
    )
    (single,) = made(bench_run.rows("sr4", PICTURES))
    assert table.lines[1].pictures == 12
    assert table.lines[1].cells[0] == single.lines[1].cells[0]
    assert "2 seeds" in table.notes[0]


def test_several_priors_are_lines_of_their_own() -> None:
    rows = [*bench_run.rows("sr4", PICTURES), *bench_run.rows("sr4", PICTURES, prior="faces")]
    (table,) = made(rows, priors={"natural": "", "faces": ""})
    assert [line.name for line in table.lines][:3] == ["mmps, natural", "mmps, faces", "dps, natural"]


def test_what_failed_is_counted_and_left_out_of_the_mean() -> None:
    rows = bench_run.rows("sr4", PICTURES)
    rows[12] = replace(bench_run.failed(rows[12], "diverged"), seconds=0.0, evaluations=0.0)
    (table,) = made(rows)
    dps = table.lines[1]
    assert (dps.failed, dps.pictures, dps.wins and dps.wins[2]) == (1, 12, 11)
    assert dps.cells[0].value == pytest.approx(sum(r.metrics["psnr"] or 0 for r in rows[13:24]) / 11)
    assert (dps.seconds, dps.evaluations) == (12.0, 100.0)
    assert "dps: 1 failed, not in its means." in table.notes


def test_a_method_of_which_everything_failed_has_an_empty_line() -> None:
    rows = [bench_run.failed(r, "no") if r.method == "dps" else r for r in bench_run.rows("sr4", PICTURES)]
    (table,) = made(rows)
    assert table.lines[1].cells[0].value is None
    assert table.lines[1].rank is None
    assert "| dps | – | – |" in markdown([table])


def test_a_picture_that_changed_between_two_starts_is_warned_of() -> None:
    rows = [replace(r, files={"truth": f"{r.picture}-old"}) for r in bench_run.rows("sr4", PICTURES)]
    assert "Not to be compared" not in markdown(made(rows))
    rows[0] = replace(rows[0], files={"truth": "new"})
    assert "Not to be compared: 00.png changed between two starts" in made(rows)[0].notes[-1]


def test_the_conventions_stand_below_every_table() -> None:
    notes = " ".join(one(colour="luma", border=4, methods={"dps": {"best_of": 4}}).notes)
    assert "luma" in notes
    assert "4 pixels cut off" in notes
    assert "LPIPS (SqueezeNet)" in notes
    assert "dps: the best of 4 samples" in notes
    assert "RGB" in " ".join(one().notes)


def test_an_overview_has_each_tasks_key_metric_and_another_each_tasks_lpips() -> None:
    found = made([*bench_run.rows("deblur", PICTURES), *bench_run.rows("sr4", PICTURES)])
    psnr, lpips = overviews(found)
    assert (psnr.title, lpips.title) == ("All tasks: PSNR", "All tasks: LPIPS (squeeze)")
    assert [c.heading for c in psnr.columns] == ["sr4, dB ↑", "deblur, dB ↑"]
    for i, whole in enumerate((psnr, lpips)):
        assert whole.lines[1].cells == (found[0].lines[1].cells[i], found[1].lines[1].cells[i])
    assert overviews(found[:1]) == []


def test_what_is_of_all_pictures_together_is_a_column_without_an_interval() -> None:
    way = {"dataset": "set", "task": "sr4", "prior": "natural"}
    whole = [{**way, "method": "dps", "metrics": {"fid": 12.34}}]
    (table,) = tables(
        sorted(bench_run.rows("sr4", PICTURES), key=lambda row: row.method), bench_run.DEFINITION, whole
    )
    assert table.columns[-1].heading == "FID ↓"
    assert [line.cells[-1].value for line in table.lines] == [None, 12.34, None]
    assert "| 12.3 |" in markdown([table])


@pytest.mark.parametrize(
    ("value", "digits", "signed", "shown"),
    [
        (27.405, 2, False, "27.41"), (-0.001, 2, True, "0.00"), (0.5, 1, True, "+0.5"), (-1.25, 1, False, "−1.2"),
        (math.inf, 2, False, "∞"), (None, 2, False, "–"), (math.nan, 2, False, "–"), (12345.6, 0, False, "12,346"),
    ],
)  # fmt: skip
def test_a_number_is_written_with_its_decimals(value: float, digits: int, signed: bool, shown: str) -> None:
    assert number(value, digits, signed=signed) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0"), (0.00123, "0.00123"), (1.0, "1.00"), (99.96, "100.0"), (1234.5, "1,234"), (None, "–")],
)
def test_seconds_have_three_digits(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_markdown_has_as_many_cells_in_each_row_and_bold_for_the_best() -> None:
    lines = markdown([one()]).splitlines()
    grid = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in grid} == {11}
    assert re.match(r"\| mmps \| \*\*\d\d\.\d\d\*\* \[\d\d\.\d\d, \d\d\.\d\d\] \| ", grid[2])
    assert re.match(r"\| dps \| ≈ \d\d\.\d\d \[", grid[3])


STRANGE = "a|b*c_<script>$%&{\\}~^#"


def strange() -> Table:
    line = Line(name=STRANGE, method=STRANGE, pictures=1, failed=0, cells=(Cell(value=1.0),))
    return Table(
        title=STRANGE, dataset="", task="", columns=(column_of("psnr"),), lines=(line,), key=0, notes=("‖A x̂‖/σ_y",)
    )  # fmt: skip


def test_markdown_escapes_what_would_be_markup() -> None:
    row = markdown([strange()]).splitlines()[2]
    assert row.startswith("| a\\|b\\*c\\_\\<script\\>$%&amp;{\\\\}~^# | 1.00 |")


def test_latex_escapes_what_would_be_a_command_and_balances() -> None:
    text = latex([strange()]) + latex([one()])
    assert r"a$|$b*c\_\textless{}script\textgreater{}\$\%\&\{\textbackslash{}\}\textasciitilde{}" in text
    assert r"$\|$A $\hat{x}$$\|$/$\sigma$\_y" in text
    assert text.isascii()
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 2
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {9, 4}
    assert "\\toprule" in text
