"""What the parts of an ePSF build do, one function a step (`dpm.stages.psf.build` says in which order)."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.io.arrays import read_arrays, write_arrays
from dpm.io.cubes import read_exposure
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_stdpsf, write_stdpsf
from dpm.io.tables import read_columns, write_table
from dpm.kernels.stamps import Stamps
from dpm.models.columns import DETECTION_COLUMNS
from dpm.models.epsf import GriddedEPSF
from dpm.models.options import FindOptions, FrameOptions, Options
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.first_pass.table import detection_table
from dpm.stages.psf.build import POOR_SHARE, BuildFolder
from dpm.stages.psf.candidates import StarStamps, choose_stars, cut_stars, drop_outliers
from dpm.stages.psf.field import link_candidates
from dpm.stages.psf.grid import CORE_RADIUS, radius_grid
from dpm.stages.psf.positions import Fits, Links, Targets, average, phase_bias, phase_spread
from dpm.stages.psf.quick import build_quick_epsf, load_images
from dpm.stages.psf.samples import NodeSums, fit_candidates, sum_samples
from dpm.stages.psf.update import update_epsf

__all__ = ["STEPS"]

SIGNAL_TO_NOISE = 40.0  # of candidates
LOWER_SIGNAL_TO_NOISE = 20.0  # where too few reach the one above
FEW_CANDIDATES = 30  # of an exposure
BRIGHT_SIGNAL = 50.0  # signal to noise of the stars whose QFIT is followed

Result = dict[str, Any]


def quick(arguments: Result) -> Result:
    """A quick ePSF of one cube, to start from."""
    build = BuildFolder(Path(arguments["build"]))
    images = load_images(Path(arguments["path"]), arguments["indices"])
    result = build_quick_epsf(images, arguments["filter"], arguments["pixel_scale"], arguments["detector"])
    path = build.epsf(arguments["cube"], "quick")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_stdpsf(path, result.epsf, (result.description,))
    return {
        "label": "quick", "stars": result.n_stars, "change": result.last_change, "words": result.description,
        "warnings": list(result.warnings),
    }  # fmt: skip


def measure(arguments: Result) -> Result:
    """First pass of one exposure with the ePSF so far; its table, and the stamps of its candidates."""
    build, unit = BuildFolder(Path(arguments["build"])), arguments["unit"]
    image = read_exposure(Path(unit["path"]), unit["index"])
    epsf = read_stdpsf(arguments["epsf"], centre=False)
    measured = measure_exposure(image, epsf, FindOptions())
    build.detections.mkdir(parents=True, exist_ok=True)
    write_table(
        build.detections / f"{unit['name']}.parquet", detection_table(image, epsf, measured, unit["flux_unit"]), DETECTION_COLUMNS
    )
    keep = choose_stars(image, measured, SIGNAL_TO_NOISE)
    if keep.size < FEW_CANDIDATES:
        keep = choose_stars(image, measured, LOWER_SIGNAL_TO_NOISE)
    if keep.size:
        keep = drop_outliers(measured.rows, keep)
    stars = cut_stars(image, epsf, measured, keep)
    write_arrays(build.stars(unit["name"]), start=stars.start, row=keep, **stars.stamps._asdict())
    return {"epsf": arguments["epsf"], "candidates": int(keep.size), "detections": len(measured.rows)}


def field(arguments: Result) -> Result:
    """Frame and distortion of the whole field; stars, local maps and first averages of all candidates."""
    build, folder = BuildFolder(Path(arguments["build"])), RunFolder(Path(arguments["root"]))
    options = Options(frame=FrameOptions(max_offset=arguments["max_offset"]))
    rows, raws, areas, fits = [], [], [], []
    for name in arguments["units"]:
        row = read_arrays(build.stars(name))["row"]
        names = ["x", "y", "x_error", "y_error", "flux", "flux_error", "area", "qfit"]
        table = {
            key: np.asarray(value, float)[row] for key, value in read_columns(build.detections / f"{name}.parquet", names).items()
        }
        raw = np.column_stack([table["x"], table["y"]])
        error = np.hypot(table["x_error"], table["y_error"]) / np.sqrt(2.0)
        rows.append(row)
        raws.append(raw)
        areas.append(table["area"])
        fits.append(Fits(raw, error, table["flux"], table["flux_error"], table["qfit"]))
    links, warnings = link_candidates(folder, options, build.detections, rows, raws, areas)
    every = Fits.joined(fits)
    targets = average(links, every, _bands(arguments["cubes"])[links.unit], mix=False)
    write_arrays(build.links, **asdict(links))
    _write_targets(build, arguments["units"], links, targets)
    return {
        "scatter": targets.scatter, "phase_spread": phase_spread(every, links, targets.used),
        "averaged": {name: int(targets.averaged[links.unit == k].sum()) for k, name in enumerate(arguments["units"])},
        "warnings": warnings,
    }  # fmt: skip


def sample(arguments: Result) -> Result:
    """Free fits and sums of residuals of one exposure's stamps."""
    build, name = BuildFolder(Path(arguments["build"])), arguments["unit"]
    stored = read_arrays(build.stars(name))
    stars = StarStamps(Stamps(*(stored[key] for key in Stamps._fields)), stored["start"])
    targets = read_arrays(build.targets(name))
    epsf = read_stdpsf(arguments["epsf"], centre=False)
    fits = fit_candidates(stars, epsf)
    # Odd and even stars: an image without a star goes by its place.
    half = np.where(targets["star"] >= 0, targets["star"], np.arange(len(stars))) % 2
    raw = np.where(targets["averaged"][:, None], targets["raw"], fits.raw)
    signal = np.where(np.isfinite(fits.flux), fits.flux / fits.flux_error, 0.0)
    sums = sum_samples(stars, epsf, raw, targets["flux"], targets["averaged"], half, signal)
    write_arrays(build.fits(name), **asdict(fits))
    write_arrays(build.sums(name), **sums.arrays())
    return {"used": sums.n_stars}


def update(arguments: Result) -> Result:
    """Sum over the exposures of a cube, in their order, and make the next ePSF."""
    build = BuildFolder(Path(arguments["build"]))
    epsf = read_stdpsf(arguments["epsf"], centre=False)
    total = NodeSums.empty(epsf.node_y.size, epsf.node_x.size)
    for name in arguments["units"]:
        total.add(NodeSums.of(read_arrays(build.sums(name))))
    result = update_epsf(epsf, total)
    before = read_stdpsf(arguments["before"], centre=False)
    # Positions that no other exposure confirms follow the ePSF's own errors: no better than a quick ePSF there.
    approximate = total.n_averaged < POOR_SHARE * total.n_stars
    # What the last round still changed is not known better than that.
    unsettled = result.change / max(result.noise, 1e-12)
    error = float(np.sqrt(total.excess / max(total.n_stars, 1) + result.relative_noise**2 * (1.0 + unsettled**2)))
    new = _with_nodes(result.epsf, arguments["bounds"], arguments["nodes"])
    new = replace(new, model_error=error, approximate=approximate)
    write_stdpsf(build.epsf(arguments["cube"], arguments["label"]), new, ("ePSF build in progress",))
    return {
        "label": arguments["label"], "change": result.change, "noise": result.noise, "model_error": error, "shift": result.shift,
        "moved": _difference(new, before), "stars": total.n_stars, "averaged": total.n_averaged,
        "nodes": list(new.samples.shape[:2]), "node_stars": np.round(total.stars, 1).tolist(),
        "ring_chi": np.round(total.ring_chi / max(total.n_exposures, 1), 3).tolist(),
    }  # fmt: skip


def _with_nodes(epsf: GriddedEPSF, bounds: list[int], nodes: int) -> GriddedEPSF:
    """The same ePSF on a grid of as many nodes a side, over the part of the detector that the exposures cover."""
    if epsf.node_x.size == nodes and epsf.node_y.size == nodes:
        return epsf
    x_low, x_high, y_low, y_high = bounds
    # Whole pixels, as real libraries have: some readers take integers.
    node_x, node_y = (np.rint(np.linspace(low, high, nodes) if nodes > 1 else np.array([0.5 * (low + high)])) for low, high in
                      ((x_low, x_high), (y_low, y_high)))  # fmt: skip
    samples = np.array([[epsf.blended(x, y) for x in node_x] for y in node_y])
    return GriddedEPSF(samples, node_x, node_y, source=epsf.source, model_error=epsf.model_error)


def _difference(new: GriddedEPSF, old: GriddedEPSF) -> float:
    """RMS difference at the new one's nodes within 1.5 pixels, of the peak."""
    inside = radius_grid() <= CORE_RADIUS
    other = np.array([[old.blended(x, y) for x in new.node_x] for y in new.node_y])
    return float(np.sqrt(np.mean((new.samples - other)[..., inside] ** 2)) / new.samples.max())


def average_units(arguments: Result) -> Result:
    """New averages of all candidates from the last round's free fits."""
    build = BuildFolder(Path(arguments["build"]))
    stored = read_arrays(build.links)
    mine = np.isin(stored["unit"], arguments["numbers"])
    links = Links(**{key: value[mine] for key, value in stored.items()})
    fits = Fits.joined([Fits(**read_arrays(build.fits(name))) for name in arguments["units"]])
    # Numbers of units ascend: each candidate's place among the units of this step.
    place = np.searchsorted(arguments["numbers"], links.unit)
    targets = average(links, fits, _bands(arguments["cubes"])[place], arguments["mix"])
    _write_targets(build, arguments["units"], links, targets, arguments["numbers"])
    by_cube: dict[str, Result] = {}
    for cube in sorted(set(arguments["cubes"])):
        chosen = np.array([name == cube for name in arguments["cubes"]])[place]
        part = Targets(
            targets.raw[chosen],
            targets.flux[chosen],
            targets.averaged[chosen],
            targets.used[chosen],
            targets.scatter,
            targets.flux_scatter,
        )
        own = Fits(*(getattr(fits, key)[chosen] for key in Fits.__dataclass_fields__))
        bias = phase_bias(own, part)
        bright = part.used & (own.flux > BRIGHT_SIGNAL * own.flux_error)
        difference = (own.raw - part.raw)[bright]
        by_cube[cube] = {
            "outer": arguments["outer"], "inner": arguments["inner"], "mix": arguments["mix"],
            "phase": bias.phase.tolist(), "bias": bias.bias.tolist(),
            "amplitude": bias.amplitude, "scatter": float(np.std(difference)) if len(difference) else float("nan"),
            "qfit": float(np.median(own.qfit[bright])) if bright.any() else float("nan"), "bright": int(bright.sum()),
        }  # fmt: skip
    return {"scatter": targets.scatter, "flux_scatter": targets.flux_scatter, "by_cube": by_cube}


def _bands(cubes: list[str]) -> NDArray[np.int64]:
    """Number of the filter of every cube."""
    return np.unique([cube.partition("_")[2] for cube in cubes], return_inverse=True)[1]


def _write_targets(build: BuildFolder, names: list[str], links: Links, targets: Targets, numbers: list[int] | None = None) -> None:
    for number, name in zip(numbers or range(len(names)), names, strict=True):
        mine: NDArray[np.bool_] = links.unit == number
        write_arrays(
            build.targets(name),
            star=links.star[mine],
            raw=targets.raw[mine],
            flux=targets.flux[mine],
            averaged=targets.averaged[mine],
        )


STEPS = {"quick": quick, "measure": measure, "field": field, "sample": sample, "update": update, "average": average_units}
