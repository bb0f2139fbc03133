"""`invdiff report`: a benchmark's run as a page to read, as tables for a paper, as rows for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvdiffError, RequestError
from . import files
from .listings import finite
from .restore import AsJson

if TYPE_CHECKING:
    from ..bench.store import Store
    from ..bench.tables import Table


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "markdown"
    LATEX = "latex"


ENDINGS: dict[str, Format] = {
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".tex": Format.LATEX,
}


def report_command(
    run: Annotated[Path, typer.Argument(help="A folder that invdiff bench wrote.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write, .html, .md or .tex. [default: RUN/report.html; tables are printed]"
        ),
    ] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="What to write. [default: as --out ends, else html]")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Pictures of each task in the page, the worst first.")
    ] = 6,
    export: Annotated[
        Path | None, typer.Option(help="Also write every row to this .csv or .parquet file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a report of a benchmark's run: one HTML file that needs no network, or tables as Markdown or LaTeX.

    A run that is under way can be reported too: what is finished is in it.
    """
    try:
        kind = _kind(out, format_)
        if run.exists() and not run.is_dir():
            raise RequestError(f"{run}: expected the folder of a run, got a file")
        out = out or (run / "report.html" if kind is Format.HTML else None)
        for path in filter(None, (out, export)):
            files.check_writable(path.parent)
        document = _report(run, out, kind, pictures, export, as_json)
    except InvdiffError as error:
        if as_json:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        raise
    if as_json:
        print(json.dumps(finite(document), indent=2, ensure_ascii=False))


def _kind(out: Path | None, given: Format | None) -> Format:
    """RequestError where --out ends otherwise than what is written to it."""
    if out is None:
        return given or Format.HTML
    found = ENDINGS.get(out.suffix.lower())
    if found is None or (given and found is not given):
        wanted = [ending for ending, kind in ENDINGS.items() if given in (None, kind)]
        raise RequestError(f"--out {out}: expected a name that ends in {' or '.join(wanted)}")
    if out.is_dir():
        raise RequestError(f"--out {out}: expected a file, got a folder")
    return found


def _report(
    run: Path, out: Path | None, kind: Format, pictures: int, export: Path | None, as_json: bool
) -> dict[str, Any]:
    from ..bench import html
    from ..bench.store import Store
    from ..bench.tables import latex, markdown, tables
    from ..images import atomic

    with Store.read(run) as store:
        if not store.count():
            raise RequestError(f"{run}: no results in this run yet; go on with invdiff bench")
        written = {"export": export, "out": out}
        for path in filter(None, written.values()):
            path.parent.mkdir(parents=True, exist_ok=True)
        if export:
            store.export(export)
        found = tables(store.rows(), store.definition, store.whole() or ())
        if kind is Format.HTML:
            assert out is not None  # for the type checker: `report_command` has named one
            html.write(store, found, out, pictures=pictures)
        else:
            text = markdown(found) if kind is Format.MARKDOWN else latex(found)
            if out:
                with atomic(out) as part:
                    part.write_text(text, encoding="utf-8")
            elif not as_json:
                print(text, end="")
        if not as_json:
            for path in filter(None, written.values()):
                typer.echo(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB", err=True)
        return _document(store, found, written)


def _document(store: Store, found: list[Table], written: Mapping[str, Path | None]) -> dict[str, Any]:
    return {
        "run": str(store.folder),
        **{name: str(path) if path else None for name, path in written.items()},
        "results": store.count("done"),
        "failed": store.count("failed"),
        "tables": [_table(table) for table in found],
    }


def _table(table: Table) -> dict[str, Any]:
    lines = []
    for line in table.lines:
        metrics = {
            column.name: {
                "mean": cell.value,
                "low": cell.low,
                "high": cell.high,
                "best": cell.best or cell.tied,
            }
            for column, cell in zip(table.columns, line.cells, strict=True)
        }
        of = line.difference
        lines.append(
            {
                "method": line.method,
                "prior": line.prior,
                "pictures": line.pictures,
                "failed": line.failed,
                "metrics": metrics,
                "seconds": line.seconds,
                "evaluations": line.evaluations,
                "peak_mib": line.peak_mib,
                "rank": line.rank,
                "groups": line.groups,
                "difference": {"mean": of.value, "low": of.low, "high": of.high} if of else None,
                "wins": dict(zip(("better", "equal", "pictures"), line.wins, strict=True))
                if line.wins
                else None,
            }
        )
    key = table.compared.name if table.compared else None
    return {"dataset": table.dataset, "task": table.task, "key": key, "lines": lines, "notes": table.notes}
