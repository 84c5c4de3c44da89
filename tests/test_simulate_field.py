"""Simulated fields as a whole: files, truth, epochs, reproducibility."""

import importlib.util
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from dpm.models.statistics import robust_width
from dpm.simulate import Effects, SimulatedField, SimulationOptions, Visit, simulate_field

CLEAN = Effects(
    galaxies=0,
    cosmic_rays=0,
    bad_pixels=False,
    warm_pixels=False,
    sky_gradient=0,
    filter_distortion=False,
    fine_distortion=False,
)
SMALL = SimulationOptions(
    visits=(
        Visit("niriss", ("F150W",), n_dithers=4, rolls=(0.0, 120.0)),
        Visit("wfc3_uvis", ("F814W",), epoch=2006.4, n_dithers=2, exptime=350.0, chips=("UVIS1",)),
    ),
    n_pixels=128,
    n_stars=60,
    magnitudes=(17.0, 23.0),
    reference_depth=4.0,
    effects=CLEAN,
    pointing_error=0.0,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SimulatedField:
    return simulate_field(tmp_path_factory.mktemp("simulated"), SMALL)


def test_layout(small: SimulatedField) -> None:
    names = {p.name for p in small.folder.iterdir()}
    assert {"reference.ecsv", "truth", "visit_02"} < names
    assert len(small.exposures) == 6 and all(p.is_file() for p in small.exposures)
    assert small.exposures[0].name == "idpm0211q_flc.fits"  # the earlier epoch comes first
    assert small.exposures[2].name == "jw01086001001_02101_00001_nis_cal.fits"
    truth = {p.name for p in (small.scenes[0] / "truth").iterdir()}
    assert {"scene.json", "stars.ecsv", "galaxies.ecsv", "epsf_F150W.npz", "distortion_F150W.npz", "stdpsf"} < truth
    assert (small.psf_folders[0] / "STDPSF_NIRISS_F150W.fits").is_file()
    assert (small.psf_folders[1] / "STDPSF_WFC3UV_F814W.fits").is_file()


def test_jwst_file(small: SimulatedField) -> None:
    with fits.open(small.exposures[2]) as hdus:
        assert [h.name for h in hdus[1:]] == ["SCI", "ERR", "DQ", "AREA", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"]
        primary, header = hdus[0].header, hdus["SCI"].header
        assert (primary["TELESCOP"], primary["INSTRUME"], primary["DETECTOR"]) == ("JWST", "NIRISS", "NIS")
        assert (primary["FILTER"], primary["PUPIL"]) == ("CLEAR", "F150W")
        assert header["BUNIT"] == "MJy/sr" and header["PHOTMJSR"] > 0 and header["XPOSURE"] == 128
        assert hdus["DQ"].data.dtype == np.uint32 and hdus["SCI"].data.shape == (128, 128)
        variance = hdus["VAR_POISSON"].data + hdus["VAR_RNOISE"].data + hdus["VAR_FLAT"].data
        np.testing.assert_allclose(hdus["ERR"].data, np.sqrt(variance), rtol=1e-5)
        assert primary["EXPMID"] == pytest.approx(51544.5 + 22.33 * 365.25, abs=0.01)


def test_hst_file(small: SimulatedField) -> None:
    with fits.open(small.exposures[0]) as hdus:
        assert [(h.name, h.ver) for h in hdus[1:]] == [("SCI", 1), ("ERR", 1), ("DQ", 1)]
        primary, header = hdus[0].header, hdus["SCI"].header
        assert (primary["TELESCOP"], primary["INSTRUME"], primary["DETECTOR"], primary["FILTER"]) == (
            "HST",
            "WFC3",
            "UVIS",
            "F814W",
        )
        assert header["BUNIT"] == "ELECTRONS" and header["CCDCHIP"] == 1 and header["CTYPE1"] == "RA---TAN-SIP"
        assert header["LTV1"] == 0 and header["SIZAXIS1"] == 128
        assert hdus["DQ"].data.dtype == np.dtype(">i2")
        blank = hdus["SCI"].data[hdus["SCI"].data < np.median(hdus["SCI"].data) * 1.5]
        assert robust_width(blank) == pytest.approx(
            np.median(hdus["ERR"].data), rel=0.2
        )


def exposures_of(scene: Path) -> list[dict]:
    return json.loads((scene / "truth" / "scene.json").read_text())["exposures"]


def test_truth_agrees_with_header_and_motions(small: SimulatedField) -> None:
    for scene, epoch, suffix in ((small.scenes[0], 2022.33, ""), (small.scenes[1], 2006.4, "_flc.fits")):
        stars = Table.read(scene / "truth" / "stars.ecsv")
        years = epoch - SMALL.ref_epoch
        ra = stars["ra"] + stars["pm_xi"] * years / 3.6e6 / np.cos(np.radians(stars["dec"]))
        dec = stars["dec"] + stars["pm_eta"] * years / 3.6e6
        for entry in exposures_of(scene):
            with np.load(scene / "truth" / f"{entry['file'].removesuffix('_cal.fits')}.npz") as found:
                wcs = WCS(fits.getheader(small.folder / (entry["file"] + suffix), "SCI"))
                x, y = wcs.all_world2pix(ra[found["id"]], dec[found["id"]], 0)
                assert found["id"].size > 5
                np.testing.assert_allclose(x, found["x"], atol=5e-3)
                np.testing.assert_allclose(y, found["y"], atol=5e-3)


def centroid(image: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Centroid in 7 x 7 pixels above the frame's median."""
    i, j = round(x), round(y)
    box = image[j - 3 : j + 4, i - 3 : i + 4] - np.median(image)
    v, u = np.indices(box.shape)
    return float((box * u).sum() / box.sum()) + i - 3, float((box * v).sum() / box.sum()) + j - 3


def test_bright_stars_lie_where_the_truth_says_and_have_its_counts(small: SimulatedField) -> None:
    seen = 0
    for entry in exposures_of(small.scenes[0]):
        with np.load(small.folder / "truth" / f"{entry['file'].removesuffix('_cal.fits')}.npz") as found:
            x, y, counts = found["x"], found["y"], found["counts"]
        with fits.open(small.folder / entry["file"]) as hdus:
            unit = hdus["SCI"].header["PHOTMJSR"]
            electrons = hdus["SCI"].data * hdus["AREA"].data / unit * 1.6 * 128
            saturated = hdus["DQ"].data != 0
        for k in np.flatnonzero((counts > 2e4) & (np.minimum(x, y) > 14) & (np.maximum(x, y) < 113)):
            distance = np.hypot(x - x[k], y - y[k])
            i, j = round(x[k]), round(y[k])
            others = np.sum(counts[(distance > 0) & (distance < 14)])
            if others > 0.01 * counts[k] or saturated[j - 5 : j + 6, i - 5 : i + 6].any():
                continue
            got = centroid(electrons, x[k], y[k])
            assert got == pytest.approx((x[k], y[k]), abs=0.15)
            box = electrons[j - 5 : j + 6, i - 5 : i + 6]
            assert (box - np.median(electrons)).sum() == pytest.approx(0.94 * counts[k], rel=0.05)
            seen += 1
    assert seen >= 4


def test_two_epochs_are_apart_by_motion_times_time(tmp_path: Path) -> None:
    visit = Visit("nircam_a1", ("F115W",), epoch=2010.0, n_dithers=1, rolls=(0.0,), dither=0.0)
    options = replace(
        SMALL,
        visits=(visit, replace(visit, epoch=2020.0)),
        n_stars=30,
        psf_grid=2,
        cluster_motion=(8.0, -5.0),
        cluster_fraction=1.0,
    )
    field = simulate_field(tmp_path, options)
    places = []
    for scene in field.scenes:
        entry = exposures_of(scene)[0]
        with np.load(scene / "truth" / f"{entry['file'].removesuffix('_cal.fits')}.npz") as found:
            places.append(
                {
                    int(n): (x - entry["px"] / 0.0311, y + entry["py"] / 0.0311)
                    for n, x, y in zip(found["id"], found["x"], found["y"])
                }
            )
    both = sorted(set(places[0]) & set(places[1]))
    step = np.median([np.subtract(places[1][n], places[0][n]) for n in both], axis=0)
    assert step[0] * 31.1 == pytest.approx(-80.0, abs=3.0)  # East is to the left
    assert step[1] * 31.1 == pytest.approx(-50.0, abs=3.0)


def read_all(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.fits"))}


def test_same_seed_same_bits_whatever_the_workers(tmp_path: Path) -> None:
    effects = Effects(stripes=3.0, interpixel_capacitance=0.005, brighter_fatter=4e-7, breathing=10.0)
    visit = replace(SMALL.visits[0], n_dithers=3)
    options = replace(SMALL, visits=(visit,), effects=effects, n_pixels=64, psf_grid=2)
    simulate_field(tmp_path / "one", options, workers=1)
    simulate_field(tmp_path / "two", options, workers=3)
    one, two = read_all(tmp_path / "one"), read_all(tmp_path / "two")
    assert one == two
    simulate_field(tmp_path / "other", replace(options, seed=2))
    other = read_all(tmp_path / "other")
    assert all(one[name] != other[name] for name in one)


def test_an_exposure_does_not_depend_on_the_others(tmp_path: Path) -> None:
    lone = replace(SMALL, visits=(replace(SMALL.visits[0], n_dithers=1),), n_pixels=64, psf_grid=2)
    more = replace(lone, visits=(*lone.visits, replace(SMALL.visits[1], n_dithers=1, n_pixels=64)))
    simulate_field(tmp_path / "lone", lone)
    simulate_field(tmp_path / "more", more)
    with fits.open(next((tmp_path / "lone").glob("jw*"))) as a, fits.open(next((tmp_path / "more").glob("jw*"))) as b:
        # the noise and the headers' errors are the same; the stars fill a larger area
        assert a["SCI"].header["CRVAL1"] == b["SCI"].header["CRVAL1"]
        np.testing.assert_array_equal(a["AREA"].data, b["AREA"].data)


def test_two_chips_in_one_file(tmp_path: Path) -> None:
    visit = Visit("acs_wfc", ("F814W",), n_dithers=1, exptime=300.0, chips=("WFC1", "WFC2"))
    field = simulate_field(tmp_path, replace(SMALL, visits=(visit,), n_pixels=96, n_stars=40, keep_offset=True))
    with fits.open(field.exposures[0]) as hdus:
        assert [(h.name, h.ver) for h in hdus[1:]] == [(n, v) for v in (1, 2) for n in ("SCI", "ERR", "DQ")]
        assert [hdus["SCI", v].header["CCDCHIP"] for v in (1, 2)] == [2, 1]
        assert (hdus[0].header["FILTER1"], hdus[0].header["FILTER2"]) == ("CLEAR1L", "F814W")
        assert hdus["SCI", 1].header["LTV1"] == -2000 and hdus["SCI", 1].header["LTV2"] == -976
        wcs = [WCS(hdus["SCI", v].header) for v in (1, 2)]
    tag = field.exposures[0].name.removesuffix("_flc.fits")
    stars = Table.read(tmp_path / "truth" / "stars.ecsv")
    for name, w in (("WFC2", wcs[0]), ("WFC1", wcs[1])):
        with np.load(tmp_path / "truth" / f"{tag}_{name}.npz") as found:
            assert found["id"].size > 3
            ra, dec = w.all_pix2world(found["x"] - 2000, found["y"] - 976, 0)
            assert np.abs(dec - stars["dec"][found["id"]]).max() * 3600 < 0.1
    with fits.open(field.psf_folders[0] / "STDPSF_ACSWFC_F814W.fits") as hdus:
        assert (hdus[0].header["NXPSFS"], hdus[0].header["NYPSFS"], hdus[0].data.shape) == (3, 6, (18, 101, 101))
        assert hdus[0].header["JPSFY01"] == 977 and hdus[0].header["JPSFY04"] == 977 + 2048


def test_subarray_says_where_it_lies(tmp_path: Path) -> None:
    visit = Visit("nircam_b1", ("F115W",), n_dithers=1)
    options = replace(SMALL, visits=(visit,), n_pixels=64, psf_grid=2, keep_offset=True, wcs="tan")
    field = simulate_field(tmp_path, options)
    with fits.open(field.exposures[0]) as hdus:
        primary = hdus[0].header
        assert (primary["SUBSTRT1"], primary["SUBSTRT2"], primary["SUBSIZE1"]) == (993, 993, 64)
        assert (primary["DETECTOR"], primary["FILTER"], primary["CHANNEL"]) == ("NRCB1", "F115W", "SHORT")
        assert hdus["SCI"].header["CTYPE1"] == "RA---TAN" and hdus["SCI"].header["CRPIX1"] == 32.5
    with np.load(tmp_path / "truth" / "epsf_F115W.npz") as true:
        assert true["nodes"].tolist() == [992, 992 + 63]
    with np.load(next((tmp_path / "truth").glob("jw*.npz"))) as found:
        assert found["x"].min() > 991 and found["x"].max() < 1056


def test_reference_is_the_bright_stars_with_errors(small: SimulatedField) -> None:
    reference = Table.read(small.reference)
    stars = Table.read(small.folder / "truth" / "stars.ecsv")
    assert {"source_id", "ra_error", "pmra", "pmdec_error", "ref_epoch", "phot_g_mean_mag"} < set(reference.colnames)
    bright = stars[stars["mag_F150W"] < stars["mag_F150W"].min() + 4]
    assert len(reference) == len(bright) > 5
    pull = (reference["dec"] - bright["dec"]) * 3.6e6 / reference["dec_error"]
    assert 0.5 < np.std(pull) < 1.6 and np.abs(pull).max() < 5


def test_stdpsf_is_the_true_epsf(small: SimulatedField) -> None:
    with (
        fits.open(small.psf_folders[0] / "STDPSF_NIRISS_F150W.fits") as hdus,
        np.load(small.folder / "truth" / "epsf_F150W.npz") as true,
    ):
        assert hdus[0].header["IPSFX01"] == 1 and hdus[0].header["IPSFX03"] == 128 and hdus[0].header["IPSFX04"] == 9999
        assert int(true["oversample"]) == 4 and true["epsf"].shape[-1] % 2 == 1
        c = true["epsf"].shape[-1] // 2
        np.testing.assert_array_equal(hdus[0].data[5], true["epsf"][1, 2, c - 50 : c + 51, c - 50 : c + 51])


def test_the_scorer_reads_the_truth(small: SimulatedField, shared_data: Path) -> None:
    path = shared_data.parent / "bench" / "truthlib.py"
    spec = importlib.util.spec_from_file_location("truthlib", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
        for scene in small.scenes:
            truth = module.Truth(str(scene))
            exposure = truth.exp[0]
            x, y = truth.sky2raw(exposure, *truth.at(truth.epoch))
            near = (x[exposure["id"]] > -900) & (np.abs(exposure["x"] - 64) < 64) & (np.abs(exposure["y"] - 64) < 64)
            assert near.sum() > 5
            np.testing.assert_allclose(x[exposure["id"]][near], exposure["x"][near], atol=1e-5)
            np.testing.assert_allclose(y[exposure["id"]][near], exposure["y"][near], atol=1e-5)
            assert np.isfinite(truth.crb_single(exposure)[0]).all()
            assert truth.coverage(truth.filters[0]).max() >= 1


def test_breathing_changes_the_images_and_is_written_down(tmp_path: Path) -> None:
    options = replace(SMALL, visits=SMALL.visits[:1], n_pixels=64, psf_grid=2, effects=replace(CLEAN, breathing=20.0))
    field = simulate_field(tmp_path, options)
    phases = [e["breathing"] for e in exposures_of(tmp_path)]
    assert len(set(phases)) == 4 and max(abs(p) for p in phases) <= np.sqrt(2)
    with (
        np.load(tmp_path / "truth" / "epsf_F150W.npz") as a,
        np.load(tmp_path / "truth" / "epsf_F150W_refocused.npz") as b,
    ):
        difference = np.abs(a["epsf"] - b["epsf"]).max() / a["epsf"].max()
    assert 0.002 < difference < 0.2
    assert len(field.exposures) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Visit("nirspec"), "instrument: 'nirspec' is not one of niriss"),
        (lambda: Visit("niriss", ("F814W",)), "filters: 'F814W' is not one of niriss's: F090W"),
        (lambda: Visit("acs_wfc", chips=("UVIS1",)), "chips: 'UVIS1'"),
        (lambda: Visit(n_dithers=0), "n_dithers"),
        (lambda: SimulationOptions(magnitudes=(20.0, 19.0)), "magnitudes"),
        (lambda: SimulationOptions(n_pixels=10), "n_pixels: 10 is too small"),
        (lambda: SimulationOptions(wcs="gwcs"), "wcs: 'gwcs'"),
    ],
)
def test_bad_options_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
