"""Who may be a reference star: the stars of a list, or of a region of the colour-magnitude diagram."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.reference import read_reference
from dpm.models.flags import StarFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.options import MotionsOptions
from dpm.science import cmd_region
from dpm.science.motions import MotionError, match_positions

__all__ = ["candidates", "well_measured"]

Bools = NDArray[np.bool_]

LIST_RADIUS = 0.1  # arcsec between a star of the list and of the catalogue
NOT_GOOD = int(StarFlag.SATURATED | StarFlag.HIDDEN_NEIGHBOR)


def well_measured(catalog: Table) -> Bools:
    """Stars (n,) whose motions may shape the fits: neither saturated nor with a neighbour that one epoch hides."""
    return np.asarray((np.asarray(catalog["flags"]) & NOT_GOOD) == 0)


def candidates(catalog: Table, frame: MasterFrame, options: MotionsOptions) -> Bools | None:
    """Stars (n,) that the configuration names, or None where it names none.

    Raises
    ------
    MotionError
        If the list has no star of the catalogue, or the region's bands are not there.
    """
    chosen: Bools | None = None
    if options.members:
        stars = read_reference(options.members)
        here = np.column_stack([np.asarray(catalog["x"], float), np.asarray(catalog["y"], float)])
        there = np.column_stack(frame.sky_to_pixel(*stars.at(float(catalog["ref_epoch"][0]))[:2]))
        rows, _ = match_positions(here, there, LIST_RADIUS / frame.scale)
        if not len(rows):
            raise MotionError(f"[motions] members = {options.members}: none of its {len(stars)} stars is in the catalogue")
        chosen = np.zeros(len(catalog), dtype=bool)
        chosen[rows] = True
    if options.cmd_polygon:
        if len(options.cmd_bands) not in (2, 3):
            raise MotionError("[motions] cmd_polygon needs cmd_bands = [blue, red, magnitude], such as niriss_f090w, niriss_f150w")
        missing = [band for band in options.cmd_bands if f"{band}_mag" not in catalog.colnames]
        if missing:
            known = ", ".join(name.removesuffix("_mag") for name in catalog.colnames if name.endswith("_mag"))
            raise MotionError(f"[motions] cmd_bands: there is no {', '.join(missing)}; the catalogue has {known}")
        blue, red = options.cmd_bands[:2]
        region = cmd_region(blue, red, options.cmd_polygon, options.cmd_bands[-1] if len(options.cmd_bands) == 3 else None)
        inside = region(catalog)
        chosen = inside if chosen is None else chosen & inside
    return chosen
