"""When and where the exposures of a visit are taken: dithers, rolls, headers' errors, and what they cover together."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpm.simulate.files import Exposure
from dpm.simulate.geometry import Distortion, Pointing, load_polynomial
from dpm.simulate.headers import epoch_to_mjd
from dpm.simulate.instruments import INSTRUMENTS, Instrument
from dpm.simulate.options import SimulationOptions, Visit

__all__ = ["MARGIN", "Shot", "bare_distortions", "coverage", "frame_shape", "generator_for", "make_shots"]

Floats = NDArray[np.float64]
MARGIN = 26
SECONDS_BETWEEN = 90.0


@dataclass(frozen=True)
class Shot:
    """One exposure to be made.

    Parameters
    ----------
    exposure : Exposure
        Times and names.
    tag : str
        Stem of its file name.
    pointing, believed : Pointing
        Where the frame looks, and where its header says it looks.
    breathing : float
        Change of focus in units of `Effects.breathing`.
    """

    exposure: Exposure
    tag: str
    pointing: Pointing
    believed: Pointing
    breathing: float


def generator_for(seed: int, *names: object) -> np.random.Generator:
    """Random numbers that depend on the seed and the names alone."""
    text = "/".join(str(n) for n in names)
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, zlib.crc32(text.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def frame_shape(camera: Instrument, visit: Visit, options: SimulationOptions) -> tuple[int, int]:
    """(ny, nx) of a visit's frames."""
    n = options.n_pixels if visit.n_pixels is None else visit.n_pixels
    return (min(n, camera.shape[0]), min(n, camera.shape[1])) if n else camera.shape


def bare_distortions(options: SimulationOptions, visit: Visit) -> dict[str, Distortion]:
    """Distortions of a visit's chips without the small terms, with a common origin in the middle."""
    camera = INSTRUMENTS[visit.instrument]
    ny, nx = frame_shape(camera, visit, options)
    x_start, y_start = (camera.shape[1] - nx) // 2, (camera.shape[0] - ny) // 2
    origin = (x_start, y_start) if options.keep_offset else (0, 0)

    def make(chip: str, ideal_origin: tuple[float, float]) -> Distortion:
        return Distortion(load_polynomial(chip), x_start, y_start, *origin, nx, ny, ideal_origin)

    middles = []
    for chip in visit.chip_names:
        x, y = make(chip, (0.0, 0.0)).to_ideal(origin[0] + (nx - 1) / 2, origin[1] + (ny - 1) / 2)
        middles.append((float(x), float(y)))
    middle = np.mean(middles, axis=0)
    return {chip: make(chip, (float(middle[0]), float(middle[1]))) for chip in visit.chip_names}


def make_shots(options: SimulationOptions, number: int) -> list[Shot]:
    """The exposures of visit ``number``, in order of time."""
    visit = options.visits[number]
    camera = INSTRUMENTS[visit.instrument]
    side = min(frame_shape(camera, visit, options)) * camera.pixel_scale
    columns = int(np.ceil(np.sqrt(visit.n_dithers)))
    cells = np.array([(k % columns, k // columns) for k in range(visit.n_dithers)], float)
    cells = (cells - cells.mean(axis=0)) * visit.dither * side
    shots = []
    serial = 0
    total = len(visit.filter_names) * visit.n_dithers
    phase = generator_for(options.seed, "breathing", number).uniform(0, 2 * np.pi)
    for f, filter_name in enumerate(visit.filter_names):
        for k in range(visit.n_dithers):
            if camera.is_jwst:
                program = f"{1086 + 1000 * number:05d}"
                tag = f"jw{program}001001_{f + 2:02d}101_{k + 1:05d}_{camera.code}"
                file = f"{tag}_cal.fits"
            else:
                program = f"{16000 + number}"
                tag = f"{camera.code}dpm{number + 1:02d}{np.base_repr(serial + 36 + 1, 36)[-2:].lower()}q"
                file = f"{tag}_flc.fits"
            chance = generator_for(options.seed, "pointing", tag)
            jitter = chance.uniform(-1.5, 1.5, 2) * camera.pixel_scale
            place = cells[k] + visit.offset + jitter
            roll = visit.rolls[k % len(visit.rolls)] + 0.02 * chance.normal()
            va = 1 + 2e-5 * chance.normal()
            pointing = Pointing(float(place[0]), float(place[1]), float(roll), float(va))
            error = options.pointing_error * chance.normal(size=2)
            roll_error = 0.01 * chance.normal() * (options.pointing_error > 0)
            believed = Pointing(pointing.xi + error[0], pointing.eta + error[1], roll + roll_error, va)
            middle = epoch_to_mjd(visit.epoch) + (serial - (total - 1) / 2) * (visit.exptime + SECONDS_BETWEEN) / 86400
            exposure = Exposure(
                file, filter_name, float(middle), visit.exptime, float(va), options.keep_offset, program
            )
            breathing = (
                np.sqrt(2) * np.sin(2 * np.pi * serial / max(total, 6) + phase) if options.effects.breathing else 0.0
            )
            shots.append(Shot(exposure, tag, pointing, believed, float(breathing)))
            serial += 1
    return shots


def coverage(
    frames: list[tuple[Pointing, Distortion]],
) -> tuple[float, Callable[[Floats, Floats], NDArray[np.bool_]]]:
    """Half size (arcsec) of a square around all frames, and the test whether positions fall on or near one of them."""
    maps = []
    half = 0.0
    for pointing, distortion in frames:
        x0, y0 = distortion.x_origin + (distortion.nx - 1) / 2, distortion.y_origin + (distortion.ny - 1) / 2
        middle = np.array(distortion.to_ideal(x0, y0))
        jacobian = np.column_stack(
            [np.array(distortion.to_ideal(x0 + dx, y0 + dy)) - middle for dx, dy in ((1.0, 0.0), (0.0, 1.0))]
        )
        limits = np.array([distortion.nx, distortion.ny]) / 2 + MARGIN
        maps.append((pointing, middle, np.linalg.inv(jacobian), limits))
        corner = np.array([[sx * limits[0], sy * limits[1]] for sx in (-1, 1) for sy in (-1, 1)])
        ideal = middle + corner @ jacobian.T
        half = max(half, float(np.abs(pointing.to_plane(ideal[:, 0], ideal[:, 1])).max()))

    def inside(xi: Floats, eta: Floats) -> NDArray[np.bool_]:
        found = np.zeros(xi.shape, bool)
        for pointing, middle, inverse, limits in maps:
            ideal = np.array(pointing.to_ideal(xi, eta)) - middle[:, None]
            found |= (np.abs(inverse @ ideal) < limits[:, None]).all(axis=0)
        return found

    return half, inside
