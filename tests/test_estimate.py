"""The dry run against what a run of the small field really took."""

import json
import subprocess
import sys

import pytest
from small_field import write_config
from typer.testing import CliRunner

from dpm.cli.main import app
from dpm.config import load_options
from dpm.run.estimate import STARS_PER_MEGAPIXEL, FieldSize, StageEstimate, estimate_run, field_size, wall_seconds
from dpm.stages import STAGES


def test_wall_time_is_the_longest_chain_or_an_even_share():
    estimates = [StageEstimate("a", 10, 100.0, 10.0, 0, 0, 0), StageEstimate("b", 1, 7.0, 7.0, 0, 0, 0)]
    assert wall_seconds(estimates, 1) == 107.0
    assert wall_seconds(estimates, 5) == 27.0
    assert wall_seconds(estimates, 1000) == 17.0


def test_work_and_bytes_grow_with_the_exposures_and_memory_does_not():
    from dpm.models.options import Options

    few, many = (estimate_run(FieldSize(n, n, 2, 4.2, 20_000, 117e6), Options(), STAGES) for n in (18, 500))
    for one, other in zip(few, many):
        assert one.name == other.name and one.memory == other.memory
        assert other.seconds == pytest.approx(one.seconds * 500 / 18)
        assert other.bytes_read == pytest.approx(one.bytes_read * 500 / 18)
    assert many[0].tasks == 500 and sum(entry.tasks for entry in many) > sum(entry.tasks for entry in few)


@pytest.mark.slow
def test_dry_run_of_the_small_field_is_what_happened(small_reference, tmp_path):
    field, _ = small_reference
    # A process of its own, with the kernels compiled: this one has the memory of other tests.
    (tmp_path / "fresh").mkdir()
    run = write_config(field, tmp_path / "fresh" / "field.toml")
    command = [sys.executable, "-m", "dpm", "run", "field.toml", "--cluster", "none"]
    subprocess.run(command, cwd=tmp_path / "fresh", capture_output=True, check=True, timeout=300)
    stages = json.loads(run.provenance.read_text())["stages"]
    options = load_options(run.root.parent / "field.toml")
    before = write_config(field, tmp_path / "field.toml")
    unseen = field_size(before, options)
    assert unseen.exposures == 8 and unseen.bands == 2 and unseen.stars == STARS_PER_MEGAPIXEL * 224**2 / 1e6
    size = field_size(run, options)
    estimates = {entry.name: entry for entry in estimate_run(size, options, STAGES)}
    for name in ("ingest", "psf", "first_pass", "frame"):
        assert estimates[name].tasks == stages[name]["parts"], name
    moved = {key: sum(stages[name][key] for name in estimates) for key in ("bytes_read", "bytes_written")}
    for key, actual in moved.items():
        assert 0.6 < sum(getattr(entry, key) for entry in estimates.values()) / actual < 1.6, key
    # Compiled kernels are read once a process, and counted with its first part.
    peak = max(stages[name]["peak_memory_bytes"] for name in estimates)
    assert 0.6 < max(entry.memory for entry in estimates.values()) / peak < 1.5
    shown = CliRunner().invoke(app, ["run", str(tmp_path / "field.toml"), "--plan", "--exposures", "500", "--workers", "64"])
    assert shown.exit_code == 0 and "500 exposures of 0.0502 megapixels" in shown.output and "with 64 workers" in shown.output
    assert not before.root.exists()
