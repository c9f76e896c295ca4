"""``qunetlab instruments scan``: what answers, asked without changing anything."""

from __future__ import annotations

import json
import os
import random
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from drivers.catalogue import row
from drivers.links import serial_ports
from lab.runs.testbeds.folder import template_path
from lab.scanning import Place, _look, scan
from lab.testbed import parse_testbed, resolve_addresses, write_testbed
from sim_backends.attenuators.oz_dd100 import OzDD100Twin
from sim_backends.bench import Bench
from sim_backends.bias_controllers.thorlabs_mbx import ThorlabsMBXTwin
from sim_backends.switches.thorlabs_osw22 import ThorlabsOSW22Twin


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[Bench, dict[str, Any]]]:
    """A simulated bench, and its testbed file with the addresses in use."""
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    with Bench(parse_testbed(data, Path("t")), random.Random(5)) as made:
        yield made, resolve_addresses(data, made.addresses)


def settings(bench: Bench) -> dict[str, dict[str, object]]:
    """What the instruments are set to; how often they were asked is no setting."""
    return {
        name: {key: value for key, value in state.items() if key != "requests"}
        for name, state in bench.states().items()
    }


def test_every_instrument_of_a_bench_is_found_as_its_file_has_it(
    qunetlab: Any, bench: tuple[Bench, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, data = bench
    monkeypatch.setattr(serial_ports, "present", lambda: [])
    write_testbed(data, tmp_path / "t.toml")
    before = settings(made)
    listed = qunetlab("instruments", "scan", str(tmp_path / "t.toml"), "--json")
    assert listed.returncode == 0, listed.stderr
    found = {each["name"]: each for each in json.loads(listed.stdout)["found"]}
    for number, entry in enumerate(data["instruments"], start=1):
        each = found[entry["name"]]
        assert (each["address"], each["model"]) == (entry["address"], entry["model"])
        assert str(number) in each["identity"]["serial_number"] or not row(entry["model"]).has_serial_number
    assert settings(made) == before, "nothing was set"


def test_a_host_is_enough_to_find_what_answers_there(
    bench: tuple[Bench, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = bench
    monkeypatch.setattr(serial_ports, "present", lambda: [])
    address = made.addresses["awg_alice"]
    host = address.split("::")[1]
    tagger = made.addresses["tagger"].partition(":")[0]
    found = {each.address: each.model for each in scan((), [host, tagger])}
    assert found == {address: "tektronix-awg70002a", tagger: "id-quantique-id900"}


@pytest.mark.parametrize(
    ("model", "make"),
    [
        ("oz-dd100", lambda: OzDD100Twin(serial_number="77")),
        ("thorlabs-mbx", lambda: ThorlabsMBXTwin(serial_number="77")),
        ("thorlabs-osw22", ThorlabsOSW22Twin),
    ],
)
def test_a_port_is_asked_by_one_driver_after_the_other_until_one_knows_the_answer(
    model: str, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(make()) as twin:
        path = twin.serve()
        port = serial_ports.Port(path, "USB UART", "77", "")
        monkeypatch.setattr(serial_ports, "present", lambda: [port])
        monkeypatch.setattr("lab.scanning.ANSWER_S", 0.3)
        (found,) = scan((), ())
        assert (found.address, found.model) == (path, model)
        assert found.identity is not None
        assert found.identity.serial_number == "77"


def test_a_port_that_another_program_has_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ttyUSB0"
    path.touch()
    monkeypatch.setattr(serial_ports, "holders", lambda device: ["process 12 (minicom)"])
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments))
    found = _look(Place(str(path), (row("oz-dd100"),)))
    assert found.note == "not asked: process 12 (minicom) has it"
    assert not opened
