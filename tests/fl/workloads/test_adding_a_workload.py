"""``docs/adding-a-workload.md`` word for word: its file is written, its commands are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import QUNETLAB

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "adding-a-workload.md").read_text(encoding="utf-8")
FILE = re.compile(r"In `([\w.]+)`:\n\n```python\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINES = re.compile(r"^    (PYTHONPATH=\. qunetlab demo .*)$", re.MULTILINE)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A documented command in ``folder``, with this Python's qunetlab, as if it were installed."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    for name, start in (("python", QUNETLAB[:1]), ("qunetlab", QUNETLAB)):
        (commands / name).write_text(
            f'#!/bin/sh\nPYTHONPATH="{ROOT}:$PYTHONPATH" exec {shlex.join(start)} "$@"\n'
        )
        (commands / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": "",
    }
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def beans(tmp_path: Path) -> Path:
    """A folder with the data and the module of the page."""
    ((name, text),) = FILE.findall(PAGE)
    assert len(text.splitlines()) <= 75
    (tmp_path / name).write_text(text)
    printed = run(COMMANDS.findall(PAGE)[0], tmp_path).stdout.strip()
    assert f'"beans.csv": "{printed}"' in text
    return tmp_path


def test_the_page_trains_its_workload(beans: Path) -> None:
    run(COMMANDS.findall(PAGE)[1], beans)
    results = json.loads((beans / "run" / "results.json").read_text())
    assert results["title"] == "Beans by length and width"
    assert (results["data"][0]["name"], results["data"][0]["source"]) == (
        "beans.csv",
        "measured in our kitchen",
    )
    assert all(row["exact"] for row in results["rounds"])
    assert results["final"]["accuracy_mean"] > 0.9


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_page_runs_its_workload_on_the_ring(beans: Path) -> None:
    (command,) = LINES.findall(PAGE)
    run(f"{command} --out report", beans)
    report = json.loads((beans / "report" / "report.json").read_text())
    assert report["task"] == "beans:BEANS"
    assert any(note.startswith("data: beans.csv (SHA-256 7cbb610c") for note in report["notes"])
    assert report["aggregation"]["exact"] is True
    assert report["rounds"][-1]["accuracy"] > 0.9
