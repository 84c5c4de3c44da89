"""STDGDC files: format 1 written and read, format 2 read, origins, bad files."""

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from dpm.io.errors import InputError
from dpm.io.stdgdc import read_stdgdc, write_stdgdc
from dpm.models.distortion import MapDistortion


def example(nx=60, ny=50):
    rows, columns = np.mgrid[0:ny, 0:nx].astype(float)
    s, t = (columns - 30) / 30, (rows - 25) / 25
    return MapDistortion(columns + 1.5 * s * t - 4.0, rows - 0.7 * s**2 + 2.0, 0.03 * s * t)


def test_format_1_round_trip_and_origins(tmp_path):
    path = tmp_path / "STDGDC_NIRISS_F090W.fits"
    distortion = example()
    write_stdgdc(path, distortion, {"FILTER": "F090W"})
    again = read_stdgdc(path)
    np.testing.assert_allclose(again.x_corrected, distortion.x_corrected, atol=6e-6)
    np.testing.assert_allclose(again.y_corrected, distortion.y_corrected, atol=6e-6)
    np.testing.assert_allclose(again.magnitude, distortion.magnitude, atol=6e-5)
    with fits.open(path, do_not_scale_image_data=True) as raw:
        assert [hdu.name for hdu in raw[1:]] == ["XGC", "YGC", "MGC", "XCG", "YCG"]
        assert raw["XGC"].data.dtype == ">i4" and raw["MGC"].data.dtype == ">i2"
        header = raw[0].header
        # The file is 1-based: corrected x of the first pixel is ours plus one.
        assert raw["XGC"].data[0, 0] * raw["XGC"].header["BSCALE"] == pytest.approx(distortion.x_corrected[0, 0] + 1)
        assert header["LTV1"] == 1 - header["XGC_0"] and header["NDIM_XGC"] == 60
        assert (raw["XCG"].data == -2_000_000_000).any()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_inverse_maps_close_within_the_files_precision(tmp_path):
    write_stdgdc(tmp_path / "g.fits", example())
    with fits.open(tmp_path / "g.fits") as hdulist:
        x, y, back_x = (np.asarray(hdulist[name].data, dtype=float) for name in ("XGC", "YGC", "XCG"))
        where = [y - hdulist[0].header["YGC_0"], x - hdulist[0].header["XGC_0"]]
    closed = ndimage.map_coordinates(back_x, where, order=1)
    np.testing.assert_allclose(closed, np.arange(1, 61)[None, :] + 0 * closed, atol=2e-3)


def test_integers_without_bscale_have_the_formats_own_scale(tmp_path):
    layers = [fits.ImageHDU(np.full((4, 5), 250000, dtype=np.int32), name=name) for name in ("XGC", "YGC")]
    fits.HDUList([fits.PrimaryHDU(), *layers]).writeto(tmp_path / "g.fits")
    assert read_stdgdc(tmp_path / "g.fits").x_corrected[0, 0] == pytest.approx(1.5)


@pytest.mark.parametrize("cube", [True, False])
def test_format_2_holds_corrections(tmp_path, cube):
    distortion = example()
    rows, columns = np.mgrid[0:50, 0:60]
    layers = np.array([distortion.x_corrected - columns, distortion.y_corrected - rows, distortion.magnitude])
    if cube:
        fits.PrimaryHDU(layers).writeto(tmp_path / "g.fits")
    else:
        fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(layer) for layer in layers)]).writeto(tmp_path / "g.fits")
    again = read_stdgdc(tmp_path / "g.fits", y_offset=7)
    np.testing.assert_allclose(again.x_corrected, distortion.x_corrected)
    np.testing.assert_allclose(again.magnitude, distortion.magnitude)
    assert again.y_offset == 7


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.fits.*no such file"):
        read_stdgdc(tmp_path / "no.fits")
    (tmp_path / "text.fits").write_text("not FITS")
    with pytest.raises(InputError, match=r"text\.fits"):
        read_stdgdc(tmp_path / "text.fits")
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(tmp_path / "one.fits")
    with pytest.raises(InputError, match=r"one\.fits.*three layers"):
        read_stdgdc(tmp_path / "one.fits")
    holes = example()
    holes.x_corrected[3, 3] = np.nan
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(holes.x_corrected + 1, name="XGC"),
            fits.ImageHDU(holes.y_corrected + 1, name="YGC"),
        ]
    ).writeto(tmp_path / "holes.fits")
    with pytest.raises(InputError, match="without a corrected position"):
        read_stdgdc(tmp_path / "holes.fits")


def test_format_two_goes_there_and_back(tmp_path):
    distortion = example()
    write_stdgdc(tmp_path / "two.fits", distortion, {"FILTER": "F090W"}, layout=2)
    again = read_stdgdc(tmp_path / "two.fits")
    for name in ("x_corrected", "y_corrected", "magnitude"):
        np.testing.assert_allclose(getattr(again, name), getattr(distortion, name), atol=2e-6)
    with pytest.raises(ValueError, match="formats 1 and 2"):
        write_stdgdc(tmp_path / "three.fits", distortion, layout=3)


def test_the_reader_of_bp3m_opens_it(tmp_path):
    """bp3m asks for jax and jupyter, so it is no requirement: ``pip install --no-deps bp3m`` is enough for this test."""
    reader = pytest.importorskip("pypass.io")
    distortion = example()
    write_stdgdc(tmp_path / "one.fits", distortion)
    table = reader.load_stdgdc(str(tmp_path / "one.fits"))
    ny, nx = distortion.x_corrected.shape
    x, y = np.random.default_rng(2).uniform(1, min(nx, ny) - 3, (2, 200))
    u, v, magnitude = reader.apply_gdc(x, y, table)
    expected = distortion.forward(x, y)
    np.testing.assert_allclose(u - 1, expected[0], atol=1e-5)
    np.testing.assert_allclose(v - 1, expected[1], atol=1e-5)
    np.testing.assert_allclose(10 ** (-0.4 * magnitude), distortion.area(x, y), atol=1e-4)
