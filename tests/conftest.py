"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of evaluation data, $INVDIFF_DATA or ../shared/data; skips the test where there is none."""
    path = Path(os.environ.get("INVDIFF_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"needs the evaluation pictures: no folder {path} (set INVDIFF_DATA)")
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The tests' tensors are small: a second thread costs more than it gives, and a share of the machine."""
    import torch

    torch.set_num_threads(1)
