"""What tests against deepinv share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def physics() -> Any:
    """deepinv's physics; its import takes seconds."""
    return pytest.importorskip("deepinv").physics
