"""What a field's own stars teach of errors, for stars that must not teach any: artificial ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dpm.io.atomic import replacing

__all__ = ["FieldErrors"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FieldErrors:
    """Error floors, and what maps, reference and hidden neighbours add, as the averages of a field found them.

    Parameters
    ----------
    registered : bool
        A reference fixes the frame.
    position_floors : sequence of ndarray (n_units,)
        Of every epoch, master pixels.
    flux_floors : dict of ndarray (n_members,)
        By band: relative to the flux, one a unit of the band.
    places : sequence of ndarray (n, 2)
        The field's stars at every epoch, NaN where they were not measured.
    fluxes : sequence of ndarray (n, n_bands)
        The same stars' fluxes in every epoch's bands.
    extra : sequence of ndarray (n, 2)
        Variances in x and y that the reference shows and no other error explains.
    measured : sequence of ndarray (n,), bool
        Whether what is left of the distortion is in these stars' errors.
    spreads : sequence of float
        RMS motion of the field from each epoch to the latest, master pixels; NaN where unknown.
    """

    registered: bool
    position_floors: Sequence[Floats]
    flux_floors: dict[str, Floats]
    places: Sequence[Floats]
    fluxes: Sequence[Floats]
    extra: Sequence[Floats]
    measured: Sequence[NDArray[np.bool_]]
    spreads: Sequence[float]
    _trees: dict[int, tuple[cKDTree, NDArray[np.int64]]] = field(default_factory=dict, init=False, repr=False)

    def at(self, epoch: int, x: Floats, y: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """``extra`` (2, n) and ``measured`` (n,) of the field's star nearest to each place; zeros and False where it is NaN."""
        variance, known = np.zeros((2, len(x))), np.zeros(len(x), bool)
        if epoch not in self._trees:
            rows = np.flatnonzero(np.isfinite(self.places[epoch]).all(axis=1))
            self._trees[epoch] = cKDTree(self.places[epoch][rows]), rows
        tree, rows = self._trees[epoch]
        good = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if rows.size and good.size:
            nearest = rows[tree.query(np.column_stack([x, y])[good])[1]]
            variance[:, good], known[good] = self.extra[epoch][nearest].T, self.measured[epoch][nearest]
        return variance, known

    def save(self, path: Path) -> None:
        """Write everything into one file, atomically."""
        lists = {name: getattr(self, name) for name in ("position_floors", "places", "fluxes", "extra", "measured")}
        arrays = {f"{name} {k}": values for name, list_ in lists.items() for k, values in enumerate(list_)}
        arrays |= {f"flux_floor {band}": values for band, values in self.flux_floors.items()}
        with replacing(path, ".npz") as temporary:
            np.savez(temporary, registered=self.registered, spreads=np.asarray(self.spreads, float), **arrays)

    @classmethod
    def load(cls, path: Path) -> FieldErrors:
        """What `save` wrote."""
        with np.load(path) as data:
            n = len(data["spreads"])
            names = ("position_floors", "places", "fluxes", "extra", "measured")
            lists = {name: [data[f"{name} {k}"] for k in range(n)] for name in names}
            floors = {name.split()[1]: data[name] for name in data.files if name.startswith("flux_floor ")}
            return cls(registered=bool(data["registered"]), flux_floors=floors, spreads=list(data["spreads"]), **lists)
