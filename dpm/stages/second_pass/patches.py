"""One patch in a task: its cut-outs, the stars that it starts from, and the lists that tasks leave for each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.star_lists import read_arrays
from dpm.models.patches import FRINGE, MARGIN, PatchBounds
from dpm.stages.second_pass.field import Group, SecondPassField, load_libraries, neighbors
from dpm.stages.second_pass.geometry import ExposureGeometry
from dpm.stages.second_pass.scene import Cutout, PatchScene, cutout_box

__all__ = ["REACH", "PatchReader", "StarList", "read_neighbors", "select"]

# Master pixels beyond the pixels of a patch from which a star's ePSF still reaches in.
REACH = 13.0
SMALLEST = 8  # pixels a side of a cut-out; less holds no star with its sky
SAME_STAR = 0.5  # master pixels within which two patches' stars at their border are one

StarList = dict[str, NDArray]


class PatchReader:
    """Makes scenes of a group's patches.

    Parameters
    ----------
    field : SecondPassField
    number : int
        Of the group.
    """

    def __init__(self, field: SecondPassField, number: int) -> None:
        self.field, self.number = field, number
        self.group: Group = field.groups[number]
        self.geometries: list[ExposureGeometry] = field.geometries(number)
        pairs = [(exposure.library, exposure.brightness) for exposure in self.group.exposures]
        files = tuple(dict.fromkeys(pairs))
        self.libraries, self.profiles, self.model_error, full = load_libraries(files)
        self.library_of = [files.index(pair) for pair in pairs]
        self.charge_share = [g.charge_per_flux / full[k] for g, k in zip(self.geometries, self.library_of)]

    def scene(self, patch: PatchBounds) -> tuple[PatchScene, list[int]] | None:
        """A patch with its pixels and no stars, and the numbers of its exposures; None where no exposure has enough pixels."""
        members: list[int] = []
        boxes = [cutout_box(geometry, patch) for geometry in self.geometries]
        most = sum(self.field.pixels(exposure).count(*box) for exposure, box in zip(self.group.exposures, boxes))
        cutouts = self._cutouts(boxes, members)
        first = next(cutouts, None)
        if first is None:
            return None
        told = self.libraries, self.profiles, len(self.group.bands), self.model_error
        return PatchScene(patch, itertools.chain([first], cutouts), most, *told), members

    def _cutouts(self, boxes: list[tuple[int, int, int, int]], members: list[int]) -> Iterator[Cutout]:
        """Cut-outs of the exposures that have enough pixels, whose numbers are added to ``members``."""
        for k, (exposure, geometry, box) in enumerate(zip(self.group.exposures, self.geometries, boxes)):
            planes, x_origin, y_origin = self.field.pixels(exposure).read(*box)
            if min(planes.shape[1:]) < SMALLEST or not np.isfinite(planes[1]).any():
                continue
            members.append(k)
            yield Cutout(planes, x_origin, y_origin, geometry, exposure.band, self.library_of[k], self.charge_share[k])


def select(stars: StarList, rows: NDArray) -> StarList:
    """Some rows of a list."""
    return {name: values[rows] for name, values in stars.items()}


def read_neighbors(field: SecondPassField, step: str, group: int, patches: Iterable[tuple[int, int]]) -> StarList:
    """Stars of these patches and of those about them, each star once, sorted by patch and position.

    A star on the border of two patches may have been found by both: the one of the patch that comes later is left out.  The rule
    looks at these stars alone, so that all tasks come to the same.
    """
    wanted = {near for patch in patches for near in neighbors(patch)}
    tiles = sorted({field.tile_of[group, *patch] for patch in wanted if (group, *patch) in field.tile_of})
    lists = [read_arrays(field.stars_file(step, tile)) for tile in tiles]
    stars = {name: np.concatenate([part[name] for part in lists]) for name in lists[0]}
    key = stars["row"] * (1 << 20) + stars["column"]
    keep = np.isin(key, [row * (1 << 20) + column for row, column in wanted])
    stars = select(stars, np.flatnonzero(keep))
    stars = select(stars, np.lexsort((stars["x"], stars["y"], stars["column"], stars["row"])))
    return select(stars, np.flatnonzero(~_twins(stars)))


def _twins(stars: StarList) -> NDArray[np.bool_]:
    """Stars that an earlier patch has as well."""
    out = np.zeros(len(stars["x"]), bool)
    if len(out) < 2:
        return out
    pairs = cKDTree(np.column_stack([stars["x"], stars["y"]])).query_pairs(SAME_STAR, output_type="ndarray")
    for a, b in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        other_patch = stars["row"][a] != stars["row"][b] or stars["column"][a] != stars["column"][b]
        if other_patch and not out[a]:
            out[b] = True
    return out


def fluxes(stars: StarList, n_bands: int) -> NDArray[np.float64]:
    """Fluxes (n, B) of a list."""
    return np.stack([stars[f"flux_{b}"] for b in range(n_bands)], -1)


def inside(x: NDArray, y: NDArray, bounds: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Positions within x_low <= x < x_high, y_low <= y < y_high."""
    return (x >= bounds[0]) & (x < bounds[1]) & (y >= bounds[2]) & (y < bounds[3])


def context(x: NDArray, y: NDArray, patch: PatchBounds) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Stars that are fitted with a patch, and stars beyond whose light reaches its pixels."""
    fitted = inside(x, y, patch.bounds(MARGIN))
    return fitted, inside(x, y, patch.bounds(MARGIN + FRINGE + REACH)) & ~fitted
