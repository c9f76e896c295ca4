"""A missing extra, a home or a folder that cannot be written: one screen that says what, where, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run_qunetlab

from lab.cli import surroundings

WITHOUT = "import sys; sys.modules[sys.argv.pop(1)] = None; from lab.cli.main import main; main()"


@pytest.mark.parametrize(
    ("module", "command", "told"),
    [
        ("torch", "train digits", "pip install '.[learning]'"),
        ("qiskit", "qpu backends --local", "pip install '.[learning]'"),
        ("uvicorn", "dashboard FOLDER", "install qunetlab again; `qunetlab doctor`"),
    ],
)
def test_what_is_not_installed_is_named_with_what_brings_it(
    module: str, command: str, told: str, tmp_path: Path
) -> None:
    if "FOLDER" in command:
        assert run_qunetlab("init", str(tmp_path / "bench")).returncode == 0
    words = command.replace("FOLDER", str(tmp_path / "bench")).split()
    said = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT, module, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert said.returncode == 2
    assert f"error: {module} is not installed" in said.stderr
    assert told in said.stderr
    assert len(said.stderr.splitlines()) <= 3
    assert not (tmp_path / "qunetlab-runs").exists()


def test_a_home_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = {**os.environ, "HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(tmp_path)}
    env.pop(surroundings.QCODES_HOME, None)
    said = run_qunetlab("check", "simulated-four-node", env=env)
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    place = tmp_path / f"qunetlab-home-{os.getuid()}"
    assert place.stat().st_mode & 0o077 == 0


def test_a_temporary_home_that_somebody_else_made_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"qunetlab-home-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert surroundings._own_temporary().name != f"qunetlab-home-{os.getuid()}"


@pytest.mark.parametrize(
    "command",
    [
        "init FILE/bench",
        "demo --out FILE/demo --rounds 1",
        "new FILE/app",
        "train --config FILE/run.toml",
    ],
)
def test_a_place_that_cannot_be_written_is_told_in_a_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = run_qunetlab(*command.replace("FILE", str(tmp_path / "file")).split(), cwd=tmp_path)
    assert said.returncode in (1, 2), said.stderr
    assert str(tmp_path / "file") in said.stderr
    assert "name " in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_says_whom_to_ask(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    said = run_qunetlab("init", str(tmp_path / "bench"))
    assert said.returncode == 1
    assert "name another place, or ask its owner" in said.stderr
