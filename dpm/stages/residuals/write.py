"""Residual images and stacks as FITS files in ``images/``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from dpm import __version__
from dpm.io.atomic import replacing
from dpm.io.fits_files import checksum
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.stages.residuals.exposure import ResidualImage, RunScene
from dpm.stages.residuals.stack import stack_exposures

__all__ = ["CATALOG_DIGITS", "write_residuals"]

CATALOG_DIGITS = 32  # of the catalogue's checksum, in the images' headers


def write_residuals(folder: RunFolder, options: Options, exposures: Sequence[str] = ()) -> list[Path]:
    """Write the residual image of every exposure, and the stacks of every band.

    Parameters
    ----------
    folder : RunFolder
        Of a finished run.
    options : Options
        The run's own.
    exposures : sequence of str
        Names of exposures, with or without ``_`` and the detector; only their residual images are written, and no stacks.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    KeyError
        If the run has no such exposure.
    """
    scene = RunScene(folder, options.distortion.source, options.find.threshold)
    folder.images.mkdir(parents=True, exist_ok=True)
    catalog_sum = checksum(folder.catalog)
    files: list[Path] = []

    def made(names: Sequence[str]) -> Iterator[ResidualImage]:
        for name in names:
            result = scene.residual(name)
            files.append(_write_exposure(scene, result, name, catalog_sum))
            yield result

    if exposures:
        for _ in made([name for wanted in exposures for name in _find(scene, wanted)]):
            pass
        return files
    shape = scene.frame.ny, scene.frame.nx
    for band, names in scene.bands().items():
        stack = stack_exposures(made(names), shape, folder.work / "residuals")
        unit = str(scene.table["flux_unit"][scene.rows[names[0]]])
        for kind, pixels in (("stack", stack.data), ("residual_stack", stack.residual)):
            header = scene.frame.wcs.to_header()
            _describe(header, folder, catalog_sum, unit)
            header["BAND"] = (band, "columns of the catalogue")
            header["NEXP"] = (len(names), "exposures of the band")
            header["CLIPPED"] = (stack.clipped, "share of pixels left out as outliers")
            path = folder.images / f"{kind}_{band}.fits"
            _write(path, pixels, header, stack.number)
            files.append(path)
    return files


def _find(scene: RunScene, wanted: str) -> list[str]:
    exposures = {name: str(scene.table["exposure"][row]) for name, row in scene.rows.items()}
    found = [name for name, exposure in exposures.items() if wanted in (name, exposure)]
    if not found:
        raise KeyError(f"no exposure {wanted!r} on the master frame; there are {', '.join(sorted(set(exposures.values())))}")
    return found


def _write_exposure(scene: RunScene, result: ResidualImage, name: str, catalog_sum: str) -> Path:
    wcs, error = scene.wcs(result)
    header = wcs.to_header(relax=True)
    _describe(header, scene.folder, catalog_sum, str(result.row["flux_unit"]))
    header["EXPOSURE"] = str(result.row["exposure"])
    header["DETECTOR"] = (str(result.row["detector"]), "detector")
    header["FILTER"] = (str(result.row["filter"]), "filter")
    header["X_ORIGIN"] = (result.image.x_origin, "detector column of the first pixel, 0-based")
    header["Y_ORIGIN"] = (result.image.y_origin, "detector row of the first pixel, 0-based")
    header["NSTARS"] = (result.n_stars, "stars of the catalogue subtracted")
    header["WCSERR"] = (error, "largest error of this WCS [pixels]")
    path = scene.folder.images / f"residual_{name}.fits"
    _write(path, result.residual, header)
    return path


def _describe(header: fits.Header, folder: RunFolder, catalog_sum: str, unit: str) -> None:
    header["BUNIT"] = (unit, "per pixel")
    header["RUN"] = (folder.root.resolve().name, "run folder")
    header["CATALOG"] = ("tables/catalog.parquet", "stars subtracted")
    header["CATSUM"] = (catalog_sum[:CATALOG_DIGITS], "of its SHA-256")
    header["CREATOR"] = (f"dpm {__version__}", "program")


def _write(path: Path, pixels: NDArray[np.float32], header: fits.Header, number: NDArray[np.int16] | None = None) -> None:
    parts = [fits.PrimaryHDU(pixels.astype(np.float32), header)]
    if number is not None:
        parts.append(fits.ImageHDU(number, name="NUMBER"))
    with replacing(path, ".fits") as temporary:
        fits.HDUList(parts).writeto(temporary, overwrite=True)
