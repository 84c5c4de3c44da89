"""dpm through a real Slurm of one node: a static job, a job array with finalisers, and workers as jobs; stopped and resumed."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from small_field import assert_same_products, write_config

from dpm.io.tables import read_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DEPLOYMENT = Path(__file__).resolve().parent.parent / "deployment"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]


@pytest.fixture(scope="module")
def slurm():
    """Environment in which sbatch and its like find the Slurm of this machine."""
    if MISSING or os.geteuid() != 0:
        pytest.skip(f"a Slurm of one node needs {', '.join(MISSING) or 'root'} (Debian: slurmctld slurmd slurm-client munge)")
    folder = tempfile.mkdtemp(prefix="dpm-slurm-")
    script = str(DEPLOYMENT / "ci" / "slurm.sh")
    started = subprocess.run([script, "start", folder], capture_output=True, text=True, timeout=60)
    assert started.returncode == 0, started.stderr
    here = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    yield os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path, "PYTHONPATH": str(here), "DASK_CONFIG": "/nonexistent"}
    subprocess.run([script, "stop", folder], check=True, timeout=60)
    shutil.rmtree(folder)


def ask(slurm, *command, folder=None):
    return subprocess.run(command, env=slurm, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def state(slurm, job):
    """State and exit code of a job."""
    words = dict(word.split("=", 1) for word in ask(slurm, "scontrol", "-o", "show", "job", job).split() if "=" in word)
    return words["JobState"], words["ExitCode"]


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)


def wait_for_job(slurm, job, folder, seconds=300.0):
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    wait_for(lambda: state(slurm, job)[0] in ended, seconds)
    return state(slurm, job), "\n".join(path.read_text() for path in sorted(folder.glob("dpm-*.log")))


def submit_static(slurm, folder, *options):
    script = str(DEPLOYMENT / "slurm" / "static.sbatch")
    options = ("--ntasks=2", "--mem-per-cpu=1G", *options)
    return ask(slurm, "sbatch", "--parsable", *options, script, "field.toml", folder=folder)


def test_static_job_ended_by_its_time_limit_and_by_scancel_goes_on_to_the_same_catalogue(slurm, small_reference, tmp_path):
    field, expected = small_reference
    # Artificial stars make the run outlive its end from outside; the catalogue is the same without them.
    run = write_config(field, tmp_path / "field.toml", "[artificial_stars]\nn = 8000\n")
    # Slurm sends the warning up to a minute early, which is at once here.
    job = submit_static(slurm, tmp_path, "--time=1", "--signal=B:TERM@45")
    (_, code), log = wait_for_job(slurm, job, tmp_path)
    assert code == "130:0", log
    assert "interrupted; finished parts are kept" in log and not run.lock.exists()
    job = submit_static(slurm, tmp_path)
    wait_for(lambda: len(list(run.work.glob("first_pass/*/jw*.json"))) >= 2, 120)
    ask(slurm, "scancel", job)
    (ended, _), log = wait_for_job(slurm, job, tmp_path)
    assert ended == "CANCELLED" and not run.artificial_stars.exists(), log
    before = {path: path.stat().st_mtime_ns for path in run.work.glob("first_pass/*/jw*.json")}
    (ended, code), log = wait_for_job(slurm, submit_static(slurm, tmp_path), tmp_path)
    assert (ended, code) == ("COMPLETED", "0:0"), log
    assert before.items() <= {path: path.stat().st_mtime_ns for path in run.work.glob("first_pass/*/jw*.json")}.items()
    assert_same_products(expected, run)
    assert not list(tmp_path.glob("scheduler-*.json")) and not list(run.work.glob("driver-*"))


def test_job_array_with_finalisers(slurm, small_reference, tmp_path):
    field, expected = small_reference
    run = write_config(field, tmp_path / "field.toml")
    environment = slurm | {"STAGES": "ingest psf perturbation brightness first_pass"}
    script = str(DEPLOYMENT / "slurm" / "array.sh")
    last = ask(environment, script, "field.toml", "2", folder=tmp_path)
    # Another share at the same time is not lost, and a dependency that never comes true does not stay in the queue.
    (ended, _), log = wait_for_job(slurm, last, tmp_path)
    assert ended == "COMPLETED", log
    tables = sorted(path.name for path in run.detections.glob("*.parquet"))
    assert tables == sorted(path.name for path in expected.detections.glob("*.parquet")) and len(tables) == 8
    for name in tables:
        one, other = read_table(expected.detections / name), read_table(run.detections / name)
        assert all((one[column] == other[column]).all() or one[column].dtype.kind == "f" for column in one.colnames)
        assert (one["x"] == other["x"]).all() and (one["flux"] == other["flux"]).all()


def test_workers_as_jobs_that_end_at_their_lifetime(slurm, small_reference, tmp_path):
    pytest.importorskip("dask_jobqueue")
    field, expected = small_reference
    command = [sys.executable, "-m", "dpm", "run", "field.toml", "--cluster"]
    # Every kernel is compiled before: no part may take longer than a worker lives.
    (tmp_path / "alone").mkdir()
    write_config(field, tmp_path / "alone" / "field.toml", "[artificial_stars]\nn = 20\n")
    subprocess.run([*command, "none"], cwd=tmp_path / "alone", capture_output=True, check=True, timeout=300)
    # Artificial stars make the run outlive a worker; the catalogue is the same without them.
    more = "[cluster]\ntls = true\nworkers = 1\n[artificial_stars]\nn = 6000\n"
    run = write_config(field, tmp_path / "field.toml", more)
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "jobqueue.yaml").write_text(
        "jobqueue:\n  slurm:\n    interface: lo\n    memory: 1GiB\n    walltime: '00:02:00'\n"
        f"    log-directory: {tmp_path}\n    local-directory: {tmp_path}/scratch\n"
        "    worker-extra-args: ['--lifetime', '20s']\n"
    )
    environment = slurm | {"DASK_CONFIG": str(tmp_path / "dask")}
    done = subprocess.run([*command, "slurm"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    assert_same_products(expected, run)
    assert "tls://" in (run.logs / sorted(path.name for path in run.logs.iterdir())[-1]).read_text()
    logs = list(tmp_path.glob("dask-worker-*.err"))
    assert len(logs) >= 2 and sum("Closing worker gracefully" in path.read_text() for path in logs) >= 1
    wait_for(lambda: not ask(slurm, "squeue", "--noheader", "--name=dask-worker"), 30)
