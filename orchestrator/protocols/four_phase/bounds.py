"""Four-phase MDI key: how much of a block is secret, by the quantum-coin bound.

Both users send ``|sqrt(mu) exp(i theta)>`` with theta in {0, pi} (X, makes key) or {pi/2, 3pi/2} (Y, test).
The two bases are almost, not quite, the same mixed state; the *quantum coin* (Lo and Preskill,
quant-ph/0610203; Koashi, arXiv:0704.3661) turns that overlap and the Y error rate into a bound on the phase
error rate of X::

    F(mu) = exp(-mu) (cos mu + sin mu)           1 - 2 Delta = F(mu_a) F(mu_b)        Delta' = Delta / Q
    1 - 2 Delta' <= sqrt(e_Y e_ph) + sqrt((1 - e_Y)(1 - e_ph))
    e_ph = sin^2( asin sqrt(e_Y) + acos(1 - 2 Delta') )   while that angle is below pi/4, else 1/2
    R = pX^2 Q [1 - h(e_ph) - f h(E)]

For finite blocks each of three estimates fails with probability ``e1``:

1. coin: the balanced coin is every YY round plus a random part c of the XX rounds, each XX round taken with
   probability ``(pY/pX)^2``.  Of its ``2 N pY^2`` expected rounds ``2 N pY^2 Delta`` show a minus coin;
   Chernoff bounds their number, and all of them may hide among the ``n_s`` successful rounds;
2. Y errors: Kato on the ``m_y`` errors of ``n_y`` YY rounds;
3. phase errors: the rate from 1 and 2, then Kato from expectation to count over the ``n_x`` XX rounds.

``length = n_x [1 - h(e_ph^U)] - leak - 2 log2(1 / (2 eps_PA))`` with ``eps_sec = 2 sqrt(3 e1) + eps_PA``
split in halves.  Kato's ``a`` comes from counts predicted before the block (:class:`FinitePlan`).

What this is not: a certified proof.  It assumes that phases and intensities lie within the uncertainties that
:mod:`orchestrator.protocols.four_phase.coin` charges, and both the step from coin counts to conditional probabilities
and the observed counts in the denominators go without a concentration term of their own, so ``eps_sec`` is nominal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.protocols.base import KeyLength, binary_entropy
from orchestrator.protocols.four_phase.coin import IDEAL, Uncertainty, coin_imbalance
from orchestrator.protocols.kato import chernoff_upper, count_upper, kato_a, sum_upper
from orchestrator.protocols.optical_channel import OpticalChannel


def phase_error(e_y: float, delta_prime: float) -> float:
    """Upper bound of the phase error rate from the Y error rate and the coin imbalance per success.

    The angle decides, not the closed form: past pi/4 the sine squared would turn down again while nothing is
    known any more, so the answer there is 1/2.  ``acos(1 - 2 d) = 2 asin sqrt(d)`` keeps small d exact.
    """
    if not (0.0 <= e_y < 0.5 and 0.0 <= delta_prime < 0.5):
        return 0.5
    angle = math.asin(math.sqrt(e_y)) + 2.0 * math.asin(math.sqrt(delta_prime))
    return max(math.sin(angle) ** 2, e_y) if angle < math.pi / 4 else 0.5


@dataclass(frozen=True, slots=True)
class Asymptotic:
    """The infinite-block figures of one setting; ``rate`` may be negative (no key)."""

    gain: float
    qber: float
    delta_prime: float
    phase_error: float
    rate: float


def asymptotic(
    channel: OpticalChannel,
    mu_a: float,
    mu_b: float,
    p_x: float,
    f_ec: float,
    uncertainties: tuple[Uncertainty, Uncertainty] = (IDEAL, IDEAL),
) -> Asymptotic:
    """Gain, error rates and key per pulse as the block grows without end."""
    gain, qber = channel.gain_and_qber(mu_a, mu_b)
    delta = coin_imbalance(mu_a, mu_b, *uncertainties)
    delta_prime = delta / gain if gain > 0.0 else 0.5
    e_ph = phase_error(qber, delta_prime)
    rate = p_x**2 * gain * (1.0 - binary_entropy(e_ph) - f_ec * binary_entropy(qber))
    return Asymptotic(gain, qber, delta_prime, e_ph, rate)


def step_failure(eps_sec: float) -> float:
    """e1, the failure probability of each of the three estimates: ``2 sqrt(3 e1) = eps_sec / 2``."""
    return (eps_sec / 4.0) ** 2 / 3.0


def amplification_cost_bits(eps_sec: float) -> float:
    """``2 log2(1 / (2 eps_PA))`` with ``eps_PA = eps_sec / 2``."""
    return -2.0 * math.log2(eps_sec)


@dataclass(frozen=True, slots=True)
class FinitePlan:
    """What the finite-size bound needs to know before the block: sizes, intensities and predicted counts.

    ``coin_rounds`` is the expected number of emitted rounds that toss the coin, ``2 N pYa pYb``;
    ``delta`` is Delta with all uncertainties of the light charged; ``n_x``, ``n_y``, ``m_y``, ``n_s`` are
    expectations.  Kato's parameters follow from them, so that no count of the block itself can influence
    them.
    """

    coin_rounds: float
    delta: float
    n_x: float
    n_y: float
    m_y: float
    n_s: float
    eps_sec: float

    def __post_init__(self) -> None:
        if not 0.0 < self.eps_sec < 1.0:
            raise ValueError(f"eps_sec must lie strictly between 0 and 1, got {self.eps_sec}")

    @property
    def predicted_phase_error(self) -> float:
        """Phase error rate (step 3, before Kato) if every count comes out as predicted."""
        return self.rates(self.n_y, self.m_y, self.n_s)[2]

    def rates(self, n_y: float, m_y: float, n_s: float) -> tuple[float, float, float]:
        """(e_Y^U, Delta'^U, e_ph) of these YY counts and coin successes."""
        if n_y <= 0.0 or n_s <= 0.0:
            return 0.5, 0.5, 0.5
        e1 = step_failure(self.eps_sec)
        e_y = min(sum_upper(m_y, n_y, kato_a(self.n_y, self.m_y, e1), e1) / n_y, 0.5)
        delta_prime = min(chernoff_upper(self.coin_rounds * self.delta, e1) / n_s, 0.5)
        return e_y, delta_prime, phase_error(e_y, delta_prime)


def predict(
    channel: OpticalChannel,
    mu_a: float,
    mu_b: float,
    p_x: float,
    n_pulses: int,
    eps_sec: float,
    uncertainties: tuple[Uncertainty, Uncertainty] = (IDEAL, IDEAL),
) -> FinitePlan:
    """The plan of ``n_pulses`` emitted slots over this channel."""
    gain, qber = channel.gain_and_qber(mu_a, mu_b)
    yy = n_pulses * (1.0 - p_x) ** 2
    return FinitePlan(
        coin_rounds=2.0 * yy,
        delta=coin_imbalance(mu_a, mu_b, *uncertainties),
        n_x=n_pulses * p_x**2 * gain,
        n_y=yy * gain,
        m_y=yy * gain * qber,
        n_s=2.0 * yy * gain,
        eps_sec=eps_sec,
    )


@dataclass(frozen=True, slots=True)
class Observed:
    """Counts of a finished block.

    ``n_x`` XX rounds in all, ``n_y`` YY rounds with ``m_y`` errors, ``n_s`` coin successes (XX rounds
    labelled c, plus all YY rounds), ``leak_bits`` every bit disclosed by reconciliation and verification.
    ``n_kept`` is the part of the XX rounds that becomes key (all of them when None): every phase error of
    all XX rounds may sit in the part that is kept.  Expectations are accepted as well, hence floats.
    """

    n_x: float
    n_y: float
    m_y: float
    n_s: float
    leak_bits: float
    n_kept: float | None = None

    def inconsistency(self) -> str:
        """Why these counts cannot be the counts of any block, or the empty string."""
        kept = self.n_x if self.n_kept is None else self.n_kept
        values = (self.n_x, self.n_y, self.m_y, self.n_s, self.leak_bits, kept)
        if not all(math.isfinite(v) and v >= 0.0 for v in values):
            return "a count is negative or not a number"
        if self.m_y > self.n_y:
            return f"{self.m_y} errors in {self.n_y} YY rounds"
        if kept > self.n_x:
            return f"{kept} rounds kept of {self.n_x} XX rounds"
        if not self.n_y <= self.n_s <= self.n_x + self.n_y:
            return f"{self.n_s} coin rounds do not fit {self.n_x} XX and {self.n_y} YY rounds"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoinLength(KeyLength):
    """A secret length and the bounds that it came from."""

    e_y_upper: float = 0.5
    delta_prime: float = 0.5
    phase_error: float = 0.5


def key_length(plan: FinitePlan, observed: Observed) -> CoinLength:
    """Secret bits of a block; 0, with a reason, wherever the bound gives none.  Never raises on counts."""
    reason = observed.inconsistency()
    if reason or observed.n_y <= 0 or observed.n_x <= 0 or observed.n_kept == 0:
        return CoinLength(
            0, 0.5, observed.leak_bits, -math.inf, reason or "no XX or no YY rounds to work with"
        )
    e1, n_x = step_failure(plan.eps_sec), observed.n_x
    n_kept = n_x if observed.n_kept is None else observed.n_kept
    e_y, delta_prime, e_ph = plan.rates(observed.n_y, observed.m_y, observed.n_s)
    if e_ph < 0.5:
        a = kato_a(plan.n_x, plan.n_x * (1.0 - plan.predicted_phase_error), e1)
        e_ph_upper = min(count_upper(n_x * e_ph, n_x, a, e1) / n_kept, 0.5)
    else:
        e_ph_upper = 0.5
    length = n_kept * (1.0 - binary_entropy(e_ph_upper)) - observed.leak_bits
    length -= amplification_cost_bits(plan.eps_sec)
    bits = max(0, math.floor(length))
    if not bits:
        reason = (
            "phase error bound is 1/2"
            if e_ph_upper >= 0.5
            else "leak and security cost exceed what is secret"
        )
    return CoinLength(
        bits,
        e_ph_upper,
        observed.leak_bits,
        length,
        reason,
        e_y_upper=e_y,
        delta_prime=delta_prime,
        phase_error=e_ph,
    )
