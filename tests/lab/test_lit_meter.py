"""``qunetlab monitor --lit``: a knob is turned in the light of a pair, and visibility and QBER move."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from command_line import QUNETLAB

from lab.cli.lit_meter import edited, page
from lab.runs.lit_meter import LitMeter, figures
from lab.runs.lit_ring import Seen

if TYPE_CHECKING:
    from tests.lab.conftest import Command

SEEN = Seen(d1=800, d2=790, right=1570, wrong=20, light_s=0.01)


def test_what_was_seen_is_told_with_units_and_how_well_it_is_known() -> None:
    told = dict(figures(SEEN))
    assert told["D1"] == "8e+04 /s"
    assert told["visibility"] == "0.9748 +- 0.0056"
    assert told["QBER"] == "1.26 +- 0.28 %"
    assert dict(figures(Seen(0, 0, 0, 0, 0.01)))["QBER"] == "no clicks"


def test_frames_add_up_until_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    light = SimpleNamespace(look=lambda: SEEN)
    hand: Any = SimpleNamespace(
        light=light, session=SimpleNamespace(check=lambda: None), instrument=lambda name: None
    )
    testbed: Any = SimpleNamespace(instruments=[SimpleNamespace(name="voa_alice")])
    meter = LitMeter(testbed, hand)
    for _ in range(20):
        seen = meter.look()
    assert (seen.d1, len(meter.frames)) == (16 * SEEN.d1, 16)
    monkeypatch.setattr("lab.runs.lit_meter.turn", lambda *asked: f"turned {asked[1:]}")
    assert meter.order(" voa_alice.attenuation_db=12\n") == "turned ('attenuation_db', '12')"
    assert meter.frames == []
    for wrong in ("voa_alice.attenuation_db", "", "voa_alice 12"):
        with pytest.raises(ValueError, match=r"INSTRUMENT\.PARAMETER"):
            meter.order(wrong)


def test_the_page_fits_its_width_and_keys_edit_the_line() -> None:
    typed = ""
    for key in "ab\x1bc\x7f":
        typed = edited(typed, key)
    assert typed == "ab"
    assert edited(typed, "\x15") == ""
    meter: Any = SimpleNamespace(frames=[SEEN], turned={"voa": "voa 12 dB, read back"})
    for width in (60, 100, 200):
        rows = page("alice-bob", SEEN, meter, "not turned: " + "word " * 60, typed * 80, width)
        assert all(len(row) <= width and row.isascii() for row in rows)
        assert rows[-1].endswith("ab_")
        assert sum(row.count("word") for row in rows) == 60


def test_a_role_and_the_light_are_not_asked_for_together(qunetlab: Command) -> None:
    said = qunetlab("monitor", "simulated-four-node", "--lit", "alice-bob", "--role", "relay")
    assert (said.returncode, "give one of them" in said.stderr) == (2, True)
    assert "alice-eve" in qunetlab("monitor", "simulated-four-node", "--lit", "alice-eve").stderr


@pytest.mark.long
def test_turning_an_attenuator_in_the_light_moves_visibility_and_errors() -> None:
    import subprocess

    said = subprocess.run(
        [*QUNETLAB, "monitor", "simulated-four-node", "--lit", "alice-bob", "--json"],
        input="voa_alice.attenuation_db 12\nvoa_alice.attenuation_db 20\n",
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    before, between, after = map(json.loads, said.stdout.splitlines())
    assert before["visibility"] > between["visibility"] > after["visibility"]
    assert before["error_ratio"] < between["error_ratio"] < after["error_ratio"]
    assert between["turned"].startswith("voa_alice.attenuation_db 12.00 dB, read back")
