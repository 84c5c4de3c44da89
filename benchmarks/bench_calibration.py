"""The calibration from the data: ePSF and distortion made by a run, against truth, limits and a peer.

usage: python benchmarks/bench_calibration.py [field] [peer] [real] [limit] [--keep FOLDER] [--size 2048] [--stars 36000]

``field``  `dpm simulate` makes 18 exposures (two filters), `dpm run` builds the ePSF and solves the distortion, the scorer
           (`benchmarks/scorer`, which shares no code with dpm) compares; time, CPU time and memory of every stage.
``peer``   the ePSF of the crowded scene of `benchmarks/peers` from the same stars by dpm and by photutils' EPSFBuilder.
``real``   the build on single real exposures, where no dithers help: QFIT with the quick ePSF and with the built one.
``limit``  on a scene with truth: the build from true positions and fluxes of the stars that the run used, which is as good as
           these stars' noise allows, beside the run's own.  Takes the run of ``--run`` or makes one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

# Before numpy: BLAS threads get in the way on a shared machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.interpolate import RectBivariateSpline
from scipy.spatial import cKDTree

from dpm.io.cubes import read_exposure
from dpm.io.run_folder import RunFolder
from dpm.io.stdpsf import read_stdpsf, write_stdpsf
from dpm.kernels import quality as columns
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.options import FindOptions, Options, PsfOptions
from dpm.stages.first_pass.measure import measure_exposure
from dpm.stages.psf.build import CONVERGED, FEWEST_INNER, INNER, MAX_OUTER, SINGLE_ROUNDS, Plan, nodes_a_side
from dpm.stages.psf.candidates import StarStamps, choose_stars, cut_stars, drop_outliers
from dpm.stages.psf.grid import CORE_RADIUS, NORMALISATION_RADIUS
from dpm.stages.psf.positions import BRIGHT_ERROR
from dpm.stages.psf.quick import build_quick_epsf
from dpm.stages.psf.samples import NodeSums, fit_candidates, sum_samples
from dpm.stages.psf.steps import SIGNAL_TO_NOISE
from dpm.stages.psf.update import update_epsf

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
SAMPLE_INTERVAL = 0.5  # seconds between looks at the processes
TICKS = os.sysconf("SC_CLK_TCK")
PEER_STARS = 300
PEER_PIXEL_SCALE = 0.031  # arcsec; the scene says NIRCam
BRIGHT = 50.0  # signal to noise of the stars whose QFIT is compared
SAME_STAR = 0.3  # pixels
LIMIT_ROUNDS = 8


@dataclass
class Watch:
    """CPU time and largest anonymous memory of a process and all its descendants, sampled while it runs."""

    pid: int
    cpu: dict[int, float] = field(default_factory=dict)
    memory: dict[int, float] = field(default_factory=dict)
    samples: list[tuple[float, float]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL):
            self._look()

    def _look(self) -> None:
        parents = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
        family = {self.pid}
        while True:
            more = {pid for pid, parent in parents.items() if parent in family} - family
            if not more:
                break
            family |= more
        for pid in family:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                status = Path(f"/proc/{pid}/status").read_text()
                words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            self.cpu[pid] = (int(fields[11]) + int(fields[12])) / TICKS
            anonymous = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
            self.memory[pid] = max(self.memory.get(pid, 0.0), float(anonymous[0]) / 2**20 if anonymous else 0.0)
            self.names[pid] = words
        self.samples.append((time.time(), sum(self.cpu.values())))


def run_watched(command: list[str]) -> Watch:
    """Run a command to its end and watch it."""
    process = subprocess.Popen(command, cwd=ROOT)
    with Watch(process.pid) as watch:
        code = process.wait()
    if code:
        sys.exit(f"{' '.join(command[:4])}: exit code {code}")
    return watch


def configure(folder: Path, exposures: str, reference: Path | None = None, distortion: str = "solve") -> Path:
    """A configuration that builds the ePSF."""
    lines = ["[run]", 'name = "calibration"', f'directory = "{folder / "run"}"', "", "[input]", f'exposures = ["{exposures}"]']
    if reference is not None and reference.exists():
        lines.append(f'reference = "{reference}"')
    lines += ["", "[psf]", 'source = "build"', "", "[distortion]", f'source = "{distortion}"', ""]
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "field.toml"
    config.write_text("\n".join(lines))
    return config


def print_stages(run: Path, watch: Watch) -> None:
    """Wall and CPU seconds of every stage, and memory of every process."""
    stages = json.loads((run / "provenance.json").read_text())["stages"]
    entries = stages.items() if isinstance(stages, dict) else ((entry["name"], entry) for entry in stages)
    print(f"{'stage':12s} {'wall s':>8s} {'CPU s':>8s} {'in parts s':>10s} {'parts':>6s} {'peak RSS GiB':>12s}")
    for name, entry in entries:
        end = datetime.fromisoformat(entry["finished"]).timestamp()
        spent = cpu_at(watch, end) - cpu_at(watch, end - entry["seconds"])
        memory = entry.get("peak_memory_bytes", 0) / 2**30
        print(
            f"{name:12s} {entry['seconds']:8.1f} {spent:8.1f} {entry.get('parts_seconds', 0.0):10.1f} "
            f"{entry.get('parts', 0):6d} {memory:12.2f}"
        )
    print(f"{'all':12s} {watch.samples[-1][0] - watch.samples[0][0]:8.1f} {sum(watch.cpu.values()):8.1f}")
    for pid, value in sorted(watch.memory.items(), key=lambda item: -item[1])[:5]:
        print(f"process {pid}: {value:.2f} GiB anonymous at most, {watch.cpu[pid]:.0f} CPU s: {watch.names[pid][:80]}")


def cpu_at(watch: Watch, moment: float) -> float:
    """CPU seconds of all processes until a moment; good to the second that stages note their end with."""
    before = [spent for at, spent in watch.samples if at <= moment]
    return before[-1] if before else 0.0


def score(scene: Path, run: Path) -> None:
    """The scorer's comparison with the truth, and the harmonics of the pixel-phase bias."""
    for program in ("scorer/score.py", "phase_harmonics.py"):
        subprocess.run([sys.executable, str(ROOT / "benchmarks" / program), str(scene), str(run)], check=True, cwd=ROOT)


def field_section(arguments: argparse.Namespace, folder: Path) -> None:
    """The large field."""
    scene = folder / "scene"
    if not scene.exists():
        start = time.perf_counter()
        command = [sys.executable, "-m", "dpm", "simulate", str(scene), "--size", str(arguments.size)]
        subprocess.run([*command, "--stars", str(arguments.stars), "--seed", str(arguments.seed)], check=True, cwd=ROOT)
        print(f"simulated in {time.perf_counter() - start:.0f} s")
    config = configure(folder / "field", f"{scene}/*_cal.fits", scene / "reference.ecsv")
    watch = run_watched([sys.executable, "-m", "dpm", "run", str(config)])
    print_stages(folder / "field" / "run", watch)
    print_build(folder / "field" / "run")
    score(scene, folder / "field" / "run")


def print_build(run: Path) -> None:
    """What every round of the build did."""
    history = json.loads((run / "calibration" / "psf" / "build.json").read_text())
    for cube, entry in history.items():
        print(f"{cube}: {entry['images']} star images, phase spread {entry['phase_spread']:.2f}")
        heads = ("round", "nodes", "stars", "change", "noise", "phase bias", "scatter", "QFIT")
        print("".join(f"{head:>11s}" for head in heads))
        for update, average in zip(entry["updates"], entry["averages"], strict=True):
            print(
                f"{update['label']:>11s}{update['nodes'][0]:11d}{update['stars']:11d}{update['change']:11.1e}{update['noise']:11.1e}"
                f"{average['amplitude']:11.4f}{average['scatter']:11.4f}{average['qfit']:11.4f}"
            )


def build_from_one(image: ExposureImage, most: int | None) -> tuple[GriddedEPSF, StarStamps, float]:
    """dpm's ePSF from one exposure, with the fits' own positions; the stars of the last round and the CPU seconds taken."""
    start = time.process_time()
    epsf = build_quick_epsf([image], image.filter, PEER_PIXEL_SCALE, image.detector).epsf
    nodes = 1
    for outer in range(MAX_OUTER):
        measured = measure_exposure(image, epsf, FindOptions())
        keep = drop_outliers(measured.rows, choose_stars(image, measured, SIGNAL_TO_NOISE))[:most]
        stars = cut_stars(image, epsf, measured, keep)
        none = np.full(len(stars), np.nan)
        for inner in range(INNER[outer]):
            fits = fit_candidates(stars, epsf)
            halves, signal = np.arange(len(stars)) % 2, np.nan_to_num(fits.flux / fits.flux_error)
            sums = sum_samples(stars, epsf, fits.raw, none, np.zeros(len(stars), bool), halves, signal)
            update = update_epsf(epsf, sums)
            if inner + 1 >= SINGLE_ROUNDS:
                nodes = nodes_a_side(PsfOptions().grid, len(stars))
            epsf = on_grid(update.epsf, image.shape, nodes)
            if inner + 1 >= FEWEST_INNER and update.change < CONVERGED:
                break
    return epsf, stars, time.process_time() - start


def on_grid(epsf: GriddedEPSF, shape: tuple[int, int], nodes: int) -> GriddedEPSF:
    """The same ePSF on a grid over the frame."""
    if epsf.node_x.size == nodes:
        return epsf
    node_y, node_x = (np.linspace(0.0, side - 1.0, nodes) for side in shape)
    return GriddedEPSF(np.array([[epsf.blended(x, y) for x in node_x] for y in node_y]), node_x, node_y)


def photutils_epsf(stars: StarStamps, kernel: str) -> tuple[np.ndarray, float]:
    """photutils' EPSFBuilder on the same stamps: neighbours and sky subtracted, weights, good first positions."""
    from photutils.psf import EPSFBuilder, EPSFStar, EPSFStars

    cut = []
    for k in range(len(stars)):
        light = stars.stamps.values[k].astype(float) - stars.start[k, columns.SKY]
        variance = stars.stamps.read[k] + stars.stamps.poisson[k] * np.clip(light + stars.start[k, columns.SKY], 0.0, None)
        weights = np.where(stars.stamps.mask[k], 1.0 / np.sqrt(variance), 0.0)
        cut.append(EPSFStar(light, weights=weights, cutout_center=(stars.start[k, columns.X], stars.start[k, columns.Y])))
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = EPSFBuilder(oversampling=4, progress_bar=False, smoothing_kernel=kernel)(EPSFStars(cut))
    epsf = result[0] if isinstance(result, tuple) else result.epsf
    return np.asarray(epsf.data, float), time.process_time() - start


def core_error(built: np.ndarray, true: np.ndarray) -> float:
    """RMS of built less true ePSF within 1.5 pixels in % of the peak; both normalised within 5 pixels, and centred alike."""
    half = min(built.shape[0], true.shape[0]) // 2
    built, true = (a[a.shape[0] // 2 - half : a.shape[0] // 2 + half + 1, a.shape[1] // 2 - half : a.shape[1] // 2 + half + 1]
                   for a in (built, true))  # fmt: skip
    axis = np.arange(-half, half + 1) / 4.0
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = np.hypot(x, y)
    built, true = (a / (a[radius <= NORMALISATION_RADIUS].sum() / 16.0) for a in (built, true))
    spline = RectBivariateSpline(axis, axis, true)
    near, core, shift = radius <= 3.0, radius <= CORE_RADIUS, np.zeros(2)
    for _ in range(8):
        at = y[near] + shift[1], x[near] + shift[0]
        slopes = np.column_stack([spline.ev(*at, dy=1), spline.ev(*at, dx=1)])
        shift += np.linalg.lstsq(slopes, built[near] - spline.ev(*at), rcond=None)[0]
    difference = built[core] - spline.ev(y[core] + shift[1], x[core] + shift[0])
    return 100.0 * float(np.sqrt(np.mean(difference**2)) / true.max())


def peer_section(arguments: argparse.Namespace, folder: Path) -> None:
    """dpm and photutils on the peer scene, $PEERS/data (`benchmarks/peers/peer_scene.py` makes it)."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
    import peer_scene
    import photutils
    from astropy.io import fits

    path = Path(os.environ.get("PEERS", "peers")) / "data" / "scene.fits"
    if not path.exists():
        print(f"skipped: no {path}; make it with benchmarks/peers/peer_scene.py")
        return
    with fits.open(path) as hdus:
        sci, noise = hdus["SCI"].data.astype(np.float32), float(hdus[0].header["RDNOISE"])
    one = np.ones_like(sci)
    image = ExposureImage(
        "scene", "NRCA1", "F115W", sci, one * np.float32(noise**2), one, one * 0, one, np.zeros(sci.shape, np.uint8)
    )
    grid, offset = peer_scene.make_grid(), (np.arange(101) - 50) / 4.0
    true = {
        (x, y): np.array([[peer_scene.epsf_node(grid[j, i], dx, dy) for dx in offset] for dy in offset])
        for j, y in enumerate(peer_scene.NODES)
        for i, x in enumerate(peer_scene.NODES)
    }
    mean = np.mean(list(true.values()), axis=0)
    print(f"{'who':44s} {'stars':>6s} {'nodes':>6s} {'CPU s':>7s} {'RMS % at the 25 true nodes':>28s} {'of the mean ePSF':>17s}")

    def row(who: str, stars: int, nodes: int, seconds: float, at: dict[tuple[float, float], np.ndarray]) -> None:
        errors = np.array([core_error(built, true[node]) for node, built in at.items()])
        middle = core_error(np.mean(list(at.values()), axis=0), mean)
        print(f"{who:44s} {stars:6d} {nodes:6d} {seconds:7.1f} {np.sqrt(np.mean(errors**2)):28.3f} {middle:17.3f}", flush=True)

    build_from_one(image, PEER_STARS)  # the kernels compile
    for most in (PEER_STARS, None):
        epsf, stars, seconds = build_from_one(image, most)
        row("dpm, quick ePSF and first passes included", len(stars), epsf.node_x.size, seconds, {n: epsf.blended(*n) for n in true})
        for kernel in ("quartic", "quadratic"):
            built, seconds = photutils_epsf(stars, kernel)
            row(f"photutils {photutils.__version__}, {kernel}, on dpm's stamps", len(stars), 1, seconds, dict.fromkeys(true, built))


def real_section(arguments: argparse.Namespace, folder: Path) -> None:
    """Single real exposures: what the build says, and QFIT before and after."""
    for name, pattern in (("nicmos_bulge", "*_cal.fits"), ("nircam_ngc346_cutout", "image.fits")):
        data = SHARED / "data" / "real" / name
        if not data.is_dir():
            print(f"skipped: no {data}")
            continue
        print(f"-- {name}", flush=True)
        config = configure(folder / name, f"{data}/{pattern}", distortion="wcs")
        subprocess.run([sys.executable, "-m", "dpm", "run", str(config), "--cluster", "none"], check=True, cwd=ROOT)
        run = RunFolder(folder / name / "run")
        print_build(run.root)
        for text in json.loads((run.root / "provenance.json").read_text())["stages"]["psf"]["warnings"]:
            print(f"  warning: {text}")
        options = Options()
        for unit in Plan.of(run, options).units:
            image = read_exposure(Path(unit["path"]), unit["index"])
            quick = build_quick_epsf([image], unit["filter"], unit["pixel_scale"], unit["detector"]).epsf
            built = read_stdpsf(run.psf_file(unit["detector"], unit["filter"]), centre=False)
            for what, epsf in (("quick", quick), ("built", built)):
                measured = measure_exposure(image, epsf, FindOptions())
                keep = choose_stars(image, measured, BRIGHT)
                qfit = measured.rows[keep, columns.QFIT]
                text = f"median {np.median(qfit):.4f}" if keep.size else "none"
                print(f"  QFIT of {keep.size} bright stars with the {what} ePSF: {text}")


def limit_section(arguments: argparse.Namespace, folder: Path) -> None:
    """The run's ePSF beside one from true positions and fluxes."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "scorer"))
    import score as scorer

    scene = (arguments.scene or SHARED / "data" / "sim").resolve()
    run = arguments.run
    if run is None:
        config = configure(folder / "limit", f"{scene}/*_cal.fits", scene / "reference.ecsv")
        subprocess.run([sys.executable, "-m", "dpm", "run", str(config)], check=True, cwd=ROOT)
        run = folder / "limit" / "run"
    truth, out, limit = scorer.Truth(str(scene)), {}, folder / "limit_epsf"
    run_folder = RunFolder(run.resolve())
    (limit / "calibration" / "psf").mkdir(parents=True, exist_ok=True)
    for units in Plan.of(run_folder, Options()).cubes.values():
        path = run_folder.psf_file(units[0]["detector"], units[0]["filter"])
        epsf, stars = build_from_truth(read_stdpsf(path, centre=False), units, scene / "truth")
        write_stdpsf(limit / "calibration" / "psf" / path.name, epsf)
        print(f"{path.stem}: {stars} star images", flush=True)
    for what, where in (("run", run_folder.root), ("limit", limit)):
        print(f"-- {what}")
        out[what] = {}
        scorer.score_epsf(truth, str(where), out[what])
    for name in truth.filters:
        a, b = out["run"]["epsf"][name], out["limit"]["epsf"][name]
        ratios = [a[key] / b[key] for key in ("diff_rms_percent", "between_rms_percent")]
        print(f"{name}: RMS over the limit {ratios[0]:.2f} at nodes, {ratios[1]:.2f} between")


def build_from_truth(epsf: GriddedEPSF, units: list[dict[str, Any]], truth: Path) -> tuple[GriddedEPSF, int]:
    """The build's own rounds with positions and fluxes that are known; the run's ePSF is only where they start."""
    stars, raw, flux, star, fitted, error = [], [], [], [], [], []
    for unit in units:
        image = read_exposure(Path(unit["path"]), unit["index"])
        measured = measure_exposure(image, epsf, FindOptions())
        keep = drop_outliers(measured.rows, choose_stars(image, measured, SIGNAL_TO_NOISE))
        stars.append(cut_stars(image, epsf, measured, keep))
        fits = fit_candidates(stars[-1], epsf)
        data = np.load(truth / f"{unit['name'].removesuffix('_' + unit['detector'])}.npz")
        distance, nearest = cKDTree(np.column_stack([data["x"], data["y"]])).query(np.nan_to_num(fits.raw, nan=-1e6))
        known = distance < SAME_STAR
        place = np.column_stack([data["x"], data["y"]])[nearest]
        pixel = np.clip(np.rint(place).astype(int), 0, np.array(image.shape)[::-1] - 1)
        counts = data["counts"][nearest] / image.area[pixel[:, 1], pixel[:, 0]]
        scale = np.median((fits.flux / counts)[known & (fits.error < BRIGHT_ERROR)])
        raw.append(np.where(known[:, None], place, np.nan))
        flux.append(np.where(known, counts * scale, np.nan))
        star.append(data["id"][nearest])
        fitted.append(fits.raw)
        error.append(fits.error)
    # The truth's ePSF is centred another way: a smooth field of small shifts.
    every, own = np.concatenate(raw), np.concatenate(fitted)
    bright = (np.concatenate(error) < BRIGHT_ERROR) & np.isfinite(every).all(axis=1)
    x, y = (np.nan_to_num(every) / np.nanmax(every)).T
    terms = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    every = every + terms @ np.linalg.lstsq(terms[bright], (own - every)[bright], rcond=None)[0]
    raw = np.split(every, np.cumsum([len(part) for part in stars])[:-1])
    for _ in range(LIMIT_ROUNDS):
        total = NodeSums.empty(epsf.node_y.size, epsf.node_x.size)
        for part, where, light, number in zip(stars, raw, flux, star, strict=True):
            fits = fit_candidates(part, epsf)
            signal = np.nan_to_num(fits.flux / fits.flux_error)
            total.add(sum_samples(part, epsf, where, light, np.ones(len(part), bool), number % 2, signal))
        epsf = update_epsf(epsf, total).epsf
    return epsf, total.n_stars


SECTIONS: dict[str, Any] = {"field": field_section, "peer": peer_section, "real": real_section, "limit": limit_section}


def main() -> int:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), help="field, peer, real, limit; all by default")
    parser.add_argument("--keep", type=Path, help="folder for what is made; a temporary one otherwise")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--stars", type=int, default=36000)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--scene", type=Path, help="for limit; ../shared/data/sim otherwise")
    parser.add_argument("--run", type=Path, help='for limit: a run folder of that scene with [psf] source = "build"')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.sections:
            if name not in SECTIONS:
                parser.error(f"{name!r} is none of {', '.join(SECTIONS)}")
            print(f"== {name}", flush=True)
            SECTIONS[name](arguments, (arguments.keep or Path(temporary)).resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
