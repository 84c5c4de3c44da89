"""What the report draws from: a run folder's tables, read leniently and thinned where they are large."""

from __future__ import annotations

import json
import logging
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.detectors import band_wavelength

__all__ = ["MAX_ROWS", "RunData", "Sample", "band_label", "filter_label", "load_run", "read_json"]

logger = logging.getLogger(__name__)

MAX_ROWS = 400_000
_DETECTION_COLUMNS = (
    "x", "y", "x_error", "y_error", "flux", "flux_error", "area", "qfit", "qfit_expected", "radxs", "chi", "flags",
)  # fmt: skip
_INSTRUMENTS = {"nircam": "NIRCam", "acswfc": "ACS", "wfc3uv": "UVIS", "wfc3ir": "WFC3/IR"}
_MATCH_COLUMNS = ("id", "row", "dx", "dy", "dmag", "used")


@dataclass(frozen=True)
class Sample:
    """Detections of one band, at most about `MAX_ROWS` of them.

    Parameters
    ----------
    band : str
        Prefix of the band's columns in the catalogue.
    values : dict of ndarray (n,)
        The detections' columns; ``mag`` (instrumental, area applied), ``exposure`` (row of the exposure table), and
        for detections that belong to a star ``id`` (else -1), ``dx``, ``dy`` (raw pixels), ``dmag``, ``used`` and
        ``star`` (row of the frame catalogue, else -1).
    n_total : int
        Detections before thinning.
    """

    band: str
    values: dict[str, NDArray[Any]]
    n_total: int

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.values[name]

    def __len__(self) -> int:
        return len(self.values["x"])

    @property
    def matched(self) -> NDArray[np.bool_]:
        """Detections that belong to a star of the frame catalogue."""
        return np.asarray(self.values["id"] >= 0)


@dataclass
class RunData:
    """Everything the report needs of a run folder; tables that are absent are None.

    Detections and matches belong to ``frame_catalog`` (its ``id``), measurements to ``catalog``.
    """

    folder: RunFolder
    config: dict[str, Any]
    provenance: dict[str, Any]
    catalog: Table | None
    frame_catalog: Table | None
    exposures: Table | None
    bands: tuple[str, ...]
    samples: dict[str, Sample]
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.config.get("run", {}).get("name") or self.folder.root.resolve().name)

    def catalog_column(self, name: str) -> NDArray[Any] | None:
        """A catalogue column as an array, None where the catalogue lacks it."""
        if self.catalog is None or name not in self.catalog.colnames:
            return None
        return np.asarray(self.catalog[name])

    def frame_column(self, name: str) -> NDArray[Any] | None:
        """A column of the first pass's averages as an array, None where they lack it."""
        if self.frame_catalog is None or name not in self.frame_catalog.colnames:
            return None
        return np.asarray(self.frame_catalog[name])

    @property
    def has_matches(self) -> bool:
        """Whether any detection is known to belong to a star."""
        return any(bool(sample.matched.any()) for sample in self.samples.values())


def load_run(folder: RunFolder, max_rows: int = MAX_ROWS) -> RunData:
    """Read a run folder for the report.

    Parameters
    ----------
    folder : RunFolder
        Run folder; any of its tables may be absent.
    max_rows : int
        Detections kept in a band.  Stars are kept or left whole (by their number), so that their scatter over exposures
        stays measurable.

    Returns
    -------
    RunData
        Tables and samples; whatever could not be read is named in ``warnings``.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    if not folder.root.is_dir():
        raise FileNotFoundError(f"{folder.root}: no such run folder; give the folder that `dpm run` wrote")
    warnings: list[str] = []
    catalog = _optional_table(folder.catalog, warnings)
    frame_catalog = _optional_table(folder.frame_catalog, warnings)
    exposures = _optional_table(folder.exposures, warnings)
    if exposures is None:
        exposures = _exposures_of_cubes(folder, warnings)
    groups = _bands_of_exposures(exposures, catalog if catalog is not None else frame_catalog)
    bands = sorted({*groups, *_bands_of_catalog(catalog)}, key=lambda band: (band_wavelength(band), band))
    data = RunData(
        folder=folder,
        config=_read_toml(folder.config, warnings),
        provenance=read_json(folder.provenance, warnings),
        catalog=catalog,
        frame_catalog=frame_catalog,
        exposures=exposures,
        bands=tuple(bands),
        samples={},
        warnings=warnings,
    )
    for band in bands:
        sample = _load_sample(data, band, groups.get(band, []), max_rows)
        if sample is not None:
            data.samples[band] = sample
    return data


def band_label(band: str) -> str:
    """A band as plots name it: ``niriss_f090w`` is ``NIRISS F090W``, with the year where there is one."""
    prefix = band.partition("_")[0]
    return f"{_INSTRUMENTS.get(prefix, prefix.upper())} {filter_label(band)}"


def filter_label(band: str) -> str:
    """A band's filter, for where the detector is named beside it."""
    name, _, year = band.partition("_")[2].partition("_")
    return f"{name.upper()} ({year})" if year else name.upper()


def _optional_table(path: Path, warnings: list[str]) -> Table | None:
    if not path.is_file():
        return None
    try:
        return read_table(path)
    except (OSError, ValueError) as error:
        warnings.append(f"{path.name} could not be read: {error}")
        logger.warning("report: %s could not be read: %s", path, error)
        return None


def _exposures_of_cubes(folder: RunFolder, warnings: list[str]) -> Table | None:
    """The exposure rows that ingest stored in the cubes, for runs that have not come to the frame yet."""
    if not folder.cubes.is_dir() or not any(folder.cubes.glob("*.zarr")):
        return None
    from dpm.io.cubes import read_exposure_table

    try:
        return read_exposure_table(folder)
    except (OSError, ValueError, KeyError) as error:
        warnings.append(f"the cubes' exposure tables could not be read: {error}")
        return None


def read_json(path: Path, warnings: list[str]) -> dict[str, Any]:
    """A JSON object; empty where there is no such file, or, with a word in ``warnings``, where it cannot be read."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.append(f"{path.name} could not be read: {error}")
        return {}
    return content if isinstance(content, dict) else {}


def _read_toml(path: Path, warnings: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.append(f"{path.name} could not be read: {error}")
        return {}


def _bands_of_catalog(catalog: Table | None) -> list[str]:
    if catalog is None:
        return []
    return [name.removesuffix("_mag") for name in catalog.colnames if re.fullmatch(r".+_f\d.*_mag", name)]


def _bands_of_exposures(exposures: Table | None, catalog: Table | None) -> dict[str, list[int]]:
    """Rows of the exposure table by the prefix of their catalogue columns (with a year where the catalogue has one)."""
    groups: dict[str, list[int]] = {}
    if exposures is None or "band" not in exposures.colnames:
        return groups
    known = set(_bands_of_catalog(catalog))
    for row, band in enumerate(exposures["band"]):
        name = str(band)
        if name not in known and "epoch" in exposures.colnames:
            dated = f"{name}_{int(exposures['epoch'][row])}"
            name = dated if dated in known else name
        groups.setdefault(name, []).append(row)
    return groups


def _load_sample(data: RunData, band: str, rows: list[int], max_rows: int) -> Sample | None:
    if data.exposures is None:
        return None
    parts = []
    for row in rows:
        exposure, detector = str(data.exposures["exposure"][row]), str(data.exposures["detector"][row])
        part = data.folder.detections_file(exposure, detector)
        if part.is_file():
            parts.append((row, part, data.folder.matches_file(exposure, detector)))
    n_total = sum(_n_rows(part) for _, part, _ in parts)
    step = max(1, int(np.ceil(n_total / max_rows)))
    pieces = []
    for row, part, matches in parts:
        try:
            pieces.append(_load_part(row, part, matches, step))
        except (OSError, ValueError) as error:
            data.warnings.append(f"{part.name} could not be read: {error}")
            logger.warning("report: %s", error)
    if not pieces:
        return None
    values = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    values["star"] = _catalog_rows(values["id"], data.frame_column("id"))
    return Sample(band, values, n_total)


def _n_rows(path: Path) -> int:
    try:
        return int(pq.ParquetFile(path).metadata.num_rows)
    except (OSError, ValueError):
        return 0


def _load_part(row: int, part: Path, matches: Path, step: int) -> dict[str, NDArray[Any]]:
    """One exposure's detections with what is known of their stars, every ``step``-th star or detection."""
    names = set(pq.read_schema(part).names)
    table = read_table(part, [name for name in _DETECTION_COLUMNS if name in names])
    n = len(table)
    values: dict[str, NDArray[Any]] = {}
    for name in _DETECTION_COLUMNS:
        values[name] = np.asarray(table[name]) if name in names else np.full(n, np.nan, dtype=np.float32)
    if "flags" not in names:
        values["flags"] = np.zeros(n, dtype=np.int32)
    values["id"] = np.full(n, -1, dtype=np.int64)
    values["used"] = np.zeros(n, dtype=bool)
    for name in ("dx", "dy", "dmag"):
        values[name] = np.full(n, np.nan, dtype=np.float32)
    if matches.is_file():
        joined = read_table(matches, _MATCH_COLUMNS)
        index = np.asarray(joined["row"], dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= n):
            raise ValueError(f"{matches}: column row points outside {part.name}; run the frame stage again")
        for name in ("id", "dx", "dy", "dmag", "used"):
            values[name][index] = np.asarray(joined[name])
    if step > 1:
        matched = values["id"] >= 0
        keep = np.where(matched, values["id"] % step == 0, np.arange(n) % step == 0)
        values = {name: array[keep] for name, array in values.items()}
    area = np.where(np.isfinite(values["area"]), values["area"], 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values["mag"] = -2.5 * np.log10(values["flux"] * area)
    values["mag"][~np.isfinite(values["mag"])] = np.nan
    values["exposure"] = np.full(len(values["x"]), row, dtype=np.int32)
    return values


def _catalog_rows(ids: NDArray[np.int64], catalog_ids: NDArray[Any] | None) -> NDArray[np.int64]:
    """Row of the catalogue for each star number, -1 where there is none."""
    rows = np.full(ids.shape, -1, dtype=np.int64)
    if catalog_ids is None or catalog_ids.size == 0:
        return rows
    order = np.argsort(catalog_ids, kind="stable")
    position = np.searchsorted(catalog_ids[order], ids).clip(0, catalog_ids.size - 1)
    hit = catalog_ids[order][position] == ids
    rows[hit] = order[position[hit]]
    return rows
