"""Luminosity functions against known ones: counts, errors, their covariance, slope and cut-off, and a real table."""

import numpy as np
import pytest
from science_tables import Photometry, flagged, pritchet
from scipy.integrate import trapezoid

from dpm.report.plots_population import plot_luminosity_function
from dpm.science import fit_completeness, fit_error_model
from dpm.science.luminosity_fit import fit_luminosity_function, slope_and_cutoff
from dpm.science.luminosity_function import luminosity_function

TRUTH = Photometry()
EDGES = np.arange(22.0, 27.01, 0.5)
SHAPE = np.array([3.0, 0.25, 25.5, 0.15])  # logarithm of the density at the cut-off, slope, cut-off, width
GRID = np.arange(20.0, 28.0, 0.002)


def drawn(generator):
    """True magnitudes of one realisation of the shape."""
    total = np.concatenate([[0.0], np.cumsum(slope_and_cutoff(GRID, SHAPE)) * (GRID[1] - GRID[0])])[:-1]
    return np.interp(generator.uniform(0, total[-1], generator.poisson(total[-1])), total, GRID)


def test_corrected_counts_and_their_covariance():
    """Over realisations of stars AND of artificial stars: no bias, and errors that hold for bins and for their sum."""
    generator = np.random.default_rng(1)
    density = 400.0  # per magnitude
    pulls, sums, inside, no_curve = [], [], [], []
    for _ in range(80):
        curve = fit_completeness(flagged(pritchet, 3000, generator), "f", form="pritchet")
        mag = generator.uniform(21, 28, generator.poisson(7 * density))
        seen = mag[generator.random(mag.size) < pritchet(mag)]
        found = luminosity_function(seen, curve, EDGES)
        expected = density * np.diff(EDGES)
        pulls.append((found.corrected - expected) / np.sqrt(np.diag(found.covariance)))
        sums.append((found.corrected.sum() - expected.sum()) / np.sqrt(found.covariance.sum()))
        no_curve.append((found.corrected.sum() - expected.sum()) / np.sqrt(found.poisson_covariance.sum()))
        low, high = found.interval()
        inside.append((low <= expected) & (expected <= high))
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.35
    assert 0.9 < np.std(pulls) < 1.1
    assert 0.85 < np.std(sums) < 1.15 and abs(np.mean(sums)) < 0.3
    assert np.std(no_curve) > 1.1 * np.std(sums)  # bins share the curve's errors
    assert np.mean(inside) == pytest.approx(0.70, abs=0.05)  # Garwood's intervals hold a little more than 68.3 %


def test_bins_without_stars_and_without_completeness():
    curve = fit_completeness(flagged(pritchet, 3000, np.random.default_rng(2)), "f")
    found = luminosity_function([22.1, 22.2, 29.5, np.nan], curve, [21.0, 22.0, 23.0, 29.0, 30.0])
    table = found.to_table()
    assert list(found.counts) == [0, 2, 0, 0] and found.n_left_out == 1
    assert table["corrected"][0] == 0 and table["corrected_high"][0] == pytest.approx(1.841 / curve(21.5), rel=1e-3)
    assert np.isnan(table["corrected"][3])
    assert found.limits[0.5] == pytest.approx(curve.limit(0.5)[0])
    with pytest.raises(ValueError, match="per cent"):
        luminosity_function([22.0], [98.0])
    with pytest.raises(ValueError, match="one number a star"):
        luminosity_function([22.0, 23.0], [0.9])


def test_own_completeness_of_each_star():
    found = luminosity_function([22.1, 22.3, 22.6], [0.5, 1.0, 0.8], 0.5, completeness_error=[0.05, 0.0, 0.08])
    assert list(found.corrected) == pytest.approx([3.0, 1.25])
    assert np.diag(found.poisson_covariance) == pytest.approx([5.0, 1.5625])
    assert np.diag(found.completeness_covariance) == pytest.approx([0.2**2, 0.125**2])


def test_slope_and_cutoff_of_measured_stars():
    """Unbinned fits to stars that errors move and faintness hides: pulls of all parameters over realisations."""
    generator = np.random.default_rng(3)
    artificial = TRUTH.table(30_000, generator)
    curve, errors = fit_completeness(artificial, "b"), fit_error_model(artificial, "b")
    pulls, goodness = [], []
    for _ in range(16):
        true = drawn(generator)
        measured = TRUTH.observe(np.column_stack([true + generator.uniform(-0.5, 1.5, true.size), true]), generator)[:, 1]
        fit = fit_luminosity_function(measured, curve, (21.0, 26.6), [3.0, 0.2, 25.3, 0.2], errors)
        pulls.append((fit.parameters - SHAPE) / fit.errors)
        goodness.append(fit.p_value)
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.8  # 3.2 standard errors
    assert 0.8 < np.std(pulls) < 1.2
    assert np.mean(np.array(goodness) < 0.01) < 0.13
    assert fit.n_expected == pytest.approx(fit.n_stars, rel=1e-3)
    assert trapezoid(fit(GRID), GRID) == pytest.approx(true.size, rel=0.08)


def test_errors_of_the_completeness_get_into_the_fit():
    """Few artificial stars: without their errors the level is wrong by more than it says."""
    generator = np.random.default_rng(4)
    constant = 1000.0
    pulls, blind = [], []
    for _ in range(40):
        curve = fit_completeness(flagged(pritchet, 400, generator), "f", form="pritchet")
        mag = generator.uniform(20, 28, generator.poisson(8 * constant))
        seen = mag[generator.random(mag.size) < pritchet(mag)]
        bright, faint = max(curve.brightest, 23.0), 26.5
        fit = fit_luminosity_function(seen, curve, (bright, faint), [2.9], shape=lambda m, p: np.full(m.shape, 10 ** p[0]))
        pulls.append((fit.parameters[0] - np.log10(constant)) / fit.errors[0])
        only = fit.covariance - fit.completeness_covariance
        blind.append((fit.parameters[0] - np.log10(constant)) / np.sqrt(only[0, 0]))
    assert 0.8 < np.std(pulls) < 1.2 and abs(np.mean(pulls)) < 0.4
    assert np.std(blind) > 1.3


def test_a_fit_beyond_the_completeness_is_refused():
    generator = np.random.default_rng(5)
    artificial = TRUTH.table(4_000, generator)
    curve, errors = fit_completeness(artificial, "b"), fit_error_model(artificial, "b")
    with pytest.raises(ValueError, match="insert brighter"):
        fit_luminosity_function([22.0, 23.0], curve, (19.5, 26.0), [3.0, 0.2, 25.3, 0.2], errors)
    with pytest.raises(ValueError, match="known from"):
        fit_luminosity_function([22.0, 23.0], curve, (19.5, 26.0), [3.0, 0.2, 25.3, 0.2])


def test_luminosity_function_of_47_tucanae(shared_data):
    """The real white dwarfs of 47 Tuc, 94 of which the file has twice."""
    rows = np.unique(np.loadtxt(shared_data / "real" / "wd_47tuc" / "47tuc_fromraw.dat")[:, :4], axis=0)
    found = luminosity_function(rows[:, 1], rows[:, 3] / 100.0, 0.25)
    table = found.to_table()
    assert len(rows) == 1880 and found.counts.sum() == 1880
    peak = table["mag"][np.argmax(table["corrected"])]
    assert 27.5 < peak < 28.25 and found.limits[0.5] > peak
    assert plot_luminosity_function(found, "acswfc_f814w", normalized=(23.0, 25.0)).axes
