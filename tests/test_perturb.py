"""Perturbation: the ePSF of one exposure that differs from the library's, and the guards against making one up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from analytic_scene import exposure, gridded_epsf, isolated_field, observe, true_epsf

from dpm.io.run_folder import RunFolder
from dpm.models.epsf import GriddedEPSF, centre_samples
from dpm.models.exposure import ExposureImage
from dpm.models.options import FindOptions, Options, PsfOptions
from dpm.stages import perturbation
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.perturbation.correction import choose_zones, find_correction, perturbed_epsf
from dpm.stages.perturbation.judge import Perturbation, perturb
from dpm.stages.psf.candidates import StarStamps, choose_stars, cut_stars, drop_outliers
from dpm.stages.psf.grid import normalise, radius_grid

SIDE, SPACING = 480, 24  # 400 stars
BOUNDS = (0.0, SIDE - 1.0, 0.0, SIDE - 1.0)
FLUXES = 10 ** np.linspace(3.9, 5.1, 400)


def library(stretch: float = 1.0) -> GriddedEPSF:
    """As the pipeline has it: centred, one star within the normalisation radius, nothing beyond the end."""
    samples = centre_samples(normalise(gridded_epsf(stretches=(stretch,)).samples[0, 0]))[0]
    return GriddedEPSF(samples[None, None], np.array([SIDE / 2.0]), np.array([SIDE / 2.0]), source="analytic")


def stamps(image: ExposureImage, epsf: GriddedEPSF) -> StarStamps:
    measured = measure_exposure(image, epsf, FindOptions(threshold=15.0, passes=1))
    return cut_stars(image, epsf, measured, drop_outliers(measured.rows, choose_stars(image, measured, 40.0)))


def core_error(made: GriddedEPSF, truth: GriddedEPSF) -> float:
    """RMS within 1.5 pixels, of the peak, mean over nodes."""
    inside = radius_grid() <= 1.5
    return float(np.sqrt(np.mean((made.samples - truth.samples)[..., inside] ** 2))) / float(truth.samples.max())


@pytest.fixture(scope="module")
def field_stamps() -> StarStamps:
    """400 isolated stars, measured with the ePSF that made them."""
    return stamps(isolated_field(SIDE, SPACING, FLUXES, 5).image, library())


@pytest.fixture(scope="module")
def narrower(field_stamps: StarStamps) -> Perturbation:
    """What comes out when the library is two per cent too narrow for the exposure."""
    return perturb(field_stamps, library(0.98), BOUNDS)


def test_a_change_of_width_is_recovered(narrower: Perturbation) -> None:
    """The ePSF comes about as near as it says (what depends on pixel phase alone is not in the stated error)."""
    assert narrower.figures["applied"] and narrower.epsf is not None
    before, after = core_error(library(0.98), library()), core_error(narrower.epsf, library())
    assert before > 0.006
    assert after < 0.2 * before
    assert 0.0002 < narrower.figures["error"] < 0.001 and after < 2.5 * narrower.figures["error"]
    truth = float(library().samples[0, 0, 50, 50] / library(0.98).samples[0, 0, 50, 50]) - 1.0
    assert narrower.figures["core_change"] == pytest.approx(truth, rel=0.12)


def test_stars_left_out_fit_better(narrower: Perturbation) -> None:
    figures = narrower.figures
    assert figures["qfit_after"] < 0.67 * figures["qfit_before"]
    assert figures["chi_after"] == pytest.approx(1.0, abs=0.06) and figures["chi_before"] > 1.15
    assert figures["better"] > 0.8 and figures["significance"] > 8.0


def test_perturbed_epsf_keeps_the_conventions(narrower: Perturbation) -> None:
    """All light at every pixel phase, centred."""
    assert narrower.epsf is not None
    for node in narrower.epsf.samples.reshape(-1, 101, 101):
        assert node[radius_grid() <= 5].sum() / 16 == pytest.approx(1.0, abs=2e-3)
        sums = [node[row::4, column::4].sum() for row in range(4) for column in range(4)]
        own = [library(0.98).samples[0, 0][row::4, column::4].sum() for row in range(4) for column in range(4)]
        assert np.allclose(sums, own, atol=2e-3)
        assert max(abs(value) for value in centre_samples(node)[1]) < 1e-3


@pytest.mark.parametrize("seed", [11, 12, 13, 14, 15, 16])
def test_noise_alone_makes_no_perturbation(seed: int) -> None:
    """With the true ePSF the correction is a small part of the noise, and none is applied."""
    image = isolated_field(SIDE // 2, SPACING, FLUXES[::4], 100 * seed).image
    stars = stamps(image, library())
    result = perturb(stars, library(), (0.0, SIDE / 2 - 1.0, 0.0, SIDE / 2 - 1.0))
    assert result.figures["stars"] > 60
    assert not result.figures["applied"] and result.epsf is None
    assert abs(result.figures["core_change"]) < 0.003
    assert result.figures["qfit_after"] < 1.03 * result.figures["qfit_before"]
    assert "library stays" in result.figures["words"]


def test_few_stars_make_none_and_say_so(field_stamps: StarStamps) -> None:
    few = StarStamps(type(field_stamps.stamps)(*(array[:30] for array in field_stamps.stamps)), field_stamps.start[:30])
    result = perturb(few, library(0.98), BOUNDS)
    assert result.epsf is None and result.figures["zones"] == [0, 0]
    assert "30 bright isolated stars are too few" in result.figures["words"]
    none = StarStamps(type(field_stamps.stamps)(*(array[:0] for array in field_stamps.stamps)), field_stamps.start[:0])
    assert "0 bright isolated stars are too few" in perturb(none, library(), BOUNDS).figures["words"]


def test_zones_follow_the_stars() -> None:
    """As many as each has stars for; an empty corner makes the grid coarser."""
    place = np.random.default_rng(1).uniform(0, 100, (900, 2))
    bounds = (0.0, 99.0, 0.0, 99.0)
    zones = choose_zones(place, bounds)
    assert zones is not None and zones[0] == pytest.approx([16.5, 49.5, 82.5])
    zones = choose_zones(place[~(place < 34).all(axis=1)], bounds)
    assert zones is not None and zones[0].size == 2
    zones = choose_zones(place[~(place < 50).all(axis=1)], bounds)
    assert zones is not None and zones[0] == pytest.approx([49.5])
    assert choose_zones(place[:39], bounds) is None


def test_zones_have_their_own_shapes() -> None:
    """A width that grows along x: the zones' cores follow it, and the library's nodes carry it."""
    side, spacing = 480, 20
    centres = np.arange(spacing // 2, side, spacing)
    rng = np.random.default_rng(3)
    gy, gx = np.meshgrid(centres, centres, indexing="ij")
    x, y = gx.ravel() + rng.uniform(-0.5, 0.5, gx.size), gy.ravel() + rng.uniform(-0.5, 0.5, gx.size)
    flux = 10 ** rng.uniform(4.3, 5.1, x.size)
    light = np.zeros((side, side))
    for xs, ys, f in zip(x, y, flux, strict=True):
        columns_of, rows_of = round(xs) + np.arange(-9, 10), round(ys) + np.arange(-9, 10)
        columns_of, rows_of = (part[(part >= 0) & (part < side)] for part in (columns_of, rows_of))
        light[np.ix_(rows_of, columns_of)] += f * true_epsf(columns_of - xs, rows_of[:, None] - ys, 0.94 + 0.12 * xs / side)
    stars = stamps(exposure(observe(light, 4)), library())
    zones = choose_zones(stars.start[:, [0, 1]] + stars.first, (0.0, side - 1.0, 0.0, side - 1.0))
    assert zones is not None and zones[0].size == zones[1].size == 3
    made = perturbed_epsf(library(), find_correction(stars, library(), zones, np.arange(len(stars)) % 2))
    core = library().samples[0, 0, 50, 50]
    peak = made.samples[:, :, 50, 50].mean(axis=0) / core - 1.0
    truth = [library(0.94 + 0.12 * place / side).samples[0, 0, 50, 50] / core - 1.0 for place in (80, 240, 400)]
    assert peak == pytest.approx(truth, abs=0.012)
    assert truth[0] > 0.03


def test_without_the_option_there_is_nothing_to_do(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert perturbation.plan(folder, Options()) == []
    assert perturbation.finalise(folder, Options(), []) == {"perturbed": 0, "of": 0}
    assert not any(tmp_path.iterdir())


def test_figures_are_kept(tmp_path: Path) -> None:
    """One entry an exposure, and words about those with too few stars."""
    few = {"stars": 3, "zones": [0, 0], "applied": False, "words": "3 bright isolated stars are too few"}
    good = {"stars": 300, "zones": [2, 2], "applied": True, "qfit_before": 0.04, "qfit_after": 0.03, "words": "better"}
    results = [
        {"name": name, "figures": figures, "files": []}
        for name, figures in (("a_NIS", few), ("b_NIS", good))
    ]
    summary = perturbation.finalise(RunFolder(tmp_path), Options(psf=PsfOptions(perturb=True)), results)
    assert summary["perturbed"] == 1 and summary["of"] == 2 and summary["qfit_after"] == 0.03
    assert len(summary["warnings"]) == 1 and "a_NIS" in summary["warnings"][0]
    kept = json.loads((tmp_path / "calibration" / "psf" / "perturb.json").read_text())
    assert kept["exposures"]["b_NIS"] == good
