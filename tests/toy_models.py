"""White dwarfs whose cooling is known in closed form, and brown dwarfs, in the bands of `science_tables.Photometry`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpm.science.isochrones import CoolingTrack, Isochrone, Lifetimes, white_dwarf_isochrone

MASSES = 0.50, 0.55, 0.60, 0.65, 0.70, 0.80, 0.90, 1.00, 1.10, 1.25
DISTANCE_MODULUS = 11.5


def cooling_magnitudes(mass: NDArray[np.float64], age: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute magnitudes (n, 2) in a (bluer) and b: L ~ M t^-7/5 (Mestel), a colour that reddens as it cools."""
    faintness = 15.0 + 3.5 * np.log10(age / 10.0) + 1.2 * (mass - 0.6)
    color = 0.6 + 0.35 * np.log10(age / 10.0) - 0.3 * (mass - 0.6)
    return np.column_stack([faintness + color, faintness])


def tracks() -> list[CoolingTrack]:
    """Of ten masses."""
    age = np.geomspace(1e-4, 16.0, 60)
    out = []
    for mass in MASSES:
        mags = cooling_magnitudes(np.full(age.size, mass), age)
        teff, log_g = np.full(age.size, 5e3), np.full(age.size, 8.0)
        out.append(CoolingTrack(mass, age, teff, log_g, {"a": mags[:, 0], "b": mags[:, 1]}, "toy"))
    return out


def lifetimes() -> Lifetimes:
    """10 Gyr M^-2.5 and a floor."""
    mass = np.geomspace(0.75, 7.2, 80)
    return Lifetimes(mass, 9.0 * mass**-3.0 + 0.03)


def white_dwarfs(age: float) -> Isochrone:
    """Apparent magnitudes."""
    return white_dwarf_isochrone(tracks(), age, lifetimes(), ("a", "b")).at(DISTANCE_MODULUS)


def brown_dwarfs() -> Isochrone:
    """Red companions, which show where white dwarfs are faint."""
    mass = np.linspace(0.03, 0.08, 40)
    faintness = 25.9 - 60.0 * (mass - 0.04)
    return Isochrone(10.0, mass, {"a": faintness + 2.5, "b": faintness})
