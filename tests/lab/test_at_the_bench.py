"""The page for the first evening at a real bench: what it names is there, and its script runs on the simulated one.

The example file is as complete as a file can be whose bench nobody has seen: only addresses, serial numbers and
calibrated values are to be filled in.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from drivers import catalogue
from lab.checking import checked_testbed
from lab.runs.testbeds.folder import EXAMPLE, TEMPLATES, create_folder, template_path
from lab.testbed import Testbed, load_testbed
from orchestrator.protocols.block_planning import protocol_named
from sim_backends.bench import Bench, BenchError

if TYPE_CHECKING:
    from tests.lab.conftest import Command, SimulatedLab

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "at-the-bench.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example() -> Testbed:
    return load_testbed(template_path(EXAMPLE))


def test_the_example_is_a_ring_of_real_instruments_that_would_make_key(example: Testbed) -> None:
    assert checked_testbed(template_path(EXAMPLE)) == example
    assert example.simulation is None
    assert EXAMPLE not in TEMPLATES, "what is offered to be simulated"
    for entry in example.instruments:
        row = catalogue.row(entry.model)
        assert entry.has_address
        assert bool(entry.serial_number) is row.has_serial_number, entry.name
    for pair in example.pairs():
        assert not protocol_named(example.protocol.name).refusals(example, *pair)


def test_its_instruments_are_those_of_the_simulated_ring(example: Testbed) -> None:
    simulated = load_testbed(template_path("simulated-four-node"))
    assert {(e.name, e.model, e.owner) for e in example.instruments} == {
        (e.name, e.model, e.owner) for e in simulated.instruments
    }


def test_a_folder_is_made_of_it_and_nobody_can_simulate_it(tmp_path: Path, qunetlab: Command) -> None:
    made = create_folder(tmp_path / "bench", template_path(EXAMPLE), host="192.168.1.10")
    assert load_testbed(made).hub.control == "tcp://192.168.1.10:47600"
    said = qunetlab("init", str(tmp_path / "again"), "--template", EXAMPLE, "--host", "192.168.1.10")
    assert said.returncode == 0, said.stderr
    with pytest.raises(BenchError, match=r"no \[simulation\] section"):
        Bench(load_testbed(made))


def test_every_model_is_in_the_parts_list() -> None:
    listed = set(
        re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE.split("## Parts")[1].split("\n## ")[0], re.MULTILINE)
    )
    assert listed == {row.model for row in catalogue.OURS}


def test_every_key_of_the_file_is_explained(example: Testbed) -> None:
    explained = PAGE.split("## The testbed file")[1].split("\n## ")[0]
    keys: set[str] = set()
    for name in Testbed.model_fields:
        if name in ("schema_version", "name", "description"):
            continue
        assert f"[{name}]" in explained, name
        if name in ("ring", "carver", "calibration", "uncertainty", "detectors", "interlock"):
            keys |= set(type(getattr(example, name)).model_fields)
    keys |= set(type(example.users[0]).model_fields) - {"name", "delivery", "etsi014"}
    told = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\|([^|]*)\|", explained, re.MULTILINE))))
    other = {"control", "bulk", "server"}
    assert told == keys | other


@pytest.mark.parametrize("drawing", sorted(DOCS.glob("at-the-bench-*.svg")), ids=lambda path: path.stem)
def test_a_drawing_is_shown_and_can_be_read_in_the_dark(drawing: Path) -> None:
    assert f"]({drawing.name})" in PAGE
    ElementTree.parse(drawing)
    assert "prefers-color-scheme: dark" in drawing.read_text(encoding="utf-8")


def test_the_electrical_drawing_has_a_cable_for_every_line(example: Testbed) -> None:
    drawing = ElementTree.parse(DOCS / "at-the-bench-electrical.svg")
    words = [text.text or "" for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert set(example.cabling.reference) | set(example.cabling.trigger_sinks) <= set(words)
    assert words.count("REF") == len(example.cabling.reference)
    assert words.count("TRIG A") + words.count("START") == len(example.cabling.trigger_sinks)


def test_every_command_of_the_page_is_one(qunetlab: Command) -> None:
    commands = set(re.findall(r"(?:^|`)qunetlab ([a-z]+)", PAGE, re.MULTILINE))
    assert {"init", "check", "instruments", "keyrate", "simulate", "relay", "node"} <= commands
    for command in commands:
        assert qunetlab(command, "--help").returncode == 0, command


@pytest.mark.timeout(120)
def test_the_script_turns_the_light_of_a_pair_from_one_detector_to_the_other(
    lab: SimulatedLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (lab.folder / "bench").mkdir()
    (lab.folder / "testbed.toml").rename(lab.folder / "bench" / "testbed.toml")
    monkeypatch.chdir(lab.folder)
    exec(compile(script, "at-the-bench.md", "exec"), {})
    rows = re.findall(r"^(\S+) \[(\d+), (\d+)\] (\S+)$", capsys.readouterr().out, re.MULTILINE)
    counts = {float(level): (int(d1), int(d2)) for level, d1, d2, _ in rows}
    assert len(counts) == 9
    assert counts[0.0][0] > 10 * counts[0.0][1], "equal phases go to D1"
    assert counts[-0.75][1] > 10 * counts[-0.75][0], "pi is at three quarters of the drive"
    delay_ps = tomllib.loads((lab.folder / "bench" / "testbed.toml").read_text(encoding="utf-8"))[
        "calibration"
    ]["detector_delays_ps"][0]
    assert float(rows[4][3]) == pytest.approx(delay_ps % 10_000, abs=50)
    assert not lab.lit
