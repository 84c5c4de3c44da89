"""The frame stage as a whole, on small fields with truth."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from frame_fixture import RA0, ZERO_POINT, Field, Shot, dithers, use_flag

from dpm.io.errors import InputError
from dpm.io.stdgdc import write_stdgdc
from dpm.io.tables import read_table
from dpm.models.distortion import MapDistortion
from dpm.models.flags import StarFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.options import DistortionOptions, FrameOptions, InputOptions, Options, PhotometryOptions
from dpm.models.statistics import robust_width
from dpm.stages import frame as stage

EPOCH = 2022.33


def run(folder, **tables):
    options = Options(**tables)
    tasks = stage.plan(folder, options)
    summary = stage.finalise(folder, options, [stage.work(task) for task in tasks])
    return read_table(folder.frame_catalog), read_table(folder.exposures), summary


def with_reference(field, tmp_path):
    return InputOptions(reference=str(field.reference(tmp_path / "reference.ecsv")))


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """Two bands, four dithers each, an arcsecond of pointing errors, a reference sixteen years older."""
    root = tmp_path_factory.mktemp("field")
    shots = dithers(4) + [replace(shot, filter="F150W", offset=0.02 * k) for k, shot in enumerate(dithers(5)[1:])]
    field = Field(shots=shots)
    folder, stars = field.write(root / "run")
    catalog, exposures, summary = run(folder, input=with_reference(field, root))
    return field, folder, stars, catalog, exposures, summary


def test_positions_are_those_of_the_truth_at_the_epoch(solved):
    field, _, _, catalog, _, summary = solved
    i, j, east, north = field.compare(catalog, EPOCH)
    covered = (np.abs(field.xi) < 4) & (np.abs(field.eta) < 4)
    assert np.isin(np.flatnonzero(covered), j).all()
    assert len(catalog) - len(i) <= 1, "junk has to stay out"
    # Reference errors of 0.2 mas over some hundred stars leave little; 16 years of motion would show as 16 mas.
    assert abs(np.median(east)) < 0.15 and abs(np.median(north)) < 0.15
    bright = np.array(catalog["niriss_f090w_mag"])[i] < ZERO_POINT - 6
    assert robust_width(east[bright]) < 0.6
    assert summary["left_out"] == 0 and summary["n_reference"] > 30
    assert (
        catalog["ref_epoch"][0] == pytest.approx(EPOCH, abs=1e-3)
        and catalog.meta["epochs"][0] == catalog["ref_epoch"][0]
    )


def test_with_a_reference_position_errors_are_absolute(solved):
    _, _, _, catalog, _, summary = solved
    assert summary["n_reference"] > 0
    assert not np.any(catalog["flags"] & int(StarFlag.POSITION_RELATIVE))


def test_errors_are_those_of_the_mean(solved):
    field, _, _, catalog, _, _ = solved
    i, j, east, north = field.compare(catalog, EPOCH)
    pull = np.concatenate([east / catalog["ra_error"][i], north / catalog["dec_error"][i]])
    assert 0.85 < robust_width(pull) < 1.12
    assert np.mean(np.abs(pull) > 4) < 0.01
    for band, offset in (("f090w", ZERO_POINT), ("f150w", None)):
        mag = np.array(catalog[f"niriss_{band}_mag"])[i] - field.mag[j]
        measured = np.isfinite(mag)
        offset = np.median(mag[measured]) if offset is None else offset
        pull = ((mag - offset) / catalog[f"niriss_{band}_mag_error"][i])[measured]
        assert 0.8 < robust_width(pull) < 1.15
    assert np.all(np.abs(catalog["ra_dec_corr"]) < 0.5)


def test_axes_units_order_and_metadata(solved):
    _, _, _, catalog, _, _ = solved
    order = np.argsort(catalog["ra"])
    assert catalog["x"][order[0]] > catalog["x"][order[-1]], "x has to grow to the West"
    assert np.all(np.diff(catalog["dec"]) <= 1e-9) and list(catalog["id"]) == list(range(1, len(catalog) + 1))
    frame = MasterFrame.from_meta(catalog.meta["master_frame"])
    np.testing.assert_allclose(frame.pixel_to_sky(catalog["x"], catalog["y"])[0], catalog["ra"], atol=1e-11)
    np.testing.assert_allclose(catalog["x_error"] * frame.scale * 1000, catalog["ra_error"], rtol=1e-5)
    assert str(catalog["ra_error"].unit) == "mas" and str(catalog["niriss_f090w_flux"].unit) == "DN / s"
    meta = catalog["niriss_f090w_mag"].meta
    assert (meta["system"], meta["zero_point"]) == ("AB", ZERO_POINT)
    assert abs(frame.ra0 - RA0) < 0.01
    assert "pmra" not in catalog.colnames and not catalog["niriss_f090w_saturated"].any()


def test_a_star_without_a_mean_in_a_band_has_no_error_there(solved):
    catalog = solved[3]
    for band in ("niriss_f090w", "niriss_f150w"):
        none = np.array(catalog[f"{band}_n_good"]) == 0
        for name in ("flux", "flux_error", "mag", "mag_error"):
            values = np.array(catalog[f"{band}_{name}"])
            assert np.all(np.isnan(values[none])) and np.all(np.isfinite(values[~none])), name


def test_counts_of_exposures(solved):
    field, _, _, catalog, _, _ = solved
    i, j, _, _ = field.compare(catalog, EPOCH)
    x, y = (np.empty((len(field.shots), field.n_stars)) for _ in range(2))
    for k, shot in enumerate(field.shots):
        x[k], y[k] = field.header(shot, error=False).wcs_world2pix(*field.sky(EPOCH), 0)
    inside = (x > -0.5) & (x < field.size - 0.5) & (y > -0.5) & (y < field.size - 0.5)
    margin = np.min(np.abs(np.stack([x + 0.5, x - field.size + 0.5, y + 0.5, y - field.size + 0.5])), axis=(0, 1)) > 0.2
    expected = inside[:4].sum(axis=0)
    same = catalog["niriss_f090w_n_exposures"][i] == expected[j]
    assert same[margin[j]].all()
    assert np.all(catalog["niriss_f090w_n_good"] <= catalog["niriss_f090w_n_exposures"])
    few = (catalog["flags"] & int(StarFlag.FEW_EXPOSURES)) != 0
    total = np.nan_to_num(catalog["niriss_f090w_n_good"]) + np.nan_to_num(catalog["niriss_f150w_n_good"])
    assert np.all(total[~few] >= 3)


def test_exposure_rows_hold_the_solution(solved):
    field, _, stars, catalog, exposures, _ = solved
    assert list(exposures["exposure"]) == sorted(exposures["exposure"])
    # Detectors are on their sky scale, turned by the roll and not mirrored.
    assert np.allclose(exposures["a"] * exposures["d"] - exposures["b"] * exposures["c"], 1.0, atol=1e-3)
    turn = np.degrees(np.arctan2(exposures["c"], exposures["a"]))
    np.testing.assert_allclose(turn, [shot.roll for shot in field.shots], atol=0.05)
    assert np.all(exposures["n_matched"] > 60) and np.all(exposures["n_reference"] > 50)
    assert np.all((exposures["residual_rms"] > 0.005) & (exposures["residual_rms"] < 0.03))
    second = exposures[exposures["band"] == "niriss_f150w"]
    offsets = np.array([shot.offset for shot in field.shots[4:]])
    difference = np.array(second["zero_point"]) - offsets
    error = np.array(second["zero_point_error"])
    assert np.ptp(difference) < 0.02 and np.max(error) < 0.02
    assert np.sum(second["zero_point"] == 0.0) == 1 and np.sum(second["zero_point_error"] == 0.0) == 1


def test_matches_name_the_right_detections(solved):
    field, folder, stars, catalog, exposures, _ = solved
    i, j, _, _ = field.compare(catalog, EPOCH)
    true_of_id = np.full(len(catalog) + 1, -2)
    true_of_id[catalog["id"][i]] = j
    for row, star in zip(exposures, stars):
        match = read_table(folder.matches_file(row["exposure"], row["detector"]))
        assert len(match) == row["n_matched"] and len(np.unique(match["id"])) == len(match)
        assert np.mean(true_of_id[match["id"]] == star[match["row"]]) > 0.98
        assert robust_width(np.array(match["dx"])[match["used"]]) < 0.1
        assert abs(np.nanmedian(match["dmag"])) < 0.01


def test_the_order_of_exposures_changes_nothing(solved, tmp_path):
    field, folder, _, catalog, _, _ = solved
    from dpm.io import cubes
    from dpm.stages.frame import run as module

    table = cubes.read_exposure_table(folder)
    shuffled = table[np.random.default_rng(3).permutation(len(table))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_exposure_table", lambda _: shuffled)
        again, _, _ = run(folder, input=with_reference(field, tmp_path))
    for name in catalog.colnames:
        np.testing.assert_array_equal(again[name], catalog[name])


def test_without_reference_the_headers_count(tmp_path):
    shots = [replace(shot, error=(0.3, -0.2)) for shot in dithers(4)]
    field = Field(shots=shots, motion=0.0)
    folder, _ = field.write(tmp_path / "run")
    catalog, _, summary = run(folder)
    _, _, east, north = field.compare(catalog_shifted(catalog, -0.3, 0.2), EPOCH)
    assert len(east) > 80 and summary["n_reference"] == 0
    assert abs(np.median(east)) < 3 and abs(np.median(north)) < 3
    # What the dithers share cannot be in the errors: the catalogue and the log have to say so.
    assert np.all(catalog["flags"] & int(StarFlag.POSITION_RELATIVE))
    assert any("POSITION_RELATIVE" in text for text in summary["warnings"])


def catalog_shifted(catalog, east, north):
    moved = catalog.copy()
    moved["ra"] += east / 3600 / np.cos(np.radians(catalog["dec"]))
    moved["dec"] += north / 3600
    return moved


def test_an_exposure_of_elsewhere_is_left_out_by_name(tmp_path, caplog):
    lost = Shot(east=1.0, name="lost", epoch=EPOCH)
    field = Field(shots=[*dithers(3), lost])

    def change(table, star, shot):
        if shot is lost:
            table["x"] = np.random.default_rng(1).uniform(0, 199, len(table))
            table["y"] = np.random.default_rng(2).uniform(0, 199, len(table))

    folder, _ = field.write(tmp_path / "run", change)
    with caplog.at_level(logging.WARNING):
        catalog, exposures, summary = run(folder)
    row = exposures[exposures["exposure"] == "lost"][0]
    assert summary["left_out"] == 1 and "lost_NIRISS" in caplog.text and "max_offset" in caplog.text
    assert row["n_matched"] == 0 and np.isnan(row["a"]) and np.isnan(row["zero_point"])
    assert len(field.compare(catalog, EPOCH)[0]) >= 0 and len(catalog) > 50


def test_a_reference_of_another_epoch_without_motions_is_named(tmp_path):
    """What its stars move in common no residual shows: the run has to say it, with the errors that it assumes."""
    field = Field(shots=dithers(3))
    folder, _ = field.write(tmp_path / "run")
    table = read_ecsv(field.reference(tmp_path / "reference.ecsv"))
    table.remove_columns([name for name in table.colnames if name.startswith("pm")])
    table.write(tmp_path / "still.ecsv")
    catalog, exposures, summary = run(folder, input=InputOptions(reference=str(tmp_path / "still.ecsv")))
    assert np.all(exposures["n_reference"] > 30)
    assert np.all(catalog["flags"] & int(StarFlag.POSITION_RELATIVE))
    assert any("has no motions: its positions of 2006.4 stand for those of 2022.3" in text for text in summary["warnings"])


def test_a_reference_of_another_field_is_named(tmp_path):
    field = Field(shots=dithers(3))
    folder, _ = field.write(tmp_path / "run")
    path = field.reference(tmp_path / "reference.ecsv")
    for shift, message in ((1.0, r"reference\.ecsv.*lies in the field"), (0.004, r"reference\.ecsv.*do not match")):
        table = read_ecsv(path)
        table["dec"] += shift
        table.write(tmp_path / "elsewhere_reference.ecsv", overwrite=True)
        options = InputOptions(reference=str(tmp_path / "elsewhere_reference.ecsv"))
        with pytest.raises(InputError, match=message):
            run(folder, input=options)


def read_ecsv(path):
    from astropy.table import Table

    return Table.read(path)


def test_no_detections_at_all_is_an_error_that_says_what_to_do(tmp_path):
    field = Field(shots=dithers(2), n_stars=4, spread=4000.0)
    field.shots = [replace(shot, junk=0) for shot in field.shots]
    folder, _ = field.write(tmp_path / "run")
    with pytest.raises(InputError, match="no exposure could be placed.*threshold"):
        run(folder)


def test_exposures_of_nothing_in_common_are_an_error(tmp_path):
    field = Field(shots=dithers(3))

    def change(table, star, shot):
        rng = np.random.default_rng(field.shots.index(shot))
        table["x"], table["y"] = rng.uniform(0, 199, (2, len(table)))

    folder, _ = field.write(tmp_path / "run", change)
    with pytest.raises(InputError, match="no two exposures match.*max_offset"):
        run(folder)


def test_one_exposure_gives_its_good_detections(tmp_path):
    field = Field(shots=[Shot(junk=30)])

    def change(table, star, shot):
        use_flag(table, star < 0, StarFlag.SHARP)

    folder, stars = field.write(tmp_path / "run", change)
    catalog, exposures, summary = run(folder)
    assert len(catalog) == np.sum(stars[0] >= 0) == exposures["n_matched"][0]
    assert np.all(catalog["flags"] & int(StarFlag.FEW_EXPOSURES))
    assert np.all(np.isnan(catalog["niriss_f090w_mag_rms"])) and np.all(catalog["ra_error"] > 0)
    assert exposures["zero_point"][0] == 0.0 and summary["exposures"] == 1


def test_discrepant_measurements_are_clipped_and_saturated_ones_wait(tmp_path):
    field = Field(shots=dithers(6, step=0.5))
    target: dict[str, int] = {}

    def change(table, star, shot):
        bright = int(np.argmin(np.where(np.abs(field.xi) + np.abs(field.eta) < 4, field.mag, 0)))
        other = int(np.argsort(np.where(np.abs(field.xi) + np.abs(field.eta) < 4, field.mag, 0))[1])
        target.update(hit=bright, saturated=other)
        if shot is field.shots[0]:
            table["flux"][star == bright] *= 1.5
            table["x"][star == bright] += 0.3
        if shot in field.shots[:2]:
            table["flux"][star == other] *= 0.8
            use_flag(table, star == other, StarFlag.SATURATED)

    folder, _ = field.write(tmp_path / "run", change)
    catalog, _, _ = run(folder, input=with_reference(field, tmp_path))
    i, j, east, _ = field.compare(catalog, EPOCH)
    hit, waiting = int(i[j == target["hit"]][0]), int(i[j == target["saturated"]][0])
    assert catalog["flags"][hit] & int(StarFlag.CLIPPED)
    for row, good in ((hit, 5), (waiting, 4)):
        star = j[i == row][0]
        assert catalog["niriss_f090w_n_good"][row] == good and catalog["niriss_f090w_n_exposures"][row] == 6
        assert catalog["niriss_f090w_mag"][row] - field.mag[star] == pytest.approx(ZERO_POINT, abs=0.03)
        assert abs(east[i == row][0]) < 3
    assert not catalog["flags"][waiting] & int(StarFlag.SATURATED)


def test_stars_that_moved_between_epochs_are_one_row(tmp_path):
    first = [replace(shot, epoch=2010.5) for shot in dithers(4)]
    field = Field(shots=first + dithers(4), motion=3.0, n_stars=225)
    folder, _ = field.write(tmp_path / "run")
    catalog, exposures, _ = run(folder, input=with_reference(field, tmp_path))
    i, j, east, _ = field.compare(catalog, EPOCH)
    moved = np.hypot(*field.pm) * 11.83 / 65.6
    both = catalog["n_epochs"][i] == 2
    assert np.mean(both) > 0.9 and np.max(moved[j[both]]) > 1.0
    assert catalog["ref_epoch"][0] == pytest.approx(EPOCH, abs=1e-3)
    assert catalog["baseline"][i[both]].max() == pytest.approx(11.83, abs=1e-3)
    assert "niriss_f090w_2010_mag" in catalog.colnames and "niriss_f090w_2022_mag" in catalog.colnames
    assert set(exposures["band"]) == {"niriss_f090w_2010", "niriss_f090w_2022"}
    pull = east[both] / catalog["ra_error"][i[both]]
    assert abs(np.median(east[both])) < 1.0 and 0.8 < robust_width(pull) < 1.2
    _, seen, _, _ = field.compare(catalog[catalog["n_epochs"] == 2], EPOCH)
    assert len(seen) == np.sum(both)


def test_two_chips_that_never_overlap_are_both_kept(tmp_path):
    lower = [replace(shot, detector="UVIS2", name=f"visit{k}") for k, shot in enumerate(dithers(3, step=0.3))]
    upper = [replace(shot, detector="UVIS1", name=f"visit{k}", north=shot.north + 16) for k, shot in enumerate(lower)]
    upper = [replace(shot, roll=0.0, east=low.east) for shot, low in zip(upper, lower)]
    lower = [replace(shot, roll=0.0) for shot in lower]
    field = Field(shots=lower + upper, n_stars=900, spread=40.0)
    folder, _ = field.write(tmp_path / "run")
    catalog, exposures, summary = run(folder)
    assert summary["left_out"] == 0 and np.all(exposures["n_matched"] > 50)
    assert np.ptp(catalog["dec"]) * 3600 > 25


def test_an_stdgdc_file_takes_the_distortion_out(tmp_path):
    shots = [replace(shot, distortion=0.4) for shot in dithers(5, step=3.0)]
    field = Field(shots=shots, n_stars=625, noise=0.005)
    folder, _ = field.write(tmp_path / "run")
    with_linear_header = run(folder)[1]["residual_rms"]
    rows, columns = np.mgrid[0 : field.size, 0 : field.size].astype(float)
    x, y = columns.copy(), rows.copy()
    for _ in range(30):
        raw_x, raw_y = field.distort(shots[0], x, y)
        x, y = x + columns - raw_x, y + rows - raw_y
    (tmp_path / "maps").mkdir()
    write_stdgdc(tmp_path / "maps" / "STDGDC_NIRISS_F090W.fits", MapDistortion(x, y))
    distortion = DistortionOptions(source=str(tmp_path / "maps"))
    catalog, exposures, _ = run(folder, input=with_reference(field, tmp_path), distortion=distortion)
    # What is left is the noise of the detections.
    assert np.median(with_linear_header) > 0.035
    assert np.all(exposures["residual_rms"] < 0.022)
    _, _, east, _ = field.compare(catalog, EPOCH)
    assert robust_width(east) < 2.0
    with pytest.raises(InputError, match="no STDGDC file for NIRISS F090W"):
        run(folder, distortion=DistortionOptions(source=str(tmp_path)))


def test_what_the_reference_adds_to_the_errors_is_not_correlated(tmp_path):
    field = Field(shots=dithers(4, distortion=0.15))

    def change(table, star, shot):
        table["x_error"] *= 3.0

    folder, _ = field.write(tmp_path / "run", change)
    alone, _, _ = run(folder)
    tied, _, summary = run(folder, input=with_reference(field, tmp_path))
    assert summary["position_systematic_mas"] > 0.5
    # The frames differ by the pointing's error, the fluxes do not.
    _, i, j = np.intersect1d(alone["niriss_f090w_flux"], tied["niriss_f090w_flux"], return_indices=True)
    before, after = alone[i], tied[j]
    product = [np.array(table["ra_error"] * table["dec_error"], dtype=float) for table in (before, after)]
    assert len(i) > 100 and np.median(np.abs(before["ra_dec_corr"])) > 0.1
    assert np.median(product[1] / product[0]) > 1.08
    # The covariance stays what the fits say.
    ratio = after["ra_dec_corr"] * product[1] / (before["ra_dec_corr"] * product[0])
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)


def test_zero_points_put_magnitudes_on_a_system(tmp_path):
    field = Field(shots=dithers(3))
    folder, _ = field.write(tmp_path / "run")
    for photometry, zero_point, system in (
        (PhotometryOptions(), ZERO_POINT, "AB"),
        (PhotometryOptions(system="ab"), ZERO_POINT, "AB"),
        (PhotometryOptions(system="instrumental"), 0.0, "instrumental"),
        (PhotometryOptions(zero_points={"niriss_f090w": 26.3}, system="vega"), 26.3, "Vega"),
        (PhotometryOptions(zero_points={"niriss_f090w.NIS": 25.0}), 25.0, "configured"),
        (PhotometryOptions(system="vega"), 0.0, "instrumental"),
        # 0.8 of the light was measured: all of it is 0.242 magnitudes brighter.
        (PhotometryOptions(encircled_energy={"niriss_f090w": 0.8}), ZERO_POINT - 0.2423, "AB"),
    ):
        catalog, _, _ = run(folder, photometry=photometry)
        flux = np.array(catalog["niriss_f090w_flux"])
        np.testing.assert_allclose(catalog["niriss_f090w_mag"], -2.5 * np.log10(flux) + zero_point, atol=1e-4)
        assert catalog["niriss_f090w_mag"].meta["system"] == system
    for option in ("zero_points", "encircled_energy"):
        _, _, summary = run(folder, photometry=PhotometryOptions(**{option: {"nirss_f090w": 0.9}}))
        wrong = [text for text in summary["warnings"] if option in text]
        assert wrong == [f"[photometry] {option}: there is no band 'nirss_f090w'; the bands are niriss_f090w"]


def test_rows_that_come_back_now_and_then_are_no_stars(tmp_path):
    field = Field(shots=dithers(10, step=0.5))
    ghost = (100.5, 100.5)

    def change(table, star, shot):
        if shot in field.shots[:3]:
            k = np.flatnonzero(star < 0)[0]
            sky = field.header(field.shots[0], error=False).wcs_pix2world([[*ghost]], 0)
            table["x"][k], table["y"][k] = field.header(shot, error=False).wcs_world2pix(sky, 0)[0]
            table["flux"][k] = 500.0

    folder, _ = field.write(tmp_path / "run", change)
    strict, _, _ = run(folder)
    loose, _, _ = run(folder, frame=FrameOptions(min_fraction=0.0))
    assert len(loose) > len(strict)
