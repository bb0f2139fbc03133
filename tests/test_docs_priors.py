"""The page on priors: its examples run as printed, and it shows every format and option there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from invdiff.priors import formats


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "priors.md").read_text(encoding="utf-8")


def test_the_examples_run(page: str, tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "natural knows no labels" in done.stdout


@pytest.mark.parametrize("name", formats.STATE_DICTS)
def test_every_option_of_a_format_is_on_the_page(page: str, name: str) -> None:
    module = formats._module(name)
    assert [option for option in module.OPTIONS if f"`{option}`" not in page] == []
