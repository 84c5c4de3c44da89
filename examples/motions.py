"""Members, bulk motion and dispersion from a catalogue with proper motions alone.

usage: python examples/motions.py CATALOG RA DEC

The catalogue has Gaia's column names (``ra, dec, pmra, pmdec, pmra_error, pmdec_error, pmra_pmdec_corr``), such as
``tables/catalog.parquet`` of a run; RA and DEC (degrees) are the cluster's centre.
"""

import sys

import numpy as np
from astropy.table import Table

from dpm.io.tables import read_table
from dpm.science.motions import bulk_motion, dispersion_profile, fit_mixture, motion_vectors, tangent_positions

if __name__ == "__main__":
    path, center = sys.argv[1], (float(sys.argv[2]), float(sys.argv[3]))
    catalog = read_table(path) if path.endswith(".parquet") else Table.read(path)
    motion, covariance = motion_vectors(catalog)
    position, _ = tangent_positions(catalog["ra"], catalog["dec"], center)
    radius = np.hypot(*position.T)

    mixture = fit_mixture(motion, covariance, radius)
    probability = mixture.probability(motion, covariance, radius)
    member = np.nan_to_num(probability) > 0.9
    print(f"{member.sum()} members of {mixture.n} stars (evidence for a cluster: {mixture.evidence:.0f})")
    for name, value, error in zip(("East", "North"), mixture.mean, mixture.mean_error):
        print(f"motion to the {name}: {value:+.4f} +- {error:.4f} mas/yr")
    median = bulk_motion(motion[member])
    print("clipped median: {:+.4f} {:+.4f}".format(*median.motion), "+- {:.4f} {:.4f}".format(*median.error))
    print(f"intrinsic dispersion: {mixture.sigma:.4f} +- {mixture.sigma_error:.4f} mas/yr")
    dispersion_profile(position[member], motion[member] - mixture.mean, covariance[member]).pprint_all()
