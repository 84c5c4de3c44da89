"""``dpm.open``: work in the background, cancelling, lazy tables, and what a notebook shows."""

import numpy as np
import pytest
from astropy.table import Table
from fake_run import open_fake_run

from dpm.execute import Interrupted
from dpm.io.tables import write_table
from dpm.models.distortion import MapDistortion
from dpm.models.epsf import GriddedEPSF
from dpm.notebook.catalog import Catalog


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


def test_models_and_catalogue_show_themselves():
    """Pictures of an ePSF, a distortion and a catalogue; names in them are text."""
    rows, columns = np.mgrid[-50:51, -50:51] / 4
    samples = np.tile(np.exp(-0.5 * (rows**2 + columns**2)) / 6.3, (2, 2, 1, 1))
    shown = GriddedEPSF(samples, np.array([0.0, 511.0]), np.array([0.0, 511.0]), "<b>lib</b>")._repr_html_()
    assert shown.count("data:image/png") == 2 and "&lt;b&gt;lib" in shown and "<b>lib" not in shown and "2 x 2" in shown
    y, x = np.mgrid[:64, :96].astype(float)
    # Offset, scale and rotation do not show; a parabola of 0.5 pixel does.
    bent = MapDistortion(5 + 1.01 * x - 0.02 * y + 0.5 * (x / 95) ** 2, 3 + 0.02 * x + 1.01 * y)._repr_html_()
    largest = float(bent.split("largest shift, pixels</td><td>")[1].split("<")[0])
    assert 0.05 < largest < 0.2 and bent.count("data:image/png") == 2
    straight = MapDistortion(5 + 1.01 * x - 0.02 * y, 3 + 0.02 * x + 1.01 * y)._repr_html_()
    assert float(straight.split("largest shift, pixels</td><td>")[1].split("<")[0]) < 1e-6
    magnitudes = {"b_mag": [20.0, 21.0, np.nan], "b_mag_error": [0.01, 0.2, np.nan]}
    table = Catalog({"id": [1, 2, 3], "ref_epoch": [2022.3] * 3, "pmra": [1.0, np.nan, 2.0], **magnitudes})
    table.meta["pm_zero_point"] = "<script>"
    html = table[:2]._repr_html_()
    assert "<td>stars</td><td>2</td>" in html and "&lt;script&gt;" in html and "<script" not in html
    assert "<tr><td>b</td><td>2</td><td>20.00</td><td>21.00</td><td>1</td>" in html
