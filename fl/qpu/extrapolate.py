"""Zero-noise extrapolation: a circuit measured at amplified noise, carried back to none.

Every two-qubit gate G is run as G, as G G^-1 G and as G G^-1 G G^-1 G, which multiplies its noise by 1, 3 and
5 and changes nothing else (Giurgica-Tiron et al., arXiv 2005.10921, sec. III).  The expectation value E(x) at
noise x times the device's own is fitted and read at x = 0 (Temme et al., arXiv 1612.02058):

* ``E = a exp(-b x)``, b >= 0, where every point stands clear of zero on the same side: what a device that
  depolarises does (Endo et al., Phys. Rev. X 8, 031027 (2018), sec. III).  It is a straight line in log |E|,
  whose errors are sigma / |E|;
* ``E = a + b x`` elsewhere.

Both are weighted least squares, so the value at zero is a fixed combination ``sum c_i E_i`` of the points and
its variance is ``sum c_i^2 sigma_i^2``: the error is that of the measurement, however well three points
happen to lie on the curve.  (The fits of qiskit-ibm-runtime scale it with their own residual, which with one
degree of freedom is often next to nothing.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
"""float64; each function says the shape."""

CLEAR_OF_ZERO = 5.0
"""Standard errors from zero from which on a logarithm may be taken: its bias is then below 2 % of the value."""


def to_zero_noise(
    values: Floats, errors: Floats, factors: Sequence[float], shots: int
) -> tuple[Floats, Floats]:
    """Expectation values at no noise with their standard errors; arrays (...) from ``values`` and ``errors``
    (factors, ...) measured with ``shots`` at the noise ``factors``.

    ``errors`` below ``1 / shots`` count as that much: outcomes that were all alike say no more.
    """
    x = np.asarray(factors, np.float64)
    if len(values) != len(x) or len(x) < 2:
        raise ValueError(
            f"{len(values)} rows of values for {len(x)} noise factors; there must be two or more"
        )
    sigma = np.maximum(errors, 1.0 / shots)
    straight, straight_error, _ = _line_at_zero(x, values, sigma)
    same_side = np.all(values > 0, axis=0) | np.all(values < 0, axis=0)
    clear = same_side & np.all(np.abs(values) > CLEAR_OF_ZERO * sigma, axis=0)
    size = np.where(clear, np.abs(values), 1.0)
    logarithm, log_error, slope = _line_at_zero(x, np.log(size), sigma / size)
    decays = clear & (slope <= 0)
    curve = np.exp(np.where(decays, logarithm, 0.0))
    return (
        np.where(decays, np.sign(values[0]) * curve, straight),
        np.where(decays, curve * log_error, straight_error),
    )


def _line_at_zero(x: Floats, y: Floats, sigma: Floats) -> tuple[Floats, Floats, Floats]:
    """Value at 0 of the weighted least-squares line through ``y`` (factors, ...), its standard error, and the slope."""
    weight = 1.0 / sigma**2
    at = x.reshape(-1, *[1] * (y.ndim - 1))
    total, first, second = (np.sum(weight * at**power, axis=0) for power in (0, 1, 2))
    determinant = total * second - first**2
    share = weight * (second - first * at) / determinant
    slope = np.sum(weight * (total * at - first) * y, axis=0) / determinant
    return np.sum(share * y, axis=0), np.sqrt(np.sum((share * sigma) ** 2, axis=0)), slope
