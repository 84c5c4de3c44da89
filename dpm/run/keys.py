"""Stage keys: what a stage's results depend on, as one hash (DESIGN section 3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dpm.models.options import Options
from dpm.run.inputs import InputRegistry
from dpm.stages.base import Stage

__all__ = ["StageKey", "describe_change", "stage_keys"]


@dataclass(frozen=True)
class StageKey:
    """The hash, and what went into it.

    Parameters
    ----------
    key : str
        16 hexadecimal digits; names the folder of the stage's finished parts.
    content : dict
        Stage name, revision, configuration with input files as identities, and the keys of the stages upstream.
    """

    key: str
    content: dict[str, Any]


def stage_keys(stages: Sequence[Stage], options: Options, inputs: InputRegistry) -> dict[str, StageKey]:
    """Keys of all stages, in order.

    Scheduling (``[cluster]``) and the run's name and folder never enter.

    Raises
    ------
    FileNotFoundError
        If an input file is missing and was never seen.
    """
    keys: dict[str, StageKey] = {}
    for stage in stages:
        content = {
            "stage": stage.NAME,
            "revision": stage.REVISION,
            "config": _declared(stage, options, inputs),
            "upstream": {name: keys[name].key for name in stage.UPSTREAM if name in keys},
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        keys[stage.NAME] = StageKey(digest[:16], content)
    return keys


def _declared(stage: Stage, options: Options, inputs: InputRegistry) -> dict[str, Any]:
    """Values of the keys that a stage declares, ``{"find.threshold": 5.0, ...}``."""
    values: dict[str, Any] = {}
    for declared in stage.CONFIG:
        table_name, _, only = declared.partition(".")
        table = getattr(options, table_name)
        for item in fields(table):
            if only in ("", item.name):
                value = getattr(table, item.name)
                values[f"{table_name}.{item.name}"] = _identify(value, item.metadata, inputs)
    return values


def _identify(value: Any, metadata: Any, inputs: InputRegistry) -> Any:
    """A value as it enters the key: input files by their identities."""
    if not metadata.get("file"):
        return value if not hasattr(value, "__dataclass_fields__") else asdict(value)
    if isinstance(value, tuple):
        return [inputs.identity(Path(path), with_checksum=False) for path in value]
    if value == "" or value in metadata["words"]:
        return value
    return inputs.identities(Path(value))


def describe_change(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In a few words, why a key is not what it was."""
    if before.get("revision") != now["revision"]:
        return f"the method changed (revision {before.get('revision')} -> {now['revision']})"
    old, new = before.get("config", {}), now["config"]
    changes = []
    for name in new:
        if old.get(name) != new[name]:
            table, _, key = name.partition(".")
            changes.append(f"[{table}] {key}" + _values(old.get(name), new[name]))
    if changes:
        return ", ".join(changes) + " changed"
    upstream = [name for name, key in now["upstream"].items() if before.get("upstream", {}).get(name) != key]
    return f"{', '.join(upstream)} changed" if upstream else "changed"


def _values(old: Any, new: Any) -> str:
    if isinstance(old, int | float | str | bool) and isinstance(new, int | float | str | bool):
        return f" ({old} -> {new})"
    if isinstance(old, list) and isinstance(new, list) and len(old) != len(new):
        return f" ({len(old)} -> {len(new)} files)"
    return ""
