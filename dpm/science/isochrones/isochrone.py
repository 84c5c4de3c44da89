"""Isochrones as tables of magnitudes against initial mass, and interpolation in mass by parabolas."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

__all__ = ["Isochrone", "interpolate_quadratic"]


@dataclass(frozen=True)
class Isochrone:
    """Stars of one age.

    Parameters
    ----------
    age : float
        Gyr.
    mass : ndarray (n,)
        Initial masses, solar units, rising.
    magnitudes : dict of str to ndarray (n,)
        A band; absolute, or apparent after `at`.
    metallicity : float
        [M/H], or [Fe/H] where the file has that; NaN where it is not known.
    columns : dict of str to ndarray (n,)
        Whatever else there is, such as ``final_mass`` (solar units).
    """

    age: float
    mass: NDArray[np.float64]
    magnitudes: dict[str, NDArray[np.float64]]
    metallicity: float = np.nan
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def bands(self) -> tuple[str, ...]:
        """Its bands."""
        return tuple(self.magnitudes)

    def at(self, distance_modulus: float, extinction: Mapping[str, float] | None = None) -> Isochrone:
        """The isochrone as it is observed.

        Parameters
        ----------
        distance_modulus : float
            (m - M)_0, without extinction.
        extinction : mapping of str to float, optional
            A of each band, mag; see `band_extinctions`.

        Raises
        ------
        KeyError
            If a band's extinction is not given.
        """
        missing = set(self.magnitudes) - set(extinction) if extinction is not None else set()
        if missing:
            raise KeyError(f"no extinction for {', '.join(sorted(missing))}; leave bands out with select()")
        dimmed = {b: m + distance_modulus + (extinction[b] if extinction else 0.0) for b, m in self.magnitudes.items()}
        return dataclasses.replace(self, magnitudes=dimmed)

    def keep(self, rows: Any) -> Isochrone:
        """Some of its stars, by a mask or by their places."""
        mags, others = ({name: values[rows] for name, values in table.items()} for table in (self.magnitudes, self.columns))
        return dataclasses.replace(self, mass=self.mass[rows], magnitudes=mags, columns=others)

    def select(self, bands: Mapping[str, str] | Sequence[str]) -> Isochrone:
        """Some bands, or under other names (new name to the isochrone's own)."""
        names = dict(bands) if isinstance(bands, Mapping) else {band: band for band in bands}
        missing = sorted(set(names.values()) - set(self.magnitudes))
        if missing:
            raise KeyError(f"no band {', '.join(missing)}; there are {', '.join(self.magnitudes)}")
        return dataclasses.replace(self, magnitudes={new: self.magnitudes[old] for new, old in names.items()})

    def __call__(self, mass: Any, bands: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Magnitudes (n, bands) at initial masses (n,), by quadratic interpolation; NaN outside the isochrone's."""
        names = self.bands if bands is None else bands
        return interpolate_quadratic(mass, self.mass, np.column_stack([self.magnitudes[name] for name in names]))

    def column(self, name: str, mass: Any) -> NDArray[np.float64]:
        """Another column at initial masses."""
        return interpolate_quadratic(mass, self.mass, self.columns[name])

    def to_table(self) -> Table:
        """``initial_mass``, other columns, and ``{f}_mag``."""
        mags = {f"{band}_mag": values for band, values in self.magnitudes.items()}
        meta = {"age": self.age, "metallicity": self.metallicity}
        return Table({"initial_mass": self.mass, **self.columns, **mags}, meta=meta)


def interpolate_quadratic(x: Any, nodes: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Parabola through the three nearest nodes; a straight line where that is not monotone between the two about x.

    The parabola follows a curved track between coarse nodes; at a break of the slope it would overshoot.

    Parameters
    ----------
    x : array_like (m,)
        Places; NaN results outside the nodes.
    nodes : ndarray (n,)
        Rising.
    values : ndarray (n,) or (n, k)

    Returns
    -------
    ndarray (m,) or (m, k)
    """
    places = np.asarray(x, dtype=float)
    table = values if values.ndim == 2 else values[:, None]
    if nodes.size < 2 or np.any(np.diff(nodes) <= 0):
        raise ValueError("interpolation needs two or more rising nodes")
    cell = np.clip(np.searchsorted(nodes, places, side="right") - 1, 0, nodes.size - 2)
    left, right = nodes[cell], nodes[cell + 1]
    share = ((places - left) / (right - left))[..., None]
    line = table[cell] * (1.0 - share) + table[cell + 1] * share
    if nodes.size > 2:
        # The third node: the nearer of the two outer ones.
        third = np.where(places - left < right - places, cell - 1, cell + 2)
        third = np.where(third < 0, 2, np.where(third >= nodes.size, nodes.size - 3, third))
        slope = (table[cell + 1] - table[cell]) / (right - left)[..., None]
        other = (table[third] - table[cell]) / (nodes[third] - left)[..., None]
        bend = (other - slope) / (nodes[third] - right)[..., None]
        curved = line + bend * ((places - left) * (places - right))[..., None]
        # Where the parabola is not monotone between the two nodes, it follows a break of the third's side, not the track.
        monotone = np.abs(bend) * ((right - left) ** 2)[..., None] <= np.abs(table[cell + 1] - table[cell])
        line = np.where(monotone, curved, line)
    line = np.where(((places >= nodes[0]) & (places <= nodes[-1]))[..., None], line, np.nan)
    return line if values.ndim == 2 else line[..., 0]
