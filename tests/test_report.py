"""The report: one self-contained page from whatever a run folder holds."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from PIL import Image
from report_fixture import SCALE, SIZE, make_run, write_build, write_distortion

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table, write_table
from dpm.models.columns_page import columns_page
from dpm.report import write_report
from dpm.report.data import band_label, load_run
from dpm.report.figures import running_median
from dpm.report.plots_distortion import fit_gaussian
from dpm.report.plots_footprints import footprints
from dpm.report.plots_photometry import color_pairs
from dpm.report.select import measured_residuals, scatter_of_stars, well_measured


class Page(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.images: dict[str, bytes] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(self.html)
        assert not self.open, f"unclosed tags: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        if "id" in values:
            self.ids.append(str(values["id"]))
        for name in ("src", "href"):
            if name in values:
                self.links.append(str(values[name]))
        if tag == "img":
            data = str(values["src"]).removeprefix("data:image/png;base64,")
            self.images[str(values["alt"])] = base64.b64decode(data)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def section(self, anchor: str) -> str:
        """Text of one section without tags."""
        found = re.search(rf'<section id="{anchor}">(.*?)</section>', self.html, re.S)
        assert found, anchor
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", found.group(1)))


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("full") / "run", n_stars=600)


@pytest.fixture(scope="module")
def full_page(full_run: RunFolder) -> Page:
    path = write_report(full_run)
    assert path == full_run.root / "report" / "index.html"
    assert [part.name for part in path.parent.iterdir()] == ["index.html"]
    return Page(path)


def test_page_is_self_contained(full_page: Page) -> None:
    assert all(link.startswith(("data:", "#")) for link in full_page.links)
    assert "http" not in re.sub(r"base64,[^\"]*", "", full_page.html)
    assert {link[1:] for link in full_page.links if link.startswith("#")} <= set(full_page.ids)
    assert len(full_page.html) < 6e6


def test_every_plot_is_there_and_small(full_page: Page) -> None:
    names = " | ".join(full_page.images)
    for words in (
        "NIRISS, F090W, whole",
        "magnified with detections",
        "QFIT against",
        "RADXS against",
        "chi against",
        "Position scatter",
        "dy against dx",
        "Residual map, NIRISS, F150W",
        "raw position",
        "pixel phase",
        "Pulls",
        "Magnitude scatter",
        "Colour-magnitude diagram NIRISS F090W",
        "Number of stars",
        "ePSF NIRISS F090W",
    ):
        assert words in names, words
    for name, content in full_page.images.items():
        picture = Image.open(io.BytesIO(content))
        assert len(content) < 160_000, name
        assert np.asarray(picture.convert("L")).std() > 4, f"{name} is empty"


def test_summary_says_what_was_found(full_page: Page) -> None:
    summary = full_page.section("summary")
    assert "600 stars in the catalogue" in summary and "9.8 s" in summary
    assert "different versions of the calibration software (CAL_VER): 1.11.4, 1.12.0" in summary
    exposures = full_page.section("exposures")
    assert "jw01086001001_00101_00000_nis" in exposures and "0.0080" in exposures
    assert "MASKED_PIXELS" in full_page.section("flags")
    assert "{band}_mag" in full_page.section("columns")
    assert "numpy" in full_page.section("provenance")


def test_text_of_the_run_is_escaped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=5, n_exposures=1, bands=("niriss_f090w",), cubes=False)
    folder.config.write_text('[run]\nname = "<script>alert(1)</script>"\n')
    assert "<script" not in Page(write_report(folder)).html


def test_nine_stars_in_one_filter(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=9, n_exposures=3, bands=("wfc3uv_f814w",), spurious=80, psf=False)
    page = Page(write_report(folder))
    assert "needs two filters" in page.section("cmd")
    assert "no library" in page.section("epsf")
    assert "QFIT against" in " ".join(page.images)


def test_one_exposure(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=30, n_exposures=1, bands=("nicmos_f160w",), cubes=False)
    page = Page(write_report(folder))
    assert "no star has two or more clean exposures" in page.section("positions")
    assert "no cube" in page.section("field")


def test_run_without_matches(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=60, n_exposures=2, matches=False, cubes=False)
    page = Page(write_report(folder))
    assert "tables/matches" in page.section("residuals")
    assert "QFIT against" in " ".join(page.images)


def test_run_that_stopped_after_the_first_pass(full_run: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(full_run.root, folder.root)
    for path in (folder.catalog, folder.exposures, folder.provenance, folder.config):
        path.unlink()
    shutil.rmtree(folder.matches)
    page = Page(write_report(folder.root))
    assert "no catalogue in this run folder yet" in page.section("summary")
    assert "NIRISS, F090W, whole" in " ".join(page.images)


def test_empty_run_folder(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert not page.images and "Absent" in page.section("quality")
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(tmp_path / "nothing")


def test_empty_catalogue_and_broken_part(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=0, n_exposures=2, bands=("niriss_f090w",), cubes=False)
    next(folder.detections.glob("*.parquet")).write_bytes(b"PAR1 but cut")
    page = Page(write_report(folder))
    assert "The catalogue is empty" in page.section("summary")
    assert "could not be read" in page.section("summary")


def test_warnings_of_the_stages_are_shown_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=5, n_exposures=2, bands=("niriss_f090w",), cubes=False)
    stages = {"ingest": {"seconds": 1.0, "summary": {"warnings": ["mixed CAL_VER"]}}}
    folder.provenance.write_text(json.dumps({"warnings": ["mixed CAL_VER", "noise from ERR"], "stages": stages}))
    summary = Page(write_report(folder)).section("summary")
    assert summary.count("mixed CAL_VER") == 1 and "noise from ERR" in summary and "different versions" not in summary


def test_wrong_errors_are_pointed_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=200, n_exposures=3, bands=("niriss_f090w",), cubes=False, psf=False)
    for path in folder.detections.glob("*.parquet"):
        table = read_table(path)
        table["chi"] *= 4.0
        for name in ("x_error", "y_error"):
            table[name] /= 5.0
        write_table(path, table)
    summary = Page(write_report(folder)).section("summary")
    assert "Half of the fits in NIRISS F090W have a chi above 4.0" in summary
    assert "Positions of well-measured stars in NIRISS F090W scatter" in summary


def test_thinning_keeps_whole_stars(full_run: RunFolder) -> None:
    everything, thinned = load_run(full_run), load_run(full_run, max_rows=800)
    first, second = everything.samples["niriss_f090w"], thinned.samples["niriss_f090w"]
    assert second.n_total == first.n_total == len(first) and len(second) < 1000
    counts = np.unique(second["id"][second.matched], return_counts=True)[1]
    assert counts.min() == counts.max() == 4


def test_scatter_of_stars_is_unbiased(full_run: RunFolder) -> None:
    data = load_run(full_run)
    sample = data.samples["niriss_f090w"]
    rng = np.random.default_rng(3)
    sample.values["dx"][:] = rng.normal(5.0, 0.02, len(sample))
    sample.values["dy"][:] = rng.normal(-5.0, 0.02, len(sample))
    stars = scatter_of_stars(data, sample)
    assert np.sqrt(np.mean(stars.rms**2)) == pytest.approx(0.02, rel=0.04)
    chosen, factor = measured_residuals(sample)
    assert factor == pytest.approx(np.sqrt(4 / 3), rel=0.1) and chosen.sum() == factor.size
    assert np.isfinite(stars.mag).any() and well_measured(sample).sum() > 100


def test_bands_and_pairs(full_run: RunFolder) -> None:
    assert band_label("niriss_f090w") == "NIRISS F090W" and band_label("acswfc_f814w_2006") == "ACS F814W (2006)"
    assert color_pairs(load_run(full_run)) == [("niriss_f090w", "niriss_f150w")]


def test_running_median_of_little() -> None:
    for n in (0, 1, 4, 7):
        centers, medians, errors = running_median(np.arange(float(n)), np.ones(n))
        assert centers.shape == medians.shape == errors.shape
    assert running_median(np.ones(50), np.ones(50))[0].size == 0


def test_columns_of_unknown_tables_are_left_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=12, n_exposures=2, bands=("niriss_f090w",), cubes=False)
    table = read_table(folder.catalog)
    write_table(folder.catalog, Table({name: table[name] for name in ("id", "x", "y")}))
    assert "has no magnitudes" in Page(write_report(folder)).section("luminosity")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, dict, dict[str, float], Page]:
    folder = make_run(tmp_path_factory.mktemp("calibrated") / "run", n_stars=200, n_exposures=3, cubes=False)
    history = write_build(folder, ("NIRISS_F090W", "NIRISS_F150W"))
    widths = write_distortion(folder, "NIRISS", ("F090W", "F150W"))
    return folder, history, widths, Page(write_report(folder))


def test_epsf_build_shows_the_numbers_of_its_file(calibrated: tuple[RunFolder, dict, dict[str, float], Page]) -> None:
    _, history, _, page = calibrated
    text, names = page.section("epsf-build"), " | ".join(page.images)
    for words in ("Convergence of the ePSF build", "Sampling scatter before and after", "Pixel-phase residuals of the ePSF build"):
        assert f"{words}, NIRISS F090W" in names and f"{words}, NIRISS F150W" in names
    entry = history["NIRISS_F150W"]
    first, last = entry["updates"][0], entry["updates"][-1]
    assert f"change from {100 * first['change']:.3f} % of the peak to {100 * last['change']:.3f} %" in text
    assert f"Innermost pixel: {first['ring_chi'][0]:.2f} before, {last['ring_chi'][0]:.2f} after" in text
    averages = entry["averages"]
    assert f"first round: {averages[0]['amplitude']:.5f}" in text and f"last round: {averages[-1]['amplitude']:.5f}" in text
    # What counts is the last round before the exposures' own positions are mixed in.
    assert f"pixel-phase amplitude, last [pix] {averages[-2]['amplitude']:.5f}" in text
    assert f"star images {history['NIRISS_F090W']['updates'][-1]['stars']} {last['stars']}" in text
    assert f"QFIT in the build, last {averages[-1]['qfit']:.4f}" in text and "0.62" in text


def test_built_epsf_quality_is_that_of_the_detections(calibrated: tuple[RunFolder, dict, dict[str, float], Page]) -> None:
    folder, _, _, page = calibrated
    sample = load_run(folder).samples["niriss_f090w"]
    good = well_measured(sample)
    ratio = np.nanmedian(sample["qfit"][good] / sample["qfit_expected"][good])
    assert f"QFIT over what noise alone gives {ratio:.3f}" in page.section("epsf-build")
    assert f"{ratio:.2f} times what noise alone gives" in page.section("quality")
    assert f"RADXS {np.nanmedian(sample['radxs'][good]):+.4f}" in page.section("epsf-build")


def test_distortion_shows_the_numbers_of_its_file(calibrated: tuple[RunFolder, dict, dict[str, float], Page]) -> None:
    _, _, widths, page = calibrated
    text, names = page.section("distortion"), " | ".join(page.images)
    for words in ("Distortion correction", "Distortion residuals before and after each term", "Histograms of distortion"):
        assert words in names
    assert "Filter dependence of the distortion, NIRISS" in names and "Pixel scale of every exposure, NIRISS" in names
    assert "Distortion of every exposure less the map, NIRISS" in names
    for term, words in (("START", "before any term"), ("TABLE", "after the look-up table"), ("FINE", "after the per-pixel term")):
        width = widths[f"F150W_{term}"]
        assert f"{words} {width:.4f}, {1.2 * width:.4f}" in text  # Gaussian fits
        assert f"{0.5 * width:.4f} {words}" in text  # cells: 0.3 and 0.4 of the width make 0.5
    assert f"largest {np.hypot(0.65536, 0.65536):.3f} pixels" in text
    assert "one axis: 0.0042 pixel RMS" in text and "expected error, one axis [pix] 0.0045" in text
    assert f"F090W {np.hypot(0.03, 0.03):.4f} ± {np.hypot(0.0042, 0.0042):.4f}" in text
    assert "F090W 0.065500 arcsec ± 3.7 ppm, scatter 15.8 ppm" in text


def test_gaussian_of_a_histogram_leaves_wings_aside() -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(0.002, 0.011, 20_000), rng.uniform(-0.1, 0.1, 1500)])
    counts, edges = np.histogram(values, np.linspace(-0.1, 0.1, 62))
    fit = fit_gaussian(edges[:-1], edges[1:], counts.astype(float))
    assert fit is not None
    assert fit[2] == pytest.approx(0.011, rel=0.04) and fit[1] == pytest.approx(0.002, abs=4e-4)
    assert fit_gaussian(edges[:-1], edges[1:], np.zeros(61)) is None


def test_calibration_that_was_not_made_here_is_left_out(full_page: Page) -> None:
    assert not {"epsf-build", "distortion"} & set(full_page.ids)
    assert "ePSF NIRISS F090W" in " ".join(full_page.images)


def test_damaged_calibration_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", n_stars=20, n_exposures=2, bands=("niriss_f090w",), cubes=False)
    write_distortion(folder, "NIRISS", ("F090W",))
    write_distortion(folder, "NRCA1", ("F200W",))
    broken = folder.distortion / "solution_NRCA1.fits"
    broken.write_bytes(broken.read_bytes()[:4000])
    (folder.distortion / "errors_NIRISS.fits").unlink()
    (folder.psf / "build.json").write_text('{"NIRISS_F090W": {"updates": [{"change": 0.004}], "averages": [{}]}}')
    page = Page(write_report(folder))
    assert "solution_NRCA1.fits could not be read" in page.section("summary")
    assert "Distortion correction NIRISS F090W" in page.images and "0.400" in page.section("epsf-build")


def test_page_of_columns_is_up_to_date() -> None:
    committed = Path(__file__).resolve().parents[1] / "docs" / "columns.md"
    advice = "run: python -m dpm.models.columns_page docs/columns.md"
    assert committed.read_text(encoding="utf-8") == columns_page(), advice


def test_footprints_lie_where_the_transforms_put_them(full_run: RunFolder) -> None:
    found = footprints(load_run(full_run))
    assert {band: len(corners) for band, corners in found.items()} == {"niriss_f090w": 4, "niriss_f150w": 4}
    table = load_run(full_run).exposures
    assert table is not None
    row = table[[str(band) for band in table["band"]].index("niriss_f090w")]
    middle = found["niriss_f090w"][0].mean(axis=0)
    assert middle == pytest.approx([-row["x_shift"] * SCALE, row["y_shift"] * SCALE])
    assert np.ptp(found["niriss_f090w"][0], axis=0) == pytest.approx([SIZE * SCALE] * 2)
