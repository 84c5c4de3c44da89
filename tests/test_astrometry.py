"""Positions and motions from the positions at several epochs: right values, honest errors, correlations, and the zero point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from frame_fixture import Field, dithers
from test_frame import EPOCH, run, with_reference

from dpm.io.tables import read_table
from dpm.models.master_frame import MasterFrame
from dpm.models.options import InputOptions
from dpm.models.statistics import robust_width
from dpm.stages.frame.astrometry import EpochPositions, positions_at, solve_astrometry
from dpm.stages.frame.hidden import hidden_shifts

TIMES = (2006.4, 2015.0, 2022.3)


def observe(n, times, seed, shared=None, sigma=0.01):
    """Epochs of n stars with turned error ellipses; ``shared`` (n, 2) is an error that all epochs have."""
    rng = np.random.default_rng(seed)
    place, motion = rng.uniform(0, 1000, (n, 2)), rng.normal(0, 0.05, (n, 2))
    epochs = []
    for k, time in enumerate(times):
        angle = rng.uniform(0, np.pi, n)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
        root = turn * (sigma * np.array([1.0, 0.4]) * (1 + 0.5 * k))
        late = time + rng.uniform(-0.02, 0.02, n)
        error = (root @ rng.normal(size=(n, 2, 1)))[:, :, 0]
        position = place + motion * (late - TIMES[-1])[:, None] + error + (0.0 if shared is None else shared)
        epochs.append(EpochPositions(late, position, root @ root.transpose(0, 2, 1), None))
    return place, motion, epochs


@pytest.mark.parametrize("times", [TIMES[::2], TIMES])
def test_values_and_covariances_are_those_of_the_truth(times):
    place, motion, epochs = observe(4000, times, 1)
    solution = solve_astrometry(epochs, TIMES[-1])
    assert solution.solved.all()
    off = solution.value - np.column_stack([place, motion])
    # Chi-square of four degrees of freedom with the full covariance: correlations are right too.
    chi2 = np.einsum("ni,nij,nj->n", off, np.linalg.inv(solution.covariance), off)
    # The growth of errors where three epochs disagree makes them some per cent too large on average.
    assert np.mean(chi2) == pytest.approx(4.0, abs=0.15 if len(times) == 2 else 0.4)
    pull = off / np.sqrt(np.diagonal(solution.covariance, axis1=1, axis2=2))
    assert np.all(np.abs(robust_width(pull[:, 2:].ravel()) - 1) < 0.05)
    correlation = np.mean(pull[:, 0] * pull[:, 2])
    stated = np.mean(solution.covariance[:, 0, 2] / np.sqrt(solution.covariance[:, 0, 0] * solution.covariance[:, 2, 2]))
    assert stated > 0.3 and correlation == pytest.approx(stated, abs=0.07)


def test_two_epochs_at_the_reference_epoch_are_the_latest_position():
    _, _, epochs = observe(50, TIMES[::2], 2)
    latest = replace(epochs[1], time=np.full(50, TIMES[-1]))
    solution = solve_astrometry([epochs[0], latest], TIMES[-1])
    np.testing.assert_allclose(solution.value[:, :2], latest.position, atol=1e-9)
    np.testing.assert_allclose(solution.covariance[:, :2, :2], latest.covariance, rtol=1e-6)


def test_stars_of_one_epoch_have_no_motion_and_older_stars_are_brought_forward():
    place, motion, epochs = observe(300, TIMES, 3)
    lost = epochs[2].position.copy()
    lost[:100] = np.nan
    middle = epochs[1].position.copy()
    middle[:50] = np.nan
    solution = solve_astrometry([epochs[0], replace(epochs[1], position=middle), replace(epochs[2], position=lost)], TIMES[-1])
    assert not solution.solved[:50].any() and np.isnan(solution.value[:50]).all() and solution.solved[50:].all()
    off = solution.value[50:100, :2] - place[50:100]
    error = np.sqrt(np.diagonal(solution.covariance, axis1=1, axis2=2))[50:100, :2]
    assert 0.8 < robust_width((off / error).ravel()) < 1.2 and np.median(error) > 0.012


def test_an_error_of_the_map_that_all_epochs_share_does_not_reach_the_motions():
    """One camera at both epochs: its map moves a star alike; of two cameras the errors add up."""
    rng = np.random.default_rng(4)
    n, size = 3000, 0.05
    draws = size * rng.normal(size=(40, 2, n))
    shared = size * rng.normal(size=(n, 2))
    place, motion, epochs = observe(n, TIMES[::2], 5, shared)
    same = solve_astrometry([replace(epoch, moved=draws) for epoch in epochs], TIMES[-1])
    error = np.sqrt(np.diagonal(same.covariance, axis1=1, axis2=2))
    off = same.value - np.column_stack([place, motion])
    assert np.median(error[:, 0]) > 0.9 * size and np.median(error[:, 2]) < 0.1 * size
    assert 0.92 < robust_width((off[:, 2:] / error[:, 2:]).ravel()) < 1.08
    apart = [replace(epoch, moved=size * rng.normal(size=(40, 2, n))) for epoch in epochs]
    years = TIMES[-1] - TIMES[0]
    wide = np.sqrt(np.median(solve_astrometry(apart, TIMES[-1]).covariance[:, 2, 2]))
    assert wide == pytest.approx(np.sqrt(2) * size / years, rel=0.1)


def test_epochs_that_disagree_have_larger_errors():
    place, _, epochs = observe(200, TIMES, 6)
    jumped = epochs[1].position.copy()
    jumped[:100] += 0.5
    solution = solve_astrometry([epochs[0], replace(epochs[1], position=jumped), epochs[2]], TIMES[-1])
    error = np.sqrt(solution.covariance[:, 2, 2])
    assert np.median(error[:100]) > 5 * np.median(error[100:])


def test_a_neighbour_that_one_epoch_hides_widens_the_error_towards_it():
    """A sharp epoch shows a pair two pixels apart, of three to one; the other epoch one star between them."""
    nan = np.nan
    sharp = np.array([[100.0, 50.0], [102.0, 50.0], [200.0, 80.0], [203.0, 80.0], [300.0, 50.0], [nan, nan]])
    coarse = np.array([[100.5, 50.0], [nan, nan], [200.0, 80.0], [nan, nan], [nan, nan], [301.0, 50.0]])
    flux = np.array([[300.0], [100.0], [500.0], [10.0], [100.0], [100.0]])
    shifts = hidden_shifts([sharp, coarse], [flux, flux], [2.5, 4.0])
    assert not shifts[0].any(), "nothing is hidden where both are seen"
    assert shifts[1][0, 0, 0] == pytest.approx(0.5**2) and shifts[1][0, 1, 1] == 0
    assert shifts[1][2, 0, 0] == pytest.approx((3 * 10 / 510) ** 2)
    # A star that was not linked has a row at each epoch, and is in nobody's light.
    assert not shifts[1][4:].any() and not shifts[1][[1, 3]].any()
    third, faint = np.array([[299.0, 50.0]]), np.array([[1.0]])
    near = hidden_shifts([np.vstack([p, third]) for p in (sharp, coarse)], [np.vstack([flux, faint])] * 2, [2.5, 4.0])
    assert not near[1][6].any()
    blind = hidden_shifts([sharp, coarse], [np.full((6, 1), nan)] * 2, [2.5, 4.0])
    assert not blind[1].any()


def test_motions_turn_with_north_and_back():
    frame = MasterFrame(80.0, -85.0, 0.05, 1000.0, 1000.0, 2000, 2000)
    x, y = np.array([1000.0, 1000.0, 100.0, 1900.0]), np.array([1000.0, 1800.0, 200.0, 1900.0])
    catalog = {"x": x, "y": y, "pmra": np.array([5.0, -3.0, 4.0, np.nan]), "pmdec": np.array([1.0, 8.0, -6.0, np.nan])}
    late_x, late_y = positions_at(catalog, frame, 20.0)
    ra, dec = frame.pixel_to_sky(x, y)
    true_dec = dec + catalog["pmdec"] * 20 / 3.6e6
    true_ra = ra + catalog["pmra"] * 20 / 3.6e6 / np.cos(np.radians(dec))
    expected = np.column_stack(frame.sky_to_pixel(true_ra, true_dec))
    np.testing.assert_allclose(np.column_stack([late_x, late_y])[:3], expected[:3], atol=1e-4)
    assert late_x[3] == x[3] and late_y[3] == y[3], "a star without a motion stays"
    # The convergence of the meridians.
    angle = np.degrees(np.arctan2(frame.sky_steps(x, y)[:, 1, 0], -frame.sky_steps(x, y)[:, 0, 0]))
    np.testing.assert_allclose(angle, (ra - 80.0) * np.sin(np.radians(frame.dec0)), atol=2e-4)


@pytest.fixture(scope="module")
def epochs_apart(tmp_path_factory):
    """Four dithers of one filter at 2010.5 and four twelve years later; motions of 3 mas/yr, stars far apart."""
    root = tmp_path_factory.mktemp("epochs")
    shots = [replace(shot, epoch=2010.5) for shot in dithers(4)] + dithers(4)
    field = Field(shots=shots, motion=3.0, n_stars=400, seed=3)
    return field, field.write(root / "run")[0], root


def compare_motions(field, catalog):
    """True stars, motions minus truth over their errors, and motions minus truth (mas/yr), of rows with two epochs."""
    i, j, _, _ = field.compare(catalog, EPOCH)
    both = np.isfinite(np.array(catalog["pmra"])[i])
    i, j = i[both], j[both]
    assert len(i) > 100
    off = np.column_stack([np.array(catalog["pmra"])[i] - field.pm[0][j], np.array(catalog["pmdec"])[i] - field.pm[1][j]])
    return i, off, off / np.column_stack([catalog["pmra_error"][i], catalog["pmdec_error"][i]])


def test_motions_of_the_catalogue_are_absolute_with_a_reference(epochs_apart):
    field, folder, root = epochs_apart
    catalog, _, _ = run(folder, input=with_reference(field, root))
    i, off, pull = compare_motions(field, catalog)
    assert np.median(np.abs(off)) < 0.1 and np.all(np.abs(np.median(off, axis=0)) < 0.02)
    # What so few reference stars say of the distortion that is left can only add to the errors.
    assert 0.78 < robust_width(pull.ravel(), 0.0) < 1.15 and np.mean(np.abs(pull) > 4) < 0.01
    assert catalog.meta["pm_zero_point"].startswith("absolute") and catalog.meta["pm_reference_stars"] > 30
    error = catalog.meta["pm_zero_point_error"]
    assert all(0.001 < value < 0.02 for value in error)
    assert all(abs(value) < 5 * 0.02 for value in catalog.meta["pm_minus_reference"])
    single = catalog[catalog["n_epochs"] == 1]
    assert np.isnan(single["pmra"]).all() and np.isnan(single["ra_pmra_corr"]).all()
    assert np.all(np.abs(np.array(catalog["ra_pmra_corr"])[i]) <= 1) and np.median(np.array(catalog["ra_pmra_corr"])[i]) > 0.4
    assert str(catalog["pmra"].unit) == "mas / yr" and read_table(folder.frame_catalog)["pmra_error"].dtype == np.float32


def test_motions_without_a_reference_are_relative(epochs_apart):
    field, folder, _ = epochs_apart
    catalog, _, _ = run(folder, input=InputOptions())
    assert catalog.meta["pm_zero_point"].startswith("relative") and "pm_zero_point_error" not in catalog.meta
    pmra, pmdec = (np.array(catalog[name])[np.isfinite(catalog[name])] for name in ("pmra", "pmdec"))
    # The mean over the stars that tie the epochs, whose motions scatter by 3 mas/yr.
    assert len(pmra) > 100 and abs(np.median(pmra)) < 1.0 and abs(np.median(pmdec)) < 1.0


def test_one_epoch_has_no_columns_of_motions(tmp_path):
    field = Field(shots=dithers(4), n_stars=200)
    folder, _ = field.write(tmp_path / "run")
    catalog, _, _ = run(folder)
    assert not [name for name in catalog.colnames if name.startswith("pm")]
