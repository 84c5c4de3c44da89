"""Change of the ePSF with brightness: found and applied where it is, and nothing where it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analytic_scene import SKY, Field, exposure, gridded_epsf, isolated_field, render
from astropy.io import fits
from scipy.spatial import cKDTree

from dpm.io.brightness_file import read_brightness, write_brightness
from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.kernels import quality as columns
from dpm.models.epsf import BrightnessTerm, GriddedEPSF, centre_samples
from dpm.models.options import FindOptions, Options, PsfOptions
from dpm.models.statistics import robust_width
from dpm.simulate.detector import brighter_fatter
from dpm.stages import brightness
from dpm.stages.brightness.slope import BrightnessSlope, brightness_slope, combine_slopes
from dpm.stages.brightness.term import ExposureStars, brightness_term, solve_term, spreading
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.perturbation.stars import cut_candidates
from dpm.stages.psf.grid import normalise, radius_grid

SIDE, SPACING = 480, 24  # 400 stars
FLUXES = 10 ** np.linspace(3.9, 5.3, 400)
STRENGTH = 1e-6


def library() -> GriddedEPSF:
    """As the pipeline has it: centred, one star within the normalisation radius, nothing beyond the end."""
    samples = centre_samples(normalise(gridded_epsf(stretches=(1.0,)).samples[0, 0]))[0]
    return GriddedEPSF(samples[None, None], np.array([SIDE / 2.0]), np.array([SIDE / 2.0]), source="analytic")


def exposures(strength: float, seed: int, n: int = 2) -> list[Field]:
    """The same sort of field a few times, with brighter-fatter."""
    out = []
    for k in range(n):
        field = isolated_field(SIDE, SPACING, FLUXES, seed + k)
        rng = np.random.default_rng(1000 + seed + k)
        light = brighter_fatter(render((SIDE, SIDE), field.x, field.y, field.flux) + SKY, strength)
        out.append(replace(field, image=exposure(rng.poisson(light) + rng.normal(0, 8.0, light.shape))))
    return out


def parts(fields: list[Field], epsf: GriddedEPSF) -> list[ExposureStars]:
    made = []
    for field in fields:
        measured = measure_exposure(field.image, epsf, FindOptions(threshold=15.0, passes=1))
        made.append(ExposureStars(cut_candidates(field.image, epsf, measured), epsf, field.image.charge_per_flux))
    return made


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    return exposures(STRENGTH, 9)


@pytest.fixture(scope="module")
def term(fields: list[Field]) -> tuple[BrightnessTerm, dict]:
    made, figures = brightness_term(parts(fields, library()))
    assert made is not None
    return made, figures


def test_the_change_of_the_simulator_is_recovered(term: tuple[BrightnessTerm, dict]) -> None:
    """Within a few hundredths of the change, where stars show it."""
    made, figures = term
    truth = STRENGTH * spreading(library().samples[0, 0])
    core = radius_grid() <= 1.5
    assert np.abs(truth[core] * made.brightest).max() > 0.02 * library().samples.max()
    wrong = np.sqrt(np.mean((made.samples - truth)[core] ** 2) / np.mean(truth[core] ** 2))
    assert wrong < 0.05
    assert figures["applied"] and figures["significance"] > 8 and figures["qfit_after"] < 0.8 * figures["qfit_before"]
    assert figures["core_change"] == pytest.approx(truth[50, 50] * made.brightest / library().samples.max(), rel=0.03)
    assert abs(made.reference) < 0.1 * made.brightest


def test_a_weak_change_has_its_full_strength() -> None:
    """Noise puts the charge at which the library holds below zero half of the time: the strength must not pay for that."""
    strength, psi = 4e-7, library().samples[0, 0]
    truth, core, found, pulls = strength * spreading(psi), radius_grid() <= 1.5, [], []
    for seed in (9, 301, 302, 303):
        made = parts(exposures(strength, seed), library())
        term = solve_term(made, [np.arange(len(part.stars)) % 2 for part in made])
        found.append((term.samples * truth)[core].sum() / (truth**2)[core].sum())
        pulls.append((term.samples - truth)[50, 50] * term.brightest / psi.max() / term.error)
    assert np.mean(found) == pytest.approx(1.0, abs=0.015)
    # The error holds that of the strength: without it these were several errors off.
    assert np.sqrt(np.mean(np.square(pulls))) < 1.7


def test_all_light_stays(term: tuple[BrightnessTerm, dict]) -> None:
    for row in range(4):
        for column in range(4):
            assert abs((term[0].samples * term[0].brightest)[row::4, column::4].sum()) < 1e-3


def test_bright_stars_are_described_with_it(term: tuple[BrightnessTerm, dict]) -> None:
    """On an exposure that had no part in it."""
    field = exposures(STRENGTH, 77, 1)[0]
    scatter, bias, quality = [], [], []
    for epsf in (library(), library().with_brightness(term[0])):
        rows = measure_exposure(field.image, epsf, FindOptions(threshold=15.0)).rows
        distance, found = cKDTree(rows[:, [columns.X, columns.Y]]).query(np.c_[field.x, field.y])
        assert distance.max() < 0.5
        bright = field.flux > 1e5
        relative = rows[found, columns.FLUX] / field.flux
        bias.append(float(np.median(relative[bright]) / np.median(relative[field.flux < 2e4]) - 1.0))
        rows = rows[found[bright]]
        offset = rows[:, [columns.X, columns.Y]] - np.c_[field.x, field.y][bright]
        scatter.append(robust_width((offset / rows[:, [columns.X_ERROR, columns.Y_ERROR]]).ravel()))
        quality.append(float(np.median(rows[:, columns.QFIT] / rows[:, columns.QFIT_EXPECTED])))
    assert quality[0] > 3.0 and quality[1] < 1.1
    assert abs(bias[1]) < 0.003  # the median of the faint ones is known to a thousandth
    assert 0.85 < scatter[1] < 1.15


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_without_the_effect_nothing_is_applied(seed: int) -> None:
    made, figures = brightness_term(parts(exposures(0.0, 10 * seed, 1), library()))
    assert made is None and not figures["applied"] and "not applied" in figures["words"]
    assert abs(figures["core_change"]) < 0.006


def test_few_stars_make_none_and_say_so(fields: list[Field]) -> None:
    whole = parts(fields[:1], library())[0]
    stamps = type(whole.stars.stamps)(*(array[:100] for array in whole.stars.stamps))
    few = ExposureStars(type(whole.stars)(stamps, whole.stars.start[:100]), whole.epsf, whole.charge_per_flux)
    made, figures = brightness_term([few])
    assert made is None and "100 bright isolated star images are too few" in figures["words"]
    made, figures = brightness_term([])
    assert made is None and "0 bright" in figures["words"]


def test_a_library_made_from_bright_stars_keeps_its_charge(fields: list[Field]) -> None:
    """A library that holds at the charge of its stars is told from one that holds for faint ones."""
    charge = 6e4
    epsf = library()
    heavy = replace(epsf, samples=epsf.samples + charge * STRENGTH * spreading(epsf.samples[0, 0]))
    made, figures = brightness_term(parts(fields, heavy))
    assert made is not None and figures["applied"]
    assert made.reference == pytest.approx(charge, rel=0.25)
    core = radius_grid() <= 1.5
    faint = heavy.with_brightness(made).samples[0, 0]
    before, after = (np.abs(samples - epsf.samples[0, 0])[core].max() for samples in (heavy.samples[0, 0], faint))
    assert after < 0.35 * before


def test_levels_and_files(tmp_path: Path, term: tuple[BrightnessTerm, dict]) -> None:
    made = term[0]
    path = tmp_path / "BFPSF_NIS_F090W.fits"
    write_brightness(path, made, ("words",), "abc")
    again = read_brightness(path)
    assert again.samples == pytest.approx(made.samples, rel=1e-5, abs=1e-6 * np.abs(made.samples).max())
    assert (again.brightest, again.reference, again.error) == pytest.approx((made.brightest, made.reference, made.error))
    assert fits.getheader(path)["DPMPAIR"] == "abc"
    epsf = library().with_brightness(made)
    assert made.level([0.0, made.brightest, 5 * made.brightest, -3.0]).tolist() == [0, 24, 24, 0]
    top = epsf.library(level=24).coefficients - epsf.library().coefficients
    assert np.allclose(top, made.coefficients, atol=1e-6)
    solved = replace(epsf.at_level(24), source="solved anew").coefficients
    assert np.allclose(epsf.at_level(24).coefficients, solved, atol=1e-5)
    fits.writeto(tmp_path / "other.fits", np.zeros((3, 3)))
    with pytest.raises(InputError, match="BFPSF"):
        read_brightness(tmp_path / "other.fits")


def test_brighter_fatter_is_measured() -> None:
    """The simulator's brighter-fatter effect lowers the centres of bright stars; without it the slope is none."""
    strength = STRENGTH
    made = parts([*exposures(0.0, 9, 1), *exposures(strength, 9, 1)], library())
    slopes = [brightness_slope(part.stars, library()) for part in made]
    assert slopes[0] is not None and slopes[1] is not None
    assert abs(slopes[0].slope) < 3.5 * slopes[0].error
    assert slopes[1].slope < -10 * slopes[1].error
    # A border moves by half the strength times the difference of charge, and the fitted flux takes up a part.
    assert slopes[1].slope == pytest.approx(-strength, rel=0.2)
    combined = combine_slopes([vars(slope) for slope in (slopes[1], slopes[1])])
    assert combined is not None and combined["change"] == pytest.approx(slopes[1].slope * slopes[1].peak)
    assert combined["error"] == pytest.approx(slopes[1].error * slopes[1].peak / np.sqrt(2))
    assert combine_slopes([]) is None and BrightnessSlope(**vars(slopes[0])) == slopes[0]


def test_without_the_option_there_is_nothing_to_do(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert brightness.plan(folder, Options()) == []
    assert brightness.finalise(folder, Options(), []) == {"applied": 0, "of": 0}
    assert not any(tmp_path.iterdir())


def test_figures_are_kept(tmp_path: Path) -> None:
    few = {"stars": 3, "applied": False, "words": "3 bright isolated star images are too few"}
    good = {"stars": 300, "applied": True, "brightest": 1e5, "words": "better"}
    results = [{"name": name, "figures": figures, "slope": None, "files": []} for name, figures in (("A_F1", few), ("A_F2", good))]
    summary = brightness.finalise(RunFolder(tmp_path), Options(psf=PsfOptions(brightness=True)), results)
    assert summary["applied"] == 1 and summary["cubes"] == ["A_F2"] and len(summary["warnings"]) == 1
    kept = json.loads((tmp_path / "calibration" / "psf" / "brightness.json").read_text())
    assert kept["A_F2"] == {"term": good, "slope": None}
