"""Linear transforms between two planes, and their weighted, clipped least-squares fits.

``X = a x + b y + x_shift``, ``Y = c x + d y + y_shift``, 0-based pixels or any other unit.  A fit has two parameters
(shift), four (shift, rotation, scale; so skew stays in the residuals: DESIGN section 6, distortion) or six.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpm.models.statistics import robust_width

__all__ = ["LinearFit", "LinearTransform", "fit_linear"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LinearTransform:
    """``X = a x + b y + x_shift``, ``Y = c x + d y + y_shift``."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 1.0
    x_shift: float = 0.0
    y_shift: float = 0.0

    @property
    def matrix(self) -> Floats:
        """The 2 x 2 matrix ((a, b), (c, d))."""
        return np.array([[self.a, self.b], [self.c, self.d]])

    @property
    def scale(self) -> float:
        """Square root of the area of the image of a unit square."""
        return float(np.sqrt(abs(self.a * self.d - self.b * self.c)))

    def __call__(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Transform positions; arrays of any equal shape."""
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        return self.a * x + self.b * y + self.x_shift, self.c * x + self.d * y + self.y_shift

    def inverse(self) -> LinearTransform:
        """The transform back.

        Raises
        ------
        ValueError
            If the matrix is singular.
        """
        determinant = self.a * self.d - self.b * self.c
        if not np.isfinite(determinant) or abs(determinant) < 1e-300:
            raise ValueError(f"singular linear transform {self}")
        a, b, c, d = self.d / determinant, -self.b / determinant, -self.c / determinant, self.a / determinant
        return LinearTransform(
            a, b, c, d, -(a * self.x_shift + b * self.y_shift), -(c * self.x_shift + d * self.y_shift)
        )

    def after(self, first: LinearTransform) -> LinearTransform:
        """The transform that applies `first`, then this one."""
        m = self.matrix @ first.matrix
        x, y = self(first.x_shift, first.y_shift)
        return LinearTransform(float(m[0, 0]), float(m[0, 1]), float(m[1, 0]), float(m[1, 1]), float(x), float(y))


@dataclass(frozen=True)
class LinearFit:
    """Result of `fit_linear`.

    Parameters
    ----------
    transform : LinearTransform
        From the first plane to the second.
    used : ndarray (n,), bool
        Pairs that survived the clipping.
    rms : float
        Per-axis scatter of the used pairs' residuals, corrected for the fitted parameters.
    n_parameters : int
        2, 4 or 6, or fewer than asked for where pairs were too few.
    covariance : ndarray (p, p)
        Of the parameters about `centre`, scaled to the scatter found where that exceeds the stated errors.
    centre : tuple of float
        Mean position of the used pairs in the first plane.
    sign : float
        -1 where a four-parameter fit is mirrored.
    """

    transform: LinearTransform
    used: NDArray[np.bool_]
    rms: float
    n_parameters: int
    covariance: Floats
    centre: tuple[float, float]
    sign: float = 1.0

    def position_variance(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Mean per-axis variance, in the second plane, that the fit's own errors add to a position of the first."""
        u, v = np.asarray(x, dtype=float) - self.centre[0], self.sign * (np.asarray(y, dtype=float) - self.centre[1])
        x_rows, y_rows = _design(u, v, self.n_parameters)
        both = [np.einsum("...i,ij,...j->...", rows, self.covariance, rows) for rows in (x_rows, y_rows)]
        return 0.5 * (both[0] + both[1])


def fit_linear(
    x: ArrayLike,
    y: ArrayLike,
    x_to: ArrayLike,
    y_to: ArrayLike,
    errors: ArrayLike | None = None,
    parameters: int = 6,
    clip: float | None = 3.5,
    rounds: int = 10,
) -> LinearFit:
    """Weighted least-squares linear transform with sigma clipping.

    Parameters
    ----------
    x, y : array_like (n,)
        Positions in the first plane.
    x_to, y_to : array_like (n,)
        Positions of the same stars in the second plane.
    errors : array_like (n,), optional
        One-sigma errors per axis in units of the second plane; equal when None.
    parameters : int
        2, 4 or 6.  With four the orientation (mirrored or not) is that of the first two moments of the pairs.
    clip : float, optional
        Pairs further than this many robust sigmas on an axis, in units of their errors, are left out; None: none.
    rounds : int
        Most rounds of clipping.

    Returns
    -------
    LinearFit

    Raises
    ------
    ValueError
        If fewer finite pairs are given than the parameters need.
    """
    x, y, x_to, y_to = (np.asarray(values, dtype=float) for values in (x, y, x_to, y_to))
    sigma = np.ones(len(x)) if errors is None else np.asarray(errors, dtype=float)
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(x_to) & np.isfinite(y_to) & np.isfinite(sigma) & (sigma > 0)
    if parameters not in (2, 4, 6) or good.sum() < parameters // 2:
        raise ValueError(f"{good.sum()} pairs are too few for a linear transform of {parameters} parameters")
    mirrored = parameters == 4 and _is_mirrored(x[good], y[good], x_to[good], y_to[good])
    sign = -1.0 if mirrored else 1.0
    used = good.copy()
    for _ in range(max(rounds, 1)):
        centre = (float(np.mean(x[used])), float(np.mean(y[used])))
        values, inverse = _solve(x, sign * y, x_to, y_to, sigma, used, (centre[0], sign * centre[1]), parameters)
        x_rows, y_rows = _design(x - centre[0], sign * (y - centre[1]), parameters)
        if parameters == 2:
            residual_x, residual_y = x_to - (x - centre[0]) - values[0], y_to - (y - centre[1]) - values[1]
        else:
            residual_x, residual_y = x_to - x_rows @ values, y_to - y_rows @ values
        if clip is None:
            break
        keep = good & _inside(residual_x / sigma, used, clip) & _inside(residual_y / sigma, used, clip)
        if keep.sum() < max(parameters // 2 + 1, 3) or np.array_equal(keep, used):
            break
        used = keep
    transform = _transform(values, centre, sign, parameters)
    degrees = max(2 * int(used.sum()) - parameters, 1)
    squares = residual_x[used] ** 2 + residual_y[used] ** 2
    chi2 = float(np.sum(squares / sigma[used] ** 2)) / degrees
    factor = chi2 if errors is None else max(chi2, 1.0)
    rms = float(np.sqrt(np.sum(squares) / degrees))
    return LinearFit(transform, used, rms, parameters, inverse * factor, centre, sign)


def _design(u: Floats, v: Floats, parameters: int) -> tuple[Floats, Floats]:
    """Rows of the design matrices of X and of Y."""
    one, zero = np.ones_like(u), np.zeros_like(u)
    if parameters == 2:
        return np.stack([one, zero], -1), np.stack([zero, one], -1)
    if parameters == 4:
        return np.stack([one, zero, u, -v], -1), np.stack([zero, one, v, u], -1)
    return np.stack([one, zero, u, v, zero, zero], -1), np.stack([zero, one, zero, zero, u, v], -1)


def _solve(
    x: Floats,
    y: Floats,
    x_to: Floats,
    y_to: Floats,
    sigma: Floats,
    used: NDArray[np.bool_],
    centre: tuple[float, float],
    parameters: int,
) -> tuple[Floats, Floats]:
    """Parameters and the inverse of the normal matrix."""
    u, v = x[used] - centre[0], y[used] - centre[1]
    weight = 1.0 / sigma[used]
    x_rows, y_rows = _design(u, v, parameters)
    rows = np.concatenate([x_rows * weight[:, None], y_rows * weight[:, None]])
    if parameters == 2:
        target = np.concatenate([(x_to[used] - u) * weight, (y_to[used] - v) * weight])
    else:
        target = np.concatenate([x_to[used] * weight, y_to[used] * weight])
    inverse = np.linalg.pinv(rows.T @ rows)
    return inverse @ (rows.T @ target), inverse


def _is_mirrored(x: Floats, y: Floats, x_to: Floats, y_to: Floats) -> bool:
    """Whether the pairs are better joined by a mirrored similarity."""
    u, v, s, t = x - x.mean(), y - y.mean(), x_to - x_to.mean(), y_to - y_to.mean()
    straight = np.hypot(np.sum(u * s + v * t), np.sum(u * t - v * s))
    mirrored = np.hypot(np.sum(u * s - v * t), np.sum(u * t + v * s))
    return bool(mirrored > straight * (1 + 1e-9))


def _inside(pull: Floats, used: NDArray[np.bool_], clip: float) -> NDArray[np.bool_]:
    middle = float(np.median(pull[used]))
    width = robust_width(pull[used], middle)
    return np.abs(pull - middle) <= clip * max(width, 1e-7)


def _transform(values: Floats, centre: tuple[float, float], sign: float, parameters: int) -> LinearTransform:
    """Back from parameters about the centre."""
    if parameters == 2:
        a, b, c, d = 1.0, 0.0, 0.0, 1.0
    elif parameters == 4:
        a, b, c, d = values[2], -sign * values[3], values[3], sign * values[2]
    else:
        a, b, c, d = values[2], values[3], values[4], values[5]
    x_shift = values[0] - a * centre[0] - b * centre[1]
    y_shift = values[1] - c * centre[0] - d * centre[1]
    return LinearTransform(float(a), float(b), float(c), float(d), float(x_shift), float(y_shift))
