"""The block plan: everything both users fix, and compare, before a block begins.

The finite-size bound is only worth its name if nothing in it was chosen after looking at the block.  A
:class:`FourPhasePlan` therefore holds the number of emitted pulses, the basis probability, the intensities with
their guaranteed upper bounds, the failure probabilities, the predicted counts that fix Kato's parameters,
and the limits beyond which the block is given up.  Both users derive it from the testbed file, compare
:meth:`FourPhasePlan.digest`, and turn what they counted into a length with :meth:`FourPhasePlan.secret_length`.

``p_x = k / 128`` exactly, because a symbol is drawn from one random byte.  The coin label of an XX round
has probability ``(pY / pX)**2 = ((128 - k) / k)**2``, a fraction with the denominator ``k**2 < 2**14``;
:meth:`FourPhasePlan.draw_labels` draws it *exactly* (rejection from 32-bit words), so the coin is balanced without
rounding and the formulas hold as written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from fractions import Fraction

import numpy as np

from orchestrator.bits import BitArray
from orchestrator.events.status import Light, Monitoring
from orchestrator.protocols.base import BlockCounts, BlockPlan, KeyLength, Misfit
from orchestrator.protocols.four_phase.arrivals import arrivals, clicks_per_slot
from orchestrator.protocols.four_phase.bounds import (
    CoinLength,
    FinitePlan,
    Observed,
    key_length,
    predict,
)
from orchestrator.protocols.four_phase.coin import IDEAL, Uncertainty
from orchestrator.protocols.four_phase.fit import misfits
from orchestrator.protocols.four_phase.rates import Scenario
from orchestrator.protocols.four_phase.symbols import P_X_STEPS, FourPhases
from orchestrator.protocols.optical_channel import OpticalChannel

VISIBILITY_UNCERTAINTY = 0.001
"""What a calibration of it reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FourPhasePlan(BlockPlan):
    """Settings, predictions and limits of one block of a pair.

    ``p_x_128`` is 128 p_x.  ``mu_a``, ``mu_b`` are nominal, ``uncertainties`` what is charged of either user's light.
    ``finite`` holds the predicted counts, ``announced`` that of single-detector clicks of the block in any bases.
    ``visibility_uncertainty`` is what the visibility may be wrong by, either way.
    """

    p_x_128: int
    uncertainties: tuple[Uncertainty, Uncertainty]
    channel: OpticalChannel
    f_ec: float
    gain_tolerance_db: float
    finite: FinitePlan
    announced: float
    visibility_uncertainty: float = VISIBILITY_UNCERTAINTY

    @property
    def symbols(self) -> FourPhases:
        return FourPhases(self.p_x)

    @property
    def p_x(self) -> float:
        """Probability of basis X (exact in binary)."""
        return self.p_x_128 / P_X_STEPS

    @property
    def tolerance_db(self) -> tuple[float, float]:
        a, b = self.uncertainties
        return a.tolerance_at(self.mu_a), b.tolerance_at(self.mu_b)

    @property
    def scenario(self) -> Scenario:
        """What the plan was made for, its setting left out."""
        return Scenario(
            self.channel, self.f_ec, self.n_pulses, self.eps_sec, self.eps_cor, self.uncertainties
        )

    def figures(self) -> dict[str, float | int | None]:
        return asdict(self.scenario.key_rate(self.mu_a, self.mu_b, self.p_x))

    @property
    def coin_label_probability(self) -> Fraction:
        """Probability with which an XX round joins the coin, ``(pY / pX)**2``."""
        return Fraction(P_X_STEPS - self.p_x_128, self.p_x_128) ** 2

    def digest(self) -> str:
        """SHA-256 (hex) of the plan, equal iff both users planned the same block.

        Settings and limits enter exactly; predictions with six digits, because they pass through the
        platform's ``exp`` and may differ in the last place between two machines without any harm.
        """
        exact = (
            self.n_pulses,
            self.p_x_128,
            *(self.light, self.monitoring),
            *(value.hex() for value in (self.mu_a, self.mu_b)),
            *(value.hex() for each in self.uncertainties for value in astuple(each)),
            *(value.hex() for value in astuple(self.channel)),
            *(self.f_ec.hex(), self.eps_sec.hex(), self.eps_cor.hex(), self.qber_limit.hex()),
            *(self.gain_tolerance_db.hex(), self.visibility_uncertainty.hex(), self.lost_frames_limit.hex()),
        )
        f = self.finite
        predicted = (f.coin_rounds, f.delta, f.n_x, f.n_y, f.m_y, f.n_s, self.gain, self.qber)
        text = "qunetlab four-phase plan 5 " + " ".join([*map(str, exact), *(f"{v:.6e}" for v in predicted)])
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def predicted_bits(self, counts: BlockCounts) -> int:
        recorded = counts.n_pulses - counts.lost_pulses
        arrived = arrivals(self.channel, self.mu_a, self.mu_b, self.p_x, recorded, counts.n_announced)
        return arrived.bits(self.finite, self.f_ec, self.eps_cor)

    def violations(self, counts: BlockCounts) -> tuple[Misfit, ...]:
        return tuple(misfits(self, counts, no_key=not self._length(counts).bits))

    def secret_length(self, counts: BlockCounts) -> KeyLength:
        length, reasons = self._length(counts), self.violations(counts)
        return length.refused("; ".join(map(str, reasons))) if reasons else length

    def _length(self, counts: BlockCounts) -> CoinLength:
        """By the bound alone."""
        return key_length(
            self.finite,
            Observed(
                n_x=counts.n_key,
                n_y=counts.n_test,
                m_y=counts.test_errors,
                n_s=counts.n_drawn + counts.n_test,
                leak_bits=counts.leak_bits,
                n_kept=counts.n_kept,
            ),
        )

    def draw_labels(self, n_rounds: int, read_random: Callable[[int], bytes]) -> BitArray:
        """Label each of ``n_rounds`` XX rounds (uint8, 1 = in the coin) with exactly the planned probability.

        ``read_random(k)`` returns k uniformly random bytes, private to the user until the labels are published,
        and must be called after the announcement of every round is fixed.  32-bit words below the largest
        multiple of k**2 are reduced modulo k**2 and compared with (128 - k)**2; the others (fewer than 4 in a
        million) are drawn again.
        """
        denominator = self.p_x_128**2
        threshold = (P_X_STEPS - self.p_x_128) ** 2
        limit = 2**32 - 2**32 % denominator
        labels = np.empty(n_rounds, np.uint8)
        done = 0
        while done < n_rounds:
            words = np.frombuffer(read_random(4 * (n_rounds - done)), dtype="<u4")
            words = words[words < limit]
            labels[done : done + words.size] = words % denominator < threshold
            done += words.size
        return labels


def block_plan(
    loss_a_db: float,
    loss_b_db: float,
    *,
    n_pulses: int,
    visibility: float,
    dark_count: float,
    f_ec: float = 1.16,
    eps_sec: float = 1e-10,
    eps_cor: float = 1e-15,
    uncertainties: tuple[Uncertainty, Uncertainty] = (IDEAL, IDEAL),
    qber_limit: float = 0.05,
    gain_tolerance_db: float = 1.0,
    lost_frames_limit: float = 0.25,
    p_x: float | None = None,
    mu_a: float | None = None,
    mu_b: float | None = None,
) -> FourPhasePlan:
    """Plan a block of exactly ``n_pulses`` emitted slots over these losses, see :func:`scenario_plan`.

    ``f_ec`` only steers the optimum (the length uses the bits really disclosed).
    """
    channel = OpticalChannel(float(loss_a_db), float(loss_b_db), float(visibility), float(dark_count))
    scenario = Scenario(channel, float(f_ec), int(n_pulses), float(eps_sec), float(eps_cor), uncertainties)
    limits = qber_limit, gain_tolerance_db, lost_frames_limit
    return scenario_plan(scenario, *limits, p_x=p_x, mu_a=mu_a, mu_b=mu_b)


def scenario_plan(
    scenario: Scenario,
    qber_limit: float,
    gain_tolerance_db: float = 1.0,
    lost_frames_limit: float = 0.25,
    *,
    p_x: float | None = None,
    mu_a: float | None = None,
    mu_b: float | None = None,
    visibility_uncertainty: float = VISIBILITY_UNCERTAINTY,
    light: Light = "assumed",
    monitoring: Monitoring = "monitored",
) -> FourPhasePlan:
    """The block of a scenario with ``n_pulses``; settings left None are optimised for most key.

    ``gain_tolerance_db`` is how far the channel may have drifted since calibration before a block is given up.  Lost
    frames scale the expected counts, but stay in the emitted rounds: those that toss the coin are fixed beforehand.
    Intensities are rounded to four digits, so that two machines agree on them.  ``expected_bits`` is 0 where no
    setting gives key: such a block is not worth starting.  Raises ValueError naming the argument that is out of range.
    """
    _check_limits(qber_limit, gain_tolerance_db, lost_frames_limit)
    best = max(
        (scenario.optimise(mu_a, mu_b, steps / P_X_STEPS) for steps in _steps(scenario, mu_a, mu_b, p_x)),
        key=lambda rate: rate.key_rate_per_pulse,
    )
    channel, n_pulses = scenario.channel, scenario.n_pulses or 0
    a, b = _round_digits(best.mu_a), _round_digits(best.mu_b)
    finite = predict(channel, a, b, best.p_x, n_pulses, scenario.eps_sec, scenario.uncertainties)
    gain, qber = channel.gain_and_qber(a, b)
    return FourPhasePlan(
        n_pulses=n_pulses,
        p_x_128=round(best.p_x * P_X_STEPS),
        mu_a=a,
        mu_b=b,
        uncertainties=scenario.uncertainties,
        channel=channel,
        f_ec=scenario.f_ec,
        eps_sec=scenario.eps_sec,
        eps_cor=scenario.eps_cor,
        qber_limit=float(qber_limit),
        gain_tolerance_db=float(gain_tolerance_db),
        finite=finite,
        gain=gain,
        qber=qber,
        visibility_uncertainty=float(visibility_uncertainty),
        announced=n_pulses * clicks_per_slot(channel, a, b, best.p_x),
        lost_frames_limit=float(lost_frames_limit),
        expected_bits=scenario.expected_length(a, b, best.p_x).bits,
        light=light,
        monitoring=monitoring,
    )


def _check_limits(qber_limit: float, gain_tolerance_db: float, lost_frames_limit: float) -> None:
    if not 0.0 <= lost_frames_limit < 1.0:
        raise ValueError(f"lost_frames_limit must lie in [0, 1), got {lost_frames_limit}")
    if not 0.0 < qber_limit < 0.5:
        raise ValueError(f"qber_limit must lie strictly between 0 and 0.5, got {qber_limit}")
    if not (gain_tolerance_db >= 0.0 and math.isfinite(gain_tolerance_db)):
        raise ValueError(f"gain_tolerance_db must be 0 dB or more, got {gain_tolerance_db}")


def _steps(scenario: Scenario, mu_a: float | None, mu_b: float | None, p_x: float | None) -> tuple[int, ...]:
    """Candidates for 128 p_x: the given one, or the two neighbours of the continuous optimum."""
    if p_x is not None:
        steps = round(p_x * P_X_STEPS)
        if steps != p_x * P_X_STEPS or not P_X_STEPS // 2 <= steps < P_X_STEPS:
            raise ValueError(
                f"p_x must be a multiple of 1/{P_X_STEPS} from 1/2 to 127/128, got {p_x}"
                f" (nearest: {min(max(steps, P_X_STEPS // 2), P_X_STEPS - 1)}/{P_X_STEPS})"
            )
        return (steps,)
    floor = math.floor(scenario.optimise(mu_a, mu_b).p_x * P_X_STEPS)
    return tuple(sorted({min(max(k, P_X_STEPS // 2), P_X_STEPS - 1) for k in (floor, floor + 1)}))


def _round_digits(value: float) -> float:
    """``value`` to four significant digits, downwards so that a limit it sits on still holds."""
    scale = 10.0 ** (3 - math.floor(math.log10(value)))
    return float(f"{math.floor(value * scale + 1e-6) / scale:.4g}")
