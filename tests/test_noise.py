"""Noise planes: block medians, k, variance without light, ramp factors."""

from __future__ import annotations

import numpy as np
import pytest

from dpm.models.noise import (
    block_median,
    ramp_read_factor,
    ramp_shot_factor,
    round_mantissa,
    saturation_level,
    smooth_plane,
    split_error,
    variance_ratio,
)


def test_block_median_is_numpys() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(100, 150)).astype(np.float32)
    good = rng.uniform(size=values.shape) > 0.3
    medians, counts = block_median(values, good, block=64)
    assert medians.shape == counts.shape == (2, 3)
    for row in range(2):
        for column in range(3):
            part = (slice(64 * row, 64 * row + 64), slice(64 * column, 64 * column + 64))
            assert counts[row, column] == good[part].sum()
            assert medians[row, column] == pytest.approx(np.median(values[part][good[part]]), abs=1e-7)


def test_block_median_marks_empty_blocks() -> None:
    good = np.zeros((64, 128), dtype=bool)
    good[:, :64] = True
    medians, counts = block_median(np.ones((64, 128), dtype=np.float32), good, block=64)
    assert medians[0, 0] == 1.0 and np.isnan(medians[0, 1])
    assert counts.tolist() == [[4096, 0]]


def test_smooth_plane_keeps_a_slope() -> None:
    block = 32
    x = np.arange(4) * block + 0.5 * (block - 1)
    plane = smooth_plane(np.tile(x, (3, 1)), (96, 128), block)
    assert np.allclose(plane[:, 16:112], np.arange(16, 112), atol=1e-4)
    assert np.allclose(plane[:, 0], x[0])


def test_smooth_plane_of_one_block() -> None:
    assert np.all(smooth_plane(np.array([[2.0]]), (10, 20), 64) == 2.0)


def test_k_is_unbiased_where_the_light_is_noise() -> None:
    """VAR_POISSON from noisy counts, most pixels below two sigma: the plane still has the true k."""
    rng = np.random.default_rng(2)
    shape, k, read = (256, 256), 0.006, 0.05
    expected = np.full(shape, 0.05)
    expected[::7, ::5] = rng.uniform(5.0, 50.0, expected[::7, ::5].shape)
    light = expected + rng.normal(size=shape) * np.sqrt(k * expected + read**2)
    variance = k * np.maximum(expected + rng.normal(size=shape) * 0.04, 0.0)
    sigma = np.sqrt(variance + read**2)
    plane = variance_ratio(*(a.astype(np.float32) for a in (variance, light, sigma)), np.ones(shape, dtype=bool))
    assert plane.dtype == np.float32
    assert np.allclose(plane, k, rtol=0.02)


def test_k_without_bright_pixels_is_the_ratio_of_sums() -> None:
    rng = np.random.default_rng(3)
    light = np.abs(rng.normal(0.1, 0.02, (64, 64))).astype(np.float32)
    plane = variance_ratio(0.01 * light, light, np.full((64, 64), 1.0, dtype=np.float32), np.ones((64, 64), dtype=bool))
    assert np.allclose(plane, 0.01, rtol=1e-5)


def test_k_is_nan_without_light() -> None:
    zero = np.zeros((64, 64), dtype=np.float32)
    assert np.isnan(variance_ratio(zero, zero, zero + 1, np.ones((64, 64), dtype=bool))).all()


@pytest.mark.parametrize("known", [True, False])
def test_split_error_finds_level_and_slope(known: bool) -> None:
    rng = np.random.default_rng(4)
    shape, k, level = (192, 192), 0.01, 0.002
    light = rng.normal(0.05, 0.05, shape)
    light[::6, ::6] = rng.uniform(1.0, 100.0, light[::6, ::6].shape)
    variance = (level + k * np.maximum(light, -0.1)).astype(np.float32)
    found, plane, own = split_error(
        variance, light.astype(np.float32), np.ones(shape, dtype=bool), k if known else None
    )
    assert found == pytest.approx(k, rel=0.02)
    assert np.allclose(plane, level, rtol=0.05)
    assert own.shape == shape and own.min() >= 0


def test_split_error_without_errors() -> None:
    zero = np.zeros((64, 64), dtype=np.float32)
    k, plane, _ = split_error(zero, zero + 1, np.ones((64, 64), dtype=bool), 0.5)
    assert k == 0.5 and np.isnan(plane).all()


def test_ramp_factors_agree_with_a_simulated_line_fit() -> None:
    """Slopes of simulated ramps scatter as the two factors say."""
    rng = np.random.default_rng(5)
    n, rate, read, trials = 8, 50.0, 10.0, 20000
    time = np.arange(n, dtype=float)
    counts = np.cumsum(np.concatenate([np.zeros((trials, 1)), rng.poisson(rate, (trials, n - 1))], axis=1), axis=1)
    shot = np.polyfit(time, counts.T, 1)[0].var() / (rate / (n - 1))
    noise = np.polyfit(time, rng.normal(0.0, read, (n, trials)), 1)[0].var() / (read / (n - 1)) ** 2
    assert ramp_shot_factor(np.array(n)) == pytest.approx(shot, rel=0.05)
    assert ramp_read_factor(np.array(n)) == pytest.approx(noise, rel=0.05)


def test_saturation_level() -> None:
    light = np.full((20, 20), 5.0, dtype=np.float32)
    none = np.zeros(light.shape, dtype=bool)
    assert np.isnan(saturation_level(light, none, ~none))
    light[8:12, 8:12] = 80.0
    light[9:11, 9:11] = 120.0
    core = none.copy()
    core[9:11, 9:11] = True
    assert saturation_level(light, core, ~core) == pytest.approx(120.0)
    light[core] = np.nan
    assert saturation_level(light, core, ~core) == pytest.approx(80.0)


def test_round_mantissa() -> None:
    values = np.array([1.2345678, -3.3e-9, 0.0, np.nan, np.inf], dtype=np.float32)
    rounded = round_mantissa(values, 11)
    assert np.allclose(rounded[:3], values[:3], rtol=2.0**-12, atol=0)
    assert np.isnan(rounded[3]) and np.isinf(rounded[4])
    assert (rounded[:2].view(np.uint32) & 0xFFF).tolist() == [0, 0]
