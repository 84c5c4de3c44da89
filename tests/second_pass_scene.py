"""Dithered exposures of an analytic star field, put through the tasks of the second pass without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from analytic_scene import SKY, exposure, gridded_epsf, observe, render
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.brightness_file import write_brightness
from dpm.io.gathered import write_gathered
from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import read_arrays
from dpm.io.stdpsf import write_stdpsf
from dpm.io.tables import write_table
from dpm.models.epsf import BrightnessTerm
from dpm.models.transform import LinearTransform
from dpm.simulate.detector import brighter_fatter
from dpm.stages.second_pass.assemble import keep_stars
from dpm.stages.second_pass.field import Exposure, Group, SecondPassField, Tile, plan_tiles, write_geometry
from dpm.stages.second_pass.geometry import make_geometry
from dpm.stages.second_pass.tasks import find_tile, solve_tile

THRESHOLD = 5.0
PATCH = 128  # master pixels a side of patches


@dataclass
class Scene:
    """Exposures: transform from raw pixels to the master frame, pixels, band; and the true stars (master frame, flux by band)."""

    x: NDArray
    y: NDArray
    flux: NDArray
    transforms: list[LinearTransform]
    bands: list[int]
    pixels: list[NDArray]
    dq: list[NDArray | None] = field(default_factory=list)


def dithers(n: int, seed: int, roll: float = 0.0) -> list[LinearTransform]:
    """Transforms with random shifts of some pixels; the last one is turned by ``roll`` radians."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(n):
        angle = roll if k == n - 1 else 0.0
        c, s = np.cos(angle), np.sin(angle)
        shift = rng.uniform(-4, 4, 2)
        middle = 100.0
        x0, y0 = middle * (1 - c + s) + shift[0], middle * (1 - s - c) + shift[1]
        out.append(LinearTransform(c, -s, s, c, x0, y0))
    return out


def make_scene(
    x: NDArray,
    y: NDArray,
    flux: NDArray,
    transforms: list[LinearTransform],
    bands: Sequence[int],
    seed: int,
    side: int = 200,
    change: Callable[[int, NDArray], None] | None = None,
    strength: float = 0.0,
) -> Scene:
    """Render, with brighter-fatter of some strength, add noise, and let ``change`` spoil the pixels of each exposure."""
    pixels = []
    for k, (transform, band) in enumerate(zip(transforms, bands, strict=True)):
        raw_x, raw_y = transform.inverse()(x, y)
        inside = (raw_x > -12) & (raw_x < side + 12) & (raw_y > -12) & (raw_y < side + 12)
        light = render((side, side), raw_x[inside], raw_y[inside], flux[inside, band])
        image = observe(brighter_fatter(light + SKY, strength) - SKY, seed + k)
        if change is not None:
            change(k, image)
        pixels.append(image)
    return Scene(x, y, flux, list(transforms), list(bands), pixels, [None] * len(pixels))


def prepare(
    scene: Scene,
    root: Path,
    one_patch_a_tile: bool = False,
    term: BrightnessTerm | None = None,
    stage: str = "second_pass",
    patch: int = PATCH,
) -> SecondPassField:
    """The run folder as it is when the exposures are gathered."""
    folder = RunFolder(root)
    folder.create()
    write_stdpsf(root / "library.fits", gridded_epsf(), ())
    if term is not None:
        write_brightness(root / "term.fits", term)
    brightness = str(root / "term.fits") if term is not None else ""
    side = scene.pixels[0].shape[0]
    exposures, geometries = [], []
    names = [f"band{b}" for b in range(scene.flux.shape[1])]
    for k, (transform, band) in enumerate(zip(scene.transforms, scene.bands, strict=True)):
        exposures.append(Exposure(f"e{k}", k, band, str(root / "library.fits"), (side, side), (0, 0), brightness))
        bounds = (0.0, side - 1.0, 0.0, side - 1.0)
        geometries.append(make_geometry(lambda u, v: (u, v), transform, bounds, lambda u, v: np.ones_like(u), 0.0, 1.0))
    field = SecondPassField(folder, [Group(names, exposures)], [], stage)
    seeds = Table({"x": np.zeros(0), "y": np.zeros(0)})
    for name in names:
        seeds[f"{name}_flux"], seeds[f"{name}_saturated"] = np.zeros(0), np.zeros(0, bool)
    write_table(folder.frame_catalog, seeds)
    for exposed, geometry, pixels, dq in zip(exposures, geometries, scene.pixels, scene.dq, strict=True):
        image = exposure(pixels, dq)
        write_geometry(field.geometry_file(exposed), geometry)
        write_gathered(field.pixels_file(exposed), image, image.sci, image.var_read, np.zeros(image.shape, np.float32))
    field = plan_tiles(field, [geometries], largest=patch)
    if one_patch_a_tile:
        places = [place for tile in field.tiles for place in tile.patches]
        tiles = [Tile(number, 0, [place], 1.0) for number, place in enumerate(reversed(places))]
        field = SecondPassField(folder, field.groups, tiles, stage)
    field.save()
    return field


def solve(
    scene: Scene,
    root: Path,
    one_patch_a_tile: bool = False,
    min_exposures: int = 1,
    term: BrightnessTerm | None = None,
    patch: int = PATCH,
) -> dict[str, NDArray]:
    """Measurements of the stars that stay; ``id`` numbers the stars in the order of patches."""
    field = prepare(scene, root, one_patch_a_tile, term, patch=patch)
    for tile in field.tiles:
        find_tile(field.folder, tile.number, THRESHOLD)
    for step, source in (("sweep", "found"), ("measure", "sweep")):
        for tile in field.tiles:
            solve_tile(field.folder, tile.number, step, source, step == "measure")
    lists = [read_arrays(field.stars_file("measured", tile.number)) for tile in field.tiles]
    rows = {name: np.concatenate([part[name] for part in lists]) for name in lists[0]}
    order = np.lexsort((rows["exposure"], rows["star"], rows["column"], rows["row"]))
    rows = {name: values[order] for name, values in rows.items()}
    key = np.column_stack([rows["row"], rows["column"], rows["star"]])
    rows["id"] = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    return keep_stars(rows, THRESHOLD, min_exposures)


def averages(scene: Scene, rows: dict[str, NDArray]) -> dict[str, NDArray]:
    """Weighted means of the exposures: master positions with errors, fluxes by band with errors, exposures."""
    n = int(rows["id"].max(initial=-1)) + 1
    bands = np.array(scene.bands)[rows["exposure"]]
    x, y = np.empty(len(rows["x"])), np.empty(len(rows["x"]))
    for k, transform in enumerate(scene.transforms):
        mine = rows["exposure"] == k
        x[mine], y[mine] = transform(rows["x"][mine], rows["y"][mine])
    weight_x, weight_y = 1 / rows["x_error"].astype(float) ** 2, 1 / rows["y_error"].astype(float) ** 2
    weight = 0.5 * (weight_x + weight_y)
    total = np.bincount(rows["id"], weight, n)
    out = {
        "x": np.bincount(rows["id"], weight * x, n) / total,
        "y": np.bincount(rows["id"], weight * y, n) / total,
        "error": 1 / np.sqrt(total),
        "n": np.bincount(rows["id"], minlength=n),
    }
    flux, error = np.zeros((n, scene.flux.shape[1])), np.zeros((n, scene.flux.shape[1]))
    for b in range(scene.flux.shape[1]):
        mine = bands == b
        w = 1 / rows["flux_error"][mine].astype(float) ** 2
        sums = np.bincount(rows["id"][mine], w, n)
        with np.errstate(invalid="ignore", divide="ignore"):
            flux[:, b] = np.bincount(rows["id"][mine], w * rows["flux"][mine], n) / sums
            error[:, b] = 1 / np.sqrt(sums)
    return out | {"flux": flux, "flux_error": error}
