"""Working state of one patch: cut-outs of all exposures, their sky, and the stars found so far."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.io.gathered import PLANES
from dpm.kernels.patch import FIT_HALF, Libraries, Patch, add_stars, halo_limits
from dpm.kernels.patch_clean import mask_outliers
from dpm.kernels.patch_find import (
    LATTICE,
    combine_scores,
    judge_candidates,
    lattice_peaks,
    lattice_significance,
    score_exposures,
)
from dpm.kernels.patch_fit import NOT_CONVERGED, PatchStars, sweep
from dpm.kernels.patch_groups import link_groups
from dpm.kernels.patch_measure import fit_candidates
from dpm.kernels.patch_sky import drop_outside, noise_ratios, plane_medians, update_sky, update_star_skies
from dpm.kernels.patch_touch import touch_by_light
from dpm.kernels.sky import annulus_spans
from dpm.models.epsf import GriddedEPSF
from dpm.models.patches import FRINGE, MARGIN, NODE_STEP, PatchBounds
from dpm.stages.first_pass.scene import NOISE_RAISED
from dpm.stages.second_pass.geometry import ExposureGeometry

__all__ = ["Cutout", "PatchScene", "cutout_box", "pack_libraries"]

Floats = NDArray[np.float64]

SKY_CELL = 32  # pixels a side of a cell of the sky meshes
STATISTICS_STEP = 61  # every 61st pixel tells an exposure's noise (a prime number: no column is preferred)
SKY_ANNULUS = (4.5, 8.5)  # pixels; neighbours and the star itself are subtracted there
PEAK_REACH = 2  # lattice points: two peaks closer than a pixel are one until the brighter is subtracted
LINK_RADIUS = 2.0  # pixels of the finest detector within which stars are fitted together
MIN_DISTANCE = 0.6  # master pixels; closer pairs cannot be told from one star and its residual
TOUCH_REACH = 8  # master pixels within which a changed star makes others be fitted again
SETTLED_TOUCH = 0.1  # of a star's error, moved by others' changes: less needs no fit


@dataclass(frozen=True)
class Cutout:
    """Pixels of one exposure about a patch.

    Parameters
    ----------
    planes : ndarray (6, ny, nx), float32
        As `dpm.io.gathered` has them.
    x_origin, y_origin : int
        Raw full-detector pixel of the first pixel.
    geometry : ExposureGeometry
    band : int
        Number of its filter.
    library : int
        Number of its ePSF.
    charge_share : float
        Share of the ePSF's largest change with brightness that a unit of flux brings.
    """

    planes: NDArray[np.float32]
    x_origin: int
    y_origin: int
    geometry: ExposureGeometry
    band: int
    library: int
    charge_share: float = 0.0


def pack_libraries(epsfs: Sequence[GriddedEPSF]) -> Libraries:
    """Several ePSFs as the kernels take them."""
    n = len(epsfs)
    columns, rows = max(e.node_x.size for e in epsfs), max(e.node_y.size for e in epsfs)
    size = epsfs[0].coefficients.shape[-1]
    coefficients = np.zeros((n, rows, columns, size, size), np.float32)
    node_x, node_y = np.zeros((n, columns)), np.zeros((n, rows))
    for k, epsf in enumerate(epsfs):
        coefficients[k, : epsf.node_y.size, : epsf.node_x.size] = epsf.coefficients
        node_x[k, : epsf.node_x.size], node_y[k, : epsf.node_y.size] = epsf.node_x, epsf.node_y
    count_x = np.array([e.node_x.size for e in epsfs], np.int64)
    count_y = np.array([e.node_y.size for e in epsfs], np.int64)
    change = np.zeros((n, size, size), np.float32)
    for k, epsf in enumerate(epsfs):
        if epsf.brightness is not None:
            change[k] = epsf.brightness.coefficients
    return Libraries(coefficients, node_x, node_y, count_x, count_y, np.array([e.envelope for e in epsfs]), change)


def cutout_box(geometry: ExposureGeometry, patch: PatchBounds, margin: float = MARGIN + FRINGE) -> tuple[int, int, int, int]:
    """Raw bounding box (x0, x1, y0, y1; ends excluded) of a patch and its margins on an exposure; empty where it does not reach."""
    nodes = geometry.window(patch)
    row, column = patch.first_node
    x_low, x_high, y_low, y_high = patch.bounds(margin)
    along = np.linspace(0.0, 1.0, 9)
    x, y = x_low + (x_high - x_low) * along, y_low + (y_high - y_low) * along
    edge_x = np.concatenate([x, x, np.full(9, x_low), np.full(9, x_high)]) / NODE_STEP - column
    edge_y = np.concatenate([np.full(9, y_low), np.full(9, y_high), y, y]) / NODE_STEP - row
    raw_x, raw_y = (ndimage.map_coordinates(plane, [edge_y, edge_x], order=1) for plane in nodes[:2])
    known = np.isfinite(raw_x)
    if not known.any():
        return 0, 0, 0, 0
    raw_x, raw_y = raw_x[known], raw_y[known]
    return int(np.floor(raw_x.min())), int(np.ceil(raw_x.max())) + 1, int(np.floor(raw_y.min())), int(np.ceil(raw_y.max())) + 1


class PatchScene:
    """Residual images and stars of one patch.

    Parameters
    ----------
    bounds : PatchBounds
    cutouts : iterable of Cutout
        In the order of exposures; each is let go before the next is asked for.
    most : int
        Pixels of all of them together, at most.
    libraries : Libraries
    profiles : ndarray (L, 3, 3), float32
        Each library's ePSF averaged over the pixel phase.
    n_bands : int
    model_error : float
        Error of the ePSFs relative to their light.
    """

    def __init__(
        self,
        bounds: PatchBounds,
        cutouts: Iterable[Cutout],
        most: int,
        libraries: Libraries,
        profiles: NDArray[np.float32],
        n_bands: int,
        model_error: float,
    ) -> None:
        self.bounds, self.libraries, self.profiles = bounds, libraries, profiles
        self.n_bands, self.model_error = n_bands, model_error
        # Another star's fit sees a star's light a pixel nearer than it stands.
        nearer = np.maximum(np.arange(TOUCH_REACH) - 1, 0)
        self._fall = np.max(libraries.envelope[:, nearer] / libraries.envelope[:, :1], axis=0)
        # Of many exposures the pixels are most of a worker's memory: they are copied one by one to where they stay.
        planes, dq = np.empty((PLANES - 1, most), np.float32), np.empty(most, np.uint8)
        shapes, origins, numbers, windows = [], [], [], []
        end = 0
        for cut in cutouts:
            begin, end = end, end + cut.planes[0].size
            planes[:, begin:end] = cut.planes[:-1].reshape(PLANES - 1, -1)
            dq[begin:end] = cut.planes[-1].ravel()
            shapes.append(cut.planes.shape[1:])
            origins.append((cut.x_origin, cut.y_origin))
            numbers.append((cut.band, cut.library, cut.charge_share))
            windows.append(cut.geometry.window(bounds))
        scene, read, poisson, flat, halo = planes[:, :end]
        self.dq = dq[:end]
        (ny, nx), (x_origin, y_origin) = np.array(shapes, np.int64).T.copy(), np.array(origins, np.int64).T.copy()
        band, library, charge_share = np.array(numbers, float).T
        first = np.concatenate([[0], np.cumsum(ny * nx)[:-1]])
        row, column = bounds.first_node
        cells = int(max(1, -(-max(ny.max(), nx.max()) // SKY_CELL)))
        meshes = (len(first), cells, cells)
        self.patch = Patch(
            scene.copy(), scene, read, poisson, flat, halo, first, ny, nx, x_origin, y_origin, np.stack(windows),
            np.array([column * NODE_STEP, row * NODE_STEP], float), band.astype(np.int64), library.astype(np.int64),
            np.ones(len(first)),
            np.zeros(meshes, np.float32), np.zeros(meshes, np.float32), np.zeros(meshes, np.float32), SKY_CELL,
            charge_share.copy(),
        )  # fmt: skip
        # Boxes of turned exposures reach beyond the patch and its margins, among unknown stars.
        x_low, x_high, y_low, y_high = bounds.bounds(MARGIN + FRINGE + 1)
        drop_outside(self.patch, x_low, x_high, y_low, y_high)
        self.read_variance, self.poisson = np.empty((2, len(first)))
        plane_medians(self.patch, STATISTICS_STEP, self.read_variance, self.poisson)
        self._begin()
        update_sky(self.patch, False)
        _, sky = self._noise()
        self.patch.noise[:] = np.sqrt(self.read_variance + self.poisson * np.maximum(sky, 0.0))

    def fresh(
        self,
        pixels: NDArray[np.float32],
        residual: NDArray[np.float32],
        variance: NDArray[np.float32],
        dq: NDArray[np.uint8],
    ) -> PatchScene:
        """The scene with other pixels and without stars; the sky is the present one until it is updated.

        Parameters
        ----------
        pixels, residual, variance : ndarray, float32
            As ``patch.scene``, ``patch.residual`` and ``patch.variance_read``; copies are made of those that change.
        dq : ndarray, uint8
        """
        out = copy.copy(self)
        patch = self.patch
        out.patch = patch._replace(
            residual=residual.copy(), scene=pixels, variance_read=variance.copy(), noise=patch.noise.copy(),
            sky=patch.sky.copy(), scatter=patch.scatter.copy(), light=patch.light.copy(),
        )  # fmt: skip
        out.dq = dq
        out._begin()
        return out

    def _begin(self) -> None:
        """No star found yet."""
        self.noise_raised = np.zeros(self.n_exposures, bool)
        self.added_variance = np.zeros(self.n_exposures)
        self.scores = np.zeros((2, self.patch.scene.size), np.float32)
        self.count = 0
        self.stars = _empty_stars(256, self.n_bands)

    def _noise(self) -> tuple[Floats, Floats]:
        """Variance of the sky over what the noise planes say, and the level of the sky, of every exposure."""
        ratio, sky = np.empty((2, self.n_exposures))
        noise_ratios(self.patch, self.read_variance, self.poisson, ratio, sky)
        return ratio, sky

    def raise_noise(self) -> None:
        """Where the sky of an exposure scatters more than its noise planes say, the difference is added to them.

        Flat residuals, charge-transfer corrections and unresolved stars are noise that no plane of the file holds.  The more stars
        are found and subtracted, the less scatters: each call takes back what the one before it added.
        """
        patch = self.patch
        ratio, sky = self._noise()
        self.noise_raised = ratio > NOISE_RAISED
        added = np.maximum(ratio - 1.0, 0.0) * (self.read_variance + self.poisson * np.maximum(sky, 0.0))
        change = (added - self.added_variance).astype(np.float32)
        for e, begin in enumerate(patch.first):
            if change[e] != 0.0:
                patch.variance_read[begin : begin + patch.ny[e] * patch.nx[e]] += change[e]
        self.added_variance = added

    @property
    def n_exposures(self) -> int:
        return len(self.patch.first)

    def update_sky(self) -> None:
        """Sky meshes of the residual images, from the earlier ones."""
        update_sky(self.patch, True)

    def update_star_skies(self) -> None:
        """Sky of each star above the meshes, from the annulus about it in all exposures of a band."""
        update_star_skies(self.patch, self.stars, np.arange(self.count), annulus_spans(*SKY_ANNULUS))

    def mask_outliers(self) -> int:
        """Take the weight of pixels that stand out in one exposure alone."""
        return int(mask_outliers(self.patch))

    def subtract_frozen(self, x: Floats, y: Floats, flux: Floats) -> None:
        """Subtract stars that are not fitted here, (n,), (n,), (n, B)."""
        add_stars(self.patch, self.libraries, x, y, np.ascontiguousarray(flux), -1.0)

    def add_known(self, x: Floats, y: Floats, flux: Floats, half: NDArray[np.int64]) -> None:
        """Take stars over as they are, and subtract them."""
        n = len(x)
        self._make_room(n)
        rows = slice(self.count, self.count + n)
        stars = self.stars
        stars.x[rows], stars.y[rows], stars.flux[rows], stars.half[rows] = x, y, flux, half
        stars.sky[rows] = 0.0
        stars.flux_error[rows] = np.inf
        stars.status[rows], stars.touch[rows] = 0, np.inf
        add_stars(self.patch, self.libraries, stars.x[rows].copy(), stars.y[rows].copy(), stars.flux[rows].copy(), -1.0)
        self.count += n

    def candidates(self, limit: float, model_error: float) -> tuple[Floats, Floats, Floats, Floats]:
        """Peaks of the combined significance in the patch and its margin: x, y, flux (n, B), significance; most significant
        first."""
        patch = self.patch
        per_band = np.bincount(patch.band, minlength=self.n_bands)
        error2 = model_error**2 * per_band[patch.band]
        numerator, denominator = self.scores
        score_exposures(patch, self.profiles, error2.astype(float), numerator, denominator)
        x_low, x_high, y_low, y_high = self.bounds.bounds(MARGIN)
        width, height = (int(round((b - a) / LATTICE)) + 1 for a, b in ((x_low, x_high), (y_low, y_high)))
        sums = np.empty((2, self.n_bands, height, width), np.float32)
        combine_scores(patch, numerator, denominator, x_low, y_low, sums[0], sums[1])
        surface = np.empty((height, width), np.float32)
        lattice_significance(sums[0], sums[1], surface)
        rows, columns = np.empty(height * width // 9 + 16, np.int64), np.empty(height * width // 9 + 16, np.int64)
        n = min(lattice_peaks(surface, limit, PEAK_REACH, rows, columns), rows.size)
        x, y = (np.asarray(a + LATTICE * b[:n], float) for a, b in ((x_low, columns), (y_low, rows)))
        flux, significance, used = np.zeros((n, self.n_bands)), np.zeros(n), np.zeros(n, np.int64)
        judge_candidates(patch, numerator, denominator, x, y, self.halo_limits(x, y), flux, significance, used)
        order = np.lexsort((x, y, -significance))
        order = order[significance[order] >= limit]
        return x[order], y[order], flux[order], significance[order]

    def halo_limits(self, x: Floats, y: Floats) -> Floats:
        """Fluxes (n, B) up to which halos of bright stars explain a star in a band."""
        limit = np.zeros((len(x), self.n_bands))
        halo_limits(self.patch, np.ascontiguousarray(x), np.ascontiguousarray(y), limit)
        return limit

    def fit_new(self, x: Floats, y: Floats, flux: Floats, threshold: float, iterations: int) -> int:
        """Fit candidates in the order given; returns how many are stars so far."""
        self._make_room(len(x))
        before = self.count
        self.count = fit_candidates(
            self.patch, self.libraries, self.stars, self.count, x, y, flux, self.model_error, iterations, threshold, MIN_DISTANCE
        )
        stars, new = self.stars, np.arange(before, self.count)
        stars.touch[new] = np.where(stars.status[new] == NOT_CONVERGED, np.inf, 0.0)
        touch_by_light(stars, self._fall, stars.x[new], stars.y[new], stars.flux[new], new)
        return self.count - before

    def groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Members of groups end to end, where each group begins, and the stars with a neighbour beyond their group."""
        n = self.count
        stars = self.stars
        brightness = np.max(stars.flux[:n] / np.maximum(self._flux_unit(), 1e-30), axis=1, initial=0.0)
        order = np.lexsort((stars.x[:n], stars.y[:n], -brightness))
        members, first, cut = np.empty(n, np.int64), np.zeros(n + 1, np.int64), np.zeros(n, bool)
        count = link_groups(stars.x[:n], stars.y[:n], order, stars.half[:n] > 2, LINK_RADIUS, members, first, cut)
        return members, first[: count + 1], cut

    def _flux_unit(self) -> Floats:
        """Flux of one noise pixel in each band, so that bands compare."""
        noise = np.ones(self.n_bands)
        for b in range(self.n_bands):
            mine = self.patch.band == b
            if mine.any():
                noise[b] = np.median(self.patch.noise[mine])
        return noise

    def sweep(self, iterations: int, everyone: bool = False) -> None:
        """Fit all groups once, bright to faint; without ``everyone`` only those whose surroundings changed since their last fit."""
        if self.count == 0:
            return
        members, first, _ = self.groups()
        sweep(
            self.patch, self.libraries, self.stars, members, first, self.model_error, iterations,
            -1.0 if everyone else SETTLED_TOUCH, self._fall,
        )  # fmt: skip

    def significance(self) -> Floats:
        """Significance of every star: positive fluxes over their errors, squared and summed, in the bands where halos of bright
        stars do not explain it; a saturated star makes its own halo."""
        n = self.count
        stars = self.stars
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = stars.flux[:n] / stars.flux_error[:n]
        clear = (stars.flux[:n] > self.halo_limits(stars.x[:n], stars.y[:n])) | (stars.half[:n] > FIT_HALF)[:, None]
        return np.asarray(np.sqrt(np.sum(np.square(np.maximum(np.where(clear, np.nan_to_num(ratio), 0.0), 0.0)), axis=1)))

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Put back the light of the stars outside the mask and forget them; their neighbours count as changed."""
        gone = np.flatnonzero(~mask)
        if not gone.size:
            return
        stars, n = self.stars, self.count
        add_stars(self.patch, self.libraries, stars.x[gone], stars.y[gone], stars.flux[gone], 1.0)
        light = stars.x[gone], stars.y[gone], stars.flux[gone]
        left = int(mask.sum())
        for array in stars:
            array[:left] = array[:n][mask]
        self.count = left
        touch_by_light(stars, self._fall, *light, np.full(len(gone), left))

    def _make_room(self, more: int) -> None:
        if self.count + more > len(self.stars.x):
            stars = _empty_stars(2 * (self.count + more), self.n_bands)
            for new, old in zip(stars, self.stars, strict=True):
                new[: self.count] = old[: self.count]
            self.stars = stars


def _empty_stars(capacity: int, n_bands: int) -> PatchStars:
    """Room for stars."""
    return PatchStars(
        x=np.zeros(capacity), y=np.zeros(capacity),
        flux=np.zeros((capacity, n_bands)), flux_error=np.full((capacity, n_bands), np.inf),
        xx=np.full(capacity, np.inf), xy=np.zeros(capacity), yy=np.full(capacity, np.inf),
        half=np.full(capacity, 2, np.int64), sky=np.zeros((capacity, n_bands)),
        status=np.zeros(capacity, np.int64), touch=np.full(capacity, np.inf),
    )  # fmt: skip
