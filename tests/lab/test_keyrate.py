"""``keyrate --testbed``: what a pair is planned to make, and what its ring must be set to for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.cli.keyrate import as_table, pair_report
from lab.light_budget import NS_PER_KM
from lab.light_of import pair_light
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator.protocols.block_planning import plan_for

NAME = "simulated-four-node"


def changed(tmp_path: Path, **sections: dict[str, Any]) -> str:
    """The bundled file with other values in some of its sections."""
    data = read_testbed(template_path(NAME))
    for section, values in sections.items():
        data[section] = data.get(section, {}) | values
    write_testbed(data, tmp_path / "ring.toml")
    return str(tmp_path / "ring.toml")


@pytest.mark.parametrize(
    ("pair", "launch_db", "kbit"),
    [("alice,bob", 56, 55), ("alice,carol", 55, 84), ("alice,dave", 54, 122), ("bob,carol", 56, 63)],
)
def test_a_ring_exactly_as_ordered_makes_the_key_of_its_budget(
    pair: str, launch_db: float, kbit: float, tmp_path: Path
) -> None:
    """The bundled ring without its spread: 50 % taps, 20 mrad, 35 dB; kbit per second of light, to 10 %."""
    data = read_testbed(template_path(NAME))
    for user in data["users"]:
        user["position_km"] = km = round(user["position_km"], 2)
        transits = (km, 6.0 - km)
        user["modulator_delays_ps"] = [round(1e6 + 1e3 * NS_PER_KM * each) for each in transits]
        user |= {"station_loss_db": 11.92, "sensor_to_output_db": [8.31, 8.31]}
    data["ring"] |= {"relay_loss_db": 3.0, "fibre_loss_db_per_km": 0.2, "launch_loss_db": 21.02}
    data["calibration"] |= {"detector_efficiency": 0.75, "dark_count_probability": 1e-7}
    write_testbed(data, tmp_path / "nominal.toml")
    report = pair_report(str(tmp_path / "nominal.toml"), pair)
    assert report["key_bits_per_light_second"] == pytest.approx(1e3 * kbit, rel=0.1)
    assert report["launch_attenuation_db"] == pytest.approx(launch_db, abs=0.8)


@pytest.mark.parametrize("pair", ["alice,bob", "alice,dave", "bob,carol"])
def test_a_report_is_the_plan_of_both_nodes_and_the_light_it_takes(pair: str) -> None:
    report = pair_report(NAME, pair)
    first, second = pair.split(",")
    testbed = load_testbed(template_path(NAME))
    plan, light = plan_for(testbed, first, second), pair_light(testbed, first, second)
    assert (report["mu_a"], report["mu_b"], report["key_bits"]) == (plan.mu_a, plan.mu_b, plan.expected_bits)
    assert (report["light"], report["monitoring"]) == ("assumed", "monitored")
    budget = light.budget(plan.mu_a)
    assert report["launch_attenuation_db"] == budget.launch_attenuation_db
    assert 50 < report["launch_attenuation_db"] < 60
    assert report["attenuation_db"] == {user: testbed.user(user).attenuation_db for user in (first, second)}
    assert report["sensor_w"][second] == {"own": budget.sensors[1].own_w, "other": budget.sensors[1].other_w}
    for user in (first, second):
        assert 0.3e-12 < report["sensor_w"][user]["own"] < 2e-12
        assert 9 < report["sensor_w"][user]["other"] / report["sensor_w"][user]["own"] < 30
        assert 0.5 < report["tolerance_db"][user] < 0.9
    assert report["key_bits_per_light_second"] == pytest.approx(plan.expected_bits / (plan.n_pulses / 1e8))
    assert report["key_bits_per_bench_second"] == pytest.approx(0.145 * report["key_bits_per_light_second"])


def test_the_command_answers_with_units_or_as_json(qunetlab: Any) -> None:
    asked = ("keyrate", "--testbed", NAME, "--pair", "alice,bob")
    report = json.loads(qunetlab(*asked, "--json").stdout)
    assert report == pair_report(NAME, "alice,bob")
    text = qunetlab(*asked).stdout
    assert text.strip() == as_table(report)
    for line in ("launch_attenuation_db", "sensor_w alice own", "key_bits_per_bench_second"):
        assert line in text
    assert f"{report['sensor_w']['alice']['own']:.7g} W" in " ".join(text.split())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (f"--testbed {NAME}", "say which pair, with --pair: one of alice-bob, alice-carol"),
        (f"--testbed {NAME} --pair bob,eve", "bob,eve is no pair of this testbed; pairs are alice-bob"),
        (f"--testbed {NAME} --pair alice,bob --optimize --f-ec 1.2", "says what --f-ec, --optimize would"),
        ("--testbed nowhere --pair alice,bob", "no such file; `qunetlab init FOLDER`"),
        ("--loss-db-a 5", "--loss-db-a and --loss-db-b, or --testbed and --pair"),
    ],
)
def test_what_is_missing_or_too_much_is_told(qunetlab: Any, options: str, told: str) -> None:
    ended = qunetlab("keyrate", *options.split())
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_ring_without_sensors_for_it_is_planned_as_calibrated(tmp_path: Path) -> None:
    """A zero of 10 pW hides the own light: monitored it is refused with its figure, calibrated it is labelled."""
    coarse = {"sensor_zero_pw": 10.0}
    with pytest.raises(ValueError, match=r"alice's own light at the sensor is .* pW, below the 10 pW"):
        pair_report(changed(tmp_path, uncertainty=coarse), "alice,bob")
    calibrated = changed(tmp_path, uncertainty=coarse, protocol={"monitoring": "calibrated"})
    report = pair_report(calibrated, "alice,bob")
    assert report["monitoring"] == "calibrated"
    assert report["tolerance_db"] == {"alice": 0.5, "bob": 0.5}


def test_other_rings_that_cannot_work_are_refused_with_their_figures(tmp_path: Path) -> None:
    for sections, told in (
        ({"carver": {"extinction_db": 25.0}}, "30 dB or more, got 25"),
        ({"ring": {"laser_power_mw": 0.02, "launch_loss_db": 60.0}}, "too weak with the launch wide open"),
        ({"ring": {"relay_loss_db": 25.0}}, "no key with everything charged"),
        ({"protocol": {"light": "counted"}}, "average power leaves 0 bits of a block"),
    ):
        with pytest.raises(ValueError, match=told):
            pair_report(changed(tmp_path, **sections), "alice,bob")
