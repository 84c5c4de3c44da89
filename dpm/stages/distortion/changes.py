"""How the distortion of single exposures differs from the map that they share: what changes with time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from dpm.stages.distortion.joint import Fit
from dpm.stages.distortion.sample import Sample

__all__ = ["Change", "exposure_changes", "say_changes"]

Floats = NDArray[np.float64]

# Terms of an exposure's own: two of skew, and three of second order along each axis.  Its shift, scale and rotation are solved for
# with them, so that what the transform holds already is not counted.
TERMS = 8
# A change is said when chance gives one so large in this part of all exposures, and when it matters beside the 0.003 pixel that
# bright stars may err by (DESIGN section 7).
CHANCE = 1e-5
SMALL = 0.003
FEWEST = 30  # measurements; fewer say nothing about eight terms


@dataclass(frozen=True)
class Change:
    """One exposure's distortion less the map of its filter.

    Parameters
    ----------
    skew, skew_error : tuple of float
        Of pixels longer along x than along y, and of axes not square: displacement at the middle of the detector's edge, raw
        pixels.  NaN where the exposure has too few stars.
    bend : float
        RMS displacement over the detector of skew and second-order terms together, per axis, raw pixels; their errors add to it.
    chi2 : float
        Of these terms against none, over their number.
    """

    skew: tuple[float, float]
    skew_error: tuple[float, float]
    bend: float
    chi2: float

    @property
    def is_certain(self) -> bool:
        """Whether the exposure differs from the map by more than chance and by what matters."""
        return bool(np.isfinite(self.chi2) and self.bend > SMALL and chi2.sf(TERMS * self.chi2, TERMS) < CHANCE)


def exposure_changes(fit: Fit, sample: Sample) -> list[Change]:
    """Change of every unit, in their order, from the residuals of a solution.

    Each residual is taken against the star's mean over the other measurements, whose error counts.  What changes along with the
    pointing is taken for star positions, as far as a reference does not hold these.

    Parameters
    ----------
    fit : Fit
        The last solution.
    sample : Sample
        Its measurements.

    Returns
    -------
    list of Change
    """
    x_low, x_high, y_low, y_high = fit.layout.bounds
    half = 0.5 * max(x_high - x_low, y_high - y_low)
    variance = (sample.variance + fit.floor[sample.filt] ** 2) * np.abs(np.linalg.det(fit.state.matrices))[sample.unit]
    others = 1.0 - fit.star_variance[sample.star] / variance
    sigma = np.sqrt(sample.variance + fit.floor[sample.filt] ** 2)
    grid = [np.linspace(-1.0, 1.0, 21) * (high - low) / (2 * half) for low, high in ((x_low, x_high), (y_low, y_high))]
    over = _design(*(axis.ravel() for axis in np.meshgrid(*grid)))
    out = []
    for unit in range(fit.layout.n_units):
        mine = np.flatnonzero((sample.unit == unit) & fit.used & (others > 0.05))
        if len(mine) < FEWEST:
            nothing = float("nan"), float("nan")
            out.append(Change(nothing, nothing, float("nan"), float("nan")))
            continue
        s, t = (sample.x[mine] - fit.layout.centre[0]) / half, (sample.y[mine] - fit.layout.centre[1]) / half
        width = sigma[mine] / np.sqrt(others[mine])
        design = _design(s, t) / np.tile(width, 2)[:, None]
        values = np.concatenate([fit.residual_x[mine], fit.residual_y[mine]]) / np.tile(others[mine] * width, 2)
        covariance = np.linalg.inv(design.T @ design)
        found = covariance @ (design.T @ values)
        own, errors = found[4:], covariance[4:, 4:]
        out.append(
            Change(
                (float(own[0]), float(own[1])),
                (float(np.sqrt(errors[0, 0])), float(np.sqrt(errors[1, 1]))),
                float(np.sqrt(np.mean((over[:, 4:] @ own) ** 2))),
                float(own @ np.linalg.solve(errors, own)) / TERMS,
            )
        )
    return out


def _design(s: Floats, t: Floats) -> Floats:
    """Displacements (2n, 12) along x, then along y: shift, scale, rotation, skew, and second order."""
    one, zero = np.ones_like(s), np.zeros_like(s)
    along = [one, zero, s, -t, s, t, s * s, s * t, t * t, zero, zero, zero]
    across = [zero, one, t, s, -t, s, zero, zero, zero, s * s, s * t, t * t]
    return np.concatenate([np.stack(along, -1), np.stack(across, -1)])


def say_changes(names: Sequence[str], changes: Sequence[Change]) -> list[str]:
    """Words about the exposures whose distortion is not the map's.

    Parameters
    ----------
    names : sequence of str
        Of the units.
    changes : sequence of Change
    """
    changed = [(name, change) for name, change in zip(names, changes, strict=True) if change.is_certain]
    if not changed:
        return []
    worst, most = max(changed, key=lambda pair: pair[1].bend)
    return [
        f"{len(changed)} of {len(names)} exposures have a distortion of their own beyond scale and rotation, the most {worst}: "
        f"{most.bend:.4f} pixel RMS; the maps are averages. Solve epochs that differ in runs of their own"
    ]
