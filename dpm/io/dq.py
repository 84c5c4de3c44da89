"""Every instrument's DQ bits in the project's own terms (`dpm.models.flags.PixelFlag`).

JWST bits are those of the ``jwst`` pipeline's data-quality definitions; HST bits those of the instruments' Data Handbooks.
The NICMOS bits were compared with the NQUALnn keywords of a real file.  The ACS and WFC3 bits were written down without the
handbooks at hand and want checking against them.

Decisions that the handbooks leave open: stable hot pixels (bit 16 of ACS and UVIS) are dark-subtracted and usable, as
in AstroDrizzle's present defaults, and get WARM; unstable ones (32) and charge traps (1024) are not; WFC3/IR blobs
(512) are flat-fielded and usable.  A cosmic ray found up the ramp (WFC3/IR 8192, NICMOS 512) leaves a valid value
(SHORT_RAMP where TIME says that much was lost).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpm.models.flags import PixelFlag

__all__ = ["HST_TABLES", "translate_hst", "translate_jwst"]

_BAD = PixelFlag.BAD
_SATURATED = PixelFlag.SATURATED | PixelFlag.BAD
_RAY = PixelFlag.COSMIC_RAY | PixelFlag.BAD

_CCD: dict[int, PixelFlag] = {
    1: _BAD,  # Reed-Solomon decoding error
    2: _BAD,  # lost data replaced by a fill value
    4: _BAD,  # bad detector pixel, or vignetted
    16: PixelFlag.WARM,  # hot, stable
    32: _BAD,  # unstable between anneals
    64: PixelFlag.WARM,  # warm
    128: _BAD,  # bad in the bias reference
    256: _SATURATED,  # full well
    512: _BAD,  # bad or uncertain flat
    1024: _BAD,  # charge trap (sink pixel)
    2048: _SATURATED,  # analogue-to-digital converter
    4096: _RAY,  # AstroDrizzle
    8192: _RAY,  # combination of a CR-SPLIT
    16384: _BAD,  # cross-talk, ghost or satellite trail
}

HST_TABLES: dict[str, dict[int, PixelFlag]] = {
    "WFC1": _CCD,
    "WFC2": _CCD,
    "UVIS1": _CCD,
    "UVIS2": _CCD,
    "WFC3IR": {
        1: _BAD,
        2: _BAD,
        4: _BAD,
        8: _BAD,  # deviant zero read
        16: PixelFlag.WARM,  # hot
        32: _BAD,  # unstable response
        64: PixelFlag.WARM,
        128: _BAD,  # bad reference pixel
        256: _SATURATED,
        4096: _RAY,
        8192: PixelFlag.JUMP,
        16384: _BAD,
    },
    "NICMOS": {
        1: _BAD,
        2: _BAD,  # linearity correction failed
        4: _BAD,  # dark
        8: _BAD,  # flat
        16: _BAD,  # grot
        32: _BAD,  # defective
        64: _SATURATED,
        128: _BAD,  # missing
        256: _BAD,  # no good read
        512: PixelFlag.JUMP,
        4096: _RAY,
        16384: _BAD,
    },
}

_DO_NOT_USE, _SATURATED_BIT, _JUMP, _CHARGE_LOSS, _HOT, _WARM = 1, 2, 4, 128, 2048, 4096


def translate_hst(dq: NDArray, sci: NDArray[np.float32], detector: str) -> NDArray[np.uint8]:
    """PixelFlag plane of an HST exposure.

    Parameters
    ----------
    dq : ndarray (ny, nx), integer
        The file's DQ plane.
    sci : ndarray (ny, nx), float32
        The image: a value that is not finite is BAD.
    detector : str
        Name in `dpm.models.detectors`.
    """
    table = HST_TABLES["NICMOS" if detector.startswith("NIC") else detector]
    bits = dq.astype(np.int32)
    flags = np.zeros(dq.shape, dtype=np.uint8)
    present = int(np.bitwise_or.reduce(bits, axis=None)) if bits.size else 0
    for bit, meaning in table.items():
        if present & bit:
            flags[(bits & bit) != 0] |= np.uint8(meaning)
    flags[~np.isfinite(sci)] |= np.uint8(_BAD)
    return flags


def translate_jwst(dq: NDArray, sci: NDArray[np.float32]) -> NDArray[np.uint8]:
    """PixelFlag plane of a JWST exposure: BAD only for DO_NOT_USE or a value that is not finite (DESIGN section 4).

    JUMP_DET, SATURATED and CHARGELOSS without DO_NOT_USE mean that the slope comes from the reads before: SHORT_RAMP.
    Parameters are those of `translate_hst`.
    """
    bits = dq.astype(np.uint32)
    bad = ((bits & _DO_NOT_USE) != 0) | ~np.isfinite(sci)
    saturated = (bits & _SATURATED_BIT) != 0
    jump = (bits & _JUMP) != 0
    short = (saturated | jump | ((bits & _CHARGE_LOSS) != 0)) & ~bad
    warm = (bits & (_HOT | _WARM)) != 0
    flags = np.zeros(dq.shape, dtype=np.uint8)
    for mask, meaning in (
        (bad, PixelFlag.BAD),
        (saturated, PixelFlag.SATURATED),
        (jump, PixelFlag.JUMP),
        (short, PixelFlag.SHORT_RAMP),
        (warm, PixelFlag.WARM),
    ):
        flags[mask] |= np.uint8(meaning)
    return flags
