"""Table in, table out, with no run folder: completeness, errors and selections for anyone with artificial stars."""

from dpm.science.completeness import completeness_in_bins
from dpm.science.completeness_curve import fit_completeness
