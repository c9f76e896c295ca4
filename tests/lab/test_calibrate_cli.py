"""``qunetlab calibrate`` as its user has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qcodes.dataset import load_by_id

from lab import bench
from lab.datasets.database import readable
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed, write_testbed
from sim_backends.optics_hidden import ring_of

pytestmark = [pytest.mark.early, pytest.mark.usefixtures("no_guards")]

if TYPE_CHECKING:
    from tests.lab.conftest import Command, SimulatedLab

FRAME = 1 << 19


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ring with small frames whose file has two users' half turns 4 % off."""
    data = read_testbed(template_path("simulated-four-node"))
    data["protocol"]["slots_per_frame"] = FRAME
    for user in data["users"]:
        user["v_pi_v"] *= 1.04
    write_testbed(data, tmp_path / "testbed.toml")
    return tmp_path


def test_what_is_due_is_said_and_nothing_touched(qunetlab: Command, folder: Path) -> None:
    said = qunetlab("calibrate", "phase", "--testbed", str(folder), "--dry-run", "--json")
    assert said.returncode == 0
    assert [row["owner"] for row in json.loads(said.stdout)["due"]] == ["alice", "bob", "carol", "dave"]
    assert [path.name for path in folder.iterdir()] == ["testbed.toml"]


def test_a_refused_step_is_told_where_nothing_was_ever_found(qunetlab: Command, folder: Path) -> None:
    """No finding, no page; the answer says why, and what to do instead."""
    said = qunetlab("calibrate", "polarization", "--pair", "alice,bob", "--testbed", str(folder), "--json")
    assert said.returncode == 1
    (answer,) = json.loads(said.stdout)["calibrated"]
    assert "has a polarisation controller" in answer["refused"]
    assert answer["finding"] is None
    assert not (folder / "calibrations").exists()


def test_a_calibration_ends_in_the_testbed_that_everybody_reads(
    qunetlab: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.light.calibration.procedures.PHASE_CLICKS", 1e5)
    before = load_testbed(folder / "testbed.toml")
    said = qunetlab("calibrate", "phase", "--pair", "alice,carol", "--testbed", str(folder), "--json")
    assert said.returncode == 0, said.stderr
    answers = json.loads(said.stdout)["calibrated"]
    after = load_testbed(folder / "testbed.toml")
    for answer in answers:
        user, found = answer["owner"], answer["finding"]["values"]["v_pi_v"]
        assert after.user(user).v_pi_v == found["value"]
        assert after.user(user).v_pi_v == pytest.approx(before.user(user).v_pi_v / 1.04, rel=0.02)
        assert sum(answer["finding"]["counts"]["D1"]) > 10_000
    assert [answer["owner"] for answer in answers] == ["alice", "carol"]
    assert after.user("bob") == before.user("bob")
    assert len(list((folder / "calibrations").glob("*-phase-*.json"))) == 2
    for answer in answers:
        with readable(folder / "calibrations" / f"{answer['owner']}.db") as connection:
            data = load_by_id(1, connection)
            assert data.name == f"phase of {answer['owner']}"
            clicks = data.get_parameter_data()["D1_clicks_per_level"]["D1_clicks_per_level"]
            assert clicks.tolist() == answer["finding"]["counts"]["D1"]
            assert data.snapshot is not None
            known = data.snapshot["station"]["instruments"]
            assert known["awg_" + answer["owner"]]["parameters"]["amplitude_vpp"]["age_s"] < 60
            assert all(name.endswith(answer["owner"]) for name in known)
    due = qunetlab("calibrate", "--testbed", str(folder), "--dry-run", "--json")
    phase = [row["owner"] for row in json.loads(due.stdout)["due"] if row["step"] == "phase"]
    assert phase == ["bob", "dave"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("phase", "--pair", "alice"), "alice is no pair of this testbed; pairs are"),
        (("phase", "--pair", "alice,eve"), "alice,eve is no pair of this testbed; pairs are"),
        (("phas",), "phase"),
    ],
)
def test_a_wrong_command_line_is_told(
    qunetlab: Command, folder: Path, arguments: tuple[str, ...], told: str
) -> None:
    said = qunetlab("calibrate", *arguments, "--testbed", str(folder))
    assert said.returncode == 2
    assert told in said.stderr + said.stdout


def test_the_relay_finds_what_is_hidden(
    qunetlab: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, less in (("REST_CLICKS", 2e5), ("DARK_S", 4.0), ("SWEEP_S", 0.1)):
        monkeypatch.setattr(f"orchestrator.light.calibration.procedures.{name}", less)
    steps = ("carver", "detectors", "arm-loss", "backscatter", "visibility")
    said = qunetlab("calibrate", *steps, "--pair", "alice,carol", "--testbed", str(folder), "--json")
    assert said.returncode == 0, said.stdout
    found = {
        name: (value["value"], value["uncertainty"])
        for answer in json.loads(said.stdout)["calibrated"]
        for name, value in answer["finding"]["values"].items()
    }
    ring = ring_of(load_testbed(folder / "testbed.toml"))
    hidden = {
        "dark_count_probability": sum(each.dark_count_probability for each in ring.detectors) / 2,
        "visibility": ring.optics.visibility,
        "backscatter_db_per_m": -ring.optics.backscatter_db_per_m,
    }
    for name, true in hidden.items():
        value, sigma = found[name]
        assert abs(value - true) < 5 * sigma, name
    assert found["visibility"][1] < 0.002
    extinction_db, sigma_db = found["extinction_db"]
    assert abs(extinction_db - ring.optics.carver.extinction_db) < 5 * sigma_db < 2.5
    assert found["relay_loss_db"][0] == pytest.approx(ring.optics.relay_loss_db, abs=0.3)


def test_a_ring_that_runs_is_calibrated_through_its_queue(qunetlab: Command, lab: SimulatedLab) -> None:
    with bench.load(lab.folder).instruments("alice"):
        said = qunetlab("calibrate", "phase", "--pair", "alice,carol", "--testbed", str(lab.folder))
    assert said.returncode != 0
    assert "qunetlab queue add calibration phase --pair alice-carol" in said.stderr
