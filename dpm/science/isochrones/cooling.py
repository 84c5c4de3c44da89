"""White dwarf cooling tracks: Montreal (Bergeron) sequences and colour tables, BaSTI tracks, and interpolation between masses.

=================  ==========================================================================================================
Montreal           ``Table_Mass_0.6``: a line ``61  0.6 Mo  Pure-hydrogen grid``, one with the columns ``Teff  log g  Mbol  BC``,
                   bands and ``Age`` (yr, of cooling); a second grid (pure helium) may follow
Bergeron colours   ``colmag...``: comments ``!``, the last with ``Teff Logg [M/H] [a/H] LambdaMax`` and bands; magnitudes m at the
                   surface: M = m - 5 log10(R / pc) + 5
BaSTI              ``COOL061....``: a comment ``# log(t) Mwd log(Teff)log(L/Lo)`` and bands; log(t / yr) of cooling
=================  ==========================================================================================================

Bands that a file names twice (``F606W`` of ACS, then of WFC3) are ``F606W`` and ``F606W_2``, in the file's order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator, RegularGridInterpolator

from dpm.io.errors import InputError
from dpm.science.isochrones.isochrone import interpolate_quadratic

__all__ = [
    "CoolingTrack",
    "SurfaceColors",
    "interpolate_tracks",
    "read_basti_cooling",
    "read_bergeron_colors",
    "read_cooling_track",
    "read_montreal",
]

SOLAR_MASS, SOLAR_LOG_G = 1.0, 4.438  # log g of the Sun in cgs, IAU 2015 nominal values
SOLAR_RADIUS_PC = 2.25461e-8  # 6.957e8 m


@dataclass(frozen=True)
class CoolingTrack:
    """A white dwarf of one mass, cooling.

    Parameters
    ----------
    mass : float
        Solar units.
    age : ndarray (n,)
        Cooling age, Gyr, rising.
    teff, log_g : ndarray (n,)
        Kelvin; cgs, NaN where the file has none.
    magnitudes : dict of str to ndarray (n,)
        Absolute, a band.
    atmosphere : str
        What the file calls it.
    """

    mass: float
    age: NDArray[np.float64]
    teff: NDArray[np.float64]
    log_g: NDArray[np.float64]
    magnitudes: dict[str, NDArray[np.float64]]
    atmosphere: str = ""

    def __call__(self, age: Any, bands: Sequence[str]) -> NDArray[np.float64]:
        """Absolute magnitudes (n, bands) at cooling ages (Gyr), monotone between the nodes in log age; NaN outside them."""
        values = np.column_stack([self.magnitudes[band] for band in bands])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.log10(np.asarray(age, dtype=float))
        return np.asarray(PchipInterpolator(np.log10(self.age), values, extrapolate=False)(at))

    def with_colors(self, colors: SurfaceColors, bands: Mapping[str, str] | None = None) -> CoolingTrack:
        """The track with magnitudes of a colour table; nodes outside the table are left out.

        Parameters
        ----------
        colors : SurfaceColors
        bands : mapping of str to str, optional
            New name to the table's; all under its own names by default.
        """
        names = {band: band for band in colors.bands} if bands is None else dict(bands)
        values = colors(self.teff, self.log_g, self.mass, list(names.values()))
        good = np.isfinite(values).all(axis=1)
        if good.sum() < 2:
            covered = f"{int(good.sum())} of {good.size} nodes of the track of {self.mass} solar masses"
            raise ValueError(f"the colour table covers {covered}")
        magnitudes = dict(zip(names, values[good].T))
        return CoolingTrack(self.mass, self.age[good], self.teff[good], self.log_g[good], magnitudes, self.atmosphere)


@dataclass(frozen=True)
class SurfaceColors:
    """Magnitudes at the stellar surface over temperature and gravity; see `read_bergeron_colors`.

    Parameters
    ----------
    teff, log_g : ndarray
        Of the grid.
    bands : tuple of str
    surface : ndarray (teff, log_g, bands)
        NaN where the table has no model.
    """

    teff: NDArray[np.float64]
    log_g: NDArray[np.float64]
    bands: tuple[str, ...]
    surface: NDArray[np.float64]

    def __call__(self, teff: Any, log_g: Any, mass: Any, bands: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Absolute magnitudes (n, bands) of stars of these temperatures, gravities and masses; NaN outside the table.

        Linear in log temperature and log g: the table's steps are the error.
        """
        chosen = [self.bands.index(band) for band in (self.bands if bands is None else bands)]
        grid = RegularGridInterpolator(
            (np.log10(self.teff), self.log_g), self.surface[:, :, chosen], bounds_error=False, fill_value=np.nan
        )
        t, g, m = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (teff, log_g, mass)))
        at_surface = grid(np.stack([np.log10(t), g], axis=-1)).reshape(*t.shape, len(chosen))
        # R^2 = G M / g, in units of the Sun's
        log_radius = 0.5 * (np.log10(m / SOLAR_MASS) + SOLAR_LOG_G - g) + np.log10(SOLAR_RADIUS_PC)
        return np.asarray(at_surface - 5.0 * log_radius[..., None] + 5.0)


def read_cooling_track(path: str | os.PathLike[str]) -> CoolingTrack:
    """A Montreal sequence (hydrogen) or a BaSTI track, told by its titles.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is neither.
    """
    basti = any(line.startswith("#") and "log(t)" in line for line in _lines(path))
    return read_basti_cooling(path) if basti else read_montreal(path)


def read_montreal(path: str | os.PathLike[str], atmosphere: str = "hydrogen") -> CoolingTrack:
    """A cooling sequence of one mass, ``Table_Mass_...``.

    Parameters
    ----------
    path : path
    atmosphere : str
        Word of the grid's title: ``hydrogen`` or ``helium``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it has no such grid with ages.
    """
    lines = _lines(path)
    titles = [i for i, line in enumerate(lines) if "grid" in line.lower() and " Mo" in line]
    mine = [i for i in titles if atmosphere.lower() in lines[i].lower()]
    if not mine:
        raise _problem(path, f"no grid of {atmosphere} at one mass", "a Montreal table of one mass (Table_Mass_...)")
    start = mine[0]
    end = min([i for i in titles if i > start], default=len(lines))
    mass = float(re.search(r"([\d.]+)\s*Mo", lines[start])[1])  # type: ignore[index]
    names = _unique(lines[start + 1].replace("log g", "log_g").split())
    table = _table(path, names, lines[start + 2 : end])
    if not {"Teff", "log_g", "Age"} <= set(table):
        raise _problem(path, f"columns {', '.join(names[:4])}, ...", "a Montreal table of one mass with Teff, log g and Age")
    bands = {name: table[name] for name in names if name not in ("Teff", "log_g", "Age", "BC", "Mbol")}
    title = lines[start].split("Mo", 1)[1].split("grid")[0].strip()
    return _track(mass, table["Age"] / 1e9, table["Teff"], table["log_g"], bands, title)


def read_basti_cooling(path: str | os.PathLike[str]) -> CoolingTrack:
    """A BaSTI cooling track of one mass, ``COOL...``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is not such a file.
    """
    lines = _lines(path)
    titles = [line for line in lines if line.startswith("#") and "log(t)" in line]
    if not titles:
        raise _problem(path, "no comment with the column log(t)", "a BaSTI white dwarf track (COOL...)")
    names = _unique(titles[-1].replace("#", " ").replace("log(Teff)", " log(Teff) ").replace("log(L/Lo)", " log(L/Lo) ").split())
    table = _table(path, names, [line for line in lines if not line.startswith("#")])
    if "Mwd" not in table or np.ptp(table["Mwd"]) > 1e-3:
        raise _problem(path, "not one mass in a column Mwd", "a BaSTI white dwarf track (COOL...)")
    bands = {name: table[name] for name in names if name not in ("log(t)", "Mwd", "log(Teff)", "log(L/Lo)")}
    unknown = np.full(len(table["Mwd"]), np.nan)
    teff = 10 ** table["log(Teff)"] if "log(Teff)" in table else unknown
    return _track(float(table["Mwd"][0]), 10 ** (table["log(t)"] - 9.0), teff, unknown, bands, Path(path).stem)


def read_bergeron_colors(path: str | os.PathLike[str]) -> SurfaceColors:
    """The table of magnitudes at the surface, ``colmag.Bergeron...``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is not such a file, or has extinction in it.
    """
    lines = _lines(path)
    comments = [line.lstrip("! ") for line in lines if line.startswith("!")]
    titles = [line for line in comments if line.lower().startswith("teff")]
    if not titles or not any("SURFACE" in line for line in comments):
        raise _problem(path, "no magnitudes at the surface over Teff and Logg", "a Bergeron colour table (colmag....)")
    for line in comments:
        found = re.match(r"(?:E\(B-V\)|A_V)\s*=\s*([\d.]+)", line)
        if found and float(found[1]) > 0:
            raise _problem(path, line.strip(), "the table without extinction, which is added here")
    names = _unique(titles[-1].split())
    table = _table(path, names, [line for line in lines if not line.startswith("!")])
    teff, row = np.unique(table["Teff"], return_inverse=True)
    log_g, column = np.unique(table["Logg"], return_inverse=True)
    bands = names[names.index("LambdaMax") + 1 :] if "LambdaMax" in names else names[2:]
    surface = np.full((teff.size, log_g.size, len(bands)), np.nan)
    surface[row, column] = np.column_stack([table[band] for band in bands])
    return SurfaceColors(teff, log_g, tuple(bands), surface)


def interpolate_tracks(tracks: Sequence[CoolingTrack], mass: Any, age: Any, bands: Sequence[str]) -> NDArray[np.float64]:
    """Absolute magnitudes of white dwarfs of these masses and cooling ages, quadratic between the tracks' masses.

    Parameters
    ----------
    tracks : sequence of CoolingTrack
        Of different masses.
    mass, age : array_like (n,)
        Solar units, Gyr.
    bands : sequence of str

    Returns
    -------
    ndarray (n, bands)
        NaN outside the tracks' masses and ages.
    """
    ordered = sorted(tracks, key=lambda track: track.mass)
    masses = np.array([track.mass for track in ordered])
    wanted, ages = (np.asarray(v, dtype=float) for v in np.broadcast_arrays(mass, age))
    known = np.stack([track(ages, bands) for track in ordered], axis=1)  # (n, tracks, bands)
    out = np.full((wanted.size, len(bands)), np.nan)
    # A star is interpolated among the tracks that reach its age; both about its mass have to.
    there = np.isfinite(known).all(axis=2)
    for pattern in np.unique(there, axis=0):
        mine = np.flatnonzero((there == pattern).all(axis=1))
        if pattern.sum() < 2:
            continue
        cell = np.clip(np.searchsorted(masses, wanted[mine], side="right") - 1, 0, masses.size - 2)
        mine = mine[pattern[cell] & pattern[cell + 1]]
        for star in mine:
            out[star] = interpolate_quadratic(wanted[star : star + 1], masses[pattern], known[star][pattern])[0]
    return out


def _track(mass: float, age: Any, teff: Any, log_g: Any, bands: dict[str, Any], atmosphere: str) -> CoolingTrack:
    order = np.argsort(age, kind="stable")
    order = order[np.asarray(age)[order] > 0]
    rising = np.concatenate([[True], np.diff(np.asarray(age)[order]) > 0])
    order = order[rising]
    return CoolingTrack(mass, age[order], teff[order], log_g[order], {b: v[order] for b, v in bands.items()}, atmosphere)


def _unique(names: list[str]) -> list[str]:
    """Names, ``_2`` and so on behind those that came before."""
    out: list[str] = []
    for name in names:
        times = sum(other == name or re.fullmatch(re.escape(name) + r"_\d+", other) is not None for other in out)
        out.append(f"{name}_{times + 1}" if times else name)
    return out


def _lines(path: str | os.PathLike[str]) -> list[str]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return [line for line in Path(path).read_text().splitlines() if line.strip()]


def _table(path: str | os.PathLike[str], names: list[str], lines: list[str]) -> dict[str, NDArray[np.float64]]:
    rows = [line.split() for line in lines]
    widths = {len(row) for row in rows}
    if widths != {len(names)}:
        found = ", ".join(map(str, sorted(widths))) or "no"
        raise _problem(path, f"{len(names)} column names, but rows of {found} numbers", "the file as it was written")
    try:
        return dict(zip(names, np.array(rows, dtype=float).T))
    except ValueError as error:
        raise _problem(path, str(error), "the file as it was written") from error


def _problem(path: str | os.PathLike[str], what: str, give: str) -> InputError:
    return InputError(Path(path), "columns", what, f"Give {give}")
