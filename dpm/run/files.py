"""Small JSON files that are there whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dpm.io.atomic import replacing

__all__ = ["read_json", "write_json", "write_text"]


def write_json(path: Path, data: Any, standard: bool = False) -> None:
    """Write under a temporary name in the same folder, then rename.

    Parameters
    ----------
    path : Path
        The file.
    data : object
        What to write.
    standard : bool
        For readers other than `read_json`: NaN and infinity, which JSON does not know, become null.

    Raises
    ------
    TypeError
        If something in it is neither what JSON can hold, nor a path, nor a numpy scalar.
    """
    text = json.dumps(data, indent=1, default=_plain)
    if standard:
        text = json.dumps(_finite(json.loads(text)), indent=1, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name in the same folder, then rename."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote, or None when the file is missing or not JSON (then it counts as missing)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _finite(value: Any) -> Any:
    """The same with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(
        f"{type(value).__name__} cannot go into a JSON file: stages return text, numbers, lists and dictionaries"
    )
