"""The page on methods: its examples run as printed, and it names every method, integrator and grid there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from pages import blocks, run

from invdiff import catalog
from invdiff.methods.grid import GRIDS


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's file."""
    path = tmp_path_factory.mktemp("own")
    (code,) = [block for block in blocks(page, "python") if block.startswith("# blend.py")]
    (path / "blend.py").write_text(code)
    return path


def test_the_examples_run(page: str, folder: Path) -> None:
    code = "\n".join(block for block in blocks(page, "python") if not block.startswith("# blend.py"))
    done = run(["-c", code], folder)
    assert done.returncode == 0, done.stderr
    mean, covariance = eval(done.stdout)
    assert 0 < mean < 2
    assert 0 < covariance < 2


def test_the_commands_run(page: str, folder: Path) -> None:
    (line,) = [line for block in blocks(page, "bash") for line in block.splitlines()]
    done = run(["-m", *shlex.split(line)], folder)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert len(list((folder / "sampled").glob("000*.png"))) == 4


def test_every_method_integrator_and_grid_is_on_the_page(page: str) -> None:
    named = set(re.findall(r"`(\w+)(?::\w+)?`", page))
    assert set(catalog.METHODS) - named == set()
    assert set(catalog.INTEGRATORS) - named == set()
    assert set(GRIDS) - named == set()
