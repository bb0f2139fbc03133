"""`invdiff adapt`: a prior for `--prior DIR`, and requests that cannot be refused before torch is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invdiff.cli import main as cli


def test_the_folder_is_a_prior_that_restores(
    tiny_prior: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--steps", "2", "--crop", "16", "--batch", "2", "--lora", "1", "--device", "cpu", "--no-flip"]
    command = ["adapt", "photo.png", "--prior", tiny_prior, "--out", "mine", *tiny]
    assert cli.run(command) == 0, capsys.readouterr().err
    record = json.loads((folder / "mine" / "recipe.json").read_text())
    assert (record["steps"], record["crop"], record["lora"], record["flip"]) == (2, 16, 1, False)
    assert capsys.readouterr().out == ""
    written = (folder / "mine" / "prior.safetensors").read_bytes()
    assert cli.run(command) == 2
    assert "mine already holds checkpoints: --resume goes on with its run" in capsys.readouterr().err
    assert (folder / "mine" / "prior.safetensors").read_bytes() == written
    assert cli.run([*command, "--resume"]) == 0
    restore = ["restore", "photo.png", "--task", "denoise", "--noise", "0.1", "--prior", "mine"]
    assert cli.run([*restore, "--method", "dps", "--steps", "2", "--out", "out", "--quiet"]) == 0
    assert json.loads((folder / "out" / "photo.json").read_text())["prior"]["name"] == "mine"


CASES = [
    ("photo.png --out o --lora 4 --full", "--lora and --full: expected one of them"),
    ("photo.png --out o --preserve 1", "--preserve: expected a share"),
    ("photo.png --out o --batch 1", "--batch: expected 2 or more"),
    ("photo.png --out o --learning-rate 0", "--learning-rate: expected a positive number"),
    ("photo.png --out o --prior naturel", "'natural'"),
    ("photo.png --out o --label 1", "knows no labels"),
    ("photo.png --out o --device gpu", "unknown device 'gpu'"),
    ("photo.png --out o --seed -1", "--seed"),
    ("photo.png --out o --resume", "no run to resume in o"),
    ("photo.png --out photo.png", "photo.png is a file"),
    ("photo.png --out held", "held already holds prior.safetensors: --out DIR"),
    ("photo.png --out o --crop 64", "photo.png: 32×28 pixels, smaller than the crop of 64"),
    ("photo.png --out o", "photo.png: 32×28 pixels, smaller than the crop of 64"),
    ("missing.png --out o", "missing.png"),
    ("cut.png --out o --crop 8", "cut.png"),
    ("photo.png", "--out"),
    ("photo.png --out o --steps 0", "--steps"),
]


def test_a_request_that_cannot_be_is_one_line_and_leaves_torch_and_the_folder_alone(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save("cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:900])
    (folder / "held").mkdir()
    (folder / "held" / "prior.safetensors").write_bytes(b"mine")
    before = sorted(folder.rglob("*"))
    program = (
        "import json, sys, io, contextlib; from invdiff.cli.main import run\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    said = io.StringIO()\n"
        "    with contextlib.redirect_stderr(said): code = run(['adapt', *line.split()])\n"
        "    print(json.dumps([code, said.getvalue(), 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([line for line, _ in CASES])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for (line, wanted), answer in zip(CASES, done.stdout.splitlines(), strict=True):
        code, said, heavy = json.loads(answer)
        assert (code, heavy) == (2, False), line
        assert wanted in said, line
        assert said.count("\n") == 1, line
    assert sorted(folder.rglob("*")) == before
