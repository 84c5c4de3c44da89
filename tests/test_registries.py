"""Registries of detectors and flags, and the robust statistics."""

import numpy as np
import pytest

from dpm.models.detectors import DETECTORS, band_name, band_wavelength, find_detector, header_detector
from dpm.models.flags import PIXEL_FLAG_MEANINGS, STAR_FLAG_MEANINGS, PixelFlag, StarFlag, describe_flags
from dpm.models.statistics import MAD_TO_SIGMA, MAG_PER_RELATIVE_FLUX, MEDIAN_TO_MEAN_ERROR, robust_width


@pytest.mark.parametrize(
    ("detector", "filter_name", "microns"),
    [
        ("NIRISS", "F090W", 0.9),
        ("NRCAL", "F322W2", 3.22),
        ("WFC1", "F814W", 0.814),
        ("UVIS2", "F225W", 0.225),
        ("WFC3IR", "F160W", 1.6),
        ("NIC2", "F205W", 2.05),
    ],
)
def test_wavelength_from_the_band(detector, filter_name, microns):
    assert band_wavelength(band_name(detector, filter_name)) == pytest.approx(microns)


def test_a_filter_without_a_number_has_no_wavelength():
    assert band_wavelength("niriss_clear") == np.inf


def test_detectors_by_header():
    assert header_detector("WFC3", "UVIS", 1) is DETECTORS["UVIS1"]
    assert header_detector("NICMOS", "", 3) is DETECTORS["NIC3"]
    assert header_detector("NIRCAM", "NRCALONG").telescope == "JWST"
    assert header_detector("ACS", "SBC", 1) is None
    with pytest.raises(KeyError, match="detector 'NIC4' is unknown; known are NIRISS"):
        find_detector("NIC4")


def test_every_flag_has_a_meaning():
    assert set(PIXEL_FLAG_MEANINGS) == set(PixelFlag) and set(STAR_FLAG_MEANINGS) == set(StarFlag)
    assert describe_flags(StarFlag.EDGE | StarFlag.SATURATED) == [
        "SATURATED: core pixels are saturated and without weight: measured from the wings alone",
        "EDGE: the fit box is cut by the edge of the detector",
    ]
    assert describe_flags(0) == [] and describe_flags(2, PIXEL_FLAG_MEANINGS)[0].startswith("SATURATED: ")


def test_robust_statistics_of_normal_values():
    values = 3.0 + 2.0 * np.random.default_rng(1).normal(size=100_001)
    assert robust_width(values) == pytest.approx(2.0, rel=0.01)
    assert robust_width(values, 0.0) > 4.0
    medians = np.median(values[:100_000].reshape(1000, 100), axis=1)
    assert np.std(medians) == pytest.approx(MEDIAN_TO_MEAN_ERROR * 2.0 / 10.0, rel=0.06)
    assert -2.5 * np.log10(1.0 - 1e-6) == pytest.approx(MAG_PER_RELATIVE_FLUX * 1e-6, rel=1e-5)
    assert MAD_TO_SIGMA == pytest.approx(1.4826, abs=1e-4)
