"""STDPSF files: Anderson's ePSF libraries, read with their faults and written for other programs to read.

Format (no written standard; read off real files): FITS primary array, float32, (node, y, x) with nodes x fastest, 101 x 101
samples, 4 a pixel, the star at 0-based index 50; ``NXPSFS``, ``NYPSFS``; node positions ``IPSFX01`` ..., ``JPSFY01`` ... in 1-based
detector pixels, padded with 9999.  Faults met in real files: an odd trailing byte or a missing END card, mixed-case keywords,
values of +-0.1 in the border ring, two nodes at one place, nodes at 0.

The 1-based node positions become 0-based here, and nowhere else.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from dpm.io.atomic import replacing
from dpm.io.errors import InputError
from dpm.io.quiet import ignored
from dpm.kernels.epsf import OVERSAMPLING, SAMPLES
from dpm.models.epsf import GriddedEPSF, centre_samples

__all__ = ["read_flux_error", "read_model_error", "read_pair_id", "read_stdpsf", "write_stdpsf"]

BORDER_RADIUS = 12.0  # pixels; real files hold garbage in the ring beyond
TAPER_RADIUS = 11.5  # pixels; from here the ePSF goes smoothly to zero at the border
PADDED_NODE = 9999
CHIP_GAP = 1.5  # pixels; nodes as close as this in y belong to two chips stacked in one file
WEAK_BITS = 128  # nodes a key: one card holds 32 hexadecimal digits and its comment
BLOCK = 2880
CARD = 80


def read_stdpsf(
    path: str | Path, rows: tuple[float, float] | None = None, y_offset: float = 0.0, centre: bool = True
) -> GriddedEPSF:
    """Read an ePSF library.

    Parameters
    ----------
    path : str or Path
        STDPSF (or PSFSTD) file.
    rows : tuple of float, optional
        Keep only the nodes of one chip of a stacked pair: library rows (0-based) from, to.
    y_offset : float
        Library row of the detector's row 0; subtracted from the nodes' y.
    centre : bool
        Centre every node as DESIGN section 4 asks (psi equal at +-0.5 pixel).

    Returns
    -------
    GriddedEPSF
        Nodes 0-based.

    Raises
    ------
    InputError
        Naming the file and the key, if it is no STDPSF file.
    """
    path = Path(path)
    header, cube = _read_primary(path)
    node_x = _nodes(header, "NXPSFS", r"IPSFX", path)
    node_y = _nodes(header, "NYPSFS", r"JPSFY", path)
    if cube.ndim == 2:
        cube = cube[None]
    if cube.ndim == 4:
        raise InputError(
            path, "NAXIS4", "this is a focus-dependent library (STDPBF)", "choose one focus level and give its STDPSF file"
        )
    if cube.shape != (node_x.size * node_y.size, SAMPLES, SAMPLES):
        raise InputError(
            path,
            "NAXIS3",
            f"array of shape {cube.shape} does not hold {node_x.size} x {node_y.size} ePSFs of 101 x 101 samples",
            "give a whole STDPSF file",
        )
    samples = _mask_border(cube.reshape(node_y.size, node_x.size, SAMPLES, SAMPLES))
    if not np.all(np.isfinite(samples)):
        raise InputError(path, "PRIMARY", "the ePSF holds values that are not finite", "give another library")
    if rows is not None:
        samples, node_y = _one_chip(samples, node_y, rows)
    keep_x, keep_y = _ascending(node_x), _ascending(node_y)
    samples, node_x, node_y = samples[np.ix_(keep_y, keep_x)], node_x[keep_x], node_y[keep_y] - y_offset
    if centre:
        for index in np.ndindex(*samples.shape[:2]):
            samples[index] = centre_samples(samples[index])[0]
    approximate = str(header.get("DPMAPPRX", "F")).strip().upper().startswith("T")
    weak = _weak_nodes(header, cube.shape[0])
    return GriddedEPSF(
        samples, node_x, node_y, source=str(path), approximate=approximate,
        model_error=float(str(header.get("DPMERROR", 0.0))), weak_nodes=weak,
    )  # fmt: skip


def read_model_error(path: str | Path) -> float:
    """Error of an ePSF relative to its value, as its maker knew it; 0 for a library without that key or no file."""
    path = Path(path)
    return float(str(_read_primary(path)[0].get("DPMERROR", 0.0))) if path.exists() else 0.0


def read_flux_error(path: str | Path) -> float:
    """Relative error of bright stars' fluxes that an ePSF's own error brings (`GriddedEPSF.flux_error`); 0 where unknown."""
    return read_stdpsf(path, centre=False).flux_error if read_model_error(path) else 0.0


def read_pair_id(path: str | Path) -> str:
    """Id that an ePSF shares with the distortion solved together with it; empty for others' libraries."""
    return str(_read_primary(Path(path))[0].get("DPMPAIR", "")).strip()


def write_stdpsf(path: str | Path, epsf: GriddedEPSF, comments: tuple[str, ...] = (), pair: str = "") -> None:
    """Write an ePSF library that others' readers open: one header block, ten node keys an axis, padded with 9999.

    Parameters
    ----------
    path : str or Path
        File to write; replaced at once when it is whole.
    epsf : GriddedEPSF
        Nodes 0-based; written 1-based.
    comments : tuple of str
        COMMENT cards.
    pair : str
        Id shared with the distortion solved together with it (centring trades with distortion, DESIGN section 4).
    """
    path = Path(path)
    cube = epsf.samples.reshape(-1, SAMPLES, SAMPLES).astype(np.float32)
    hdu = fits.PrimaryHDU(cube)
    header = hdu.header
    header["NXPSFS"] = (epsf.node_x.size, "ePSFs along x")
    header["NYPSFS"] = (epsf.node_y.size, "ePSFs along y")
    for letter, nodes in (("IPSFX", epsf.node_x), ("JPSFY", epsf.node_y)):
        for k in range(max(10, nodes.size)):
            key = f"{letter}{k + 1:02d}" if k < 10 else f"{letter}{chr(ord('A') + (k - 10) // 10)}{(k - 10) % 10}"
            value = nodes[k] + 1 if k < nodes.size else PADDED_NODE
            header[key] = int(value) if float(value).is_integer() else float(value)
    if epsf.approximate:
        header["DPMAPPRX"] = (True, "made quickly from few stars")
    if epsf.model_error:
        header["DPMERROR"] = (epsf.model_error, "error of psi relative to its value")
    if epsf.weak_nodes:
        for first in range(0, cube.shape[0], WEAK_BITS):
            bits = sum(1 << (node - first) for node in epsf.weak_nodes if first <= node < first + WEAK_BITS)
            header[f"DPMWEAK{first // WEAK_BITS}"] = (f"{bits:x}", "nodes of too few stars (bits)")
    if pair:
        header["DPMPAIR"] = (pair, "ePSF and distortion solved together share it")
    for text in comments:
        header["COMMENT"] = text
    with replacing(path) as temporary:
        hdu.writeto(temporary)


def _read_primary(path: Path) -> tuple[dict[str, object], NDArray[np.float64]]:
    """Header (upper-case keys) and primary array, read by hand where a fault stops astropy."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(path, "file", f"cannot be read ({error.strerror})", "check [psf] source") from error
    if not raw.startswith(b"SIMPLE"):
        raise InputError(path, "SIMPLE", "is not a FITS file", "check [psf] source")
    cards, start = _cards(raw)
    header: dict[str, object] = {}
    with ignored(fits.verify.VerifyWarning):
        for text in cards:
            card = fits.Card.fromstring(text)
            if card.keyword not in ("COMMENT", "HISTORY", ""):
                header[card.keyword.upper()] = card.value
    try:
        shape = [int(str(header[f"NAXIS{k}"])) for k in range(int(str(header["NAXIS"])), 0, -1)]
        bits = int(str(header["BITPIX"]))
    except KeyError as error:
        raise InputError(
            path, str(error.args[0]), "keyword is missing from the primary header", "give a whole STDPSF file"
        ) from error
    kind = {-32: ">f4", -64: ">f8"}.get(bits)
    if kind is None or not shape:
        raise InputError(
            path, "BITPIX", f"floating-point samples expected, not BITPIX {bits}, NAXIS {len(shape)}", "check [psf] source"
        )
    count = int(np.prod(shape))
    size = count * abs(bits) // 8
    if len(raw) < start + size:
        raise InputError(path, "PRIMARY", f"file is truncated: {len(raw) - start} of {size} bytes of data", "fetch it again")
    data = np.frombuffer(raw[start : start + size], dtype=kind).astype(np.float64)
    return header, data.reshape(shape)


def _cards(raw: bytes) -> tuple[list[str], int]:
    """Header cards, and where the data start; a missing END card ends the header at its block."""
    cards: list[str] = []
    position = 0
    while position + CARD <= len(raw):
        text = raw[position : position + CARD]
        if text.startswith(b"END") and not text[3:].strip():
            return cards, -(-(position + CARD) // BLOCK) * BLOCK
        if not re.match(rb"[A-Za-z0-9_\- ]{8}", text) or any(byte < 32 or byte > 126 for byte in text):
            break
        cards.append(text.decode("ascii"))
        position += CARD
    return cards, -(-position // BLOCK) * BLOCK


def _nodes(header: dict[str, object], count_key: str, letter: str, path: Path) -> NDArray[np.float64]:
    if count_key not in header:
        raise InputError(path, count_key, "keyword is missing: not an STDPSF library", "check [psf] source")
    count = int(str(header[count_key]))
    found: list[float] = []
    for k in range(count):
        names = [f"{letter}{k + 1:02d}"] + ([f"{letter}{chr(ord('A') + (k - 10) // 10)}{(k - 10) % 10}"] if k >= 10 else [])
        value = next((header[name] for name in names if name in header), None)
        if value is None or float(str(value)) == PADDED_NODE:
            if count == 1:
                return np.array([0.0])
            raise InputError(path, names[0], f"node {k + 1} of {count} has no position", "give a whole STDPSF file")
        found.append(float(str(value)) - 1.0)
    return np.array(found)


def _weak_nodes(header: dict[str, object], n_nodes: int) -> tuple[int, ...]:
    """Numbers of the nodes that rest on too few stars, from the bits of the ``DPMWEAK`` keys."""
    weak: list[int] = []
    for first in range(0, n_nodes, WEAK_BITS):
        bits = int(str(header.get(f"DPMWEAK{first // WEAK_BITS}", "0")), 16)
        weak += [first + k for k in range(bits.bit_length()) if bits >> k & 1]
    return tuple(weak)


def _mask_border(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = np.mgrid[:SAMPLES, :SAMPLES]
    half = (SAMPLES - 1) // 2
    radius = np.hypot(rows - half, columns - half) / OVERSAMPLING
    taper = np.clip((BORDER_RADIUS - radius) / (BORDER_RADIUS - TAPER_RADIUS), 0.0, 1.0)
    smooth = taper * taper * (3.0 - 2.0 * taper)
    return np.where(smooth > 0, samples, 0.0) * smooth


def _one_chip(
    samples: NDArray[np.float64], node_y: NDArray[np.float64], rows: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes of one chip: where two nodes meet, the lower chip ends at the first and the upper one starts at the second."""
    seam = np.flatnonzero(np.diff(node_y) <= CHIP_GAP)
    if seam.size == 0:
        return samples, node_y
    middle = 0.5 * (rows[0] + rows[1])
    upper = middle > node_y[seam[0]]
    part = slice(int(seam[0]) + 1, None) if upper else slice(0, int(seam[0]) + 1)
    return samples[part], node_y[part]


def _ascending(nodes: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of nodes that lie beyond all before them (a node given twice counts once)."""
    keep = [0]
    for k in range(1, nodes.size):
        if nodes[k] > nodes[keep[-1]]:
            keep.append(k)
    return np.array(keep)
