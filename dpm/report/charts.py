"""Finding charts: cut-outs of the atlas about chosen stars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.atlas_files import AtlasFiles
from dpm.io.atomic import replacing
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.statistics import robust_width
from dpm.report.data import band_label
from dpm.report.figures import COLORS, new_figure, outline, style

__all__ = ["Target", "catalog_targets", "draw_charts", "position_target"]

SIZE = 20.0  # arcsec a side, if not given
LONGEST_BAR = 0.25  # of the chart's side
BAR_LENGTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
NEIGHBORS = 12  # brightest ones whose magnitudes are written


@dataclass(frozen=True)
class Target:
    """What a chart is about: its name, its place (degrees, at the catalogue's epoch), and its number in the catalogue or 0."""

    name: str
    ra: float
    dec: float
    id: int = 0


def catalog_targets(catalog: Table, ids: Sequence[int]) -> list[Target]:
    """Stars of a catalogue.

    Raises
    ------
    KeyError
        If one is not there.
    """
    known = {int(number): row for row, number in enumerate(catalog["id"])}
    missing = [str(number) for number in ids if number not in known]
    if missing:
        ids_there = f"{len(known):,} stars, ids {min(known)} to {max(known)}" if known else "no star at all"
        raise KeyError(f"no star {', '.join(missing)} in the catalogue; it has {ids_there}")
    rows = [known[number] for number in ids]
    return [Target(f"star_{n}", float(catalog["ra"][k]), float(catalog["dec"][k]), int(n)) for n, k in zip(ids, rows)]


def position_target(text: str) -> Target:
    """A place on the sky: ``RA,DEC`` in degrees, or sexagesimal (hours and degrees) with colons.

    Raises
    ------
    ValueError
        If it is neither.
    """
    parts = text.replace(",", " ").split()
    try:
        if len(parts) != 2:
            raise ValueError
        units = ("hourangle", "deg") if ":" in text else ("deg", "deg")
        place = SkyCoord(*parts, unit=units)
    except ValueError:
        raise ValueError(f"{text!r} is no position: write RA,DEC in degrees (80.49,-69.50), or 05:21:57.6,-69:29:52") from None
    return Target(f"{place.ra.deg:.5f}_{place.dec.deg:+.5f}", float(place.ra.deg), float(place.dec.deg))


def draw_charts(
    folder: RunFolder, targets: Sequence[Target], size: float = SIZE, stack: str | None = None, output: Path | None = None
) -> list[Path]:
    """Draw one PNG a target.

    Parameters
    ----------
    folder : RunFolder
        With an atlas.
    targets : sequence of Target
    size : float
        Side, arcsec.
    stack : str, optional
        The stack that is drawn; the last one (of the latest epoch) if not given.
    output : Path, optional
        Folder; ``images/charts`` if not given.

    Returns
    -------
    list of Path

    Raises
    ------
    FileNotFoundError
        If the run has no atlas.
    KeyError
        If there is no such stack.
    ValueError
        If the stack has no data at a target, or the size is not a positive number.
    """
    if not size > 0:
        raise ValueError(f"a chart of {size} arcsec: the size has to be larger than 0")
    atlas = AtlasFiles(folder)
    name = stack or atlas.stacks[-1]
    catalog = read_table(folder.catalog) if folder.catalog.is_file() else None
    stars = _places(atlas, catalog, name)
    cuts = [_cut(atlas, name, target, stars, size) for target in targets]
    place = output or folder.charts
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    with style():
        for target, cut in zip(targets, cuts):
            paths.append(place / f"chart_{target.name}.png")
            figure = _draw(atlas, name, target, cut, stars, size)
            with replacing(paths[-1], ".png") as temporary:
                figure.savefig(temporary, format="png")
    return paths


def _places(atlas: AtlasFiles, catalog: Table | None, stack: str) -> dict[str, NDArray[Any]]:
    """The catalogue's stars in the atlas' pixels, where they stood at the stack's epoch."""
    if catalog is None or not len(catalog):
        return {name: np.zeros(0) for name in ("id", "x", "y", "mag")}
    ra, dec = np.array(catalog["ra"], float), np.array(catalog["dec"], float)
    if {"pmra", "pmdec", "ref_epoch"} <= set(catalog.colnames):
        years = atlas.epoch(stack) - np.array(catalog["ref_epoch"], float)
        ra += np.nan_to_num(np.array(catalog["pmra"], float)) * years / 3.6e6 / np.cos(np.radians(dec))
        dec += np.nan_to_num(np.array(catalog["pmdec"], float)) * years / 3.6e6
    x, y = atlas.frame.sky_to_pixel(ra, dec)
    band = str(atlas.index["band"][[str(value) for value in atlas.index["stack"]].index(stack)])
    mag = np.array(catalog[f"{band}_mag"], float) if f"{band}_mag" in catalog.colnames else np.full(len(x), np.nan)
    return {"id": np.array(catalog["id"]), "x": x, "y": y, "mag": mag}


@dataclass(frozen=True)
class _Cut:
    pixels: NDArray
    box: tuple[int, int, int, int]
    x: float
    y: float
    mag: float


def _cut(atlas: AtlasFiles, stack: str, target: Target, stars: dict[str, NDArray[Any]], size: float) -> _Cut:
    """Pixels about a target, and where it stands in the atlas."""
    at = np.flatnonzero(stars["id"] == target.id)
    if target.id and at.size:
        x, y, mag = (float(stars[key][at[0]]) for key in ("x", "y", "mag"))
    else:
        x, y, mag = *(float(value) for value in atlas.frame.sky_to_pixel(target.ra, target.dec)), float("nan")
    half = 0.5 * size / atlas.frame.scale
    if not (-half < x < atlas.frame.nx + half and -half < y < atlas.frame.ny + half):
        raise ValueError(f"{target.name}: RA {target.ra:.6f}, Dec {target.dec:.6f} is outside the atlas")
    box = int(np.floor(y - half)), int(np.ceil(y + half)) + 1, int(np.floor(x - half)), int(np.ceil(x + half)) + 1
    pixels, _ = atlas.cutout(stack, box)
    j, i = round(y) - box[0], round(x) - box[2]
    if not np.isfinite(pixels[max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2]).any():
        raise ValueError(f"{target.name}: stack {stack} has no data at RA {target.ra:.6f}, Dec {target.dec:.6f}")
    return _Cut(pixels, box, x, y, mag)


def _draw(atlas: AtlasFiles, stack: str, target: Target, cut: _Cut, stars: dict[str, NDArray[Any]], size: float) -> Any:
    from matplotlib import colormaps

    y0, y1, x0, x1 = cut.box
    figure, axes = new_figure(4.6, 4.9)
    good = cut.pixels[np.isfinite(cut.pixels)].astype(float)
    middle, noise = float(np.median(good)), max(robust_width(good), 1e-12)
    shown = np.arcsinh((cut.pixels - middle) / (2 * noise))
    top = max(float(np.nanquantile(shown, 0.997)), 3.0)
    colors = colormaps["gray_r"].with_extremes(bad=COLORS["tint"])
    axes.imshow(np.ma.masked_invalid(shown), cmap=colors, vmin=-1.0, vmax=top, extent=(x0 - 0.5, x1 - 0.5, y0 - 0.5, y1 - 0.5))
    axes.set_xlim(x0 - 0.5, x1 - 0.5)
    axes.set_ylim(y0 - 0.5, y1 - 0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    side = x1 - x0
    for dx, dy in ((1, 0), (0, 1)):
        axes.plot(
            [cut.x + 0.022 * side * dx, cut.x + 0.075 * side * dx], [cut.y + 0.022 * side * dy, cut.y + 0.075 * side * dy],
            color=COLORS["vermillion"], lw=1.8,
        )  # fmt: skip
    _neighbors(axes, cut, stars, target, side)
    _bar(axes, cut.box, size, atlas.frame.scale)
    _compass(axes, atlas, cut)
    place = SkyCoord(target.ra, target.dec, unit="deg")
    head = f"Star {target.id}" if target.id else "Position"
    words = place.to_string("hmsdms", sep=":", precision=3)
    bright = f", {cut.mag:.2f} mag" if np.isfinite(cut.mag) else ""
    axes.set_title(f"{head}: {words}{bright}", fontsize=8.5)
    note = f"{band_label(stack)}, {atlas.epoch(stack):.2f}; {size:g}″ a side; the mark is where the star stood then"
    axes.set_xlabel(note, fontsize=7.5)
    return figure


def _neighbors(axes: Any, cut: _Cut, stars: dict[str, NDArray[Any]], target: Target, side: int) -> None:
    """Numbers of the brightest stars beside the target."""
    y0, y1, x0, x1 = cut.box
    rim = 0.04 * side
    inside = (stars["x"] > x0 + rim) & (stars["x"] < x1 - rim) & (stars["y"] > y0 + rim) & (stars["y"] < y1 - rim)
    inside &= np.isfinite(stars["mag"]) & (stars["id"] != target.id)
    rows = np.flatnonzero(inside)
    for k in rows[np.argsort(stars["mag"][rows], kind="stable")][:NEIGHBORS]:
        axes.annotate(
            f"{int(stars['id'][k])}", (stars["x"][k], stars["y"][k]), (4, 4), textcoords="offset points", fontsize=6,
            color=COLORS["blue"], path_effects=outline(),
        )  # fmt: skip


def _bar(axes: Any, box: tuple[int, int, int, int], size: float, scale: float) -> None:
    length = max((value for value in BAR_LENGTHS if value <= LONGEST_BAR * size), default=LONGEST_BAR * size)
    y0, y1, x0, x1 = box
    left, low = x0 + 0.06 * (x1 - x0), y0 + 0.05 * (y1 - y0)
    look: dict[str, Any] = {"color": COLORS["green"], "path_effects": outline()}
    axes.plot([left, left + length / scale], [low, low], lw=2.2, solid_capstyle="butt", **look)
    middle = left + 0.5 * length / scale, low + 0.012 * (y1 - y0)
    axes.text(*middle, f"{length:g}″", weight="bold", ha="center", va="bottom", **look)


def _compass(axes: Any, atlas: AtlasFiles, cut: _Cut) -> None:
    """Arrows to the North and the East at the target."""
    steps = np.linalg.inv(atlas.frame.sky_steps([cut.x], [cut.y])[0])  # pixels for a step to the East, and to the North
    y0, y1, x0, x1 = cut.box
    base = np.array([x0 + 0.92 * (x1 - x0), y0 + 0.07 * (y1 - y0)])
    for column, letter in ((1, "N"), (0, "E")):
        step = 0.1 * (x1 - x0) * steps[:, column] / np.hypot(*steps[:, column])
        look: dict[str, Any] = {"color": COLORS["green"], "path_effects": outline()}
        axes.annotate("", base + step, base, arrowprops=look | {"arrowstyle": "->", "lw": 1.6})
        axes.text(*(base + 1.25 * step), letter, weight="bold", ha="center", va="center", **look)
