"""Figures of artificial stars: what they mark and count."""

import numpy as np
import pytest
from science_tables import Photometry, flagged, pritchet
from test_selections import as_catalog

from dpm.report.figures import encode
from dpm.report.plots_artificial import (
    plot_completeness,
    plot_completeness_map,
    plot_recovered_minus_inserted,
    plot_selection_planes,
    plot_selection_steps,
)
from dpm.science import (
    cmd_region,
    count_selections,
    fit_completeness,
    fit_completeness_map,
    footprint,
    motion_radius,
    quality_cut,
)


@pytest.fixture(scope="module")
def stars():
    return Photometry().table(12_000, np.random.default_rng(31))


def texts(axes):
    return [text.get_text() for text in axes.texts] + [text.get_text() for text in axes.get_legend().get_texts()]


def test_completeness_marks_its_limits():
    table = flagged(pritchet, 8000, np.random.default_rng(3))
    north = np.arange(8000) % 2 == 0
    figure = plot_completeness(table, "f", {"all": ("recovered", None), "north": ("recovered", north)}, magnitudes=(20.5, 28.0))
    mag, error = fit_completeness(table, "f", among=north, magnitudes=(20.5, 28.0)).limit(0.5)
    assert f"50 %: {mag:.3f} ± {error:.3f}" in texts(figure.axes[1])
    assert texts(figure.axes[0]) == ["inserted", "all", "north"] and figure.axes[1].get_xlabel() == "inserted f [mag]"
    assert encode(figure, "completeness").width > 300


def test_recovered_minus_inserted(stars):
    figure = plot_recovered_minus_inserted(stars, "b")
    low, high = figure.axes[0].get_ylim()
    assert low == -high and 0.3 < high < 1.6 and figure.axes[1].get_yscale() == "log"


def test_selection_panels_have_the_counts(stars):
    catalog = as_catalog(stars)
    steps = [
        footprint([(0, 0), (1000, 0), (1000, 1000), (0, 1000)], "x", "y"),
        cmd_region("a", "b", [(-0.3, 21), (1.2, 21), (1.2, 26), (-0.3, 26)]),
        motion_radius(1.0, "b"),
        *quality_cut(stars, "b", "radxs", 0.95, "both"),
    ]
    counts = count_selections(catalog, stars, steps)
    figure = plot_selection_steps(catalog, stars, steps, "a", "b")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:5] == [f"{name}\n{n:,}" for name, n in zip(["all", *counts["step"][2:]], counts["n_real"][1:])]
    assert titles[5:] == [f"{name}\n{n:,}" for name, n in zip(counts["step"][1:], counts["n_artificial"][1:])]
    figure = plot_selection_planes(catalog, stars, steps)
    assert len(figure.axes) == 8  # the two lines of RADXS are in one panel
    assert figure.axes[3].get_title(loc="left") == f"radxs b\n{counts['n_real'][4]:,} → {counts['n_real'][5]:,}"


def test_map(stars):
    found = fit_completeness_map(stars, "b", cells=4)
    figure = plot_completeness_map(found)
    assert figure.axes[0].get_title(loc="left") == f"completeness at b = {found.curve.limit(0.5)[0]:.2f}"
