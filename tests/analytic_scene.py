"""A star field with an ePSF known in closed form: Gaussians integrated over the pixel.  Shares no code with dpm's fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage

# (weight, sigma in pixels) of the optical PSF; with the pixel the FWHM is 1.35 pixels, as undersampled as NIRISS.
COMPONENTS = ((0.62, 0.455), (0.28, 1.5), (0.10, 4.0))
SKY = 20.0  # electrons a pixel
READ_NOISE = 8.0  # electrons


def true_epsf(dx: NDArray, dy: NDArray, stretch: float = 1.0) -> NDArray[np.float64]:
    """Fraction of the light in the pixel at offset (dx, dy) = pixel minus star."""
    total = np.zeros(np.broadcast(dx, dy).shape)
    for weight, sigma in COMPONENTS:
        k = 1 / (np.sqrt(2) * sigma * stretch)
        total += weight * 0.25 * (erf((dx + 0.5) * k) - erf((dx - 0.5) * k)) * (erf((dy + 0.5) * k) - erf((dy - 0.5) * k))
    return total


def gridded_epsf(nodes: tuple[float, ...] = (0.0,), stretches: tuple[float, ...] = (1.0,)) -> GriddedEPSF:
    """The same as a library: one stretch a node column, equal along y."""
    offset = (np.arange(101) - 50) / 4
    planes = [true_epsf(offset[None, :], offset[:, None], stretch) for stretch in stretches]
    samples = np.array([planes for _ in nodes]) if len(nodes) > 1 else np.array([[planes[0]]])
    node = np.array(nodes)
    return GriddedEPSF(samples, node, node, source="analytic")


@dataclass
class Field:
    """A simulated exposure in electrons and its truth, 0-based pixels."""

    image: ExposureImage
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]


def render(shape: tuple[int, int], x: NDArray, y: NDArray, flux: NDArray, half: int = 12) -> NDArray[np.float64]:
    """Noiseless light of stars."""
    image = np.zeros(shape)
    for xs, ys, f in zip(x, y, flux):
        ix, iy = round(xs), round(ys)
        columns = np.arange(max(ix - half, 0), min(ix + half + 1, shape[1]))
        rows = np.arange(max(iy - half, 0), min(iy + half + 1, shape[0]))
        image[np.ix_(rows, columns)] += f * true_epsf(columns[None, :] - xs, rows[:, None] - ys)
    return image


def exposure(pixels: NDArray, dq: NDArray | None = None, **more: float) -> ExposureImage:
    """Wrap pixels in electrons as an exposure with the noise that `observe` puts in."""
    one = np.ones(pixels.shape, np.float32)
    flags = np.zeros(pixels.shape, np.uint8) if dq is None else dq
    return ExposureImage(
        "scene", "NRCA1", "F115W", pixels.astype(np.float32), one * np.float32(READ_NOISE**2), one, one * 0, one, flags, **more
    )


def observe(light: NDArray, seed: int) -> NDArray[np.float64]:
    """Light plus sky with Poisson and read noise."""
    rng = np.random.default_rng(seed)
    return rng.poisson(light + SKY) + rng.normal(0, READ_NOISE, light.shape)


def isolated_field(side: int, spacing: int, flux: NDArray | float, seed: int) -> Field:
    """Stars on a grid with random pixel phases, none near another."""
    rng = np.random.default_rng(seed)
    centres = np.arange(spacing // 2, side - spacing // 2 + 1, spacing)
    gy, gx = np.meshgrid(centres, centres, indexing="ij")
    x = gx.ravel() + rng.uniform(-0.5, 0.5, gx.size)
    y = gy.ravel() + rng.uniform(-0.5, 0.5, gx.size)
    fluxes = (
        np.broadcast_to(np.asarray(flux, float), x.shape).copy() if np.ndim(flux) == 0 else rng.permutation(np.resize(flux, x.size))
    )
    pixels = observe(render((side, side), x, y, fluxes), seed + 1)
    return Field(exposure(pixels), x, y, fluxes)


def cramer_rao(x: NDArray, y: NDArray, flux: NDArray, half: int = 8) -> NDArray[np.float64]:
    """One-sigma bounds (x, y, flux) of isolated stars with known sky, (n, 3)."""
    out = np.empty((len(x), 3))
    h = 1e-4
    for k, (xs, ys, f) in enumerate(zip(x, y, flux)):
        columns = round(xs) + np.arange(-half, half + 1)[None, :]
        rows = round(ys) + np.arange(-half, half + 1)[:, None]
        psi = true_epsf(columns - xs, rows - ys)
        slope_x = f * (true_epsf(columns - xs - h, rows - ys) - true_epsf(columns - xs + h, rows - ys)) / (2 * h)
        slope_y = f * (true_epsf(columns - xs, rows - ys - h) - true_epsf(columns - xs, rows - ys + h)) / (2 * h)
        g = np.array([slope_x, slope_y, psi]).reshape(3, -1)
        weight = 1 / (f * psi + SKY + READ_NOISE**2).ravel()
        out[k] = np.sqrt(np.diag(np.linalg.inv((g * weight) @ g.T)))
    return out
