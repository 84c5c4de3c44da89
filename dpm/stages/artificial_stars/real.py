"""The real stars as the second pass measured them: what they say of errors, and their lists at every epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from dpm.io.reference import read_reference
from dpm.io.run_folder import RunFolder
from dpm.io.tables import read_table
from dpm.models.detectors import band_name
from dpm.models.master_frame import MasterFrame
from dpm.models.options import Options
from dpm.stages.artificial_stars.files import STAGE, field_file
from dpm.stages.frame.catalog import build_catalog
from dpm.stages.frame.geometry import load_units
from dpm.stages.frame.link import Links
from dpm.stages.frame.units import Unit
from dpm.stages.second_pass.assemble import links_by_star, set_solution
from dpm.stages.second_pass.field import SecondPassField

__all__ = ["learn_field", "real_units"]


def real_units(
    folder: RunFolder, field: SecondPassField, exposures: Table, frame: MasterFrame, options: Options
) -> tuple[Sequence[Unit], Links]:
    """The second pass's measurements of the catalogue's stars."""
    exposures = exposures.copy()
    exposures["band"] = [band_name(str(row["detector"]), str(row["filter"])) for row in exposures]
    units = load_units(folder, exposures, frame, options, folder.measurements)
    set_solution(units, exposures)
    names = [folder.measurements_file(str(row["exposure"]), str(row["detector"])) for row in exposures]
    rows = {k: {"star": np.asarray(read_table(path, ["id"])["id"]) - 1} for k, path in enumerate(names)}
    n = 1 + max((int(part["star"].max(initial=-1)) for part in rows.values()), default=-1)
    return units, links_by_star(field, units, rows, n)


def learn_field(folder: RunFolder, options: Options) -> None:
    """Average the real stars again and keep what they say of errors.

    Parameters
    ----------
    folder : RunFolder
    options : Options
        ``[input] reference``, ``[frame]``, ``[photometry]`` and ``[distortion]`` count.
    """
    field = SecondPassField.load(folder, STAGE)
    exposures = read_table(folder.exposures)
    frame = MasterFrame.from_meta(exposures.meta["master_frame"])
    units, links = real_units(folder, field, exposures, frame, options)
    reference = read_reference(options.input.reference) if options.input.reference else None
    result = build_catalog(units, links, exposures, frame, options.frame, options.photometry, reference)
    result.field.save(field_file(folder))
