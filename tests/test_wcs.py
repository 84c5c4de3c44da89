"""Stored header WCS: equality with astropy's, round trips, areas, GWCS."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from exposure_mocks import write_ccd, write_jwst

from dpm.io.errors import InputError
from dpm.io.fits_files import open_exposure
from dpm.io.gwcs_fit import fit_gwcs
from dpm.io.wcs import header_wcs, pixel_area, read_wcs, write_wcs

REAL = (
    "real/wfc3uvis_f814w_3dithers/iebc16u5q_flc.fits",
    "real/nicmos_bulge/n8q624e8q_cal.fits",
    "real/nircam_ngc346_cutout/image.fits",
    "sim/jw01086001001_02101_00001_nis_cal.fits",
)


def _astropy(hdulist: fits.HDUList) -> WCS:
    header = hdulist["SCI", 1].header.copy()
    for key in [key for key in header if key.startswith(("PC1_", "PC2_"))]:
        del header[key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        return WCS(header, hdulist)


@pytest.mark.parametrize("name", REAL)
def test_stored_wcs_is_astropys(shared_data: Path, tmp_path: Path, name: str) -> None:
    with open_exposure(shared_data / name) as hdulist:
        ny, nx = hdulist["SCI", 1].shape
        write_wcs(tmp_path / "w.fits", header_wcs(name, hdulist["SCI", 1].header, hdulist), 300, 70, "header")
        full = _astropy(hdulist)
    stored = read_wcs(tmp_path / "w.fits")
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-0.5, nx - 0.5, 5000), rng.uniform(-0.5, ny - 0.5, 5000)
    ra, dec = stored.pixel_to_sky(x + 300, y + 70)
    other_ra, other_dec = full.all_pix2world(x, y, 0)
    back_x, back_y = full.wcs_world2pix(other_ra, other_dec, 0)
    our_x, our_y = full.wcs_world2pix(ra, dec, 0)
    assert np.hypot(our_x - back_x, our_y - back_y).max() < 1e-6
    found_x, found_y = stored.sky_to_pixel(ra, dec)
    assert np.hypot(found_x - 300 - x, found_y - 70 - y).max() < 1e-6


def test_look_up_tables_are_used(shared_data: Path) -> None:
    """Without D2IM and NPOL the real exposure's positions change by hundredths of a pixel."""
    name = shared_data / REAL[0]
    with open_exposure(name) as hdulist:
        full = header_wcs(name, hdulist["SCI", 1].header, hdulist)
        bare = header_wcs(name, hdulist["SCI", 1].header)
    assert full.det2im1 is not None and full.cpdis1 is not None
    assert bare.det2im1 is None and bare.cpdis1 is None
    sky = full.all_pix2world([250.0], [250.0], 0)
    x, y = bare.all_world2pix(*sky, 0)
    assert 1e-3 < np.hypot(x[0] - 250.0, y[0] - 250.0) < 0.2


def test_scalars_shapes_and_the_other_side(tmp_path: Path) -> None:
    path = write_jwst(tmp_path / "a_cal.fits")
    with open_exposure(path) as hdulist:
        write_wcs(tmp_path / "w.fits", header_wcs(path, hdulist["SCI", 1].header, hdulist), 0, 0, "header")
    wcs = read_wcs(tmp_path / "w.fits")
    ra, dec = wcs.pixel_to_sky(10.0, np.zeros((2, 3)))
    assert ra.shape == dec.shape == (2, 3)
    x, y = wcs.sky_to_pixel(np.array([ra[0, 0], ra[0, 0] + 180.0, np.nan]), np.array([dec[0, 0], -dec[0, 0], 0.0]))
    assert x[0] == pytest.approx(10.0) and y[0] == pytest.approx(0.0, abs=1e-7)
    assert np.isnan(x[1:]).all() and np.isnan(y[1:]).all()


def test_area_is_the_jacobian(shared_data: Path) -> None:
    """Against polygons of single pixels, computed one by one from the corners."""
    name = shared_data / REAL[0]
    with open_exposure(name) as hdulist:
        wcs = header_wcs(name, hdulist["SCI", 1].header, hdulist)
    area = pixel_area(wcs, (512, 513), 0.0396)
    assert area.shape == (512, 513) and area.dtype == np.float32
    for x, y in ((5, 5), (100, 400), (500, 20)):
        half = 8.0
        corners = np.array([[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]])
        ra, dec = wcs.all_pix2world(corners[:, 0], corners[:, 1], 0)
        u, v = ra * np.cos(np.radians(dec.mean())) * 3600, dec * 3600
        polygon = 0.5 * abs(np.sum(u * np.roll(v, -1) - v * np.roll(u, -1))) / (2 * half) ** 2
        assert area[y, x] == pytest.approx(polygon / 0.0396**2, rel=5e-4)


def test_missing_keywords_name_file_and_key(tmp_path: Path) -> None:
    path = write_ccd(tmp_path / "a_flc.fits", chips=(2,), header={"CRVAL1": None})
    with open_exposure(path) as hdulist, pytest.raises(InputError, match=r"a_flc.fits \[CRVAL1\]"):
        header_wcs(path, hdulist["SCI", 1].header, hdulist)


def test_read_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        read_wcs(tmp_path / "none.fits")
    with pytest.raises(InputError, match="DPMX0"):
        read_wcs(write_jwst(tmp_path / "a_cal.fits"))


def test_gwcs_as_sip(shared_data: Path, tmp_path: Path) -> None:
    """The fit agrees with the GWCS itself, evaluated at the cut-out's pixels."""
    pytest.importorskip("gwcs", reason="the gwcs extra is not installed")
    pytest.importorskip("asdf", reason="the gwcs extra is not installed")
    name = shared_data / REAL[2]
    with open_exposure(name) as hdulist:
        fitted = fit_gwcs(name, hdulist, (100, 100), (400, 100))
        assert fitted is not None
        header = header_wcs(name, hdulist["SCI", 1].header, hdulist)
        whole = fit_gwcs(name, hdulist, (2048, 2048), (0, 0))
        assert whole is not None and whole[1] < 1e-4
    wcs, error = fitted
    assert error < 1e-5
    write_wcs(tmp_path / "w.fits", wcs, 400, 100, "GWCS")
    stored = read_wcs(tmp_path / "w.fits")
    x, y = np.meshgrid(np.linspace(400, 499, 12), np.linspace(100, 199, 12))
    ra, dec = stored.pixel_to_sky(x, y)
    other = whole[0].all_pix2world(x.ravel(), y.ravel(), 0)
    assert np.abs(ra.ravel() - other[0]).max() * 3600 < 1e-6
    assert np.abs(dec.ravel() - other[1]).max() * 3600 < 1e-6
    back = header.all_world2pix(ra.ravel(), dec.ravel(), 0)
    assert np.hypot(back[0] - x.ravel() + 400, back[1] - y.ravel() + 100).max() < 0.3


def test_no_gwcs_in_the_file(tmp_path: Path) -> None:
    path = write_jwst(tmp_path / "a_cal.fits")
    with open_exposure(path) as hdulist:
        assert fit_gwcs(path, hdulist, (64, 80), (0, 0)) is None
