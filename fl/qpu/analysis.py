"""How far a backend is from exact simulation, and how much of that is shot noise.

For an observable with values +-1 measured with S shots, the mean of the S outcomes varies with
``(1 - <Z>^2) / S`` about the backend's own expectation value (binomial variance); the estimator reports its
root as standard error.  The mean squared deviation from the exact value is that variance plus the square of
whatever is systematic - gate errors, decoherence, readout - so the systematic part is the difference of the
two.  ``contrast`` is the slope of measured over exact values: 1 for a perfect device, smaller the more a
device depolarises.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from fl.qpu.extrapolate import Floats
from fl.qpu.model import CircuitModel, expectations_of


class Deviation(msgspec.Struct, frozen=True):
    """Measured minus exact over all examples: root mean square, its shot noise and the rest (device noise and
    bias); mean and largest size, ``absolute`` and ``largest``; signed mean; slope."""

    observable: str
    rms: float
    shot_noise: float
    rest: float
    absolute: float
    largest: float
    mean: float
    contrast: float


class Comparison(msgspec.Struct, frozen=True):
    """A backend against exact simulation on ``examples`` examples; ``*_ci95`` are Wilson intervals.

    ``shot_noise_agreement`` is what sampling the exact distribution with the same shots would give.
    """

    examples: int
    accuracy_exact: float
    accuracy_backend: float
    agreement: float
    agreement_ci95: tuple[float, float]
    shot_noise_agreement: float
    shot_noise_accuracy: float
    deviation: Deviation
    observables: tuple[Deviation, ...]


def compare(
    model: CircuitModel, expectations: Floats, standard_errors: Floats, *, shots: int, seed: int
) -> Comparison:
    """Compare measured expectation values (n, n_observables) and their standard errors with exact ones."""
    probabilities = model.probabilities()
    exact = expectations_of(probabilities, model.observables)
    label_exact, label_backend = model.predict(exact), model.predict(expectations)
    label_sampled = model.predict(sampled(probabilities, model.observables, shots, seed))
    agreed = int(np.sum(label_exact == label_backend))
    columns = [
        deviation(word, exact[:, index], expectations[:, index], standard_errors[:, index])
        for index, word in enumerate(model.observables)
    ]
    return Comparison(
        examples=len(exact),
        accuracy_exact=float(np.mean(label_exact == model.labels)),
        accuracy_backend=float(np.mean(label_backend == model.labels)),
        agreement=agreed / len(exact),
        agreement_ci95=wilson(agreed, len(exact)),
        shot_noise_agreement=float(np.mean(label_exact == label_sampled)),
        shot_noise_accuracy=float(np.mean(label_sampled == model.labels)),
        deviation=deviation("all", exact.ravel(), expectations.ravel(), standard_errors.ravel()),
        observables=tuple(columns),
    )


def deviation(name: str, exact: Floats, measured: Floats, standard_errors: Floats) -> Deviation:
    """Split the deviation of ``measured`` from ``exact``, arrays of shape (n,)."""
    total = float(np.mean((measured - exact) ** 2))
    shot = float(np.mean(standard_errors**2))
    spread = float(np.var(exact))
    slope = (
        float(np.mean((exact - exact.mean()) * (measured - measured.mean())) / spread)
        if spread > 0
        else math.nan
    )
    return Deviation(
        observable=name,
        rms=math.sqrt(total),
        shot_noise=math.sqrt(shot),
        rest=math.sqrt(max(0.0, total - shot)),
        absolute=float(np.mean(np.abs(measured - exact))),
        largest=float(np.max(np.abs(measured - exact))),
        mean=float(np.mean(measured - exact)),
        contrast=slope,
    )


def sampled(probabilities: Floats, observables: tuple[str, ...], shots: int, seed: int) -> Floats:
    """Expectation values (n, n_observables) from ``shots`` draws of the exact distribution of every example."""
    clean = np.clip(probabilities, 0.0, None)
    clean = clean / clean.sum(axis=1, keepdims=True)
    counts = np.random.default_rng([seed, 0x5107]).multinomial(shots, clean)
    return expectations_of(counts / shots, observables)


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4)."""
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
