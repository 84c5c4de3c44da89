"""What `dpm.science` makes of artificial-star tables, against known truth, and for a real DOLPHOT table.

``python benchmarks/bench_artificial_tables.py coverage [REALISATIONS]``: how many one-sigma intervals of completeness hold the
truth; ``errors``: pull widths of the error model and of the completeness map, bias before and after the correction;
``ngc1644 FILE``: limits, errors and held-out pulls of DOLPHOT's ``9891_NGC1644_F555W-F814W.gst.matchfake``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from dpm.science import (
    completeness_in_bins,
    correct_magnitudes,
    fit_completeness,
    fit_completeness_map,
    fit_error_model,
    migration_correction,
    random_errors,
    read_dolphot_artificial_stars,
    recovered_in,
)
from dpm.science.random_errors import bias_and_width, undo_rounding

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from science_tables import BRIGHTEST, FAINTEST, Photometry, flagged, pritchet, threshold

EDGES = np.arange(BRIGHTEST, FAINTEST + 0.25, 0.5)
PLACES = np.arange(20.5, 27.01, 0.25)


def quiet(mag: NDArray[np.float64]) -> NDArray[np.float64]:
    """`threshold` without crowding: every bright star is recovered."""
    return norm.cdf(5.0 * (10 ** (-0.4 * (np.asarray(mag) - 26.0)) - 1.0))


def print_row(*values: Any) -> None:
    """One line of a Markdown table."""
    print("|", " | ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values), "|", flush=True)


def print_head(*names: str) -> None:
    """Head of a Markdown table."""
    print_row(*names)
    print("|" + len(names) * "---|")


def above(mag: float, truth: Callable[[Any], Any], completeness: float) -> float:
    """By how much completeness exceeds a value."""
    return float(truth(mag)) - completeness


def coverage(n_realisations: int) -> None:
    """Shares of one-sigma intervals that hold the truth."""
    names = "completeness", "stars", "bins", "curve", "curve, worst magnitude", "50 % limit", "25 % limit"
    print_head(*names, "scatter of the 50 % limit, mag", "spline taken", "goodness p < 0.05")
    for truth in (pritchet, threshold, quiet):
        # Where all are recovered or none, any interval is right or wrong in every realisation.
        partly = [np.mean(truth(np.linspace(low, low + 0.5, 101))) for low in EDGES[:-1]]
        binned_too = (np.array(partly) > 0.02) & (np.array(partly) < 0.98)
        some = (truth(PLACES) > 0.02) & (truth(PLACES) < 0.995)
        limits = [brentq(above, BRIGHTEST + 1, FAINTEST, args=(truth, share)) for share in (0.5, 0.25)]
        for n_stars in (1500, 20_000):
            generator = np.random.default_rng(5)
            bins, curves, crossings, errors, splines, poor = [], [], [], [], [], []
            for _ in range(n_realisations):
                table = flagged(truth, n_stars, generator)
                binned = completeness_in_bins(table, "f", bins=EDGES)
                bins.append((binned["completeness_low"] <= partly) & (partly <= binned["completeness_high"]))
                curve = fit_completeness(table, "f")
                low, high = curve.interval(PLACES)
                curves.append((low <= truth(PLACES)) & (truth(PLACES) <= high))
                found = [curve.limit(share) for share in (0.5, 0.25)]
                crossings.append([abs(mag - true) < error for (mag, error), true in zip(found, limits)])
                errors.append(found[0][0] - limits[0])
                splines.append(curve.form == "spline")
                poor.append(curve.p_value < 0.05)
            share = np.mean(curves, axis=0)[some]
            worst = share[np.argmax(np.abs(share - 0.683))]
            shares = [float(np.mean(values)) for values in (np.array(bins)[:, binned_too], share)]
            half, quarter = np.mean(crossings, axis=0)
            figures = [*shares, float(worst), float(half), float(quarter), float(np.std(errors)), np.mean(splines), np.mean(poor)]
            print_row(truth.__name__, n_stars, *(float(value) for value in figures))


def errors() -> None:
    """Error model, correction and map on synthetic stars that they were not made from."""
    generator = np.random.default_rng(1)
    truth = Photometry()
    artificial = truth.table(100_000, generator)
    model = fit_error_model(artificial, "a", "b")
    correction = migration_correction(artificial, "b")
    mags = truth.stars(100_000, generator)
    mags = mags[model.covers(mags)]
    out, drawn = truth.observe(mags, generator), model.draw(mags, 7)
    pulls = model.pulls(mags, out)
    corrected = correct_magnitudes(out[:, 1], correction)
    names = "b, mag", "pull width a", "pull width b", "lost, true", "drawn", "correlation, true", "drawn"
    print_head(*names, "bias at this measured b", "corrected")
    for low in np.arange(20.0, 28.0):
        mine = (mags[:, 1] >= low) & (mags[:, 1] < low + 1)
        seen = (out[:, 1] >= low) & (out[:, 1] < low + 1)
        widths = [bias_and_width(pulls[mine & np.isfinite(pulls[:, i]), i])[1] for i in (0, 1)]
        lost = [float(np.isnan(values[mine, 1]).mean()) for values in (out, drawn)]
        both = [(values - mags)[mine & np.isfinite(values[:, 1])] for values in (out, drawn)]
        correlations = [float(np.corrcoef(values.T)[0, 1]) for values in both]
        shifts = ["", ""]
        if seen.sum() > 100:
            shifts = [f"{np.nanmedian((values - mags[:, 1])[seen]):+.4f}" for values in (out[:, 1], corrected)]
        print_row(f"{low:.0f} to {low + 1:.0f}", *widths, *lost, *correlations, *shifts)
    print()
    stars = {name: generator.uniform(0, size, 100_000) for name, size in (("in_x", 2048), ("in_y", 1536))}
    stars["in_f_mag"] = generator.uniform(20, 28, 100_000)
    stars["recovered"] = generator.random(100_000) < smooth_field(stars["in_f_mag"], stars["in_x"], stars["in_y"])
    mag, x, y = generator.uniform(21, 27.5, 50_000), generator.uniform(1, 2047, 50_000), generator.uniform(1, 1535, 50_000)
    true = smooth_field(mag, x, y)
    curve = fit_completeness(stars, "f")
    print_head("cells", "map minus truth, RMS", "one curve minus truth, RMS", "pull width of the map, 2 to 98 %", "goodness p")
    some = (true > 0.02) & (true < 0.98)
    for cells in (16, 24, 32):
        found = fit_completeness_map(stars, "f", cells=cells)
        difference = found(mag, x, y) - true
        pull = (difference / found.error(mag, x, y))[some]
        print_row(cells, float(np.std(difference)), float(np.std(curve(mag) - true)), float(np.std(pull)), found.p_value)


def smooth_field(mag: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Completeness over a field whose limit varies by half a magnitude either way."""
    depth = 0.5 * np.sin(x / 400.0) * np.cos(y / 300.0)
    return (0.98 - 0.03 * (depth > 0.3)) * expit(3.0 * (26.0 - depth - mag))


def ngc1644(path: Path) -> None:
    """Limits, errors and pulls of the real table."""
    bands = "acswfc_f555w", "acswfc_f814w"
    stars = read_dolphot_artificial_stars(path, bands)
    print_head("band", "form", "50 % limit", "25 % limit", "chi2 / dof", "p")
    for band, brightest in zip(bands, (18.0, 17.0)):
        curve = fit_completeness(stars, band, recovered_in(stars, band), magnitudes=(brightest, 26.5 if band[-4] == "8" else 27.0))
        limits = [f"{mag:.3f} ± {error:.3f}" for mag, error in (curve.limit(0.5), curve.limit(0.25))]
        print_row(band, curve.form, *limits, f"{curve.chi2:.0f} / {curve.dof}", curve.p_value)
    print()
    half = np.random.default_rng(1).random(len(stars)) < 0.5
    model = fit_error_model(stars, *bands, among=half)
    rest = stars[~half & stars["recovered"]]
    inserted = np.column_stack([rest[f"in_{band}_mag"] for band in bands])
    differences = [np.asarray(rest[f"out_{band}_mag"] - rest[f"in_{band}_mag"]) for band in bands]
    pulls = model.pulls(inserted, inserted + np.column_stack([undo_rounding(d, 0.01, i) for i, d in enumerate(differences)]))
    print_head("band", "mag", "bias", "random error", "tails beyond 3: bright", "faint", "pull width, other half")
    for number, band in enumerate(bands):
        table = random_errors(stars, [band], recovered_in(stars, band), step=1.0)
        for row in table[table["mag"] > 18]:
            mine = (inserted[:, number] >= row["mag_low"]) & (inserted[:, number] < row["mag_high"])
            width = bias_and_width(pulls[mine, number])[1]
            bias = f"{row['bias']:+.4f} ± {row['bias_error']:.4f}"
            error = f"{row['random_error']:.4f} ± {row['random_error_error']:.4f}"
            print_row(band, f"{row['mag_low']:.0f}", bias, error, float(row["tail_bright"]), float(row["tail_faint"]), width)


if __name__ == "__main__":
    section = sys.argv[1] if len(sys.argv) > 1 else "coverage"
    if section == "coverage":
        coverage(int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
    elif section == "errors":
        errors()
    else:
        ngc1644(Path(sys.argv[2]))
