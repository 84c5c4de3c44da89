"""Proper motions, membership and internal kinematics: arrays or tables in and out, for anyone with a catalogue.

    from dpm.science.motions import fit_mixture, motion_vectors, relative_motions, tangent_positions

    motion, covariance = motion_vectors(catalog)                    # pmra, pmdec and their errors, mas/yr
    mixture = fit_mixture(motion, covariance)
    catalog["member_probability"] = mixture.probability(motion, covariance)

Motions are (n, 2) to the East (with cos dec) and to the North, with covariances (n, 2, 2); docs/motions.md goes through all of it.
"""

from dpm.science.motions.absolute import ZeroPoint, zero_point_from_galaxies, zero_point_from_motions
from dpm.science.motions.circles import MembershipCircles, membership_circles
from dpm.science.motions.dispersion import (
    BulkMotion,
    Dispersion,
    bulk_motion,
    dispersion_profile,
    intrinsic_dispersion,
    radial_and_tangential,
)
from dpm.science.motions.groups import Overdensity, find_overdensity
from dpm.science.motions.histogram import KinematicHistogram, kinematic_histogram, principal_direction
from dpm.science.motions.lists import SkyPositions, displacements, match_positions, motions_between, sky_positions
from dpm.science.motions.members import MemberMotions, member_motions
from dpm.science.motions.mixture import Mixture, densest_motion, fit_mixture
from dpm.science.motions.parallax import parallax_factors
from dpm.science.motions.priors import Combination, combine_states, combine_with_priors
from dpm.science.motions.relative import RelativeMotions, relative_motions
from dpm.science.motions.slopes import Slopes, fit_slopes, two_epoch_difference
from dpm.science.motions.smooth_errors import ErrorTerm, SmoothErrors, detector_terms, fit_smooth_errors, place_map
from dpm.science.motions.systematics import ErrorFloor, LocalCorrection, error_floor, local_correction, motion_map
from dpm.science.motions.vectors import MotionError, as_covariance, motion_vectors, tangent_positions

__all__ = [
    "BulkMotion",
    "Combination",
    "Dispersion",
    "ErrorFloor",
    "ErrorTerm",
    "KinematicHistogram",
    "LocalCorrection",
    "MemberMotions",
    "MembershipCircles",
    "Mixture",
    "MotionError",
    "Overdensity",
    "RelativeMotions",
    "SkyPositions",
    "Slopes",
    "SmoothErrors",
    "ZeroPoint",
    "as_covariance",
    "bulk_motion",
    "combine_states",
    "combine_with_priors",
    "densest_motion",
    "dispersion_profile",
    "detector_terms",
    "displacements",
    "error_floor",
    "find_overdensity",
    "fit_mixture",
    "fit_slopes",
    "fit_smooth_errors",
    "intrinsic_dispersion",
    "kinematic_histogram",
    "local_correction",
    "match_positions",
    "member_motions",
    "membership_circles",
    "motion_map",
    "motion_vectors",
    "motions_between",
    "parallax_factors",
    "place_map",
    "principal_direction",
    "radial_and_tangential",
    "relative_motions",
    "sky_positions",
    "tangent_positions",
    "two_epoch_difference",
    "zero_point_from_galaxies",
    "zero_point_from_motions",
]
