"""All twins of a testbed together, reached through the drivers: addresses, light, trigger line, the process."""

from __future__ import annotations

import io
import json
import math
import os
import random
import signal
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import QUNETLAB

from drivers.attenuators.keysight_n7764a import KeysightN7764A
from drivers.attenuators.oz_dd100 import OzDD100
from drivers.base import LabInstrument
from drivers.catalogue import open_instrument
from drivers.detectors.websq import WebSQ
from drivers.lasers.nkt_basik import NKTBasik
from drivers.modulators.tektronix_awg70002a import AWG70002A
from drivers.powermeters.thorlabs_pm100d import ThorlabsPM100D
from drivers.timetaggers.id900 import ID900
from lab.testbed import Testbed, load_testbed, parse_testbed
from orchestrator.events.process import SimulatorServing, SimulatorStopped, event_of
from sim_backends import bench as bench_module
from sim_backends import bench_addresses
from sim_backends.bench import Bench, BenchError, run_simulator
from sim_backends.bench_switch import driven_direction
from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin, AwgOutput

TEMPLATE = Path(bench_module.__file__).parents[1] / "lab" / "testbeds" / "simulated-four-node.toml"
SLOTS = 1 << 15
SLOT_PS = 10_000


def content() -> dict[str, Any]:
    """The bundled testbed with short frames."""
    data = tomllib.loads(TEMPLATE.read_text(encoding="utf-8"))
    data["protocol"]["slots_per_frame"] = SLOTS
    return data


def make_testbed(data: dict[str, Any]) -> Testbed:
    return parse_testbed(data, TEMPLATE)


class Lab:
    """A served bench with the drivers of every instrument, opened as a station does."""

    def __init__(self, testbed: Testbed) -> None:
        self.testbed = testbed
        self.bench = Bench(testbed, random.Random(os.getpid()))
        self.bench.serve()
        self.opened: dict[str, LabInstrument] = {}

    def get(self, name: str) -> Any:
        """The driver of one instrument."""
        if name not in self.opened:
            entry = next(e for e in self.testbed.instruments if e.name == name)
            options = {**entry.options, **self.bench.options.get(name, {})}
            self.opened[name] = open_instrument(entry.model, name, self.bench.addresses[name], **options)
        return self.opened[name]

    def light(self) -> None:
        """Laser, launch attenuator and detectors as the relay sets them."""
        laser: NKTBasik = self.get("laser")
        launch: KeysightN7764A = self.get("launch")
        detectors: WebSQ = self.get("detectors")
        laser.power_mw(1.0)
        laser.emission(True)
        launch.ch1.attenuation_db(43.0)
        launch.ch1.shutter_open(True)
        detectors.bias_current_ua([20.0, 20.0])
        detectors.enabled(True)

    def generator(self, user: str, theta_rad: np.ndarray, half: int, buffer: int = 0) -> AWG70002A:
        """A generator with phases loaded into one half of every slot."""
        awg: AWG70002A = self.get(f"awg_{user}")
        awg.configure(sample_rate_hz=200e6, amplitude_vpp=0.5)
        awg.prepare(2 * SLOTS)
        wave = np.zeros((SLOTS, 2), np.float32)
        wave[:, half] = theta_rad * 4.0 / (np.pi * 20.0 * 0.25)
        awg.upload(buffer, wave.reshape(-1))
        return awg

    def record(self) -> tuple[np.ndarray, np.ndarray]:
        """One frame: tag times of D1 and D2 in ps."""
        tagger: ID900 = self.get("tagger")
        tagger.play_record(SLOTS * SLOT_PS + 1_000_000)
        while tagger.record_playing():
            pass
        return tuple(tagger.read_tags(channel)[:, 0].astype(np.int64) for channel in (1, 2))

    def start_tagger(self) -> None:
        tagger: ID900 = self.get("tagger")
        tagger.configure((1, 2), 0.1)
        tagger.start_streams((1, 2))

    def set_photons(self, user: str, mu: float) -> None:
        """Attenuate to ``mu`` photons per slot from what the monitor reads."""
        monitor: ThorlabsPM100D = self.get(f"monitor_{user}")
        arriving = monitor.power_w() * 1550.12e-9 / (6.62607015e-34 * 299_792_458.0 * 1e8)
        attenuator: OzDD100 = self.get(f"voa_{user}")
        attenuator.attenuation_db(round(10 * math.log10(arriving / mu), 2))

    def close(self) -> None:
        for instrument in self.opened.values():
            instrument.close()
        self.bench.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    bench = Lab(make_testbed(content()))
    try:
        yield bench
    finally:
        bench.close()


class TestLight:
    """What one instrument does, another one measures."""

    def test_every_instrument_answers_where_the_ready_line_says(self, lab: Lab) -> None:
        ready = lab.bench.ready_line()
        assert ready["ready"] is True
        assert [e["name"] for e in ready["instruments"]] == [e.name for e in lab.testbed.instruments]  # type: ignore[attr-defined]
        models = {lab.get(e.name).identify().model for e in lab.testbed.instruments}
        assert models == {"Koheras BASIK K1x2", "N7764A", "WebSQ", "ID900", "AWG70002A", "DD-100", "PM100D"}
        assert json.loads(json.dumps(ready)) == ready

    def test_a_frame_of_light_from_symbols_to_tags(self, lab: Lab) -> None:
        """Two users in opposite phases in every fourth slot: D2 clicks there, D1 elsewhere."""
        lab.light()
        lab.start_tagger()
        theta = np.where(np.arange(SLOTS) % 4 == 1, np.pi / 2, -np.pi / 2)
        bob = lab.generator("bob", theta, half=1)
        carol = lab.generator("carol", np.full(SLOTS, -np.pi / 2), half=0)
        for user in ("bob", "carol"):
            lab.set_photons(user, 0.1)
        bob.arm(0)
        carol.arm(0)
        d1, d2 = lab.record()
        slots = [np.round((t - delay) / SLOT_PS) for t, delay in ((d1, 31_200), (d2, 31_650))]
        inside = [s[(s >= 0) & (s < SLOTS)] for s in slots]
        assert np.mean(inside[0] % 4 == 1) < 0.02
        assert np.mean(inside[1] % 4 == 1) > 0.9
        eta = 10 ** (-lab.testbed.arms("bob", "carol").loss_a_db / 10)
        clicks = sum(s.size for s in inside)
        expected = SLOTS * -math.expm1(-0.2 * eta)
        assert abs(clicks - expected) < 5 * math.sqrt(expected) + 0.03 * expected
        assert not bob.extra_trigger_seen()

    def test_a_second_trigger_plays_nothing(self, lab: Lab) -> None:
        """The frame was half a turn throughout; the second record shows light at 0 V only."""
        lab.light()
        lab.start_tagger()
        bob = lab.generator("bob", np.full(SLOTS, np.pi / 2), half=1)
        carol = lab.generator("carol", np.full(SLOTS, -np.pi / 2), half=0)
        for user in ("bob", "carol"):
            lab.set_photons(user, 0.1)
        bob.arm(0)
        carol.arm(0)
        d1, d2 = lab.record()
        assert d2.size > 20 * d1.size
        assert not bob.extra_trigger_seen()
        d1, d2 = lab.record()
        assert d1.size > 20 * d2.size
        assert bob.extra_trigger_seen()

    def test_intensity_is_what_monitor_and_attenuator_say(self, lab: Lab) -> None:
        lab.light()
        lab.generator("bob", np.full(SLOTS, np.pi), half=1)
        lab.set_photons("bob", 0.006)
        assert lab.bench.ring.mean_photon_number("bob") == pytest.approx(0.006, rel=2e-3)

    def test_the_monitor_follows_the_loaded_waveform(self, lab: Lab) -> None:
        """Bob's clockwise light has passed one station and 2.25 km, the other way two and 3.75 km."""
        lab.light()
        monitor: ThorlabsPM100D = lab.get("monitor_bob")
        lab.generator("bob", np.full(SLOTS, np.pi), half=0)
        clockwise = monitor.power_w()
        lab.generator("bob", np.full(SLOTS, np.pi), half=1)
        counter = monitor.power_w()
        assert 10 * math.log10(clockwise / counter) == pytest.approx(1.5 * 0.2 + 0.6, abs=1e-3)

    def test_closed_shutter_and_laser_off_leave_dark_counts(self, lab: Lab) -> None:
        lab.light()
        detectors: WebSQ = lab.get("detectors")
        assert min(detectors.count_rates()) > 1e5
        lab.get("launch").ch1.shutter_open(False)
        assert max(detectors.count_rates()) < 2e3
        lab.get("launch").ch1.shutter_open(True)
        lab.get("laser").emission(False)
        assert max(detectors.count_rates()) < 2e3

    def test_only_the_launch_channel_carries_the_light(self, lab: Lab) -> None:
        lab.light()
        before = lab.bench.ring.monitor_power_w("alice")
        lab.get("launch").ch2.attenuation_db(30.0)
        lab.get("launch").ch3.shutter_open(True)
        assert lab.bench.ring.monitor_power_w("alice") == before > 0

    def test_a_generator_is_armed_while_it_runs_with_its_output_on(self, lab: Lab) -> None:
        bob = lab.generator("bob", np.full(SLOTS, np.pi), half=1)
        twin = lab.bench.twins["awg_bob"]
        assert isinstance(twin, AWG70002ATwin)
        seen = [AwgOutput(twin, 1).armed()]
        bob.arm(0)
        seen += [AwgOutput(twin, 1).armed(), AwgOutput(twin, 2).armed()]
        bob.link.command("AWGControl:STOP")
        seen.append(AwgOutput(twin, 1).armed())
        assert seen == [False, True, False, False]

    def test_states_hold_no_waveforms(self, lab: Lab) -> None:
        lab.generator("bob", np.full(SLOTS, np.pi), half=1)
        text = json.dumps(lab.bench.states(), default=str)
        assert len(text) < 20_000
        assert "array" not in text


@pytest.mark.parametrize(
    ("driven", "direction"), [([0], "cw"), ([2], "ccw"), ([0, 2], None), ([], None), ([1], None)]
)
def test_the_driven_half_tells_the_direction(driven: list[int], direction: str | None) -> None:
    wave = np.zeros((100, 4), np.float32)
    wave[7:, driven] = 0.5
    assert driven_direction([wave.reshape(-1)], 4) == direction


def test_waveforms_of_two_directions_leave_the_switch_alone() -> None:
    first, second = np.zeros(40, np.float32), np.zeros(41, np.float32)
    first[0::2], second[1::2] = 0.5, 0.5
    assert driven_direction([first, second], 2) is None
    assert driven_direction([first, first], 2) == "cw"


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
            if entry["name"] == "voa_dave":
                entry["address"] = "/dev/null"
        with Bench(make_testbed(data)) as bench:
            assert bench.ready_line()["not_simulated"] == ["awg_dave", "voa_dave", "monitor_dave"]
            assert "awg_dave" not in bench.twins

    def test_a_serial_twin_answers_at_the_configured_path(self, tmp_path: Path) -> None:
        data = content()
        path = tmp_path / "laser"
        data["instruments"][0]["address"] = str(path)
        with Bench(make_testbed(data)) as bench:
            assert bench.addresses["laser"] == str(path)
            open_instrument("nkt-basik", "laser", str(path)).close()
        assert not path.is_symlink()

    def test_two_benches_run_side_by_side(self) -> None:
        with Bench(make_testbed(content())) as first, Bench(make_testbed(content())) as second:
            assert not set(first.addresses.values()) & set(second.addresses.values())

    def test_with_one_loopback_address_only_free_ports_serve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on systems that know no 127.a.b.c: the drivers then need the options of the ready line."""
        can_bind = bench_addresses._can_bind
        monkeypatch.setattr(
            bench_addresses, "_can_bind", lambda host, port: host == "127.0.0.1" and can_bind(host, port)
        )
        lab = Lab(make_testbed(content()))
        try:
            assert all("127.0.0.1" in a for a in lab.bench.addresses.values() if not a.startswith("/"))
            assert {name for name, more in lab.bench.options.items() if more} == {"detectors", "tagger"}
            lab.light()
            assert min(lab.get("detectors").count_rates()) > 1e5
            lab.start_tagger()
            d1, _ = lab.record()
            assert d1.size > 0
        finally:
            lab.close()

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
