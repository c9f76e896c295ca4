"""Attacks on the light of a simulated ring: what each does to powers, clicks and errors, and that it leaves nothing behind."""

from __future__ import annotations

import math

import pytest
from lit_ring import count as counted
from lit_ring import frame, lit, symbols

from sim_backends.attacks.light import NOBODY, Eavesdropper
from sim_backends.attacks.table import ATTACKS, attack_named
from sim_backends.optics import Direction, Ring

A, B = symbols(1), symbols(2)
DRIVES = {"alice": frame("alice", "ccw", A), "bob": frame("bob", "cw", B)}
PLACES: list[tuple[str, Direction]] = [(user, way) for user in ("alice", "bob") for way in ("cw", "ccw")]


def sensors_w(ring: Ring) -> list[float]:
    return [ring.sensor_power_w(user, way) for user, way in PLACES]


def photons(ring: Ring) -> list[float]:
    return [ring.mean_photon_number(user, way) for user, way in PLACES]


def test_a_tap_takes_its_share_of_either_direction_once() -> None:
    ring = lit()
    before_w, before = sensors_w(ring), ring.detector_count_rates()
    ring.eavesdrop(Eavesdropper(tapped=0.25))
    assert sensors_w(ring) == pytest.approx(
        [p * f for p, f in zip(before_w, (0.75, 1, 0.75, 1), strict=True)]
    )
    assert ring.detector_count_rates() == pytest.approx([0.75 * each for each in before], rel=0.02)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_intercepting_costs_a_quarter_of_its_share_in_errors_and_no_light(share: float) -> None:
    ring = lit(launch_db=50.0)
    honest = counted(ring, A, B, DRIVES)
    ring.eavesdrop(Eavesdropper(resent=share))
    attacked = counted(ring, A, B, DRIVES, seed=2)
    sigma = math.sqrt(attacked.qber / (attacked.right + attacked.wrong))
    expected = honest.qber * (1 - share / 2) + share / 4
    assert attacked.qber == pytest.approx(expected, abs=5 * sigma + 1e-3)
    assert attacked.gain == pytest.approx(honest.gain, rel=0.02)


def test_counted_rates_know_of_intercepted_pulses() -> None:
    """Modulators at rest: half of the intercepted pulses come home with a chance of one half for either detector."""
    ring = lit()
    d1, d2 = ring.detector_count_rates()
    ring.eavesdrop(Eavesdropper(resent=1.0))
    assert sum(ring.detector_count_rates()) == pytest.approx(d1 + d2, rel=0.01)
    assert ring.detector_count_rates()[1] == pytest.approx(d2 + (d1 - d2) / 4, rel=0.02)


def test_bright_light_is_seen_by_users_and_not_by_the_relay() -> None:
    ring = lit()
    before_w, before, rates = sensors_w(ring), photons(ring), ring.detector_count_rates()
    ring.eavesdrop(Eavesdropper(brighter_db=3.0))
    assert sensors_w(ring) == pytest.approx([each * 10**0.3 for each in before_w])
    assert photons(ring) == pytest.approx([each * 10**0.3 for each in before])
    assert ring.detector_count_rates() == pytest.approx(rates)


@pytest.mark.parametrize("attack", [each for each in ATTACKS if each.light], ids=lambda each: each.name)
def test_an_attack_that_ended_leaves_the_ring_as_it_was(attack) -> None:
    ring = lit()

    def seen() -> tuple[list[int], list[float]]:
        return ring.expose(DRIVES, 10**9, seed=5).time_ps.tolist(), photons(ring)

    before = seen()
    ring.eavesdrop(attack.light(attack.most))
    assert seen() != before
    ring.eavesdrop(NOBODY)
    assert seen() == before


def test_every_attack_says_what_it_does_what_is_promised_and_where_that_stands() -> None:
    for attack in ATTACKS:
        assert attack.least <= attack.usual <= attack.most, attack.name
        assert all((attack.does, attack.promise, attack.source)), attack.name
        assert (attack.light is None) == bool(attack.role), f"{attack.name} is carried by one"
        assert attack_named(attack.name) is attack
        if attack.light:
            assert attack.light(attack.least) != attack.light(attack.most) != NOBODY


def test_what_there_is_not_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="no attack 'tape'; there are tap, intercept-resend"):
        attack_named("tape")
    with pytest.raises(ValueError, match=r"tap: of the light lies between 1 and 90 %, not 95"):
        attack_named("tap").checked(95)
    with pytest.raises(ValueError, match="tapped must lie in"):
        Eavesdropper(tapped=1.0)
