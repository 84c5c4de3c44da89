"""The distortion solver on synthetic detections: what it recovers, what it says where it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from dpm.io.reference import ReferenceCatalog
from dpm.models.flags import StarFlag
from dpm.models.master_frame import MasterFrame
from dpm.models.options import FrameOptions
from dpm.models.transform import LinearTransform, fit_linear
from dpm.stages.distortion.fine import fine_term
from dpm.stages.distortion.solve import solve_distortion
from dpm.stages.frame.units import Unit

SIZE, SCALE, NOISE = 256, 0.0656, 0.005
FRAME = MasterFrame(80.49, -69.4978, SCALE, 512, 512)


@dataclass
class Sky:
    """Stars on the master frame, a distortion, and detections of them with everything else perfect."""

    n_stars: int = 2500
    seed: int = 3
    skew: float = 0.0
    bend: float = 0.5
    void: float = 0.0
    wave: float = 0.0
    filter_term: float = 0.1
    change: float = 0.0
    noise: float = NOISE
    span: float = 420.0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.x, self.y = 256 + self.span * (self.rng.random((2, self.n_stars)) - 0.5)

    def correction(self, x: np.ndarray, y: np.ndarray, filter_name: str) -> tuple[np.ndarray, np.ndarray]:
        """Corrected less raw, with none of the gauge's terms at the centre."""
        s, t = (x - 127.5) / 127.5, (y - 127.5) / 127.5
        own = self.filter_term if filter_name == "F150W" else 0.0
        dx = self.skew * s + self.bend * (s * t + 0.6 * s**2 - 0.5 * s**3 + 0.3 * t**4) + own * s * t**2
        dy = -self.skew * t + self.bend * (0.8 * t**2 - 0.4 * s * t + 0.5 * s**2 * t) - own * s**2
        p, q = (x - 90.0) / 18.0, (y - 150.0) / 12.0
        bump = self.void * np.exp(0.5 - 0.5 * (p * p + q * q))
        wave = self.wave * np.sin(x / 14 + 1) * np.cos(y / 17)
        return dx + bump * p + wave, dy + bump * q - wave

    def raw(self, u: np.ndarray, v: np.ndarray, filter_name: str) -> tuple[np.ndarray, np.ndarray]:
        """Raw positions of corrected ones (about the centre)."""
        x, y = u + 127.5, v + 127.5
        for _ in range(30):
            dx, dy = self.correction(x, y, filter_name)
            x, y = u + 127.5 - dx, v + 127.5 - dy
        return x, y

    def unit(self, number: int, centre: tuple[float, float], roll: float, filter_name: str, va: float) -> Unit:
        """Detections of one exposure; the header knows its pointing to a tenth of a pixel and nothing of the distortion."""
        c, s = np.cos(np.radians(roll)) * va, np.sin(np.radians(roll)) * va
        true = LinearTransform(c, -s, s, c, *centre)
        u, v = true.inverse()(self.x, self.y)
        # The middle dither has a distortion of its own: skew, and a term of second order.
        p, q, strength = u / 127.5, v / 127.5, self.change * (number == 4)
        x, y = self.raw(u + strength * (p + 0.5 * q * q), v - strength * q, filter_name)
        seen = np.flatnonzero((x > 1) & (x < SIZE - 2) & (y > 1) & (y < SIZE - 2))
        n = len(seen)
        x, y = x[seen] + self.rng.normal(0, self.noise, n), y[seen] + self.rng.normal(0, self.noise, n)
        error = np.full(n, self.noise)
        columns = {"qfit": np.full(n, 0.02)}
        start = LinearTransform(c, -s, s, c, centre[0] + self.rng.normal(0, 0.1), centre[1] + self.rng.normal(0, 0.1))
        edge = np.array([0.0, SIZE - 1, SIZE - 1, 0.0]) - 127.5
        return Unit(
            f"shot{number}", "NIRISS", f"niriss_{filter_name.lower()}", 2022.33 + 1e-6 * number, x - 127.5, y - 127.5, error,
            error.copy(), np.full(n, 1e4), np.full(n, 50.0), np.zeros(n, np.int32), np.arange(n, dtype=np.int32), edge,
            np.roll(edge, 1), start, lambda u, v: (u + 127.5, v + 127.5), columns.__getitem__, SCALE,
            (0.0, SIZE - 1.0, 0.0, SIZE - 1.0), filter=filter_name, x=x, y=y,
            forward=lambda x, y: (np.asarray(x) - 127.5, np.asarray(y) - 127.5), va_scale=va,
        )  # fmt: skip

    def units(self, rolls: tuple[float, ...] = (0.0,), step: float = 45.0, filters: tuple[str, ...] = ("F090W",)) -> list[Unit]:
        """Nine dithers a filter."""
        out = []
        for name in filters:
            for k in range(9):
                jitter = self.rng.normal(0, min(2.0, step / 3), 2)
                centre = 256 + step * (k % 3 - 1) + jitter[0], 256 + step * (k // 3 - 1) + jitter[1]
                va = 1 + 3e-5 * self.rng.normal()
                out.append(self.unit(len(out), centre, rolls[k % len(rolls)], name, va))
        return out

    def reference(self, error: float = 0.3, shift: float = 0.0) -> ReferenceCatalog:
        """A tenth of the stars with errors in mas; `shift` is an unknown motion of each, mas."""
        k = np.arange(0, self.n_stars, 10)
        noise = self.rng.normal(0, error, (2, len(k))) + self.rng.normal(0, shift, (2, len(k)))
        ra, dec = FRAME.pixel_to_sky(self.x[k] + noise[0] / 1000 / SCALE, self.y[k] + noise[1] / 1000 / SCALE)
        zero, sigma = np.zeros(len(k)), np.full(len(k), error)
        return ReferenceCatalog("list", ra, dec, sigma, sigma, zero + 2022.33, zero, zero, zero, zero, zero + np.nan)

    def off(self, solution, filter_name: str = "F090W", parameters: int = 4) -> tuple[np.ndarray, ...]:
        """Raw positions on a grid, and the map's error there with linear parameters removed."""
        x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(4, SIZE - 5, 60), np.linspace(4, SIZE - 5, 60)))
        dx, dy = self.correction(x, y, filter_name)
        u, v = solution.maps["NIRISS", filter_name].forward(x, y)
        back = fit_linear(u, v, x + dx, y + dy, parameters=parameters, clip=None).transform
        off_x, off_y = back(u, v)
        return x, y, off_x - x - dx, off_y - y - dy


def rms(*values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def test_distortion_with_a_reference_to_a_third_of_a_measurement_error():
    sky = Sky(skew=0.3)
    solution = solve_distortion(sky.units(), FRAME, FrameOptions(), sky.reference())
    _, _, dx, dy = sky.off(solution)
    assert rms(dx, dy) < 0.0018
    one = solution.detectors["NIRISS"]
    assert rms(dx, dy) < 1.5 * one.error_rms and one.error_rms < 0.003
    assert one.floor["F090W"] < 0.5 * NOISE and not solution.warnings


def test_gauge_stands_at_the_centre_and_maps_go_both_ways():
    sky = Sky()
    solution = solve_distortion(sky.units(), FRAME, FrameOptions(), sky.reference())
    found = solution.maps["NIRISS", "F090W"]
    middle, step = np.array([127.5]), 8.0
    u, v = found.forward(middle, middle)
    assert float(u[0]) == pytest.approx(127.5, abs=0.005) and float(v[0]) == pytest.approx(127.5, abs=0.005)
    right, left = found.forward(middle + step, middle), found.forward(middle - step, middle)
    upper, lower = found.forward(middle, middle + step), found.forward(middle, middle - step)
    trace = (right[0] - left[0] + upper[1] - lower[1]) / (4 * step)
    curl = (right[1] - left[1] - upper[0] + lower[0]) / (4 * step)
    assert float(trace[0]) == pytest.approx(1.0, abs=3e-3) and float(curl[0]) == pytest.approx(0.0, abs=3e-3)
    x, y = np.random.default_rng(5).uniform(0, SIZE - 1, (2, 500))
    back = found.inverse(*found.forward(x, y))
    assert np.max(np.hypot(back[0] - x, back[1] - y)) < 1e-5


def test_area_is_that_of_the_map():
    sky = Sky()
    found = solve_distortion(sky.units(), FRAME, FrameOptions(), sky.reference()).maps["NIRISS", "F090W"]
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(20, 235, 12), np.linspace(20, 235, 12)))
    h = 0.5

    def at(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = sky.correction(x, y, "F090W")
        return x + dx, y + dy

    (a, c), (b, d) = (np.subtract(at(x + h, y), at(x - h, y)), np.subtract(at(x, y + h), at(x, y - h)))
    ratio = found.area(x, y) / (a * d - b * c)
    assert np.std(ratio) < 3e-4


def test_two_filters_keep_their_own_terms():
    sky = Sky()
    solution = solve_distortion(sky.units(filters=("F090W", "F150W")), FRAME, FrameOptions(), sky.reference())
    for name in ("F090W", "F150W"):
        _, _, dx, dy = sky.off(solution, name)
        assert rms(dx, dy) < 0.0018


def test_self_calibration_finds_all_but_skew_without_a_reference():
    sky = Sky(skew=0.05)
    solution = solve_distortion(sky.units(), FRAME, FrameOptions())
    _, _, dx, dy = sky.off(solution, parameters=6)
    assert rms(dx, dy) < 0.0025
    _, _, dx, dy = sky.off(solution)
    assert 0.01 < rms(dx, dy) < 1.5 * solution.detectors["NIRISS"].error_rms
    assert any("one roll" in text for text in solution.warnings)


def test_rolls_tell_the_skew():
    sky = Sky(skew=0.3)
    solution = solve_distortion(sky.units(rolls=(0.0, 90.0, 45.0)), FRAME, FrameOptions())
    _, _, dx, dy = sky.off(solution)
    assert rms(dx, dy) < 0.0025
    assert not any("one roll" in text for text in solution.warnings)


@pytest.mark.slow
def test_the_void_is_found_and_nothing_is_added_elsewhere():
    sky = Sky(void=0.05, n_stars=6000)
    solution = solve_distortion(sky.units(), FRAME, FrameOptions(), sky.reference())
    x, y, dx, dy = sky.off(solution)
    near = np.hypot((x - 90) / 18, (y - 150) / 12) < 1.5
    before = sky.correction(x[near], y[near], "F090W")
    sky.void = 0.0
    smooth = sky.correction(x[near], y[near], "F090W")
    void = rms(before[0] - smooth[0], before[1] - smooth[1])
    assert void > 0.03 and rms(dx[near], dy[near]) < 0.12 * void
    assert rms(dx[~near], dy[~near]) < 0.002


def test_fine_term_of_noise_alone_is_next_to_nothing():
    rng = np.random.default_rng(8)
    x, y = rng.uniform(0, 255, (2, 20_000))
    rx, ry = rng.normal(0, 0.01, (2, 20_000))
    term = fine_term(x, y, rx, ry, (0.0, 255.0, 0.0, 255.0))
    assert term is not None and rms(term.dx, term.dy) < 0.2 * 0.01 * 1.25 / np.sqrt(50) and term.significant < 0.02
    inside = np.hypot(x - 100, y - 120) < 25
    term = fine_term(x, y, rx + 0.02 * inside, ry, (0.0, 255.0, 0.0, 255.0))
    assert float(term(np.array([100.0]), np.array([120.0]))[0][0]) == pytest.approx(0.02, abs=0.005)
    assert fine_term(x[:300], y[:300], rx[:300], ry[:300], (0.0, 255.0, 0.0, 255.0)) is None


def test_pixel_scales_agree_once_aberration_is_out():
    sky = Sky()
    solution = solve_distortion(sky.units(), FRAME, FrameOptions(), sky.reference())
    scale = np.array([unit.pixel_scale for unit in solution.units.values()])
    error = np.array([unit.pixel_scale_error for unit in solution.units.values()])
    assert np.std(scale) / SCALE < 6e-6 and np.mean(scale) / SCALE == pytest.approx(1.0, abs=3e-5)
    relative = np.array([unit.pixel_scale_relative_error for unit in solution.units.values()])
    assert np.all(relative > 0) and np.all(relative < error) and np.all(error < 3e-5 * SCALE)
    assert abs(np.mean(scale) - SCALE) < 3 * np.median(error)
    alone = solve_distortion(sky.units(), FRAME, FrameOptions())
    assert all(np.isnan(unit.pixel_scale_error) and unit.pixel_scale_relative_error > 0 for unit in alone.units.values())


def test_an_exposure_with_a_distortion_of_its_own_is_measured_and_named():
    """One exposure with a skew of 0.016 pixel is named, and it comes back; nothing is found where nothing is."""
    steady = Sky(seed=21)
    still = solve_distortion(steady.units(), FRAME, FrameOptions(), steady.reference())
    pulls = np.array([np.divide(unit.change.skew, unit.change.skew_error) for unit in still.units.values()])
    assert np.sqrt(np.mean(pulls**2)) < 1.5 and not any("of their own" in text for text in still.warnings)
    assert 0.4 < np.mean([unit.change.chi2 for unit in still.units.values()]) < 1.6
    sky = Sky(seed=21, change=0.016)
    solution = solve_distortion(sky.units(), FRAME, FrameOptions(), sky.reference())
    found = np.array([solution.units[k].change.skew[0] for k in range(9)])
    # Residuals say what is to be added to an exposure's positions; the map has a ninth of the change.
    assert abs(found[4] + 0.016 * 8 / 9) < 0.002 and np.max(np.abs(np.delete(found, 4))) < 0.004
    assert [solution.units[k].change.is_certain for k in range(9)].index(True) == 4
    assert [text for text in solution.warnings if "1 of 9 exposures have a distortion of their own" in text and "shot4" in text]


def test_mean_positions_come_back_into_the_exposures():
    sky = Sky()
    units = sky.units()
    solution = solve_distortion(units, FRAME, FrameOptions(), sky.reference())
    x, y = solution.raw_positions(4, "NIRISS", "F090W")
    known = np.isfinite(x)
    off = rms((x - units[4].x)[known], (y - units[4].y)[known])
    assert known.mean() > 0.9 and 0.8 * NOISE < off < 1.1 * NOISE


def test_a_bad_exposure_is_left_out_and_named():
    sky = Sky()
    units = sky.units()
    units[3].x = units[3].x + sky.rng.normal(0, 0.1, len(units[3]))
    units[3].y = units[3].y + sky.rng.normal(0, 0.1, len(units[3]))
    units[3].u, units[3].v = units[3].x - 127.5, units[3].y - 127.5
    solution = solve_distortion(units, FRAME, FrameOptions(), sky.reference())
    assert 3 not in solution.units and any("shot3_NIRISS: left out" in text for text in solution.warnings)
    _, _, dx, dy = sky.off(solution)
    assert rms(dx, dy) < 0.002


def test_a_reference_that_moved_counts_less_and_is_named():
    sky = Sky()
    solution = solve_distortion(sky.units(), FRAME, FrameOptions(), sky.reference(shift=5.0))
    assert any("another epoch without motions" in text for text in solution.warnings)
    _, _, dx, dy = sky.off(solution, parameters=6)
    assert rms(dx, dy) < 0.003


def test_too_few_stars_and_too_small_dithers_leave_the_header():
    sky = Sky(n_stars=5)
    solution = solve_distortion(sky.units(), FRAME, FrameOptions())
    assert not solution.maps and any("too few stars" in text for text in solution.warnings)
    sky = Sky(n_stars=400)
    solution = solve_distortion(sky.units(step=0.3), FRAME, FrameOptions())
    assert not solution.maps and any("dithers are too small" in text for text in solution.warnings)


def test_a_part_without_stars_is_not_covered():
    sky = Sky()
    units = sky.units()
    for unit in units:
        unit.flags[(unit.x > 150) & (unit.y > 150)] = int(StarFlag.SATURATED)
    solution = solve_distortion(units, FRAME, FrameOptions(), sky.reference())
    errors = solution.detectors["NIRISS"].errors
    corner, middle = np.array([240.0]), np.array([100.0])
    assert not errors.is_covered("F090W", corner, corner)[0] and errors.is_covered("F090W", middle, middle)[0]
    assert any("DISTORTION_EXTRAPOLATED" in text for text in solution.warnings)
    inside = np.std(errors.maps["F090W"][:, 0], axis=0)
    assert inside[-4, -4] > 3 * inside[20, 20]


@pytest.mark.slow
def test_errors_without_a_flag_are_like_those_among_the_stars():
    sky = Sky(n_stars=6000, wave=0.02)
    units = sky.units()
    for unit in units:
        unit.flags[(unit.x > 190) & (unit.y > 190)] = int(StarFlag.SATURATED)
    solution = solve_distortion(units, FRAME, FrameOptions(), sky.reference())
    x, y, dx, dy = sky.off(solution)
    depth = np.minimum(x, y) - 190
    empty, flagged = depth > 0, ~solution.detectors["NIRISS"].errors.is_covered("F090W", x, y)
    inside = rms(dx[~empty], dy[~empty])
    # Eight pixels from the last stars the map errs by four times as much as among them, and by ten times in the middle.
    assert flagged[depth > 12].all() and flagged[~empty].mean() < 0.02
    assert rms(dx[depth > 12], dy[depth > 12]) > 4 * inside
    assert rms(dx[empty & ~flagged], dy[empty & ~flagged]) < 2.2 * inside
