"""The atlas in the report: its pictures, links to the pages that zoom, and a table of its files."""

from __future__ import annotations

import base64
import io
import logging

from dpm.io.atlas_files import AtlasFiles
from dpm.report.data import RunData, band_label
from dpm.report.figures import Image
from dpm.report.summary import HtmlTable

__all__ = ["plot_pictures", "stack_table"]

logger = logging.getLogger(__name__)

SIDE = 1400  # pixels of the longer side of a picture on the page
COLORS = 224  # of its palette: a third of the bytes of a plain one


def plot_pictures(data: RunData) -> tuple[list[Image], list[tuple[str, str]]]:
    """Pictures of the atlas, and links to their pages."""
    from PIL import Image as Picture

    images, links = [], []
    for path in sorted(data.folder.images.glob("atlas_*.png")):
        name = path.stem.removeprefix("atlas_")
        try:
            with Picture.open(path) as picture:
                whole = picture.size
                picture.thumbnail((SIDE, SIDE), Picture.Resampling.BOX)
                small = picture.quantize(COLORS, method=Picture.Quantize.MEDIANCUT, dither=Picture.Dither.NONE)
        except (OSError, ValueError) as error:
            data.warnings.append(f"{path.name} could not be read: {error}")
            logger.warning("report: %s could not be read: %s", path, error)
            continue
        stream = io.BytesIO()
        small.save(stream, format="PNG", optimize=True)
        words = f"{name.replace('_', ' ')}: {whole[0]:,} × {whole[1]:,} pixels, North up, East left."
        encoded = base64.b64encode(stream.getvalue()).decode("ascii")
        images.append(Image(encoded, round(0.75 * small.width), round(0.75 * small.height), f"The field, {name}", words))
        if (data.folder.atlas_pages / name / "index.html").is_file():
            links.append((f"../images/atlas/{name}/index.html", f"Zoom into the {name.replace('_', ' ')} picture"))
    return images, links


def stack_table(data: RunData) -> HtmlTable:
    """One row a FITS file."""
    atlas = AtlasFiles(data.folder)
    drops = float(atlas.index.meta["pixfrac"])
    scale = f"{1000 * atlas.frame.scale:.1f} mas a pixel, drops of {drops:g} of the exposures' pixels"
    rows = []
    for row in atlas.index:
        year = f"{float(row['epoch']):.2f}"
        size = f"{int(row['nx']):,} × {int(row['ny']):,}"
        counts = str(int(row["n_exposures"])), f"{float(row['median_exposures']):g}"
        rows.append([band_label(str(row["band"])), year, *counts, size, str(row["file"])])
    head = ["Band", "Epoch", "Exposures", "Exposures in a pixel (median)", "Pixels", "File"]
    caption = f"Stacks: {scale}. Planes: SCI, ERR, WHT, NEXP; the table EXPOSURES tells the skies that were subtracted."
    return HtmlTable(head, rows, frozenset({1, 2, 3}), caption)
