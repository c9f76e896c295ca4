"""``docs/quick-start.md`` word for word: the commands of its sections are run, those of a minute or more as long tests."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import QUNETLAB

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "quick-start.md").read_text(encoding="utf-8")


def commands_of(section: str) -> str:
    """The shell lines of the section with that number."""
    (text,) = re.findall(rf"^## {section}\. .*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))


def run(commands: str, folder: Path) -> str:
    """What they print, run one after the other with this Python's qunetlab."""
    assert "qunetlab" in commands
    (folder / "bin").mkdir(exist_ok=True)
    command = folder / "bin" / "qunetlab"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(QUNETLAB)} "$@"\n')
    command.chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_numbers_without_a_ring(tmp_path: Path) -> None:
    ideal, on_a_ring = run(commands_of("2"), tmp_path).split("pair ", 1)
    rate = re.compile(r"key_rate_per_pulse +([\d.e-]+)")
    assert float(rate.findall(ideal)[0]) > float(rate.findall(on_a_ring)[0]) > 0
    assert "launch_attenuation_db" in on_a_ring


def test_a_ring_of_ones_own_and_the_mistake_that_the_page_makes_on_purpose(tmp_path: Path) -> None:
    printed = run(commands_of("3"), tmp_path)
    assert printed.count("own light") == 6
    assert re.search(r"^phase +alice", printed, re.MULTILINE)
    file = tmp_path / "ring" / "testbed.toml"
    wrong, said = "bias_ua = [20e-6, 20e-6]", re.findall(r"^(?:error:| +detectors).*$", PAGE, re.MULTILINE)
    assert wrong in PAGE
    text, replaced = re.subn(r"bias_ua = \[[^]]*\]", wrong, file.read_text(encoding="utf-8"))
    assert replaced == 1
    file.write_text(text, encoding="utf-8")
    told = run("qunetlab check ring 2>&1 || test $? = 2", tmp_path)
    assert len(said) == 2
    assert all(line in told for line in said)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_key_for_one_pair_and_a_first_training(tmp_path: Path) -> None:
    assert "stored True" in run(commands_of("4"), tmp_path)
    run(commands_of("5"), tmp_path)
    results = json.loads((tmp_path / "first-run" / "results.json").read_text())
    assert {row["exact"] for row in results["rounds"]} == {True}
