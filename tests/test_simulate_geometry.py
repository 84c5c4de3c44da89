"""The simulator's distortion, pointings and header world coordinates."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.wcs import WCS

from dpm.simulate.geometry import Distortion, Pointing, SkyPlane, load_polynomial, make_small_terms
from dpm.simulate.headers import wcs_header
from dpm.simulate.options import Effects

PLANE = SkyPlane(80.49, -69.4978)


def cut_out(
    detector: str, n: int = 512, start: tuple[int, int] = (768, 768), origin: tuple[int, int] = (0, 0)
) -> Distortion:
    bare = Distortion(load_polynomial(detector), *start, *origin, n, n)
    x, y = bare.to_ideal(origin[0] + (n - 1) / 2, origin[1] + (n - 1) / 2)
    return Distortion(bare.polynomial, *start, *origin, n, n, (float(x), float(y)))


@pytest.mark.parametrize(
    ("instrument", "aperture", "detector"),
    [("NIRISS", "NIS_CEN", "NIRISS"), ("NIRCam", "NRCA1_FULL", "NRCA1"), ("NIRCam", "NRCB1_FULL", "NRCB1")],
)
def test_jwst_polynomials_are_pysiafs(instrument: str, aperture: str, detector: str) -> None:
    pysiaf = pytest.importorskip("pysiaf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        siaf = pysiaf.Siaf(instrument)[aperture]
        x, y = np.meshgrid(np.linspace(1, 2048, 9), np.linspace(1, 2048, 9))
        expected = siaf.sci_to_idl(x, y)
    got = load_polynomial(detector)(x, y)
    np.testing.assert_allclose(got[0], expected[0], atol=1e-4)
    np.testing.assert_allclose(got[1], expected[1], atol=1e-4)


@pytest.mark.parametrize(
    ("aperture", "detector"), [("JWFC1", "WFC1"), ("JWFC2", "WFC2"), ("IUVIS1", "UVIS1"), ("IUVIS2", "UVIS2")]
)
def test_hst_polynomials_are_pysiafs_turned_and_moved(aperture: str, detector: str) -> None:
    pysiaf = pytest.importorskip("pysiaf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        siaf = pysiaf.Siaf("HST")[aperture]
        ours = load_polynomial(detector)
        u, v = np.meshgrid(np.linspace(-1800, 1800, 9), np.linspace(-900, 900, 9))
        expected = np.ravel(siaf.sci_to_idl(u + siaf.XSciRef, v + siaf.YSciRef)).reshape(2, -1)
    got = np.array(ours(u + ours.x_reference, v + ours.y_reference)[:2]).reshape(2, -1)
    # offset and rotation, no scale: complex fit
    a, b = expected[0] + 1j * expected[1], got[0] + 1j * got[1]
    factor = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean())
    assert abs(factor) == pytest.approx(1, abs=1e-9)
    assert np.abs(b - b.mean() - factor * (a - a.mean())).max() < 1e-6


def test_polynomials_are_those_of_the_shared_table(shared_data: Path) -> None:
    with np.load(shared_data / "real" / "siaf" / "siaf_polys.npz") as table:
        for name, detector in (("NIS_CEN", "NIRISS"), ("NRCA1_FULL", "NRCA1")):
            ours = load_polynomial(detector)
            np.testing.assert_allclose(ours.x, table[f"{name}_X"], rtol=1e-12)
            np.testing.assert_allclose(ours.y, table[f"{name}_Y"], rtol=1e-12)


@pytest.mark.parametrize("detector", ["NIRISS", "NRCA1", "WFC2", "UVIS1"])
def test_distortion_there_and_back(detector: str) -> None:
    terms = make_small_terms(np.random.default_rng(2), Effects())
    bare = cut_out(detector)
    distortion = Distortion(bare.polynomial, 768, 768, 0, 0, 512, 512, bare.ideal_origin, *terms)
    x, y = np.random.default_rng(1).uniform(-50, 560, (2, 300))
    back = distortion.to_raw(*distortion.to_ideal(x, y))
    assert max(np.abs(back[0] - x).max(), np.abs(back[1] - y).max()) < 1e-8
    dx, dy = distortion.small_terms(x, y)
    assert 0.01 < np.hypot(dx, dy).max() < 1.0


def test_neighbouring_chips_do_not_overlap() -> None:
    for upper, lower in (("WFC1", "WFC2"), ("UVIS1", "UVIS2")):
        top = load_polynomial(lower)(np.array(2048.0), np.array(2048.0))[1]
        bottom = load_polynomial(upper)(np.array(2048.0), np.array(1.0))[1]
        assert 0.5 < bottom - top < 4.0  # the gap: about 2 arcsec


def test_directions_at_roll_zero_and_ninety() -> None:
    distortion = cut_out("NIRISS")
    for roll, east, north in ((0.0, (-1, 0), (0, 1)), (90.0, (0, 1), (1, 0))):
        pointing = Pointing(0.0, 0.0, roll)
        x, y = distortion.to_raw(*pointing.to_ideal(np.array([0.0, 0.656, 0.0]), np.array([0.0, 0.0, 0.656])))
        for k, direction in ((1, east), (2, north)):
            step = np.array([x[k] - x[0], y[k] - y[0]]) / 10
            np.testing.assert_allclose(step, direction, atol=0.02)
    assert (x[0], y[0]) == pytest.approx((255.5, 255.5), abs=1e-6)


def test_velocity_aberration_scales_the_sky() -> None:
    x, _ = Pointing(0.0, 0.0, 0.0, 1.001).to_ideal(np.array(10.0), np.array(0.0))
    assert float(x) == pytest.approx(-10 / 1.001)


@pytest.mark.parametrize(
    ("detector", "start", "origin"),
    [
        ("NIRISS", (768, 768), (0, 0)),
        ("NRCB1", (100, 900), (100, 900)),
        ("WFC2", (1800, 700), (0, 0)),
        ("UVIS1", (1792, 769), (1792, 769)),
    ],
)
def test_sip_header_is_the_geometry(detector: str, start: tuple[int, int], origin: tuple[int, int]) -> None:
    distortion = cut_out(detector, 512, start, origin)
    pointing = Pointing(3.1, -5.2, 131.0, 1.00003)
    wcs = WCS(wcs_header(distortion, pointing, PLANE, sip=True))
    x, y = np.random.default_rng(1).uniform(0, 511, (2, 200))
    ra, dec = PLANE.to_sky(*pointing.to_plane(*distortion.to_ideal(x + origin[0], y + origin[1])))
    got_x, got_y = wcs.all_world2pix(ra, dec, 0)  # 0-based: CRPIX is 1-based
    assert max(np.abs(got_x - x).max(), np.abs(got_y - y).max()) < 1e-3


def test_linear_header_leaves_a_tenth_of_a_pixel() -> None:
    distortion = cut_out("NIRISS")
    pointing = Pointing(0.0, 0.0, 37.0)
    wcs = WCS(wcs_header(distortion, pointing, PLANE, sip=False))
    x, y = np.random.default_rng(1).uniform(0, 511, (2, 500))
    got = wcs.all_world2pix(*PLANE.to_sky(*pointing.to_plane(*distortion.to_ideal(x, y))), 0)
    rms = np.sqrt(np.mean((got[0] - x) ** 2 + (got[1] - y) ** 2) / 2)
    assert 0.005 < rms < 0.3


def test_area_is_the_maps_determinant() -> None:
    distortion = cut_out("NRCA1")
    area = distortion.area(0.0311**2)
    assert area.shape == (512, 512)
    x, y = np.array([40.0, 40.5, 40.0]), np.array([300.0, 300.0, 300.5])
    ideal = np.array(distortion.to_ideal(x, y))
    determinant = np.linalg.det((ideal[:, 1:] - ideal[:, :1]) / 0.5)
    assert area[300, 40] == pytest.approx(abs(determinant) / 0.0311**2, rel=1e-4)


def test_motions_turn_with_north() -> None:
    xi, eta = np.array([0.0, 60.0]), np.array([0.0, 0.0])
    pmra, pmdec = PLANE.motions_on_sky(xi, eta, np.array([5.0, 5.0]), np.array([0.0, 0.0]))
    assert pmra[0] == pytest.approx(5.0, rel=1e-6) and abs(pmdec[0]) < 1e-5
    # East of the centre in the South, the local direction of East points a little more to the South of the plane's
    turn = 60 / 3600 * np.tan(np.radians(-69.4978)) * np.pi / 180
    assert pmdec[1] == pytest.approx(-5.0 * turn * -1 * -1, rel=0.02)
