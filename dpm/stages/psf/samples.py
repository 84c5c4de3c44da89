"""One exposure's part in the ePSF build: free fits of its stamps, and their residuals as sums on the nodes' grids."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from dpm.kernels import quality as columns
from dpm.kernels.epsf import SAMPLES
from dpm.kernels.epsf_samples import add_samples, sample_stamps
from dpm.kernels.stamps import fit_stamps
from dpm.models.epsf import GriddedEPSF
from dpm.models.statistics import robust_width
from dpm.stages.psf.candidates import STAMP_HALF, StarStamps
from dpm.stages.psf.grid import CORE_RADIUS, END_RADIUS
from dpm.stages.psf.positions import Fits

__all__ = ["NodeSums", "fit_candidates", "sum_samples"]

MODEL_ERROR = 0.005  # of psi; the brightest stars do not rule alone
CLIP = 4.0  # sigma, or as many robust scatters where these are larger
STAR_CLIP = 5.0  # robust widths of the stars' chi
STAR_CHI = 3.0  # a chi below is no reason to leave a star out
WING_SIGNAL_TO_NOISE = 100.0  # stars as bright sample out to the end (paper 2: wings from brighter stars than the core)
CORE_REACH = 6.0  # pixels; how far the others sample

Floats = NDArray[np.float64]


@dataclass
class NodeSums:
    """Sums over stars for every node, in two halves of the stars (their difference is the noise).

    Parameters
    ----------
    top, bottom : ndarray (2, node_y, node_x, 101, 101)
        Weight times residual, and weight.
    gram : ndarray (2, nodes, nodes)
        Sum over stars of core weight times the products of two nodes' bilinear weights.
    stars : ndarray (node_y, node_x)
        Stars' bilinear weights.
    ring_chi : ndarray (12,)
        Robust scatter of the residuals in units of their errors, in rings of one pixel, summed over exposures.
    excess : float
        Sum over star images of the squared error of psi, relative to psi, that the core's residuals show beyond their noise.
    n_exposures, n_stars, n_averaged : int
        Exposures, star images used, and how many of them at averaged positions.
    """

    top: Floats
    bottom: Floats
    gram: Floats
    stars: Floats
    ring_chi: Floats
    excess: float = 0.0
    n_exposures: int = 0
    n_stars: int = 0
    n_averaged: int = 0

    @staticmethod
    def empty(node_y: int, node_x: int) -> NodeSums:
        """Sums of nothing."""
        shape = (2, node_y, node_x, SAMPLES, SAMPLES)
        nodes = node_y * node_x
        return NodeSums(
            np.zeros(shape), np.zeros(shape), np.zeros((2, nodes, nodes)), np.zeros((node_y, node_x)), np.zeros(int(END_RADIUS))
        )

    @staticmethod
    def of(stored: dict[str, NDArray]) -> NodeSums:
        """From arrays by the fields' names."""
        top, bottom, gram, stars, ring_chi = (stored[name] for name in ("top", "bottom", "gram", "stars", "ring_chi"))
        counts = (int(stored[name]) for name in ("n_exposures", "n_stars", "n_averaged"))
        return NodeSums(top, bottom, gram, stars, ring_chi, float(stored["excess"]), *counts)

    def arrays(self) -> dict[str, NDArray]:
        """All fields as arrays by name."""
        return {item.name: np.asarray(getattr(self, item.name)) for item in fields(self)}

    def add(self, other: NodeSums) -> None:
        """Add the sums of other exposures."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


def fit_candidates(stars: StarStamps, epsf: GriddedEPSF) -> Fits:
    """Free fits (position and flux, the sky held) of all stamps."""
    n = len(stars)
    shape = stars.stamps.values.shape
    results = np.full((n, columns.RESULT_SIZE), np.nan)
    fit_stamps(stars.stamps, epsf.library(), stars.start, results, np.empty(shape), np.empty(shape))
    good = np.isfinite(results[:, columns.CHI])
    raw = np.where(good[:, None], results[:, [columns.X, columns.Y]] + stars.first, np.nan)
    error = np.where(good, np.hypot(results[:, columns.X_ERROR], results[:, columns.Y_ERROR]) / np.sqrt(2.0), np.inf)
    return Fits(
        raw, error, np.where(good, results[:, columns.FLUX], np.nan), results[:, columns.FLUX_ERROR], results[:, columns.QFIT]
    )


def sum_samples(
    stars: StarStamps, epsf: GriddedEPSF, raw: Floats, flux: Floats, averaged: NDArray[np.bool_], half: NDArray, signal: Floats,
    nodes: GriddedEPSF | None = None, lever: Floats | None = None,
) -> NodeSums:  # fmt: skip
    """Sums of the residuals at given positions and fluxes.

    Parameters
    ----------
    stars : StarStamps
    epsf : GriddedEPSF
        The model that the residuals are taken from.
    raw : ndarray (n, 2)
        Raw positions; NaN: the star is left out.
    flux : ndarray (n,)
        NaN: fitted.
    averaged : ndarray (n,), bool
        For the count of averaged positions.
    half : ndarray (n,), int
        0 or 1: which half of the stars it belongs to.
    signal : ndarray (n,)
        Signal to noise.
    nodes : GriddedEPSF, optional
        Whose nodes the sums belong to; the model's when not given.
    lever : ndarray (n,), optional
        Not zero: what the residuals are proportional to. The sums are then those of the residual per unit of it.
    """
    n = len(stars)
    grid = epsf if nodes is None else nodes
    sums = NodeSums.empty(grid.node_y.size, grid.node_x.size)
    sums.n_exposures = 1
    if n == 0:
        return sums
    position = raw - stars.first
    sky = np.ascontiguousarray(stars.start[:, columns.SKY])
    shape = stars.stamps.values.shape
    fitted, chi = np.empty(n), np.empty(n)
    residuals, weights = np.empty(shape, np.float32), np.empty(shape, np.float32)
    sample_stamps(stars.stamps, epsf.library(), position, sky, flux, MODEL_ERROR, fitted, chi, residuals, weights)
    good = np.isfinite(chi)
    if good.any():
        limit = max(STAR_CHI, float(np.median(chi[good])) + STAR_CLIP * robust_width(chi[good], 0.0))
        good &= chi <= limit
    weights[~good] = 0.0
    position[~good] = 0.0
    limits, sums.ring_chi[:] = _ring_limits(position, residuals, weights)
    if lever is not None:
        residuals /= lever.astype(np.float32)[:, None, None]
        weights *= lever.astype(np.float32)[:, None, None] ** 2
    radius = np.where(signal > WING_SIGNAL_TO_NOISE, END_RADIUS, CORE_REACH)
    for k in (0, 1):
        reach = np.where(good & (half == k), radius, -1.0)
        add_samples(residuals, weights, limits, position, raw, grid.node_x, grid.node_y, reach, sums.top[k], sums.bottom[k])
    core = weights[:, STAMP_HALF - 2 : STAMP_HALF + 3, STAMP_HALF - 2 : STAMP_HALF + 3].sum(axis=(1, 2), dtype=float)
    share = grid.node_weights(*np.where(good[:, None], raw, 0.0).T)
    for k in (0, 1):
        mine = good & (half == k)
        sums.gram[k] = (share[mine] * core[mine, None]).T @ share[mine]
    sums.stars[:] = share[good].sum(axis=0).reshape(sums.stars.shape)
    sums.n_stars, sums.n_averaged = int(good.sum()), int((good & averaged).sum())
    used = np.where(np.isfinite(flux), flux, fitted)
    sums.excess = sums.n_stars * _excess(stars.stamps.values, sky, used, position, residuals, weights)
    return sums


def _excess(values: NDArray, sky: Floats, flux: Floats, position: Floats, residuals: NDArray, weights: NDArray) -> float:
    """Squared error of psi, relative to psi, that the residuals within 1.5 pixels show beyond the noise."""
    pixel = np.arange(residuals.shape[1])
    dx = pixel[None, None, :] - position[:, 0][:, None, None]
    dy = pixel[None, :, None] - position[:, 1][:, None, None]
    core = (dx * dx + dy * dy < CORE_RADIUS**2) & (weights > 0)
    if not core.any():
        return 0.0
    residual = residuals[core].astype(float)
    psi = ((values - sky[:, None, None]) / flux[:, None, None])[core] - residual
    bright = psi > 0
    psi2 = psi[bright] ** 2
    # The median of a squared unit normal is 0.455.
    total = float(np.median(residual[bright] ** 2 / psi2)) / 0.455
    noise = float(np.median(1.0 / (weights[core][bright] * psi2))) - MODEL_ERROR**2
    return max(total - noise, 0.0)


def _ring_limits(position: Floats, residuals: NDArray, weights: NDArray) -> tuple[Floats, Floats]:
    """Clipping limits in rings of one pixel, and the robust scatter they come from."""
    pixel = np.arange(residuals.shape[1])
    dx = pixel[None, None, :] - position[:, 0][:, None, None]
    dy = pixel[None, :, None] - position[:, 1][:, None, None]
    used = weights > 0
    ring = np.sqrt(dx * dx + dy * dy)[used].astype(int)
    deviation = np.abs(residuals[used]) * np.sqrt(weights[used])
    rings = int(END_RADIUS)
    order = np.argsort(ring, kind="stable")
    edges = np.searchsorted(ring[order], np.arange(rings + 1))
    scatter = np.ones(rings)
    for k in range(rings):
        part = deviation[order[edges[k] : edges[k + 1]]]
        if len(part):
            # The median of a normal's absolute value is 0.6745.
            scatter[k] = float(np.median(part)) / 0.6745
    return CLIP * np.maximum(scatter, 1.0), scatter
