"""The README's picture, from the run folder of ``dpm demo``: an exposure, what is left of it, and the catalogue's colours.

usage: python docs/make_picture.py DEMO_RUN docs/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from dpm.io.cubes import read_exposure, read_exposure_table
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_stdpsf
from dpm.io.tables import read_table
from dpm.kernels import quality as columns
from dpm.models.options import FindOptions
from dpm.stages.first_pass.measure import measure_exposure

BOX = 160  # pixels shown


def main(root: Path, output: Path) -> None:
    """Draw the three panels."""
    folder = RunFolder(root)
    row = read_exposure_table(folder)[0]
    image = read_exposure(folder.cubes / str(row["cube"]), int(row["index"]))
    epsf = read_stdpsf(folder.psf_file(str(row["detector"]), str(row["filter"])), centre=False)
    measured = measure_exposure(image, epsf, FindOptions())
    catalog = read_table(folder.catalog)
    bands = sorted(name[: -len("_mag")] for name in catalog.colnames if name.endswith("_mag"))
    sky = float(np.nanmedian(image.sci))
    spread = float(np.nanpercentile(image.sci, 99) - sky)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), width_ratios=(1, 1, 0.8))
    for axis, pixels, title in ((axes[0], image.sci, "an exposure and what was found"), (axes[1], measured.residual, "minus all stars")):
        axis.imshow(np.arcsinh((pixels - sky) / spread * 10), origin="lower", cmap="gray_r", vmin=-1.5, vmax=5)
        axis.set(xlim=(0, BOX), ylim=(0, BOX), title=title, xlabel="x (pixels)")
    axes[0].plot(measured.rows[:, columns.X], measured.rows[:, columns.Y], "o", mfc="none", mec="tab:red", ms=5, mew=0.8)
    axes[0].set_ylabel("y (pixels)")
    first, second = (np.asarray(catalog[f"{band}_mag"], float) for band in bands[:2])
    axes[2].plot(first - second, first, "k.", ms=1.5)
    names = [band.split("_")[1].upper() for band in bands[:2]]
    axes[2].set(xlabel=f"{names[0]} - {names[1]}", ylabel=names[0], title="the catalogue", xlim=(-1, 2.5))
    axes[2].invert_yaxis()
    figure.tight_layout()
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
