"""One section of the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpm.report.figures import Image
from dpm.report.inline import section_html
from dpm.report.summary import HtmlTable

__all__ = ["MAX_MAPS", "Section", "some"]

MAX_MAPS = 24  # pictures of detectors in a section, so that the page stays small


@dataclass
class Section:
    """One section: words on how to read it, pictures, tables; ``absent`` says why it is empty.

    ``folded`` tables open on a click; ``wide`` pictures stand two in a row instead of three; ``links``: address from the report's
    folder, and words.
    """

    anchor: str
    title: str
    text: str = ""
    images: list[Image] = field(default_factory=list)
    tables: list[HtmlTable] = field(default_factory=list)
    absent: str = ""
    folded: bool = False
    wide: bool = False
    links: list[tuple[str, str]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing to show."""
        return not self.images and not self.tables

    def _repr_html_(self) -> str:
        return section_html(self)


def some(image: Image | None) -> list[Image]:
    """The picture in a list, or an empty list where there is none."""
    return [] if image is None else [image]
