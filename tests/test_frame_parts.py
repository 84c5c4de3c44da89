"""Parts of the frame stage: averages, zero points, registration; the real and simulated data shared by projects."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from dpm.models.options import PhotometryOptions
from dpm.models.statistics import robust_width
from dpm.models.transform import LinearTransform
from dpm.stages.frame.average import mean_positions, mean_values
from dpm.stages.frame.photometry import magnitude_system
from dpm.stages.frame.register import Points, header_transform, register
from dpm.stages.frame.units import Unit, epoch_groups
from dpm.stages.frame.zero_points import solve_zero_points


def measurements(n_stars=400, n_units=6, floors=None, seed=0):
    """Star, unit, formal error and noise of a table of measurements with a floor a unit."""
    rng = np.random.default_rng(seed)
    star, unit = (axis.ravel() for axis in np.meshgrid(np.arange(n_stars), np.arange(n_units), indexing="ij"))
    formal = (10 ** rng.uniform(-3, -1, n_stars))[star]
    floors = np.linspace(0.0, 0.05, n_units) if floors is None else np.asarray(floors)
    return star, unit, formal, floors, rng


@pytest.mark.parametrize("n_units", [2, 3, 8])
def test_floors_are_found_and_errors_of_means_hold(n_units):
    star, unit, formal, floors, rng = measurements(n_units=n_units, floors=np.linspace(0.01, 0.04, n_units))
    total = np.hypot(formal, floors[unit])
    x, y = rng.normal(0, total), rng.normal(0, total)
    no, yes = np.zeros(len(x), dtype=bool), np.ones(len(x), dtype=bool)
    pool = np.zeros(n_units, dtype=np.int64)
    mean = mean_positions(star, unit, x, y, (formal**2, 0 * formal, formal**2), no, yes, 400, n_units, pool, 3.5)
    if n_units > 2:
        np.testing.assert_allclose(mean.floor, floors, atol=0.008)
    pull = np.concatenate([mean.x / np.sqrt(mean.xx), mean.y / np.sqrt(mean.yy)])
    assert 0.88 < robust_width(pull) < 1.08
    assert np.mean(mean.used) > 0.98


def test_correlated_errors_are_averaged_with_their_covariance():
    rng = np.random.default_rng(1)
    n = 3000
    star, unit = np.repeat(np.arange(n), 2), np.tile([0, 1], n)
    noise = np.where(unit == 0, 0.1, 0.01), np.where(unit == 0, 0.01, 0.1)
    x, y = rng.normal(0, noise[0]), rng.normal(0, noise[1])
    turn = np.sqrt(0.5) * np.array([[1, -1], [1, 1]])
    a, b = turn @ np.array([x, y])
    covariance = np.einsum("ij,jn,kj->nik", turn, np.array([noise[0] ** 2, noise[1] ** 2]), turn)
    parts = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    no = np.zeros(2 * n, dtype=bool)
    mean = mean_positions(star, unit, a, b, parts, no, no, n, 2, np.zeros(2, dtype=np.int64), 3.5, 1e-6)
    # Each unit knows one direction: together they know both.
    assert robust_width(mean.x) < 0.012 and robust_width(mean.x / np.sqrt(mean.xx)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("options", "ab", "vega", "expected"),
    [
        (PhotometryOptions(), (25.5, 25.4), (np.nan, np.nan), (25.4, "AB")),
        (PhotometryOptions(), (25.5, 25.4), (24.5, 24.4), (25.4, "AB")),
        (PhotometryOptions(), (np.nan, 25.4), (24.5, 24.4), (24.4, "Vega")),
        (PhotometryOptions(), (np.nan, 25.4), (24.5, np.nan), (0.0, "instrumental")),
        (PhotometryOptions(system="ab"), (np.nan, 25.4), (24.5, 24.4), (25.4, "AB")),
        (PhotometryOptions(system="vega"), (25.5, 25.4), (24.5, 24.4), (24.4, "Vega")),
        (PhotometryOptions(system="vega"), (25.5, 25.4), (24.5, np.nan), (0.0, "instrumental")),
        (PhotometryOptions(system="instrumental"), (25.5, 25.4), (24.5, 24.4), (0.0, "instrumental")),
        (PhotometryOptions({"acswfc_f814w": 30.0}), (25.5, 25.4), (24.5, 24.4), (30.0, "configured")),
        (PhotometryOptions({"acswfc_f814w.WFC1": 31.0}, "vega"), (25.5, 25.4), (24.5, 24.4), (24.4, "Vega")),
        (PhotometryOptions({"acswfc_f814w.WFC2": 31.0}, "vega"), (25.5, 25.4), (24.5, 24.4), (31.0, "Vega")),
    ],
)
def test_magnitudes_are_on_the_system_that_every_header_knows(options, ab, vega, expected):
    rows = Table({"zero_point_ab": ab, "zero_point_vega": vega})
    unit = SimpleNamespace(band="acswfc_f814w", detector="WFC2")
    assert magnitude_system(unit, rows, 1, options) == expected


def test_one_wild_measurement_is_clipped_but_not_one_of_two():
    star, unit = np.repeat([0, 1], [6, 2]), np.array([0, 1, 2, 3, 4, 5, 0, 1])
    x = np.array([0.0, 0.01, -0.01, 0.005, 0.0, 1.0, 0.0, 1.0])
    formal = np.full(8, 0.01**2)
    no = np.zeros(8, dtype=bool)
    mean = mean_positions(
        star, unit, x, 0 * x, (formal, 0 * formal, formal), no, no, 2, 6, np.zeros(6, dtype=np.int64), 3.5
    )
    assert list(mean.n_used) == [5, 2] and not mean.used[5]
    assert abs(mean.x[0]) < 0.01
    assert np.sqrt(mean.xx[1]) > 0.1, "two that disagree have a large error"


def test_mean_fluxes_are_not_pulled_down_by_poisson_weights():
    rng = np.random.default_rng(2)
    n_stars, n_units, flux = 3000, 6, 100.0
    star, unit = (axis.ravel() for axis in np.meshgrid(np.arange(n_stars), np.arange(n_units), indexing="ij"))
    value = rng.poisson(flux, len(star)).astype(float)
    variance = value.copy()
    no = np.zeros(len(star), dtype=bool)
    mean = mean_values(
        star, unit, value, variance, np.ones(n_units), np.ones(n_units), no, no, n_stars, n_units,
        np.zeros(n_units, dtype=np.int64), 3.5, 1e-6,
    )  # fmt: skip
    assert np.mean(mean.mean) == pytest.approx(flux, abs=0.3)
    assert robust_width((mean.mean - flux) / mean.error) == pytest.approx(1.0, abs=0.1)


def test_a_variable_star_keeps_its_measurements():
    value = 100 + 20 * np.sin(np.arange(10))
    star, unit = np.zeros(10, dtype=np.int64), np.arange(10)
    no = np.zeros(10, dtype=bool)
    mean = mean_values(
        star, unit, value, np.ones(10), np.ones(10), np.zeros(10), no, no, 1, 10, np.zeros(10, dtype=np.int64), 3.5
    )
    assert mean.n_used[0] == 10 and mean.rms[0] > 10 and mean.error[0] > 2


def test_zero_points_chain_through_units_that_do_not_see_the_central_one():
    rng = np.random.default_rng(3)
    true = np.array([0.0, 0.1, -0.2, 0.3])
    star, unit, mag = [], [], []
    for k in range(4):
        seen = np.arange(40 * k, 40 * k + 80)
        star.append(seen)
        unit.append(np.full(80, k))
        mag.append(-8 + 0.01 * seen - true[k] + rng.normal(0, 0.01, 80))
    star, unit, mag = (np.concatenate(part) for part in (star, unit, mag))
    error = np.full(len(star), 0.01)
    mag[5] += 2.0
    found, found_error = solve_zero_points(star, unit, mag, error, 4, 0, np.full(4, np.nan))
    assert np.all(np.abs(found - true)[1:] < 3.5 * found_error[1:])
    assert found[0] == 0.0 and found_error[0] == 0.0 and np.all(found_error[1:] < 0.01)
    apart = unit != 1
    found, found_error = solve_zero_points(
        star[apart], unit[apart], mag[apart], error[apart], 4, 0, np.array([25.0, 25.0, 24.5, 24.5])
    )
    assert found[2] == pytest.approx(-0.5, abs=1e-6), "no common stars: the header's difference counts"
    assert found[3] - found[2] == pytest.approx(0.5, abs=0.01)


def points(n, seed, error=0.01):
    rng = np.random.default_rng(seed)
    return Points(*rng.uniform(0, 1000, (2, n)), np.full(n, error), rng.uniform(15, 22, n))


def test_registration_without_magnitudes_and_against_a_sparse_reference():
    target = points(800, 1)
    rng = np.random.default_rng(2)
    seen = rng.permutation(800)[:60]
    true = LinearTransform(1.0, 2e-4, -2e-4, 1.0, -14.0, 25.0)
    back = true.inverse()(target.x[seen], target.y[seen])
    stars = Points(*(axis + rng.normal(0, 0.01, 60) for axis in back), np.full(60, 0.01), target.mag[seen])
    blind = Points(target.x, target.y, target.error, np.full(800, np.nan))
    for reference in (target, blind):
        fit, n = register(stars, reference, 60.0, 1.5, 0.5, 3.5)
        assert n > 50
        np.testing.assert_allclose(fit.transform(500.0, 500.0), true(500.0, 500.0), atol=0.02)
    assert register(stars, points(800, 9), 60.0, 1.5, 0.5, 3.5) is None


def bare_unit(epoch=2020.0, start=None, transform=None, name="e"):
    nothing = np.zeros(0)
    return Unit(
        name, "NIRISS", "niriss_f090w", epoch, nothing, nothing, nothing, nothing, nothing, nothing,
        np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32), nothing, nothing, start or LinearTransform(),
        lambda u, v: (u, v), lambda column: nothing, 0.06, (0, 1, 0, 1), transform=transform,
    )  # fmt: skip


def test_pointing_errors_do_not_turn_the_field():
    rng = np.random.default_rng(4)
    units = []
    for k in range(9):
        x, y = rng.uniform(-50, 50, 2)
        jitter = rng.normal(0, 5, 2)
        units.append(
            bare_unit(start=LinearTransform(x_shift=x + jitter[0], y_shift=y + jitter[1]),
                      transform=LinearTransform(x_shift=x - 100, y_shift=y + 30), name=f"e{k}")
        )  # fmt: skip
    change = header_transform(units)
    assert change.b == pytest.approx(0, abs=1e-12) and change.scale == pytest.approx(1)
    assert change.x_shift == pytest.approx(100, abs=6) and change.y_shift == pytest.approx(-30, abs=6)


def test_epochs_are_apart_by_a_tenth_of_a_year():
    units = [bare_unit(epoch) for epoch in (2022.30, 2006.4, 2022.35, 2022.43, 2022.6)]
    assert epoch_groups(units) == [[1], [0, 2, 3], [4]]


def test_real_hst1pass_lists(shared_data):
    """Four real lists of a bulge field: at least 1480 stars in all four, as tight as in the file made by MATCHUP."""
    path = Path(__file__).parents[1] / "benchmarks" / "bench_hst1pass_bulge.py"
    spec = importlib.util.spec_from_file_location("hst1pass_bulge", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    figures = benchmark.compare(shared_data / "real" / "hst1pass_wfc3uvis_bulge")
    assert figures["stars in all four, dpm"] >= 1480
    assert figures["stars of both in all four"] >= 1478
    assert figures["position scatter, dpm over file, stars with 4 of 4"] <= 1.0
    assert figures["position scatter, dpm over file, median star"] <= 1.0
    assert figures["mag scatter, dpm over file, median star"] <= 1.0


def test_reference_of_the_shared_scene_goes_forward_in_time(shared_data):
    """The scene's reference catalogue, brought to the epoch, lies on its true stars: sign, cos(dec) and direction."""
    from astropy.table import Table

    from dpm.io.reference import read_reference
    from dpm.models.master_frame import sky_to_tangent
    from dpm.stages.frame.match import mutual_pairs

    scene = shared_data / "sim"
    stars = Table.read(scene / "truth" / "stars.ecsv")
    epoch = json.loads((scene / "truth" / "scene.json").read_text())["args"]["epoch"]
    ra0, dec0, years = stars.meta["ra0"], stars.meta["dec0"], epoch - stars.meta["ref_epoch"]
    xi, eta = stars["xi"] + stars["pm_xi"] * years / 1000, stars["eta"] + stars["pm_eta"] * years / 1000
    reference = read_reference(scene / "reference.ecsv")
    ra, dec, ra_error, _ = reference.at(epoch)
    here_xi, here_eta = sky_to_tangent(ra, dec, ra0, dec0)
    i, j = mutual_pairs(here_xi, here_eta, np.array(xi), np.array(eta), 0.02)
    assert len(i) > 0.95 * len(reference)
    assert robust_width((here_xi[i] - np.array(xi)[j]) * 1000 / ra_error[i]) == pytest.approx(1.0, abs=0.15)
    assert abs(np.median(here_eta[i] - np.array(eta)[j])) < 1e-4
