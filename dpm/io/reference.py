"""Reference catalogues: positions, motions and errors from ECSV, FITS, VOTable or Parquet files, brought to any epoch.

Column names are those of Gaia (``ra, dec, ra_error, dec_error, ref_epoch, pmra, pmdec, pmra_error, pmdec_error``) or of
its copies in VizieR (``RA_ICRS, DE_ICRS, e_RA_ICRS, pmRA, pmDE, e_pmRA ...``), in any case of letters.  Units of the
file are obeyed; without them positions are degrees, errors mas, motions mas/yr (with cos dec), epochs Julian years.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io.registry import IORegistryError
from astropy.table import MaskedColumn, Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from dpm.io.errors import InputError
from dpm.io.fits_files import check_packing
from dpm.io.quiet import ignored
from dpm.io.tables import read_table
from dpm.models.statistics import robust_width

__all__ = ["ReferenceCatalog", "read_reference"]

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_MAS = np.pi / 180 / 3.6e6
# Spread of motions (mas/yr) assumed for rows without any, where the catalogue itself does not show one.
_UNKNOWN_MOTION = 5.0
# Position error (mas) assumed where the catalogue states none.
_UNKNOWN_ERROR = 1.0

_NAMES = {
    "ra": ("ra", "ra_icrs", "raj2000", "_raj2000", "ra_deg", "radeg"),
    "dec": ("dec", "de_icrs", "dej2000", "_dej2000", "dec_icrs", "dec_deg", "decdeg"),
    "ra_error": ("ra_error", "e_ra_icrs", "e_raj2000", "e_ra", "raerr"),
    "dec_error": ("dec_error", "e_de_icrs", "e_dej2000", "e_dec", "decerr"),
    "ref_epoch": ("ref_epoch", "epoch"),
    "pmra": ("pmra", "pm_ra", "pm_ra_cosdec"),
    "pmdec": ("pmdec", "pmde", "pm_dec"),
    "pmra_error": ("pmra_error", "e_pmra"),
    "pmdec_error": ("pmdec_error", "e_pmde", "e_pmdec"),
    "mag": ("phot_g_mean_mag", "gmag", "mag"),
}
_UNITS = {
    "ra": u.deg,
    "dec": u.deg,
    "ra_error": u.mas,
    "dec_error": u.mas,
    "pmra": u.mas / u.yr,
    "pmdec": u.mas / u.yr,
    "pmra_error": u.mas / u.yr,
    "pmdec_error": u.mas / u.yr,
}


@dataclass(frozen=True)
class ReferenceCatalog:
    """Stars of a reference catalogue.

    Parameters
    ----------
    name : str
        File, for messages.
    ra, dec : ndarray (n,)
        ICRS degrees at `ref_epoch`.
    ra_error, dec_error : ndarray (n,)
        Milliarcseconds (ra with cos dec), at `ref_epoch`.
    ref_epoch : ndarray (n,)
        Julian years; NaN where the positions hold for any epoch (no motions and no epoch given).
    pmra, pmdec, pmra_error, pmdec_error : ndarray (n,)
        mas/yr, ``pmra`` with cos dec; rows without motions have the median motion of the others (0 where there is none)
        and their spread as error.
    mag : ndarray (n,)
        A magnitude that orders the stars; NaN where there is none.
    """

    name: str
    ra: Floats
    dec: Floats
    ra_error: Floats
    dec_error: Floats
    ref_epoch: Floats
    pmra: Floats
    pmdec: Floats
    pmra_error: Floats
    pmdec_error: Floats
    mag: Floats

    def __len__(self) -> int:
        return len(self.ra)

    @property
    def has_motions(self) -> bool:
        """Whether the file has motions; without them all are zero."""
        return bool(np.any(self.pmra != 0) or np.any(self.pmdec != 0))

    def years_without_motions(self, epoch: float) -> float:
        """Years from the catalogue's epoch to another in which its stars moved without it telling how; 0 where it has motions."""
        if self.has_motions or not np.isfinite(self.ref_epoch).any():
            return 0.0
        return epoch - float(np.nanmedian(self.ref_epoch))

    def at(self, epoch: float) -> tuple[Floats, Floats, Floats, Floats]:
        """Positions and errors at an epoch.

        Straight uniform motion in space without radial velocity and parallax, which is what
        ``SkyCoord.apply_space_motion`` does for stars at a great distance.

        Parameters
        ----------
        epoch : float
            Julian year.

        Returns
        -------
        ra, dec : ndarray (n,)
            Degrees.
        ra_error, dec_error : ndarray (n,)
            Milliarcseconds.
        """
        years = np.nan_to_num(epoch - self.ref_epoch)
        ra, dec = np.radians(self.ra), np.radians(self.dec)
        east = np.array([-np.sin(ra), np.cos(ra), np.zeros_like(ra)])
        north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
        position = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
        moved = position + (self.pmra * east + self.pmdec * north) * (years * _MAS)
        new_ra = np.degrees(np.arctan2(moved[1], moved[0])) % 360.0
        new_dec = np.degrees(np.arctan2(moved[2], np.hypot(moved[0], moved[1])))
        return (
            new_ra,
            new_dec,
            np.hypot(self.ra_error, self.pmra_error * years),
            np.hypot(self.dec_error, self.pmdec_error * years),
        )


def read_reference(path: str | Path) -> ReferenceCatalog:
    """Read a reference catalogue.

    Parameters
    ----------
    path : str or Path
        ``.ecsv``, ``.fits``, ``.vot``/``.xml`` or ``.parquet`` (any may be compressed where astropy reads it).

    Returns
    -------
    ReferenceCatalog
        Rows with finite positions.

    Raises
    ------
    InputError
        If the file is missing or unreadable, lacks ``ra`` or ``dec``, holds no finite position, or has motions without
        an epoch; the message names file and column.
    """
    path = Path(path)
    table = _read(path)
    names = {name.lower(): name for name in reversed(table.colnames)}
    # The first alias of each that the file has.
    found = {key: names[alias] for key, aliases in _NAMES.items() for alias in reversed(aliases) if alias in names}
    for key in ("ra", "dec"):
        if key not in found:
            raise InputError(path, key, f"there is no column {key!r}", f"Name it {key} (the file has: {_some(table)})")
    values = {key: _column(path, table, name, _UNITS.get(key)) for key, name in found.items()}
    good = np.isfinite(values["ra"]) & np.isfinite(values["dec"])
    if not good.any():
        raise InputError(path, found["ra"], "no row has a finite position", "Give another reference catalogue")
    if (np.abs(values["dec"][good]) > 90).any():
        raise InputError(path, found["dec"], "declinations beyond 90 degrees", "Positions are degrees, or need a unit")
    if not good.all():
        log.warning("%s: %d rows without a finite position are left out", path, int((~good).sum()))
    values = {key: value[good] for key, value in values.items()}
    n = int(good.sum())
    pmra, pmdec, pmra_error, pmdec_error = _motions(path, values, n)
    return ReferenceCatalog(
        str(path),
        values["ra"] % 360.0,
        values["dec"],
        _errors(values.get("ra_error"), n),
        _errors(values.get("dec_error"), n),
        _epochs(path, table, values, n),
        pmra,
        pmdec,
        pmra_error,
        pmdec_error,
        values.get("mag", np.full(n, np.nan)),
    )


def _read(path: Path) -> Table:
    if not path.is_file():
        raise InputError(path, "input.reference", "no such file", "Give the path of a reference catalogue, or none")
    suffix = path.suffix.lower()
    check_packing(path)
    try:
        with ignored(AstropyWarning):
            if suffix in (".parquet", ".pq"):
                return read_table(path)
            kind = {".ecsv": "ascii.ecsv", ".vot": "votable", ".xml": "votable", ".csv": "ascii.csv"}.get(suffix)
            return Table.read(path, format=kind) if kind else Table.read(path)
    except (OSError, ValueError, TypeError, KeyError, IndexError, IORegistryError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            path, "input.reference", f"cannot be read as a table ({reason})", "Use ECSV, FITS, VOTable or Parquet"
        ) from error


def _some(table: Table) -> str:
    return ", ".join(table.colnames[:12]) + (" ..." if len(table.colnames) > 12 else "")


def _column(path: Path, table: Table, name: str, unit: u.Unit | None) -> Floats:
    """A column as floats in the wanted unit, NaN where masked."""
    column = table[name]
    if isinstance(column, MaskedColumn) and column.dtype.kind in "fiu":
        column = column.astype(float).filled(np.nan)
    try:
        values = np.array(getattr(column, "value", column), dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(path, name, "the column does not hold numbers", "Convert it, or rename it") from error
    own = getattr(table[name], "unit", None)
    if unit is not None and own is not None and str(own) != "":
        try:
            values = values * u.Unit(own).to(unit)
        except (u.UnitConversionError, ValueError) as error:
            raise InputError(path, name, f"its unit {own} is not one of {unit}", "Correct the unit") from error
    return values


def _errors(values: Floats | None, n: int) -> Floats:
    if values is None:
        return np.full(n, _UNKNOWN_ERROR)
    good = np.isfinite(values) & (values >= 0)
    return np.where(good, values, np.max(values[good]) if good.any() else _UNKNOWN_ERROR)


def _motions(path: Path, values: dict[str, Floats], n: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Motions and errors, completed for rows that have none."""
    if ("pmra" in values) != ("pmdec" in values):
        raise InputError(path, "pmra, pmdec", "only one of the two is there", "Give both, or neither")
    if "pmra" not in values:
        zeros, unknown = np.zeros(n), np.full(n, _UNKNOWN_MOTION)
        return zeros, zeros.copy(), unknown, unknown.copy()
    known = np.isfinite(values["pmra"]) & np.isfinite(values["pmdec"])
    out: list[Floats] = []
    errors: list[Floats] = []
    for name in ("pmra", "pmdec"):
        motion = values[name]
        middle = float(np.median(motion[known])) if known.any() else 0.0
        spread = robust_width(motion[known], middle) if known.sum() >= 10 else _UNKNOWN_MOTION
        error = values.get(f"{name}_error", np.zeros(n))
        out.append(np.where(known, motion, middle))
        errors.append(np.where(known, np.where(np.isfinite(error), error, spread), spread))
    if not known.all():
        log.info("%s: %d rows without motions get the others' median and spread", path, int((~known).sum()))
    return out[0], out[1], errors[0], errors[1]


def _epochs(path: Path, table: Table, values: dict[str, Floats], n: int) -> Floats:
    if "ref_epoch" in values:
        epoch = values["ref_epoch"]
        if not np.isfinite(epoch).any():
            raise InputError(path, "ref_epoch", "no row has an epoch", "Fill in the positions' epoch (Julian year)")
        if (np.abs(epoch[np.isfinite(epoch)] - 2000) > 300).any():
            raise InputError(path, "ref_epoch", "not a Julian year (J2000 is 2000.0)", "Convert the epoch to years")
        return np.where(np.isfinite(epoch), epoch, np.nanmedian(epoch))
    for key in ("ref_epoch", "REF_EPOCH", "epoch", "EPOCH"):
        if key in table.meta:
            return np.full(n, float(table.meta[key]))
    if "pmra" in values:
        raise InputError(
            path, "ref_epoch", "there are proper motions but no epoch", "Add a column ref_epoch (Julian year)"
        )
    log.warning("%s: neither motions nor an epoch: its positions are taken to hold for the exposures' epoch", path)
    return np.full(n, np.nan)
