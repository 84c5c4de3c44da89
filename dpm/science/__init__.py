"""Table in, table out, with no run folder: what follows from artificial stars, for anyone who has a table of them.

    from dpm.science import read_dolphot_artificial_stars, fit_completeness

    stars = read_dolphot_artificial_stars("field.matchfake", ["acswfc_f555w", "acswfc_f814w"])
    curve = fit_completeness(stars, "acswfc_f814w", magnitudes=(17.0, 26.5))
    curve.limit(0.5)        # the 50 % magnitude and its error
    curve(catalog["f814w"])

`dpm.science.cmd` has sequences in colour-magnitude diagrams and differential reddening, `dpm.science.isochrones` isochrones and
cooling tracks, `dpm.science.populations` synthetic populations and fits of them.

Tables are astropy Tables or QTables, DataFrames, or mappings of arrays; columns have the names of
``tables/artificial_stars.parquet``, and `standard_artificial_stars` gives any table these names.
"""

from dpm.science.artificial_tables import map_columns, read_dolphot_artificial_stars, standard_artificial_stars
from dpm.science.completeness import completeness_in_bins, completeness_table, in_good_region, local_sky_rms, recovered_in
from dpm.science.completeness_curve import CompletenessCurve, fit_completeness
from dpm.science.completeness_map import CompletenessMap, fit_completeness_map
from dpm.science.completeness_of_stars import star_completeness
from dpm.science.completeness_two_magnitudes import TwoMagnitudeCompleteness, completeness_of_two_magnitudes
from dpm.science.error_model import ErrorModel, fit_error_model
from dpm.science.luminosity_fit import LuminosityFit, fit_luminosity_function, slope_and_cutoff
from dpm.science.luminosity_function import LuminosityFunction, luminosity_function
from dpm.science.migration import MigrationMatrix, correct_magnitudes, migration_correction, migration_matrix
from dpm.science.quality_cuts import quality_cut, well_recovered
from dpm.science.random_errors import filter_correlation, motion_errors, random_errors
from dpm.science.selections import (
    Selection,
    apply_selections,
    cmd_region,
    count_selections,
    footprint,
    motion_radius,
    read_selections,
    write_selections,
)

__all__ = [
    "CompletenessCurve",
    "CompletenessMap",
    "ErrorModel",
    "LuminosityFit",
    "LuminosityFunction",
    "MigrationMatrix",
    "Selection",
    "TwoMagnitudeCompleteness",
    "apply_selections",
    "cmd_region",
    "completeness_in_bins",
    "completeness_of_two_magnitudes",
    "completeness_table",
    "correct_magnitudes",
    "count_selections",
    "filter_correlation",
    "fit_completeness",
    "fit_completeness_map",
    "fit_error_model",
    "fit_luminosity_function",
    "footprint",
    "in_good_region",
    "local_sky_rms",
    "luminosity_function",
    "map_columns",
    "migration_correction",
    "migration_matrix",
    "motion_errors",
    "motion_radius",
    "quality_cut",
    "random_errors",
    "read_dolphot_artificial_stars",
    "read_selections",
    "recovered_in",
    "slope_and_cutoff",
    "standard_artificial_stars",
    "star_completeness",
    "well_recovered",
    "write_selections",
]
