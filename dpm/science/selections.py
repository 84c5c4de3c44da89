"""Selections of real and artificial stars alike: footprint, CMD region, motion, quality (paper 1, figures A1 and A2).

A selection is a region of the plane of two quantities: inside a polygon, or below or above a line.  Quantities are columns of
the catalogue, differences of two (colours), or ``hypot`` of two motions; in an artificial-star table the measured values,
``out_``, stand for them.  A star without a value fails: where a quantity is missing for many stars, the counts show it.
Selections are saved as a plain table (ECSV) of vertices, from which anybody can repeat them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.io.errors import InputError
from dpm.science.table_access import artificial_bands, column_names, column_values, measured_values, row_mask

__all__ = [
    "Selection",
    "apply_selections",
    "cmd_region",
    "count_selections",
    "footprint",
    "motion_radius",
    "read_selections",
    "write_selections",
]

KINDS = ("inside", "below", "above")
_NUMBER = r"[+-]\s*\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_TERM = rf"\w+(?:\s+{_NUMBER})?"
_HYPOT = re.compile(rf"hypot\(\s*({_TERM})\s*,\s*({_TERM})\s*\)")
_DIFFERENCE = re.compile(r"(\w+)\s+-\s+([A-Za-z_]\w*)")
_SHIFTED = re.compile(rf"(\w+)(?:\s+({_NUMBER}))?")


@dataclass(frozen=True)
class Selection:
    """One step: a region of the plane of two quantities.

    Parameters
    ----------
    name : str
        Name of the step in tables and plots; selections of one name are one step.
    kind : {"inside", "below", "above"}
        Inside a polygon, or not above or not below a line that is straight between its points and level beyond them.
    x, y : str
        Quantities: ``column``, ``column - column``, or ``hypot(column - number, column - number)`` for motions.
    points : tuple of (float, float)
        Vertices, in the columns' units; for lines in order of x.
    """

    name: str
    kind: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        n_least = 3 if self.kind == "inside" else 1
        if self.kind not in KINDS:
            raise ValueError(f"selection {self.name!r}: kind {self.kind!r} is unknown: {', '.join(KINDS)}")
        if len(self.points) < n_least or not np.isfinite(self.points).all():
            raise ValueError(f"selection {self.name!r}: {n_least} or more finite points are needed")
        if self.kind != "inside" and np.any(np.diff([x for x, _ in self.points]) <= 0):
            raise ValueError(f"selection {self.name!r}: a line's points have to be in order of x")

    def __call__(self, table: Any) -> NDArray[np.bool_]:
        """Which rows (n,) of a catalogue or of an artificial-star table pass."""
        x, y = quantity(table, self.x), quantity(table, self.y)
        points = np.array(self.points)
        if self.kind == "inside":
            if (self.x, self.y) == ("ra", "dec"):
                x, y, points = _tangent_plane(x, y, points)
            return _inside(x, y, points)
        limit = np.interp(x, points[:, 0], points[:, 1])
        with np.errstate(invalid="ignore"):
            return np.isfinite(x) & ((y <= limit) if self.kind == "below" else (y >= limit))


def footprint(vertices: Iterable[Sequence[float]], x: str = "ra", y: str = "dec", name: str = "footprint") -> Selection:
    """Stars inside a polygon on the sky, whose sides are great circles, or on the frame (``x="x", y="y"``).

    Parameters
    ----------
    vertices : iterable of (float, float)
        Degrees for ``ra, dec``.
    x, y, name : str
        See `Selection`.
    """
    return Selection(name, "inside", x, y, _points(vertices))


def cmd_region(
    blue: str, red: str, vertices: Iterable[Sequence[float]], magnitude: str | None = None, name: str = "CMD"
) -> Selection:
    """Stars inside a polygon of the colour-magnitude diagram.

    Parameters
    ----------
    blue, red : str
        Bands of the colour, blue minus red.
    vertices : iterable of (float, float)
        Colour and magnitude.
    magnitude : str, optional
        Band of the magnitude; the blue one by default.
    name : str
        See `Selection`.
    """
    return Selection(name, "inside", f"{blue}_mag - {red}_mag", f"{magnitude or blue}_mag", _points(vertices))


def motion_radius(
    radius: float | Iterable[Sequence[float]],
    band: str,
    columns: tuple[str, str] = ("pmra", "pmdec"),
    center: tuple[float, float] = (0.0, 0.0),
    name: str = "motion",
) -> Selection:
    """Stars within a radius of the vector-point diagram.

    Parameters
    ----------
    radius : float or iterable of (float, float)
        In the unit of the motions, or (magnitude, radius) pairs between which it is interpolated.
    band : str
        Band of these magnitudes.
    columns : (str, str)
        Motions; those of artificial stars are ``out_`` + the column, without ``_relative`` where there is no such column.
    center : (float, float)
        Middle of the circle, for the catalogue.  Artificial stars' is the motion that they were inserted with.
    name : str
        See `Selection`.
    """
    points = [(0.0, float(radius))] if np.isscalar(radius) else radius  # type: ignore[arg-type]
    terms = [f"{column} {-middle:+.12g}" if middle else column for column, middle in zip(columns, center)]
    return Selection(name, "below", f"{band}_mag", f"hypot({terms[0]}, {terms[1]})", _points(points))  # type: ignore[arg-type]


def apply_selections(table: Any, selections: Iterable[Selection], among: Any = None) -> NDArray[np.bool_]:
    """Rows that pass all selections.

    Parameters
    ----------
    table : table
        A catalogue, or artificial stars.
    selections : iterable of Selection
        Steps.
    among : str or array_like of bool (n,), optional
        Rows that count at all: ``"recovered"`` for artificial stars.

    Returns
    -------
    ndarray (n,) of bool
    """
    passing = row_mask(table, among)
    for selection in selections:
        passing = passing & selection(table)
    return passing


def count_selections(catalog: Any, artificial: Any, selections: Sequence[Selection], recovered: Any = "recovered") -> Table:
    """Numbers of stars left after each step (paper 1, figure A1).

    Parameters
    ----------
    catalog : table
        Real stars.
    artificial : table or None
        Artificial stars; without them the table has the real stars alone.
    selections : sequence of Selection
        Steps in order.
    recovered : str or array_like of bool (n,)
        Recovered artificial stars.

    Returns
    -------
    astropy.table.Table
        ``step, n_real, n_artificial``: all stars (inserted ones: ``all``), recovered ones (real ones stay), then each step's name.
    """
    steps: list[str] = []
    for selection in selections:
        if selection.name not in steps:
            steps.append(selection.name)
    columns: dict[str, Any] = {"step": ["all", "recovered", *steps]}
    for name, table, start in (("n_real", catalog, None), ("n_artificial", artificial, recovered)):
        if table is None:
            continue
        passing = row_mask(table, start)
        counts = [passing.size, int(passing.sum())]
        for step in steps:
            passing = apply_selections(table, [s for s in selections if s.name == step], passing)
            counts.append(int(passing.sum()))
        columns[name] = counts
    return Table(columns)


def write_selections(path: str | os.PathLike[str], selections: Iterable[Selection]) -> None:
    """Write selections as ECSV: one row a vertex, ``number, step, kind, x_quantity, y_quantity, x, y``."""
    rows = [(number, s.name, s.kind, s.x, s.y, *point) for number, s in enumerate(selections) for point in s.points]
    names = ("number", "step", "kind", "x_quantity", "y_quantity", "x", "y")
    if not rows:
        raise ValueError("no selections to write")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(Path(path)) as temporary:
        Table(rows=rows, names=names).write(temporary, format="ascii.ecsv", overwrite=True)


def read_selections(path: str | os.PathLike[str]) -> list[Selection]:
    """Read what `write_selections` wrote, or a table like it in any order of numbers.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is not such a table.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of selections")
    try:
        table = Table.read(path, format="ascii.ecsv")
        selections = []
        for number in np.unique(table["number"]):
            rows = table[table["number"] == number]
            step, kind, x, y = (str(rows[name][0]) for name in ("step", "kind", "x_quantity", "y_quantity"))
            selections.append(Selection(step, kind, x, y, _points(zip(rows["x"], rows["y"]))))
    except (ValueError, KeyError) as error:
        raise InputError(Path(path), "selections", str(error), "Write it with write_selections") from error
    return selections


def quantity(table: Any, text: str) -> NDArray[np.float64]:
    """A quantity of a `Selection` for every row (n,) of a catalogue or of an artificial-star table.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the text is none of ``column``, ``column - column``, ``hypot(column - number, column - number)``.
    """
    text = text.strip()
    if match := _HYPOT.fullmatch(text):
        return np.hypot(*(_motion(table, term) for term in match.groups()))
    if match := _DIFFERENCE.fullmatch(text):
        return measured_values(table, match[1]) - measured_values(table, match[2])
    return _shifted(table, text)


def quantity_columns(text: str) -> list[str]:
    """Names of the columns that a quantity of a `Selection` is made of."""
    return [name for name in re.findall(r"[A-Za-z_]\w*", text) if name != "hypot"]


def _shifted(table: Any, text: str) -> NDArray[np.float64]:
    match = _SHIFTED.fullmatch(text)
    if not match:
        raise ValueError(f"quantity {text!r} is none of: column, column - column, hypot(column - number, column - number)")
    return measured_values(table, match[1]) + float((match[2] or "0").replace(" ", ""))


def _motion(table: Any, text: str) -> NDArray[np.float64]:
    """A motion from the middle of the circle; that of artificial stars is the one that they were inserted with, or none."""
    if not artificial_bands(table):
        return _shifted(table, text)
    names = column_names(table)
    column = text.split()[0]
    column = column if f"out_{column}" in names else column.removesuffix("_relative")
    put_in = column_values(table, f"in_{column}") if f"in_{column}" in names else 0.0
    return measured_values(table, column) - put_in


def _points(values: Iterable[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in values)


def _inside(x: NDArray[np.float64], y: NDArray[np.float64], vertices: NDArray[np.float64]) -> NDArray[np.bool_]:
    from matplotlib.path import Path as Polygon

    known = np.isfinite(x) & np.isfinite(y)
    inside = np.zeros(x.shape, dtype=bool)
    inside[known] = Polygon(vertices).contains_points(np.column_stack([x[known], y[known]]))
    return inside


def _tangent_plane(
    ra: NDArray[np.float64], dec: NDArray[np.float64], vertices: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Gnomonic coordinates about the polygon's middle, in which great circles are straight; NaN on the far half of the sky."""
    corners = SkyCoord(vertices[:, 0], vertices[:, 1], unit="deg")
    middle = SkyCoord(*corners.cartesian.mean().xyz, representation_type="cartesian")
    frame = SkyCoord(middle.spherical.lon, middle.spherical.lat).skyoffset_frame()

    def project(coord: SkyCoord) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        offset = coord.transform_to(frame)
        lon, lat = offset.lon.wrap_at("180d").rad, offset.lat.rad
        near = np.abs(lon) < 0.5 * np.pi
        return np.where(near, np.tan(lon), np.nan), np.where(near, np.tan(lat) / np.cos(lon), np.nan)

    known = np.isfinite(ra) & np.isfinite(dec)
    x, y = np.full(ra.shape, np.nan), np.full(ra.shape, np.nan)
    x[known], y[known] = project(SkyCoord(ra[known], dec[known], unit="deg"))
    return x, y, np.column_stack(project(corners))
