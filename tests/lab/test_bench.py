"""``with bench.instruments("relay") as station:`` - QCoDeS instruments that are left dark, however one leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qcodes.dataset import Measurement, initialise_or_create_database_at, load_or_create_experiment
from qcodes.station import Station

from drivers import catalogue
from drivers.attenuators.keysight_n7764a import KeysightN7764A
from drivers.catalogue import SafeOrder
from drivers.ending import ENDING
from drivers.guard import Guard, Watched
from lab import bench
from lab.claims import OwnedError
from lab.light_budget import DARK_W
from lab.runs.first_contact.against_twin import alone
from lab.testbed import UnknownNameError
from sim_backends.bench import Bench

pytestmark = pytest.mark.early

if TYPE_CHECKING:
    from tests.lab.conftest import SimulatedLab

ROOT = str(Path(__file__).resolve().parents[2])


def load_frame(awg: Any) -> None:
    awg.configure(200e6, 0.5)
    awg.prepare(2048, 2)
    awg.upload(0, np.zeros(4096, np.float32))


def arm_frame(generator: Any) -> None:
    """One that sends nothing before it is armed."""
    generator.configure(20e6, 0.5)
    generator.prepare(2048, 2)
    generator.upload(0, np.zeros(4096, np.float32))
    generator.arm(0)


ENABLING: dict[str, Callable[[Any], object]] = {
    "nkt-basik": lambda laser: laser.emission(True),
    "toptica-dlc-pro": lambda laser: laser.emission(True),
    "keysight-n7752a": lambda box: box.ch1.let_through(),
    "keysight-n7764a": lambda voa: voa.ch3.let_through(),
    "single-quantum-websq": lambda detectors: detectors.enabled(True),
    "id-quantique-id900": lambda tagger: tagger.start_streams([1]),
    "tektronix-awg70002a": load_frame,
    "keysight-33622a": arm_frame,
    "oz-dd100": lambda voa: voa.attenuation_db(voa.max_attenuation_db() - 1),
    "thorlabs-mbx": lambda mbx: mbx.voa.attenuation_db(3.0),
}


def test_every_driver_says_that_it_enables_something_and_nothing_before() -> None:
    assert ENABLING.keys() == {row.model for row in catalogue.OURS if row.safe_order < SafeOrder.PASSIVE}
    for model, enable in ENABLING.items():
        testbed, entry = alone(model)
        with Bench(testbed, only=(entry.name,)) as made:
            options = {**entry.options, **made.options[entry.name]}
            address = made.addresses[entry.name]
            with catalogue.open_instrument(model, entry.name, address, **options) as instrument:
                instrument.snapshot(update=True)
                assert not ENDING.watches(instrument), model
                enable(instrument)
                assert ENDING.watches(instrument), model
                instrument.safe_state()
                assert not ENDING.watches(instrument), model


def cell(lab: SimulatedLab) -> None:
    """A cell that is stopped while light is on."""
    with bench.load(lab.folder).instruments("relay") as station:
        station.laser.emission(True)
        station.launch.ch1.let_through()
        assert lab.lit
        raise KeyboardInterrupt


def cell_with_neighbours(lab: SimulatedLab) -> None:
    """Another such cell, beside others that want the same instruments and different ones."""
    here = bench.load(lab.folder)
    with here.instruments("relay") as station:
        assert sorted(station.components) == [
            "awg_relay",
            "bias_relay",
            "detectors",
            "laser",
            "launch",
            "tagger",
        ]
        assert Station.default is station
        station.launch.ch1.shutter_open(True)
        station.laser.emission(True)
        assert lab.lit
        with pytest.raises(OwnedError, match="runs as relay"), here.instruments("relay"):
            pass
        assert lab.lit, "whoever is refused touches nothing"
        with here.instruments("alice") as other:
            assert "sensors_alice" in other.components
        assert Station.default is station
        raise KeyboardInterrupt


def test_leaving_by_the_stop_button_leaves_everything_dark_and_free(
    lab: SimulatedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.claims.TAKEOVER_S", 0.1)
    before = Station.default
    with pytest.raises(KeyboardInterrupt):
        cell_with_neighbours(lab)
    assert not lab.lit
    assert Station.default is before
    with bench.load(lab.folder).instruments("relay", "alice") as station:
        assert {"laser", "awg_alice"} <= station.components.keys()
        assert station.snapshot(update=True)["instruments"]["launch"]["parameters"]["IDN"]["value"]["serial"]


def test_a_stop_button_pressed_again_leaves_the_rest_to_the_guard(
    lab: SimulatedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed_again(*jobs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lab.station.make_safe", pressed_again)
    with pytest.raises(KeyboardInterrupt):
        cell(lab)
    assert not lab.lit


def test_an_owner_without_instruments_is_told_who_has_some(lab: SimulatedLab) -> None:
    with (
        pytest.raises(UnknownNameError, match="owners are alice, bob, carol, dave, relay"),
        bench.load(lab.folder / "testbed.toml").instruments("erin"),
    ):
        pass


@contextmanager
def kernel_with(lab: SimulatedLab, owner: str, cells: str) -> Iterator[subprocess.Popen[str]]:
    """A kernel that has the ``station`` of an owner open, has run the cells, and goes on until its input ends."""
    program = f"""
import sys
from contextlib import ExitStack
from lab import bench
open_for_long = ExitStack()
station = open_for_long.enter_context(bench.load(sys.argv[1]).instruments({owner!r}))
{cells}
print("done", flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(lab.folder)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as kernel:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "done\n"
        yield kernel


@pytest.mark.parametrize("end", ["kill", pytest.param("return", marks=pytest.mark.long)])
def test_a_kernel_that_ends_inside_leaves_everything_dark(lab: SimulatedLab, end: str) -> None:
    """Always dark, and within a second: the best of three, for a machine may be busy with something else."""
    took_s = _dark_after(lab, end)
    for _ in range(2):
        if took_s >= 1.0:
            took_s = _dark_after(lab, end)
    assert took_s < 1.0


def _dark_after(lab: SimulatedLab, end: str) -> float:
    """Seconds from the end of a kernel that has light on until all of it is dark."""
    cells = """
station.launch.ch1.shutter_open(True)
station.laser.emission(True)
station.detectors.enabled(True)
"""
    with kernel_with(lab, "relay", cells) as kernel:
        assert kernel.stdin is not None
        assert {"laser", "launch", "detectors"} <= set(lab.bench.unsafe())
        kernel.kill() if end == "kill" else kernel.stdin.close()
        kernel.wait(30)
        begun = time.monotonic()
        while lab.bench.unsafe() and time.monotonic() - begun < 10:
            time.sleep(0.01)
        took_s = time.monotonic() - begun
    assert lab.bench.unsafe() == []
    return took_s


def test_nothing_is_enabled_before_the_guard_could_act(
    lab: SimulatedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that stands still while it loads its drivers."""
    guards: list[Guard] = []
    watch = Guard.watch

    def slowly(self: Guard, watched: Sequence[Watched]) -> None:
        if watched:
            guards.append(self)
            os.kill(self._process.pid, signal.SIGSTOP)
        watch(self, watched)

    monkeypatch.setattr(Guard, "watch", slowly)
    with bench.load(lab.folder).instruments("relay") as station:
        station.launch.ch1.shutter_open(False)
        lighting = threading.Thread(target=station.laser.emission, args=(True,))
        lighting.start()
        lighting.join(0.3)
        assert lighting.is_alive()
        assert not lab.lit
        os.kill(guards[0]._process.pid, signal.SIGCONT)
        lighting.join()
        assert lab.lit
    assert not lab.lit


def test_the_station_of_a_killed_process_steps_aside_once_it_is_dark(lab: SimulatedLab) -> None:
    cells = """
station.switch_alice.crossed(True)
for sensor in (station.sensors_alice.slot1, station.sensors_alice.slot2):
    sensor.zero()
station.switch_alice.crossed(False)
"""
    light = lab.bench.ring

    def crossed() -> object:
        return lab.bench.states()["switch_alice"]["crossed"]

    with kernel_with(lab, "alice", cells) as kernel:
        for part in ("launch", "launch_second"):
            light.set_launch(part, 0.0)
        light.set_laser(2e-3, 1550.12)
        assert light.sensor_power_w("alice", "cw") > DARK_W
        kernel.kill()
        kernel.wait(30)
    begun = time.monotonic()
    while time.monotonic() - begun < 1.0:
        assert not crossed(), "light would go past it to live detectors"
        time.sleep(0.01)
    light.set_laser(0.0, 1550.12)
    while not crossed() and time.monotonic() - begun < 20:
        time.sleep(0.01)
    assert crossed()


def test_every_parameter_goes_into_a_data_set(lab: SimulatedLab, tmp_path: Path) -> None:
    initialise_or_create_database_at(str(tmp_path / "data.db"))
    load_or_create_experiment("all", "parameters")
    with bench.load(lab.folder).instruments("relay", "alice") as station:
        readable = [
            parameter
            for instrument in station.components.values()
            for holder in (instrument, *instrument.submodules.values())
            for parameter in holder.parameters.values()
            if parameter.gettable and parameter.name != "IDN"
        ]
        measurement = Measurement(station=station)
        for parameter in readable:
            measurement.register_parameter(parameter)
        with measurement.run(write_in_background=False) as run:
            for parameter in readable:
                run.add_result((parameter, parameter()))
    stored = run.dataset.get_parameter_data()
    assert {parameter.register_name for parameter in readable} <= {
        name for data in stored.values() for name in data
    }
    snapshot = run.dataset.snapshot
    assert snapshot is not None
    laser = snapshot["station"]["instruments"]["laser"]["parameters"]
    assert laser["IDN"]["value"]["serial"]
    assert laser["power_mw"]["unit"] == "mW"


def test_what_an_instrument_does_when_it_is_brought_up_is_not_taken_for_its_end(lab: SimulatedLab) -> None:
    class Careful(KeysightN7764A):
        def know_state(self) -> None:
            self.safe_state()

    address = next(
        entry.address for entry in bench.load(lab.folder).testbed.instruments if entry.name == "launch"
    )
    with Careful("careful", address) as careful:
        careful.ch1.let_through()  # the first use connects
        assert lab.lit
        assert ENDING.watches(careful)
    assert not lab.lit
