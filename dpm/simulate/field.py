"""A whole field: stars, pointings, exposures, reference catalogue and truth, written to a folder.

Every random number comes from a counter-based generator keyed by the seed and the name of what it is for, so that an
exposure has the same bits whatever is made before it or beside it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.simulate import truth
from dpm.simulate.detector import DetectorPattern, Frame, make_pattern, read_ccd, read_ramp
from dpm.simulate.files import write_cal, write_flc, write_stdpsf
from dpm.simulate.geometry import Distortion, SkyPlane, make_small_terms
from dpm.simulate.headers import wcs_header
from dpm.simulate.instruments import INSTRUMENTS, Instrument
from dpm.simulate.optics import EpsfGrid, WavefrontModel, make_epsf_grid
from dpm.simulate.options import SimulationOptions, Visit
from dpm.simulate.pointings import MARGIN, Shot, bare_distortions, coverage, frame_shape, generator_for, make_shots
from dpm.simulate.population import Galaxies, make_galaxies, make_reference, make_stars, write_table
from dpm.simulate.render import StarRenderer

__all__ = ["SimulatedField", "simulate_field"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
BRIGHT = 5e4
CHROMATIC_STEP = 0.02  # relative step of wavelength over which the change of the ePSF is taken as linear


@dataclass(frozen=True)
class SimulatedField:
    """What was written.

    Parameters
    ----------
    folder : Path
        The field's folder.
    exposures : tuple of Path
        FITS files of all visits, in order of time.
    reference : Path
        The reference catalogue.
    scenes : tuple of Path
        A folder for each visit that holds its ``truth``: the field's folder for the first visit, ``visit_02`` and so
        on.
    psf_folders : tuple of Path
        STDPSF files of the true ePSFs of each visit.
    n_stars : int
        Stars in the field.
    """

    folder: Path
    exposures: tuple[Path, ...]
    reference: Path
    scenes: tuple[Path, ...]
    psf_folders: tuple[Path, ...]
    n_stars: int


@dataclass(frozen=True)
class _Chip:
    """One detector of a visit, in one filter."""

    name: str
    distortion: Distortion
    area: NDArray[np.float32]
    epsf: EpsfGrid
    refocused: EpsfGrid | None
    renderer: StarRenderer
    redder: StarRenderer | None
    pattern: DetectorPattern


@dataclass(frozen=True)
class _Scene:
    """What all exposures of a visit share."""

    options: SimulationOptions
    visit: Visit
    camera: Instrument
    plane: SkyPlane
    stars: Table
    galaxies: Galaxies
    gradient: tuple[float, float]
    folder: Path
    truth_folder: Path


def _make_chip(scene: _Scene, filter_name: str, name: str, bare: Distortion) -> _Chip:
    """Optics, distortion and detector of one chip in one filter."""
    options, camera, effects = scene.options, scene.camera, scene.options.effects
    terms = make_small_terms(generator_for(options.seed, "distortion", name, filter_name), effects)
    common = make_small_terms(generator_for(options.seed, "distortion", name), effects)
    distortion = Distortion(
        bare.polynomial, bare.x_start, bare.y_start, bare.x_origin, bare.y_origin, bare.nx, bare.ny, bare.ideal_origin,
        terms[0], common[1], common[2],
    )  # fmt: skip
    wavefront = WavefrontModel(camera, generator_for(options.seed, "wavefront", name))
    x_nodes = distortion.x_origin + np.linspace(0, distortion.nx - 1, options.psf_grid)
    y_nodes = distortion.y_origin + np.linspace(0, distortion.ny - 1, options.psf_grid)
    epsf = make_epsf_grid(camera, filter_name, wavefront, x_nodes, y_nodes)
    refocused = None
    if effects.breathing:
        refocused = make_epsf_grid(camera, filter_name, wavefront, x_nodes, y_nodes, effects.breathing * 1e-9)
    pattern = make_pattern(
        (distortion.ny, distortion.nx), camera, effects, generator_for(options.seed, "pattern", name, filter_name)
    )
    area = distortion.area(camera.pixel_scale**2)
    redder = None
    if effects.chromatic:
        stretched = make_epsf_grid(camera, filter_name, wavefront, x_nodes, y_nodes, stretch=1 + CHROMATIC_STEP)
        redder = StarRenderer(EpsfGrid((stretched.values - epsf.values) / CHROMATIC_STEP, x_nodes, y_nodes))
    return _Chip(name, distortion, area, epsf, refocused, StarRenderer(epsf), redder, pattern)


def _write_optics(scene: _Scene, filter_name: str, chips: list[_Chip]) -> None:
    """True ePSFs and distortions of one filter."""
    single = len(chips) == 1
    library = []
    for chip in chips:
        suffix = filter_name if single else f"{filter_name}_{chip.name}"
        capacitance = scene.options.effects.interpixel_capacitance
        seen = chip.epsf.coupled(capacitance) if capacitance else chip.epsf
        truth.write_epsf(scene.truth_folder / f"epsf_{suffix}.npz", seen)
        if chip.refocused is not None:
            other = chip.refocused.coupled(capacitance) if capacitance else chip.refocused
            truth.write_epsf(scene.truth_folder / f"epsf_{suffix}_refocused.npz", other)
        truth.write_distortion(scene.truth_folder / f"distortion_{suffix}.npz", chip.distortion)
        library.append((seen, 2048 if chip.name in ("WFC1", "UVIS1") else 0))
    folder = scene.truth_folder / "stdpsf"
    folder.mkdir(exist_ok=True)
    library.sort(key=lambda entry: entry[1])
    write_stdpsf(folder / f"STDPSF_{scene.camera.library}_{filter_name}.fits", library)


def _light(scene: _Scene, shot: Shot, chip: _Chip) -> tuple[Floats, dict[str, NDArray]]:
    """Expected electrons of one frame, and its stars."""
    camera, distortion = scene.camera, chip.distortion
    band = camera.filters[shot.exposure.filter]
    origin = (distortion.x_origin, distortion.y_origin)
    electrons = camera.gain * shot.exposure.exptime
    u, v = np.linspace(-1, 1, distortion.nx), np.linspace(-1, 1, distortion.ny)
    sky = band.sky * electrons * (1 + scene.gradient[0] * u[None, :] + scene.gradient[1] * v[:, None])
    image = sky * chip.area
    renderer = chip.renderer
    if chip.refocused is not None:
        renderer = StarRenderer(chip.epsf, chip.refocused, shot.breathing)
    stars, years = scene.stars, scene.visit.epoch - scene.options.ref_epoch
    xi = np.asarray(stars["xi"]) + np.asarray(stars["pm_xi"]) * years / 1000
    eta = np.asarray(stars["eta"]) + np.asarray(stars["pm_eta"]) * years / 1000
    counts = electrons * 10 ** (-0.4 * (np.asarray(stars[f"mag_{shot.exposure.filter}"]) - band.zero_point))
    x, y = distortion.to_raw(*shot.pointing.to_ideal(xi, eta))
    left, low = x - origin[0], y - origin[1]
    reach = np.where(counts > BRIGHT, renderer.reach, MARGIN)
    near = (left > -reach) & (left < distortion.nx - 1 + reach) & (low > -reach) & (low < distortion.ny - 1 + reach)
    halves = np.where(counts > BRIGHT, renderer.reach, 24)
    renderer.add(image, x[near], y[near], counts[near], halves[near], origin)
    if chip.redder is not None:
        colour = np.asarray(stars["colour"])
        shifted = counts * scene.options.effects.chromatic * (colour - np.median(colour))
        chip.redder.add(image, x[near], y[near], shifted[near], halves[near], origin)
    if len(scene.galaxies.table):
        _add_galaxies(image, scene, shot, chip, renderer, electrons, band.zero_point)
    on = near & (left >= -0.5) & (left < distortion.nx - 0.5) & (low >= -0.5) & (low < distortion.ny - 0.5)
    found = {"id": np.asarray(stars["id"])[on], "x": x[on], "y": y[on], "counts": counts[on]}
    return image, found


def _add_galaxies(
    image: Floats, scene: _Scene, shot: Shot, chip: _Chip, renderer: StarRenderer, electrons: float, zero_point: float
) -> None:
    """Add the galaxies, each mapped linearly about its centre."""
    galaxies, distortion = scene.galaxies, chip.distortion
    table = galaxies.table
    xi, eta = np.asarray(table["xi"]), np.asarray(table["eta"])
    x, y = distortion.to_raw(*shot.pointing.to_ideal(xi, eta))
    east = distortion.to_raw(*shot.pointing.to_ideal(xi + 0.1, eta))
    north = distortion.to_raw(*shot.pointing.to_ideal(xi, eta + 0.1))
    counts = electrons * 10 ** (-0.4 * (np.asarray(table["mag"]) - zero_point))
    for k in range(len(table)):
        left, low = x[k] - distortion.x_origin, y[k] - distortion.y_origin
        if not (-60 < left < distortion.nx + 60 and -60 < low < distortion.ny + 60):
            continue
        u, v = (galaxies.xi[k] - xi[k]) / 0.1, (galaxies.eta[k] - eta[k]) / 0.1
        px = x[k] + u * (east[0][k] - x[k]) + v * (north[0][k] - x[k])
        py = y[k] + u * (east[1][k] - y[k]) + v * (north[1][k] - y[k])
        n = px.size
        origin = (distortion.x_origin, distortion.y_origin)
        renderer.add(image, px, py, np.full(n, counts[k] / n), np.full(n, 5), origin)


def _take(scene: _Scene, shot: Shot, chips: list[_Chip]) -> list[dict[str, Any]]:
    """Make one exposure and its truth; returns its entries in scene.json."""
    options, camera, effects = scene.options, scene.camera, scene.options.effects
    exposure, pointing = shot.exposure, shot.pointing
    planes: list[tuple[str, Frame, NDArray[np.float32], Any, tuple[int, int]]] = []
    entries = []
    for chip in chips:
        model, found = _light(scene, shot, chip)
        chance = generator_for(options.seed, "noise", shot.tag, chip.name)
        start = (chip.distortion.x_start, chip.distortion.y_start)
        if camera.is_jwst:
            frame = read_ramp(model, exposure.exptime, camera, chip.pattern, effects, chance)
        else:
            upper = chip.name.endswith("1")
            frame = read_ccd(model, exposure.exptime, camera, chip.pattern, effects, chance, start[1], upper)
        wcs = wcs_header(chip.distortion, shot.believed, scene.plane, options.wcs == "sip" or not camera.is_jwst)
        planes.append((chip.name, frame, chip.area, wcs, start))
        name = shot.tag if len(chips) == 1 else f"{shot.tag}_{chip.name}"
        np.savez_compressed(scene.truth_folder / f"{name}.npz", **found)  # type: ignore[arg-type]
        entries.append(
            {
                "file": exposure.file if camera.is_jwst else name,
                "filter": exposure.filter,
                "px": pointing.xi,
                "py": pointing.eta,
                "roll": pointing.roll,
                "va": pointing.va,
                "detector": chip.name,
                "breathing": shot.breathing,
            }
        )
    path = scene.folder / exposure.file
    if camera.is_jwst:
        _, frame, area, wcs, start = planes[0]
        write_cal(path, camera, exposure, frame, area, wcs, start)
    else:
        write_flc(path, camera, exposure, planes)
    logger.debug("wrote %s", path)
    return entries


def _make_visit(
    scene: _Scene, shots: list[Shot], bare: dict[str, Distortion], workers: int, done: Callable[[Path], None]
) -> None:
    """All exposures of a visit, filter by filter, and its truth."""
    scene.truth_folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for filter_name in scene.visit.filter_names:
        chips = [_make_chip(scene, filter_name, name, distortion) for name, distortion in bare.items()]
        _write_optics(scene, filter_name, chips)
        these = [shot for shot in shots if shot.exposure.filter == filter_name]
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(_take, scene, shot, chips) for shot in these]
            for shot, future in zip(these, futures):
                entries += future.result()
                done(scene.folder / shot.exposure.file)
    contents = truth.scene(scene.options, scene.visit, scene.camera, next(iter(bare.values())).nx, entries)
    (scene.truth_folder / "scene.json").write_text(json.dumps(contents, indent=1))
    table = scene.stars.copy()
    table.meta["epoch"] = scene.visit.epoch
    write_table(table, scene.truth_folder / "stars.ecsv")
    galaxies = scene.galaxies.table.copy()
    galaxies["re"] = galaxies["radius"] / scene.camera.pixel_scale
    write_table(galaxies, scene.truth_folder / "galaxies.ecsv")


def simulate_field(
    out: Path | str,
    options: SimulationOptions | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[Path], None] | None = None,
) -> SimulatedField:
    """Write the exposures of a simulated field with a reference catalogue and the full truth.

    Parameters
    ----------
    out : Path or str
        Folder to write to; made if it is not there, files of the same names are replaced.
    options : SimulationOptions, optional
        The field; a small NIRISS one by default.
    workers : int, optional
        Threads; by default 2 for frames below a million pixels, else 1 (memory).  The files do not depend on it.
    progress : callable, optional
        Called with the path of every exposure that is written.

    Returns
    -------
    SimulatedField
        Paths: exposures in ``out``, ``out/reference.ecsv``, ``out/truth`` for the first visit and
        ``out/visit_02/truth`` and so on for the others; true ePSFs under ``truth/stdpsf``.
    """
    options = options or SimulationOptions()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    plane = SkyPlane(*options.centre)
    bare = [bare_distortions(options, visit) for visit in options.visits]
    shots = [make_shots(options, number) for number in range(len(options.visits))]
    half, inside = coverage(
        [(shot.pointing, d) for these, chips in zip(shots, bare) for shot in these for d in chips.values()]
    )
    wavelengths = {
        name: INSTRUMENTS[visit.instrument].filters[name].wavelength
        for visit in options.visits
        for name in visit.filter_names
    }
    stars = make_stars(options, wavelengths, half, inside, plane, generator_for(options.seed, "stars"))
    galaxies = make_galaxies(options, half, inside, plane, generator_for(options.seed, "galaxies"))
    reference = folder / "reference.ecsv"
    write_table(make_reference(stars, options, plane, generator_for(options.seed, "reference")), reference)
    scenes = []
    for number, visit in enumerate(options.visits):
        camera = INSTRUMENTS[visit.instrument]
        place = folder if number == 0 else folder / f"visit_{number + 1:02d}"
        direction = generator_for(options.seed, "sky", number).uniform(0, 2 * np.pi)
        slope = options.effects.sky_gradient / 2
        gradient = (float(slope * np.cos(direction)), float(slope * np.sin(direction)))
        scene = _Scene(options, visit, camera, plane, stars, galaxies, gradient, folder, place / "truth")
        small = np.prod(frame_shape(camera, visit, options)) * len(bare[number]) < 1.2e6
        _make_visit(scene, shots[number], bare[number], workers or (2 if small else 1), progress or (lambda path: None))
        scenes.append(place)
        logger.info("visit %d: %d exposures of %s", number + 1, len(shots[number]), visit.instrument)
    in_order = sorted((shot for these in shots for shot in these), key=lambda shot: shot.exposure.mjd)
    return SimulatedField(
        folder, tuple(folder / shot.exposure.file for shot in in_order), reference, tuple(scenes),
        tuple(place / "truth" / "stdpsf" for place in scenes), len(stars),
    )  # fmt: skip
