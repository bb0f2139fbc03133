"""Pages of the documentation: their code, and how it is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def blocks(page: str, language: str) -> list[str]:
    """The page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """python WORDS in a folder, on one thread."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
