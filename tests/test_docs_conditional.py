"""The page on conditional models: its example runs as printed, and its models are those that there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import blocks, run

from invdiff.catalog import PRIORS


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "conditional.md").read_text(encoding="utf-8")


def test_the_example_runs(page: str, tmp_path: Path) -> None:
    (code,) = blocks(page, "python")
    done = run(["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_conditional_model_has_its_column(page: str) -> None:
    models = [name for name, info in PRIORS.items() if info.tasks]
    assert models
    assert f"| | {' | '.join(f'`{name}`' for name in models)} |" in page
    assert "TABLE_" not in page
