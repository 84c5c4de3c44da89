"""The field as the second pass sees it: exposures with their geometry and ePSFs, epoch groups, bands, and the plan of tiles."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.io.brightness_file import read_epsf
from dpm.io.gathered import GatheredPixels
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_model_error
from dpm.io.tables import read_columns
from dpm.kernels.patch import Libraries
from dpm.models.patches import NODE_STEP, SIDES, PatchBounds, patch_side
from dpm.stages.base import Footprint
from dpm.stages.frame.units import EPOCH_GAP
from dpm.stages.second_pass.geometry import ExposureGeometry
from dpm.stages.second_pass.scene import pack_libraries

__all__ = [
    "Exposure",
    "Group",
    "SecondPassField",
    "Tile",
    "files_folder",
    "footprints",
    "load_libraries",
    "neighbors",
    "plan_file",
    "plan_tiles",
    "read_geometry",
    "write_geometry",
]

TILE_SECONDS = 4.0  # of work in a tile: many tiles keep all workers busy, and each is far above what scheduling costs
SECONDS_A_ROW = 2.5e-4  # of a star in an exposure through finding, or through two sweeps; measured on crowded fields
SECONDS_A_PIXEL = 2.0e-7  # of a pixel of an exposure


@dataclass(frozen=True)
class Exposure:
    """One exposure of one detector.

    Parameters
    ----------
    name : str
        Exposure and detector.
    row : int
        Its row in ``tables/exposures.parquet``.
    band : int
        Number of its band in its group.
    library : str
        File of its ePSF.
    shape, origin : tuple of int
        (ny, nx), and raw (x, y) of the first pixel.
    brightness : str
        File of the ePSF's change with brightness; empty: none.
    """

    name: str
    row: int
    band: int
    library: str
    shape: tuple[int, int]
    origin: tuple[int, int]
    brightness: str = ""


@dataclass(frozen=True)
class Group:
    """Exposures of one epoch, measured together.

    Parameters
    ----------
    bands : list of str
        Prefixes of the bands' columns in the catalogue.
    exposures : list of Exposure
        In the order of ``tables/exposures.parquet``.
    side : int
        Master pixels a side of its patches.
    """

    bands: list[str]
    exposures: list[Exposure]
    side: int = SIDES[0]


@dataclass(frozen=True)
class Tile:
    """A bundle of patches of one group, for one task."""

    number: int
    group: int
    patches: list[tuple[int, int]]
    cost: float


def files_folder(folder: RunFolder, stage: str = "second_pass") -> Path:
    """Where a stage's tasks leave files for each other until it is complete."""
    return folder.work / f"{stage}_files"


def plan_file(folder: RunFolder, stage: str = "second_pass") -> Path:
    """The plan of a stage's tiles, for its tasks."""
    return files_folder(folder, stage) / "plan.json"


def write_geometry(path: Path, geometry: ExposureGeometry) -> None:
    """Write an exposure's nodes, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, ".npz") as temporary:
        first = np.array([geometry.first_row, geometry.first_column])
        numbers = {name: getattr(geometry, name) for name in ("charge_per_flux", "saturation")}
        np.savez(temporary, nodes=geometry.nodes, first=first, **numbers)


def read_geometry(path: Path) -> ExposureGeometry:
    """Nodes of one exposure."""
    with np.load(path) as data:
        numbers = float(data["charge_per_flux"]), float(data["saturation"])
        return ExposureGeometry(int(data["first"][0]), int(data["first"][1]), data["nodes"], *numbers)


class SecondPassField:
    """Exposures, groups and tiles of a run.

    Parameters
    ----------
    folder : RunFolder
    groups : list of Group
    tiles : list of Tile
    stage : str
        Name of the stage whose files these are.
    """

    def __init__(self, folder: RunFolder, groups: list[Group], tiles: list[Tile], stage: str = "second_pass") -> None:
        self.folder, self.groups, self.tiles = folder, groups, tiles
        self.stage, self.files = stage, files_folder(folder, stage)
        self.tile_of = {(tile.group, *patch): tile.number for tile in tiles for patch in tile.patches}

    @classmethod
    def from_exposures(cls, folder: RunFolder, table: Table, stage: str = "second_pass") -> SecondPassField:
        """Groups of the exposures that the frame stage placed; no tiles yet.

        Parameters
        ----------
        folder : RunFolder
        table : Table
            ``tables/exposures.parquet``.
        stage : str
            Name of the stage whose files these are.
        """
        placed = [k for k in range(len(table)) if np.isfinite(table["a"][k])]
        placed.sort(key=lambda k: (float(table["epoch"][k]), k))
        sets: list[list[int]] = []
        for k in placed:
            if sets and float(table["epoch"][k]) - float(table["epoch"][sets[-1][-1]]) < EPOCH_GAP:
                sets[-1].append(k)
            else:
                sets.append([k])
        groups = []
        for members in sets:
            bands = sorted({str(table["band"][k]) for k in members})
            groups.append(Group(bands, [_exposure(folder, table, k, bands) for k in sorted(members)]))
        return cls(folder, groups, [], stage)

    def save(self) -> None:
        """Write the plan for the tasks."""
        path = plan_file(self.folder, self.stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"groups": [asdict(group) for group in self.groups], "tiles": [asdict(tile) for tile in self.tiles]}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content))

    @classmethod
    def load(cls, folder: RunFolder, stage: str = "second_pass") -> SecondPassField:
        """The plan that the driver saved."""
        content = json.loads(plan_file(folder, stage).read_text())
        groups = [
            Group(
                entry["bands"],
                [Exposure(**{**e, "shape": tuple(e["shape"]), "origin": tuple(e["origin"])}) for e in entry["exposures"]],
                entry["side"],
            )
            for entry in content["groups"]
        ]
        tiles = [Tile(t["number"], t["group"], [tuple(p) for p in t["patches"]], t["cost"]) for t in content["tiles"]]
        return cls(folder, groups, tiles, stage)

    def geometry_file(self, exposure: Exposure) -> Path:
        return self.files / "geometry" / f"{exposure.name}.npz"

    def pixels_file(self, exposure: Exposure) -> Path:
        return self.files / "pixels" / f"{exposure.name}.bin"

    def pixels(self, exposure: Exposure) -> GatheredPixels:
        """The gathered pixels of one exposure."""
        return GatheredPixels(self.pixels_file(exposure), exposure.shape, exposure.origin)

    def patches(self, tile: Tile) -> list[PatchBounds]:
        """Patches of a tile."""
        return [PatchBounds(row, column, self.groups[tile.group].side) for row, column in tile.patches]

    def stars_file(self, step: str, tile: int) -> Path:
        """List of stars that a step made of a tile."""
        return self.files / step / f"{tile}.arrow"

    def geometries(self, group: int) -> list[ExposureGeometry]:
        """Geometry of all exposures of a group."""
        return [read_geometry(self.geometry_file(exposure)) for exposure in self.groups[group].exposures]

    def seeds(self, group: int, table: Path | None = None) -> dict[str, NDArray[Any]]:
        """Positions, fluxes by band (n, B; 0 where unknown) and saturation of the frame stage's stars, or of another table's."""
        bands = self.groups[group].bands
        wanted = ["x", "y", *(f"{band}_{name}" for band in bands for name in ("flux", "saturated"))]
        data = read_columns(table or self.folder.frame_catalog, wanted)
        flux = np.stack([np.nan_to_num(data[f"{band}_flux"]) for band in bands], -1)
        saturated = np.any([data[f"{band}_saturated"] for band in bands], axis=0)
        return {"x": data["x"], "y": data["y"], "flux": flux, "saturated": saturated}


def _exposure(folder: RunFolder, table: Table, k: int, bands: list[str]) -> Exposure:
    row = table[k]
    exposure, detector, filter_name = str(row["exposure"]), str(row["detector"]), str(row["filter"])
    own = folder.perturbed_psf_file(exposure, detector, filter_name)
    library = own if own.exists() else folder.psf_file(detector, filter_name)
    term = folder.brightness_file(detector, filter_name)
    return Exposure(
        f"{exposure}_{detector}", k, bands.index(str(row["band"])), str(library),
        (int(row["ny"]), int(row["nx"])), (int(row["x_origin"]), int(row["y_origin"])), str(term) if term.exists() else "",
    )  # fmt: skip


@functools.lru_cache(maxsize=2)
def load_libraries(files: tuple[tuple[str, str], ...]) -> tuple[Libraries, NDArray[np.float32], float, list[float]]:
    """The ePSFs of these pairs of files (library, change with brightness or "") as the kernels take them.

    Also their phase-averaged 3 x 3 profiles, their largest model error, and the charge at which each one's change is full.
    """
    epsfs = [read_epsf(*pair) for pair in files]
    profiles = np.array([epsf.matched_profile for epsf in epsfs], np.float32)
    full = [np.inf if epsf.brightness is None else epsf.brightness.brightest for epsf in epsfs]
    return pack_libraries(epsfs), profiles, max(float(read_model_error(path)) for path, _ in files), full


def plan_tiles(
    field: SecondPassField,
    geometries: Iterable[list[ExposureGeometry]],
    seconds: float | None = None,
    largest: int = SIDES[0],
) -> SecondPassField:
    """The field with patches and bundles of them of about equal cost, along the rows of the lattice.

    Parameters
    ----------
    field : SecondPassField
    geometries : iterable of list of ExposureGeometry
        One list a group.
    seconds : float, optional
        Of work in a tile; TILE_SECONDS if not given.
    largest : int, optional
        Side of patches at most.
    """
    tiles: list[Tile] = []
    groups: list[Group] = []
    for number, (exposures, group) in enumerate(zip(geometries, field.groups, strict=True)):
        overlap = _depths(exposures, group, SIDES[-1])
        side = min(largest, patch_side(max(overlap.values(), default=1)))
        groups.append(replace(group, side=side))
        depths = _depths(exposures, group, side)
        seeds = field.seeds(number)
        stars: dict[tuple[int, int], int] = {}
        for row, column in zip((seeds["y"] // side).astype(int), (seeds["x"] // side).astype(int)):
            stars[row, column] = stars.get((row, column), 0) + 1
        patches: list[tuple[int, int]] = []
        cost = 0.0
        for patch in sorted(depths):
            patches.append(patch)
            cost += depths[patch] * (SECONDS_A_ROW * stars.get(patch, 0) + SECONDS_A_PIXEL * side * side)
            if cost > (TILE_SECONDS if seconds is None else seconds):
                tiles.append(Tile(len(tiles), number, patches, cost))
                patches, cost = [], 0.0
        if patches:
            tiles.append(Tile(len(tiles), number, patches, cost))
    return SecondPassField(field.folder, groups, tiles, field.stage)


def _depths(geometries: list[ExposureGeometry], group: Group, side: int) -> dict[tuple[int, int], int]:
    """Exposures of every patch that holds a pixel of one."""
    depths: dict[tuple[int, int], int] = {}
    for geometry, exposure in zip(geometries, group.exposures, strict=True):
        for patch in _covered(geometry, exposure, side):
            depths[patch] = depths.get(patch, 0) + 1
    return depths


def _covered(geometry: ExposureGeometry, exposure: Exposure, side: int) -> set[tuple[int, int]]:
    """Patches that hold a pixel of the exposure: those with a node on it, or one between nodes near its border."""
    ny, nx = exposure.shape
    x, y = geometry.nodes[0] - exposure.origin[0], geometry.nodes[1] - exposure.origin[1]
    inside = (x > -16) & (x < nx + 16) & (y > -16) & (y < ny + 16)
    rows, columns = np.nonzero(inside)
    per = side // NODE_STEP
    return {(int(r), int(c)) for r, c in zip((rows + geometry.first_row) // per, (columns + geometry.first_column) // per)}


def footprints(folder: RunFolder, stage: str = "second_pass") -> dict[int, Footprint]:
    """Where the tiles of a stage lie; none before they are planned."""
    if not plan_file(folder, stage).exists():
        return {}
    field = SecondPassField.load(folder, stage)
    return {
        tile.number: Footprint(tile.group, [(patch.x0, patch.y0, float(patch.side)) for patch in field.patches(tile)])
        for tile in field.tiles
    }


def neighbors(patch: tuple[int, int]) -> list[tuple[int, int]]:
    """The patch and the eight about it."""
    row, column = patch
    return [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
