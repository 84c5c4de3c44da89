"""The one registry of bits: what a pixel's, a detection's and a star's flags mean.

``PixelFlag`` is the common language into which ingest translates every instrument's DQ plane; ``StarFlag`` goes into the
``flags`` column of the detections and of the catalogue.  Documentation is made from the member docstrings below.
"""

from __future__ import annotations

from enum import IntFlag

__all__ = ["PIXEL_FLAG_MEANINGS", "STAR_FLAG_MEANINGS", "PixelFlag", "StarFlag", "describe_flags"]


class PixelFlag(IntFlag):
    """Meaning of the bits of a cube's ``dq`` plane (uint8)."""

    BAD = 1
    SATURATED = 2
    JUMP = 4
    SHORT_RAMP = 8
    COSMIC_RAY = 16
    WARM = 32


PIXEL_FLAG_MEANINGS: dict[PixelFlag, str] = {
    PixelFlag.BAD: "carries no information and gets no weight (every pixel without weight has this bit)",
    PixelFlag.SATURATED: "reached saturation; with BAD the value is lost, without BAD it comes from the reads before",
    PixelFlag.JUMP: "a cosmic ray hit the ramp; without BAD the value comes from the unhurt reads",
    PixelFlag.SHORT_RAMP: "a valid value from fewer reads than its neighbours, down to frame zero",
    PixelFlag.COSMIC_RAY: "a cosmic ray rejected by comparing exposures (HST)",
    PixelFlag.WARM: "warm or hot, dark-subtracted and usable",
}


class StarFlag(IntFlag):
    """Meaning of the bits of ``flags`` in the detections and in the catalogue (int32)."""

    SATURATED = 1
    SHORT_RAMP = 2
    MASKED_PIXELS = 4
    EDGE = 8
    FEW_PIXELS = 16
    NOT_CONVERGED = 32
    NEIGHBOR = 64
    NEAR_SATURATED = 128
    SKY_UNCERTAIN = 256
    EPSF_EXTRAPOLATED = 512
    EXTENDED = 1024
    SHARP = 2048
    NOISE_FALLBACK = 4096
    FEW_EXPOSURES = 8192
    CLIPPED = 16384
    NOISE_RAISED = 32768
    POSITION_RELATIVE = 65536
    DISTORTION_EXTRAPOLATED = 131072
    GROUP_CUT = 262144
    HIDDEN_NEIGHBOR = 524288


STAR_FLAG_MEANINGS: dict[StarFlag, str] = {
    StarFlag.SATURATED: "core pixels are saturated and without weight: measured from the wings alone",
    StarFlag.SHORT_RAMP: "the fit used pixels from a shorter ramp (before a jump or before saturation)",
    StarFlag.MASKED_PIXELS: "at least one pixel of the fit box carried no weight",
    StarFlag.EDGE: "the fit box is cut by the edge of the detector",
    StarFlag.FEW_PIXELS: "few usable pixels in the fit box: position and flux are weakly determined",
    StarFlag.NOT_CONVERGED: "the fit stopped before the step was small; position and flux are the last ones",
    StarFlag.NEIGHBOR: "another star's light was subtracted from the fit box and is more than a tenth of the star's own there",
    StarFlag.NEAR_SATURATED: "inside the halo, a spike or a bleed column of a saturated star",
    StarFlag.SKY_UNCERTAIN: "too few clean pixels in the sky annulus; a wider sky was used",
    StarFlag.EPSF_EXTRAPOLATED: "the ePSF here is extrapolated or made quickly from this data set alone",
    StarFlag.EXTENDED: "excess light around the core (RADXS): a galaxy or an unresolved pair",
    StarFlag.SHARP: "sharper than the ePSF (RADXS): likely a cosmic ray or a hot pixel",
    StarFlag.NOISE_FALLBACK: "errors rest on a gain and read noise guess, since the file has no usable variances",
    StarFlag.FEW_EXPOSURES: "fewer exposures than asked for: the scatter over exposures says little",
    StarFlag.NOISE_RAISED: "the sky about the star scatters clearly more than the file's noise planes: errors were raised to match",
    StarFlag.POSITION_RELATIVE: (
        "no reference catalogue measured the distortion that is left, or it is of another epoch and has no motions: position "
        "errors hold only what differs between exposures"
    ),
    StarFlag.DISTORTION_EXTRAPOLATED: (
        "on a part of the detector where the solved distortion rests on no star near, or errs by more than three times its usual "
        "error: its position is extrapolated"
    ),
    StarFlag.GROUP_CUT: (
        "more neighbours within three pixels than are fitted together: errors hold the covariance with the nearest ones alone"
    ),
    StarFlag.HIDDEN_NEIGHBOR: (
        "a neighbour within two pixels was measured at another epoch alone: where it was not, its light is in the star's position "
        "and flux; position errors hold the shift that this may be"
    ),
    StarFlag.CLIPPED: "at least one exposure was left out of the average as discrepant",
}


def describe_flags(value: int, meanings: dict = STAR_FLAG_MEANINGS) -> list[str]:
    """Words for every bit that is set.

    Parameters
    ----------
    value : int
        A flags value from a table.
    meanings : dict
        `STAR_FLAG_MEANINGS` (default) or `PIXEL_FLAG_MEANINGS`.

    Returns
    -------
    list of str
        ``"NAME: meaning"`` for each set bit, lowest bit first.
    """
    return [f"{flag.name}: {text}" for flag, text in meanings.items() if int(value) & int(flag)]
