"""`invdiff restore`: pictures in; restored pictures, panels and records out.

First the whole request is checked, files included, without torch; then each picture is restored and its files
are written as one, the record last. A record that matches the request is what makes a picture done.
"""

from __future__ import annotations

import errno
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..catalog import AUTO, METHODS, PRIORS, check_label, method_info, model_for, no_model
from ..effort import BEST, DEFAULT, FAST, seconds
from ..errors import InvdiffError, RequestError, nearest, unknown
from ..known import Known, check_prior, known
from ..plugins import contained
from . import files
from .progress import Reporter, duration

if TYPE_CHECKING:
    from torch import device as Device

    from ..images import Array
    from ..measurements import Measurement, Problem
    from ..priors import Prior
    from ..tasks import Options, Task

DEVICES = ("auto", "cpu", "cuda", "mps")

TaskName = Annotated[
    str | None, typer.Option("--task", help="inpaint, deblur, sr, denoise, ...; see invdiff tasks.")
]
OperatorName = Annotated[
    str | None,
    typer.Option(
        "--operator", help="Instead of a task: FILE.yaml, '{blur: {...}}', my_op.py:MyOp; see invdiff tasks."
    ),
]
PictureShape = Annotated[
    str | None, typer.Option("--shape", help="With --operator: the picture's, as 3x256x256.")
]
Margin = Annotated[int | None, typer.Option(help="outpaint: pixels to add on each side.")]
Pattern = Annotated[str | None, typer.Option(help="demosaic: rggb, bggr, grbg or gbrg.")]
Quality = Annotated[
    int | None, typer.Option(help="dejpeg: 1 to 100; by default what the JPEG file itself says.")
]
Chroma = Annotated[str | None, typer.Option("--subsampling", help="dejpeg: 4:4:4, 4:2:2 or 4:2:0.")]
Gain = Annotated[float | None, typer.Option(help="hdr: how far it was overexposed.")]
Noise = Annotated[
    str | None,
    typer.Option(
        help="Standard deviation in image units (8-bit 25 is 0.098), auto, poisson:PEAK, "
        "poisson-gaussian:PEAK,SIGMA, salt-pepper:AMOUNT, laplace:SCALE or quantised:BITS."
    ),
]
Kernel = Annotated[
    str | None,
    typer.Option(
        help="gaussian:STD, disk:RADIUS, motion:LENGTH,ANGLE, random:SEED, or a file (.png .npy .mat[:N])."
    ),
]
Border = Annotated[
    str | None, typer.Option(help="valid (a real photograph), circular, reflect, replicate or zero.")
]
Scale = Annotated[int | None, typer.Option(help="Enlarge by this whole factor.")]
SrKernel = Annotated[
    str | None, typer.Option("--sr-kernel", help="How it was reduced: bicubic, box or lanczos.")
]
MaskKeep = Annotated[
    str | None, typer.Option("--mask-keep", help="The mask's colour of what is kept: black or white.")
]
PriorName = Annotated[
    str,
    typer.Option("--prior", help="A name, a file of weights, a folder or a hub name; see invdiff priors."),
]
Label = Annotated[
    int | None,
    typer.Option(help="Of a prior with classes: which one, from 0. [default: any]", show_default=False),
]
Guidance = Annotated[
    float,
    typer.Option(
        help="How far towards --label, or of a conditional prior towards the measurement; 1 is the prior's own."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Take a hub name from the cache alone.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist already.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]


def restore_command(
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER...", show_default=False)],
    task: TaskName = None,
    operator: OperatorName = None,
    mask: Annotated[
        str | None,
        typer.Option(help="White: fill in. A file for all, a folder of NAME or NAME_mask, or alpha."),
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
    bits: Annotated[int | None, typer.Option(help="dequantize: to which the picture was rounded.")] = None,
    shape: PictureShape = None,
    noise: Noise = None,
    prior: PriorName = "natural",
    label: Label = None,
    guidance: Guidance = 1.0,
    offline: Offline = False,
    method: Annotated[str, typer.Option(help="auto, or a name (see invdiff methods).")] = AUTO,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method; repeatable."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the method; default: the method's own.")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Two fifths of the steps, a little less quality.")
    ] = False,
    best: Annotated[bool, typer.Option("--best", help="Two and a half times the steps.")] = False,
    budget: Annotated[
        str | None, typer.Option(help="What a picture may take, as 20s: the best that fits.")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="How many samples; more than one gives mean and uncertainty.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="With the picture it fixes every random draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    batch: Annotated[int | None, typer.Option(help="Samples that go through the network together.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="The truth, to score against: a file, or a folder of files by name.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("restored"),
    overwrite: Overwrite = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Say where the time and memory went, and how near the network is to the machine's peak.",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Restore pictures by sampling what the measurement leaves open: fill in, deblur, enlarge, denoise, colour, ...

    Writes NAME.png (the sample, or the mean of several; in the input's own format if that is lossless),
    NAME_panel.png to look at, NAME.json to know how; with --samples also each sample and NAME_std.png.
    """
    from ..tasks import Options

    def request() -> Request:
        return Request(
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
                bits=bits,
                shape=shape,
                noise=noise,
            ),
            prior=prior,
            label=label,
            guidance=guidance,
            offline=offline,
            method=method,
            settings=parse_settings(settings or []),
            steps=steps,
            effort=effort_of(fast, best, budget),
            samples=samples,
            seed=seed,
            device=device,
            batch=batch,
            reference=reference,
            out=out,
            overwrite=overwrite,
            profile=profile,
        )

    answer(lambda: run(request(), as_json=as_json, quiet=quiet), as_json)


def effort_of(fast: bool, best: bool, budget: str | None) -> str | float:
    """What --fast, --best and --budget ask for. RequestError for more than one of them, or no time."""
    if fast + best + (budget is not None) > 1:
        raise RequestError("--fast, --best and --budget: give one of them")
    return seconds(budget, "--budget") if budget is not None else FAST if fast else BEST if best else DEFAULT


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line, in types; see `restore_command`."""

    inputs: tuple[Path, ...]
    options: Options
    task: str | None = None
    operator: str | None = None
    prior: str = "natural"
    label: int | None = None
    guidance: float = 1.0
    offline: bool = False
    method: str = AUTO
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    effort: str | float = DEFAULT
    samples: int = 1
    seed: int = 0
    device: str = "auto"
    batch: int | None = None
    reference: Path | None = None
    out: Path = Path("restored")
    overwrite: bool = False
    profile: bool = False


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What restores a picture where the request leaves that open: a conditional model, or auto in its stead."""

    prior: str
    method: str
    settings: dict[str, Any]
    reason: str = ""
    """Why it is not what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture that was checked: what to read, what to call the results, what decides them."""

    path: Path
    name: str
    outputs: dict[str, str]
    """Role → file name in the output folder."""
    inputs: dict[str, dict[str, str]]
    """Role → path and checksum."""
    serving: Serving
    identity: dict[str, Any]
    """All that decides the result, JSON-able: where a record's is equal, the picture is done."""
    pixels: int
    notes: tuple[str, ...]


@dataclass(kw_only=True)
class Outcome:
    """What became of a run: records of restored pictures, those kept, and errors by input."""

    results: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    failed: list[tuple[Path, InvdiffError]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 done, 1 something failed; 2 where nothing but wrong requests came of it."""
        if not self.failed:
            return 0
        wrong = all(error.exit_code == 2 for _, error in self.failed)
        return 2 if wrong and not self.results and not self.kept else 1

    def document(self) -> dict[str, Any]:
        failed = [{"input": str(path), "error": str(error)} for path, error in self.failed]
        return {"results": self.results, "kept": self.kept, "failed": failed, "exit_code": self.exit_code}


def answer(work: Callable[[], Outcome], as_json: bool) -> None:
    """Run, print the one JSON document if asked to, and leave with the exit code."""
    try:
        outcome = work()
    except InvdiffError as error:
        if as_json:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        raise
    if as_json:
        print(json.dumps(outcome.document(), indent=2, ensure_ascii=False))
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def run(request: Request, *, as_json: bool = False, quiet: bool = False) -> Outcome:
    """Check everything, then restore. RequestError where all of the request is wrong, or its only picture."""
    task, prior_inputs = check(request)
    paths = inputs_of(request)
    files.check_writable(request.out)
    outcome = Outcome()
    with Reporter(1.0, quiet=quiet) as reporter:
        jobs = plan(request, task, prior_inputs, paths, outcome, reporter)
        if jobs:
            restore_all(request, task, jobs, outcome, reporter, show_paths=not as_json)
        if len(paths) > 1:
            reporter.say(_summary(request, outcome))
    return outcome


# -------------------------------------------------------------------------------- the request, before torch


def check(request: Request) -> tuple[Task, dict[str, str]]:
    """The checked task, and the prior as records name it. RequestError for what is wrong without one."""
    from .. import tasks

    _at_least_one("--steps", request.steps)
    _at_least_one("--samples", request.samples)
    _at_least_one("--batch", request.batch)
    if not 0 <= request.seed < 2**63:
        raise RequestError(f"--seed: expected a whole number from 0 to 2^63 - 1, got {request.seed}")
    if request.device.partition(":")[0] not in DEVICES:
        raise unknown("device", request.device, DEVICES)
    if request.method != AUTO:
        method_info(request.method)
    if request.steps is not None and "steps" in request.settings:
        raise RequestError("--set steps and --steps: give one of them")
    if request.effort != DEFAULT and (
        request.method != AUTO or request.steps is not None or "steps" in request.settings
    ):
        raise RequestError(
            "--fast, --best, --budget: with them auto chooses the steps; leave out --method and --steps"
        )
    if request.reference is not None and not request.reference.exists():
        raise RequestError(f"--reference {request.reference}: no such file or folder")
    prior = check_prior(request.prior)
    of_prior = known(request.prior)
    if of_prior.conditional or request.method != "sr3":  # else whichever serves will say
        of_prior.check_label(classes_of(request.prior), request.label, request.guidance)
    if request.effort != DEFAULT and of_prior.conditional:
        raise RequestError(
            f"--fast, --best, --budget: expected a prior of any task; {request.prior} is a conditional model: --steps"
        )
    if (method := method_with(of_prior, request.method)) != AUTO:
        options = method_info(method).options
        for name in request.settings:
            if name not in options:
                raise RequestError(
                    f"--set {name}: unknown to {method}.{nearest(name, options)} Known: {', '.join(options)}"
                )
    task = tasks.check_request(
        request.task, request.operator, request.options, method=request.method, warn=warn
    )
    of_prior.check_task(task.spec.task(), 0.0)
    return task, prior


def method_with(prior: Known, method: str) -> str:
    """The method asked for; auto with a conditional prior is sr3."""
    return "sr3" if method == AUTO and prior.conditional else method


def serve(request: Request, prior: dict[str, str], task: str | None, sigma_y: float, grey: bool) -> Serving:
    """What restores a measurement of this kind. RequestError where it was not trained for that, or cannot be guided.

    task: as `Spec.task` has it; sigma_y: of its noise, in image units; grey: whether the picture has one channel.
    """
    own = known(request.prior)
    copies = 3 if grey and own.channels == 3 else 1  # as `Measurement.problem` folds it
    sigma_y = min(1.0, sigma_y * copies**0.5)
    own.check_task(task, sigma_y)
    if own.conditional or request.method != "sr3" or task is None:
        return Serving(prior=request.prior, method=request.method, settings=request.settings)
    sums = {info.sha256: name for name, info in PRIORS.items() if info.sha256}
    name = request.prior if request.prior in PRIORS else sums.get(prior["sha256"], request.prior)
    model = model_for(name, task, sigma_y)
    serving = request.prior if model is None else model
    known(serving).check_label(classes_of(serving), request.label, request.guidance)
    if model is not None:
        reason = f"{model} is the conditional model for {task}"
        return Serving(prior=model, method="sr3", settings=request.settings, reason=reason)
    own_settings = METHODS["sr3"].own
    settings = {key: value for key, value in request.settings.items() if key not in own_settings}
    return Serving(prior=request.prior, method=AUTO, settings=settings, reason=no_model(name, task, sigma_y))


def warn(text: str) -> None:
    """Say it on standard error, whatever is to be quiet."""
    print(text, file=sys.stderr, flush=True)


def classes_of(prior: str) -> int | None:
    """How many labels the prior knows, where that can be said before its weights are loaded."""
    return PRIORS[prior].classes if prior in PRIORS else None


def parse_settings(given: list[str]) -> dict[str, Any]:
    """--set NAME=VALUE: numbers, true and false as such, anything else as text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise RequestError(f"--set {text}: expected NAME=VALUE, such as zeta=0.5")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def inputs_of(request: Request) -> list[Path]:
    """The pictures to restore; masks and kernels that lie among them are none."""
    given = [Path(p) for p in (request.options.mask, request.options.kernel) if p and Path(p).exists()]
    tools = {p.resolve() for p in given}

    def is_tool(path: Path) -> bool:
        among_masks = path.resolve().parent in tools
        return path.resolve() in tools or (among_masks and path.stem.casefold().endswith("_mask"))

    for folder in request.inputs:
        if folder.is_dir() and folder.resolve() == request.out.resolve():
            raise RequestError(
                f"--out {request.out}: is the folder of the pictures; results need one of their own"
            )
    return files.expand(request.inputs, without=is_tool)


def plan(
    request: Request,
    task: Task,
    prior: dict[str, str],
    paths: list[Path],
    outcome: Outcome,
    reporter: Reporter,
) -> list[Job]:
    """The pictures that are to be restored now; those that are done, kept or wrong go into `outcome`.

    RequestError where there is only one picture, and it is wrong.
    """
    jobs: list[Job] = []
    said: set[str] = set()
    chosen = files.names(paths, lambda name: result_stems(name, request.samples))
    for path, name in zip(paths, chosen, strict=True):
        try:
            job = _job(request, task, prior, path, name)
        except RequestError as error:
            report_failure(error, path, outcome, reporter, alone=len(paths) == 1)
            continue
        for note in job.notes:
            reporter.say(f"warning: {note}", always=True)
        instead = job.serving.reason if job.serving.method != request.method else ""
        if instead and instead not in said:  # of many pictures, once
            reporter.say(f"warning: {instead}", always=True)
            said.add(instead)
        if (why := standing(request, job)) is None:
            jobs.append(job)
        else:
            reporter.say(f"{path}: {why}")
            outcome.kept.append({"input": str(path), "record": str(request.out / f"{name}.json"), "why": why})
    return jobs


def _job(request: Request, task: Task, prior: dict[str, str], path: Path, name: str) -> Job:
    from ..images import read_image
    from ..measurements import align_reference

    source = task.read(path)
    measured = task.measurement(source, request.method)
    inputs = {"picture": {"path": str(path), "sha256": source.checksum}}
    if measured.mask and task.masks:
        inputs["mask"] = {"path": str(measured.mask.path), "sha256": measured.mask.checksum}
    if request.reference:
        truth = read_image(reference_for(request.reference, path))
        size = measured.size
        if align_reference(truth.array, size, measured.spec) is None:
            raise RequestError(
                f"{truth.path}: the reference is {truth.size[1]}×{truth.size[0]}, "
                f"expected the size of the result, {size[1]}×{size[0]}"
            )
        inputs["reference"] = {"path": str(truth.path), "sha256": truth.checksum}
    spread = measured.sigma_y * (2**0.5 if measured.noise else 1)  # of light, as where all is white
    serving = serve(request, prior, measured.spec.task(measured.shape), spread, measured.shape[0] == 1)
    prior = prior if serving.prior == request.prior else check_prior(serving.prior)
    outputs = result_files(name, request.samples, measured.like.suffix)
    files.check_apart(
        (request.out / file for file in outputs.values()), (Path(entry["path"]) for entry in inputs.values())
    )
    identity = {
        **task.describe(),
        **{role: entry["sha256"] for role, entry in inputs.items()},
        "prior": prior["sha256"],
        "label": request.label,
        "guidance": request.guidance,
        "method": request.method,
        "steps": request.steps,
        "samples": request.samples,
        "seed": request.seed,
        "settings": request.settings,
        **({"effort": request.effort} if request.effort != DEFAULT else {}),
    }
    return Job(
        path=path,
        name=name,
        outputs=outputs,
        inputs={**inputs, "prior": prior},
        serving=serving,
        identity=identity,
        pixels=measured.shape[1] * measured.shape[2],
        notes=measured.notes,
    )


def reference_for(given: Path, picture: Path) -> Path:
    """The reference file of a picture: the one given, or NAME.* in the folder given."""
    if not given.is_dir():
        return given
    from ..images import list_images

    for path in list_images(given):
        if path.stem.casefold() == picture.stem.casefold():
            return path
    raise RequestError(
        f"{picture}: no reference for it in the folder {given}; expected {picture.stem}.* there"
    )


def result_stems(name: str, samples: int) -> list[str]:
    """What the results of one picture are called, without endings."""
    stems = [name, f"{name}_panel"]
    return (
        stems + [f"{name}_std", *(f"{name}_sample{k + 1}" for k in range(samples))] if samples > 1 else stems
    )


def result_files(name: str, samples: int, suffix: str) -> dict[str, str]:
    """Role → file name: restored, panel, and for several samples std, sample1, ..."""
    found = {"restored": name + suffix, "panel": f"{name}_panel.png"}
    if samples > 1:
        found["std"] = f"{name}_std.png"
        found |= {f"sample{k + 1}": f"{name}_sample{k + 1}{suffix}" for k in range(samples)}
    return {**found, "record": f"{name}.json"}


def standing(request: Request, job: Job) -> str | None:
    """Why this picture is left alone, in words; None where it is to be restored."""
    there = [name for name in job.outputs.values() if (request.out / name).exists()]
    if request.overwrite or not there:
        return None
    if job.outputs["record"] not in there:
        if files.unfinished(request.out, job.name):
            return None
        return f"{there[0]} exists and no record says how it was made; kept, --overwrite replaces it"
    record = files.read_record(request.out / job.outputs["record"])
    if record is None or not all((request.out / f).exists() for f in record.get("outputs", {}).values()):
        return None
    changed = files.differences(record.get("request"), job.identity)
    if changed:
        return f"kept the result made with {changed}; --overwrite replaces it"
    return None if files.unfinished(request.out, job.name) else "done before"


# --------------------------------------------------------------------------------------------- the slow phase


def restore_all(
    request: Request, task: Task, jobs: list[Job], outcome: Outcome, reporter: Reporter, *, show_paths: bool
) -> None:
    """Restore one picture after the other. What goes wrong with one is reported and the others go on."""
    reporter.start("loading the prior")
    from ..priors import load_prior
    from ..priors.network import resolve_device

    device = resolve_device(request.device)
    first = {job.serving.method: job for job in reversed(jobs)}
    with contained():
        for job in first.values():
            check_settings(request, task, job)
    priors: dict[str, Prior] = {}
    for name in dict.fromkeys(job.serving.prior for job in jobs):
        priors[name] = load_prior(name, device=device, offline=request.offline)
        card = priors[name].card
        dropout = card.condition.dropout if card.condition else None
        check_label(card.name, card.classes, request.label, request.guidance, dropout)
    reporter.expect(sum(job.pixels for job in jobs))
    try:
        for number, job in enumerate(jobs, start=1):
            reporter.start(f"[{number}/{len(jobs)}] {job.path.name}")
            try:
                with contained():
                    record = restore_one(request, task, job, priors[job.serving.prior], device, reporter)
            except (InvdiffError, OSError, RuntimeError, MemoryError, ValueError) as error:
                alone = len(jobs) == 1 and not outcome.kept and not outcome.failed
                report_failure(error, job.path, outcome, reporter, alone=alone)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                    reporter.say(
                        f"stopped: {len(jobs) - number} pictures are left; make room and run it again",
                        always=True,
                    )
                    return
            else:
                outcome.results.append(record)
                reporter.say(_line(number, len(jobs), job, record))
                if show_paths:
                    print(request.out / job.outputs["restored"], flush=True)
            reporter.at(job.pixels)
    except KeyboardInterrupt:
        done = len(outcome.results)
        reporter.say(
            f"stopped: {done} of {len(jobs)} done and kept; the same command goes on from there", always=True
        )
        raise


def check_settings(request: Request, task: Task, job: Job) -> None:
    """RequestError for a setting that the method does not have, before any weight is loaded."""
    from ..restore import affordable, as_known_to, choose_method
    from ..restore import measured as checked

    method = method_with(known(job.serving.prior), job.serving.method)
    problem = task.measurement(task.read(job.path), request.method).problem(None)
    given = checked(problem.y, problem.operator, problem.sigma_y, problem.noise)
    white, samples, settings = as_known_to(method, given), request.samples, job.serving.settings
    if request.effort != DEFAULT:
        affordable(white.operator, white.sigma_y, request.effort, samples=samples, options=settings)
        return
    choose_method(
        white.operator, method, white.sigma_y, samples=samples, steps=request.steps, options=settings
    )


def restore_one(
    request: Request, task: Task, job: Job, prior: Prior, device: Device, reporter: Reporter
) -> dict[str, Any]:
    """Restore a picture, write its files, and return its record."""
    from ..restore import restore

    began = time.perf_counter()
    measured = task.measurement(task.read(job.path), request.method)
    read = time.perf_counter() - began
    problem = measured.problem(prior.card.channels)
    result = restore(
        problem.y,
        problem.operator,
        prior,
        method=job.serving.method,
        sigma_y=problem.sigma_y,
        noise=problem.noise,
        steps=request.steps,
        effort=request.effort,
        samples=request.samples,
        seed=request.seed,
        batch=request.batch,
        device=device,
        options=job.serving.settings,
        label=request.label,
        guidance=request.guidance,
        callback=lambda progress: reporter.at(job.pixels * progress.done / progress.total),
        profile=request.profile,
    )
    pictures = problem.pictures(result.samples)
    truth = _truth(measured, job, pictures)
    record: dict[str, Any] = {
        "command": "restore",
        "request": job.identity,
        "inputs": job.inputs,
        "outputs": job.outputs,
        "operator": problem.operator.describe(),
        "sigma_y": None if measured.noise else measured.sigma_y,
        "method": result.method,
        "reason": "; ".join(filter(None, (result.reason, job.serving.reason))),
        "config": result.config,
        "seed": request.seed,
        "prior": prior.card.as_dict(),
        "device": _device_name(device),
        "versions": files.versions(),
        "seconds": round(result.seconds, 3),
        "network_seconds": result.network_seconds,
        "profile": result.profile and {**asdict(result.profile), "read": read},
        "evaluations": result.evaluations,
        "scores": scores(pictures, truth) if truth is not None else None,
    }
    with files.together(request.out, job.name) as folder:
        began = time.perf_counter()
        write_results(folder, job, measured, problem, pictures, truth)
        if record["profile"]:
            record["profile"]["write"] = time.perf_counter() - began
        files.write_record(folder / job.outputs["record"], record)
    return record


def write_results(
    folder: Path, job: Job, measured: Measurement, problem: Problem, pictures: Array, truth: Array | None
) -> None:
    """All files but the record. pictures: the samples, (S, H, W, C)."""
    from ..images import STD_WHITE, Tile, panel, write_image, write_std

    like, mean = measured.like, pictures.mean(axis=0)
    write_image(folder / job.outputs["restored"], mean, like)
    title = f"mean of {len(pictures)}" if len(pictures) > 1 else "restored"
    seen = measured.seen() or problem.seen()
    tiles = [Tile(caption=seen[0], array=seen[1])] if seen else []
    tiles.append(Tile(caption=title, array=mean))
    if len(pictures) > 1:
        for k, sample in enumerate(pictures):
            write_image(folder / job.outputs[f"sample{k + 1}"], sample, like)
        std = (pictures.var(axis=0, ddof=1).mean(axis=2)) ** 0.5
        write_std(folder / job.outputs["std"], std)
        tiles += [Tile(caption="a sample", array=pictures[0])]
        tiles += [Tile(caption="uncertainty", array=std, scale=STD_WHITE)]
    if truth is not None:
        tiles.append(Tile(caption="reference", array=truth))
    panel(folder / job.outputs["panel"], tiles)


def scores(pictures: Array, truth: Array) -> dict[str, Any]:
    """PSNR, SSIM and, where its weights are, LPIPS of the mean and of each sample, clipped as the files are.

    They compare what truth covers (an enlargement may be larger); None: too small to say, or equal.
    """
    import torch

    from ..evaluation import lpips, metrics

    def image(array: Array) -> torch.Tensor:
        cut = array[: truth.shape[0], : truth.shape[1]].clip(0, 1)
        colour = cut if cut.shape[2] == truth.shape[2] else cut.mean(axis=2, keepdims=True)
        return torch.from_numpy(colour.transpose(2, 0, 1).copy())

    reference = image(truth)
    perceptual = (
        lpips.Lpips("squeeze") if "squeeze" in lpips.available() and min(truth.shape[:2]) >= 32 else None
    )

    def score(array: Array) -> dict[str, float | None]:
        one = image(array)
        found = {"psnr": float(metrics.psnr(one, reference))}
        if min(truth.shape[:2]) >= 11:
            found["ssim"] = float(metrics.ssim(one, reference))
        if perceptual:
            found["lpips_squeeze"] = float(perceptual(one.expand(3, -1, -1), reference.expand(3, -1, -1)))
        return {key: round(value, 4) if math.isfinite(value) else None for key, value in found.items()}

    found: dict[str, Any] = {"restored": score(pictures.mean(axis=0))}
    return {**found, "samples": [score(one) for one in pictures]} if len(pictures) > 1 else found


def _truth(measured: Measurement, job: Job, pictures: Array) -> Array | None:
    """The reference, cut to the result; in grey where the result is."""
    if "reference" not in job.inputs:
        return None
    from ..images import read_image
    from ..measurements import align_reference

    truth = read_image(job.inputs["reference"]["path"]).array
    if truth.shape[2] > pictures.shape[3]:
        truth = truth.mean(axis=2, keepdims=True)
    return align_reference(truth, pictures.shape[1:3], measured.spec)


# ------------------------------------------------------------------------------------------------------ words


def report_failure(
    error: Exception, path: Path, outcome: Outcome, reporter: Reporter, *, alone: bool
) -> None:
    """Say what went wrong with one picture among several; with the only one it is the whole run's error."""
    error = _as_ours(error, path)
    if alone:
        raise error
    outcome.failed.append((path, error))
    reporter.say(f"error: {' '.join(str(error).split())}", always=True)


def _as_ours(error: Exception, path: Path) -> InvdiffError:
    """Any error in one line that names the picture, with its exit code."""
    if isinstance(error, InvdiffError):
        kind = type(error)
        return error if str(path) in str(error) else kind(f"{path}: {error}")
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, OSError):
        text = f"could not be written ({error.strerror or text})"
    return InvdiffError(f"{path}: {text}")


def _line(number: int, count: int, job: Job, record: dict[str, Any]) -> str:
    parts = [record["method"], f"{record['evaluations']} evaluations", duration(record["seconds"])]
    if record["request"]["method"] == AUTO:
        parts[0] += f" ({record['reason']})"
    if record["request"]["noise"] == "auto":
        parts.append(f"noise {record['sigma_y']:.4f}")
    if record["profile"]:
        parts.append(_profile(record["profile"]))
    elif record["network_seconds"] is not None:
        parts.append(f"{record['network_seconds'] / max(record['seconds'], 1e-9):.0%} of it in the network")
    if record["scores"]:
        names = {"psnr": "PSNR", "ssim": "SSIM", "lpips_squeeze": "LPIPS (squeeze)"}
        found = record["scores"]["restored"]
        parts += [f"{names[key]} {value:.4g}" for key, value in found.items() if value is not None]
    return f"[{number}/{count}] {job.path}: {', '.join(parts)}"


def _profile(told: dict[str, float]) -> str:
    from ..profiling import Profile

    found = dict(told)
    read, write = found.pop("read"), found.pop("write")
    return f"{Profile(**found)}; reading {read:.2f} s, writing {write:.2f} s"


def _summary(request: Request, outcome: Outcome) -> str:
    counts = {"restored": len(outcome.results), "kept": len(outcome.kept), "failed": len(outcome.failed)}
    return f"{', '.join(f'{n} {what}' for what, n in counts.items() if n)}; results are in {request.out}"


def _device_name(device: Device) -> str:
    if device.type != "cuda":
        return str(device)
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def _at_least_one(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise RequestError(f"{option}: expected a whole number of at least 1, got {value}")
