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
from dpm.stages.artificial_stars.files import plan_file
from dpm.stages.second_pass.field import SecondPassField, plan_tiles

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
    field = SecondPassField.from_exposures(folder, exposures)
    geometries = [field.geometries(number) for number in range(len(field.groups))]
    field = SecondPassField(folder, field.groups, plan_tiles(field, geometries))
    field.save()
    boxes = []
    for exposure in (exposure for group in field.groups for exposure in group.exposures):
        (ny, nx), (x0, y0) = exposure.shape, exposure.origin
        boxes.append((x0, x0 + nx - 1.0, y0, y0 + ny - 1.0))
    coverage = Coverage([geometry for group in geometries for geometry in group], boxes)
    bands = sorted({band for group in field.groups for band in group.bands})
    tables = {name: Table.read(getattr(told, name)) for name in ("table", "fiducial") if getattr(told, name)}
    fewest = min(options.frame.min_exposures, len(boxes))
    stars = draw_stars(told, catalog, bands, coverage, fewest, frame, tables)
    x, y = np.asarray(stars["x"], float), np.asarray(stars["y"], float)
    n_patches = len({(tile.group, *patch) for tile in field.tiles for patch in tile.patches}) / len(field.groups)
    plan = {name: np.asarray(stars[name]) for name in stars.colnames} | {"pass": passes(x, y, n_patches * PATCH**2)}
    for band in bands:
        zero_point = float(catalog[f"{band}_mag"].info.meta["zero_point"])
        plan[f"{band}_flux"] = 10.0 ** (-0.4 * (np.asarray(stars[f"{band}_mag"], float) - zero_point))
    write_arrays(plan_file(folder), plan)
    n_passes = int(plan["pass"].max(initial=-1)) + 1
    log.info("artificial stars: %d in %d passes", len(stars), n_passes)
    return field, n_passes
