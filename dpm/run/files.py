"""Small JSON files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

__all__ = ["read_json", "write_json"]


def write_json(path: Path, data: Any) -> None:
    """Write under a temporary name in the same folder, then rename.

    Raises
    ------
    TypeError
        If something in it is neither what JSON can hold, nor a path, nor a numpy scalar.
    """
    text = json.dumps(data, indent=1, default=_plain)
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


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(
        f"{type(value).__name__} cannot go into a JSON file: stages return text, numbers, lists and dictionaries"
    )
