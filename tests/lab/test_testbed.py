"""The testbed file: what is accepted, and that every mistake is reported at once with its place."""

from __future__ import annotations

import copy
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.light_of import pair_light
from lab.runs.testbeds.folder import TEMPLATES, template_path
from lab.testbed import Testbed, TestbedError, load_testbed, parse_testbed, resolve_addresses, write_testbed

PATH = Path("testbed.toml")


def content(name: str = "simulated-four-node") -> dict[str, Any]:
    return tomllib.loads(template_path(name).read_text(encoding="utf-8"))


def as_ordered(name: str) -> Testbed:
    """A bundled testbed whose calibrated losses are those of its order."""
    data = content(name)
    order = data["simulation"]
    data["ring"] |= {key: order[key] for key in ("length_km", "relay_loss_db")} | {
        "fibre_loss_db_per_km": 0.2
    }
    data["calibration"]["detector_efficiency"] = order["detector_efficiency"]
    for user, station in zip(data["users"], order["stations"], strict=True):
        user["position_km"] = station["position_km"]
    return parse_testbed(data, PATH)


def mistakes(data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(TestbedError) as caught:
        parse_testbed(data, PATH)
    return dict(caught.value.problems)


@pytest.mark.parametrize(("name", "loss_db"), [("simulated-four-node", 10.0), ("simulated-reference", 18.6)])
def test_bundled_testbeds_have_the_loss_they_claim(name: str, loss_db: float) -> None:
    def totals(testbed: Testbed) -> list[float]:
        return [sum(pair_light(testbed, *pair).arms_db) for pair in testbed.pairs()]

    ordered, calibrated = totals(as_ordered(name)), totals(load_testbed(template_path(name)))
    assert len(ordered) == 6
    assert math.isclose(sum(ordered) / 6, loss_db, abs_tol=0.06)
    assert calibrated == pytest.approx(ordered, abs=0.4), (
        "parts differ from what was ordered, by so much at most"
    )
    assert calibrated != ordered
    assert set(TEMPLATES) == {"simulated-four-node", "simulated-reference", "simulated-full-bench"}


def test_each_arm_is_the_way_from_the_user_to_a_click() -> None:
    testbed = as_ordered("simulated-four-node")
    loss_a_db, loss_b_db = pair_light(testbed, "alice", "bob").arms_db
    detector_db = -10 * math.log10(0.75)
    assert loss_a_db == pytest.approx(3.0 + detector_db + 0.75 * 0.2)
    assert loss_b_db == pytest.approx(3.0 + detector_db + (6.0 - 2.25) * 0.2 + 2 * 0.6)
    with pytest.raises(ValueError, match="ring order"):
        pair_light(testbed, "bob", "alice")


@pytest.mark.parametrize("section", ["users", "instruments", "protocol", "ring"])
def test_a_section_that_is_no_section_is_a_mistake_with_its_place(section: str) -> None:
    assert section in mistakes(content() | {section: 5})


def test_the_longest_user_name_leaves_room_for_the_roles_made_of_it() -> None:
    text = template_path("simulated-four-node").read_text(encoding="utf-8")
    longest = "a" * 31
    data = tomllib.loads(text.replace('"alice"', f'"{longest}"'))
    data["keys"] = dict.fromkeys(parse_testbed(data, PATH).roles(), "k" * 40)
    assert parse_testbed(data, PATH).public_key(f"fl-{longest}") == "k" * 40
    assert "users[0].name" in mistakes(tomllib.loads(text.replace('"alice"', f'"{longest}a"')))


def test_every_mistake_is_reported_at_once_with_its_place() -> None:
    data = content()
    data["protocol"]["clock_hz"] = "fast"
    data["protocol"]["eps_sec"] = 2.0
    data["users"][1]["positon_km"] = data["users"][1].pop("position_km")
    data["ring"]["length_km"] = -6.0
    data["instruments"][0]["model"] = "laser-pointer"
    data["instruments"][4]["name"] = data["instruments"][5]["name"]
    found = mistakes(data)
    assert {
        "protocol.clock_hz",
        "protocol.eps_sec",
        "users[1].position_km",
        "users[1].positon_km",
        "ring.length_km",
        "instruments[0].model",
        "instruments",
    } <= set(found)
    assert found["users[1].position_km"] == "missing"
    assert "spelling" in found["users[1].positon_km"]


@pytest.mark.parametrize(
    ("section", "key", "value", "place"),
    [
        ("protocol", "slots_per_frame", 3000, "protocol.slots_per_frame"),
        ("protocol", "samples_per_slot", 3, "protocol.samples_per_slot"),
        ("protocol", "gate_ns", 11.0, "protocol.gate_ns"),
    ],
)
def test_sections_must_fit_each_other(section: str, key: str, value: object, place: str) -> None:
    data = content()
    data[section][key] = value
    assert place in mistakes(data)


def test_users_stand_in_ring_order_and_can_reach_a_phase_of_pi() -> None:
    data = content()
    data["users"][2]["position_km"] = 2.0
    data["users"][3]["rf_gain"] = 1.0
    found = mistakes(data)
    assert "users[2].position_km" in found
    assert "pi" in found["users[3].awg_amplitude_vpp"]


CABLED = ["tagger", "awg_relay", "awg_alice", "awg_bob", "awg_carol", "awg_dave"]


@pytest.mark.parametrize(
    ("line", "cabled", "told"),
    [
        ("trigger_source", "nobody", "names 'nobody', which is no instrument"),
        ("trigger_source", "awg_bob", "names awg_bob, a tektronix-awg70002a: no time-tagger"),
        ("trigger_sinks", [*CABLED, "laser"], "names laser, a nkt-basik: no phase-modulator or pulse-carver"),
        ("trigger_sinks", [*CABLED, "tagger"], "names 'tagger' 2 times"),
        ("trigger_sinks", CABLED[1:], "lacks tagger, which would not know when a frame begins"),
        ("trigger_sinks", [*CABLED[:1], *CABLED[2:]], "lacks awg_relay"),
        ("trigger_sinks", CABLED[:-1], "lacks awg_dave"),
        ("reference", CABLED[:-1], "lacks awg_dave: a clock of its own"),
        ("reference", CABLED[1:], "lacks tagger"),
        ("reference", [*CABLED, "spectrometer"], "names 'spectrometer'"),
        ("reference", [*CABLED, "voa_bob"], "names voa_bob, a oz-dd100"),
    ],
)
def test_lines_lead_from_the_tagger_to_everything_that_plays_or_counts_in_time(
    line: str, cabled: object, told: str
) -> None:
    data = content()
    data["cabling"][line] = cabled
    assert told in mistakes(data)[f"cabling.{line}"]


@pytest.mark.parametrize(("apart_ps", "fits"), [(2_990, False), (3_000, True), (7_000, True), (7_010, False)])
def test_the_two_directions_pass_a_station_3_to_7_ns_apart(apart_ps: int, fits: bool) -> None:
    data = content()
    data["users"][2]["modulator_delays_ps"] = [1_000_000, 8_000_000 + apart_ps]
    if fits:
        parse_testbed(data, PATH)
        return
    told = mistakes(data)["users[2].modulator_delays_ps"]
    assert f"pass {apart_ps / 1e3:.2f} ns apart in a slot of 10 ns, and 3 to 7 ns are needed" in told


def test_each_owner_has_its_instruments_once_and_addresses_are_not_shared() -> None:
    data = content()
    data["instruments"][1]["address"] = data["instruments"][0]["address"] = "TCPIP::127.1.1.1::5025::SOCKET"
    modulator = data["instruments"].index(entry(data, "awg_alice"))
    data["instruments"][modulator]["owner"] = "mallory"
    found = mistakes(data)
    assert "already belongs to 'laser'" in found["instruments[1].address"]
    assert "mallory" in found[f"instruments[{modulator}].owner"]
    assert "alice needs one phase-modulator as its modulator; none of its instruments" in found["instruments"]


def test_an_unknown_version_is_named() -> None:
    assert "version 9" in mistakes({**content(), "schema_version": 9})["schema_version"]


def test_broken_toml_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "testbed.toml"
    path.write_text('name = "x"\nschema_version = = 1\n')
    with pytest.raises(TestbedError, match="line 2"):
        load_testbed(path)


def test_resolving_addresses_changes_nothing_else(tmp_path: Path) -> None:
    data = content()
    resolved = resolve_addresses(data, {"laser": "/dev/pts/7"})
    write_testbed(resolved, tmp_path / "t.toml")
    before, after = parse_testbed(data, PATH), load_testbed(tmp_path / "t.toml")
    assert after.instruments[0].address == "/dev/pts/7"
    assert after.model_copy(update={"instruments": before.instruments}) == before


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_broken_value_gives_a_testbed_error_and_nothing_else(data: st.DataObject) -> None:
    broken = copy.deepcopy(content())
    section = data.draw(st.sampled_from(["protocol", "ring", "calibration", "detectors", "users"]))
    target = broken["users"][0] if section == "users" else broken[section]
    target[data.draw(st.sampled_from(sorted(set(target) - {"threshold_v", "loop_phase_rad"})))] = data.draw(
        st.just([]) | st.just({}) | st.floats(max_value=-1, allow_nan=False) | st.just(math.nan)
    )
    assert mistakes(broken)


def entry(data: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in data["instruments"] if each["name"] == name)
    return found


def spare_laser(data: dict[str, Any]) -> dict[str, Any]:
    """A second laser at the relay."""
    data["instruments"].append({**entry(data, "laser"), "name": "spare"})
    return data


def test_of_several_instruments_of_one_kind_the_file_says_which_serves() -> None:
    data = spare_laser(content())
    found = mistakes(data)["instruments"]
    assert (
        found
        == "relay needs one laser as its laser, found laser, spare; say which: serves = { laser = CHANNEL } there"
    )
    entry(data, "spare")["serves"] = {"laser": ""}
    assert str(parse_testbed(data, PATH).servers("relay")["laser"]) == "spare"
    entry(data, "laser")["serves"] = {"laser": ""}
    assert "found laser, spare; each says that it serves" in mistakes(data)["instruments"]


def test_of_several_channels_of_one_kind_the_file_says_which_serves() -> None:
    data = content()
    entry(data, "launch")["serves"] = {"launch": "ch3", "launch_second": "ch2"}
    assert str(parse_testbed(data, PATH).servers("relay")["launch"]) == "launch.ch3"
    del entry(data, "launch")["serves"]
    found = "found launch.ch1, launch.ch2, launch.ch3, launch.ch4, bias_relay.voa; say which"
    assert found in mistakes(data)["instruments"]


def test_one_channel_takes_one_place() -> None:
    data = content()
    entry(data, "launch")["serves"] = {"launch": "ch1", "launch_second": "ch1"}
    assert "launch.ch1 cannot serve as launch and launch_second" in mistakes(data)["instruments[1].serves"]
    entry(data, "launch")["serves"] = {"launch": "ch1", "launch_second": "ch2"}
    entry(data, "sensors_bob")["serves"] = {"sensor_cw": "slot2", "sensor_ccw": "slot2"}
    place = data["instruments"].index(entry(data, "sensors_bob"))
    assert "sensor_cw and sensor_ccw" in mistakes(data)[f"instruments[{place}].serves"]


@pytest.mark.parametrize(
    ("serves", "says"),
    [
        (
            {"laser": ""},
            "launch is to serve relay as its laser, which takes a laser; model keysight-n7764a offers",
        ),
        ({"launch": "ch9"}, "keysight-n7764a offers attenuator on 'ch1', 'ch2', 'ch3', 'ch4', not on 'ch9'"),
        ({"lasr": ""}, "relay has no need of a 'lasr'; its needs are laser, launch, launch_second"),
    ],
)
def test_a_wrong_word_about_who_serves_is_told_where_it_stands(serves: dict[str, str], says: str) -> None:
    data = content()
    entry(data, "launch")["serves"] = serves
    assert says in mistakes(data)["instruments[1].serves"]


def test_a_model_without_the_kind_that_its_role_needs_is_named_with_model_role_and_kind() -> None:
    data = content()
    entry(data, "laser")["model"] = "thorlabs-pm100d"
    found = mistakes(data)["instruments"]
    assert "relay needs one laser as its laser; none of its instruments offers that kind" in found
    assert "laser (thorlabs-pm100d: power-sensor), launch (keysight-n7764a: attenuator)" in found


def test_a_role_does_without_a_polarisation_controller_and_takes_one() -> None:
    data = content()
    assert "polarization" not in parse_testbed(data, PATH).servers("alice")
    assert "polarization" not in parse_testbed(data, PATH).servers("relay")
    data["instruments"].append({"name": "epc_alice", "model": "oz-epc-400", "owner": "alice"})
    assert str(parse_testbed(data, PATH).servers("alice")["polarization"]) == "epc_alice"
    data["instruments"].append({"name": "mpc_alice", "model": "thorlabs-mpc320", "owner": "alice"})
    assert (
        "alice needs one polarization-controller as its polarization, found epc_alice, mpc_alice; say which"
        in mistakes(data)["instruments"]
    )
    entry(data, "mpc_alice")["serves"] = {"polarization": ""}
    assert str(parse_testbed(data, PATH).servers("alice")["polarization"]) == "mpc_alice"
    entry(data, "laser")["serves"] = {"polarization": ""}
    found = mistakes(data)
    assert "which takes a polarization-controller; model nkt-basik offers laser only" in next(
        iter(found.values())
    )


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_file_of_a_ring_without_clocks_and_delays_is_refused_with_what_to_do(version: int) -> None:
    found = mistakes({**content(), "schema_version": version})
    assert (
        f"version {version} describes a ring without carver, switches, clocks and delays"
        in found["schema_version"]
    )
    assert "make a file with `qunetlab init`" in found["schema_version"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'name = "caf\xe9"\n', "not UTF-8 at byte 11"),
        (
            b"[ring]\nlength_km = 1" + b"0" * 400 + b"\n",
            "ring.length_km: a whole number of TOML has at most 64 bits",
        ),
    ],
)
def test_a_file_that_is_no_text_or_no_toml_is_told_with_its_place(
    tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "t.toml").write_bytes(content)
    with pytest.raises(TestbedError, match=re.escape(told)):
        load_testbed(tmp_path / "t.toml")


def test_a_mark_of_byte_order_before_the_text_does_no_harm(tmp_path: Path) -> None:
    text = template_path("simulated-four-node").read_bytes()
    (tmp_path / "t.toml").write_bytes(b"\xef\xbb\xbf" + text)
    assert load_testbed(tmp_path / "t.toml").name == "simulated-four-node"
