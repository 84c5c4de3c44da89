"""The section with models over colour-magnitude diagrams, where ``[population]`` asks for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from dpm.models.options import PopulationOptions
from dpm.report.data import RunData, band_label
from dpm.report.figures import encode
from dpm.report.plots_photometry import color_pairs
from dpm.report.section import MAX_MAPS, Section
from dpm.report.summary import magnitude_system

if TYPE_CHECKING:
    from dpm.science.populations.models import Models

__all__ = ["models_section"]

logger = logging.getLogger(__name__)

MEMBER = 0.5  # least probability of the stars in front


def models_section(data: RunData) -> Section:
    """CMDs with isochrones, cooling tracks and loci of binaries."""
    section = Section(
        "models",
        "Models",
        "Isochrones, cooling tracks and unresolved binaries (broken lines) of the files in [population], over stars "
        "as they are observed and over absolute, dereddened magnitudes. Every star has the same distance and extinction. Nothing "
        "is fitted.",
        wide=True,
    )
    wanted: dict[str, Any] = data.config.get("population", {})
    if not wanted.get("isochrones") and not wanted.get("tracks"):
        return section
    from dpm.report.plots_population import plot_models  # slow to import, and seldom asked for
    from dpm.science.populations.models import ModelsError, read_models

    try:
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in wanted.items()}
        models = read_models(PopulationOptions(**values))
    except (ModelsError, TypeError) as error:
        section.absent = f"Absent: {error}."
        logger.warning("report: %s", error)
        return section
    assert models is not None
    pairs = [(blue, red, _undated(blue), _undated(red)) for blue, red in color_pairs(data)]
    pairs = [pair for pair in pairs if pair[2] in models.extinction and pair[3] in models.extinction]
    if not pairs:
        there = ", ".join(models.extinction)
        section.absent = f"Absent: [population] bands has {there}, and no two of these have magnitudes in the catalogue."
        return section
    probability = data.catalog_column("member_probability")
    members = None if probability is None else np.nan_to_num(probability.astype(float)) >= MEMBER
    for blue, red, first, second in pairs[:MAX_MAPS]:
        system = magnitude_system(data, blue)
        if not {magnitude_system(data, band).lower() for band in (blue, red)} <= {models.system, "configured"}:
            section.absent = (
                f"Absent: [population] system is {models.system}, and the catalogue's magnitudes are {system}; "
                "[photometry] system or zero_points make them the same."
            )
            continue
        mags = {name: data.catalog_column(f"{band}_mag") for name, band in ((first, blue), (second, red))}
        figure = plot_models(mags, models, first, second, system, members if members is not None and members.any() else None)
        extinction = ", ".join(f"A({band_label(band)}) = {models.extinction[band]:.3f}" for band in (first, second))
        note = f"(m − M)₀ = {models.distance_modulus:g}, {extinction} mag."
        if members is not None and members.any():
            note += " Grey: no members."
        if not _overlap(models, mags, first, second):
            note += " No model comes near the stars: see distance_modulus, e_bv and bands."
        section.images.append(encode(figure, f"Models over the CMD {band_label(blue)} against {band_label(red)}", note))
    if section.images:
        section.absent = ""
    return section


def _overlap(models: Models, mags: dict[str, Any], blue: str, red: str) -> bool:
    """Whether a line has a point within the magnitudes and colours of most stars."""
    mag, color = np.asarray(mags[blue], float), np.asarray(mags[blue], float) - np.asarray(mags[red], float)
    ranges = [np.nanpercentile(values, [0.5, 99.5]) for values in (mag, color)]
    for line in [one.magnitudes for one in models.isochrones] + [one.magnitudes for one in models.tracks]:
        at = line[blue] + models.shift(blue)
        places = at, at - line[red] - models.shift(red)
        if np.logical_and(*((place > low) & (place < high) for place, (low, high) in zip(places, ranges))).any():
            return True
    return False


def _undated(band: str) -> str:
    """A band without the year that several epochs add."""
    return "_".join(band.split("_")[:2])
