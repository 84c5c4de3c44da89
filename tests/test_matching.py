"""Linking, assignment and offset voting."""

import numpy as np
import pytest

from dpm.kernels.matching import assign_units, grouped_median, link_units
from dpm.models.transform import LinearTransform
from dpm.stages.frame.match import match_lists, mutual_pairs, vote_offset


def scene(n_units=5, n_stars=300, size=300.0, noise=0.05, junk=30, seed=0):
    """Stars, and their noisy, incomplete lists with junk: positions, starts, true star of each (-1 junk)."""
    rng = np.random.default_rng(seed)
    grid = int(np.ceil(np.sqrt(n_stars)))
    cells = np.stack(np.meshgrid(np.arange(grid), np.arange(grid)), -1).reshape(-1, 2)[:n_stars]
    stars = (cells + rng.uniform(0.2, 0.8, cells.shape)) * size / grid
    parts, truth = [], []
    for _ in range(n_units):
        seen = np.flatnonzero(rng.random(n_stars) < 0.9)
        both = np.concatenate([stars[seen] + rng.normal(0, noise, (len(seen), 2)), rng.uniform(0, size, (junk, 2))])
        name = np.concatenate([seen, np.full(junk, -1)])
        order = rng.permutation(len(name))
        parts.append(both[order])
        truth.append(name[order])
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    points = np.concatenate(parts)
    return stars, points[:, 0].copy(), points[:, 1].copy(), starts, np.concatenate(truth)


def test_linked_detections_are_those_of_one_star_and_one_a_unit():
    _, x, y, starts, truth = scene()
    star, n = link_units(x, y, starts, 0.5)
    unit = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    assert len(np.unique(star * 100 + unit)) == len(star)
    for true in range(300):
        mine = star[truth == true]
        assert len(np.unique(mine)) <= 1 or np.mean(mine == np.bincount(mine).argmax()) >= 0.75
    assert star.max() + 1 == n


def test_assignment_is_one_to_one_and_nearest():
    stars, x, y, starts, truth = scene()
    star = assign_units(x, y, starts, stars[:, 0].copy(), stars[:, 1].copy(), 0.5)
    assert np.mean(star[truth >= 0] == truth[truth >= 0]) > 0.99
    assert np.mean(star[truth < 0] >= 0) < 0.05
    close = assign_units(
        np.array([0.1, -0.2, 5.0]), np.zeros(3), np.array([0, 3]), np.array([0.0, 0.3]), np.zeros(2), 1.0
    )
    # The second detection loses its nearest star to the first and gets what is left within the radius.
    assert list(close) == [0, 1, -1]


def test_grouped_median():
    values = np.array([3.0, 1.0, np.nan, 2.0, 5.0, 7.0])
    np.testing.assert_array_equal(grouped_median(values, np.array([0, 4, 4, 6])), [2.0, np.nan, 6.0])


@pytest.mark.parametrize("offset", [(60.0, -45.0), (0.4, 0.3)])
def test_votes_find_the_offset_among_junk(offset):
    rng = np.random.default_rng(5)
    stars = rng.uniform(0, 500, (40, 2))
    first = np.concatenate([stars + rng.normal(0, 0.1, stars.shape), rng.uniform(0, 500, (200, 2))])
    second = np.concatenate([stars + offset, rng.uniform(0, 500, (200, 2))])
    vote = vote_offset(first[:, 0], first[:, 1], second[:, 0], second[:, 1], 100.0, 1.5)
    assert abs(vote.dx - offset[0]) < 0.2 and abs(vote.dy - offset[1]) < 0.2
    assert vote.chance < 1e-6


def test_lists_that_do_not_belong_together_do_not_match():
    rng = np.random.default_rng(6)
    first, second = rng.uniform(0, 500, (2, 200)), rng.uniform(0, 500, (2, 200))
    assert match_lists(*first, *second, LinearTransform(), 100.0, 1.5, 0.5) is None


@pytest.mark.parametrize("degrees", [0.0, 0.15, -0.8])
def test_lists_match_without_knowing_offset_and_rotation(degrees):
    rng = np.random.default_rng(7)
    stars = rng.uniform(0, 1000, (2, 250))
    angle = np.radians(degrees)
    turn = LinearTransform(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle), 33.0, -20.0)
    seen = turn.inverse()(*stars) + rng.normal(0, 0.03, stars.shape)
    u, v = np.concatenate([seen, rng.uniform(0, 1000, (2, 100))], axis=1)
    found = match_lists(u, v, *stars, LinearTransform(), 80.0, 1.5, 0.5)
    assert found is not None and found[2] > 240
    np.testing.assert_allclose(found[0].transform(u[:250], v[:250]), stars, atol=0.15)


def test_three_stars_are_enough_where_the_pointing_is_good():
    u, v = np.array([10.0, 200.0, 90.0]), np.array([30.0, 50.0, 180.0])
    found = match_lists(u, v, u + 0.3, v - 0.2, LinearTransform(), 100.0, 1.5, 0.5)
    assert found is not None and found[2] == 3
    assert found[0].transform.x_shift == pytest.approx(0.3, abs=0.01)


def test_mutual_pairs_of_empty_lists():
    nothing = np.zeros(0)
    i, j = mutual_pairs(nothing, nothing, np.ones(2), np.ones(2), 1.0)
    assert len(i) == len(j) == 0
