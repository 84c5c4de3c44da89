"""Effective PSFs of an undersampled camera: diffraction at the pupil, wavefront errors, diffusion, and the pixel.

The field at the detector is the matrix Fourier transform of the pupil (Soummer et al. 2007), at as many samples a
pixel as the band limit of the intensity needs; the pixel and diffusion are transfer functions, and zero-padding
brings the result to `OVERSAMPLE` samples a pixel without interpolation.  Every ePSF is centred as Anderson & King
(2000) say, psi(0.5, 0) = psi(-0.5, 0) and psi(0, 0.5) = psi(0, -0.5), and a sum over pixels of 1 means all the light
of `WINDOW` pixels either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from dpm.simulate.instruments import Instrument

__all__ = ["OVERSAMPLE", "EpsfGrid", "WavefrontModel", "annular_pupil", "couple", "make_epsf_grid", "segmented_pupil"]

OVERSAMPLE = 8
WINDOW = 52
PUPIL_SAMPLES = 256
WAVELENGTHS = (-0.35, 0.0, 0.35)
ARCSEC = np.pi / 180 / 3600


@dataclass(frozen=True)
class EpsfGrid:
    """ePSFs on a square grid of nodes.

    Parameters
    ----------
    values : ndarray (n, n, m, m)
        Fraction of a star's light in a pixel at an offset from the star, node rows first; `OVERSAMPLE` samples a
        pixel, zero offset at index (m - 1) / 2.
    x_nodes, y_nodes : ndarray (n,)
        Raw pixel positions of the nodes, 0-based.
    """

    values: NDArray[np.float64]
    x_nodes: NDArray[np.float64]
    y_nodes: NDArray[np.float64]

    @property
    def half(self) -> int:
        """Whole pixels either side of the star that the arrays reach."""
        return (self.values.shape[-1] - 1) // 2 // OVERSAMPLE

    def coupled(self, capacitance: float) -> EpsfGrid:
        """The same as seen through interpixel capacitance."""
        values = np.array([[couple(epsf, capacitance, OVERSAMPLE) for epsf in row] for row in self.values])
        return EpsfGrid(values, self.x_nodes, self.y_nodes)

    def crop(self, half: int, step: int = 1) -> NDArray[np.float64]:
        """The samples within ``half`` pixels, every ``step``-th one."""
        centre = (self.values.shape[-1] - 1) // 2
        reach = half * OVERSAMPLE
        return self.values[:, :, centre - reach : centre + reach + 1 : step, centre - reach : centre + reach + 1 : step]


def _pupil_axes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of the pupil samples in units of the pupil's radius."""
    axis = (np.arange(PUPIL_SAMPLES) - (PUPIL_SAMPLES - 1) / 2) / (PUPIL_SAMPLES / 2)
    x, y = np.meshgrid(axis, axis)
    return x, y


def segmented_pupil() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Eighteen hexagonal segments with gaps, the middle one missing, and three struts.

    Returns
    -------
    transmission : ndarray (PUPIL_SAMPLES, PUPIL_SAMPLES)
        1 where light passes.
    segment : ndarray of int
        Number of the segment, -1 outside.
    """
    x, y = _pupil_axes()
    pitch = 2 / 5.0  # flat-to-flat width of a segment; five of them span the pupil
    transmission = np.zeros_like(x)
    segment = np.full(x.shape, -1)
    number = 0
    for q in range(-2, 3):
        for r in range(-2, 3):
            if abs(q + r) > 2 or (q == 0 and r == 0):
                continue
            u, v = x - pitch * (q + r / 2), y - pitch * r * np.sqrt(3) / 2
            distance = np.max([np.abs(u * np.cos(a) + v * np.sin(a)) for a in (0, np.pi / 3, 2 * np.pi / 3)], axis=0)
            inside = distance < pitch / 2 * 0.993
            transmission[inside] = 1
            segment[inside] = number
            number += 1
    for angle in (90.0, 210.0, 330.0):
        a = np.radians(angle)
        along, across = x * np.cos(a) + y * np.sin(a), -x * np.sin(a) + y * np.cos(a)
        transmission[(along > 0) & (np.abs(across) < 0.016)] = 0
    return transmission, segment


def annular_pupil(obscuration: float = 0.33) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A round mirror with a central obscuration, four spider arms and three pads; see `segmented_pupil`."""
    x, y = _pupil_axes()
    r = np.hypot(x, y)
    transmission = ((r < 1) & (r > obscuration)).astype(float)
    transmission[(np.abs(x) < 0.011) | (np.abs(y) < 0.011)] = 0
    for angle in (0.0, 120.0, 240.0):
        a = np.radians(angle + 30)
        transmission[np.hypot(x - 0.89 * np.cos(a), y - 0.89 * np.sin(a)) < 0.065] = 0
    return transmission, np.where(transmission > 0, 0, -1)


def _low_orders(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Defocus, astigmatisms, comas, trefoils and spherical aberration, each of unit rms on the unit disc."""
    r2 = x * x + y * y
    return np.array(
        [
            np.sqrt(3) * (2 * r2 - 1),
            np.sqrt(6) * 2 * x * y,
            np.sqrt(6) * (x * x - y * y),
            np.sqrt(8) * (3 * r2 - 2) * y,
            np.sqrt(8) * (3 * r2 - 2) * x,
            np.sqrt(8) * (3 * x * x * y - y**3),
            np.sqrt(8) * (x**3 - 3 * x * y * y),
            np.sqrt(5) * (6 * r2 * r2 - 6 * r2 + 1),
        ]
    )


class WavefrontModel:
    """Optical path errors in metres over the pupil, as a function of the place in the field.

    A part is common to the field (low orders and, for a segmented mirror, pistons and tilts of the segments), a part
    changes linearly and quadratically over it; ``defocus`` is for a breathing telescope.
    """

    def __init__(self, camera: Instrument, generator: np.random.Generator) -> None:
        self.transmission, segment = segmented_pupil() if camera.pupil == "segments" else annular_pupil()
        x, y = _pupil_axes()
        inside = self.transmission > 0
        modes = _low_orders(x, y)
        self._modes = np.array([m / np.sqrt(np.mean(m[inside] ** 2)) for m in modes])
        falling = np.array([1, 1, 1, 0.8, 0.8, 0.6, 0.6, 0.5])
        common = generator.normal(size=8) * falling
        static = np.tensordot(common, self._modes, 1)
        if camera.pupil == "segments":
            for number in range(segment.max() + 1):
                here = segment == number
                piston, tilt_x, tilt_y = generator.normal(size=3)
                static[here] += piston + 4 * (tilt_x * (x[here] - x[here].mean()) + tilt_y * (y[here] - y[here].mean()))
        static -= static[inside].mean()
        self.static = static * (camera.wavefront * 1e-9 / np.sqrt(np.mean(static[inside] ** 2)))
        field = generator.normal(size=(5, 8)) * falling * np.array([1, 1, 0.6, 0.6, 0.6])[:, None]
        self._field = field * (camera.wavefront_field * 1e-9 / np.sqrt(np.sum(field[:2] ** 2) / 3))

    def path(self, u: float, v: float, defocus: float = 0.0) -> NDArray[np.float64]:
        """Path error at field position u, v (both -1 to 1) with extra ``defocus`` (metres rms)."""
        terms = np.array([u, v, u * u - 1 / 3, u * v, v * v - 1 / 3])
        return self.static + np.tensordot(terms @ self._field, self._modes, 1) + defocus * self._modes[0]


def _intensity(
    wavefront: WavefrontModel, path: NDArray[np.float64], camera: Instrument, wavelength: float, samples: int
) -> NDArray[np.float32]:
    """Point-source intensity at ``samples`` a pixel over 2 WINDOW pixels, index 0 at -WINDOW pixels, unit sum."""
    pupil = wavefront.transmission * np.exp(2j * np.pi / wavelength * path)
    offset = (np.arange(2 * WINDOW * samples) / samples - WINDOW) * camera.pixel_scale * ARCSEC
    position = (np.arange(PUPIL_SAMPLES) - (PUPIL_SAMPLES - 1) / 2) * camera.diameter / PUPIL_SAMPLES
    kernel = np.exp(-2j * np.pi / wavelength * np.outer(offset, position)).astype(np.complex64)
    amplitude = kernel @ pupil.astype(np.complex64) @ kernel.T
    intensity = amplitude.real**2 + amplitude.imag**2
    return (intensity / intensity.sum(dtype=float)).astype(np.float32)


def _through_pixel(intensity: NDArray[np.float32], samples: int, diffusion: float) -> NDArray[np.complex128]:
    """Fourier transform of the intensity as pixels of unit width see it."""
    n = intensity.shape[0]
    frequency = np.fft.fftfreq(n, 1 / samples)
    transfer = np.sinc(frequency) * np.exp(-2 * (np.pi * diffusion * frequency) ** 2)
    return np.asarray(fft.fft2(intensity)) * transfer[:, None] * transfer[None, :]


def _to_samples(transform: NDArray[np.complex128], samples: int, dx: float, dy: float) -> NDArray[np.float64]:
    """Real array at OVERSAMPLE samples a pixel of a spectrum, moved by (-dx, -dy) pixels."""
    n, m = transform.shape[0], 2 * WINDOW * OVERSAMPLE
    frequency = np.fft.fftfreq(n, 1 / samples)
    shift_x, shift_y = np.exp(2j * np.pi * frequency * dx), np.exp(2j * np.pi * frequency * dy)
    shifted = np.fft.fftshift(transform * shift_y[:, None] * shift_x[None, :])
    padded = np.zeros((m, m), complex)
    start = m // 2 - n // 2
    padded[start : start + n, start : start + n] = shifted
    # sums over whole pixels keep a sum of 1: `samples` squared old samples a pixel became one light-fraction
    return np.asarray(fft.ifft2(np.fft.ifftshift(padded)).real) * (m / n) ** 2 * samples**2


def _centring(transform: NDArray[np.complex128], samples: int) -> tuple[float, float]:
    """Offset (dx, dy) in pixels from the window's middle about which the values half a pixel either side are alike."""
    frequency = np.fft.fftfreq(transform.shape[0], 1 / samples)

    def step(spectrum: NDArray[np.complex128], place: float) -> float:
        at = np.array([place + WINDOW + 0.5, place + WINDOW - 0.5])
        waves = np.exp(2j * np.pi * np.outer(at, frequency))
        values, slopes = (waves @ spectrum).real, (waves @ (2j * np.pi * frequency * spectrum)).real
        return float(-(values[0] - values[1]) / (slopes[0] - slopes[1]))

    dx = dy = 0.0
    for _ in range(8):
        step_x = step(np.exp(2j * np.pi * frequency * (dy + WINDOW)) @ transform, dx)
        step_y = step(transform @ np.exp(2j * np.pi * frequency * (dx + WINDOW)), dy)
        dx, dy = dx + step_x, dy + step_y
        if max(abs(step_x), abs(step_y)) < 1e-7:
            break
    return dx, dy


def _one_epsf(
    camera: Instrument, wavefront: WavefrontModel, path: NDArray[np.float64], wavelength: float, width: float
) -> NDArray[np.float64]:
    """Centred ePSF of one place, (2 WINDOW OVERSAMPLE + 1 less the border) square."""
    total: NDArray[np.complex128] | None = None
    shortest = (wavelength + WAVELENGTHS[0] * width) * 1e-6
    limit = camera.diameter / shortest * camera.pixel_scale * ARCSEC
    samples = min(OVERSAMPLE, max(2, int(np.ceil(2 * limit * 1.05))))
    for step in WAVELENGTHS:
        intensity = _intensity(wavefront, path, camera, (wavelength + step * width) * 1e-6, samples)
        transform = _through_pixel(intensity, samples, camera.diffusion) / len(WAVELENGTHS)
        total = transform if total is None else total + transform
    assert total is not None
    return _to_samples(total, samples, *_centring(total, samples))[1:, 1:]


def make_epsf_grid(
    camera: Instrument,
    filter_name: str,
    wavefront: WavefrontModel,
    x_nodes: NDArray[np.float64],
    y_nodes: NDArray[np.float64],
    defocus: float = 0.0,
    stretch: float = 1.0,
) -> EpsfGrid:
    """The ePSFs of a filter at a grid of nodes.

    Parameters
    ----------
    camera : Instrument
        The camera.
    filter_name : str
        One of its filters.
    wavefront : WavefrontModel
        Its optical errors.
    x_nodes, y_nodes : ndarray (n,)
        Raw pixel positions of the nodes; the first and the last are the edges of the field.
    defocus : float
        Extra defocus, metres rms.
    stretch : float
        Of the wavelengths.

    Returns
    -------
    EpsfGrid
        Reaching 48 pixels either side.
    """
    band = camera.filters[filter_name]
    n = len(x_nodes)
    values = []
    for j in range(n):
        row = []
        for i in range(n):
            path = wavefront.path(2 * i / (n - 1) - 1, 2 * j / (n - 1) - 1, defocus)
            epsf = _one_epsf(camera, wavefront, path, stretch * band.wavelength, stretch * band.width)
            centre, reach = epsf.shape[0] // 2, (WINDOW - 4) * OVERSAMPLE
            row.append(epsf[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1])
        values.append(row)
    return EpsfGrid(np.array(values), np.asarray(x_nodes, float), np.asarray(y_nodes, float))


def couple(image: NDArray[np.float64], capacitance: float, step: int = 1) -> NDArray[np.float64]:
    """Interpixel capacitance: each of the four neighbours ``step`` samples away shows a fraction of the charge."""
    out = (1 - 4 * capacitance) * image
    out[step:] += capacitance * image[:-step]
    out[:-step] += capacitance * image[step:]
    out[:, step:] += capacitance * image[:, :-step]
    out[:, :-step] += capacitance * image[:, step:]
    return out
