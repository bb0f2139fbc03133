"""The page on operators: its example runs as printed, and it shows every operator there is."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from pages import blocks, run
from PIL import Image

from invdiff import operators


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "operators.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's file and a photograph."""
    path = tmp_path_factory.mktemp("own")
    (code,) = [block for block in blocks(page, "python") if block.startswith("# ghost.py")]
    (path / "ghost.py").write_text(code)
    blocky = np.kron(np.random.default_rng(0).integers(40, 215, (9, 10, 3)), np.ones((4, 4, 1)))
    Image.fromarray(blocky.astype(np.uint8)).save(path / "photo.png")
    return path


def test_the_example_of_an_operator_passes_the_check_and_is_restored_from(page: str, folder: Path) -> None:
    (code,) = [block for block in blocks(page, "python") if not block.startswith("# ghost.py")]
    done = run(["-c", code], folder)
    assert done.returncode == 0, done.stderr


def test_the_examples_commands_run(page: str, folder: Path) -> None:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(lines) == 2
    for line in lines:
        done = run(["-m", *shlex.split(line)], folder)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (folder / "restored" / "photo.png").is_file()


def test_every_operator_and_noise_model_is_on_the_page(page: str) -> None:
    shown = {kind.__name__ for kind in (*operators.OPERATORS.values(), *operators.NOISES.values())}
    assert {name for name in shown - {"Identity"} if f"`{name}(" not in page} == set()
    assert {
        border
        for border in ("circular", "reflect", "replicate", "zero", "valid")
        if f"`{border}`" not in page
    } == set()
