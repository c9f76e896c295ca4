"""``qunetlab instruments``: what was reached, what it reads, and which reading is missing."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lab import bench
from lab.claims import OwnedError, claiming
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, write_testbed
from sim_backends.attenuators.oz_dd100 import OzDD100Twin
from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin
from sim_backends.switches.thorlabs_osw22 import ThorlabsOSW22Twin

pytestmark = pytest.mark.early

OVER_RANGE_W = 1.0


@pytest.fixture
def meter() -> PM100DTwin:
    """The twin of alice's power monitor."""
    return PM100DTwin(read_power_w=lambda: OVER_RANGE_W)


@pytest.fixture
def alice(tmp_path: Path, meter: PM100DTwin) -> Iterator[Path]:
    """A testbed file whose power monitor is over range and whose attenuator was not homed; alice's AWG is away."""
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in data["instruments"]}
    for name, need in (("monitor_alice", "sensor_cw"), ("monitor_ccw_alice", "sensor_ccw")):
        entries[name] = {"name": name, "model": "thorlabs-pm100d", "owner": "alice", "serves": {need: ""}}
    del entries["sensors_alice"]
    data["instruments"] = list(entries.values())
    with (
        closing(meter),
        closing(PM100DTwin(read_power_w=lambda: OVER_RANGE_W)) as other,
        closing(OzDD100Twin(homed=False)) as attenuator,
        closing(ThorlabsOSW22Twin()) as switch,
    ):
        entries["switch_alice"]["address"] = switch.serve()
        entries["monitor_ccw_alice"]["address"] = other.serve("127.0.0.3", 0)
        entries["monitor_alice"]["address"] = meter.serve("127.0.0.1", 0)
        entries["voa_alice"]["address"] = attenuator.serve()
        entries["awg_alice"]["address"] = str(entries["monitor_alice"]["address"]).replace(
            "127.0.0.1", "127.0.0.2"
        )
        write_testbed(data, tmp_path / "t.toml")
        yield tmp_path / "t.toml"


def test_a_missing_reading_is_one_row_of_an_instrument_that_was_reached(qunetlab: Any, alice: Path) -> None:
    listed = qunetlab("instruments", str(alice), "--owner", "alice", "--json")
    assert listed.returncode == 3, "the generator is away"
    rows = {row["name"]: row for row in json.loads(listed.stdout)["instruments"]}
    awg, voa, monitor = rows["awg_alice"], rows["voa_alice"], rows["monitor_alice"]
    assert not awg["ok"]
    assert voa["ok"]
    assert monitor["ok"]
    power = monitor["parameters"]["power_w"]
    assert power["value"] is None
    assert "over range" in power["missing"]
    assert "monitor_alice" not in power["missing"]
    assert monitor["parameters"]["averaging"]["value"] == 1
    assert voa["parameters"]["attenuation_db"]["value"] is None
    assert voa["parameters"]["max_attenuation_db"]["value"] == 60.0


def test_booleans_are_on_or_off_and_numbers_have_their_digits(qunetlab: Any, alice: Path) -> None:
    listed = qunetlab("instruments", "list", str(alice), "--owner", "alice")
    assert listed.returncode == 3
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in listed.stdout.splitlines()}
    assert lines["auto_range"] == "on"
    assert lines["max_attenuation_db"] == "60.00 dB"
    assert lines["wavelength_nm"].startswith("1550.000 nm [")
    assert lines["power_w"].startswith("- W ")
    assert "over range" in lines["power_w"]
    assert lines["NOT"].startswith("REACHED: LinkBrokenError: awg_alice at TCPIP::127.0.0.2")


def test_an_instrument_of_another_serial_number_is_not_the_one_meant(qunetlab: Any, alice: Path) -> None:
    data = tomllib.loads(alice.read_text(encoding="utf-8"))
    for entry in data["instruments"]:
        if entry["name"] in ("voa_alice", "monitor_alice"):
            entry["serial_number"] = "P0000007"
    write_testbed(data, alice)
    listed = qunetlab("instruments", str(alice), "--owner", "alice", "--json")
    assert listed.returncode == 3
    rows = {row["name"]: row for row in json.loads(listed.stdout)["instruments"]}
    for row in (rows["voa_alice"], rows["monitor_alice"]):
        assert "the testbed file says P0000007: two instruments may be swapped" in row["error"]


def elsewhere(alice: Path, folder: Path) -> Path:
    """The same bench as somebody else has it: another folder, other spellings of the addresses."""
    data = tomllib.loads(alice.read_text(encoding="utf-8"))
    (folder / "adapter").symlink_to(
        next(e["address"] for e in data["instruments"] if e["name"] == "voa_alice")
    )
    for entry in data["instruments"]:
        address = str(entry.get("address", "auto"))
        lasting = entry["name"] == "voa_alice"
        entry["address"] = str(folder / "adapter") if lasting else address.replace("127.0.0.1", "localhost")
    write_testbed(data, folder / "other.toml")
    return folder / "other.toml"


def test_instruments_that_another_process_has_are_not_touched(
    qunetlab: Any,
    alice: Path,
    meter: PM100DTwin,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Connecting would stop its measurement: it sets the averaging of the monitor, as the last call shows."""
    monkeypatch.setattr("lab.claims.TAKEOVER_S", 0.1)  # nobody takes anything over
    monkeypatch.setattr("lab.scanning.ANSWER_S", 0.3)  # what is asked at all is not looked at
    meter._device.averaging = 7
    before = meter.state()
    other = elsewhere(alice, tmp_path_factory.mktemp("elsewhere"))
    with claiming(load_testbed(other).owned_by("alice"), f"alice of {other}"):
        listed = qunetlab("instruments", str(alice), "--owner", "alice", "--json")
        text = qunetlab("instruments", str(alice), "--owner", "alice").stdout
        recording = (
            "instruments",
            "record",
            "thorlabs-pm100d",
            "--yes",
            "--out",
            str(other.parent / "t.jsonl"),
        )
        monitor = next(each for each in load_testbed(alice).instruments if each.name == "monitor_alice")
        recorded = qunetlab(*recording, monitor.address)
        with (
            pytest.raises(OwnedError, match=f"runs as alice of {other}"),
            bench.load(alice).instruments("alice"),
        ):
            pass
        scanned = json.loads(qunetlab("instruments", "scan", str(alice), "--json").stdout)["found"]
    assert listed.returncode == 3
    for row in json.loads(listed.stdout)["instruments"]:
        assert row["in_use"]
        assert (
            f"process {os.getpid()} on this machine runs as alice of {other} and has {row['name']}"
            in row["error"]
        )
    assert text.count("IN USE: process") == 5
    assert recorded.returncode == 1
    assert f"runs as alice of {other} and has first at {monitor.address}" in recorded.stderr
    assert not (other.parent / "t.jsonl").exists()
    assert [each["note"][:18] for each in scanned if each["name"]] == ["not asked: process"] * 5
    assert meter.state() == before
    again = json.loads(qunetlab("instruments", str(alice), "--owner", "alice", "--json").stdout)[
        "instruments"
    ]
    assert {row["name"] for row in again if not row["ok"]} == {"awg_alice"}
    assert meter.state()["averaging"] == 1


def test_a_group_of_commands_leaves_the_short_form(qunetlab: Any, tmp_path: Path) -> None:
    assert "no such file" in qunetlab("instruments", str(tmp_path / "t.toml")).stderr
    assert "list" in qunetlab("instruments", "--help").stdout
