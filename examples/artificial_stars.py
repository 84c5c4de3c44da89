"""From somebody's catalogue alone: completeness, errors and a clean sample from tables of real and artificial stars.

usage: python examples/artificial_stars.py FILE.gst.matchfake FILE_gst.fits

The two files are those of a DOLPHOT run with two filters, here F555W and F814W of ACS; any other tables will do with
`standard_artificial_stars`.
"""

import sys

from astropy.table import Table

from dpm.report.plots_artificial import plot_completeness, plot_recovered_minus_inserted, plot_selection_steps
from dpm.science import (
    apply_selections,
    cmd_region,
    correct_magnitudes,
    count_selections,
    fit_completeness,
    fit_error_model,
    map_columns,
    migration_correction,
    read_dolphot_artificial_stars,
    recovered_in,
    write_selections,
)

BLUE, RED = "acswfc_f555w", "acswfc_f814w"

if __name__ == "__main__":
    stars = read_dolphot_artificial_stars(sys.argv[1], [BLUE, RED])
    columns = {"ra": "RA", "dec": "DEC", f"{BLUE}_mag": "F555W_VEGA", f"{RED}_mag": "F814W_VEGA"}
    catalog = map_columns(Table.read(sys.argv[2]), columns)

    # Brighter than 17 stars saturate.
    curve = fit_completeness(stars, RED, recovered_in(stars, RED), magnitudes=(17.0, 26.5))
    print("50 % limit: {:.3f} +- {:.3f}".format(*curve.limit(0.5)), f"({curve.form}, p = {curve.p_value:.2f})")
    corrected = correct_magnitudes(catalog[f"{RED}_mag"], migration_correction(stars, RED))
    catalog["completeness"], catalog["completeness_error"] = curve(corrected), curve.error(corrected)

    steps = [cmd_region(BLUE, RED, [(0.2, 20.0), (0.8, 20.0), (1.3, 25.0), (0.5, 25.0)])]
    print(count_selections(catalog, stars, steps))
    write_selections("selections.ecsv", steps)
    sample = catalog[apply_selections(catalog, steps)]

    errors = fit_error_model(stars, BLUE, RED)
    simulated = errors.draw([[24.0, 23.2]] * 1000, 42)  # the same star a thousand times; NaN where it is lost
    print(f"{len(sample)} stars; a star of F814W = 23.2 has an error of {errors.scatter(RED, 23.2):.3f} mag")

    plot_completeness(stars, RED, {"recovered": (recovered_in(stars, RED), None)}, (17.0, 26.5)).savefig("completeness.png")
    plot_recovered_minus_inserted(stars, RED).savefig("errors.png")
    plot_selection_steps(catalog, stars, steps, BLUE, RED).savefig("selections.png")
