"""Artificial stars before they are put in: positions, magnitudes, and which of them go in together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from dpm.models.master_frame import MasterFrame
from dpm.models.options import ArtificialStarsOptions
from dpm.models.patches import NODE_STEP
from dpm.science.table_access import column_values
from dpm.stages.second_pass.geometry import ExposureGeometry

__all__ = ["Coverage", "common_motion", "draw_stars", "passes", "separation_of", "spacing_of"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

# Pixels of the coarsest detector between artificial stars that go in together: a star that both could change would lie within
# 9 pixels of one: beyond a star's fit box, its neighbours within LINK_RADIUS and their fit boxes, and beyond the sky annulus.
SEPARATION = 18.0
SHIFT = 0.5  # master pixels by which every star of a pass's lattice is shifted either way, at most
CROWD = 80.0  # artificial stars a circle of the separation that are sorted into passes at once
FOLLOW = 10.0  # master pixels: artificial stars that follow the stars lie as far from one of them (one sigma)
# The catalogue's own sequence: its bins, the stars that each needs, and the largest error in either band.  Stars found near the
# limit of one band are those that are bright in the other: their median colour is off by half a magnitude.
LINE_STEP, LINE_STARS, LINE_ERROR = 0.5, 10, 0.1
LINE_END = 2.0  # magnitudes at its faint end whose slope continues it
FAINTER = 1.0  # magnitudes below the faintest star
FEWEST_DRAWN = 10_000  # places: none of them in the field means that there is no field
COMMON_SHARE = 0.1  # of the well-measured motions, which the smallest circle in the vector-point diagram holds
FEWEST_MOTIONS = 10


class Coverage:
    """How many exposures hold a place of the master frame.

    Parameters
    ----------
    geometries : sequence of ExposureGeometry
    boxes : sequence of tuple
        Raw x_low, x_high, y_low, y_high of the exposures' pixels.
    """

    def __init__(self, geometries: Sequence[ExposureGeometry], boxes: Sequence[tuple[float, float, float, float]]) -> None:
        self.geometries, self.boxes = geometries, boxes

    def count(self, x: Floats, y: Floats) -> NDArray[np.int64]:
        """Exposures that hold each place (n,)."""
        out = np.zeros(len(x), np.int64)
        for geometry, (x_low, x_high, y_low, y_high) in zip(self.geometries, self.boxes, strict=True):
            at = [y / NODE_STEP - geometry.first_row, x / NODE_STEP - geometry.first_column]
            raw_x, raw_y = (ndimage.map_coordinates(plane, at, order=1, cval=np.nan) for plane in geometry.nodes[:2])
            with np.errstate(invalid="ignore"):
                out += (raw_x >= x_low) & (raw_x <= x_high) & (raw_y >= y_low) & (raw_y <= y_high)
        return out

    def bounds(self) -> tuple[float, float, float, float]:
        """x_low, x_high, y_low, y_high of the nodes on the master frame."""
        low_x = min(g.first_column for g in self.geometries)
        low_y = min(g.first_row for g in self.geometries)
        high_x = max(g.first_column + g.nodes.shape[2] for g in self.geometries)
        high_y = max(g.first_row + g.nodes.shape[1] for g in self.geometries)
        return low_x * NODE_STEP, high_x * NODE_STEP, low_y * NODE_STEP, high_y * NODE_STEP


def separation_of(exposures: Table, frame: MasterFrame) -> float:
    """Master pixels between artificial stars of one pass: SEPARATION pixels of the coarsest detector.

    Parameters
    ----------
    exposures : Table
        With ``pixel_scale``, arcsec.
    frame : MasterFrame
    """
    return SEPARATION * max(float(np.max(exposures["pixel_scale"])) / frame.scale, 1.0)


def spacing_of(separation: float) -> float:
    """Side of a pass's lattice, whose stars are shifted; motions are not exactly parallel on a plane."""
    return separation + 2.0 * np.sqrt(2.0) * SHIFT + 0.1


def draw_stars(
    options: ArtificialStarsOptions, catalog: Table, bands: Sequence[str], coverage: Coverage, fewest: int, frame: MasterFrame,
    tables: dict[str, Table], separation: float,
) -> Table:  # fmt: skip
    """The stars to put in.

    Parameters
    ----------
    options : ArtificialStarsOptions
    catalog : Table
        The run's catalogue.
    bands : sequence of str
        Prefixes of its columns.
    coverage : Coverage
    fewest : int
        Exposures that have to hold a place.
    frame : MasterFrame
    tables : dict of Table
        ``"table"`` and ``"fiducial"`` where the options name these files.
    separation : float
        Of stars of one pass, master pixels.

    Returns
    -------
    Table
        ``id`` (from 1), ``x``, ``y`` (master pixels at the catalogue's epoch), ``{band}_mag``, and ``pmra``, ``pmdec`` (mas/yr)
        where the catalogue has motions.

    Raises
    ------
    ValueError
        If a table lacks a column, or a band is not the catalogue's; the text names the key.
    """
    if "table" in tables:
        return _with_motions(_from_table(tables["table"], bands, frame), tables["table"], options, catalog)
    unknown = sorted(set(options.magnitudes) - set(bands))
    if unknown:
        raise ValueError(f"[artificial_stars] magnitudes: no band {unknown[0]}; the catalogue has {', '.join(bands)}")
    rng = np.random.Generator(np.random.Philox(options.seed))
    x, y = _positions(rng, options, catalog, coverage, fewest, separation)
    first = next(iter(options.magnitudes), bands[0])
    low, high = options.magnitudes.get(first) or _range(catalog, first)
    magnitudes = {first: rng.uniform(low, high, options.n)}
    for band in (band for band in bands if band != first):
        if band in options.magnitudes:
            magnitudes[band] = rng.uniform(*options.magnitudes[band], options.n)
        else:
            magnitudes[band] = _on_line(magnitudes[first], first, band, tables.get("fiducial"), catalog)
    out = Table({"id": np.arange(1, options.n + 1), "x": x, "y": y})
    for band in bands:
        out[f"{band}_mag"] = magnitudes[band]
    return _with_motions(out, Table(), options, catalog)


def _with_motions(stars: Table, given: Table, options: ArtificialStarsOptions, catalog: Table) -> Table:
    """The stars with their own motions, the one that is told, or the one that most stars share."""
    if "pmra" not in catalog.colnames:
        return stars
    usual = options.motion or common_motion(catalog)
    for name, value in zip(("pmra", "pmdec"), usual):
        own = next((key for key in (name, f"in_{name}") if key in given.colnames), None)
        stars[name] = np.full(len(stars), value) if own is None else column_values(given, own)
    if not (np.isfinite(stars["pmra"]) & np.isfinite(stars["pmdec"])).all():
        raise ValueError("[artificial_stars] table: a motion is not a number")
    return stars


def passes(places: Sequence[Floats], area: float, separation: float) -> NDArray[np.int64]:
    """Number of the pass that each star goes in with: the first without an earlier star within the separation at any epoch.

    Parameters
    ----------
    places : sequence of ndarray (n, 2)
        Master pixels at every epoch.
    area : float
        That they lie in, square pixels.
    separation : float
        Master pixels.
    """
    n = len(places[0])
    block = max(int(CROWD * area / (np.pi * separation**2)), 1)
    out = np.empty(n, np.int64)
    begun = 0
    for start in range(0, n, block):
        parts = [place[start : start + block] for place in places]
        mine = [-1] * len(parts[0])
        for k, lists in enumerate(zip(*(cKDTree(part).query_ball_point(part, separation) for part in parts))):
            taken = {mine[other] for others in lists for other in others if other < k}
            mine[k] = next(number for number in range(len(taken) + 1) if number not in taken)
        out[start : start + block] = begun + np.array(mine)
        begun += max(mine) + 1
    return out


def common_motion(catalog: Table) -> tuple[float, float]:
    """The motion that most stars share (mas/yr): in the vector-point diagram, the middle of the densest part.

    Parameters
    ----------
    catalog : Table
        With ``pmra, pmdec`` and their errors.

    Returns
    -------
    tuple of float
        Zeros where too few stars have a motion.
    """
    motion = np.column_stack([np.asarray(catalog["pmra"], float), np.asarray(catalog["pmdec"], float)])
    error = np.hypot(np.asarray(catalog["pmra_error"], float), np.asarray(catalog["pmdec_error"], float))
    good = np.isfinite(motion).all(axis=1) & np.isfinite(error)
    if good.sum() < FEWEST_MOTIONS:
        return 0.0, 0.0
    motion = motion[good & (error <= np.median(error[good]))]
    near = max(int(COMMON_SHARE * len(motion)), FEWEST_MOTIONS // 2)
    tree = cKDTree(motion)
    centre = motion[np.argmin(tree.query(motion, k=[near])[0][:, 0])]
    across, along = np.median(motion[tree.query(centre, k=near)[1]], axis=0)
    return float(across), float(along)


def _positions(
    rng: np.random.Generator, options: ArtificialStarsOptions, catalog: Table, coverage: Coverage, fewest: int, separation: float
) -> tuple[Floats, Floats]:
    """Places that enough exposures hold."""
    bounds = coverage.bounds()
    x, y = np.zeros(0), np.zeros(0)
    drawn = 0
    while len(x) < options.n:
        if options.positions == "uniform":
            new_x, new_y = _lattice(rng, bounds, spacing_of(separation))
        else:
            star = rng.integers(0, len(catalog), options.n)
            new_x = np.asarray(catalog["x"], float)[star] + rng.normal(0.0, FOLLOW, options.n)
            new_y = np.asarray(catalog["y"], float)[star] + rng.normal(0.0, FOLLOW, options.n)
        held = coverage.count(new_x, new_y) >= fewest
        x, y = np.concatenate([x, new_x[held]]), np.concatenate([y, new_y[held]])
        drawn += len(new_x)
        if not len(x) and drawn >= FEWEST_DRAWN:
            raise ValueError(f"[artificial_stars] n: no place is held by {fewest} exposures; lower [frame] min_exposures")
    return x[: options.n], y[: options.n]


def _lattice(rng: np.random.Generator, bounds: tuple[float, float, float, float], spacing: float) -> tuple[Floats, Floats]:
    """Places of one pass in random order: a triangular lattice with this spacing between neighbours, turned and shifted at random.

    Every place is as likely as any other, each star lies anywhere in its pixel, and no other pattern puts as many in together.
    """
    x_low, x_high, y_low, y_high = bounds
    turn = rng.uniform(0.0, np.pi / 3.0)
    along = spacing * np.array([np.cos(turn), np.sin(turn)])
    across = spacing * np.array([np.cos(turn + np.pi / 3.0), np.sin(turn + np.pi / 3.0)])
    # Rows are 0.87 spacings apart: as many as the diagonal's half needs either way, sheared by half as much.
    most = int(np.ceil(np.hypot(x_high - x_low, y_high - y_low) / spacing)) + 1
    i, j = (index.ravel() + rng.uniform() for index in np.mgrid[-2 * most : 2 * most + 1, -most : most + 1])
    x = 0.5 * (x_low + x_high) + i * along[0] + j * across[0]
    y = 0.5 * (y_low + y_high) + i * along[1] + j * across[1]
    x, y = x + rng.uniform(-SHIFT, SHIFT, x.size), y + rng.uniform(-SHIFT, SHIFT, y.size)
    inside = rng.permutation(np.flatnonzero((x >= x_low) & (x < x_high) & (y >= y_low) & (y < y_high)))
    return x[inside], y[inside]


def _range(catalog: Table, band: str) -> tuple[float, float]:
    """From the brightest unsaturated star to FAINTER below the faintest."""
    magnitude = np.asarray(catalog[f"{band}_mag"], float)
    good = np.isfinite(magnitude) & ~np.asarray(catalog[f"{band}_saturated"], bool)
    if not good.any():
        raise ValueError(f"[artificial_stars] magnitudes: the catalogue has no star in {band}; give the range")
    return float(magnitude[good].min()), float(magnitude[good].max()) + FAINTER


def _on_line(magnitude: Floats, first: str, band: str, line: Table | None, catalog: Table) -> Floats:
    """Magnitudes of a band on the fiducial line, constant in colour beyond its ends, or on the catalogue's own sequence."""
    if line is not None:
        missing = [name for name in (first, band) if name not in line.colnames]
        if missing:
            raise ValueError(f"[artificial_stars] fiducial: no column {missing[0]}; it has {', '.join(line.colnames)}")
        a, b = (column_values(line, name) for name in (first, band))
    else:
        a, b = _own_line(first, band, catalog, float(magnitude.max()))
    order = np.argsort(a, kind="stable")
    return np.asarray(magnitude + np.interp(magnitude, a[order], (b - a)[order]))


def _own_line(first: str, band: str, catalog: Table, faintest: float) -> tuple[Floats, Floats]:
    """The catalogue's sequence in two bands, from its well-measured stars, continued to ``faintest`` as it ends."""
    one, two = (np.asarray(catalog[f"{name}_mag"], float) for name in (first, band))
    with np.errstate(invalid="ignore"):
        good = np.isfinite(one + two) & np.all([catalog[f"{name}_mag_error"] < LINE_ERROR for name in (first, band)], axis=0)
    rows = np.flatnonzero(good)[np.argsort(one[good], kind="stable")]
    parts, waiting = [], rows[:0]
    for part in np.split(rows, np.flatnonzero(np.diff(np.floor(one[rows] / LINE_STEP))) + 1):
        waiting = np.concatenate([waiting, part])
        if len(waiting) >= LINE_STARS:
            parts.append(waiting)
            waiting = rows[:0]
    if len(parts) < 2:
        raise ValueError(f"[artificial_stars] fiducial: too few stars have both {first} and {band}; give a line or a range")
    a = np.array([np.median(one[part]) for part in parts])
    colour = np.array([np.median((two - one)[part]) for part in parts])
    if faintest > a[-1]:
        end = a >= min(a[-1] - LINE_END, a[-2])
        slope = np.polyfit(a[end], colour[end], 1)[0]
        a, colour = np.append(a, faintest), np.append(colour, colour[-1] + slope * (faintest - a[-1]))
        log.info(
            "artificial stars: fainter than %s = %.2f few stars are good to %.1f mag in both bands, and the sequence is continued "
            "with the slope of its end; [artificial_stars] fiducial or table give another", first, a[-2], LINE_ERROR,
        )  # fmt: skip
    return a, a + colour


def _from_table(table: Table, bands: Sequence[str], frame: MasterFrame) -> Table:
    """The user's own stars."""
    if not len(table):
        raise ValueError("[artificial_stars] table: it has no row")
    names = [name.removeprefix("in_") for name in table.colnames]
    given = dict(zip(names, table.itercols(), strict=True))
    out = Table({"id": np.arange(1, len(table) + 1)})
    if {"x", "y"} <= given.keys():
        out["x"], out["y"] = column_values(given, "x"), column_values(given, "y")
    elif {"ra", "dec"} <= given.keys():
        out["x"], out["y"] = frame.sky_to_pixel(column_values(given, "ra"), column_values(given, "dec"))
    else:
        raise ValueError(f"[artificial_stars] table: columns x, y or ra, dec are needed; it has {', '.join(table.colnames)}")
    if not (np.isfinite(out["x"]) & np.isfinite(out["y"])).all():
        raise ValueError("[artificial_stars] table: a position is not a number; leave such rows out")
    for band in bands:
        if f"{band}_mag" not in given:
            raise ValueError(f"[artificial_stars] table: no column {band}_mag; it has {', '.join(table.colnames)}")
        out[f"{band}_mag"] = column_values(given, f"{band}_mag")
    return out
