"""dpm: distributed photometry and proper motions from dithered JWST and HST exposures of star fields.

``dpm.open(path)`` opens a run folder or a configuration; the other public names are listed in ``dpm.__all__``. Nothing
heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Options": "dpm.models.options",
    "PixelFlag": "dpm.models.flags",
    "Run": "dpm.notebook.run",
    "StarFlag": "dpm.models.flags",
    "describe_flags": "dpm.models.flags",
    "export_catalog": "dpm.io.export",
    "load_options": "dpm.config",
    "open": "dpm.notebook.run",
    "open_cube": "dpm.io.cubes",
    "read_table": "dpm.io.tables",
    "simulate_field": "dpm.simulate",
    "write_report": "dpm.report",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dpm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), "open_run" if name == "open" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
