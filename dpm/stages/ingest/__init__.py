"""Ingest: calibrated FITS exposures become cubes, stored WCS and exposure rows (DESIGN sections 3, 4 and 6).

The driver reads headers only, checks that the files belong together and writes the cubes' metadata; one task a file
reads pixels and writes its shards; the driver then adds what the pixels told (saturation, noise source, checksums) to
the rows.
"""

from __future__ import annotations

import glob
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpm.io.cubes import create_cube, cube_rows, shard_file, update_rows, write_exposure
from dpm.io.errors import InputError
from dpm.io.exposure_files import read_exposure_headers, read_exposure_pixels
from dpm.io.fits_files import checksum
from dpm.io.run_folder import RunFolder
from dpm.io.units import ExposureUnit
from dpm.io.wcs import write_wcs
from dpm.models.options import InputOptions, Options
from dpm.stages.base import Task
from dpm.stages.ingest.field import check_field, check_unique

__all__ = ["CONFIG", "NAME", "PARTITIONED", "REVISION", "UPSTREAM", "expand_exposures", "finalise", "plan", "work"]

NAME = "ingest"
REVISION = 2
PARTITIONED = True
CONFIG = ("input.exposures", "input.remove_stripes", "input.gwcs", "input.gain", "input.read_noise")
UPSTREAM: tuple[str, ...] = ()

log = logging.getLogger(__name__)

_VERSIONS = {
    "crds_context": "CRDS_CTX",
    "calibration_version": "CAL_VER",
    "sdp_version": "SDP_VER",
    "prd_version": "PRD_VER",
}


def expand_exposures(patterns: tuple[str, ...]) -> list[Path]:
    """Files that the patterns of ``[input] exposures`` name, sorted, each once.

    Raises
    ------
    InputError
        If there is no pattern, or one matches nothing.
    """
    if not patterns:
        raise InputError(
            "", "input.exposures", "no exposures are given", 'Name FITS files, or patterns such as "data/*_cal.fits"'
        )
    files: dict[Path, Path] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise InputError(
                "",
                "input.exposures",
                f"no file matches {pattern!r}",
                "Check the path; patterns are relative to the configuration's folder",
            )
        for match in matches:
            files.setdefault(match.resolve(), match.absolute())
    return sorted(files.values())


def _settings(options: InputOptions) -> dict[str, Any]:
    """What the pixels depend on besides their file."""
    return {
        "revision": REVISION,
        "remove_stripes": options.remove_stripes,
        "gwcs": options.gwcs,
        "gain": options.gain,
        "read_noise": options.read_noise,
    }


def _stamp(path: str | Path) -> dict[str, Any]:
    """Size and time of a file, by which a change is noticed."""
    status = Path(path).stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def plan(folder: RunFolder, options: Options) -> list[Task]:
    """Read headers, check them against one another, write the cubes' metadata; one task a file that is not ingested
    yet.

    Parameters
    ----------
    folder : RunFolder
        The run.
    options : Options
        ``input`` is used.

    Returns
    -------
    list of Task
        None for files whose pixels are in their cubes already, unchanged.

    Raises
    ------
    InputError
        If a file cannot be read or does not belong to the others; nothing has been written then.
    """
    units: list[ExposureUnit] = []
    for path in expand_exposures(options.input.exposures):
        units.extend(read_exposure_headers(path))
    for unit in units:
        for note in unit.notes:
            log.warning("%s", note)
    check_unique(units)
    check_field(units)
    cubes: dict[Path, list[ExposureUnit]] = {}
    for unit in units:
        cubes.setdefault(folder.cube(unit.detector.name, unit.row["filter"]), []).append(unit)
    settings = _settings(options.input)
    targets: dict[str, list[dict[str, Any]]] = {}
    for path, members in sorted(cubes.items()):
        rows = [unit.row for unit in members]
        indices = create_cube(path, members[0].detector.name, rows[0]["filter"], rows, settings=settings)
        stored = cube_rows(path)
        for row in rows:
            index = indices[row["exposure"]]
            targets.setdefault(row["file"], []).append(
                {
                    "detector": row["detector"],
                    "cube": str(path),
                    "index": index,
                    "pixels": row["nx"] * row["ny"],
                    "done": _is_done(folder, path, index, stored[index]),
                }
            )
    _drop_stale_cubes(folder, set(cubes))
    names = _task_names(units)
    return [
        Task(
            NAME,
            names[file],
            {
                "file": file,
                "folder": str(folder.root),
                "targets": [{key: entry[key] for key in ("detector", "cube", "index")} for entry in entries],
                "settings": settings,
            },
            cost=0.05 + 3e-7 * sum(entry["pixels"] for entry in entries),
        )
        for file, entries in sorted(targets.items())
        if not all(entry["done"] for entry in entries)
    ]


def _task_names(units: list[ExposureUnit]) -> dict[str, str]:
    """A name for each file's task: the exposure, with detector and filter where several files share it."""
    first = {unit.row["file"]: unit for unit in reversed(units)}
    stems = [unit.row["exposure"] for unit in first.values()]
    return {
        file: unit.row["exposure"]
        if stems.count(unit.row["exposure"]) == 1
        else f"{unit.row['exposure']}_{unit.detector.name}_{unit.row['filter']}"
        for file, unit in first.items()
    }


def _is_done(folder: RunFolder, cube: Path, index: int, row: dict[str, Any]) -> bool:
    """Whether this exposure's pixels and WCS are there and were made from the file as it is now."""
    if row.get("sha256") is None or not shard_file(cube, index).exists():
        return False
    if not folder.wcs_file(row["exposure"], row["detector"]).exists():
        return False
    return all(row.get(key) == value for key, value in _stamp(row["file"]).items())


def _files(folder: RunFolder, cube: str, rows: list[dict[str, Any]]) -> list[str]:
    """The files that show that a cube's exposures are ingested, inside the run folder."""
    paths = [shard_file(folder.cubes / cube, index) for index in range(len(rows))]
    paths += [folder.wcs_file(row["exposure"], row["detector"]) for row in rows]
    return [str(path.relative_to(folder.root)) for path in paths]


def _drop_stale_cubes(folder: RunFolder, wanted: set[Path]) -> None:
    """Remove cubes that the configuration no longer names; they would come back as exposures."""
    for path in sorted(set(folder.cubes.glob("*.zarr")) - wanted):
        log.warning("%s: its exposures are no longer in input.exposures; the cube is removed", path.name)
        shutil.rmtree(path)


def work(task: Task) -> dict[str, Any]:
    """Read one file and write its shards and WCS.

    Parameters
    ----------
    task : Task
        From `plan`.

    Returns
    -------
    dict
        ``file``, ``sha256``, ``size``, ``mtime_ns``, ``units`` (cube, index and what the pixels told), ``files``.

    Raises
    ------
    InputError
        If the file's pixels cannot be used.
    """
    arguments = task.arguments
    file, folder = arguments["file"], RunFolder(Path(arguments["folder"]))
    chosen = arguments["settings"]
    settings = InputOptions(
        remove_stripes=chosen["remove_stripes"],
        gwcs=chosen["gwcs"],
        gain=chosen["gain"],
        read_noise=chosen["read_noise"],
    )
    places = {entry["detector"]: entry for entry in arguments["targets"]}
    stamp = _stamp(file)
    units: list[dict[str, Any]] = []
    written: list[Path] = []
    notes: list[str] = []
    for unit, pixels in read_exposure_pixels(file, list(places), settings):
        place = places[unit.detector.name]
        image = pixels.image
        if settings.remove_stripes:
            # With scipy, which nothing else here needs.
            from dpm.stages.ingest.stripes import measure_stripes

            image = replace(image, sci=image.sci - measure_stripes(image, unit.detector))
        notes.extend(pixels.notes)
        write_wcs(
            folder.wcs_file(image.name, image.detector), pixels.wcs, image.x_origin, image.y_origin, pixels.wcs_source
        )
        write_exposure(place["cube"], place["index"], image, pixels.err)
        written += [folder.wcs_file(image.name, image.detector), shard_file(place["cube"], place["index"])]
        units.append(
            {
                "cube": place["cube"],
                "index": place["index"],
                "saturation": image.saturation if image.saturation == image.saturation else None,
                "noise_source": pixels.noise_source,
                "noise_fallback": image.noise_fallback,
                "wcs_source": pixels.wcs_source,
                "wcs_error": pixels.wcs_error,
            }
        )
    return {
        "file": file,
        "sha256": checksum(file),
        **stamp,
        "units": units,
        "notes": notes,
        "files": [str(path.relative_to(folder.root)) for path in written],
    }


def finalise(folder: RunFolder, options: Options, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Add what the pixels told to the cubes' rows; look for mixed software and fallbacks.

    Parameters
    ----------
    folder : RunFolder
        The run.
    options : Options
        ``input.gwcs`` is used.
    results : list of dict
        What `work` returned, any order.

    Returns
    -------
    dict
        ``cubes`` (name to number of exposures), ``n_files``, ``n_exposures``, ``inputs`` (file to checksum, size and
        time), ``noise_sources`` (source to number of exposures), ``files`` (all that is ingested),
        ``warnings``.
    """
    changes: dict[str, dict[int, dict[str, Any]]] = {}
    for result in results:
        shared = {key: result[key] for key in ("sha256", "size", "mtime_ns")}
        for unit in result["units"]:
            facts = {key: value for key, value in unit.items() if key not in ("cube", "index")}
            changes.setdefault(unit["cube"], {})[unit["index"]] = {**facts, **shared}
    for cube, rows in changes.items():
        update_rows(cube, rows)
    cubes = {path.name: cube_rows(path) for path in sorted(folder.cubes.glob("*.zarr"))}
    every = [row for rows in cubes.values() for row in rows]
    warnings = _mixed_versions(cubes) + _noise_warnings(every) + _wcs_warnings(every, options.input.gwcs)
    for text in warnings:
        log.warning("%s", text)
    for note in (note for result in results for note in result.get("notes", [])):
        log.info("%s", note)
    sources = [str(row.get("noise_source")) for row in every]
    return {
        "cubes": {name: len(rows) for name, rows in cubes.items()},
        "n_files": len({row["file"] for row in every}),
        "n_exposures": len(every),
        "inputs": {row["file"]: {key: row.get(key) for key in ("sha256", "size", "mtime_ns")} for row in every},
        "files": [path for name, rows in cubes.items() for path in _files(folder, name, rows)],
        "noise_sources": {source: sources.count(source) for source in sorted(set(sources))},
        "warnings": warnings,
    }


def _mixed_versions(cubes: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A warning for every software version that differs inside a cube."""
    texts = []
    for name, rows in cubes.items():
        for column, keyword in _VERSIONS.items():
            values = sorted({str(row.get(column) or "(none)") for row in rows})
            if len(values) > 1:
                texts.append(
                    f"{name}: exposures were calibrated with different {keyword}: {', '.join(values)}; "
                    "calibrate them alike before trusting small differences"
                )
    return texts


def _wcs_warnings(rows: list[dict[str, Any]], gwcs: bool) -> list[str]:
    """A warning for JWST exposures whose header WCS is known to be coarse, or that lack the GWCS asked for."""
    texts = []
    coarse = [row for row in rows if row.get("wcs_source") == "header" and (row.get("wcs_error") or 0.0) > 0.01]
    if coarse:
        worst = max(row["wcs_error"] for row in coarse)
        texts.append(
            f"{len(coarse)} exposures: the header's SIP differs from the exact GWCS by up to {worst:.2f} pixel; "
            "set input.gwcs = true (needs the gwcs extra) for the exact one"
        )
    lacking = [row["file"] for row in rows if row["telescope"] == "JWST" and row.get("wcs_source") == "header"]
    if gwcs and lacking:
        texts.append(
            f"{len(lacking)} exposures have no ASDF extension, so input.gwcs has no effect on them: "
            f"{', '.join(lacking[:3])}{' ...' if len(lacking) > 3 else ''}"
        )
    return texts


def _noise_warnings(rows: list[dict[str, Any]]) -> list[str]:
    """A warning for exposures whose noise is a fallback."""
    texts = []
    for source, meaning in (
        ("ERR", "from ERR alone (no VAR_* extensions)"),
        ("gain and read_noise", "from the configured gain and read noise: a guess"),
    ):
        files = [row["file"] for row in rows if row.get("noise_source") == source]
        if files:
            texts.append(
                f"{len(files)} exposures have their noise {meaning}: "
                f"{', '.join(files[:3])}{' ...' if len(files) > 3 else ''}"
            )
    return texts
