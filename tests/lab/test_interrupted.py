"""Ctrl-C says what was made safe, in the same words everywhere."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from terminal import on_a_terminal

from drivers.links.errors import LinkBrokenError
from lab import bench
from lab.runs.made_safe import left_by, sentence
from lab.runs.sessions import opened_session
from lab.station import Station
from lab.testbed import load_testbed
from orchestrator.events.process import MadeSafe

if TYPE_CHECKING:
    from tests.lab.conftest import SimulatedLab

AT = datetime(2026, 11, 29, 12, 3, 4)
DARK = r"Dark at \d\d:\d\d:\d\d, read back: "


def test_the_sentence_says_who_has_what_safe_and_where_stations_stand() -> None:
    left = {
        "relay": MadeSafe(("laser", "launch")),
        "alice": MadeSafe(("awg_alice",), station_out=True),
        "bob": MadeSafe(("awg_bob",), ("voa_bob",), station_out=False),
        "carol": MadeSafe(()),
    }
    assert sentence(left, AT) == (
        "Dark at 12:03:04, read back: laser, launch of relay; awg_alice of alice, station out of the ring; "
        "awg_bob of bob, STATION STILL IN THE RING (voa_bob by the guard, look at it)."
    )
    assert sentence({}, AT) == sentence({"fl-alice": MadeSafe(())}, AT) == ""


def test_a_station_says_what_it_left_safe_and_what_it_could_not(
    lab: SimulatedLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    testbed = load_testbed(lab.folder / "testbed.toml")
    station = Station(testbed, "alice")
    with station:
        switch = next(each for each in station.instruments() if each.name == "switch_alice")
        switch.crossed(True)  # type: ignore[operator]
        voa = next(each for each in station.instruments() if each.name == "voa_alice")

        def broken() -> None:
            raise LinkBrokenError("gone", instrument="voa_alice", address="")

        monkeypatch.setattr(voa, "safe_state", broken)
    left = left_by(station)
    assert left.station_out is True
    assert left.by_guard == ("voa_alice",)
    assert set(left.instruments) == {each.name for each in station.entries} - {"voa_alice"}
    assert left_by(Station(testbed, "alice")).instruments == (), "one that was never opened"


def test_ctrl_c_in_a_session_says_it(lab: SimulatedLab, capsys: pytest.CaptureFixture[str]) -> None:
    path = lab.folder / "testbed.toml"

    def lit_until_ctrl_c() -> None:
        with opened_session(load_testbed(path), path, ["relay"], lab.folder / "state") as session:
            session.stations["relay"].instruments()[0].emission(True)  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lit_until_ctrl_c()
    assert re.fullmatch(f"{DARK}laser, launch.* of relay\\.\n", capsys.readouterr().err)
    assert not lab.lit
    with bench.load(lab.folder).instruments("relay"):
        pass
    assert capsys.readouterr().err == "", "an end that was meant needs no words"


def test_ctrl_c_lets_go_of_a_knob_and_says_what_is_dark(lab: SimulatedLab) -> None:
    with on_a_terminal("set", str(lab.folder), "laser.emission", "on", columns=200) as terminal:
        terminal.until("held until Ctrl-C")
        assert lab.lit
        said = terminal.interrupted()
    assert terminal.process.returncode == 0
    assert re.search(f"{DARK}laser, launch.* of relay\\.", said)
    assert not lab.lit


@pytest.mark.long
def test_ctrl_c_of_a_ring_of_ones_own_says_which_roles_ended_and_what_is_dark(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "COLUMNS": "200"}
    with on_a_terminal(
        "keygen", "alice", "bob", "--bits", "100M", columns=200, environment=environment
    ) as terminal:
        terminal.until(" pulses, ", timeout_s=120)
        said = terminal.interrupted()
    assert terminal.process.returncode == 130
    assert re.search(f"{DARK}.*of relay; .*of alice, station out of the ring", said)
    assert (
        "Ended: simulate, orchestrator, relay" in said
    )  # a node in the middle of a block may have to be ended
    assert "The simulator saw every instrument in its safe state." in said
