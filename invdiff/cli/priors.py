"""`invdiff priors`: those there are, and what --prior takes besides; `invdiff priors check`: whether one denoises."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..catalog import FORMATS, PRIORS, PriorInfo, check_label, trained_for
from ..errors import InvdiffError, RequestError, unknown
from ..known import check_prior, known
from .listings import Json, finite, print_json, print_table
from .progress import Reporter
from .restore import DEVICES, Label, Offline, Quiet

if TYPE_CHECKING:
    from ..evaluation.prior_check import Report

priors_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@priors_app.callback(invoke_without_command=True)
def priors_command(context: typer.Context, as_json: Json = False) -> None:
    """List the priors known by name and what --prior takes besides; check: does one behave as a denoiser?"""
    if context.invoked_subcommand is not None:
        return
    rows = [_row(info) for info in PRIORS.values()]
    if as_json:
        print_json(rows)
        return
    heads = ("prior", "here", "pictures, size", "σ", "classes", "SHA-256")
    print_table(heads, [_cells(row) for row in rows])
    for row in rows:
        print(f"{row['name']}: {row['summary']} Trained on: {row['training_data']}.")
        if row["tasks"]:
            stead = (
                f", where --method sr3 takes it in {row['instead_of']}'s stead" if row["instead_of"] else ""
            )
            print(f"  Shown the measurement; for {trained_for(row['tasks'], row['noise'])}{stead}.")
        print(f"  Sizes: {row['size_rule']}. Licence: {row['licence']}. Card: {row['card']}.")
    for info in PRIORS.values():
        if not info.path.is_file():
            print(info.missing())
    print()
    print_table(("--prior takes", "which is"), FORMATS)
    print("invdiff priors check PRIOR says whether one behaves as a denoiser; see docs/priors.md.")


def _row(info: PriorInfo) -> dict[str, Any]:
    here = info.path.is_file()
    return {
        **dataclasses.asdict(info),
        "size_rule": info.size_rule,
        "path": str(info.path),
        "available": here,
        "bytes": info.path.stat().st_size if here else None,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    kind = {1: "grey", 3: "colour"}.get(row["channels"], f"{row['channels']} channels")
    return (
        row["name"],
        f"{row['bytes'] / 2**20:.1f} MiB" if row["available"] else "no",
        f"{kind}, {row['size_rule'].partition(',')[0]}",
        f"{row['sigma_min']:g} to {row['sigma_max']:g}",
        str(row["classes"] or "none"),
        row["sha256"][:12],
    )


@priors_app.command("check")
def check_command(
    prior: Annotated[str, typer.Argument(help="As --prior takes it: a name, a file, a folder, a hub name.")],
    image_folder: Annotated[
        Path | None,
        typer.Option("--images", help="Pictures such as it was trained on. [default: four photographs]"),
    ] = None,
    label: Label = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    offline: Offline = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say whether a prior behaves as a denoiser, and if not, which convention it seems to be in.

    Measures D on noisy pictures and tries other ranges, predictions, times, σ and colours on the same ones. Without
    --images, a prior of one channel, one size or classes is looked at for gross mistakes alone: photographs are not its
    kind. Exit code 0: fine, or nothing gross; 1: suspicious. A conditional model is looked at without a measurement,
    where it can do without.
    """
    try:
        report = _check(prior, image_folder, label, device, offline, quiet)
    except InvdiffError as error:
        if as_json:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        raise
    if as_json:
        print_json(finite(report.as_dict()))
    else:
        _print(report, image_folder)
    if not report.fine:
        raise typer.Exit(1)


def _check(
    name: str, folder: Path | None, label: int | None, device: str, offline: bool, quiet: bool
) -> Report:
    if device.partition(":")[0] not in DEVICES:
        raise unknown("device", device, DEVICES)
    check_prior(name)
    known(name).check_alone()
    check_label(name, PRIORS[name].classes if name in PRIORS else None, label, 1.0)
    if folder is not None and not folder.exists():
        raise RequestError(f"--images {folder}: no such file or folder")
    with Reporter(1.0, quiet=quiet) as reporter:
        reporter.start("loading the prior")
        from ..evaluation.prior_check import check_prior as check
        from ..evaluation.prior_check import is_of_photographs, pictures_for
        from ..priors import load_prior, with_label
        from ..priors.network import resolve_device

        place = resolve_device(device)
        loaded = load_prior(name, device=place, precision="float32", offline=offline)
        pictures = pictures_for(loaded.card, folder).to(place)
        reporter.expect(1.0)
        reporter.start("denoising, in its own convention and in others")
        return check(
            with_label(loaded, label),
            pictures,
            own_kind=folder is not None or is_of_photographs(loaded.card),
            callback=lambda done, total: reporter.at(done / total),
        )


def _print(report: Report, folder: Path | None) -> None:
    heads = ("σ", "noisy", "D", "blur", "slope", "offset", "removed", "expected", "error/σ²div D")
    rows = [
        (
            f"{at.sigma:.4g}",
            *(f"{value:.1f}" for value in (at.psnr_noisy, at.psnr, at.psnr_baseline)),
            f"{at.slope:.3f}",
            f"{at.offset:+.3f}",
            *(f"{value:.3f}" for value in (at.removed, at.expected, at.tweedie)),
        )
        for at in report.levels
    ]
    print_table(heads, rows)
    if report.format:
        print(f"{report.prior} was loaded as {report.format}.")
    for words in report.findings:
        print(f"- {words}")
    print(report.verdict())
    if folder is None and not (report.fine and report.judged):
        print("It was tried on photographs; --images DIR tries it on pictures such as it was trained on.")
