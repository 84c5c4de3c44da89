"""The truth beside the files: scene.json, stars.ecsv, one npz an exposure, epsf_*.npz and distortion_*.npz.

Pipeline code never opens it.  Positions in the npz files are raw, 0-based; counts are electrons of the exposure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dpm.simulate.geometry import Distortion
from dpm.simulate.instruments import Instrument
from dpm.simulate.optics import OVERSAMPLE, EpsfGrid
from dpm.simulate.options import SimulationOptions, Visit

__all__ = ["scene", "write_distortion", "write_epsf"]


def write_epsf(path: Path, grid: EpsfGrid, half: int = 24) -> None:
    """ePSFs at 4x, ``half`` pixels either side; ``nodes`` are those of x, and of y too where the frame is square."""
    values = grid.crop(half, OVERSAMPLE // 4).astype(np.float32)
    np.savez_compressed(path, epsf=values, oversample=4, nodes=grid.x_nodes, nodes_y=grid.y_nodes)


def write_distortion(path: Path, distortion: Distortion) -> None:
    """Ideal to raw on a grid."""
    np.savez_compressed(path, **distortion.truth_grid())  # type: ignore[arg-type]


def scene(
    options: SimulationOptions, visit: Visit, camera: Instrument, n_pixels: int, exposures: list[dict[str, Any]]
) -> dict[str, Any]:
    """Contents of scene.json for one visit."""
    effects = options.effects
    first = camera.filters[visit.filter_names[0]]
    # readers of these files know the instruments NIRISS and NIRCAM; the pixel scale says which camera it really is
    instrument = camera.header_instrument if camera.is_jwst else "NIRCAM"
    return {
        "args": {
            "seed": options.seed, "instrument": instrument.upper(), "npix": n_pixels,
            "filters": ",".join(visit.filter_names), "nstar": options.n_stars, "ndither": visit.n_dithers,
            "dither": visit.dither, "exptime": visit.exptime, "epoch": visit.epoch, "ref_epoch": options.ref_epoch,
            "faint": options.magnitudes[1], "breathing": effects.breathing, "cr": effects.cosmic_rays,
            "ramp": camera.poisson_factor, "galaxies": effects.galaxies,
        },
        "camera": camera.name, "exposures": exposures,
        "zero_points": {name: camera.filters[name].zero_point for name in visit.filter_names},
        "gain": camera.gain, "read_noise": camera.read_noise, "poisson_factor": camera.poisson_factor,
        "sky": first.sky, "saturation": camera.saturation, "pixel_scale": camera.pixel_scale,
    }  # fmt: skip
