"""What a release has: the tables cut from a run's catalogue, and the files that are copied as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.flags import StarFlag
from dpm.science.selections import read_selections

__all__ = ["PARTS", "MissingPartError", "ReleaseFile", "ReleaseTable", "copied_files", "missing_parts", "release_tables"]

Bools = NDArray[np.bool_]

MEMBER = 0.5  # least probability in the table of members
RADXS = "radxs"  # name of the selection's step
RADXS_FLAGS = int(StarFlag.EXTENDED | StarFlag.SHARP)

# What a release may have beside the catalogue, and what makes it.
PARTS = {
    "members": "motions of two epochs and a cluster that they show ([motions])",
    "artificial_stars": "[artificial_stars] n",
    "psf": "[psf]",
    "distortion": "[distortion] source other than \"wcs\"",
    "atlas": "the stage atlas",
}


class MissingPartError(ValueError):
    """A run lacks what its release was to have, or holds tables of different runs."""


@dataclass(frozen=True)
class ReleaseTable:
    """One table: ``name`` without suffix, what it is in a line, its rows."""

    name: str
    title: str
    table: Table


@dataclass(frozen=True)
class ReleaseFile:
    """One file that is copied: its place in the release, what it is, and where it lies in the run."""

    name: str
    title: str
    source: Path


def missing_parts(folder: RunFolder) -> list[str]:
    """Parts that the run does not have, in the order of `PARTS`."""
    has = {
        "members": _has_members(folder),
        "artificial_stars": folder.artificial_stars.is_file(),
        "psf": any(folder.psf.glob("*PSF_*.fits")),
        "distortion": any(folder.distortion.glob("STDGDC_*.fits")),
        "atlas": bool(_atlas_files(folder)),
    }
    return [name for name in PARTS if not has[name]]


def _has_members(folder: RunFolder) -> bool:
    catalog = read_table(folder.catalog)
    return "member_probability" in catalog.colnames and bool(np.isfinite(catalog["member_probability"]).any())


def release_tables(folder: RunFolder) -> tuple[list[ReleaseTable], list[str]]:
    """All tables, and sentences on how their stars were chosen.

    Raises
    ------
    MissingPartError
        If a table of the run is of another catalogue.
    """
    catalog = _without_paths(read_table(folder.catalog))
    passes, text = _radxs_selection(folder, catalog)
    out = [
        ReleaseTable("catalog", "All stars", catalog),
        ReleaseTable("catalog_radxs", "Stars that pass the selection in RADXS", catalog[passes]),
    ]
    notes = [text]
    if _has_members(folder):
        member = np.nan_to_num(np.asarray(catalog["member_probability"], float)) >= MEMBER
        out.append(ReleaseTable("members", "Members of the cluster", catalog[member]))
        out.append(ReleaseTable("members_radxs", "Members that pass the selection in RADXS", catalog[member & passes]))
        notes.append(f"Members have a membership probability of {MEMBER} or more.")
    if folder.motions.is_file():
        motions = read_table(folder.motions)
        _same_stars(folder, motions, catalog, folder.motions, "motions")
        motions.meta = {}
        out.append(ReleaseTable("motions", "Motions against the members, one row a star of catalog.dat", motions))
    if folder.artificial_stars.is_file():
        stars = _without_paths(read_table(folder.artificial_stars))
        out.append(ReleaseTable("artificial_stars", "Artificial stars: what went in and what came out", stars))
        fates = folder.selection / "artificial_stars.parquet"
        if fates.is_file():
            _same_stars(folder, read_table(fates, ["id"]), stars, fates, "selection")
        if folder.completeness.is_file():
            curves = read_table(folder.completeness)
            curves.meta = {}
            out.append(ReleaseTable("completeness", "Completeness of each filter", _described(curves)))
        of_stars = folder.selection / "completeness.parquet"
        if of_stars.is_file():
            table = read_table(of_stars)
            _same_stars(folder, table, catalog, of_stars, "selection")
            notes.append(_star_completeness_note(table.meta.get("two_bands")))
            table.meta = {}
            out.append(ReleaseTable("star_completeness", "Completeness at each star of catalog.dat", table))
    return out, notes


def _star_completeness_note(two_bands: Sequence[str] | None) -> str:
    """How the completeness of single stars was found, for the ReadMe."""
    text = (
        "The completeness of single stars (star_completeness.dat) is that of artificial stars of the magnitude near the place, "
        "one filter at a time"
    )
    both = f"; two_band_completeness is that of {' and '.join(two_bands)} together, of the whole field" if two_bands else ""
    return f"{text}{both}. It is taken at the measured magnitude, without a correction for migration."


def _radxs_selection(folder: RunFolder, catalog: Table) -> tuple[Bools, str]:
    """Stars that pass, and how they were chosen."""
    cuts = folder.selection / "cuts.ecsv"
    if cuts.is_file():
        fates = read_table(folder.selection / "catalog.parquet", ["id"])
        _same_stars(folder, fates, catalog, folder.selection / "catalog.parquet", "selection")
        steps = [step for step in read_selections(cuts) if step.name == RADXS]
        if steps:
            passes = np.ones(len(catalog), dtype=bool)
            for step in steps:
                passes &= step(catalog)
            return passes, (
                "The selection in RADXS has limits at each magnitude that nearly all well-recovered artificial stars keep "
                "(selection.ecsv); a star that a limit's filter did not measure fails."
            )
    flagged = (np.asarray(catalog["flags"]) & RADXS_FLAGS) != 0
    return ~flagged, "The selection in RADXS leaves out stars with the flags EXTENDED or SHARP; no artificial stars set its limits."


def _same_stars(folder: RunFolder, table: Table, catalog: Table, path: Path, stage: str) -> None:
    if not np.array_equal(table["id"], catalog["id"]):
        raise MissingPartError(
            f"{path.relative_to(folder.root)} is of other stars: run `dpm stage {stage} {folder.root}` again before a release"
        )


def _without_paths(table: Table) -> Table:
    """Without folders of the machine that made it."""
    for name, value in table.meta.items():
        if isinstance(value, str) and "/" in value and Path(value).is_absolute():
            table.meta[name] = Path(value).name
    return table


def _described(curves: Table) -> Table:
    """Descriptions of the table of completeness, whose columns go by the samples of stars."""
    samples = {"": "stars recovered", "_good": "stars recovered, quiet sky alone", "_selected": "stars recovered and selected"}
    ends = {
        "": "share of the {}", "_low": "lower end of the 68 % interval of the share of the {}",
        "_high": "upper end of the 68 % interval of the share of the {}", "_fit": "fitted curve of the {}",
        "_fit_error": "one-sigma error of the fitted curve of the {}",
    }  # fmt: skip
    texts = {"filter": "prefix of the filter's columns", "mag": "middle of the bin, magnitude put in"}
    for sample, words in samples.items():
        texts[f"n_inserted{sample}"] = f"artificial stars put in ({words.removeprefix('stars recovered').strip() or 'all'})"
        texts |= {f"completeness{sample}{end}": text.format(words) for end, text in ends.items()}
    for name in curves.colnames:
        curves[name].description = texts.get(name, name)
    curves["mag"].unit = "mag"
    return curves


def copied_files(folder: RunFolder) -> list[ReleaseFile]:
    """ePSFs, distortion, the selection's limits, and the atlas, in the order of their names."""
    out = []
    for path in sorted(folder.psf.glob("STDPSF_*.fits")):
        out.append(ReleaseFile(f"psf/{path.name}", "ePSF library", path))
    for path in sorted((folder.psf / "perturbed").glob("STDPSF_*.fits")):
        out.append(ReleaseFile(f"psf/perturbed/{path.name}", "ePSF of one exposure", path))
    for path in sorted(folder.psf.glob("BFPSF_*.fits")):
        out.append(ReleaseFile(f"psf/{path.name}", "Change of the ePSF with brightness", path))
    for path in sorted(folder.distortion.glob("STDGDC_*.fits")):
        out.append(ReleaseFile(f"distortion/{path.name}", "Distortion correction", path))
    cuts = folder.selection / "cuts.ecsv"
    if cuts.is_file():
        out.append(ReleaseFile("selection.ecsv", "Limits of the selections, vertex by vertex", cuts))
    return out + [ReleaseFile(f"atlas/{name}", "Atlas", path) for name, path in _atlas_files(folder)]


def _atlas_files(folder: RunFolder) -> list[tuple[str, Path]]:
    """Everything that begins with ``atlas`` in the run's images, files and folders; hidden files are left out."""
    found = [path for entry in sorted(folder.images.glob("atlas*")) for path in ([entry] if entry.is_file() else entry.rglob("*"))]
    named = sorted((path.relative_to(folder.images), path) for path in found if path.is_file())
    return [(name.as_posix(), path) for name, path in named if not any(part.startswith(".") for part in name.parts)]
