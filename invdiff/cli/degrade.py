"""`invdiff degrade`: measurements of good pictures, to try things on, with all that undoing them needs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvdiffError, RequestError
from ..noise import NoiseSpec
from ..plugins import contained
from ..specs import KernelSpec
from ..words import by, dims, flag
from . import files
from .progress import Reporter
from .restore import (
    AsJson,
    Border,
    Chroma,
    Gain,
    Kernel,
    Margin,
    MaskKeep,
    Noise,
    OperatorName,
    Outcome,
    Overwrite,
    Pattern,
    Quality,
    Quiet,
    Scale,
    SrKernel,
    TaskName,
    answer,
    report_failure,
    warn,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..images import Picture
    from ..tasks import Options, Task

BITS = {8: ".png", 16: ".png", 32: ".npy"}
MUCH = 0.01
"""The share of clipped values from which restoring as though there were none goes wrong."""


def degrade_command(
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER...", show_default=False)],
    task: TaskName = None,
    operator: OperatorName = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="A file, a folder, or random:0.8, box:64, scratch[:12], text[:0.08], stripes:4,16, lines:2, "
            "border:32, strokes[:0.15]."
        ),
    ] = None,
    mask_keep: MaskKeep = None,
    margin: Margin = None,
    kernel: Kernel = None,
    border: Border = None,
    scale: Scale = None,
    sr_kernel: SrKernel = None,
    pattern: Pattern = None,
    quality: Quality = None,
    subsampling: Chroma = None,
    gain: Gain = None,
    noise: Noise = None,
    bits: Annotated[
        int | None,
        typer.Option(
            help="8 (default) or 16 (PNG, rounded and clipped), or 32 (.npy, as computed); dequantize: those to "
            "round to."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes the noise and made-up masks.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the measurements.")] = Path("degraded"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a measurement of a good picture: pixels lost, blurred, reduced, noisy, clipped, compressed, ...

    Writes NAME.png (NAME.npy for a measurement that is no picture), NAME_mask.png (white: to fill in),
    NAME_kernel.npy or NAME_operator.yaml, and NAME.json; prints the command that restores it.
    """
    from ..tasks import Options

    few = bits if task == "dequantize" else None
    request = Request(
        inputs=tuple(inputs),
        task=task,
        operator=operator,
        options=Options(
            mask=mask,
            mask_keep=mask_keep,
            margin=margin,
            kernel=kernel,
            border=border,
            scale=scale,
            sr_kernel=sr_kernel,
            pattern=pattern,
            quality=quality,
            subsampling=subsampling,
            gain=gain,
            bits=few,
            noise=noise,
        ),
        bits=(8 if few is None or few <= 8 else 16) if bits is None or task == "dequantize" else bits,
        seed=seed,
        out=out,
        overwrite=overwrite,
    )
    answer(lambda: run(request, as_json=as_json, quiet=quiet), as_json)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line, in types; see `degrade_command`."""

    inputs: tuple[Path, ...]
    options: Options
    task: str | None = None
    operator: str | None = None
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
                with contained():
                    record = degrade_one(request, task, path, name)
            except (InvdiffError, OSError, ValueError) as error:
                report_failure(error, path, outcome, reporter, alone=len(paths) == 1)
                continue
            outcome.results.append(record)
            reporter.say(f"{path}: {record['operator']}, {record['rounding']}")
            if record["clipped"] > MUCH:
                remedy = "" if task.name == "dequantize" else "; --bits 32 keeps them as computed"
                lost = f"{record['clipped']:.1%} of the measurement's values are clipped to black or white"
                reporter.say(f"warning: {path}: {lost}{remedy}", always=True)
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
    return tasks.check_request(request.task, request.operator, options, making=True, warn=warn)


def plan(
    request: Request, task: Task, paths: list[Path], outcome: Outcome, reporter: Reporter
) -> list[tuple[Path, str]]:
    """The pictures to be measured now, and names for their results. The others go into `outcome`."""
    from ..images import read_image
    from ..tasks import check_degradable

    jobs: list[tuple[Path, str]] = []
    parts = ("", "_mask", "_kernel", "_operator")
    chosen = files.names(paths, lambda name: [name + part for part in parts])
    for path, name in zip(paths, chosen, strict=True):
        try:
            picture = read_image(path)
            check_degradable(task, picture)
            mask = task.mask(picture, request.seed)
            outputs = outputs_of(request, _for_picture(task, picture), name)
            files.check_apart([request.out / file for file in outputs.values()], [path])
        except RequestError as error:
            report_failure(error, path, outcome, reporter, alone=len(paths) == 1)
            continue
        notes = task.spec.notes((picture.channels, *picture.size))
        for note in (*picture.notes, *(mask.notes if mask else ()), *notes):
            reporter.say(f"warning: {note}", always=True)
        there = [file for file in outputs.values() if (request.out / file).exists()]
        if there and not request.overwrite:
            why = f"{there[0]} exists; kept, --overwrite replaces it"
            reporter.say(f"{path}: {why}")
            outcome.kept.append({"input": str(path), "record": str(request.out / f"{name}.json"), "why": why})
            continue
        jobs.append((path, name))
    return jobs


def outputs_of(request: Request, task: Task, name: str) -> dict[str, str]:
    """Role → file name in the output folder. A measurement that is no picture is known by what it measures of one."""
    from ..tasks import OPERATOR

    pictorial = task.spec.pictorial(task.shape)
    found = {"measurement": name + (BITS[request.bits] if pictorial else ".npy")}
    if task.masks:
        found["mask"] = f"{name}_mask.png"
    if task.name == "deblur":
        found["kernel"] = f"{name}_kernel.npy"
    if task.name == OPERATOR:
        found["operator"] = f"{name}_operator.yaml"
    return {**found, "record": f"{name}.json"}


def degrade_one(request: Request, task: Task, path: Path, name: str) -> dict[str, Any]:
    """Measure a picture, write its files, and return its record."""
    import numpy as np

    from ..images import read_image, write_image, write_mask
    from ..tasks import degrade, spec_file

    picture = read_image(path)
    task = _for_picture(task, picture)
    mask = task.mask(picture, request.seed)
    measured, operator = degrade(task, picture, mask, request.seed)
    outputs = outputs_of(request, task, name)
    pictorial = task.spec.pictorial(task.shape)
    bits = request.bits if pictorial else 32
    asked = {"mask": request.options.mask, "bits": request.bits, "seed": request.seed}
    record = {
        "command": "degrade",
        "request": {**task.describe(), **asked},
        "inputs": {"picture": {"path": str(path), "sha256": picture.checksum}},
        "outputs": outputs,
        "operator": operator,
        "size": {"picture": by(picture.size), "measurement": _size(measured, pictorial)},
        "rounding": rounding(bits, measured),
        "clipped": round(clipped(bits, measured), 6),
        "restore": shlex.join(restore_words(request, task, picture, outputs)),
        "versions": files.versions(),
    }
    with files.together(request.out, name) as folder:
        if not pictorial:
            np.save(folder / outputs["measurement"], measured)
        elif request.bits == 32:
            np.save(folder / outputs["measurement"], measured.transpose(1, 2, 0))
        else:
            held = replace(picture, bits=request.bits, palette=None, format="PNG")  # no longer of few colours
            write_image(folder / outputs["measurement"], measured.transpose(1, 2, 0), held)
        if mask and task.masks:
            write_mask(folder / outputs["mask"], mask.keep)
        if isinstance(task.spec, KernelSpec) and "kernel" in outputs:
            np.save(folder / outputs["kernel"], task.spec.tensor().numpy())
        if "operator" in outputs:
            write_yaml(folder / outputs["operator"], spec_file(task, picture))
        files.write_record(folder / outputs["record"], record)
    return record


def _for_picture(task: Task, picture: Picture) -> Task:
    """The task as it is for this picture: with --operator its shape is known now."""
    from ..tasks import OPERATOR

    return replace(task, shape=(picture.channels, *picture.size)) if task.name == OPERATOR else task


def write_yaml(path: Path, document: dict[str, Any]) -> None:
    import yaml

    path.write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=None), encoding="utf-8")


def rounding(bits: int, measured: NDArray[np.float32]) -> str:
    """What writing the file did to the numbers, in words."""
    if bits == 32:
        return "written as computed"
    lost = clipped(bits, measured)
    share = f", {lost:.1%} of the values clipped" if lost else ""
    return f"rounded to {bits} bits (an error of {1 / (2**bits - 1) / 12**0.5:.2g}){share}"


def clipped(bits: int, measured: NDArray[np.float32]) -> float:
    """The share of the values that the file cannot hold."""
    return 0.0 if bits == 32 else float(((measured < 0) | (measured > 1)).mean())


def restore_words(request: Request, task: Task, picture: Picture, outputs: dict[str, str]) -> list[str]:
    """The command line that restores the measurement."""
    words = ["invdiff", "restore", str(request.out / outputs["measurement"])]
    if "operator" in outputs:  # its file holds the noise too
        words += ["--operator", str(request.out / outputs["operator"])]
        return [*words, "--reference", str(picture.path)]
    words += ["--task", task.name]
    if task.masks:
        words += ["--mask", str(request.out / outputs["mask"])]
    if "kernel" in outputs:
        words += ["--kernel", str(request.out / outputs["kernel"])]
    defaults = {
        "border": "valid",
        "sr_kernel": "bicubic",
        "pattern": "rggb",
        "gain": 2.0,
        "subsampling": "4:2:0",
    }
    told = ("border", "margin", "scale", "sr_kernel", "pattern", "quality", "subsampling", "gain", "bits")
    for key in told:
        if key in task.words and task.words[key] != defaults.get(key):
            words += [flag(key), f"{task.words[key]}"]
    if isinstance(task.noise, NoiseSpec):
        words += ["--noise", str(task.noise)]
    elif task.noise != "auto" and task.noise > 0:
        words += ["--noise", f"{task.noise:g}"]
    return [*words, "--reference", str(picture.path)]


def _size(measured: NDArray[np.float32], pictorial: bool) -> str:
    return by(measured.shape[1:]) if pictorial else dims(measured.shape)
