"""The iterated ePSF build, piece by piece on stars whose ePSF, positions and fluxes are known."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_scene import READ_NOISE, SKY, gridded_epsf, true_epsf

from dpm.kernels import quality as columns
from dpm.kernels.epsf_samples import smooth_samples
from dpm.kernels.stamps import Stamps
from dpm.models.epsf import GriddedEPSF, centre_samples
from dpm.models.transform import LinearTransform
from dpm.stages.frame.units import Unit
from dpm.stages.psf import update as update_module
from dpm.stages.psf.agreement import agree
from dpm.stages.psf.build import nodes_a_side
from dpm.stages.psf.candidates import STAMP_HALF, StarStamps
from dpm.stages.psf.grid import normalise, radius_grid
from dpm.stages.psf.positions import Fits, Links, average, phase_bias, phase_spread
from dpm.stages.psf.samples import NodeSums, fit_candidates, sum_samples
from dpm.stages.psf.update import update_epsf

CORE = radius_grid() <= 1.5
SIDE = 500.0  # pixels of the made-up detector


def truth(stretch: float = 1.0) -> np.ndarray:
    offset = (np.arange(101) - 50) / 4
    return centre_samples(normalise(true_epsf(offset[None, :], offset[:, None], stretch)))[0]


def stretch_at(x: float, width: float, change: float) -> float:
    """Width of the ePSF over the detector, linear, so that blending nodes can follow it to a small error."""
    return width * (1.0 + change * (x / SIDE - 0.5))


def make_stamps(raw: np.ndarray, flux: np.ndarray, seed: int, vary: tuple[float, float] | None = None) -> StarStamps:
    """Stamps of stars at raw positions, with noise; ``vary`` is mean width and change of an ePSF that varies."""
    rng = np.random.default_rng(seed)
    n, side = len(raw), 2 * STAMP_HALF + 1
    first = np.floor(raw + 0.5) - STAMP_HALF
    pixel = np.arange(side)
    values = np.empty((n, side, side), np.float32)
    for k in range(n):
        x, y = raw[k] - first[k]
        stretch = stretch_at(raw[k, 0], *vary) if vary else 1.0
        scale = (true_epsf(*(np.arange(-20, 21)[s] / 4 for s in (np.s_[None, :], np.s_[:, None])), stretch)).sum() / 16
        light = flux[k] * true_epsf(pixel[None, :] - x, pixel[:, None] - y, stretch) / (scale if vary else 1.0)
        values[k] = rng.poisson(light + SKY) + rng.normal(0, READ_NOISE, light.shape)
    one = np.ones_like(values)
    stamps = Stamps(
        values, np.ones(values.shape, bool), one * np.float32(READ_NOISE**2), one, one * 0, first[:, 0].copy(), first[:, 1].copy()
    )
    start = np.zeros((n, columns.RESULT_SIZE))
    start[:, columns.X], start[:, columns.Y] = (raw - first).T
    start[:, columns.FLUX], start[:, columns.SKY] = flux, SKY
    return StarStamps(stamps, start)


def blurred_start(nodes: int, stretch: float = 1.06) -> GriddedEPSF:
    """A wrong ePSF: 6 % too wide, on a grid."""
    node = np.linspace(0, SIDE, nodes) if nodes > 1 else np.zeros(1)
    samples = np.tile(truth(stretch), (nodes, nodes, 1, 1))
    return GriddedEPSF(samples, node, node)


def iterate(epsf: GriddedEPSF, stars: StarStamps, raw: np.ndarray, flux: np.ndarray, rounds: int) -> tuple:
    """Rounds of sampling at given positions and updating; the last update."""
    result = None
    half = np.arange(len(raw)) % 2
    for _ in range(rounds):
        sums = sum_samples(stars, epsf, raw.copy(), flux, np.ones(len(raw), bool), half, np.full(len(raw), 300.0))
        result = update_epsf(epsf, sums)
        epsf = result.epsf
    return epsf, result


def rms(samples: np.ndarray, against: np.ndarray) -> float:
    """Per cent of the peak within 1.5 pixels."""
    return float(100 * np.sqrt(np.mean((samples - against)[CORE] ** 2)) / against.max())


@pytest.fixture(scope="module")
def bright_stars() -> tuple:
    rng = np.random.default_rng(11)
    raw = rng.uniform(20, SIDE - 20, (500, 2))
    flux = 10 ** rng.uniform(4.3, 5.2, 500)
    return make_stamps(raw, flux, 12), raw, flux


def test_update_takes_a_wide_epsf_to_the_truth(bright_stars: tuple) -> None:
    """From 6 % too wide (1.6 % of the peak) to what the noise of the stars leaves."""
    stars, raw, flux = bright_stars
    start = blurred_start(1)
    inside = true_epsf(*(np.arange(-20, 21)[s] / 4 for s in (np.s_[None, :], np.s_[:, None]))).sum() / 16
    epsf, result = iterate(start, stars, raw, flux * inside, 8)
    assert rms(start.samples[0, 0], truth()) > 1.5
    assert rms(epsf.samples[0, 0], truth()) < 0.15
    assert result.change < 5e-4
    # The error it states is that of the noise: neither a tenth nor ten times what is found.
    assert 0.2 * rms(epsf.samples[0, 0], truth()) < 100 * result.noise < 3 * rms(epsf.samples[0, 0], truth())
    centred, shift = centre_samples(epsf.samples[0, 0])
    assert max(abs(value) for value in shift) < 1e-3


def test_corrections_that_are_noise_are_not_made(bright_stars: tuple) -> None:
    """Starting at the truth, rounds move it by less than the noise of one unweighted average."""
    stars, raw, flux = bright_stars
    inside = true_epsf(*(np.arange(-20, 21)[s] / 4 for s in (np.s_[None, :], np.s_[:, None]))).sum() / 16
    start = GriddedEPSF(truth()[None, None], np.zeros(1), np.zeros(1))
    epsf, result = iterate(start, stars, raw, flux * inside, 6)
    assert rms(epsf.samples[0, 0], truth()) < 0.1
    wings = (radius_grid() > 7) & (radius_grid() < 11)
    assert np.abs((epsf.samples[0, 0] - truth())[wings]).max() < 2e-4


@pytest.mark.parametrize(
    ("width", "change", "column_limit", "node_limit", "single"),
    [(1.0, 0.12, 0.28, 0.3, 1.2), (0.75, 0.3, 0.4, 0.42, 2.5)],
)
def test_nodes_follow_an_epsf_that_varies(
    width: float, change: float, column_limit: float, node_limit: float, single: float
) -> None:
    """The grid follows, with noise below the difference of the nodes; a sharp core whose width varies much is not rounded off.

    Smoothed over the nodes' wider kernel alone the sharp one is off by 0.53 % at the ends.
    """
    rng = np.random.default_rng(21)
    raw = rng.uniform(5, SIDE - 5, (1200, 2))
    flux = 10 ** rng.uniform(4.3, 5.2, 1200)
    stars = make_stamps(raw, flux, 22, vary=(width, change))
    epsf, _ = iterate(blurred_start(3, 1.06 * width), stars, raw, np.full(1200, np.nan), 10)
    for column, x in enumerate((0.0, SIDE / 2, SIDE)):
        wanted = truth(stretch_at(x, width, change))
        assert rms(epsf.samples[:, column].mean(axis=0), wanted) < column_limit
        assert max(rms(samples, wanted) for samples in epsf.samples[:, column]) < node_limit
    # What a single ePSF would be off by at both ends.
    assert rms(truth(stretch_at(0.0, width, change)), truth(width)) > single


def test_nodes_take_up_no_noise(bright_stars: tuple) -> None:
    """Stars of one ePSF on a grid of nine: these do not part by what noise alone would make of them, in however many rounds."""
    stars, raw, flux = bright_stars
    inside = true_epsf(*(np.arange(-20, 21)[s] / 4 for s in (np.s_[None, :], np.s_[:, None]))).sum() / 16
    epsf, _ = iterate(blurred_start(3), stars, raw, flux * inside, 10)
    for node in np.ndindex(3, 3):
        assert rms(epsf.samples[node], epsf.samples.mean(axis=(0, 1))) < 0.03
        assert rms(epsf.samples[node], truth()) < 0.15


def test_no_star_no_change() -> None:
    """Sums of nothing leave the ePSF as it is."""
    start = blurred_start(3)
    result = update_epsf(start, NodeSums.empty(3, 3))
    assert np.array_equal(result.epsf.samples, start.samples)
    assert result.change == 0.0 and np.isfinite(result.noise)


def test_smoothing_keeps_a_parabola() -> None:
    """The local polynomial of degree two returns a parabola exactly, with gaps in the samples."""
    rows, cols = np.mgrid[:101, :101]
    value = 1.0 + 0.02 * (cols - 50) + 0.001 * (rows - 40) ** 2 - 0.0005 * (rows - 50) * (cols - 50)
    weight = np.where(np.random.default_rng(3).random((101, 101)) < 0.5, 2.0, 0.0)
    smoothed, variance = np.empty((101, 101)), np.empty((101, 101))
    smooth_samples(weight * value, weight, np.full((101, 101), 1.5), np.full((101, 101), 2), smoothed, variance)
    inner = np.s_[20:80, 20:80]
    # The little ridge on the higher terms is the only thing in the way.
    assert np.abs(smoothed - value)[inner].max() < 0.01
    assert np.isfinite(variance[inner]).all() and (variance[inner] > 0).all()


def linked(n_stars: int, n_units: int, seed: int) -> tuple[Links, np.ndarray, np.ndarray]:
    """Stars seen by dithered exposures of one scale and no distortion: links, true raw positions, true fluxes."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(50, 450, (n_stars, 2))
    flux = 10 ** rng.uniform(4, 5, n_stars)
    dither = rng.uniform(-20, 20, (n_units, 2))
    star, unit = np.tile(np.arange(n_stars), n_units), np.repeat(np.arange(n_units), n_stars)
    raw = place[star] - dither[unit]
    n = len(star)
    links = Links(unit, star, raw.copy(), place[star], np.tile(np.eye(2), (n, 1, 1)), np.ones(n))
    return links, raw, flux[star]


def one_band(links: Links) -> np.ndarray:
    """All units in one filter."""
    return np.zeros(len(links.star), np.int64)


def test_averages_take_the_pixel_phase_out() -> None:
    """A bias of 0.02 pixel with phase in every fit is 0.003 or less in the averages, and outliers do not pull them."""
    links, raw, flux = linked(150, 9, 5)
    rng = np.random.default_rng(6)
    biased = raw + 0.02 * np.sin(2 * np.pi * raw) + rng.normal(0, 0.003, raw.shape)
    biased[7] += 0.3
    n = len(raw)
    fits = Fits(biased, np.full(n, 0.003), flux * rng.normal(1, 0.003, n), flux * 0.003, np.full(n, 0.03))
    targets = average(links, fits, one_band(links), mix=False)
    assert not targets.used[7] and targets.used.mean() > 0.97
    wave = np.sin(2 * np.pi * raw[targets.used])
    left = 2 * np.mean((targets.raw - raw)[targets.used] * wave, axis=0)
    assert np.abs(left).max() < 0.005
    assert phase_bias(fits, targets).amplitude == pytest.approx(0.02, rel=0.25)
    assert phase_spread(fits, links, targets.used) > 0.5
    mixed = average(links, fits, one_band(links), mix=True)
    assert np.abs(mixed.raw - biased)[mixed.used].mean() < np.abs(targets.raw - biased)[targets.used].mean()


def test_averaged_fluxes_know_the_units_zero_points() -> None:
    """Exposures of different depth: each candidate gets its star's mean flux in the unit of its own exposure."""
    links, raw, flux = linked(120, 6, 8)
    rng = np.random.default_rng(9)
    gain = np.array([1.0, 0.9, 1.1, 1.0, 1.05, 0.95])[links.unit]
    n = len(raw)
    fits = Fits(raw, np.full(n, 0.003), flux * gain * rng.normal(1, 0.01, n), flux * 0.01, np.full(n, 0.03))
    targets = average(links, fits, one_band(links), mix=False)
    known = np.isfinite(targets.flux)
    ratio = targets.flux[known] / (flux * gain)[known]
    assert known.mean() > 0.97
    assert np.std(ratio / np.median(ratio)) < 0.006


def test_fluxes_are_averaged_within_a_filter() -> None:
    """Stars of all colours in two filters: positions are averaged over both, fluxes over one, and nearly all stars have one."""
    links, raw, flux = linked(150, 12, 14)
    rng = np.random.default_rng(15)
    band = (links.unit % 2).astype(np.int64)
    color = np.where(band == 1, 10 ** rng.normal(0.0, 0.2, 150)[links.star], 1.0)
    n = len(raw)
    fits = Fits(raw, np.full(n, 0.003), flux * color * rng.normal(1, 0.01, n), flux * color * 0.01, np.full(n, 0.03))
    targets = average(links, fits, band, mix=False)
    known = np.isfinite(targets.flux)
    assert known.mean() > 0.97
    for k in (0, 1):
        mine = known & (band == k)
        ratio = targets.flux[mine] / (flux * color)[mine]
        # The mean of six exposures to 1 %.
        assert np.std(ratio / np.median(ratio)) < 0.006
    assert targets.flux_scatter < 0.015


def test_stars_of_few_exposures_keep_their_own_positions() -> None:
    """Two exposures are no average: position free, flux fitted."""
    links, raw, flux = linked(50, 2, 3)
    n = len(raw)
    targets = average(links, Fits(raw + 0.01, np.full(n, 0.003), flux, flux * 0.01, np.full(n, 0.03)), one_band(links), mix=False)
    assert not targets.averaged.any()
    assert np.isnan(targets.flux).all()
    assert np.allclose(targets.raw, raw + 0.01)


def test_whole_pixel_dithers_are_noticed() -> None:
    """All exposures of a star at one phase: nothing can break it, and the number says so."""
    links, raw, flux = linked(60, 5, 4)
    whole = raw[links.star] + np.array([3.0, -2.0]) * links.unit[:, None]
    n = len(raw)
    fits = Fits(whole, np.full(n, 0.003), flux, flux * 0.01, np.full(n, 0.03))
    assert phase_spread(fits, links, np.ones(n, bool)) < 0.02


def wavy_units(n_units: int, seed: int) -> tuple[list[Unit], list[np.ndarray], list[np.ndarray]]:
    """Dithered units with a wave of distortion that the header does not know: units, stars, what each raw position lacks."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(-100, 600, (2600, 2))
    units, stars, lacks = [], [], []
    for k in range(n_units):
        ideal = place - rng.uniform(-60, 60, 2)
        inside = np.flatnonzero(((ideal > 0) & (ideal < SIDE)).all(axis=1))
        wave = 0.05 * np.sin(2 * np.pi * (ideal[inside] @ np.array([[0.6, 0.8], [0.8, -0.6]])) / 150.0)
        raw = ideal[inside] - wave + rng.normal(0, 0.004, (len(inside), 2))
        start = LinearTransform(x_shift=float((place - ideal)[0, 0]), y_shift=float((place - ideal)[0, 1]))
        error = np.full(len(inside), 0.004)
        units.append(
            Unit(
                f"e{k}",
                "NIRISS",
                "niriss_f090w",
                2022.0,
                raw[:, 0],
                raw[:, 1],
                error,
                error,
                np.ones(len(inside)),
                np.ones(len(inside)),
                np.zeros(len(inside), np.int32),
                np.arange(len(inside), dtype=np.int32),
                np.array([0.0]),
                np.array([0.0]),
                start,
                lambda u, v: (u, v),
                lambda name: np.zeros(0),
                0.0656,
                (0.0, SIDE, 0.0, SIDE),
                filter="F090W",
                x=raw[:, 0],
                y=raw[:, 1],
                forward=lambda x, y: (np.asarray(x, float), np.asarray(y, float)),
                transform=start,
            )  # fmt: skip
        )
        stars.append(inside)
        lacks.append(wave)
    return units, stars, lacks


def test_positions_agree_whatever_the_distortion() -> None:
    """A wave of 0.05 pixel in 150 pixels that no polynomial follows: stars' places agree to the noise of 0.004."""
    units, stars, _ = wavy_units(9, 31)
    before = np.concatenate([np.column_stack(unit.position()) for unit in units])
    result = agree(units, stars)
    every = np.concatenate(stars)
    after = np.concatenate(result.place)
    scatter = []
    for place in (before, after):
        mean = np.column_stack([np.bincount(every, place[:, k]) / np.maximum(np.bincount(every), 1) for k in (0, 1)])
        scatter.append(float(np.std((place - mean[every])[np.bincount(every)[every] >= 4])))
    assert scatter[0] > 0.025
    assert scatter[1] < 0.0065
    assert result.scatter < 0.0065


def test_a_star_does_not_decide_on_its_own_correction() -> None:
    """A star off by 0.03 pixel in one exposure stays off there: the correction comes from the others."""
    units, stars, _ = wavy_units(9, 33)
    victim = int(np.bincount(np.concatenate(stars)).argmax())
    row = int(np.flatnonzero(stars[4] == victim)[0])
    clean = agree(units, stars).place[4][row].copy()
    # Raw and corrected positions share their memory here.
    units[4].x[row] += 0.03
    moved = agree(units, stars).place[4][row]
    # Its own weight in the stars' mean turns the transform a little; the rest of the 0.03 has to come through.
    assert (moved - clean)[0] == pytest.approx(0.03, abs=0.003)


def test_grid_shrinks_with_the_stars() -> None:
    """Sixty star images a node: a full grid from 1500 on, one ePSF below 240."""
    assert nodes_a_side(5, 3000) == 5
    assert nodes_a_side(5, 600) == 3
    assert nodes_a_side(5, 100) == 1
    assert nodes_a_side(3, 10_000) == 3


def test_free_fits_start_from_the_stamps() -> None:
    """Fits of stamps return raw positions within their errors."""
    rng = np.random.default_rng(51)
    raw = rng.uniform(20, SIDE - 20, (200, 2))
    flux = 10 ** rng.uniform(4.0, 5.0, 200)
    fits = fit_candidates(make_stamps(raw, flux, 52), gridded_epsf())
    pull = (fits.raw - raw) / fits.error[:, None]
    assert np.isfinite(pull).all()
    assert 0.85 < pull.std() < 1.15


def test_stated_noise_is_that_of_the_modes() -> None:
    """Cosine modes are orthonormal: what goes into them comes out again."""
    modes = update_module._cosines(5)
    assert np.allclose(modes @ modes.T, np.eye(5), atol=1e-12)
