"""``dpm run`` on real exposures, from the TOML file to the catalogue and the report."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import sigma_clipped_stats
from astropy.table import QTable, Table
from astropy.wcs import WCS
from photutils.centroids import centroid_2dg, centroid_sources
from scipy import ndimage
from scipy.spatial import cKDTree
from typer.testing import CliRunner

import dpm
from dpm.cli.main import app
from dpm.stages import STAGES


def dpm_command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def write_field(folder, exposures, source="build", min_exposures=3):
    path = folder / "field.toml"
    path.write_text(
        f'[input]\nexposures = ["{exposures}"]\n[psf]\nsource = "{source}"\n[frame]\nmin_exposures = {min_exposures}\n'
    )
    return path


def check_atlas(run):
    """Bright stars lie where the catalogue says, through the FITS header, and no cosmic ray is left where all exposures are."""
    catalog = run.catalog
    with fits.open(run.folder.images / "atlas_wfc3uv_f814w.fits") as atlas:
        sci, number = atlas["SCI"].data, atlas["NEXP"].data
        at = np.column_stack(WCS(atlas["SCI"].header).all_world2pix(catalog["ra"], catalog["dec"], 0))
        assert atlas["SCI"].header["BUNIT"] == "electron/s" and atlas[0].header["PHOTSYS"] == "AB"
    nearest = cKDTree(at).query(at, 2)[0][:, 1]
    bright = (catalog["wfc3uv_f814w_mag_error"] < 0.012) & (nearest > 6)
    x, y = centroid_sources(np.nan_to_num(sci), *at[bright].T, box_size=9, centroid_func=centroid_2dg)
    off = np.column_stack([x, y]) - at[bright]
    assert len(off) >= 4 and np.hypot(*off.T).max() < 0.05
    deep = sci[number == 3]
    noise = 1.4826 * np.median(np.abs(deep - np.median(deep)))
    labels, n = ndimage.label(np.nan_to_num(sci) * (number == 3) > 12 * noise)
    centres = np.array(ndimage.center_of_mass(np.nan_to_num(sci), labels, np.arange(1, n + 1)))[:, ::-1]
    assert n > 5 and cKDTree(at).query(centres)[0].max() < 6


def test_three_dithered_uvis_exposures(shared_data, tmp_path):
    """Full of cosmic rays: what lies in all three comes out, with consistent magnitudes, and the cosmic rays do not."""
    real = shared_data / "real"
    path = write_field(tmp_path, real / "wfc3uvis_f814w_3dithers/*_flc.fits", real / "stdpsf/STDPSF_WFC3UV_F814W.fits")
    path.write_text(path.read_text() + "[atlas]\nmake = true\n")
    code, output = dpm_command("run", path, "--cluster", "threads")
    assert code == 0, output
    run = dpm.open(path)
    check_atlas(run)
    catalog = run.catalog
    from dpm.io.tables import read_table

    assert 9 <= len(read_table(run.folder.frame_catalog)) <= 14
    # The second pass goes deeper: pieces of the diffuse galaxies come out as well, each in all three exposures.
    assert 9 <= len(catalog) <= 40
    assert np.all(catalog["wfc3uv_f814w_n_exposures"] == 3) and np.all(catalog["wfc3uv_f814w_n_good"] >= 2)
    bright = catalog["wfc3uv_f814w_mag_error"] < 0.03
    assert np.sum(bright) >= 5
    assert np.median(catalog["wfc3uv_f814w_mag_rms"][bright]) < 0.03
    assert run.report.stat().st_size > 50_000
    provenance = json.loads(run.folder.provenance.read_text())
    assert all(record["sha256"] for record in provenance["inputs"].values())
    assert {"ingest", "psf", "first_pass", "frame", "second_pass", "report"} <= set(provenance["stages"])
    assert run.cube(run.cubes[0]).sizes["exposure"] == 3

    # The stack of the residuals holds neither cosmic rays nor stars, but for the galaxy in the middle.
    files = run.residuals()
    assert len(files) == 3 + 2
    with fits.open(run.folder.images / "residual_stack_wfc3uv_f814w.fits") as left:
        inner = left[0].data[left["NUMBER"].data >= 2]
    _, middle, scatter = sigma_clipped_stats(inner)
    assert np.mean(np.abs(inner - middle) > 10 * scatter) < 2e-3
    with fits.open(run.folder.images / f"residual_{run.exposures['exposure'][0]}_UVIS2.fits") as one:
        assert one[0].header["WCSERR"] < 0.05

    code, output = dpm_command("run", path)
    assert code == 0 and output.count("up to date") == len(STAGES) + 1
    assert dpm_command("status", run.folder.root)[0] == 0
    assert dpm_command("export", run.folder.root, tmp_path / "catalog.ecsv")[0] == 0
    assert len(QTable.read(tmp_path / "catalog.ecsv")) == len(catalog)


@pytest.mark.slow
def test_same_bits_on_threads_and_on_a_local_cluster(shared_data, tmp_path):
    real = shared_data / "real"
    source = real / "stdpsf/STDPSF_WFC3UV_F814W.fits"
    catalogs = []
    for cluster in ("threads", "local"):
        (tmp_path / cluster).mkdir()
        path = write_field(tmp_path / cluster, real / "wfc3uvis_f814w_3dithers/*_flc.fits", source)
        code, output = dpm_command("run", path, "--cluster", cluster, "--workers", 2)
        assert code == 0, output
        catalogs.append(dpm.open(path).catalog)
    for name in catalogs[0].colnames:
        np.testing.assert_array_equal(np.asarray(catalogs[0][name]), np.asarray(catalogs[1][name]), err_msg=name)


def test_one_nicmos_frame_without_a_library(shared_data, tmp_path):
    path = write_field(tmp_path, shared_data / "real/nicmos_bulge/*_cal.fits", min_exposures=1)
    code, output = dpm_command("run", path, "--cluster", "none")
    assert code == 0, output
    # Half of the maxima above 20 times the frame's clipped scatter are rings and spikes of two bright stars; those that nothing
    # within six pixels outshines are stars.
    image = dpm.open(path).cube("NIC2_F160W")
    pixels = np.nan_to_num(np.asarray(image["sci"][0]))
    level, _, scatter = sigma_clipped_stats(pixels)
    y, x = np.nonzero((pixels == ndimage.maximum_filter(pixels, 13)) & (pixels > level + 20 * scatter))
    assert 60 <= len(x) <= 80
    [part] = dpm.open(path).folder.detections.glob("*.parquet")
    detections = Table.read(part)
    distance = cKDTree(np.c_[detections["x"], detections["y"]]).query(np.c_[x, y])[0]
    assert np.mean(distance < 1.0) > 0.9
