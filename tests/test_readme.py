"""What the README says to type works: every command and every line of Python, on small pictures."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def blocks(repository: Path, language: str) -> list[str]:
    text = (repository / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files the README's commands name, 40 × 36 pixels each."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(40, 215, (9, 10, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    noisy = (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
    hole = np.zeros(smooth.shape[:2], np.uint8)
    hole[10:20, 10:20] = 255
    for name, array in {
        "photo": smooth,
        "blurred": smooth,
        "small": smooth,
        "noisy": noisy,
        "m": hole,
    }.items():
        Image.fromarray(array).save(folder / f"{name}.png")
    (folder / "folder").mkdir()
    (folder / "masks").mkdir()
    for name in ("one", "two"):
        Image.fromarray(smooth if name == "one" else noisy).save(folder / "folder" / f"{name}.png")
        Image.fromarray(hole).save(folder / "masks" / f"{name}.png")
    small = folder / "experiments" / "benchmarks" / "quick.yaml"  # under the name of one that takes minutes
    small.parent.mkdir(parents=True)
    definition = {
        "name": "quick",
        "root": "../..",
        "datasets": [{"name": "two", "path": "folder", "crop": 32}],
        "tasks": [{"name": "sr2", "operator": {"downsample": {"factor": 2}}}],
        "methods": [{"method": "ddnm", "steps": 2}, {"peer": "bicubic"}],
        "metrics": ["psnr"],
    }
    small.write_text(json.dumps(definition))  # JSON is YAML
    return folder


def commands(repository: Path) -> list[str]:
    return [line for block in blocks(repository, "bash") for line in block.splitlines() if line.strip()]


def test_every_command_of_the_readme_runs(repository: Path, pictures: Path) -> None:
    lines = commands(repository)
    assert len(lines) >= 8
    for number, line in enumerate(lines):
        words = shlex.split(line, comments=True)
        assert words[0] == "invdiff", line
        if words[1] in ("restore", "degrade") and "--out" not in words:
            words += ["--out", f"out{number}"]
        run = subprocess.run(
            [sys.executable, "-m", "invdiff", *words[1:]],
            cwd=pictures, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert run.returncode == 0, f"{line}\n{run.stderr}"
    assert (pictures / "restored" / "folder" / "two.png").is_file()
    assert (pictures / "runs" / "bench" / "quick" / "report.html").is_file()


def test_the_python_of_the_readme_runs(repository: Path) -> None:
    (code,) = blocks(repository, "python")
    exec(compile(code, "README.md", "exec"), {})


def test_the_pictures_and_pages_the_readme_links_to_are_there(repository: Path) -> None:
    for page in [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
