"""Motions, membership and kinematics of runs and of catalogues, against the truth; the figures of docs/results.md.

usage: python benchmarks/bench_motions.py [--run RUN --scenes SCENE ...] [--realisations N] [--m92] [--bp3m FILE]

``--run`` scores a finished run folder whose exposures are of the scenes (as benchmarks/bench_epochs.py makes and keeps them);
``--realisations`` makes catalogues of a cluster and the field and recovers dispersion, share and bulk motion; ``--m92`` fits Gaia's
M92.  Without any of them the last two are done.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from astropy.table import Table
from bench_epochs import OTHER, identify, truth_folders
from numpy.typing import NDArray

from dpm.io.tables import read_table
from dpm.models.flags import StarFlag
from dpm.models.master_frame import tangent_to_sky
from dpm.models.statistics import robust_width
from dpm.science.motions import (
    as_covariance,
    combine_with_priors,
    dispersion_profile,
    fit_mixture,
    intrinsic_dispersion,
    motion_vectors,
)

ROOT = Path(__file__).resolve().parents[1]
M92 = ROOT.parent / "shared" / "data" / "real" / "gaia_m92" / "NGC_6341_M_92.txt"
DISPERSION = 0.03
NOT_GOOD = int(StarFlag.SATURATED)


def true_motions(stars: Table) -> NDArray:
    """Motions on the sky, mas/yr: North turns across the tangent plane, so that they come from a step of a thousand years."""
    ra0, dec0 = stars.meta["ra0"], stars.meta["dec0"]
    here = tangent_to_sky(stars["xi"], stars["eta"], ra0, dec0)
    there = tangent_to_sky(stars["xi"] + stars["pm_xi"], stars["eta"] + stars["pm_eta"], ra0, dec0)
    return np.column_stack([3600 * (there[0] - here[0]) * np.cos(np.radians(here[1])), 3600 * (there[1] - here[1])])


def motion_bound(scenes: list[Path], epochs: list[float]) -> tuple[NDArray, NDArray] | None:
    """Cramer-Rao bounds (n, 2) of motions, mas/yr, and who has no bright neighbour; None for scenes of another kind."""
    if len(scenes) != 2 or not all((scene / "truth" / "scene.json").is_file() for scene in scenes):
        return None
    sys.path.insert(0, str(ROOT / "benchmarks" / "scorer"))
    from truthlib import Truth

    truths = [Truth(str(scene)) for scene in scenes]
    bounds = [1000 * truth.scale * np.column_stack(truth.crb_joint()[:2]) for truth in truths]
    return np.hypot(*bounds) / (epochs[-1] - epochs[0]), truths[-1].isolated(rules=((4.0, 0.02),))


def line(name: str, off: NDArray, sigma: NDArray, extra: str = "") -> str:
    """A row of a table: number, bias, scatter, pull."""
    pull = off / sigma
    bias = f"{np.median(off[:, 0]):+.4f}, {np.median(off[:, 1]):+.4f}"
    far = np.mean(np.abs(pull) > 4)
    widths = f"{robust_width(off.ravel(), 0.0):.4f} | {robust_width(pull.ravel(), 0.0):.2f}"
    return f"| {name} | {len(off)} | {bias} | {widths} | {far:.4f} |{extra}"


def score_run(run: Path, scenes: list[Path]) -> None:
    """Relative and absolute motions, membership and dispersion of a run."""
    truths = truth_folders(scenes)
    stars = Table.read(truths[-1] / "truth" / "stars.ecsv")
    mag = np.array(stars[next(name for name in stars.colnames if name == "mag_F090W")])
    true, member = true_motions(stars), np.array(stars["member"], bool)
    catalog, motions = read_table(run / "tables" / "catalog.parquet"), read_table(run / "tables" / "motions.parquet")
    seen: dict[int, set[int]] = defaultdict(set)
    for rows in identify(run, truths).values():
        for row, star in rows.items():
            seen[row].add(star)
    place = {int(number): k for k, number in enumerate(catalog["id"])}
    single = {row: next(iter(known)) for row, known in seen.items() if len(known) == 1 and OTHER not in known}
    k, star = np.array([place[row] for row in single]), np.array(list(single.values()))
    good = (np.array(catalog["flags"])[k] & NOT_GOOD) == 0
    k, star = k[good], star[good]
    meta = motions.meta["motions"]
    cluster_true = np.average(true[star[member[star]]], axis=0)
    absolute, covariance = motion_vectors(catalog)
    relative, spread = motion_vectors(motions, ("pmra_relative", "pmdec_relative"))
    for title, value, error, expected in (
        ("absolute", absolute, covariance, true),
        ("relative to the members", relative, spread, true - cluster_true),
    ):
        off = value[k] - expected[star]
        sigma = np.sqrt(np.diagonal(error[k], axis1=1, axis2=2))
        known = np.isfinite(off).all(axis=1)
        print(f"\n{title}, mas/yr\n| F090W | stars | bias East, North | RMS | pull | beyond 4 sigma |\n|---|---|---|---|---|---|")
        for low in range(int(mag[star].min()), int(mag[star].max()) + 1):
            mine = known & (mag[star] >= low) & (mag[star] < low + 1)
            if mine.sum() >= 30:
                print(line(f"{low + 0.5}", off[mine], sigma[mine]))
        print(line("all", off[known], sigma[known]))
    bound = motion_bound(truths, sorted(catalog.meta["epochs"]))
    if bound is not None:
        print("\nisolated stars against the Cramer-Rao bound (per year of baseline: times the baseline)")
        print("| F090W | stars | bound | RMS / bound | stated error / bound | excess in quadrature |\n|---|---|---|---|---|---|")
        off, sigma = absolute[k] - true[star], np.sqrt(np.diagonal(covariance[k], axis1=1, axis2=2))
        least, alone = bound[0][star], bound[1][star] & np.isfinite(off).all(axis=1)
        for low in range(int(mag[star].min()), int(mag[star].max()) + 1):
            mine = alone & (mag[star] >= low) & (mag[star] < low + 1)
            if mine.sum() >= 15:
                ratio, stated = robust_width((off / least)[mine].ravel(), 0.0), np.median((sigma / least)[mine])
                middle = np.median(least[mine])
                excess = middle * np.sqrt(max(ratio**2 - 1, 0.0))
                print(f"| {low + 0.5} | {mine.sum()} | {middle:.4f} | {ratio:.2f} | {stated:.2f} | {excess:.4f} |")
    probability = np.array(motions["member_probability"], float)[k]
    known = np.isfinite(probability)
    print("\n| F090W | stars | members complete | pure | field called members |\n|---|---|---|---|---|")
    for low, high in ((17, 21), (21, 23), (23, 25), (25, 28), (0, 40)):
        mine = known & (mag[star] >= low) & (mag[star] < high)
        chosen = probability >= 0.5
        is_member = member[star]
        if mine.sum() >= 30:
            shares = (chosen[mine & is_member].mean(), is_member[mine & chosen].mean(), chosen[mine & ~is_member].mean())
            print(f"| {low}-{high} | {mine.sum()} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    cluster = meta.get("cluster")
    if cluster:
        print(f"dispersion {cluster['sigma']:.4f} +- {cluster['sigma_error']:.4f}", end="; ")
        mine = true[star[known & member[star]]]
        print(f"of these members' true motions {np.std(mine - mine.mean(axis=0)):.4f}")
    if "absolute" in meta:
        zero = np.array(meta["absolute"]["motion"])
        text = ", ".join(f"{value:+.4f} +- {error:.4f}" for value, error in zip(zero, meta["absolute"]["error"]))
        pull = (zero - cluster_true) / np.array(meta["absolute"]["error"])
        print(f"zero point of the members {text}; minus truth in errors {pull[0]:+.2f}, {pull[1]:+.2f}")
    for name in ("error_floor", "map_before", "map_after"):
        print(name, {key: round(value, 5) for key, value in meta.get(name, {}).items()})
    if "motion_chi2" in motions.colnames:
        chi2, degrees = np.array(motions["motion_chi2"])[k], np.array(motions["motion_degrees"])[k]
        use = np.isfinite(chi2) & (degrees > 0)
        print(f"slopes of single positions: median chi2 / degrees {np.median(chi2[use] / degrees[use]):.3f}")
        for name in ("slope", "two_epoch"):
            off = np.column_stack([motions[f"pmra_{name}"], motions[f"pmdec_{name}"]])[k] - true[star]
            sigma = np.column_stack([motions["pmra_slope_error"], motions["pmdec_slope_error"]])[k]
            use = np.isfinite(off).all(axis=1)
            print(line(name, off[use], sigma[use]))
    if "pmra_combined" in motions.colnames:
        for name in ("reference", "combined"):
            off = np.column_stack([motions[f"pmra_{name}"], motions[f"pmdec_{name}"]])[k] - true[star]
            sigma = np.column_stack([motions[f"pmra_{name}_error"], motions[f"pmdec_{name}_error"]])[k]
            use = np.isfinite(motions["pmra_combined"][k]) & np.isfinite(off).all(axis=1)
            print(line(name, off[use], sigma[use], f" median error {np.median(sigma[use]):.4f}"))


def make_catalog(seed: int, n: int) -> tuple[NDArray, NDArray, NDArray]:
    """Motions, covariances and members: errors of a two-epoch field, 0.01 mas/yr at the bright end and 0.3 at the faint one."""
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.5
    field = (-2.0, 0.8) + rng.normal(0, (1.5, 1.0), (n, 2))
    true = np.where(member[:, None], rng.normal(0, DISPERSION, (n, 2)), field)
    error = 0.01 * 10 ** (1.5 * rng.power(2.0, n))[:, None] * (1.0, 1.2)
    covariance = as_covariance(error, np.full(n, 0.2))
    return true + np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.normal(size=(n, 2))), covariance, member


def realisations(count: int, n: int = 800) -> None:
    """Bias and honesty of dispersion, share and bulk motion over many catalogues."""
    print(f"\n{count} catalogues of {n} stars, half of them members, dispersion {DISPERSION} mas/yr")
    print("| | mean bias / error | scatter / error | |\n|---|---|---|---|")
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    purity, complete = [], []
    for seed in range(count):
        motion, covariance, member = make_catalog(seed, n)
        alone = intrinsic_dispersion(motion[member], covariance[member])
        found["dispersion of the true members"].append((alone.sigma - DISPERSION, alone.error))
        mixture = fit_mixture(motion, covariance)
        found["dispersion, mixture"].append((mixture.sigma - DISPERSION, mixture.sigma_error))
        found["share of the cluster"].append((mixture.fraction - 0.5, mixture.fraction_error))
        found["bulk motion, East"].append((mixture.mean[0], mixture.mean_error[0]))
        found["bulk motion, North"].append((mixture.mean[1], mixture.mean_error[1]))
        chosen = mixture.probability(motion, covariance) >= 0.5
        purity.append(member[chosen].mean())
        complete.append(chosen[member].mean())
    for name, values in found.items():
        off, error = np.array(values).T
        print(f"| {name} | {off.mean() / np.median(error):+.2f} | {np.std(off / error):.2f} | error {np.median(error):.4f} |")
    print(f"members at P >= 0.5: complete {np.mean(complete):.3f}, pure {np.mean(purity):.3f}")


def m92() -> None:
    """Gaia EDR3 of Vasiliev & Baumgardt (2021)."""
    if not M92.is_file():
        print(f"skipped: no file {M92}")
        return
    table = Table.read(M92, format="ascii.commented_header", delimiter="\t")
    table = table[table["qflag"] >= 2]
    motion = np.column_stack([table["pmra"], table["pmdec"]])
    covariance = as_covariance(np.column_stack([table["pmrae"], table["pmdece"]]), table["pmcorr"])
    position = 3600 * np.column_stack([table["x"], table["y"]])
    radius, theirs = np.hypot(*position.T), np.array(table["memberprob"])
    print(f"\nM92, {len(table)} stars of clean astrometry")
    for name, where in (("motions alone", None), ("with positions", radius)):
        mixture = fit_mixture(motion, covariance, where)
        ours = mixture.probability(motion, covariance, where)
        text = ", ".join(f"{value:.4f} +- {error:.4f}" for value, error in zip(mixture.mean, mixture.mean_error))
        print(f"{name}: bulk {text}; dispersion {mixture.sigma:.4f} +- {mixture.sigma_error:.4f}")
        other, counts = np.mean((ours > 0.5) != (theirs > 0.5)), f"{ours.sum():.0f}, {theirs.sum():.0f}"
        print(f"    {other:.4f} called otherwise than by memberprob; members {counts}")
    member = (ours > 0.9) & (np.array(table["g_mag"]) < 19.0)
    edges = np.array([0, 60, 120, 180, 300, 450, 900])
    profile = dispersion_profile(position[member], motion[member] - mixture.mean, covariance[member], edges)
    print("| radius, arcsec | stars | dispersion | radial | tangential | mean tangential |\n|---|---|---|---|---|---|")
    for row in profile:
        parts = [f"{row[f'sigma{name}']:.3f} +- {row[f'sigma{name}_error']:.3f}" for name in ("", "_radial", "_tangential")]
        turn = f"{row['mean_tangential']:+.3f} +- {row['mean_tangential_error']:.3f}"
        print(f"| {row['r_low']:.0f}-{row['r_high']:.0f} | {row['n']} | " + " | ".join([*parts, turn]) + " |")


def bp3m(path: Path) -> None:
    """BP3M's posterior (benchmarks/peers/run_bp3m_motions.py) beside ours, of the same stars and exposures."""
    data = dict(np.load(path))
    n, k = len(data["true"]), len(data["raw"])
    back = np.linalg.inv(data["jacobian"])
    offset = np.einsum("nij,knj->kni", back, data["raw"] - data["plane"]).reshape(-1, 2)
    noise = np.tile(data["noise"] ** 2 * back @ np.swapaxes(back, 1, 2), (k, 1, 1))
    tight = np.einsum("ni,ij->nij", data["sigma"] ** 2, np.eye(5))
    star, exposure = np.tile(np.arange(n), k), np.repeat(np.arange(k), n)
    years, factor = np.full(n * k, float(data["years"])), np.tile(data["factor"], (k, 1))
    found = combine_with_priors(data["prior"], tight, data["plane"], star, exposure, years, offset, noise, factor, clip=50.0)
    ours, theirs = (np.sqrt(np.diagonal(values, axis1=1, axis2=2)) for values in (found.covariance, data["covariance"]))
    print("\nBP3M beside combine_with_priors\n| | largest difference / error | error ratio | pull, ours, BP3M |\n|---|---|---|---|")
    # BP3M's values are the whole motion and parallax, as ours.
    for axis, name in enumerate(("East", "North", "pmra", "pmdec", "parallax")):
        difference = np.abs(found.value - data["value"])[:, axis] / theirs[:, axis]
        ratio = ours[:, axis] / theirs[:, axis]
        both = ((found.value, ours), (data["value"], theirs))
        pulls = [np.std((value - data["true"])[:, axis] / error[:, axis]) for value, error in both]
        print(f"| {name} | {difference.max():.4f} | {ratio.min():.3f} to {ratio.max():.3f} | {pulls[0]:.2f}, {pulls[1]:.2f} |")


def main() -> int:
    """Do what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--scenes", type=Path, nargs="+", default=[])
    parser.add_argument("--realisations", type=int, default=0)
    parser.add_argument("--m92", action="store_true")
    parser.add_argument("--bp3m", type=Path, help="what benchmarks/peers/run_bp3m_motions.py wrote")
    arguments = parser.parse_args()
    if arguments.run:
        score_run(arguments.run, arguments.scenes)
    if arguments.bp3m:
        bp3m(arguments.bp3m)
    everything = not (arguments.run or arguments.realisations or arguments.m92 or arguments.bp3m)
    if arguments.realisations or everything:
        realisations(arguments.realisations or 200)
    if arguments.m92 or everything:
        m92()
    return 0


if __name__ == "__main__":
    sys.exit(main())
