"""Users find out by themselves what lies between their sensors and their outputs, in whatever light the relay sends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from uncalibrated_ring import ALL, Uncalibrated, uncalibrated_ring

from lab.calibration.book import now, read_book
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.steps import Step
from lab.runs.calibrating.hands import Hands, NoHands, instruction
from lab.runs.calibrating.rig import Rig, opened_rig
from lab.runs.calibrating.runner import Outcome, plan, run
from lab.testbed import read_testbed
from orchestrator.light.calibration.intensity import dark_readings
from orchestrator.light.launching import Launching
from orchestrator.light.own_station import Direction

pytestmark = [pytest.mark.early, pytest.mark.usefixtures("no_guards")]


def calibrated(rig: Rig, ring: Uncalibrated) -> list[Outcome]:
    testbed = ring.testbed()
    book = read_book(ring.path, read_testbed(ring.path))
    due = plan(testbed.user_names(), testbed.pairs(), book, now(), steps=[Step.INTENSITY])
    return list(run(rig, ring.path, due, progress=lambda due, part: None))


def errors_db(ring: Uncalibrated, users: Sequence[str]) -> list[float]:
    """Of the losses to both outputs and through the station, and in units of what is said of them, checked at once."""
    errors = []
    for name in users:
        found, true = ring.testbed().user(name), ring.of_user(name)
        part = read_book(ring.path, read_testbed(ring.path)).part(name)
        station = next(each for each in ring.ring().optics.users if each.name == name)
        assert abs(found.attenuator_slope - 1 - station.attenuator_slope) < 0.002
        off = [*np.subtract(found.sensor_to_output_db, true["sensor_to_output_db"])]
        off.append(found.station_loss_db - true["station_loss_db"])
        outputs, through = part["sensor_to_output_db"].uncertainty, part["station_loss_db"].uncertainty
        assert isinstance(outputs, list)
        assert isinstance(through, float)
        pulls = np.array(off) / np.array([*outputs, through])
        assert np.abs(pulls).max() < 2
        errors += [float(each) for each in off]
    return errors


def test_losses_of_fresh_stations(tmp_path: Path) -> None:
    ring = uncalibrated_ring(tmp_path, ring_seed=11)
    ordered = ring.testbed()
    wrong = [
        ordered.user(name).sensor_to_output_db[0] - ring.of_user(name)["sensor_to_output_db"][0]
        for name in ("alice", "bob")
    ]
    assert np.abs(wrong).max() > 0.1, "something is to be found"
    with opened_rig(ring.path) as rig:
        outcomes = calibrated(rig, ring)
        assert [(str(each.due), each.refused) for each in outcomes] == [
            ("intensity of alice", ""),
            ("intensity of bob", ""),
        ]
        for user in rig.users.values():
            assert user.station.switch.crossed(), "out of the ring again"
        assert rig.relay.detectors.enabled(), "the detectors have their bias back"
        left_w = {name: rig.users[name].station.left_w for name in ("alice", "bob")}
    for outcome in outcomes:
        assert outcome.finding is not None
        figures = outcome.finding.figures
        found_pw = [figures[f"zero_{direction}_pw"].value for direction in ("cw", "ccw")]
        kept_pw = [1e12 * each for each in left_w[outcome.finding.owner].values()]
        assert kept_pw == pytest.approx(found_pw), "what the zero left is known to whoever reads light next"
    assert np.abs(errors_db(ring, ("alice", "bob"))).max() < 0.2
    assert outcomes[0].finding is not None
    assert outcomes[0].finding.figures["zero_cw_pw"].value == pytest.approx(0, abs=0.1)


class Spoiling:
    """Hands that let the relay, or an accident, do something just then."""

    def __init__(self, rig: Rig, hands: Hands) -> None:
        self.rig, self.hands, self.biased_in_light, self.moves = rig, hands, False, 0

    def plug(self, user: str, sensor: Direction, free: bool) -> None:
        self.moves += 1
        self.hands.plug(user, sensor, free)
        self.biased_in_light |= bool(self.rig.relay.detectors.enabled())
        if self.moves == 1:
            self.brighten()

    def brighten(self) -> None:
        """The relay launches six times as much."""
        launch = self.rig.relay.launch
        launch.attenuation_db(launch.attenuation_db() - 8.0)


def test_a_relay_that_brightens_meanwhile_changes_nothing(tmp_path: Path) -> None:
    ring = uncalibrated_ring(tmp_path, ring_seed=12)
    with opened_rig(ring.path) as rig:
        hands = Spoiling(rig, rig.hands)
        rig.hands = hands
        assert [each.refused for each in calibrated(rig, ring)] == ["", ""]
    assert hands.moves == 8
    assert not hands.biased_in_light
    assert np.abs(errors_db(ring, ("alice", "bob"))).max() < 0.2


def test_light_that_comes_while_sensors_are_zeroed_is_found(tmp_path: Path) -> None:
    """The switch lets a hundred-thousandth of it through: too little for the sensor to refuse its zero."""
    ring = uncalibrated_ring(tmp_path, ring_seed=14)
    with opened_rig(ring.path) as rig:
        launching, owned = Launching(rig.testbed, rig.relay), rig.users["alice"].station

        class Lit:
            """A sensor that is lit for as long as it takes its zero."""

            power_w, wavelength_nm, floor_w = owned.sensor_cw.power_w, owned.sensor_cw.wavelength_nm, None
            glance_w = power_w

            def zero(self) -> None:
                launching.shine(10.0)
                owned.sensor_cw.zero()
                launching.close()

        with pytest.raises(CalibrationRefusedError, match=r"cw sensor reads -\d"):
            dark_readings(rig.testbed, "alice", replace(owned, sensor_cw=Lit()))
        assert owned.switch.crossed()
        launching.shine(10.0)
        with pytest.raises(CalibrationRefusedError, match="is the launch closed"):
            dark_readings(rig.testbed, "alice", owned)
        assert not owned.switch.crossed(), "it stays in, dark, as light is there"
        launching.close()


def test_without_hands_nothing_is_believed(tmp_path: Path) -> None:
    """Nobody at the bench, and somebody who does not do it: refused, nothing kept, dark in the end."""

    class Idle:
        def plug(self, user: str, sensor: Direction, free: bool) -> None:
            pass

    ring = uncalibrated_ring(tmp_path, ring_seed=13)
    before = ring.testbed()
    with opened_rig(ring.path) as rig:
        for hands, why in ((NoHands(), "moved by hand"), (Idle(), "fibre of the right sensor")):
            rig.hands = hands
            outcomes = calibrated(rig, ring)
            assert [why in each.refused for each in outcomes] == [True, True], outcomes
        assert all(user.station.switch.crossed() for user in rig.users.values())
        assert rig.relay.detectors.enabled()
    assert ring.testbed() == before


def test_a_person_is_told_which_fibre_goes_where() -> None:
    assert instruction("bob", "cw", True) == (
        "bob: plug the fibre of sensor_cw into the free port of the tap that feeds the counter-clockwise sensor, "
        "then press Enter"
    )
    assert "its own tap" in instruction("bob", "ccw", False)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(1, 21, 4))
def test_losses_of_twenty_rings(tmp_path: Path, first: int) -> None:
    """Within a fifth of a dB."""
    errors = []
    for seed in range(first, first + 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        ring = uncalibrated_ring(folder, ring_seed=seed, users=ALL)
        with opened_rig(ring.path) as rig:
            assert not [each.refused for each in calibrated(rig, ring) if each.refused]
        errors += errors_db(ring, ALL)
    assert np.abs(errors).max() < 0.2
    assert math.sqrt(float(np.mean(np.square(errors)))) < 0.1
