"""Selections: the same cuts on real and artificial stars, the share that they keep, counts, and their file."""

import numpy as np
import pytest
from astropy.table import QTable, Table
from science_tables import Photometry

from dpm.io.errors import InputError
from dpm.science import (
    Selection,
    apply_selections,
    cmd_region,
    count_selections,
    footprint,
    motion_errors,
    motion_radius,
    quality_cut,
    read_selections,
    well_recovered,
    write_selections,
)

TRUTH = Photometry()


@pytest.fixture(scope="module")
def stars():
    return TRUTH.table(60_000, np.random.default_rng(21))


def as_catalog(stars):
    """Recovered artificial stars with the columns of a catalogue."""
    found = stars[stars["recovered"]]
    return Table({name.removeprefix("out_"): found[name] for name in found.colnames if name.startswith("out_")})


@pytest.mark.parametrize(("quantity", "side", "keep"), [("qfit", "below", 0.95), ("radxs", "both", 0.95), ("qfit", "above", 0.9)])
def test_a_cut_keeps_its_share_at_every_magnitude(stars, quantity, side, keep):
    cuts = quality_cut(stars, "b", quantity, keep, side)
    assert len(cuts) == (2 if side == "both" else 1) and {cut.name for cut in cuts} == {f"{quantity} b"}
    others = TRUTH.table(60_000, np.random.default_rng(22))
    good = well_recovered(others, "b")
    passing = apply_selections(others, cuts, good)
    mag = np.asarray(others["out_b_mag"])
    for low in np.arange(20.0, 26.5, 0.5):
        mine = good & (mag >= low) & (mag < low + 0.5)
        # Both the cut and the check are samples of this many stars.
        assert passing[mine].mean() == pytest.approx(keep, abs=4 * np.sqrt(2 * keep * (1 - keep) / mine.sum()))


def test_cuts_treat_real_and_artificial_stars_alike_and_remove_galaxies(stars):
    cuts = [*quality_cut(stars, "b", "qfit", 0.99), *quality_cut(stars, "b", "radxs", 0.98, "both")]
    catalog = as_catalog(stars)
    passing = apply_selections(stars, cuts, "recovered")
    assert np.array_equal(apply_selections(catalog, cuts), passing[stars["recovered"]])
    assert passing.sum() > 0.95 * stars["recovered"].sum() and not passing[~stars["recovered"]].any()
    catalog["b_radxs"][:50] += 1.0
    assert not apply_selections(catalog, cuts)[:50].any()
    catalog["b_qfit"][50:80] = np.nan
    assert not apply_selections(QTable(catalog), cuts)[50:80].any()


def test_well_recovered_stars_are_without_tails(stars):
    good = well_recovered(stars, "b")
    difference = np.asarray(stars["out_b_mag"] - stars["in_b_mag"])
    lost_share = 1.0 - good.sum() / stars["recovered"].sum()
    assert 0.01 < lost_share < 0.06
    bright = (stars["in_b_mag"] > 22) & (stars["in_b_mag"] < 23)
    # 0.02 mag of noise at most: what is further away is a blend.
    assert np.abs(difference[good & bright]).max() < 0.09 < np.abs(difference[stars["recovered"] & bright]).max()


def test_cmd_region_and_motion(stars):
    catalog = as_catalog(stars)
    region = cmd_region("a", "b", [(0.0, 22.0), (1.0, 22.0), (1.0, 25.0), (0.0, 25.0)], magnitude="b")
    color = np.asarray(catalog["a_mag"] - catalog["b_mag"])
    mag = np.asarray(catalog["b_mag"])
    assert np.array_equal(region(catalog), (color > 0) & (color < 1) & (mag > 22) & (mag < 25))
    assert np.array_equal(region(stars)[stars["recovered"]], region(catalog)) and not region(stars)[~stars["recovered"]].any()
    catalog["pmra"] += 3.2
    catalog["pmdec"] -= 17.6
    moving = motion_radius([(22.0, 0.2), (26.0, 1.0)], "b", center=(3.2, -17.6))
    motion = np.hypot(stars["out_pmra"], stars["out_pmdec"])
    limit = np.interp(stars["out_b_mag"], [22, 26], [0.2, 1.0])
    assert np.array_equal(moving(stars), np.asarray(motion <= limit))
    assert np.array_equal(moving(catalog), moving(stars)[stars["recovered"]])
    catalog["pmra_relative"], catalog["pmdec_relative"] = catalog["pmra"] - 3.2, catalog["pmdec"] + 17.6
    relative = motion_radius(0.3, "b", columns=("pmra_relative", "pmdec_relative"))
    assert np.array_equal(relative(catalog), relative(stars)[stars["recovered"]])
    # Stars that were put in with a motion are judged from it.
    moved = stars.copy()
    for name, motion in (("pmra", 3.2), ("pmdec", -17.6)):
        moved[f"in_{name}"] = np.full(len(moved), motion)
        moved[f"out_{name}"] += motion
    assert np.mean(moving(moved) != moving(stars)) < 1e-4
    for one, other in zip(motion_errors(moved, "b").itercols(), motion_errors(stars, "b").itercols()):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_footprint_on_the_sky_has_great_circles_for_sides():
    # Across 0 hours and close to the pole, where right ascensions are far apart.
    square = footprint([(350.0, 80.0), (10.0, 80.0), (10.0, 84.0), (350.0, 84.0)])
    stars = Table({"ra": [0.0, 0.0, 359.9, 12.0, 180.0, np.nan], "dec": [82.0, 79.9, 83.9, 82.0, 82.0, 82.0]})
    assert list(square(stars)) == [True, False, True, False, False, False]
    # The great circle through the lower corners passes dec 80.15 at its middle.
    assert list(square(Table({"ra": [0.0, 0.0], "dec": [80.10, 80.20]}))) == [False, True]
    frame = footprint([(0, 0), (10, 0), (0, 10)], "x", "y")
    assert list(frame({"x": [1.0, 9.0], "y": [1.0, 9.0]})) == [True, False]
    lost = {"in_f_mag": [20.0, 20.0], "in_x": [1.0, 1.0], "out_x": [1.0, np.nan], "out_y": [1.0, np.nan]}
    assert list(frame(lost)) == [True, False]


def test_counts_at_each_step(stars, tmp_path):
    catalog = as_catalog(stars)
    steps = [
        footprint([(0, 0), (1000, 0), (1000, 1000), (0, 1000)], "x", "y"),
        cmd_region("a", "b", [(-1, 20), (2, 20), (2, 25), (-1, 25)], magnitude="b"),
        motion_radius(0.3, "b"),
        *quality_cut(stars, "b", "qfit", 0.97, name="quality"),
        *quality_cut(stars, "b", "radxs", 0.97, "both", name="quality"),
    ]
    counts = count_selections(catalog, stars, steps)
    assert list(counts["step"]) == ["all", "recovered", "footprint", "CMD", "motion", "quality"]
    assert list(counts["n_artificial"][1:]) == list(counts["n_real"][1:]) and counts["n_artificial"][0] == 60_000
    assert counts["n_real"][2] == np.sum(catalog["x"] < 1000) and np.all(np.diff(counts["n_real"][1:]) < 0)
    assert counts["n_real"][-1] == apply_selections(catalog, steps).sum()
    write_selections(tmp_path / "cuts" / "selections.ecsv", steps)
    assert read_selections(tmp_path / "cuts" / "selections.ecsv") == steps
    assert count_selections(catalog, None, steps).colnames == ["step", "n_real"]


def test_bad_selections_say_what_is_wrong(tmp_path, stars):
    with pytest.raises(ValueError, match="selection 's': a line's points have to be in order of x"):
        Selection("s", "below", "a", "b", ((2.0, 1.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match="kind 'within' is unknown"):
        Selection("s", "within", "a", "b", ((2.0, 1.0),))
    with pytest.raises(ValueError, match="3 or more finite points"):
        footprint([(1, 1), (2, 2)])
    with pytest.raises(ValueError, match="quantity 'a / b' is none of"):
        Selection("s", "below", "a", "a / b", ((2.0, 1.0),))({"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(KeyError, match="no column 'out_b_chi'"):
        quality_cut(stars, "b", "chi")
    with pytest.raises(ValueError, match="side 'left' is unknown"):
        quality_cut(stars, "b", "qfit", side="left")
    with pytest.raises(ValueError, match="b_qfit: 100 artificial stars to put the cut at; 500 are needed"):
        quality_cut(stars, "b", "qfit", among=np.cumsum(stars["recovered"]) <= 100)
    with pytest.raises(FileNotFoundError, match="no such file of selections"):
        read_selections(tmp_path / "no.ecsv")
    Table({"x": [1.0]}).write(tmp_path / "other.ecsv")
    with pytest.raises(InputError, match="Write it with write_selections"):
        read_selections(tmp_path / "other.ecsv")
