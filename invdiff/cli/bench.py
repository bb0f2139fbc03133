"""`invdiff bench`: methods compared over data sets, by a YAML file."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvdiffError, RequestError
from . import files
from .listings import finite, print_table
from .progress import Reporter, duration
from .restore import AsJson, Quiet

if TYPE_CHECKING:
    from ..bench.definition import Benchmark
    from ..bench.engines import Outcome, Step
    from ..bench.plan import Part


class Engine(StrEnum):
    """Where units run."""

    LOCAL = "local"
    RAY = "ray"


def bench_command(
    definition: Annotated[
        Path, typer.Argument(metavar="FILE.yaml", help="The benchmark, as experiments/benchmarks/quick.yaml.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Values that replace the file's, as methods.dps.steps=100."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run. [default: runs/bench/NAME, the file's]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what there is to do, and do nothing.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many pictures of each data set, up to whole batches.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Part of it: 'method=dps,ddnm;task=sr4', of dataset, task, prior, method, seed."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, or Ray's workers.")] = 1,
    engine: Annotated[Engine, typer.Option(help="Processes here, or a Ray cluster.")] = Engine.LOCAL,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed.")] = False,
    no_lpips: Annotated[
        bool, typer.Option("--no-lpips", help="Leave LPIPS out, which needs weights.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run in the folder first.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods over data sets and tasks, as a YAML file says; invdiff report makes a page of it.

    Each result is kept as soon as it is complete. Stopped or killed at any moment, the same command goes on from there.
    """
    try:
        failed = _bench(
            definition, overrides or [], out or Path("runs") / "bench" / definition.stem, dry_run=dry_run, limit=limit,
            only=_split(only), workers=workers, engine=engine, retry=retry, no_lpips=no_lpips, overwrite=overwrite,
            as_json=as_json, quiet=quiet,
        )  # fmt: skip
    except InvdiffError as error:
        if as_json:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        raise
    if failed:
        raise typer.Exit(1)


def _split(only: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for one in only or () for part in one.split(";") if part.strip())


def _bench(
    path: Path,
    overrides: list[str],
    out: Path,
    *,
    dry_run: bool,
    limit: int | None,
    only: tuple[str, ...],
    workers: int,
    engine: Engine,
    retry: bool,
    no_lpips: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> bool:
    """Whether a picture failed."""
    from ..bench.definition import load
    from ..bench.plan import chosen_by, parts

    benchmark = load(path, overrides, lpips=not no_lpips)
    chosen = chosen_by(benchmark, only)
    files.check_writable(out)
    todo = parts(benchmark, None if overwrite else out, only=only, limit=limit, retry=retry)
    if not todo:
        where = f"--only {';'.join(only)}" if only else f"{path}: skip"
        raise RequestError(
            f"{where}: leaves nothing to run, by the benchmark's own skip; take an entry out of it"
        )
    if dry_run:
        from ..bench.scores import find_lpips
        from ..priors.network import resolve_device

        find_lpips(benchmark.metrics)
        resolve_device(benchmark.device)
        told = [part.seconds is not None for part in todo]
        if not all(told):
            from ..bench.forecast import forecast

            todo = forecast(benchmark, todo)
        _show(benchmark, todo, len(chosen["seed"]), workers, out, measured=all(told), as_json=as_json)
        return False
    if overwrite:
        from ..bench.store import clear

        clear(out)
    outcome = _run(benchmark, out, todo, workers, engine, only, limit, retry, as_json=as_json, quiet=quiet)
    if as_json:
        document = {"benchmark": benchmark.name, "out": str(out), **asdict(outcome)}
        print(json.dumps(finite(document), indent=2, ensure_ascii=False))
    else:
        print(out)
    return outcome.failed > 0


def _run(
    benchmark: Benchmark,
    out: Path,
    todo: list[Part],
    workers: int,
    engine: Engine,
    only: tuple[str, ...],
    limit: int | None,
    retry: bool,
    *,
    as_json: bool,
    quiet: bool,
) -> Outcome:
    runs, done = sum(part.runs for part in todo), sum(part.done for part in todo)
    with Reporter(1.0, quiet=quiet) as reporter:
        reporter.say(f"{benchmark.name}: {runs:,} runs, {done:,} of them done before")
        if done < runs:
            reporter.start("loading")
        reporter.expect(runs - done)
        from ..bench.engines import run

        def report(step: Step | str) -> None:
            if isinstance(step, str):
                reporter.say(f"warning: {step}", always=True)
            elif step.fresh:
                for row in step.rows:
                    if row.status == "failed":
                        what = f"{row.method} on {row.task}, {row.dataset}/{row.picture}"
                        reporter.say(f"failed: {what}: {row.reason}", always=True)
                reporter.start(f"{step.unit.method} on {step.unit.task}")
                reporter.at(len(step.rows))

        try:
            outcome = run(
                benchmark,
                out,
                workers=workers,
                engine=engine.value,
                only=only,
                limit=limit,
                retry=retry,
                report=report,
            )
        except KeyboardInterrupt:
            reporter.say(
                f"stopped: what is finished is kept in {out}; the same command goes on from there",
                always=True,
            )
            raise
        failed = f", {outcome.failed:,} failed (--retry runs them again)" if outcome.failed else ""
        reporter.say(f"{outcome.rows:,} results{failed}; invdiff report {out} makes a page of them")
        return outcome


def _show(
    benchmark: Benchmark,
    todo: list[Part],
    seeds: int,
    workers: int,
    out: Path,
    *,
    measured: bool,
    as_json: bool,
) -> None:
    """What there is to do. measured: every time is that of runs like these, none of the network alone."""
    runs, done = sum(part.runs for part in todo), sum(part.done for part in todo)
    unknown = sorted({part.method for part in todo if part.seconds is None and part.done < part.runs})
    known = [(part.runs - part.done) * part.seconds for part in todo if part.seconds is not None]
    seconds = None if unknown else sum(known) / workers
    pictures: dict[str, int] = {}
    for part in todo:
        pictures[part.dataset] = max(pictures.get(part.dataset, 0), part.runs // seeds)
    if as_json:
        document: dict[str, Any] = {
            "benchmark": benchmark.name,
            "out": str(out),
            "datasets": pictures,
            "parts": [asdict(part) for part in todo],
            "runs": runs,
            "done": done,
            "seconds": seconds,
            "workers": workers,
        }
        print(json.dumps(finite(document), indent=2, ensure_ascii=False))
        return
    print_table(("data set", "pictures"), [(name, f"{count:,}") for name, count in pictures.items()])
    rows = []
    for name in dict.fromkeys(part.method for part in todo):
        own = [part for part in todo if part.method == name]
        tasks = ", ".join(dict.fromkeys(part.task for part in own))
        numbers = (sum(part.runs for part in own), sum(part.done for part in own))
        each = _range([part.evaluations for part in own], lambda value: f"{value:g}")
        time = _range([part.seconds for part in own], lambda value: f"{value:.3g} s")
        rows.append((name, tasks, *(f"{number:,}" for number in numbers), each, time))
    print_table(("method", "tasks", "runs", "done", "evaluations each", "time each"), rows)
    print(f"{runs:,} runs of {benchmark.name}, {done:,} done before, into {out}")
    if done == runs:
        print("nothing left to run")
    elif seconds is None:
        print(
            f"time: not known before a run of {', '.join(unknown)} is there; a start with --limit 1 tells, and is kept"
        )
    else:
        by = f" by {workers} workers" if workers > 1 else ""
        how = (
            "as long as each took so far"
            if measured
            else "by evaluations of the network timed here, at least"
        )
        print(f"about {duration(seconds)} left{by}, {how}")


def _range(values: list[float | None], said: Any) -> str:
    """As "20", or "20 to 40"; "?" where one is not known."""
    found = sorted(
        {said(value): value for value in values if value is not None}.items(), key=lambda item: item[1]
    )
    if not found or None in values:
        return "?"
    return found[0][0] if len(found) == 1 else f"{found[0][0]} to {found[-1][0]}"
