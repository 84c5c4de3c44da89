"""Pulls of a run's catalogue against a scene's truth, blends apart: `python benchmarks/bench_pulls.py SCENE RUN`.

A blend is a star with another true star within two pixels; where one of these is not in the catalogue, its light is in the blend's
fluxes, and no error bar of a fit can know: such blends are listed apart.  Pulls are errors over their error bars; widths are 1.48
times the median absolute value.  Magnitudes are compared after their zero point, the median of stars brighter than 22.5.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).parent / "scorer"))

from truthlib import Truth

from dpm.io.tables import read_table

MATCH = 0.5  # pixels
BLEND = 2.0  # pixels
FEWEST = 25  # stars of a bin
MAS = 1000.0
APART, FOUND, NOT_FOUND = range(3)


def row(pull: np.ndarray) -> str:
    """Number, width and share beyond four errors."""
    return f"{len(pull):6d} {1.4826 * np.median(np.abs(pull)):6.3f} {100 * np.mean(np.abs(pull) > 4):6.2f}"


def report(name: str, magnitude: np.ndarray, kind: np.ndarray, pull: np.ndarray) -> None:
    """One line a magnitude: stars with nothing within two pixels, blends of catalogue stars, and blends with a star not found."""
    print(f"{name}\n   mag      n  width  >4 (%)   blends, all found      one not found")
    for low in range(18, 27):
        mine = (magnitude >= low) & (magnitude < low + 1)
        if (mine & (kind == APART)).sum() >= FEWEST:
            rows = [pull[mine & (kind == k)] for k in (APART, FOUND, NOT_FOUND)]
            print(f"  {low + 0.5:.1f} " + "   ".join(row(p) if p.size else 20 * " " for p in rows))


def kinds(true: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """APART, FOUND or NOT_FOUND of every true star (n, 2); ``taken``: whether it is in the catalogue."""
    out = np.zeros(len(true), np.int64)
    for a, b in cKDTree(true).query_pairs(BLEND):
        for one, other in ((a, b), (b, a)):
            out[one] = max(out[one], FOUND if taken[other] else NOT_FOUND)
    return out


def main() -> None:
    """Print pulls of positions and of magnitudes."""
    truth, catalog = Truth(sys.argv[1]), read_table(Path(sys.argv[2]) / "tables" / "catalog.parquet")
    xi, eta = truth.at(truth.epoch)
    a, b = truth.sky2tan(np.array(catalog["ra"]), np.array(catalog["dec"]))
    true = np.column_stack([xi, eta]) / truth.scale
    distance, star = cKDTree(true).query(np.column_stack([a, b]) / truth.scale)
    taken = np.zeros(len(true), bool)
    taken[star[distance < MATCH]] = True
    kind = kinds(true, taken)[star]
    columns = {f: next(c[:-4] for c in catalog.colnames if c.endswith(f"{f.lower()}_mag")) for f in truth.filters}
    saturated = np.any([np.array(catalog[f"{c}_saturated"]) for c in columns.values()], axis=0)
    good = (distance < MATCH) & ~saturated
    pulls = []
    for difference, error in ((a - xi[star], "ra_error"), (b - eta[star], "dec_error")):
        pulls.append((difference - np.median(difference[good])) * MAS / np.array(catalog[error]))
    first = truth.mag[truth.filters[0]][star]
    report("position", *(np.tile(v[good], 2) for v in (first, kind)), np.concatenate([p[good] for p in pulls]))
    for name, column in columns.items():
        magnitude = truth.mag[name][star]
        difference = np.array(catalog[f"{column}_mag"], float) - magnitude
        use = good & np.isfinite(difference)
        difference -= np.median(difference[use & (magnitude < 22.5)])
        error = np.array(catalog[f"{column}_mag_error"], float)
        report(name, magnitude[use], kind[use], (difference / error)[use])


if __name__ == "__main__":
    main()
