"""The transforms of a whole field: units aligned and solved epoch by epoch, then put onto the sky."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpm.io.errors import InputError
from dpm.io.reference import ReferenceCatalog
from dpm.kernels.matching import link_units
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions
from dpm.models.transform import LinearTransform
from dpm.stages.frame.match import align
from dpm.stages.frame.register import Points, apply_transform, header_transform, register
from dpm.stages.frame.solve import mean_stars, solve_group
from dpm.stages.frame.units import EPOCH_GAP, Unit, epoch_groups, match_radius, stack

__all__ = ["bright_points", "reference_points", "solve_field"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

# Bright detections of a unit that make the list for registration.
MOST_STARS = 3000
# A group of units further from the others than this (arcsec) is another field.
OTHER_FIELD = 900.0


def solve_field(
    units: Sequence[Unit],
    frame: MasterFrame,
    options: FrameOptions,
    reference: ReferenceCatalog | None,
) -> dict[str, float]:
    """Set ``unit.transform`` of every unit that belongs to the field; the others get a warning and none.

    Parameters
    ----------
    units : sequence of Unit
        All units.
    frame : MasterFrame
        Master frame.
    options : FrameOptions
        ``[frame]``.
    reference : ReferenceCatalog, optional
        Reference; without it the units' own WCS counts.

    Returns
    -------
    dict
        ``n_reference``: reference stars that the registration rests on (0 without a reference).

    Raises
    ------
    InputError
        If nothing matches, or the reference does not.
    """
    offset = options.max_offset / frame.scale
    epochs = epoch_groups(units)
    summary = {"n_reference": 0.0}
    latest: Points | None = None
    # The latest epoch first: without a reference the others are tied to it.
    for members in reversed(epochs):
        group_units = [units[k] for k in members]
        radius = match_radius(group_units, options.match_radius, frame.scale)
        groups = align(group_units, offset, radius, options.clip_sigma)
        groups = _set_aside(group_units, groups, frame, reference is not None)
        for number, group in enumerate(groups):
            part = [group_units[k] for k in group]
            solve_group(part, radius, options.clip_sigma)
            if reference is not None:
                n = _to_reference(part, frame, options, reference, radius, number == 0 and latest is None)
                summary["n_reference"] = max(summary["n_reference"], float(n))
            elif latest is not None:
                _to_epoch(part, latest, offset, radius, options.clip_sigma)
            else:
                apply_transform(part, header_transform(part))
        solved = [unit for unit in group_units if unit.transform is not None]
        if latest is None and solved:
            latest = bright_points(solved, radius, options.clip_sigma)
    for unit in units:
        for text in unit.warnings:
            log.warning(text)
    placed = sum(unit.transform is not None for unit in units)
    if placed == 0 or (placed == 1 and len(units) > 1 and reference is None):
        raise InputError(
            "",
            "input.exposures",
            "no exposure could be placed on the master frame" if placed == 0 else "no two exposures match",
            "Check that the exposures show stars of one field; raise [frame] max_offset or lower [find] threshold",
        )
    return summary


def bright_points(units: Sequence[Unit], radius: float, clip: float) -> Points:
    """Mean positions of the bright stars of solved units, as a list to match others with.

    Stars of two units or more, where there are two units.
    """
    chosen = [np.sort(unit.bright(MOST_STARS)) for unit in units]
    placed = [unit.transform(unit.u[k], unit.v[k]) for unit, k in zip(units, chosen) if unit.transform is not None]
    x, starts = stack([position[0] for position in placed])
    y, _ = stack([position[1] for position in placed])
    scale = [unit.transform.scale for unit in units if unit.transform is not None]
    error, _ = stack([np.hypot(u.x_error[k], u.y_error[k]) / np.sqrt(2) * s for u, k, s in zip(units, chosen, scale)])
    mag, _ = stack([unit.instrumental[k] for unit, k in zip(units, chosen)])
    error = np.where(np.isfinite(error), error, 0.1)
    star, n = link_units(x, y, starts, radius)
    mean_x, mean_y, count = mean_stars(x, y, np.hypot(error, 0.01), star, n, clip)
    weight = np.bincount(star, 1 / np.hypot(error, 0.01) ** 2, n)
    mean_mag = np.bincount(star, mag, n) / np.maximum(np.bincount(star, minlength=n), 1)
    keep = np.flatnonzero(count >= min(2, len(units)))
    return Points(mean_x[keep], mean_y[keep], 1 / np.sqrt(weight[keep]), mean_mag[keep])


def reference_points(reference: ReferenceCatalog, frame: MasterFrame, epoch: float) -> Points:
    """The reference on the master frame at an epoch."""
    ra, dec, ra_error, dec_error = reference.at(epoch)
    x, y = frame.sky_to_pixel(ra, dec)
    error = np.hypot(ra_error, dec_error) / np.sqrt(2) / (1000 * frame.scale)
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    return Points(x, y, error, reference.mag).take(finite)


def _leave_out(units: Sequence[Unit], why: str) -> None:
    for unit in units:
        unit.transform, unit.fit = None, None
        unit.warnings.append(f"{unit.name}: left out of the master frame: {why}")


def _set_aside(units: Sequence[Unit], groups: list[list[int]], frame: MasterFrame, with_reference: bool) -> list[list[int]]:
    """Groups that may stay; the units of the others are left out.

    Beside the largest group, one stays if a reference will tie it, or if the headers can: it has another detector of
    an exposure of the largest group, or matched units of its own, and does not overlap what it failed to match.
    """
    main = groups[0]
    if not sum(len(units[k]) for k in main):
        _leave_out(units, "it has no detections")
        return []
    kept = [main]
    exposures = {units[k].exposure for k in main}
    boxes = [_box([units[k]]) for k in main]
    for group in groups[1:]:
        part = [units[k] for k in group]
        if min(_gap(_box(part), box) for box in boxes) * frame.scale > OTHER_FIELD:
            _leave_out(part, "it shows another field, by its header; run it by itself")
        elif not sum(len(unit) for unit in part):
            _leave_out(part, "it has no detections")
        elif with_reference:
            kept.append(group)
        elif max(_overlap(_box([unit]), box) for unit in part for box in boxes) > 0.2:
            _leave_out(
                part,
                "its stars do not match the other exposures'; if its pointing is off, raise [frame] max_offset",
            )
        elif len(group) > 1 or exposures & {unit.exposure for unit in part}:
            kept.append(group)
        else:
            _leave_out(part, "it overlaps no other exposure, and there is no reference catalogue to tie it to")
    return kept


def _box(units: Sequence[Unit]) -> tuple[float, float, float, float]:
    corners = [unit.start(unit.outline_u, unit.outline_v) for unit in units]
    x, y = np.concatenate([c[0] for c in corners]), np.concatenate([c[1] for c in corners])
    return float(x.min()), float(x.max()), float(y.min()), float(y.max())


def _gap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    across = max(first[0] - second[1], second[0] - first[1], 0.0)
    along = max(first[2] - second[3], second[2] - first[3], 0.0)
    return float(np.hypot(across, along))


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    """Common part of two boxes over the first."""
    across = min(first[1], second[1]) - max(first[0], second[0])
    along = min(first[3], second[3]) - max(first[2], second[2])
    area = (first[1] - first[0]) * (first[3] - first[2])
    return max(across, 0.0) * max(along, 0.0) / max(area, 1e-9)


def _to_reference(
    units: Sequence[Unit],
    frame: MasterFrame,
    options: FrameOptions,
    reference: ReferenceCatalog,
    radius: float,
    needed: bool,
) -> int:
    """Register a group to the reference catalogue; the number of stars used, 0 where the group is left out."""
    apply_transform(units, header_transform(units))
    stars = bright_points(units, radius, options.clip_sigma)
    epoch = float(np.mean([unit.epoch for unit in units]))
    target = reference_points(reference, frame, epoch)
    years = reference.years_without_motions(epoch)
    if abs(years) > EPOCH_GAP:
        units[0].warnings.append(
            f"{reference.name} has no motions: its positions of {epoch - years:.1f} stand for those of {epoch:.1f}, each with the "
            "error of a motion that is not known. What its stars move in common shifts the whole catalogue, and no residual "
            "shows it, nor does any error column (flag POSITION_RELATIVE): give a reference with motions, or one of the exposures' "
            "epoch"
        )
    offset, cell = options.max_offset / frame.scale, max(3 * radius, 1.0)
    typical = float(np.median(target.error)) if len(target) else 0.0
    wide = max(radius, min(5 * typical, 4 * radius))
    found = register(stars, target, offset, cell, wide, options.clip_sigma)
    if found is not None:
        change = found[0].transform
        apply_transform(units, change)
        log.info(
            "%d exposures registered to %s with %d stars, moved by (%.3f, %.3f) arcsec, rms %.4f pixel",
            len(units), reference.name, found[1], *_moved(change, units, frame), found[0].rms,
        )  # fmt: skip
        return found[1]
    here = _box(units)
    inside = target.inside(here[0] - offset, here[1] + offset, here[2] - offset, here[3] + offset)
    if needed:
        raise InputError(reference.name, "input.reference", *_no_overlap(inside, target, here, frame, options))
    _leave_out(units, f"it does not match the reference {reference.name} ({len(inside)} of its stars lie in it)")
    return 0


def _no_overlap(
    inside: Points, target: Points, here: tuple[float, float, float, float], frame: MasterFrame, options: FrameOptions
) -> tuple[str, str]:
    """Problem and advice for a reference that does not match."""
    if len(inside):
        return (
            f"{len(inside)} of its stars lie in the field, but they do not match the detections within "
            f"{options.max_offset:g} arcsec",
            "Check its epoch and motions, raise [frame] max_offset, or leave the reference out",
        )
    if len(target):
        middle = 0.5 * (here[0] + here[1]), 0.5 * (here[2] + here[3])
        nearest = float(np.min(np.hypot(target.x - middle[0], target.y - middle[1]))) * frame.scale
        far = f"; the nearest is {nearest:.0f} arcsec from its centre"
    else:
        far = "; they are on the other side of the sky"
    return f"no star of the reference lies in the field{far}", "Give a reference of this field, or none"


def _moved(change: LinearTransform, units: Sequence[Unit], frame: MasterFrame) -> tuple[float, float]:
    box = _box(units)
    x, y = 0.5 * (box[0] + box[1]), 0.5 * (box[2] + box[3])
    new_x, new_y = change(x, y)
    return float(x - new_x) * frame.scale, float(new_y - y) * frame.scale


def _to_epoch(units: Sequence[Unit], latest: Points, offset: float, radius: float, clip: float) -> None:
    """Tie a group of another epoch to the latest one by their common stars, whose mean motion is taken as zero."""
    apply_transform(units, header_transform(units))
    stars = bright_points(units, radius, clip)
    found = register(stars, latest, offset, max(3 * radius, 1.0), 3 * radius, clip)
    if found is None:
        _leave_out(units, "its stars do not match those of the latest epoch; raise [frame] max_offset or give a reference")
        return
    apply_transform(units, found[0].transform)
