"""`invdiff adapt`: a prior fine-tuned to a handful of pictures, without forgetting the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..catalog import PRIORS, check_label
from ..errors import RequestError, unknown
from ..known import check_prior, known
from . import files
from .restore import DEVICES, Label, Offline, PriorName, classes_of

IN_OUT = ("checkpoints", "prior.safetensors", "recipe.json")
"""What a run leaves: where one of them is, nothing is begun anew."""


def adapt_command(
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER...", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the new prior.", show_default=False)],
    prior: PriorName = "natural",
    label: Label = None,
    name: Annotated[
        str | None, typer.Option(help="Of the new prior; default: the folder's.", show_default=False)
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="RANK", help="Train low-rank companions of the weights alone.", show_default=False
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights, as without --lora.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 300,
    crop: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the crops, in pixels; default: the prior's own, or 64.", show_default=False
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Crops of one step.")] = 8,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: 1e-4, with --lora 1e-3.", show_default=False)
    ] = None,
    preserve: Annotated[
        float,
        typer.Option(help="Share of each batch that keeps what the prior knew, by its own samples; 0: none."),
    ] = 0.75,
    flip: Annotated[bool, typer.Option(help="Mirror half of the crops; not for text.")] = True,
    seed: Annotated[int, typer.Option(help="Fixes every random draw.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    offline: Offline = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
) -> None:
    """Fine-tune a prior to pictures of a kind, a handful or more, for restoring others of that kind.

    Writes prior.safetensors, for --prior OUT, recipe.json, log.csv, denoised.png and validation.csv: denoising before
    and after, on one of five pictures, held out, where there are four or more. Ctrl-C stops with a checkpoint.
    """
    if lora is not None and full:
        raise RequestError("--lora and --full: expected one of them, got both")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        raise RequestError(f"--learning-rate: expected a positive number, got {learning_rate}")
    if not 0 <= preserve < 1:
        raise RequestError(f"--preserve: expected a share from 0 to below 1, got {preserve}")
    if preserve and batch < 2:
        raise RequestError(
            f"--batch: expected 2 or more, one of them the prior's own, got {batch}; or --preserve 0"
        )
    if not 0 <= seed < 2**32:
        raise RequestError(f"--seed: expected a whole number from 0 to 2^32 - 1, got {seed}")
    if device.partition(":")[0] not in DEVICES:
        raise unknown("device", device, DEVICES)
    check_prior(prior)
    if known(prior).conditional:
        raise RequestError(
            f"prior {prior} is a conditional model, which cannot be adapted; invdiff train goes on from one, "
            "with start_from"
        )
    check_label(prior, classes_of(prior), label, 1.0)
    _check_out(out, resume)
    own = PRIORS[prior].size or 64 if prior in PRIORS else 1
    pictures = _checked(inputs, crop or own)
    from .. import config
    from ..training.adapt import Adaptation, adapt

    settings = {
        "images": [str(path) for path in pictures], "prior": prior, "label": label, "name": name, "lora": lora,
        "steps": steps, "crop": crop, "batch": batch, "learning_rate": learning_rate, "preserve": preserve,
        "flip": flip, "seed": seed, "device": device,
    }  # fmt: skip
    adapt(config.build(Adaptation, settings, "adapt"), out, resume=resume, offline=offline)


def _check_out(out: Path, resume: bool) -> None:
    files.check_writable(out)
    if resume:
        if not (out / IN_OUT[0]).exists():
            raise RequestError(f"no run to resume in {out}: leave --resume out to start it")
        return
    there = next((name for name in IN_OUT if (out / name).exists()), None)
    if there:
        more = "--resume goes on with its run, " if (out / IN_OUT[0]).exists() else ""
        raise RequestError(f"{out} already holds {there}: {more}--out DIR puts the new prior elsewhere")


def _checked(inputs: Sequence[Path], side: int) -> list[Path]:
    """Every picture, read whole once. RequestError, naming it, for the first that cannot serve."""
    pictures = files.expand(inputs)
    from ..images import read_image

    for path in pictures:
        height, width = read_image(path).size
        if min(height, width) < side:
            raise RequestError(
                f"{path}: {width}×{height} pixels, smaller than the crop of {side}; leave it out, or lower --crop"
            )
    return pictures
