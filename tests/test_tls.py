"""TLS between client, scheduler and workers on one switch, and who listens where."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from clusters import HERE, own_cluster
from distributed import Client
from distributed.security import Security

from dpm.execute import ClusterError, create_executor
from dpm.models.options import ClusterOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MAKE = HERE.parent / "deployment" / "tls" / "make_certificates.sh"


def double(task):
    return 2 * task


def listening():
    """Addresses at which this process and its children listen."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {c.laddr.ip for p in processes for c in p.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("tls", [False, True])
def test_local_cluster_is_on_loopback_and_speaks_tls_when_told(tls):
    before = listening()
    executor = create_executor("local", ClusterOptions(workers=2, tls=tls))
    try:
        assert [outcome.value for _, outcome in executor.map(double, [1, 2, 3])] in ([2, 4, 6], [4, 2, 6], [2, 6, 4])
        assert listening() - before <= {"127.0.0.1", "::1"}
        address = executor.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:" if tls else "tcp://127.0.0.1:")
        workers = executor.client.scheduler_info()["workers"]
        assert all(name.startswith("tls://127.0.0.1:" if tls else "tcp://127.0.0.1:") for name in workers)
        if tls:
            for stranger in (Security.temporary(), None):
                there = address if stranger else address.replace("tls", "tcp")
                with pytest.raises((OSError, TypeError, RuntimeError, TimeoutError)):
                    Client(there, security=stranger, timeout=3, set_as_default=False)
    finally:
        executor.close()


def run(folder, tls):
    """``dpm run`` on the cluster of this folder, with these lines in ``[cluster]``."""
    text = '[run]\ndirectory = "run"\n[input]\nexposures = ["in_*.dat"]\n[cluster]\nworker_timeout = 20.0\n'
    (folder / "field.toml").write_text(text + tls)
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return subprocess.run(
        [sys.executable, str(HERE / "fake_run.py"), "run", "field.toml", "--cluster", "scheduler.json"],
        cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_cluster_with_given_certificates_end_to_end(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not here")
    for n in range(4):
        (tmp_path / f"in_{n}.dat").write_text(str(n))
    subprocess.run([str(MAKE), str(tmp_path / "own")], check=True)
    subprocess.run([str(MAKE), str(tmp_path / "other")], check=True)
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
    assert (tmp_path / "own" / "key.pem").stat().st_mode & 0o077 == 0
    names = {"ca-file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    files = [f"--tls-{name}={tmp_path / 'own' / file}" for name, file in names.items()]
    with own_cluster(tmp_path) as cluster:
        cluster.scheduler("--protocol", "tls", *files)
        cluster.worker("--protocol", "tls", *files)
        plain = run(tmp_path, "")
        assert plain.returncode == 1 and "does it want [cluster] tls = true?" in plain.stderr
        strange = run(tmp_path, 'tls = true\ncertificates = "other"\n')
        assert strange.returncode == 1 and "no Dask scheduler answers at" in strange.stderr
        ours = run(tmp_path, 'tls = true\ncertificates = "own"\n')
        assert ours.returncode == 0, ours.stderr
        assert "tls://127.0.0.1" in "".join(path.read_text() for path in (tmp_path / "run" / "logs").glob("*.log"))
        assert (tmp_path / "run" / "tables" / "total.txt").read_text() == "30.0"


def test_missing_certificates_are_named(tmp_path):
    with pytest.raises(ClusterError, match=r"certificates = .*: no ca.pem, cert.pem, key.pem there"):
        create_executor("tls://127.0.0.1:1", ClusterOptions(tls=True, certificates=str(tmp_path)))
    assert not list(Path(tmp_path).iterdir())
