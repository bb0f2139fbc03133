"""`invdiff tune`: search for a method's best settings by a recipe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import tuning
from ..errors import InvdiffError, RequestError, nearest
from ..known import check_prior, known
from . import files
from .listings import finite
from .progress import Reporter
from .restore import AsJson, Quiet

if TYPE_CHECKING:
    from ..evaluation.tune import Step, Tuned


def tune_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, e.g. experiments/tune/natural.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the recipe's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the log and what was found. [default: runs/tune/RECIPE]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in this folder.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search over methods' own settings by a YAML recipe: successive halving on held-out pictures.

    Writes best.yaml (the settings), table.md (how they compare with the defaults), recipe.json and log.jsonl, a line
    for each restoration. Ctrl-C loses none that is finished; --resume goes on from there.
    """
    overrides = overrides or []
    out = out or Path("runs") / "tune" / recipe.stem
    try:
        _check(recipe, overrides, out, resume)
        tuned = _run(recipe, overrides, out, resume, quiet)
    except InvdiffError as error:
        if as_json:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        raise
    if as_json:
        print(
            json.dumps(finite({**dataclasses.asdict(tuned), "out": str(out)}), indent=2, ensure_ascii=False)
        )
    else:
        print(tuned.table(), end="")


def _check(recipe: Path, overrides: list[str], out: Path, resume: bool) -> None:
    """Raise RequestError for what can be seen to be wrong before torch is loaded."""
    if not recipe.is_file():
        near = nearest(recipe.name, (p.name for p in recipe.parent.glob("*.yaml")))
        raise RequestError(f"no recipe {recipe}: expected a YAML file.{near}")
    tuning.check_out(out, resume)
    prior = tuning.read(recipe, overrides).recipe.prior
    check_prior(prior)
    if known(prior).conditional:
        raise RequestError(
            f"prior {prior} is a conditional model, which has nothing to tune; expected another prior"
        )
    files.check_writable(out)


def _run(recipe: Path, overrides: list[str], out: Path, resume: bool, quiet: bool) -> Tuned:
    with Reporter(1.0, quiet=quiet) as reporter:
        reporter.start("trying every candidate on a stand-in for the prior")
        from ..evaluation.tune import tune

        expected = False

        def show(step: Step) -> None:
            nonlocal expected
            if not expected:
                reporter.expect(step.total)
                expected = True
            reporter.done = float(step.done)
            reporter.start(f"{step.record['method']} on {step.record['task']}")

        try:
            return tune(recipe, out, resume=resume, overrides=overrides, callback=show, say=reporter.say)
        except KeyboardInterrupt:
            if (out / tuning.LOG).exists():
                reporter.say(
                    f"stopped: what is finished is kept in {out}; --resume goes on from there", always=True
                )
            raise
