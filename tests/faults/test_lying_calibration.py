"""A relay that lies about clicks in calibration frames makes no user brighter, or more wrong, than is charged.

Real drivers, twins and light; only what the relay announces is changed.  What a user drives key frames with afterwards is
within its charged phase uncertainty of the true half turn, or the calibration is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from driven_ring import DrivenRing

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Finding
from lab.runs.testbeds.folder import template_path
from lab.testbed import read_testbed
from orchestrator.light.calibration.levels import REST, phase_levels
from orchestrator.light.calibration.phase import phase_finding
from orchestrator.light.clicks import D1_ONLY, D2_ONLY, LevelClicks
from orchestrator.light.launching import PlannedLight
from orchestrator.light.messages import announce
from orchestrator.light.own_station import OWN_DIRECTION
from orchestrator.protocols.block_planning import plan_for
from orchestrator.wire.memory_channel import memory_channel_pair

pytestmark = pytest.mark.early

PAIR = ("alice", "carol")
USER = PAIR[1]
FRAMES = 3
Clicks = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]
Lie = Callable[[Clicks, np.random.Generator], Clicks]


@pytest.fixture(scope="module")
def ring() -> Iterator[DrivenRing]:
    driven = DrivenRing(read_testbed(template_path("simulated-four-node")), PAIR)
    yield driven
    driven.close()


@pytest.fixture
def calibrate(ring: DrivenRing, monkeypatch: pytest.MonkeyPatch) -> Callable[[Lie], Finding]:
    """Calibrate one user in light whose clicks are announced as a lie says."""

    def run(lie: Lie) -> Finding:
        rng = np.random.default_rng(7)
        monkeypatch.setattr(
            "orchestrator.light.relay.announce",
            lambda frame, slots, outcomes: announce(frame, *lie((slots, outcomes), rng)),
        )
        ring.relay.set_up()
        for light in ring.users:
            light.set_up()
        plan = plan_for(ring.testbed, *PAIR)
        lines = [memory_channel_pair() for _ in PAIR]
        levels = phase_levels(ring.testbed, USER)

        def user(index: int) -> LevelClicks:
            return ring.users[index].calibrate(
                lines[index][0],
                levels=levels if PAIR[index] == USER else REST,
                mu=(plan.mu_a, plan.mu_b)[index],
                direction=OWN_DIRECTION[index],
                n_frames=FRAMES,
            )

        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(user, index) for index in (0, 1)]
            ring.relay.run((lines[0][1], lines[1][1]), FRAMES, PlannedLight(ring.plan().attenuation_db))
            clicks = both[PAIR.index(USER)].result()
        mu_upper = plan.mu_b * 10 ** (plan.tolerance_db[1] / 10)
        return phase_finding(ring.testbed, USER, PAIR[0], levels, clicks, mu_upper, OWN_DIRECTION[1])

    return run


def wrong_rad(ring: DrivenRing, finding: Finding) -> float:
    """How far a symbol of half a turn is off when it is driven by what was found."""
    station = next(each for each in ring.bench.ring.optics.users if each.name == USER)
    settled = 1 - math.exp(-4.0 / (station.rise_ns / math.log(9)))  # a pulse 4 ns after its sample's edge
    true_v = station.v_pi_v / station.rf_gain / settled
    found: Any = finding.figures["half_wave_v"].value
    return math.pi * abs(found / true_v - 1)


def honest(clicks: Clicks, rng: np.random.Generator) -> Clicks:
    return clicks


def swapped(clicks: Clicks, rng: np.random.Generator) -> Clicks:
    """D1 is called D2."""
    slots, outcomes = clicks
    return slots, np.where(outcomes == D1_ONLY, D2_ONLY, np.where(outcomes == D2_ONLY, D1_ONLY, outcomes))


def half_of_one(clicks: Clicks, rng: np.random.Generator) -> Clicks:
    """Half of one detector's clicks are kept back."""
    slots, outcomes = clicks
    kept = (outcomes != D2_ONLY) | (rng.random(slots.size) < 0.5)
    return slots[kept], outcomes[kept]


def some_turned(clicks: Clicks, rng: np.random.Generator) -> Clicks:
    """A fifth of the clicks is announced of the other detector, in the first half of each frame only."""
    slots, outcomes = clicks
    turned = (slots < slots.max() // 2) & (rng.random(slots.size) < 0.2)
    return slots, np.where(turned, swapped(clicks, rng)[1], outcomes)


def invented(clicks: Clicks, rng: np.random.Generator) -> Clicks:
    """As many clicks as there were, wherever and of whatever detector."""
    slots = np.sort(rng.choice(4_000_000, clicks[0].size, replace=False)).astype(np.uint32)
    return slots, rng.integers(D1_ONLY, D2_ONLY + 1, slots.size).astype(np.uint8)


def one_slot_late(clicks: Clicks, rng: np.random.Generator) -> Clicks:
    """Every click is announced of the next slot, whose level is another."""
    slots, outcomes = clicks
    return slots[:-1] + np.uint32(1), outcomes[:-1]


@pytest.mark.parametrize("lie", [honest, swapped, half_of_one, some_turned])
def test_a_lie_that_is_accepted_shifts_nothing(
    ring: DrivenRing, calibrate: Callable[[Lie], Finding], lie: Lie
) -> None:
    finding = calibrate(lie)
    charged: Any = finding.values["phase_uncertainty_rad"].value
    assert wrong_rad(ring, finding) < 1.5 * charged  # 1.5 of two sigma


@pytest.mark.parametrize("lie", [invented, one_slot_late])
def test_a_lie_without_the_light_is_refused(calibrate: Callable[[Lie], Finding], lie: Lie) -> None:
    with pytest.raises(CalibrationRefusedError, match="contrast"):
        calibrate(lie)


def test_levels_that_the_relay_knew_would_be_another_matter(
    ring: DrivenRing, calibrate: Callable[[Lie], Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why they are drawn privately: who knows them can announce any half turn, with a healthy fit."""
    drawn: list[npt.NDArray[np.uint8]] = []
    user = ring.users[PAIR.index(USER)]
    private = user._random_into

    def leaking(buffer: memoryview) -> None:
        private(buffer)
        if len(buffer) == ring.testbed.protocol.slots_per_frame:
            drawn.append(np.frombuffer(bytes(buffer), np.uint8))

    monkeypatch.setattr(user, "_random_into", leaking)
    frames = iter(range(FRAMES))
    volts = phase_levels(ring.testbed, USER) * ring.testbed.user(USER).awg_amplitude_vpp / 2
    settings = ring.testbed.user(USER)
    wanted_v = 0.95 * settings.v_pi_v / settings.rf_gain

    def knowing(clicks: Clicks, rng: np.random.Generator) -> Clicks:
        frame = next(frames)
        levels = volts[drawn[frame][clicks[0]]]
        equal = rng.random(clicks[0].size) < (1 + 0.98 * np.cos(np.pi * levels / wanted_v)) / 2
        return clicks[0], np.where(equal, D1_ONLY, D2_ONLY).astype(np.uint8)

    finding = calibrate(knowing)
    charged: Any = finding.values["phase_uncertainty_rad"].value
    assert wrong_rad(ring, finding) > 10 * charged
