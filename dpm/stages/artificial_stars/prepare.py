"""Before the tasks: the tiles, and the stars to put in with the pass of each."""

from __future__ import annotations

import logging

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options
from dpm.stages.artificial_stars.draw import Coverage, draw_stars, passes, separation_of
from dpm.stages.artificial_stars.files import STAGE, is_planned, read_chunks, write_plan
from dpm.stages.frame.astrometry import positions_at
from dpm.stages.second_pass import save_tiles
from dpm.stages.second_pass.field import Exposure, SecondPassField
from dpm.stages.second_pass.placement import group_years

__all__ = ["pass_separation", "prepare"]

log = logging.getLogger(__name__)

TILE_SECONDS = 1.0  # of work in a tile: a task takes many passes over the pixels that it read
LARGEST_PATCH = 128  # master pixels a side: no star of the margins is fitted, and more pixels do not stay in a processor's cache


def pass_separation(folder: RunFolder) -> float:
    """Master pixels between artificial stars of one pass (`separation_of`)."""
    exposures = read_table(folder.exposures)
    return separation_of(exposures, MasterFrame.from_meta(exposures.meta["master_frame"]))


def prepare(folder: RunFolder, options: Options) -> tuple[SecondPassField, list[tuple[int, int]]]:
    """Plan the tiles and draw the stars, unless that was done before.

    Parameters
    ----------
    folder : RunFolder
        All exposures are gathered.
    options : Options

    Returns
    -------
    field : SecondPassField
        With its tiles.
    chunks : list of (int, int)
        First and last pass (excluded) of the stars that are averaged together.
    """
    if is_planned(folder):
        return SecondPassField.load(folder, STAGE), read_chunks(folder)
    told = options.artificial_stars
    exposures, catalog = read_table(folder.exposures), read_table(folder.catalog)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    field = save_tiles(folder, STAGE, seconds=TILE_SECONDS, largest=LARGEST_PATCH)
    geometries = [field.geometries(number) for number in range(len(field.groups))]
    placed = [(group.bands[e.band], e, g) for group, maps in zip(field.groups, geometries) for e, g in zip(group.exposures, maps)]
    bands = sorted({band for band, _, _ in placed})
    coverage = Coverage([geometry for _, _, geometry in placed], [_box(exposure) for _, exposure, _ in placed])
    tables = {name: Table.read(getattr(told, name)) for name in ("table", "fiducial") if getattr(told, name)}
    fewest = min(options.frame.min_exposures, len(placed))
    separation = pass_separation(folder)
    stars = draw_stars(told, catalog, bands, coverage, fewest, frame, tables, separation)
    places = [_place(stars, frame, group_years(group, exposures, float(catalog["ref_epoch"][0]))) for group in field.groups]
    area = sum(patch.side**2 for tile in field.tiles for patch in field.patches(tile)) / len(field.groups)
    plan = {name: np.asarray(stars[name]) for name in stars.colnames} | {"pass": passes(places, area, separation)}
    for number, place in enumerate(places):
        plan |= {f"x_{number}": place[:, 0], f"y_{number}": place[:, 1]}
    # A star is not put into a band whose exposures do not hold it: there it is neither found nor lost.
    enough = coverage.count(np.asarray(stars["x"], float), np.asarray(stars["y"], float)) >= fewest
    for band in bands:
        held = np.zeros(len(stars), bool)
        for place, group, maps in zip(places, field.groups, geometries):
            mine = [(e, g) for e, g in zip(group.exposures, maps) if group.bands[e.band] == band]
            held |= Coverage([g for _, g in mine], [_box(e) for e, _ in mine]).count(*place.T) > 0
        plan[f"{band}_mag"] = np.where(held & enough, plan[f"{band}_mag"], np.nan)
        zero_point = float(catalog[f"{band}_mag"].info.meta["zero_point"])
        plan[f"{band}_flux"] = 10.0 ** (-0.4 * (plan[f"{band}_mag"] - zero_point))
    write_plan(folder, plan)
    chunks = read_chunks(folder)
    log.info("artificial stars: %d in %d passes", len(stars), chunks[-1][1])
    return field, chunks


def _place(stars: Table, frame: MasterFrame, years: float) -> NDArray[np.float64]:
    """Master positions (n, 2) that many years after the catalogue's epoch."""
    if "pmra" not in stars.colnames:
        return np.column_stack([np.asarray(stars["x"], float), np.asarray(stars["y"], float)])
    return np.column_stack(positions_at(stars, frame, years))


def _box(exposure: Exposure) -> tuple[float, float, float, float]:
    """Raw x_low, x_high, y_low, y_high of an exposure's pixels."""
    (ny, nx), (x0, y0) = exposure.shape, exposure.origin
    return x0, x0 + nx - 1.0, y0, y0 + ny - 1.0
