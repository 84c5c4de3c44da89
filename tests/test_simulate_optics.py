"""The simulator's ePSFs and how stars are put into pixels."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from dpm.simulate.instruments import INSTRUMENTS
from dpm.simulate.optics import OVERSAMPLE, EpsfGrid, WavefrontModel, couple, make_epsf_grid
from dpm.simulate.render import StarRenderer


@pytest.fixture(scope="module")
def grid() -> EpsfGrid:
    camera = INSTRUMENTS["niriss"]
    nodes = np.array([0.0, 255.0])
    return make_epsf_grid(camera, "F150W", WavefrontModel(camera, np.random.default_rng(5)), nodes, nodes)


def fwhm(epsf: np.ndarray) -> float:
    """Full width at half maximum in pixels, mean of the two axes."""
    centre = epsf.shape[0] // 2
    widths = []
    for profile in (epsf[centre], epsf[:, centre]):
        above = np.flatnonzero(profile > profile.max() / 2)
        first, last = above[0], above[-1]
        half = profile.max() / 2
        left = first - (profile[first] - half) / (profile[first] - profile[first - 1])
        right = last + (profile[last] - half) / (profile[last] - profile[last + 1])
        widths.append((right - left) / OVERSAMPLE)
    return float(np.mean(widths))


def test_epsf_sums_to_one_at_every_phase(grid: EpsfGrid) -> None:
    for epsf in grid.values.reshape(-1, *grid.values.shape[2:]):
        sums = np.array([[epsf[b::OVERSAMPLE, a::OVERSAMPLE].sum() for a in range(1, 8)] for b in range(1, 8)])
        assert 0.98 < sums.min() and sums.max() < 1.0001
        assert np.ptp(sums) < 1e-3
        assert epsf.min() > 0


@pytest.mark.parametrize(
    ("name", "filter_name"), [("niriss", "F090W"), ("nircam_a1", "F115W"), ("acs_wfc", "F814W"), ("wfc3_uvis", "F438W")]
)
def test_epsf_width_is_diffraction_through_the_pixel(name: str, filter_name: str) -> None:
    camera = INSTRUMENTS[name]
    nodes = np.array([0.0, 255.0])
    made = make_epsf_grid(camera, filter_name, WavefrontModel(camera, np.random.default_rng(1)), nodes, nodes)
    diffraction = 1.03 * camera.filters[filter_name].wavelength * 1e-6 / camera.diameter
    diffraction *= 180 / np.pi * 3600 / camera.pixel_scale
    # the pixel's full width counts in quadrature with about 0.9, diffusion with 2.355 sigma
    expected = np.sqrt(diffraction**2 + 0.9**2 + (2.355 * camera.diffusion) ** 2)
    assert fwhm(made.values[0, 0]) == pytest.approx(expected, rel=0.2)
    assert fwhm(made.values[0, 0]) < 2.1  # undersampled, or nearly
    assert made.values[0, 0].max() < 0.75


def test_epsf_is_centred_as_anderson_and_king_say(grid: EpsfGrid) -> None:
    centre, half = grid.values.shape[-1] // 2, OVERSAMPLE // 2
    for epsf in grid.values.reshape(-1, *grid.values.shape[2:]):
        assert abs(epsf[centre, centre + half] - epsf[centre, centre - half]) < 1e-5 * epsf.max()
        assert abs(epsf[centre + half, centre] - epsf[centre - half, centre]) < 1e-5 * epsf.max()


def test_epsf_is_no_gaussian_and_varies_over_the_field(grid: EpsfGrid) -> None:
    epsf = grid.values[0, 0]
    offset = (np.arange(epsf.shape[0]) - epsf.shape[0] // 2) / OVERSAMPLE
    radius = np.hypot(*np.meshgrid(offset, offset))
    outside = epsf[radius > 5].sum() / OVERSAMPLE**2
    assert 0.02 < outside < 0.12
    ring = epsf[(radius > 6) & (radius < 8)]
    assert ring.std() > 0.5 * ring.mean()  # spikes and rings
    core = radius < 1.5
    difference = np.abs(grid.values[0, 0] - grid.values[1, 1])[core].max() / epsf.max()
    assert 0.003 < difference < 0.3


def test_rendered_star_has_its_counts_and_its_place(grid: EpsfGrid) -> None:
    renderer = StarRenderer(grid)
    for x, y in ((128.0, 130.0), (127.31, 128.77), (128.5, 127.5)):
        image = np.zeros((256, 256))
        renderer.add(image, np.array([x]), np.array([y]), np.array([1e5]), np.array([47]))
        assert image.sum() / 1e5 == pytest.approx(0.993, abs=0.007)
        j, i = np.indices(image.shape)
        near = np.hypot(i - x, j - y) < 2.5
        assert (image * i)[near].sum() / image[near].sum() == pytest.approx(x, abs=0.12)
        assert (image * j)[near].sum() / image[near].sum() == pytest.approx(y, abs=0.12)


def test_rendering_is_the_epsf_at_the_pixels_offset(grid: EpsfGrid) -> None:
    image = np.zeros((256, 256))
    renderer = StarRenderer(grid)
    # on the first node, an eighth of a pixel off: the samples themselves
    renderer.add(image, np.array([20.125]), np.array([30.0]), np.array([1.0]), np.array([10]), origin=(0, 0))
    u, v = 20.125 / 255, 30.0 / 255
    g = grid.values
    blend = (1 - u) * (1 - v) * g[0, 0] + u * (1 - v) * g[0, 1] + (1 - u) * v * g[1, 0] + u * v * g[1, 1]
    centre = blend.shape[0] // 2
    expected = blend[centre - 80 : centre + 81 : 8, centre - 81 : centre + 80 : 8]
    np.testing.assert_allclose(image[20:41, 10:31], expected, atol=2e-7)


def test_rendering_does_not_depend_on_the_cut_out(grid: EpsfGrid) -> None:
    renderer = StarRenderer(grid)
    x, y, counts, halves = np.array([100.3, 3.2]), np.array([90.6, 200.1]), np.array([5e3, 1e4]), np.array([24, 24])
    whole = np.zeros((256, 256))
    renderer.add(whole, x, y, counts, halves)
    part = np.zeros((80, 100))
    renderer.add(part, x, y, counts, halves, origin=(60, 50))
    np.testing.assert_allclose(part, whole[50:130, 60:160], rtol=1e-9, atol=1e-9)


def test_interpixel_capacitance_keeps_the_sum_and_lowers_the_peak(grid: EpsfGrid) -> None:
    image = np.zeros((21, 21))
    image[10, 10] = 1000.0
    out = couple(image, 0.005)
    assert out.sum() == pytest.approx(1000.0)
    assert out[10, 10] == pytest.approx(980.0) and out[9, 10] == pytest.approx(5.0) and out[9, 9] == 0
    seen = grid.coupled(0.005)
    ratio = seen.values.max() / grid.values.max()
    assert 0.97 < ratio < 0.995


def test_hst_epsf_is_as_sharp_as_the_real_ones(shared_data: Path) -> None:
    for name, filter_name, file in (
        ("acs_wfc", "F814W", "STDPSF_ACSWFC_F814W_SM4.fits"),
        ("wfc3_uvis", "F814W", "STDPSF_WFC3UV_F814W.fits"),
    ):
        camera = INSTRUMENTS[name]
        nodes = np.array([0.0, 255.0])
        made = make_epsf_grid(camera, filter_name, WavefrontModel(camera, np.random.default_rng(1)), nodes, nodes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            real = fits.getdata(shared_data / "real" / "stdpsf" / file).astype(float)
        peak = np.median(real.max(axis=(1, 2)))
        assert made.values.max() == pytest.approx(peak, rel=0.15)
        # the library is normalised inside its own array: compare the light within 3 pixels to that within 10
        offset = np.arange(-50, 51) / 4
        radius = np.hypot(*np.meshgrid(offset, offset))
        ours, theirs = made.crop(13, 2)[0, 0, 2:-2, 2:-2], np.median(real, axis=0)
        share, expected = (e[radius < 3].sum() / e[radius < 10].sum() for e in (ours, theirs))
        assert share == pytest.approx(expected, abs=0.06)
