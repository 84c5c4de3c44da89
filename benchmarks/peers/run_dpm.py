"""dpm's first pass (find, sky, fit, quality, errors) on the scene, as one exposure without a run folder; kernels warm."""

import time

import common
import numpy as np

import dpm
from dpm.io.stdpsf import read_stdpsf
from dpm.models.exposure import ExposureImage
from dpm.models.options import FindOptions
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.first_pass.table import detection_table

a = common.args("dpm", passes=dict(type=int, default=3), repeat=dict(type=int, default=5))
s = common.load(a)
one = np.ones(s["im"].shape, np.float32)
image = ExposureImage(
    "scene", "NRCA1", "F115W", s["im"].astype(np.float32), one * np.float32(s["rn"] ** 2), one, one * 0, one,
    np.zeros(one.shape, np.uint8), x_origin=s["x0"], y_origin=s["y0"],
)  # fmt: skip
epsf = read_stdpsf(s["stdpsf"])
options = FindOptions(passes=a.passes)
detection_table(image, epsf, measure_exposure(image, epsf, options), "electron")
best = np.inf
for _ in range(a.repeat):
    start = time.process_time()
    with common.Meter() as m:
        table = detection_table(image, epsf, measure_exposure(image, epsf, options), "electron")
    best = min(best, time.process_time() - start)
common.write(
    a, table["x"], table["y"], table["flux"], m, f"dpm {dpm.__version__}", best_cpu_s=round(best, 3),
    stars_per_cpu_s=round(len(table) / best), repeats=a.repeat, passes=a.passes,
)  # fmt: skip
