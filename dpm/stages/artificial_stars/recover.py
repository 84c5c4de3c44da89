"""Artificial stars put into a tile's patches, found and measured by the second pass itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import write_arrays
from dpm.kernels.inject import inject_stars, scatter_at
from dpm.kernels.patch import Libraries, place_stars
from dpm.models.patches import PatchBounds
from dpm.stages.artificial_stars.files import STAGE, read_plan, recovered_file
from dpm.stages.artificial_stars.perturbed import choose_variants, perturbed_libraries
from dpm.stages.first_pass.saturated import LOST
from dpm.stages.second_pass.field import SecondPassField
from dpm.stages.second_pass.measure import MEASURED, measure_patch
from dpm.stages.second_pass.patches import PatchReader, StarList, context, inside, select
from dpm.stages.second_pass.placement import group_seeds
from dpm.stages.second_pass.scene import PatchScene
from dpm.stages.second_pass.tasks import begin_solving, star_list, sweep_all
from dpm.stages.second_pass.waves import FrozenStars, equivalent_threshold, find_stars, saturated_half

__all__ = ["FOUND", "recover_tile"]

MATCH = 0.5  # master pixels between an artificial star and what was found for it (DESIGN section 5)

# What is written of every artificial star beside the rows of MEASURED: its number, where the nearest star that was found lies, and
# the sky's scatter at its place in each band, ``{band}_sky_rms``.
FOUND: dict[str, type] = {"id": np.int64, "distance": np.float64}


@dataclass(frozen=True)
class _Patch:
    """One patch of a tile before any star is put in.

    ``interaction`` is half of the distance between stars of one pass, master pixels.  A star changes the fits of those whose fit
    box meets its own, and the sky of those whose annulus it is in: 8.5 pixels.  What these change in turn moved fluxes by 0.15 of
    their errors in one of a hundred (docs/results.md).
    """

    bounds: PatchBounds
    base: PatchScene
    members: list[int]
    exposure_keys: NDArray[np.uint64]
    saturation: NDArray[np.float64]
    perturbed: Libraries | None
    interaction: float


def recover_tile(
    folder: RunFolder, number: int, first: int, last: int, seed: int, threshold: float, separation: float, epsf_error: float = 0.0
) -> dict[str, int]:
    """Put in and measure again the artificial stars of a tile's patches that go in with the passes ``first`` to ``last``.

    Within half of the separation of a star that goes in, all stars, real ones too, are found and measured again from the first
    wave; elsewhere the catalogue's models stand.  Nothing is written back to the pixels.

    Parameters
    ----------
    folder : RunFolder
    number : int
        Of the tile.
    first, last : int
        Passes, the last excluded.
    seed : int
        ``[artificial_stars] seed``.
    threshold : float
        ``[find] threshold``.
    separation : float
        Of stars of one pass, master pixels.
    epsf_error : float
        ``[artificial_stars] epsf_error``.
    """
    field = SecondPassField.load(folder, STAGE)
    tile = field.tiles[number]
    reader = PatchReader(field, tile.group)
    names = [exposure.name for exposure in reader.group.exposures]
    keys = np.array([_key(f"{seed} {name}") for name in names], np.uint64)
    plan = read_plan(folder, first, last)
    plan |= {"x": plan[f"x_{tile.group}"], "y": plan[f"y_{tile.group}"]}
    known = group_seeds(field, tile.group, folder.catalog)
    limit = equivalent_threshold(threshold, len(reader.group.bands))
    files = tuple(dict.fromkeys((exposure.library, exposure.brightness) for exposure in reader.group.exposures))
    perturbed = perturbed_libraries(files, epsf_error) if epsf_error else None
    measured: list[StarList] = [{name: np.zeros(0, dtype) for name, dtype in MEASURED.items()}]
    columns = FOUND | {f"{band}_sky_rms": np.float64 for band in reader.group.bands}
    found: list[StarList] = [{name: np.zeros(0, dtype) for name, dtype in columns.items()}]
    for bounds in field.patches(tile):
        mine = select(plan, np.flatnonzero(inside(plan["x"], plan["y"], bounds.bounds())))
        made = reader.scene(bounds) if len(mine["id"]) else None
        if made is None:
            continue
        base, members = made
        saturation = np.array([reader.geometries[k].saturation for k in members])
        patch = _Patch(bounds, base, members, keys[members], saturation, perturbed, 0.5 * separation)
        for number_of_pass in np.unique(mine["pass"]):
            stars = select(mine, np.flatnonzero(mine["pass"] == number_of_pass))
            rows, places = _recover(patch, stars, reader.group.bands, known, limit, seed)
            measured.append(rows)
            found.append(places)
    for step, lists in (("measured", measured), ("found", found)):
        path = recovered_file(folder, step, tile.number, first)
        write_arrays(path, {key: np.concatenate([part[key] for part in lists]) for key in lists[0]})
    return {"stars": sum(len(part["id"]) for part in found)}


def _key(text: str) -> int:
    """A 64-bit number of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _recover(
    patch: _Patch, stars: StarList, bands: list[str], known: StarList, limit: float, seed: int
) -> tuple[StarList, StarList]:
    """One pass over one patch: rows of MEASURED, whose ``star`` is the artificial star's id, and rows of FOUND."""
    base = patch.base
    flux = np.column_stack([stars[f"{band}_flux"] for band in bands])
    pixels, variance = base.patch.scene.copy(), base.patch.variance_read.copy()
    lost = np.zeros(len(pixels), bool)
    star_keys = np.array([_key(f"{seed} star {number}") for number in stars["id"]], np.uint64)
    keys = star_keys, patch.exposure_keys
    if patch.perturbed is None:
        inject_stars(base.patch, base.libraries, stars["x"], stars["y"], flux, *keys, patch.saturation, pixels, variance, lost)
    else:
        for k, star_key in enumerate(star_keys):
            other = base.patch._replace(library=choose_variants(base.patch.library, star_key, patch.exposure_keys))
            one = stars["x"][k : k + 1], stars["y"][k : k + 1], flux[k : k + 1], star_keys[k : k + 1], patch.exposure_keys
            inject_stars(other, patch.perturbed, *one, patch.saturation, pixels, variance, lost)
    dq = base.dq.copy()
    dq[lost] |= np.uint8(LOST)

    place = np.column_stack([stars["x"], stars["y"]])
    near, beyond = context(known["x"], known["y"], patch.bounds)
    # Within reach of a star that goes in, nothing is known of the others; elsewhere the catalogue's models stand.
    others = np.column_stack([known["x"], known["y"]])
    reached = np.isfinite(cKDTree(place).query(others, distance_upper_bound=patch.interaction)[0])
    saturated = near & known["saturated"] & reached
    standing = (near & ~reached) | beyond
    scene = base.fresh(pixels, pixels, variance, dq)
    scene.subtract_frozen(known["x"][standing], known["y"][standing], known["flux"][standing])
    without = scene.patch.residual.copy()
    x, y, seeds = known["x"][saturated], known["y"][saturated], known["flux"][saturated]
    own = _saturating(scene, stars, flux, lost)
    # The first pass finds a saturated star by its lost core: to a pixel, and its flux by the wings.
    x, y = np.concatenate([x, np.rint(stars["x"][own])]), np.concatenate([y, np.rint(stars["y"][own])])
    seeds = np.concatenate([seeds, np.nan_to_num(flux[own])])
    find_stars(scene, limit, FrozenStars(x, y, seeds, saturated_half(scene, x, y)), near=(place, patch.interaction))
    for _ in range(2):
        around = star_list(patch.bounds, scene.n_bands, scene, np.arange(scene.count))
        scene = scene.fresh(pixels, without, variance, dq)
        begin_solving(scene, around)
        sweep_all(scene)
    scene.update_sky()
    scene.update_star_skies()
    places: StarList = {"id": stars["id"], "distance": np.full(len(stars["id"]), np.inf)}
    scatter = np.empty((len(place), len(bands)))
    scatter_at(scene.patch, stars["x"], stars["y"], scatter)
    places |= {f"{band}_sky_rms": scatter[:, b] for b, band in enumerate(bands)}
    if scene.count == 0:
        return {name: np.zeros(0, dtype) for name, dtype in MEASURED.items()}, places
    there = np.column_stack([scene.stars.x[: scene.count], scene.stars.y[: scene.count]])
    places["distance"], nearest = cKDTree(there).query(place)
    matched = np.flatnonzero(places["distance"] < MATCH)
    rows = measure_patch(scene, nearest[matched], patch.members, patch.bounds)
    rows["star"] = stars["id"][matched][rows["star"]]
    return rows, places


def _saturating(scene: PatchScene, stars: StarList, flux: NDArray[np.float64], lost: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Artificial stars that lost a pixel of their core in an exposure."""
    patch = scene.patch
    placed = np.zeros((len(stars["id"]), scene.n_exposures, 3))
    place_stars(patch, stars["x"], stars["y"], placed)
    out = np.zeros(len(placed), bool)
    for e, begin in enumerate(patch.first):
        ny, nx = int(patch.ny[e]), int(patch.nx[e])
        plane = lost[begin : begin + ny * nx].reshape(ny, nx)
        for k in np.flatnonzero(np.isfinite(placed[:, e]).all(axis=1)):
            column, row = int(round(placed[k, e, 0])), int(round(placed[k, e, 1]))
            if 0 <= row < ny and 0 <= column < nx:
                out[k] |= bool(plane[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].any())
    return out
