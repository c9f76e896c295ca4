"""A laser that another package brings through its entry point runs in the ring without an edit in our tree.

``acme_laser`` beside this file is copied to a folder of its own and registered as installing it would do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run_qunetlab

from lab.runs.testbeds.folder import template_path
from lab.station import Station
from lab.testbed import load_testbed, parse_testbed, resolve_addresses, write_testbed
from orchestrator.light.launching import Launching, PlannedLight, RelayInstruments
from sim_backends.bench import Bench, BenchError

SMALL = {"slots_per_frame": 1 << 20, "pulses_per_block": 1 << 25}
ENTRY = "[qunetlab.instruments]\nacme-sl1 = acme_laser:ROW\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that holds the package, on the path of this process and of those that it starts."""
    site = tmp_path / "site-packages"
    shutil.copytree(
        Path(__file__).parent / "acme_laser",
        site / "acme_laser",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    info = site / "acme_laser-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-laser\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(ENTRY)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(":")
    )
    yield site
    for name in [name for name in sys.modules if name.startswith("acme_laser")]:
        del sys.modules[name]


def content() -> dict[str, Any]:
    """The bundled testbed with the third party's laser in the place of ours."""
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= SMALL
    next(entry for entry in data["instruments"] if entry["name"] == "laser")["model"] = "acme-sl1"
    return data


def test_it_is_checked_simulated_and_gives_the_light_that_the_relay_asks_for(
    installed: Path, tmp_path: Path
) -> None:
    write_testbed(content(), tmp_path / "t.toml")
    checked = run_qunetlab("check", str(tmp_path / "t.toml"))
    assert checked.returncode == 0, checked.stderr
    with Bench(load_testbed(tmp_path / "t.toml")) as bench:
        data = resolve_addresses(content(), bench.addresses)
        for entry in data["instruments"]:
            entry["options"] = bench.options[entry["name"]]
        testbed = parse_testbed(data, tmp_path)
        for user in ("alice", "bob"):
            bench.ring.set_switch(user, False)
        with Station(testbed, "relay") as station:
            assert station.identities["laser"].model == "SL1"
            launching = Launching(testbed, RelayInstruments.of(station))
            launching.set_up()
            assert bench.ring.sensor_power_w("alice", "ccw") == 0
            launching.open(PlannedLight(56.0))
            assert bench.ring.sensor_power_w("alice", "ccw") > 0
            assert "laser" in bench.unsafe()
        assert bench.ring.sensor_power_w("alice", "ccw") == 0
        owned = {entry.name for entry in testbed.owned_by("relay")}
        assert not owned & set(bench.unsafe())


def test_without_its_package_the_testbed_says_which_models_there_are(tmp_path: Path) -> None:
    write_testbed(content(), tmp_path / "t.toml")
    checked = run_qunetlab("check", str(tmp_path / "t.toml"))
    assert checked.returncode == 2
    assert "instruments[0].model: no driver for 'acme-sl1'; known: id-quantique-id900" in checked.stderr


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (
            lambda site: (site / "acme_laser" / "__init__.py").write_text("import acme_runtime\n"),
            "instruments[0].model: package acme-laser 2.1 (entry point 'acme-sl1' = 'acme_laser:ROW') fails: "
            "ModuleNotFoundError: No module named 'acme_runtime'",
        ),
        (
            lambda site: (site / "acme_laser" / "driver.py").unlink(),
            "= 'acme_laser:ROW') is half-declared: there is no module 'acme_laser.driver'",
        ),
    ],
)
def test_a_broken_package_is_named_by_check(
    installed: Path, tmp_path: Path, break_it: Any, says: str
) -> None:
    break_it(installed)
    write_testbed(content(), tmp_path / "t.toml")
    checked = run_qunetlab("check", str(tmp_path / "t.toml"))
    assert checked.returncode == 2
    assert says in checked.stderr
    assert "Traceback" not in checked.stderr


def test_the_page_about_adding_an_instrument_shows_this_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "adding-an-instrument.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL))
    assert (Path(__file__).parent / "acme_laser" / "__init__.py").read_text().endswith(blocks["python"])
    registered = tomllib.loads(blocks["toml"])["project"]["entry-points"]["qunetlab.instruments"]
    assert registered == {"acme-sl1": "acme_laser:ROW"}
    assert '"acme-sl1"' in page.partition("In the testbed file")[2]


def test_a_model_without_a_twin_needs_a_real_address(installed: Path, tmp_path: Path) -> None:
    row = installed / "acme_laser" / "__init__.py"
    row.write_text(row.read_text().replace('    twin="acme_laser.twin",\n', ""))
    with pytest.raises(BenchError, match="laser: no simulated 'acme-sl1'; give it a real address"):
        Bench(parse_testbed(content(), tmp_path))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def make(site): pass", "fails: AttributeError: module 'acme_laser.twin' has no attribute 'build'"),
        ("def (", "fails: SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "fails: SystemExit: 0"),
        ("def build(site): 1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("def build(site): return 5", "gives a int, no Simulated of sim_backends.site"),
    ],
)
def test_a_twin_that_cannot_be_built_is_named(installed: Path, tmp_path: Path, code: str, says: str) -> None:
    (installed / "acme_laser" / "twin.py").write_text(code)
    with pytest.raises(BenchError, match=re.escape(says)) as caught:
        Bench(parse_testbed(content(), tmp_path))
    assert "laser: the twin of 'acme-sl1', acme_laser.twin:build" in str(caught.value)
    assert "package acme-laser 2.1" in str(caught.value)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_demo_runs_with_it(installed: Path, tmp_path: Path) -> None:
    write_testbed(content(), tmp_path / "t.toml")
    out = tmp_path / "out"
    ended = run_qunetlab(
        "demo", "--testbed", str(tmp_path / "t.toml"), "--rounds", "1", "--out", str(out), timeout_s=300
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["aggregation"]["exact"] is True
    assert all(row["secret_bits"] > 0 for row in report["pairs"])
    assert report["instruments"]["unsafe"] == []
    assert set(report["instruments"]["states"]["laser"]) == {"power_mw", "on"}
