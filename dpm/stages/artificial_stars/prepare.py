"""Before the tasks: the tiles, and the stars to put in with the pass of each."""

from __future__ import annotations

import logging

import numpy as np
from astropy.table import Table

from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import write_arrays
from dpm.io.tables import read_table
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options
from dpm.models.patches import PATCH
from dpm.stages.artificial_stars.draw import Coverage, draw_stars, passes
from dpm.stages.artificial_stars.files import STAGE, plan_file
from dpm.stages.second_pass import save_tiles
from dpm.stages.second_pass.field import Exposure, SecondPassField

__all__ = ["prepare"]

log = logging.getLogger(__name__)


def prepare(folder: RunFolder, options: Options) -> tuple[SecondPassField, int]:
    """Plan the tiles and draw the stars.

    Parameters
    ----------
    folder : RunFolder
        All exposures are gathered.
    options : Options

    Returns
    -------
    field : SecondPassField
        With its tiles.
    n_passes : int
    """
    told = options.artificial_stars
    exposures, catalog = read_table(folder.exposures), read_table(folder.catalog)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    field = save_tiles(folder, STAGE)
    geometries = [field.geometries(number) for number in range(len(field.groups))]
    placed = [(group.bands[e.band], e, g) for group, maps in zip(field.groups, geometries) for e, g in zip(group.exposures, maps)]
    bands = sorted({band for band, _, _ in placed})
    coverage = Coverage([geometry for _, _, geometry in placed], [_box(exposure) for _, exposure, _ in placed])
    tables = {name: Table.read(getattr(told, name)) for name in ("table", "fiducial") if getattr(told, name)}
    fewest = min(options.frame.min_exposures, len(placed))
    stars = draw_stars(told, catalog, bands, coverage, fewest, frame, tables)
    x, y = np.asarray(stars["x"], float), np.asarray(stars["y"], float)
    n_patches = len({(tile.group, *patch) for tile in field.tiles for patch in tile.patches}) / len(field.groups)
    plan = {name: np.asarray(stars[name]) for name in stars.colnames} | {"pass": passes(x, y, n_patches * PATCH**2)}
    # A star is not put into a band whose exposures do not hold it: there it is neither found nor lost.
    enough = coverage.count(x, y) >= fewest
    for band in bands:
        mine = [(exposure, geometry) for name, exposure, geometry in placed if name == band]
        held = Coverage([geometry for _, geometry in mine], [_box(exposure) for exposure, _ in mine]).count(x, y) > 0
        plan[f"{band}_mag"] = np.where(held & enough, plan[f"{band}_mag"], np.nan)
        zero_point = float(catalog[f"{band}_mag"].info.meta["zero_point"])
        plan[f"{band}_flux"] = 10.0 ** (-0.4 * (plan[f"{band}_mag"] - zero_point))
    write_arrays(plan_file(folder), plan)
    n_passes = int(plan["pass"].max(initial=-1)) + 1
    log.info("artificial stars: %d in %d passes", len(stars), n_passes)
    return field, n_passes


def _box(exposure: Exposure) -> tuple[float, float, float, float]:
    """Raw x_low, x_high, y_low, y_high of an exposure's pixels."""
    (ny, nx), (x0, y0) = exposure.shape, exposure.origin
    return x0, x0 + nx - 1.0, y0, y0 + ny - 1.0
