"""Writing a release: tables in each format, copies, the ReadMe, and checksums of everything."""

from __future__ import annotations

import hashlib
import os
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from astropy.table import Table

from dpm import __version__
from dpm.io.atomic import replacing_folder
from dpm.io.cds import LINE, CdsTable, byte_by_byte, file_summary, format_table
from dpm.io.export import hats_name, write_votable
from dpm.io.hats_catalog import write_hats
from dpm.io.run_folder import RunFolder
from dpm.models.flags import STAR_FLAG_MEANINGS
from dpm.stages.release.contents import (
    PARTS,
    MissingPartError,
    ReleaseFile,
    ReleaseTable,
    copied_files,
    missing_parts,
    release_tables,
)

__all__ = ["CHECKSUMS", "write_release"]

CHECKSUMS = "SHA256SUMS"
VERIFY = f"sha256sum --check {CHECKSUMS}"
BLOCK = 1 << 20  # bytes read at a time


def write_release(
    folder: RunFolder, output: str | os.PathLike[str], title: str = "", needed: Sequence[str] = ()
) -> tuple[Path, list[str]]:
    """Write the release of a finished run: the same run gives the same bytes.

    Parameters
    ----------
    folder : RunFolder
        With ``tables/catalog.parquet``.
    output : path
        The folder; it appears whole or not at all, and an older release is replaced.
    title : str
        First line of the ReadMe; the run folder's name by default.
    needed : sequence of str
        Names of `PARTS` that the release has to have.

    Returns
    -------
    Path
        The folder.
    list of str
        Parts that the run does not have.

    Raises
    ------
    MissingPartError
        If a part that is needed is not there or unknown, or the run's tables are of different catalogues.
    FileNotFoundError
        If the output's parent does not exist.
    FileExistsError
        If the output holds something else.
    """
    path = Path(output)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; make it or name another")
    absent = missing_parts(folder)
    for name in needed:
        if name not in PARTS:
            raise MissingPartError(f"{name!r} is no part of a release; the parts are {', '.join(PARTS)}")
        if name in absent:
            raise MissingPartError(f"{folder.root} has no {name.replace('_', ' ')}: it takes {PARTS[name]}, and then a run")
    name = title or folder.root.resolve().name
    tables, notes = release_tables(folder)
    copies = copied_files(folder)
    with replacing_folder(path, CHECKSUMS) as new:
        described = []
        for entry in tables:
            fixed = format_table(entry.table, f"{entry.name}.dat", entry.title)
            (new / fixed.name).write_bytes(fixed.content)
            described.append(CdsTable(fixed.name, fixed.title, [""] * len(fixed.lines), fixed.columns))
            (new / "votable").mkdir(exist_ok=True)
            write_votable(entry.table, new / "votable" / f"{entry.name}.vot", entry.name, entry.title)
        write_hats(tables[0].table, new / "hats", hats_name(name))
        for copy in copies:
            place = new / copy.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copy.source, place)
        readme = _readme(name, tables[0].table, described, tables, copies, notes, absent)
        (new / "ReadMe").write_bytes("".join(f"{line}\n" for line in readme).encode("ascii", "replace"))
        _write_checksums(new)
    return path, absent


def _readme(
    name: str,
    catalog: Table,
    described: Sequence[CdsTable],
    tables: Sequence[ReleaseTable],
    copies: Sequence[ReleaseFile],
    notes: Sequence[str],
    absent: Sequence[str],
) -> list[str]:
    """The ReadMe's lines."""
    others = [(f"votable/{entry.name}.vot", f"{entry.title} (VOTable)") for entry in tables]
    others += [("hats/", "All stars as a HATS collection (lsdb.open_catalog)")]
    others += [*_copies_by_folder(copies).items(), (CHECKSUMS, "SHA-256 checksums of all files")]
    rule = "=" * LINE
    out = [name, rule, "", "Description:", *_paragraph(_description(catalog, notes)), ""]
    out += file_summary(described, others)
    for table in described:
        if table.columns:
            out += ["", *byte_by_byte(table)]
    out += ["", "Note on flags: sum of", *_flag_notes(), ""]
    out += ["Reading:", *_paragraph(["In Python, with astropy:"]), ""]
    out += ["    from astropy.table import Table", '    stars = Table.read("catalog.dat", format="ascii.cds", readme="ReadMe")', ""]
    out += ["Verification:", *_paragraph(["In this folder:"]), "", f"    {VERIFY}", ""]
    if absent:
        out += ["Not in this release:", *_paragraph([", ".join(part.replace("_", " ") for part in absent) + "."]), ""]
    out += [rule, f"(End) {'dpm ' + __version__:>{LINE - 6}}"]
    return out


def _copies_by_folder(copies: Sequence[ReleaseFile]) -> dict[str, str]:
    """Names and titles; of folders inside of folders, which may have thousands of files, the name alone."""
    out: dict[str, str] = {}
    for copy in copies:
        parts = copy.name.split("/")
        out.setdefault(copy.name if len(parts) <= 2 else f"{parts[0]}/{parts[1]}/", copy.title)
    return out


def _description(catalog: Table, notes: Sequence[str]) -> list[str]:
    """Sentences on the catalogue."""
    meta = catalog.meta
    out = [f"Photometry and astrometry of {len(catalog)} stars, made by dpm {__version__} from dithered exposures."]
    if "ref_epoch" in meta:
        out.append(f"Positions are ICRS at J{float(meta['ref_epoch']):.4f}.")
    if meta.get("pm_zero_point"):
        out.append(f"The zero point of the proper motions is {meta['pm_zero_point']}.")
    out.append("Errors are one standard deviation. Pixel positions are 0-based: the centre of the first pixel is (0, 0).")
    return [*out, *notes]


def _paragraph(sentences: Sequence[str]) -> list[str]:
    return textwrap.wrap(" ".join(sentences), LINE - 4, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _flag_notes() -> list[str]:
    lines = []
    for flag, meaning in STAR_FLAG_MEANINGS.items():
        start = f"  {int(flag):>7} = "
        lines += textwrap.wrap(
            f"{flag.name}: {meaning}", LINE, break_on_hyphens=False, initial_indent=start, subsequent_indent=" " * len(start)
        )
    return lines


def _write_checksums(folder: Path) -> None:
    """``SHA256SUMS`` of all files, in the order of their names."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
            lines.append(f"{digest.hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
