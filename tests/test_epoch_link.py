"""Stars of different epochs are put together by their motions and colours, and seldom wrongly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dpm.stages.frame.epoch_link import EpochStars, join_lists

SCALE = 0.031
SIDE = 600.0  # master pixels


class Sky:
    """Members that move together and a field that does not, in two filters whose colour tells them apart a little."""

    def __init__(self, n: int, seed: int, bulk: tuple[float, float] = (0.0, 0.0), field: float = 2.0) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.member = rng.uniform(size=n) < 0.5
        self.place = rng.uniform(0, SIDE, (n, 2))
        spread = np.where(self.member, 0.03, field)[:, None]
        self.motion = (np.where(self.member[:, None], np.array(bulk), 0.0) + spread * rng.normal(size=(n, 2))) / (1000 * SCALE)
        self.mag = 26.5 + 2.5 * np.log10(rng.uniform(size=n)) * 1.5
        self.colour = np.where(self.member, 0.5, 0.9) + np.where(self.member, 0.05, 0.2) * rng.normal(size=n)

    def seen(self, time: float, filters: str, found: float = 0.9, junk: int = 30) -> tuple[EpochStars, np.ndarray]:
        """One epoch's list, shuffled, with stars lost and some that do not exist (-1)."""
        rng, n = self.rng, len(self.mag)
        k = np.flatnonzero(rng.uniform(size=n) < found)
        error = 0.02 + 0.1 * 10 ** (0.3 * (self.mag[k] - 26.0))
        place = self.place[k] + self.motion[k] * (time - 2016.0) + error[:, None] * rng.normal(size=(len(k), 2))
        place = np.concatenate([place, rng.uniform(0, SIDE, (junk, 2))])
        mag = np.concatenate([self.mag[k], rng.choice(self.mag, junk)])
        colour = np.concatenate([self.colour[k], rng.choice(self.colour, junk)])
        mags = {name: mag + (colour if name == "blue" else 0.0) + 0.03 * rng.normal(size=len(mag)) for name in filters.split()}
        star = np.concatenate([k, np.full(junk, -1)])
        order = rng.permutation(len(star))
        error = np.concatenate([error, np.full(junk, 0.1)])
        mags = {name: values[order] for name, values in mags.items()}
        return EpochStars(time, *place[order].T, error[order], mags), star[order]


def score(seen: list[tuple[EpochStars, np.ndarray]], numbers: list[np.ndarray], first: int, second: int) -> tuple[float, float]:
    """Share of the stars found at both epochs that have one number, and share of common numbers that are not one star."""
    (_, a), (_, b) = seen[first], seen[second]
    star_of = {int(number): int(star) for number, star in zip(numbers[second], b)}
    pairs = [(int(star), star_of[int(number)]) for number, star in zip(numbers[first], a) if int(number) in star_of]
    right = sum(one == other >= 0 for one, other in pairs)
    return right / len((set(a) & set(b)) - {-1}), 1 - right / len(pairs)


def join(seen: list[tuple[EpochStars, np.ndarray]]) -> list[np.ndarray]:
    numbers, n = join_lists([stars for stars, _ in seen], SCALE)
    assert all(len(set(part)) == len(part) for part in numbers), "a star has one row an epoch"
    assert set(np.concatenate(numbers)) == set(range(n))
    return numbers


@pytest.mark.parametrize("bulk", [(0.0, 0.0), (5.0, -3.0), (-12.5, -19.0)])
def test_members_and_field_are_linked_over_sixteen_years(bulk):
    """The field moves by up to three pixels, a fifth of the distance between stars; with a bulk motion the members do as well."""
    sky = Sky(2500, 1, bulk)
    seen = [sky.seen(2006.4, "blue"), sky.seen(2022.4, "red")]
    right, wrong = score(seen, join(seen), 0, 1)
    assert right > 0.95 and wrong < 0.01
    fast = np.hypot(*sky.motion.T) * 1000 * SCALE > 4
    both = np.flatnonzero(fast & np.isin(np.arange(2500), seen[0][1]) & np.isin(np.arange(2500), seen[1][1]))
    assert len(both) > 100
    first, second = (dict(zip(star, number)) for (_, star), number in zip(seen, join(seen)))
    assert np.mean([first[k] == second[k] for k in both]) > 0.7


def test_colours_decide_where_motions_leave_doubt():
    sky = Sky(4000, 2)
    seen = [sky.seen(2006.4, "blue"), sky.seen(2022.4, "red")]
    right, _ = score(seen, join(seen), 0, 1)
    # Only the brightest tenth keeps its magnitudes.
    dark = []
    for stars, star in seen:
        mags = {name: np.where(mag < np.percentile(mag, 10), mag, np.nan) for name, mag in stars.mags.items()}
        dark.append((replace(stars, mags=mags), star))
    blind, wrong = score(dark, join(dark), 0, 1)
    assert right > blind + 0.02 and blind > 0.6 and wrong < 0.02


def test_three_epochs_give_one_number_a_star():
    sky = Sky(2000, 3, bulk=(2.0, 1.0))
    seen = [sky.seen(2006.4, "blue"), sky.seen(2015.0, "red", found=0.7), sky.seen(2022.4, "red blue")]
    numbers = join(seen)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        right, wrong = score(seen, numbers, first, second)
        assert right > 0.95 and wrong < 0.015


def test_few_stars_are_linked_and_none_where_there_are_none():
    sky = Sky(8, 4, field=1.0)
    seen = [sky.seen(2010.0, "red", 1.0, 0), sky.seen(2022.0, "red", 1.0, 0)]
    right, wrong = score(seen, join(seen), 0, 1)
    assert right > 0.7 and wrong == 0
    far = replace(seen[0][0], x=seen[0][0].x + 5000)
    numbers, n = join_lists([far, seen[1][0]], SCALE)
    assert n == 16 and not set(numbers[0]) & set(numbers[1])
    empty = EpochStars(2010.0, np.zeros(0), np.zeros(0), np.zeros(0), {})
    assert join_lists([empty, seen[1][0]], SCALE)[1] == 8
    assert join_lists([seen[0][0], empty], SCALE)[1] == 8
    assert join_lists([], SCALE) == ([], 0)
