"""What is wrong with a testbed file's values, options and addresses is told before anything is connected.

Every row is one mistake that a person makes: what is written, where it is told, and words of what is told.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import run_qunetlab
from qcodes.instrument import Instrument

from drivers.catalogue import driver_class
from drivers.options import option_types
from lab.checking import checked_testbed
from lab.light_of import pair_light
from lab.runs.testbeds.folder import TEMPLATES, template_path
from lab.testbed import TestbedError, load_testbed, write_testbed

pytestmark = pytest.mark.early


def content() -> dict[str, Any]:
    return tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))


def told(data: dict[str, Any], folder: Path) -> dict[str, str]:
    """What is told of a file, by place."""
    write_testbed(data, folder / "t.toml")
    with pytest.raises(TestbedError) as caught:
        checked_testbed(folder / "t.toml")
    places = [place for place, _ in caught.value.problems]
    assert len(places) == len(set(places)), "one message for each place"
    return dict(caught.value.problems)


def put(data: dict[str, Any], path: str, value: object) -> None:
    """Set ``section.key`` or ``section.key.0.key`` of a file."""
    *way, last = path.split(".")
    target: Any = data
    for step in way:
        target = target[int(step)] if isinstance(target, list) else target.setdefault(step, {})
    target[last] = value


INDEX = {each["name"]: index for index, each in enumerate(content()["instruments"])}


def of(name: str, key: str) -> str:
    return f"instruments.{INDEX[name]}.{key}"


VALUES = [
    # in another unit
    ("detectors.bias_ua", [20e-6, 20e-6], "detectors.bias_ua[0]", "2e-05 uA", "is it in A? then write 20"),
    ("detectors.bias_ua", [20.0, 0.02], "detectors.bias_ua[1]", "0.02 uA", "is it in mA? then write 20"),
    ("detectors.bias_ua", [20000.0, 20.0], "detectors.bias_ua[0]", "is it in nA? then write 20", "-40 to 40 uA"),
    ("detectors.trigger_mv", [0.15, 0.15], "detectors.trigger_mv[1]", "is it in V? then write 150"),
    ("detectors.trigger_mv", [-0.15, 150.0], "detectors.trigger_mv[0]", "is it in V? then write -150"),
    ("detectors.threshold_v", 100.0, "detectors.threshold_v", "is it in mV? then write 0.1", "-2 to 2 V"),
    ("ring.wavelength_nm", 1.55e-6, "ring.wavelength_nm", "is it in m? then write 1550"),
    ("ring.wavelength_nm", 1.55012, "ring.wavelength_nm", "is it in um? then write 1550.12"),
    ("ring.wavelength_nm", 193.4, "ring.wavelength_nm", "is it in THz? then write 1550.116"),
    ("ring.wavelength_nm", 1550120.0, "ring.wavelength_nm", "is it in pm? then write 1550.12"),
    ("ring.laser_power_mw", 0.001, "ring.laser_power_mw", "is it in W? then write 1"),
    ("ring.laser_power_mw", 5000.0, "ring.laser_power_mw", "is it in uW? then write 5", "0 to 200 mW"),
    ("ring.length_km", 6000.0, "ring.length_km", "is it in m? then write 6"),
    ("users.0.position_km", 750.0, "users[0].position_km", "is it in m? then write 0.75"),
    ("ring.fibre_loss_db_per_km", 2e-4, "ring.fibre_loss_db_per_km", "is it in dB/m? then write 0.2"),
    ("protocol.clock_hz", 100.0, "protocol.clock_hz", "is it in MHz? then write 1e+08"),
    ("protocol.clock_hz", 0.1, "protocol.clock_hz", "is it in GHz? then write 1e+08"),
    ("protocol.gate_ns", 1e-9, "protocol.gate_ns", "is it in s? then write 1"),
    ("protocol.gate_ns", 1000.0, "protocol.gate_ns", "is it in ps? then write 1", "slot (10 ns)"),
    ("users.1.awg_amplitude_vpp", 500.0, "users[1].awg_amplitude_vpp", "is it in mVpp? then write 0.5"),
    ("users.1.v_pi_v", 4000.0, "users[1].v_pi_v", "is it in mV? then write 4"),
    ("calibration.visibility", 99.0, "calibration.visibility", "is it in %? then write 0.99"),
    ("calibration.detector_efficiency", 75.0, "calibration.detector_efficiency", "is it in %? then write 0.75"),
    ("simulation.dead_time_ns", 20e-9, "simulation.dead_time_ns", "is it in s? then write 20"),
    # beyond what the driver's parameter takes
    ("detectors.bias_ua", [20.0, 41.0], "detectors.bias_ua[1]", "41 uA is outside -40 to 40 uA", "set by its option max_bias_ua"),
    ("detectors.bias_ua", [2000.0, 20.0], "detectors.bias_ua[0]", "2000 uA", "-40 to 40 uA, the limits of detectors"),
    ("detectors.trigger_mv", [150.0, -1500.0], "detectors.trigger_mv[1]", "-1500 mV is outside -1000 to 1000 mV"),
    ("detectors.trigger_mv", [150e3, 150.0], "detectors.trigger_mv[0]", "150000 mV", "-1000 to 1000 mV"),
    ("detectors.threshold_v", -2.5, "detectors.threshold_v", "-2.5 V is outside -2 to 2 V, the limits of tagger"),
    ("ring.laser_power_mw", 250.0, "ring.laser_power_mw", "250 mW is outside 0 to 200 mW", "set by its option max_power_mw"),
    ("carver.awg_amplitude_vpp", 5.0, "carver.awg_amplitude_vpp", "5 V is outside 0.25 to 0.5 V, the limits of awg_relay"),
    ("carver.attenuation_db", 0.5, "carver.attenuation_db", "0.5 dB is outside 1 to 20 dB, the limits of bias_relay"),
    ("carver.pulse_ns", 400.0, "carver.pulse_ns", "is it in ps? then write 0.4"),
    ("carver.pulse_ns", 0.01, "carver.pulse_ns", "one sample a pulse: 1e+11 Hz is outside", "awg_relay"),
    ("uncertainty.sensor_zero_pw", 5e-14, "uncertainty.sensor_zero_pw", "is it in W? then write 0.05"),
    ("users.2.modulator_delays_ps", [19.2, 11.9], "users[2].modulator_delays_ps[0]", "valid integer ps"),
    ("uncertainty.phase_rad", 20.0, "uncertainty.phase_rad", "is it in mrad? then write 0.02"),
    ("ring.wavelength_nm", 780.0, "ring.wavelength_nm", "780 nm is outside 1260 to 1640 nm, the limits of launch.ch1"),
    ("users.0.awg_amplitude_vpp", 5.0, "users[0].awg_amplitude_vpp", "5 V is outside 0.25 to 0.5 V, the limits of awg_alice"),
    ("protocol.clock_hz", 100e9, "protocol.clock_hz", "2 samples per slot: 2e+11 Hz is outside 1490 to 2.5e+10 Hz", "awg_dave"),
    ("protocol.slots_per_frame", 2**28, "protocol.slots_per_frame", "less than or equal to"),
    ("protocol.samples_per_slot", 32, "protocol.slots_per_frame", "5.369559e+08 samples is outside 2400 to"),
    ("hub.control", "10.0.0.1:47600", "hub.control", "write tcp://HOST:PORT"),
    ("hub.bulk", "tcp://10.0.0.1", "hub.bulk", "write tcp://HOST:PORT"),
    ("users.0.delivery", "tcp://127.0.0.1:70000", "users[0].delivery", "no port"),
    # what cannot be
    ("detectors.channels", [1, 9], "detectors.channels[1]", "no input 9, only 1, 2, 3, 4"),
    ("detectors.channels", [0, 2], "detectors.channels[0]", "no input 0"),
    ("detectors.channels", [1, 1], "detectors.channels[1]", "input 1 is that of the other detector"),
    ("calibration.detector_delays_ps", [-31200, 31650], "calibration.detector_delays_ps[0]", "ps", "-31200"),
    ("calibration.detector_delays_ps", [31200, 31650000], "calibration.detector_delays_ps", "31650000 ps", "apart"),
    ("calibration.detector_delays_ps", [10**12, 10**12], "calibration.detector_delays_ps[0]", "is it in fs?"),
    ("ring.wavelenght_nm", 1550.0, "ring.wavelenght_nm", "check its spelling: is it wavelength_nm?"),
]  # fmt: skip

OPTIONS = [
    ("laser", {"max_powr_mw": 5.0}, "max_powr_mw", "nkt-basik has no such option; is max_power_mw meant?"),
    ("laser", {"max_power_mw": "5"}, "max_power_mw", "'5' is of the wrong type; write a number"),
    ("laser", {"max_power_mw": True}, "max_power_mw", "write a number"),
    ("laser", {"module": 1.5}, "module", "write a whole number"),
    ("laser", {"resends": "many"}, "resends", "write a whole number"),
    ("laser", {"max_power_mw": 0.005}, "max_power_mw", "is it in W? then write 5"),
    ("detectors", {"max_bias_ua": 25e-6}, "max_bias_ua", "is it in A? then write 25"),
    ("detectors", {"max_bias_ua": 25000}, "max_bias_ua", "is it in nA? then write 25"),
    ("detectors", {"counts_port": 123450}, "counts_port", "no port"),
    ("detectors", {"timeout_s": -1.0}, "timeout_s", "write one above zero"),
    ("tagger", {"timeout_s": 2000}, "timeout_s", "is it in ms? then write 2"),
    ("tagger", {"dlt_address": 6060}, "dlt_address", "write text in quotes"),
    ("tagger", {"pause": 1.0}, "pause", "no such option"),
    ("awg_alice", {"chanel": 1}, "chanel", "is channel meant?"),
    ("awg_alice", {"channel": 3}, "channel", "write 1 or 2"),
    ("sensors_alice", {"averaging_s": 10000.0}, "averaging_s", "is it in us? then write 0.01"),
]  # fmt: skip

ADDRESSES = [
    ("awg_alice", "10.0.0.4", "write TCPIP::10.0.0.4::4000::SOCKET or TCPIP::10.0.0.4::INSTR"),
    ("awg_alice", "TCPIP::10.0.0.4::4000", "write TCPIP::10.0.0.4::4000::SOCKET"),
    ("awg_alice", "TCPIP::10.0.0.4", "its end is missing"),
    ("awg_alice", "TCPIP::10.0.0.4::4000::INSTR", "write TCPIP::10.0.0.4::4000::SOCKET"),
    ("awg_alice", "TCPIP::10.0.0.4::400000::SOCKET", "no port"),
    ("awg_alice", "TCPIP::10.0.0.400::INSTR", "no IPv4 address"),
    ("awg_alice", "TCPIP::10.0.0.4 ::INSTR", "holds a space"),
    ("awg_alice", "/dev/ttyUSB0", "write ASRL/dev/ttyUSB0::INSTR"),
    ("sensors_alice", "USB0::0x1313::0x8078::P0000001", "write USB::0x1313::0x8078::P0000001::INSTR"),
    ("sensors_alice", "USB0::1313::INSTR", "write USB::VENDOR::MODEL::SERIAL::INSTR"),
    ("sensors_alice", "GPIB0::five::INSTR", "a GPIB address is a number"),
    ("detectors", "TCPIP::10.0.0.5::12000::SOCKET", "write 10.0.0.5"),
    ("detectors", "tcp://10.0.0.5:12000", "write 10.0.0.5:12000"),
    ("detectors", "10.0.0.5:", "no port"),
    ("tagger", "10.0.0.5:0", "no port"),
    ("tagger", "10.0.0.5 ", "holds a space"),
    ("laser", "10.0.0.4", "write the path of the port, such as /dev/ttyUSB0"),
    ("laser", "ttyUSB0", "write the path of the port"),
    ("laser", "ASRL/dev/ttyUSB0::INSTR", "write the port alone: /dev/ttyUSB0"),
]  # fmt: skip

TWICE = [
    ("awg_alice", "TCPIP::10.0.0.4::4000::SOCKET", "awg_bob", "TCPIP0::10.0.0.4::4000::SOCKET"),
    ("awg_alice", "TCPIP::AWG.lab::INSTR", "awg_bob", "tcpip0::awg.lab.::inst0::instr"),
    ("awg_alice", "TCPIP::10.0.0.4::4000::SOCKET", "awg_bob", "TCPIP::10.0.0.4::hislip0::INSTR"),
    ("detectors", "10.0.0.5:5555", "tagger", "10.0.0.5"),
    ("launch", "USB0::0x1313::0x8078::P1::INSTR", "sensors_alice", "USB::4883::32888::P1::0::INSTR"),
    ("launch", "GPIB::5::INSTR", "sensors_alice", "GPIB0::05::INSTR"),
    ("laser", "COM3", "voa_alice", "com3"),
    ("laser", "/dev/ttyUSB0", "voa_alice", "/dev/../dev/ttyUSB0"),
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_bundled_testbeds_pass_and_leave_no_driver_behind(template: str) -> None:
    before = set(Instrument._all_instruments)
    more = 7 if template == "simulated-full-bench" else 0
    assert len(checked_testbed(template_path(template)).instruments) == 6 + 4 * 4 + more
    assert set(Instrument._all_instruments) == before


def test_what_a_slower_generator_with_less_memory_cannot_play_is_told_with_its_figures(
    tmp_path: Path,
) -> None:
    data = content()
    put(data, of("awg_carol", "model"), "keysight-33622a")
    found = told(data, tmp_path)
    assert "2e+08 Hz is outside 1 to 5e+07 Hz, the limits of awg_carol" in found["protocol.clock_hz"]
    lead = int(max(ps for each in data["users"] for ps in each["modulator_delays_ps"]) * 2e-4)
    assert f"{2**23 + lead} samples is outside 32 to 799936 samples" in found["protocol.slots_per_frame"]
    assert f"of which {lead} samples wait for the light" in found["protocol.slots_per_frame"]


@pytest.mark.parametrize(
    ("clock_hz", "slots", "memory_msa", "why"),
    [
        (25e6, 2**18, 4, ""),
        (25e6, 2**19, 4, "outside 32 to 799936 samples"),
        (25e6, 2**22, 64, ""),
        (25e6, 2**23, 64, "outside 32 to 1.279994e+07 samples"),
        (26e6, 2**18, 4, "outside 1 to 5e+07 Hz"),
    ],
)
def test_the_slots_of_a_frame_depend_on_the_memory_that_the_file_names(
    tmp_path: Path, clock_hz: float, slots: int, memory_msa: int, why: str
) -> None:
    data = content()
    put(data, of("awg_carol", "model"), "keysight-33622a")
    put(data, of("awg_carol", "options"), {"memory_msa": memory_msa})
    put(data, "protocol.clock_hz", clock_hz)
    put(data, "protocol.slots_per_frame", slots)
    texts = "; ".join(told_or_nothing(data, tmp_path).values())
    assert (why in texts) if why else "awg_carol" not in texts


def told_or_nothing(data: dict[str, Any], folder: Path) -> dict[str, str]:
    """What is told of a file, if anything, by place."""
    try:
        return told(data, folder)
    except pytest.fail.Exception:
        return {}


@pytest.mark.parametrize(
    ("model", "options", "least"),
    [
        ("keysight-n7752a", {}, "a keysight-n7752a tells from none is 10 pW"),
        ("thorlabs-pm100d", {}, "a thorlabs-pm100d tells from none is an unknown power (option floor_w)"),
        ("thorlabs-pm100d", {"floor_w": 1e-10}, "is 100 pW"),
        ("thorlabs-pm100d", {"floor_w": 1e-13}, ""),
    ],
)
@pytest.mark.parametrize("monitoring", ["monitored", "calibrated"])
def test_sensors_with_which_a_station_could_not_step_aside_are_refused(
    tmp_path: Path, model: str, options: dict[str, object], least: str, monitoring: str
) -> None:
    data = content()
    put(data, "protocol.monitoring", monitoring)
    both = [each for each in data["instruments"] if each["name"] != "sensors_bob"]
    channels = ("ch5", "ch6") if model == "keysight-n7752a" else ("", "")
    names = ("box", "box") if model == "keysight-n7752a" else ("meter_cw", "meter_ccw")
    for name in dict.fromkeys(names):
        needs = zip(("sensor_cw", "sensor_ccw"), names, channels, strict=True)
        serves = {need: channel for need, of_name, channel in needs if of_name == name}
        both.append({"name": name, "model": model, "owner": "bob", "serves": serves, "options": options})
    if model == "keysight-n7752a":
        both[-1]["serves"]["attenuator"] = "ch3"
        both = [each for each in both if each["name"] != "voa_bob"]
    data["instruments"] = both
    found = {
        place: why
        for place, why in told_or_nothing(data, tmp_path).items()
        if "step" in why or "leave" in why
    }
    if not least:
        assert found == {}
        return
    last = len(both) - 1
    assert set(found) == {f"instruments[{last - at}]" for at in range(len(set(names)))}
    for why in found.values():
        assert least in why
        assert "could not know when to leave the ring" in why
        assert "take sensors that see less, such as a Keysight 8163B with 81634B heads" in why


def test_a_generator_too_slow_for_pulses_is_no_carver(tmp_path: Path) -> None:
    data = content()
    put(data, of("awg_relay", "model"), "keysight-33622a")
    assert "needs one pulse-carver" in "; ".join(told(data, tmp_path).values())


@pytest.mark.parametrize(("path", "value", "place", "words"), [(*row[:3], row[3:]) for row in VALUES])
def test_a_value_is_told_with_place_unit_and_what_to_write(
    tmp_path: Path, path: str, value: object, place: str, words: tuple[str, ...]
) -> None:
    data = content()
    data["protocol"]["slots_per_frame"] = 2**24
    put(data, path, value)
    found = told(data, tmp_path)
    assert place in found
    for each in words:
        assert each in found[place]


@pytest.mark.parametrize(("name", "options", "option", "words"), OPTIONS)
def test_an_option_is_told_with_its_place(
    tmp_path: Path, name: str, options: dict[str, object], option: str, words: str
) -> None:
    data = content()
    put(data, of(name, "options"), options)
    assert words in told(data, tmp_path)[f"instruments[{INDEX[name]}].options.{option}"]


@pytest.mark.parametrize(("name", "address", "words"), ADDRESSES)
def test_an_address_that_the_model_cannot_have_is_told(
    tmp_path: Path, name: str, address: str, words: str
) -> None:
    data = content()
    put(data, of(name, "address"), address)
    assert words in told(data, tmp_path)[f"instruments[{INDEX[name]}].address"]


@pytest.mark.parametrize(("first", "address", "second", "other"), TWICE)
def test_two_entries_for_one_instrument_are_told_whatever_the_spelling(
    tmp_path: Path, first: str, address: str, second: str, other: str
) -> None:
    data = content()
    put(data, of(first, "address"), address)
    put(data, of(second, "address"), other)
    found = told(data, tmp_path)[f"instruments[{INDEX[second]}].address"]
    assert f"already belongs to {first!r}" in found
    assert address in found


def test_hub_and_learning_server_listen_at_ports_of_their_own(tmp_path: Path) -> None:
    data = content()
    data["hub"] = {"control": "tcp://10.0.0.1:47600", "bulk": "tcp://10.0.0.1:47600"}
    assert "is hub.control already" in told(data, tmp_path)["hub.bulk"]


def test_a_link_to_a_serial_port_is_the_port(tmp_path: Path) -> None:
    port, by_id = tmp_path / "ttyUSB0", tmp_path / "usb-FTDI-if00-port0"
    port.touch()
    by_id.symlink_to(port)
    data = content()
    put(data, of("laser", "address"), str(port))
    put(data, of("voa_alice", "address"), str(by_id))
    assert "already belongs to 'laser'" in told(data, tmp_path)[f"instruments[{INDEX['voa_alice']}].address"]


def test_two_of_a_model_with_one_serial_number_are_told(tmp_path: Path) -> None:
    data = content()
    put(data, of("awg_alice", "serial_number"), "B020123")
    put(data, of("voa_alice", "serial_number"), "B020123")
    put(data, of("awg_bob", "serial_number"), "B020123")
    found = told(data, tmp_path)
    place = f"instruments[{INDEX['awg_bob']}].serial_number"
    assert list(found) == [place]
    assert "already belongs to 'awg_alice'" in found[place]


def test_a_serial_number_of_a_model_that_tells_none_is_refused(tmp_path: Path) -> None:
    data = content()
    put(data, of("detectors", "serial_number"), "WSQ-0042")
    found = told(data, tmp_path)
    place = f"instruments[{INDEX['detectors']}].serial_number"
    assert list(found) == [place]
    assert "tells no serial number" in found[place]
    assert "leave it out" in found[place]


def test_different_instruments_at_one_host_are_no_mistake(tmp_path: Path) -> None:
    data = content()
    for name, address in (
        ("launch", "TCPIP::10.0.0.4::5025::SOCKET"),
        ("awg_alice", "TCPIP::10.0.0.4::4000::SOCKET"),
        ("sensors_alice", "TCPIP::10.0.0.4::gpib0,5::INSTR"),
        ("detectors", "10.0.0.4"),
        ("tagger", "10.0.0.4:5555"),
        ("laser", "/dev/serial/by-id/usb-NKT"),
        ("voa_alice", "COM7"),
    ):
        put(data, of(name, "address"), address)
    write_testbed(data, tmp_path / "t.toml")
    checked_testbed(tmp_path / "t.toml")


def test_the_options_of_a_set_up_narrow_what_the_file_may_say(tmp_path: Path) -> None:
    data = content()
    put(data, of("detectors", "options"), {"max_bias_ua": 15.0})
    assert "20 uA is outside -15 to 15 uA" in told(data, tmp_path)["detectors.bias_ua[1]"]


def test_all_mistakes_are_told_together_though_fields_are_not_well_formed(tmp_path: Path) -> None:
    data = content()
    put(data, "ring.length_km", "six")
    put(data, "detectors.bias_ua", [20e-6, 20.0])
    put(data, of("laser", "options"), {"max_powr_mw": 5.0})
    put(data, of("awg_bob", "address"), "10.0.0.4")
    assert set(told(data, tmp_path)) == {
        "ring.length_km",
        "detectors.bias_ua[0]",
        "instruments[0].options.max_powr_mw",
        f"instruments[{INDEX['awg_bob']}].address",
    }


def test_light_counted_by_its_average_power_is_refused_with_its_figure(tmp_path: Path) -> None:
    data = content()
    put(data, "protocol.light", "counted")
    said = told(data, tmp_path)["protocol.light"]
    rho_a, rho_b = pair_light(load_testbed(tmp_path / "t.toml"), "alice", "bob").other_light
    assert f"({rho_a:.1f} and {rho_b:.1f} times brighter than the own light of alice and bob)" in said
    assert min(rho_a, rho_b) > 6
    assert "leaves no key for any pair" in said


def test_light_is_gated_only_where_every_user_has_a_counter(tmp_path: Path) -> None:
    data = content()
    put(data, "protocol.light", "gated")
    said = told(data, tmp_path)["protocol.light"]
    assert "there is no time-tagger of alice, bob, carol, dave; write assumed" in said
    names = [f"counter_{user['name']}" for user in data["users"]]
    for name in names:
        owner = name.removeprefix("counter_")
        data["instruments"].append({"name": name, "model": "id-quantique-id900", "owner": owner})
    for line in ("trigger_sinks", "reference"):
        data["cabling"][line] += names
    write_testbed(data, tmp_path / "t.toml")
    assert checked_testbed(tmp_path / "t.toml").protocol.light == "gated"


@pytest.mark.parametrize(
    ("tagger", "generator", "told_of_bob"),
    [
        ({}, {}, ""),
        (
            {"trigger_standard": "NIM"},
            {},
            "edge upward through 1.4 V; ",
        ),
        ({"trigger_standard": "NIM"}, {"trigger_level_v": -0.4}, "edge upward through -0.4 V"),
        ({"trigger_standard": "NIM"}, {"trigger_level_v": -0.4, "trigger_slope": "NEGative"}, ""),
        ({}, {"trigger_level_v": 3.0}, "edge upward through 3 V; "),
        ({}, {"trigger_slope": "NEGative"}, "edge downward through 1.4 V"),
    ],
)
def test_every_trigger_input_sees_the_edge_of_its_source(
    tmp_path: Path, tagger: dict[str, object], generator: dict[str, object], told_of_bob: str
) -> None:
    data = content()
    put(data, of("tagger", "options"), tagger)
    for name in (each for each in INDEX if each.startswith("awg_")):
        put(data, of(name, "options"), generator)
    if not told_of_bob:
        write_testbed(data, tmp_path / "t.toml")
        checked_testbed(tmp_path / "t.toml")
        return
    said = told(data, tmp_path)["cabling.trigger_sinks"]
    assert f"awg_bob waits for an {told_of_bob}" in said
    assert "awg_relay waits" in said
    assert f"the edge of tagger goes from 0 to {-0.8 if tagger else 2:g} V" in said


def test_options_are_what_a_file_can_say() -> None:
    found = option_types(driver_class("id-quantique-id900"))
    assert {"dlt_address", "stream_port", "timeout_s"} <= set(found)
    assert not {"name", "address", "pause", "clock", "metadata"} & set(found)


@pytest.mark.parametrize("command", [["relay"], ["node", "alice"]])
def test_a_role_refuses_such_a_file_before_it_opens_anything(
    qunetlab: Any, tmp_path: Path, command: list[str]
) -> None:
    assert qunetlab("init", str(tmp_path / "bench")).returncode == 0
    path = tmp_path / "bench" / "testbed.toml"
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    put(data, of("laser", "options"), {"max_powr_mw": 5.0})
    put(data, of("voa_alice", "options"), {"tolerence_db": 0.1})
    write_testbed(data, path)
    ended = run_qunetlab(*command, str(path.parent))
    assert ended.returncode == 2, ended.stderr
    option = "max_powr_mw" if command == ["relay"] else "tolerence_db"
    assert f"options.{option}: " in ended.stderr
    assert "1 mistake in" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [["check"], ["keygen", "alice", "bob", "--testbed"]])
def test_what_starts_a_whole_testbed_refuses_such_a_file(
    qunetlab: Any, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = content()
    put(data, of("laser", "options"), {"max_powr_mw": 5.0})
    write_testbed(data, tmp_path / "t.toml")
    ended = qunetlab(*command, str(tmp_path / "t.toml"))
    assert ended.returncode == 2, ended.stderr
    assert "instruments[0].options.max_powr_mw" in ended.stderr
