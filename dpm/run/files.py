"""Small JSON files that are there whole or not at all."""

from __future__ import annotations

import json
import math
import os
import uuid
from pathlib import Path
from typing import Any

__all__ = ["read_json", "write_json"]


def write_json(path: Path, data: Any) -> None:
    """Write under a temporary name in the same folder, then rename; NaN and infinity become null.

    Raises
    ------
    TypeError
        If something in it is neither what JSON can hold, nor a path, nor a numpy scalar.
    """
    try:
        text = json.dumps(data, indent=1, default=_plain, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(json.loads(json.dumps(data, default=_plain))), indent=1)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
