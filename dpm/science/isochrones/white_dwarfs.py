"""White dwarf isochrones from lifetimes, an initial-final mass relation, and tracks of fixed masses (paper 1, section 4.1).

A star of initial mass M is a white dwarf of mass f(M) that has cooled for the cluster's age less M's lifetime.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from dpm.science.isochrones.cooling import CoolingTrack, interpolate_tracks
from dpm.science.isochrones.isochrone import Isochrone

__all__ = ["IFMR", "Lifetimes", "final_mass", "white_dwarf_isochrone"]

# Lower ends of the segments, solar masses, slope, constant; the last is the upper end.  Cummings et al. 2018 (ApJ 866, 21), MIST.
IFMR: dict[str, tuple[tuple[tuple[float, float, float], ...], float]] = {
    "cummings2018_mist": (((0.83, 0.080, 0.489), (2.85, 0.187, 0.184), (3.60, 0.107, 0.471)), 7.20),
}
LOWEST_MARGIN = 0.10  # solar masses below a relation's lower end that old, metal-poor clusters need: their turn-off is at 0.8
FIRST_COOLING_AGE = 1e-3  # Gyr; younger white dwarfs are few, and tracks begin about there
N_MASSES = 400  # of an isochrone: steps of a few hundredths of a magnitude


@dataclass(frozen=True)
class Lifetimes:
    """Age at which stars of an initial mass become white dwarfs.

    Parameters
    ----------
    mass : ndarray (n,)
        Initial masses, solar units, rising.
    age : ndarray (n,)
        Gyr, falling.
    """

    mass: NDArray[np.float64]
    age: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.mass) < 2 or np.any(np.diff(self.mass) <= 0) or np.any(np.diff(self.age) >= 0) or np.min(self.age) <= 0:
            raise ValueError("lifetimes need two or more rising masses, and ages that fall with them")

    @classmethod
    def of_isochrones(cls, isochrones: Sequence[Isochrone]) -> Lifetimes:
        """From isochrones of several ages that reach the end of the AGB: each one's largest mass has that age as its lifetime."""
        ends = sorted((float(isochrone.mass[-1]), isochrone.age) for isochrone in isochrones)
        return cls(np.array([mass for mass, _ in ends]), np.array([age for _, age in ends]))

    def __call__(self, mass: Any) -> NDArray[np.float64]:
        """Gyr; monotone between the nodes in the logarithms, NaN outside them."""
        curve = PchipInterpolator(np.log(self.mass), np.log(self.age), extrapolate=False)
        return np.exp(curve(np.log(np.asarray(mass, dtype=float))))

    def dying(self, age: Any) -> NDArray[np.float64]:
        """Initial mass of the stars that become white dwarfs at these ages; NaN outside the nodes."""
        curve = PchipInterpolator(np.log(self.age[::-1]), np.log(self.mass[::-1]), extrapolate=False)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.exp(curve(np.log(np.asarray(age, dtype=float))))


def final_mass(mass: Any, relation: str = "cummings2018_mist") -> NDArray[np.float64]:
    """White dwarf mass of stars of these initial masses, solar units; NaN outside the relation's, less 0.1 at its lower end.

    Parameters
    ----------
    mass : array_like
    relation : str
        A key of `IFMR`.
    """
    if relation not in IFMR:
        raise ValueError(f"relation {relation!r} is unknown: {', '.join(IFMR)}")
    segments, upper = IFMR[relation]
    initial = np.asarray(mass, dtype=float)
    which = np.clip(np.searchsorted([segment[0] for segment in segments], initial, side="right") - 1, 0, None)
    slope, constant = (np.array([segment[i] for segment in segments])[which] for i in (1, 2))
    inside = (initial >= segments[0][0] - LOWEST_MARGIN) & (initial <= upper)
    return np.where(inside, slope * initial + constant, np.nan)


def white_dwarf_isochrone(
    tracks: Sequence[CoolingTrack],
    age: float,
    lifetimes: Lifetimes,
    bands: Sequence[str],
    relation: str | Callable[[Any], Any] = "cummings2018_mist",
    metallicity: float = np.nan,
) -> Isochrone:
    """White dwarfs of one age.

    Parameters
    ----------
    tracks : sequence of CoolingTrack
        Of different masses, one kind of atmosphere.
    age : float
        Of the cluster, Gyr.
    lifetimes : Lifetimes
        Of the progenitors, of the cluster's metallicity.
    bands : sequence of str
        Bands of all tracks.
    relation : str or callable
        A key of `IFMR`, or a function of initial masses.
    metallicity : float
        Noted in the isochrone.

    Returns
    -------
    Isochrone
        Absolute magnitudes against INITIAL mass, the youngest white dwarfs first; columns ``final_mass``, ``cooling_age`` (Gyr).

    Raises
    ------
    ValueError
        If the tracks cover no white dwarf of this age.

    Warns
    -----
    UserWarning
        If tracks, lifetimes or the relation leave out white dwarfs of the largest initial masses.
    """
    # Even in the logarithm of the cooling age, where magnitudes are; then in that of the mass, where cooling ages end.
    cooling = np.geomspace(FIRST_COOLING_AGE, age, N_MASSES // 2, endpoint=False)
    first = lifetimes.dying(age - FIRST_COOLING_AGE)
    if not np.isfinite(first):
        raise ValueError(f"lifetimes from {lifetimes.age[-1]:.3f} to {lifetimes.age[0]:.3f} Gyr do not hold the age {age:.3f} Gyr")
    grid = np.unique(np.concatenate([lifetimes.dying(age - cooling), np.geomspace(first, lifetimes.mass[-1], N_MASSES // 2)]))
    grid = grid[np.isfinite(grid)]
    grid = grid[np.concatenate([[True], np.diff(grid) > 1e-7 * grid[:-1]])]
    final = final_mass(grid, relation) if isinstance(relation, str) else np.asarray(relation(grid), dtype=float)
    cooled = age - lifetimes(grid)
    mags = interpolate_tracks(tracks, final, cooled, bands)
    good = np.isfinite(mags).all(axis=1) & np.isfinite(final)
    if good.sum() < 3:
        raise ValueError(f"the tracks cover no white dwarfs of an age of {age:.2f} Gyr")
    last = np.flatnonzero(good)[-1]
    if last < grid.size - 1:
        what = f"initial masses above {grid[last]:.2f} (white dwarfs of {final[last]:.2f}) are not in the tracks or the relation"
        warnings.warn(f"{age:.2f} Gyr: {what}, and are left out of the isochrone", stacklevel=2)
    return Isochrone(
        age=age,
        mass=grid[good],
        magnitudes=dict(zip(bands, mags[good].T)),
        metallicity=metallicity,
        columns={"final_mass": final[good], "cooling_age": cooled[good]},
    )
