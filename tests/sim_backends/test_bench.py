"""All twins of a testbed together, reached through the drivers: addresses, light, lines, the process."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import QUNETLAB
from driven_ring import DrivenRing, ring_content

from drivers.catalogue import open_instrument
from drivers.links.errors import InstrumentError
from lab.testbed import Testbed, load_testbed, parse_testbed
from orchestrator.events.process import SimulatorServing, SimulatorStopped, event_of
from orchestrator.light.messages import LightAborted
from sim_backends import bench as bench_module
from sim_backends import bench_addresses
from sim_backends.bench import Bench, BenchError, run_simulator

pytestmark = pytest.mark.early

TEMPLATE = Path(bench_module.__file__).parents[1] / "lab" / "testbeds" / "simulated-four-node.toml"
SLOTS = 1 << 15


def content() -> dict[str, Any]:
    """The bundled testbed with short frames."""
    data = tomllib.loads(TEMPLATE.read_text(encoding="utf-8"))
    data["protocol"]["slots_per_frame"] = SLOTS
    return data


def make_testbed(data: dict[str, Any]) -> Testbed:
    return parse_testbed(data, TEMPLATE)


@pytest.fixture
def ring() -> Iterator[DrivenRing]:
    """A perfect ring."""
    driven = DrivenRing(ring_content(SLOTS, spread=0.0))
    try:
        yield driven
    finally:
        driven.close()


def test_every_instrument_answers_where_the_ready_line_says() -> None:
    testbed = make_testbed(content())
    with Bench(testbed) as bench:
        ready = bench.ready_line()
        assert ready["ready"] is True
        assert json.loads(json.dumps(ready)) == ready
        instruments = ready["instruments"]
        assert isinstance(instruments, list)
        assert [entry["name"] for entry in instruments] == [entry.name for entry in testbed.instruments]
        models = set()
        for entry in instruments:
            options = {
                **next(e.options for e in testbed.instruments if e.name == entry["name"]),
                **entry["options"],
            }
            instrument = open_instrument(entry["model"], entry["name"], entry["address"], **options)
            models.add(instrument.identify().model)
            instrument.close()
    assert len(models) == len({entry.model for entry in testbed.instruments}) == 9


class TestLight:
    """What one instrument does, another one measures."""

    def test_intensity_is_what_sensor_and_attenuator_say(self, ring: DrivenRing) -> None:
        """Bright light, so that the sensor's noise does not matter: 20 dB above what the plan launches."""
        stations = ring.light()
        ring.instruments.detectors.enabled(False)
        ring.instruments.launch.attenuation_db(20.0)
        for user, direction in (("alice", "ccw"), ("bob", "cw")):
            for attenuation_db in (1.0, 9.0):
                ring.owned[user].attenuator.attenuation_db(attenuation_db)
                photons = ring.bench.ring.mean_photon_number(user, direction)
                assert stations[user].output_photons(direction) == pytest.approx(photons, rel=0.01)

    def test_closed_shutter_and_laser_off_leave_dark_counts(self, ring: DrivenRing) -> None:
        ring.light()
        relay = ring.instruments
        assert max(relay.detectors.count_rates()) > 1e5
        for close, open_again in (
            (relay.launch.block, relay.launch.let_through),
            (relay.launch_second.block, relay.launch_second.let_through),
            (lambda: relay.laser.emission(False), lambda: relay.laser.emission(True)),
        ):
            close()
            assert max(relay.detectors.count_rates()) < 2e3
            open_again()

    def test_only_the_launch_channels_carry_the_light(self, ring: DrivenRing) -> None:
        ring.light()
        before = ring.bench.ring.sensor_power_w("alice", "cw")
        box: Any = next(each for each in ring.stations["relay"].instruments() if each.name == "launch")
        box.ch3.attenuation_db(30.0)
        box.ch4.shutter_open(True)
        assert ring.bench.ring.sensor_power_w("alice", "cw") == pytest.approx(before, rel=1e-3)
        assert before > 0

    def test_all_light_passes_the_attenuator_inside_the_bias_controller(self, ring: DrivenRing) -> None:
        """The launch opens it to its least; 10 dB more are a tenth of the light, and its safe state is 19 dB below."""
        ring.light()
        inside = ring.instruments.carver_bias.attenuator
        assert inside is not None
        assert inside.attenuation_db() == ring.testbed.carver.attenuation_db == 1.0
        before = ring.bench.ring.sensor_power_w("alice", "cw")
        inside.attenuation_db(11.0)
        assert ring.bench.ring.sensor_power_w("alice", "cw") == pytest.approx(before / 10, rel=1e-3)
        inside.block()
        assert ring.bench.ring.sensor_power_w("alice", "cw") == pytest.approx(before / 10**1.9, rel=1e-3)
        assert ring.instruments.carver_bias.locked(), "it sees its light ahead of the attenuator"

    def test_states_hold_no_waveforms(self, ring: DrivenRing) -> None:
        ring.phase(2)
        text = json.dumps(ring.bench.states(), default=str)
        assert len(text) < 20_000
        assert "array" not in text


class TestLines:
    """A cable that leads nowhere, and one that is pulled out."""

    @pytest.mark.parametrize("unplugged", ["awg_alice", "awg_bob"])
    def test_a_generator_without_a_trigger_cable_plays_no_frame(
        self, ring: DrivenRing, unplugged: str
    ) -> None:
        ring.bench.trigger.pull(unplugged)
        with pytest.raises((LightAborted, InstrumentError), match="frame"):
            ring.phase(4)

    @pytest.mark.parametrize("pulled", ["awg_alice", "tagger", "awg_relay"])
    def test_a_reference_that_is_pulled_ends_the_block(self, ring: DrivenRing, pulled: str) -> None:
        with pytest.raises((LightAborted, InstrumentError)) as raised:
            ring.phase(40, lambda frame: ring.bench.reference.pull(pulled) if frame == 1 else None)
        assert "reference" in str(raised.value).lower(), "told to whoever is told that the block ended"


class TestPlaces:
    """Addresses of the testbed file."""

    def test_a_concrete_loopback_address_is_used_as_it_stands(self) -> None:
        data = content()
        host = bench_addresses.pick_hosts([(4000,)], random.SystemRandom())[0].host
        entry = next(e for e in data["instruments"] if e["name"] == "awg_alice")
        entry["address"] = f"TCPIP::{host}::4100::SOCKET"
        with Bench(make_testbed(data)) as bench:
            assert bench.addresses["awg_alice"] == entry["address"]
            open_instrument(entry["model"], "awg_alice", entry["address"]).close()

    def test_real_addresses_are_left_alone(self) -> None:
        data = content()
        for entry in data["instruments"]:
            if entry["owner"] == "dave":
                entry["address"] = f"TCPIP::192.0.2.{len(entry['name'])}::4000::SOCKET"
        for entry in data["instruments"]:
            if entry["name"] in ("switch_dave", "voa_dave"):
                entry["address"] = "/dev/null" if entry["name"] == "voa_dave" else "/dev/zero"
        with Bench(make_testbed(data)) as bench:
            assert bench.ready_line()["not_simulated"] == [
                "switch_dave",
                "awg_dave",
                "voa_dave",
                "sensors_dave",
            ]
            assert "awg_dave" not in bench.twins

    def test_a_serial_twin_answers_at_the_configured_path(self, tmp_path: Path) -> None:
        data = content()
        path = tmp_path / "laser"
        data["instruments"][0]["address"] = str(path)
        with Bench(make_testbed(data)) as bench:
            assert bench.addresses["laser"] == str(path)
            open_instrument("nkt-basik", "laser", str(path)).close()
        assert not path.is_symlink()

    def test_the_address_of_a_killed_simulator_leads_to_no_other_instrument(self, tmp_path: Path) -> None:
        """Its terminal's number is given to the next that asks for one."""
        serve = "import time; from sim_backends.switches.thorlabs_osw22 import ThorlabsOSW22Twin as Twin; print(Twin().serve(), flush=True); time.sleep(60)"
        killed = subprocess.Popen(
            [sys.executable, "-P", "-c", serve],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        held: list[int] = []
        try:
            assert killed.stdout is not None
            address = Path(killed.stdout.readline().strip())
            number = os.path.realpath(address)
            assert Path(number).is_char_device()
            killed.kill()
            killed.wait()
            while len(held) < 200 and (not held or os.ttyname(held[-1]) != number):
                held += os.openpty()
            assert address.is_symlink()
            assert not address.exists()
        finally:
            killed.kill()
            killed.communicate()
            for end in held:
                os.close(end)

    def test_two_benches_run_side_by_side(self) -> None:
        with Bench(make_testbed(content())) as first, Bench(make_testbed(content())) as second:
            assert not set(first.addresses.values()) & set(second.addresses.values())

    def test_with_one_loopback_address_only_free_ports_serve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on systems that know no 127.a.b.c: the drivers then need the options of the ready line."""
        can_bind = bench_addresses._can_bind
        monkeypatch.setattr(
            bench_addresses, "_can_bind", lambda host, port: host == "127.0.0.1" and can_bind(host, port)
        )
        driven = DrivenRing(ring_content(SLOTS))
        try:
            assert all("127.0.0.1" in a for a in driven.bench.addresses.values() if not a.startswith("/"))
            assert {name for name, more in driven.bench.options.items() if more} == {"detectors", "tagger"}
            assert driven.phase(2).clicks > 0
        finally:
            driven.close()

    def test_an_address_in_use_is_named(self) -> None:
        data = content()
        with Bench(make_testbed(content())) as bench:
            entry = next(e for e in data["instruments"] if e["name"] == "launch")
            entry["address"] = bench.addresses["launch"]
            with pytest.raises(BenchError, match="launch cannot be served"):
                Bench(make_testbed(data)).serve()

    def test_a_testbed_without_simulation_is_refused(self) -> None:
        data = content()
        del data["simulation"]
        with pytest.raises(BenchError, match=r"no \[simulation\] section"):
            Bench(make_testbed(data))


class TestProcess:
    """``qunetlab simulate``."""

    def test_ready_line_resolved_file_and_final_states(self, tmp_path: Path) -> None:
        resolved = tmp_path / "resolved.toml"
        out, stop = io.StringIO(), threading.Event()
        stop.set()
        assert run_simulator(TEMPLATE, stop, json=True, resolved=resolved, out=out) == 0
        lines = out.getvalue().splitlines()
        serving, stopped = map(event_of, lines)
        assert isinstance(serving, SimulatorServing)
        assert isinstance(stopped, SimulatorStopped)
        ready, final = map(json.loads, lines)
        assert [each.address for each in serving.instruments] == [e["address"] for e in ready["instruments"]]
        addresses = {e["name"]: e["address"] for e in ready["instruments"]}
        assert {e.name: e.address for e in load_testbed(resolved).instruments} == addresses
        assert final["stopped"] is True
        assert set(final["states"]) == set(addresses)

    @pytest.mark.parametrize("end", ["SIGTERM", "parent"])
    def test_it_serves_until_a_signal_or_the_end_of_its_parent(self, end: str) -> None:
        read_fd, write_fd = os.pipe()
        process = subprocess.Popen(
            [*QUNETLAB, "simulate", str(TEMPLATE), "--json"],
            stdout=subprocess.PIPE,
            pass_fds=[read_fd],
            env={**os.environ, "QUNETLAB_PARENT_FD": str(read_fd)},
            text=True,
        )
        os.close(read_fd)
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["ready"] is True
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            if end == "parent":
                os.close(write_fd)
                write_fd = -1
            else:
                process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=20)
        finally:
            process.kill()
            if write_fd >= 0:
                os.close(write_fd)
        assert json.loads(rest)["stopped"] is True
        assert process.returncode == 0
