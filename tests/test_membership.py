"""Membership and internal kinematics against made-up clusters, and against Gaia's M92."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from motion_catalogs import make_field

from dpm.science.motions import (
    MotionError,
    as_covariance,
    bulk_motion,
    dispersion_profile,
    find_overdensity,
    fit_mixture,
    intrinsic_dispersion,
    kinematic_histogram,
    membership_circles,
    principal_direction,
    radial_and_tangential,
)

REALISATIONS = 200


def test_the_dispersion_is_unbiased_over_many_catalogues():
    """Bias below 0.2 of the error of one catalogue, errors that are the scatter."""
    found = []
    for seed in range(REALISATIONS):
        field = make_field(n=150, share=1.0, seed=seed)
        result = intrinsic_dispersion(field.motion, field.covariance)
        found.append((result.sigma - 0.03, result.error))
    off, error = np.array(found).T
    assert abs(off.mean()) < 0.2 * np.median(error)
    assert np.std(off) / np.median(error) == pytest.approx(1.0, abs=0.15)


def test_no_dispersion_gives_an_upper_limit():
    zero = 0
    for seed in range(20):
        field = make_field(n=100, share=1.0, seed=seed, dispersion=0.0)
        result = intrinsic_dispersion(field.motion, field.covariance)
        zero += result.sigma == 0.0
        assert result.interval[1] < 0.03
    assert 4 <= zero <= 17


def test_the_mixture_recovers_cluster_field_and_errors():
    pulls, sigmas = [], []
    for seed in range(20):
        field = make_field(n=500, share=0.4, seed=100 + seed, bulk=(1.9, 0.3))
        found = fit_mixture(field.motion, field.covariance)
        pulls.append([*((found.mean - (1.9, 0.3)) / found.mean_error), (found.fraction - 0.4) / found.fraction_error])
        sigmas.append((found.sigma - 0.03) / found.sigma_error)
        assert found.evidence > 100
    assert np.std(pulls) == pytest.approx(1.0, abs=0.2)
    assert abs(np.mean(sigmas)) < 0.45
    assert found.field_means[0] == pytest.approx((-0.1, 1.1), abs=0.4)
    assert np.sqrt(np.diag(found.field_covariances[0])) == pytest.approx((1.5, 1.0), abs=0.25)


def test_probabilities_are_the_shares_that_they_say():
    field = make_field(n=6000, share=0.3, seed=21)
    found = fit_mixture(field.motion, field.covariance)
    probability = found.probability(field.motion, field.covariance)
    for low, high in ((0.05, 0.4), (0.4, 0.8), (0.8, 0.95)):
        mine = (probability >= low) & (probability < high)
        assert field.member[mine].mean() == pytest.approx(probability[mine].mean(), abs=0.12)
    assert field.member[probability > 0.95].mean() > 0.97


def test_positions_sharpen_the_mixture():
    rng = np.random.default_rng(5)
    field = make_field(n=3000, share=0.3, seed=22)
    scale = 12.0
    plummer = scale / np.sqrt(rng.random(3000) ** -1 - 1)
    radius = np.where(field.member, plummer, np.hypot(*field.position.T))
    inside = radius < 50
    motion, covariance, radius, member = field.motion[inside], field.covariance[inside], radius[inside], field.member[inside]
    found = fit_mixture(motion, covariance, radius)
    # Of a field of even density: its profile is proportional to the radius, as uniform positions in a disc are.
    assert found.scale == pytest.approx(scale, rel=0.2)
    with_place = found.probability(motion, covariance, radius)
    without = fit_mixture(motion, covariance).probability(motion, covariance)
    assert np.mean((with_place - member) ** 2) < np.mean((without - member) ** 2)
    with pytest.raises(MotionError, match="radii"):
        found.probability(motion, covariance)


def test_one_population_is_not_taken_for_two():
    for seed in range(5):
        field = make_field(n=400, share=0.0, seed=seed)
        assert fit_mixture(field.motion, field.covariance).evidence < 10


def test_too_few_stars_are_refused():
    field = make_field(n=20)
    with pytest.raises(MotionError, match="needs 30 or more"):
        fit_mixture(field.motion, field.covariance)
    with pytest.raises(MotionError, match="three or more"):
        intrinsic_dispersion(field.motion[:2], field.covariance[:2])


def test_circles_keep_the_share_that_they_promise():
    field = make_field(n=6000, share=0.5, seed=23, bulk=(1.9, 0.3))
    circles = membership_circles(field.motion, field.covariance, field.mag, 0.03, (1.9, 0.3), sigmas=2.45)
    inside = circles(field.motion, field.mag)
    assert inside[field.member].mean() == pytest.approx(0.95, abs=0.02)
    assert (np.diff(circles.radius) > 0).all()
    for low in (20, 22, 24):
        mine = field.member & (field.mag >= low) & (field.mag < low + 2)
        assert inside[mine].mean() == pytest.approx(0.95, abs=0.03)


def test_bulk_motion_survives_the_field():
    field = make_field(n=2000, share=0.8, seed=24, bulk=(1.873, 0.321))
    bright = field.mag < 23
    found = bulk_motion(field.motion[bright])
    assert np.abs((found.motion - (1.873, 0.321)) / found.error).max() < 4
    assert found.error.max() < 0.006


def test_radial_and_tangential_dispersions_of_an_anisotropic_rotating_cluster():
    rng = np.random.default_rng(6)
    n = 4000
    position = rng.normal(0, 20, (n, 2))
    outward = position / np.hypot(*position.T)[:, None]
    across = np.column_stack([-outward[:, 1], outward[:, 0]])
    motion = outward * rng.normal(0, 0.05, (n, 1)) + across * (0.02 + rng.normal(0, 0.03, (n, 1)))
    error = np.column_stack([np.full(n, 0.02), np.full(n, 0.04)])
    motion += error * rng.normal(size=(n, 2))
    covariance = as_covariance(error)
    radial, radial2, tangential, tangential2 = radial_and_tangential(position, motion, covariance)
    out, turn = intrinsic_dispersion(radial, radial2), intrinsic_dispersion(tangential, tangential2)
    assert abs(out.sigma - 0.05) < 4 * out.error
    assert abs(turn.sigma - 0.03) < 4 * turn.error
    assert abs(turn.mean[0] - 0.02) < 4 * turn.mean_error[0]
    profile = dispersion_profile(position, motion, covariance, stars_per_bin=1000)
    assert len(profile) == 4
    assert np.abs((profile["sigma_radial"] - 0.05) / profile["sigma_radial_error"]).max() < 4
    assert np.abs((profile["sigma_tangential"] - 0.03) / profile["sigma_tangential_error"]).max() < 4


def three_groups(seed, n=1500):
    """Three groups along a line of the diagram, as in paper 2, figure 23."""
    rng = np.random.default_rng(seed)
    group = rng.choice(3, n, p=[0.15, 0.25, 0.6])
    along = np.array([-0.3, 0.0, 0.25])[group] + rng.normal(size=n) * np.array([0.04, 0.026, 0.08])[group]
    unit = np.array([np.cos(0.4), np.sin(0.4)])
    motion = (1.8, 0.3) + along[:, None] * unit + rng.normal(0, 0.05, (n, 1)) * (-unit[1], unit[0])
    covariance = as_covariance(np.full((n, 2), 0.012))
    return group, unit, motion + rng.normal(0, 0.012, (n, 2)), covariance


def test_three_gaussians_along_a_direction_have_the_right_fractions():
    group, unit, motion, covariance = three_groups(1)
    found = kinematic_histogram(motion, covariance, 3, (1.8, 0.3), unit)
    true = np.bincount(group) / len(group)
    assert np.abs((found.fraction - [0.15, 0.25, 0.6]) / found.fraction_error).max() < 4
    assert found.fraction == pytest.approx(true, abs=0.06)
    assert found.mean == pytest.approx((-0.3, 0.0, 0.25), abs=0.03)
    assert found.sigma[1] == pytest.approx(0.026, abs=0.008)
    assert found.count.sum() == pytest.approx(1500, rel=0.01)
    _, direction = principal_direction(motion)
    assert abs(direction @ unit) > 0.98
    with pytest.raises(MotionError, match="too few for 3 Gaussians"):
        kinematic_histogram(motion[:15], covariance[:15], 3, (1.8, 0.3), unit)


def test_a_group_is_found_on_the_sky_and_chance_is_not():
    rng = np.random.default_rng(2)
    position = rng.uniform(-60, 60, (1500, 2))
    group = rng.random(1500) < 0.1
    clump = rng.normal((30, -35), 8, (40, 2))
    everyone, theirs = np.vstack([position, clump]), np.append(group, np.ones(40, bool))
    found = find_overdensity(everyone, theirs, 15.0, shuffles=200)
    assert np.hypot(*(found.center - (30, -35))) < 5
    assert found.false_alarm < 0.01
    assert found.n_group > 2 * found.expected
    assert find_overdensity(position, group, 15.0, shuffles=200).false_alarm > 0.02
    with pytest.raises(MotionError, match="five of each"):
        find_overdensity(position, np.arange(1500) < 2, 15.0)


def test_members_of_m92_are_those_of_its_catalogue(shared_data):
    """Gaia EDR3 of Vasiliev & Baumgardt (2021): their probabilities, and their bulk motion of -4.935, -0.625 mas/yr."""
    path = shared_data / "real" / "gaia_m92" / "NGC_6341_M_92.txt"
    table = Table.read(path, format="ascii.commented_header", delimiter="\t")
    # Their flag of clean astrometry; the rest has errors that are too small.
    table = table[table["qflag"] >= 2]
    motion = np.column_stack([table["pmra"], table["pmdec"]])
    covariance = as_covariance(np.column_stack([table["pmrae"], table["pmdece"]]), table["pmcorr"])
    radius, theirs = np.hypot(table["x"], table["y"]), np.array(table["memberprob"])
    found = fit_mixture(motion, covariance, radius)
    ours = found.probability(motion, covariance, radius)
    assert np.mean((ours > 0.5) != (theirs > 0.5)) < 0.01
    assert ours.sum() == pytest.approx(theirs.sum(), rel=0.02)
    # Errors of Gaia's own that all stars share: 0.026 mas/yr (Vasiliev & Baumgardt 2021).
    assert np.abs((found.mean - (-4.935, -0.625)) / np.hypot(found.mean_error, 0.026)).max() < 1
    assert np.abs((found.mean - (-4.935, -0.625)) / found.mean_error).max() < 3
