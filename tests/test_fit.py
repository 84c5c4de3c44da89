"""The star fit against the Cramer-Rao bound, its own errors, and photutils."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_scene import (
    READ_NOISE,
    SKY,
    Field,
    cramer_rao,
    exposure,
    gridded_epsf,
    isolated_field,
    observe,
    render,
)
from scipy.spatial import cKDTree

from dpm.kernels import quality as columns
from dpm.models.options import FindOptions
from dpm.models.statistics import robust_width
from dpm.stages.first_pass.measure import StarMeasurements, measure_exposure

SIDE, SPACING = 512, 24


def measured_stars(field: Field, **find: float) -> tuple[StarMeasurements, np.ndarray, np.ndarray]:
    """Measurements, and rows of true and measured stars that belong together."""
    measured = measure_exposure(field.image, gridded_epsf(), FindOptions(**find))
    tree = cKDTree(measured.rows[:, [columns.X, columns.Y]])
    distance, found = tree.query(np.c_[field.x, field.y], distance_upper_bound=0.7)
    matched = np.isfinite(distance)
    return measured, np.flatnonzero(matched), found[matched]


@pytest.mark.parametrize("flux", [600.0, 3000.0, 30000.0])
def test_reaches_the_cramer_rao_bound_with_honest_errors(flux: float) -> None:
    """RMS within 5 % of the bound (plus its sampling error), pulls of width 1, and no flux bias."""
    field = isolated_field(SIDE, SPACING, flux, seed=int(flux))
    measured, true, found = measured_stars(field)
    rows = measured.rows[found]
    bound = cramer_rao(field.x[true], field.y[true], field.flux[true])
    n = len(true)
    assert n > 0.99 * len(field.x)
    residual = np.c_[rows[:, columns.X] - field.x[true], rows[:, columns.Y] - field.y[true]]
    ratio = robust_width((residual / bound[:, :2]).ravel())
    sampling = 2 * 1.17 / np.sqrt(2 * n)
    assert 1 - sampling - 0.03 < ratio < 1.05 + sampling
    pull = robust_width((residual / rows[:, [columns.X_ERROR, columns.Y_ERROR]]).ravel())
    assert 0.95 - sampling < pull < 1.05 + sampling
    excess = (rows[:, columns.FLUX] - field.flux[true]) / rows[:, columns.FLUX_ERROR]
    assert abs(np.median(excess)) < 4 * 1.25 / np.sqrt(n)
    assert 0.9 - sampling < robust_width(excess) < 1.1 + sampling
    quality = np.median(rows[:, columns.QFIT] / rows[:, columns.QFIT_EXPECTED])
    assert 0.97 < quality < 1.03
    assert 0.95 < np.median(rows[:, columns.CHI]) < 1.05
    assert abs(np.median(rows[:, columns.RADXS])) < 0.02


def test_weights_come_from_the_model_not_the_counts() -> None:
    """Weights from observed counts would bias faint fluxes low by about one electron a pixel: several times this limit."""
    field = isolated_field(1024, 20, 500.0, seed=3)
    measured, true, found = measured_stars(field, threshold=3.0)
    shift = np.mean(measured.rows[found, columns.FLUX] - field.flux[true])
    error = np.std(measured.rows[found, columns.FLUX]) / np.sqrt(len(true))
    assert abs(shift) < 4 * error + 0.002 * 500


def test_agrees_with_photutils() -> None:
    """An independent fit of the same pixels with the same library lands within a fifth of the error."""
    psf = pytest.importorskip("photutils.psf", reason="photutils is in the test extra")
    from astropy.nddata import NDData
    from astropy.table import Table

    field = isolated_field(256, 32, 5000.0, seed=11)
    measured, true, found = measured_stars(field)
    epsf = gridded_epsf()
    grid = NDData(
        np.repeat(epsf.samples[0], 4, 0), meta={"grid_xypos": [(0, 0), (255, 0), (0, 255), (255, 255)], "oversampling": 4}
    )
    error = np.sqrt(render(field.image.shape, field.x, field.y, field.flux) + SKY + READ_NOISE**2)
    start = Table({"x": field.x[true], "y": field.y[true], "flux": field.flux[true]})
    theirs = psf.PSFPhotometry(psf.GriddedPSFModel(grid), (5, 5), aperture_radius=3)(
        field.image.sci - SKY, error=error, init_params=start
    )
    rows = measured.rows[found]
    for ours, name, sigma in ((columns.X, "x_fit", columns.X_ERROR), (columns.Y, "y_fit", columns.Y_ERROR)):
        assert np.median(np.abs(rows[:, ours] - theirs[name]) / rows[:, sigma]) < 0.2


def test_fitted_sky_equals_annulus_sky_within_errors() -> None:
    field = isolated_field(256, 32, 8000.0, seed=21)
    annulus, true, found = measured_stars(field)
    fitted, _, again = measured_stars(field, fit_sky=True)
    assert np.median(fitted.rows[again, columns.SKY]) == pytest.approx(SKY, abs=2.0)
    larger = fitted.rows[again, columns.FLUX_ERROR] / annulus.rows[found, columns.FLUX_ERROR]
    assert np.median(larger) > 1.02
    pull = (fitted.rows[again, columns.FLUX] - field.flux[true]) / fitted.rows[again, columns.FLUX_ERROR]
    assert abs(np.median(pull)) < 0.6
    # The fourth parameter absorbs noise too.
    for rows in (annulus.rows[found], fitted.rows[again]):
        assert 0.95 < np.median(rows[:, columns.QFIT] / rows[:, columns.QFIT_EXPECTED]) < 1.05


def test_masked_pixels_carry_no_weight() -> None:
    """Garbage under the BAD bit changes nothing at all; the errors grow."""
    field = isolated_field(256, 32, 5000.0, seed=5)
    dq = np.zeros(field.image.shape, np.uint8)
    rows, cols = np.rint(field.y).astype(int), np.rint(field.x).astype(int)
    dq[rows, cols + 1] = 1
    low, high = field.image.sci.copy(), field.image.sci.copy()
    low[dq > 0], high[dq > 0] = -1e6, 1e9
    first = measure_exposure(exposure(low, dq), gridded_epsf(), FindOptions())
    second = measure_exposure(exposure(high, dq), gridded_epsf(), FindOptions())
    assert np.array_equal(first.rows, second.rows)
    plain = measure_exposure(field.image, gridded_epsf(), FindOptions())
    assert np.median(first.rows[:, columns.X_ERROR]) > 1.05 * np.median(plain.rows[:, columns.X_ERROR])
    assert np.median(first.rows[:, columns.N_PIXELS]) == 24


def test_a_blend_is_parted() -> None:
    """Two stars 2.2 pixels apart, one five times fainter: both found, both within five errors."""
    rng = np.random.default_rng(8)
    n = 60
    x = np.tile(np.arange(24, 24 + 32 * 15, 32.0), 4) + rng.uniform(-0.5, 0.5, n)
    y = np.repeat(np.arange(24, 24 + 32 * 4, 32.0), 15) + rng.uniform(-0.5, 0.5, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    xs, ys = np.r_[x, x + 2.2 * np.cos(angle)], np.r_[y, y + 2.2 * np.sin(angle)]
    fluxes = np.r_[np.full(n, 20000.0), np.full(n, 4000.0)]
    shape = (160, 512)
    field = Field(exposure(observe(render(shape, xs, ys, fluxes), 9)), xs, ys, fluxes)
    measured, true, found = measured_stars(field)
    assert len(true) > 0.97 * 2 * n
    pull = (measured.rows[found, columns.X] - field.x[true]) / measured.rows[found, columns.X_ERROR]
    assert np.mean(np.abs(pull) < 5) > 0.95
    assert abs(np.median(measured.rows[found, columns.FLUX] / field.flux[true] - 1)) < 0.02
