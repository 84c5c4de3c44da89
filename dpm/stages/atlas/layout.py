"""What the atlas is made of: its frame, a stack for every band and epoch, and the cells, blocks and files it is cut into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from astropy.table import Table

from dpm.io.atomic import replacing
from dpm.io.run_folder import RunFolder
from dpm.models.master_frame import MasterFrame
from dpm.stages.second_pass.field import SecondPassField, files_folder

__all__ = ["BLOCK", "CELL", "AtlasPlan", "Stack", "atlas_frame", "find_stacks"]

STAGE = "atlas"
CELL = 256  # atlas pixels: the unit of mathematics, on a lattice from the frame's first pixel; what one drizzle call makes
BLOCK = 1024  # atlas pixels: the cells of one task, whose planes are 17 MB


@dataclass(frozen=True)
class Stack:
    """The exposures of one band at one epoch.

    Parameters
    ----------
    name : str
        Of its files: the band, with the epoch where the band's column in the catalogue covers two.
    band : str
        Prefix of its columns in the catalogue.
    group : int
        Number of its epoch, oldest first.
    epoch : float
        Mean of the exposures, decimal years.
    unit : str
        Of the exposures' pixels.
    exposures : list of str
        Exposure and detector.
    rows : list of int
        Their rows in ``tables/exposures.parquet``.
    """

    name: str
    band: str
    group: int
    epoch: float
    unit: str
    exposures: list[str]
    rows: list[int]


@dataclass(frozen=True)
class AtlasPlan:
    """The atlas as tasks see it.

    Parameters
    ----------
    folder : RunFolder
    frame : MasterFrame
        Of the atlas' pixels.
    stacks : list of Stack
    pixfrac : float
    max_side : int
        Largest side of a FITS file, whole blocks.
    blocks : list of list of (int, int)
        Of every stack, the blocks (row, column) that hold data; empty until the exposures are gathered.
    sky : dict of float
        Of every exposure, what is subtracted, per atlas pixel; empty until then.
    """

    folder: RunFolder
    frame: MasterFrame
    stacks: list[Stack]
    pixfrac: float
    max_side: int
    blocks: list[list[tuple[int, int]]] = field(default_factory=list)
    sky: dict[str, float] = field(default_factory=dict)

    @property
    def files(self) -> Path:
        """Where tasks leave files for each other."""
        return files_folder(self.folder, STAGE)

    def save(self) -> None:
        """Write the plan for the tasks."""
        content = {name: getattr(self, name) for name in ("pixfrac", "max_side", "blocks", "sky")}
        content |= {"frame": self.frame.to_meta(), "stacks": [asdict(stack) for stack in self.stacks]}
        self.files.mkdir(parents=True, exist_ok=True)
        with replacing(self.files / "plan.json") as temporary:
            temporary.write_text(json.dumps(content))

    @classmethod
    def load(cls, folder: RunFolder) -> AtlasPlan:
        """The plan that the driver saved."""
        content = json.loads((files_folder(folder, STAGE) / "plan.json").read_text())
        content["frame"] = MasterFrame.from_meta(content["frame"])
        content["stacks"] = [Stack(**stack) for stack in content["stacks"]]
        content["blocks"] = [[(row, column) for row, column in blocks] for blocks in content["blocks"]]
        return cls(folder, **content)

    def pixels_file(self, exposure: str) -> Path:
        return self.files / "pixels" / f"{exposure}.bin"

    def map_file(self, exposure: str) -> Path:
        return self.files / "maps" / f"{exposure}.npz"

    def part_file(self, stack: int, block: tuple[int, int]) -> Path:
        """Planes of one block of one stack."""
        return self.files / "parts" / f"{stack}_{block[0]}_{block[1]}.npz"

    def part_shape(self, block: tuple[int, int]) -> tuple[int, int]:
        """(ny, nx) of a block: those at the frame's end are cut."""
        return min(BLOCK, self.frame.ny - block[0] * BLOCK), min(BLOCK, self.frame.nx - block[1] * BLOCK)

    def file_boxes(self) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
        """Suffix of the file names, and y0, y1, x0, x1 of every FITS file that a stack is cut into."""
        ny, nx, side = self.frame.ny, self.frame.nx, self.max_side
        whole = ny <= side and nx <= side
        for j in range(-(-ny // side)):
            for i in range(-(-nx // side)):
                box = j * side, min((j + 1) * side, ny), i * side, min((i + 1) * side, nx)
                yield "" if whole else f"_{j}_{i}", box


def atlas_frame(master: MasterFrame, scale: float | None) -> MasterFrame:
    """Pixels of another scale on the master frame's tangent plane; the master frame itself without one."""
    if scale is None or scale == master.scale:
        return master
    ratio = master.scale / scale
    west, south = np.ceil(master.x0 * ratio), np.ceil(master.y0 * ratio)
    east, north = (np.ceil((n - 1 - c) * ratio) for n, c in ((master.nx, master.x0), (master.ny, master.y0)))
    return MasterFrame(master.ra0, master.dec0, scale, float(west), float(south), int(west + east) + 1, int(south + north) + 1)


def find_stacks(folder: RunFolder, exposures: Table) -> list[Stack]:
    """A stack for every band of every epoch, oldest first.

    Parameters
    ----------
    folder : RunFolder
    exposures : Table
        ``tables/exposures.parquet``.
    """
    groups = SecondPassField.from_exposures(folder, exposures, STAGE).groups
    bands = [band for group in groups for band in group.bands]
    stacks = []
    for epoch_number, group in enumerate(groups):
        for number, band in enumerate(group.bands):
            mine = [exposure for exposure in group.exposures if exposure.band == number]
            rows = [exposure.row for exposure in mine]
            epoch = float(np.mean([float(exposures["epoch"][row]) for row in rows]))
            name = band if bands.count(band) == 1 else f"{band}_{epoch:.2f}"
            unit = str(exposures["flux_unit"][rows[0]])
            stacks.append(Stack(name, band, epoch_number, epoch, unit, [exposure.name for exposure in mine], rows))
    return stacks
