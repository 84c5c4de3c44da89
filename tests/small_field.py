"""A small simulated field through the whole chain, for tests that compare runs bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.simulate import Effects, SimulationOptions, Visit, simulate_field


def make_small_field(folder: Path) -> Path:
    """Eight exposures of 224 x 224 pixels with a known ePSF; returns the folder of the FITS files."""
    effects = Effects(galaxies=0, fine_distortion=False, filter_distortion=False)
    options = SimulationOptions(
        visits=(Visit(n_dithers=4, dither=0.05),), n_pixels=224, n_stars=600, cluster_radius=0.0, seed=8, effects=effects
    )
    simulate_field(folder, options)
    return folder


def write_config(field: Path, config: Path, more: str = "") -> RunFolder:
    """A TOML file for the field; its run folder lies beside it."""
    run = config.parent / "run"
    config.write_text(
        f'[input]\nexposures = ["{field}/*_cal.fits"]\nreference = "{field}/reference.ecsv"\n'
        f'[psf]\nsource = "{field}/truth/stdpsf"\n[run]\ndirectory = "{run}"\n[distortion]\nsource = "wcs"\n'
        # A fine master frame has many patches, and so the second pass many parts.
        f"[frame]\nscale = 0.045\n{more}"
    )
    return RunFolder(run)


def products(folder: RunFolder) -> list[tuple[str, np.ndarray]]:
    """All columns of catalogue, measurements and detections, in order."""
    paths = [folder.catalog, *sorted(folder.measurements.glob("*.parquet")), *sorted(folder.detections.glob("*.parquet"))]
    return [(name, np.asarray(table[name])) for table in map(read_table, paths) for name in table.colnames]


def assert_same_products(one: RunFolder, other: RunFolder) -> None:
    """Bit by bit: no row lost, none doubled, none changed."""
    first, second = products(one), products(other)
    assert [name for name, _ in first] == [name for name, _ in second]
    for (name, a), (_, b) in zip(first, second):
        np.testing.assert_array_equal(a, b, err_msg=name)
    identifiers = np.asarray(read_table(other.catalog)["id"])
    assert identifiers.size > 100 and np.unique(identifiers).size == identifiers.size
