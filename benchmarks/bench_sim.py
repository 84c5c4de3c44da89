"""First pass and catalogue on the independent simulation, scored against its truth and the Cramer-Rao bound.

usage: python benchmarks/bench_sim.py [--scene ../shared/data/sim] [--source truth|build|LIBRARY] [--keep FOLDER]

``truth`` gives the pipeline the scene's own ePSF as a library; ``build`` lets it make one; anything else is a folder of STDPSF
files, as `bench_calibration.py limit --keep FOLDER` leaves in ``FOLDER/limit_epsf/calibration/psf``.  The scorer
(`benchmarks/scorer/score.py`) shares no code with dpm.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dpm.io.stdpsf import write_stdpsf
from dpm.models.epsf import GriddedEPSF

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = {"nis": "NIRISS", "nrca1": "NRCA1"}


def write_true_libraries(scene: Path, folder: Path) -> None:
    """The scene's ePSFs, 193 x 193 samples, cut to the 101 x 101 of an STDPSF file."""
    detector = next(name for key, name in LIBRARY.items() if list(scene.glob(f"*_{key}_cal.fits")))
    for path in scene.glob("truth/epsf_*.npz"):
        data = np.load(path)
        grid = data["epsf"].astype(float)
        middle = grid.shape[-1] // 2
        cut = slice(middle - 50, middle + 51)
        nodes = data["nodes"].astype(float)
        write_stdpsf(folder / f"STDPSF_{detector}_{path.stem.split('_')[1]}.fits", GriddedEPSF(grid[:, :, cut, cut], nodes, nodes))


def reference_line(scene: Path) -> str:
    """The configuration's line for the scene's reference catalogue; empty where it has none."""
    path = scene.resolve() / "reference.ecsv"
    return f'reference = "{path}"\n' if path.exists() else ""


def main() -> int:
    """Run and score; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, default=ROOT.parent / "shared" / "data" / "sim")
    parser.add_argument("--source", default="truth", help="truth, build or a folder of STDPSF files")
    parser.add_argument("--keep", type=Path, help="folder for the run; a temporary one otherwise")
    arguments = parser.parse_args()
    if not arguments.scene.is_dir():
        print(f"skipped: no scene at {arguments.scene}")
        return 0
    if arguments.source not in ("truth", "build") and not list(Path(arguments.source).glob("STDPSF_*.fits")):
        parser.error(f"--source {arguments.source}: neither truth nor build nor a folder of STDPSF files")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        library = folder / "library" if arguments.source == "truth" else Path(arguments.source).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.source == "truth":
            library.mkdir(exist_ok=True)
            write_true_libraries(arguments.scene, library)
        source = "build" if arguments.source == "build" else str(library)
        config = folder / "field.toml"
        config.write_text(
            f'[run]\nname = "sim"\ndirectory = "{folder / "run"}"\n\n[input]\n'
            f'exposures = ["{arguments.scene.resolve()}/*_cal.fits"]\n{reference_line(arguments.scene)}\n'
            f'[psf]\nsource = "{source}"\n'
        )
        for command in (
            [sys.executable, "-m", "dpm", "run", str(config)],
            [sys.executable, str(ROOT / "benchmarks/scorer/score.py"), str(arguments.scene), str(folder / "run")],
            [sys.executable, str(ROOT / "benchmarks/phase_harmonics.py"), str(arguments.scene), str(folder / "run")],
        ):
            code = subprocess.run(command, check=False, cwd=ROOT).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
