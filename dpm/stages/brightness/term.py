"""The change of a detector's ePSF with brightness, psi(z) = psi_0 + z psi_1, from the stars of many exposures; does it help?

z is a star's charge. Light that is due in a full pixel is recorded beside it in proportion to the difference of charge, and the
number of photons is proportional to charge as well, so the change of psi grows linearly with it (brighter-fatter). psi_1 is one
for the whole detector: the shape that such a flow from pixel to pixel gives the library's own ePSF, in the strength that the stars
ask for, and what their residuals show beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpm.kernels import quality as columns
from dpm.kernels.epsf import OVERSAMPLING, SAMPLES
from dpm.models.epsf import BrightnessTerm, GriddedEPSF
from dpm.stages.perturbation.correction import CONVERGED, Correction, average_residual, balanced, significant_share
from dpm.stages.perturbation.judge import QUARTERS, SEED, compare, fit_rows, improves
from dpm.stages.psf.candidates import StarStamps
from dpm.stages.psf.grid import CORE_RADIUS, MIDDLE, radius_grid
from dpm.stages.psf.samples import NodeSums, fit_candidates, sum_samples

__all__ = ["ExposureStars", "brightness_term", "solve_term", "spreading"]

FEWEST_STARS = 200  # star images: fifty in each quarter
MOST_ROUNDS = 6  # the fits move when the ePSF changes
STRENGTH_ROUNDS = 3
TRIALS = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, 1.0))  # of growth and middle, units of TRIAL_CHANGE
LEAST_GROWTH = 1e-3  # of TRIAL_CHANGE
TRIAL_CHANGE = 0.01  # relative, of the centre of the brightest stars
MODEL_ERROR = 0.005  # of psi; sets how far the brightest stars rule
TYPICAL_PSI = 0.3  # of the central pixel, for the stars' weights
CURVE_BINS = 16  # of equal numbers of stars
STAR_PARAMETERS = 3  # of a star's free fit
STAR_CHI = 3.0  # stars that fit worse are blends and cosmic rays

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ExposureStars:
    """Stars of one exposure, the library that they are fitted with, and the charge of a unit of flux."""

    stars: StarStamps
    epsf: GriddedEPSF
    charge_per_flux: float

    @property
    def charge(self) -> Floats:
        """Charge of every star."""
        return np.asarray(self.stars.start[:, columns.FLUX] * self.charge_per_flux)


def brightness_term(parts: list[ExposureStars]) -> tuple[BrightnessTerm | None, dict[str, Any]]:
    """Solve the term, and keep it only if it describes stars better that were left out when it was made.

    Returns
    -------
    term : BrightnessTerm or None
        None: not applied.
    figures : dict
        As of `dpm.stages.perturbation.judge.compare`, and ``stars``, ``core_change`` (relative change of the central sample at the
        brightest charge), ``error`` (of the change, of the peak), ``brightest``, ``reference``, ``applied``, ``words``.
    """
    before = [fit_rows(part.stars, part.epsf) for part in parts]
    usable = np.concatenate([np.isfinite(rows[:, columns.CHI]) for rows in before]) if parts else np.zeros(0, bool)
    figures: dict[str, Any] = {"stars": int(usable.sum()), "applied": False}
    if usable.sum() < FEWEST_STARS:
        words = f"{usable.sum()} bright isolated star images are too few to see a change with brightness (it needs {FEWEST_STARS})"
        return None, figures | {"words": words}
    quarter = np.full(usable.size, -1)
    quarter[usable] = np.random.default_rng(SEED).permutation(int(usable.sum())) % QUARTERS
    ends = np.cumsum([len(part.stars) for part in parts])[:-1]
    after = np.full((usable.size, columns.RESULT_SIZE), np.nan)
    for side in (0, 1):
        makes = quarter // 2 == side
        term = solve_term(parts, np.split(np.where(makes, quarter % 2, -1), ends))
        judges = usable & ~makes
        after[judges] = np.concatenate([_fit(part, term) for part in parts])[judges]
    figures |= compare(np.concatenate(before), after, usable)
    figures["curve"] = _curve(np.concatenate([part.charge for part in parts]), np.concatenate(before), after, usable)
    term = solve_term(parts, np.split(np.where(usable, quarter % 2, -1), ends))
    peak = float(np.mean([part.epsf.samples[..., MIDDLE, MIDDLE].mean() for part in parts]))
    figures |= {
        "core_change": float(term.samples[MIDDLE, MIDDLE]) * term.brightest / peak,
        "error": term.error,
        "brightest": term.brightest,
        "reference": term.reference,
        "applied": improves(figures),
    }
    words = (
        f"QFIT of stars left out {figures['qfit_before']:.4f} without a change with brightness, {figures['qfit_after']:.4f} with it"
        f" ({figures['significance']:.1f} sigma)"
    )
    figures["words"] = words if figures["applied"] else f"{words}: no better, not applied"
    return (term if figures["applied"] else None), figures


def _curve(charge: Floats, before: Floats, after: Floats, usable: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Medians of QFIT over its expectation against charge, without and with the term, each star left out of its own."""
    ratio = [rows[:, columns.QFIT] / rows[:, columns.QFIT_EXPECTED] for rows in (before, after)]
    rows = np.flatnonzero(usable & np.isfinite(ratio[0]) & np.isfinite(ratio[1]))
    groups = [group for group in np.array_split(rows[np.argsort(charge[rows])], CURVE_BINS) if group.size]
    names = (("charge", charge), ("before", ratio[0]), ("after", ratio[1]))
    return {name: [float(np.median(values[group])) for group in groups] for name, values in names}


def solve_term(parts: list[ExposureStars], half: list[Ints]) -> BrightnessTerm:
    """The change with charge that the stars show: strength of `spreading`, and the damped rest.

    Parameters
    ----------
    parts : list of ExposureStars
    half : list of ndarray (n,), int
        0 or 1: half of the stars that a star belongs to; what the halves do not share is noise. -1: left out.
    """
    used = [values >= 0 for values in half]
    charge = np.concatenate([part.charge[mine] for part, mine in zip(parts, used, strict=True)])
    brightest = float(charge.max())
    weight = 1.0 / (1.0 / (TYPICAL_PSI * charge) + MODEL_ERROR**2)
    # About their mean the slope does not depend on what the library lacks for all stars alike.
    centre = float(np.average(charge, weights=weight))
    mean = parts[0].epsf
    shape = spreading(mean.samples.mean(axis=(0, 1)))
    # Of a strength that changes the centre of the brightest stars by a hundredth.
    shape *= TRIAL_CHANGE * mean.samples.max() / (brightest * -shape[MIDDLE, MIDDLE])
    term, strength_error = _strength(parts, used, shape, brightest, centre)
    first, added = term.samples * brightest, np.zeros((SAMPLES, SAMPLES))
    share: Floats | None = None
    for _ in range(MOST_ROUNDS):
        sums = NodeSums.empty(1, 1)
        for part, values in zip(parts, half, strict=True):
            _add_residuals(sums, part, term, values, centre)
        if share is None:
            share, error = significant_share(sums, mean)
            term = replace(term, error=float(np.hypot(error, strength_error)))
            if not share.any():
                break
        whole = average_residual(sums.top.sum(axis=0), sums.bottom.sum(axis=0), sums.gram.sum(axis=0), mean)[0, 0]
        # Rings that count differently would add light.
        change = balanced(share[0, 0] * (added + whole), mean)
        moved = np.sqrt(np.mean((change - added)[radius_grid() <= CORE_RADIUS] ** 2)) / mean.samples.max()
        added = change
        term = replace(term, samples=(first + added) / brightest)
        if moved < CONVERGED:
            break
    return term


def spreading(psi: Floats) -> Floats:
    """Change of psi where a fuller pixel pushes light to its four neighbours in proportion to the difference of charge.

    The border between two pixels moves by half the strength times that difference and takes the mean light of the two with it. The
    result is that of unit strength and charge; all of the light stays.
    """
    square = np.pad(psi * psi, OVERSAMPLING)
    middle = np.s_[OVERSAMPLING:-OVERSAMPLING]
    beside = square[2 * OVERSAMPLING :, middle] + square[: -2 * OVERSAMPLING, middle]
    beside += square[middle, 2 * OVERSAMPLING :] + square[middle, : -2 * OVERSAMPLING]
    return np.asarray(0.25 * (beside - 4.0 * psi * psi))


def _levels(part: ExposureStars, term: BrightnessTerm) -> list[tuple[GriddedEPSF, Ints]]:
    """Libraries for the charges of the stars, and which stars each is for."""
    model = part.epsf.with_brightness(term)
    level = term.level(part.charge)
    return [(model.at_level(int(k)), np.flatnonzero(level == k)) for k in np.unique(level)]


def _some(stars: StarStamps, which: Ints) -> StarStamps:
    return StarStamps(type(stars.stamps)(*(values[which] for values in stars.stamps)), stars.start[which])


def _fit(part: ExposureStars, term: BrightnessTerm) -> Floats:
    """Free fits, each star with the ePSF of its charge."""
    rows = np.full((len(part.stars), columns.RESULT_SIZE), np.nan)
    for model, which in _levels(part, term):
        rows[which] = fit_rows(_some(part.stars, which), model)
    return rows


def _add_residuals(sums: NodeSums, part: ExposureStars, term: BrightnessTerm, half: Ints, centre: float) -> None:
    """Add what the stars' free fits leave over, per unit of the brightest charge."""
    grid = Correction.none(np.zeros(1), np.zeros(1)).grid
    lever = (part.charge - centre) / term.brightest
    lever = np.where(np.abs(lever) < 1e-3, 1e-3, lever)
    for model, which in _levels(part, term):
        which = which[half[which] >= 0]
        if not which.size:
            continue
        stars = _some(part.stars, which)
        fits = fit_candidates(stars, model)
        signal = np.where(np.isfinite(fits.flux), fits.flux / fits.flux_error, 0.0)
        free = np.full(which.size, np.nan)
        none = np.zeros(which.size, bool)
        sums.add(sum_samples(stars, model, fits.raw, free, none, half[which], signal, grid, lever[which]))


def _strength(
    parts: list[ExposureStars], used: list[NDArray[np.bool_]], shape: Floats, brightest: float, centre: float
) -> tuple[BrightnessTerm, float]:
    """The change of this shape with which the stars' chi-square is least: its growth with charge, and where the library holds.

    The two are told apart best as the growth and the change at the stars' mean charge; chi-square is taken as quadratic in them.
    Also returns the error of the centre's change at the brightest charge, of the peak: from the curvature of chi-square, widened
    where stars fit worse than their noise.
    """

    def term_of(growth: float, middle: float) -> BrightnessTerm:
        growth = growth if abs(growth) > LEAST_GROWTH else LEAST_GROWTH
        return BrightnessTerm(growth * shape, brightest, centre - middle / growth * brightest)

    at = np.zeros(2)
    error = np.inf
    for _ in range(STRENGTH_ROUNDS):
        total = {}
        good: NDArray[np.bool_] | None = None
        for step in TRIALS:
            term = term_of(*(at + step))
            rows = np.concatenate([_fit(part, term)[mine] for part, mine in zip(parts, used, strict=True)])
            good = rows[:, columns.CHI] < STAR_CHI if good is None else good
            chi2 = rows[good, columns.CHI] ** 2 * (rows[good, columns.N_PIXELS] - STAR_PARAMETERS)
            total[step] = float(np.nansum(chi2))
        degrees = float(np.nansum(rows[good, columns.N_PIXELS] - STAR_PARAMETERS))
        none = total[0.0, 0.0]
        slope = np.array([total[1.0, 0.0] - total[-1.0, 0.0], total[0.0, 1.0] - total[0.0, -1.0]]) / 2.0
        cross = total[1.0, 1.0] - total[1.0, 0.0] - total[0.0, 1.0] + none
        along, across = (total[a, b] + total[-a, -b] - 2.0 * none for a, b in ((1.0, 0.0), (0.0, 1.0)))
        curvature = np.array([[along, cross], [cross, across]])
        if not (curvature[0, 0] > 0 and np.linalg.det(curvature) > 0):
            break
        pull = curvature @ at - slope
        at = np.linalg.solve(curvature, pull)
        # Chi-square grows by one at one error; twice that is the curvature.
        variance = 2.0 * float(np.linalg.inv(curvature)[0, 0])
        reference = term_of(*at).reference
        nearest = float(np.clip(reference, 0.0, brightest))
        if reference != nearest:
            # No library holds at such a charge; the two are correlated, so that the growth is found anew.
            direction = np.array([1.0, (centre - nearest) / brightest])
            at = direction * (direction @ pull) / (direction @ curvature @ direction)
            variance = 2.0 / float(direction @ curvature @ direction)
        error = TRIAL_CHANGE * float(np.sqrt(variance * max(none / degrees, 1.0)))
    found = term_of(*at)
    return replace(found, reference=float(np.clip(found.reference, 0.0, brightest))), error
