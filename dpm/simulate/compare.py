"""A catalogue beside the truth of the simulated field that it was made from: found and false stars, scatter, pulls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.models.statistics import robust_width

__all__ = ["compare_catalog"]

ARCSEC_PER_RADIAN = 206264.80624709636
# Counterparts lie within this many arcsec and magnitudes; wider, faint neighbours would count as found.
MATCH_RADIUS = 0.05
MATCH_MAGNITUDE = 0.75


def compare_catalog(
    catalog: Table, truth: Path, filter_name: str, band: str, min_exposures: int = 3, bin_width: float = 1.0
) -> Table:
    """Compare a catalogue with the truth, in bins of true magnitude.

    Offsets of position (one median for all stars) and of magnitude (the bright stars' median) are taken out first: they
    belong to the reference catalogue and to the zero point.

    Parameters
    ----------
    catalog : Table
        A run's catalogue.
    truth : Path
        The ``truth`` folder of `dpm.simulate.simulate_field`.
    filter_name : str
        Filter, as the truth names it (``F090W``).
    band : str
        The filter's prefix in the catalogue (``niriss_f090w``).
    min_exposures : int
        A star counts when it lies inside at least this many exposures of the filter.
    bin_width : float
        Width of the bins in magnitudes.

    Returns
    -------
    Table
        One row a bin: ``mag`` (middle), ``n_true``, ``found`` (fraction), ``false`` (rows of the catalogue without a
        counterpart over all rows), ``position_rms`` (mas, an axis), ``position_pull``, ``mag_rms``, ``mag_pull``
        (robust widths).

    Raises
    ------
    FileNotFoundError
        If the folder holds no truth.
    """
    scene = json.loads((truth / "scene.json").read_text())
    stars = Table.read(truth / "stars.ecsv")
    covered = _n_exposures(truth, scene, filter_name, len(stars)) >= min_exposures
    true_mag = np.asarray(stars[f"mag_{filter_name}"], float)
    mag = np.asarray(catalog[f"{band}_mag"].filled(np.nan) if catalog.masked else catalog[f"{band}_mag"], float)
    rows = np.flatnonzero(np.isfinite(mag))
    mag = mag[rows]
    years = float(np.median(np.asarray(catalog["ref_epoch"], float))) - stars.meta["ref_epoch"]
    expected = np.column_stack(
        [np.asarray(stars[axis]) + np.asarray(stars[f"pm_{axis}"]) * years / 1000 for axis in ("xi", "eta")]
    )
    measured = _tangent_plane(catalog[rows], stars.meta["ra0"], stars.meta["dec0"])
    star_of, offset, zero_point = _match(expected, true_mag, measured, mag)
    mag = mag + zero_point
    matched = star_of >= 0
    delta = np.full((len(rows), 2), np.nan)
    delta[matched] = 1000 * (measured[matched] - offset - expected[star_of[matched]])
    delta_mag = np.full(len(rows), np.nan)
    delta_mag[matched] = mag[matched] - true_mag[star_of[matched]]
    errors = np.column_stack([np.asarray(catalog[name], float)[rows] for name in ("ra_error", "dec_error")])
    mag_error = np.asarray(catalog[f"{band}_mag_error"], float)[rows]
    found = np.zeros(len(stars), bool)
    found[star_of[matched]] = True
    result = []
    edges = np.arange(np.floor(true_mag[covered].min()), np.ceil(true_mag[covered].max()) + bin_width / 2, bin_width)
    for low, high in zip(edges[:-1], edges[1:]):
        true = covered & (true_mag >= low) & (true_mag < high)
        here = (mag >= low) & (mag < high)
        good = matched & (true_mag[star_of] >= low) & (true_mag[star_of] < high)
        result.append(
            (
                (low + high) / 2,
                int(true.sum()),
                found[true].mean() if true.any() else np.nan,
                (here & ~matched).sum() / here.sum() if here.any() else np.nan,
                _width(delta[good].ravel()),
                _width((delta / errors)[good].ravel()),
                _width(delta_mag[good]),
                _width((delta_mag / mag_error)[good]),
            )
        )
    names = ("mag", "n_true", "found", "false", "position_rms", "position_pull", "mag_rms", "mag_pull")
    return Table(rows=result, names=names)


def _n_exposures(truth: Path, scene: dict, filter_name: str, n_stars: int) -> NDArray[np.int64]:
    """In how many exposures of a filter each star lies, half a pixel from the edge or further."""
    count = np.zeros(n_stars, np.int64)
    size = scene["args"]["npix"]
    for exposure in scene["exposures"]:
        if exposure["filter"] != filter_name:
            continue
        for path in truth.glob(Path(exposure["file"]).stem.rpartition("_")[0] + "*.npz"):
            data = np.load(path)
            x, y = data["x"], data["y"]
            inside = (x > 0) & (x < size - 1) & (y > 0) & (y < size - 1)
            np.add.at(count, data["id"][inside], 1)
    return count


def _tangent_plane(catalog: Table, ra0: float, dec0: float) -> NDArray[np.float64]:
    """Gnomonic projection of a catalogue's positions, arcsec to the East and to the North."""
    ra, dec = (np.radians(np.asarray(catalog[name], float)) for name in ("ra", "dec"))
    ra0, dec0 = np.radians(ra0), np.radians(dec0)
    denominator = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
    xi = np.cos(dec) * np.sin(ra - ra0) / denominator
    eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)) / denominator
    return ARCSEC_PER_RADIAN * np.column_stack([xi, eta])


def _match(
    expected: NDArray[np.float64],
    true_mag: NDArray[np.float64],
    measured: NDArray[np.float64],
    mag: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """The true star of every row (-1 for none), the offset of position, and what to add to the magnitudes.

    Offset and zero point come from the brighter half; then the star closest in position of about the right magnitude is
    taken, each once.
    """
    bright = np.argsort(mag)[: max(10, len(mag) // 2)]
    tree = cKDTree(expected)
    distance, nearest = tree.query(measured[bright], distance_upper_bound=4 * MATCH_RADIUS)
    near = np.isfinite(distance)
    zero_point = float(np.median(true_mag[nearest[near]] - mag[bright][near]))
    offset = np.median(measured[bright][near] - expected[nearest[near]], axis=0)
    star_of = np.full(len(mag), -1)
    taken: dict[int, float] = {}
    for row in np.argsort(mag):
        for star in sorted(
            tree.query_ball_point(measured[row] - offset, MATCH_RADIUS),
            key=lambda s: float(np.sum((measured[row] - offset - expected[s]) ** 2)),
        ):
            if star not in taken and abs(mag[row] + zero_point - true_mag[star]) < MATCH_MAGNITUDE:
                taken[star] = row
                star_of[row] = star
                break
    return star_of, offset, zero_point


def _width(values: NDArray[np.float64]) -> float:
    """Robust standard deviation of the finite values; NaN for fewer than five."""
    values = values[np.isfinite(values)]
    if len(values) < 5:
        return float("nan")
    return robust_width(values)
