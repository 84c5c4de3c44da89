"""``dpm.open``: work in the background, cancelling, lazy tables, and what a notebook shows."""

import pytest
from astropy.table import Table
from fake_run import open_fake_run

from dpm.execute import Interrupted
from dpm.io.tables import write_table


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of tiny stages with eight slow parts."""
    return open_fake_run(tmp_path, monkeypatch, {f"in_{n}": f"{n} slow" for n in range(8)})


def test_background_run_cancel_and_resume(run):
    assert "numbers absent" in repr(run)
    with pytest.raises(RuntimeError, match="start"):
        run.wait()
    run.start(cluster="none")
    assert run.running
    with pytest.raises(RuntimeError, match="going on already"):
        run.start()
    while not any(path.exists() for path in run.folder.root.parent.glob("in_*.log")):
        pass
    run.cancel()
    with pytest.raises(Interrupted):
        run.wait()
    assert not run.running and "partial" in repr(run)
    result = run.run(cluster="threads", workers=4)
    assert result.summaries["total"]["total"] == 140.0
    assert "<td>complete</td>" in run._repr_html_()
    assert run.provenance["stages"]["numbers"]["parts"] == 8
    assert "8 of 8" in run._progress._repr_html_() and "complete" in repr(run._progress)


def test_what_is_not_there_says_so(run):
    with pytest.raises(FileNotFoundError, match=r"catalog.parquet: not there yet"):
        run.catalog  # noqa: B018
    with pytest.raises(KeyError, match="no cube 'NIRISS_F090W'; there are none"):
        run.cube("NIRISS_F090W")
    with pytest.raises(KeyError, match="no detections"):
        run.detections_of("nothing")
    assert run.provenance == {}


def test_detections_by_exposure_or_by_unit(run):
    folder = run.folder.detections
    folder.mkdir(parents=True)
    for name in ("j1_flc_WFC1", "j1_flc_WFC2", "n1_nis_NIRISS"):
        write_table(folder / f"{name}.parquet", Table({"x": [1.0]}))
    assert len(run.detections_of("n1_nis")) == len(run.detections_of("j1_flc_WFC2")) == 1
    with pytest.raises(KeyError, match="there are j1_flc_WFC1, j1_flc_WFC2\""):
        run.detections_of("j1_flc")


def test_failures_reach_whoever_waits(run):
    next(run.folder.root.parent.glob("in_3.dat")).write_text("fail")
    with pytest.raises(RuntimeError, match="in_3.dat: not a number"):
        run.run(cluster="none")
    with pytest.raises(ValueError, match="is not known"):
        run.run(cluster="cloud")
