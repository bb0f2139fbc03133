"""`invdiff train`: train a prior by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RequestError, nearest


def train_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, e.g. experiments/train/natural.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace the recipe's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, log and pictures. [default: runs/RECIPE]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
) -> None:
    """Train a prior by a YAML recipe. Ctrl-C stops with a checkpoint that --resume goes on from."""
    overrides = overrides or []
    out = out or Path("runs") / recipe.stem
    _check(recipe, overrides, out, resume)
    from ..training import train

    train(recipe, out, resume=resume, overrides=overrides)


def _check(recipe: Path, overrides: list[str], out: Path, resume: bool) -> None:
    """Raise RequestError for what can be seen to be wrong before torch is loaded."""
    if not recipe.is_file():
        near = nearest(recipe.name, (p.name for p in recipe.parent.glob("*.yaml")))
        raise RequestError(f"no recipe {recipe}: expected a YAML file.{near}")
    for override in overrides:
        if not override.partition("=")[0].strip() or "=" not in override:
            raise RequestError(f"override {override!r}: expected KEY=VALUE, e.g. batch=16.")
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file: expected a folder.")
    begun = (out / "checkpoints").exists()
    if begun and not resume:
        raise RequestError(f"{out} already holds a run: --resume goes on with it, --out DIR starts another.")
    if resume and not begun:
        raise RequestError(f"no run to resume in {out}: leave --resume out to start it.")
