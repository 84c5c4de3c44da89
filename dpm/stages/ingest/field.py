"""Which exposures belong to one field, and which point elsewhere on the sky."""

from __future__ import annotations

import numpy as np

from dpm.io.errors import InputError
from dpm.io.units import ExposureUnit

__all__ = ["GAP", "check_field", "check_unique", "group_by_overlap"]

#: Largest gap between footprints of one field, degrees: wider than those between chips and modules (45 arcsec in
#: NIRCam), narrower than the distance to a parallel instrument's field.
GAP = 90.0 / 3600.0


def group_by_overlap(ra: np.ndarray, dec: np.ndarray, radius: np.ndarray, gap: float = GAP) -> np.ndarray:
    """Number the groups of footprints that touch, directly or through others.

    Parameters
    ----------
    ra, dec : ndarray (n,)
        Centres, degrees.
    radius : ndarray (n,)
        Half diagonals, degrees.
    gap : float
        Footprints closer than this count as touching, degrees.

    Returns
    -------
    ndarray (n,), int
        Group of each footprint; group 0 is the largest.
    """
    ra, dec = np.radians(ra), np.radians(dec)
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    group = np.full(ra.size, -1)
    count = 0
    for start in range(ra.size):
        if group[start] >= 0:
            continue
        front = [start]
        group[start] = count
        while front:
            here = front.pop()
            chord = np.linalg.norm(vectors - vectors[here], axis=1)
            apart = np.degrees(2.0 * np.arcsin(np.minimum(0.5 * chord, 1.0)))
            near = np.flatnonzero((group < 0) & (apart <= radius + radius[here] + gap))
            group[near] = count
            front.extend(near.tolist())
        count += 1
    order = np.argsort(-np.bincount(group), kind="stable")
    return np.argsort(order)[group]


def check_unique(units: list[ExposureUnit]) -> None:
    """Refuse two files that would have the same name in the run folder: each exposure of a detector comes once.

    Raises
    ------
    InputError
        Naming both files.
    """
    seen: dict[tuple[str, str], str] = {}
    for unit in units:
        key = (unit.row["exposure"], unit.detector.name)
        if key in seen:
            raise InputError(
                unit.row["file"],
                "input.exposures",
                f"the exposure {key[0]} of {key[1]} is also in {seen[key]}",
                "Give each exposure once (for HST either its _flc or its _flt), under a name of its own",
            )
        seen[key] = unit.row["file"]


def check_field(units: list[ExposureUnit]) -> None:
    """Refuse exposures that do not touch the others on the sky.

    A run is one field: a frame, one catalogue.  Mosaics are fine, since exposures may touch through others.

    Raises
    ------
    InputError
        Naming the stray files and how far off they are.
    """
    ra, dec = np.array([unit.ra for unit in units]), np.array([unit.dec for unit in units])
    group = group_by_overlap(ra, dec, np.array([unit.radius for unit in units]))
    if group.max(initial=0) == 0:
        return
    main = group == 0
    stray = [unit for unit, number in zip(units, group) if number > 0]
    first = stray[0]
    delta = np.radians(ra[main] - first.ra)
    cosine = np.sin(np.radians(dec[main])) * np.sin(np.radians(first.dec)) + np.cos(np.radians(dec[main])) * np.cos(
        np.radians(first.dec)
    ) * np.cos(delta)
    apart = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))).min())
    others = sorted({unit.row["file"] for unit in stray} - {first.row["file"]})
    target = first.row["target"] or "no name"
    raise InputError(
        first.row["file"],
        "CRVAL1",
        f"the exposure (target {target!r}, RA {first.ra:.5f}, Dec {first.dec:.5f}) lies {apart * 60.0:.1f} arcmin "
        f"from the nearest of the "
        f"{int(main.sum())} others and does not touch them"
        + (f"; so do {len(others)} more: {', '.join(others[:5])}" if others else ""),
        "Take it out of input.exposures and give every field its own run",
    )
