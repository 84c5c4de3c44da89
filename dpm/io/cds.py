"""Fixed-width tables and their byte-by-byte descriptions, as the CDS (its standard for catalogues) and the journals have them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

__all__ = ["LINE", "CdsTable", "byte_by_byte", "file_summary", "format_table"]

LINE = 80  # characters of a ReadMe's lines
# Digits after the point by unit: a tenth of the smallest errors at least; positions in degrees to 0.4 microarcseconds.
DECIMALS = {"deg": 10, "mas": 4, "mas / yr": 5, "pix": 6, "mag": 5, "yr": 5, "": 5}
EXPONENTIAL_DIGITS = 7  # significant, where no fixed point serves
LARGEST_FIXED = 1e7
# The standard has counts alone: what they are stands in the explanation.
COUNTS = {"DN": "ct", "electron": "ct"}
NULL_MARK = "? "
SHORTEST_TEXT = 20  # characters of an explanation's line, however long the labels are
TIE = "\x00"
MAGNITUDE = re.compile(r"(?:.*_)?mag$")


@dataclass(frozen=True)
class CdsTable:
    """A table as lines of equal length.

    Parameters
    ----------
    name : str
        File name.
    title : str
        One line.
    lines : list of str
    columns : list of tuple
        First and last byte, format, unit, label, explanation.
    """

    name: str
    title: str
    lines: list[str]
    columns: list[tuple[int, int, str, str, str, str]]

    @property
    def width(self) -> int:
        return self.columns[-1][1] if self.columns else 0

    @property
    def content(self) -> bytes:
        return "".join(f"{line}\n" for line in self.lines).encode("ascii")


def format_table(table: Table, name: str, title: str) -> CdsTable:
    """Format every column with as many digits as its unit needs; what is not finite is blank.

    Parameters
    ----------
    table : astropy.table.Table
        Columns of numbers, booleans and text, with units and descriptions.
    name : str
        Of the file.
    title : str
    """
    texts, columns, start = [], [], 1
    for label in table.colnames:
        column = table[label]
        unit = "" if column.unit is None else str(column.unit)
        values, kind, missing = _texts(np.asarray(column), unit)
        width = max(int(np.char.str_len(values).max(initial=0)), 1)
        if len(values):
            texts.append(np.char.rjust(values, width) if kind[0] != "A" else np.char.ljust(values, width))
        explanation = _explanation(column, unit)
        code = kind.replace("*", str(width))
        columns.append((start, start + width - 1, code, _unit(unit), label, NULL_MARK * missing + explanation))
        start += width + 1
    lines = [" ".join(row) for row in zip(*(text.tolist() for text in texts))]
    return CdsTable(name, title, lines, columns)


def byte_by_byte(table: CdsTable) -> list[str]:
    """The description of a file, as lines."""
    digits = max(len(str(table.width)), 2)
    label = max(len("Label"), *(len(entry[4]) for entry in table.columns))
    unit = max(len("Units"), *(len(entry[3]) for entry in table.columns))
    code = max(len("Format"), *(len(entry[2]) for entry in table.columns))
    head = f"{'Bytes':>{2 * digits + 2}} {'Format':<{code}} {'Units':<{unit}} {'Label':<{label}} Explanations"
    rule = "-" * LINE
    out = [f"Byte-by-byte Description of file: {table.name}", rule, head, rule]
    for first, last, form, of, name, text in table.columns:
        place = f"{last:>{2 * digits + 1}}" if first == last else f"{first:>{digits}}-{last:>{digits}}"
        start = f" {place} {form:<{code}} {of:<{unit}} {name:<{label}} "
        out += _wrapped(start, text)
    return [*out, rule]


def file_summary(tables: Sequence[CdsTable], others: Sequence[tuple[str, str]]) -> list[str]:
    """The list of files, as lines: name, length of a line, lines, title."""
    width = max([len("FileName"), *(len(table.name) for table in tables), *(len(name) for name, _ in others)])
    rule = "-" * LINE
    out = ["File Summary:", rule, f" {'FileName':<{width}} {'Lrecl':>6} {'Records':>8}  Explanations", rule]
    rows = [("ReadMe", str(LINE), ".", "This file")]
    rows += [(table.name, str(table.width), str(len(table.lines)), table.title) for table in tables]
    rows += [(name, ".", ".", title) for name, title in others]
    for name, length, number, title in rows:
        start = f" {name:<{width}} {length:>6} {number:>8}  "
        out += _wrapped(start, title)
    return [*out, rule]


def _wrapped(start: str, text: str) -> list[str]:
    """The text after ``start``, going on below at the same column; a line that a reader could take for a column is none."""
    indent, width = " " * len(start), max(LINE - len(start), SHORTEST_TEXT)
    # Readers know a column's line by the number that it begins with: numbers stay with the word before them.
    tied = re.sub(r" (?=[0-9])", TIE, text)
    parts = textwrap.wrap(tied, width, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{lead}{part}".replace(TIE, " ").rstrip() for lead, part in zip([start] + [indent] * len(parts), parts)]


def _texts(values: NDArray, unit: str) -> tuple[NDArray[np.str_], str, bool]:
    """A column's texts, its format with ``*`` for the width, and whether it has gaps."""
    if values.dtype.kind == "b":
        return values.astype(int).astype(str), "I*", False
    if values.dtype.kind in "iu":
        return values.astype(str), "I*", False
    if values.dtype.kind == "U":
        return np.char.encode(values, "ascii", "replace").astype(str), "A*", bool((np.char.str_len(values) == 0).any())
    known = np.isfinite(values)
    wide = values.astype(float)
    decimals = DECIMALS.get(unit)
    if decimals is None or np.abs(wide[known]).max(initial=0.0) >= LARGEST_FIXED:
        decimals, form = EXPONENTIAL_DIGITS - 1, "E"
    else:
        form = "F"
    texts = np.char.mod(f"%.{decimals}{form.lower()}", wide)
    return np.where(known, texts, "").astype(str), f"{form}*.{decimals}", not bool(known.all())


def _unit(unit: str) -> str:
    """As the standard writes it; ``---`` for none."""
    return "".join(COUNTS.get(word, word) for word in unit.split()) or "---"


def _explanation(column: Table.Column, unit: str) -> str:
    text = str(column.description or column.name)
    for word in COUNTS:
        if word in unit.split():
            text += f"; counts are {word}"
    system, zero = column.meta.get("system"), column.meta.get("zero_point")
    if system and MAGNITUDE.match(column.name):
        text = f"{system} {text.partition(';')[0]}"
        text += f", zero point {zero:.4f}" if zero is not None and np.isfinite(zero) else ""
    return text.encode("ascii", "replace").decode("ascii")
