"""Whether a perturbation helps: judged on stars that had no part in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.kernels import quality as columns
from dpm.kernels.stamps import fit_stamps
from dpm.models.epsf import GriddedEPSF
from dpm.stages.perturbation.correction import FEWEST_STARS, choose_zones, find_correction, perturbed_epsf
from dpm.stages.psf.candidates import StarStamps
from dpm.stages.psf.grid import MIDDLE

__all__ = ["QUARTERS", "SEED", "SIGNIFICANT", "Perturbation", "compare", "fit_rows", "improves", "perturb"]

QUARTERS = 4  # two to make a correction (and to tell its noise), two to judge it
SEED = 20  # of the lot that puts stars into quarters; any will do
SIGNIFICANT = 3.0  # sigma by which more stars have to fit better than worse

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Perturbation:
    """Result of `perturb`.

    Parameters
    ----------
    epsf : GriddedEPSF or None
        None: the library stays.
    figures : dict
        ``stars``; ``zones`` (along y and x); ``qfit_before``, ``qfit_after``, ``chi_before``, ``chi_after``: medians over the
        brighter half of the stars, each fitted with an ePSF that it had no part in; ``better``: share of these with a smaller QFIT,
        ``significance`` of that in sigma; ``core_change``: relative change of the central sample of the ePSF, mean over zones, and
        ``error`` of the ePSF within 1.5 pixels, of the peak; ``applied``; ``words``.
    """

    epsf: GriddedEPSF | None
    figures: dict[str, Any]


def perturb(stars: StarStamps, epsf: GriddedEPSF, bounds: tuple[float, float, float, float]) -> Perturbation:
    """Make the ePSF of one exposure, and keep it only if it fits stars better that were left out when it was made.

    Parameters
    ----------
    stars : StarStamps
        Bright, isolated stars of the exposure.
    epsf : GriddedEPSF
        The library.
    bounds : tuple of float
        First and last column, first and last row of the exposure, raw pixels.
    """
    before = fit_rows(stars, epsf)
    usable = np.isfinite(before[:, columns.CHI])
    place = before[:, [columns.X, columns.Y]] + stars.first
    zones = choose_zones(place[usable], bounds)
    figures: dict[str, Any] = {"stars": int(usable.sum()), "zones": [0, 0], "applied": False}
    if zones is None:
        words = f"{usable.sum()} bright isolated stars are too few for a perturbation (it needs {FEWEST_STARS}): the library stays"
        return Perturbation(None, figures | {"words": words})
    figures["zones"] = [zones[1].size, zones[0].size]
    quarter = np.full(len(stars), -1)
    quarter[usable] = np.random.default_rng(SEED).permutation(int(usable.sum())) % QUARTERS
    after = np.full_like(before, np.nan)
    for side in (0, 1):
        makes = quarter // 2 == side
        correction = find_correction(stars, epsf, zones, np.where(makes & usable, quarter % 2, -1))
        judges = usable & ~makes
        after[judges] = fit_rows(stars, perturbed_epsf(epsf, correction))[judges]
    figures |= compare(before, after, usable)
    whole = find_correction(stars, epsf, zones, np.where(usable, quarter % 2, -1))
    peak = float(epsf.samples[..., MIDDLE, MIDDLE].mean())
    figures |= {"core_change": float(whole.samples[..., MIDDLE, MIDDLE].mean()) / peak, "error": whole.error}
    helps = improves(figures)
    figures["applied"] = helps
    said = (
        f"QFIT of stars left out {figures['qfit_before']:.4f} with the library, {figures['qfit_after']:.4f} perturbed"
        f" ({figures['significance']:.1f} sigma)"
    )
    figures["words"] = said if helps else f"{said}: no better, the library stays"
    return Perturbation(perturbed_epsf(epsf, whole) if helps else None, figures)


def improves(figures: dict[str, Any]) -> bool:
    """Whether the figures of `compare` say that the stars left out are described significantly better."""
    better = figures["qfit_after"] < figures["qfit_before"] and figures["chi_after"] <= figures["chi_before"]
    return bool(better and figures["significance"] > SIGNIFICANT)


def compare(before: Floats, after: Floats, usable: NDArray[np.bool_]) -> dict[str, Any]:
    """Medians and a sign test over the brighter half of the stars."""
    good = usable & np.isfinite(after[:, columns.CHI])
    signal = np.where(good, before[:, columns.FLUX] / before[:, columns.FLUX_ERROR], 0.0)
    good &= signal >= np.median(signal[good])
    gain = before[good, columns.QFIT] - after[good, columns.QFIT]
    differ = max(int((gain != 0).sum()), 1)
    return {
        "judges": int(good.sum()),
        "qfit_before": float(np.median(before[good, columns.QFIT])),
        "qfit_after": float(np.median(after[good, columns.QFIT])),
        "chi_before": float(np.median(before[good, columns.CHI])),
        "chi_after": float(np.median(after[good, columns.CHI])),
        "better": float((gain > 0).sum()) / differ,
        # An excess of n stars among N has the standard deviation sqrt(N) when the sign of each is a lot.
        "significance": float(((gain > 0).sum() - (gain < 0).sum()) / np.sqrt(differ)),
    }


def fit_rows(stars: StarStamps, epsf: GriddedEPSF) -> Floats:
    """Free fits with the sky held, rows of `dpm.kernels.quality`; CHI is NaN where a fit failed."""
    shape = stars.stamps.values.shape
    results = np.full((len(stars), columns.RESULT_SIZE), np.nan)
    fit_stamps(stars.stamps, epsf.library(), stars.start, results, np.empty(shape), np.empty(shape))
    return results
