"""Smooth errors of motions on made-up fields: what was put in is found, and where nothing was, nothing is changed."""

from __future__ import annotations

import numpy as np
import pytest

from dpm.science.motions import ErrorTerm, MotionError, as_covariance, detector_terms, fit_smooth_errors, place_map

N, SIDE, YEARS, DISPERSION, NOISE = 1000, 500.0, 16.0, 0.03, 0.25
ROLL = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
SCALE = 31.0  # mas a pixel


def wave(place: np.ndarray, size: float) -> np.ndarray:
    """An error of positions on the detector, mas along its axes."""
    x, y = place.T / SIDE
    return size * np.column_stack([np.sin(2 * np.pi * x) * np.cos(3 * y), np.cos(2 * np.pi * y + x)])


def make(size: float, seed: int):
    """Two epochs of four exposures with large dithers; the old detector errs by `wave`."""
    rng = np.random.default_rng(seed)
    sky = rng.uniform(0, SIDE, (N, 2))
    true = rng.normal(0, DISPERSION, (N, 2))
    parts, motion = [], np.zeros((N, 2))
    for epoch, time in enumerate((2006.3, 2022.3)):
        for dither in ((0, 0), (90, 40), (-60, 110), (-120, -80)):
            place = sky + dither
            seen = np.flatnonzero(((place >= 0) & (place < SIDE)).all(axis=1))
            off = true[seen] * (time - 2022.3) + rng.normal(0, NOISE, (len(seen), 2))
            if epoch == 0:
                off += wave(place[seen], size) @ ROLL.T
            parts.append((seen, np.full(len(seen), time), off, place[seen], np.full(len(seen), f"camera{epoch}")))
    star, time, off, place, group = (np.concatenate(values) for values in zip(*parts))
    count = np.stack([np.bincount(star[time == t], minlength=N) for t in (2006.3, 2022.3)])
    both = (count > 0).all(axis=0)
    for axis in (0, 1):
        first, last = (np.bincount(star[time == t], off[time == t, axis], N) for t in (2006.3, 2022.3))
        with np.errstate(invalid="ignore", divide="ignore"):
            motion[:, axis] = (last / count[1] - first / count[0]) / YEARS
    with np.errstate(divide="ignore"):
        error = NOISE / YEARS * np.sqrt((1.0 / count).sum(axis=0))
    motion[~both] = np.nan
    error[~both] = np.nan
    covariance = as_covariance(np.column_stack([error, error]))
    spread = np.tile(NOISE**2 * np.eye(2), (len(star), 1, 1))
    terms = detector_terms(star, group, time, spread, place, np.tile(SCALE * ROLL, (len(star), 1, 1)), N)
    return motion, covariance, terms, true, both


def test_errors_on_the_detector_are_found_and_taken_out() -> None:
    motion, covariance, terms, true, both = make(size=0.6, seed=3)
    assert [term.name for term in terms] == ["camera0", "camera1"]
    # Every fourth star is no member: it tells nothing, and is corrected all the same.
    members = np.arange(N) % 4 > 0
    found = fit_smooth_errors(motion, covariance, members, terms)
    assert found.evidence > 20 and found.amplitude["camera0"] == pytest.approx(0.4, rel=0.6)
    before, after = motion - true, found.motion - true
    for rows in (both & members, both & ~members):
        noise = np.sqrt(np.nanmean(covariance[rows, 0, 0]))
        assert np.std(before[rows]) > 1.25 * noise
        assert np.std(after[rows]) < 1.06 * noise
    pull = after[both] / np.sqrt(np.diagonal(found.covariance[both], axis1=1, axis2=2))
    assert np.std(pull) == pytest.approx(1.0, abs=0.06)
    # The dispersion has to stay: a star that corrects itself would lose part of its own motion.
    slope = np.sum(found.motion[both & members] * true[both & members]) / np.sum(true[both & members] ** 2)
    assert slope == pytest.approx(1.0, abs=0.05)
    maps = [place_map(terms[0], values, spread, members).meta for values, spread in
            ((motion, covariance), (found.motion, found.covariance))]  # fmt: skip
    assert maps[0]["chi2"] > 3 * maps[0]["degrees"] and maps[1]["chi2"] < 1.2 * maps[1]["degrees"]


def test_where_there_is_none_nothing_is_changed() -> None:
    motion, covariance, terms, true, both = make(size=0.0, seed=4)
    found = fit_smooth_errors(motion, covariance, np.ones(N, bool), terms)
    noise = np.nanstd((motion - true)[both])
    assert np.std(found.correction[both]) < 0.15 * noise
    assert np.nanstd((found.motion - true)[both]) < 1.01 * noise


def test_magnitude_is_a_place_too() -> None:
    rng = np.random.default_rng(5)
    mag = rng.uniform(18, 26, N)
    true, noise = rng.normal(0, DISPERSION, (N, 2)), rng.normal(0, 0.03, (N, 2))
    trend = 0.03 * np.column_stack([np.sin(mag), np.cos(mag)])
    covariance = as_covariance(np.full((N, 2), 0.03))
    known = np.flatnonzero(mag < 25.5)
    term = ErrorTerm("magnitude", known, mag[known, None], np.tile(np.eye(2), (len(known), 1, 1)))
    found = fit_smooth_errors(true + noise + trend, covariance, np.ones(N, bool), [term])
    left = (found.correction - trend)[known]
    assert np.sqrt(np.mean(left**2)) < 0.007
    assert np.abs(found.correction[mag >= 25.5]).max() == 0.0


def test_few_members_are_an_error() -> None:
    motion, covariance, terms, _, _ = make(size=0.0, seed=6)
    with pytest.raises(MotionError, match="need 50 or more"):
        fit_smooth_errors(motion, covariance, np.arange(N) < 40, terms)
    assert len(place_map(terms[0], motion, covariance, np.arange(N) < 40)) == 0
