"""Linear transforms, the master frame and distortion maps."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from dpm.models.distortion import MapDistortion, PlaneDistortion, PolynomialInverse, map_to_sky
from dpm.models.master_frame import MasterFrame, sky_to_tangent, tangent_to_sky
from dpm.models.transform import LinearTransform, fit_linear

GENERAL = LinearTransform(0.8, -0.61, 0.59, 0.81, 120.0, -35.0)


def points(n=200, seed=1, size=1000.0):
    return np.random.default_rng(seed).uniform(0, size, (2, n))


def test_inverse_and_composition():
    x, y = points()
    back = GENERAL.inverse()(*GENERAL(x, y))
    np.testing.assert_allclose(back, [x, y], atol=1e-9)
    second = LinearTransform(1.1, 0.2, -0.1, 0.9, 3.0, 4.0)
    np.testing.assert_allclose(second.after(GENERAL)(x, y), second(*GENERAL(x, y)), atol=1e-9)
    with pytest.raises(ValueError, match="singular"):
        LinearTransform(1.0, 1.0, 1.0, 1.0).inverse()


@pytest.mark.parametrize("mirror", [False, True])
def test_fits_give_back_what_was_put_in(mirror):
    x, y = points()
    angle, scale = 0.3, 1.02
    a, c = scale * np.cos(angle), scale * np.sin(angle)
    true = LinearTransform(a, c, c, -a, 5.0, 6.0) if mirror else LinearTransform(a, -c, c, a, 5.0, 6.0)
    for parameters in (4, 6):
        fit = fit_linear(x, y, *true(x, y), parameters=parameters)
        np.testing.assert_allclose(fit.transform.matrix, true.matrix, atol=1e-9)
        assert fit.rms < 1e-7 and fit.used.all()


def test_outliers_are_clipped_and_shift_alone_can_be_fitted():
    x, y = points()
    x_to, y_to = x + 3.0, y - 2.0
    x_to[:20] += 50
    noise = np.random.default_rng(2).normal(0, 0.01, (2, len(x)))
    fit = fit_linear(x, y, x_to + noise[0], y_to + noise[1], parameters=2)
    assert not fit.used[:20].any() and fit.used[20:].mean() > 0.95
    assert fit.transform.x_shift == pytest.approx(3.0, abs=0.005) and fit.transform.a == 1.0
    with pytest.raises(ValueError, match="too few"):
        fit_linear(x[:2], y[:2], x[:2], y[:2], parameters=6)


@pytest.mark.parametrize("parameters", [2, 4, 6])
def test_the_fit_knows_its_own_error(parameters):
    rng = np.random.default_rng(3)
    x, y = points(40)
    probe = np.array([900.0]), np.array([100.0])
    true = LinearTransform(x_shift=4.0, y_shift=1.0)
    pulls = []
    for _ in range(300):
        sigma = rng.uniform(0.5, 2.0, len(x))
        x_to, y_to = true(x, y)
        fit = fit_linear(x, y, x_to + rng.normal(0, sigma), y_to + rng.normal(0, sigma), sigma, parameters, clip=None)
        miss = np.ravel(fit.transform(*probe)) - np.ravel(true(*probe))
        pulls += list(miss / np.sqrt(fit.position_variance(*probe)))
    assert 0.85 < np.std(pulls) < 1.1


def test_master_frame_is_the_astropy_wcs_with_x_to_the_west():
    frame = MasterFrame.around([80.3, 80.7], [-69.6, -69.4], 0.0656)
    wcs = frame.wcs
    ra, dec = np.array([80.35, 80.66, 80.5]), np.array([-69.55, -69.41, -69.5])
    x, y = frame.sky_to_pixel(ra, dec)
    np.testing.assert_allclose([x, y], wcs.world_to_pixel_values(ra, dec), atol=1e-6)
    np.testing.assert_allclose(frame.pixel_to_sky(x, y), [ra, dec], atol=1e-11)
    assert x[0] > x[1], "East has to be left"
    assert y[1] > y[0], "North has to be up"
    assert 0 < x.min() and x.max() < frame.nx and 0 < y.min() and y.max() < frame.ny
    east = frame.sky_to_pixel(80.5, -69.5)[0] - frame.sky_to_pixel(80.5 + 1 / 3600 / np.cos(np.radians(69.5)), -69.5)[0]
    assert east == pytest.approx(1 / 0.0656, rel=1e-5)
    assert MasterFrame.from_meta(frame.to_meta()) == frame


@pytest.mark.parametrize("ra0", [0.0, 359.9999])
def test_tangent_plane_across_ra_zero_and_the_pole(ra0):
    for dec0 in (-30.0, 89.99):
        xi, eta = np.array([-50.0, 40.0, 0.0]), np.array([10.0, -80.0, 0.0])
        ra, dec = tangent_to_sky(xi, eta, ra0, dec0)
        np.testing.assert_allclose(sky_to_tangent(ra, dec, ra0, dec0), [xi, eta], atol=1e-7)
        centre = SkyCoord(ra0, dec0, unit="deg")
        distance = centre.separation(SkyCoord(ra, dec, unit="deg")).arcsec
        np.testing.assert_allclose(distance, np.hypot(xi, eta), rtol=1e-6, atol=1e-6)
    frame = MasterFrame.around([359.99, 0.01], [0.0, 0.01], 0.05)
    assert min(frame.ra0, 360 - frame.ra0) < 0.001


def curved(nx=120, ny=90):
    rows, columns = np.mgrid[0:ny, 0:nx].astype(float)
    s, t = (columns - nx / 2) / nx, (rows - ny / 2) / ny
    return MapDistortion(columns + 2 * s * t + s**2, rows - 1.5 * t**2 + 0.5 * s, 0.1 * s)


def test_distortion_map_there_and_back():
    distortion = curved()
    x, y = points(100, size=89.0)
    back = distortion.inverse(*distortion.forward(x, y))
    np.testing.assert_allclose(back, [x, y], atol=1e-5)
    assert distortion.forward(10.0, 20.0)[0] == pytest.approx(distortion.x_corrected[20, 10])
    np.testing.assert_allclose(distortion.area(30.0, 4.0), 10 ** (-0.4 * distortion.magnitude[4, 30]))
    upper = MapDistortion(distortion.x_corrected, distortion.y_corrected, y_offset=40)
    assert upper.forward(5.0, 3.0)[1] == pytest.approx(distortion.y_corrected[43, 5])
    np.testing.assert_allclose(upper.inverse(*upper.forward(5.0, 3.0)), [5.0, 3.0], atol=1e-5)


def test_plane_distortion_leads_to_the_master_frame_by_its_linear_transform():
    pointing = MasterFrame(10.02, 41.03, 0.05, 60.0, 40.0, 120, 90)
    plane = PlaneDistortion(pointing.pixel_to_sky, (60.0, 40.0), 0.05, (10.0, 41.0))
    u, v = plane.forward(np.array([60.0, 61.0]), np.array([40.0, 40.0]))
    np.testing.assert_allclose([u[0], v[0]], 0, atol=1e-6)
    np.testing.assert_allclose([u[1], v[1]], [1, 0], atol=1e-4)
    xi, eta = sky_to_tangent(*pointing.pixel_to_sky(60.0, 40.0), 10.0, 41.0)
    west, north = plane.to_plane(0.0, 0.0)
    np.testing.assert_allclose([west * 0.05, north * 0.05], [-xi, eta], atol=1e-6)
    inverse = PolynomialInverse(plane.forward, (0, 119, 0, 89))
    x, y = points(50, size=89.0)
    np.testing.assert_allclose(inverse(*plane.forward(x, y)), [x, y], atol=1e-4)


def test_a_mirrored_header_keeps_the_detectors_axes():
    frame = MasterFrame(10.0, 41.0, 0.05, 60.0, 40.0, 120, 90)
    plane = PlaneDistortion(lambda x, y: frame.pixel_to_sky(120.0 - x, y), (60.0, 40.0), 0.05, (10.0, 41.0))
    u, v = plane.forward(np.array([70.0]), np.array([45.0]))
    np.testing.assert_allclose([u[0], v[0]], [10, 5], atol=1e-5)


def test_map_gets_pointing_and_scale_from_the_header():
    distortion = curved()
    frame = MasterFrame(10.0, 41.0, 0.05, 60.0, 45.0, 120, 90)
    to_sky, _ = map_to_sky(distortion, frame.pixel_to_sky, (0, 119, 0, 89))
    x, y = frame.sky_to_pixel(*to_sky(np.array([60.0]), np.array([45.0])))
    assert np.hypot(x - 60, y - 45)[0] < 1.0
    low, high = (frame.sky_to_pixel(*to_sky(np.array([value]), np.array([45.0])))[0] for value in (5.0, 110.0))
    u_low, u_high = distortion.forward(5.0, 45.0)[0], distortion.forward(110.0, 45.0)[0]
    assert (high - low)[0] == pytest.approx(u_high - u_low, rel=0.01)
