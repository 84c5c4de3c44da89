"""STDPSF files: the real ones with their faults, and what we write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analytic_scene import gridded_epsf
from astropy.io import fits

from dpm.io.errors import InputError
from dpm.io.stdpsf import read_flux_error, read_model_error, read_stdpsf, write_stdpsf
from dpm.models.epsf import GriddedEPSF


def test_round_trip(tmp_path: Path) -> None:
    epsf = gridded_epsf((0.0, 255.5, 511.0), (0.95, 1.0, 1.2))
    path = tmp_path / "STDPSF_NIRISS_F090W.fits"
    write_stdpsf(path, epsf, ("test",))
    header = fits.getheader(path)
    assert (header["NXPSFS"], header["IPSFX01"], header["IPSFX03"], header["IPSFX04"]) == (3, 1, 512, 9999)
    back = read_stdpsf(path, centre=False)
    assert np.array_equal(back.node_x, epsf.node_x)
    core = np.s_[:, :, 30:71, 30:71]
    assert np.abs(back.samples[core] - epsf.samples[core]).max() < 1e-7


def test_twelve_nodes_round_trip(tmp_path: Path) -> None:
    nodes = np.arange(12) * 100.0
    samples = np.repeat(np.repeat(gridded_epsf().samples, 12, 0), 12, 1)
    write_stdpsf(tmp_path / "big.fits", GriddedEPSF(samples, nodes, nodes))
    assert np.array_equal(read_stdpsf(tmp_path / "big.fits").node_y, nodes)


@pytest.mark.parametrize(
    ("name", "shape", "first", "last"),
    [
        ("STDPSF_WFC3UV_F814W.fits", (8, 7), -1.0, 4095.0),
        ("PSFSTD_WFC3UV_F336W.fits", (8, 7), -1.0, 4095.0),
        ("STDPSF_ACSWFC_F814W_SM4.fits", (9, 9), -1.0, 4095.0),
        ("PSFSTD_WFC3IR_F160W.fits", (3, 3), -1.0, 1013.0),
    ],
)
def test_real_libraries(shared_data: Path, name: str, shape: tuple[int, int], first: float, last: float) -> None:
    """Trailing byte, +-0.1 border, one node twice, mixed-case keys: read, centred, and of unit light within a few per cent."""
    epsf = read_stdpsf(shared_data / "real" / "stdpsf" / name)
    assert epsf.samples.shape[:2] == shape
    assert (epsf.node_y[0], epsf.node_y[-1]) == (first, last)
    light = epsf.samples.sum(axis=(2, 3)) / 16
    assert np.all((light > 0.95) & (light < 1.07))
    assert np.abs(epsf.samples[:, :, 0]).max() < 1e-6
    assert epsf.samples[:, :, 50, 50].min() > 0.1
    sides = np.abs(epsf.samples[:, :, 50, 52] - epsf.samples[:, :, 50, 48])
    assert sides.max() < 2e-3


def test_two_chips_part_at_the_seam(shared_data: Path) -> None:
    """The lower chip ends at its own last node; the upper one starts at row 0 of its own frame."""
    path = shared_data / "real" / "stdpsf" / "STDPSF_ACSWFC_F814W_SM4.fits"
    lower = read_stdpsf(path, rows=(0, 2048))
    upper = read_stdpsf(path, rows=(2048, 4096), y_offset=2048)
    assert lower.node_y.tolist() == [-1, 511, 1023, 1535, 2047]
    assert upper.node_y.tolist() == [-1, 511, 1023, 1535, 2047]
    assert not np.allclose(lower.samples[-1], upper.samples[0], atol=1e-4)


def test_missing_end_card_and_trailing_byte(tmp_path: Path) -> None:
    write_stdpsf(tmp_path / "good.fits", gridded_epsf((0.0, 511.0), (1.0, 1.1)))
    raw = (tmp_path / "good.fits").read_bytes()
    end = raw.index(b"END" + b" " * 77)
    (tmp_path / "odd.fits").write_bytes(raw[:end] + b" " * 80 + raw[end + 80 :] + b"\0")
    assert np.array_equal(read_stdpsf(tmp_path / "odd.fits").samples, read_stdpsf(tmp_path / "good.fits").samples)


def test_faults_are_named(tmp_path: Path) -> None:
    good = tmp_path / "good.fits"
    write_stdpsf(good, gridded_epsf((0.0, 511.0), (1.0, 1.1)))
    raw = good.read_bytes()
    truncated = tmp_path / "truncated.fits"
    truncated.write_bytes(raw[:5000])
    with pytest.raises(InputError, match=r"truncated\.fits.*truncated"):
        read_stdpsf(truncated)
    with pytest.raises(InputError, match="NXPSFS"):
        fits.PrimaryHDU(np.zeros((4, 101, 101), np.float32)).writeto(tmp_path / "plain.fits")
        read_stdpsf(tmp_path / "plain.fits")
    (tmp_path / "text.fits").write_text("no fits")
    with pytest.raises(InputError, match="is not a FITS file"):
        read_stdpsf(tmp_path / "text.fits")
    with pytest.raises(InputError, match="cannot be read"):
        read_stdpsf(tmp_path / "absent.fits")


def test_model_error_travels_in_the_header(tmp_path: Path) -> None:
    node = np.zeros(1)
    quick = GriddedEPSF(gridded_epsf().samples, node, node, approximate=True, model_error=0.031)
    write_stdpsf(tmp_path / "quick.fits", quick)
    write_stdpsf(tmp_path / "library.fits", gridded_epsf())
    assert read_model_error(tmp_path / "quick.fits") == pytest.approx(0.031)
    assert read_stdpsf(tmp_path / "quick.fits").approximate
    assert read_model_error(tmp_path / "library.fits") == 0.0
    assert read_model_error(tmp_path / "absent.fits") == 0.0
    assert read_flux_error(tmp_path / "quick.fits") == pytest.approx(0.031) and read_flux_error(tmp_path / "absent.fits") == 0.0


def test_independent_errors_of_samples_average_over_a_star() -> None:
    """Fluxes of a bright star, summed with an ePSF whose samples are off at random, against the error that is stated."""
    dice, node = np.random.default_rng(3), np.zeros(1)
    true = gridded_epsf().samples[:1, :1]
    error = GriddedEPSF(true, node, node, model_error=0.02).flux_error
    assert 0.2 * 0.02 < error < 0.7 * 0.02
    # Sample (0, 0) of a pixel grid that starts at any phase; the star's light is the noise: the flux is the sum of light and psi's.
    ratio = []
    for _ in range(400):
        wrong = true[0, 0] * (1 + 0.02 * dice.standard_normal(true.shape[-2:]))
        j, i = dice.integers(0, 4, 2)
        ratio.append(true[0, 0, j::4, i::4].sum() / wrong[j::4, i::4].sum())
    assert np.std(ratio) == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize("side", [5, 9, 12])
def test_weak_nodes_travel_in_the_header(tmp_path: Path, side: int) -> None:
    """However many they are; and up to ten nodes a side the header stays in the one block that old readers want."""
    node = np.linspace(0.0, 2047.0, side)
    samples = np.repeat(np.repeat(gridded_epsf().samples, side, 0), side, 1)
    path = tmp_path / "built.fits"
    words = ("built from 13058 star images, error 1.0e-03 of the peak, last change 1.0e-04",)
    for weak in ((), (0, side * side - 1), tuple(range(side * side))):
        write_stdpsf(path, GriddedEPSF(samples, node, node, model_error=0.00123456789, weak_nodes=weak), words, pair="0123456789ab")
        assert read_stdpsf(path).weak_nodes == weak
        if side <= 10:
            assert path.read_bytes()[: 2880].rstrip().endswith(b"END")
