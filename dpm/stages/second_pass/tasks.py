"""What a task of the second pass does for its tile: find the stars of its patches, or solve and measure them."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import write_arrays
from dpm.models.patches import PatchBounds
from dpm.stages.second_pass.field import SecondPassField, Tile
from dpm.stages.second_pass.measure import MEASURED, measure_patch
from dpm.stages.second_pass.patches import PatchReader, StarList, context, fluxes, inside, read_neighbors, select
from dpm.stages.second_pass.placement import group_seeds
from dpm.stages.second_pass.scene import PatchScene
from dpm.stages.second_pass.waves import FrozenStars, equivalent_threshold, find_stars, saturated_half

__all__ = ["begin_solving", "find_tile", "solve_tile", "star_list", "sweep_all"]

log = logging.getLogger(__name__)

SWEEPS = 2  # of a patch in one round
SWEEP_ITERATIONS = 6


def find_tile(folder: RunFolder, number: int, threshold: float) -> dict[str, int]:
    """Find the stars of a tile's patches, each from its own pixels, and write their list.

    Parameters
    ----------
    folder : RunFolder
    number : int
        Of the tile.
    threshold : float
        ``[find] threshold``.
    """
    field = SecondPassField.load(folder)
    tile = field.tiles[number]
    reader = PatchReader(field, tile.group)
    seeds = group_seeds(field, tile.group)
    n_bands = len(reader.group.bands)
    limit = equivalent_threshold(threshold, n_bands)
    lists: list[StarList] = [star_list(None, n_bands, None, np.zeros(0, np.int64))]
    masked = 0
    for patch in field.patches(tile):
        made = reader.scene(patch)
        if made is None:
            continue
        scene, members = made
        log.debug("patch %s: %d exposures", patch.name, len(members))
        near, beyond = context(seeds["x"], seeds["y"], patch)
        saturated = near & seeds["saturated"]
        half = saturated_half(scene, seeds["x"][saturated], seeds["y"][saturated])
        known = FrozenStars(seeds["x"][saturated], seeds["y"][saturated], seeds["flux"][saturated], half)
        frozen = FrozenStars(seeds["x"][beyond], seeds["y"][beyond], seeds["flux"][beyond], np.full(beyond.sum(), 2))
        masked += find_stars(scene, limit, known, [frozen])
        stars, n = scene.stars, scene.count
        own = np.flatnonzero(inside(stars.x[:n], stars.y[:n], patch.bounds()))
        log.debug("patch %s: %d stars found, %d of them its own", patch.name, n, own.size)
        lists.append(star_list(patch, n_bands, scene, own))
    return _write(field, "found", tile, lists) | {"masked": masked}


def solve_tile(folder: RunFolder, number: int, step: str, source: str, measure: bool) -> dict[str, float]:
    """Fit the stars of a tile's patches with those about them, and write their list.

    Parameters
    ----------
    folder : RunFolder
    number : int
        Of the tile.
    step, source : str
        Names of the lists to write and to read.
    measure : bool
        Also write what every exposure says of every star.
    """
    field = SecondPassField.load(folder)
    tile = field.tiles[number]
    reader = PatchReader(field, tile.group)
    n_bands = len(reader.group.bands)
    known = read_neighbors(field, source, tile.group, tile.patches)
    lists: list[StarList] = [star_list(None, n_bands, None, np.zeros(0, np.int64))]
    measured: list[StarList] = []
    largest = [0.0]
    for patch in field.patches(tile):
        near, beyond = context(known["x"], known["y"], patch)
        near |= (known["row"] == patch.row) & (known["column"] == patch.column)
        beyond &= ~near
        own = np.flatnonzero((known["row"][near] == patch.row) & (known["column"][near] == patch.column))
        made = reader.scene(patch) if own.size else None
        if made is None:
            continue
        scene, members = made
        log.debug("patch %s: %d stars, %d of them its own, in %d exposures", patch.name, near.sum(), own.size, len(members))
        scene.subtract_frozen(known["x"][beyond], known["y"][beyond], fluxes(known, n_bands)[beyond])
        begin_solving(scene, select(known, np.flatnonzero(near)))
        before = np.column_stack([scene.stars.x[own], scene.stars.y[own]])
        sweep_all(scene)
        change = np.hypot(*(np.column_stack([scene.stars.x[own], scene.stars.y[own]]) - before).T)
        error = np.sqrt(0.5 * (scene.stars.xx[own] + scene.stars.yy[own]))
        largest.extend((change / error)[np.isfinite(error)])
        lists.append(star_list(patch, n_bands, scene, own))
        if measure:
            scene.update_sky()
            scene.update_star_skies()
            measured.append(measure_patch(scene, own, members, patch))
    if measure:
        empty: StarList = {name: np.zeros(0, dtype) for name, dtype in MEASURED.items()}
        write_arrays(
            field.stars_file("measured", number),
            {name: np.concatenate([part[name] for part in [empty, *measured]]) for name in MEASURED},
        )
    out = _write(field, step, tile, lists)
    return out | {"change": float(np.percentile(largest, 99))}


def begin_solving(scene: PatchScene, stars: StarList) -> None:
    """Put stars into a fresh scene: sky and noise become those of the rest."""
    scene.add_known(stars["x"], stars["y"], fluxes(stars, scene.n_bands), stars["half"])
    scene.update_sky()
    scene.raise_noise()
    scene.mask_outliers()
    scene.update_star_skies()


def sweep_all(scene: PatchScene) -> None:
    """Fit all stars of a scene, SWEEPS times."""
    for turn in range(SWEEPS):
        scene.sweep(SWEEP_ITERATIONS, everyone=turn == 0)


def star_list(patch: PatchBounds | None, n_bands: int, scene: PatchScene | None, rows: NDArray[np.int64]) -> StarList:
    """Stars of a scene, as they go from task to task."""
    n = len(rows)
    stars = scene.stars if scene is not None else None
    row, column = (patch.row, patch.column) if patch is not None else (0, 0)
    out: StarList = {"row": np.full(n, row, np.int64), "column": np.full(n, column, np.int64)}
    for name in ("x", "y", "half", "status"):
        dtype = np.float64 if name in "xy" else np.int64
        out[name] = getattr(stars, name)[rows] if stars is not None else np.zeros(0, dtype)
    for b in range(n_bands):
        out[f"flux_{b}"] = stars.flux[rows, b] if stars is not None else np.zeros(0)
    return out


def _write(field: SecondPassField, step: str, tile: Tile, lists: list[StarList]) -> dict[str, int]:
    stars = {name: np.concatenate([part[name] for part in lists]) for name in lists[0]}
    stars = select(stars, np.lexsort((stars["x"], stars["y"], stars["column"], stars["row"])))
    write_arrays(field.stars_file(step, tile.number), stars)
    return {"stars": len(stars["x"])}
