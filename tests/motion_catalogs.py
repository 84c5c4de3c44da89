"""Made-up stars of a cluster and the field with known motions, for tests of motions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dpm.science.motions import as_covariance

DISPERSION = 0.03  # mas/yr, intrinsic
FIELD_MEAN = np.array([-2.0, 0.8])


@dataclass
class Field:
    """Stars with true and measured motions; positions in arcsec from the cluster's centre."""

    position: np.ndarray
    mag: np.ndarray
    true: np.ndarray
    motion: np.ndarray
    covariance: np.ndarray
    member: np.ndarray


def make_field(n=1500, share=0.6, seed=1, bulk=(0.0, 0.0), dispersion=DISPERSION):
    """Cluster of a round Gaussian, field wide; errors grow with magnitude from 0.01 to 0.3 mas/yr and are correlated."""
    rng = np.random.default_rng(seed)
    member = rng.random(n) < share
    position = rng.uniform(-50, 50, (n, 2))
    mag = 19 + 7 * rng.power(2.0, n)
    true = np.where(member[:, None], rng.normal(0, dispersion, (n, 2)), FIELD_MEAN + rng.normal(0, (1.5, 1.0), (n, 2)))
    true = true + np.asarray(bulk)
    error = 0.01 * 10 ** (0.2 * (mag - 19))
    covariance = as_covariance(np.column_stack([error, 1.3 * error]), np.full(n, 0.3))
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.normal(size=(n, 2)))
    return Field(position, mag, true, true + noise, covariance, member)


def pull_width(value, true, covariance):
    """Robust width of the pulls of both axes."""
    pull = (value - true) / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return 1.4826 * np.median(np.abs(pull[np.isfinite(pull)]))
