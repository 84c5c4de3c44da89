"""Dependence of the fits on colour: found where stars have it, none where they have not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_fixture import make_run

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table, write_table
from dpm.models.columns import DETECTION_COLUMNS
from dpm.models.options import Options
from dpm.simulate.instruments import INSTRUMENTS
from dpm.simulate.optics import WavefrontModel, make_epsf_grid
from dpm.stages import colour
from dpm.stages.colour.dependence import FEWEST_STARS, colour_dependence, slope_at_equal_magnitude


@pytest.mark.parametrize("slope", [0.0, 0.004])
def test_slopes_have_honest_errors(slope: float) -> None:
    """Colour grows with magnitude and so does the value: only what differs at one magnitude counts."""
    pulls, significance = [], []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        n = 400
        mag = rng.uniform(17, 21, n)
        col = 0.1 * mag + rng.normal(0, 0.3, n)
        star = np.repeat(np.arange(n), 6)
        wave = np.sin(rng.uniform(0, 2 * np.pi, star.size))
        # A part of the residual is the star's own, in all exposures alike.
        value = rng.normal(0, 0.01, star.size) + np.repeat(rng.normal(0, 0.01, n), 6) + (0.003 + slope * col[star]) * wave
        found = slope_at_equal_magnitude(col[star], value, mag[star], star, wave)
        pulls.append((found[0] - slope) / found[1])
        plain = slope_at_equal_magnitude(col, 0.5 * mag + slope * col + rng.normal(0, 0.01, n), mag, np.arange(n))
        pulls.append((plain[0] - slope) / plain[1] if slope == 0 else 0.0)
        significance.append(found[0] / found[1])
    assert 0.8 < np.std(pulls[::2]) < 1.25 and abs(np.mean(pulls[::2])) < 0.4
    assert slope or abs(np.mean(pulls[1::2])) < 0.4
    assert np.mean(significance) > 3 if slope else abs(np.mean(significance)) < 0.4


def with_radxs(folder: RunFolder, slope: float) -> None:
    """Add a slope of RADXS over the catalogue's colour to the first band's detections."""
    catalog = read_table(folder.catalog)
    difference = np.asarray(catalog["niriss_f090w_mag"]) - np.asarray(catalog["niriss_f150w_mag"])
    by_id = dict(zip(np.asarray(catalog["id"]), difference, strict=True))
    for path in sorted(folder.detections.glob("*.parquet")):
        table = read_table(path)
        if str(table["filter"][0]) != "F090W":
            continue
        match = read_table(folder.matches / path.name)
        add = np.array([by_id.get(star, np.nan) for star in match["id"]])
        table["radxs"][np.asarray(match["row"])] += np.where(np.isfinite(add), slope * add, 0.0).astype(np.float32)
        write_table(path, table, DETECTION_COLUMNS)


def test_colours_of_a_run_show_the_slope(tmp_path: Path) -> None:
    folder = make_run(tmp_path, n_stars=900)
    before = colour_dependence(folder)
    assert before["colour"] == ["niriss_f090w", "niriss_f150w"]
    for values in before["bands"].values():
        assert values["stars"] > FEWEST_STARS and abs(values["radxs"][0]) < 4 * values["radxs"][1]
    with_radxs(folder, 0.05)
    after = colour_dependence(folder)
    change = after["bands"]["niriss_f090w"]["radxs"][0] - before["bands"]["niriss_f090w"]["radxs"][0]
    assert change == pytest.approx(0.05, rel=0.1)
    assert after["bands"]["niriss_f150w"] == before["bands"]["niriss_f150w"]
    summary = colour.finalise(folder, Options(), [after])
    assert json.loads((folder.root / summary["files"][0]).read_text()) == after and "RADXS" in summary["words"]


def test_one_filter_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path, n_stars=60, bands=("niriss_f090w",))
    assert colour_dependence(folder) == {"words": "one filter: the stars have no colours here", "colour": [], "bands": {}}


def test_redder_light_makes_the_simulated_epsf_wider() -> None:
    camera, nodes = INSTRUMENTS["niriss"], np.array([0.0, 63.0])
    made = [
        make_epsf_grid(camera, "F150W", WavefrontModel(camera, np.random.default_rng(5)), nodes, nodes, stretch=stretch)
        for stretch in (1.0, 1.02)
    ]
    peaks = [grid.values.max() for grid in made]
    assert 0.97 < peaks[1] / peaks[0] < 0.995
