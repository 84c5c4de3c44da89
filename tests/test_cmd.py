"""Sequences of colour-magnitude diagrams against known ones: lines, rectified colours, shares, differential reddening."""

import numpy as np
import pytest

from dpm.report.plots_population import plot_reddening_map, plot_sequences
from dpm.science import fit_error_model
from dpm.science.cmd import (
    color_errors,
    fiducial_line,
    fit_reddening_map,
    gaussian_fractions,
    mixture_fractions,
    rectified_color,
    sequence_region,
)

RED_SHARE = 0.26  # paper 1


def blue_line(mag):
    return 0.30 + 0.04 * (mag - 25.0) - 0.05 * (mag - 25.0) ** 2


def red_line(mag):
    return blue_line(mag) + 0.25 + 0.10 * (mag - 25.0)


def sequences(n, generator, share=RED_SHARE):
    """Magnitudes, colours, their errors, and who is red; intrinsic width 0.01."""
    mag = 25.0 + 2.0 * generator.random(n) ** 0.6
    error = 0.03 + 0.03 * (mag - 25.0)
    red = generator.random(n) < share
    color = np.where(red, red_line(mag), blue_line(mag)) + generator.standard_normal(n) * np.hypot(error, 0.01)
    return mag, color, error, red


def test_fiducial_line_follows_a_curve_through_outliers():
    generator = np.random.default_rng(1)
    mag, color, _, _ = sequences(4000, generator, share=0.0)
    color[::15] += generator.uniform(0.3, 1.0, color[::15].size)
    line = fiducial_line(mag, color, width=0.4)
    places = np.linspace(25.2, 26.8, 30)
    assert np.abs(line(places) - blue_line(places)).max() < 0.008
    assert np.isnan(line([24.0, 28.0])).all()
    pulls = (line.color - blue_line(line.magnitude)) / line.error
    assert 0.5 < np.std(pulls) < 1.5
    assert line.slope(25.5) == pytest.approx(0.04 - 0.1 * 0.5, abs=0.03)
    with pytest.raises(ValueError, match="needs 4"):
        fiducial_line(mag[:8], color[:8])


def test_rectified_color_is_zero_and_one_on_the_lines():
    generator = np.random.default_rng(2)
    mag, color, _, red = sequences(4000, generator)
    blue, other = fiducial_line(mag[~red], color[~red], 0.4), fiducial_line(mag[red], color[red], 0.4)
    at = np.linspace(25.3, 26.7, 20)
    assert rectified_color(at, blue_line(at), blue, other)[0] == pytest.approx(0.0, abs=0.05)
    assert rectified_color(at, red_line(at), blue, other)[0] == pytest.approx(1.0, abs=0.05)
    assert rectified_color(at, red_line(at), blue, other)[1] == pytest.approx(red_line(at) - blue_line(at), abs=0.015)
    assert np.isnan(rectified_color(at, at, other, blue)[0]).all()


def test_selection_along_a_line():
    generator = np.random.default_rng(2)
    mag, color, error, red = sequences(4000, generator)
    line = fiducial_line(mag[~red], color[~red], 0.4)
    region = sequence_region(line, "f1", "f2", lambda m: 3 * (0.03 + 0.03 * (m - 25.0)))
    chosen = region({"f1_mag": mag, "f2_mag": mag - color})
    assert chosen[~red].mean() > 0.98 and chosen[red].mean() < 0.1
    assert not sequence_region(line, "f1", "f2", 0.05)({"f1_mag": mag, "f2_mag": mag - color})[red].any()


@pytest.mark.parametrize("method", ["mixture", "histogram"])
def test_shares_of_two_sequences(method):
    """Paper 1's shares from 400 stars, rectified by lines of these stars: no bias, and errors that hold."""
    generator = np.random.default_rng(3)
    pulls, shares, errors, means = [], [], [], []
    for number in range(60 if method == "mixture" else 40):
        mag, color, error, _ = sequences(400, generator)
        # As paper 1: each line from the stars on its side of a cut half-way.
        is_red = color > 0.5 * (blue_line(mag) + red_line(mag))
        blue, red = fiducial_line(mag[~is_red], color[~is_red]), fiducial_line(mag[is_red], color[is_red])
        values, separation = rectified_color(mag, color, blue, red)
        if method == "mixture":
            found = mixture_fractions(values, error / separation)
        else:
            found = gaussian_fractions(values, error / separation, 2, number, n_draws=150)
        known = np.isfinite(values).mean()
        assert known > 0.9
        pulls.append((found.fractions[1] - RED_SHARE) / found.errors[1])
        shares.append(found.fractions[1])
        errors.append(found.errors[1])
        means.append(found.means)
    assert np.mean(shares) == pytest.approx(RED_SHARE, abs=0.012)
    assert 0.85 < np.std(pulls) < 1.15
    assert 0.020 < np.mean(errors) < 0.035  # binomial alone: 0.022
    assert np.mean(means, axis=0) == pytest.approx([0.0, 1.0], abs=0.06)


def test_three_sequences():
    generator = np.random.default_rng(4)
    kind = generator.choice(3, size=1500, p=[0.5, 0.2, 0.3])
    error = generator.uniform(0.08, 0.14, kind.size)
    values = 0.6 * kind + error * generator.standard_normal(kind.size)
    for found in (mixture_fractions(values, error, 3), gaussian_fractions(values, error, 3, 1, n_draws=200)):
        assert np.abs((found.fractions - np.bincount(kind) / kind.size) / found.errors).max() < 2.5
        assert found.fractions.sum() == pytest.approx(1.0)
        assert np.abs(found.covariance.sum(axis=0)).max() < 1e-3 * found.covariance.max()
        assert (np.argmax(found.membership, axis=1) == kind).mean() > 0.95
    exact = mixture_fractions(values, error, 3)
    assert exact.widths.max() < 0.06  # none beyond the errors


def test_one_sequence_is_not_two():
    generator = np.random.default_rng(5)
    with pytest.raises(ValueError, match="10 each"):
        mixture_fractions(generator.standard_normal(12), np.full(12, 0.1))
    with pytest.raises(ValueError, match="positive"):
        mixture_fractions(np.arange(30.0), np.zeros(30))


def test_color_errors_leave_out_what_bands_share():
    generator = np.random.default_rng(6)
    shared, n = generator.standard_normal((4000, 1)), 4000
    inserted = np.full((n, 2), 22.0) + generator.uniform(-0.2, 0.2, (n, 1))
    measured = inserted + 0.05 * shared + 0.03 * generator.standard_normal((n, 2))
    table = {"recovered": np.ones(n, bool)}
    for i, band in enumerate("ab"):
        table[f"in_{band}_mag"], table[f"out_{band}_mag"] = inserted[:, i], measured[:, i]
    model = fit_error_model(table, "a", "b")
    assert color_errors(model, [[22.0, 22.0]])[0] == pytest.approx(0.03 * np.sqrt(2), rel=0.12)


def reddening(x, y):
    return 0.02 * np.sin(x / 300.0) * np.cos(y / 400.0) + 1e-5 * (x - 1000.0)


def reddened_main_sequence(n, generator):
    x, y = generator.uniform(0, 2000, (2, n))
    mag = generator.uniform(18, 22, n)
    color = 0.6 + 0.1 * (mag - 18) + 0.01 * (mag - 18) ** 2 + 0.015 * generator.standard_normal(n)
    mag = mag - 0.75 * generator.random(n) * (generator.random(n) < 0.1)  # binaries
    return x, y, mag + 2.7 * reddening(x, y), color + 0.95 * reddening(x, y)


def test_differential_reddening_is_found_with_honest_errors():
    generator = np.random.default_rng(7)
    pulls, left, before = [], [], []
    for _ in range(3):
        x, y, mag, color = reddened_main_sequence(4000, generator)
        found = fit_reddening_map(x, y, mag, color, 0.95, 2.7, 0.015)
        px, py = generator.uniform(50, 1950, (2, 1500))
        value, error = found(px, py)
        difference = value - reddening(px, py)
        difference -= np.median(difference)
        pulls.append(difference / error)
        left.append(np.std(difference))
        before.append(np.std(reddening(px, py)))
        own, _ = found(x, y)  # reference stars: themselves left out
        assert np.std(own - reddening(x, y)) < 1.15 * left[-1]
    assert np.mean(left) < 0.42 * np.mean(before)
    assert 0.85 < np.std(pulls) < 1.15
    assert abs(np.mean(pulls)) < 0.2
    assert 80 < np.median(found.radius(px, py)) < 180
    assert plot_reddening_map(found).axes


def test_no_reddening_is_found_where_there_is_none():
    generator = np.random.default_rng(8)
    x, y, mag, color = reddened_main_sequence(4000, generator)
    found = fit_reddening_map(x, y, mag - 2.7 * reddening(x, y), color - 0.95 * reddening(x, y), 0.95, 2.7, 0.015)
    value, error = found(*generator.uniform(50, 1950, (2, 1000)))
    assert np.std(value / error) < 1.2
    with pytest.raises(ValueError, match="along the reddening vector"):
        fit_reddening_map(x, y, mag, 0.95 / 2.7 * mag, 0.95, 2.7, 0.015)
    with pytest.raises(ValueError, match="fewer neighbours"):
        fit_reddening_map(x[:60], y[:60], mag[:60], color[:60], 0.95, 2.7)


def test_plot_of_two_sequences():
    generator = np.random.default_rng(9)
    mag, color, error, is_red = sequences(500, generator)
    blue, red = fiducial_line(mag[~is_red], color[~is_red]), fiducial_line(mag[is_red], color[is_red])
    values, separation = rectified_color(mag, color, blue, red)
    found = gaussian_fractions(values, error / separation, 2, 1, n_draws=100)
    figure = plot_sequences(mag, color, blue, red, found, "nircam_f150w2", "nircam_f322w2")
    assert len(figure.axes) == 3
