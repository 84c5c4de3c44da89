"""The report's sections on what the ePSF of a filter leaves out: numbers of the files, and nothing where there are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_fixture import make_run
from test_report import Page

from dpm.io.brightness_file import write_brightness
from dpm.io.stdpsf import read_stdpsf, write_stdpsf
from dpm.models.epsf import BrightnessTerm
from dpm.report import write_report
from dpm.stages.brightness.term import spreading

EXPOSURES = {
    "jw01_a_NIRISS": {
        "stars": 312, "zones": [2, 3], "applied": True, "qfit_before": 0.0412, "qfit_after": 0.0298, "significance": 9.3,
        "core_change": 0.0123, "error": 0.0011, "words": "better",
    },
    "jw01_b_NIRISS": {
        "stars": 300, "zones": [1, 1], "applied": False, "qfit_before": 0.0277, "qfit_after": 0.0281, "significance": -1.2,
        "core_change": 0.0002, "error": 0.0009, "words": "no better",
    },
    "jw01_c_NIRISS": {"stars": 12, "zones": [0, 0], "applied": False, "words": "too few"},
}  # fmt: skip
TERM = {
    "stars": 1234, "applied": True, "qfit_before": 0.0253, "qfit_after": 0.0231, "significance": 8.2, "core_change": -0.0612,
    "error": 0.0014, "brightest": 2.5e5, "reference": 3.1e4, "words": "QFIT of stars left out 0.0253, 0.0231 with it",
    "curve": {"charge": [1e3, 1e4, 1e5], "before": [1.0, 1.1, 3.2], "after": [1.0, 1.0, 1.3]},
}  # fmt: skip
COLOUR = {
    "words": "",
    "colour": ["niriss_f090w", "niriss_f150w"],
    "bands": {
        "niriss_f090w": {
            "stars": 321, "range": [0.8, 1.5], "radxs": [0.0123, 0.0011], "qfit_ratio": [0.05, 0.02], "phase_x": [0.0041, 0.0012],
            "phase_y": [float("nan"), float("nan")],
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = make_run(tmp_path_factory.mktemp("perturbed") / "run", n_stars=60, n_exposures=2, cubes=False)
    (folder.psf / "perturb.json").write_text(json.dumps({"exposures": EXPOSURES}))
    (folder.psf / "brightness.json").write_text(
        json.dumps({"NIRISS_F090W": {"term": TERM, "slope": {"change": -0.0415, "error": 0.0011, "peak": 1.0, "stars": 9}}})
    )
    (folder.psf / "colour.json").write_text(json.dumps(COLOUR))
    epsf = read_stdpsf(folder.psf_file("NIRISS", "F090W"), centre=False)
    write_brightness(
        folder.brightness_file("NIRISS", "F090W"), BrightnessTerm(4e-7 * spreading(epsf.samples[0, 0]), 2.5e5, 3.1e4, 0.0014)
    )
    own = folder.perturbed_psf_file("jw01_a", "NIRISS", "F090W")
    own.parent.mkdir()
    write_stdpsf(own, replace(epsf, samples=1.01 * epsf.samples))
    return Page(write_report(folder))


def test_perturbation_shows_each_exposure(page: Page) -> None:
    text, names = page.section("perturbation"), " | ".join(page.images)
    assert "QFIT of stars left out" in names and "jw01_a NIRISS F090W: own minus library" in names
    assert "1 of 3 exposures have an ePSF of their own" in text and "0.0412 with the library, 0.0298 with it" in text
    assert "jw01_a_NIRISS 312 3 × 2 yes 0.0412 0.0298 +9.3 +1.23 0.11" in text
    assert "jw01_c_NIRISS 12 0 × 0 no – – – – –" in text


def test_brightness_shows_term_and_slope(page: Page) -> None:
    text, names = page.section("brightness"), " | ".join(page.images)
    assert "QFIT over its expectation against charge, NIRISS F090W" in names and "change of psi" in names
    assert "NIRISS F090W 1,234 yes 0.0253 0.0231 +8.2 -6.12 0.14 -4.15 ± 0.11" in text
    assert "holds at 31,000 electrons" in text


def test_colour_shows_slopes_with_errors(page: Page) -> None:
    text = page.section("colour")
    assert "Slopes of the fits over colour" in " | ".join(page.images)
    assert "NIRISS F090W 321 0.80 to 1.50 +0.0123 ± 0.0011 +0.050 ± 0.020 +4.10 ± 1.20 –" in text


def test_absent_figures_leave_no_section(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=20, n_exposures=2, bands=("niriss_f090w",), cubes=False)
    (folder.psf / "colour.json").write_text(json.dumps({"words": "one filter: no colours", "colour": [], "bands": {}}))
    (folder.psf / "perturb.json").write_text("[1, 2]")
    few = {"stars": 3, "applied": False, "words": "few"}
    (folder.psf / "brightness.json").write_text(json.dumps({"NIRISS_F090W": {"term": few}}))
    page = Page(write_report(folder))
    assert "Absent: one filter: no colours." in page.section("colour")
    assert 'id="perturbation"' not in page.html
    assert "NIRISS F090W 3 no –" in page.section("brightness")
