"""Time and memory of artificial stars on simulated fields.

usage: python benchmarks/bench_artificial_stars.py [--number 5000] [--exposures 18] [--stars 1300] [--area 210] [--keep FOLDER]

The field is that of `bench_second_pass.py`: ``--area`` pixels of an exposure for each star.  The stage's steps run in a process
of their own, one after the other and on one core, with the kernels loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_second_pass import ROOT, make_run, time_steps

from dpm.config import load_options
from dpm.io.run_folder import RunFolder
from dpm.models.options import ArtificialStarsOptions
from dpm.stages import artificial_stars


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=5000, help="artificial stars")
    parser.add_argument("--exposures", type=int, default=18)
    parser.add_argument("--stars", type=int, default=1300)
    parser.add_argument("--area", type=float, default=210.0, help="pixels of an exposure for each star of the field")
    parser.add_argument("--keep", type=Path, help="folder for the field and run, used again if they are there")
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.time:
        told = replace(load_options(options.time / "field.toml"), artificial_stars=ArtificialStarsOptions(n=options.number))
        print(json.dumps(time_steps(artificial_stars, RunFolder(options.time / "run"), told)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep.resolve() if options.keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "run" / "tables" / "catalog.parquet").exists():
            make_run(folder, options.exposures, options.stars, int(np.sqrt(options.stars * options.area)))
        command = [sys.executable, __file__, "--time", str(folder), "--number", str(options.number)]
        out = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    found = json.loads(out.splitlines()[-1])
    total = sum(found[step] for step in artificial_stars.ROUNDS)
    print(
        f"{options.exposures} exposures, {options.stars} stars, {options.number} artificial stars: "
        + ", ".join(f"{step} {found[step]:.1f} s" for step in artificial_stars.ROUNDS)
        + f"; {1e3 * total / options.number:.1f} ms each, recovered {found['recovered']}, peak {found['gib']:.2f} GiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
