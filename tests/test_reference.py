"""Reference catalogues: formats, names, units, epochs, bad input."""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import Distance, SkyCoord
from astropy.table import MaskedColumn, Table
from astropy.time import Time

from dpm.io.errors import InputError
from dpm.io.reference import read_reference
from dpm.io.tables import write_table


def example() -> Table:
    return Table(
        {
            "ra": [80.49, 80.5, 0.0001],
            "dec": [-69.5, -69.51, 41.0],
            "ra_error": [0.4, 0.5, 0.6],
            "dec_error": [0.4, 0.5, 0.6],
            "ref_epoch": [2006.39, 2006.39, 2016.0],
            "pmra": [-50.0, 3.0, -900.0],
            "pmdec": [20.0, 0.0, 400.0],
            "pmra_error": [0.03, 0.03, 0.1],
            "pmdec_error": [0.03, 0.03, 0.1],
            "phot_g_mean_mag": [20.0, 19.0, 12.0],
        }
    )


@pytest.mark.parametrize("name", ["r.ecsv", "r.fits", "r.vot", "r.parquet"])
def test_formats(tmp_path, name):
    table = example()
    if name.endswith("parquet"):
        write_table(tmp_path / name, table)
    else:
        table.write(tmp_path / name, **({"format": "votable"} if name.endswith("vot") else {}))
    reference = read_reference(tmp_path / name)
    np.testing.assert_allclose(reference.ra, table["ra"])
    np.testing.assert_allclose(reference.pmra_error, table["pmra_error"])
    np.testing.assert_allclose(reference.mag, table["phot_g_mean_mag"])


def test_motion_is_that_of_apply_space_motion(tmp_path):
    example().write(tmp_path / "r.ecsv")
    reference = read_reference(tmp_path / "r.ecsv")
    ra, dec, ra_error, _ = reference.at(2022.33)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stars = SkyCoord(
            reference.ra * u.deg,
            reference.dec * u.deg,
            distance=Distance(np.full(3, 1e6) * u.pc),
            pm_ra_cosdec=reference.pmra * u.mas / u.yr,
            pm_dec=reference.pmdec * u.mas / u.yr,
            obstime=Time(reference.ref_epoch, format="jyear"),
        )
        moved = stars.apply_space_motion(new_obstime=Time(2022.33, format="jyear"))
    there = SkyCoord(ra * u.deg, dec * u.deg)
    assert np.all(there.separation(SkyCoord(moved.ra, moved.dec)).mas < 1e-3)
    # Eastward motion raises ra, by 1 / cos(dec).
    assert (ra[0] - reference.ra[0]) * 3.6e6 == pytest.approx(-50 * 15.94 / np.cos(np.radians(-69.5)), rel=1e-4)
    assert ra_error[0] == pytest.approx(np.hypot(0.4, 0.03 * 15.94))


def test_units_masks_and_other_names(tmp_path):
    table = Table(
        {
            "RA_ICRS": [80.49, np.nan],
            "DE_ICRS": [-69.5, -69.4],
            "e_RA_ICRS": MaskedColumn([0.0004, 0.1], unit=u.arcsec),
            "pmRA": MaskedColumn([1.0, 2.0], mask=[True, False], unit=u.mas / u.yr),
            "pmDE": MaskedColumn([1.0, 2.0], unit=u.mas / u.yr),
        },
        meta={"ref_epoch": 2016.0},
    )
    table.write(tmp_path / "v.ecsv")
    reference = read_reference(tmp_path / "v.ecsv")
    assert len(reference) == 1 and reference.ref_epoch[0] == 2016.0
    assert reference.ra_error[0] == pytest.approx(0.4)
    assert reference.pmra[0] == 0.0 and reference.pmra_error[0] == 5.0
    ra, dec, ra_error, _ = reference.at(2026.0)
    np.testing.assert_allclose([ra, dec], [reference.ra, reference.dec])
    assert ra_error[0] > 49


def test_positions_without_motion_and_epoch_hold_for_any_epoch(tmp_path):
    Table({"ra": [1.0], "dec": [2.0]}).write(tmp_path / "p.ecsv")
    reference = read_reference(tmp_path / "p.ecsv")
    ra, _, error, _ = reference.at(2100.0)
    assert ra[0] == pytest.approx(1.0) and error[0] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.remove_column("dec"), r"r\.ecsv \[dec\].*no column 'dec'"),
        (lambda t: t.replace_column("ra", [np.nan] * 3), r"r\.ecsv \[ra\].*finite"),
        (lambda t: t.replace_column("dec", [95.0, 1.0, 2.0]), "beyond 90"),
        (lambda t: t.remove_column("ref_epoch"), r"\[ref_epoch\].*no epoch"),
        (lambda t: t.replace_column("ref_epoch", [57388.0] * 3), r"\[ref_epoch\].*Julian year"),
        (lambda t: t.remove_column("pmra"), "only one of the two"),
        (lambda t: t.replace_column("ra", ["a", "b", "c"]), r"\[ra\].*numbers"),
    ],
)
def test_bad_columns_are_named(tmp_path, change, message):
    table = example()
    change(table)
    table.write(tmp_path / "r.ecsv")
    with pytest.raises(InputError, match=message):
        read_reference(tmp_path / "r.ecsv")


def test_bad_units_and_files_are_named(tmp_path):
    table = example()
    table["ra"].unit = u.s
    table.write(tmp_path / "r.ecsv")
    with pytest.raises(InputError, match=r"\[ra\].*unit s"):
        read_reference(tmp_path / "r.ecsv")
    with pytest.raises(InputError, match=r"none\.fits.*no such file"):
        read_reference(tmp_path / "none.fits")
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  =  nonsense")
    with pytest.raises(InputError, match=r"broken\.fits"):
        read_reference(tmp_path / "broken.fits")
