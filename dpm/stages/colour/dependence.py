"""Slopes of the fits' quality over the stars' colour, at equal magnitude.

An ePSF is that of the filter's mean wavelength; redder stars have a wider one. A width that does not fit shows in RADXS (light
beside the core), in QFIT over its expectation, and in positions that follow the pixel phase (a sine where shapes are symmetric).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_columns, read_table
from dpm.models.detectors import band_wavelength
from dpm.models.flags import StarFlag
from dpm.models.statistics import robust_width

__all__ = ["QUANTITIES", "colour_dependence", "slope_at_equal_magnitude"]

QUANTITIES = ("radxs", "qfit_ratio", "phase_x", "phase_y")
SIGNAL_TO_NOISE = 50.0
FEWEST_STARS = 50
IN_A_GROUP = 20  # stars of about one magnitude, whose mean colour and quality are taken off: brightness is not colour
CLIP = 4.0  # sigma
ROUNDS = 3
SPOILT = int(
    StarFlag.SATURATED | StarFlag.SHORT_RAMP | StarFlag.EDGE | StarFlag.FEW_PIXELS | StarFlag.NOT_CONVERGED | StarFlag.NEIGHBOR
    | StarFlag.NEAR_SATURATED | StarFlag.EXTENDED | StarFlag.SHARP
)  # fmt: skip

Floats = NDArray[np.float64]


def colour_dependence(folder: RunFolder) -> dict[str, Any]:
    """Figures of all bands of a run folder, from its catalogue, matches and detections.

    Returns
    -------
    dict
        ``words``; ``colour``: the two bands, blue and red ([] where there is one filter); ``bands``: for each ``stars``, ``range``
        (5 and 95 % of the colours), and for each of `QUANTITIES` ``[slope, error]`` per magnitude: of RADXS and QFIT over its
        expectation as they are, of the phase as the amplitude in pixels of a sine of the place in the pixel.
    """
    exposures = read_table(folder.exposures)
    catalog = read_table(folder.frame_catalog)
    names = [name.removesuffix("_mag") for name in catalog.colnames if name.endswith("_mag")]
    bands = sorted(names, key=lambda band: (band_wavelength(band), band))
    if len({band_wavelength(band) for band in bands}) < 2:
        return {"words": "one filter: the stars have no colours here", "colour": [], "bands": {}}
    blue, red = bands[0], bands[-1]
    colour = _filled(catalog[f"{blue}_mag"]) - _filled(catalog[f"{red}_mag"])
    out: dict[str, Any] = {}
    for band in bands:
        # A band that comes back at another epoch has the year in its name.
        mine = exposures[[band == name or band.startswith(f"{name}_") for name in (str(row["band"]) for row in exposures)]]
        measured = _measurements(folder, mine, np.asarray(catalog["id"]), colour, _filled(catalog[f"{band}_mag"]))
        if measured is not None:
            out[band] = measured
    if not out:
        return {"words": f"fewer than {FEWEST_STARS} well-measured stars have a colour", "colour": [blue, red], "bands": {}}
    words = "; ".join(
        f"{band}: RADXS {values['radxs'][0]:+.5f} +- {values['radxs'][1]:.5f} per magnitude of colour"
        for band, values in out.items()
    )
    return {"words": words, "colour": [blue, red], "bands": out}


def _filled(column: Any) -> Floats:
    return np.asarray(column.filled(np.nan) if hasattr(column, "filled") else column, float)


def _measurements(folder: RunFolder, exposures: Any, ids: NDArray, colour: Floats, mag: Floats) -> dict[str, Any] | None:
    """Slopes of one band; None with too few stars."""
    order = np.argsort(ids)
    parts: list[Floats] = []
    for row in exposures:
        place = str(row["exposure"]), str(row["detector"])
        if not folder.matches_file(*place).exists():
            continue
        match = read_columns(folder.matches_file(*place), ["id", "row", "dx", "dy", "used"])
        names = ["x", "y", "flux", "flux_error", "qfit", "qfit_expected", "radxs", "flags"]
        found = {key: np.asarray(value)[match["row"]] for key, value in read_columns(folder.detections_file(*place), names).items()}
        star = order[np.searchsorted(ids, match["id"], sorter=order).clip(0, len(ids) - 1)] if len(ids) else match["id"]
        good = np.asarray(match["used"], bool) & ((found["flags"] & SPOILT) == 0) & (found["qfit_expected"] > 0)
        good &= found["flux"] > SIGNAL_TO_NOISE * found["flux_error"]
        good &= np.isfinite(match["dx"]) & np.isfinite(match["dy"]) & np.isfinite(found["radxs"])
        wave_x, wave_y = (np.sin(2.0 * np.pi * found[axis]) for axis in ("x", "y"))
        ratio = found["qfit"] / np.where(good, found["qfit_expected"], 1.0)
        parts.append(np.column_stack([star, found["radxs"], ratio, match["dx"], match["dy"], wave_x, wave_y])[good])
    if not parts:
        return None
    table = np.concatenate(parts)
    star = table[:, 0].astype(np.int64)
    known = np.isfinite(colour[star]) & np.isfinite(mag[star])
    table, star = table[known], star[known]
    stars, index = np.unique(star, return_inverse=True)
    if len(stars) < FEWEST_STARS:
        return None
    count = np.bincount(index)
    out: dict[str, Any] = {"stars": len(stars), "range": [float(value) for value in np.quantile(colour[stars], (0.05, 0.95))]}
    for column, name in ((1, "radxs"), (2, "qfit_ratio")):
        mean = np.bincount(index, table[:, column]) / count
        out[name] = slope_at_equal_magnitude(colour[stars], mean, mag[stars], np.arange(len(stars)))
    for offset, wave, name in ((3, 5, "phase_x"), (4, 6, "phase_y")):
        out[name] = slope_at_equal_magnitude(colour[star], table[:, offset], mag[star], index, table[:, wave])
    return out


def slope_at_equal_magnitude(
    colour: Floats, value: Floats, mag: Floats, star: NDArray[np.int64], wave: Floats | None = None
) -> list[float]:
    """Clipped slope over colour and its error from the scatter, with the means of stars of about one magnitude taken off.

    The error takes the values of one ``star`` (a number) as dependent: it has one colour, and one place in each dither. With
    ``wave``, values follow it with an amplitude that may differ from group to group, and the slope is that of the amplitude.
    """
    _, first, number = np.unique(star, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(mag[first], kind="stable")] = np.arange(len(first))
    group = rank[number] // IN_A_GROUP
    basis = np.ones_like(value) if wave is None else np.asarray(wave, float)
    used = np.isfinite(value) & np.isfinite(colour)
    slope, error = 0.0, float("inf")
    for _ in range(ROUNDS):
        weight = np.where(used, basis * basis, 0.0)
        total = np.maximum(np.bincount(group, weight), 1e-12)
        centre = (np.bincount(group, weight * np.where(used, colour, 0.0)) / total)[group]
        level = (np.bincount(group, np.where(used, basis * value, 0.0)) / total)[group]
        offset = (colour - centre) * basis
        rest = value - level * basis
        spread = float((offset[used] ** 2).sum())
        if used.sum() < FEWEST_STARS or not spread > 0:
            return [float("nan"), float("nan")]
        slope = float((offset[used] * rest[used]).sum()) / spread
        rest = rest - slope * offset
        width = robust_width(rest[used], 0.0)
        # The groups' means have taken up a part of the scatter.
        shared = np.bincount(number[used], (offset * rest)[used]) * np.sqrt(IN_A_GROUP / (IN_A_GROUP - 1.0))
        error = float(np.sqrt((shared**2).sum())) / spread
        used &= np.abs(rest) < CLIP * width
    return [slope, error]
