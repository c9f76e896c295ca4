"""The cells of the documents: an attenuator is turned, and counts, visibility and errors move."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab import bench
from lab.runs.lit_ring import Seen
from lab.testbed import UnknownNameError
from orchestrator.light.messages import LightAborted

pytestmark = [pytest.mark.early, pytest.mark.usefixtures("no_guards")]

if TYPE_CHECKING:
    from tests.lab.conftest import SimulatedLab

PAGE = Path(__file__).resolve().parents[2] / "docs" / "instruments-in-a-notebook.md"


def cells() -> list[Any]:
    section = PAGE.read_text(encoding="utf-8").split("## Light, and what turning")[1].split("\n## ")[0]
    return [
        compile(cell, PAGE.name, "exec") for cell in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    ]


LOOKS = 16
"""A single one counts fifty clicks in the dimmest light here."""


def together(*looks: Seen) -> Seen:
    """What was seen in all of them."""
    return Seen(*(sum(getattr(each, field.name) for each in looks) for field in fields(Seen)))


@pytest.mark.timeout(120)
def test_the_cells_of_the_page_show_what_turning_an_attenuator_does(
    lab: SimulatedLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (lab.folder / "bench").mkdir()
    (lab.folder / "testbed.toml").rename(lab.folder / "bench" / "testbed.toml")
    monkeypatch.chdir(lab.folder)
    notebook: dict[str, Any] = {}
    first, again, last = cells()
    exec(first, notebook)
    station = notebook["station"]
    try:
        exec(again, notebook)
        printed = capsys.readouterr().out
        assert re.search(r"D1 \S+/s, D2 \S+/s, visibility 0\.9\d+, errors \d\.\d+ % of \d+ \S+e-13", printed)
        seen: dict[float, Seen] = {}
        for db in (1.0, 12.0, 20.0):
            station.voa_alice.attenuation_db(db)
            seen[db] = together(*(station.light.look() for _ in range(LOOKS)))
        before, between, after = seen.values()
        assert before.d1 == pytest.approx(before.d2, rel=0.15), "half of the slots belong to each"
        assert between.d1 / before.d1 == pytest.approx(10**-1.1, rel=0.4), (
            "the light of both passes her attenuator"
        )
        assert before.visibility > between.visibility > after.visibility
        assert before.error_ratio < 0.012 < between.error_ratio < 0.08 < after.error_ratio
        assert before.visibility == pytest.approx(1 - 2 * before.error_ratio)
        station.voa_alice.attenuation_db(1.0)
        assert station.light.d2_cps() == pytest.approx(before.d2 / before.light_s, rel=0.15)
        assert 0.97 < station.light.visibility() < 1.0
        assert station.light.error_ratio() < 0.012
        assert "error_ratio" in station.snapshot()["components"]["light"]["parameters"]
    finally:
        exec(last, notebook)
    assert not lab.lit


@pytest.mark.timeout(120)
def test_a_partner_elsewhere_takes_its_own_station_in(lab: SimulatedLab) -> None:
    there = bench.load(lab.folder)
    for name in ("carol", "dave"):
        lab.bench.ring.set_switch(name, True)
    with there.instruments("bob") as bob:
        lit = there.lit("alice", "bob", elsewhere=("bob", "carol", "dave"))
        bob.switch_bob.crossed(False)
        bob.voa_bob.attenuation_db(40.0)
        with pytest.raises(LightAborted, match="do both stations let light through"), lit:
            pass
        assert not lab.lit
        bob.voa_bob.attenuation_db(there.testbed.user("bob").attenuation_db)
        with there.lit("alice", "bob", elsewhere=("bob", "carol", "dave")) as alice:
            assert alice.light.visibility() > 0.9
            bob.voa_bob.attenuation_db(20.0)
            assert alice.light.error_ratio() > 0.05, "turned in another notebook"


@pytest.mark.parametrize(("pair", "elsewhere"), [(("bob", "alice"), ()), (("alice", "bob"), ("alice",))])
def test_what_is_no_pair_is_refused_before_anything_is_opened(
    lab: SimulatedLab, pair: tuple[str, str], elsewhere: tuple[str, ...]
) -> None:
    with (
        pytest.raises(UnknownNameError, match="is no pair of this testbed"),
        bench.load(lab.folder).lit(*pair, elsewhere=elsewhere),
    ):
        pass


def test_without_a_click_there_is_no_visibility() -> None:
    dark = Seen(0, 0, 0, 0, 0.01)
    assert math.isnan(dark.visibility)
    assert math.isnan(dark.error_ratio)
