"""Relative motions, slopes, parallaxes, zero points and priors against stars of known motions."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord, get_body_barycentric
from astropy.table import Table
from astropy.time import Time
from motion_catalogs import make_field, pull_width

from dpm.science.motions import (
    MotionError,
    as_covariance,
    combine_states,
    combine_with_priors,
    displacements,
    error_floor,
    fit_slopes,
    local_correction,
    match_positions,
    member_motions,
    motion_map,
    motion_vectors,
    motions_between,
    parallax_factors,
    relative_motions,
    sky_positions,
    two_epoch_difference,
    zero_point_from_galaxies,
    zero_point_from_motions,
)


def linear_field(position):
    """Rotation, expansion and shear such as an old epoch's transform leaves: 0.2 mas/yr at the field's edge."""
    return 3.0 + position @ np.array([[0.003, -0.002], [0.004, 0.001]])


@pytest.mark.parametrize("neighbors", [0, 40])
def test_relative_motions_are_unbiased_with_honest_errors(neighbors):
    field = make_field(seed=3)
    found = relative_motions(field.position, field.motion + linear_field(field.position), field.covariance, field.member, neighbors)
    left = found.motion - field.true
    assert pull_width(found.motion, field.true, found.covariance) == pytest.approx(1.0, abs=0.05)
    assert np.abs(np.average(left, axis=0, weights=1 / np.trace(found.covariance, axis1=1, axis2=2))).max() < 0.004
    assert found.dispersion == pytest.approx(0.03, abs=0.003)
    assert found.reference[field.member].mean() > 0.98


def test_a_star_has_no_say_in_its_own_transform():
    field = make_field(n=40, share=1.0, seed=4)
    for neighbors in (0, 10):
        before = relative_motions(field.position, field.motion, field.covariance, field.member, neighbors)
        moved = field.motion.copy()
        moved[7] += 0.02
        after = relative_motions(field.position, moved, field.covariance, field.member, neighbors)
        # The dispersion, and with it the weights, change a little.
        assert after.field[7] == pytest.approx(before.field[7], abs=1e-3)
        assert after.motion[7] - before.motion[7] == pytest.approx(0.02, abs=1e-3)


def test_members_are_found_by_their_motions_and_their_frame_with_them():
    field = make_field(seed=5, bulk=(4.0, -3.0))
    found = member_motions(field.position, field.motion + linear_field(field.position), field.covariance)
    assert found.mixture is not None
    chosen = found.probability > 0.5
    assert field.member[chosen].mean() > 0.98
    assert chosen[field.member].mean() > 0.98
    truth = field.true - (4.0, -3.0)
    assert pull_width(found.relative.motion, truth, found.relative.covariance) == pytest.approx(1.0, abs=0.06)
    assert abs(found.mixture.sigma - 0.03) < 3 * found.mixture.sigma_error


def test_without_a_cluster_there_are_no_probabilities():
    field = make_field(share=0.0, n=600, seed=6)
    found = member_motions(field.position, field.motion, field.covariance)
    assert found.mixture is None
    assert np.isnan(found.probability).all()
    assert np.abs(np.median(found.relative.motion, axis=0)).max() < 0.3


def test_bad_reference_stars_are_explained():
    field = make_field(n=200, seed=7)
    with pytest.raises(MotionError, match="0 reference stars are given"):
        relative_motions(field.position, field.motion, field.covariance, np.zeros(200, bool))
    wild = np.random.default_rng(1).normal(0, 1e3, (200, 2)) * np.exp(np.random.default_rng(2).normal(0, 6, (200, 1)))
    with pytest.raises(MotionError, match="clipping at 0.01 sigma left"):
        relative_motions(field.position, wild, field.covariance, field.member, clip=0.01)
    with pytest.raises(MotionError, match="local transform needs"):
        relative_motions(field.position, field.motion, field.covariance, field.member, neighbors=3)
    with pytest.raises(MotionError, match="chosen reference stars"):
        member_motions(field.position, field.motion, field.covariance, start=np.zeros(200, bool))


def test_a_catalogue_of_one_epoch_is_told_what_it_lacks():
    with pytest.raises(MotionError, match="one epoch has none"):
        motion_vectors(Table({"ra": [1.0], "dec": [2.0]}))
    with pytest.raises(MotionError, match="0 stars have motions"):
        member_motions(np.zeros((50, 2)), np.full((50, 2), np.nan), np.full((50, 2, 2), np.nan))


def observe(times, n=400, seed=1, sigma=2.0, parallax=None, factors=None):
    """Positions of stars (mas) in exposures at given times, the motions, and plain covariances."""
    rng = np.random.default_rng(seed)
    start, motion = rng.uniform(-1e4, 1e4, (n, 2)), rng.normal(0, 3, (n, 2))
    star, when = np.repeat(np.arange(n), len(times)), np.tile(times, n)
    place = start[star] + motion[star] * (when - 2016.0)[:, None]
    if parallax is not None:
        place = place + parallax[star, None] * factors
    error = sigma * rng.uniform(0.5, 2.0, len(star))
    covariance = as_covariance(np.column_stack([error, error]), np.full(len(star), 0.2))
    place = place + np.einsum("mij,mj->mi", np.linalg.cholesky(covariance), rng.normal(size=(len(star), 2)))
    return star, when, place, covariance, motion


def test_slopes_and_two_epoch_differences_have_honest_errors_and_chi_squares():
    times = np.array([2006.4] * 6 + [2022.3] * 9) + np.linspace(0, 0.02, 15)
    star, when, place, covariance, motion = observe(times)
    found = fit_slopes(star, when, place, covariance, 2022.3, clip=5.0)
    assert pull_width(found.motion, motion, found.motion_covariance) == pytest.approx(1.0, abs=0.07)
    assert np.mean(found.chi2 / found.degrees) == pytest.approx(1.0, abs=0.03)
    assert found.degrees[0] == 2 * 15 - 4
    two, spread, years = two_epoch_difference(star, when, place, covariance)
    assert pull_width(two, motion, spread) == pytest.approx(1.0, abs=0.07)
    assert years == pytest.approx(15.9, abs=0.05)
    # All positions of two epochs hold what their means hold.
    ratio = np.trace(spread, axis1=1, axis2=2) / np.trace(found.motion_covariance, axis1=1, axis2=2)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)


def test_an_outlier_is_clipped_and_a_second_epoch_of_one_exposure_is_kept():
    times = np.array([2006.4, 2022.30, 2022.31, 2022.32, 2022.33])
    star, when, place, covariance, motion = observe(times, n=60)
    place[when == 2022.31] += 60.0  # far off in one exposure of every star
    found = fit_slopes(star, when, place, covariance, 2022.3)
    assert not found.used[when == 2022.31].any()
    assert found.used[when == 2006.4].all()
    assert pull_width(found.motion, motion, found.motion_covariance) == pytest.approx(1.0, abs=0.2)


def test_positions_of_one_epoch_alone_are_refused():
    star, when, place, covariance, _ = observe(np.array([2022.30, 2022.31]), n=20)
    with pytest.raises(MotionError, match="no star has positions at two epochs"):
        fit_slopes(star, when, place, covariance, 2022.3)
    more = np.append(star, 3), np.append(when, 2006.0), np.vstack([place, place[6]]), np.concatenate([covariance, covariance[:1]])
    found = fit_slopes(*more, 2022.3)
    assert np.isfinite(found.motion[3]).all()
    assert np.isnan(found.motion[[0, 1, 2, 4]]).all()


def test_parallax_factors_are_those_of_astropy():
    star = SkyCoord(269.4, -40.0, distance=1.0, unit=("deg", "deg", "pc"))
    times = np.linspace(2016.0, 2017.0, 13)
    factors = parallax_factors(np.full(13, 269.4), np.full(13, -40.0), times)
    earth = get_body_barycentric("earth", Time(times, format="jyear", scale="tcb"))
    seen = SkyCoord(star.cartesian - earth)
    east = (seen.ra - star.ra).to_value("arcsec") * np.cos(star.dec.rad)
    assert factors[:, 0] == pytest.approx(east, abs=1e-4)
    assert factors[:, 1] == pytest.approx((seen.dec - star.dec).to_value("arcsec"), abs=1e-4)
    near, far = parallax_factors(80.0, -69.0, 2016.2), parallax_factors(80.0, -69.0, 2016.2, "l2")
    assert far == pytest.approx(1.01 * near, rel=0.02)


def test_parallaxes_are_recovered_where_the_year_is_covered():
    times = np.concatenate([[2016.05, 2016.30, 2016.55, 2016.80] * 2, [2018.05, 2018.30, 2018.55, 2018.80]])
    times = np.sort(times + np.linspace(0, 0.01, len(times)))
    parallax = np.random.default_rng(3).uniform(0.0, 10.0, 400)
    factors = np.tile(parallax_factors(np.full(len(times), 80.0), np.full(len(times), -69.0), times), (400, 1))
    star, when, place, covariance, motion = observe(times, parallax=parallax, factors=factors)
    found = fit_slopes(star, when, place, covariance, 2016.0, parallax_factors=factors, clip=5.0)
    pull = (found.value[:, 4] - parallax) / np.sqrt(found.covariance[:, 4, 4])
    assert np.std(pull) == pytest.approx(1.0, abs=0.12)
    assert abs(np.mean(pull)) < 0.2
    assert pull_width(found.motion, motion, found.motion_covariance) == pytest.approx(1.0, abs=0.07)


def test_two_lists_of_other_scale_and_orientation_give_motions():
    field = make_field(n=800, seed=8)
    years, error = 15.94, 0.4
    rng = np.random.default_rng(9)
    first = 1000 * field.position + rng.normal(0, error, field.position.shape)
    truth = field.true * years
    turned = np.array([[0.02, 0.005], [-0.006, 0.019]])  # 50 mas pixels, turned and skewed
    second = (1000 * field.position + truth) @ turned.T + (512.0, -40.0) + rng.normal(0, 0.01, truth.shape)
    flat = as_covariance(np.full((800, 2), error)), as_covariance(np.full((800, 2), 0.01))
    moved, spread = displacements(first, second, flat, field.member)
    found = relative_motions(field.position, moved / years, spread / years**2, field.member)
    assert pull_width(found.motion, field.true, found.covariance) == pytest.approx(1.0, abs=0.06)
    with pytest.raises(MotionError, match="six parameters need"):
        displacements(first, second, flat, np.arange(800) < 4)


def test_catalogues_are_matched_and_give_motions_on_the_sky():
    field = make_field(n=500, seed=10)
    dec, ra = -69.5 + field.position[:, 1] / 3600, 80.5 + field.position[:, 0] / 3600 / np.cos(np.radians(-69.5))
    later = Table({"ra": ra + field.true[:, 0] * 16 / 3.6e6 / np.cos(np.radians(dec)), "dec": dec + field.true[:, 1] * 16 / 3.6e6})
    first = Table({"ra": ra, "dec": dec})
    for table, epoch in ((first, 2006.0), (later, 2022.0)):
        table["ra_error"], table["dec_error"], table["ref_epoch"] = 0.3, 0.4, epoch
    a, b = sky_positions(first), sky_positions(later)
    plane = [np.column_stack([(s.ra - 80.5) * np.cos(np.radians(-69.5)), s.dec + 69.5]) * 3600 for s in (a, b)]
    i, j = match_positions(*plane, radius=0.12)
    assert len(i) > 450
    assert np.mean(i == j) > 0.99
    same = i == j
    motion, covariance, years = motions_between(a, b, (i, j))
    assert motion[same] == pytest.approx(field.true[i[same]], abs=1e-4)
    assert np.sqrt(covariance[0, 0, 0]) == pytest.approx(0.3 * np.sqrt(2) / 16)
    with pytest.raises(MotionError, match="no motions in one epoch"):
        motions_between(a, a, (i, i))
    with pytest.raises(MotionError, match="no column ref_epoch"):
        sky_positions(Table({"ra": [1.0], "dec": [1.0], "ra_error": [1.0], "dec_error": [1.0]}))


def test_the_zero_point_is_right_within_its_error():
    pulls = []
    for seed in range(60):
        field = make_field(n=120, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        error = rng.uniform(0.05, 0.3, (120, 2))
        other = field.true + (1.9, 0.3) + error * rng.normal(size=(120, 2))
        other[::9] += 3.0  # a wrong partner now and then
        other[1] = np.nan
        found = zero_point_from_motions(field.motion, field.covariance, other, as_covariance(error))
        pulls.append((found.motion - (1.9, 0.3)) / found.error)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)
    assert abs(np.mean(pulls)) < 0.3
    with pytest.raises(MotionError, match="has the reference motions at all"):
        zero_point_from_motions(field.motion, field.covariance, np.full((120, 2), np.nan), as_covariance(error))


def test_galaxies_give_the_zero_point():
    rng = np.random.default_rng(4)
    error = np.full((30, 2), 0.1)
    relative = -np.array([1.9, 0.3]) + rng.normal(0, 0.1, (30, 2))
    found = zero_point_from_galaxies(relative, as_covariance(error), np.ones(30, bool))
    assert np.abs((found.motion - (1.9, 0.3)) / found.error).max() < 3
    absolute, covariance = found.apply(relative, as_covariance(error))
    assert np.abs(absolute.mean(axis=0)).max() < 0.01
    assert covariance[0, 0, 0] > 0.01


def test_a_small_scale_pattern_is_seen_corrected_and_reported_as_a_floor():
    field = make_field(n=3000, share=1.0, seed=12)
    wave = 0.05 * np.column_stack([np.sin(field.position[:, 0] / 8), np.cos(field.position[:, 1] / 8)])
    true, everyone = field.true, np.ones(3000, bool)
    measured = field.motion + wave
    before = motion_map(field.position, measured, field.covariance, everyone)
    assert before.meta["chi2"] > 3 * before.meta["degrees"]
    floor = error_floor(field.position, measured, field.covariance, everyone)
    assert floor.common == pytest.approx(0.05 / np.sqrt(2), abs=3 * floor.common_error + 0.003)
    found = local_correction(field.position, measured, field.covariance, everyone, neighbors=40)
    after = motion_map(field.position, found.motion, found.covariance, everyone)
    assert after.meta["chi2"] < 1.5 * after.meta["degrees"]
    assert np.std(found.motion - true) < 0.5 * np.std(measured - true) or np.std(found.correction - wave) < 0.02
    clean = error_floor(field.position, field.motion, field.covariance, everyone)
    assert abs(clean.common) < 0.01
    assert clean.single == pytest.approx(0.03, abs=0.003)


def test_a_trend_with_magnitude_is_taken_out():
    field = make_field(n=3000, share=1.0, seed=13)
    trend = np.column_stack([0.02 * (field.mag - 23), np.zeros(3000)])
    found = local_correction(field.mag, field.motion + trend, field.covariance, np.ones(3000, bool), neighbors=200)
    bright = field.mag < 22
    # The ends lean on one side: the few brightest stars keep a little.
    assert abs(np.median((found.motion - field.true)[bright, 0])) < 0.004
    with pytest.raises(MotionError, match="a correction needs"):
        local_correction(field.mag, field.motion, field.covariance, np.zeros(3000, bool))


def old_exposures(seed, n=80, k=3):
    """Stars with priors, and older exposures that are shifted, turned and skewed by unknown amounts."""
    rng = np.random.default_rng(seed)
    plane = rng.uniform(-60, 60, (n, 2))
    sigma = np.array([0.3, 0.3, 0.4, 0.4, 0.3]) * rng.uniform(0.5, 2.0, n)[:, None]
    true = np.column_stack([rng.normal(0, 0.3, (n, 2)), rng.normal(0, 3, (n, 2)), rng.uniform(0, 2, n)])
    prior = true + sigma * rng.normal(size=(n, 5))
    star, exposure = np.tile(np.arange(n), k), np.repeat(np.arange(k), n)
    years = np.full(n * k, -10.0)
    factors = np.tile(parallax_factors(np.array([80.0]), np.array([-69.0]), np.array([2006.0])), (n * k, 1))
    terms = rng.normal(0, 1.0, (k, 6)) * [5, 5, 0.1, 0.1, 0.1, 0.1]
    linear = terms[exposure, :2] + np.einsum("mij,mj->mi", terms[exposure, 2:].reshape(-1, 2, 2), plane[star])
    place = true[star, :2] + years[:, None] * true[star, 2:4] + true[star, 4:5] * factors + linear
    place = place + rng.normal(0, 0.5, place.shape)
    place[5] += 40.0  # a wrong match
    covariance = as_covariance(np.full((n * k, 2), 0.5))
    given = (prior, np.einsum("ni,ij->nij", sigma**2, np.eye(5)), plane, star, exposure, years, place, covariance, factors)
    return given, true, terms


def test_priors_and_new_positions_together_are_better_than_either_and_honest():
    # The transforms' errors are common to all stars of a field: honest errors show over many fields.
    pulls, chi2 = [], []
    for seed in range(40):
        given, true, terms = old_exposures(seed)
        found = combine_with_priors(*given)
        error = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
        pulls.append((found.value - true) / error)
        chi2.append(found.chi2 / found.degrees)
        assert not found.used[5]
        assert found.used.mean() > 0.98
        scale = np.sqrt(np.diag(found.transform_covariance)).reshape(-1, 6)
        assert np.abs((found.transforms - terms) / scale)[:, 2:].max() < 5
    assert np.std(np.array(pulls)[:, :, 2:4]) == pytest.approx(1.0, abs=0.1)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.1)
    assert np.mean(chi2) == pytest.approx(1.0, abs=0.05)
    assert np.median(error[:, 2]) < 0.3 * np.median(np.sqrt(given[1][:, 2, 2]))


def test_an_exposure_of_one_star_cannot_be_tied():
    (prior, tight, plane, star, exposure, years, place, covariance, _), _, _ = old_exposures(1)
    one = [np.append(star, 0), np.append(exposure, 3), np.append(years, -10.0), np.vstack([place, place[:1]])]
    with pytest.raises(MotionError, match="exposure 3 has 1 usable"):
        combine_with_priors(prior, tight, plane, *one, np.concatenate([covariance, covariance[:1]]))


def test_two_catalogues_together_have_honest_errors_with_and_without_motions_of_the_first():
    rng = np.random.default_rng(16)
    n, years = 3000, -16.0
    true = np.column_stack([rng.normal(0, 1, (n, 2)), rng.normal(0, 3, (n, 2))])
    then = np.column_stack([true[:, :2] + years * true[:, 2:], true[:, 2:]])
    error, old = np.array([0.2, 0.3, 0.05, 0.05]), np.array([0.5, 0.4, 0.2, 0.3])
    mix = np.array([[1, 0.3, 0.2, 0], [0.3, 1, 0, 0.2], [0.2, 0, 1, 0.1], [0, 0.2, 0.1, 1]])
    covariance, prior_covariance = mix * np.outer(error, error), np.diag(old**2)
    state = true + rng.normal(size=(n, 4)) @ np.linalg.cholesky(covariance).T
    state[::2, 2:] = np.nan  # of one epoch: the position alone counts
    prior = then + rng.normal(size=(n, 4)) * old
    tiled = [np.tile(values, (n, 1, 1)) for values in (covariance, prior_covariance)]
    value, spread = combine_states(state, tiled[0], prior, tiled[1], np.full(n, years))
    pull = (value - true) / np.sqrt(np.diagonal(spread, axis1=1, axis2=2))
    for part in (pull[::2], pull[1::2]):
        assert np.std(part, axis=0) == pytest.approx(np.ones(4), abs=0.06)
    # A position at either end says sqrt(0.5^2 + 0.2^2) / 16 of a motion, the prior's own a little more.
    assert spread[1, 2, 2] < spread[0, 2, 2] < (0.25 + 0.04) / 16**2
    state[5, 0] = np.nan
    assert np.isnan(combine_states(state, tiled[0], prior, tiled[1], np.full(n, years))[0][5]).all()
