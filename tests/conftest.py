"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def small_reference(tmp_path_factory):
    """Folder of the exposures of `small_field`, and the run folder of a run of all stages in this process."""
    from small_field import make_small_field, write_config

    from dpm.config import load_options
    from dpm.execute.local import SerialExecutor
    from dpm.run.pipeline import run_pipeline

    folder = tmp_path_factory.mktemp("small_reference")
    make_small_field(folder / "field")
    run = write_config(folder / "field", folder / "field.toml")
    run_pipeline(run, load_options(folder / "field.toml"), SerialExecutor())
    return folder / "field", run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of shared real and simulated exposures beside the repository; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder (../shared/data beside the repository) is absent")
    return SHARED_DATA
