"""One exposure minus the stars of the catalogue, as the second pass saw it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Row
from astropy.wcs import WCS, Sip
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates, spline_filter

from dpm.io.brightness_file import read_epsf
from dpm.io.cubes import read_exposure
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.kernels.bundles import MAX_HALF
from dpm.kernels.render import subtract_stars
from dpm.kernels.scene import render_half
from dpm.models.epsf import GriddedEPSF
from dpm.models.exposure import ExposureImage
from dpm.models.flags import PixelFlag
from dpm.models.master_frame import MasterFrame, sky_to_tangent
from dpm.models.patches import NODE_STEP
from dpm.stages.frame.astrometry import positions_at
from dpm.stages.second_pass.field import Exposure, Group, SecondPassField
from dpm.stages.second_pass.geometry import ExposureGeometry
from dpm.stages.second_pass.placement import PlacedExposure, group_years, place_exposure, subtract_halos

__all__ = ["Placement", "ResidualImage", "RunScene", "subtract_catalog"]

Floats = NDArray[np.float64]

SIP_DEGREE = 5
SKY_CELL = 32
WCS_GRID = 12  # points along each side that the header's WCS is fitted to


class Placement:
    """Where points of the master frame fall on one exposure: its nodes, interpolated.

    Parameters
    ----------
    geometry : ExposureGeometry
    """

    def __init__(self, geometry: ExposureGeometry) -> None:
        self._origin = geometry.first_column * NODE_STEP, geometry.first_row * NODE_STEP
        self._splines = [spline_filter(part, order=3, mode="mirror") for part in geometry.nodes]
        rows, columns = geometry.nodes.shape[1:]
        x, y = self._origin
        self.bounds = x, x + (columns - 1) * NODE_STEP, y, y + (rows - 1) * NODE_STEP

    def __call__(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Raw x and y (0-based, full detector) and the flux of a star of unit flux; NaN beyond the nodes."""
        place = np.array([np.asarray(y, float) - self._origin[1], np.asarray(x, float) - self._origin[0]]) / NODE_STEP
        inside = np.isfinite(place).all(axis=0)
        for axis, size in enumerate(self._splines[0].shape):
            inside &= (place[axis] >= 0) & (place[axis] <= size - 1)
        place = np.where(inside, place, 0.0)
        values = (map_coordinates(part, place, order=3, mode="mirror", prefilter=False) for part in self._splines)
        raw_x, raw_y, scale = (np.where(inside, value, np.nan) for value in values)
        return raw_x, raw_y, scale


@dataclass(frozen=True)
class ResidualImage:
    """One exposure and what is left of it.

    Parameters
    ----------
    image : ExposureImage
    residual : ndarray (ny, nx), float32
        ``image.sci`` minus stars and halos, the sky kept; NaN where the pixel is bad.
    placement : Placement
    row : Row
        Of ``tables/exposures.parquet``.
    band : str
        Prefix of the catalogue's columns that its fluxes came from.
    n_stars : int
        Stars subtracted.
    """

    image: ExposureImage
    residual: NDArray[np.float32]
    placement: Placement
    row: Row
    band: str
    n_stars: int

    @property
    def good(self) -> NDArray[np.bool_]:
        """Pixels that are not bad."""
        return np.isfinite(self.residual)

    @property
    def sky(self) -> float:
        """Median of the residual."""
        return float(np.median(self.residual[self.good])) if self.good.any() else 0.0

    def local_sky(self) -> Floats:
        """Sky that follows the residual: medians of cells of `SKY_CELL` pixels, bilinear between their centres."""
        ny, nx = self.residual.shape
        cells = [np.array_split(np.arange(size), max(size // SKY_CELL, 1)) for size in (ny, nx)]
        level = np.full((len(cells[0]), len(cells[1])), self.sky)
        for j, rows in enumerate(cells[0]):
            for i, columns in enumerate(cells[1]):
                part = self.residual[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                if np.isfinite(part).any():
                    level[j, i] = np.nanmedian(part)
        centres = [[float(part.mean()) for part in axis] for axis in cells]
        place = [np.interp(np.arange(size), centre, np.arange(len(centre))) for size, centre in zip((ny, nx), centres)]
        return np.asarray(map_coordinates(level, np.meshgrid(*place, indexing="ij"), order=1, mode="nearest"))

    def variance(self) -> NDArray[np.float32]:
        """Variance of every pixel for the light of the model and the sky."""
        light = np.maximum(np.nan_to_num(self.image.sci - self.residual) + max(self.sky, 0.0), 0.0)
        image = self.image
        return np.asarray(image.poisson_factor * light + image.var_read + image.flat_variance * light**2, np.float32)


def subtract_catalog(
    pixels: NDArray[np.float32], image: ExposureImage, epsf: GriddedEPSF, placement: Placement, x: Floats, y: Floats, flux: Floats
) -> int:
    """Subtract stars from the pixels of an exposure, in place, and mark its bad pixels as NaN; returns how many stars reach it.

    Parameters
    ----------
    pixels : ndarray (ny, nx), float32
        The exposure's values, halos beyond the library taken off.
    image : ExposureImage
    epsf : GriddedEPSF
    placement : Placement
    x, y, flux : ndarray (n,)
        Master frame, and flux of the catalogue; stars without a finite flux stay.
    """
    good = (image.dq & int(PixelFlag.BAD)) == 0
    raw_x, raw_y, scale = placement(x, y)
    raw_x, raw_y, flux = raw_x - image.x_origin, raw_y - image.y_origin, flux * scale
    ny, nx = image.shape
    with np.errstate(invalid="ignore"):
        reach = (raw_x > -MAX_HALF) & (raw_x < nx - 1 + MAX_HALF) & (raw_y > -MAX_HALF) & (raw_y < ny - 1 + MAX_HALF)
    chosen = reach & np.isfinite(flux)
    if good.any():
        sky = max(float(np.median(image.sci[good])), 0.0)
        noise = float(np.sqrt(np.median(image.var_read[good]) + np.median(image.poisson_factor[good]) * sky))
        half = np.array([render_half(value, epsf.envelope, noise) for value in flux[chosen]], np.int64)
        raw_x, raw_y, flux = raw_x[chosen], raw_y[chosen], flux[chosen]
        term = epsf.brightness
        level = np.zeros(len(flux), np.int64) if term is None else term.level(flux * image.charge_per_flux)
        for number in np.unique(level):
            mine = level == number
            library = epsf.library(image.x_origin, image.y_origin, int(number))
            subtract_stars(pixels, library, raw_x[mine], raw_y[mine], flux[mine], half[mine])
    pixels[~good] = np.nan
    return int(chosen.sum())


class RunScene:
    """A finished run, exposure by exposure.

    Parameters
    ----------
    folder : RunFolder
    distortion_source : str
        ``[distortion] source`` of the run.
    threshold : float
        ``[find] threshold`` of the run.
    """

    def __init__(self, folder: RunFolder, distortion_source: str, threshold: float) -> None:
        self.folder, self.distortion_source, self.threshold = folder, distortion_source, threshold
        self.table = read_table(folder.exposures)
        self.frame = MasterFrame.from_meta(self.table.meta["master_frame"])
        self.catalog = read_table(folder.catalog)
        self.groups = SecondPassField.from_exposures(folder, self.table).groups

    @property
    def rows(self) -> dict[str, int]:
        """Exposures (name and detector) that the frame stage placed, and their rows in ``tables/exposures.parquet``."""
        return {exposure.name: exposure.row for group in self.groups for exposure in group.exposures}

    def bands(self) -> dict[str, list[str]]:
        """Names of the exposures of each band, years apart as in the catalogue."""
        out: dict[str, list[str]] = {}
        for group in self.groups:
            for exposure in group.exposures:
                out.setdefault(group.bands[exposure.band], []).append(exposure.name)
        return out

    def epoch_positions(self, name: str) -> tuple[Floats, Floats]:
        """Master positions of all stars at the epoch of an exposure."""
        group, _ = self._find(name)
        if len(self.groups) == 1 or not len(self.catalog):
            return np.array(self.catalog["x"], float), np.array(self.catalog["y"], float)
        return positions_at(self.catalog, self.frame, group_years(group, self.table, float(self.catalog["ref_epoch"][0])))

    def residual(self, name: str) -> ResidualImage:
        """One exposure minus the catalogue's stars."""
        group, exposure = self._find(name)
        row = self.table[exposure.row]
        image = read_exposure(self.folder.cubes / str(row["cube"]), int(row["index"]))
        placed = self._place(row, image)
        placement = Placement(placed.geometry)
        band = group.bands[exposure.band]
        epsf = read_epsf(exposure.library, exposure.brightness)
        same = sum(other.band == exposure.band for other in group.exposures)
        residual, _, _ = subtract_halos(self.folder, row, image, epsf, same, self.threshold)
        x, y = self.epoch_positions(name)
        n = subtract_catalog(residual, image, epsf, placement, x, y, np.asarray(self.catalog[f"{band}_flux"], float))
        return ResidualImage(image, residual, placement, row, band, n)

    def _find(self, name: str) -> tuple[Group, Exposure]:
        return next((group, exposure) for group in self.groups for exposure in group.exposures if exposure.name == name)

    def wcs(self, result: ResidualImage) -> tuple[WCS, float]:
        """The exposure's own WCS on the catalogue's frame, and its largest error in raw pixels.

        A tangent plane with SIP terms, fitted to the run's own solution; the header's pointing is not that of the catalogue.
        """
        placed = self._place(result.row, result.image)
        forward, transform = placed.plane.forward, placed.transform
        ny, nx = result.image.shape
        columns, rows = (v.ravel() for v in np.meshgrid(np.linspace(0, nx - 1, WCS_GRID), np.linspace(0, ny - 1, WCS_GRID)))
        x, y = transform(*forward(columns + result.image.x_origin, rows + result.image.y_origin))
        ra, dec = self.frame.pixel_to_sky(x, y)
        centre = 0.5 * (nx - 1), 0.5 * (ny - 1)
        middle = transform(*forward(np.array([centre[0] + result.image.x_origin]), np.array([centre[1] + result.image.y_origin])))
        ra0, dec0 = (float(value[0]) for value in self.frame.pixel_to_sky(*middle))
        wcs = _fit_sip(columns, rows, ra, dec, centre, (ra0, dec0))
        again_x, again_y = wcs.all_world2pix(ra, dec, 0)
        return wcs, float(np.max(np.hypot(again_x - columns, again_y - rows)))

    def _place(self, row: Row, image: ExposureImage) -> PlacedExposure:
        return place_exposure(self.folder, row, self.frame, image, self.distortion_source)


def _fit_sip(x: Floats, y: Floats, ra: Floats, dec: Floats, centre: tuple[float, float], tangent: tuple[float, float]) -> WCS:
    """Tangent plane about ``centre`` (array pixel), which lies at ``tangent`` (degrees), with SIP terms: linear least squares."""
    u, v = x - centre[0], y - centre[1]
    powers = [(p, q) for p in range(SIP_DEGREE + 1) for q in range(SIP_DEGREE + 1 - p) if p + q > 0]
    size = max(*centre, 1.0)
    design = np.stack([(u / size) ** p * (v / size) ** q for p, q in powers], axis=1)
    plane = np.stack(sky_to_tangent(ra, dec, *tangent), axis=1) / 3600.0
    terms = np.linalg.lstsq(design, plane, rcond=None)[0] / np.array([size ** (p + q) for p, q in powers])[:, None]
    by_power = dict(zip(powers, terms))
    matrix = np.stack([by_power[1, 0], by_power[0, 1]], axis=1)
    back = np.linalg.inv(matrix)
    a, b = np.zeros((2, SIP_DEGREE + 1, SIP_DEGREE + 1))
    for (p, q), term in by_power.items():
        if p + q > 1:
            a[p, q], b[p, q] = back @ term
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.crval = tangent
    wcs.wcs.crpix = [centre[0] + 1, centre[1] + 1]
    wcs.wcs.cd = matrix
    wcs.wcs.radesys = "ICRS"
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs

