"""What the input files are: checksums once, size and time of change afterwards (DESIGN section 3, stage keys)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from dpm.io.fits_files import checksum
from dpm.io.run_folder import RunFolder
from dpm.models.options import Options
from dpm.run.errors import OtherFieldError
from dpm.run.files import read_json, write_json

__all__ = ["InputRegistry", "check_same_field"]


def check_same_field(folder: RunFolder, options: Options) -> None:
    """See that the run folder is not that of other exposures: a second field would take the first one's place.

    Raises
    ------
    OtherFieldError
        If cubes are there and not one of the exposures' names is known from the earlier run.
    """
    try:
        before = tomllib.loads(folder.config.read_text(encoding="utf-8"))["input"]["exposures"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return
    known = {Path(path).name for path in before}
    if known and known.isdisjoint(Path(path).name for path in options.input.exposures) and any(folder.cubes.glob("*.zarr")):
        raise OtherFieldError(
            f"{folder.root} holds the run of other exposures ({', '.join(sorted(known)[:2])}{', ...' if len(known) > 2 else ''}): "
            "name another folder in [run] directory, or replace that run with `dpm run --restart`"
        )


class InputRegistry:
    """Identities of input files, remembered in ``work/inputs.json``.

    A file keeps its identity while its size and time of change stay; a file that was only touched or copied keeps it
    when its checksum is the one remembered; and a file that was removed after it was read keeps it, so that an archived
    run folder still knows what is up to date.

    Parameters
    ----------
    folder : RunFolder
        The run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.work / "inputs.json"
        self.records: dict[str, dict[str, Any]] = read_json(self._path) or {}

    def identity(self, path: Path, with_checksum: bool) -> str:
        """Text that changes when the file's contents do.

        Parameters
        ----------
        path : Path
            The file.
        with_checksum : bool
            Take the checksum as the identity of a file seen for the first time (small files); otherwise size and time
            are, and the checksum is taken while the file is ingested.

        Raises
        ------
        FileNotFoundError
            If the file is missing and was never seen.
        """
        record = self.records.get(str(path))
        if not path.exists():
            if record is None:
                raise FileNotFoundError(f"{path}: no such file")
            return record["identity"]
        status = path.stat()
        if record is not None and record["size"] == status.st_size:
            if record["mtime_ns"] == status.st_mtime_ns:
                return record["identity"]
            if record.get("sha256") and record["sha256"] == checksum(path):
                record["mtime_ns"] = status.st_mtime_ns
                return record["identity"]
        digest = checksum(path) if with_checksum else None
        identity = digest or f"{path.name}:{status.st_size}:{status.st_mtime_ns}"
        self.records[str(path)] = {
            "identity": identity,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "sha256": digest,
        }
        return identity

    def identities(self, path: Path) -> list[str]:
        """Checksum of a file; of a folder, which may hold a whole library, size and time of every file."""
        if path.is_dir():
            return [self.identity(p, with_checksum=False) for p in sorted(path.iterdir()) if p.is_file()]
        return [self.identity(path, with_checksum=True)]

    def add_checksums(self, inputs: dict[str, dict[str, Any]]) -> None:
        """Remember checksums that the workers took while they read the files: ``{path: {"sha256": ...}}``."""
        for path, facts in inputs.items():
            if path in self.records:
                self.records[path]["sha256"] = facts.get("sha256")

    def save(self) -> None:
        """Write ``work/inputs.json``."""
        write_json(self._path, self.records)
