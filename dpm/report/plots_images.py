"""Pictures: one exposure a detector with its detections."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.models.statistics import robust_width
from dpm.report.data import RunData, Sample
from dpm.report.figures import COLORS, Image, add_legend, encode, new_figure, outline

__all__ = ["plot_field"]

logger = logging.getLogger(__name__)

_MAX_SIDE = 620
_MAX_CIRCLES = 300


def plot_field(data: RunData, row: int) -> list[Image]:
    """One exposure in an asinh stretch, whole and magnified, with its detections.

    Parameters
    ----------
    data : RunData
        The run.
    row : int
        Row of the exposure table.

    Returns
    -------
    list of Image
        The whole exposure and a part of it; empty where its cube is absent or has no finite pixel.
    """
    assert data.exposures is not None
    exposure = data.exposures[row]
    pixels = _read_pixels(data, row)
    if pixels is None or not np.isfinite(pixels).any():
        return []
    detections = _detections_of(data, row)
    x_origin, y_origin = int(exposure["x_origin"]), int(exposure["y_origin"])
    name = f"{exposure['exposure']}, {exposure['detector']}, {exposure['filter']}"
    sky, noise = _background(pixels)
    box = _crowded_box(detections, pixels.shape, (x_origin, y_origin))
    whole = _draw_whole(pixels, (x_origin, y_origin), detections, box, (sky, noise), name)
    images = [whole]
    if box is not None and (box[1] - box[0]) < 0.75 * max(pixels.shape):
        compass = _north_and_east(exposure)
        images.append(_draw_box(pixels, (x_origin, y_origin), detections, box, (sky, noise), name, compass))
    return images


def _read_pixels(data: RunData, row: int) -> NDArray[np.float32] | None:
    assert data.exposures is not None
    exposure = data.exposures[row]
    path = data.folder.cubes / str(exposure["cube"])
    if not path.is_dir():
        return None
    from dpm.io.cubes import read_exposure

    try:
        return read_exposure(path, int(exposure["index"])).sci
    except (OSError, ValueError, KeyError, IndexError) as error:
        data.warnings.append(f"{path.name} could not be read: {error}")
        logger.warning("report: %s could not be read: %s", path, error)
        return None


def _detections_of(data: RunData, row: int) -> dict[str, NDArray[Any]]:
    """Raw positions, fluxes and membership of the exposure's detections, brightest first."""
    for sample in data.samples.values():
        mine = sample["exposure"] == row
        if mine.any():
            return _brightest_first(sample, mine)
    empty = np.zeros(0)
    return {"x": empty, "y": empty, "matched": empty.astype(bool)}


def _brightest_first(sample: Sample, chosen: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    order = np.argsort(-np.nan_to_num(sample["flux"][chosen]), kind="stable")
    return {
        "x": sample["x"][chosen][order],
        "y": sample["y"][chosen][order],
        "matched": sample.matched[chosen][order],
    }


def _background(pixels: NDArray) -> tuple[float, float]:
    """Clipped median and scatter of at most a million pixels."""
    values = pixels[np.isfinite(pixels)]
    values = values[:: max(1, values.size // 1_000_000)].astype(float)
    for _ in range(4):
        middle = np.median(values)
        width = robust_width(values, middle)
        kept = np.abs(values - middle) <= 3.5 * width
        if not width > 0 or kept.all():
            break
        values = values[kept]
    return float(np.median(values)), max(robust_width(values), 1e-6)


def _stretch(pixels: NDArray, background: tuple[float, float]) -> NDArray[np.float64]:
    """asinh of the pixels above the sky, in units of its noise, scaled to 0..1; few steps make small files."""
    sky, noise = background
    top = max(float(np.nanpercentile(pixels, 99.7)), sky + 15 * noise)
    with np.errstate(invalid="ignore"):
        scaled = np.arcsinh((pixels - sky - 0.5 * noise).clip(0) / (3 * noise)) / np.arcsinh((top - sky) / (3 * noise))
    return np.round(scaled.clip(0, 1) * 40) / 40


def _binned(pixels: NDArray) -> tuple[NDArray, int]:
    """Block means such that the longer side is at most `_MAX_SIDE`, and the factor."""
    factor = int(np.ceil(max(pixels.shape) / _MAX_SIDE))
    if factor == 1:
        return pixels, 1
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    finite = np.isfinite(blocks)
    count = finite.sum(axis=(1, 3))
    total = np.where(finite, blocks, 0).sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), factor


def _show(
    axes: Any, pixels: NDArray, background: tuple[float, float], extent: tuple[float, float, float, float]
) -> None:
    from matplotlib import colormaps

    colors = colormaps["gray_r"].with_extremes(bad=COLORS["tint"])
    axes.imshow(np.ma.masked_invalid(_stretch(pixels, background)), cmap=colors, vmin=0, vmax=1, extent=extent)
    axes.grid(False)
    axes.set_xlabel("x raw [pixels]")
    axes.set_ylabel("y raw [pixels]")


def _circles(axes: Any, detections: dict[str, NDArray[Any]], chosen: NDArray[np.bool_], size: float) -> None:
    for matched, color, label in (
        (True, COLORS["blue"], "catalogue star"),
        (False, COLORS["vermillion"], "no catalogue star"),
    ):
        some = chosen & (detections["matched"] == matched)
        if some.any():
            axes.scatter(
                detections["x"][some], detections["y"][some], s=size, marker="o" if matched else "s", facecolors="none",
                edgecolors=color, linewidths=0.9, label=f"{label} ({some.sum():,})",
            )  # fmt: skip
    if chosen.any():
        add_legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)


def _draw_whole(
    pixels: NDArray,
    origin: tuple[int, int],
    detections: dict[str, NDArray[Any]],
    box: tuple[float, float, float, float] | None,
    background: tuple[float, float],
    name: str,
) -> Image:
    from matplotlib.patches import Rectangle

    small, factor = _binned(pixels)
    extent = _extent(origin, (small.shape[0] * factor, small.shape[1] * factor))
    figure, axes = new_figure(5.2, float(np.clip(4.6 * pixels.shape[0] / pixels.shape[1] + 0.8, 2.6, 5.8)))
    if factor > 1:
        background = _background(small)
    _show(axes, small, background, extent)
    n = detections["x"].size
    shown = np.arange(n) < _MAX_CIRCLES
    drawn = n <= _MAX_CIRCLES
    if drawn:
        _circles(axes, detections, shown, 26.0)
        note = "All detections are marked."
    else:
        note = f"{n:,} detections: too many to mark here, see the magnified part."
    if box is not None and (box[1] - box[0]) < 0.75 * max(pixels.shape):
        axes.add_patch(
            Rectangle((box[0], box[2]), box[1] - box[0], box[3] - box[2], fill=False, ec=COLORS["orange"], lw=1.4)
        )
        note += " The orange frame is the magnified part."
    axes.set_xlim(*extent[:2])
    axes.set_ylim(*extent[2:])
    return encode(figure, f"Exposure {name}, whole", f"{name}. {note}", colors=48)


def _draw_box(
    pixels: NDArray,
    origin: tuple[int, int],
    detections: dict[str, NDArray[Any]],
    box: tuple[float, float, float, float],
    background: tuple[float, float],
    name: str,
    compass: tuple[NDArray, NDArray] | None,
) -> Image:
    first_x, first_y = int(box[0] + 0.5) - origin[0], int(box[2] + 0.5) - origin[1]
    side_x, side_y = round(box[1] - box[0]), round(box[3] - box[2])
    part = pixels[first_y : first_y + side_y, first_x : first_x + side_x]
    figure, axes = new_figure(5.2, 5.4)
    _show(axes, part, background, _extent((first_x + origin[0], first_y + origin[1]), part.shape))
    inside = (
        (detections["x"] > box[0])
        & (detections["x"] < box[1])
        & (detections["y"] > box[2])
        & (detections["y"] < box[3])
    )
    _circles(axes, detections, inside, float(np.clip((1600.0 / side_x) ** 2, 25, 400)))
    if compass is not None:
        for direction, letter in zip(compass, "NE"):
            step = 0.11 * side_x * direction
            base = np.array([box[0] + 0.16 * side_x, box[2] + 0.16 * side_y])
            axes.annotate(
                "",
                base + step,
                base,
                arrowprops={"arrowstyle": "->", "color": COLORS["green"], "lw": 1.6, "path_effects": outline()},
            )
            look = {"color": COLORS["green"], "weight": "bold", "ha": "center", "va": "center"}
            axes.text(*(base + 1.3 * step), letter, path_effects=outline(), **look)
    axes.set_xlim(box[0], box[1])
    axes.set_ylim(box[2], box[3])
    note = f"Magnified: {side_x} × {side_y} pixels of {name}. asinh stretch; pixels without value are tinted."
    return encode(figure, f"Exposure {name}, magnified with detections", note, colors=64)


def _extent(origin: tuple[int, int], shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Edges of the array in raw pixel coordinates, in which the centre of a pixel is a whole number."""
    return origin[0] - 0.5, origin[0] + shape[1] - 0.5, origin[1] - 0.5, origin[1] + shape[0] - 0.5


def _crowded_box(
    detections: dict[str, NDArray[Any]], shape: tuple[int, ...], origin: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """A square with some forty detections where they are densest: first and last edge in x, then in y."""
    matched = detections["matched"]
    x, y = detections["x"][matched], detections["y"][matched]
    if x.size < 3:
        x, y = detections["x"], detections["y"]
    if x.size == 0 or min(shape) < 24:
        return None
    side = int(np.clip(np.sqrt(40.0 * shape[0] * shape[1] / x.size), 40, 160))
    side = min(side, *shape)
    columns, rows = max(1, shape[1] // side), max(1, shape[0] // side)
    counts, _, _ = np.histogram2d(
        x - origin[0] + 0.5, y - origin[1] + 0.5, bins=(columns, rows), range=((0, columns * side), (0, rows * side))
    )
    column, row = np.unravel_index(int(np.argmax(counts)), counts.shape)
    left, bottom = origin[0] + int(column) * side - 0.5, origin[1] + int(row) * side - 0.5
    return left, left + side, bottom, bottom + side


def _north_and_east(exposure: Any) -> tuple[NDArray, NDArray] | None:
    """Unit vectors of North and East in raw pixels; the master frame has North up and East left."""
    if not {"a", "b", "c", "d"} <= set(exposure.colnames):
        return None
    matrix = np.array([[exposure["a"], exposure["b"]], [exposure["c"], exposure["d"]]], dtype=float)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        return None
    north, east = np.linalg.solve(matrix, [0.0, 1.0]), np.linalg.solve(matrix, [-1.0, 0.0])
    return north / np.hypot(*north), east / np.hypot(*east)
