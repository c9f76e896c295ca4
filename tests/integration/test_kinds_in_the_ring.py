"""The light phase asks for kinds: other models, channels and spares of the same kinds do as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from driven_ring import TEMPLATE, DrivenRing, Phase, ring_content

from lab import needs
from lab.testbed import parse_testbed
from orchestrator.protocols.block_planning import plan_for
from sim_backends.survey import surveyed

PAIR = ("alice", "bob")


def content() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The bundled testbed with short frames, and its instruments by name."""
    data = ring_content(1 << 17)
    return data, {entry["name"]: entry for entry in data["instruments"]}


@contextmanager
def driven(data: dict[str, Any]) -> Iterator[DrivenRing]:
    """The ring with other instruments, calibrated as it is with them; safe at the end."""
    ring = DrivenRing(surveyed(data, parse_testbed(data, TEMPLATE)), PAIR)
    try:
        yield ring
        for station in ring.stations.values():
            assert station.safe() == {}
        assert not {name for name in ring.bench.unsafe() if name in ring.bench.addresses}
    finally:
        ring.close()


def is_as_planned(phase: Phase, ring: DrivenRing) -> None:
    plan = plan_for(ring.testbed, *PAIR)
    assert phase.clicks / phase.slots == pytest.approx(plan.gain, rel=0.15)
    assert phase.wrong / phase.sifted < 2.5 * plan.qber


def test_light_goes_through_whatever_serves() -> None:
    """A motor-driven attenuator at the launch, one of four shutters at bob's, and a spare laser."""
    data, by_name = content()
    by_name["launch"]["serves"] = {"launch_second": "ch3"}
    by_name["voa_bob"] |= {"model": "keysight-n7764a", "serves": {"attenuator": "ch2"}}
    by_name["laser"]["serves"] = {"laser": ""}
    data["instruments"] += [
        {"name": "motor", "model": "oz-dd100", "owner": "relay", "serves": {"launch": ""}},
        {"name": "spare", "model": "nkt-basik", "owner": "relay"},
    ]
    with driven(data) as ring:
        lit: list[set[str]] = []
        phase = ring.phase(2, lambda frame: lit.append(set(ring.bench.unsafe())))
        is_as_planned(phase, ring)
        assert all({"laser", "launch", "motor", "voa_bob"} <= each for each in lit)
        assert not any("spare" in each for each in lit)
        assert ring.bench.ring.mean_photon_number("bob", "cw") == 0.0


def test_one_box_attenuates_and_measures() -> None:
    """Its sensors see no single photons: the intensity is that of the last calibration."""
    data, by_name = content()
    data["protocol"]["monitoring"] = "calibrated"
    serves = {"attenuator": "ch3", "sensor_cw": "ch5", "sensor_ccw": "ch6"}
    by_name["voa_bob"] |= {"model": "keysight-n7752a", "serves": serves}
    data["instruments"].remove(by_name["sensors_bob"])
    with driven(data) as ring:
        is_as_planned(ring.phase(2), ring)
        own, light = ring.instruments, ring.bench.ring
        own.detectors.enabled(False)
        for launch in (own.launch, own.launch_second):
            launch.attenuation_db(10.0)
            launch.let_through()
        bob = ring.stations["bob"]
        bob.get(needs.SWITCH).crossed(False)
        attenuator = bob.get(needs.ATTENUATOR)
        for direction, need in (("cw", needs.SENSOR_CW), ("ccw", needs.SENSOR_CCW)):
            sensor, light_w = bob.get(need), light.sensor_power_w("bob", direction)
            assert light_w > 10 * sensor.floor_w()
            assert sensor.power_w() == pytest.approx(light_w, rel=0.06), "its scale is off by 5 % at most"
        attenuator.attenuation_db(10.0)
        attenuator.let_through()
        assert light.mean_photon_number("bob", "cw") > 0.0
        attenuator.block()
        assert light.mean_photon_number("bob", "cw") == 0.0
        assert bob.get(needs.SENSOR_CW).power_w() > 0.0, "it stands ahead of the attenuator"
