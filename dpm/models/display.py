"""What notebooks show of a model: a small table and a picture, as HTML that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["card", "picture"]


def card(title: str, facts: Mapping[str, Any], *pictures: str) -> str:
    """A title, a table of facts and pictures beside it; all text is escaped.

    Parameters
    ----------
    title : str
    facts : mapping
        Shown with `str`.
    *pictures : str
        As `picture` gives them.
    """
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items())
    return (
        f"<div><b>{html.escape(title)}</b><div style='display:flex;gap:24px;flex-wrap:wrap;align-items:flex-start'>"
        f"<table>{rows}</table>{''.join(pictures)}</div></div>"
    )


def picture(
    values: NDArray[np.floating[Any]], low: float, high: float, colors: str, caption: str, size: tuple[int, int] = (260, 260)
) -> str:
    """An array as a picture, its first row at the bottom.

    Parameters
    ----------
    values : ndarray (ny, nx)
    low, high : float
        Values of the first and the last colour.
    colors : str
        Name of a matplotlib colour map.
    caption : str
    size : tuple of int
        Width and height on the page, CSS pixels.
    """
    from matplotlib import image

    stream = io.BytesIO()
    image.imsave(stream, values, vmin=low, vmax=high, cmap=colors, origin="lower", format="png")
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    text = html.escape(caption)
    return (
        f"<figure style='margin:0'><img src='data:image/png;base64,{data}' alt='{text}' width='{size[0]}' height='{size[1]}' "
        f"style='image-rendering:pixelated'><figcaption style='max-width:{max(size[0], 200)}px'>{text}</figcaption></figure>"
    )
