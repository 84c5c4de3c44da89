"""A small field written straight as a run folder after the first pass: cube rows, WCS files, detections, and truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from dpm.io.cubes import INGEST_COLUMNS, create_cube
from dpm.io.run_folder import RunFolder
from dpm.io.tables import write_table
from dpm.io.wcs import write_wcs
from dpm.models.columns import DETECTION_COLUMNS, EXPOSURE_COLUMNS
from dpm.models.flags import StarFlag
from dpm.models.master_frame import sky_to_tangent, tangent_to_sky

RA0, DEC0 = 80.49, -69.4978
REFERENCE_EPOCH = 2006.39
# AB zero point in the headers: magnitudes of the catalogue are the truth's plus this.
ZERO_POINT = 28.0


@dataclass
class Shot:
    """One exposure: pointing (arcsec East, North), roll (degrees), header's error (arcsec), band, zero point, epoch."""

    east: float = 0.0
    north: float = 0.0
    roll: float = 37.0
    error: tuple[float, float] = (0.0, 0.0)
    filter: str = "F090W"
    offset: float = 0.0
    epoch: float = 2022.33
    detector: str = "NIRISS"
    name: str = ""
    junk: int = 20
    distortion: float = 0.0


@dataclass
class Field:
    """Stars with motions, and how they are observed."""

    n_stars: int = 400
    size: int = 200
    scale: float = 0.0656
    spread: float = 20.0
    noise: float = 0.01
    seed: int = 1
    motion: float = 1.0
    shots: list[Shot] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        n = int(np.ceil(np.sqrt(self.n_stars)))
        cells = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2)[: self.n_stars]
        grid = (cells + rng.uniform(0.2, 0.8, cells.shape)) / n - 0.5
        self.xi, self.eta = grid.T * self.spread
        self.pm = rng.normal(0, self.motion, (2, self.n_stars))
        self.mag = rng.uniform(-9.0, -3.0, self.n_stars)
        self.rng = rng

    def sky(self, epoch: float) -> tuple[np.ndarray, np.ndarray]:
        """True ra, dec at an epoch."""
        years = (epoch - REFERENCE_EPOCH) / 1000
        return tangent_to_sky(self.xi + self.pm[0] * years, self.eta + self.pm[1] * years, RA0, DEC0)

    def header(self, shot: Shot, error: bool = True) -> WCS:
        """The WCS of a shot, with or without its pointing error."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crpix = [self.size / 2 + 0.5, self.size / 2 + 0.5]
        east, north = shot.east + error * shot.error[0], shot.north + error * shot.error[1]
        wcs.wcs.crval = [float(value) for value in tangent_to_sky(east, north, RA0, DEC0)]
        angle, s = np.radians(shot.roll), self.scale / 3600
        wcs.wcs.cd = s * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        wcs.wcs.set()
        return wcs

    def distort(self, shot: Shot, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw positions of undistorted ones: a quadratic and a cubic term."""
        s, t = (x - self.size / 2) / (self.size / 2), (y - self.size / 2) / (self.size / 2)
        return x + shot.distortion * (s * t - 0.7 * s**3), y + shot.distortion * (0.8 * s**2 + t**3)

    def detections(self, shot: Shot) -> tuple[Table, np.ndarray]:
        """Detections of a shot and the star of each (-1: junk)."""
        rng = self.rng
        x, y = self.header(shot, error=False).wcs_world2pix(*self.sky(shot.epoch), 0)
        x, y = self.distort(shot, x, y)
        star = np.flatnonzero((x > 1) & (x < self.size - 2) & (y > 1) & (y < self.size - 2))
        flux = 10 ** (-0.4 * (self.mag[star] - shot.offset))
        relative = np.sqrt(1 / flux + 1e-6 + (3 / flux) ** 2)
        sigma = np.hypot(self.noise, 0.6 * relative)
        n = len(star) + shot.junk
        table = Table({"x": rng.uniform(0, self.size - 1, n), "y": rng.uniform(0, self.size - 1, n)})
        table["x"][: len(star)] = x[star] + rng.normal(0, sigma)
        table["y"][: len(star)] = y[star] + rng.normal(0, sigma)
        table["x_error"] = np.concatenate([0.6 * relative, np.full(shot.junk, 0.1)])
        table["y_error"] = table["x_error"]
        table["flux"] = np.concatenate([flux * (1 + rng.normal(0, relative)), rng.uniform(20, 200, shot.junk)])
        table["flux_error"] = table["flux"] * np.concatenate([relative, np.full(shot.junk, 0.1)])
        for name, value in {"area": 1.0, "sky": 2.0, "sky_rms": 0.5, "qfit": 0.05, "radxs": 0.01, "chi": 1.0}.items():
            table[name] = np.full(n, value)
        table["n_pixels"], table["flags"] = np.full(n, 25), np.zeros(n, dtype=int)
        order = rng.permutation(n)
        return table[order], np.concatenate([star, np.full(shot.junk, -1)])[order]

    def reference(self, path: Path) -> Path:
        """Write the brighter half as a reference at the older epoch."""
        k = np.flatnonzero(self.mag < np.median(self.mag))
        ra, dec = self.sky(REFERENCE_EPOCH)
        later_ra, later_dec = self.sky(REFERENCE_EPOCH + 1000)
        rng = np.random.default_rng(77)
        table = Table({"ra": ra[k], "dec": dec[k]})
        table["ra"] += rng.normal(0, 0.2, len(k)) / 3.6e6 / np.cos(np.radians(DEC0))
        table["dec"] += rng.normal(0, 0.2, len(k)) / 3.6e6
        table["ra_error"] = table["dec_error"] = np.full(len(k), 0.2)
        table["ref_epoch"] = np.full(len(k), REFERENCE_EPOCH)
        table["pmra"] = (later_ra - ra)[k] * np.cos(np.radians(dec[k])) * 3600
        table["pmdec"] = (later_dec - dec)[k] * 3600
        table["phot_g_mean_mag"] = self.mag[k] + 30
        table.write(path, overwrite=True)
        return path

    def write(self, root: Path, change=None) -> tuple[RunFolder, list[np.ndarray]]:
        """The run folder; `change(table, star, shot)` may spoil the detections. Returns each shot's true stars too."""
        folder = RunFolder(root)
        folder.create()
        rows, stars = [], []
        for number, shot in enumerate(self.shots):
            row = self._row(number, shot)
            rows.append(row)
            write_wcs(folder.wcs_file(row["exposure"], shot.detector), self.header(shot), 0, 0, "test")
            table, star = self.detections(shot)
            if change is not None:
                change(table, star, shot)
            for name in ("exposure", "detector", "filter"):
                table[name] = np.full(len(table), row[name], dtype=f"U{len(row[name])}")
            path = folder.detections_file(row["exposure"], shot.detector)
            write_table(path, table, DETECTION_COLUMNS, {"flux_unit": "DN/s"})
            stars.append(star)
        for detector, filter_name in sorted({(row["detector"], row["filter"]) for row in rows}):
            mine = [row for row in rows if (row["detector"], row["filter"]) == (detector, filter_name)]
            create_cube(folder.cube(detector, filter_name), detector, filter_name, mine)
        return folder, stars

    def _row(self, number: int, shot: Shot) -> dict:
        kinds = {column.name: column.dtype for column in EXPOSURE_COLUMNS}
        row: dict = {name: "" if kinds[name] == "str" else 0 for name in INGEST_COLUMNS}
        row.update(
            exposure=shot.name or f"shot{number:02d}",
            file=f"shot{number:02d}_cal.fits",
            detector=shot.detector,
            filter=shot.filter,
            band=f"niriss_{shot.filter.lower()}",
            cube=f"{shot.detector}_{shot.filter}.zarr",
            index=number,
            epoch=shot.epoch + 1e-6 * number,
            exptime=100.0,
            flux_unit="DN/s",
            nx=self.size,
            ny=self.size,
            pixel_scale=self.scale,
            va_scale=1.0,
            saturation=1e5,
            zero_point_vega=float("nan"),
            zero_point_ab=ZERO_POINT,
        )
        return row

    def compare(self, catalog: Table, epoch: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows, true stars, and measured minus true in mas to the East and to the North, within 50 mas."""
        from dpm.stages.frame.match import mutual_pairs

        xi, eta = sky_to_tangent(np.array(catalog["ra"]), np.array(catalog["dec"]), RA0, DEC0)
        true_xi, true_eta = sky_to_tangent(*self.sky(epoch), RA0, DEC0)
        i, j = mutual_pairs(xi, eta, true_xi, true_eta, 0.05)
        return i, j, 1000 * (xi[i] - true_xi[j]), 1000 * (eta[i] - true_eta[j])


def dithers(n: int = 4, step: float = 2.0, **common) -> list[Shot]:
    """A few shots around the field's centre with errors of pointing up to an arcsecond."""
    rng = np.random.default_rng(11)
    return [
        Shot(
            *(step * rng.uniform(-1, 1, 2)),
            roll=37.0 + rng.normal(0, 0.02),
            error=tuple(rng.uniform(-1, 1, 2)),
            **common,
        )
        for _ in range(n)
    ]


def use_flag(table: Table, rows: np.ndarray, flag: StarFlag) -> None:
    """Set a flag on rows of a detections table."""
    flags = np.array(table["flags"])
    flags[rows] |= int(flag)
    table["flags"] = flags
