"""``qunetlab scan``: one parameter and two, into a data set, with everything checked before and safe after."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.datasets.database import readable
from lab.runs.following.plotted import line, shades
from lab.runs.scans import Axis, axis, check_axes, points

if TYPE_CHECKING:
    from tests.lab.conftest import Command, SimulatedLab

pytestmark = pytest.mark.usefixtures("no_guards")


def data_of(database: Path, run_id: int) -> Any:
    """A data set as QCoDeS' own users load it."""
    from qcodes.dataset import load_by_id

    with readable(database) as connection:
        data = load_by_id(run_id, connection)
        return data.get_parameter_data(), data.metadata, json.loads(data.snapshot_raw)


def test_a_step_is_a_parameter_and_where_it_goes() -> None:
    assert axis("launch.ch1.attenuation_db:20:40:3") == Axis("launch.ch1.attenuation_db", (20.0, 30.0, 40.0))
    for text in ("laser.power_mw", "a.b:1:2", "a.b:1:2:0", "a.b:x:2:3", "a.b:1:inf:3", "a.b:1:2:3:4"):
        with pytest.raises(ValueError, match="INSTRUMENT"):
            axis(text)


def test_of_two_axes_the_second_turns_back_and_forth() -> None:
    outer, inner = Axis("a.b", (1.0, 2.0)), Axis("c.d", (5.0, 6.0, 7.0))
    assert list(points([outer])) == [(1.0,), (2.0,)]
    assert [at[1] for at in points([outer, inner])] == [5.0, 6.0, 7.0, 7.0, 6.0, 5.0]
    with pytest.raises(ValueError, match="two different"):
        check_axes([outer, outer])
    with pytest.raises(ValueError, match="larger steps"):
        check_axes([Axis("a.b", (0.0,) * 1000), Axis("c.d", (0.0,) * 1000)])


def test_a_scan_is_a_data_set_with_units_and_snapshot_and_the_knob_is_put_back(
    lab: SimulatedLab, qunetlab: Command
) -> None:
    folder = str(lab.folder)
    before = json.loads(qunetlab("set", folder, "laser.power_mw", "2", "--json").stdout)
    read = ("--read", "laser.power_mw", "--read", "launch.ch1.attenuation_db")
    said = qunetlab("scan", folder, "laser.power_mw:1:3:3", *read, "--json")
    assert said.returncode == 0, said.stderr
    told = json.loads(said.stdout)
    assert told["points"] == 3
    found, about, snapshot = data_of(lab.folder / "scans.db", told["run_id"])
    assert set(found) == {"laser_power_mw_read", "launch_ch1_attenuation_db"}
    rows = found["laser_power_mw_read"]
    assert list(rows["laser_power_mw"]) == [1.0, 2.0, 3.0]
    assert list(rows["laser_power_mw_read"]) == pytest.approx([1.0, 2.0, 3.0])
    assert about["points_measured"] == about["points_planned"] == 3
    assert about["testbed"] == "simulated-four-node"
    assert "laser" in snapshot["relay"]["station"]["instruments"]
    again = json.loads(qunetlab("instruments", folder, "--owner", "relay", "--json").stdout)
    laser = next(each for each in again["instruments"] if each["name"] == "laser")
    assert laser["parameters"]["power_mw"]["value"] == pytest.approx(before["value"])
    assert not lab.lit


def test_two_parameters_are_stepped_and_told_point_by_point(lab: SimulatedLab, qunetlab: Command) -> None:
    steps = ("laser.power_mw:1:2:2", "voa_alice.attenuation_db:10:20:3")
    said = qunetlab("scan", str(lab.folder), *steps, "--read", "laser.emission")
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0] == "laser.power_mw 1, voa_alice.attenuation_db 10, laser.emission 0"
    assert len(lines) == 6 + 2
    assert lines[-2].startswith("6 points: data set 1 of ")
    assert "laser" in lines[-1]
    assert "awg_alice" in lines[-1]


REFUSED: tuple[tuple[list[str], str], ...] = (
    (["laser.power_mw:1:1e6:3", "--read", "laser.emission"], "outside"),
    (["laser.emission:0:1:2", "--read", "laser.emission"], "cannot be stepped"),
    (["laser.powr_mw:1:2:2", "--read", "laser.emission"], "is power_mw meant?"),
    (["laser.power_mw:1:2:2", "--read", "laser.emision"], "is emission meant?"),
    (["laser.power_mw:1:2:2"], "say what is read"),
    (["laser.power_mw:1:2:2", "--read", "light.visibility"], "--lit alice-bob"),
    (["laser.power_mw:1:2:2"] * 3 + ["--read", "laser.emission"], "one parameter, or two"),
    (["laser.power_mw", "--read", "laser.emission"], "INSTRUMENT.PARAMETER:FROM:TO:POINTS"),
)


def test_what_cannot_be_scanned_is_told_before_anything_is_sent(lab: SimulatedLab, qunetlab: Command) -> None:
    for arguments, told in REFUSED:
        said = qunetlab("scan", str(lab.folder), *arguments)
        assert said.returncode == 2
        assert told in said.stderr
    assert not (lab.folder / "scans.db").exists()


def test_plots_fit_their_width_and_show_where_values_lie() -> None:
    xs = [float(n) for n in range(21)]
    for width in (60, 100, 200):
        plot = line(xs, [x * x for x in xs], "x / dB", "y / 1/s", width, 12)
        assert all(len(row) <= width for row in plot)
        assert plot[1].strip().startswith("400 |")
        assert plot[1].endswith("*")
        assert plot[-3].lstrip().startswith("0 |*")
        grid = [[n * m for m in range(30)] for n in range(4)]
        plot = shades(grid, (0.0, 3.0, "a"), (0.0, 29.0, "b"), "z", width)
        assert all(len(row) <= width for row in plot)
        assert "@" in plot[4]
        assert "@" not in plot[1]
    assert all(each.isascii() for each in plot)
    assert line([1.0], [math.nan], "x", "y", 60, 12) == ["y: nothing yet"]
    assert line([1.0], [2.0], "x", "y", 60, 12)[0] == "y"


@pytest.mark.long
def test_a_scan_in_the_light_of_a_pair_shows_the_visibility_fall(tmp_path: Path, qunetlab: Command) -> None:
    out = tmp_path / "scans.db"
    said = qunetlab(
        *("scan", "simulated-four-node", "voa_alice.attenuation_db:1:20:2"),
        *("--lit", "alice-bob", "--out", str(out), "--json"),
    )
    assert said.returncode == 0, said.stderr
    found, about, _ = data_of(out, 1)
    first, last = found["light_visibility"]["light_visibility"]
    assert first > 0.95 > 0.85 > last
    assert about["lit"] == "alice-bob"
