"""The best setting of a pair: key rates, and the intensities and basis probability that maximise them.

A pair is optimised for its own losses: bright arrival powers must be balanced, so the user with the lossier
arm sends more light (equal intensities over 5 dB and 12 dB give no key at all).  The rate as a function of
(log mu_a, log mu_b, p_x) is smooth with one maximum but exactly zero - or meaningless - over most of the
range; a coarse grid therefore finds the hill and Nelder-Mead climbs it.  All of it is plain ``math`` on
floats and takes some tens of milliseconds.

Without a block size the rate is asymptotic: the test basis then costs nothing and ``p_x`` tends to 1, which
is the value used and reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from orchestrator.protocols.base import binary_entropy
from orchestrator.protocols.epsilons import PULSES_MAX, ParameterError, check_epsilon, verification_tags
from orchestrator.protocols.four_phase.bounds import CoinLength, Observed, asymptotic, key_length, predict
from orchestrator.protocols.four_phase.coin import IDEAL, OTHER_LIGHT, Uncertainty
from orchestrator.protocols.optical_channel import OpticalChannel

MU_MIN = 1e-100
P_X_MIN = 1e-6
F_EC_MAX = 100.0
"""Limits that leave room for anything that could be built, and none for numbers that overflow on the way."""
P_X_MIN_FINITE = 0.5
"""Below this the coin label probability ``(pY/pX)**2`` would exceed 1."""


@dataclass(frozen=True, slots=True)
class KeyRate:
    """What a setting is expected to give; the fields of ``qunetlab keyrate``.

    ``delta`` is Delta' = Delta / Q, the coin imbalance per success (column "Delta/Q" of docs/formulas.md).  Without a
    block size ``phase_error`` is the asymptotic e_ph and ``key_bits`` is None; with one it is the bound
    e_ph^U for the expected counts, ``key_bits`` the expected secret length and ``key_rate_per_pulse`` that
    length per pulse.
    """

    gain: float
    qber: float
    delta: float
    phase_error: float
    key_rate_per_pulse: float
    key_bits: int | None
    mu_a: float
    mu_b: float
    p_x: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything a key rate depends on besides the setting (mu_a, mu_b, p_x).

    ``uncertainties``: what is charged of the light of either user.  ``balanced``: both pulses ran through the whole
    loop and arrive equally bright, so that mu_b follows from mu_a.  ``n_pulses`` None means asymptotic.
    """

    channel: OpticalChannel
    f_ec: float
    n_pulses: int | None = None
    eps_sec: float = 1e-10
    eps_cor: float = 1e-15
    uncertainties: tuple[Uncertainty, Uncertainty] = (IDEAL, IDEAL)
    balanced: bool = False

    def __post_init__(self) -> None:
        if not 1.0 <= self.f_ec <= F_EC_MAX:
            raise ParameterError(
                "f_ec",
                f"is the reconciliation efficiency, 1 (Shannon limit) to {F_EC_MAX:g}, got {self.f_ec:g}",
            )
        if self.n_pulses is not None and not 1 <= self.n_pulses <= PULSES_MAX:
            raise ParameterError("n_pulses", f"must be 1 to {PULSES_MAX:.0e}, got {self.n_pulses:g}")
        check_epsilon("eps_sec", self.eps_sec)
        check_epsilon("eps_cor", self.eps_cor)
        if min(self.mu_limits) <= MU_MIN:
            raise ParameterError("uncertainties", "leave no light for which the coin bound holds")

    @property
    def mu_limits(self) -> tuple[float, float]:
        """Largest nominal mu of either user whose upper bound still lies where the coin bound holds."""
        a, b = (each.mu_limit for each in self.uncertainties)
        return (min(a, b / self.mu_ratio), min(b, a * self.mu_ratio)) if self.balanced else (a, b)

    @property
    def mu_ratio(self) -> float:
        """mu_b over mu_a of equal arrivals."""
        return self.channel.eta_a / self.channel.eta_b

    def check_setting(self, mu_a: float | None, mu_b: float | None, p_x: float | None) -> None:
        """Raise ValueError for a setting outside its range; None stands for "to be optimised"."""
        for name, mu, limit in zip(("mu_a", "mu_b"), (mu_a, mu_b), self.mu_limits, strict=True):
            if mu is not None and not MU_MIN <= mu <= limit:
                raise ParameterError(
                    name,
                    f"is a mean photon number per slot in [{MU_MIN:g}, {limit:.4g}]"
                    f" (the coin bound ends at pi/2, tolerance included), got {mu:g}",
                )
        if p_x is not None and not P_X_MIN <= p_x <= 1.0:
            raise ParameterError("p_x", f"is the probability of basis X in [{P_X_MIN:g}, 1], got {p_x:g}")
        if p_x is not None and self.n_pulses is not None and p_x < P_X_MIN_FINITE:
            raise ParameterError(
                "p_x", f"must be 1/2 or more for a finite block (coin label probability <= 1), got {p_x:g}"
            )

    def expected_length(self, mu_a: float, mu_b: float, p_x: float) -> CoinLength:
        """Secret length of a block whose counts come out as expected; needs ``n_pulses``."""
        if self.n_pulses is None:
            raise ValueError("an expected key length needs n_pulses")
        plan = predict(self.channel, mu_a, mu_b, p_x, self.n_pulses, self.eps_sec, self.uncertainties)
        qber = plan.m_y / plan.n_y if plan.n_y > 0.0 else 0.5
        leak = self.f_ec * plan.n_x * binary_entropy(qber)
        # f n h is what reconciliation with the usual one tag discloses; eps_cor may ask for more of them.
        leak += verification_tags(math.ceil(plan.n_x), self.eps_cor) - 1
        return key_length(plan, Observed(plan.n_x, plan.n_y, plan.m_y, plan.n_s, leak))

    def objective(self, mu_a: float, mu_b: float, p_x: float) -> float:
        """Key per pulse, negative where there is none: what the optimiser climbs."""
        if self.n_pulses is None:
            return asymptotic(self.channel, mu_a, mu_b, p_x, self.f_ec, self.uncertainties).rate
        return max(self.expected_length(mu_a, mu_b, p_x).unclipped_bits / self.n_pulses, -1.0)

    def per_sifted_bit(self, mu_a: float, mu_b: float, p_x: float) -> float:
        """Key per expected XX round, negative where there is none."""
        sifted = p_x**2 * self.channel.gain_and_qber(mu_a, mu_b)[0]
        return self.objective(mu_a, mu_b, p_x) / sifted if sifted > 0.0 else -math.inf

    def key_rate(self, mu_a: float, mu_b: float, p_x: float) -> KeyRate:
        """All figures of one setting."""
        self.check_setting(mu_a, mu_b, p_x)
        limit = asymptotic(self.channel, mu_a, mu_b, p_x, self.f_ec, self.uncertainties)
        rate = KeyRate(
            gain=limit.gain,
            qber=limit.qber,
            delta=limit.delta_prime,
            phase_error=limit.phase_error,
            key_rate_per_pulse=max(limit.rate, 0.0),
            key_bits=None,
            mu_a=mu_a,
            mu_b=mu_b,
            p_x=p_x,
        )
        if self.n_pulses is None:
            return rate
        length = self.expected_length(mu_a, mu_b, p_x)
        return replace(
            rate,
            phase_error=length.phase_error_upper,
            key_rate_per_pulse=length.bits / self.n_pulses,
            key_bits=length.bits,
        )

    def optimise(
        self, mu_a: float | None = None, mu_b: float | None = None, p_x: float | None = None
    ) -> KeyRate:
        """The setting with the most key; a value given is kept, None is optimised or follows from the balance.

        Where no setting gives key the returned rate is 0, at a reference setting.
        """
        if self.balanced and mu_a is not None:
            mu_b = mu_a * self.mu_ratio
        elif self.balanced and mu_b is not None:
            mu_a = mu_b / self.mu_ratio
        self.check_setting(mu_a, mu_b, p_x)
        if self.n_pulses is None and p_x is None:
            p_x = 1.0
        return self.key_rate(*_best(self, mu_a, mu_b, p_x))


def keyrate_report(
    loss_a_db: float,
    loss_b_db: float,
    visibility: float,
    dark_count: float,
    f_ec: float,
    n_pulses: int | None = None,
    eps_sec: float = 1e-10,
    eps_cor: float = 1e-15,
    *,
    mu_a: float | None = None,
    mu_b: float | None = None,
    p_x: float | None = None,
    phase_uncertainty_rad: float = 0.0,
    intensity_tolerance_db: float = 0.0,
    extinction_db: float | None = None,
) -> dict[str, float | int | None]:
    """The answer of ``qunetlab keyrate --json``: the fields of :class:`KeyRate`, values left out optimised.

    Keys: gain, qber, delta (Delta' = Delta/Q, the coin imbalance per success), phase_error (asymptotic
    e_ph, or e_ph^U with ``n_pulses``), key_rate_per_pulse, key_bits (None without ``n_pulses``), mu_a,
    mu_b, p_x.  Both users' light is as uncertain as said, by default not at all; None for a carver that lets nothing
    through between pulses, else :data:`OTHER_LIGHT` passes the stations the other way.  Raises ParameterError naming
    the argument that is out of range.
    """
    channel = OpticalChannel(loss_a_db, loss_b_db, visibility, dark_count)
    light = Uncertainty(
        intensity_tolerance_db,
        phase_uncertainty_rad=phase_uncertainty_rad,
        extinction_db=math.inf if extinction_db is None else extinction_db,
        other_light=0.0 if extinction_db is None else OTHER_LIGHT,
    )
    scenario = Scenario(channel, f_ec, n_pulses, eps_sec, eps_cor=eps_cor, uncertainties=(light, light))
    return asdict(scenario.optimise(mu_a, mu_b, p_x))


def _best(
    scenario: Scenario, mu_a: float | None, mu_b: float | None, p_x: float | None
) -> tuple[float, float, float]:
    """Grid, then Nelder-Mead from the best grid point.

    Close to the largest loss that still gives key, every grid point may miss the last small hill; its flank
    is then found through the key per sifted bit, which unlike the key per pulse is not best where nothing
    clicks.
    """
    fixed = (mu_a, mu_b, p_x)
    grid = _grid(scenario, mu_a, mu_b, p_x)
    start = max(grid, key=lambda point: scenario.objective(*point))
    if None not in fixed:
        return start
    if scenario.objective(*start) <= 0.0:
        start = max(grid, key=lambda point: scenario.per_sifted_bit(*point))
        start = _climb(scenario, fixed, start, scenario.per_sifted_bit)
        if scenario.objective(*start) <= 0.0:
            return _hopeless(scenario, mu_a, mu_b, p_x)
    return _climb(scenario, fixed, start, scenario.objective)


def _climb(
    scenario: Scenario,
    fixed: tuple[float | None, float | None, float | None],
    start: tuple[float, float, float],
    height: Callable[[float, float, float], float],
) -> tuple[float, float, float]:
    """Nelder-Mead over the free ones of (ln mu_a, ln mu_b, ln(1 - p_x))."""
    from scipy.optimize import minimize  # half a second, not for processes that never plan

    tied = scenario.balanced and fixed[0] is None
    free = [i for i, value in enumerate(fixed) if value is None and not (tied and i == 1)]
    limits = scenario.mu_limits
    to_search: tuple[Callable[[float], float], ...] = (math.log, math.log, lambda p: math.log(1.0 - p))
    from_search: tuple[Callable[[float], float], ...] = (
        lambda x: math.exp(x) if x < math.log(limits[0]) else limits[0],
        lambda x: math.exp(x) if x < math.log(limits[1]) else limits[1],
        lambda x: 1.0 - math.exp(min(max(x, math.log(1e-6)), math.log(1.0 - P_X_MIN_FINITE))),
    )

    def setting(x: Sequence[float]) -> tuple[float, float, float]:
        point = list(start)
        for value, i in zip(x, free, strict=True):
            point[i] = from_search[i](float(value))
        if tied:
            point[1] = point[0] * scenario.mu_ratio
        return point[0], point[1], point[2]

    x0 = [to_search[i](start[i]) for i in free]
    simplex = [x0] + [[v + 0.2 * (i == j) for j, v in enumerate(x0)] for i in range(len(x0))]
    scale = 1.0 / max(abs(height(*start)), 1e-30)
    found = minimize(
        lambda x: -scale * height(*setting(x)),
        x0,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-10, "maxiter": 600},
    )
    return setting([float(v) for v in found.x])


def _hopeless(
    scenario: Scenario, mu_a: float | None, mu_b: float | None, p_x: float | None
) -> tuple[float, float, float]:
    """The setting reported where none gives key: reference powers, and a basis probability of 0.9."""
    power, limits = _reference_power(scenario.channel), scenario.mu_limits
    return (
        min(power / scenario.channel.eta_a, limits[0]) if mu_a is None else mu_a,
        min(power / scenario.channel.eta_b, limits[1]) if mu_b is None else mu_b,
        0.9 if p_x is None else p_x,
    )


def _reference_power(channel: OpticalChannel) -> float:
    """Arrival power per user near the asymptotic optimum of a balanced, nearly dark-free pair.

    mu = 0.060 eta_side for equal arms (docs/formulas.md); with unequal arms Delta goes with the mean of
    ``eta**-2``, which takes the place of ``eta_side**-2``.
    """
    return 0.12 / (channel.eta_a**-2 + channel.eta_b**-2)


def _grid(
    scenario: Scenario, mu_a: float | None, mu_b: float | None, p_x: float | None
) -> list[tuple[float, float, float]]:
    """Coarse starting points: arrival power, balance of the arms, basis probability."""
    channel, limits = scenario.channel, scenario.mu_limits
    reference = _reference_power(channel)
    points = []
    for p in (p_x,) if p_x is not None else (0.55, 0.7, 0.8, 0.87, 0.92, 0.96, 0.985, 0.995):
        for k in range(-6, 7):
            power = 10.0 ** (0.25 * k)
            for ratio in (1.0,) if scenario.balanced else (1.0, 0.4, 2.5):
                root = math.sqrt(ratio)
                x_a = x_b = reference * power
                if mu_a is not None:
                    x_b = channel.eta_a * mu_a * power
                elif mu_b is not None:
                    x_a = channel.eta_b * mu_b * power
                a = min(x_a * root / channel.eta_a, limits[0]) if mu_a is None else mu_a
                b = min(x_b / root / channel.eta_b, limits[1]) if mu_b is None else mu_b
                points.append((a, b, p))
    return points
