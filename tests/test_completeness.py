"""Completeness: bins, fitted curves, limits, maps, two magnitudes, on stars whose completeness is known."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table
from astropy.utils.masked import Masked
from science_tables import BRIGHTEST, FAINTEST, flagged, over_the_field, pritchet, threshold
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta

from dpm.io.tables import read_table, write_table
from dpm.science import (
    completeness_in_bins,
    completeness_of_two_magnitudes,
    completeness_table,
    fit_completeness,
    fit_completeness_map,
    in_good_region,
    local_sky_rms,
    recovered_in,
    star_completeness,
)

PLACES = np.arange(20.5, 27.01, 0.25)


def limit_of(truth, completeness):
    return brentq(lambda mag: float(truth(mag)) - completeness, BRIGHTEST, FAINTEST)


def test_bins_count_and_have_jeffreys_intervals():
    mag = np.repeat([20.2, 20.7, 21.7], [10, 4, 3])
    recovered = np.concatenate([np.arange(10) < 7, np.ones(4, bool), np.zeros(3, bool)])
    table = completeness_in_bins({"in_f_mag": mag, "recovered": recovered}, "f")
    assert list(table["mag_low"]) == [20.0, 20.5, 21.0, 21.5] and list(table["n_inserted"]) == [10, 4, 0, 3]
    assert list(table["n_passed"]) == [7, 4, 0, 0] and np.isnan(table["completeness"][2])
    assert table["completeness_low"][0] == pytest.approx(beta.ppf(0.158655, 7.5, 3.5), abs=1e-5)
    assert table["completeness_high"][0] == pytest.approx(beta.ppf(0.841345, 7.5, 3.5), abs=1e-5)
    assert table["completeness_high"][1] == 1.0 and table["completeness_low"][3] == 0.0
    assert (table["completeness_low"][2], table["completeness_high"][2]) == (0.0, 1.0)


def test_conditions_are_columns_or_truth_values_and_masked_ones_fail():
    table = QTable(flagged(pritchet, 500, np.random.default_rng(1)), masked=True)
    table["recovered"].mask[:100] = True
    counted = completeness_in_bins(table, "f", bins=[20, 28])
    assert counted["n_passed"][0] == np.sum(np.asarray(table["recovered"].data)[100:])
    north = np.arange(500) < 50
    assert completeness_in_bins(table, "f", table["in_f_mag"] < 24, north, [20, 24])["completeness"][0] == 1.0
    with pytest.raises(ValueError, match="column 'in_f_mag' has to be one truth value for each of 500 rows"):
        completeness_in_bins(table, "f", "in_f_mag")
    with pytest.raises(KeyError, match="no column 'found'; the table has in_f_mag, recovered"):
        completeness_in_bins(table, "f", "found")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({name: np.asarray(table[name]) for name in table.colnames})
    assert completeness_in_bins(frame, "f", bins=[20, 28])["n_inserted"][0] == 500


@pytest.mark.parametrize(("truth", "form"), [(pritchet, "pritchet"), (threshold, "spline")])
def test_curve_has_the_truth_within_its_errors(truth, form):
    curve = fit_completeness(flagged(truth, 60_000, np.random.default_rng(3)), "f")
    assert curve.form == form and curve.p_value > 0.01
    # A quarter magnitude has 1900 stars: shares of them are good to 0.012 at most.
    assert np.max(np.abs(curve(PLACES) - truth(PLACES))) < 0.035 and np.max(curve.error(PLACES)) < 0.018
    pull = (curve(PLACES) - truth(PLACES)) / curve.error(PLACES)
    assert np.sqrt(np.mean(pull[truth(PLACES) > 0.02] ** 2)) < 1.6
    assert np.all(np.diff(curve(np.linspace(20.1, 27.9, 300))) <= 1e-12)
    for completeness in (0.5, 0.25):
        mag, error = curve.limit(completeness)
        assert abs(mag - limit_of(truth, completeness)) < 3.0 * error and error < 0.02
    assert np.isnan(curve([BRIGHTEST - 0.1, FAINTEST + 0.1, np.nan])).all() and np.isnan(curve.limit(0.995)[0])


def test_a_form_that_does_not_fit_says_so():
    stars = flagged(threshold, 60_000, np.random.default_rng(3))
    with pytest.warns(UserWarning, match="f: the pritchet does not fit completeness .* its errors are too small"):
        curve = fit_completeness(stars, "f", form="pritchet")
    assert curve.p_value < 1e-6
    best = fit_completeness(stars, "f")
    assert best.alternatives["spline"] < best.alternatives["pritchet"] - 50


@pytest.mark.parametrize(("truth", "n_stars"), [(pritchet, 1500), pytest.param(threshold, 2500, marks=pytest.mark.slow)])
def test_one_sigma_intervals_hold_the_truth_in_two_cases_of_three(truth, n_stars):
    generator = np.random.default_rng(8)
    inside, limits = [], []
    for _ in range(60):
        curve = fit_completeness(flagged(truth, n_stars, generator), "f")
        low, high = curve.interval(PLACES)
        inside.append((low <= truth(PLACES)) & (truth(PLACES) <= high))
        mag, error = curve.limit(0.5)
        limits.append((mag - limit_of(truth, 0.5)) / error)
    # Of 60 realisations the share scatters by 0.06.
    assert 0.57 < np.mean(inside) < 0.82
    assert 0.50 < np.mean(np.abs(limits) < 1.0) < 0.85 and 0.75 < np.std(limits) < 1.35


def test_magnitudes_in_steps_and_with_units():
    """Artificial stars at half-magnitude steps, in a table with units, masked where lost."""
    generator = np.random.default_rng(12)
    mag = np.repeat(np.arange(20.25, 28.0, 0.5), 1500)
    recovered = generator.random(mag.size) < threshold(mag)
    table = QTable({"in_f_mag": mag * u.mag, "out_f_mag": Masked(mag * u.mag, mask=~recovered)})
    passed = recovered_in(table, "f")
    assert np.array_equal(passed, recovered)
    curve = fit_completeness(table, "f", passed)
    assert np.max(np.abs(curve(np.unique(mag)) - threshold(np.unique(mag)))) < 0.05
    assert curve.limit(0.5)[0] == pytest.approx(limit_of(threshold, 0.5), abs=0.08)
    with pytest.raises(ValueError, match="f: artificial stars have 3 different magnitudes; a curve needs 5"):
        fit_completeness(table, "f", passed, magnitudes=(25.5, 27.0))


def test_a_plateau_without_losses_stays_finite():
    generator = np.random.default_rng(2)
    curve = fit_completeness(flagged(lambda mag: expit(6.0 * (25.0 - mag)), 800, generator), "f")
    low, high = curve.interval(21.0)
    assert 0.97 < low < curve(21.0) < high <= 1.0 and abs(curve.limit(0.5)[0] - 25.0) < 3 * curve.limit(0.5)[1]


def test_too_few_stars_for_a_curve():
    stars = flagged(lambda mag: mag < 40, 100, np.random.default_rng(1))
    with pytest.raises(ValueError, match="100 of 100 artificial stars passed; a curve needs 20"):
        fit_completeness(stars, "f")
    with pytest.raises(ValueError, match="form 'cubic' is unknown"):
        fit_completeness(flagged(pritchet, 300, np.random.default_rng(1)), "f", form="cubic")


def field(n_stars, generator, truth=over_the_field):
    mag, x, y = generator.uniform(21, 28, n_stars), generator.uniform(0, 2000, n_stars), generator.uniform(0, 1000, n_stars)
    return Table({"in_f_mag": mag, "in_x": x, "in_y": y, "recovered": generator.random(n_stars) < truth(mag, x, y)})


def test_map_follows_depth_and_crowding():
    generator = np.random.default_rng(5)
    stars = field(60_000, generator)
    found = fit_completeness_map(stars, "f")
    assert found.n_inserted.shape == (8, 16) and found.n_inserted.sum() == 60_000
    crowded = found.depth[:, 9:].mean() - found.depth[:, :7].mean()
    assert crowded == pytest.approx(-0.8, abs=0.06)
    assert found.plateau[:, :7].mean() == pytest.approx(0.98, abs=0.01)
    assert found.plateau[:, 9:].mean() == pytest.approx(0.80, abs=0.02)
    check = field(20_000, generator)
    mag, x, y = (np.asarray(check[name]) for name in ("in_f_mag", "in_x", "in_y"))
    true = over_the_field(mag, x, y)
    some = (true > 0.02) & (np.abs(x - 1000) > 150)  # the cells at the border are both
    difference = found(mag, x, y) - true
    assert np.isnan(difference).mean() < 1e-3
    some &= np.isfinite(difference)
    assert np.std(difference[some] / found.error(mag, x, y)[some]) == pytest.approx(1.0, abs=0.2)
    assert np.nanstd(difference) < 0.25 * np.nanstd(fit_completeness(stars, "f")(mag) - true)
    for bright in (21.5, 23.0, 25.0, 26.0):
        near = np.abs(mag - bright) < 0.4
        assert np.nanmean(difference[near]) == pytest.approx(0.0, abs=0.01)
    assert np.isnan(found([24.0, 24.0, 20.0], [-10.0, np.nan, 100.0], [5.0, 5.0, 5.0])).all()


def test_map_of_a_uniform_field_is_flat():
    stars = field(30_000, np.random.default_rng(6), lambda mag, x, y: pritchet(mag))
    found = fit_completeness_map(stars, "f")
    assert found.spread[0] < 0.07 and found.spread[1] < 0.3 and found.p_value > 0.01
    assert np.std(found(26.0, stars["in_x"], stars["in_y"])) < 0.03


def test_two_magnitudes():
    generator = np.random.default_rng(9)
    first, second = generator.uniform(20, 28, (2, 60_000))

    def truth(a, b):
        return pritchet(a) * expit(3.0 * (25.0 - b))

    table = {"in_a_mag": first, "in_b_mag": second, "recovered": generator.random(60_000) < truth(first, second)}
    found = completeness_of_two_magnitudes(table, "a", "b")
    a, b = generator.uniform(20.5, 27.5, (2, 5000))
    assert np.std(found(a, b) - truth(a, b)) < 0.035 and abs(np.mean(found(a, b) - truth(a, b))) < 0.005
    assert np.isnan(found([19.0, np.nan], [25.0, 25.0])).all()
    line = {"in_a_mag": first, "in_b_mag": first - 1.0, "recovered": table["recovered"]}
    along = completeness_of_two_magnitudes(line, "a", "b")
    assert np.isfinite(along(24.0, 23.0)) and np.isnan(along(24.0, 27.0))


def test_good_regions_know_lost_stars_too():
    generator = np.random.default_rng(4)
    n_stars = 6000
    x, y = generator.uniform(0, 1000, (2, n_stars))
    noisy = np.hypot(x - 500, y - 500) < 200
    recovered = generator.random(n_stars) < np.where(noisy, 0.3, 0.9)
    rms = np.where(noisy, 5.0, 1.0) * generator.normal(1.0, 0.05, n_stars)
    table = Table({"in_x": x, "in_y": y, "out_x": x, "out_y": y, "out_f_sky_rms": rms, "in_f_mag": 25.0 + 0.0 * x})
    table["recovered"] = recovered
    for name in ("out_x", "out_y", "out_f_sky_rms"):
        table[name][~recovered] = np.nan
    good = in_good_region(table, "f", 2.5)
    assert np.mean(good != ~noisy) < 0.02
    everywhere = completeness_in_bins(table, "f", bins=[24, 26])["completeness"][0]
    quiet = completeness_in_bins(table, "f", among=good, bins=[24, 26])["completeness"][0]
    assert everywhere < 0.85 and quiet == pytest.approx(0.9, abs=0.02)
    catalog = Table({"x": [500.0] * 9, "y": [500.0] * 9, "f_sky_rms": [50.0] * 9})
    assert local_sky_rms(table, "f", catalog)[np.argmin(np.hypot(x - 500, y - 500))] == 50.0
    table["in_f_sky_rms"] = rms
    assert np.array_equal(local_sky_rms(table, "f"), rms)
    with pytest.raises(ValueError, match="no star has a measured g_sky_rms"):
        local_sky_rms({"in_x": x, "in_y": y, "out_x": x, "out_y": y, "out_g_sky_rms": x * np.nan, "in_g_mag": x}, "g")


def test_table_of_curves_goes_to_parquet_and_back(tmp_path):
    stars = flagged(pritchet, 20_000, np.random.default_rng(7))
    stars["out_f_mag"] = np.where(stars["recovered"], stars["in_f_mag"] + 0.1, np.nan)
    assert np.array_equal(recovered_in(stars, "f"), stars["recovered"])
    north = np.arange(20_000) % 2 == 0
    samples = {"": ("recovered", None), "good": ("recovered", north), "bright": ("recovered", stars["in_f_mag"] > 27.9)}
    curves = completeness_table(stars, samples, ["f"], magnitudes={"f": (21, 28)})
    assert curves.colnames[:3] == ["filter", "mag", "n_inserted"] and len(curves) == 16
    write_table(tmp_path / "completeness.parquet", curves)
    again = read_table(tmp_path / "completeness.parquet")
    row = again[again["mag"] == 25.75][0]
    for name in ("completeness", "completeness_good"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert row[f"{name}_fit"] == pytest.approx(pritchet(25.75), abs=4 * row[f"{name}_fit_error"])
    assert np.isnan(again["completeness_fit"][0]) and np.isnan(again["completeness_bright_fit"]).all()
    assert "a curve needs 20" in again.meta["limits"]["f:bright"]["absent"]
    limit = again.meta["limits"]["f:good"]
    assert abs(limit["mag_50"] - limit_of(pritchet, 0.5)) < 3 * limit["mag_50_error"]


def test_completeness_at_every_star_of_a_catalogue():
    """Two bands over a field that is shallower and crowded in one half: at single stars, with errors."""
    generator = np.random.default_rng(17)

    def stars(n: int, prefix: str) -> Table:
        out = Table({f"{prefix}x": generator.uniform(0, 2000, n), f"{prefix}y": generator.uniform(0, 1000, n)})
        out[f"{prefix}f_mag"] = generator.uniform(21.0, 28.0, n)
        out[f"{prefix}g_mag"] = out[f"{prefix}f_mag"] - 0.5
        return out

    artificial, catalog = stars(30_000, "in_"), stars(2000, "")
    truth = over_the_field(artificial["in_f_mag"], artificial["in_x"], artificial["in_y"])
    artificial["recovered"] = generator.random(len(artificial)) < truth
    passed = artificial["recovered"] & (generator.random(len(artificial)) < 0.9)
    catalog["id"] = np.arange(1, len(catalog) + 1)
    catalog["g_mag"][:5] = np.nan
    out, missing = star_completeness(artificial, catalog, ["f", "g"], np.asarray(passed))
    assert not missing and np.array_equal(out["id"], catalog["id"]) and np.isnan(out["g_completeness"][:5]).all()
    true = over_the_field(catalog["f_mag"], catalog["x"], catalog["y"])
    away = np.abs(catalog["x"] - 1000.0) > 150.0
    off = (out["f_completeness"] - true)[away]
    # 234 artificial stars a cell leave 0.03.
    assert np.sqrt(np.nanmean(off**2)) < 0.04 and np.isfinite(off).mean() > 0.99
    assert np.nanmean(np.abs(off) < 3 * out["f_completeness_error"][away]) > 0.9
    ratio = np.asarray(out["f_completeness_selected"] / out["f_completeness"])[away & (true > 0.5)]
    assert np.nanmedian(ratio) == pytest.approx(0.9, abs=0.02)
    both = over_the_field(catalog["f_mag"], 0.0, 0.0) + over_the_field(catalog["f_mag"], 2000.0, 0.0)
    assert np.nanmedian(np.abs(out["two_band_completeness"] - 0.5 * both)) < 0.03
