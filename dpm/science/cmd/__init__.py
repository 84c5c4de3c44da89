"""Sequences in colour-magnitude diagrams: fiducial lines, rectified colours, shares, differential reddening."""

from dpm.science.cmd.fiducial import FiducialLine, fiducial_line, rectified_color, sequence_region
from dpm.science.cmd.fractions import SequenceFractions, color_errors, gaussian_fractions, mixture_fractions
from dpm.science.cmd.reddening import ReddeningMap, fit_reddening_map

__all__ = [
    "FiducialLine",
    "ReddeningMap",
    "SequenceFractions",
    "color_errors",
    "fiducial_line",
    "fit_reddening_map",
    "gaussian_fractions",
    "mixture_fractions",
    "rectified_color",
    "sequence_region",
]
