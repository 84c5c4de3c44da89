"""Noise, variances and effects of simulated detectors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from dpm.models.statistics import robust_width
from dpm.simulate.cosmic_rays import cosmic_rays
from dpm.simulate.detector import (
    Frame,
    bleed,
    brighter_fatter,
    make_pattern,
    one_over_f,
    read_ccd,
    read_ramp,
    trail,
)
from dpm.simulate.instruments import INSTRUMENTS
from dpm.simulate.options import Effects

PLAIN = Effects(
    galaxies=0, cosmic_rays=0, bad_pixels=False, warm_pixels=False, saturation=False, sky_gradient=0, flat_error=0
)
SHAPE = (200, 200)


def expose(
    model: np.ndarray, effects: Effects, camera_name: str = "niriss", seed: int = 1, exptime: float = 128.0
) -> Frame:
    camera = INSTRUMENTS[camera_name]
    pattern = make_pattern(model.shape, camera, effects, np.random.default_rng(9))
    read = read_ramp if camera.is_jwst else read_ccd
    return read(model, exptime, camera, pattern, effects, np.random.default_rng(seed))


@pytest.mark.parametrize("camera", ["niriss", "acs_wfc"])
@pytest.mark.parametrize("level", [30.0, 3000.0])
def test_scatter_is_what_the_variances_say(camera: str, level: float) -> None:
    frame = expose(np.full(SHAPE, level), PLAIN, camera)
    expected = np.mean(frame.var_poisson + frame.var_read + frame.var_flat)
    assert frame.counts.var() == pytest.approx(expected, rel=4 * np.sqrt(2 / frame.counts.size))
    assert frame.counts.mean() == pytest.approx(level, abs=5 * np.sqrt(expected / frame.counts.size))
    assert not frame.dq.any()


def test_flat_error_is_in_its_variance_and_stays() -> None:
    effects = replace(PLAIN, flat_error=0.01)
    model = np.full(SHAPE, 50000.0)
    one, two = expose(model, effects, seed=1), expose(model, effects, seed=2)
    common = np.mean((one.counts - one.counts.mean()) * (two.counts - two.counts.mean()))
    assert common == pytest.approx(np.mean(one.var_flat), rel=0.05)


def test_saturated_pixels_are_shorter_ramps_without_bias() -> None:
    effects = replace(PLAIN, saturation=True)
    frame = expose(np.full(SHAPE, 400000.0), effects)
    assert np.all(frame.dq == 2)
    scatter = frame.counts.std()
    assert frame.counts.mean() == pytest.approx(400000.0, abs=5 * scatter / 200)
    assert scatter**2 == pytest.approx(np.mean(frame.var_poisson + frame.var_read), rel=0.04)
    # 90,000 of 400,000: two of twelve reads
    assert np.mean(frame.var_read) == pytest.approx(12.0**2 * 36, rel=0.02)
    lost = expose(np.full((64, 64), 2e6), effects)
    assert np.all(lost.dq == 3) and np.isnan(lost.counts).all()


def test_cosmic_rays_of_ramps_are_nine_in_ten_flagged() -> None:
    effects = replace(PLAIN, cosmic_rays=8.0)
    shape = (512, 512)
    frame = expose(np.full(shape, 40.0), effects)
    jump = (frame.dq & 4) > 0
    gone = (frame.dq & 1) > 0
    assert np.isnan(frame.counts[gone]).all() and np.all(jump[gone])
    error = np.sqrt(frame.var_poisson + frame.var_read)
    outliers = (np.abs(frame.counts - 40.0) > 8 * error) & ~gone
    # flagged values are good values of shorter ramps, except where a ray that was missed crossed the same pixel
    assert np.mean(outliers[jump]) < 0.02
    share = outliers.sum() / (outliers.sum() + jump.sum())
    assert 0.05 < share < 0.15
    valid = jump & ~gone
    pull = (frame.counts[valid] - 40.0) / error[valid]
    assert np.mean(frame.var_read[valid]) > 1.3 * 144
    assert robust_width(pull, 0.0) == pytest.approx(1, abs=0.12)


def test_cosmic_rays_of_ccds_have_the_rate_and_no_flag() -> None:
    rays = cosmic_rays((512, 512), 1.5, 500.0, 15e-4, np.random.default_rng(3), 2.5, 2000.0)
    hits = 1.5 * 500 * (512 * 15e-4) ** 2
    per_hit = np.count_nonzero(rays) / hits
    assert 2.0 < per_hit < 8.0
    frame = expose(np.full((256, 256), 30.0), replace(PLAIN, cosmic_rays=1.5), "wfc3_uvis", exptime=500.0)
    assert not frame.dq.any()
    hit = np.mean(frame.counts > 100)
    assert 0.003 < hit < 0.05


def test_bad_and_warm_pixels() -> None:
    effects = replace(PLAIN, bad_pixels=True, warm_pixels=True)
    frame = expose(np.full((512, 512), 40.0), effects)
    bad = (frame.dq & 1) > 0
    assert 60 < bad.sum() < 350 and np.isnan(frame.counts[bad]).all()
    warm = (frame.dq & 4096) > 0
    assert warm.sum() > 30 and np.nanmean(frame.counts[warm]) == pytest.approx(40, abs=20)
    assert np.sum(frame.counts[frame.dq == 0] > 150) > 20  # those that nobody flagged


def test_bleeding_keeps_the_charge_and_stays_in_its_column() -> None:
    charge = np.full((101, 5), 100.0)
    charge[50, 2] = 500000.0
    total = charge.sum()
    bleed(charge, 80000.0)
    assert charge.sum() == pytest.approx(total)
    assert charge.max() == pytest.approx(80000.0)
    full = np.flatnonzero(charge[:, 2] > 79999)
    assert np.all(charge[:, [0, 1, 3, 4]] == 100.0)
    assert full.tolist() == [48, 49, 50, 51, 52]
    assert charge[47, 2] == pytest.approx(charge[53, 2])


def test_saturated_ccd_pixels_are_flagged() -> None:
    model = np.full((64, 64), 50.0)
    model[30, 30] = 1e6
    frame = expose(model, replace(PLAIN, saturation=True), "wfc3_uvis")
    flagged = (frame.dq & 256) > 0
    assert flagged[:, 30].sum() > 10 and flagged.sum() == flagged[:, 30].sum()


def test_trails_keep_the_charge_and_grow_with_the_row() -> None:
    charge = np.zeros((400, 3))
    charge[[50, 300], 1] = 1000.0
    trail(charge, 1.0, 0, 0.2)
    assert charge.sum() == pytest.approx(2000.0, rel=1e-6)
    assert charge[51, 1] > 0 and charge[301, 1] > 4 * charge[51, 1] and charge[49, 1] == 0


def test_brighter_fatter_widens_bright_stars_alone() -> None:
    j, i = np.indices((41, 41))
    star = np.exp(-0.5 * ((i - 20) ** 2 + (j - 20) ** 2) / 0.8**2)

    def width(image: np.ndarray) -> float:
        return float(np.sqrt((image * (i - 20) ** 2).sum() / image.sum()))

    bright, faint = 60000 * star, 60 * star
    assert brighter_fatter(bright, 4e-7).sum() == pytest.approx(bright.sum(), rel=1e-6)
    grown = width(brighter_fatter(bright, 4e-7)) / width(bright) - 1
    assert 0.002 < grown < 0.02
    assert width(brighter_fatter(faint, 4e-7)) / width(faint) - 1 < 1e-4


def test_interpixel_capacitance_couples_neighbours() -> None:
    model = np.full((400, 400), 5000.0)

    def correlation(frame: Frame) -> float:
        d = frame.counts - frame.counts.mean()
        return float(np.mean(d[:, 1:] * d[:, :-1]) / np.mean(d * d))

    assert abs(correlation(expose(model, PLAIN))) < 0.01
    coupled = correlation(expose(model, replace(PLAIN, interpixel_capacitance=0.01)))
    assert coupled == pytest.approx(2 * 0.01 / (1 - 8 * 0.01), abs=0.01)


@pytest.mark.parametrize("vertical", [False, True])
def test_stripes_run_along_the_fast_direction(vertical: bool) -> None:
    noise = one_over_f((256, 200), 5.0, vertical, np.random.default_rng(1))
    assert noise.shape == (256, 200)
    assert noise.std() == pytest.approx(5.0, rel=1e-6)
    if vertical:
        noise = noise.T
    along, across = np.mean(noise[:, 1:] * noise[:, :-1]), np.mean(noise[1:] * noise[:-1])
    assert along > 0.9 * 25 and across < 0.8 * along


def test_noise_is_like_the_independent_simulation(shared_data: Path) -> None:
    file = sorted((shared_data / "sim").glob("*_cal.fits"))[0]
    with fits.open(file) as hdus:
        exptime, unit = hdus["PRIMARY"].header["EFFEXPTM"], hdus["SCI"].header["PHOTMJSR"]
        good = (hdus["DQ"].data == 0) & np.isfinite(hdus["SCI"].data) & (hdus["SCI"].data > 0.05)
        sci = hdus["SCI"].data[good].astype(float)
        factor = np.median(hdus["VAR_POISSON"].data[good] / sci) * 1.6 * exptime / unit
        read = np.median(hdus["VAR_RNOISE"].data[good]) * (1.6 * exptime / unit) ** 2
        full = hdus["DQ"].data == 2
        longest = np.nanmax(hdus["VAR_RNOISE"].data[full]) / np.median(hdus["VAR_RNOISE"].data[good])
    frame = expose(np.full(SHAPE, np.median(sci) * 1.6 * exptime / unit), PLAIN)
    positive = frame.counts > 1
    assert np.median(frame.var_poisson[positive] / frame.counts[positive]) == pytest.approx(factor, rel=0.01)
    assert np.median(frame.var_read) == pytest.approx(read, rel=0.02)
    zeroth = expose(np.full((64, 64), 12 * 80000.0), replace(PLAIN, saturation=True))
    assert np.median(zeroth.var_read) / 144 == pytest.approx(longest, rel=0.1)
