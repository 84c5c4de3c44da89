"""Errors from artificial stars: bins, correlation, draws, migration, on photometry whose noise is known."""

import numpy as np
import pytest
from astropy.table import Table
from science_tables import Photometry
from scipy.stats import ks_2samp

from dpm.science import (
    correct_magnitudes,
    filter_correlation,
    fit_error_model,
    migration_correction,
    migration_matrix,
    motion_errors,
    random_errors,
)
from dpm.science.random_errors import bias_and_width, undo_rounding

TRUTH = Photometry()


@pytest.fixture(scope="module")
def stars():
    return TRUTH.table(60_000, np.random.default_rng(1))


@pytest.fixture(scope="module")
def model(stars):
    return fit_error_model(stars, "a", "b")


@pytest.fixture(scope="module")
def real():
    """Independent stars: true and measured magnitudes."""
    generator = np.random.default_rng(2)
    mags = TRUTH.stars(60_000, generator)
    return mags, TRUTH.observe(mags, generator)


def test_random_errors_of_known_noise(stars):
    errors = random_errors(stars, ["b"])
    for row in errors[(errors["mag"] > 21) & (errors["mag"] < 25)]:
        flux = 5 * 10 ** (-0.4 * (row["mag"] - TRUTH.zero[1]))
        expected = 1.0857 * np.sqrt(1 + (0.02 * flux) ** 2) / flux
        # Blends, a twentieth of the stars, widen the middle 68 % by a few per cent.
        assert row["random_error"] == pytest.approx(1.04 * expected, rel=0.06)
        assert row["random_error_error"] == pytest.approx(0.962 * row["random_error"] / np.sqrt(row["n"]), rel=0.01)
        assert row["tail_bright"] > 3 * row["tail_faint"]
    assert list(errors["mag_high"] - errors["mag_low"]) == [0.5] * len(errors)
    colored = random_errors(stars, ["b"], color=("a", "b"))
    assert set(colored["color_low"]) == {-0.5, 0.0, 0.5, 1.0} and np.sum(colored["n"]) == pytest.approx(np.sum(errors["n"]), abs=60)


def test_errors_of_widths_and_correlations_are_right():
    generator = np.random.default_rng(3)
    pulls = []
    for _ in range(300):
        common = generator.standard_normal(400)
        table = {"in_a_mag": np.full(400, 22.2), "in_b_mag": np.full(400, 21.2), "recovered": np.ones(400, bool)}
        for band, mag in (("a", 22.2), ("b", 21.2)):
            table[f"out_{band}_mag"] = mag + 0.1 * (np.sqrt(0.5) * common + np.sqrt(0.5) * generator.standard_normal(400))
        row, pair = random_errors(table, ["a"])[0], filter_correlation(table, "a", "b")[0]
        pulls.append(
            (
                row["bias"] / row["bias_error"],
                (row["random_error"] - 0.1) / row["random_error_error"],
                (pair["correlation"] - 0.5) / pair["correlation_error"],
            )
        )
    assert np.allclose(np.std(pulls, axis=0), 1.0, atol=0.15) and np.allclose(np.mean(pulls, axis=0), 0.0, atol=0.25)


def test_rounded_magnitudes_have_the_width_of_what_was_rounded():
    values = np.random.default_rng(4).normal(0.003, 0.008, 4000)
    assert bias_and_width(np.round(values, 2))[1] == pytest.approx(0.005, abs=1e-9)
    bias, width = bias_and_width(undo_rounding(np.round(values, 2), 0.01))
    assert width == pytest.approx(np.hypot(0.008, 0.01 / np.sqrt(12)), rel=0.06) and bias == pytest.approx(0.003, abs=4e-4)


def test_motions_of_stars_that_did_not_move(stars):
    errors = motion_errors(stars, "b")
    row = errors[errors["mag_low"] == 22.5][0]
    assert row["pmra_random_error"] == pytest.approx(0.1 * 10 ** (0.2 * (row["mag"] - 23.0)), rel=0.06)
    assert abs(row["pmdec_bias"]) < 4 * row["pmdec_bias_error"]


def test_pulls_of_independent_stars_have_width_one(model, real):
    mags, measured = real
    pulls = model.pulls(mags, measured)
    for low in range(21, 27):
        for band in (0, 1):
            mine = (mags[:, band] >= low) & (mags[:, band] < low + 1) & np.isfinite(pulls[:, band])
            middle, width = bias_and_width(pulls[mine, band])
            assert 0.95 < width < 1.05 and abs(middle) < 0.06


def test_draws_are_like_independent_measurements(model, real):
    mags, measured = real
    assert model.covers(mags).mean() > 0.999
    mags, measured = mags[model.covers(mags)], measured[model.covers(mags)]
    drawn = model.draw(mags, 7)
    assert np.array_equal(drawn, model.draw(mags, np.random.default_rng(7)), equal_nan=True)
    assert not np.array_equal(drawn, model.draw(mags, 8), equal_nan=True)
    for low in range(21, 28):
        mine = (mags[:, 1] >= low) & (mags[:, 1] < low + 1)
        lost, expected = np.isnan(drawn[mine, 1]).mean(), np.isnan(measured[mine, 1]).mean()
        # Both are samples, and the model's artificial stars are one more.
        assert abs(lost - expected) < 4 * np.sqrt(3 * max(expected, 1e-3) * (1 - expected) / mine.sum())
        if low == 27:
            continue
        first, second = ((out - mags)[mine & np.isfinite(out[:, 1])] for out in (drawn, measured))
        assert ks_2samp(first[:, 1], second[:, 1]).pvalue > 0.003
        assert ks_2samp(first[:, 0] - first[:, 1], second[:, 0] - second[:, 1]).pvalue > 0.003
        assert np.corrcoef(first.T)[0, 1] == pytest.approx(np.corrcoef(second.T)[0, 1], abs=0.09)
        assert np.mean(first[:, 1] < -0.3) == pytest.approx(np.mean(second[:, 1] < -0.3), abs=0.01)


def test_covariance_between_filters(model):
    covariance = model.covariance([[24.0, 23.5], [25.0, 24.5]])
    correlation = covariance[:, 0, 1] / np.sqrt(covariance[:, 0, 0] * covariance[:, 1, 1])
    assert np.allclose(correlation, 0.32, atol=0.06) and np.all(np.linalg.eigvalsh(covariance) > 0)


def test_stars_that_no_artificial_star_is_like_are_refused(model):
    with pytest.raises(ValueError, match="2 of 3 stars are farther than 0.5 mag .* such as a 18.00, b 18.00"):
        model.draw([[23.0, 22.5], [18.0, 18.0], [24.0, 25.5]], 1)
    assert list(model.covers([[23.0, 22.5], [np.nan, 20.0]])) == [True, False]
    with pytest.raises(ValueError, match=r"magnitudes have to be \(stars, 2\) in the order a, b"):
        model.draw([23.0, 22.5], 1)
    with pytest.raises(ValueError, match="b: 3 artificial stars were measured; an error model needs 100"):
        fit_error_model({"in_b_mag": np.arange(3.0), "out_b_mag": np.arange(3.0), "recovered": np.ones(3, bool)}, "b")


@pytest.mark.parametrize("slope", [0.0, 0.6])
def test_corrections_take_off_the_bias_of_measured_magnitudes(slope):
    """Real stars with a luminosity function of this slope, corrected by artificial ones that are uniform, weighted alike."""
    generator = np.random.default_rng(11)
    artificial = TRUTH.table(100_000, generator)
    weights = np.exp(slope * (np.asarray(artificial["in_b_mag"]) - 24.0))
    correction = migration_correction(artificial, "b", weights=weights)
    mags = TRUTH.stars(200_000, generator)
    mags = mags[generator.random(len(mags)) < np.exp(slope * (mags[:, 1] - 28.0))]
    out = TRUTH.observe(mags, generator)[:, 1]
    corrected = correct_magnitudes(out, correction)
    before, after = [], []
    for low in np.arange(24.0, 26.5, 0.5):
        mine = (out >= low) & (out < low + 0.5)
        rest = (corrected - mags[:, 1])[mine]
        error = np.interp(low + 0.25, correction["mag"], correction["correction_error"])
        after.append(np.median(rest) / np.hypot(error, 1.2533 * bias_and_width(rest)[1] / np.sqrt(mine.sum())))
        before.append(np.median((out - mags[:, 1])[mine]))
    assert np.max(np.abs(after)) < 3.5 and np.sqrt(np.mean(np.square(after))) < 2.0
    assert before[-1] < (-0.02 if slope == 0 else -0.05)
    assert np.isnan(correct_magnitudes([15.0, 30.0, np.nan], correction)).all()


def test_migration_matrix_predicts_counts(stars, real):
    mags, measured = real
    matrix = migration_matrix(stars, "b", np.arange(20.0, 28.1, 0.5))
    assert np.allclose(matrix.counts.sum(axis=1) + matrix.outside + matrix.inserted * matrix.lost, matrix.inserted)
    true = np.histogram(mags[:, 1], matrix.edges)[0]
    seen = np.histogram(measured[:, 1], matrix.edges)[0]
    expected = matrix.observe(true)
    some = expected > 20
    chi2 = np.sum((seen - expected)[some] ** 2 / (2 * expected[some]))
    assert 0.2 * some.sum() < chi2 < 2.0 * some.sum()
    assert matrix.lost[-1] > 0.95 and matrix.lost[0] == 0.0
    with pytest.raises(ValueError, match="true stars in bins without artificial stars"):
        migration_matrix(stars, "b", np.arange(10.0, 28.1, 0.5)).observe(np.ones(36))


def test_half_loss_in_one_band_is_kept():
    """A table such as DOLPHOT's, where a star may be lost in one filter alone."""
    generator = np.random.default_rng(5)
    mags = generator.uniform(20, 24, (20_000, 2))
    out = mags + 0.05 * generator.standard_normal(mags.shape)
    out[generator.random(20_000) < 0.3, 1] = np.nan
    table = Table({"in_a_mag": mags[:, 0], "in_b_mag": mags[:, 1], "out_a_mag": out[:, 0], "out_b_mag": out[:, 1]})
    drawn = fit_error_model(table, "a", "b", passed=np.ones(20_000, bool)).draw(mags[:5000], 1)
    assert np.isfinite(drawn[:, 0]).all() and np.isnan(drawn[:, 1]).mean() == pytest.approx(0.3, abs=0.03)
