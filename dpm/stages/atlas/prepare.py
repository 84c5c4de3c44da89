"""What the driver does for the atlas: the plan, the sky of all exposures, and which stacks a picture is made of."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dpm.io.errors import InputError
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.detectors import band_wavelength
from dpm.models.master_frame import MasterFrame
from dpm.models.options import AtlasOptions
from dpm.stages.atlas.layout import BLOCK, AtlasPlan, atlas_frame, find_stacks
from dpm.stages.atlas.sky import match_skies

__all__ = ["Begun", "begin", "choose_pictures", "place_sky"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """The plan, and name and (ny, nx) of every exposure in it."""

    plan: AtlasPlan
    exposures: list[tuple[str, tuple[int, int]]]


def begin(folder: RunFolder, options: AtlasOptions) -> Begun:
    """Write the plan.

    Raises
    ------
    InputError
        If the drizzle package is missing, there is no frame yet, no exposure has a place on it, or a band is not there.
    """
    if importlib.util.find_spec("drizzle") is None:
        raise InputError("", "atlas.make", "the drizzle package is missing", 'Install it: pip install "dpm-photometry[atlas]"')
    table = read_table(folder.exposures) if folder.exposures.is_file() else None
    if table is None or "master_frame" not in table.meta:
        raise InputError(folder.exposures, "master_frame", "there is no master frame yet", "Run the frame stage first")
    stacks = find_stacks(folder, table)
    if not stacks:
        problem = "no exposure has a place on the master frame"
        raise InputError(folder.exposures, "a", problem, "Look at the frame stage's warnings")
    frame = atlas_frame(MasterFrame.from_meta(table.meta["master_frame"]), options.scale)
    max_side = -(-options.max_side // BLOCK) * BLOCK
    plan = AtlasPlan(folder, frame, stacks, options.pixfrac, max_side)
    choose_pictures(plan, options.colour_bands)
    shutil.rmtree(plan.files, ignore_errors=True)
    plan.save()
    rows = [(name, table[row]) for stack in stacks for name, row in zip(stack.exposures, stack.rows)]
    return Begun(plan, [(name, (int(row["ny"]), int(row["nx"]))) for name, row in rows])


def place_sky(folder: RunFolder, gathered: list[dict[str, Any]]) -> tuple[AtlasPlan, list[Counter[tuple[int, int]]]]:
    """Solve the sky of every stack and note its blocks in the plan.

    Parameters
    ----------
    folder : RunFolder
    gathered : list of dict
        Results of `gather_exposure`, with the exposures' names.

    Returns
    -------
    plan : AtlasPlan
    touching : list of Counter
        Of every stack, how many exposures touch each block.
    """
    plan = AtlasPlan.load(folder)
    blocks_of = {result["exposure"]: [(row, column) for row, column in result["blocks"]] for result in gathered}
    sky: dict[str, float] = {}
    touching = []
    for stack in plan.stacks:
        cells, levels = [], []
        for name in stack.exposures:
            with np.load(plan.map_file(name)) as data:
                cells.append(data["cells"])
                levels.append(data["levels"])
        solved, apart = match_skies(cells, levels)
        sky |= {name: float(level) for name, level in zip(stack.exposures, solved)}
        alone = [name for name, value in zip(stack.exposures, apart) if not np.isfinite(value)]
        if len(stack.exposures) == 1:
            log.warning("atlas: %s has one exposure: nothing but its own mask tells cosmic rays", stack.name)
        elif alone:
            shown = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
            log.warning(
                "atlas: %d of %d exposures of %s overlap no other enough to match their sky; their own median is subtracted: %s",
                len(alone), len(stack.exposures), stack.name, shown,
            )  # fmt: skip
        touching.append(Counter(block for name in stack.exposures for block in blocks_of[name]))
    plan = replace(plan, sky=sky, blocks=[sorted(counter) for counter in touching])
    plan.save()
    return plan, touching


def choose_pictures(plan: AtlasPlan, bands: Sequence[str]) -> dict[str, list[int]]:
    """Stacks of every picture: red, (green,) and blue, or one alone.

    Parameters
    ----------
    plan : AtlasPlan
    bands : sequence of str
        Names of stacks; those of every epoch are chosen without it.

    Raises
    ------
    InputError
        If there is no such stack, or one or more than three are named.
    """
    names = [stack.name for stack in plan.stacks]
    if bands:
        unknown = [band for band in bands if band not in names]
        if unknown or len(bands) not in (2, 3):
            problem = f"no band {unknown[0]!r}; there are {', '.join(names)}" if unknown else f"{len(bands)} bands make no colour"
            raise InputError("", "atlas.colour_bands", problem, "Name two or three: red, (green,) blue")
        return {"colour": [names.index(band) for band in bands]}
    groups = sorted({stack.group for stack in plan.stacks})
    epochs = [[k for k, stack in enumerate(plan.stacks) if stack.group == group] for group in groups]
    pictures = {}
    for members in epochs:
        by_wavelength = sorted(members, key=lambda k: (band_wavelength(plan.stacks[k].band), k))
        chosen = by_wavelength if len(members) == 1 else [by_wavelength[-1], by_wavelength[0]]
        year = f"_{plan.stacks[members[0]].epoch:.2f}" if len(epochs) > 1 else ""
        pictures[("colour" if len(chosen) > 1 else "grey") + year] = chosen
    return pictures
