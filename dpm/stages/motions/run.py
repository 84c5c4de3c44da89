"""The motions of a run folder: whose, against whom, and what is left of systematic errors."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.reference import ReferenceCatalog, read_reference
from dpm.io.run_folder import RunFolder
from dpm.io.tables import catalog_columns, read_table, write_table
from dpm.models.columns import DETECTOR_MAP_COLUMNS, MOTION_COLUMNS
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options
from dpm.science.motions import (
    MemberMotions,
    MotionError,
    as_covariance,
    member_motions,
    membership_circles,
    tangent_positions,
    zero_point_from_motions,
)
from dpm.stages.motions.choose import candidates, well_measured
from dpm.stages.motions.combine import combined_columns
from dpm.stages.motions.corrections import corrected_motions, magnitudes, position_terms
from dpm.stages.motions.first_epoch import SHORTEST, Motions, catalog_motions, match_reference, reference_motions
from dpm.stages.motions.single_positions import single_positions, slope_columns

__all__ = ["measure_motions"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

CATALOG_COLUMNS = ("pmra_relative", "pmdec_relative", "member_probability", "parallax", "parallax_error")
MEMBER = 0.5


def measure_motions(folder: RunFolder, options: Options) -> dict[str, Any]:
    """Write ``tables/motions.parquet`` and the catalogue's columns of motions; returns the stage's summary.

    Parameters
    ----------
    folder : RunFolder
    options : Options
        ``[motions]``, ``[input] reference``, ``[frame] match_radius``, ``[distortion]``, ``[photometry]`` count.

    Raises
    ------
    MotionError
        If the configuration asks for what the stars cannot give.
    """
    catalog = read_table(folder.catalog)
    _strip(catalog)
    for path in (folder.motions, folder.detector_maps):
        path.unlink(missing_ok=True)
    exposures = read_table(folder.exposures)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    name = options.motions.reference or options.input.reference
    reference = read_reference(name) if name else None
    pairs = None
    if not len(catalog):
        return {"words": "no motions: the catalogue is empty", "warnings": []}
    if reference is not None:
        pixel = float(np.max(exposures["pixel_scale"]))
        pairs = match_reference(catalog, frame, reference, pixel, options.frame, options.motions.max_motion)
    motions = catalog_motions(catalog)
    several = motions is not None
    if motions is None and reference is not None and pairs is not None:
        motions = _from_reference(catalog, reference, pairs, asked=bool(options.motions.reference))
    if motions is None:
        words = "no motions: the exposures are of one epoch, and there is no older catalogue ([motions] reference)"
        _write_catalog(folder, catalog)
        return {"words": words, "warnings": []}
    chosen = candidates(catalog, frame, options.motions)
    position, center = tangent_positions(catalog["ra"], catalog["dec"], options.motions.center)
    radius = np.hypot(*position.T) if options.motions.center is not None else None
    try:
        found = member_motions(
            position, motions.motion, motions.covariance, radius, chosen, well_measured(catalog), options.motions.neighbors
        )
    except MotionError as problem:
        if chosen is not None or options.motions.reference:
            raise
        # Nobody asked: a field with few moving stars goes on without relative motions.
        words = f"no relative motions: {problem}"
        _finish_catalog(catalog, motions, None, None)
        _write_catalog(folder, catalog)
        return {"words": words, "warnings": []}
    table = Table({"id": np.asarray(catalog["id"])})
    meta: dict[str, Any] = {"center": list(center), **motions.meta}
    single = single_positions(folder, options, catalog) if folder.measurements.is_dir() else None
    terms = [] if single is None else position_terms(single, len(catalog), None if several else reference, pairs)
    moved, spread, maps = corrected_motions(
        position, found.relative.motion, found.relative.covariance, _members(catalog, found), catalog, terms,
        options.motions.corrections, meta,
    )  # fmt: skip
    _relative_columns(table, moved, spread, found, catalog, meta)
    if several and single is not None:
        try:
            _add(table, slope_columns(single, catalog, motions.covariance, options.motions.parallax))
        except MotionError as problem:
            if options.motions.parallax:
                raise
            log.info("no slopes of single positions: %s", problem)
    if reference is not None and reference.has_motions and pairs is not None:
        _compare(table, reference, pairs, found.relative.zero_variance, meta)
        if options.motions.priors:
            _add(table, combined_columns(catalog, several, reference, pairs))
    elif options.motions.priors:
        raise MotionError("[motions] priors = true needs a reference catalogue with motions ([input] or [motions] reference)")
    if options.motions.parallax and not several:
        raise MotionError("[motions] parallax = true needs exposures of several epochs: these are of one")
    if maps is not None:
        write_table(folder.detector_maps, maps, DETECTOR_MAP_COLUMNS)
    write_table(folder.motions, table, MOTION_COLUMNS, {"motions": meta})
    _finish_catalog(catalog, motions, table, meta)
    _write_catalog(folder, catalog)
    return _summary(folder, found, meta)


def _from_reference(catalog: Table, reference: ReferenceCatalog, pairs: Any, asked: bool) -> Motions | None:
    """Motions with the reference as first epoch; None where it is of the exposures' own time and nobody asked for it."""
    apart = abs(float(catalog["ref_epoch"][0]) - float(np.median(reference.ref_epoch)))
    if not asked and not apart >= SHORTEST:
        return None
    return reference_motions(catalog, reference, pairs)


def _members(catalog: Table, found: MemberMotions) -> NDArray[np.bool_]:
    """Well-measured stars that are rather members than not; reference stars where there are no probabilities."""
    members = np.nan_to_num(found.probability) > MEMBER if found.mixture is not None else found.relative.reference
    return np.asarray(members & well_measured(catalog))


def _relative_columns(
    table: Table, motion: Floats, covariance: Floats, found: MemberMotions, catalog: Table, meta: dict[str, Any]
) -> None:
    """Relative motions and membership, and the mixture's parameters in the metadata."""
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    table["pmra_relative"], table["pmdec_relative"] = motion.T
    table["pmra_relative_error"], table["pmdec_relative_error"] = error.T
    table["pmra_relative_pmdec_relative_corr"] = covariance[:, 0, 1] / (error[:, 0] * error[:, 1])
    table["member_probability"] = found.probability
    table["reference"] = found.relative.reference
    meta["n_reference"], meta["reference_dispersion"] = int(found.relative.reference.sum()), found.relative.dispersion
    mixture, mag = found.mixture, next(iter(magnitudes(catalog)), None)
    if mixture is None:
        return
    meta["cluster"] = {
        "mean": mixture.mean.tolist(), "mean_error": mixture.mean_error.tolist(), "sigma": mixture.sigma,
        "sigma_error": mixture.sigma_error, "fraction": mixture.fraction, "fraction_error": mixture.fraction_error,
        "field_mean": mixture.field_means[0].tolist(), "field_covariance": mixture.field_covariances[0].tolist(),
        "evidence": mixture.evidence, "scale": mixture.scale, "scale_error": mixture.scale_error,
    }  # fmt: skip
    if mag is None:
        return
    try:
        circles = membership_circles(motion, covariance, mag, mixture.sigma, mixture.mean)
    except MotionError as problem:
        log.info("no circles of membership: %s", problem)
        return
    table["member"] = circles(motion, mag)
    meta["circles"] = {"mag": circles.mag.tolist(), "radius": circles.radius.tolist()}


def _add(table: Table, columns: Table) -> None:
    for name in columns.colnames:
        table[name] = columns[name]


def _compare(table: Table, reference: ReferenceCatalog, pairs: Any, zero_variance: float, meta: dict[str, Any]) -> None:
    """The reference's own motions beside ours, and the zero point between the relative motions and theirs."""
    i, j = pairs
    n = len(table)
    for name in ("pmra", "pmdec"):
        for end in ("", "_error"):
            column = np.full(n, np.nan)
            column[i] = getattr(reference, name + end)[j]
            table[f"{name}_reference{end}"] = column
    theirs = np.column_stack([table["pmra_reference"], table["pmdec_reference"]])
    their_error = np.column_stack([table["pmra_reference_error"], table["pmdec_reference_error"]])
    relative = np.column_stack([table["pmra_relative"], table["pmdec_relative"]])
    errors = np.column_stack([table["pmra_relative_error"], table["pmdec_relative_error"]])
    covariance = as_covariance(errors, table["pmra_relative_pmdec_relative_corr"])
    try:
        zero = zero_point_from_motions(relative, covariance, theirs, as_covariance(their_error))
    except MotionError as problem:
        log.info("no absolute zero point: %s", problem)
        return
    # What members move by on the sky: the relative motions count from it.
    error = np.sqrt(np.diag(zero.covariance) + zero_variance)
    meta["absolute"] = {"motion": zero.motion.tolist(), "error": error.tolist(), "n": int(zero.used.sum()),
                        "chi2": zero.chi2, "degrees": zero.degrees}  # fmt: skip


def _strip(catalog: Table) -> None:
    """Take out what an earlier run of this stage put in."""
    for name in [*CATALOG_COLUMNS, *catalog.meta.pop("motions_columns", [])]:
        if name in catalog.colnames:
            catalog.remove_column(name)
    for name in catalog.meta.pop("motions_meta", []):
        catalog.meta.pop(name, None)


def _finish_catalog(catalog: Table, motions: Motions, table: Table | None, meta: dict[str, Any] | None) -> None:
    """Add the catalogue's columns, and remember which they are."""
    if motions.columns is not None:
        for name in motions.columns.colnames:
            catalog[name] = motions.columns[name]
        catalog.meta["motions_columns"] = list(motions.columns.colnames)
        catalog.meta["motions_meta"] = sorted(motions.meta)
        catalog.meta.update(motions.meta)
    if table is not None:
        for name in CATALOG_COLUMNS:
            if name in table.colnames:
                catalog[name] = np.asarray(table[name])


def _write_catalog(folder: RunFolder, catalog: Table) -> None:
    bands = [name.removesuffix("_mag_error") for name in catalog.colnames if name.endswith("_mag_error")]
    registry = catalog_columns(bands)
    catalog = catalog[[column.name for column in registry if column.name in catalog.colnames]]
    write_table(folder.catalog, catalog, registry)


def _summary(folder: RunFolder, found: MemberMotions, meta: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"stars": int(np.isfinite(found.relative.motion[:, 0]).sum()), "reference_stars": meta["n_reference"]}
    if found.mixture is not None:
        out["members"] = int(np.sum(np.nan_to_num(found.probability) > MEMBER))
        out["dispersion_mas_yr"] = round(found.mixture.sigma, 5)
    files = [path.relative_to(folder.root).as_posix() for path in (folder.motions, folder.detector_maps) if path.is_file()]
    return out | {"files": files, "warnings": []}
