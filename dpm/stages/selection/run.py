"""Cuts learnt from artificial stars, the stars that pass them, and completeness before and after."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table, star_completeness_columns, table_names, write_table
from dpm.models.columns import SELECTION_COLUMNS, SELECTION_COUNT_COLUMNS
from dpm.models.options import SelectionOptions
from dpm.science.completeness import completeness_table, local_sky_rms
from dpm.science.completeness_of_stars import star_completeness
from dpm.science.quality_cuts import quality_cut
from dpm.science.selections import Selection, count_selections, quantity_columns, read_selections, write_selections
from dpm.science.table_access import artificial_bands

__all__ = ["QUIET_SKY", "select_stars"]

log = logging.getLogger(__name__)

QUIET_SKY = 1.2  # times the median sky scatter: a region is good where it is less
# Light that an ePSF leaves around the core can be too much or too little; of the others only much is bad.
BOTH_SIDES = ("radxs",)


def select_stars(folder: RunFolder, options: SelectionOptions) -> dict[str, Any]:
    """Write ``tables/selection`` and ``tables/completeness.parquet``.

    Parameters
    ----------
    folder : RunFolder
        With ``tables/artificial_stars.parquet``.
    options : SelectionOptions
    """
    regions = read_selections(options.regions) if options.regions else []
    names = table_names(folder.artificial_stars)
    bands = list(artificial_bands(dict.fromkeys(names)))
    unknown = [band for band in options.bands if band not in bands]
    if unknown:
        raise ValueError(f"[selection] bands: no band {unknown[0]}; the artificial stars have {', '.join(bands)}")
    chosen = list(options.bands) or bands
    wanted = {"id", "x", "y", "ra", "dec", *(f"{band}_{name}" for band in bands for name in ("mag", "sky_rms"))}
    wanted |= {f"{band}_{name}" for band in chosen for name in options.quantities}
    wanted |= {name for region in regions for axis in (region.x, region.y) for name in quantity_columns(axis)}
    wanted |= {name.removesuffix("_relative") for name in wanted}  # artificial stars have no motion but the measured one
    mine = [name for name in names if name in ("id", "recovered") or name.partition("_")[2] in wanted]
    stars = read_table(folder.artificial_stars, mine)
    catalog = read_table(folder.catalog, [name for name in table_names(folder.catalog) if name in wanted])
    usable = [band for band in chosen if np.isfinite(stars[f"in_{band}_mag"]).any()]
    cuts, warnings = learn_cuts(stars, usable, options)
    steps = [*regions, *cuts]
    counts = count_selections(catalog, stars, steps)
    for step in counts:
        log.info("%s: %d real stars, %d artificial ones", step["step"], step["n_real"], step["n_artificial"])
    failed, lost = first_failure(catalog, steps), first_failure(stars, steps)
    passed = np.asarray(stars["recovered"], bool) & (lost == 0)
    place = folder.selection
    made = [place / name for name in ("catalog.parquet", "artificial_stars.parquet", "counts.parquet")]
    write_table(made[0], _fates(catalog, failed == 0, failed), SELECTION_COLUMNS)
    write_table(made[1], _fates(stars, passed, lost), SELECTION_COLUMNS)
    write_table(made[2], counts, SELECTION_COUNT_COLUMNS)
    if steps:
        write_selections(place / "cuts.ecsv", steps)
        made.append(place / "cuts.ecsv")
    write_table(folder.completeness, completeness_curves(stars, catalog, bands, passed if steps else None))
    of_stars, missing = star_completeness(stars, catalog, bands, passed)
    made.append(place / "completeness.parquet")
    write_table(made[-1], of_stars, star_completeness_columns(bands))
    warnings += missing
    for text in warnings:
        log.warning(text)
    return {
        "real": len(catalog),
        "selected": int(np.sum(failed == 0)),
        "recovered": int(np.sum(stars["recovered"])),
        "recovered_and_selected": int(passed.sum()),
        "files": [path.relative_to(folder.root).as_posix() for path in (*made, folder.completeness)],
        "warnings": warnings,
    }


def learn_cuts(stars: Table, bands: Sequence[str], options: SelectionOptions) -> tuple[list[Selection], list[str]]:
    """Cuts in every quantity and band, those of one quantity being one step; and which of them too few stars support."""
    cuts: list[Selection] = []
    warnings = []
    for name in options.quantities:
        side = "both" if name in BOTH_SIDES else "below"
        for band in bands:
            try:
                cuts += quality_cut(stars, band, name, options.keep, side, name=name)
            except ValueError as error:
                warnings.append(f"[selection] no cut in {error}: more artificial stars, or a smaller keep, make one")
            except KeyError as error:
                raise ValueError(f"[selection] quantities: {error.args[0]}") from error
    return cuts, warnings


def first_failure(table: Table, steps: Sequence[Selection]) -> NDArray[np.int16]:
    """Number of the first step that each star fails, from 1; 0 for stars that pass all."""
    out = np.zeros(len(table), np.int16)
    names = list(dict.fromkeys(step.name for step in steps))
    for step in steps:
        number = names.index(step.name) + 1
        out[~step(table) & ((out == 0) | (out > number))] = number
    return out


def _fates(table: Table, selected: NDArray[np.bool_], failed: NDArray[np.int16]) -> Table:
    return Table({"id": np.asarray(table["id"]), "selected": selected, "failed_step": failed})


def completeness_curves(stars: Table, catalog: Table, bands: Sequence[str], passed: NDArray[np.bool_] | None) -> Table:
    """Curves of every band: all stars, those put in where the sky is quiet, and those that pass the selection."""
    parts = []
    for band in bands:
        if not np.isfinite(stars[f"in_{band}_mag"]).any():
            continue
        sky_rms = local_sky_rms(stars, band, catalog)
        quiet = sky_rms < QUIET_SKY * np.nanmedian(sky_rms)
        samples: dict[str, tuple[Any, Any]] = {"": ("recovered", None), "good": ("recovered", quiet)}
        if passed is not None:
            samples["selected"] = (passed, None)
        parts.append(completeness_table(stars, samples, [band]))
    limits = {name: limit for part in parts for name, limit in part.meta["limits"].items()}
    table = vstack(parts, metadata_conflicts="silent")
    table.meta = {"limits": limits, "quiet_sky": QUIET_SKY}
    return table
