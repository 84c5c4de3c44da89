"""From the sky to raw pixels: tangent plane, pointing and roll, velocity aberration, and distortion.

Ideal coordinates are arcsec in the camera's plane; at roll 0 ideal x grows to the West and ideal y to the North.  The
distortion is raw -> ideal: a small filter term and a fine pattern (pixels added to the raw position), then the
polynomial ``sum c_ij (x - x_ref)^(i-j) (y - y_ref)^j`` of the SIAF in 1-based pixels.  The inverse is numerical
(Newton), never the SIAF's own, which is off by up to 0.05 pixel.

``data/distortion_polynomials.json`` was made with pysiaf 0.29.0 (PRDOPSSOC-075): Sci2IdlX/Y of NIS_CEN, NRCA1_FULL and
NRCB1_FULL as they are; for HST those of JWFC1/2 and IUVIS1/2, each rotated by its V3IdlYAngle less the mean of the
two chips and moved by its (V2Ref, V3Ref) less the mean, so that both chips share one plane, and with the reference
pixel of `_flc` files (2048, 1024; UVIS 2048, 1026).  ``tests/test_simulate_geometry.py`` makes them again and compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RectBivariateSpline

from dpm.simulate.options import Effects

__all__ = ["Distortion", "Polynomial", "Pointing", "SkyPlane", "load_polynomial", "make_small_terms"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SkyPlane:
    """Tangent plane at the field's centre: xi to the East and eta to the North, arcsec."""

    ra: float
    dec: float

    def to_sky(self, xi: ArrayLike, eta: ArrayLike) -> tuple[Floats, Floats]:
        """Right ascension and declination, degrees."""
        d0 = np.radians(self.dec)
        x, y = np.radians(np.asarray(xi, float) / 3600), np.radians(np.asarray(eta, float) / 3600)
        denominator = np.cos(d0) - y * np.sin(d0)
        ra = (np.degrees(np.arctan2(x, denominator)) + self.ra) % 360
        dec = np.degrees(np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, denominator)))
        return ra, dec

    def from_sky(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
        """Tangent-plane position of right ascension and declination in degrees."""
        d0 = np.radians(self.dec)
        a, d = np.radians(np.asarray(ra, float) - self.ra), np.radians(np.asarray(dec, float))
        denominator = np.sin(d) * np.sin(d0) + np.cos(d) * np.cos(d0) * np.cos(a)
        xi = np.cos(d) * np.sin(a) / denominator
        eta = (np.sin(d) * np.cos(d0) - np.cos(d) * np.sin(d0) * np.cos(a)) / denominator
        return np.degrees(xi) * 3600, np.degrees(eta) * 3600

    def motions_on_sky(self, xi: Floats, eta: Floats, motion_xi: Floats, motion_eta: Floats) -> tuple[Floats, Floats]:
        """pmra (with cos dec) and pmdec of motions along xi and eta: North turns across the plane."""
        ra0, dec0 = self.to_sky(xi, eta)
        ra1, dec1 = self.to_sky(xi + motion_xi / 1000, eta + motion_eta / 1000)
        return ((ra1 - ra0 + 180) % 360 - 180) * 3.6e6 * np.cos(np.radians(dec0)), (dec1 - dec0) * 3.6e6


@dataclass(frozen=True)
class Pointing:
    """Where a frame looks.

    Parameters
    ----------
    xi, eta : float
        Tangent-plane position of the frame's middle, arcsec.
    roll : float
        Position angle of ideal y, degrees from North through East.
    va : float
        Scale of velocity aberration: ideal offset = sky offset / va.
    """

    xi: float
    eta: float
    roll: float
    va: float = 1.0

    def to_ideal(self, xi: Floats, eta: Floats) -> tuple[Floats, Floats]:
        """Ideal position (arcsec about the frame's middle) of tangent-plane positions."""
        c, s = np.cos(np.radians(self.roll)), np.sin(np.radians(self.roll))
        u, v = xi - self.xi, eta - self.eta
        return -(c * u - s * v) / self.va, (s * u + c * v) / self.va

    def to_plane(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Tangent-plane position of ideal positions."""
        c, s = np.cos(np.radians(self.roll)), np.sin(np.radians(self.roll))
        return self.va * (-c * x + s * y) + self.xi, self.va * (s * x + c * y) + self.eta

    @property
    def matrix(self) -> Floats:
        """d(xi, eta) / d(ideal x, y)."""
        c, s = np.cos(np.radians(self.roll)), np.sin(np.radians(self.roll))
        return self.va * np.array([[-c, s], [s, c]])


@dataclass(frozen=True)
class Polynomial:
    """A detector's SIAF polynomial, 1-based pixels to ideal arcsec."""

    degree: int
    x_reference: float
    y_reference: float
    x: tuple[float, ...]
    y: tuple[float, ...]

    def terms(self) -> list[tuple[int, int]]:
        """Powers (of x, of y) of the coefficients, in order."""
        return [(i - j, j) for i in range(self.degree + 1) for j in range(i + 1)]

    def __call__(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        """Ideal x and y, and the Jacobian (2, 2, ...) d(ideal)/d(pixel), of 1-based pixel positions."""
        u, v = x - self.x_reference, y - self.y_reference
        pu, pv = [np.ones_like(u)], [np.ones_like(v)]
        for _ in range(self.degree):
            pu.append(pu[-1] * u)
            pv.append(pv[-1] * v)
        ideal = np.zeros((2, *u.shape))
        jacobian = np.zeros((2, 2, *u.shape))
        for (p, q), a, b in zip(self.terms(), self.x, self.y):
            term = pu[p] * pv[q]
            by_x = p * pu[p - 1] * pv[q] if p else 0.0
            by_y = q * pu[p] * pv[q - 1] if q else 0.0
            for k, c in enumerate((a, b)):
                ideal[k] += c * term
                jacobian[k, 0] += c * by_x
                jacobian[k, 1] += c * by_y
        return ideal[0], ideal[1], jacobian


@cache
def load_polynomial(detector: str) -> Polynomial:
    """The polynomial of a detector (DESIGN's name) from the package's table."""
    table = json.loads((resources.files("dpm.simulate") / "data" / "distortion_polynomials.json").read_text())
    entry = table["apertures"][detector]
    return Polynomial(entry["degree"], entry["x_reference"], entry["y_reference"], tuple(entry["x"]), tuple(entry["y"]))


@dataclass(frozen=True)
class Distortion:
    """Raw pixels of a cut-out to ideal arcsec about the frame's middle, and back.

    Parameters
    ----------
    polynomial : Polynomial
        Of the detector.
    x_start, y_start : int
        Full-detector position (0-based) of the pixel that is called (x_origin, y_origin).
    x_origin, y_origin : int
        Name of the cut-out's first pixel: its place on the detector for a subarray, 0 for a frame as it is.
    nx, ny : int
        Size.
    ideal_origin : tuple of float
        Ideal position that becomes (0, 0), arcsec.
    filter_term : ndarray (2, 9)
        Coefficients in pixels of products of Chebyshev polynomials of order 1 to 3 in x and y.
    fine : ndarray (k, 5)
        Waves (kx, ky, phase, amplitude in x, in y) per frame and in pixels.
    void : ndarray (5,)
        Place, widths (of the frame's size) and amplitude in pixels of one displaced region; empty for none.
    """

    polynomial: Polynomial
    x_start: int
    y_start: int
    x_origin: int
    y_origin: int
    nx: int
    ny: int
    ideal_origin: tuple[float, float] = (0.0, 0.0)
    filter_term: Floats = field(default_factory=lambda: np.zeros((2, 9)))
    fine: Floats = field(default_factory=lambda: np.zeros((0, 5)))
    void: Floats = field(default_factory=lambda: np.zeros(0))

    def small_terms(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Pixels to add to raw positions before the polynomial."""
        u, v = 2 * (x - self.x_origin) / (self.nx - 1) - 1, 2 * (y - self.y_origin) / (self.ny - 1) - 1
        cu = (np.ones_like(u), u, 2 * u * u - 1, 4 * u**3 - 3 * u)
        cv = (np.ones_like(v), v, 2 * v * v - 1, 4 * v**3 - 3 * v)
        pairs = [(i, j) for i in range(4) for j in range(4) if 0 < i + j <= 3]
        dx, dy = np.zeros_like(u), np.zeros_like(u)
        for (i, j), a, b in zip(pairs, *self.filter_term):
            if a or b:
                dx += a * cu[i] * cv[j]
                dy += b * cu[i] * cv[j]
        for kx, ky, phase, ax, ay in self.fine:
            wave = np.sin(np.pi * (kx * u + ky * v) + phase)
            dx += ax * wave
            dy += ay * wave
        if self.void.size:
            cx, cy, wx, wy, amplitude = self.void
            p, q = ((u + 1) / 2 - cx) / wx, ((v + 1) / 2 - cy) / wy
            bump = amplitude * np.exp(0.5 - 0.5 * (p * p + q * q))
            dx, dy = dx + bump * p, dy + bump * q
        return dx, dy

    def to_ideal(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Ideal position of raw pixels (0-based, as the frame calls them)."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        dx, dy = self.small_terms(x, y)
        ideal_x, ideal_y, _ = self._polynomial_at(x + dx, y + dy)
        return ideal_x, ideal_y

    def _polynomial_at(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        ideal_x, ideal_y, jacobian = self.polynomial(
            x - self.x_origin + self.x_start + 1, y - self.y_origin + self.y_start + 1
        )
        return ideal_x - self.ideal_origin[0], ideal_y - self.ideal_origin[1], jacobian

    def to_raw(self, ideal_x: ArrayLike, ideal_y: ArrayLike) -> tuple[Floats, Floats]:
        """Raw pixel position of ideal positions, to 1e-9 pixel on and near the frame."""
        ideal_x, ideal_y = np.asarray(ideal_x, float), np.asarray(ideal_y, float)
        x = np.full(ideal_x.shape, self.x_origin + (self.nx - 1) / 2)
        y = np.full(ideal_x.shape, self.y_origin + (self.ny - 1) / 2)
        for _ in range(12):
            dx, dy = self.small_terms(x, y)
            px, py, j = self._polynomial_at(x + dx, y + dy)
            rx, ry = ideal_x - px, ideal_y - py
            determinant = j[0, 0] * j[1, 1] - j[0, 1] * j[1, 0]
            step_x = (j[1, 1] * rx - j[0, 1] * ry) / determinant
            step_y = (j[0, 0] * ry - j[1, 0] * rx) / determinant
            x, y = x + step_x, y + step_y
            if not x.size or max(np.abs(step_x).max(), np.abs(step_y).max()) < 1e-10:
                break
        return x, y

    def area(self, nominal: float) -> NDArray[np.float32]:
        """Pixel areas over ``nominal`` (arcsec^2), (ny, nx), from the map's derivatives on a coarse grid."""
        gx, gy = np.linspace(0, self.nx - 1, 65), np.linspace(0, self.ny - 1, 65)
        x, y = np.meshgrid(gx + self.x_origin, gy + self.y_origin)
        h = 0.5
        right, left = self.to_ideal(x + h, y), self.to_ideal(x - h, y)
        upper, lower = self.to_ideal(x, y + h), self.to_ideal(x, y - h)
        determinant = (right[0] - left[0]) * (upper[1] - lower[1]) - (upper[0] - lower[0]) * (right[1] - left[1])
        spline = RectBivariateSpline(gy, gx, np.abs(determinant) / (4 * h * h) / nominal)
        return spline(np.arange(self.ny), np.arange(self.nx)).astype(np.float32)

    def truth_grid(self, points: int = 257) -> dict[str, Floats]:
        """Ideal (X, Y) to raw (x, y) on a grid 1.28 times the frame, as in the truth files."""
        corners_x, corners_y = self.to_ideal(
            self.x_origin + np.array([-0.14, 1.14, -0.14, 1.14]) * self.nx,
            self.y_origin + np.array([-0.14, -0.14, 1.14, 1.14]) * self.ny,
        )
        grid_x, grid_y = np.meshgrid(
            np.linspace(corners_x.min(), corners_x.max(), points), np.linspace(corners_y.min(), corners_y.max(), points)
        )
        x, y = self.to_raw(grid_x, grid_y)
        out = {"X": grid_x, "Y": grid_y, "x": x, "y": y}
        if self.void.size:
            out["void"] = self.void
        return out


def make_small_terms(generator: np.random.Generator, effects: Effects) -> tuple[Floats, Floats, Floats]:
    """Random filter term, fine pattern and void; see `Distortion`."""
    pairs = [(i, j) for i in range(4) for j in range(4) if 0 < i + j <= 3]
    filter_term = generator.normal(size=(2, len(pairs))) * 0.03 * np.array([i + j >= 2 for i, j in pairs])
    waves = 8
    angle, count = generator.uniform(0, 2 * np.pi, waves), generator.uniform(3, 7, waves)
    amplitude = generator.normal(size=(2, waves)) * 0.01 / np.sqrt(waves)
    fine = np.array(
        [count * np.cos(angle), count * np.sin(angle), generator.uniform(0, 2 * np.pi, waves), *amplitude]
    ).T
    void = np.array([*generator.uniform(0.3, 0.7, 2), 0.09, 0.05, 0.05])
    return (
        filter_term if effects.filter_distortion else np.zeros_like(filter_term),
        fine if effects.fine_distortion else np.zeros((0, 5)),
        void if effects.fine_distortion else np.zeros(0),
    )
