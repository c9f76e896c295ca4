"""`qunetlab init --uncalibrated` and `--ring-seed`: what the file says, what the ring is, and that nobody makes key of a guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.runs.testbeds.another_ring import ORDERED_PHASE_RAD, NoSimulatedRingError
from lab.runs.testbeds.folder import EXAMPLE, TEMPLATES, create_folder, template_path
from lab.testbed import Testbed, load_testbed, parse_testbed, read_testbed
from orchestrator.protocols.block_planning import plan_for
from sim_backends.optics_hidden import ring_of
from sim_backends.survey import surveyed


def made(folder: Path, template: str = "simulated-four-node", **options: Any) -> Testbed:
    return load_testbed(create_folder(folder, template_path(template), **options))


@pytest.mark.parametrize("template", [each for each in TEMPLATES if each != "simulated-full-bench"])
def test_an_uncalibrated_ring_is_known_as_ordered_and_became_something_else(
    template: str, tmp_path: Path
) -> None:
    first, second = (made(tmp_path / name, template, uncalibrated=True) for name in "ab")
    assert first.simulation is not None
    assert second.simulation is not None
    assert first.simulation.ring_seed != second.simulation.ring_seed
    assert first.simulation.spread == 1.0
    built = {each.name: each for each in first.simulation.stations}
    really = {each.name: each for each in ring_of(first).optics.users}
    became: list[float] = []
    for user in first.users:
        assert (user.v_pi_v, user.rf_gain) == (built[user.name].v_pi_v, built[user.name].rf_gain)
        assert user.position_km == built[user.name].position_km
        # Of a single user one ring in some hundred draws that little; the seed is fresh.
        became.append(abs(really[user.name].v_pi_v / user.v_pi_v - 1))
    assert max(became) > 1e-3
    assert first.users == second.users, "the order is the same"
    assert first.calibration == second.calibration
    assert first.uncertainty.phase_rad == ORDERED_PHASE_RAD
    assert not any(plan_for(first, *pair).expected_bits for pair in first.pairs())


def test_what_the_order_leaves_open_of_a_phase_is_charged(tmp_path: Path) -> None:
    """No V_pi and gain within the tolerances turn a phase of pi further than the file says."""
    for seed in range(20):
        ring = made(tmp_path / str(seed), ring_seed=seed, uncalibrated=True)
        for user, station in zip(ring.users, ring_of(ring).optics.users, strict=True):
            turned = station.rf_gain / station.v_pi_v / (user.rf_gain / user.v_pi_v)
            assert abs(turned - 1) * 3.1416 < ORDERED_PHASE_RAD * 1.06, "to second order"


def test_a_ring_of_another_seed_is_surveyed(tmp_path: Path) -> None:
    ring = made(tmp_path / "a", ring_seed=7)
    data = read_testbed(template_path("simulated-four-node"))
    data["simulation"]["ring_seed"] = 7
    path = tmp_path / "a"
    same = parse_testbed(surveyed(data, parse_testbed(data, path)), path)
    assert ring.model_copy(update={"keys": {}}) == same
    assert all(plan_for(ring, *pair).expected_bits for pair in ring.pairs())


def test_no_other_ring_stands_on_a_real_bench(tmp_path: Path) -> None:
    with pytest.raises(NoSimulatedRingError, match="describes no simulated ring"):
        made(tmp_path / "a", EXAMPLE, uncalibrated=True)
    assert not (tmp_path / "a").exists()


def test_the_command_says_that_it_must_be_calibrated_first(tmp_path: Path, qunetlab: Any) -> None:
    bench = tmp_path / "bench"
    said = qunetlab("init", str(bench), "--uncalibrated", "--ring-seed", "5", "--users", "3")
    assert said.returncode == 0, said.stderr
    assert f"qunetlab calibrate --testbed {bench}" in said.stdout
    ring = load_testbed(bench / "testbed.toml")
    assert ring.simulation is not None
    assert (ring.simulation.ring_seed, len(ring.users)) == (5, 3)
    checked = json.loads(qunetlab("check", str(bench), "--json").stdout)
    assert checked["pairs_without_key"] == [list(pair) for pair in ring.pairs()]
    again = qunetlab("init", str(tmp_path / "real"), "--template", EXAMPLE, "--ring-seed", "5")
    assert again.returncode == 2
    assert "leave out --uncalibrated and --ring-seed" in again.stderr
    told = " ".join(qunetlab("init", "--help").stdout.replace("│", "").split())
    assert "nobody has surveyed" in told
