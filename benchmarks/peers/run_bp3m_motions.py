"""BP3M's solver on made-up Gaia stars and older exposures; writes what went in and what came out.

usage (in an environment with bp3m): python run_bp3m_motions.py OUT.npz

`python benchmarks/bench_motions.py --bp3m OUT.npz` gives the same to dpm.science.motions.combine_with_priors.  Gaia's systematic
errors that BP3M adds are set to zero, and its rejection of stars is off, so that both solve the same equations.
"""

import sys

import numpy as np
import pandas as pd
from astropy.time import Time
from bp3m import solver

MAS_PER_PIXEL, MJD, N_STARS, N_IMAGES, NOISE = 50.0, 54000.0, 120, 3, 0.02
RA0, DEC0 = 80.49, -69.4978

for key in solver.GAIA_SYS_DICT:
    solver.GAIA_SYS_DICT[key] = 1.0 if key.startswith("mult") else 0.0

rng = np.random.default_rng(7)
ra = RA0 + rng.uniform(-0.02, 0.02, N_STARS) / np.cos(np.radians(DEC0))
dec = DEC0 + rng.uniform(-0.02, 0.02, N_STARS)
sigma = np.array([0.2, 0.2, 0.25, 0.25, 0.2]) * rng.uniform(0.5, 3.0, (N_STARS, 1))
true = np.column_stack([np.zeros((N_STARS, 2)), rng.normal(0, 2, (N_STARS, 2)), rng.uniform(0, 1, N_STARS)])
true[:, :2] = sigma[:, :2] * rng.normal(size=(N_STARS, 2))
prior = true[:, 2:] + sigma[:, 2:] * rng.normal(size=(N_STARS, 3))
gaia = pd.DataFrame({"ra": ra, "dec": dec, "gmag": 19.0, "ruwe": 1.0, "pseudocolour": np.nan, "Gaia_time": 2016.0})
for k, name in enumerate(("pmra", "pmdec", "parallax")):
    gaia[name] = prior[:, k]
for k, name in enumerate(("ra", "dec", "pmra", "pmdec", "parallax")):
    gaia[f"{name}_error"] = sigma[:, k]

when = Time(MJD, format="mjd")
years = float((when - Time(2016.0, format="jyear", scale="tcb")).to_value("yr"))
xs, ys = solver.plane_project(ra, dec, RA0, DEC0, MAS_PER_PIXEL)
jacobian = solver.plane_project_jacobian(ra, dec, RA0, DEC0, MAS_PER_PIXEL)
factor = np.column_stack(solver.get_parallax_factors(ra, dec, solver.get_tele_position(when, curr_id="earth")))
offset = true[:, :2] + years * true[:, 2:4] + factor * true[:, 4:]
here = np.column_stack([xs, ys]) + np.einsum("nij,nj->ni", jacobian, offset)
images, tables, raw = {}, {}, []
for number in range(N_IMAGES):
    name, shift = f"image{number}", rng.normal(0, 1.0, 2)
    turn = np.eye(2) + 1e-4 * rng.normal(size=(2, 2))
    pixel = here @ turn.T + shift + rng.normal(0, NOISE, here.shape)
    raw.append(pixel)
    images[name] = {"ra0": RA0, "dec0": DEC0, "orig_pixel_scale": MAS_PER_PIXEL, "orig_rot_deg": 0.0, "hst_time_mjd": MJD}
    tables[name] = pd.DataFrame({
        "Gaia_id": np.arange(N_STARS), "X": pixel[:, 0] + 2048.0, "Y": pixel[:, 1] + 2048.0, "use_for_alignment": True, "q_hst": 0.01,
        "x_hst_err": NOISE, "y_hst_err": NOISE, "xy_hst_corr": 0.0,
    })  # fmt: skip
    for extra in ("use_for_fit", "use_for_align_init"):
        tables[name][extra] = True
run = solver.BP3MSolver(images, tables, gaia, {k: k for k in range(N_STARS)}, list(images), None)
found = run.fit(clip_sigma=None, prefilter=False, use_influence_clip=False)
r_hat, r_covariance, value, covariance, start, gain, _ = found
# The covariance that `fit` returns is for fixed transforms; what these add comes from samples of them.
covariance = covariance + run.sample_posteriors(r_hat, r_covariance, start, gain, covariance, n_samples=20000)[2]
np.savez(
    sys.argv[1], value=value, covariance=covariance, true=true, prior=np.column_stack([np.zeros((N_STARS, 2)), prior]), sigma=sigma,
    plane=np.column_stack([xs, ys]), jacobian=jacobian, raw=np.array(raw), years=years, factor=factor, noise=NOISE,
)
