"""What the detectors see: clicks, gain and error rate of single-photon interference in the ring.

Two coherent pulses of mean photon numbers ``x_a`` and ``x_b`` (at the detectors, efficiency included) meet on
the relay's beam splitter with the phase difference ``phi``.  Detector 1 sees the intensity ``I1`` (bright for
equal phases), detector 2 sees ``I2``; a round succeeds when exactly one of them clicks::

    I1 = (x_a + x_b + 2 V sqrt(x_a x_b) cos phi) / 2      P1 = (1-pd) exp(-I2) [1 - (1-pd) exp(-I1)]
    I2 = (x_a + x_b - 2 V sqrt(x_a x_b) cos phi) / 2      P2 = (1-pd) exp(-I1) [1 - (1-pd) exp(-I2)]

``V`` is the interference visibility, ``pd`` the dark-count probability per slot and detector.  Gain
``Q = P1(0) + P2(0)``, error rate ``E = P2(0) / Q``.  Poissonian counting of coherent light; see e.g. the
channel model of Curty, Azuma, Lo, arXiv:1807.07667.  Everything is written with ``expm1`` so that dim light
keeps its digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.protocols.epsilons import ParameterError

LOSS_MAX_DB = 400.0
"""No light is left long before: one photon in 100 million years at 10 GHz."""


def transmittance(loss_db: float) -> float:
    """Power transmittance of a loss in dB."""
    return math.exp(-loss_db * (math.log(10.0) / 10.0))


def click_probabilities(
    x_a: float, x_b: float, visibility: float, dark_count: float, phi: float = 0.0
) -> tuple[float, float]:
    """(P1, P2): probabilities per slot that only detector 1, or only detector 2, clicks."""
    mean = 0.5 * (x_a + x_b)
    cross = visibility * math.sqrt(x_a * x_b) * math.cos(phi)
    i1, i2 = mean + cross, max(mean - cross, 0.0)
    quiet = 1.0 - dark_count
    p1 = quiet * math.exp(-i2) * (dark_count - quiet * math.expm1(-i1))
    p2 = quiet * math.exp(-i1) * (dark_count - quiet * math.expm1(-i2))
    return p1, p2


@dataclass(frozen=True, slots=True)
class OpticalChannel:
    """A pair's calibrated channel: loss of each arm (with detector efficiency), visibility, dark counts.

    ``backscatter``: counts per gate and detector of light that the fibre scattered back, for every photon that
    arrives from a user; ``residue`` the same of light that the carver lets through beside the pulse.  Both grow with the
    light launched, and count as darkness does: scattered light has no phase, and that of the residue, which passes the
    modulators before and after they are at rest, is not relied on.
    """

    loss_a_db: float
    loss_b_db: float
    visibility: float
    dark_count: float
    backscatter: float = 0.0
    residue: float = 0.0

    def __post_init__(self) -> None:
        for name, loss in (("loss_a_db", self.loss_a_db), ("loss_b_db", self.loss_b_db)):
            if not 0.0 <= loss <= LOSS_MAX_DB:
                raise ParameterError(name, f"must be a loss of 0 dB to {LOSS_MAX_DB:g} dB, got {loss:g}")
        if not 0.0 < self.visibility <= 1.0:
            raise ParameterError("visibility", f"must lie in (0, 1], got {self.visibility:g}")
        if not 0.0 <= self.dark_count < 0.5:
            raise ParameterError(
                "dark_count", f"is a probability per slot and detector in [0, 0.5), got {self.dark_count:g}"
            )
        for name, light in (("backscatter", self.backscatter), ("residue", self.residue)):
            if not 0.0 <= light < math.inf:
                raise ParameterError(
                    name, f"is a number of counts per arriving photon, 0 or more, got {light:g}"
                )

    @property
    def eta_a(self) -> float:
        """Transmittance from the first user to a detector."""
        return transmittance(self.loss_a_db)

    @property
    def eta_b(self) -> float:
        """Transmittance from the second user to a detector."""
        return transmittance(self.loss_b_db)

    def gain_and_qber(self, mu_a: float, mu_b: float, phi: float = 0.0) -> tuple[float, float]:
        """(Q, E) for mean photon numbers per slot at the users' outputs; E is 1/2 where nothing ever clicks.

        ``phi`` is the phase difference (0 for rounds of the same basis, pi/2 for mixed ones).
        """
        x_a, x_b = self.eta_a * mu_a, self.eta_b * mu_b
        scattered = -math.expm1(-(self.backscatter + self.residue) * 0.5 * (x_a + x_b))
        dark = self.dark_count + (1.0 - self.dark_count) * scattered
        p1, p2 = click_probabilities(x_a, x_b, self.visibility, dark, phi)
        gain = p1 + p2
        return gain, (p2 / gain if gain > 0.0 else 0.5)
