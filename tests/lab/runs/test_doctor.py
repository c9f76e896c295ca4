"""What the doctor says of machines that are well, and of bad ones: each row with what to do."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.runs import doctor
from lab.runs.doctor import Row


def only(rows: Iterator[Row]) -> Row:
    (row,) = rows
    return row


def refuse(*_: object) -> None:
    raise OSError(99, "Cannot assign requested address")


BAD: dict[str, tuple[Iterator[Row], str, str, str]] = {
    "old Python": (doctor.python((3, 9, 1)), "fault", "3.9.1 is too old", "Python 3.11"),
    "one address only": (doctor.loopback(refuse), "warning", "only 127.0.0.1", "lo0 alias"),
    "no letters": (doctor.text_of_terminal("ANSI_X3.4-1968"), "warning", "cannot show", "LANG"),
    "little room": (doctor.disk(Path("/"), 10**9), "warning", "1.0 GB are free", "make room"),
    "alone in time": (doctor.clock(lambda: True), "warning", "follows no other", "set-ntp"),
    "few files": (doctor.open_files(64), "warning", "may have 64", "ulimit -n"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_machine_is_told_with_what_to_do(what: str) -> None:
    rows, verdict, text, advice = BAD[what]
    row = only(rows)
    assert (row.verdict, text in row.text, advice in row.what_to_do) == (verdict, True, True), row


def test_a_stranger_of_our_name_is_a_fault() -> None:
    first = next(doctor.packages(lambda: ["the package 'lab' would come from /elsewhere"]))
    assert first.verdict == "fault"
    assert "rename" in first.what_to_do


def test_a_package_of_our_name_in_the_current_folder_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    assert [row.text for row in doctor.packages(list) if row.verdict == "warning"] == [
        "a package 'drivers' lies in the current folder"
    ]


def test_a_missing_extra_is_no_fault_and_says_how_to_get_it() -> None:
    rows = {row.name: row for row in doctor.extras(lambda name: None if name == "flwr" else name)}
    assert rows["extra learning"].text == "installed"
    assert rows["extra flower"].verdict == "good"
    assert ".[flower]" in rows["extra flower"].what_to_do


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host, port = taken.getsockname()
        row = only(doctor.ports_free([(host, port)]))
    assert row.verdict == "warning"
    assert f"{host}:{port}" in row.text


def test_a_serial_port_that_may_not_be_opened_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ttyUSB0").touch()
    assert only(doctor.serial_ports(tmp_path)).verdict == "good"
    monkeypatch.setattr(os, "access", lambda *_: False)
    row = only(doctor.serial_ports(tmp_path))
    assert row.verdict == "fault"
    assert "dialout" in row.what_to_do


def test_a_slow_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    assert only(doctor.durable_writes(tmp_path)).verdict == "warning"
    assert not list(tmp_path.iterdir())


def test_a_check_that_fails_itself_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield from iter(lambda: Row(str(1 / 0), "good", ""), None)

    monkeypatch.setattr(doctor, "checks", lambda state, ports: [("odd", broken), ("well", doctor.python)])
    odd, well = doctor.examined(tmp_path, [])
    assert (odd.verdict, well.verdict) == ("warning", "good")
    assert "ZeroDivisionError" in odd.text


def test_the_command_says_all_and_its_exit_code_whether_to_begin(qunetlab: Any, tmp_path: Path) -> None:
    done = qunetlab("doctor", "--state", str(tmp_path / "not" / "there"), "--json")
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["verdict"] == "fault" else 0)
    assert {"Python", "packages", "disk", "durable writes", "clock"} <= {row["name"] for row in told["rows"]}
    assert not (tmp_path / "not").exists()
    people = qunetlab("doctor")
    assert "fsync takes" in people.stdout


def test_what_a_distribution_needs_is_read_from_its_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=2.0",
        "qcodes[loop] (~=0.5); python_version < '4'",
        "zope.interface @ https://example.org/z.whl",
        "pyzmq!=27; extra == 'zmq'",
        "PyVISA-py",
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    assert list(doctor._needed("x")) == ["numpy", "qcodes", "zope.interface", "PyVISA-py"]
