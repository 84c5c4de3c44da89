"""Models for colour-magnitude diagrams: isochrones and cooling tracks of files in a catalogue's bands, and loci of binaries.

Every error begins with the key of ``[population]`` that is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.models.options import PopulationOptions
from dpm.science.isochrones.cooling import CoolingTrack, SurfaceColors, read_bergeron_colors, read_cooling_track
from dpm.science.isochrones.extinction import band_extinctions, extinction_law
from dpm.science.isochrones.isochrone import Isochrone
from dpm.science.isochrones.readers import read_isochrones
from dpm.science.populations.synthetic import add_magnitudes

__all__ = ["Models", "ModelsError", "binary_locus", "read_models"]

MAX_ISOCHRONES, MAX_TRACKS = 4, 8  # lines that can be told apart
AGE_TOLERANCE = 0.02  # of an age that is asked for: files have them rounded, or in steps of its logarithm


class ModelsError(ValueError):
    """Models that cannot be used; the text names the key of ``[population]``."""

    def __init__(self, key: str, problem: Any) -> None:
        super().__init__(f"[population] {key}: {problem}")


@dataclass(frozen=True)
class Models:
    """Isochrones and tracks with absolute magnitudes in a catalogue's bands, and where they are seen.

    Parameters
    ----------
    isochrones : tuple of Isochrone
        Youngest first.
    tracks : tuple of CoolingTrack
        Lightest first.
    distance_modulus : float
        (m - M)_0.
    extinction : dict of str to float
        A of each band, mag.
    system : str
        ``vega`` or ``ab``.
    mass_ratios : tuple of float
        Of the binaries whose loci are drawn.
    """

    isochrones: tuple[Isochrone, ...]
    tracks: tuple[CoolingTrack, ...]
    distance_modulus: float
    extinction: dict[str, float]
    system: str
    mass_ratios: tuple[float, ...]

    def shift(self, band: str) -> float:
        """Apparent minus absolute magnitude in a band."""
        return self.distance_modulus + self.extinction[band]


def binary_locus(isochrone: Isochrone, mass_ratio: float = 1.0) -> Isochrone:
    """Unresolved pairs of two stars of one isochrone: their magnitudes against the primary's initial mass.

    Equal masses are 2.5 log10(2) = 0.753 mag brighter at the same colour.

    Parameters
    ----------
    isochrone : Isochrone
        Absolute or apparent: fluxes add in both.
    mass_ratio : float
        Initial mass of the secondary over the primary's, above 0 and at most 1.

    Returns
    -------
    Isochrone
        Of the primaries whose secondaries are on the isochrone too; empty where there are none.
    """
    if not 0.0 < mass_ratio <= 1.0:
        raise ValueError(f"a mass ratio of {mass_ratio}; it has to be above 0 and at most 1")
    second = isochrone(mass_ratio * isochrone.mass)
    pairs = {
        band: add_magnitudes(mags, second[:, i]) for i, (band, mags) in enumerate(isochrone.magnitudes.items())
    }  # fmt: skip
    return dataclasses.replace(isochrone, magnitudes=pairs).keep(~np.isnan(second).any(axis=1))


def read_models(options: PopulationOptions) -> Models | None:
    """Read what ``[population]`` names; None where it names neither isochrones nor tracks.

    Raises
    ------
    ModelsError
        If a file is none of those that are read, a band is in none of them, or something that is needed is not set.
    """
    if not options.isochrones and not options.tracks:
        return None
    if options.distance_modulus is None:
        raise ModelsError("distance_modulus", "not set; give (m - M)_0, such as 11.96")
    if len(options.bands) < 2:
        raise ModelsError("bands", 'two bands or more are needed, by their names in the files: {niriss_f090w = "F090W", ...}')
    unknown = sorted(set(options.track_bands) - set(options.bands))
    if unknown:
        raise ModelsError("track_bands", f"{', '.join(unknown)} not in bands")
    isochrones = _chosen([one for path in options.isochrones for one in _read("isochrones", read_isochrones, path)], options.ages)
    tracks = sorted(_tracks(options), key=lambda track: track.mass)
    if len(tracks) > MAX_TRACKS:
        raise ModelsError("tracks", f"{len(tracks)} tracks; give at most {MAX_TRACKS}")
    try:
        law = extinction_law(options.law, options.r_v)
    except (ValueError, ImportError) as error:
        raise ModelsError("law", error) from error
    try:
        extinction = band_extinctions(list(options.bands), options.r_v * options.e_bv, law, dict(options.extinction_ratios))
    except KeyError as error:
        raise ModelsError("extinction_ratios", error.args[0]) from error
    except ValueError as error:  # a wavelength that the law does not reach
        raise ModelsError("law", error) from error
    return Models(
        isochrones=tuple(_renamed("bands", one, options.bands) for one in isochrones),
        tracks=tuple(tracks),
        distance_modulus=options.distance_modulus,
        extinction=extinction,
        system=options.system,
        mass_ratios=options.mass_ratios,
    )


def _read(key: str, read: Callable[[str], Any], path: str) -> Any:
    try:
        return read(path)
    except (ValueError, OSError) as error:  # InputError is a ValueError
        raise ModelsError(key, error) from error


def _chosen(found: list[Isochrone], ages: Sequence[float]) -> list[Isochrone]:
    """The isochrones of these ages; all where none is asked for."""
    found = sorted(found, key=lambda isochrone: isochrone.age)
    if ages:
        out = []
        for age in sorted(ages):
            near = [one for one in found if abs(one.age - age) <= AGE_TOLERANCE * age]
            if not near:
                raise ModelsError("ages", f"no isochrone of {age:g} Gyr; there are {_listed(one.age for one in found)}")
            out.append(min(near, key=lambda one: abs(one.age - age)))
        found = out
    if len(found) > MAX_ISOCHRONES:
        there = _listed(one.age for one in found)
        raise ModelsError("ages", f"{len(found)} isochrones; choose at most {MAX_ISOCHRONES} of {there}")
    return found


def _listed(ages: Iterable[float]) -> str:
    values = [f"{age:.4g}" for age in ages]
    return ", ".join(values if len(values) <= 12 else [*values[:5], "...", *values[-5:]]) + " Gyr"


def _tracks(options: PopulationOptions) -> list[CoolingTrack]:
    names = {**options.bands, **options.track_bands}
    key = "track_bands" if options.track_bands else "bands"
    tracks = [_read("tracks", read_cooling_track, path) for path in options.tracks]
    if not options.surface_colors:
        return [_renamed(key, track, names) for track in tracks]
    colors: SurfaceColors = _read("surface_colors", read_bergeron_colors, options.surface_colors)
    _known(key, names, colors.bands)
    try:
        return [track.with_colors(colors, names) for track in tracks]
    except ValueError as error:
        raise ModelsError("surface_colors", error) from error


def _renamed(key: str, line: Any, names: Mapping[str, str]) -> Any:
    """An isochrone or track with the catalogue's bands alone."""
    _known(key, names, tuple(line.magnitudes))
    mags: dict[str, NDArray[np.float64]] = {new: line.magnitudes[old] for new, old in names.items()}
    return dataclasses.replace(line, magnitudes=mags)


def _known(key: str, names: Mapping[str, str], bands: Sequence[str]) -> None:
    missing = sorted(set(names.values()) - set(bands))
    if missing:
        raise ModelsError(key, f"no magnitudes {', '.join(missing)} in the files; there are {', '.join(bands)}")
