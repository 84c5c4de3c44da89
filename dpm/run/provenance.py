"""``provenance.json``: what made this run folder, from what, in how long."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dpm import __version__
from dpm.execute.base import peak_memory, usable_cpus
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.run.files import read_json, write_json
from dpm.run.inputs import InputRegistry

__all__ = ["Provenance"]

PACKAGES = ("numpy", "scipy", "astropy", "numba", "xarray", "zarr", "dask", "distributed", "pyarrow", "pydantic")


class Provenance:
    """Builds up ``provenance.json``; stages that did not have to run keep their older entries.

    Parameters
    ----------
    folder : RunFolder
        The run.
    options : Options
        What it was told.
    """

    def __init__(self, folder: RunFolder, options: Options) -> None:
        self._path = folder.provenance
        before = read_json(self._path) or {}
        self.data: dict[str, Any] = {
            "versions": {"dpm": __version__, "python": platform.python_version()}
            | {name: _version(name) for name in PACKAGES},
            "platform": platform.platform(),
            "cpu": _cpu(),
            "cpus": usable_cpus(),
            "host": os.uname().nodename,
            "command": sys.argv,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "finished": None,
            "config": asdict(options),
            "inputs": before.get("inputs", {}),
            "stages": before.get("stages", {}),
            "warnings": [],
        }

    def add_stage(self, name: str, entry: dict[str, Any]) -> None:
        """Enter what a stage did and save."""
        self.data["stages"][name] = entry
        self.save()

    def warnings(self) -> list[str]:
        """Warnings of all stages, each once."""
        texts = (text for entry in self.data["stages"].values() for text in entry.get("warnings", ()))
        return list(dict.fromkeys(texts))

    def save(self, inputs: InputRegistry | None = None, finished: bool = False) -> None:
        """Write the file, with the warnings and the driver's peak memory so far."""
        if inputs is not None:
            self.data["inputs"] = inputs.records
        self.data["warnings"] = self.warnings()
        if finished:
            self.data["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S")
        stages = self.data["stages"].values()
        self.data["peak_memory_bytes"] = {
            "driver": peak_memory(),
            "workers": max((entry.get("peak_memory_bytes", 0) for entry in stages), default=0),
        }
        write_json(self._path, self.data, standard=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor()
    return platform.processor()
