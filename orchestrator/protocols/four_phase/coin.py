"""The quantum coin of one user: how well her two bases can be told apart, with all that is uncertain of her light.

*Wrong phases.*  A user sends ``|sqrt(mu) exp(i theta)>``; x_0, x_1 are the true phases of her two symbols of X and
y_0, y_1 those of Y (ideal: 0, pi and pi/2, -pi/2).  The proof gives her a qubit beside the light,
``(|0>|x_0> + |1>|x_1>) / sqrt 2`` for a round of X and ``(|0'>|y_0> + |1'>|y_1>) / sqrt 2`` for one of Y, and F is the
overlap of the two.  Her qubit must be measured in *complementary* bases, ``|<j|k'>|^2 = 1/2``, because the secrecy of
one is argued from the other; what is free are the phases of the four basis vectors, and they leave one constraint:
with ``O_jk = <x_j|y_k>`` only the sum of angles ``arg O_00 + arg O_11 - arg O_01 - arg O_10 = 4 p`` matters.  Shared
out equally over the four terms it gives, for any phases whatever ::

    F >= M (cos p + sin p)       M = mean |O_jk|,  |O_jk| = exp(-mu (1 - cos d_jk)),  arg O_jk = mu sin d_jk,  d_jk = y_k - x_j

which is ``exp(-mu) (cos mu + sin mu)`` for ideal phases (Lo and Preskill, quant-ph/0610203).  The fidelity of the two
mixtures (Uhlmann) is larger and is no bound here: turn Y onto X, and the mixtures are the same, F = 1, with no test
left.  If each phase is wrong by up to u, ``d_jk`` is wrong by ``s_jk = s_k - s_j``, up to 2 u, and over that box ::

    p >= mu cos 2u          M >= (product |O_jk|)^(1/4) >= exp(-mu (1 + sin^3(2u/3)))

The first is plain.  In the second the sum of the four cosines is ``4 sin h sin g sin(k)`` with ``|h|``, ``|g|`` half the
distances of the errors within X and within Y and ``|k|`` the distance of their centres, at most ``2u - |h| - |g|``:
log-concave, so largest where all three are 2u/3.

This is reached within a few per cent when Y is turned against X by 2u, by both users alike so that no error tells of it.

*Both users.*  The key is the first user's bits, and for their secrecy alone the second user's qubit could be measured in
any basis: F would be the fidelity of his mixtures, ``exp(-mu) (cos r + sin r)`` at least with ``r = mu cos h cos g``, which
no turn of Y against X lowers, and a quarter of what uncertain phases cost would be saved.  But reconciliation makes public
where the two users' bits differ, and is not charged for it.  What is measured in their stead must leave that alone and
flip the first user's bit, so it flips both: a parity of two measurements, each complementary to the bits of its user.

*Light of the other direction.*  The modulator has not come to rest when it passes: it takes along the fraction r of
the symbol's phase.  It is a second mode with ``mu_o`` photons and ``x_jk = r (|d_jk| + 2u)`` at most in the place of
``d_jk``, so M shrinks by ``exp(-mu_o mean(x_jk^2) / 2)``.  In p the terms linear in x_jk cancel exactly, which leaves
at most ``mu_o mean(x_jk^3) / 6`` of either sign.

*Intensity.*  ``mu`` is an upper bound: monitor and attenuator are believed to a tolerance, the monitor's zero to an
absolute error, and a carver of finite extinction lets light through while no pulse passes: of a slot of g gates all but
one carry the residue e of the own light, and during the half of them in which the own sample is on the light of the
other direction, rho times brighter, is modulated just as well: ``1 + (g - 1) e + g e rho / 2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.protocols.epsilons import ParameterError

MU_MAX = math.pi / 2
"""The coin bound holds up to this mean photon number per slot."""
PHASE_UNCERTAINTY_MAX_RAD = math.pi / 4
"""Two phases each wrong by this much make a symbol of Y one of X."""
TOLERANCE_MAX_DB = 60.0
EXTINCTION_MIN_DB = 30.0
"""Below this the light between the pulses costs a good part of the key or all of it."""
OTHER_LIGHT = 15.0
"""Light of the other direction per own light behind a station of 11.9 dB, where nothing better is known."""
GATES_PER_SLOT = 10.0
"""Of a clock of 100 MHz and gates of one nanosecond."""
NOMINAL_DISTANCES_RAD = (math.pi / 2, math.pi / 2, math.pi / 2, 3 * math.pi / 2)
"""|y_k - x_j| as they are driven: X at 0 and pi, Y at pi/2 and -pi/2."""


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """What a proof must grant of one user's light beside its nominal mean photon number; by default nothing.

    ``tolerance_db`` how far the intensity may exceed its nominal value, ``zero_photons`` how far beyond that by the
    monitor's zero (a mean photon number at the output); ``phase_uncertainty_rad`` how far each phase may be wrong;
    ``extinction_db`` light of a pulse over light of an empty gate behind the carver; ``other_light`` photons of the
    other direction per own photon at the output, ``memory`` the fraction of the own phase that they take along;
    ``gates_per_slot`` how often the gate fits into a slot.
    """

    tolerance_db: float = 0.0
    zero_photons: float = 0.0
    phase_uncertainty_rad: float = 0.0
    extinction_db: float = math.inf
    other_light: float = 0.0
    memory: float = 0.0
    gates_per_slot: float = GATES_PER_SLOT

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance_db <= TOLERANCE_MAX_DB:
            raise ParameterError(
                "intensity_tolerance_db",
                f"must be 0 dB to {TOLERANCE_MAX_DB:g} dB, got {self.tolerance_db:g}",
            )
        if not 0.0 <= self.phase_uncertainty_rad <= PHASE_UNCERTAINTY_MAX_RAD:
            raise ParameterError(
                "phase_uncertainty_rad",
                f"must be 0 to pi/4 (there a symbol of Y could be one of X), got {self.phase_uncertainty_rad:g}",
            )
        for name in ("zero_photons", "other_light"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ParameterError(name, f"must be 0 or more, got {getattr(self, name):g}")
        if not 0.0 <= self.memory <= 1.0:
            raise ParameterError("memory", f"is a fraction of a phase, 0 to 1, got {self.memory:g}")
        if not 1.0 <= self.gates_per_slot < math.inf:
            raise ParameterError("gates_per_slot", f"must be 1 or more, got {self.gates_per_slot:g}")
        if math.isnan(self.extinction_db) or self.extinction_db < EXTINCTION_MIN_DB:
            charged = ""
            if self.extinction_db > 0.0:  # below there is no pulse to speak of
                charged = f", which would be charged as {100 * (self._residue_factor - 1):.2g} % more light in every pulse"
            raise ParameterError(
                "extinction_db",
                f"must be {EXTINCTION_MIN_DB:g} dB or more, got {self.extinction_db:g}{charged}; look at the carver's bias",
            )

    @property
    def _residue_factor(self) -> float:
        residue = math.pow(10.0, -self.extinction_db / 10.0)
        return 1.0 + residue * (self.gates_per_slot - 1.0 + self.gates_per_slot / 2.0 * self.other_light)

    @property
    def _factor(self) -> float:
        return math.pow(10.0, self.tolerance_db / 10.0) * self._residue_factor

    def mu_upper(self, mu: float) -> float:
        """Guaranteed upper bound of a nominal mean photon number."""
        return (mu + self.zero_photons) * self._factor

    def tolerance_at(self, mu: float) -> float:
        """How far a nominal mu may be exceeded by itself, in dB; what passes between pulses comes on top."""
        return self.tolerance_db + 10.0 * math.log10(1.0 + self.zero_photons / mu)

    @property
    def mu_limit(self) -> float:
        """Largest nominal mu whose upper bound still lies where the coin bound holds; 0 or less where none does."""
        return MU_MAX * (1.0 - 1e-12) / self._factor - self.zero_photons  # the way back may round upwards

    def overlap_defect(self, mu: float) -> float:
        """Upper bound of ``1 - F`` of this user for a nominal mu, to full precision also for dim light.

        Raises ValueError where the upper bound of mu leaves [0, pi/2].
        """
        bright, u = self.mu_upper(mu), self.phase_uncertainty_rad
        other = bright * self.other_light
        turned = [self.memory * (distance + 2.0 * u) for distance in NOMINAL_DISTANCES_RAD]
        dimmed = bright * math.sin(2.0 * u / 3.0) ** 3 + other * sum(x**2 for x in turned) / 8.0
        askew = other * sum(x**3 for x in turned) / 24.0
        ends = (bright - 2.0 * bright * math.sin(u) ** 2 - askew, bright + askew)
        if ends[0] < -math.pi / 4 or ends[1] > 3 * math.pi / 4:  # where cos p + sin p turns its curvature
            return 1.0
        return max(_defect(bright, p, dimmed) for p in ends)


IDEAL = Uncertainty()


def coin_overlap_defect(mu: float) -> float:
    """``1 - F(mu)`` of ideal phases and a known intensity (leading term mu**2); ValueError outside 0 to pi/2."""
    return IDEAL.overlap_defect(mu)


def coin_imbalance(
    mu_a: float, mu_b: float, uncertainty_a: Uncertainty = IDEAL, uncertainty_b: Uncertainty = IDEAL
) -> float:
    """Delta of a pair, ``1 - 2 Delta = F_a F_b``, for its two nominal mean photon numbers."""
    ga, gb = uncertainty_a.overlap_defect(mu_a), uncertainty_b.overlap_defect(mu_b)
    return 0.5 * (ga + gb - ga * gb)


def _defect(mu: float, p: float, dimmed: float) -> float:
    """``1 - exp(-mu - dimmed) (cos p + sin p)``; at p = mu the small difference is taken where it is exact."""
    if not 0.0 <= mu <= MU_MAX:
        raise ValueError(
            f"mu is a mean photon number between 0 and pi/2 for the quantum-coin bound, got {mu}"
        )
    if abs(p) < 0.03:  # Taylor series of exp(-p)(cos p + sin p); the next term is p**8 / 2520
        ideal = p**2 * (1.0 - p * (2 / 3 - p * (1 / 6 - p**2 * (1 / 90 - p / 315))))
    else:
        ideal = 1.0 - math.exp(-p) * (math.cos(p) + math.sin(p))
    return ideal - (1.0 - ideal) * math.expm1(p - mu - dimmed)
