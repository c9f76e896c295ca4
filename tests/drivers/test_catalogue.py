"""The catalogue: rows that fit their drivers, packages that register models, and that nothing else lists models."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drivers import catalogue, kinds
from drivers.base import LabInstrument
from drivers.catalogue import OURS, WHOLE, AddressKind, CatalogueError, Row, SafeOrder

ROOT = Path(__file__).resolve().parents[2]
Register = Callable[..., str]
ROW = """
from drivers.catalogue import *
from drivers import kinds
ROW = Row(model={model!r}, driver="drivers.lasers.nkt_basik:NKTBasik", offers={{kinds.LASER: WHOLE}},
          safe_order=SafeOrder.LIGHT, address=AddressKind.SERIAL)
"""
OFFERED = [
    pytest.param(row, kind, channel, id=f"{row.model}-{kind.name}-{channel}")
    for row in OURS
    for kind, channels in row.offers.items()
    for channel in channels
]


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Leaves behind what installing a package with one entry point does; returns the module's name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(package: str, model: str, code: str, name: str = "ROW") -> str:
        module = f"{package.replace('-', '_')}_{uuid.uuid4().hex}"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{catalogue.GROUP}]\n{model} = {module}:{name}\n")
        importlib.invalidate_caches()
        catalogue._registered.cache_clear()  # the path is as it was, what lies on it is not
        return module

    return add


def members(protocol: Any) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


@pytest.mark.parametrize(("row", "kind", "channel"), OFFERED)
def test_a_driver_has_what_its_kinds_ask_for(row: Row, kind: kinds.Kind[Any], channel: str) -> None:
    """Names, and how many arguments each method takes; that types fit, the type checker says (below)."""
    protocol = next(each for each in vars(kinds).values() if inspect.isclass(each) and is_kind(each, kind))
    instrument = catalogue.driver_class(row.model)("device", "/nowhere" if not row.ports else "127.0.0.1")
    try:
        offering = getattr(instrument, channel) if channel else instrument
        assert len(members(protocol)) >= 1
        for name in members(protocol):
            wanted, found = getattr(protocol, name), getattr(offering, name)
            if inspect.isfunction(wanted):
                assert callable(found)
                assert (
                    list(inspect.signature(found).parameters)
                    == list(inspect.signature(wanted).parameters)[1:]
                )
    finally:
        instrument.close()


def is_kind(protocol: type, kind: kinds.Kind[Any]) -> bool:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", protocol.__name__).lower() == kind.name


def typed_table() -> str:
    """A module that type-checks only if every row's driver is of the kinds that the row declares."""
    lines = ["from drivers import kinds"]
    for number, row in enumerate(OURS):
        module, _, driver = row.driver.partition(":")
        lines.append(f"from {module} import {driver} as Driver{number}")
        for kind, channels in row.offers.items():
            protocol = next(
                n for n, each in vars(kinds).items() if inspect.isclass(each) and is_kind(each, kind)
            )
            for channel in channels:
                name = f"row{number}_{protocol}_{channel}"
                lines.append(f"def {name}(driver: Driver{number}) -> kinds.{protocol}:")
                lines.append(f"    return driver{channel and '.' + channel}")
    return "\n".join(lines)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_type_checker_finds_every_driver_of_its_kinds(tmp_path: Path) -> None:
    table = tmp_path / "typed_table.py"
    table.write_text(typed_table())
    checker = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    checked = subprocess.run([*checker, str(table)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    table.write_text(typed_table().replace("-> kinds.Laser", "-> kinds.Attenuator"))
    wrong = subprocess.run([*checker, str(table)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Incompatible return value type" in wrong.stdout


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.model)
def test_a_driver_is_an_instrument_and_its_twin_stands_in_the_same_folder(row: Row) -> None:
    assert issubclass(catalogue.driver_class(row.model), LabInstrument)
    assert row.twin == row.driver.partition(":")[0].replace("drivers.", "sim_backends.", 1)
    assert callable(importlib.import_module(row.twin).build)


def test_nothing_but_the_catalogue_names_a_model() -> None:
    """Drivers, twins and roles may say it in words of their makers, never in the name that testbed files use."""
    names = [row.model for row in OURS]
    naming = {
        path.relative_to(ROOT).as_posix()
        for room in ("drivers", "sim_backends", "lab", "orchestrator", "fl")
        for path in (ROOT / room).rglob("*.py")
        if any(name in path.read_text(encoding="utf-8") for name in names)
    }
    assert naming == {"drivers/catalogue.py"}


def test_nothing_outside_a_driver_or_the_catalogue_names_a_driver_class() -> None:
    classes = [row.driver.partition(":")[2] for row in OURS]
    pattern = re.compile(rf"import [^\n]*\b({'|'.join(classes)})\b")
    for room in ("lab", "orchestrator", "fl", "sim_backends"):
        for path in (ROOT / room).rglob("*.py"):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_a_laser_of_ours_is_three_files() -> None:
    """Its driver, its twin, its row: no other file of the product says its name."""
    naming = {
        path.relative_to(ROOT).as_posix()
        for room in ("drivers", "sim_backends", "lab", "orchestrator", "fl")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"nkt.?basik", path.read_text(encoding="utf-8"), re.IGNORECASE)
    }
    assert naming == {
        "drivers/catalogue.py",
        "drivers/lasers/nkt_basik.py",
        "sim_backends/lasers/nkt_basik.py",
    }


def test_reading_the_catalogue_imports_no_driver() -> None:
    code = "import sys, drivers.catalogue as c; c.models(); sys.exit('qcodes' in sys.modules or 'pyvisa' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_an_unknown_model_is_told_with_those_there_are() -> None:
    with pytest.raises(
        CatalogueError, match="no driver for 'awg'; known: id-quantique-id900, keysight-33622a"
    ):
        catalogue.driver_class("awg")


class TestRegistered:
    """Packages that are not ours."""

    def test_a_package_adds_a_model(self, register: Register) -> None:
        register("acme", "acme-laser", ROW.format(model="acme-laser"))
        assert catalogue.row("acme-laser").channels(kinds.LASER) == WHOLE
        assert "acme-laser" in catalogue.models()

    def test_a_package_is_not_imported_before_its_model_is_named(self, register: Register) -> None:
        module = register("acme", "acme-laser", ROW.format(model="acme-laser"))
        catalogue.row("nkt-basik")
        assert "acme-laser" in catalogue.models()
        assert module not in sys.modules

    @pytest.mark.parametrize("model", ["acme-laser", "nkt-basik"])
    def test_two_that_register_one_name_are_both_named(self, register: Register, model: str) -> None:
        register("acme", model, ROW.format(model=model))
        register("other", "acme-laser", ROW.format(model="acme-laser"))
        with pytest.raises(CatalogueError) as caught:
            catalogue.row(model)
        assert "package acme 1.0" in str(caught.value)
        assert ("qunetlab" if model == "nkt-basik" else "package other 1.0") in str(caught.value)
        assert "uninstall all but one" in str(caught.value)

    @pytest.mark.parametrize(
        ("code", "says"),
        [
            ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
            ("1 / 0", "ZeroDivisionError"),
            ("raise SystemExit", "fails: SystemExit"),
            ("OTHER = 1", "has no attribute 'ROW'"),
            ("ROW = 'acme'", "is a str, no Row of drivers.catalogue"),
            (
                ROW.format(model="acme-laser").replace("drivers.lasers", "acme.lasers"),
                "is half-declared: there is no module 'acme.lasers.nkt_basik'",
            ),
            (ROW.format(model="acme-lazer"), "is the row of 'acme-lazer'; both names must be the same"),
            (ROW.format(model="acme-laser").replace(":NKTBasik", ""), "half-declared: its driver is"),
            (
                ROW.format(model="acme-laser").replace(": WHOLE", ": ()"),
                "offers no kind, or a kind on no channel",
            ),
            (
                ROW.format(model="acme-laser").replace("SERIAL", "HOST"),
                "an instrument on the network has ports",
            ),
            (
                ROW.format(model="acme-laser").replace("kinds.LASER: WHOLE", "'laser': WHOLE"),
                "its offers is {'laser': ('',)}, not a kind of drivers.kinds with a tuple of channels each",
            ),
            (
                ROW.format(model="acme-laser").replace("WHOLE}", "'ch1'}"),
                "not a kind of drivers.kinds with a tuple of channels each",
            ),
            (
                ROW.format(model="acme-laser").replace("SafeOrder.LIGHT", "'light'"),
                "its safe_order is 'light', not a SafeOrder",
            ),
            (
                ROW.format(model="acme-laser").replace("AddressKind.SERIAL", "'host', ports=('7001',)"),
                "its address is 'host', not an AddressKind; its ports is ('7001',), not a tuple of numbers",
            ),
            (
                ROW.format(model="acme-laser").replace("safe_order=SafeOrder.LIGHT, ", ""),
                "missing 1 required",
            ),
        ],
    )
    def test_a_row_that_cannot_be_had_names_package_and_entry_point(
        self, register: Register, code: str, says: str
    ) -> None:
        module = register("acme", "acme-laser", code)
        with pytest.raises(CatalogueError, match=re.escape(says)) as caught:
            catalogue.row("acme-laser")
        assert f"package acme 1.0 (entry point 'acme-laser' = '{module}:ROW')" in str(caught.value)
        assert catalogue.row("nkt-basik").model == "nkt-basik"

    @pytest.mark.parametrize(
        ("driver", "says"),
        [
            ("Gone", "AttributeError: module '{module}' has no attribute 'Gone'"),
            ("Quits", "SystemExit: no licence"),
            ("Divides", "ZeroDivisionError: division by zero"),
            ("kinds", "is no LabInstrument of drivers.base"),
        ],
    )
    def test_a_driver_that_is_not_what_the_row_says(self, register: Register, driver: str, says: str) -> None:
        broken = """
def __getattr__(name):
    if name == "Quits":
        raise SystemExit("no licence")
    if name == "Divides":
        1 / 0
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
"""
        code = ROW.format(model="acme-laser").replace(
            '"drivers.lasers.nkt_basik:NKTBasik"', f"__name__ + ':{driver}'"
        )
        module = register("acme", "acme-laser", code + broken)
        with pytest.raises(CatalogueError, match=re.escape(says.format(module=module))) as caught:
            catalogue.driver_class("acme-laser")
        assert f"the driver of 'acme-laser', {module}:{driver}" in str(caught.value)
        assert f"package acme 1.0 (entry point 'acme-laser' = '{module}:ROW')" in str(caught.value)

    def test_a_driver_without_a_channel_that_its_row_offers(self, register: Register) -> None:
        register("acme", "acme-laser", ROW.format(model="acme-laser").replace("WHOLE", "('ch7', 'ch8')"))
        for _ in range(2):  # the first is closed: QCoDeS knows no other instrument of this name
            with pytest.raises(
                CatalogueError, match=r"NKTBasik.* has no ch7 and no ch8, which its row offers"
            ):
                catalogue.create_instrument("acme-laser", "device", "/nowhere")


def test_the_floor_of_a_sensor_is_known_before_it_is_opened() -> None:
    floors = {row.model: row.floor_w({}) for row in OURS if kinds.POWER_SENSOR in row.offers}
    assert floors == {"keysight-8163b": 1e-14, "keysight-n7752a": 1e-11, "thorlabs-pm100d": None}
    assert catalogue.row("thorlabs-pm100d").floor_w({"floor_w": 1e-10}) == 1e-10


@pytest.mark.parametrize(
    "row",
    [
        ("thorlabs-osw22", {kinds.OPTICAL_SWITCH: WHOLE}, SafeOrder.PASSIVE, AddressKind.SERIAL, ()),
        (
            "thorlabs-mbx",
            {kinds.BIAS_CONTROLLER: ("mzm",), kinds.ATTENUATOR: ("voa",)},
            SafeOrder.ATTENUATION,
            AddressKind.SERIAL,
            (),
        ),
        (
            "keysight-8163b",
            {kinds.POWER_SENSOR: ("slot1", "slot2")},
            SafeOrder.PASSIVE,
            AddressKind.VISA,
            (5025,),
        ),
        (
            "keysight-n7752a",
            {kinds.ATTENUATOR: ("ch1", "ch3"), kinds.POWER_SENSOR: ("ch5", "ch6")},
            SafeOrder.SHUTTER,
            AddressKind.VISA,
            (5025,),
        ),
        ("toptica-dlc-pro", {kinds.LASER: WHOLE}, SafeOrder.LIGHT, AddressKind.HOST, (1998, 1999)),
        (
            "tektronix-two-channels",
            {kinds.PULSE_CARVER: ("ch1",), kinds.PHASE_MODULATOR: ("ch2",)},
            SafeOrder.SECRETS,
            AddressKind.VISA,
            (4000,),
        ),
        ("oz-epc-400", {kinds.POLARIZATION_CONTROLLER: WHOLE}, SafeOrder.PASSIVE, AddressKind.SERIAL, ()),
    ],
    ids=lambda row: row[0],
)
def test_boxes_of_several_kinds_and_channels_fit_into_a_row(row: tuple[Any, ...]) -> None:
    model, offers, order, address, ports = row
    made = Row(model, "a.module:Class", offers, order, address, ports)
    assert {kind: made.channels(kind) for kind in offers} == offers
