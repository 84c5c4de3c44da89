"""``dpm init``: look at the FITS files of a folder and write a TOML file to start from."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from dpm.cli.guard import guarded, say
from dpm.config import render_options
from dpm.io.errors import InputError
from dpm.models.options import InputOptions, Options, PsfOptions, RunOptions
from dpm.run.errors import RunError

__all__ = ["write_config"]

PATTERNS = ("*_cal.fits", "*_flc.fits", "*_flt.fits", "*_c0m.fits")
REFERENCES = ("reference.ecsv", "reference.fits", "reference.csv", "reference.parquet", "reference.vot")


@guarded
def write_config(folder: Path, output: Path) -> None:
    """``dpm init``."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    if output.exists():
        raise RunError(f"{output} is there already: remove it, or name another file with --output")
    patterns, rows = _look(folder)
    if not rows:
        raise RunError(f"{folder}: no calibrated exposures ({', '.join(PATTERNS)}) of a supported instrument in it")
    groups = Counter((row["detector"], row["filter"]) for row in rows)
    base = output.resolve().parent
    options = _options(folder, base, output.stem, patterns, rows, groups)
    found = [f"#   {n:4d} of {detector} {name}" for (detector, name), n in sorted(groups.items())]
    targets = sorted({row["target"] for row in rows if row.get("target")})
    text = "\n".join(
        [
            f"# Found in {folder}, target {', '.join(targets[:3]) or 'not named'}:",
            *found,
            "# Relative paths start from this file's folder. Keys that stand at their defaults may be left out.",
            "# Then: dpm run " + output.name,
            "",
            render_options(options, notes=True),
        ]
    )
    output.write_text(text, encoding="utf-8")
    typer.echo("\n".join(line.removeprefix("# ") for line in [*found]))
    typer.echo(f"wrote {output}; look at it, then: dpm run {output}")


def _look(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Patterns that match usable files (the files' names where some do not), and the exposures' rows."""
    from dpm.io.exposure_files import read_exposure_headers

    patterns, rows = [], []
    usual = any(True for pattern in PATTERNS for _ in folder.glob(pattern))
    for pattern in PATTERNS if usual else ("*.fits",):
        usable, bad = [], False
        for path in sorted(folder.glob(pattern)):
            try:
                rows += [unit.row for unit in read_exposure_headers(path)]
                usable.append(path.name)
            except InputError as error:
                say(f"left out: {error}")
                bad = True
        if usable:
            patterns += usable if bad else [pattern]
    return patterns, rows


def _options(
    folder: Path, base: Path, stem: str, patterns: list[str], rows: list[dict[str, Any]], groups: Counter[tuple[str, str]]
) -> Options:
    """Defaults, with the files found and what fits their number; ``stem`` names the run folder when there is one already."""
    where = _place(folder, base)
    names = tuple(os.path.normpath(os.path.join(where, pattern)) for pattern in patterns)
    reference = next((name for name in REFERENCES if (folder / name).is_file()), "")
    libraries = sorted(
        {path.parent for pattern in ("STDPSF_*.fits", "*/STDPSF_*.fits") for path in folder.glob(pattern)}
    )
    targets = [row["target"] for row in rows if row.get("target")]
    name = (targets[0] if targets else "field").lower().replace(" ", "_")
    options = Options(
        run=RunOptions(name=name, directory="run" if not (base / "run").exists() else f"run_{stem}"),
        input=InputOptions(
            exposures=names, reference=os.path.normpath(os.path.join(where, reference)) if reference else ""
        ),
        psf=PsfOptions(source=_place(libraries[0], base) if libraries else "build"),
    )
    fewest = min(groups.values())
    return replace(
        options, frame=replace(options.frame, min_exposures=max(1, min(options.frame.min_exposures, fewest)))
    )


def _place(folder: Path, base: Path) -> str:
    """A folder as the TOML file should name it: relative when it lies below the file's folder, otherwise absolute."""
    folder = folder.resolve()
    return str(folder.relative_to(base)) if folder.is_relative_to(base) else str(folder)
