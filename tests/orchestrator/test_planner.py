"""Optimised settings against known points, and the plan both users fix before a block."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from orchestrator.protocols.base import BlockCounts
from orchestrator.protocols.four_phase.coin import IDEAL, Uncertainty
from orchestrator.protocols.four_phase.fit import CountWindow
from orchestrator.protocols.four_phase.planner import FourPhasePlan, block_plan
from orchestrator.protocols.four_phase.rates import P_X_MIN_FINITE, KeyRate, Scenario, keyrate_report
from orchestrator.protocols.optical_channel import OpticalChannel, click_probabilities, transmittance

DARK, VISIBILITY, F_EC = 1e-7, 0.99, 1.16


def optimise(
    loss_a_db: float,
    loss_b_db: float,
    visibility: float,
    dark_count: float,
    f_ec: float,
    n_pulses: int | None = None,
    *,
    light: Uncertainty = IDEAL,
    **given: float,
) -> KeyRate:
    channel = OpticalChannel(loss_a_db, loss_b_db, visibility, dark_count)
    return Scenario(channel, f_ec, n_pulses, uncertainties=(light, light)).optimise(**given)


def plob_bound(eta: float) -> float:
    """Bits per pulse without a repeater: -log2(1 - eta) (Pirandola et al., Nat. Commun. 8, 15043)."""
    return -math.log1p(-eta) / math.log(2.0)


@pytest.mark.parametrize("loss_db", [5, 10, 15, 20, 25])
def test_the_rate_is_linear_in_the_total_transmittance(loss_db: float) -> None:
    """mu_opt = 0.060 eta_side and R = 0.036 eta_total, in two digits from 5 to 25 dB."""
    best = optimise(loss_db / 2, loss_db / 2, VISIBILITY, DARK, F_EC)
    assert best.mu_a == pytest.approx(best.mu_b, rel=1e-3)
    assert best.mu_a / transmittance(loss_db / 2) == pytest.approx(0.060, abs=1e-3)
    assert best.key_rate_per_pulse / transmittance(loss_db) == pytest.approx(0.036, abs=6e-4)
    assert best.p_x == 1.0


def test_at_30_db_dark_counts_begin_to_show() -> None:
    with_dark, without = (optimise(15, 15, VISIBILITY, pd, F_EC) for pd in (DARK, 0.0))
    assert with_dark.mu_a / transmittance(15) == pytest.approx(0.060, abs=1e-3)
    assert with_dark.key_rate_per_pulse / transmittance(30) == pytest.approx(0.0341, abs=1e-4)
    assert without.key_rate_per_pulse / transmittance(30) == pytest.approx(0.0361, abs=1e-4)


@pytest.mark.parametrize("losses", [(0.5, 0.5), (0, 6), (3, 20), (10, 10), (20, 20), (22, 22)])
def test_the_repeaterless_bound_is_never_beaten(losses: tuple[float, float]) -> None:
    for visibility, dark in ((1.0, 0.0), (VISIBILITY, DARK)):
        best = optimise(*losses, visibility, dark, 1.0)
        assert best.key_rate_per_pulse < plob_bound(transmittance(sum(losses)))


def test_unequal_arms_take_unequal_intensities() -> None:
    best = optimise(5, 12, VISIBILITY, DARK, F_EC)
    assert best.key_rate_per_pulse == pytest.approx(2.90e-4, abs=5e-7)
    assert best.mu_a == pytest.approx(0.001643, abs=2e-6)
    assert best.mu_b == pytest.approx(0.007325, abs=5e-6)
    mirrored = optimise(12, 5, VISIBILITY, DARK, F_EC)
    assert mirrored.key_rate_per_pulse == pytest.approx(best.key_rate_per_pulse, rel=1e-8)
    assert mirrored.mu_a == pytest.approx(best.mu_b, rel=1e-3)


def test_reference_scenario_of_18_6_db() -> None:
    """Chosen, not published: 100 MHz, 1e10 pulses, 33 kbit/s from 129 kbit/s of sifted key."""
    best = optimise(9.3, 9.3, VISIBILITY, DARK, F_EC, 10**10)
    assert best.key_bits is not None
    assert best.key_bits / 100 == pytest.approx(33e3, abs=500)
    assert best.mu_a == pytest.approx(0.00675, abs=2e-5)
    assert best.p_x == pytest.approx(0.904, abs=1e-3)
    assert best.p_x**2 * best.gain * 1e8 == pytest.approx(129.5e3, abs=1e3)
    assert best.key_rate_per_pulse == best.key_bits / 10**10


def test_headline_of_six_pairs_at_11_6_db() -> None:
    best = optimise(5.8, 5.8, VISIBILITY, DARK, F_EC, 10**10)
    assert best.key_rate_per_pulse * 1e8 / 6 == pytest.approx(32e3, abs=200)


def test_one_second_at_10_db_gives_150_kbit() -> None:
    best = optimise(5, 5, VISIBILITY, DARK, F_EC, 10**8)
    assert best.key_bits == pytest.approx(152_800, abs=200)


SCENARIOS = [
    (0, 0, None),
    (1, 20, None),
    (22.25, 22.25, None),
    (0, 0, 10**7),
    (3, 17, 10**10),
    (20, 20, 10**12),
]


@pytest.mark.parametrize(("loss_a", "loss_b", "n_pulses"), SCENARIOS)
def test_no_brute_force_search_does_better(loss_a: float, loss_b: float, n_pulses: int | None) -> None:
    best = optimise(loss_a, loss_b, VISIBILITY, DARK, F_EC, n_pulses)
    assert best.key_rate_per_pulse > 0
    rng = np.random.default_rng(11)
    for spread in (0.02, 0.2, 1.0):
        for _ in range(300):
            a, b = (mu * math.exp(spread * rng.standard_normal()) for mu in (best.mu_a, best.mu_b))
            p = 1 - min((1 - best.p_x) * math.exp(spread * rng.standard_normal()), 0.5)
            tried = optimise(
                *(loss_a, loss_b, VISIBILITY, DARK, F_EC, n_pulses),
                **{"mu_a": min(a, 1.5), "mu_b": min(b, 1.5), "p_x": p},
            )
            assert tried.key_rate_per_pulse <= best.key_rate_per_pulse * (1 + 1e-6)


def test_the_last_decibels_are_found() -> None:
    """Key shrinks smoothly to nothing; no hole before the cut-off, no key after it."""
    rates = [
        optimise(x / 2, x / 2, VISIBILITY, DARK, F_EC).key_rate_per_pulse for x in np.arange(40, 48, 0.1)
    ]
    assert rates == sorted(rates, reverse=True)
    alive = [rate for rate in rates if rate > 0]
    assert len(alive) == 47  # brute force finds key at 44.6 dB and none at 44.7
    assert alive[-1] < 2e-8


def test_no_key_reports_a_sane_setting() -> None:
    for best in (
        optimise(30, 30, VISIBILITY, DARK, F_EC),
        optimise(0, 40, VISIBILITY, DARK, F_EC, 10**10),
        optimise(5, 5, VISIBILITY, DARK, F_EC, 1000),
        optimise(5, 5, 0.5, DARK, F_EC),
    ):
        assert best.key_rate_per_pulse == 0
        assert not best.key_bits
        assert 1e-12 < best.mu_a <= math.pi / 2
        assert 1e-12 < best.mu_b <= math.pi / 2


def test_given_values_are_kept_and_the_rest_optimised() -> None:
    best = optimise(5, 12, VISIBILITY, DARK, F_EC, 10**10, mu_a=0.001, p_x=0.9)
    assert (best.mu_a, best.p_x) == (0.001, 0.9)
    assert best.key_rate_per_pulse > 0
    assert best.mu_b > 0.002
    fixed = optimise(5, 5, VISIBILITY, DARK, F_EC, mu_a=0.005, mu_b=0.005, p_x=0.9)
    assert fixed == Scenario(OpticalChannel(5, 5, VISIBILITY, DARK), F_EC).key_rate(0.005, 0.005, 0.9)
    certain = optimise(5, 5, VISIBILITY, DARK, F_EC, 10**10, p_x=1.0)
    assert certain.key_bits == 0


def test_planning_a_pair_is_quick() -> None:
    optimise(9, 9, VISIBILITY, DARK, F_EC, 10**9)
    started = time.process_time()
    optimise(9, 9, VISIBILITY, DARK, F_EC, 10**9)
    assert time.process_time() - started < 0.3


def test_report_has_the_fields_of_the_command() -> None:
    report = keyrate_report(5, 5, VISIBILITY, DARK, F_EC, mu_a=0.005, mu_b=0.005)
    assert set(report) == {
        *("gain", "qber", "delta", "phase_error", "key_rate_per_pulse", "key_bits", "mu_a", "mu_b", "p_x")
    }
    assert report["delta"] == pytest.approx(0.007891, abs=5e-7)
    assert report["phase_error"] == pytest.approx(0.060652, abs=5e-7)
    assert report["key_bits"] is None
    finite = keyrate_report(9.5, 9.5, VISIBILITY, DARK, F_EC, 10**9, mu_a=0.006, mu_b=0.006, p_x=0.9)
    assert finite["key_bits"] == 162402
    assert finite["phase_error"] == pytest.approx(0.241574, abs=5e-7)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loss_a_db": -1.0}, "loss_a_db"),
        ({"loss_b_db": math.nan}, "loss_b_db"),
        ({"visibility": 0.0}, "visibility"),
        ({"visibility": 1.1}, "visibility"),
        ({"dark_count": -1e-9}, "dark_count"),
        ({"f_ec": 0.9}, "f_ec"),
        ({"f_ec": math.inf}, "f_ec"),
        ({"n_pulses": 0}, "n_pulses"),
        ({"eps_sec": 0.0}, "eps_sec"),
        ({"eps_cor": 1.0}, "eps_cor"),
        ({"mu_a": 0.0}, "mu_a"),
        ({"mu_b": 1.6}, "mu_b"),
        ({"p_x": 0.0}, "p_x"),
        ({"p_x": 1.01}, "p_x"),
        ({"p_x": P_X_MIN_FINITE - 0.01, "n_pulses": 10**9}, "p_x"),
    ],
)
def test_report_names_the_argument_that_is_wrong(changes: dict[str, float], named: str) -> None:
    good: dict[str, float] = {
        **{"loss_a_db": 5.0, "loss_b_db": 5.0, "visibility": 0.99, "dark_count": 1e-7, "f_ec": 1.16}
    }
    with pytest.raises(ValueError, match=named):
        keyrate_report(**(good | changes))  # type: ignore[arg-type]


def plan(n_pulses: int = 2**26, **changes: float) -> FourPhasePlan:
    """A plan over 4 dB and 6 dB with 0.1 dB of intensity tolerance."""
    losses = (changes.pop("loss_a_db", 4.0), changes.pop("loss_b_db", 6.0))
    tolerance = Uncertainty(changes.pop("intensity_tolerance_db", 0.1))
    settings: dict[str, object] = {
        **{"visibility": VISIBILITY, "dark_count": DARK, "uncertainties": (tolerance, tolerance)}
    }
    return block_plan(*losses, n_pulses=n_pulses, **(settings | changes))  # type: ignore[arg-type]


PLAN = plan()


def draw_counts(block: FourPhasePlan, rng: np.random.Generator, loss_db: float = 0.0) -> BlockCounts:
    """The counts of an honest block, ``loss_db`` more lossy per arm than the plan says."""
    extra = transmittance(loss_db)
    x_a, x_b = block.channel.eta_a * block.mu_a * extra, block.channel.eta_b * block.mu_b * extra
    v, pd, p = block.channel.visibility, block.channel.dark_count, block.p_x
    right, wrong = click_probabilities(x_a, x_b, v, pd)
    mixed = sum(click_probabilities(x_a, x_b, v, pd, math.pi / 2))
    q = 1 - p
    cells = [p * p * right, p * p * wrong, q * q * right, q * q * wrong, 2 * p * q * mixed]
    xx, xx_bad, yy, yy_bad, xy, _ = rng.multinomial(block.n_pulses, [*cells, 1 - sum(cells)]).tolist()
    n_key = xx + xx_bad
    labels = block.draw_labels(n_key, rng.bytes)
    return BlockCounts(
        n_pulses=block.n_pulses,
        n_announced=n_key + yy + yy_bad + xy,
        n_key=n_key,
        n_test=yy + yy_bad,
        n_drawn=int(labels.sum()),
        test_errors=yy_bad,
        key_errors=xx_bad,
        leak_bits=int(1.16 * n_key * 0.0454),
    )


def test_plan_rounds_to_what_can_be_played() -> None:
    assert PLAN.p_x == PLAN.p_x_128 / 128
    assert PLAN.coin_label_probability == Fraction((128 - PLAN.p_x_128) ** 2, PLAN.p_x_128**2)
    assert float(f"{PLAN.mu_a:.3e}") == PLAN.mu_a
    assert PLAN.mu_a < PLAN.uncertainties[0].mu_upper(PLAN.mu_a) == pytest.approx(PLAN.mu_a * 10**0.01)
    free = optimise(4, 6, VISIBILITY, DARK, F_EC, 2**26, light=Uncertainty(0.1))
    assert free.key_bits is not None
    assert 0.995 * free.key_bits < PLAN.expected_bits <= free.key_bits


def test_predicted_counts_are_those_of_the_channel() -> None:
    finite = PLAN.finite
    assert finite.n_x == pytest.approx(PLAN.n_pulses * PLAN.p_x**2 * PLAN.gain)
    assert finite.n_y == pytest.approx(PLAN.n_pulses * (1 - PLAN.p_x) ** 2 * PLAN.gain)
    assert finite.m_y == pytest.approx(finite.n_y * PLAN.qber)
    assert finite.coin_rounds == pytest.approx(2 * PLAN.n_pulses * (1 - PLAN.p_x) ** 2)
    assert finite.n_s == pytest.approx(finite.n_y + finite.n_x * float(PLAN.coin_label_probability))


def test_honest_blocks_pass_and_give_what_was_expected() -> None:
    rng = np.random.default_rng(1)
    bits = []
    for _ in range(60):
        counts = draw_counts(PLAN, rng)
        assert PLAN.violations(counts) == ()
        bits.append(PLAN.secret_length(counts).bits)
    assert np.mean(bits) == pytest.approx(PLAN.expected_bits, rel=0.02)
    assert min(bits) > 0.8 * PLAN.expected_bits


@pytest.mark.parametrize("loss_db", [-2.0, 2.0])
def test_a_channel_other_than_the_calibrated_one_is_refused(loss_db: float) -> None:
    length = PLAN.secret_length(draw_counts(PLAN, np.random.default_rng(2), loss_db))
    assert length.bits == 0
    assert "calibrated channel" in length.reason
    assert PLAN.secret_length(draw_counts(PLAN, np.random.default_rng(2), loss_db / 10)).bits > 0


Change = Callable[[BlockCounts], BlockCounts]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: replace(c, n_pulses=c.n_pulses - 1), "pulses were emitted"),
        (lambda c: replace(c, n_announced=2 * c.n_announced), "announced clicks"),
        (lambda c: replace(c, n_key=2 * c.n_key), "XX rounds"),
        (lambda c: replace(c, n_test=0, test_errors=0), "YY rounds"),
        (lambda c: replace(c, n_drawn=c.n_drawn + c.n_drawn // 4), "coin label"),
        (lambda c: replace(c, n_drawn=0), "coin label"),
        (lambda c: replace(c, test_errors=c.n_test // 10), "in Y is above"),
        (lambda c: replace(c, key_errors=c.n_key // 10), "in X is above"),
    ],
)
def test_what_does_not_fit_the_plan_is_refused_with_a_reason(change: Change, reason: str) -> None:
    counts = draw_counts(PLAN, np.random.default_rng(3))
    assert PLAN.secret_length(counts).bits > 0
    length = PLAN.secret_length(change(counts))
    assert length.bits == 0
    assert reason in length.reason


def test_a_small_block_is_no_error() -> None:
    small = plan(1000)
    assert small.expected_bits == 0
    nothing = BlockCounts(
        n_pulses=1000, n_announced=0, n_key=0, n_test=0, n_drawn=0, test_errors=0, leak_bits=0
    )
    assert small.secret_length(nothing).bits == 0


def test_leak_limit() -> None:
    assert PLAN.leak_limit_bits(10**6) == int(1.3e6 * 0.286396957)
    assert PLAN.leak_limit_bits(0) == 0


def test_both_users_arrive_at_the_same_digest() -> None:
    assert plan().digest() == PLAN.digest()
    given = plan(p_x=PLAN.p_x, mu_a=PLAN.mu_a, mu_b=PLAN.mu_b)
    assert given.digest() == PLAN.digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_a_db": 4.01},
        {"loss_b_db": 6.01},
        {"visibility": 0.98},
        {"dark_count": 2e-7},
        {"f_ec": 1.15},
        {"eps_sec": 1e-9},
        {"eps_cor": 1e-14},
        {"intensity_tolerance_db": 0.2},
        {"qber_limit": 0.06},
        {"lost_frames_limit": 0.1},
        {"gain_tolerance_db": 0.5},
        {"p_x": 0.75},
        {"mu_a": 0.01},
        {"mu_b": 0.01},
        {"n_pulses": 2**26 + 1},
    ],
)
def test_any_difference_shows_in_the_digest(changes: dict[str, float]) -> None:
    pinned = {"p_x": PLAN.p_x, "mu_a": PLAN.mu_a, "mu_b": PLAN.mu_b}
    other = plan(**(pinned | changes))  # type: ignore[arg-type]
    assert other.digest() != PLAN.digest()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"p_x": 0.9}, "nearest: 115/128"),
        ({"p_x": 0.25}, "p_x"),
        ({"p_x": 1.0}, "127/128"),
        ({"qber_limit": 0.5}, "qber_limit"),
        ({"lost_frames_limit": 1.0}, "lost_frames_limit"),
        ({"gain_tolerance_db": -1.0}, "gain_tolerance_db"),
        ({"eps_cor": 0.0}, "eps_cor"),
        ({"intensity_tolerance_db": -0.1}, "tolerance_db"),
        ({"mu_a": 1.56}, "mu_a"),
        ({"n_pulses": 0}, "n_pulses"),
    ],
)
def test_an_impossible_plan_says_why(changes: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        plan(**changes)  # type: ignore[arg-type]


def test_coin_labels_have_exactly_the_planned_probability() -> None:
    """Every residue once: the labelled part is the fraction itself, not a rounding of it."""
    every = np.arange(PLAN.p_x_128**2, dtype="<u4").tobytes()
    labels = PLAN.draw_labels(PLAN.p_x_128**2, lambda _: every)
    assert Fraction(int(labels.sum()), labels.size) == PLAN.coin_label_probability
    assert labels.dtype == np.uint8


def test_words_past_the_last_full_cycle_are_drawn_again() -> None:
    cycle = PLAN.p_x_128**2
    limit = 2**32 - 2**32 % cycle
    answers = iter(
        [np.array([0, limit, 2**32 - 1], "<u4"), np.array([limit - 1, limit], "<u4"), np.array([0], "<u4")]
    )
    asked = []

    def read(n_bytes: int) -> bytes:
        asked.append(n_bytes)
        return next(answers).tobytes()

    assert PLAN.draw_labels(3, read).tolist() == [1, 0, 1]
    assert asked == [12, 8, 4]
    assert PLAN.draw_labels(0, read).size == 0


def test_count_window() -> None:
    window = CountWindow.around(10_000, 0.0)
    assert 10_000 in window
    assert window.low == 9_300
    assert 10_700 < window.high < 10_740
    assert 0 in CountWindow.around(3.0, 0.0)
    assert 30 in CountWindow.around(3.0, 0.0)
    assert 60 not in CountWindow.around(3.0, 0.0)
