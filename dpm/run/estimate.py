"""What a run will take, before it runs: tasks, bytes, memory and time of every stage, for any number of exposures and workers.

Each stage's work is taken as proportional to its exposures, their pixels and their stars, with factors measured on simulated
fields (docs/results.md, "On a cluster"); a dry run reads a few headers and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpm.io.exposure_files import read_exposure_headers
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options

__all__ = ["STARS_PER_MEGAPIXEL", "FieldSize", "StageEstimate", "estimate_run", "field_size", "wall_seconds"]

# Detections in a megapixel of one exposure where nothing is known yet: a moderately crowded field.
STARS_PER_MEGAPIXEL = 8000.0
# Files whose headers are looked at; the others are taken to be like them.
LOOKED_AT = 5


@dataclass(frozen=True)
class FieldSize:
    """How large a job is.

    Parameters
    ----------
    files, exposures : int
        Files, and exposures of one detector each (a file may hold two chips).
    bands : int
        Detectors and filters that have an ePSF of their own.
    megapixels, stars : float
        Of one exposure: its pixels / 1e6, and the stars that are found in it.
    file_bytes : float
        Of one file.
    """

    files: int
    exposures: int
    bands: int
    megapixels: float
    stars: float
    file_bytes: float


@dataclass(frozen=True)
class StageEstimate:
    """What one stage will take: CPU seconds of all its tasks together and of the longest, bytes, and bytes of memory a worker."""

    name: str
    tasks: int
    seconds: float
    longest: float
    bytes_read: float
    bytes_written: float
    memory: float


@dataclass(frozen=True)
class _Factors:
    """For each exposure, for each of its megapixels, and for each thousand of its stars."""

    seconds: tuple[float, float, float]
    read: tuple[float, float, float]
    written: tuple[float, float, float]


# CPU seconds with compiled kernels, fitted to runs of 8 exposures of 224 and 512 pixels (two densities) and 18 of 2048; bytes are
# those that processes ask for, from the system's cache or not. The second pass's seconds are good to a fifth between these.
FACTORS: dict[str, _Factors] = {
    "ingest": _Factors((0.042, 0.25, 0.002), (1.3e5, 5.6e7, 0.0), (5.8e3, 6.7e6, 1.1e4)),
    "psf": _Factors((0.002, 0.0, 0.0), (9.3e4, 0.0, 0.0), (9.3e4, 0.0, 0.0)),
    # Two runs, with 12 rounds each; it depends on how soon the ePSF settles.
    "psf_build": _Factors((6.0, 2.2, 0.0), (2.0e7, 1.8e8, 0.0), (1.0e6, 1.0e8, 0.0)),
    "first_pass": _Factors((0.11, 0.105, 0.052), (1.9e6, 7.5e6, 4e3), (1.2e4, 0.0, 8.5e4)),
    "distortion": _Factors((0.1, 0.0, 0.7), (8e5, 0.0, 7.5e4), (1e4, 0.0, 0.0)),
    "frame": _Factors((0.16, 0.0, 0.027), (8.1e5, 3.4e6, 7.5e4), (9.4e3, 0.0, 4.4e4)),
    "colour": _Factors((0.008, 0.0, 0.002), (6.8e4, 1.3e5, 9.5e4), (0.0, 0.0, 0.0)),
    "second_pass": _Factors((0.18, 2.7, 0.14), (9.4e6, 3.8e8, 5.4e5), (5.5e5, 2.2e7, 5.3e5)),
    "motions": _Factors((0.08, 0.0, 0.004), (8.0e4, 0.0, 3.1e4), (5.6e3, 0.0, 3.0e4)),
}
# CPU seconds of an artificial star in one exposure.
ARTIFICIAL_SECONDS = 0.85e-3
# Bytes of memory: a worker with everything imported, and what is added for a megapixel and a thousand stars of one exposure.
MEMORY = (4.7e8, 1.8e8, 9e6)
# Of the second pass's seconds, those in tiles; rounds of an ePSF build that go over all exposures.
TILES_SHARE = 0.75
BUILD_ROUNDS = 12
# Not in the table: perturbation, brightness and selection (nothing unless asked for), and the report (a minute in the driver).


def field_size(folder: RunFolder, options: Options, exposures: int | None = None, stars: float | None = None) -> FieldSize:
    """Size of a run from the first headers; ``exposures`` and ``stars`` (in one exposure) take the place of what is found.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    paths = [Path(path) for path in options.input.exposures]
    step = max(1, len(paths) // LOOKED_AT)
    looked_at = paths[::step]
    units = [unit for path in looked_at for unit in read_exposure_headers(path)]
    megapixels = sum(unit.row["nx"] * unit.row["ny"] for unit in units) / 1e6 / len(units)
    chips = len(units) / len(looked_at)
    files = len(paths) if exposures is None else math.ceil(exposures / chips)
    if stars is None:
        stars = _stars_found(folder) or STARS_PER_MEGAPIXEL * megapixels
    bands = len({(unit.detector.name, unit.row["filter"]) for unit in units})
    size = sum(path.stat().st_size for path in looked_at) / len(looked_at)
    return FieldSize(files, round(files * chips), bands, megapixels, stars, size)


def _stars_found(folder: RunFolder) -> float:
    """Detections in one exposure of an earlier run, 0 where there is none."""
    import pyarrow.parquet as pq

    paths = sorted(folder.detections.glob("*.parquet"))
    return sum(pq.read_metadata(path).num_rows for path in paths) / len(paths) if paths else 0.0


def estimate_run(size: FieldSize, options: Options, names: Sequence[str]) -> list[StageEstimate]:
    """Estimates of the stages of these names, in order; stages that options leave out have no tasks."""
    from dpm.stages.artificial_stars import TASK_SECONDS

    out: list[StageEstimate] = []
    for name in names:
        if name == "artificial_stars" and options.artificial_stars.n:
            seconds = ARTIFICIAL_SECONDS * options.artificial_stars.n * size.exposures
            tasks = max(1, round(seconds / TASK_SECONDS))
            out.append(StageEstimate(name, tasks, seconds, seconds / tasks, 0.0, 0.0, out[-1].memory))
            continue
        factors = FACTORS.get("psf_build" if name == "psf" and options.psf.source == "build" else name)
        if factors is None or (name == "distortion" and options.distortion.source != "solve"):
            out.append(StageEstimate(name, 0, 0.0, 0.0, 0.0, 0.0, 0.0))
            continue
        amounts = (size.exposures, size.exposures * size.megapixels, size.exposures * size.stars / 1000)
        seconds, read, written = (
            sum(factor * amount for factor, amount in zip(values, amounts))
            for values in (factors.seconds, factors.read, factors.written)
        )
        tasks, longest = _tasks(name, size, options, seconds)
        memory = sum(factor * amount for factor, amount in zip(MEMORY, (1.0, size.megapixels, size.stars / 1000)))
        out.append(StageEstimate(name, tasks, seconds, longest, read, written, memory))
    return out


def _tasks(name: str, size: FieldSize, options: Options, seconds: float) -> tuple[int, float]:
    """Number of tasks, and seconds of the longest chain of them that cannot be shared out."""
    from dpm.stages.second_pass.field import TILE_SECONDS

    if name == "ingest":
        return size.files, seconds / size.files
    if name == "first_pass":
        return size.exposures, seconds / size.exposures
    if name == "second_pass":
        # Three rounds over the tiles between gathering and the catalogue, which is made by one task.
        tiles = max(1, round(TILES_SHARE * seconds / 3 / TILE_SECONDS))
        return size.exposures + 3 * tiles + 1, (1 - TILES_SHARE) * seconds + TILES_SHARE * seconds / tiles
    if name == "psf" and options.psf.source == "build":
        return BUILD_ROUNDS * (size.exposures + size.bands), seconds / size.exposures
    if name == "psf":
        return size.bands, seconds / size.bands
    return 1, seconds


def wall_seconds(estimates: Sequence[StageEstimate], workers: int) -> float:
    """Time that this many workers take: what cannot be shared out, or an even share where that is longer."""
    return sum(max(estimate.longest, estimate.seconds / workers) for estimate in estimates)
