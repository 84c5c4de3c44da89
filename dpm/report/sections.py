"""The report's sections: which plots and tables each holds, and what it says where its input is missing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dpm.report import plots_astrometry as astrometry
from dpm.report import plots_atlas as atlas
from dpm.report import plots_images as images
from dpm.report import plots_photometry as photometry
from dpm.report import plots_quality as quality
from dpm.report import plots_second_pass as second_pass
from dpm.report import summary
from dpm.report.artificial import artificial_stars
from dpm.report.data import RunData, Sample, filter_label
from dpm.report.plots_footprints import plot_footprints
from dpm.report.plots_members import load_members, member_figures, member_table
from dpm.report.plots_motions import plot_motions
from dpm.report.section import MAX_MAPS, Section, some
from dpm.report.sections_calibration import (
    brightness_section,
    colour_section,
    distortion_section,
    epsf_build_section,
    epsf_section,
    perturbation_section,
)
from dpm.report.sections_population import models_section
from dpm.report.select import measured_residuals

__all__ = ["build_sections"]

_MAX_FIELD_IMAGES = 10
_NO_MATCHES = (
    "Absent: no table in tables/matches says which detection belongs to which star; the frame stage writes them."
)


def build_sections(data: RunData, only: str = "") -> list[Section]:
    """All sections in the page's order; those without input hold one line that says why.

    Sections of a calibration that this run did not make are left out.

    Raises
    ------
    KeyError
        If there is no section ``only``, such as ``residual_maps``.
    """
    makers: tuple[Callable[[RunData], Section], ...] = (
        _field,
        _atlas,
        _second_pass,
        _motions,
        _artificial_stars,
        _quality,
        _position_scatter,
        _residual_maps,
        _pixel_phase,
        _pulls,
        _magnitude_scatter,
        _cmd,
        models_section,
        _luminosity,
        epsf_section,
        epsf_build_section,
        perturbation_section,
        brightness_section,
        colour_section,
        distortion_section,
        _exposures,
        _flags,
        _columns,
        _files,
        _provenance,
    )
    if only:
        known = {make.__name__.removeprefix("_").removesuffix("_section"): make for make in makers}
        if only not in known:
            raise KeyError(f"no section {only!r} in a report; there are {', '.join(known)}")
        return [known[only](data)]
    sections = [make(data) for make in makers]
    return [section for section in sections if section.absent or not section.empty]


def _field(data: RunData) -> Section:
    section = Section(
        "field",
        "Field",
        "One exposure of each detector in an asinh stretch. Circles: first-pass detections that belong to a star of the "
        "master frame. Squares: those that do not (cosmic rays, artefacts, stars in too few exposures).",
        wide=True,
    )
    rows = _central_exposures(data)
    for row in rows[: _MAX_FIELD_IMAGES // 2]:
        section.images += images.plot_field(data, row)
    if len(rows) > _MAX_FIELD_IMAGES // 2:
        section.text += f" The first {_MAX_FIELD_IMAGES // 2} of {len(rows)} detectors are shown."
    if not section.images:
        section.absent = "Absent: the run folder has no cube with pixels of its exposures."
    else:
        section.images = some(plot_footprints(data)) + section.images
    return section


def _atlas(data: RunData) -> Section:
    section = Section(
        "atlas",
        "Atlas",
        "All exposures of a band and epoch drizzled onto one grid, cosmic rays rejected, skies matched and subtracted. Of two "
        "bands the green picture is their mean, 1:3 red to blue; white is the colour of the median bright pixel.",
        wide=True,
    )
    if data.folder.atlas_index.is_file():
        section.images, section.links = atlas.plot_pictures(data)
        section.tables = [atlas.stack_table(data)]
    return section


def _central_exposures(data: RunData) -> list[int]:
    """For each detector the row of the exposure with the most detections of the frame's stars."""
    table = data.exposures
    if table is None or not {"detector", "cube", "index"} <= set(table.colnames):
        return []
    merit = np.zeros(len(table))
    for name in ("n_detections", "n_matched"):
        if name in table.colnames:
            merit += np.asarray(table[name], dtype=float) * (1.0 if name == "n_matched" else 1e-6)
    detectors = np.array([str(name) for name in table["detector"]])
    chosen = []
    for detector in sorted(set(detectors)):
        mine = np.flatnonzero(detectors == detector)
        chosen.append(int(mine[np.argmax(merit[mine])]))
    return chosen


def _second_pass(data: RunData) -> Section:
    section = Section(
        "second-pass",
        "Second pass",
        "All exposures fitted at once. Data beside data minus all stars of the catalogue, in one linear grey scale: what is left "
        "is noise, galaxies, cosmic rays, stars seen in fewer exposures than the catalogue asks for, and what the ePSF lacks. "
        "Pulls are pixels of the residual over their noise. Methods: 1, position free in each exposure; 2, at the joint position; "
        "3, the 3 by 3 pixels at the peak.",
        wide=True,
    )
    if data.catalog is not None and data.folder.measurements.is_dir():
        section.images = second_pass.plot_residuals(data)
        stacks, missing = second_pass.plot_stacks(data)
        section.images += stacks
        section.text += missing
        for band in data.bands:
            label = summary.magnitude_label(data, band)
            section.images += second_pass.plot_quality(data, band, label) + second_pass.plot_errors(data, band, label)
            section.images += some(second_pass.plot_gain(data, band, label))
            section.images += some(second_pass.plot_methods(data, band, label))
    if section.empty:
        section.absent = "Absent: there is no table in tables/measurements; the second pass writes them."
    return section


def _motions(data: RunData) -> Section:
    section = Section(
        "motions",
        "Motions",
        "Motions of stars seen at two epochs, absolute and against the cluster's members, who are chosen by their motions. "
        "Transforms tied to members take out what these do together: rotation, expansion and shear of the cluster.",
        wide=True,
    )
    section.images = plot_motions(data)
    stars = load_members(data)
    if stars is not None:
        section.images += member_figures(data, stars)
        section.tables = [member_table(stars)]
    return section


def _artificial_stars(data: RunData) -> Section:
    section = Section(
        "artificial-stars",
        "Artificial stars",
        "Stars put into every exposure and found and measured by the second pass. Recovered: found, kept in the catalogue, within "
        "half a pixel and a magnitude in every filter, and not on a real star as bright. Curves are fitted to single stars; points "
        "are bins with one-sigma Jeffreys intervals. The selection keeps a stated share of the well-recovered artificial stars at "
        "every magnitude and in every quantity; real stars go through the same cuts.",
        wide=True,
    )
    if data.folder.artificial_stars.is_file():
        section.images, section.tables, missing = artificial_stars(data)
        section.text += f" {missing}" if missing else ""
    return section


def _quality(data: RunData) -> Section:
    section = Section(
        "quality",
        "Fit quality",
        "QFIT is the sum of the absolute residuals over the star's light in the fit box; bright stars far above the "
        "dashed curve point to an ePSF that does not fit. RADXS is the light in excess of the ePSF just outside the "
        "core: negative for cosmic rays and hot pixels, positive for galaxies. chi lies at one where the noise model "
        "is right.",
    )
    for sample in data.samples.values():
        if np.isfinite(sample["mag"]).any():
            section.images += [quality.plot_qfit(sample), quality.plot_radxs(sample), quality.plot_chi(sample)]
    if section.empty:
        section.absent = "Absent: there is no detection in tables/detections."
    return section


def _position_scatter(data: RunData) -> Section:
    section = Section(
        "positions",
        "Positional RMS",
        "Scatter of the single exposures' positions about the master frame, one axis, for stars in two or more "
        "exposures. Bright stars level off at what the ePSF and the distortion leave; faint ones follow the formal "
        "error of the fit (dashed).",
        wide=True,
    )
    for band, sample in data.samples.items():
        scale = summary.pixel_scale(data, band)
        section.images += some(astrometry.plot_position_rms(data, sample, scale, summary.magnitude_label(data, band)))
        section.images += some(astrometry.plot_cloud(sample, scale))
    if section.empty:
        section.absent = "Absent: no star has two or more clean exposures." if data.has_matches else _NO_MATCHES
    return section


def _residual_maps(data: RunData) -> Section:
    section = Section(
        "residuals",
        "Residual maps",
        "Median residuals (measured minus master frame) of well-measured stars over the raw detector, each detector "
        "and filter. Without distortion left, the arrows are short and have no common direction.",
        wide=True,
    )
    for band, sample in data.samples.items():
        good, _ = measured_residuals(sample)
        for detector, area, mine in _detectors_of(data, sample):
            chosen = good & mine
            x, y, dx, dy = (sample[name][chosen].astype(float) for name in ("x", "y", "dx", "dy"))
            title = f"{detector}, {filter_label(band)}"
            if len(section.images) < MAX_MAPS:
                section.images += some(astrometry.plot_residual_map(x, y, dx, dy, area, title))
                section.images += some(astrometry.plot_residual_trends(x, y, dx, dy, area, title))
            else:
                section.text += f" Not drawn, to keep the page small: {title}."
    if section.empty:
        few = f"Absent: fewer than {astrometry.MINIMUM_FOR_MAPS} residuals of well-measured stars in every detector."
        section.absent = few if data.has_matches else _NO_MATCHES
    return section


def _detectors_of(data: RunData, sample: Sample) -> list[tuple[str, astrometry.Area, NDArray[np.bool_]]]:
    """Detectors of a band, the raw area that their exposures cover, and which detections are theirs."""
    table = data.exposures
    assert table is not None
    result = []
    rows = np.unique(sample["exposure"])
    names = np.array([str(table["detector"][int(row)]) for row in rows])
    for detector in sorted(set(names)):
        mine = rows[names == detector]
        first_x, first_y = np.min(table["x_origin"][mine]), np.min(table["y_origin"][mine])
        last_x = np.max(table["x_origin"][mine] + table["nx"][mine])
        last_y = np.max(table["y_origin"][mine] + table["ny"][mine])
        area = (float(first_x), float(last_x), float(first_y), float(last_y))
        result.append((detector, area, np.isin(sample["exposure"], mine)))
    return result


def _pixel_phase(data: RunData) -> Section:
    section = Section(
        "phase",
        "Pixel phase",
        "Residuals against the position of the star inside its pixel. A wave means that the ePSF is biased: dithered "
        "positions average it out in the catalogue, but not in a single exposure.",
    )
    for sample in data.samples.values():
        section.images += some(astrometry.plot_pixel_phase(sample))
    if section.empty:
        few = f"Absent: fewer than {astrometry.MINIMUM_FOR_MAPS} residuals of well-measured stars."
        section.absent = few if data.has_matches else _NO_MATCHES
    return section


def _pulls(data: RunData) -> Section:
    section = Section(
        "pulls",
        "Pulls",
        "Residuals about the mean over their formal errors, corrected for the mean's own error. Where errors are "
        "right, the histogram follows the unit Gaussian and the width lies between 0.9 and 1.1 at every magnitude.",
        wide=True,
    )
    for sample in data.samples.values():
        section.images += astrometry.plot_pulls(sample)
    if section.empty:
        few = f"Absent: fewer than {astrometry.MINIMUM_FOR_PULLS} residuals of stars in two or more exposures."
        section.absent = few if data.has_matches else _NO_MATCHES
    return section


def _magnitude_scatter(data: RunData) -> Section:
    section = Section(
        "magnitudes",
        "Magnitude RMS",
        "Scatter of the first pass's single exposures about their mean magnitude, after the zero points.",
    )
    for band in data.bands:
        label = summary.magnitude_label(data, band)
        section.images += some(photometry.plot_magnitude_rms(data, band, data.samples.get(band), label))
    if section.empty:
        section.absent = "Absent: no star has magnitudes in two or more exposures of a filter."
    return section


def _cmd(data: RunData) -> Section:
    section = Section(
        "cmd", "CMD", "Colour-magnitude diagrams. Grey: all stars. In colour: neither saturated nor of poor QFIT."
    )
    pairs = photometry.color_pairs(data)
    for blue, red in pairs[:MAX_MAPS]:
        section.images += some(photometry.plot_cmd(data, blue, red, summary.magnitude_system(data, blue)))
    if len(pairs) > MAX_MAPS:
        section.text += f" Not drawn, to keep the page small: {len(pairs) - MAX_MAPS} more pairs of filters."
    if section.empty:
        n = len(data.bands)
        section.absent = (
            "Absent: a colour needs two filters, and this run has one."
            if n == 1
            else "Absent: no star has magnitudes in two filters of different wavelength."
        )
    return section


def _luminosity(data: RunData) -> Section:
    section = Section("luminosity", "Star counts")
    system = summary.magnitude_system(data, data.bands[0]) if data.bands else "instrumental"
    section.images = some(photometry.plot_luminosity(data, system))
    if section.empty:
        section.absent = "Absent: the catalogue has no magnitudes."
    return section


def _exposures(data: RunData) -> Section:
    section = Section("exposures", "Exposures")
    table = summary.exposure_table(data)
    section.tables = [table] if table is not None else []
    if section.empty:
        section.absent = "Absent: there is neither tables/exposures.parquet nor a cube."
    return section


def _flags(data: RunData) -> Section:
    section = Section("flags", "Flags", "Bits of the column flags, and how many rows carry them.")
    table = summary.flag_table(data)
    section.tables = [table] if table is not None else []
    if section.empty:
        section.absent = "Absent: there is neither a catalogue nor a detection."
    return section


def _columns(data: RunData) -> Section:
    section = Section("columns", "Columns", "What the tables hold.", folded=True)
    section.tables = summary.column_tables(data)
    if section.empty:
        section.absent = "Absent: there is neither a catalogue nor a detection."
    return section


def _files(data: RunData) -> Section:
    return Section("files", "Files", tables=[summary.file_table(data)])


def _provenance(data: RunData) -> Section:
    section = Section("provenance", "Provenance", tables=summary.provenance_tables(data), folded=True)
    if section.empty:
        section.absent = "Absent: there is no provenance.json, or nothing in it."
    return section
