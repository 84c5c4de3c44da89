"""Extinction of bands: A_band / A_V from a law at the bands' wavelengths, or averaged over a throughput.

The law of Wang & Chen (2019, ApJ 877, 116; their equations 9 and 10), which paper 1 uses, is here; any other is one of
``dust_extinction`` by its name (``G23``, ``F19``, ``CCM89``, ...), which is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

__all__ = ["PIVOT_WAVELENGTHS", "band_extinctions", "extinction_law", "extinction_ratio", "wang_chen_2019"]

Law = Callable[[Any], Any]

# Micron, to 1 %: pivot wavelengths of the instruments' handbooks.  An error of 1 % moves A by 1 to 2 %.
PIVOT_WAVELENGTHS: dict[str, float] = {
    **{f"acswfc_{name}": value for name, value in {
        "f435w": 0.4329, "f475w": 0.4747, "f502n": 0.5023, "f555w": 0.5361, "f550m": 0.5581, "f606w": 0.5922, "f625w": 0.6312,
        "f658n": 0.6584, "f775w": 0.7693, "f814w": 0.8045, "f850lp": 0.9031,
    }.items()},
    **{f"wfc3uvis_{name}": value for name, value in {
        "f225w": 0.2372, "f275w": 0.2710, "f300x": 0.2821, "f336w": 0.3355, "f390w": 0.3924, "f438w": 0.4326, "f475w": 0.4773,
        "f555w": 0.5308, "f606w": 0.5889, "f625w": 0.6243, "f775w": 0.7651, "f814w": 0.8039, "f850lp": 0.9176,
    }.items()},
    **{f"wfc3ir_{name}": value for name, value in {
        "f105w": 1.0551, "f110w": 1.1534, "f125w": 1.2486, "f140w": 1.3923, "f160w": 1.5369,
    }.items()},
    **{f"nircam_{name}": value for name, value in {
        "f070w": 0.704, "f090w": 0.901, "f115w": 1.154, "f140m": 1.404, "f150w": 1.501, "f150w2": 1.671, "f162m": 1.626,
        "f182m": 1.845, "f187n": 1.874, "f200w": 1.990, "f210m": 2.093, "f212n": 2.120, "f250m": 2.503, "f277w": 2.786,
        "f300m": 2.996, "f322w2": 3.247, "f335m": 3.365, "f356w": 3.563, "f360m": 3.621, "f410m": 4.092, "f430m": 4.280,
        "f444w": 4.421, "f460m": 4.624, "f480m": 4.834,
    }.items()},
    **{f"niriss_{name}": value for name, value in {
        "f090w": 0.902, "f115w": 1.150, "f140m": 1.404, "f150w": 1.494, "f158m": 1.587, "f200w": 1.993, "f277w": 2.764,
        "f356w": 3.593, "f380m": 3.825, "f430m": 4.280, "f444w": 4.431, "f480m": 4.813,
    }.items()},
}  # fmt: skip
_WANG_CHEN = 1.0, 0.7499, -0.1086, -0.08909, 0.02905, 0.01069, 0.001707, -0.001002
_WANG_CHEN_RANGE = 0.3, 3.33  # micron


def wang_chen_2019(wavelength: Any) -> NDArray[np.float64]:
    """A / A_V at wavelengths of 0.3 to 3.33 micron.

    Raises
    ------
    ValueError
        Outside them.
    """
    lam = np.asarray(wavelength, dtype=float)
    if np.any(lam < _WANG_CHEN_RANGE[0]) or np.any(lam > _WANG_CHEN_RANGE[1]):
        raise ValueError("the law of Wang & Chen (2019) holds from 0.3 to 3.33 micron; take another, such as extinction_law('G23')")
    return np.where(lam < 1.0, np.polynomial.polynomial.polyval(1.0 / lam - 1.82, _WANG_CHEN), 0.3722 * lam**-2.07)


def extinction_law(name: str = "wang_chen_2019", r_v: float = 3.1) -> Law:
    """A law: a function of wavelengths (micron) that gives A / A_V.

    Parameters
    ----------
    name : str
        ``wang_chen_2019`` (R_V is its own, 3.16), or a model of ``dust_extinction.parameter_averages`` (``G23``, ``F19``, ...).
    r_v : float
        A_V / E(B-V) of the latter.

    Raises
    ------
    ImportError
        If dust_extinction is needed and not there.
    ValueError
        If it has no such model.
    """
    if name == "wang_chen_2019":
        return wang_chen_2019
    try:
        from dust_extinction import parameter_averages
    except ImportError as error:
        raise ImportError(f"the law {name} needs dust_extinction: pip install 'dpm-photometry[science]'") from error
    model = getattr(parameter_averages, name, None)
    if model is None or not hasattr(model, "Rv_range"):
        raise ValueError(f"dust_extinction.parameter_averages has no model {name!r}; take G23, F19 or CCM89")
    law = model(Rv=r_v)
    return lambda wavelength: np.asarray(law(np.asarray(wavelength, dtype=float) * u.micron))


def extinction_ratio(law: Law, wavelength: Any, throughput: Any, flux: Any = None, a_v: float = 0.0) -> float:
    """A_band / A_V averaged over a band, for photon-counting detectors.

    Wide bands need it: F150W2 and F322W2 span a factor of two in wavelength.

    Parameters
    ----------
    law : callable
        See `extinction_law`.
    wavelength, throughput : array_like (n,)
        Micron, rising, and the band's throughput.
    flux : array_like (n,), optional
        The star's f_lambda; constant by default.
    a_v : float
        Extinction for which it holds: in a wide band the ratio falls with it.  Zero is the limit of little extinction.
    """
    lam, through = np.asarray(wavelength, dtype=float), np.asarray(throughput, dtype=float)
    inside = through > 0
    lam, through = lam[inside], through[inside]
    photons = through * lam * (np.ones(lam.size) if flux is None else np.asarray(flux, dtype=float)[inside])
    ratio = law(lam)
    if a_v == 0:
        return float(np.trapezoid(photons * ratio, lam) / np.trapezoid(photons, lam))
    dimmed = np.trapezoid(photons * 10 ** (-0.4 * a_v * ratio), lam) / np.trapezoid(photons, lam)
    return float(-2.5 * np.log10(dimmed) / a_v)


def band_extinctions(
    bands: Sequence[str], a_v: float, law: Law = wang_chen_2019, ratios: dict[str, float] | None = None
) -> dict[str, float]:
    """Extinction of each band, mag, at its pivot wavelength.

    Parameters
    ----------
    bands : sequence of str
        dpm's names, such as ``nircam_f150w2``.
    a_v : float
        Magnitudes; 3.1 E(B-V) in paper 1.
    law : callable
        See `extinction_law`.
    ratios : dict of str to float, optional
        A_band / A_V where it is known better, as from `extinction_ratio`.

    Raises
    ------
    KeyError
        If a band's wavelength is not known.
    """
    known = ratios or {}
    unknown = [band for band in bands if band not in known and band not in PIVOT_WAVELENGTHS]
    if unknown:
        raise KeyError(f"no wavelength for {', '.join(unknown)}; give its A / A_V in ratios (extinction_ratio)")
    return {band: a_v * (known[band] if band in known else float(law(PIVOT_WAVELENGTHS[band]))) for band in bands}
