"""Four real hst1pass lists of a WFC3/UVIS bulge field: dpm's matching and averaging beside the file made by MATCHUP.

usage: python benchmarks/bench_hst1pass_bulge.py [FOLDER]

FOLDER holds the lists ``*.uvwXYMpq`` and ``MATCHUP_XYMEEE_final``.  dpm starts from the lists' distortion-corrected u,
v and magnitudes w, without any offsets.  The file's xsig, ysig are standard deviations (n - 1) of the Ng measurements
that its author kept: for Ng = 4, applying the file's own transforms to the lists gives them back to the last digit.  So
where Ng = 4 dpm's standard deviation of all four is compared, and where Ng = 3 that of the best three (magnitudes:
always of all four).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from dpm.models.transform import LinearTransform
from dpm.stages.frame.average import mean_positions
from dpm.stages.frame.field import bright_points
from dpm.stages.frame.link import link_field
from dpm.stages.frame.match import align, mutual_pairs, vote_offset
from dpm.stages.frame.solve import solve_group
from dpm.stages.frame.units import Unit
from dpm.stages.frame.zero_points import solve_zero_points

PIXEL_SCALE = 0.0396
MATCH_RADIUS = 0.5
MAX_OFFSET = 5.0
READ_NOISE = 8.0
EXPOSURE_TIME = 87.0


def read_unit(path: Path) -> Unit:
    """One list as a unit; errors are those of photon and read noise for a star of the ePSF's width."""
    u, v, w = np.loadtxt(path, usecols=(0, 1, 2), unpack=True)
    flux = 10 ** (-0.4 * w)
    error = np.sqrt(flux + 25 * READ_NOISE**2)
    position_error = np.hypot(0.8 * error / flux, 0.003)
    n = len(u)
    corners = np.array([u.min(), u.max(), u.max(), u.min()]), np.array([v.min(), v.min(), v.max(), v.max()])
    return Unit(
        exposure=path.name.split("_")[0],
        detector="UVIS2",
        band="wfc3uv_f814w",
        epoch=2020.199,
        u=u,
        v=v,
        x_error=position_error,
        y_error=position_error,
        flux=flux,
        flux_error=error,
        flags=np.zeros(n, dtype=np.int32),
        row=np.arange(n, dtype=np.int32),
        outline_u=corners[0],
        outline_v=corners[1],
        start=LinearTransform(),
        to_raw=lambda a, b: (a, b),
        load=lambda name: np.zeros(n),
        pixel_scale=PIXEL_SCALE,
        bounds=(u.min(), u.max(), v.min(), v.max()),
    )


def spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation of each star's values about their mean."""
    return np.std(values, axis=1, ddof=1)


def spread_without_worst(values: np.ndarray) -> np.ndarray:
    """The same after leaving out the one value that makes it smallest."""
    rest = [np.delete(values, k, axis=1) for k in range(values.shape[1])]
    return np.min([np.std(part, axis=1, ddof=1) for part in rest], axis=0)


def measure(folder: Path) -> dict[str, np.ndarray | float]:
    """Run dpm on the lists.

    Returns
    -------
    dict
        ``x, y, mag`` (n, 4) single measurements of the stars in all four lists, ``mean_x, mean_y, mean_mag`` their
        means, ``n_all`` and ``n_three`` numbers of stars, ``seconds``.
    """
    units = [read_unit(path) for path in sorted(folder.glob("*.uvwXYMpq"))]
    began = time.perf_counter()
    groups = align(units, MAX_OFFSET / PIXEL_SCALE, MATCH_RADIUS)
    if groups != [list(range(len(units)))]:
        raise ValueError(f"the lists in {folder} do not match: {groups}")
    solve_group(units, MATCH_RADIUS, 3.5)
    links = link_field(units, MATCH_RADIUS, 3, PIXEL_SCALE)
    rows = np.flatnonzero(links.star >= 0)
    star, unit = links.star[rows], links.unit[rows]
    instrumental = np.concatenate([u.instrumental for u in units])[rows]
    error = np.concatenate([1.0857 * u.flux_error / u.flux for u in units])[rows]
    central = 0
    zero_point, _ = solve_zero_points(star, unit, instrumental, error, len(units), central, np.zeros(len(units)))
    variance = np.concatenate([u.x_error**2 for u in units])[rows]
    none, every = np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)
    mean = mean_positions(
        star, unit, links.x[rows], links.y[rows], (variance, 0 * variance, variance), none, every, links.n_stars,
        len(units), np.zeros(len(units), dtype=np.int64), 3.5,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    count = np.bincount(star, minlength=links.n_stars)
    full = np.flatnonzero(count == len(units))
    table = np.full((3, links.n_stars, len(units)), np.nan)
    table[:, star, unit] = links.x[rows], links.y[rows], instrumental + zero_point[unit]
    points = bright_points(units, MATCH_RADIUS, 3.5)
    return {
        "x": table[0, full],
        "y": table[1, full],
        "mag": table[2, full],
        "mean_x": mean.x[full],
        "mean_y": mean.y[full],
        "n_all": len(full),
        "n_three": int(np.sum(count >= 3)),
        "n_bright": len(points),
        "floor": mean.floor,
        "seconds": seconds,
    }


def read_matchup(folder: Path) -> np.ndarray:
    """The file's rows: x, y, mag, their sigmas, Nf (found) and Ng (kept)."""
    return np.loadtxt(folder / "MATCHUP_XYMEEE_final", usecols=(0, 1, 2, 3, 4, 5, 7, 8))


def compare(folder: Path) -> dict[str, float]:
    """Figures of both, for the stars that both have in all four lists."""
    ours, matchup = measure(folder), read_matchup(folder)
    four = np.flatnonzero(matchup[:, 6] == 4)
    shift = vote_offset(ours["mean_x"], ours["mean_y"], matchup[four, 0], matchup[four, 1], 20.0, 1.0)
    i, j = mutual_pairs(ours["mean_x"] + shift.dx, ours["mean_y"] + shift.dy, matchup[four, 0], matchup[four, 1], 1.0)
    rows = matchup[four[j]]
    out: dict[str, float] = {
        "stars in all four, dpm": float(ours["n_all"]),
        "stars in all four, file (Nf = 4)": float(len(four)),
        "stars in three or more, dpm": float(ours["n_three"]),
        "stars of both in all four": float(len(i)),
        "seconds": float(ours["seconds"]),
    }
    ratios: dict[str, list[np.ndarray]] = {"position": [], "mag": []}
    for name, column in (("x", 3), ("y", 4), ("mag", 5)):
        # Magnitudes were not clipped.
        rest = spread(ours[name][i]) if name == "mag" else spread_without_worst(ours[name][i])
        for good, scatter in ((4, spread(ours[name][i])), (3, rest)):
            k = rows[:, 7] == good
            ratios["mag" if name == "mag" else "position"].append(
                (scatter / rows[:, column])[k & (rows[:, column] > 0)]
            )
            for low, high in ((-99, -9), (-9, -7), (-7, 99)):
                m = k & (rows[:, 2] >= low) & (rows[:, 2] < high)
                label = f"{name}, {good} of 4 used by the file, mag {low} to {high} ({m.sum()})"
                out[f"{label}: dpm"] = float(np.sqrt(np.median(scatter[m] ** 2)))
                out[f"{label}: file"] = float(np.sqrt(np.median(rows[m, column] ** 2)))
    for name, parts in ratios.items():
        out[f"{name} scatter, dpm over file, median star"] = float(np.median(np.concatenate(parts)))
        out[f"{name} scatter, dpm over file, stars with 4 of 4"] = float(np.median(np.concatenate(parts[::2])))
    return out


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[2] / "shared/data/real/hst1pass_wfc3uvis_bulge"
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if target.is_dir():
        for key, value in compare(target).items():
            print(f"{key:70s} {value:10.4f}")
    else:
        print(f"skipped: no lists at {target}")
