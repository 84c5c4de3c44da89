"""Residual images: noise where the model is right, and stacks that keep stars' light and places."""

import numpy as np
import pytest
from analytic_scene import READ_NOISE, SKY, exposure, gridded_epsf, observe, render
from astropy.table import Table

from dpm.models.epsf import BrightnessTerm
from dpm.models.master_frame import MasterFrame
from dpm.models.statistics import robust_width
from dpm.models.transform import LinearTransform
from dpm.simulate.detector import brighter_fatter
from dpm.stages.brightness.term import spreading
from dpm.stages.residuals.exposure import Placement, ResidualImage, subtract_catalog
from dpm.stages.residuals.stack import stack_exposures
from dpm.stages.second_pass.geometry import make_geometry

SIDE = 160
FRAME = MasterFrame(80.0, -69.5, 0.05, 100.0, 100.0, 220, 220)


def turned(angle, dx, dy, scale=1.0):
    """From raw pixels to the master frame, about the middle of both."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    middle, raw = 110.0, 0.5 * (SIDE - 1)
    return LinearTransform(c, -s, s, c, middle - (c - s) * raw + dx, middle - (s + c) * raw + dy)


def stars(n, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(40, 180, n), rng.uniform(40, 180, n), 10 ** rng.uniform(2.5, 4.5, n)


def observed(transform, x, y, flux, seed=None, change=None, zero_point=0.0, catalog=None):
    """One exposure with the true catalogue subtracted; without a seed there is no noise."""
    raw_x, raw_y = transform.inverse()(x, y)
    scale = 10 ** (0.4 * zero_point)
    light = render((SIDE, SIDE), raw_x, raw_y, flux * scale)
    pixels = light + SKY if seed is None else observe(light, seed)
    if change is not None:
        change(pixels)
    image = exposure(pixels)
    bounds = (0.0, SIDE - 1.0, 0.0, SIDE - 1.0)
    placement = Placement(make_geometry(lambda u, v: (u, v), transform, bounds, lambda u, v: np.ones_like(u), zero_point))
    residual = image.sci.copy()
    n = subtract_catalog(residual, image, gridded_epsf(), placement, x, y, flux if catalog is None else catalog)
    return ResidualImage(image, residual, placement, Table({"exposure": ["e"]})[0], "band", n)


def test_residual_of_a_noise_free_exposure_is_its_sky():
    x, y, flux = stars(150, 1)
    result = observed(turned(0.3, 1.3, -2.2), x, y, flux)
    peak = float((result.image.sci - SKY).max())
    assert result.n_stars == 150 and peak > 5000
    # the outermost wings below a tenth of the noise are not rendered; the cubic ePSF is good to some 1e-3 of the peak
    assert np.abs(result.residual - SKY).max() < 3e-3 * peak
    assert robust_width(result.residual.ravel()) < 0.1 * np.hypot(READ_NOISE, np.sqrt(SKY))


def test_residual_of_a_noisy_exposure_is_noise():
    x, y, flux = stars(150, 2)
    result = observed(turned(-0.2, 0.4, 0.7), x, y, flux, seed=3)
    pull = ((result.residual - result.local_sky()) / np.sqrt(result.variance())).ravel()
    assert pull.std() == pytest.approx(1.0, abs=0.03)
    assert np.mean(np.abs(pull) > 5) < 2e-4


def test_bright_stars_leave_no_residual_where_their_epsf_is_that_of_their_charge():
    """Brighter-fatter of 5 % in the centre of the brightest: with the term a tenth of its residual stays."""
    strength = 1e-6
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(60.0, 165, 15) + 0.3, np.arange(60.0, 165, 15) - 0.2))
    flux = np.linspace(1e4, 2e5, x.size)
    transform = turned(0.0, 1.3, -2.2)
    raw_x, raw_y = transform.inverse()(x, y)
    image = exposure(brighter_fatter(render((SIDE, SIDE), raw_x, raw_y, flux) + SKY, strength))
    bounds = (0.0, SIDE - 1.0, 0.0, SIDE - 1.0)
    placement = Placement(make_geometry(lambda u, v: (u, v), transform, bounds, lambda u, v: np.ones_like(u), 0.0))
    library = gridded_epsf()
    term = BrightnessTerm(strength * spreading(library.samples[0, 0]), 2e5)
    left = []
    for epsf in (library, library.with_brightness(term)):
        residual = image.sci.copy()
        subtract_catalog(residual, image, epsf, placement, x, y, flux)
        left.append(float(np.abs(residual - SKY).max()))
    assert left[1] < 0.15 * left[0]


def test_stack_keeps_flux_and_places(tmp_path):
    """Isolated stars, turned and dithered exposures of another scale and depth: light within 1.5 %, places within 0.03 pixels."""
    gy, gx = np.meshgrid(np.arange(60.0, 165, 25), np.arange(60.0, 165, 25))
    rng = np.random.default_rng(5)
    x, y = gx.ravel() + rng.uniform(-0.5, 0.5, gx.size), gy.ravel() + rng.uniform(-0.5, 0.5, gx.size)
    flux = np.full(x.size, 1e5)
    # more than the default dithers, so that errors of the bilinear interpolation with pixel phase average out
    transforms = [turned(a, *rng.uniform(-3, 3, 2), scale) for a in (0.0, 0.4, 1.2) for scale in (1.0, 0.97, 1.03)]
    parts = (observed(t, x, y, flux, zero_point=0.1 * (k % 2)) for k, t in enumerate(transforms))
    stack = stack_exposures(parts, (FRAME.ny, FRAME.nx), tmp_path)
    light = stack.data - stack.residual
    ra, dec = FRAME.pixel_to_sky(x, y)
    at_x, at_y = FRAME.wcs.all_world2pix(ra, dec, 0)
    yy, xx = np.mgrid[-11:12, -11:12]
    for k in range(x.size):
        i, j = round(float(at_x[k])), round(float(at_y[k]))
        box = light[j - 11 : j + 12, i - 11 : i + 12].astype(float)
        assert box.sum() == pytest.approx(flux[k], rel=0.015)
        assert (box * xx).sum() / box.sum() + i == pytest.approx(at_x[k], abs=0.03)
        assert (box * yy).sum() / box.sum() + j == pytest.approx(at_y[k], abs=0.03)
    assert np.nanmax(np.abs(stack.residual - np.nanmedian(stack.residual))) < 5e-3 * np.nanmax(light)


def test_stack_leaves_out_what_one_exposure_has_alone(tmp_path):
    x, y, flux = stars(60, 7)

    def hit(pixels):
        pixels[70:74, 50:110] += 3000.0

    transforms = [turned(0.0, dx, dy) for dx, dy in ((0.0, 0.0), (1.4, 2.3), (-2.6, 0.8))]
    parts = [observed(t, x, y, flux, seed=20 + k, change=hit if k == 1 else None) for k, t in enumerate(transforms)]
    stack = stack_exposures(parts, (FRAME.ny, FRAME.nx), tmp_path)
    clean = stack_exposures([parts[0], parts[2]], (FRAME.ny, FRAME.nx), tmp_path)
    # under a star's light, ePSF errors may leave as much as faint cosmic rays do
    dark = np.abs(clean.data - clean.residual) < 5.0
    trail = np.zeros(dark.shape, bool)
    trail[98:118, 75:150] = True
    chosen = trail & dark
    assert chosen.sum() > 200
    assert np.max(stack.residual[chosen]) < np.max(clean.residual[chosen]) + 30.0
    hit_share = 4 * 60 / (3 * SIDE**2)
    assert 0.9 * hit_share < stack.clipped < 1.6 * hit_share  # bilinear interpolation spreads it by a pixel
    assert not list(tmp_path.iterdir())


def test_stack_shows_a_star_that_the_catalogue_lacks(tmp_path):
    """What all exposures have is no outlier, however bright."""
    x, y, flux = stars(2, 8)
    x[0], y[0], flux[0] = 110.3, 104.8, 2e4
    catalog = flux.copy()
    catalog[0] = np.nan
    transforms = [turned(0.0, dx, dy) for dx, dy in ((0.0, 0.0), (1.0, 2.0), (-3.0, 1.0))]
    parts = [observed(t, x, y, flux, seed=30 + k, catalog=catalog) for k, t in enumerate(transforms)]
    stack = stack_exposures(parts, (FRAME.ny, FRAME.nx), tmp_path)
    box = stack.residual[93:118, 98:123].astype(float)
    assert (box - np.nanmedian(stack.residual)).sum() == pytest.approx(flux[0], rel=0.03)
