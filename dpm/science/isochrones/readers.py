"""Isochrones of BaSTI (and BaSTI-IAC), PARSEC and MIST as their web services write them.

=============  ==============================================================================================================
BaSTI-IAC      a comment ``# Np = 2100 [M/H] = -1.900 Z = ... Y = ... Age (Myr) = 13000.000``, a comment with the columns
               ``M/Mo(ini) M/Mo(fin) log(L/Lo) logTe`` and bands; several such blocks may follow each other
PARSEC (CMD)   version 3 of the web page: a comment ``# Zini MH logAge Mini int_IMF Mass logL logTe logg label ... mbolmag`` and
               bands, named ``...mag``; rows of several ages and metallicities follow each other, with or without the
               comment again; label 9 are post-AGB stars
MIST           ``.iso.cmd``: for each age ``# number of EEPs, cols = ...``, a comment with numbers, and one with the columns
               ``EEP log10_isochrone_age_yr`` (or ``isochrone_age_yr``) ``initial_mass star_mass ... [Fe/H]``, bands,
               ``phase``, of which 6 are post-AGB stars and white dwarfs
=============  ==============================================================================================================

Magnitudes are absolute, in the file's own system.  Rows whose initial mass does not rise are left out: there a track stands still.
Post-AGB stars are left out as well, so that an isochrone ends where its stars become white dwarfs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.io.errors import InputError
from dpm.science.isochrones.isochrone import Isochrone

__all__ = ["read_basti", "read_isochrones", "read_mist", "read_parsec"]

Block = tuple[str, list[str], list[list[str]]]  # the comment that says what it is, column names, rows

PARSEC_POST_AGB = 9  # their label; tracks to the white dwarfs are drawn by hand there
MIST_POST_AGB = 6.0  # their phase; white dwarfs that cooled for a while would lengthen lifetimes
NO_MAGNITUDE = 90.0  # written for stars without one
_BASTI_AGE = re.compile(r"\[M/H\]\s*=\s*(\S+).*Age\s*\(Myr\)\s*=\s*(\S+)", re.IGNORECASE)
_PARSEC_EXTINCTION = re.compile(r"^#.*extinction of Av\s*=\s*([\d.]+)", re.IGNORECASE | re.MULTILINE)
_MIST_EXTINCTION = re.compile(r"^#.*\bAv\b[^=\n]*=\s*([\d.]+)", re.MULTILINE)
_BASTI_COLUMNS = ("M/Mo(ini)", "M/Mo(fin)", "log(L/Lo)", "logTe")
_PARSEC_OTHERS = (
    "Zini MH logAge Mini int_IMF Mass logL logTe logg label McoreTP C_O period0 period1 period2 period3 period4 pmode Mloss tau1m "
    "X Y Xc Xn Xo Cexcess Z mbolmag"
).split()
_MIST_OTHERS = (
    "EEP log10_isochrone_age_yr isochrone_age_yr initial_mass star_mass log_Teff log_R log_g log_L Z_surf z_surf [Fe/H]_init "
    "[Fe/H] phase"
).split()


def read_isochrones(path: str | os.PathLike[str]) -> list[Isochrone]:
    """Isochrones of any of the three kinds of file, told by the names of its columns.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is none of them, or one that its reader refuses.
    """
    for column, read in (("M/Mo(ini)", read_basti), ("Mini", read_parsec), ("initial_mass", read_mist)):
        if _blocks(path, column, None):
            return read(path)
    raise _problem(path, "no comment with the columns of an isochrone", "a file of BaSTI-IAC, PARSEC (CMD 3) or MIST (.iso.cmd)")


def read_basti(path: str | os.PathLike[str]) -> list[Isochrone]:
    """Isochrones of a BaSTI-IAC file, ``.isc_...``, one an age, oldest last.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is not such a file.
    """
    out = []
    for comment, names, rows in _blocks(path, "M/Mo(ini)", _BASTI_AGE.search):
        found = _BASTI_AGE.search(comment)
        if found is None:
            raise _problem(path, "no comment with [M/H] and Age (Myr) before the columns", "a BaSTI-IAC isochrone (.isc_...)")
        table = _numbers(path, names, rows)
        bands = {name: table[name] for name in names if name not in _BASTI_COLUMNS}
        others = {"final_mass": table.get("M/Mo(fin)"), "log_luminosity": table.get("log(L/Lo)"), "log_teff": table.get("logTe")}
        out.append(_isochrone(float(found[2]) / 1e3, table["M/Mo(ini)"], bands, float(found[1]), others))
    return _sorted(path, out, "a BaSTI-IAC isochrone (.isc_...)")


def read_parsec(path: str | os.PathLike[str], metallicity: float | None = None) -> list[Isochrone]:
    """Isochrones of a PARSEC file from the CMD web page, one an age, oldest last; post-AGB stars are left out.

    Parameters
    ----------
    path : path
    metallicity : float, optional
        [M/H] to take where the file has several.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is not such a file, was made with extinction, or several metallicities are in it and none or another one is asked for.
    """
    _no_extinction(path, _PARSEC_EXTINCTION)
    out = []
    there: set[float] = set()
    for _, names, rows in _blocks(path, "Mini", None):
        table = _numbers(path, names, rows)
        if "logAge" not in table or "MH" not in table:
            raise _problem(path, "no columns logAge and MH", "a PARSEC isochrone of CMD 3")
        there |= set(np.unique(table["MH"]).tolist())
        bands = [name for name in names if name not in _PARSEC_OTHERS]
        for age, metal in sorted(set(zip(table["logAge"].tolist(), table["MH"].tolist()))):
            if metallicity is not None and not np.isclose(metal, metallicity, atol=5e-3):
                continue
            mine = (table["logAge"] == age) & (table["MH"] == metal) & (table["label"] != PARSEC_POST_AGB)
            mags = {name.removesuffix("mag"): table[name][mine] for name in bands}
            keys = {"final_mass": "Mass", "log_luminosity": "logL", "log_teff": "logTe", "phase": "label"}
            others = {new: table[old][mine] for new, old in keys.items()}
            out.append(_isochrone(10 ** (age - 9.0), table["Mini"][mine], mags, metal, others))
    if there and len({iso.metallicity for iso in out}) != 1:
        values = ", ".join(f"{value:.3f}" for value in sorted(there))
        raise _problem(path, f"isochrones with [M/H] = {values}", "one of them with metallicity=")
    return _sorted(path, out, "a PARSEC isochrone of CMD 3")


def read_mist(path: str | os.PathLike[str]) -> list[Isochrone]:
    """Isochrones of a MIST ``.iso.cmd`` file, one an age, oldest last.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is not such a file, or was made with extinction.
    """
    _no_extinction(path, _MIST_EXTINCTION)
    out = []
    for _, names, rows in _blocks(path, "initial_mass", None):
        table = _numbers(path, names, rows)
        if "log10_isochrone_age_yr" in table:
            age = 10 ** (table["log10_isochrone_age_yr"][0] - 9.0)
        elif "isochrone_age_yr" in table:
            age = table["isochrone_age_yr"][0] / 1e9
        else:
            raise _problem(path, "no column with the age", "a MIST isochrone with magnitudes (.iso.cmd)")
        bands = {name: table[name] for name in names if name not in _MIST_OTHERS}
        if not bands:
            raise _problem(path, "no magnitudes", "a MIST isochrone with magnitudes (.iso.cmd)")
        keys = {"final_mass": "star_mass", "log_luminosity": "log_L", "log_teff": "log_Teff", "phase": "phase"}
        others = {new: table.get(old) for new, old in keys.items()}
        metal = float(table["[Fe/H]_init"][0]) if "[Fe/H]_init" in table else np.nan
        made = _isochrone(age, table["initial_mass"], bands, metal, others)
        out.append(made.keep(made.columns["phase"] != MIST_POST_AGB) if "phase" in made.columns else made)
    return _sorted(path, out, "a MIST isochrone with magnitudes (.iso.cmd)")


def _isochrone(
    age: float,
    mass: NDArray[np.float64],
    bands: dict[str, NDArray[np.float64]],
    metallicity: float,
    others: dict[str, NDArray[np.float64] | None],
) -> Isochrone:
    rising = np.concatenate([[True], mass[1:] > np.maximum.accumulate(mass)[:-1]])
    complete = rising & np.all([np.isfinite(m) & (m < NO_MAGNITUDE) for m in bands.values()], axis=0)
    return Isochrone(
        age=float(age),
        mass=mass[complete],
        magnitudes={name: values[complete] for name, values in bands.items()},
        metallicity=float(metallicity),
        columns={name: values[complete] for name, values in others.items() if values is not None},
    )


def _no_extinction(path: str | os.PathLike[str], pattern: re.Pattern[str]) -> None:
    """See that the magnitudes are those without extinction, as comments say."""
    for value in pattern.findall(_text(path)):
        if float(value) > 0:
            raise _problem(path, f"made with Av = {value}", "isochrones without extinction, which is added here")


def _text(path: str | os.PathLike[str]) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return Path(path).read_text()


def _blocks(path: str | os.PathLike[str], mass_column: str, is_title: Callable[[str], Any] | None) -> list[Block]:
    """Column comments that name the mass, the last title before each, and the rows behind it."""
    blocks: list[Block] = []
    title = ""
    for line in _text(path).splitlines():
        if line.lstrip().startswith("#"):
            words = line.replace("#", " ").split()
            if mass_column in words:
                blocks.append((title, words, []))
            elif is_title is not None and is_title(line):
                title = line
        elif line.strip() and blocks:
            blocks[-1][2].append(line.split())
    return [block for block in blocks if block[2]]


def _numbers(path: str | os.PathLike[str], names: list[str], rows: list[list[str]]) -> dict[str, NDArray[np.float64]]:
    widths = {len(row) for row in rows}
    if widths != {len(names)}:
        found = ", ".join(map(str, sorted(widths)))
        raise _problem(path, f"{len(names)} column names, but rows of {found} numbers", "the file as it was written")
    try:
        values = np.array(rows, dtype=float)
    except ValueError as error:
        raise _problem(path, str(error), "the file as it was written") from error
    return dict(zip(names, values.T))


def _sorted(path: str | os.PathLike[str], found: list[Isochrone], wanted: str) -> list[Isochrone]:
    if not found:
        raise _problem(path, "no isochrone in it", wanted)
    return sorted(found, key=lambda isochrone: isochrone.age)


def _problem(path: str | os.PathLike[str], what: str, give: str) -> InputError:
    return InputError(Path(path), "columns", what, f"Give {give}")
