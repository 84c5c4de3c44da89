"""What a solved distortion's own errors do to positions: part of every star's error, common to its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpm.stages.frame.link import Links
from dpm.stages.frame.units import Unit, by_unit

__all__ = ["has_map_errors", "map_draws"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Error (master pixels) that keeps one bright measurement from having all the weight.
MAP_FLOOR = 0.002


def has_map_errors(units: Sequence[Unit]) -> bool:
    """Whether every one of these units that is on the master frame has a solved map whose errors are known."""
    return all(unit.map_errors is not None for unit in units if unit.transform is not None)


def map_draws(
    units: Sequence[Unit], links: Links, rows: Ints, used: NDArray[np.bool_], epoch: int, registered: bool
) -> Floats | None:
    """Draws of how the maps' errors move the mean positions of one epoch.

    Every draw of the maps and transforms moves a star's measurements; their weighted mean moves the star.

    Parameters
    ----------
    units : sequence of Unit
    links : Links
    rows : ndarray
        Linked detections.
    used : ndarray (len(rows),), bool
        Those in the mean positions.
    epoch : int
        Number of the epoch.
    registered : bool
        A reference fixes the frame.  Without one its six linear parameters are the headers', and their errors, common to
        all stars, are left out; those of older epochs tie them to the latest.

    Returns
    -------
    ndarray (n_draws, 2, n_stars) or None
        Master pixels; None where no map has errors.
    """
    n = links.n_stars
    good = used & (links.epoch[rows] == epoch)
    weight_all = np.zeros(n)
    moved: Floats | None = None
    for k, part in by_unit(rows[good], links.unit):
        unit = units[k]
        if unit.map_errors is None or unit.transform is None:
            continue
        local, star = part - links.starts[k], links.star[part]
        weight = 1 / (0.5 * (unit.x_error[local] ** 2 + unit.y_error[local] ** 2) * unit.transform.scale**2 + MAP_FLOOR**2)
        centre_x, centre_y = unit.transform(0.0, 0.0)
        draws = unit.map_errors.on_frame(
            unit.name, unit.filter, unit.transform.matrix, unit.x[local], unit.y[local],
            links.x[part] - centre_x, links.y[part] - centre_y,
        )  # fmt: skip
        if moved is None:
            moved = np.zeros((len(draws), 2, n))
        # A unit has one detection of a star at most.
        moved[:, :, star] += weight * draws
        weight_all[star] += weight
    if moved is None:
        return None
    mean = moved / np.where(weight_all > 0, weight_all, 1.0)
    return mean if registered else _without_linear(mean, links, rows[good], weight_all > 0)


def _without_linear(mean: Floats, links: Links, rows: Ints, known: NDArray[np.bool_]) -> Floats:
    """Draws less their best linear functions of position."""
    count = np.maximum(np.bincount(links.star[rows], minlength=links.n_stars), 1)
    x, y = (np.bincount(links.star[rows], axis[rows], links.n_stars) / count for axis in (links.x, links.y))
    if known.sum() < 3:
        return np.zeros_like(mean)
    design = np.stack([np.ones(links.n_stars), x - x[known].mean(), y - y[known].mean()], -1)
    flat = mean.reshape(-1, links.n_stars).T
    terms = np.linalg.lstsq(design[known], flat[known], rcond=None)[0]
    return np.asarray((flat - design @ terms).T.reshape(mean.shape))
