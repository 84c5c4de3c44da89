"""One part of the second pass by itself, with whatever it needs that is not there: to look at a tile that fails."""

from __future__ import annotations

import logging
from typing import Any

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.options import Options
from dpm.stages.base import Task
from dpm.stages.second_pass import gather_tasks, save_tiles, tile_task, work
from dpm.stages.second_pass.field import SecondPassField, neighbors, plan_file

__all__ = ["UnknownPartError", "run_part"]

log = logging.getLogger(__name__)

# The step before each step of a tile, and the list that it leaves.
BEFORE = {"sweep": ("find", "found"), "measure": ("sweep", "sweep")}


class UnknownPartError(LookupError):
    """There is no such part; the text says which there are."""


def run_part(folder: RunFolder, options: Options, name: str) -> dict[str, Any]:
    """Run a part again that a failed run names: ``gather_<exposure>``, ``find_<tile>``, ``sweep_<tile>`` or ``measure_<tile>``.

    Parameters
    ----------
    folder : RunFolder
        Complete up to the frame.
    options : Options
    name : str
        A number alone is ``measure`` of that tile.

    Returns
    -------
    dict
        What the part returns to a run.

    Raises
    ------
    UnknownPartError
        If there is no such part.
    """
    step, _, place = f"measure_{name}".partition("_") if name.isdigit() else name.partition("_")
    field = SecondPassField.from_exposures(folder, read_table(folder.exposures))
    exposures = {exposure.name: exposure for group in field.groups for exposure in group.exposures}
    gathers = {str(task.arguments["exposure"]): task for task in gather_tasks(field, options)}
    if step == "gather" and place in gathers:
        return _work(gathers[place])
    if step not in ("find", *BEFORE) or not place.isdigit():
        raise UnknownPartError(
            f"no part {name!r}; they are gather_EXPOSURE, find_N, sweep_N and measure_N, as the message of a failed run says"
        )
    for exposure, task in gathers.items():
        if not (field.pixels_file(exposures[exposure]).exists() and field.geometry_file(exposures[exposure]).exists()):
            _work(task)
    field = SecondPassField.load(folder) if plan_file(folder).exists() else save_tiles(folder)
    number = int(place)
    if number >= len(field.tiles):
        raise UnknownPartError(f"no tile {number}; they count from 0 to {len(field.tiles) - 1}")
    return _run_tile(field, options, step, number)


def _run_tile(field: SecondPassField, options: Options, step: str, number: int) -> dict[str, Any]:
    """A step of a tile, after the step before it in all tiles about it."""
    if step in BEFORE:
        before, left = BEFORE[step]
        tile = field.tiles[number]
        places = {(tile.group, *near) for patch in tile.patches for near in neighbors(patch)}
        for other in sorted({field.tile_of[place] for place in places if place in field.tile_of}):
            if not field.stars_file(left, other).exists():
                _run_tile(field, options, before, other)
    return _work(tile_task(field, options, step, number))


def _work(task: Task) -> dict[str, Any]:
    log.info("%s begins", task.name)
    result = work(task)
    log.info("%s: %s", task.name, {key: value for key, value in result.items() if key not in ("name", "step", "warnings")})
    for text in result["warnings"]:
        log.warning(text)
    return result
