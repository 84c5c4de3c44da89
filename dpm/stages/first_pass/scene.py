"""Working state of one exposure: the residual image, its sky and noise, and the stars found so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dpm.kernels import quality as columns
from dpm.kernels.bundles import Planes
from dpm.kernels.find import find_peaks
from dpm.kernels.group_fit import FIT_HALF
from dpm.kernels.groups import link_groups, refine_groups
from dpm.kernels.scene import (
    FINE_LEVEL,
    NOT_SWEPT,
    TOUCH_CELL,
    Sky,
    Stars,
    exchange_epsf,
    fit_candidates,
    refine_stars,
    remove_stars,
)
from dpm.kernels.sky import fill_empty_cells, mesh_sky, mesh_values
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag

__all__ = ["Scene", "block_order"]

BLOCK = 64  # pixels a side of the blocks in which stars are fitted one after the other
MESH_CELL = 32  # pixels a side of a cell of the sky mesh
LARGE_IMAGE = 1024 * 1024  # pixels; from here the mesh looks at every fourth pixel on both axes
MIN_DISTANCE = 0.8  # pixels; closer pairs cannot be told from one star and its residual
QUIET = 0.2  # photon noise of stars over that of the sky and the read-out, in variance: up to here a pixel counts as sky
TINY = 1e-30  # stands for a Poisson factor of 0: without photon noise all pixels are quiet
NOISE_RAISED = 1.15  # ratio of variances from which rows say that their noise was raised; the mesh's own scatter stays below


class Scene:
    """Working state of one exposure: the residual image and the stars found so far."""

    def __init__(self, image: ExposureImage, epsf: GriddedEPSF) -> None:
        ny, nx = image.shape
        self.good = (image.dq & int(PixelFlag.BAD)) == 0
        everywhere = bool(self.good.all())
        self.scene = image.sci if everywhere else np.where(self.good, image.sci, np.float32(0.0))
        self.image = image
        self.epsf = epsf
        self.library = epsf.library(image.x_origin, image.y_origin)
        shape = (max(1, -(-ny // MESH_CELL)), max(1, -(-nx // MESH_CELL)))
        self.sky = Sky(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32), MESH_CELL)
        self.residual = self.scene.copy()
        self.noise_raised = np.zeros(shape, bool)
        self.sky_light = np.zeros(shape, np.float32)
        self.cell_noise = (_cell_median(image.var_read, shape), _cell_median(image.poisson_factor, shape))
        self.update_sky(known=False)
        self.noise = float(np.median(self.sky.scatter))
        self.occupied = np.zeros((ny, nx), np.int32)
        self.count = 0
        self.stars = _empty_stars(max(4096, ny * nx // 128))
        self.touched = np.zeros((-(-ny // TOUCH_CELL), -(-nx // TOUCH_CELL)), np.int32)

    def make_room(self, more: int) -> None:
        """Grow the star arrays so that ``more`` stars fit in."""
        if self.count + more > len(self.stars.rows):
            stars = _empty_stars(self.count + more)
            for new, old in zip(stars, self.stars, strict=True):
                new[: self.count] = old[: self.count]
            self.stars = stars

    @property
    def planes(self) -> Planes:
        """The exposure as the kernels take it."""
        image = self.image
        return Planes(self.residual, self.scene, self.good, image.var_read, image.poisson_factor, image.flat_variance)

    @property
    def rows(self) -> NDArray[np.float64]:
        """Results of the stars found so far, columns of `dpm.kernels.fit`."""
        return np.asarray(self.stars.rows[: self.count])

    @property
    def fit_half(self) -> NDArray[np.int64]:
        """Half-widths of the stars' fit boxes."""
        return np.asarray(self.stars.fit_half[: self.count])

    def update_sky(self, known: bool = True) -> None:
        """Sky meshes of the residual image, from the earlier ones where they are known."""
        stride = 4 if self.residual.size >= LARGE_IMAGE else 1
        most_light = (QUIET * self.sky_variance() / np.maximum(self.cell_noise[1], TINY)).astype(np.float32)
        mesh_sky(
            self.residual, self.scene, self.good, MESH_CELL, stride, most_light, known, self.sky.level, self.sky.scatter,
            self.sky_light,
        )  # fmt: skip
        fill_empty_cells(self.sky.level, self.sky.scatter)
        self._raise_noise()

    def sky_variance(self) -> NDArray[np.float64]:
        """Variance that the noise planes say for a pixel of sky, in the cells of the mesh."""
        return np.asarray(self.cell_noise[0] + self.cell_noise[1].astype(float) * np.maximum(self.sky.level, 0.0))

    def _raise_noise(self) -> None:
        """Where the sky scatters more than the noise planes say, the difference is to be added to them.

        Flat residuals, charge-transfer corrections and unresolved stars are noise that no plane of the file holds; an error bar
        without them would be too small.  Photon noise of stars is in the planes, and is expected of the pixels that counted.
        """
        formal = self.sky_variance() + self.cell_noise[1] * np.maximum(self.sky_light, 0.0)
        ratio = ndimage.median_filter(self.sky.scatter**2 / formal, size=3, mode="nearest")
        self.noise_raised = ratio > NOISE_RAISED
        self.sky.excess[:] = np.maximum(ratio - 1.0, 0.0) * formal

    def sky_at(self, y: NDArray, x: NDArray) -> NDArray[np.float64]:
        """Sky level at these pixels."""
        out = np.empty(len(y))
        mesh_values(self.sky.level, MESH_CELL, y, x, out)
        return out

    def noise_raised_at(self, y: NDArray, x: NDArray) -> NDArray[np.bool_]:
        """Whether the noise planes were clearly raised at these pixels."""
        rows = np.clip(y.astype(int) // MESH_CELL, 0, self.noise_raised.shape[0] - 1)
        cols = np.clip(x.astype(int) // MESH_CELL, 0, self.noise_raised.shape[1] - 1)
        return np.asarray(self.noise_raised[rows, cols])

    def candidates(self, threshold: float, model_error: float) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Rows, columns, significances and brightest pixels of local maxima, in raster order."""
        image = self.image
        capacity = max(1024, self.residual.size // 16)
        rows, cols = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
        values, peaks = np.empty(capacity), np.empty(capacity)
        found = find_peaks(
            self.residual, self.scene, self.sky.level, self.sky.excess, MESH_CELL, image.var_read, image.poisson_factor, self.good,
            self.epsf.matched_profile, model_error, threshold, rows, cols, values, peaks,
        )  # fmt: skip
        found = min(found, capacity)
        return rows[:found], cols[:found], values[:found], peaks[:found]

    def fit_new(self, y: NDArray, x: NDArray, flux: NDArray, half: NDArray, threshold: float) -> None:
        """Fit candidates in the order given and subtract those that are significant."""
        self.make_room(y.size)
        self.count = fit_candidates(
            *(values.astype(float) for values in (y, x, flux)), half.astype(np.int64), self.planes, self.library, self.sky,
            self.epsf.envelope, self.noise, threshold, self.epsf.model_error, MIN_DISTANCE, self.stars, self.count,
            self.occupied, self.touched,
        )  # fmt: skip

    def refine(self, fit_sky: bool, annulus: NDArray, final: bool, everyone: bool, which: NDArray | None = None) -> None:
        """One sweep, block by block, bright to faint in each; without ``everyone`` only where something changed.

        ``which`` (a mask) limits it to some of the stars.
        """
        before, self.touched = self.touched, np.zeros_like(self.touched)
        rows = self.rows
        order = block_order(rows[:, columns.Y], rows[:, columns.X], rows[:, columns.FLUX])
        if which is not None:
            order = order[which[order]]
        refine_stars(
            order, self.planes, self.library, self.sky, self.epsf.envelope, self.noise, fit_sky,
            self.epsf.model_error, annulus, final, everyone, self.stars, before, self.touched,
        )  # fmt: skip

    def refine_groups(self, fit_sky: bool, threshold: float, level: float) -> NDArray[np.bool_]:
        """Fit stars that stand close together jointly; returns the mask of the stars that were."""
        rows = self.rows
        order = np.argsort(-rows[:, columns.FLUX], kind="stable")
        members, first = np.empty(self.count, np.int64), np.zeros(self.count + 1, np.int64)
        n_groups = link_groups(rows, self.fit_half == FIT_HALF, order, self.residual.shape, members, first)
        done = np.zeros(self.count, bool)
        refine_groups(
            members, first[: n_groups + 1], self.planes, self.library, self.sky, self.epsf.envelope, self.noise, fit_sky,
            self.epsf.model_error, threshold, level, self.stars, done, self.touched,
        )  # fmt: skip
        return done

    def refine_bright(self, fit_sky: bool, annulus: NDArray, which: NDArray[np.bool_]) -> None:
        """Fit the bright ones of the masked stars with the ePSF of their own charge, then whoever stands beside them."""
        term = self.epsf.brightness
        if term is None:
            return
        level = np.where(which, term.level(self.rows[:, columns.FLUX] * self.image.charge_per_flux), 0)
        peak = float(self.epsf.envelope[0])
        noise = FINE_LEVEL * self.noise
        for number in np.unique(level[level > 0]):
            own = self.epsf.library(self.image.x_origin, self.image.y_origin, int(number))
            these = np.flatnonzero(level == number)
            change = float(np.abs(own.coefficients - self.library.coefficients).max()) / peak
            exchange_epsf(these, self.residual, self.library, own, change, self.stars, self.epsf.envelope, noise, self.touched)
            refine_stars(
                these, self.planes, own, self.sky, self.epsf.envelope, self.noise, fit_sky, self.epsf.model_error, annulus,
                True, True, self.stars, self.touched, self.touched,
            )  # fmt: skip
        self.refine(fit_sky, annulus, True, False, which & (level == 0))

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Put back the light of the stars outside the mask and forget them."""
        gone = np.flatnonzero(~mask)
        if gone.size:
            remove_stars(gone, self.residual, self.library, self.stars, self.epsf.envelope, self.noise, self.touched)
            for array in self.stars:
                array[: int(mask.sum())] = array[: self.count][mask]
            self.count = int(mask.sum())
            self.stars.sky_pixels[self.count :] = NOT_SWEPT
        self.mark_occupied()

    def mark_occupied(self) -> None:
        """Note each star's peak pixel."""
        self.occupied[:] = 0
        ny, nx = self.occupied.shape
        y = np.clip(np.floor(self.rows[:, columns.Y] + 0.5).astype(int), 0, ny - 1)
        x = np.clip(np.floor(self.rows[:, columns.X] + 0.5).astype(int), 0, nx - 1)
        self.occupied[y[::-1], x[::-1]] = np.arange(self.count, 0, -1)


def _empty_stars(capacity: int) -> Stars:
    """Room for stars."""
    return Stars(
        rows=np.empty((capacity, columns.RESULT_SIZE)),
        half=np.zeros(capacity, np.int64),
        fit_half=np.zeros(capacity, np.int64),
        status=np.zeros(capacity, np.int64),
        touch=np.zeros(capacity, np.int64),
        sky_rms=np.full(capacity, np.nan),
        sky_pixels=np.full(capacity, NOT_SWEPT, np.int64),
    )


def _cell_median(plane: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Median of every eighth pixel in the cells of the sky mesh."""
    step = 8
    padded = np.pad(
        plane[::step, ::step],
        [(0, -(-MESH_CELL * n // step) - len(range(0, size, step))) for n, size in zip(shape, plane.shape)],
        mode="edge",
    )
    side = MESH_CELL // step
    blocks = padded.reshape(shape[0], side, shape[1], side).transpose(0, 2, 1, 3).reshape(*shape, -1)
    return np.asarray(np.median(blocks, axis=2), np.float32)


def block_order(y: NDArray, x: NDArray, flux: NDArray) -> NDArray[np.intp]:
    """Order of stars block by block, bright to faint in each: neighbours in turn find their pixels in the processor's cache."""
    order = np.argsort(-flux)
    rows, cols = (np.maximum(v, 0.0).astype(np.int64) // BLOCK for v in (y, x))
    block = rows * (cols.max(initial=0) + 1) + cols
    # The stable sort of small numbers takes no time.
    block = block.astype(np.min_scalar_type(int(block.max(initial=0))))
    return np.asarray(order[np.argsort(block[order], kind="stable")])
