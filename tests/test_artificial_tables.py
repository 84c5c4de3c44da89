"""Others' artificial-star tables: a DOLPHOT file, mappings, and the real one of NGC 1644."""

import numpy as np
import pytest
from astropy.table import Table

from dpm.io.errors import InputError
from dpm.science import (
    completeness_in_bins,
    fit_completeness,
    fit_error_model,
    map_columns,
    random_errors,
    read_dolphot_artificial_stars,
    recovered_in,
    standard_artificial_stars,
)
from dpm.science.random_errors import bias_and_width, undo_rounding


def test_dolphot_file(tmp_path):
    path = tmp_path / "field.matchfake"
    path.write_text("22.45 22.35 -0.04  0.06\n25.78 23.32 99.99  0.05\n26.00 25.00 99.99 99.99\n26.00 24.00 -1.60 0.02\n")
    stars = read_dolphot_artificial_stars(path, ["f555w", "f814w"])
    assert stars["out_f555w_mag"][0] == pytest.approx(22.41) and stars["out_f814w_mag"][0] == pytest.approx(22.41)
    assert list(np.isnan(stars["out_f555w_mag"])) == [False, True, True, False]
    assert list(stars["found"]) == [True, True, False, True] and list(stars["recovered"]) == [True, False, False, False]
    assert list(recovered_in(stars, "f814w")) == [True, True, False, True]
    assert stars.meta["magnitude_resolution"] == 0.01
    with pytest.raises(InputError, match=r"4 columns for 3 bands \(a, b, c\)"):
        read_dolphot_artificial_stars(path, ["a", "b", "c"])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_dolphot_artificial_stars(tmp_path / "none", ["a"])
    path.write_text("22.45 abc\n")
    with pytest.raises(InputError, match="Give a .matchfake file"):
        read_dolphot_artificial_stars(path, ["a"])


def test_any_table_by_a_mapping_of_its_columns():
    mine = {"I_in": [20.0, 21.0, 22.0], "I_out": [20.1, 99.999, 21.9], "q": [0.1, 0.2, 0.3], "ok": [True, True, False]}
    mine = {name: np.array(values) for name, values in mine.items()}
    columns = {"in_i_mag": "I_in", "out_i_mag": "I_out", "out_i_qfit": "q"}
    stars = standard_artificial_stars(mine, columns, lost=~mine["ok"])
    assert list(stars["found"]) == [True, False, False] == list(stars["recovered"])
    assert list(np.isnan(stars["out_i_qfit"])) == [False, False, True]
    assert completeness_in_bins(stars, "i", bins=[19, 23])["completeness"][0] == pytest.approx(1 / 3)
    named = standard_artificial_stars(Table({"in_i_mag": mine["I_in"], "out_i_mag": mine["I_out"], "recovered": mine["ok"]}))
    assert list(named["recovered"]) == list(mine["ok"])
    theirs = {"F814W_VEGA": np.array([20.0, 99.999]), "name": np.array(["a", "b"])}
    catalog = map_columns(theirs, {"f814w_mag": "F814W_VEGA", "name": "name"})
    assert np.isnan(catalog["f814w_mag"][1]) and list(catalog["name"]) == ["a", "b"]
    with pytest.raises(ValueError, match="no column in_{band}_mag: name the columns"):
        standard_artificial_stars(mine)
    with pytest.raises(ValueError, match="bands i have no out_{band}_mag"):
        standard_artificial_stars({"in_i_mag": mine["I_in"]})
    with pytest.raises(KeyError, match="no column 'V_in'; the table has I_in"):
        standard_artificial_stars(mine, {"in_v_mag": "V_in"})


def test_ngc1644_gives_completeness_and_errors(shared_data):
    path = shared_data / "real" / "dolphot_asts" / "9891_NGC1644_F555W-F814W.gst.matchfake"
    bands = "acswfc_f555w", "acswfc_f814w"
    stars = read_dolphot_artificial_stars(path, bands)
    assert len(stars) == 96_000 and np.isfinite(stars["out_acswfc_f555w_mag"]).mean() == pytest.approx(0.8434, abs=1e-4)
    for band, brightest, half, quarter in ((bands[0], 18.0, 26.44, 26.70), (bands[1], 17.0, 25.70, 25.96)):
        passed = recovered_in(stars, band)
        faintest = float(stars[f"in_{band}_mag"].max())
        curve = fit_completeness(stars, band, passed, magnitudes=(brightest, faintest))
        assert curve.form == "spline" and curve.p_value > 0.01
        # Counted by hand from shares in bins of 0.1 mag.
        assert curve.limit(0.5)[0] == pytest.approx(half, abs=0.02) and curve.limit(0.25)[0] == pytest.approx(quarter, abs=0.02)
        binned = completeness_in_bins(stars, band, passed, bins=0.25)
        inside = binned[(binned["mag_low"] > brightest) & (binned["mag_high"] < faintest) & (binned["n_inserted"] > 200)]
        width = np.asarray(inside["completeness_high"] - inside["completeness_low"]) / 2
        # The curve at a bin's middle is not its mean where it bends, so that three sigma and a little are allowed.
        assert np.all(np.abs(curve(inside["mag"]) - inside["completeness"]) < 3.5 * width + 0.01)
    # Saturation in either band makes the common completeness rise first, which no falling curve has.
    with pytest.warns(UserWarning, match="Leave out those at which stars saturate"):
        fit_completeness(stars, bands[0], magnitudes=(17.0, 27.0))
    errors = random_errors(stars, [bands[1]])
    assert np.all(np.diff(errors["random_error"][4:-3]) > 0)


def test_ngc1644_errors_predict_held_out_stars(shared_data):
    path = shared_data / "real" / "dolphot_asts" / "9891_NGC1644_F555W-F814W.gst.matchfake"
    bands = "acswfc_f555w", "acswfc_f814w"
    stars = read_dolphot_artificial_stars(path, bands)
    half = np.random.default_rng(1).random(len(stars)) < 0.5
    model = fit_error_model(stars, *bands, among=half)
    rest = stars[~half & stars["recovered"]]
    inserted = np.column_stack([rest[f"in_{band}_mag"] for band in bands])
    differences = [np.asarray(rest[f"out_{band}_mag"] - rest[f"in_{band}_mag"]) for band in bands]
    measured = inserted + np.column_stack([undo_rounding(values, 0.01, number) for number, values in enumerate(differences)])
    pulls = model.pulls(inserted, measured)
    widths = []
    for band, brightest, faintest in ((0, 19, 26), (1, 18, 25)):
        for low in range(brightest, faintest):
            mine = (inserted[:, band] >= low) & (inserted[:, band] < low + 1)
            middle, width = bias_and_width(pulls[mine, band])
            # About 3500 stars in either half, whose tails are long: one sigma is 0.03.
            assert 0.9 < width < 1.1 and abs(middle) < 0.1
            widths.append(width)
    assert np.mean(widths) == pytest.approx(1.0, abs=0.025)
