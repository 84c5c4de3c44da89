"""Time, memory and errors of the distortion's solution on large lists of measurements; no images are made.

usage: python benchmarks/bench_distortion_size.py [--residuals 1000000] [--detections 1000000] [--empty 400] [--seed 5]

Measurements of 18 dithers of 2048 x 2048 (two filters) with the simulator's distortion (SIAF polynomial, filter terms,
waves, a void) and photon noise; the header knows nothing but the linear part.  ``--empty`` leaves the stars out of a corner
of so many pixels, and the map's error there is printed by the distance from the last stars.  Each part is one process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Before numpy: BLAS threads get in the way on a shared machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from bench_calibration import Watch

from dpm.execute.base import peak_memory
from dpm.io.reference import ReferenceCatalog
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions
from dpm.models.transform import LinearTransform, fit_linear
from dpm.simulate.geometry import Distortion, load_polynomial, make_small_terms
from dpm.simulate.options import Effects
from dpm.stages.distortion.fine import fine_term
from dpm.stages.distortion.solve import solve_distortion
from dpm.stages.frame.units import Unit

SIZE, SCALE = 2048, 0.0656
MIDDLE = (SIZE - 1) / 2
SPAN = SIZE + 300  # of the field, master pixels
STEP = 110.0  # between dithers
FILTERS = ("F090W", "F150W")
REFERENCE_STARS = 3000
DEPTHS = (0, 16, 32, 64, 96, 128, 192, 256, 400)


@dataclass
class Field:
    """Stars on the master frame, and a distortion for each filter."""

    detections: int
    empty: float
    seed: int

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        n = int(self.detections / (9 * len(FILTERS)) * (SPAN / SIZE) ** 2)
        self.x, self.y = self.rng.uniform(0, SPAN, (2, n))
        self.mag = self.rng.power(1.6, n) * 9
        self.error = np.clip(0.003 * 10 ** (0.2 * (self.mag - 3)), 0.002, 0.2)
        self.frame = MasterFrame(80.49, -69.4978, SCALE, SPAN, SPAN)
        _, waves, void = make_small_terms(self.rng, Effects())
        polynomial = load_polynomial("NIRISS")
        terms = {name: make_small_terms(self.rng, Effects())[0] for name in FILTERS}
        self.maps = {name: Distortion(polynomial, 0, 0, 0, 0, SIZE, SIZE, (0.0, 0.0), terms[name], waves, void) for name in FILTERS}
        first, h = self.maps[FILTERS[0]], 8.0
        right, left = first.to_ideal(MIDDLE + h, MIDDLE), first.to_ideal(MIDDLE - h, MIDDLE)
        upper, lower = first.to_ideal(MIDDLE, MIDDLE + h), first.to_ideal(MIDDLE, MIDDLE - h)
        self.linear = np.array([np.subtract(right, left), np.subtract(upper, lower)]).T / (2 * h)

    def corrected(self, x: np.ndarray, y: np.ndarray, name: str) -> np.ndarray:
        """Corrected positions (2, n) about the detector's centre, pixels."""
        origin = np.array(self.maps[name].to_ideal(MIDDLE, MIDDLE))[:, None]
        return np.linalg.solve(self.linear, np.array(self.maps[name].to_ideal(x, y)) - origin)

    def unit(self, number: int, name: str) -> Unit:
        """Detections of one exposure."""
        rng, k = self.rng, number % 9
        va = 1 + 3e-5 * rng.normal()
        centre = SPAN / 2 + STEP * np.array([k % 3 - 1, k // 3 - 1]) + rng.normal(0, 8, 2)
        ideal = self.linear @ ((np.array([self.x, self.y]) - centre[:, None]) / va)
        origin = self.maps[name].to_ideal(MIDDLE, MIDDLE)
        x, y = self.maps[name].to_raw(ideal[0] + origin[0], ideal[1] + origin[1])
        seen = np.flatnonzero(
            (x > 0) & (x < SIZE - 1) & (y > 0) & (y < SIZE - 1) & (np.minimum(x, y) < SIZE - self.empty)
        )
        n, error = len(seen), self.error[seen]
        x, y = x[seen] + rng.normal(size=n) * error, y[seen] + rng.normal(size=n) * error
        flux = 10 ** (-0.4 * (self.mag[seen] - 20))
        columns = {"qfit": np.full(n, 0.02)}
        edge = np.array([0.0, SIZE - 1, SIZE - 1, 0.0]) - MIDDLE
        start = LinearTransform(va, 0.0, 0.0, va, *(centre + rng.normal(0, 0.1, 2)))
        return Unit(
            f"shot{number}", "NIRISS", f"niriss_{name.lower()}", 2022.33 + 1e-6 * number, x - MIDDLE, y - MIDDLE, error,
            error.copy(), flux, flux / 100, np.zeros(n, np.int32), np.arange(n, dtype=np.int32), edge, np.roll(edge, 1), start,
            lambda u, v: (u + MIDDLE, v + MIDDLE), columns.__getitem__, SCALE, (0.0, SIZE - 1.0, 0.0, SIZE - 1.0),
            filter=name, x=x, y=y, forward=lambda x, y: (np.asarray(x) - MIDDLE, np.asarray(y) - MIDDLE), va_scale=va,
        )  # fmt: skip

    def reference(self) -> ReferenceCatalog:
        """Bright stars with errors of 0.3 mas."""
        k = np.argsort(self.mag)[:REFERENCE_STARS]
        noise = self.rng.normal(0, 0.0003 / SCALE, (2, len(k)))
        ra, dec = self.frame.pixel_to_sky(self.x[k] + noise[0], self.y[k] + noise[1])
        zero, sigma = np.zeros(len(k)), np.full(len(k), 0.3)
        return ReferenceCatalog("list", ra, dec, sigma, sigma, zero + 2022.33, zero, zero, zero, zero, zero + np.nan)


def rms(*values: np.ndarray) -> float:
    """Root mean square of all values together."""
    return float(np.sqrt(np.mean(np.square(values))))


def anonymous() -> float:
    """Anonymous memory of this process, GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 2**20


def report_cost(what: str, wall: float, cpu: float, before: float, watch: Watch) -> None:
    """Print what something took; the resident peak is the whole process', libraries included."""
    peak = peak_memory() / 2**30
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{what}: {wall:.1f} s wall, {cpu:.1f} s CPU, peak {watch.memory.get(os.getpid(), 0.0):.2f} GiB anonymous "
        f"(the input: {before:.2f}), {peak:.2f} resident"
    )


def time_residuals(n: int) -> None:
    """The per-pixel term of noise."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, SIZE - 1, (2, n))
    rx, ry = rng.normal(0, 0.01, (2, n))
    before, wall, cpu = anonymous(), time.perf_counter(), time.process_time()
    with Watch(os.getpid()) as watch:
        term = fine_term(x, y, rx, ry, (0.0, SIZE - 1.0, 0.0, SIZE - 1.0))
    report_cost(f"per-pixel term of {n} residuals of noise 0.01 pixel", wall, cpu, before, watch)
    if term is not None:
        print(f"  it adds {rms(term.dx, term.dy):.6f} pixel RMS")


def solve_field(detections: int, empty: float, seed: int) -> None:
    """The joint solution, its cost and its errors."""
    field = Field(detections, empty, seed)
    units = [field.unit(k, FILTERS[k // 9]) for k in range(9 * len(FILTERS))]
    reference = field.reference()
    before, wall, cpu = anonymous(), time.perf_counter(), time.process_time()
    with Watch(os.getpid()) as watch:
        solution = solve_distortion(units, field.frame, FrameOptions(), reference)
    report_cost(f"solution of {sum(map(len, units))} detections", wall, cpu, before, watch)
    for text in solution.warnings:
        print("  warning:", text)
    axis = np.arange(4.0, SIZE, 8.0)
    x, y = (values.ravel() for values in np.meshgrid(axis, axis))
    depth = np.minimum(x, y) - (SIZE - empty)
    for name in FILTERS:
        errors = solution.detectors["NIRISS"].errors
        held = errors.is_covered(name, x, y)
        true_x, true_y = field.corrected(x, y, name)
        u, v = solution.maps["NIRISS", name].forward(x, y)
        among = depth <= 0
        back = fit_linear(u[among], v[among], true_x[among], true_y[among], parameters=4, clip=None).transform
        off = np.subtract(back(u, v), (true_x, true_y))
        expected = errors.on_frame("", name, np.eye(2), x, y, x, y)
        parts = [("among the stars", among)]
        parts += [(f"{low} to {high} pixels beyond", (depth > low) & (depth <= high)) for low, high in zip(DEPTHS, DEPTHS[1:])]
        for words, part in parts:
            if part.any():
                rest = part & held
                print(
                    f"  {name} {words}: RMS {rms(off[:, part]):.4f}, expected {rms(expected[:, :, part]):.4f}, "
                    f"{100 * np.mean(~held[part]):.1f} % flagged, RMS of the others {rms(off[:, rest]) if rest.any() else 0:.4f}"
                )


def main() -> int:
    """Run the parts one after the other; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--residuals", type=int, default=1_000_000, help="0 for none")
    parser.add_argument("--detections", type=int, default=1_000_000, help="0 for none")
    parser.add_argument("--empty", type=float, default=0.0, help="side of a corner without stars, pixels")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.residuals and arguments.detections:
        here, rest = [sys.executable, __file__], sys.argv[1:]
        for without in ("--detections", "--residuals"):
            code = subprocess.run([*here, *rest, without, "0"], check=False).returncode
            if code:
                return code
    elif arguments.residuals:
        time_residuals(arguments.residuals)
    elif arguments.detections:
        solve_field(arguments.detections, arguments.empty, arguments.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
