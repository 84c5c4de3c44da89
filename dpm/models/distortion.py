"""Geometric distortion: raw pixels to distortion-corrected pixels and back, and the pixel area.

Two kinds: a map with the corrected position of every pixel (STDGDC, bilinear between pixels), and a WCS (header or
otherwise), whose corrected plane is the master frame's tangent plane turned to the detector's axes.  All positions are
0-based raw pixels of the full detector and 0-based corrected pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpm.models.display import card, picture
from dpm.models.master_frame import sky_to_tangent, tangent_to_sky
from dpm.models.transform import LinearTransform, fit_linear

__all__ = ["MapDistortion", "PlaneDistortion", "PolynomialInverse", "SkyMap", "map_to_sky"]

SHOWN = 200  # pixels a side of the picture in a notebook

Floats = NDArray[np.float64]
SkyMap = Callable[[Floats, Floats], tuple[Floats, Floats]]


@dataclass(frozen=True)
class MapDistortion:
    """Distortion from maps with one value a pixel, as STDGDC files have.

    Parameters
    ----------
    x_corrected, y_corrected : ndarray (ny, nx)
        Corrected position of each pixel's centre, 0-based.
    magnitude : ndarray (ny, nx), optional
        Magnitudes to add for the pixel's area; zero when None.
    y_offset : int
        Rows to add to raw y to find it in the maps (the upper chip of a two-chip camera in a stacked map).
    """

    x_corrected: NDArray
    y_corrected: NDArray
    magnitude: NDArray | None = None
    y_offset: int = 0

    def forward(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Corrected positions of raw ones; outside the detector the edge's gradient goes on."""
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float) + self.y_offset
        return _bilinear(self.x_corrected, x, y), _bilinear(self.y_corrected, x, y)

    def inverse(self, u: ArrayLike, v: ArrayLike, tolerance: float = 1e-6) -> tuple[Floats, Floats]:
        """Raw positions of corrected ones, to `tolerance` pixel.

        Iterates with the map's mean gradient; what has not converged after 50 rounds (far outside) is NaN.
        """
        u, v = np.asarray(u, dtype=float), np.asarray(v, dtype=float)
        ny, nx = self.x_corrected.shape
        corner_x, corner_y = np.array([0.0, nx - 1.0, 0.0, nx - 1.0]), np.array([0.0, 0.0, ny - 1.0, ny - 1.0])
        corner_u, corner_v = (
            _bilinear(self.x_corrected, corner_x, corner_y),
            _bilinear(self.y_corrected, corner_x, corner_y),
        )
        back = fit_linear(corner_u, corner_v, corner_x, corner_y, clip=None).transform
        x, y = back(u, v)
        step_x, step_y = np.full_like(x, np.inf), np.full_like(y, np.inf)
        for _ in range(50):
            off_u = u - _bilinear(self.x_corrected, x, y)
            off_v = v - _bilinear(self.y_corrected, x, y)
            step_x, step_y = back.a * off_u + back.b * off_v, back.c * off_u + back.d * off_v
            x, y = x + step_x, y + step_y
            if not np.any(np.hypot(step_x, step_y) > tolerance):
                break
        lost = ~(np.hypot(step_x, step_y) <= tolerance)
        return np.where(lost, np.nan, x), np.where(lost, np.nan, y - self.y_offset)

    def area(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Pixel area over the nominal one: flux times area is comparable over the detector."""
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float) + self.y_offset
        if self.magnitude is None:
            return np.ones(np.broadcast(x, y).shape)
        return 10 ** (-0.4 * _bilinear(self.magnitude, x, y))

    def _repr_html_(self) -> str:
        ny, nx = self.x_corrected.shape
        step = max(nx, ny) // SHOWN + 1
        y, x = np.mgrid[0:ny:step, 0:nx:step].astype(float)
        u, v = (np.asarray(plane[::step, ::step], float) for plane in (self.x_corrected, self.y_corrected))
        linear = fit_linear(x.ravel(), y.ravel(), u.ravel(), v.ravel(), parameters=4, clip=None).transform
        near_u, near_v = linear(x, y)
        du, dv = u - near_u, v - near_v
        largest = max(float(np.abs([du, dv]).max()), 1e-12)
        facts = {
            "pixels": f"{nx} x {ny}",
            "largest shift, pixels": f"{float(np.hypot(du, dv).max()):.4f}",
            "RMS an axis, pixels": f"{float(np.sqrt(0.5 * np.mean(du**2 + dv**2))):.4f}",
        }
        if self.magnitude is not None:
            facts["pixel area, mag"] = f"{float(self.magnitude.min()):+.4f} to {float(self.magnitude.max()):+.4f}"
        size = (260, max(round(260 * ny / nx), 20))
        bar = f"blue to red: -{largest:.3f} to {largest:.3f} pixel"
        pictures = [picture(s, -largest, largest, "RdBu_r", f"shift in {axis}; {bar}", size) for axis, s in (("x", du), ("y", dv))]
        return card("geometric distortion, less offset, scale and rotation", facts, *pictures)


def _bilinear(values: NDArray, x: Floats, y: Floats) -> Floats:
    """Bilinear interpolation; beyond the border pixels' centres linear extrapolation."""
    ny, nx = values.shape
    i = np.clip(np.floor(np.nan_to_num(x)), 0, max(nx - 2, 0)).astype(np.int64)
    j = np.clip(np.floor(np.nan_to_num(y)), 0, max(ny - 2, 0)).astype(np.int64)
    s, t = x - i, y - j
    right, up = np.minimum(i + 1, nx - 1), np.minimum(j + 1, ny - 1)
    low = (1 - s) * values[j, i] + s * values[j, right]
    return (1 - t) * low + t * ((1 - s) * values[up, i] + s * values[up, right])


@dataclass(frozen=True)
class PlaneDistortion:
    """Distortion from a map of raw pixels to the sky.

    The corrected plane is the tangent plane of the master frame, moved to the array's centre, turned (and mirrored
    where need be) to the detector's axes and measured in nominal pixels, so that a linear transform alone leads to the
    master frame however far the exposure lies from the tangent point.

    Parameters
    ----------
    pixel_to_sky : callable
        Raw positions to ICRS degrees.
    centre : tuple of float
        Raw position of the array's centre: the origin of the corrected plane.
    pixel_scale : float
        Nominal scale, arcsec.
    tangent : tuple of float
        Tangent point of the master frame, degrees.
    """

    pixel_to_sky: SkyMap
    centre: tuple[float, float]
    pixel_scale: float
    tangent: tuple[float, float]

    def forward(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Corrected positions (u, v) of raw ones."""
        west, north = self._plane(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        return self.to_plane.inverse()(west, north)

    @property
    def to_plane(self) -> LinearTransform:
        """From (u, v) to nominal pixels West and North of the tangent point, as the map to the sky says."""
        step = 8.0
        xc, yc = self.centre
        x = np.array([xc, xc + step, xc - step, xc, xc])
        y = np.array([yc, yc, yc, yc + step, yc - step])
        west, north = self._plane(x, y)
        j11, j21 = (west[1] - west[2]) / (2 * step), (north[1] - north[2]) / (2 * step)
        j12, j22 = (west[3] - west[4]) / (2 * step), (north[3] - north[4]) / (2 * step)
        if j11 * j22 - j12 * j21 >= 0:
            angle = np.arctan2(j21 - j12, j11 + j22)
            a, b, c, d = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        else:
            angle = np.arctan2(j21 + j12, j11 - j22)
            a, b, c, d = np.cos(angle), np.sin(angle), np.sin(angle), -np.cos(angle)
        return LinearTransform(float(a), float(b), float(c), float(d), float(west[0]), float(north[0]))

    def _plane(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        xi, eta = sky_to_tangent(*self.pixel_to_sky(x, y), *self.tangent)
        return -xi / self.pixel_scale, eta / self.pixel_scale


def map_to_sky(
    distortion: MapDistortion, header: SkyMap, bounds: tuple[float, float, float, float]
) -> tuple[SkyMap, LinearTransform]:
    """Raw pixels to the sky by a distortion map, with pointing, scale and orientation from a header's WCS.

    Parameters
    ----------
    distortion : MapDistortion
        The map.
    header : callable
        Raw positions to ICRS degrees, by the header.
    bounds : tuple of float
        Raw x_min, x_max, y_min, y_max of the array, over which the two are tied by four parameters.

    Returns
    -------
    pixel_to_sky : callable
        Raw positions to ICRS degrees.
    tie : LinearTransform
        From the map's corrected pixels to arcsec East and North of the array's centre.
    """
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(*bounds[:2], 12), np.linspace(*bounds[2:], 12)))
    middle = np.array([0.5 * (bounds[0] + bounds[1])]), np.array([0.5 * (bounds[2] + bounds[3])])
    ra0, dec0 = (float(value[0]) for value in header(*middle))
    xi, eta = sky_to_tangent(*header(x, y), ra0, dec0)
    tie = fit_linear(*distortion.forward(x, y), xi, eta, parameters=4, clip=None).transform

    def pixel_to_sky(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        return tangent_to_sky(*tie(*distortion.forward(x, y)), ra0, dec0)

    return pixel_to_sky, tie


class PolynomialInverse:
    """Raw positions of corrected ones by a polynomial: quick, and good to a small fraction of a pixel for smooth maps.

    Parameters
    ----------
    forward : callable
        Raw to corrected positions.
    bounds : tuple of float
        Raw x_min, x_max, y_min, y_max over which it is fitted.
    degree : int
        Total degree.
    """

    def __init__(self, forward: SkyMap, bounds: tuple[float, float, float, float], degree: int = 4) -> None:
        x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(*bounds[:2], 15), np.linspace(*bounds[2:], 15)))
        u, v = forward(x, y)
        self._middle = float(np.mean(u)), float(np.mean(v))
        self._size = max(float(np.ptp(u)), float(np.ptp(v)), 1.0) / 2
        self._degree = degree
        self._terms = np.linalg.lstsq(self._design(u, v), np.column_stack([x, y]), rcond=None)[0]

    def __call__(self, u: ArrayLike, v: ArrayLike) -> tuple[Floats, Floats]:
        """Raw positions (0-based); only of use on and near the detector."""
        raw = self._design(np.asarray(u, dtype=float), np.asarray(v, dtype=float)) @ self._terms
        return raw[..., 0], raw[..., 1]

    def _design(self, u: Floats, v: Floats) -> Floats:
        s, t = (u - self._middle[0]) / self._size, (v - self._middle[1]) / self._size
        powers = [(i, j) for i in range(self._degree + 1) for j in range(self._degree + 1 - i)]
        return np.stack([s**i * t**j for i, j in powers], -1)
