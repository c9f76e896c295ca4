"""``qunetlab set``: a knob is turned within its limits, read back, and let go of safely."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from drivers.catalogue import create_instrument
from lab import bench
from lab.runs.interlocks import stop
from lab.runs.knobs import knob
from lab.runs.testbeds.machine import Machine
from lab.testbed import UnknownNameError

if TYPE_CHECKING:
    from tests.lab.conftest import Command, SimulatedLab

pytestmark = pytest.mark.usefixtures("no_guards")


def refused(said: Any, *words: str) -> None:
    assert said.returncode != 0
    for word in words:
        assert word in said.stderr


def test_a_knob_is_turned_read_back_and_let_go_of(lab: SimulatedLab, qunetlab: Command) -> None:
    folder = str(lab.folder)
    said = qunetlab("set", folder, "laser.power_mw", "3", "--json")
    assert said.returncode == 0, said.stderr
    told = json.loads(said.stdout)
    assert (told["knob"], told["value"], told["unit"]) == ("laser.power_mw", 3.0, "mW")
    assert told["limits"][0] < 3.0 < told["limits"][1]
    lit = qunetlab("set", folder, "laser.emission", "on", "--hold", "0")
    first, last = lit.stdout.splitlines()
    assert first == "laser.emission on, read back; held for 0 s"
    assert re.fullmatch(r"Dark at \d\d:\d\d:\d\d, read back: laser, .* of relay\.", last)
    assert not lab.lit, "letting go makes it dark"


def test_a_value_outside_the_limits_is_not_sent_and_a_wrong_name_says_what_is_meant(
    lab: SimulatedLab, qunetlab: Command
) -> None:
    folder = str(lab.folder)
    refused(qunetlab("set", folder, "laser.power_mw", "1e6"), "outside", "mW")
    refused(qunetlab("set", folder, "laser.power_mw", "nan"), "outside")
    refused(qunetlab("set", folder, "laser.power_mw", "much"), "'much' is no number", "mW]")
    refused(qunetlab("set", folder, "laser.powr_mw", "3"), "is power_mw meant?")
    refused(qunetlab("set", folder, "lasr.power_mw", "3"), "is laser meant?")
    refused(qunetlab("set", folder, "laser", "3"), "INSTRUMENT.PARAMETER")
    refused(qunetlab("set", folder, "laser.emission", "maybe"), "neither on nor off")


def test_what_can_harm_nobody_may_be_left_and_nothing_else(lab: SimulatedLab, qunetlab: Command) -> None:
    folder = str(lab.folder)
    testbed = bench.load(lab.folder).testbed
    entry = next(each for each in testbed.instruments if each.name == "switch_alice")
    for crossed in ("off", "on"):
        said = qunetlab("set", folder, "switch_alice.crossed", crossed, "--keep")
        assert said.stdout == f"switch_alice.crossed {crossed}, read back; left so\n", said.stderr
        again: Any = create_instrument(entry.model, "again", entry.address, **entry.options)
        again.connect()
        assert again.crossed() is (crossed == "on")
        again.close()
    refused(qunetlab("set", folder, "laser.emission", "on", "--keep"), "held until Ctrl-C")
    refused(qunetlab("set", folder, "laser.emission", "on", "--keep", "--hold", "1"), "one of them")
    assert not lab.lit


def test_an_instrument_has_one_user_and_a_latched_role_stays_dark(
    lab: SimulatedLab, qunetlab: Command
) -> None:
    machine = Machine(lab.folder, None)
    with bench.load(lab.folder).instruments("relay") as station:
        refused(qunetlab("set", str(lab.folder), "laser.power_mw", "2"), "runs as relay of", "stop it first")
        station.laser.power_mw(1.0)
        (told,) = stop(machine, ["relay"], "drill")
        assert told.ok
    refused(qunetlab("set", str(lab.folder), "laser.emission", "on"), "drill", "acknowledge")
    assert not lab.lit


def test_a_knob_of_no_instrument_says_which_there_are(lab: SimulatedLab) -> None:
    testbed = bench.load(lab.folder).testbed
    with pytest.raises(UnknownNameError, match=r"there are .*laser.*tagger"):
        knob(testbed, "zzz.power_mw")
    assert str(knob(testbed, "launch.ch1.attenuation_db")) == "launch.ch1.attenuation_db"
