"""The psf stage: libraries found by name, and the ePSF made quickly from the exposures' own stars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analytic_scene import exposure, gridded_epsf, observe, render, true_epsf
from scipy.spatial import cKDTree

from dpm.io.errors import InputError
from dpm.kernels import quality as columns
from dpm.models.epsf import centre_samples
from dpm.models.options import FindOptions
from dpm.models.statistics import robust_width
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.psf import find_library, is_named_for
from dpm.stages.psf.diffraction import diffraction_epsf
from dpm.stages.psf.quick import build_quick_epsf

CORE = np.s_[44:57, 44:57]  # 1.5 pixels


def test_diffraction_has_the_width_of_the_aperture() -> None:
    """Without blur the 50 % radius in the sky follows lambda / D, and all light is counted once."""
    narrow = diffraction_epsf(0.90, "JWST", 0.0656, 0.0)
    wide = diffraction_epsf(2.00, "JWST", 0.0656, 0.0)
    assert narrow.sum() / 16 == pytest.approx(1.0)
    assert narrow[50, 50] > 1.3 * wide[50, 50]
    # Airy: FWHM = 1.03 lambda / D = 0.065 arcsec at 2 microns; the 0.066 arcsec pixel broadens it to about 0.085.
    half = np.interp(-wide[50, 50] / 2, -wide[50, 50:80], np.arange(30) / 4)
    assert 2 * half * 0.0656 == pytest.approx(0.085, rel=0.1)
    assert np.allclose(narrow, narrow[::-1, ::-1], atol=1e-12)


def quick_field(n_stars: int, seed: int, side: int = 512) -> tuple:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(12, side - 12, (2, n_stars))
    flux = 10 ** rng.uniform(3.2, 5.0, n_stars)
    return exposure(observe(render((side, side), x, y, flux), seed)), x, y, flux


def test_quick_epsf_comes_near_the_truth() -> None:
    """From one exposure of 250 stars, starting from a diffraction pattern that is 10 % of the peak off."""
    image, x, y, _ = quick_field(250, 31)
    result = build_quick_epsf([image], "F115W", 0.0656, "NRCA1")
    truth = gridded_epsf().samples[0, 0]
    radius = np.hypot(*np.mgrid[-50:51, -50:51]) / 4
    truth = centre_samples(truth / (truth[radius <= 5].sum() / 16))[0]
    made = result.epsf.samples[0, 0]
    error = (made - truth)[CORE] / truth.max()
    assert result.n_stars > 50
    assert error.std() < 0.02
    assert np.abs(error).max() < 0.06
    assert made[radius <= 5].sum() / 16 == pytest.approx(1.0, abs=0.01)
    assert result.epsf.approximate and 0.0 < result.epsf.model_error < 0.08
    stars = measure_exposure(image, result.epsf, FindOptions())
    bright = stars.rows[:, columns.FLUX] / stars.rows[:, columns.FLUX_ERROR] > 50
    found = stars.rows[bright]
    distance, index = cKDTree(np.c_[x, y]).query(found[:, [columns.X, columns.Y]])
    offset = (found[:, columns.X] - x[index])[distance < 0.5]
    assert robust_width(offset) < 0.02


def test_without_stars_the_diffraction_pattern_stands_and_says_so() -> None:
    image = exposure(observe(np.zeros((128, 128)), 3))
    result = build_quick_epsf([image], "F115W", 0.0656, "NRCA1")
    assert result.n_stars == 0
    assert "no bright isolated star" in result.warnings[0]
    assert result.epsf.model_error >= 0.1


def test_few_stars_are_said() -> None:
    image, *_ = quick_field(8, 5, side=200)
    result = build_quick_epsf([image], "F115W", 0.0656, "NRCA1")
    assert 0 < result.n_stars < 20
    assert any("stars only" in text for text in result.warnings)


def test_libraries_are_found_by_detector_then_library_name(tmp_path: Path) -> None:
    for name in ("STDPSF_WFC3UV_F814W.fits", "STDPSF_ACSWFC_F814W_SM4.fits", "PSFSTD_WFC3IR_F160W.fits"):
        (tmp_path / name).touch()
    assert find_library(tmp_path, "UVIS2", "F814W").name == "STDPSF_WFC3UV_F814W.fits"
    assert find_library(tmp_path, "WFC1", "F814W").name == "STDPSF_ACSWFC_F814W_SM4.fits"
    assert find_library(tmp_path, "WFC3IR", "F160W").name == "PSFSTD_WFC3IR_F160W.fits"
    (tmp_path / "STDPSF_UVIS2_F814W.fits").touch()
    assert find_library(tmp_path, "UVIS2", "F814W").name == "STDPSF_UVIS2_F814W.fits"
    with pytest.raises(InputError, match="STDPSF_NIRISS_F090W"):
        find_library(tmp_path, "NIRISS", "F090W")
    with pytest.raises(InputError, match="no such file or folder"):
        find_library(tmp_path / "absent", "NIRISS", "F090W")


def test_diffraction_pattern_is_only_a_start() -> None:
    """The truth of these tests is no diffraction pattern: the build has to leave its start behind."""
    offset = (np.arange(101) - 50) / 4
    truth = true_epsf(offset[None, :], offset[:, None])
    start = diffraction_epsf(1.15, "JWST", 0.0656, 0.3)
    assert np.abs(start - truth)[CORE].max() > 0.1 * truth.max()


@pytest.mark.parametrize(
    ("stem", "fits"),
    [
        ("STDPSF_WFC3UV_F814W", True),
        ("PSFSTD_UVIS2_F814W_v2", True),
        ("my_own", True),
        ("STDPSF_ACSWFC_F814W_SM4", False),
        ("STDPSF_WFC3UV_F606W", False),
    ],
)
def test_a_library_of_another_detector_is_noticed_by_its_name(stem: str, fits: bool) -> None:
    assert is_named_for(stem, "UVIS2", "WFC3UV", "F814W") is fits
