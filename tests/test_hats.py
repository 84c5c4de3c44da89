"""Catalogues as HATS collections: the files themselves, and what the HATS project's own programs make of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.coordinates import Latitude, Longitude, SkyCoord
from astropy.table import Table
from cdshealpix import lonlat_to_healpix

from dpm.io.export import export_catalog
from dpm.io.hats_catalog import MARGIN, write_hats
from dpm.io.run_folder import RunFolder
from dpm.io.tables import catalog_columns, write_table
from dpm.models.healpix import nested_index

GAIA = Path(__file__).resolve().parents[2] / "shared" / "data" / "real" / "gaia_m92" / "NGC_6341_M_92.txt"
EPOCH, GAIA_EPOCH = 2022.33, 2016.0
ERROR = 0.3  # mas, of a position


def on_the_sphere(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))


@pytest.mark.parametrize("order", [0, 1, 7, 29])
def test_indices_are_those_of_cdshealpix(order: int) -> None:
    ra, dec = on_the_sphere(20_000, 3)
    ra, dec = np.append(ra, [0.0, 359.99999, 80.49, 45.0]), np.append(dec, [90.0, -89.99999, -69.4978, 41.81])
    theirs = lonlat_to_healpix(Longitude(ra * units.deg), Latitude(dec * units.deg), order)
    assert np.array_equal(nested_index(ra, dec, order), theirs.astype(np.int64))
    assert np.array_equal(nested_index(ra - 360.0, dec, order), theirs.astype(np.int64))


def test_pixels_hold_all_stars_and_margins_their_neighbours(tmp_path: Path) -> None:
    # About a corner of the twelve largest pixels, so that all of them meet; divided further by their number.
    rng = np.random.default_rng(8)
    table = Table({"id": np.arange(1500), "ra": 45.0 + rng.normal(0, 60, 1500) / 3600, "dec": rng.normal(0, 60, 1500) / 3600})
    table["ra"].unit = table["dec"].unit = "deg"
    write_hats(table, tmp_path / "stars", "stars", most_rows=200)
    dataset = tmp_path / "stars" / "stars" / "dataset"
    files = sorted(dataset.glob("Norder=*/Dir=*/Npix=*.parquet"))
    listed = (tmp_path / "stars" / "stars" / "partition_info.csv").read_text().split()[1:]
    assert len(files) == len(listed) > 8
    place = SkyCoord(table["ra"], table["dec"])
    seen = []
    for path in files:
        order, pixel = int(path.parts[-3].split("=")[1]), int(path.stem.split("=")[1])
        part = Table.read(path)
        assert part["ra"].unit == "deg" and len(part) <= 200
        assert (nested_index(part["ra"], part["dec"], order) == pixel).all()
        assert np.all(np.diff(part["_healpix_29"]) >= 0)
        seen.append(np.asarray(part["id"]))
        margin = tmp_path / "stars" / "stars_margin" / "dataset" / path.relative_to(dataset)
        around = np.asarray(Table.read(margin)["id"]) if margin.exists() else np.zeros(0, int)
        # A star outside belongs to the margin if one inside is that near.
        outside = np.setdiff1d(np.arange(len(table)), seen[-1])
        nearest = place[outside].match_to_catalog_sky(place[seen[-1]])[1].arcsec
        assert set(outside[nearest < MARGIN]) <= set(around) <= set(outside)
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(len(table)))
    assert pq.read_metadata(dataset / "_metadata").num_rows == len(table)


def test_a_star_without_a_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without ra and dec"):
        write_hats(Table({"ra": [1.0, np.nan], "dec": [0.0, 0.0]}), tmp_path / "stars", "stars")


@pytest.fixture
def m92(tmp_path: Path) -> tuple[RunFolder, Table]:
    """A run whose catalogue has Gaia's stars of M92 as seen in 2022, and Gaia's own table."""
    if not GAIA.is_file():
        pytest.skip(f"no file {GAIA}")
    gaia = Table.read(GAIA, format="ascii.commented_header", delimiter="\t")
    gaia = gaia[gaia["qflag"] >= 2][::4]
    rng, n, years = np.random.default_rng(2), len(gaia), EPOCH - GAIA_EPOCH
    catalog = Table({"id": np.arange(1, n + 1)})
    off = [rng.normal(0, ERROR, n) + np.array(gaia[name]) * years for name in ("pmra", "pmdec")]
    catalog["ra"] = np.array(gaia["ra"]) + off[0] / 3.6e6 / np.cos(np.radians(gaia["dec"]))
    catalog["dec"] = np.array(gaia["dec"]) + off[1] / 3.6e6
    catalog["ra_error"] = catalog["dec_error"] = np.full(n, ERROR)
    catalog["ra_dec_corr"], catalog["ref_epoch"] = np.zeros(n), np.full(n, EPOCH)
    for name in ("pmra", "pmdec"):
        catalog[name], catalog[f"{name}_error"] = np.array(gaia[name]), np.array(gaia[f"{name}e"])
    catalog["pmra_pmdec_corr"] = np.array(gaia["pmcorr"])
    folder = RunFolder(tmp_path / "run")
    folder.create()
    write_table(folder.catalog, catalog, catalog_columns(()))
    return folder, gaia


@pytest.mark.slow
def test_lsdb_opens_it_and_matches_it_with_gaia(m92: tuple[RunFolder, Table], tmp_path: Path) -> None:
    folder, gaia = m92
    collection = export_catalog(folder, "hats", tmp_path / "m92.hats")
    first = {path.relative_to(collection): path.read_bytes() for path in collection.rglob("*") if path.is_file()}
    export_catalog(folder, "hats", collection)
    assert first == {path.relative_to(collection): path.read_bytes() for path in collection.rglob("*") if path.is_file()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lsdb's imports and its use of pandas 3 warn of what pandas 4 will drop
        import lsdb
        from hats.io.validation import is_valid_catalog

        assert is_valid_catalog(collection / "m92", strict=True, verbose=False)
        ours = lsdb.open_catalog(collection)
        # Gaia's columns as its archive names them, through the other project's own writer.
        frame = gaia["source_id", "ra", "dec", "pmra", "pmdec", "pmrae", "pmdece", "pmcorr"].to_pandas()
        frame = frame.rename(columns={"pmrae": "pmra_error", "pmdece": "pmdec_error", "pmcorr": "pmra_pmdec_corr"})
        theirs = lsdb.from_dataframe(frame, catalog_name="gaia", margin_threshold=5.0)
        pairs = ours.crossmatch(theirs, radius_arcsec=0.3, suffixes=("", "_gaia"), suffix_method="overlapping_columns").compute()
    assert ours.margin is not None
    assert len(pairs) == len(gaia)
    right = np.asarray(gaia["source_id"])[pairs["id"].to_numpy() - 1] == pairs["source_id"].to_numpy()
    # Of stars closer together than their motions since 2016 the nearest may be another.
    assert right.mean() > 0.99
    assert set(frame.columns) - {"source_id"} <= set(ours.columns)
    assert {"ra_error", "dec_error", "ra_dec_corr", "ref_epoch"} <= set(ours.columns)
    assert np.allclose(pairs["pmra_pmdec_corr"], pairs["pmra_pmdec_corr_gaia"], atol=1e-6)
    # What lies between the two positions is the motion that the catalogue itself states.
    moved = (pairs["dec"] - pairs["dec_gaia"]) * 3.6e6 / (pairs["ref_epoch"] - GAIA_EPOCH) - pairs["pmdec_gaia"]
    assert np.std(moved[right]) == pytest.approx(ERROR / (EPOCH - GAIA_EPOCH), rel=0.1)
