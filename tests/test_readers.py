"""Others' readers open what we write: photutils' STDPSF reader on a library as an ePSF build leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analytic_scene import true_epsf
from photutils.psf import GriddedPSFModel, STDPSFGrid

from dpm.io.stdpsf import write_stdpsf
from dpm.models.epsf import GriddedEPSF

SIDE = 2048
NODES = 5
OFFSET = (np.arange(101) - 50) / 4


@pytest.fixture(scope="module")
def built() -> GriddedEPSF:
    """5 x 5 ePSFs, all different, at places that are no whole pixels; with an error and weak nodes, as a build has them."""
    node = np.linspace(0.0, SIDE - 1.0, NODES)
    samples = np.array(
        [
            [true_epsf(OFFSET[None, :], OFFSET[:, None], 1.0 + 0.02 * i + 0.05 * j) for i in range(NODES)]
            for j in range(NODES)
        ]
    )
    return GriddedEPSF(samples, node, node, source="build", model_error=0.001, weak_nodes=(0, 24))


@pytest.fixture(scope="module")
def library(built: GriddedEPSF, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "STDPSF_NIRISS_F090W.fits"
    write_stdpsf(path, built, ("built from 4000 star images",), pair="0123456789ab")
    return path


@pytest.mark.parametrize(
    "star",
    [(0.0, 0.0), (511.75, 1535.25), (2047.0, 2047.0), (256.0, 1023.5), (1279.4, 767.8), (1900.2, 60.7)],
    ids=["corner node", "node", "far corner", "between in x", "between in both", "near an edge"],
)
def test_photutils_has_our_values(built: GriddedEPSF, library: Path, star: tuple[float, float]) -> None:
    """Its model (1-based nodes, bilinear blend of the nodes, cubic in the samples) is ours to a thousandth of the peak."""
    model = GriddedPSFModel.read(str(library), format="stdpsf")
    assert model.data.shape == (NODES * NODES, 101, 101)
    columns, rows = np.meshgrid(np.arange(-4, 5) + round(star[0]), np.arange(-4, 5) + round(star[1]))
    theirs = model.evaluate(columns, rows, 1.0, *star)
    ours = built(*star, columns - star[0], rows - star[1])
    assert np.abs(theirs - ours).max() < 1e-3 * ours.max()


def test_a_wrong_place_would_show(built: GriddedEPSF, library: Path) -> None:
    """With x and y of the nodes swapped, or the nodes a spacing off, the values differ by far more than the test above allows."""
    model = GriddedPSFModel.read(str(library), format="stdpsf")
    columns, rows = np.meshgrid(np.arange(1896, 1905), np.arange(57, 66))
    theirs = model.evaluate(columns, rows, 1.0, 1900.2, 60.7)
    for place in ((60.7, 1900.2), (1900.2 - 511.75, 60.7), (1900.2, 60.7 + 511.75)):
        assert np.abs(built(*place, columns - 1900.2, rows - 60.7) - theirs).max() > 1e-2 * theirs.max()


def test_photutils_grid_reader_has_our_nodes(built: GriddedEPSF, library: Path) -> None:
    grid = STDPSFGrid(str(library))
    places = np.array([(x, y) for y in built.node_y for x in built.node_x])
    assert np.allclose(grid.grid_xypos, places, atol=1e-6)
    assert np.abs(np.asarray(grid.data) - built.samples.reshape(-1, 101, 101)).max() < 1e-6 * built.samples.max()
