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
    # For BUILD_ROUNDS rounds: it depends on how soon the ePSF settles.
    "psf_build": _Factors((8.0, 2.9, 0.0), (2.7e7, 2.4e8, 0.0), (1.3e6, 1.3e8, 0.0)),
    "first_pass": _Factors((0.11, 0.105, 0.052), (1.9e6, 7.5e6, 4e3), (1.2e4, 0.0, 8.5e4)),
    "distortion": _Factors((0.1, 0.0, 0.7), (8e5, 0.0, 7.5e4), (1e4, 0.0, 0.0)),
    "frame": _Factors((0.16, 0.0, 0.027), (8.1e5, 3.4e6, 7.5e4), (9.4e3, 0.0, 4.4e4)),
    "colour": _Factors((0.008, 0.0, 0.002), (6.8e4, 1.3e5, 9.5e4), (0.0, 0.0, 0.0)),
    "second_pass": _Factors((0.18, 2.7, 0.14), (9.4e6, 3.8e8, 5.4e5), (5.5e5, 2.2e7, 5.3e5)),
    "motions": _Factors((0.08, 0.0, 0.004), (8.0e4, 0.0, 3.1e4), (5.6e3, 0.0, 3.0e4)),
    # Besides what grows with the artificial stars: gathering the pixels, and reading them once for every ten passes.
    "artificial_stars": _Factors((0.0, 0.5, 0.02), (5.0e6, 2.5e7, 0.0), (0.0, 2.5e7, 0.0)),
    "artificial_passes": _Factors((0.0, 0.0, 0.0), (0.0, 1.3e8, 0.0), (0.0, 0.0, 0.0)),
    "atlas": _Factors((0.0, 3.4, 0.0), (0.0, 2.3e8, 0.0), (0.0, 5.6e7, 0.0)),
}
# CPU seconds of an artificial star in one exposure, and of a row, real or artificial, in the stage selection; bytes written of one.
ARTIFICIAL_SECONDS, SELECTION_SECONDS, ARTIFICIAL_BYTES = 0.45e-3, 4e-4, 2e3
# Artificial stars that one pass holds on a megapixel; an exposure's side over a field's where its dithers are small.
PASS_STARS, FIELD_SIDE = 1900.0, 1.3
# Bytes of memory: a worker with everything imported, and what is added for a megapixel and a thousand stars of one exposure.
MEMORY = (4.7e8, 1.8e8, 9e6)
# Of the second pass's seconds, those in tiles; rounds of an ePSF build that go over all exposures.
TILES_SHARE = 0.75
BUILD_ROUNDS = 16
# Not in the table: perturbation and brightness (nothing unless asked for), and the report (a minute in the driver).


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
    memory = sum(factor * amount for factor, amount in zip(MEMORY, (1.0, size.megapixels, size.stars / 1000)))
    out: list[StageEstimate] = []
    for name in names:
        if not _asked_for(name, options):
            out.append(StageEstimate(name, 0, 0.0, 0.0, 0.0, 0.0, 0.0))
            continue
        seconds, read, written = _amounts(name, size, options)
        tasks, longest = _tasks(name, size, options, seconds)
        out.append(StageEstimate(name, tasks, seconds, longest, read, written, memory))
    return out


def _asked_for(name: str, options: Options) -> bool:
    if name == "distortion":
        return options.distortion.source == "solve"
    if name in ("artificial_stars", "selection"):
        return _artificial(options) > 0
    return (name in FACTORS) and (name != "atlas" or options.atlas.make)


def _artificial(options: Options) -> int:
    """Artificial stars that are asked for, by number or in a table."""
    from astropy.table import Table

    told = options.artificial_stars
    return len(Table.read(told.table)) if told.table else told.n


def _amounts(name: str, size: FieldSize, options: Options) -> tuple[float, float, float]:
    """CPU seconds, and bytes read and written."""
    n = _artificial(options)
    if name == "selection":
        return SELECTION_SECONDS * (size.stars + n), 0.0, 0.0
    factors = FACTORS["psf_build" if name == "psf" and options.psf.source == "build" else name]
    amounts = (size.exposures, size.exposures * size.megapixels, size.exposures * size.stars / 1000)
    kinds = (factors.seconds, factors.read, factors.written)
    seconds, read, written = (sum(factor * amount for factor, amount in zip(values, amounts)) for values in kinds)
    if name == "artificial_stars":
        again = FACTORS["artificial_passes"].read[1] * amounts[1] * _pass_groups(size, n)
        return seconds + ARTIFICIAL_SECONDS * n * size.exposures, read + again, written + ARTIFICIAL_BYTES * n
    return seconds, read, written


def _tiles(size: FieldSize, seconds: float) -> int:
    """Tiles of the second pass, or of artificial stars, of this many planned seconds."""
    from dpm.stages.second_pass.field import SECONDS_A_PIXEL, SECONDS_A_ROW

    cost = size.exposures * (SECONDS_A_ROW * size.stars + SECONDS_A_PIXEL * 1e6 * size.megapixels)
    return max(1, round(cost / seconds))


def _pass_groups(size: FieldSize, n: int) -> int:
    """Tasks that each tile of artificial stars is gone over by, of ten passes or so."""
    from dpm.stages.artificial_stars import PASS_FACTOR, TASK_SECONDS
    from dpm.stages.artificial_stars.prepare import TILE_SECONDS

    passes = n / (PASS_STARS * FIELD_SIDE**2 * size.megapixels)
    return max(1, math.ceil(passes * PASS_FACTOR * TILE_SECONDS / TASK_SECONDS))


def _tasks(name: str, size: FieldSize, options: Options, seconds: float) -> tuple[int, float]:
    """Number of tasks, and seconds of the longest chain of them that cannot be shared out."""
    from dpm.stages.artificial_stars.prepare import TILE_SECONDS as ARTIFICIAL_TILE
    from dpm.stages.second_pass.field import TILE_SECONDS

    if name == "ingest":
        return size.files, seconds / size.files
    if name == "first_pass":
        return size.exposures, seconds / size.exposures
    if name == "second_pass":
        # Three rounds over the tiles between gathering and the catalogue, which is made by one task.
        tiles = _tiles(size, TILE_SECONDS)
        return size.exposures + 3 * tiles + 1, (1 - TILES_SHARE) * seconds + TILES_SHARE * seconds / tiles
    if name == "artificial_stars":
        from dpm.stages.artificial_stars.files import CHUNK_STARS

        parts = _tiles(size, ARTIFICIAL_TILE) * _pass_groups(size, _artificial(options))
        chunks = math.ceil(_artificial(options) / CHUNK_STARS)
        return size.exposures + parts + 1 + chunks + 1, seconds / parts
    if name == "atlas":
        from dpm.stages.atlas.layout import BLOCK

        blocks = size.bands * math.ceil(FIELD_SIDE * math.sqrt(1e6 * size.megapixels) / BLOCK) ** 2
        return size.exposures + blocks + size.bands + 1, seconds / (size.exposures + blocks)
    if name == "psf" and options.psf.source == "build":
        # Three rounds measure the exposures as well, and every round has a task that averages over all.
        rounds = BUILD_ROUNDS + 3
        return rounds * (size.exposures + 1) + BUILD_ROUNDS * size.bands, seconds / size.exposures
    if name == "psf":
        return size.bands, seconds / size.bands
    return 1, seconds


def wall_seconds(estimates: Sequence[StageEstimate], workers: int) -> float:
    """Time that this many workers take: what cannot be shared out, or an even share where that is longer."""
    return sum(max(estimate.longest, estimate.seconds / workers) for estimate in estimates)
