"""A node serves its applications over HTTPS, or says why it does not and goes on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from key_delivery import SAES, KeyWorld
from served_keys import served_keys

from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed
from orchestrator.events.delivery import (
    DeliveryEvent,
    KeyCallerTurnedAway,
    KeyRequestAnswered,
    KeyServerFault,
)
from orchestrator.processes.few_lines import FewLines
from orchestrator.processes.node_https import log, serving


def made(folder: Path, applications: dict[str, str]) -> Path:
    return create_folder(folder / "bench", template_path("simulated-reference"), applications=applications)


def test_a_node_with_applications_serves_them(tmp_path: Path) -> None:
    with served_keys(tmp_path) as served:
        assert served.alice.startswith("https://127.0.0.1:")


def test_a_node_without_applications_serves_nobody(tmp_path: Path) -> None:
    file = made(tmp_path, {})
    secrets = file.parent / "secrets" / "alice"
    with (
        KeyWorld(tmp_path) as world,
        serving(load_testbed(file), "alice", world.desks["alice"], secrets, world.told.append) as where,
    ):
        assert where == ""


def test_a_node_with_certificates_of_no_use_says_so_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = made(tmp_path, {name: entry.user for name, entry in SAES.items()})
    secrets = file.parent / "secrets" / "alice"
    (secrets / "kme-cert.pem").unlink()
    with (
        KeyWorld(tmp_path) as world,
        caplog.at_level(logging.ERROR),
        serving(load_testbed(file), "alice", world.desks["alice"], secrets, world.told.append) as where,
    ):
        assert where == ""
    assert KeyServerFault("starting", "CertificateError") in world.told
    assert "kme-cert.pem is missing" in caplog.text


def test_strangers_fill_no_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("orchestrator.runtime.now", lambda: now_s)
    few = FewLines()

    def lines(event: DeliveryEvent, times: int) -> list[str]:
        caplog.clear()
        for _ in range(times):
            log(event, few)
        return [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.INFO):
        stranger = KeyCallerTurnedAway("10.0.0.1", "handshake", detail="no certificate")
        said = lines(stranger, 5000)
        assert len(said) == 10
        assert said[0] == "keys: '' at 10.0.0.1 turned away: handshake no certificate"
        assert said[-1].endswith("; more of these are only counted for 60 s")
        other = KeyCallerTurnedAway("10.0.0.2", "certificate in use at another address", "app1", "10.0.0.3")
        assert len(lines(other, 1)) == 1, "a flood hides nothing else"
        assert len(lines(KeyRequestAnswered("app1", "GET", "status", "app2", 200, 0, 0.1), 50)) == 50
        now_s += 60.0
        assert lines(stranger, 1)[0].endswith("; 4990 more before were only counted")
        assert lines(stranger, 1)[0].endswith("no certificate")
