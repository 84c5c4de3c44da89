"""Time and memory of what grows with the number of artificial stars beside their recovery: the plan, the tasks, the table.

usage: python benchmarks/bench_artificial_scale.py --run FOLDER [--number 1000000] [--chunks 2]

FOLDER holds ``field.toml`` and a finished ``run`` (see ``--keep`` of `bench_completeness.py`), whose files in ``work`` are used and
removed.  The stars are planned as the stage plans them; what tasks would have measured is made up (the stars themselves with noise)
for ``--chunks`` chunks, which are averaged; the others' parts of the table are copies of these, and all are joined.  Each step runs
in a process of its own, whose peak memory it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_second_pass import ROOT
from numpy.typing import NDArray
from scipy import ndimage

from dpm.config import load_options
from dpm.execute.base import peak_memory
from dpm.io.run_folder import RunFolder
from dpm.io.star_lists import write_arrays
from dpm.models.options import ArtificialStarsOptions, Options
from dpm.models.patches import NODE_STEP
from dpm.stages import artificial_stars
from dpm.stages.artificial_stars.files import STAGE, chunk_file, read_chunks, read_plan, recovered_file
from dpm.stages.second_pass.field import SecondPassField
from dpm.stages.second_pass.measure import MEASURED

STEPS = ("gather", "plan", "made up", "learn", "assemble", "join", "select")


def made_up(field: SecondPassField, plan: dict[str, NDArray], group: int) -> dict[str, NDArray]:
    """Rows of MEASURED of stars as they went in, with noise of one sigma."""
    rng = np.random.default_rng(1)
    parts = []
    for number, (exposure, geometry) in enumerate(zip(field.groups[group].exposures, field.geometries(group))):
        at = [plan[f"y_{group}"] / NODE_STEP - geometry.first_row, plan[f"x_{group}"] / NODE_STEP - geometry.first_column]
        x, y, scale = (ndimage.map_coordinates(plane, at, order=3, cval=np.nan) for plane in geometry.nodes[:3])
        (ny, nx), (x0, y0) = exposure.shape, exposure.origin
        flux = plan[f"{field.groups[group].bands[exposure.band]}_flux"] * scale
        k = np.flatnonzero((x > x0) & (x < x0 + nx - 1) & (y > y0) & (y < y0 + ny - 1) & np.isfinite(flux))
        error = np.sqrt(9.0 + flux[k] / 100)
        star = {name: np.ones(len(k), dtype) for name, dtype in MEASURED.items()}
        relative = np.clip(0.6 * error / flux[k], 1e-3, 1.0)
        star |= {
            "star": plan["id"][k], "exposure": np.full(len(k), number), "x": x[k] + relative * rng.standard_normal(len(k)),
            "y": y[k] + relative * rng.standard_normal(len(k)), "x_error": relative, "y_error": relative, "scale": scale[k],
            "flux": flux[k] + error * rng.standard_normal(len(k)), "flux_error": error, "flags": np.zeros(len(k)),
            "star_significance": 3 * flux[k] / error, "radxs": np.zeros(len(k)), "ring": np.zeros(len(k)),
            "xy_covariance": np.zeros(len(k)), "neighbor_ratio": np.zeros(len(k)),
        }  # fmt: skip
        parts.append({name: np.asarray(star[name]).astype(dtype) for name, dtype in MEASURED.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in MEASURED}


def write_made_up(folder: RunFolder, chunks: list[tuple[int, int]]) -> None:
    """Parts of some chunks, as tasks of one pass and tile leave them."""
    field = SecondPassField.load(folder, STAGE)
    for first, last in chunks:
        plan = read_plan(folder, first, last)
        for group in range(len(field.groups)):
            rows = made_up(field, plan, group)
            place = np.floor(np.column_stack([plan[f"y_{group}"], plan[f"x_{group}"]]) / field.groups[group].side).astype(int)
            tiles = np.array([field.tile_of.get((group, int(r), int(c)), -1) for r, c in place])
            star = np.searchsorted(np.sort(plan["id"]), rows["star"])
            order = np.argsort(plan["id"])
            for number in range(first, last):
                for tile in np.unique(tiles[tiles >= 0]):
                    mine = (plan["pass"] == number) & (tiles == tile)
                    chosen = mine[order][star]
                    found = {"id": plan["id"][mine], "distance": np.full(mine.sum(), 0.1)}
                    found |= {f"{band}_sky_rms": np.ones(mine.sum()) for band in field.groups[group].bands}
                    write_arrays(recovered_file(folder, "measured", int(tile), number), {k: v[chosen] for k, v in rows.items()})
                    write_arrays(recovered_file(folder, "found", int(tile), number), found)


def copy_chunks(folder: RunFolder, n: int) -> list[tuple[int, int]]:
    """Parts of the table for all chunks from the first ``n``; smallest and largest number of a star in each."""
    ends = []
    made = [pq.read_table(chunk_file(folder, number)) for number in range(n)]
    for number, passes in enumerate(read_chunks(folder)):
        ids = np.sort(read_plan(folder, *passes)["id"])
        ends.append((int(ids[0]), int(ids[-1])))
        table = made[number % n]
        rows = np.resize(np.arange(len(table)), len(ids))
        pq.write_table(table.take(rows).set_column(0, table.schema.field(0), pa.array(ids)), chunk_file(folder, number))
    return ends


def run_step(step: str, folder: RunFolder, options: Options, n_chunks: int) -> dict[str, float]:
    """One step; what it counted."""
    if step == "gather":
        tasks = artificial_stars.plan(folder, options)
        return {"tasks": len([artificial_stars.work(task) for task in tasks])}
    results: list[list[dict]] = [[{"stars": 1}]]
    if step == "plan":
        tasks = artificial_stars.next_round(folder, options, results)
        return {"tasks": len(tasks), "seconds estimated": sum(task.cost for task in tasks), "chunks": len(read_chunks(folder))}
    chunks = read_chunks(folder)
    if step == "made up":
        write_made_up(folder, chunks[:n_chunks])
        return {}
    if step == "learn":
        artificial_stars.work(artificial_stars.next_round(folder, options, results)[-1])
        return {}
    if step == "assemble":
        tasks = artificial_stars.next_round(folder, options, [*results, [{}]])[:n_chunks]
        return {"stars": sum(artificial_stars.work(task)["stars"] for task in tasks)}
    if step == "join":
        ends = copy_chunks(folder, n_chunks)
        begin = time.process_time()
        artificial_stars.work(artificial_stars.next_round(folder, options, [*results, [{}], [{"ends": pair} for pair in ends]])[0])
        return {"join alone": time.process_time() - begin}
    from dpm.stages.selection.run import select_stars

    return {"recovered": select_stars(folder, options.selection)["recovered"]}


def main() -> int:
    """Print a line a step; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--number", type=int, default=1_000_000)
    parser.add_argument("--chunks", type=int, default=2)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    told = parser.parse_args()
    options = load_options(told.run / "field.toml")
    options = replace(options, artificial_stars=ArtificialStarsOptions(n=told.number))
    folder = RunFolder(Path(options.run.directory))
    if told.step:
        begin, cpu = time.perf_counter(), time.process_time()
        out = run_step(told.step, folder, options, told.chunks)
        peak = peak_memory() / 2**30
        out |= {"seconds": time.perf_counter() - begin, "CPU-s": time.process_time() - cpu, "peak GiB": peak}
        print(json.dumps(out))
        return 0
    for step in STEPS:
        command = [sys.executable, __file__, "--step", step, "--run", str(told.run), "--number", str(told.number)]
        text = subprocess.run([*command, "--chunks", str(told.chunks)], check=True, cwd=ROOT, capture_output=True, text=True).stdout
        found = json.loads(text.splitlines()[-1])
        print(f"{step}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
    artificial_stars.finalise(folder, options, [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
