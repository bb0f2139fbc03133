"""`invdiff sample`: pictures that a prior draws by itself, a contact sheet of them, and a record.

The request is checked without torch. The record is what makes a sample done: it lists the finished ones, each batch
is written together with it, and the same command goes on with those that are missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..catalog import INTEGRATORS, PRIORS, check_label
from ..errors import RequestError, nearest, unknown
from ..known import check_prior, known
from ..words import by
from . import files
from .listings import GRIDS
from .progress import Reporter, duration
from .restore import (
    DEVICES,
    AsJson,
    Guidance,
    Label,
    Offline,
    Outcome,
    Overwrite,
    PriorName,
    Quiet,
    answer,
    classes_of,
)

if TYPE_CHECKING:
    from ..images import Array
    from ..priors import Prior
    from ..running import Progress

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
PART = "samples"
RECORD, SHEET = f"{PART}.json", "sheet.png"
TILE = 256
"""The longer side, in pixels, that a contact sheet shows a sample in at most."""
SIDE = 64
"""The side of samples where neither the request nor the prior says one."""


def sample_command(
    prior: PriorName = "natural",
    label: Label = None,
    guidance: Guidance = 1.0,
    offline: Offline = False,
    count: Annotated[int, typer.Option(help="How many samples.")] = 8,
    size: Annotated[
        str | None,
        typer.Option(
            help="WIDTHxHEIGHT in pixels, or one number for a square. [default: the prior's, or 64]"
        ),
    ] = None,
    integrator: Annotated[
        str, typer.Option(help="NAME, NAME:VALUE or NAME:SETTING=VALUE,...; see invdiff methods.")
    ] = "ancestral",
    grid: Annotated[str, typer.Option(help="karras, karras:RHO, log_uniform or ddpm.")] = "karras",
    steps: Annotated[int, typer.Option(help="Noise levels.")] = 50,
    sigma_max: Annotated[float, typer.Option(help="The first of them, image units.")] = 10.0,
    sigma_min: Annotated[float, typer.Option(help="The last before 0.")] = 0.005,
    jump: Annotated[int, typer.Option(help="Levels climbed back up, with --repeats.")] = 1,
    repeats: Annotated[int, typer.Option(help="How often each stretch is walked down.")] = 1,
    seed: Annotated[int, typer.Option(help="With a sample's number it fixes every random draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    batch: Annotated[int | None, typer.Option(help="Samples that go through the network together.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("samples"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw samples of a prior, given nothing: what it has learned, and what an integrator makes of it.

    Writes 0000.png, 0001.png, ..., sheet.png with all of them, and samples.json to know how. The same command again
    goes on with what is missing, and a larger --count adds to what is there.
    """
    request = Request(
        prior=prior, label=label, guidance=guidance, offline=offline, count=count,
        size=size, integrator=integrator, grid=grid, steps=steps, sigma_max=sigma_max,
        sigma_min=sigma_min, jump=jump, repeats=repeats, seed=seed, device=device, precision=precision,
        batch=batch, out=out, overwrite=overwrite,
    )  # fmt: skip
    answer(lambda: run(request, quiet=quiet, show_paths=not as_json), as_json)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line, in types; see `sample_command`."""

    prior: str
    label: int | None
    guidance: float
    offline: bool
    count: int
    size: str | None
    integrator: str
    grid: str
    steps: int
    sigma_max: float
    sigma_min: float
    jump: int
    repeats: int
    seed: int
    device: str
    precision: str
    batch: int | None
    out: Path
    overwrite: bool

    @property
    def method(self) -> dict[str, Any]:
        """What `invdiff.sample` calls its own, but for the seed."""
        names = ("integrator", "grid", "steps", "sigma_max", "sigma_min", "jump", "repeats")
        return {name: getattr(self, name) for name in names}


def run(request: Request, *, quiet: bool = False, show_paths: bool = True) -> Outcome:
    """Check everything, then sample what is missing."""
    size = None if request.size is None else parse_size(request.size)
    named = check(request)["sha256"]
    files.check_writable(request.out)
    loaded = None
    if size is None:
        side = side_of(request.prior)
        if side is None:
            with Reporter(1.0, quiet=quiet) as reporter:
                loaded = load(request, reporter)
            side = loaded.card.size or SIDE
        size = side, side
    identity = {
        "prior": named,
        "label": request.label,
        "guidance": request.guidance,
        "size": by(size),
        **request.method,
        "seed": request.seed,
        "precision": request.precision,
    }
    made, stale = standing(request, identity)
    missing = [k for k in range(request.count) if k not in made]
    record = str(request.out / RECORD)
    outcome = Outcome(
        kept=[{"sample": entry["file"], "record": record, "why": "done before"} for entry in made.values()]
    )
    with Reporter(max(len(missing), 1), quiet=quiet) as reporter:
        if made:
            reporter.say(f"{len(made)} samples were done before")
        if missing:
            outcome.results.append(draw(request, loaded, identity, size, made, missing, stale, reporter))
        if missing or not (request.out / SHEET).exists():
            write_sheet(request.out, [entry["file"] for _, entry in sorted(made.items())])
    if show_paths:
        print(request.out / SHEET)
    return outcome


# -------------------------------------------------------------------------------- the request, before torch


def check(request: Request) -> dict[str, str]:
    """The prior as records name it. RequestError for whatever can be seen to be wrong without torch."""
    for option in ("count", "steps", "jump", "repeats", "batch"):
        value = getattr(request, option)
        if value is not None and value < 1:
            raise RequestError(f"--{option}: expected a whole number of at least 1, got {value}")
    if not 0 <= request.seed < 2**63:
        raise RequestError(f"--seed: expected a whole number from 0 to 2^63 - 1, got {request.seed}")
    if request.device.partition(":")[0] not in DEVICES:
        raise unknown("device", request.device, DEVICES)
    if request.precision not in PRECISIONS:
        raise unknown("precision", request.precision, PRECISIONS)
    if request.grid.partition(":")[0] not in GRIDS:
        raise unknown("grid", request.grid, GRIDS)
    check_integrator(request.integrator)
    named = check_prior(request.prior)
    known(request.prior).check_alone()
    check_label(request.prior, classes_of(request.prior), request.label, request.guidance)
    return named


def check_integrator(spec: str) -> None:
    """RequestError for a name or a setting that no integrator has. Their values are checked where torch is."""
    name, _, rest = spec.partition(":")
    if name not in INTEGRATORS:
        raise unknown("integrator", name, INTEGRATORS)
    options = INTEGRATORS[name].options
    for part in rest.split(","):
        setting, equals, _ = part.partition("=")
        if equals and setting.strip() not in options:
            near = nearest(setting.strip(), options)
            raise RequestError(
                f"--integrator {spec}: unknown setting {setting.strip()}.{near} "
                f"Settings of {name}: {', '.join(options) or 'none'}"
            )


def side_of(prior: str) -> int | None:
    """The side of samples where none is asked for: of the only size that the prior knows, or `SIDE`.

    Of the catalog, or of a file's own card, which is read without its weights; None where loading alone can say.
    """
    if prior in PRIORS:
        return PRIORS[prior].size or SIDE
    from ..priors.files import IN_A_FOLDER, read_about

    path = Path(prior).expanduser()
    path = path / IN_A_FOLDER if path.is_dir() else path
    if not path.is_file() or path.with_name(path.name + ".yaml").exists():  # options may say another size
        return None
    try:
        size = read_about(path)["card"].get("size")
    except RequestError:  # another format; or damaged, as load_prior will say
        return None
    return SIDE if size is None else size if isinstance(size, int) and size >= 1 else None


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) from WIDTHxHEIGHT or one number."""
    parts = text.casefold().replace("×", "x").split("x")
    if len(parts) not in (1, 2) or not all(p.isascii() and p.isdigit() and int(p) >= 1 for p in parts):
        raise RequestError(f"--size {text}: expected WIDTHxHEIGHT in pixels, such as 64x64, or one number")
    return int(parts[-1]), int(parts[0])


def standing(request: Request, identity: dict[str, Any]) -> tuple[dict[int, dict[str, Any]], tuple[str, ...]]:
    """The finished samples in the folder, by number, and files to be removed when the first new one is there.

    RequestError where something else is in the place of a result, unless --overwrite is given.
    """
    record = files.read_record(request.out / RECORD)
    listed = {int(k): entry for k, entry in (record or {}).get("samples", {}).items()}
    if request.overwrite:
        return {}, tuple(entry["file"] for entry in listed.values())
    changed = files.differences(record.get("request"), identity) if record else ""
    if changed:
        raise RequestError(
            f"{request.out} holds samples made with {changed}; --overwrite replaces them, --out DIR puts these "
            "elsewhere"
        )
    made = {k: entry for k, entry in listed.items() if (request.out / entry["file"]).exists()}
    if not files.unfinished(request.out, PART):
        results = [name_of(k) for k in range(request.count) if k not in made]
        for name in results if record else [*results, SHEET, RECORD]:
            if (request.out / name).exists():
                raise RequestError(
                    f"{request.out / name} exists and no record says how it was made; --overwrite replaces it, "
                    "--out DIR puts the samples elsewhere"
                )
    return made, ()


def name_of(k: int) -> str:
    return f"{k:04}.png"


# --------------------------------------------------------------------------------------------- the slow phase


def load(request: Request, reporter: Reporter) -> Prior:
    """The prior, where it will run. RequestError for a method's values out of range before any weight is loaded."""
    reporter.start("loading the prior")
    from ..priors import load_prior
    from ..priors.network import resolve_device
    from ..sample import unconditional

    device = resolve_device(request.device)
    unconditional(**request.method)
    return load_prior(request.prior, device=device, precision=request.precision, offline=request.offline)


def draw(
    request: Request,
    loaded: Prior | None,
    identity: dict[str, Any],
    size: tuple[int, int],
    made: dict[int, dict[str, Any]],
    missing: list[int],
    stale: tuple[str, ...],
    reporter: Reporter,
) -> dict[str, Any]:
    """Sample what is missing, add it to `made`, write it batch by batch, and return the record.

    loaded: the prior, where it had to be loaded before.
    """
    prior = load(request, reporter) if loaded is None else loaded
    from ..images import to_array, write_image
    from ..priors.network import resolve_device
    from ..running import together
    from ..sample import sample
    from .restore import _device_name

    device = resolve_device(request.device)
    reporter.expect(len(missing))
    shape = (prior.card.channels or 3, *size)
    record: dict[str, Any] = {}
    try:
        for some in batches(missing, together(request.batch, device)):
            reporter.start(f"from sample {some[0] + 1} of {request.count}")

            def show(progress: Progress, count: int = len(some)) -> None:
                reporter.at(count * progress.done / progress.total)

            result = sample(
                prior, shape, **request.method, label=request.label, guidance=request.guidance,
                samples=len(some), first=some[0], seed=request.seed,
                batch=request.batch, device=device,
                callback=show,
            )  # fmt: skip
            seconds = round(result.seconds / len(some), 3)
            made.update({k: {"file": name_of(k), "seconds": seconds} for k in some})
            record = {
                "command": "sample",
                "request": identity,
                "samples": {str(k): made[k] for k in sorted(made)},
                "outputs": {"sheet": SHEET, "record": RECORD},
                "config": {k: v for k, v in result.config.items() if k not in ("samples", "first")},
                "seed": request.seed,
                "prior": prior.card.as_dict(),
                "device": _device_name(device),
                "versions": files.versions(),
                "seconds": round(sum(entry["seconds"] for entry in made.values()), 3),
                "evaluations": result.evaluations,
            }
            for name in stale if some[0] == missing[0] else ():
                (request.out / name).unlink(missing_ok=True)
            with files.together(request.out, PART) as folder:
                for k, image in zip(some, result.samples, strict=True):
                    write_image(folder / name_of(k), to_array(image))
                files.write_record(folder / RECORD, record)
    except KeyboardInterrupt:
        reporter.say(
            f"stopped: {len(made)} samples done and kept; the same command goes on from there", always=True
        )
        raise
    spent = sum(made[k]["seconds"] for k in missing)
    reporter.say(
        f"{len(missing)} samples of {by(size)}, {record['evaluations']} evaluations each, {duration(spent)}"
    )
    return record


def batches(missing: Sequence[int], size: int) -> Iterator[list[int]]:
    """The numbers in runs without a gap, none longer than `size`."""
    some: list[int] = []
    for k in missing:
        if some and (k != some[-1] + 1 or len(some) == size):
            yield some
            some = []
        some.append(k)
    if some:
        yield some


def write_sheet(out: Path, names: Sequence[str]) -> None:
    """All samples in one picture, row by row; small ones enlarged by a whole factor, large ones reduced."""
    from ..images import read_image, write_image

    write_image(out / SHEET, contact_sheet([read_image(out / name).array for name in names]))


def contact_sheet(pictures: Sequence[Array], gap: int = 4) -> Array:
    """Pictures (H, W, C) of one size side by side in nearly a square, white between them."""
    import numpy as np
    from PIL import Image

    height, width, channels = pictures[0].shape
    longer = max(height, width)
    factor = TILE // 2 // longer or min(1, TILE / longer)
    tile = (max(1, round(height * factor)), max(1, round(width * factor)))
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.ones((rows * (tile[0] + gap) + gap, columns * (tile[1] + gap) + gap, channels), np.float32)
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    for k, picture in enumerate(pictures):
        top, left = (gap + place * (side + gap) for place, side in zip(divmod(k, columns), tile, strict=True))
        for c in range(channels):
            plane = Image.fromarray(np.ascontiguousarray(picture[:, :, c])).resize((tile[1], tile[0]), how)
            sheet[top : top + tile[0], left : left + tile[1], c] = np.asarray(plane)
    return sheet
