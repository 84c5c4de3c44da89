"""From somebody's catalogue and artificial stars: luminosity function, fiducial line, and differential reddening.

usage: python examples/luminosity_function.py FILE.gst.matchfake FILE_gst.fits

The two files are those of a DOLPHOT run with F555W and F814W of ACS.
"""

import sys

import numpy as np
from astropy.table import Table

from dpm.report.plots_population import plot_luminosity_function, plot_reddening_map
from dpm.science import (
    cmd_region,
    correct_magnitudes,
    fit_completeness,
    fit_error_model,
    luminosity_function,
    map_columns,
    migration_correction,
    read_dolphot_artificial_stars,
    recovered_in,
)
from dpm.science.cmd import color_errors, fiducial_line, fit_reddening_map
from dpm.science.isochrones import band_extinctions

BLUE, RED = "acswfc_f555w", "acswfc_f814w"

if __name__ == "__main__":
    stars = read_dolphot_artificial_stars(sys.argv[1], [BLUE, RED])
    columns = {"ra": "RA", "dec": "DEC", f"{BLUE}_mag": "F555W_VEGA", f"{RED}_mag": "F814W_VEGA"}
    catalog = map_columns(Table.read(sys.argv[2]), columns)

    # Brighter than 17 stars saturate.  Completeness is a function of true magnitudes: those corrected for migration.
    curve = fit_completeness(stars, RED, recovered_in(stars, RED), magnitudes=(17.0, 26.5))
    true = correct_magnitudes(catalog[f"{RED}_mag"], migration_correction(stars, RED))
    observed = luminosity_function(true, curve, 0.25)
    observed.to_table().write("luminosity_function.ecsv", overwrite=True)
    plot_luminosity_function(observed, RED).savefig("luminosity_function.png")

    main_sequence = cmd_region(BLUE, RED, [(0.3, 21.5), (0.75, 21.5), (0.95, 23.3), (0.45, 23.3)], RED)(catalog)
    chosen = catalog[main_sequence]
    magnitude, color = chosen[f"{RED}_mag"], chosen[f"{BLUE}_mag"] - chosen[f"{RED}_mag"]
    line = fiducial_line(magnitude, color)
    print("colour at F814W = 22.5: {:.3f} +- {:.3f}".format(line(22.5), line.color_error(22.5)))

    x = (chosen["ra"] - np.mean(chosen["ra"])) * np.cos(np.radians(np.mean(chosen["dec"]))) * 3600.0
    y = (chosen["dec"] - np.mean(chosen["dec"])) * 3600.0
    errors = color_errors(fit_error_model(stars, BLUE, RED), np.column_stack([chosen[f"{BLUE}_mag"], magnitude]))
    per_reddening = band_extinctions([BLUE, RED], 3.1)  # A of each band for E(B-V) = 1
    reddening = fit_reddening_map(x, y, magnitude, color, per_reddening[BLUE] - per_reddening[RED], per_reddening[RED], errors)
    value, error = reddening(x, y)
    print(f"differential reddening: scatter {np.std(value):.4f} mag, its error {np.median(error):.4f}")
    plot_reddening_map(reddening).savefig("reddening.png")
