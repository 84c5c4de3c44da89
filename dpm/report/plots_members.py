"""Membership and internal kinematics: diagrams by magnitude, errors, CMD of members, the reference's motions, profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.io.tables import read_table
from dpm.models.flags import StarFlag
from dpm.report.data import RunData, band_label
from dpm.report.figures import COLORS, Image, add_legend, draw_median, draw_points, encode, limits, new_figure
from dpm.report.plots_photometry import color_pairs
from dpm.report.summary import HtmlTable
from dpm.science.motions import (
    MotionError,
    as_covariance,
    dispersion_profile,
    kinematic_histogram,
    motion_map,
    principal_direction,
    tangent_positions,
)

__all__ = ["MemberData", "load_members", "member_figures", "member_table"]

Floats = NDArray[np.float64]

PANELS = 4  # ranges of magnitude, of equal numbers of stars
MEMBER = 0.5
MOST_DETECTORS = 6  # shown
BEST = 1.5  # magnitudes that the best-measured stars span
FEWEST = 20
NOT_GOOD = int(StarFlag.SATURATED | StarFlag.HIDDEN_NEIGHBOR)


@dataclass(frozen=True)
class MemberData:
    """What the plots rest on, one entry a star of the catalogue.

    Parameters
    ----------
    relative, error : ndarray (n, 2)
        mas/yr.
    covariance : ndarray (n, 2, 2)
    probability : ndarray (n,)
    mag : ndarray (n,)
        Of ``band``, the one that most stars have.
    position : ndarray (n, 2)
        arcsec from ``meta["center"]``.
    good : ndarray (n,), bool
        Finite motions, neither saturated nor with a neighbour that one epoch hides.
    """

    relative: Floats
    error: Floats
    covariance: Floats
    probability: Floats
    mag: Floats
    band: str
    position: Floats
    good: NDArray[np.bool_]
    table: Any
    meta: dict[str, Any]

    @property
    def members(self) -> NDArray[np.bool_]:
        """Good stars that are rather members than not; reference stars where there are no probabilities."""
        if np.isfinite(self.probability).any():
            return self.good & (np.nan_to_num(self.probability) >= MEMBER)
        return self.good & np.asarray(self.table["reference"], dtype=bool)


def load_members(data: RunData) -> MemberData | None:
    """Read ``tables/motions.parquet``; None where there is none, or it is of another catalogue."""
    if data.catalog is None or not data.folder.motions.is_file() or not data.bands:
        return None
    try:
        table = read_table(data.folder.motions)
    except (OSError, ValueError) as problem:
        data.warnings.append(f"{data.folder.motions.name} could not be read: {problem}")
        return None
    if not np.array_equal(table["id"], data.catalog["id"]):
        data.warnings.append("tables/motions.parquet is of another catalogue: run `dpm stage motions` again")
        return None
    relative = np.column_stack([table["pmra_relative"], table["pmdec_relative"]]).astype(float)
    error = np.column_stack([table["pmra_relative_error"], table["pmdec_relative_error"]]).astype(float)
    covariance = as_covariance(error, np.nan_to_num(table["pmra_relative_pmdec_relative_corr"]))
    band = max(data.bands, key=lambda name: int(np.isfinite(_magnitudes(data, name)).sum()))
    mag = _magnitudes(data, band)
    meta = dict(table.meta.get("motions", {}))
    center = meta.get("center")
    position, _ = tangent_positions(data.catalog["ra"], data.catalog["dec"], None if center is None else tuple(center))
    good = np.isfinite(relative).all(axis=1) & ((np.asarray(data.catalog["flags"]) & NOT_GOOD) == 0)
    return MemberData(
        relative, error, covariance, np.asarray(table["member_probability"], float), mag, band, position, good, table, meta
    )


def _magnitudes(data: RunData, band: str) -> Floats:
    column = data.catalog_column(f"{band}_mag")
    n = 0 if data.catalog is None else len(data.catalog)
    return np.full(n, np.nan) if column is None else column.astype(float)


def member_figures(data: RunData, stars: MemberData) -> list[Image]:
    """All figures of the section."""
    if stars.good.sum() < FEWEST:
        return []
    out = [*_diagrams(stars), *_errors(stars), *_total(stars), *_cmd(data, stars), *_reference(stars), *_map(stars)]
    out += _detector_maps(data)
    return out + _profile(stars) + _histogram(stars)


def member_table(stars: MemberData) -> HtmlTable:
    """Parameters of cluster and field, zero point, floor and maps."""
    meta, rows = stars.meta, []
    cluster, absolute, floor = meta.get("cluster"), meta.get("absolute"), meta.get("error_floor")
    if cluster:
        rows.append(("members (probability 0.5 or more, good)", f"{int(stars.members.sum()):,}", ""))
        rows.append(("intrinsic dispersion, one axis", f"{cluster['sigma']:.4f} ± {cluster['sigma_error']:.4f}", "mas/yr"))
        rows.append(("share of the cluster", f"{cluster['fraction']:.3f} ± {cluster['fraction_error']:.3f}", ""))
        rows.append(("field, mean from the cluster", ", ".join(f"{value:+.3f}" for value in cluster["field_mean"]), "mas/yr"))
        widths = np.sqrt(np.diag(np.array(cluster["field_covariance"])))
        rows.append(("field, width", ", ".join(f"{value:.3f}" for value in widths), "mas/yr"))
    rows.append(("stars that motions are measured against", f"{meta.get('n_reference', 0):,}", ""))
    if absolute:
        pairs = zip(absolute["motion"], absolute["error"])
        text = ", ".join(f"{value:+.4f} ± {error:.4f}" for value, error in pairs)
        rows.append((f"their absolute motion (East, North), from {absolute['n']} reference motions", text, "mas/yr"))
    if floor:
        rows.append(("error that neighbours share", f"{floor['common']:+.4f} ± {floor['common_error']:.4f}", "mas/yr"))
        rows.append(("scatter beyond errors, at most", f"{floor['single']:.4f} ± {floor['single_error']:.4f}", "mas/yr"))
    for name, title in (("map_before", "before local corrections"), ("map_after", "after them")):
        figures = meta.get(name, {})
        if "chi2" in figures:
            applied = "" if name == "map_before" or meta.get("corrected") else " (not applied)"
            text = f"{figures['rms']:+.4f}; chi-square {figures['chi2']:.0f} of {figures['degrees']:.0f}"
            rows.append((f"cells of the map beyond errors, {title}{applied}", text, "mas/yr"))
    return HtmlTable(["", "value", "unit"], [list(row) for row in rows], frozenset({1}))


def _square(stars: MemberData) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of the diagrams, East to the left, of equal lengths: members and most of the field."""
    east, north = (limits(stars.relative[stars.good, axis], 1.5, 98.5, 0.1) for axis in (0, 1))
    half = 0.5 * max(east[1] - east[0], north[1] - north[0])
    middle = [0.5 * (low + high) for low, high in (east, north)]
    return (middle[0] + half, middle[0] - half), (middle[1] - half, middle[1] + half)


def _diagrams(stars: MemberData) -> list[Image]:
    """Vector-point diagrams in ranges of magnitude, with the members' circles."""
    use = stars.good & np.isfinite(stars.mag)
    if use.sum() < FEWEST:
        return []
    edges = np.quantile(stars.mag[use], np.linspace(0, 1, PANELS + 1))
    figure, axes = new_figure(8.6, 2.7, ncols=PANELS, sharey=True)
    (xlim, ylim), circles = _square(stars), stars.meta.get("circles")
    for panel, low, high in zip(axes, edges[:-1], edges[1:]):
        mine = use & (stars.mag >= low) & (stars.mag <= high)
        for rows, color in ((mine & ~stars.members, COLORS["grey"]), (mine & stars.members, COLORS["blue"])):
            draw_points(panel, stars.relative[rows, 0], stars.relative[rows, 1], xlim, ylim, color)
        if circles:
            angle = np.linspace(0, 2 * np.pi, 100)
            radius = np.interp(0.5 * (low + high), circles["mag"], circles["radius"])
            panel.plot(radius * np.cos(angle), radius * np.sin(angle), color=COLORS["vermillion"], lw=1.0)
        panel.set_title(f"{low:.1f} to {high:.1f}")
        panel.set_xlabel("East [mas/yr]")
        panel.set_aspect("equal")
    axes[0].set_ylabel("North [mas/yr]")
    note = "Motions against the members. Blue: members; circles: three widths of members of that magnitude."
    return [encode(figure, f"Vector-point diagrams in ranges of {band_label(stars.band)}", note)]


def _errors(stars: MemberData) -> list[Image]:
    """Error of one axis against magnitude, and the median of the best-measured stars (paper 2, figure 20)."""
    error = np.sqrt(np.mean(stars.error**2, axis=1))
    use = stars.good & np.isfinite(stars.mag) & (error > 0)
    if use.sum() < FEWEST:
        return []
    low, best = _best_range(stars.mag[use], error[use])
    high = low + BEST
    figure, axes = new_figure()
    bottom, top = np.percentile(error[use], [0.5, 99.5])
    draw_points(axes, stars.mag[use], error[use], limits(stars.mag[use], 0.2, 99.8), (bottom / 1.5, top * 1.5), log_y=True)
    draw_median(axes, stars.mag[use], error[use], "median")
    axes.axvspan(low, high, color=COLORS["tint"], zorder=0)
    axes.axhline(best, color=COLORS["vermillion"], lw=1.2, label=f"best stars: {1000 * best:.1f} µas/yr")
    axes.set_xlabel(f"{band_label(stars.band)} [mag]")
    axes.set_ylabel("error of relative motion, one axis [mas/yr]")
    add_legend(axes, loc="upper left")
    return [encode(figure, "Errors of relative motions against magnitude", "Shaded: the best-measured stars, with their median.")]


def _best_range(mag: Floats, error: Floats) -> tuple[float, float]:
    """Where `BEST` magnitudes with enough stars begin whose median error is the smallest, and that error."""
    found = []
    for low in np.arange(mag.min(), mag.max(), 0.25):
        mine = (mag >= low) & (mag <= low + BEST)
        if mine.sum() >= FEWEST:
            found.append((float(np.median(error[mine])), float(low)))
    best, low = min(found, default=(float(np.median(error)), float(mag.min())))
    return low, best


def _total(stars: MemberData) -> list[Image]:
    """Total relative motion against magnitude (paper 1, figure 4)."""
    total = np.hypot(*stars.relative.T)
    use = stars.good & np.isfinite(stars.mag)
    figure, axes = new_figure()
    xlim = limits(stars.mag[use], 0.2, 99.8)
    ylim = (max(float(np.percentile(total[use], 0.5)), 1e-4) / 1.5, float(total[use].max()) * 1.5)
    for rows, color, label in ((use & ~stars.members, COLORS["grey"], "others"), (use & stars.members, COLORS["blue"], "members")):
        draw_points(axes, stars.mag[rows], total[rows], xlim, ylim, color, label, log_y=True)
    circles = stars.meta.get("circles")
    if circles:
        axes.plot(circles["mag"], circles["radius"], color=COLORS["vermillion"], lw=1.2, label="circle")
    axes.set_xlabel(f"{band_label(stars.band)} [mag]")
    axes.set_ylabel("relative motion [mas/yr]")
    add_legend(axes, loc="upper left")
    return [encode(figure, "Relative motion against magnitude")]


def _cmd(data: RunData, stars: MemberData) -> list[Image]:
    """Colour-magnitude diagrams of members and of the rest (paper 1, figure 4; paper 2, figure 25)."""
    pairs = color_pairs(data)
    if not pairs:
        return []
    blue, red = pairs[0]
    one, two = data.catalog_column(f"{blue}_mag"), data.catalog_column(f"{red}_mag")
    if one is None or two is None:
        return []
    mag = one.astype(float)
    color = mag - two.astype(float)
    shown = stars.good & np.isfinite(color)
    if shown.sum() < FEWEST:
        return []
    figure, axes = new_figure(6.4, 4.2, ncols=2, sharey=True)
    xlim, ylim = limits(color[shown], 1, 99, 0.25), limits(mag[shown], 0, 99.9)[::-1]
    for panel, rows, name in ((axes[0], stars.members, "members"), (axes[1], ~stars.members, "others")):
        draw_points(panel, color[shown & rows], mag[shown & rows], xlim, ylim, COLORS["blue" if name == "members" else "grey"])
        panel.set_title(f"{int((shown & rows).sum()):,} {name}")
        panel.set_xlabel(f"{band_label(blue)} − {band_label(red)} [mag]")
    axes[0].set_ylabel(f"{band_label(blue)} [mag]")
    return [encode(figure, "Colour-magnitude diagrams of members and of the rest", "Stars with good motions.")]


def _reference(stars: MemberData) -> list[Image]:
    """Our motions and the reference's of the same stars, about the same zero (paper 2, figure 21)."""
    zero = stars.meta.get("absolute")
    if not zero or "pmra_reference" not in stars.table.colnames:
        return []
    theirs = np.column_stack([stars.table["pmra_reference"], stars.table["pmdec_reference"]]).astype(float) - zero["motion"]
    errors = np.column_stack([stars.table["pmra_reference_error"], stars.table["pmdec_reference_error"]]).astype(float)
    both = stars.good & np.isfinite(theirs).all(axis=1)
    if both.sum() < FEWEST:
        return []
    figure, axes = new_figure(8.4, 2.9, ncols=3)
    xlim, ylim = _square(stars)
    member = both & stars.members
    for panel, values, name in ((axes[0], stars.relative, "this run"), (axes[1], theirs, "reference")):
        draw_points(panel, values[both, 0], values[both, 1], xlim, ylim)
        width = np.std(values[member], axis=0) if member.sum() > 2 else np.full(2, np.nan)
        panel.set_title(f"{name}: members {width[0]:.3f}, {width[1]:.3f}")
        panel.set_xlabel("East [mas/yr]")
        panel.set_aspect("equal")
    axes[0].set_ylabel("North [mas/yr]")
    pull = (stars.relative - theirs)[both] / np.sqrt(errors**2 + stars.error**2)[both]
    axes[2].hist(np.clip(pull, -6, 6).ravel(), np.linspace(-6, 6, 49), color=COLORS["sky"])
    x = np.linspace(-6, 6, 200)
    axes[2].plot(x, pull.size * 0.25 * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), color=COLORS["ink"], lw=1.2)
    width = 1.4826 * float(np.median(np.abs(pull)))
    axes[2].set_title(f"pulls: width {width:.2f}")
    note = (
        f"{int(both.sum()):,} stars; titles give the members' standard deviations, East and North. Pulls: differences over both "
        "errors. Where the reference is the first epoch, its positions are in both."
    )
    return [encode(figure, "Motions of this run and of the reference", note)]


def _map(stars: MemberData) -> list[Image]:
    """Mean motion of members over the field."""
    found = motion_map(stars.position, stars.relative, stars.covariance, stars.members)
    if len(found) < 3:
        return []
    figure, axes = new_figure(4.2, 3.8)
    axes.scatter(*stars.position[stars.members].T, s=1.0, color="#b9c0c8", linewidths=0)
    mean = found["pmra"], found["pmdec"]
    arrows = axes.quiver(found["x"], found["y"], *mean, angles="xy", color=COLORS["vermillion"], width=0.005)
    size = float(np.median(found["error"])) * 2.0
    axes.quiverkey(arrows, 0.7, 1.04, size, f"{size:.3f} mas/yr (2σ)", labelpos="E", fontproperties={"size": 7})
    axes.invert_xaxis()
    axes.set_xlabel("East [arcsec]")
    axes.set_ylabel("North [arcsec]")
    axes.set_aspect("equal")
    note = f"Cells of {found.meta['step']:.1f} arcsec; chi-square {found.meta['chi2']:.0f} of {found.meta['degrees']}."
    return [encode(figure, "Mean motion of members over the field", note)]


def _detector_maps(data: RunData) -> list[Image]:
    """Members' mean motions in cells of each detector and epoch, before and after corrections."""
    if not data.folder.detector_maps.is_file():
        return []
    cells = read_table(data.folder.detector_maps)
    names = list(dict.fromkeys(str(name) for name in cells["detector_epoch"]))[:MOST_DETECTORS]
    figure, panels = new_figure(5.6, 2.7 * len(names), nrows=len(names), ncols=2, squeeze=False, sharex="row", sharey="row")
    size = 2.0 * float(np.median(cells["error"]))
    for row, name in zip(panels, names):
        mine = cells[np.asarray(cells["detector_epoch"]) == name]
        for axes, when in zip(row, ("before", "after")):
            east, north = (np.asarray(mine[f"{motion}_{when}"], float) for motion in ("pmra", "pmdec"))
            # East is to the left on the sky; a detector has its own way up, and arrows show East to the left as elsewhere.
            step = max(float(np.ptp(mine["x"])), float(np.ptp(mine["y"])), 1.0) / 8.0
            style = {"color": COLORS["vermillion"], "width": 0.006, "scale": size / step, "scale_units": "x"}
            axes.quiver(mine["x"], mine["y"], -east, north, **style)
            excess = np.mean(east**2 + north**2) / 2 - np.mean(np.asarray(mine["error"], float) ** 2)
            axes.set_title(f"{when}: {np.sign(excess) * np.sqrt(abs(excess)):+.4f} mas/yr")
            axes.set_xlabel("column [pixel]")
            axes.set_aspect("equal")
        row[0].set_ylabel(f"{name}\nrow [pixel]")
    note = (
        f"Arrows are on the sky, East to the left; one as long as a cell is {size:.3f} mas/yr (2σ). Titles: RMS of the cells "
        "beyond their errors, one axis (negative: errors explain more than there is). Right: in magnitude and colour too."
    )
    return [encode(figure, "Mean motion of members over the detectors, before and after corrections", note)]


def _profile(stars: MemberData) -> list[Image]:
    """Dispersion against radius: radial and tangential."""
    if stars.members.sum() < 5 * FEWEST or "cluster" not in stars.meta:
        return []
    member = stars.members
    number = max(int(member.sum()) // 6, FEWEST)
    rows = dispersion_profile(stars.position[member], stars.relative[member], stars.covariance[member], stars_per_bin=number)
    if len(rows) < 2:
        return []
    figure, axes = new_figure()
    for name, color, shift in (("radial", "blue", 0.99), ("tangential", "vermillion", 1.01)):
        axes.errorbar(rows["r"] * shift, rows[f"sigma_{name}"], rows[f"sigma_{name}_error"], color=COLORS[color], marker="o", ms=3,
                      lw=1.0, label=name)  # fmt: skip
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("radius [arcsec]")
    axes.set_ylabel("intrinsic dispersion [mas/yr]")
    add_legend(axes)
    note = "About the middle of the field, or [motions] center. Transforms tied to members take out rotation, expansion and shear."
    return [encode(figure, "Dispersion of members against radius", note)]


def _histogram(stars: MemberData) -> list[Image]:
    """All good stars along the direction in which they spread most, and two Gaussians (paper 2, figure 23)."""
    error = np.sqrt(np.mean(stars.error**2, axis=1))
    use = stars.good & (error <= np.median(error[stars.good]))
    try:
        _, direction = principal_direction(stars.relative[use])
        found = kinematic_histogram(stars.relative[use], stars.covariance[use], 2, np.zeros(2), direction, draws=200)
    except MotionError:
        return []
    figure, axes = new_figure()
    low, high = limits(stars.relative[use] @ direction, 0.5, 99.5)
    shown = (found.value > low) & (found.value < high)
    axes.errorbar(found.value[shown], found.count[shown], found.count_error[shown], fmt=".", ms=3, color=COLORS["ink"], lw=0.7)
    total = np.zeros(len(found.value))
    for mean, width, share, color in zip(found.mean, found.width, found.fraction, ("orange", "purple")):
        part = share * found.count.sum() * found.step * np.exp(-0.5 * ((found.value - mean) / width) ** 2)
        part = part / (np.sqrt(2 * np.pi) * width)
        total += part
        axes.plot(found.value[shown], part[shown], color=COLORS[color], lw=1.3, label=f"{mean:+.3f}: {100 * share:.0f} %")
    axes.plot(found.value[shown], total[shown], color=COLORS["blue"], lw=1.0)
    axes.set_yscale("symlog", linthresh=3.0)
    axes.set_ylim(bottom=0.0)
    angle = float(np.degrees(np.arctan2(direction[0], direction[1])) % 180.0)
    axes.set_xlabel(f"motion along position angle {angle:.0f}° [mas/yr]")
    axes.set_ylabel("stars")
    add_legend(axes)
    note = "The better half of the stars, averaged over 200 draws of their errors; two Gaussians with their shares."
    return [encode(figure, "Motions along the direction of largest spread", note)]
