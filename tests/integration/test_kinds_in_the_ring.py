"""The light phase asks for kinds: other models, channels and spares of the same kinds do as well."""

from __future__ import annotations

import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import needs
from lab.runs.testbeds.folder import template_path
from lab.station import Station
from lab.testbed import parse_testbed, resolve_addresses
from orchestrator.light.messages import LightAborted
from orchestrator.light.relay import RelayLight
from orchestrator.light.user import UserLight
from sim_backends.bench import Bench

MU = 0.02


def content() -> dict[str, Any]:
    """A motor-driven attenuator at the launch, one of four shutters at bob's, and a spare laser."""
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= {"slots_per_frame": 1 << 14, "pulses_per_block": 1 << 17}
    by_name = {entry["name"]: entry for entry in data["instruments"]}
    by_name["launch"] |= {"model": "oz-dd100", "serves": {}}
    by_name["voa_bob"] |= {"model": "keysight-n7764a", "serves": {"attenuator": "ch2"}}
    by_name["laser"]["serves"] = {"laser": ""}
    data["instruments"].append({"name": "spare", "model": "nkt-basik", "owner": "relay", "address": "auto"})
    return data


def test_light_goes_through_whatever_serves() -> None:
    data = content()
    with ExitStack() as stack:
        bench = stack.enter_context(Bench(parse_testbed(data, Path("t"))))
        data = resolve_addresses(data, bench.addresses)
        for entry in data["instruments"]:
            entry["options"] = bench.options[entry["name"]]
        testbed = parse_testbed(data, Path("t"))
        relay = stack.enter_context(Station(testbed, "relay"))
        bob = stack.enter_context(Station(testbed, "bob"))
        light = RelayLight(
            testbed,
            relay.get(needs.LASER),
            relay.get(needs.LAUNCH),
            relay.get(needs.DETECTORS),
            relay.get(needs.TAGGER),
        )
        user = UserLight(
            testbed,
            "bob",
            bob.get(needs.MODULATOR),
            bob.get(needs.ATTENUATOR),
            bob.get(needs.MONITOR),
        )
        light.set_up()
        user.set_up()
        with pytest.raises(LightAborted, match="no light arrives"):
            user.set_intensity(MU)
        light.light_on()
        assert user.set_intensity(MU) == pytest.approx(MU, rel=5e-3)
        assert bench.ring.mean_photon_number("bob") == pytest.approx(MU, rel=5e-3)
        bob.get(needs.ATTENUATOR).block()
        assert bench.ring.mean_photon_number("bob") == 0.0
        assert "spare" not in bench.unsafe()
        before = bench.ring.monitor_power_w("bob")
        light.light_blocked()
        assert bench.ring.monitor_power_w("bob") < before * 10**-1.6  # 60 dB instead of 43: it has no shutter
    assert bench.unsafe() == []


def test_one_box_attenuates_and_measures() -> None:
    data = content()
    by_name = {entry["name"]: entry for entry in data["instruments"]}
    by_name["voa_bob"] |= {"model": "keysight-n7752a", "serves": {"attenuator": "ch3", "monitor": "ch5"}}
    data["instruments"].remove(by_name["monitor_bob"])
    with ExitStack() as stack:
        bench = stack.enter_context(Bench(parse_testbed(data, Path("t"))))
        data = resolve_addresses(data, bench.addresses)
        for entry in data["instruments"]:
            entry["options"] = bench.options[entry["name"]]
        testbed = parse_testbed(data, Path("t"))
        relay = stack.enter_context(Station(testbed, "relay"))
        bob = stack.enter_context(Station(testbed, "bob"))
        relay.get(needs.LASER).emission(True)
        relay.get(needs.LAUNCH).attenuation_db(20.0)
        sensor, light_w = bob.get(needs.MONITOR), bench.ring.monitor_power_w("bob")
        assert light_w > 1000 * sensor.floor_w()
        assert sensor.power_w() == pytest.approx(
            light_w, rel=0.06, abs=0.0
        )  # its scale is off by 5 % at most
        bob.get(needs.ATTENUATOR).attenuation_db(10.0)
        bob.get(needs.ATTENUATOR).let_through()
        assert bench.ring.mean_photon_number("bob") > 0.0
        bob.get(needs.ATTENUATOR).block()
        assert bench.ring.mean_photon_number("bob") == 0.0
        assert sensor.power_w() > 0.0
    assert bench.unsafe() == []
