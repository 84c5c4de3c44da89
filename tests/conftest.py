"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of shared real and simulated exposures beside the repository; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder (../shared/data beside the repository) is absent")
    return SHARED_DATA
