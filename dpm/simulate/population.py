"""Who is in the field: cluster and field stars with magnitudes and motions, galaxies, and a reference catalogue.

Magnitudes follow a made-up but CMD-like family: the first filter's magnitude gives a star's place on a main sequence
with a turn-off (or a giant branch above it), that gives a colour index, and the colour index times a smooth function
of wavelength gives every other filter.  Cluster stars scatter little about it and some are unresolved pairs; field
stars scatter widely.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.simulate.geometry import SkyPlane
from dpm.simulate.options import SimulationOptions

__all__ = ["Galaxies", "make_galaxies", "make_reference", "make_stars", "write_table"]

Floats = NDArray[np.float64]
TURN_OFF = 4.0


def _colour_index(mag: Floats, brightest: float) -> Floats:
    """Colour index (about that of 0.9 and 1.5 micrometres) of cluster stars."""
    above = mag - (brightest + TURN_OFF)
    sequence = 0.75 + 0.12 * np.maximum(above, 0) + 0.008 * np.maximum(above, 0) ** 2
    giants = 0.75 + 0.10 * np.minimum(-above, 0.5) / 0.5 + 0.11 * np.maximum(-above - 0.5, 0)
    return np.where(above >= 0, sequence, giants)


def _colour_term(wavelength: float, reference: float) -> float:
    """Magnitude in a filter less that in the reference filter, per colour index."""
    return float((1 / wavelength - 1 / reference) / (1 / 0.9 - 1 / 1.5))


def _luminosity_function(generator: np.random.Generator, n: int, bright: float, faint: float, slope: float) -> Floats:
    """Magnitudes with log10 N rising linearly."""
    u = generator.uniform(size=n)
    if abs(slope) < 1e-6:
        return bright + u * (faint - bright)
    a, b = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.log10(a + u * (b - a)) / slope


def _places(
    generator: np.random.Generator,
    n: int,
    half: float,
    inside: Callable[[Floats, Floats], NDArray[np.bool_]],
    radius: float,
) -> tuple[Floats, Floats]:
    """Tangent-plane positions in the covered area: uniform, or with a core profile."""
    x, y = np.empty(0), np.empty(0)
    while x.size < n:
        a, b = generator.uniform(-half, half, (2, 4 * n))
        keep = inside(a, b)
        if radius > 0:
            keep &= generator.uniform(size=a.size) < 1 / (1 + (a * a + b * b) / radius**2) ** 1.5
        else:
            generator.uniform(size=a.size)
        x, y = np.concatenate([x, a[keep]]), np.concatenate([y, b[keep]])
    return x[:n], y[:n]


def make_stars(
    options: SimulationOptions,
    wavelengths: dict[str, float],
    half: float,
    inside: Callable[[Floats, Floats], NDArray[np.bool_]],
    plane: SkyPlane,
    generator: np.random.Generator,
) -> Table:
    """All stars, positions at ``options.ref_epoch``.

    Parameters
    ----------
    options : SimulationOptions
        The field.
    wavelengths : dict of str to float
        Micrometres of every filter; the first is the one that ``options.magnitudes`` means.
    half : float
        Stars are sought within this many arcsec of the centre in xi and eta.
    inside : callable
        Says of tangent-plane positions whether they are in the covered area.
    plane : SkyPlane
        The tangent plane.
    generator : numpy.random.Generator
        Source of chance.

    Returns
    -------
    astropy.table.Table
        id, ra, dec, xi, eta (arcsec), pm_xi, pm_eta (mas/yr), member, colour (index, magnitudes), mag_<filter>.
    """
    n = options.n_stars
    member = generator.uniform(size=n) < options.cluster_fraction
    x0, y0 = _places(generator, n, half, inside, 0.0)
    xc, yc = _places(generator, n, half, inside, options.cluster_radius)
    xi, eta = np.where(member, xc, x0), np.where(member, yc, y0)
    normal = generator.normal(size=(4, n))
    motion_xi = np.where(
        member,
        options.cluster_motion[0] + options.cluster_dispersion * normal[0],
        options.field_motion[0] + options.field_dispersion * normal[0],
    )
    motion_eta = np.where(
        member,
        options.cluster_motion[1] + options.cluster_dispersion * normal[1],
        options.field_motion[1] + options.field_dispersion * normal[1],
    )
    bright, faint = options.magnitudes
    mag = _luminosity_function(generator, n, bright, faint, options.slope)
    colour = _colour_index(mag, bright) + np.where(member, 0.01 * normal[2], 0.25 + 0.22 * normal[2])
    pair = member & (generator.uniform(size=n) < 0.1)
    ratio = generator.uniform(0.3, 1.0, n)
    # the companion's light makes a pair brighter and, being redder, a little redder
    brighter = np.where(pair, 2.5 * np.log10(1 + ratio**3), 0.0)
    colour += np.where(pair, 0.08 * (1 - ratio), 0.0)
    first = next(iter(wavelengths.values()))
    ra, dec = plane.to_sky(xi, eta)
    table = Table({"id": np.arange(n), "ra": ra, "dec": dec, "xi": xi, "eta": eta})
    table["pm_xi"], table["pm_eta"], table["member"], table["colour"] = motion_xi, motion_eta, member, colour
    for name, wavelength in wavelengths.items():
        table[f"mag_{name}"] = mag - brighter + _colour_term(wavelength, first) * colour
    table.meta.update(ref_epoch=options.ref_epoch, ra0=options.centre[0], dec0=options.centre[1])
    return table


class Galaxies:
    """Galaxies as clouds of points, so that they pass through optics and pixels as stars do.

    Parameters
    ----------
    table : astropy.table.Table
        ra, dec, xi, eta, radius (arcsec, half light), ratio, angle (degrees), index, mag.
    xi, eta : ndarray (n, points)
        Tangent-plane positions of the points, each of an equal share of the light.
    """

    POINTS = 2500

    def __init__(self, table: Table, xi: Floats, eta: Floats) -> None:
        self.table, self.xi, self.eta = table, xi, eta


def make_galaxies(
    options: SimulationOptions,
    half: float,
    inside: Callable[[Floats, Floats], NDArray[np.bool_]],
    plane: SkyPlane,
    generator: np.random.Generator,
) -> Galaxies:
    """Discs and spheroids of 0.1 to 0.6 arcsec, in all filters of the same magnitude."""
    n = options.effects.galaxies
    x0, y0 = _places(generator, max(n, 1), half, inside, 0.0)
    x0, y0 = x0[:n], y0[:n]
    radius = 10 ** generator.uniform(-1.0, -0.2, n)
    ratio, angle = generator.uniform(0.3, 1, n), generator.uniform(0, np.pi, n)
    index = generator.choice([1, 4], n, p=[0.7, 0.3])
    mag = generator.uniform(options.magnitudes[0] + 5.0, options.magnitudes[1] - 1.0, n)
    points = Galaxies.POINTS
    quantile = (np.arange(points) + 0.5) / points
    # radii with half the light inside 1: exponential disc, and a Jaffe-like spheroid cut at 8 radii
    grid = np.linspace(0, 8, 4000)
    disc = 1 - (1 + 1.678 * grid) * np.exp(-1.678 * grid)
    spheroid = grid / (grid + 1)
    r = np.empty((n, points))
    for k in range(n):
        profile = disc if index[k] == 1 else spheroid
        r[k] = np.interp(quantile, profile / profile[-1], grid) * radius[k]
    theta = np.pi * (3 - np.sqrt(5)) * np.arange(points) + generator.uniform(0, 2 * np.pi, (n, 1))
    u, v = r * np.cos(theta), r * np.sin(theta) * ratio[:, None]
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    ra, dec = plane.to_sky(x0, y0)
    table = Table({"ra": ra, "dec": dec, "xi": x0, "eta": y0, "radius": radius, "ratio": ratio})
    table["angle"], table["index"], table["mag"] = np.degrees(angle), index, mag
    return Galaxies(table, x0[:, None] + c * u - s * v, y0[:, None] + s * u + c * v)


def make_reference(stars: Table, options: SimulationOptions, plane: SkyPlane, generator: np.random.Generator) -> Table:
    """The brightest stars as an earlier catalogue has them: Gaia's column names, positions and motions with errors."""
    first = next(name for name in stars.colnames if name.startswith("mag_"))
    mag = np.asarray(stars[first])
    chosen = stars[mag < mag.min() + options.reference_depth]
    above = np.asarray(chosen[first]) - mag.min()
    n = len(chosen)
    error = options.reference_error * (1 + 0.8 * (above / max(options.reference_depth, 1e-9)) ** 2)
    motion_error = 0.075 * error
    noise = generator.normal(size=(5, n))
    xi, eta = np.asarray(chosen["xi"]), np.asarray(chosen["eta"])
    pmra, pmdec = plane.motions_on_sky(xi, eta, np.asarray(chosen["pm_xi"]), np.asarray(chosen["pm_eta"]))
    ra, dec = plane.to_sky(xi, eta)
    return Table(
        {
            "source_id": 1_000_000_000 + np.arange(n),
            "ra": ra + noise[0] * error / 3.6e6 / np.cos(np.radians(dec)),
            "dec": dec + noise[1] * error / 3.6e6,
            "ra_error": error,
            "dec_error": error,
            "ref_epoch": np.full(n, options.ref_epoch),
            "pmra": pmra + noise[2] * motion_error,
            "pmdec": pmdec + noise[3] * motion_error,
            "pmra_error": motion_error,
            "pmdec_error": motion_error,
            "phot_g_mean_mag": np.asarray(chosen[first]) + 0.01 * noise[4],
        }
    )


def write_table(table: Table, path: Path) -> None:
    """Write an ECSV file, over an older one."""
    table.write(path, format="ascii.ecsv", overwrite=True)
