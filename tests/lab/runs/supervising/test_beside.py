"""A dashboard beside a run: it serves while the run goes on, ends with it, and does not end it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.cli.errors import explain
from lab.cli.main import app
from lab.runs.supervising.beside import dashboard_beside
from lab.runs.supervising.supervised import Run
from lab.runs.supervising.supervisor import Supervisor
from lab.runs.testbeds.folder import create_folder, template_path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    path = create_folder(tmp_path / "testbed", template_path("simulated-reference"))
    (tmp_path / "logs").mkdir()
    return Run(tmp_path / "logs", path, Supervisor(tmp_path / "logs"))


def test_it_serves_until_the_run_ends(run: Run) -> None:
    told: list[str] = []
    with dashboard_beside(run, lambda *each: told.extend(each)):
        url, token = told
        assert token == (run.state / "dashboard" / "token").read_text()
        who = json.loads(urllib.request.urlopen(f"{url}api/who", timeout=30).read())
        assert who["testbed"] == run.testbed.name
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}api/who", timeout=30)
    assert run.supervisor.drain() == []


def test_one_that_does_not_start_is_told_and_the_run_goes_on(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.testbed_path.write_text("name = [")
    went_on = False
    with dashboard_beside(run, lambda *_: pytest.fail("there is none")):
        went_on = True
    assert went_on
    assert "no dashboard: starting dashboard: dashboard ended with exit code 2" in capsys.readouterr().err


def test_nobody_looks_where_nobody_asked(run: Run) -> None:
    with dashboard_beside(run, None):
        assert not (run.state / "dashboard").exists()


def test_training_without_a_ring_has_nothing_to_show(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "digits", "--dashboard", "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, Exception)
    assert explain(done.exception)[0] == 2
    assert "--testbed" in explain(done.exception)[1]
