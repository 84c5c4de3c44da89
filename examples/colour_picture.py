"""A picture as in paper 1's figures A4 and A5: red and blue stacks, green their mean, 1:3, in Lupton's stretch.

python colour_picture.py RED.fits BLUE.fits picture.png      # or RED GREEN BLUE; any images on one grid, sky subtracted

The stacks of a run are images/atlas_<band>.fits; `run.atlas.cutout(band, box)` gives any part of them in a notebook.
"""

import sys

import numpy as np
from astropy.io import fits
from PIL import Image

from dpm.science.colour_images import colour_image, colour_planes, learn_colour_scale


def main(*paths: str) -> None:
    *names, output = paths
    images = [np.asarray(fits.getdata(name), float) for name in names]  # the first image of each file
    scale = learn_colour_scale(*images)
    # Deeper or shallower: dataclasses.replace(scale, stretch=...); whiter or bluer: other factors.
    picture = colour_image(colour_planes(scale, *images), scale)
    Image.fromarray(picture[::-1]).save(output)
    factors = ", ".join(f"{name} x {factor:.4g}" for name, factor in zip(names, scale.factors))
    print(f"{output}: {factors}; black {scale.black:.4g}, stretch {scale.stretch:.4g}, softening {scale.softening:g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
