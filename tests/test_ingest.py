"""Ingest from plan to cubes: real and simulated exposures, two chips, subarrays, noise against truth."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from exposure_mocks import write_ccd, write_ir, write_jwst

from dpm.io.cubes import cube_rows, open_cube, read_exposure, read_exposure_table
from dpm.io.dq import translate_hst
from dpm.io.errors import InputError
from dpm.io.exposure_files import read_exposure_headers, read_exposure_pixels
from dpm.io.run_folder import RunFolder
from dpm.io.wcs import read_wcs
from dpm.models.detectors import band_name, find_detector, header_detector
from dpm.models.flags import PixelFlag
from dpm.models.options import InputOptions, Options
from dpm.stages import ingest


def run_ingest(root: Path, patterns: tuple[str, ...], **settings: Any) -> tuple[RunFolder, dict[str, Any]]:
    """The whole stage in this process."""
    folder = RunFolder(root)
    folder.create()
    options = Options(input=InputOptions(exposures=patterns, **settings))
    results = [json.loads(json.dumps(ingest.work(task))) for task in ingest.plan(folder, options)]
    for result in results:
        assert all((folder.root / name).exists() for name in result["files"])
    return folder, ingest.finalise(folder, options, results)


def pixels_of(path: Path, **settings: Any) -> Any:
    """Pixels of a file's only unit."""
    names = [unit.detector.name for unit in read_exposure_headers(path)]
    [(_, pixels)] = read_exposure_pixels(path, names, InputOptions(**settings))
    return pixels


def test_real_wfc3(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "real" / "wfc3uvis_f814w_3dithers"
    folder, summary = run_ingest(tmp_path, (str(source / "*_flc.fits"),))
    assert summary["cubes"] == {"UVIS2_F814W.zarr": 3} and summary["warnings"] == []
    table = read_exposure_table(folder)
    assert table["exposure"].tolist() == ["iebc16u5q", "iebc16u8q", "iebc16ubq"]
    row = table[0]
    assert (row["x_origin"], row["y_origin"], row["nx"], row["ny"]) == (0, 1, 513, 512)
    assert row["epoch"] == pytest.approx(2022.7215, abs=1e-4) and row["exptime"] == 104.0
    assert row["zero_point_ab"] == pytest.approx(25.114, abs=0.01) and np.isnan(row["zero_point_vega"])
    image = read_exposure(folder.cubes / row["cube"], 0)
    with fits.open(source / "iebc16u5q_flc.fits") as hdulist:
        sci, err, dq = (hdulist[name, 1].data.astype(float) for name in ("SCI", "ERR", "DQ"))
        sky = hdulist["SCI", 1].header["CRVAL1"], hdulist["SCI", 1].header["CRVAL2"]
    assert np.allclose(image.sci * 104.0, sci, rtol=1e-6, atol=1e-4)
    assert np.allclose(image.poisson_factor, 1 / 104.0, rtol=3e-4)
    good = (image.dq == 0) & (sci > 0)
    predicted = image.var_read + image.poisson_factor * np.maximum(image.sci, 0)
    assert np.median(predicted[good] / (err[good] / 104.0) ** 2) == pytest.approx(1.0, abs=0.01)
    assert (((image.dq & PixelFlag.COSMIC_RAY) != 0) == ((dq.astype(int) & 4096) != 0)).all()
    x, y = read_wcs(folder.wcs_file("iebc16u5q", "UVIS2")).sky_to_pixel(*sky)
    assert np.hypot(x - 256.0, y - 256.0) < 0.2


def test_sim_noise_against_truth(shared_data: Path, tmp_path: Path) -> None:
    """k = 1.25 / (gain time) although VAR_POISSON / SCI scatters; the read variance is that of 12 electrons."""
    folder, summary = run_ingest(
        tmp_path, (str(shared_data / "sim" / "*_02101_0000[56]_nis_cal.fits"), *_first(shared_data))
    )
    assert summary["warnings"] == []
    scene = json.loads((shared_data / "sim" / "truth" / "scene.json").read_text())
    seconds = scene["args"]["exptime"]
    k = scene["poisson_factor"] / (scene["gain"] * seconds)
    read = (scene["read_noise"] / scene["gain"] / seconds) ** 2
    for row in read_exposure_table(folder):
        assert row["noise_source"] == "VAR_POISSON and VAR_RNOISE"
        image = read_exposure(folder.cubes / row["cube"], row["index"])
        plain = image.dq == 0
        assert np.abs(image.poisson_factor[plain] / k - 1).max() < 0.02
        assert np.median(image.poisson_factor[plain]) == pytest.approx(k, rel=2e-3)
        assert np.median(image.var_read[plain]) == pytest.approx(read, rel=5e-3)
        short = (image.dq & PixelFlag.SHORT_RAMP) != 0
        assert short.sum() > 100 and not (image.dq[short] & PixelFlag.BAD).any()
        assert np.median(image.poisson_factor[short]) > 1.2 * k and np.median(image.var_read[short]) > 1.5 * read
        assert (image.poisson_factor > 0).all() and (image.var_read > 0).all()
        assert np.isfinite(image.sci[(image.dq & PixelFlag.BAD) == 0]).all()
        level = scene["saturation"] / scene["gain"] / seconds
        assert row["saturation"] == pytest.approx(level, rel=0.15)
        assert row["epoch"] == pytest.approx(2022.33, abs=1e-3) and row["va_scale"] != 1.0


BAD, WARM = PixelFlag.BAD, PixelFlag.WARM
FULL, RAY = PixelFlag.SATURATED | BAD, PixelFlag.COSMIC_RAY | BAD
# Meaning of the bits 1, 2, 4 ... 16384 (sources in `dpm.io.dq`).
HST_BITS = {
    # decoding, fill, defect, masked; hot, unstable, warm, bias; full well, flat, trap, converter; drizzle, CR-SPLIT, ghost
    "WFC2": (BAD, BAD, BAD, BAD, WARM, BAD, WARM, BAD, FULL, BAD, BAD, FULL, RAY, RAY, BAD),
    "UVIS1": (BAD, BAD, BAD, BAD, WARM, BAD, WARM, BAD, FULL, BAD, BAD, FULL, RAY, RAY, BAD),
    # decoding, fill, defect, zeroth read; hot, unstable, warm, reference; saturated, blob, -, early signal; as above
    "WFC3IR": (BAD, BAD, BAD, BAD, WARM, BAD, WARM, BAD, FULL, 0, 0, 0, RAY, RAY, BAD),
    # decoding, linearity, dark, flat; grot, defect, saturated, lost; calibration, ray, source, early signal; drizzle, -, curved
    "NIC2": (BAD, BAD, BAD, BAD, BAD, BAD, FULL, BAD, BAD, RAY, 0, 0, RAY, 0, BAD),
}


def _first(shared_data: Path) -> tuple[str, ...]:
    names = ("jw01086001001_02101_00001_nis_cal.fits", "jw01086001001_03101_00002_nis_cal.fits")
    return tuple(str(shared_data / "sim" / name) for name in names)


def test_short_ramps_keep_their_own_noise(shared_data: Path) -> None:
    path = shared_data / "sim" / "jw01086001001_02101_00001_nis_cal.fits"
    image = pixels_of(path).image
    with fits.open(path) as hdulist:
        factor = hdulist["SCI"].header["PHOTMJSR"]
        sci, poisson, read = (
            hdulist[name].data / factor**p for name, p in (("SCI", 1), ("VAR_POISSON", 2), ("VAR_RNOISE", 2))
        )
        saturated = hdulist["DQ"].data == 2
    assert np.allclose(image.poisson_factor[saturated], poisson[saturated] / sci[saturated], rtol=1e-5)
    assert np.allclose(image.var_read[saturated], read[saturated], rtol=1e-5)
    assert (image.dq[saturated] == (PixelFlag.SATURATED | PixelFlag.SHORT_RAMP)).all()


def test_real_nicmos(shared_data: Path, tmp_path: Path) -> None:
    folder, _ = run_ingest(tmp_path, (str(shared_data / "real" / "nicmos_bulge" / "*.fits"),))
    row = read_exposure_table(folder)[0]
    assert (row["detector"], row["band"], row["flux_unit"]) == ("NIC2", "nicmos_f160w", "DN/s")
    assert row["epoch"] == pytest.approx(2004.150, abs=1e-3)
    image = read_exposure(folder.cubes / row["cube"], 0)
    plain = (image.dq == 0) & (image.poisson_factor < 1.3 * np.median(image.poisson_factor))
    shot = 1.0 / (5.4 * 1407.892)
    assert np.median(image.poisson_factor[plain]) == pytest.approx(1.15 * shot, rel=0.06)
    with fits.open(shared_data / "real" / "nicmos_bulge" / "n8q624e8q_cal.fits") as hdulist:
        dq, times = hdulist["DQ"].data, hdulist["TIME"].data
    assert ((image.dq & PixelFlag.BAD) != 0)[(dq & 32) != 0].all()
    assert ((image.dq & PixelFlag.SATURATED) != 0).sum() == 36
    zero_read = ((dq & 2048) != 0) & (times > 0) & (times < 700)
    assert ((image.dq & PixelFlag.SHORT_RAMP) != 0)[zero_read].all() and not (image.dq[zero_read] & PixelFlag.BAD).any()
    assert (image.poisson_factor[zero_read] > shot * 1407.0 / times[zero_read] * 0.99).all()


def test_real_nircam_cutout(shared_data: Path, tmp_path: Path) -> None:
    """The array is taken as it is; CRPIX gives its place in the full frame, and the noise is not a gain guess."""
    folder, summary = run_ingest(tmp_path, (str(shared_data / "real" / "nircam_ngc346_cutout" / "image.fits"),))
    assert len(summary["warnings"]) == 1 and "set input.gwcs = true" in summary["warnings"][0]
    row = read_exposure_table(folder)[0]
    assert (row["detector"], row["filter"], row["nx"], row["ny"]) == ("NRCAL", "F444W", 100, 100)
    assert (row["x_origin"], row["y_origin"]) == (400, 100)
    image = read_exposure(folder.cubes / row["cube"], 0)
    assert 1.7 < np.median(image.poisson_factor) / (1.0 / (1.82 * 42.947)) < 2.1
    assert np.ptp(image.poisson_factor) < 0.1 * np.median(image.poisson_factor)
    assert 0 < np.median(image.flat_variance) < 1e-4
    assert row["crds_context"] == "jwst_1046.pmap" and row["prd_version"] == "PRDOPSSOC-055"


def test_two_epochs_make_three_cubes(shared_data: Path, tmp_path: Path) -> None:
    patterns = (*_first(shared_data), str(shared_data / "sim_epoch1" / "*00001_nrca1_cal.fits"))
    _, summary = run_ingest(tmp_path, patterns)
    assert summary["cubes"] == {"NIRISS_F090W.zarr": 1, "NIRISS_F150W.zarr": 1, "NRCA1_F115W.zarr": 1}


def test_two_chips_are_two_detectors(tmp_path: Path) -> None:
    path = write_ccd(tmp_path / "j1_flc.fits")
    folder, summary = run_ingest(tmp_path / "run", (str(path),))
    assert summary["cubes"] == {"WFC1_F814W.zarr": 1, "WFC2_F814W.zarr": 1}
    with fits.open(path) as hdulist:
        for name, version in (("WFC2", 1), ("WFC1", 2)):
            image = read_exposure(folder.cube(name, "F814W"), 0)
            assert np.allclose(image.sci * 100.0, hdulist["SCI", version].data, rtol=1e-5, atol=1e-4)
            wcs = read_wcs(folder.wcs_file("j1", name))
            assert wcs.wcs.wcs.crval[1] == hdulist["SCI", version].header["CRVAL2"]
    table = read_exposure_table(folder)
    assert set(table["exposure"]) == {"j1"} and set(table["band"]) == {"acswfc_f814w"}
    assert len({row["file"] for row in table}) == 1


def test_ccd_noise_has_flash_and_read_noise(tmp_path: Path) -> None:
    """The variance without light is 4^2 + 20 electrons of subtracted flash, although ERR scatters with the counts."""
    image = pixels_of(write_ccd(tmp_path / "j1_flc.fits", (128, 128), chips=(2,))).image
    assert np.allclose(image.poisson_factor, 0.01)
    assert np.median(image.var_read) * 1e4 == pytest.approx(36.0, rel=0.03)
    assert np.ptp(image.var_read) < 0.1 * np.median(image.var_read)


@pytest.mark.parametrize(("instrument", "detector"), [("ACS", "WFC1"), ("WFC3", "UVIS1")])
def test_subarrays_keep_their_place(tmp_path: Path, instrument: str, detector: str) -> None:
    write_ccd(tmp_path / "a_flc.fits", instrument=instrument, chips=(1,), ltv=(-2000.0, -1024.0))
    write_ccd(tmp_path / "b_flc.fits", instrument=instrument, chips=(1,), ltv=(-1990.0, -1030.0))
    folder, _ = run_ingest(tmp_path / "run", (str(tmp_path / "*_flc.fits"),))
    cube = open_cube(folder.cube(detector, "F814W"))
    assert cube["x"].values[[0, -1]].tolist() == [1990, 2063] and cube["y"].values[[0, -1]].tolist() == [1024, 1077]
    image = read_exposure(folder.cube(detector, "F814W"), 0)
    assert (image.x_origin, image.y_origin, image.shape) == (2000, 1024, (48, 64))
    wcs = read_wcs(folder.wcs_file("a", detector))
    ra, dec = wcs.pixel_to_sky(2000 + 31.5, 1024 + 23.5)
    assert ra == pytest.approx(80.0) and dec == pytest.approx(-69.4994)


def test_ccd_flags(tmp_path: Path) -> None:
    dq = np.zeros((48, 64))
    dq[5, :15] = 1 << np.arange(15)
    path = write_ccd(tmp_path / "a_flc.fits", chips=(2,), dq=dq)
    flags = pixels_of(path).image.dq
    assert flags[5, :15].tolist() == list(HST_BITS["WFC2"])
    assert not flags[6:].any()


@pytest.mark.parametrize("detector", sorted(HST_BITS))
def test_every_bit_of_every_hst_instrument(detector: str) -> None:
    bits = (1 << np.arange(16)).astype(np.uint16).view(np.int16)[None]
    flags = translate_hst(bits, np.ones((1, 16), dtype=np.float32), detector)[0]
    assert flags.tolist() == [*HST_BITS[detector], 0]
    both = translate_hst(np.array([[16 + 4096, 64 + 256]]), np.ones((1, 2), dtype=np.float32), "UVIS1")[0]
    assert both.tolist() == [WARM | RAY, WARM | FULL]
    assert translate_hst(np.zeros((1, 1)), np.full((1, 1), np.nan, np.float32), detector)[0, 0] == BAD


def test_jwst_flags(tmp_path: Path) -> None:
    dq = np.zeros((64, 80))
    dq[3, :7] = (1, 2, 4, 3, 6, 2048, 64)
    dq[3, 7:10] = (128, 4096, 1 << 30)
    sci = np.full((64, 80), 10.0)
    sci[4, 4] = np.nan
    flags = pixels_of(write_jwst(tmp_path / "a_cal.fits", dq=dq, sci=sci)).image.dq
    short = PixelFlag.SHORT_RAMP
    assert flags[3, :10].tolist() == [
        PixelFlag.BAD,
        PixelFlag.SATURATED | short,
        PixelFlag.JUMP | short,
        PixelFlag.SATURATED | PixelFlag.BAD,
        PixelFlag.SATURATED | PixelFlag.JUMP | short,
        PixelFlag.WARM,
        0,
        short,
        PixelFlag.WARM,
        0,
    ]
    assert flags[4, 4] == PixelFlag.BAD and np.count_nonzero(flags) == 9


def test_ir_uses_each_pixels_time(tmp_path: Path) -> None:
    short = np.zeros((64, 64), dtype=bool)
    short[10:14, 10:14] = True
    pixels = pixels_of(write_ir(tmp_path / "i_flt.fits", short=short))
    image = pixels.image
    assert image.detector == "WFC3IR" and (image.x_origin, image.y_origin) == (475, 475)
    assert np.allclose(image.poisson_factor[~short], 1 / 200.0) and np.allclose(image.poisson_factor[short], 1 / 20.0)
    assert np.median(image.var_read[~short]) == pytest.approx((12.0 / 200.0) ** 2, rel=0.05)
    assert (image.var_read[short] > 90 * (12.0 / 200.0) ** 2).all()
    assert (((image.dq & PixelFlag.SHORT_RAMP) != 0) == short).all()


def test_niriss_filter_is_in_the_pupil_wheel_or_not(tmp_path: Path) -> None:
    [blue] = read_exposure_headers(write_jwst(tmp_path / "b_cal.fits"))
    red = write_jwst(tmp_path / "r_cal.fits", primary={"FILTER": "F480M", "PUPIL": "CLEARP"})
    [unit] = read_exposure_headers(red)
    assert (blue.row["filter"], unit.row["filter"], unit.row["band"]) == ("F090W", "F480M", "niriss_f480m")
    narrow = {"INSTRUME": "NIRCAM", "DETECTOR": "NRCBLONG", "FILTER": "F444W", "PUPIL": "F470N"}
    [unit] = read_exposure_headers(write_jwst(tmp_path / "n_cal.fits", primary=narrow))
    assert (unit.row["filter"], unit.row["detector"]) == ("F470N", "NRCBL")


def test_noise_falls_back_in_order(tmp_path: Path) -> None:
    k, read = 1.25 / (1.6 * 128), (12.0 / 1.6 / 128) ** 2
    path = write_jwst(tmp_path / "a_cal.fits", (192, 192), omit=("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"))
    pixels = pixels_of(path)
    assert pixels.noise_source == "ERR" and not pixels.image.noise_fallback
    assert np.median(pixels.image.poisson_factor) == pytest.approx(k, rel=0.05)
    assert np.median(pixels.image.var_read) == pytest.approx(read, rel=0.2)
    path = write_jwst(tmp_path / "b_cal.fits", omit=("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT", "ERR"))
    pixels = pixels_of(path, gain=1.6, read_noise=12.0)
    assert pixels.noise_source == "gain and read_noise" and pixels.image.noise_fallback
    assert pixels.image.poisson_factor[0, 0] == pytest.approx(k / 1.25)
    folder, summary = run_ingest(tmp_path / "run", (str(path),), gain=1.6, read_noise=12.0)
    assert "a guess" in summary["warnings"][0] and summary["noise_sources"] == {"gain and read_noise": 1}
    assert read_exposure(folder.cube("NIRISS", "F090W"), 0).noise_fallback


def test_missing_area_comes_from_the_wcs(tmp_path: Path) -> None:
    pixels = pixels_of(write_jwst(tmp_path / "a_cal.fits", omit=("AREA",)))
    assert np.allclose(pixels.image.area, 1.0, atol=1e-3) and "AREA" in pixels.notes[0]


def test_ingesting_again_adds_nothing(tmp_path: Path) -> None:
    for number in (1, 2):
        write_jwst(tmp_path / f"e{number}_cal.fits", seed=number)
    patterns = (str(tmp_path / "e?_cal.fits"), str(tmp_path / "*_cal.fits"))
    folder, first = run_ingest(tmp_path / "run", patterns)
    assert first["n_exposures"] == 2 and len({item["sha256"] for item in first["inputs"].values()}) == 2
    options = Options(input=InputOptions(exposures=patterns))
    assert ingest.plan(folder, options) == []
    assert ingest.finalise(folder, options, []) == first
    before = (folder.cubes / "NIRISS_F090W.zarr" / "sci" / "c" / "0" / "0" / "0").stat().st_mtime_ns
    write_jwst(tmp_path / "e3_cal.fits", seed=3)
    os.utime(tmp_path / "e2_cal.fits", ns=(1, 1))
    assert [task.name for task in ingest.plan(folder, options)] == ["e2", "e3"]
    _, third = run_ingest(tmp_path / "run", patterns)
    assert third["cubes"] == {"NIRISS_F090W.zarr": 3}
    assert (folder.cubes / "NIRISS_F090W.zarr" / "sci" / "c" / "0" / "0" / "0").stat().st_mtime_ns == before
    assert len(ingest.plan(folder, Options(input=InputOptions(exposures=patterns, remove_stripes=True)))) == 3


def test_parallel_workers_write_the_same_cube(tmp_path: Path) -> None:
    """Four threads, any order: the same shards, byte for byte, as one after the other."""
    for number in range(6):
        write_jwst(tmp_path / f"e{number}_cal.fits", seed=number)
    options = Options(input=InputOptions(exposures=(str(tmp_path / "e*_cal.fits"),)))
    shards = []
    for threads in (1, 4):
        folder = RunFolder(tmp_path / f"run{threads}")
        tasks = ingest.plan(folder, options)
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(ingest.work, tasks[::-1] if threads > 1 else tasks))
        ingest.finalise(folder, options, results)
        cube = folder.cube("NIRISS", "F090W")
        shards.append({str(path.relative_to(cube)): path.read_bytes() for path in cube.rglob("0") if path.is_file()})
    assert shards[0] == shards[1] and len(shards[0]) >= 6 * 6


def test_detector_registry() -> None:
    assert header_detector("NIRCAM", "NRCALONG") is find_detector("NRCAL")
    assert header_detector("ACS", "WFC", 1).library_y_offset == 2048
    assert header_detector("WFC3", "UVIS", 2).library_y_offset == 0
    assert header_detector("ACS", "HRC", 1) is None and header_detector("NICMOS", "", 4) is None
    assert band_name("UVIS2", "F814W") == "wfc3uv_f814w"
    with pytest.raises(KeyError, match="known are"):
        find_detector("WFPC2")


def test_lost_shards_are_read_again(tmp_path: Path) -> None:
    path = write_jwst(tmp_path / "e1_cal.fits")
    folder, _ = run_ingest(tmp_path / "run", (str(path),))
    shutil.rmtree(folder.cube("NIRISS", "F090W") / "sci" / "c")
    assert len(ingest.plan(folder, Options(input=InputOptions(exposures=(str(path),))))) == 1


def test_cubes_that_are_no_longer_named_go(tmp_path: Path) -> None:
    write_jwst(tmp_path / "a_cal.fits")
    write_jwst(tmp_path / "b_cal.fits", primary={"PUPIL": "F150W"})
    folder, summary = run_ingest(tmp_path / "run", (str(tmp_path / "*.fits"),))
    assert len(summary["cubes"]) == 2
    folder, summary = run_ingest(tmp_path / "run", (str(tmp_path / "a_cal.fits"),))
    assert list(summary["cubes"]) == ["NIRISS_F090W.zarr"]


def test_files_of_one_name(tmp_path: Path) -> None:
    """Same stem in two folders: fine for two detectors, an error for one."""
    for name in "ab":
        (tmp_path / name).mkdir()
    write_jwst(tmp_path / "a" / "image.fits")
    other = {"INSTRUME": "NIRCAM", "DETECTOR": "NRCA1", "FILTER": "F115W", "PUPIL": "CLEAR"}
    write_jwst(tmp_path / "b" / "image.fits", primary=other)
    options = Options(input=InputOptions(exposures=(str(tmp_path / "*" / "image.fits"),)))
    names = [task.name for task in ingest.plan(RunFolder(tmp_path / "run"), options)]
    assert names == ["image_NIRISS_F090W", "image_NRCA1_F115W"]
    write_jwst(tmp_path / "b" / "image.fits", primary={"PUPIL": "F150W"})
    with pytest.raises(InputError, match="is also in"):
        ingest.plan(RunFolder(tmp_path / "run2"), options)


def test_gwcs_that_is_not_there_warns(tmp_path: Path) -> None:
    path = write_jwst(tmp_path / "a_cal.fits")
    _, summary = run_ingest(tmp_path / "run", (str(path),), gwcs=True)
    assert "no ASDF extension" in summary["warnings"][0]


def test_compressed_files(tmp_path: Path) -> None:
    plain = write_jwst(tmp_path / "a_cal.fits")
    packed = tmp_path / "b_cal.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert np.array_equal(pixels_of(packed).image.sci, pixels_of(plain).image.sci)
    packed.write_bytes(packed.read_bytes()[:-5000])
    with pytest.raises(InputError, match="b_cal.fits.gz"):
        pixels_of(packed)


def test_mixed_calibrations_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jwst(tmp_path / "a_cal.fits")
    write_jwst(tmp_path / "b_cal.fits", primary={"CRDS_CTX": "jwst_1100.pmap"})
    folder, summary = run_ingest(tmp_path / "run", (str(tmp_path / "*.fits"),))
    assert len(summary["warnings"]) == 1
    assert "CRDS_CTX: jwst_1100.pmap, jwst_1300.pmap" in summary["warnings"][0]
    assert summary["warnings"][0] in caplog.text
    assert {row["crds_context"] for row in cube_rows(folder.cube("NIRISS", "F090W"))} == {
        "jwst_1100.pmap",
        "jwst_1300.pmap",
    }


def test_exact_wcs_of_the_cutout(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gwcs", reason="the gwcs extra is not installed")
    source = shared_data / "real" / "nircam_ngc346_cutout" / "image.fits"
    folder, summary = run_ingest(tmp_path, (str(source),), gwcs=True)
    assert summary["warnings"] == []
    row = cube_rows(folder.cube("NRCAL", "F444W"))[0]
    assert row["wcs_source"] == "GWCS" and row["wcs_error"] < 1e-5
    ra, dec = read_wcs(folder.wcs_file("image", "NRCAL")).pixel_to_sky(450.0, 150.0)
    assert ra == pytest.approx(14.76939, abs=2e-5) and dec == pytest.approx(-72.15141, abs=2e-5)
