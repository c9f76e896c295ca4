"""A node serves its applications over HTTPS, or says why it does not and goes on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from key_delivery import SAES, KeyWorld
from served_keys import served_keys

from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed
from orchestrator.events.delivery import KeyServerFault
from orchestrator.processes.node_https import serving


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
