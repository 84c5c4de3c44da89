"""The gridded effective PSF: the fraction of a star's light that a pixel at a given offset records (Anderson & King 2000).

Grids are 4 x oversampled, 101 x 101 samples, the star at index 50; the shape between grid nodes is the bilinear blend of the
four around it (DESIGN section 4).  Between samples the ePSF is the quintic B-spline through them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from dpm.kernels import epsf as kernels
from dpm.kernels.bundles import Library
from dpm.kernels.epsf_points import evaluate_points
from dpm.models.display import card, picture

__all__ = ["BrightnessTerm", "GriddedEPSF", "centre_samples"]

SPLINE_ORDER = 5
CENTRE_ROUNDS = 8
CENTRE_TOLERANCE = 1e-5  # pixels
BRIGHTNESS_LEVELS = 24  # a star's ePSF is off by a 48th of the largest change at most: 0.15 % of the peak for a change of 7 %

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class BrightnessTerm:
    """How the ePSF of a detector changes with a star's charge: psi(z) = psi_0 + z psi_1 (brighter-fatter).

    Parameters
    ----------
    samples : ndarray (101, 101)
        psi_1: change of psi per unit of charge, on the ePSF's grid.
    brightest : float
        Charge of the brightest stars that it was made from; beyond, the change stays what it is there.
    reference : float
        Charge at which the library that it belongs to holds: 0 for one made from theory, that of its stars for one made from data.
    error : float
        RMS error within 1.5 pixels of the change at the brightest, of the ePSF's peak; NaN: not known.
    """

    samples: Samples
    brightest: float
    reference: float = 0.0
    error: float = float("nan")

    @cached_property
    def coefficients(self) -> NDArray[np.float32]:
        """Quintic B-spline coefficients, padded as those of `GriddedEPSF`."""
        padded = np.pad(self.samples * self.brightest, kernels.PADDING)
        return np.asarray(ndimage.spline_filter(padded, order=SPLINE_ORDER, mode="mirror"), np.float32)

    def level(self, charge: ArrayLike) -> NDArray[np.int64]:
        """Number, 0 to BRIGHTNESS_LEVELS, of the brightness level whose ePSF stands for stars of this charge."""
        return np.rint(BRIGHTNESS_LEVELS * np.clip(np.asarray(charge, float) / self.brightest, 0.0, 1.0)).astype(np.int64)


@dataclass(frozen=True)
class GriddedEPSF:
    """An ePSF that varies over the detector.

    Parameters
    ----------
    samples : ndarray (node_y, node_x, 101, 101)
        psi at offsets (column - 50) / 4, (row - 50) / 4 pixels from the star; the fraction of the star's light.
    node_x, node_y : ndarray
        Node positions, 0-based raw pixels of the full detector, strictly ascending.
    source : str
        Where it comes from: a file, or how it was made.
    approximate : bool
        Made quickly from few stars: measurements with it are flagged EPSF_EXTRAPOLATED.
    model_error : float
        Error of psi relative to its value near the core, where it is known; joins the noise of bright stars.
    weak_nodes : tuple of int
        Numbers of the nodes (x fastest) that too few stars made: measurements that lean on them are flagged EPSF_EXTRAPOLATED.
    brightness : BrightnessTerm, optional
        Change with the star's charge; ``samples`` are those of no charge.

    Raises
    ------
    ValueError
        If shapes do not fit or nodes do not ascend.
    """

    samples: Samples
    node_x: NDArray[np.float64]
    node_y: NDArray[np.float64]
    source: str = ""
    approximate: bool = False
    model_error: float = 0.0
    weak_nodes: tuple[int, ...] = ()
    brightness: BrightnessTerm | None = None

    def __post_init__(self) -> None:
        shape = (self.node_y.size, self.node_x.size, kernels.SAMPLES, kernels.SAMPLES)
        if self.samples.shape != shape:
            raise ValueError(f"ePSF {self.source}: samples have shape {self.samples.shape}, the nodes ask for {shape}")
        for name, nodes in (("node_x", self.node_x), ("node_y", self.node_y)):
            if np.any(np.diff(nodes) <= 0):
                raise ValueError(f"ePSF {self.source}: {name} does not ascend: {nodes}")

    @cached_property
    def coefficients(self) -> NDArray[np.float32]:
        """Quintic B-spline coefficients, float32 (node_y, node_x, 101 + 2 P, 101 + 2 P), zero-padded by P = 12."""
        pad = kernels.PADDING
        padded = np.pad(self.samples, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        out = np.empty(padded.shape, np.float32)
        for index in np.ndindex(*padded.shape[:2]):
            out[index] = ndimage.spline_filter(padded[index], order=SPLINE_ORDER, mode="mirror")
        return out

    @property
    def flux_error(self) -> float:
        """Relative error that the ePSF's own error brings to a bright star's flux, the same in all exposures.

        Errors of single samples average over the pixels of a star (the flux is their sum where its own light is the noise): of
        ``model_error`` the root of the summed squares of psi over the pixels is left.  A quickly made ePSF is wrong as a whole,
        too wide or too narrow: there all of it counts.
        """
        if self.approximate:
            return self.model_error
        # A pixel grid holds one in OVERSAMPLING^2 of the samples; the mean over all phases.
        square = np.sum(np.mean(self.samples, axis=(0, 1)) ** 2) / kernels.OVERSAMPLING**2
        return float(self.model_error * np.sqrt(square))

    @cached_property
    def envelope(self) -> NDArray[np.float64]:
        """Largest value at or beyond each whole radius 0 .. 13 pixels, over all nodes."""
        rows, columns = np.mgrid[: kernels.SAMPLES, : kernels.SAMPLES]
        half = (kernels.SAMPLES - 1) // 2
        radius = np.hypot(rows - half, columns - half) / kernels.OVERSAMPLING
        peak = np.abs(self.samples).max(axis=(0, 1))
        return np.array([peak[radius >= r].max(initial=0.0) for r in range(14)])

    @cached_property
    def matched_profile(self) -> NDArray[np.float32]:
        """Mean ePSF of a star somewhere in its peak pixel, on the 3 x 3 pixels about it; the finder's filter."""
        shifts = np.arange(-0.5 + 1 / 16, 0.5, 1 / 8)
        dy, dx = np.meshgrid(shifts, shifts, indexing="ij")
        x0 = float(self.node_x.mean())
        y0 = float(self.node_y.mean())
        out = np.empty((3, 3), np.float32)
        for j in range(3):
            for i in range(3):
                out[j, i] = self(x0, y0, (i - 1) - dx.ravel(), (j - 1) - dy.ravel()).mean()
        return out

    def library(self, x_origin: float = 0.0, y_origin: float = 0.0, level: int = 0) -> Library:
        """The ePSF as the kernels take it, for an array whose first pixel is (x_origin, y_origin) of the detector.

        ``level`` is that of `BrightnessTerm.level`.
        """
        nodes = np.asarray(self.node_x, float), np.asarray(self.node_y, float)
        return Library(self.at_level(level).coefficients if level else self.coefficients, *nodes, float(x_origin), float(y_origin))

    def with_brightness(self, term: BrightnessTerm) -> GriddedEPSF:
        """This library, which holds at the term's reference, as psi_0 of no charge with the term."""
        base = self._plus(term, -term.reference / term.brightest)
        made = replace(base, brightness=term)
        made.__dict__["coefficients"] = base.coefficients
        return made

    def at_level(self, level: int) -> GriddedEPSF:
        """The library of one brightness level (`BrightnessTerm.level`), as one without a term."""
        return self if self.brightness is None else self._plus(self.brightness, level / BRIGHTNESS_LEVELS)

    def _plus(self, term: BrightnessTerm, share: float) -> GriddedEPSF:
        """With a share of the change at the brightest charge added; the spline is linear, so none is solved again."""
        made = replace(self, samples=self.samples + share * term.brightest * term.samples, brightness=None)
        made.__dict__["coefficients"] = self.coefficients + np.float32(share) * term.coefficients
        return made

    def _repr_html_(self) -> str:
        half, shown = (kernels.SAMPLES - 1) // 2, 8 * kernels.OVERSAMPLING
        mean, peak = self.samples.mean(axis=(0, 1)), float(self.samples.max())
        wide, core = (slice(half - side, half + side + 1) for side in (shown, shown // 3))
        change = (self.samples - mean)[..., core, core]
        largest = max(float(np.abs(change).max()), 1e-12)
        facts = {
            "ePSFs": f"{self.node_x.size} x {self.node_y.size}",
            "nodes x": ", ".join(f"{x:.0f}" for x in self.node_x),
            "nodes y": ", ".join(f"{y:.0f}" for y in self.node_y),
            "light in the central pixel": f"{self.samples[..., half, half].min():.4f} to {self.samples[..., half, half].max():.4f}",
            "from few stars": f"{len(self.weak_nodes)} of them" if self.weak_nodes else "none",
            "changes with brightness": "no" if self.brightness is None else f"up to {self.brightness.brightest:.3g} of charge",
            "source": self.source,
        } | ({"relative error": f"{self.model_error:.2g}"} if self.model_error else {})
        tall = np.concatenate([np.concatenate(list(row), axis=1) for row in change], axis=0)
        return card(
            "gridded ePSF",
            facts,
            picture(np.log10(np.clip(mean[wide, wide] / peak, 1e-5, None)), -4, 0, "gray", "mean, 16 pixels wide, logarithmic"),
            picture(tall, -largest, largest, "RdBu_r", f"less the mean, 5 pixels wide; blue to red {2 * largest / peak:.1%}"),
        )

    def node_weights(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Bilinear weights of all nodes for stars at raw positions, (n, nodes), x fastest; constant outside the grid."""
        across = _hat(self.node_x, np.atleast_1d(np.asarray(x, float)))
        up = _hat(self.node_y, np.atleast_1d(np.asarray(y, float)))
        return np.asarray((up[:, :, None] * across[:, None, :]).reshape(len(across), -1))

    def blended(self, x: float, y: float) -> Samples:
        """Samples (101, 101) of the ePSF of a star at a raw position."""
        nodes = self.samples.reshape(-1, kernels.SAMPLES, kernels.SAMPLES)
        return np.asarray(np.tensordot(self.node_weights(x, y)[0], nodes, 1))

    def __call__(self, x: float, y: float, dx: ArrayLike, dy: ArrayLike) -> NDArray[np.float64]:
        """psi at offsets (dx, dy) = pixel minus star for a star at raw position (x, y).

        Parameters
        ----------
        x, y : float
            Star, 0-based raw pixels of the full detector.
        dx, dy : array_like
            Offsets in pixels, any shape.

        Returns
        -------
        ndarray
            The fraction of the star's light in a pixel there; 0 beyond the grid.
        """
        offset_x, offset_y = np.broadcast_arrays(np.asarray(dx, float), np.asarray(dy, float))
        out = np.empty((offset_x.size, 3))
        evaluate_points(self.coefficients, self.node_x, self.node_y, float(x), float(y), offset_x.ravel(), offset_y.ravel(), out)
        return out[:, 0].reshape(offset_x.shape)

    def gradient(self, x: float, y: float, dx: ArrayLike, dy: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """d(psi)/d(x) and d(psi)/d(y) by the star's position, at the same arguments as a call."""
        offset_x, offset_y = np.broadcast_arrays(np.asarray(dx, float), np.asarray(dy, float))
        out = np.empty((offset_x.size, 3))
        evaluate_points(self.coefficients, self.node_x, self.node_y, float(x), float(y), offset_x.ravel(), offset_y.ravel(), out)
        return out[:, 1].reshape(offset_x.shape), out[:, 2].reshape(offset_x.shape)


def _hat(nodes: NDArray[np.float64], position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear weights of ascending nodes, (n, nodes)."""
    out = np.zeros((len(position), len(nodes)))
    if len(nodes) == 1:
        out[:] = 1.0
        return out
    lower = np.clip(np.searchsorted(nodes, position, side="right") - 1, 0, len(nodes) - 2)
    share = np.clip((position - nodes[lower]) / (nodes[lower + 1] - nodes[lower]), 0.0, 1.0)
    rows = np.arange(len(position))
    out[rows, lower] = 1.0 - share
    out[rows, lower + 1] = share
    return out


def centre_samples(samples: Samples) -> tuple[Samples, tuple[float, float]]:
    """Shift one ePSF so that psi(0.5, 0) = psi(-0.5, 0) and psi(0, 0.5) = psi(0, -0.5) (Anderson & King 2000).

    Parameters
    ----------
    samples : ndarray (101, 101)
        One node's ePSF.

    Returns
    -------
    centred : ndarray (101, 101)
    shift : tuple of float
        (x, y) in pixels, position of the centre before.
    """
    coefficients = ndimage.spline_filter(samples, order=SPLINE_ORDER, mode="mirror")
    half = (kernels.SAMPLES - 1) / 2
    column, row = half, half
    for _ in range(CENTRE_ROUNDS):
        move_x = _balance_step(coefficients, row, column, along_x=True)
        move_y = _balance_step(coefficients, row, column, along_x=False)
        column += move_x
        row += move_y
        if max(abs(move_x), abs(move_y)) < CENTRE_TOLERANCE * kernels.OVERSAMPLING:
            break
    shift = ((column - half) / kernels.OVERSAMPLING, (row - half) / kernels.OVERSAMPLING)
    if max(abs(s) for s in shift) < CENTRE_TOLERANCE:
        return samples, shift
    moved = ndimage.shift(coefficients, (half - row, half - column), order=SPLINE_ORDER, prefilter=False, mode="constant", cval=0.0)
    return moved, shift


def _balance_step(coefficients: Samples, row: float, column: float, along_x: bool) -> float:
    """Newton step in samples towards equal values half a pixel either side of (row, column) along one axis."""
    probe = 0.01  # samples, for the slope
    step = 0.5 * kernels.OVERSAMPLING
    offsets = np.array([-probe, 0.0, probe])
    zero = np.zeros(6)
    along = np.concatenate([offsets + step, offsets - step])
    points = [row + (zero if along_x else along), column + (along if along_x else zero)]
    values = ndimage.map_coordinates(coefficients, points, order=SPLINE_ORDER, prefilter=False, mode="mirror")
    before, here, after = values[:3] - values[3:]
    slope = (after - before) / (2 * probe)
    return 0.0 if slope >= 0 else float(np.clip(-here / slope, -2.0, 2.0))
