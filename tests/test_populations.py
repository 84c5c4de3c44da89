"""Synthetic populations and fits of them, against populations whose parameters are known."""

import builtins
from dataclasses import replace

import numpy as np
import pytest
from science_tables import Photometry
from toy_models import brown_dwarfs, white_dwarfs

from dpm.report.plots_population import plot_luminosity_function, plot_population
from dpm.science import fit_error_model
from dpm.science.luminosity_function import luminosity_function
from dpm.science.populations import (
    Companions,
    draw_masses,
    draw_population,
    fit_population,
    measure_population,
    population_templates,
    theoretical_luminosity_function,
)
from dpm.science.populations.synthetic import COMPANION, PAIR, SINGLE, add_magnitudes

TRUE = {"exponent": -2.35, "age": 10.07, "pair_fraction": 0.10, "companion_fraction": 0.25}
COMPANIONS = Companions(brown_dwarfs(), (0.04, 0.06))  # paper 1's masses
MAGNITUDES, COLORS = np.arange(22.0, 27.3, 0.2), np.arange(-0.6, 2.0, 0.15)


@pytest.fixture(scope="module")
def errors():
    truth = Photometry()
    truth.zero = np.array([28.0, 27.5])  # deep enough for the end of the sequence
    return fit_error_model(truth.table(50_000, np.random.default_rng(1)), "b", "a")


@pytest.fixture(scope="module")
def templates(errors):
    ages = [white_dwarfs(age) for age in np.arange(9.4, 10.81, 0.2)]
    return population_templates(ages, errors, "b", MAGNITUDES, ("a", "b"), COLORS, COMPANIONS)


def observe(number, errors, n=1500):
    """Magnitudes and colours of the stars of a known population that are found."""
    fractions = {name: TRUE[name] for name in ("pair_fraction", "companion_fraction")}
    drawn = draw_population(white_dwarfs(TRUE["age"]), n, TRUE["exponent"], 100 + number, companions=COMPANIONS, **fractions)
    measured = measure_population(drawn, errors, 200 + number)
    return drawn, np.column_stack([measured[:, 0], measured[:, 1] - measured[:, 0]])


@pytest.mark.parametrize("exponent", [-2.35, -1.0, 0.5])
def test_masses_follow_the_power_law(exponent):
    mass = draw_masses(100_000, exponent, (0.8, 7.0), 1)
    assert mass.min() >= 0.8 and mass.max() <= 7.0
    edges = np.array([0.8, 1.0, 2.0, 4.0, 7.0])
    power = exponent + 1.0
    total = np.log(edges) if power == 0 else edges**power / power
    assert np.histogram(mass, edges)[0] / mass.size == pytest.approx(np.diff(total) / (total[-1] - total[0]), abs=0.005)


def test_fluxes_of_pairs_and_companions_add():
    assert add_magnitudes(np.array([20.0]), np.array([20.0]))[0] == pytest.approx(20.0 - 2.5 * np.log10(2))
    assert add_magnitudes(np.array([30.0]), np.array([20.0]))[0] == pytest.approx(20.0, abs=2e-4)
    isochrone = white_dwarfs(10.0)
    drawn = draw_population(isochrone, 20_000, -2.35, 3, 0.2, 0.3, COMPANIONS)
    kind = np.asarray(drawn["kind"])
    assert [np.mean(kind == k) for k in (SINGLE, PAIR, COMPANION)] == pytest.approx([0.5, 0.2, 0.3], abs=0.015)
    alone = isochrone(drawn["initial_mass"])
    brighter = alone[:, 1] - drawn["b_mag"]
    assert np.all(np.abs(brighter[kind == SINGLE]) < 1e-9) and np.all(brighter[kind != SINGLE] > 0)
    second = np.asarray(drawn["second_mass"])
    assert np.isnan(second[kind == SINGLE]).all()
    # Pairs' masses are drawn alike, companions' are uniform.
    assert np.median(second[kind == PAIR]) == pytest.approx(np.median(drawn["initial_mass"]), rel=0.02)
    assert np.quantile(second[kind == COMPANION], [0.25, 0.5, 0.75]) == pytest.approx([0.045, 0.05, 0.055], abs=0.0005)
    assert np.all(draw_population(isochrone, 50, -2.35, 3)["b_mag"] == draw_population(isochrone, 50, -2.35, 3)["b_mag"])
    with pytest.raises(ValueError, match="needs companions"):
        draw_population(isochrone, 10, -2.35, 1, companion_fraction=0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        draw_population(isochrone, 10, -2.35, 1, 0.7, 0.4, COMPANIONS)
    with pytest.raises(ValueError, match="on an isochrone from"):
        Companions(brown_dwarfs(), (0.01, 0.05))


def test_theoretical_luminosity_function_is_normalised_where_it_is_told(errors):
    isochrone = white_dwarfs(10.0)
    drawn = draw_population(isochrone, 40_000, -2.35, 5)
    observed = luminosity_function(drawn["b_mag"], np.ones(len(drawn)), np.arange(22.0, 27.5, 0.25))
    same = theoretical_luminosity_function(isochrone, "b", -2.35, observed, (23.0, 25.0))
    assert same.sum() == pytest.approx(observed.corrected.sum(), rel=0.03)
    chi = (observed.corrected - same) / np.sqrt(np.maximum(same, 1.0))
    assert np.sum(chi**2) < 50  # 21 bins, and the normalisation's own error
    heavy = theoretical_luminosity_function(isochrone, "b", -1.6, observed, (23.0, 25.0), errors)
    faint = observed.edges[:-1] > 26
    assert heavy[faint].sum() > 1.05 * same[faint].sum()  # more massive stars, longer dead
    figure = plot_luminosity_function(observed, "b", {"-2.35": same, "-1.6": heavy}, (23.0, 25.0))
    assert len(figure.axes) == 1
    with pytest.raises(ValueError, match="to normalise with"):
        theoretical_luminosity_function(isochrone, "b", -2.35, observed, (10.0, 11.0))


def test_templates_are_what_a_population_looks_like(templates, errors):
    """Expected cells against a large population drawn independently; the sum is the share that is found."""
    drawn, seen = observe(1, errors, 60_000)
    counts = templates.counts(seen)
    expected = templates.expected(**TRUE)[0]
    assert expected.sum() == pytest.approx(counts.sum() / len(drawn), rel=0.01)
    used = expected * len(drawn) > 20
    chi = (counts - expected * len(drawn))[used] / np.sqrt(expected * len(drawn))[used]
    # Where cells are nearly empty the templates have a few in 10,000 stars more: sharing stars out over nodes blurs sharp edges.
    assert np.mean(chi**2) < 1.5 and counts[~used].sum() / len(drawn) == pytest.approx(expected[~used].sum(), abs=0.0015)
    assert np.isnan(templates.expected(-9.0, 10.0)).all() and np.isnan(templates.expected(-2.0, 20.0)).all()


def test_parameters_are_recovered_with_honest_errors(templates, errors):
    pulls, goodness = [], []
    for number in range(10):
        drawn, seen = observe(number, errors, 700)
        fit = fit_population(templates, seen[np.isfinite(seen).all(axis=1)], generator=number, n_steps=200)
        table = fit.summary()
        pulls.append([(row["mean"] - TRUE[row["parameter"]]) / row["error"] for row in table])
        goodness.append(fit.p_value)
    assert fit.names == tuple(TRUE)
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.95  # 3 standard errors
    assert 0.6 < np.sqrt(np.mean(np.square(pulls))) < 1.4
    assert min(goodness) > 1e-4
    assert fit.n_systems == pytest.approx(len(drawn), rel=0.08)
    fixed = fit_population(templates, seen, {"age": 10.07, "pair_fraction": 0.1}, 1, n_steps=100)
    assert fixed.names == ("exponent", "companion_fraction") and fixed.best["age"] == 10.07
    isochrones = {"10 Gyr": white_dwarfs(10.0)}
    good = np.isfinite(seen).all(axis=1)
    assert plot_population(seen[good, 0], seen[good, 1], drawn, seen, isochrones, "a", "b", "b").axes


def test_isochrones_too_far_apart_are_warned_about(errors):
    ages = [white_dwarfs(age) for age in (8.0, 10.0, 12.0)]
    coarse = population_templates(ages, errors, "b", MAGNITUDES, ("a", "b"), COLORS, COMPANIONS)
    with pytest.warns(UserWarning, match="2.000 Gyr apart"):
        fit_population(coarse, observe(1, errors, 300)[1], n_steps=50)


def test_too_few_artificial_stars_are_warned_about(templates, errors):
    seen = observe(1, errors, 4000)[1]
    age = {"age": TRUE["age"]}
    with pytest.warns(UserWarning, match="artificial stars near these stars' magnitudes are few"):
        strained = fit_population(templates, seen, age, generator=1, n_steps=60)
    sure = replace(templates, variance=np.zeros_like(templates.variance))
    exact = fit_population(sure, seen, age, generator=1, n_steps=60)
    assert strained.chi2 < exact.chi2 and np.all(strained.summary()["error"] > 0.95 * exact.summary()["error"])


def test_all_fates_are_those_that_are_drawn_from(errors):
    true = np.array([[23.0, 23.4], [26.3, 26.9]])
    fates = errors.fates(true)
    assert np.bincount(fates.star, fates.probability) == pytest.approx(1.0, abs=1e-12)
    for star, mags in enumerate(true):
        drawn = errors.draw(np.tile(mags, (20_000, 1)), 5)
        mine = fates.star == star
        found = np.isfinite(fates.measured[mine]).all(axis=1)
        share = fates.probability[mine][found]
        assert share.sum() == pytest.approx(np.isfinite(drawn).all(axis=1).mean(), abs=0.02)
        for values, band in zip(fates.measured[mine][found].T, drawn.T):
            mean = np.average(values, weights=share)
            width = np.sqrt(np.average((values - mean) ** 2, weights=share))
            assert mean == pytest.approx(np.nanmean(band), abs=0.05 * width)
            assert width == pytest.approx(np.nanstd(band), rel=0.05)


def test_what_cannot_be_fitted(templates, errors, monkeypatch):
    with pytest.raises(ValueError, match="one isochrone for each age"):
        population_templates([white_dwarfs(10.0)] * 2, errors, "b", MAGNITUDES, ("a", "b"), COLORS)
    with pytest.raises(ValueError, match="error model is one of b, a"):
        population_templates([white_dwarfs(10.0)], errors, "b", MAGNITUDES)
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "emcee":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="dpm-photometry\\[science\\]"):
        fit_population(templates, np.zeros((5, 2)))


def test_no_star_in_the_cells(templates):
    with pytest.raises(ValueError, match="no star"):
        fit_population(templates, np.zeros((5, 2)))
    with pytest.raises(ValueError, match="unknown parameters mass"):
        fit_population(templates, np.zeros((5, 2)), {"mass": 1.0})


def test_variance_of_templates_does_not_depend_on_how_nodes_are_grouped(errors, monkeypatch):
    isochrones = [white_dwarfs(10.0), white_dwarfs(10.4)]
    cells = "b", np.arange(23.0, 27.3, 0.4), ("a", "b"), np.arange(-0.6, 2.0, 0.4)
    made = []
    for chunk in (300, 10**9):
        monkeypatch.setattr("dpm.science.populations.templates.CHUNK", chunk)
        monkeypatch.setattr("dpm.science.populations.templates.LOG_SYSTEMS", 12)
        made.append(population_templates(isochrones, errors, *cells))
    for name in ("probability", "variance", "replicas"):
        assert getattr(made[0], name) == pytest.approx(getattr(made[1], name), rel=1e-9, abs=1e-12)
    # Replicas scatter by the variance, to what 64 of them tell of cells that share artificial stars.
    filled = made[0].probability[:, 12, 0] > 1e-4
    ratio = np.var(made[0].replicas, axis=1)[filled] / made[0].variance[filled]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.2) and ratio.max() < 2.0


@pytest.mark.slow
def test_other_artificial_stars_move_the_parameters_as_much_as_is_said():
    """The same stars, with templates of six tables of artificial stars."""
    truth = Photometry()
    truth.zero = np.array([28.0, 27.5])
    fractions = {name: TRUE[name] for name in ("pair_fraction", "companion_fraction")}
    drawn = draw_population(white_dwarfs(TRUE["age"]), 4000, TRUE["exponent"], 7, companions=COMPANIONS, **fractions)
    seen = truth.observe(np.column_stack([drawn["a_mag"], drawn["b_mag"]]), np.random.default_rng(8))[:, ::-1]
    seen = seen[np.isfinite(seen).all(axis=1)]
    stars = np.column_stack([seen[:, 0], seen[:, 1] - seen[:, 0]])
    isochrones = [white_dwarfs(age) for age in np.arange(9.6, 10.61, 0.1)]
    means, added = [], []
    for number in range(6):
        model = fit_error_model(truth.table(20_000, np.random.default_rng(50 + number)), "b", "a")
        made = population_templates(isochrones, model, "b", MAGNITUDES, ("a", "b"), COLORS, COMPANIONS)
        with pytest.warns(UserWarning, match="artificial stars near these stars' magnitudes are few"):
            both = made, replace(made, replicas=0.0 * made.replicas)
            fits = [fit_population(one, stars, generator=1, n_steps=100) for one in both]
        means.append(fits[1].summary()["mean"])
        added.append(np.square(fits[0].summary()["error"]) - np.square(fits[1].summary()["error"]))
    ratio = np.std(means, axis=0, ddof=1) / np.sqrt(np.mean(added, axis=0))
    assert 0.65 < np.sqrt(np.mean(ratio**2)) < 1.35 and ratio.max() < 2.0
