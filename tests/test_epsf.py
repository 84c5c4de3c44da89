"""The gridded ePSF: values, gradients, blending, centring; against a closed form and against photutils."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analytic_scene import gridded_epsf, true_epsf
from scipy import ndimage

from dpm.io.stdpsf import write_stdpsf
from dpm.models.epsf import GriddedEPSF, centre_samples

RNG = np.random.default_rng(20260101)
DX, DY = RNG.uniform(-4, 4, (2, 2000))


def test_value_matches_closed_form() -> None:
    """The quintic spline errs by less than 2e-5 of the peak; a cubic one through the same samples by ten times more."""
    epsf = gridded_epsf()
    error = np.abs(epsf(5.0, 7.0, DX, DY) - true_epsf(DX, DY))
    peak = true_epsf(np.zeros(1), np.zeros(1))[0]
    assert error.max() < 2e-5 * peak
    cubic = ndimage.map_coordinates(epsf.samples[0, 0], [DY * 4 + 50, DX * 4 + 50], order=3)
    assert np.abs(cubic - true_epsf(DX, DY)).max() > 10 * error.max()


def test_gradient_is_derivative_by_star_position() -> None:
    epsf = gridded_epsf()
    step = 1e-3
    gx, gy = epsf.gradient(0.0, 0.0, DX, DY)
    numeric_x = (true_epsf(DX - step, DY) - true_epsf(DX + step, DY)) / (2 * step)
    numeric_y = (true_epsf(DX, DY - step) - true_epsf(DX, DY + step)) / (2 * step)
    assert np.abs(gx - numeric_x).max() < 2e-4 * np.abs(numeric_x).max()
    assert np.abs(gy - numeric_y).max() < 2e-4 * np.abs(numeric_y).max()


def test_blend_is_bilinear_and_constant_outside() -> None:
    epsf = gridded_epsf((0.0, 100.0), (1.0, 1.3))
    left, right = epsf(0.0, 50.0, DX, DY), epsf(100.0, 50.0, DX, DY)
    assert np.allclose(epsf(25.0, 30.0, DX, DY), 0.75 * left + 0.25 * right, atol=1e-7)
    assert np.array_equal(epsf(-40.0, 50.0, DX, DY), left)
    assert np.array_equal(epsf(400.0, 50.0, DX, DY), right)
    assert np.abs(left - right).max() > 0.05


def test_beyond_the_grid_is_dark() -> None:
    assert np.abs(gridded_epsf()(0.0, 0.0, np.array([40.0, -13.5]), np.array([0.0, 0.0]))).max() < 1e-8


def test_nodes_must_ascend() -> None:
    with pytest.raises(ValueError, match="node_x does not ascend"):
        GriddedEPSF(np.zeros((2, 2, 101, 101)), np.array([5.0, 5.0]), np.array([0.0, 9.0]))


@pytest.mark.parametrize("shift", [(0.11, -0.07), (-0.3, 0.2)])
def test_centring_recovers_a_shift(shift: tuple[float, float]) -> None:
    """psi(0.5, 0) = psi(-0.5, 0) after centring, and the shift is the one put in."""
    offset = (np.arange(101) - 50) / 4
    moved = true_epsf(offset[None, :] - shift[0], offset[:, None] - shift[1])
    centred, found = centre_samples(moved)
    assert found == pytest.approx(shift, abs=2e-4)
    node = np.zeros(1)
    epsf = GriddedEPSF(centred[None, None], node, node)
    sides = epsf(0, 0, [0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.5, -0.5])
    assert sides[0] == pytest.approx(sides[1], rel=1e-5)
    assert sides[2] == pytest.approx(sides[3], rel=1e-5)


def test_photutils_reads_our_library_and_agrees(tmp_path: Path) -> None:
    """photutils' own STDPSF reader and interpolator (cubic) give our values to a thousandth of the peak."""
    psf = pytest.importorskip("photutils.psf", reason="photutils is in the test extra")
    epsf = gridded_epsf((0.0, 511.0), (1.0, 1.1))
    path = tmp_path / "STDPSF_NRCA1_F115W.fits"
    write_stdpsf(path, epsf)
    model = psf.GriddedPSFModel.read(str(path), format="stdpsf")
    star = (128.3, 255.8)
    columns, rows = np.meshgrid(np.arange(124, 133), np.arange(252, 261))
    theirs = model.evaluate(columns, rows, 1.0, *star)
    ours = epsf(*star, columns - star[0], rows - star[1])
    assert np.abs(theirs - ours).max() < 2e-3 * ours.max()
