"""Where Prometheus finds processes: the file says what serves at this moment, and is gone with the run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from lab.runs.supervising.supervised import Run
from lab.runs.supervising.supervisor import Supervisor
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.watched.targets import TRAINING_FILE, Targets
from orchestrator.events.common import Serving
from orchestrator.events.learning import ClientServing


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}/metrics"


def told(path: Path) -> dict[str, str]:
    return {each["labels"]["process"]: each["targets"][0] for each in json.loads(path.read_text())}


def test_a_process_that_was_replaced_is_found_at_its_new_port(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    targets = Targets(path)
    targets.tell({"relay": Serving(metrics=at(1)), "alice": Serving(metrics=at(2)), "bob": Serving()})
    assert told(path) == {"relay": "127.0.0.1:1", "alice": "127.0.0.1:2"}
    targets.tell({"relay": Serving(metrics=at(3)), "alice": Serving(metrics=at(2))})
    assert told(path)["relay"] == "127.0.0.1:3"
    targets.close()
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_takes_nothing_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Targets(tmp_path / "nowhere" / "targets.json").tell({"relay": Serving(metrics=at(1))})
    assert "Prometheus does not find the processes" in caplog.text


def test_a_training_that_joins_a_ring_tells_of_its_clients_as_they_come(tmp_path: Path) -> None:
    path = create_folder(tmp_path / "bench", template_path("simulated-four-node"))
    run = Run(tmp_path, path, Supervisor(tmp_path))
    run.targets = Targets(tmp_path / TRAINING_FILE)
    run.note("fl-alice", ClientServing(metrics=at(5)))
    assert told(tmp_path / TRAINING_FILE) == {"fl-alice": "127.0.0.1:5"}
    run.note("fl-alice", ClientServing(metrics=at(6)))
    assert told(tmp_path / TRAINING_FILE) == {"fl-alice": "127.0.0.1:6"}
    run.stop()
    assert not (tmp_path / TRAINING_FILE).exists()
