"""Every instrument's DQ bits in the project's own terms (`dpm.models.flags.PixelFlag`).

The bits were compared with these definitions:

- JWST: the ``pixel`` table of the package ``stdatamodels`` (``jwst/datamodels/dqflags.py``).
- ACS: STScI's web page "ACS Data Quality Flags" (dq-flag-definitions), ``acsdq.h`` and ``dosink.c`` of ``hstcal``.
- WFC3: ``wf3dq.h``, ``pixcheck.c``, ``cridcalc.c`` and ``dodqi.c`` of ``hstcal`` (calwf3).
- NICMOS: ``calnic.h``, ``n_pixcheck.c`` and the help page of calnica in STSDAS, and the NQUALnn keywords of a real file.

What they leave open is decided here.

- Hot pixels (bit 16 of ACS and WFC3) are stable and dark-subtracted: usable, as in the bits that ``drizzlepac`` takes for good
  in its pipeline products (16 for all, 64 for the CCDs, 512 for WFC3/IR).  Bit 32 is unstable dark current; in older
  calibrations of the CCDs it was the trail of a hot pixel, and is given up there too.
- A CCD's full well (256) keeps the charge, but neighbours share it by bleeding: no value for a fit of the core, as beyond the
  converter's 65,535 DN (2048).  In an up-the-ramp image the saturation bit stays only where no unsaturated read gave a value.
- WFC3/IR blobs (512) are flat-fielded and usable; signal in the zeroth read (2048, and 2048 of NICMOS) is no defect.
- Cosmic rays up the ramp leave no bit in ``_flt`` and ``_cal``: they are marked in the single reads (``_ima``), and the slope comes
  from the reads beside them.  A bit in the final image (WFC3/IR 8192, NICMOS 512) is therefore a rejection between exposures.
- NICMOS grot (16), flakes that dim the light behind them, is a mere warning to calnica; for photometry it is BAD.
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
    8: _BAD,  # behind an occulting feature
    16: PixelFlag.WARM,  # hot, stable (ACS: dark current above 0.14 e-/s)
    32: _BAD,  # unstable dark current
    64: PixelFlag.WARM,  # warm (ACS: 0.06 to 0.14 e-/s)
    128: _BAD,  # structure of the bias: bad or unstable columns
    256: _SATURATED,  # full well
    512: _BAD,  # bad or uncertain flat
    1024: _BAD,  # charge trap (sink pixel), and the pixels that it drains
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
        1: _BAD,  # Reed-Solomon decoding error
        2: _BAD,  # lost data replaced by a fill value
        4: _BAD,  # bad detector pixel
        8: _BAD,  # deviant zero read
        16: PixelFlag.WARM,  # hot, stable
        32: _BAD,  # unstable, or a ramp with more cosmic rays than can be
        64: PixelFlag.WARM,
        128: _BAD,  # bad reference pixel
        256: _SATURATED,  # already in the zeroth read
        4096: _RAY,  # AstroDrizzle
        8192: _RAY,  # combination of repeated exposures
        16384: _BAD,  # cross-talk or ghost
    },
    "NICMOS": {
        1: _BAD,  # Reed-Solomon decoding error
        2: _BAD,  # poor linearity correction
        4: _BAD,  # poor dark
        8: _BAD,  # poor flat
        16: _BAD,  # grot
        32: _BAD,  # hot or cold
        64: _SATURATED,
        128: _BAD,  # lost in transmission
        256: _BAD,  # found bad during calibration
        512: _RAY,
        4096: _RAY,  # AstroDrizzle
        16384: _BAD,  # curved ramp
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
