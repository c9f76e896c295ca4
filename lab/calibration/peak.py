"""What is known of a rate near its maximum: a quadratic function of a few settings, every coefficient with its uncertainty.

The rate at an offset ``u`` from the reference point is ``r + g.u + u.H.u / 2`` plus counting noise.  The coefficients are
estimated together by recursive least squares, which is a Kalman filter of a state that stands still: each count refines all
of them, a shift of the reference point carries them along exactly, and :meth:`Peak.grow` adds the uncertainty of what may
have changed meanwhile (Kalman, J. Basic Eng. 82, 35 (1960)).  ``u`` is dimensionless, and rates are relative to any unit.

Along a direction in which the rate bends down, its summit is where the slope is zero; along one where it does not, only a
significant slope is believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SURE = 2.0
"""A slope counts from so many of its sigmas on, where nothing bends down."""
FLATTEST = 0.25
"""The least that a direction is taken to bend, as a part of the one that bends most."""
TINY = 1e-9


@dataclass(frozen=True)
class Summit:
    """``step`` leads there (float64 of shape (n,)); the rate is to rise by ``gain`` on the way."""

    step: Floats
    gain: float


class Peak:
    """Knows nothing but scales at first: ``rate`` with its ``sigma``, slopes and curvatures as large as ``bends``.

    ``bends`` is how much a setting of one unit can bend the rate at the most, in units of the rate.
    """

    def __init__(self, count: int, rate: float, sigma: float, bends: float) -> None:
        self._count = count
        self._pairs = np.triu_indices(count)
        curvatures = len(self._pairs[0])
        self.mean: Floats = np.concatenate([[rate], np.zeros(count + curvatures)])
        scale = np.concatenate([[sigma], np.full(count + curvatures, bends)])
        self.covariance: Floats = np.diag(scale**2)

    @classmethod
    def known(cls, mean: Floats, covariance: Floats) -> Peak:
        """With these coefficients: rate, slopes, and the curvatures of a triangle row by row."""
        count = round((math.sqrt(8 * len(mean) + 1) - 3) / 2)
        peak = cls(count, 1.0, 1.0, 1.0)
        if peak.mean.shape != mean.shape or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"{len(mean)} coefficients and a covariance of {covariance.shape} are no quadratic"
            )
        peak.mean, peak.covariance = mean.copy(), covariance.copy()
        return peak

    @property
    def rate(self) -> float:
        """At the reference point."""
        return float(self.mean[0])

    @property
    def slope(self) -> Floats:
        """Of shape (n,)."""
        return self.mean[1 : 1 + self._count]

    @property
    def curvature(self) -> Floats:
        """Symmetric, of shape (n, n)."""
        return self._matrix(self.mean)

    def _matrix(self, coefficients: Floats) -> Floats:
        """Of shape (..., n, n), from coefficients of shape (..., m)."""
        rows, columns = self._pairs
        matrix = np.zeros((*coefficients.shape[:-1], self._count, self._count))
        matrix[..., rows, columns] = matrix[..., columns, rows] = coefficients[..., 1 + self._count :]
        return matrix

    def _features(self, u: Floats) -> Floats:
        """What the coefficients are multiplied by at ``u``."""
        rows, columns = self._pairs
        squares = u[rows] * u[columns] * np.where(rows == columns, 0.5, 1.0)
        return np.concatenate([[1.0], u, squares])

    def learn(self, u: Floats, rate: float, sigma: float, rough: float = 0.0) -> float:
        """A rate was measured at ``u``; by how many sigmas that is a surprise, if a quadratic is ``rough`` by so much."""
        features = self._features(u)
        carried = self.covariance @ features
        variance, off = features @ carried + sigma**2, rate - features @ self.mean
        gain = carried / variance
        self.mean = self.mean + gain * off
        self.covariance = self.covariance - np.outer(gain, carried)
        self.covariance = (self.covariance + self.covariance.T) / 2
        return float(off / np.sqrt(variance + rough**2))

    def shift(self, by: Floats) -> None:
        """The reference point moves."""
        size = len(self.mean)
        moved = np.eye(size)
        moved[0] = self._features(by)
        rows, columns = self._pairs
        for place, (row, column) in enumerate(zip(rows, columns, strict=True), start=1 + self._count):
            moved[1 + row, place] += by[column]
            if row != column:
                moved[1 + column, place] += by[row]
        self.mean = moved @ self.mean
        self.covariance = moved @ self.covariance @ moved.T

    def restart_rate(self, rate: float, sigma: float) -> None:
        """The rate is measured in another unit from here on; slopes and curvatures are relative to it already."""
        self.mean[0] = rate
        self.covariance[0, :] = self.covariance[:, 0] = 0.0
        self.covariance[0, 0] = sigma**2

    def grow(self, rate: float, slope: float, curvature: float) -> None:
        """Rate, slopes and curvatures may have changed by so much (one sigma each)."""
        curvatures = len(self.mean) - 1 - self._count
        grown = np.concatenate([[rate], np.full(self._count, slope), np.full(curvatures, curvature)])
        self.covariance = self.covariance + np.diag(grown**2)

    def summit(self, radius: float, free: npt.NDArray[np.bool_]) -> Summit:
        """The highest point that is believed in, at most ``radius`` away along each principal direction of the ``free``.

        A direction that hardly bends is taken to bend as :data:`FLATTEST` of the one that bends most: what is far away along
        it is nothing that a quadratic tells.
        """
        bends, along = np.linalg.eigh(self.curvature[np.ix_(free, free)])
        slopes = along.T @ self.slope[free]
        block = self.covariance[1 : 1 + self._count, 1 : 1 + self._count][np.ix_(free, free)]
        sigmas = np.sqrt(np.einsum("ik,ij,jk->k", along, block, along))
        seen = (bends < 0) | (np.abs(slopes) > SURE * sigmas)
        steps = np.where(seen, np.clip(slopes / _stiffness(bends), -radius, radius), 0.0)
        step = np.zeros(self._count)
        step[free] = along @ steps
        return Summit(step, float(slopes @ steps + 0.5 * np.minimum(bends, 0.0) @ steps**2))

    def gain_below(
        self, radius: float, free: npt.NDArray[np.bool_], rng: np.random.Generator, *, draws: int = 300
    ) -> float:
        """What could still be gained within ``radius``, in 95 of 100 of the ways that the coefficients may be."""
        drawn = rng.multivariate_normal(self.mean, self.covariance, draws, method="svd")
        curvatures = self._matrix(drawn)[:, free][:, :, free]
        bends, along = np.linalg.eigh(curvatures)
        slopes = np.einsum("nik,ni->nk", along, drawn[:, 1 : 1 + self._count][:, free])
        down = np.minimum(bends, -TINY)
        steps = np.clip(-slopes / down, -radius, radius)
        return float(np.quantile((slopes * steps + 0.5 * down * steps**2).sum(axis=1), 0.95))

    def towards(self, radius: float, low: Floats, high: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The step to the summit between ``low`` and ``high``, and which settings are not held at an end of that range."""
        free = np.full(self._count, True)
        while free.any():
            step = self.summit(radius, free).step
            beyond = free & ((step < low - TINY) | (step > high + TINY))
            ends = beyond & (np.abs(np.where(step < 0, low, high)) < TINY)
            if not ends.any():  # as far as it goes, and on from there
                return np.clip(step, low, high), free
            free = free & ~ends
        return np.zeros(self._count), free


def _stiffness(bends: Floats) -> Floats:
    return np.maximum(-bends, FLATTEST * float(np.abs(bends).max()))
