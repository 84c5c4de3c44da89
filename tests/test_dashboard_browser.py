"""dpm's page as a browser shows it, and Dask's performance report of a run (slow)."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from clusters import until
from fake_run import open_fake_run

from dpm.execute import create_executor
from dpm.models.options import ClusterOptions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "in_1<img src=x onerror=document.title='owned'><script>document.title='owned'"

pytestmark = pytest.mark.slow


def dom(address, profile):
    """What the page became after a few seconds of the browser's own time."""
    quiet = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
    more = ("--no-sandbox", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}")
    command = [CHROMIUM, "--headless", *quiet, *more, "--virtual-time-budget=5000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def counts(address):
    """Parts done and failed, as the scheduler was told."""
    try:
        with urllib.request.urlopen(address + "/json", timeout=10) as answer:
            (run,) = json.load(answer)["runs"]
            return run["round"]["done"], run["round"]["failed"]
    except (urllib.error.HTTPError, ValueError, KeyError):
        return None  # the page is on its way, or the run has not begun


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_page_in_a_browser(tmp_path, monkeypatch):
    files = {"in_0": "1", HOSTILE: "2 wait", "in_2": "3", "in_3": "fail"}
    run = open_fake_run(tmp_path, monkeypatch, files)
    executor = create_executor("local", ClusterOptions(workers=2, memory_per_worker="1GiB"))
    try:
        address = executor.client.dashboard_link.removesuffix("/status") + "/dpm"
        assert address in executor.describe() and address.startswith("http://127.0.0.1:")
        run.start(cluster=executor.client)
        until(lambda: counts(address) == (2, 1), 60)
        during = dom(address, tmp_path / "profile")
        (tmp_path / "go").touch()
        with pytest.raises(RuntimeError, match="not a number"):
            run.wait()
        after = dom(address, tmp_path / "profile")
    finally:
        executor.close()
    for text in (during, after):
        # The name is text in the page, not markup.
        assert "owned'&gt;" in text and "<img" not in text and "<title>dpm: numbers</title>" in text
        assert 'class="done"><title>in_0: done' in text and 'class="failed"><title>in_3: failed' in text
        assert "not a number" in text and "tcp://127.0.0.1:" in text
    assert 'class="running"><title>in_1&lt;img' in during and "at work: in_1" in during
    assert '<path d="' in after and 'class="running"><title>' not in after and "before it was complete" in after


def test_performance_report_is_kept_with_the_run(tmp_path):
    pytest.importorskip("bokeh", reason="bokeh draws the report and is not installed")
    for n in range(4):
        (tmp_path / f"in_{n}.dat").write_text(str(n))
    (tmp_path / "field.toml").write_text('[input]\nexposures = ["in_*.dat"]\n')
    command = [
        sys.executable,
        str(Path(__file__).parent / "fake_run.py"),
        "run",
        str(tmp_path / "field.toml"),
        "--performance-report",
    ]
    done = subprocess.run([*command, "--cluster", "local", "--workers", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (report,) = (tmp_path / "run" / "logs").glob("performance-*.html")
    text = report.read_text(encoding="utf-8")
    # Drawn without anything from the network.
    assert "number of tasks" in text and "Task Stream" in text and "<script src=" not in text and 'rel="stylesheet"' not in text
    refused = subprocess.run([*command, "--cluster", "none"], capture_output=True, text=True, timeout=300)
    assert refused.returncode == 1 and "made by a Dask cluster" in refused.stderr
