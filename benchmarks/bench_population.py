"""What the analysis recovers of known luminosity functions, sequences, reddening and populations, and two real tables.

``python benchmarks/bench_population.py SECTION [REALISATIONS]``: ``luminosity``, ``fractions``, ``reddening``, ``population``,
``samples`` (of several sizes), ``tables`` (of artificial stars);
``47tuc FOLDER [PICTURES]`` with the folder of ``47tuc_fromraw.dat``;
``ngc1644 FILE.gst.matchfake FILE_gst.fits [PICTURES]``; ``pictures FOLDER``.
Pulls are (found - true) / error over the realisations; their width's own error is 1 / sqrt(2 REALISATIONS).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from dpm.report.plots_population import plot_luminosity_function, plot_population, plot_reddening_map, plot_sequences
from dpm.science import (
    cmd_region,
    correct_magnitudes,
    fit_completeness,
    fit_error_model,
    map_columns,
    migration_correction,
    read_dolphot_artificial_stars,
    recovered_in,
)
from dpm.science.cmd import (
    color_errors,
    fiducial_line,
    fit_reddening_map,
    gaussian_fractions,
    mixture_fractions,
    rectified_color,
)
from dpm.science.isochrones import band_extinctions
from dpm.science.luminosity_fit import fit_luminosity_function
from dpm.science.luminosity_function import luminosity_function
from dpm.science.populations import (
    Companions,
    draw_population,
    fit_population,
    measure_population,
    population_templates,
    theoretical_luminosity_function,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from science_tables import Photometry, flagged, pritchet
from test_cmd import RED_SHARE, blue_line, red_line, reddened_main_sequence, reddening, sequences
from test_luminosity_function import EDGES, SHAPE, drawn
from toy_models import brown_dwarfs, white_dwarfs


def print_row(*values: Any) -> None:
    """One line of a Markdown table."""
    print("|", " | ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values), "|", flush=True)


def print_head(*names: str) -> None:
    """Head of a Markdown table."""
    print_row(*names)
    print("|" + len(names) * "---|")


def luminosity(n: int) -> None:
    """Binned and unbinned luminosity functions, with the errors of completeness from few artificial stars and from many."""
    print_head("artificial stars", "pull mean of bins, worst", "pull width, bins", "of the sum", "of the sum, Poisson alone")
    for n_artificial in (1000, 20_000):
        generator = np.random.default_rng(1)
        pulls, sums, blind = [], [], []
        for _ in range(n):
            curve = fit_completeness(flagged(pritchet, n_artificial, generator), "f", form="pritchet")
            mag = generator.uniform(21, 28, generator.poisson(7 * 400))
            found = luminosity_function(mag[generator.random(mag.size) < pritchet(mag)], curve, EDGES)
            off = found.corrected - 400.0 * np.diff(EDGES)
            pulls.append(off / np.sqrt(np.diag(found.covariance)))
            sums.append(off.sum() / np.sqrt(found.covariance.sum()))
            blind.append(off.sum() / np.sqrt(found.poisson_covariance.sum()))
        worst = np.mean(pulls, axis=0)[np.argmax(np.abs(np.mean(pulls, axis=0)))]
        print_row(n_artificial, float(worst), float(np.std(pulls)), float(np.std(sums)), float(np.std(blind)))
    print()
    truth, generator = Photometry(), np.random.default_rng(3)
    artificial = truth.table(60_000, generator)
    curve, errors = fit_completeness(artificial, "b"), fit_error_model(artificial, "b")
    fits = []
    for _ in range(n):
        true = drawn(generator)
        measured = truth.observe(np.column_stack([true + generator.uniform(-0.5, 1.5, true.size), true]), generator)[:, 1]
        fits.append(fit_luminosity_function(measured, curve, (21.0, 26.6), [3.0, 0.2, 25.3, 0.2], errors))
    names = "log density at the cut-off", "slope, dex / mag", "cut-off, mag", "its width, mag"
    print_head("unbinned", "true", "mean", "error", "pull mean", "pull width")
    found, errors_of = (np.array([getattr(fit, name) for fit in fits]) for name in ("parameters", "errors"))
    for i, name in enumerate(names):
        pull = (found[:, i] - SHAPE[i]) / errors_of[:, i]
        print_row(name, *(float(v) for v in (SHAPE[i], found[:, i].mean(), errors_of[:, i].mean(), pull.mean(), pull.std())))
    print(f"\ngoodness of fit below 0.05: {np.mean([fit.p_value < 0.05 for fit in fits]):.3f}")


def fractions(n: int) -> None:
    """Shares of two sequences, whose lines are made from the same stars."""
    print_head("stars", "method", "failed", "share, true", "mean", "scatter", "error", "pull mean", "pull width")
    for n_stars, share in ((200, RED_SHARE), (457, RED_SHARE), (457, 0.1)):
        generator = np.random.default_rng(3)
        out: dict[str, list[tuple[float, float]]] = {"mixture": [], "averaged histogram": []}
        for number in range(n):
            mag, color, error, _ = sequences(n_stars, generator, share)
            is_red = color > 0.5 * (blue_line(mag) + red_line(mag))
            for method, results in out.items():
                try:
                    lines = fiducial_line(mag[~is_red], color[~is_red]), fiducial_line(mag[is_red], color[is_red])
                    values, separation = rectified_color(mag, color, *lines)
                    own = error / separation
                    found = mixture_fractions(values, own) if method == "mixture" else gaussian_fractions(values, own, 2, number)
                except ValueError:
                    continue
                results.append((found.fractions[1], found.errors[1]))
        for method, results in out.items():
            value, error = np.array(results).T
            pull = (value - share) / error
            numbers = share, value.mean(), value.std(), error.mean(), pull.mean(), pull.std()
            print_row(n_stars, method, n - len(results), *(float(v) for v in numbers))


def reddening_maps(n: int) -> None:
    """Maps of a known field at random places."""
    names = "radius, pixel", "RMS before", "RMS after", "error", "pull width", "at the stars"
    print_head("reference stars", "neighbours", *names)
    for n_stars, n_neighbors in ((3000, 50), (6000, 30), (6000, 50), (6000, 100), (20_000, 50)):
        generator = np.random.default_rng(7)
        rows = []
        for _ in range(n):
            x, y, mag, color = reddened_main_sequence(n_stars, generator)
            found = fit_reddening_map(x, y, mag, color, 0.95, 2.7, 0.015, n_neighbors)
            px, py = generator.uniform(0, 2000, (2, 2000))
            own, own_error = found(x, y)
            value, error = found(px, py)
            off = value - reddening(px, py)
            off_own = own - reddening(x, y)
            pulls = np.std((off - np.median(off)) / error), np.std((off_own - np.median(off_own)) / own_error)
            rows.append((np.median(found.radius(px, py)), np.std(reddening(px, py)), np.std(off), np.median(error), *pulls))
        radius, *rest = np.mean(rows, axis=0)
        print_row(n_stars, n_neighbors, f"{radius:.0f}", *(f"{v:.4f}" for v in rest[:3]), *(float(v) for v in rest[3:]))


def population(n: int) -> None:
    """Exponent, age, pairs and companions, from CMDs and from luminosity functions, at ages on and off the grid."""
    truth, companions = Photometry(), Companions(brown_dwarfs(), (0.04, 0.06))
    truth.zero = np.array([28.0, 27.5])
    artificial = truth.table(60_000, np.random.default_rng(1))
    both, alone = fit_error_model(artificial, "b", "a"), fit_error_model(artificial, "b")
    isochrones = [white_dwarfs(age) for age in np.arange(9.0, 11.41, 0.12)]
    edges = np.arange(22.0, 27.31, 0.1)
    cmd = population_templates(isochrones, both, "b", edges, ("a", "b"), np.arange(-0.6, 2.0, 0.1), companions)
    counts = population_templates(isochrones, alone, "b", edges)
    print_head("fit", "stars", "parameter", "true", "mean", "error", "pull mean", "pull width", "goodness p < 0.05")
    cases: list[tuple[str, Any, int, dict[str, float]]] = [
        ("CMD", cmd, 500, {"exponent": -2.35, "age": 10.27, "pair_fraction": 0.05, "companion_fraction": 0.25}),
        ("CMD", cmd, 2000, {"exponent": -2.35, "age": 10.27, "pair_fraction": 0.05, "companion_fraction": 0.25}),
        ("CMD", cmd, 2000, {"exponent": -1.6, "age": 10.05, "pair_fraction": 0.3, "companion_fraction": 0.1}),
        ("luminosity function", counts, 500, {"exponent": -2.35, "age": 10.27}),
    ]
    for name, templates, n_stars, true in cases:
        pulls, values, poor = [], [], []
        for number in range(n):
            shares = {key: value for key, value in true.items() if "fraction" in key}
            stars = draw_population(
                white_dwarfs(true["age"]), n_stars, true["exponent"], 1000 + number, companions=companions, **shares
            )
            model = both if templates is cmd else alone
            seen = measure_population(stars, model, 5000 + number)
            seen = seen[np.isfinite(seen).all(axis=1)]
            if templates is cmd:
                fit = fit_population(templates, np.column_stack([seen[:, 0], seen[:, 1] - seen[:, 0]]), generator=number)
            else:
                fit = fit_population(templates, seen[:, 0], {"pair_fraction": 0.0}, number)
            table = fit.summary()
            values.append((table["mean"], table["error"]))
            pulls.append([(row["mean"] - true[row["parameter"]]) / row["error"] for row in table])
            poor.append(fit.p_value < 0.05)
        mean, error = np.mean(values, axis=0)
        for i, key in enumerate(fit.names):
            column = np.array(pulls)[:, i]
            numbers = true[key], mean[i], error[i], column.mean(), column.std(), np.mean(poor)
            print_row(name, n_stars, key, *(float(v) for v in numbers))


PAIRED = {"exponent": -1.6, "age": 10.05, "pair_fraction": 0.3, "companion_fraction": 0.1}


def fit_paired(n: int, n_stars: int, artificial: list[int], exact: bool) -> None:
    """Pulls of one population, measured by the artificial stars of the templates, or (``exact``) by the errors that they sample."""
    truth, companions = Photometry(), Companions(brown_dwarfs(), (0.04, 0.06))
    truth.zero = np.array([28.0, 27.5])
    isochrones = [white_dwarfs(age) for age in np.arange(9.2, 11.01, 0.1)]
    shares = {key: value for key, value in PAIRED.items() if "fraction" in key}
    pulls, errors, poor = [], [], []
    for number in range(n):
        if number % (n // len(artificial)) == 0:
            table = artificial[min(number // (n // len(artificial)), len(artificial) - 1)]
            model = fit_error_model(truth.table(60_000, np.random.default_rng(table)), "b", "a")
            cells = "b", np.arange(22.0, 27.31, 0.1), ("a", "b"), np.arange(-0.6, 2.0, 0.1)
            templates = population_templates(isochrones, model, *cells, companions)
        isochrone, seed = white_dwarfs(PAIRED["age"]), 1000 + number
        stars = draw_population(isochrone, n_stars, PAIRED["exponent"], seed, companions=companions, **shares)
        if exact:
            true = np.column_stack([stars["a_mag"], stars["b_mag"]])
            seen = truth.observe(true, np.random.default_rng(5000 + number))[:, ::-1]
        else:
            seen = measure_population(stars, model, 5000 + number)
        seen = seen[np.isfinite(seen).all(axis=1)]
        fit = fit_population(templates, np.column_stack([seen[:, 0], seen[:, 1] - seen[:, 0]]), generator=number)
        found = fit.summary()
        pulls.append([(row["mean"] - PAIRED[row["parameter"]]) / row["error"] for row in found])
        errors.append(found["error"])
        poor.append(fit.p_value < 0.05)
    for i, key in enumerate(fit.names):
        column = np.array(pulls)[:, i]
        rms = np.sqrt(np.mean(column**2))
        numbers = np.mean(errors, axis=0)[i], column.mean(), column.std(), rms, np.mean(poor)
        print_row("true errors" if exact else "artificial stars", n_stars, key, *(float(v) for v in numbers))


def samples(n: int) -> None:
    """Samples of three sizes, measured by the artificial stars of the templates."""
    print_head("measured by", "stars", "parameter", "error", "pull mean", "pull width", "pull RMS", "goodness p < 0.05")
    for n_stars in (300, 1000, 5000):
        fit_paired(n, n_stars, [1], exact=False)


def tables(n: int) -> None:
    """Large samples measured by the true errors, with eight tables of artificial stars."""
    print_head("measured by", "stars", "parameter", "error", "pull mean", "pull width", "pull RMS", "goodness p < 0.05")
    fit_paired(n, 5000, list(range(100, 108)), exact=True)


def tucanae(folder: Path, pictures: Path | None) -> None:
    """The white dwarfs of 47 Tuc, each once."""
    everything = np.loadtxt(folder / "47tuc_fromraw.dat")[:, :4]
    rows = np.unique(everything, axis=0)
    print(f"{len(everything)} rows, {len(everything) - len(rows)} of them a second time\n")
    found = luminosity_function(rows[:, 1], rows[:, 3] / 100.0, 0.25)
    print_head("F814W", "stars", "completeness", "corrected", "interval")
    for row in found.to_table():
        if row["n"]:
            interval = f"{row['corrected_low']:.0f} to {row['corrected_high']:.0f}"
            print_row(f"{row['mag_low']:.2f}", row["n"], float(row["completeness"]), f"{row['corrected']:.0f}", interval)
    print(f"\nall: {rows.shape[0]} seen, {np.nansum(found.corrected):.0f} corrected; limits", found.limits)
    line = fiducial_line(rows[:, 1], rows[:, 0], 0.5)
    print(
        "fiducial line:", ", ".join(f"{m:.1f} {line(m):+.3f} ± {line.color_error(m):.3f}" for m in (24.5, 25.5, 26.5, 27.5, 28.0))
    )
    if pictures is not None:
        plot_luminosity_function(found, "acswfc_f814w").savefig(pictures / "47tuc_lf.png")


def ngc1644(artificial: Path, catalog_path: Path, pictures: Path | None) -> None:
    """Luminosity function and differential reddening of a real DOLPHOT catalogue."""
    blue, red = "acswfc_f555w", "acswfc_f814w"
    stars = read_dolphot_artificial_stars(artificial, [blue, red])
    columns = {"ra": "RA", "dec": "DEC", f"{blue}_mag": "F555W_VEGA", f"{red}_mag": "F814W_VEGA"}
    catalog = map_columns(Table.read(catalog_path), columns)
    curve = fit_completeness(stars, red, recovered_in(stars, red), magnitudes=(17.0, 26.5))
    true = correct_magnitudes(catalog[f"{red}_mag"], migration_correction(stars, red))
    found = luminosity_function(true, curve, 0.25)
    print_head("F814W", "stars", "completeness", "corrected", "error", "of which completeness")
    for i, row in enumerate(found.to_table()):
        if row["mag_low"] >= 20 and row["n"]:
            part = float(np.sqrt(found.completeness_covariance[i, i]))
            numbers = f"{row['corrected']:.0f}", f"{row['corrected_error']:.1f}", f"{part:.1f}"
            print_row(f"{row['mag_low']:.2f}", row["n"], float(row["completeness"]), *numbers)
    x = (catalog["ra"] - np.mean(catalog["ra"])) * np.cos(np.radians(np.mean(catalog["dec"]))) * 3600.0
    y = (catalog["dec"] - np.mean(catalog["dec"])) * 3600.0
    color = catalog[f"{blue}_mag"] - catalog[f"{red}_mag"]
    extinction = band_extinctions([blue, red], 3.1)
    sequence = cmd_region(blue, red, [(0.3, 21.5), (0.75, 21.5), (0.95, 23.3), (0.45, 23.3)], red)(catalog)
    model = fit_error_model(stars, blue, red)
    mags = np.column_stack([catalog[f"{band}_mag"][sequence] for band in (blue, red)])
    error = color_errors(model, mags)
    where = x[sequence], y[sequence], mags[:, 1], color[sequence]
    mapped = fit_reddening_map(*where, extinction[blue] - extinction[red], extinction[red], error)
    value, own = mapped(mapped.x, mapped.y)
    spread = np.sqrt(max(np.var(value) - np.mean(own**2), 0.0))
    print(f"\n{mapped.x.size} reference stars: dE(B-V) scatters by {np.std(value):.4f}, error {np.median(own):.4f},")
    print(f"beyond it {spread:.4f}; radius {np.median(mapped.radius(mapped.x, mapped.y)):.0f} arcsec;")
    print(f"single stars scatter by {mapped.scatter:.3f} beyond their errors")
    if pictures is not None:
        plot_luminosity_function(found, red).savefig(pictures / "ngc1644_lf.png")
        plot_reddening_map(mapped).savefig(pictures / "ngc1644_reddening.png")


def pictures_of_simulations(folder: Path) -> None:
    """Figures 6, 8 and 9 of paper 1 on simulated stars."""
    mag, color, error, _ = sequences(457, np.random.default_rng(9))
    is_red = color > 0.5 * (blue_line(mag) + red_line(mag))
    lines = fiducial_line(mag[~is_red], color[~is_red]), fiducial_line(mag[is_red], color[is_red])
    values, separation = rectified_color(mag, color, *lines)
    for name, found in (
        ("histogram", gaussian_fractions(values, error / separation)),
        ("mixture", mixture_fractions(values, error / separation)),
    ):
        plot_sequences(mag, color, *lines, found, "nircam_f150w2", "nircam_f322w2").savefig(folder / f"sequences_{name}.png")
    truth = Photometry()
    truth.zero = np.array([28.0, 27.5])
    artificial = truth.table(30_000, np.random.default_rng(1))
    errors, curve = fit_error_model(artificial, "b", "a"), fit_completeness(artificial, "b")
    isochrone = white_dwarfs(10.0)
    drawn_stars = draw_population(isochrone, 1500, -2.35, 3, 0.05, 0.25, Companions(brown_dwarfs(), (0.04, 0.06)))
    measured = measure_population(drawn_stars, errors, 4)
    measured[~np.isfinite(measured).all(axis=1)] = np.nan
    plane = np.column_stack([measured[:, 0], measured[:, 1] - measured[:, 0]])
    isochrones = {f"{age:.0f} Gyr": white_dwarfs(age) for age in (10.0, 9.0, 11.0)}
    good = np.isfinite(plane).all(axis=1)
    figure = plot_population(plane[good, 0], plane[good, 1], drawn_stars, plane, isochrones, "a", "b", "b")
    figure.savefig(folder / "population.png")
    alone = measure_population(draw_population(isochrone, 1500, -2.35, 5), errors, 6)[:, 0]
    observed = luminosity_function(alone, curve, 0.2)
    theory = {
        f"exponent {value}": theoretical_luminosity_function(isochrone, "b", value, observed, (22.0, 25.0), errors)
        for value in (-2.35, -1.0)
    }
    plot_luminosity_function(observed, "b", theory, (22.0, 25.0)).savefig(folder / "theory.png")


if __name__ == "__main__":
    section, arguments = sys.argv[1], sys.argv[2:]
    simulated = {
        "luminosity": luminosity, "fractions": fractions, "reddening": reddening_maps, "population": population,
        "samples": samples, "tables": tables,
    }  # fmt: skip
    if section in simulated:
        simulated[section](int(arguments[0]) if arguments else 100)
    elif section == "47tuc":
        tucanae(Path(arguments[0]), Path(arguments[1]) if len(arguments) > 1 else None)
    elif section == "ngc1644":
        ngc1644(Path(arguments[0]), Path(arguments[1]), Path(arguments[2]) if len(arguments) > 2 else None)
    else:
        pictures_of_simulations(Path(arguments[0]))
