"""The page on priors: its examples run as printed, and it shows every format and option there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import blocks, run

from invdiff.priors import formats


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "priors.md").read_text(encoding="utf-8")


def test_the_examples_run(page: str, tmp_path: Path) -> None:
    done = run(["-c", "\n".join(blocks(page, "python"))], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "natural knows no labels" in done.stdout


@pytest.mark.parametrize("name", formats.STATE_DICTS)
def test_every_option_of_a_format_is_on_the_page(page: str, name: str) -> None:
    module = formats._module(name)
    assert [option for option in module.OPTIONS if f"`{option}`" not in page] == []
