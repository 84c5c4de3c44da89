"""The comparison with the truth, on a catalogue whose faults are known."""

import json

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from dpm.simulate.compare import compare_catalog


@pytest.fixture
def scene(tmp_path):
    """400 stars on a grid in three exposures, the last 40 of them in two only."""
    rng = np.random.default_rng(3)
    n = 400
    x, y = np.meshgrid(np.arange(20) * 25.0 + 10, np.arange(20) * 25.0 + 10)
    xi, eta = (x.ravel() - 250) * 0.065, (y.ravel() - 250) * 0.065
    mag = rng.uniform(20, 22, n)
    plane = WCS(naxis=2)
    plane.wcs.ctype, plane.wcs.crval, plane.wcs.crpix = ["RA---TAN", "DEC--TAN"], [80.0, -69.0], [1.0, 1.0]
    plane.wcs.cdelt = [1 / 3600, 1 / 3600]
    stars = Table({"id": np.arange(n), "xi": xi, "eta": eta, "pm_xi": np.full(n, 2.0), "pm_eta": np.full(n, -1.0)})
    stars["mag_F090W"] = mag
    stars.meta = {"ref_epoch": 2016.0, "ra0": 80.0, "dec0": -69.0}
    stars.write(tmp_path / "stars.ecsv")
    exposures = []
    for number in range(3):
        ids = np.arange(n if number else n - 40)
        np.savez(tmp_path / f"jw_{number}_nis.npz", id=ids, x=x.ravel()[ids], y=y.ravel()[ids])
        exposures.append({"file": f"jw_{number}_nis_cal.fits", "filter": "F090W"})
    (tmp_path / "scene.json").write_text(json.dumps({"args": {"npix": 512}, "exposures": exposures}))
    error = 0.5
    measured = np.column_stack([xi + 0.002 * 10, eta - 0.001 * 10]) + rng.normal(0, error / 1000, (n, 2)) + 0.004
    ra, dec = plane.wcs_pix2world(measured[:, 0], measured[:, 1], 0)
    catalog = Table({"ra": ra, "dec": dec, "ref_epoch": np.full(n, 2026.0)})
    catalog["ra_error"] = catalog["dec_error"] = np.full(n, error)
    catalog["niriss_f090w_mag"] = mag - 26.0 + rng.normal(0, 0.01, n)
    catalog["niriss_f090w_mag_error"] = np.full(n, 0.02)
    return tmp_path, catalog


def test_known_faults_are_found(scene):
    truth, catalog = scene
    catalog = catalog[36:]
    catalog["ra"][:18] += 1 / 3600
    table = compare_catalog(catalog, truth, "F090W", "niriss_f090w", bin_width=2.0)
    assert len(table) == 1 and table["n_true"][0] == 360
    assert table["found"][0] == pytest.approx(1 - 54 / 360)
    assert table["false"][0] == pytest.approx(18 / len(catalog), abs=0.003)
    assert table["position_rms"][0] == pytest.approx(0.5, rel=0.1)
    assert table["position_pull"][0] == pytest.approx(1.0, rel=0.1)
    assert table["mag_rms"][0] == pytest.approx(0.01, rel=0.15)
    assert table["mag_pull"][0] == pytest.approx(0.5, rel=0.15)
