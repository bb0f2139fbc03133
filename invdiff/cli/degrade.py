"""`invdiff degrade`: measurements of good pictures, to try things on, with all that undoing them needs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError
from . import files
from .progress import Reporter
from .restore import (
    AsJson,
    Border,
    Kernel,
    MaskKeep,
    Outcome,
    Overwrite,
    Quiet,
    Scale,
    SrKernel,
    TaskName,
    answer,
    report_failure,
)

if TYPE_CHECKING:
    from ..images import Array, Picture
    from ..tasks import MaskFile, Options, Task

BITS = {8: ".png", 16: ".png", 32: ".npy"}


def degrade_command(
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER...", show_default=False)],
    task: TaskName,
    mask: Annotated[
        str | None, typer.Option(help="A file, a folder, or random:0.8, box:64, scratch[:12], text[:0.08].")
    ] = None,
    mask_keep: MaskKeep = None,
    kernel: Kernel = None,
    border: Border = None,
    scale: Scale = None,
    sr_kernel: SrKernel = None,
    noise: Annotated[str | None, typer.Option(help="Standard deviation to add, in image units.")] = None,
    bits: Annotated[
        int, typer.Option(help="8 or 16 (PNG, rounded and clipped), or 32 (.npy, as computed).")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Fixes the noise and made-up masks.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the measurements.")] = Path("degraded"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a measurement of a good picture: pixels lost, blurred, reduced or noisy.

    Writes NAME.png, NAME_mask.png (white: to fill in) or NAME_kernel.npy, and NAME.json; prints the command
    that restores it.
    """
    from ..tasks import Options

    request = Request(
        inputs=tuple(inputs),
        task=task,
        options=Options(
            mask=mask,
            mask_keep=mask_keep,
            kernel=kernel,
            border=border,
            scale=scale,
            sr_kernel=sr_kernel,
            noise=noise,
        ),
        bits=bits,
        seed=seed,
        out=out,
        overwrite=overwrite,
    )
    answer(lambda: run(request, as_json=as_json, quiet=quiet), as_json)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line, in types; see `degrade_command`."""

    inputs: tuple[Path, ...]
    task: str
    options: Options
    bits: int = 8
    seed: int = 0
    out: Path = Path("degraded")
    overwrite: bool = False


def run(request: Request, *, as_json: bool = False, quiet: bool = False) -> Outcome:
    """Check everything, then measure. RequestError where all of it is wrong, or its only picture."""
    task = check(request)
    paths = files.expand(request.inputs)
    files.check_writable(request.out)
    outcome = Outcome()
    with Reporter(len(paths), quiet=quiet) as reporter:
        jobs = plan(request, task, paths, outcome, reporter)
        for number, (path, name) in enumerate(jobs):
            reporter.start(path.name)
            try:
                record = degrade_one(request, task, path, name)
            except (RequestError, OSError, ValueError) as error:
                report_failure(error, path, outcome, reporter, alone=len(paths) == 1)
                continue
            outcome.results.append(record)
            reporter.say(f"{path}: {record['operator']}, {record['rounding']}")
            if not as_json:
                print(record["restore"], flush=True)
            reporter.at(number + 1)
    return outcome


def check(request: Request) -> Task:
    """The checked task. RequestError for whatever can be wrong without a picture."""
    from .. import tasks

    if request.bits not in BITS:
        raise RequestError(f"--bits: expected 8, 16 or 32, got {request.bits}")
    if request.options.noise == "auto":
        raise RequestError("--noise auto is for invdiff restore; give the noise to add as a number")
    options = request.options
    if request.task == "denoise" and options.noise is None:
        raise RequestError(
            "degrade for denoise needs --noise, the standard deviation to add (8-bit 25 is 0.098)"
        )
    return tasks.check(request.task, options, making=True)


def plan(
    request: Request, task: Task, paths: list[Path], outcome: Outcome, reporter: Reporter
) -> list[tuple[Path, str]]:
    """The pictures to be measured now, and names for their results. The others go into `outcome`."""
    from ..images import read_image
    from ..tasks import check_degradable

    jobs: list[tuple[Path, str]] = []
    chosen = files.names(paths, lambda name: [name, f"{name}_mask", f"{name}_kernel"])
    for path, name in zip(paths, chosen, strict=True):
        try:
            picture = read_image(path)
            check_degradable(task, picture)
            mask = mask_for(request, task, picture)
            outputs = outputs_of(request, task, name)
            files.check_apart([request.out / file for file in outputs.values()], [path])
        except RequestError as error:
            report_failure(error, path, outcome, reporter, alone=len(paths) == 1)
            continue
        for note in (*picture.notes, *(mask.notes if mask else ())):
            reporter.say(f"warning: {note}", always=True)
        there = [file for file in outputs.values() if (request.out / file).exists()]
        if there and not request.overwrite:
            why = f"{there[0]} exists; kept, --overwrite replaces it"
            reporter.say(f"{path}: {why}")
            outcome.kept.append({"input": str(path), "record": str(request.out / f"{name}.json"), "why": why})
            continue
        jobs.append((path, name))
    return jobs


def mask_for(request: Request, task: Task, picture: Picture) -> MaskFile | None:
    """The picture's mask, read or made up; None for a task without one."""
    from ..tasks import MaskFile, make_mask

    if task.masks is None or not task.masks.made:
        return task.masks.read(picture) if task.masks else None
    keep = make_mask(task.masks.made, picture.size, request.seed)
    made = MaskFile(keep=keep, path=Path(task.masks.made), checksum="")
    return task.masks.checked(made, picture.path, picture.size)


def outputs_of(request: Request, task: Task, name: str) -> dict[str, str]:
    """Role → file name in the output folder."""
    found = {"measurement": name + BITS[request.bits]}
    if task.masks:
        found["mask"] = f"{name}_mask.png"
    if task.kernel:
        found["kernel"] = f"{name}_kernel.npy"
    return {**found, "record": f"{name}.json"}


def degrade_one(request: Request, task: Task, path: Path, name: str) -> dict[str, Any]:
    """Measure a picture, write its files, and return its record."""
    from ..images import read_image, write_image, write_mask
    from ..tasks import degrade

    picture = read_image(path)
    mask = mask_for(request, task, picture)
    measured, operator = degrade(task, picture, mask, request.seed)
    outputs = outputs_of(request, task, name)
    asked = {"mask": request.options.mask, "bits": request.bits, "seed": request.seed}
    record = {
        "command": "degrade",
        "request": {**task.describe(), **asked},
        "inputs": {"picture": {"path": str(path), "sha256": picture.checksum}},
        "outputs": outputs,
        "operator": operator,
        "size": {"picture": _by(picture.array), "measurement": _by(measured)},
        "rounding": rounding(request.bits, measured),
        "restore": shlex.join(restore_words(request, task, picture, outputs)),
        "versions": files.versions(),
    }
    with files.together(request.out, name) as folder:
        write_image(folder / outputs["measurement"], measured, _held(picture, request.bits))
        if mask:
            write_mask(folder / outputs["mask"], mask.keep)
        if task.kernel:
            _write_kernel(folder / outputs["kernel"], task)
        files.write_record(folder / outputs["record"], record)
    return record


def rounding(bits: int, measured: Array) -> str:
    """What writing the file did to the numbers, in words."""
    if bits == 32:
        return "written as computed"
    clipped = float(((measured < 0) | (measured > 1)).mean())
    share = f", {clipped:.1%} of the values clipped" if clipped else ""
    return f"rounded to {bits} bits (an error of {1 / (2**bits - 1) / 12**0.5:.2g}){share}"


def restore_words(request: Request, task: Task, picture: Picture, outputs: dict[str, str]) -> list[str]:
    """The command line that restores the measurement."""
    words = ["invdiff", "restore", str(request.out / outputs["measurement"]), "--task", task.name]
    if task.masks:
        words += ["--mask", str(request.out / outputs["mask"])]
    if task.kernel:
        words += ["--kernel", str(request.out / outputs["kernel"])]
        words += ["--border", task.border] if task.border != "valid" else []
    if task.scale > 1:
        words += ["--scale", str(task.scale)]
        words += ["--sr-kernel", task.sr_kernel] if task.sr_kernel != "bicubic" else []
    if isinstance(task.noise, float) and task.noise > 0:
        words += ["--noise", f"{task.noise:g}"]
    return [*words, "--reference", str(picture.path)]


def _held(picture: Picture, bits: int) -> Picture:
    """How the measurement is written: it is no longer made of a palette's colours, or of two tones."""
    return replace(picture, bits=bits, palette=None, format="NPY" if bits == 32 else "PNG")


def _write_kernel(path: Path, task: Task) -> None:
    import numpy as np

    if task.kernel:
        np.save(path, task.kernel.tensor().numpy())


def _by(array: Array) -> str:
    return f"{array.shape[1]}×{array.shape[0]}"
