"""From a TOML file to `dpm.models.options.Options` and back: every error names the key and says what is allowed."""

from __future__ import annotations

import difflib
import glob
import json
import os
import re
import tomllib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from dpm.io.run_folder import RunFolder
from dpm.models.options import Options, PopulationOptions

__all__ = ["ConfigError", "load_options", "open_run", "parse_options", "render_options"]

EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "tuple_type": 'a list, such as ["*_cal.fits"]',
    "dict_type": "a table of name = value",
}


class ConfigError(ValueError):
    """The configuration cannot be used; the text names file and key and says what is allowed."""


def load_options(path: Path | str, check_files: bool = True) -> Options:
    """Read a TOML file.

    Relative paths in it are relative to the file; patterns of exposures are replaced by the files that they match.

    Parameters
    ----------
    path : Path or str
        The TOML file.
    check_files : bool
        Whether exposures, reference and calibration files have to be there.

    Raises
    ------
    ConfigError
        If the file is missing, is not TOML, or has an unknown key, a bad value, a pattern that matches nothing, a
        file that does not exist, or models that cannot be drawn.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `dpm init` writes one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    return parse_options(data, str(path), path.resolve().parent, check_files)


def open_run(path: Path | str, check_files: bool = False) -> tuple[RunFolder, Options]:
    """The run folder and options behind a path: a run folder, or the TOML file of one.

    Raises
    ------
    ConfigError
        If it is neither, or its configuration cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "config.toml").is_file():
            raise ConfigError(
                f"{path}: not a run folder, there is no config.toml in it; `dpm run field.toml` makes one"
            )
        options = load_options(path / "config.toml", check_files)
        # A run folder may have been moved since its configuration was written.
        options = replace(options, run=replace(options.run, directory=str(path.resolve())))
        return RunFolder(path), options
    options = load_options(path, check_files)
    if path.name == "config.toml" and (path.parent / "work").is_dir():
        return open_run(path.parent, check_files)
    return RunFolder(Path(options.run.directory)), options


def parse_options(data: dict[str, Any], source: str, base: Path, check_files: bool = True) -> Options:
    """Make options of parsed TOML.

    Parameters
    ----------
    data : dict
        Tables and keys.
    source : str
        Name of the file, for errors.
    base : Path
        Folder that relative paths start from.
    check_files : bool
        See `load_options`.

    Raises
    ------
    ConfigError
        See `load_options`.
    """
    _check_keys(data, source)
    try:
        options = TypeAdapter(Options).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {_explain(item)}" for item in error.errors())) from None
    tables = {
        table.name: _resolve(getattr(options, table.name), table.name, source, base, check_files)
        for table in fields(options)
    }
    tables["run"] = replace(options.run, directory=os.path.normpath(base / Path(options.run.directory).expanduser()))
    if check_files:
        _check_models(tables["population"], source)
    return replace(options, **tables)


def _check_models(population: PopulationOptions, source: str) -> None:
    """Read the models now: the report, which draws them, comes after hours of work."""
    if population.isochrones or population.tracks:
        from dpm.science.populations.models import ModelsError, read_models

        try:
            read_models(population)
        except ModelsError as error:
            raise ConfigError(f"{source}: {error}") from None


def _check_keys(data: dict[str, Any], source: str) -> None:
    """See that every table and key exists."""
    tables = {item.name: item.default_factory for item in fields(Options)}
    for name, content in data.items():
        if name not in tables:
            where = [table for table, make in tables.items() if name in {key.name for key in fields(make())}]  # type: ignore[operator, misc]
            hint = f"; {name} belongs into [{where[0]}]" if where else _closest(name, tables)
            raise ConfigError(
                f"{source}: unknown table or key {name!r}{hint}; the tables are {', '.join(f'[{t}]' for t in tables)}"
            )
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: {name} is a table: write [{name}] on a line of its own and its keys below")
        keys = [item.name for item in fields(tables[name]())]  # type: ignore[operator, misc]
        for key in content:
            if key not in keys:
                raise ConfigError(
                    f"{source}: unknown key {key!r} in [{name}]{_closest(key, keys)}; its keys are {', '.join(keys)}"
                )


def _closest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(item: Any) -> str:
    """One error of pydantic in the file's own terms."""
    where = [part for part in item["loc"] if not (isinstance(part, str) and re.search(r"[\[(]", part))]
    table, key = str(where[0]), ".".join(str(part) for part in where[1:])
    limits = {"greater_than": "larger than {gt}", "greater_than_equal": "at least {ge}", "less_than": "less than {lt}"}
    kind = item["type"]
    if kind in limits:
        allowed = "a number " + limits[kind].format(**item["ctx"])
    else:
        allowed = EXPECTED.get(kind, item["msg"].removeprefix("Input should be "))
    default = getattr(getattr(Options(), table, None), str(where[1]) if len(where) > 1 else "", None)
    usual = f" (default {json.dumps(default)})" if default not in (None, (), {}, "") else ""
    return f"[{table}] {key} = {json.dumps(item['input'], default=str)}: has to be {allowed}{usual}"


def _resolve(table: Any, name: str, source: str, base: Path, check_files: bool) -> Any:
    """Make the paths of one table absolute and see that they exist."""
    changes: dict[str, Any] = {}
    for item in fields(table):
        value = getattr(table, item.name)
        if not item.metadata.get("file") or value == "" or value in item.metadata["words"]:
            continue
        where = f"{source}: [{name}] {item.name}"
        if isinstance(value, tuple):
            changes[item.name] = _expand(value, where, base, check_files)
        else:
            path = Path(os.path.normpath(base / Path(value).expanduser()))
            if check_files and not path.exists():
                words = " or ".join(f'"{word}"' for word in item.metadata["words"])
                raise ConfigError(
                    f"{where} = {value!r}: no such file or folder: {path}"
                    + (f"; allowed are also {words}" if words else "")
                )
            changes[item.name] = str(path)
    return replace(table, **changes)


def _expand(patterns: tuple[str, ...], where: str, base: Path, check_files: bool) -> tuple[str, ...]:
    """Files that the patterns match, sorted by name, each once."""
    found: dict[str, None] = {}
    for pattern in patterns:
        full = os.path.normpath(base / Path(pattern).expanduser())
        matches = (
            [full] if Path(full).is_file() else sorted(p for p in glob.glob(full, recursive=True) if Path(p).is_file())
        )
        if not matches and check_files:
            raise ConfigError(f"{where}: nothing matches {pattern!r} (looked for {full})")
        found.update(dict.fromkeys(matches or [full]))
    return tuple(sorted(found, key=lambda path: (Path(path).name, path)))


def render_options(options: Options, notes: bool = False) -> str:
    """The options as TOML, every default written out.

    Parameters
    ----------
    options : Options
        What to write.
    notes : bool
        Add what each table means, as comments.
    """
    lines = []
    for item in fields(options):
        table = getattr(options, item.name)
        assert is_dataclass(table)
        lines.append("")
        if notes:
            lines += [f"# {line.strip()}".rstrip() for line in _note(type(table))]
        lines.append(f"[{item.name}]")
        for key in fields(table):
            value = getattr(table, key.name)
            if value is None:
                lines.append(f"# {key.name} = (not set)")
            else:
                value = list(value) if isinstance(value, tuple) else value
                if isinstance(value, dict):
                    inline = ", ".join(tomli_w.dumps({k: v}).strip() for k, v in value.items())
                    lines.append(f"{key.name} = {{{inline}}}")
                else:
                    lines.append(tomli_w.dumps({key.name: value}).rstrip())
    return "\n".join(lines).lstrip() + "\n"


def _note(table: type) -> list[str]:
    """A table's docstring without its markup."""
    text = re.sub(r"^``\[\w+\]``: ", "", (table.__doc__ or "").strip())
    return text.replace("``", "").splitlines()
