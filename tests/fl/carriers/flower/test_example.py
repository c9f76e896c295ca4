"""The example: its documented line, word for word, and that nothing of it is fetched by name from an index."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")
from flower_home import flower_home, stop_superlink

import fl.carriers.flower
from lab.cli.main import app as cli
from tests.fl.carriers.flower.conftest import call_apps

EXAMPLE = Path(fl.carriers.flower.__file__).parent / "example"
ROOT = Path(fl.carriers.flower.__file__).parents[3]
INSTALLERS = re.compile(
    r"\b(pip3?|pipx|uv|uvx|poetry|conda)\b[^\n]*\b(install|add|sync|run|--with|--from)\b[^\n]*"
)
OURS = re.compile(r"(?<![\w./-])qunetlab(?=[\[=<>~!\s\"'`,;)]|$)")
"""The distribution's name where an installer would look it up; paths and file names are something else."""


def documented_line() -> str:
    """The command of the README's section on simulation, with its continuation lines."""
    section = (EXAMPLE / "README.md").read_text(encoding="utf-8").split("## Simulation")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    assert lines, "the README documents no command"
    assert lines[0].startswith("flwr run .")
    return "\n".join(lines)


def requirements(pyproject: Path) -> list[str]:
    """Everything that a pyproject.toml has an installer fetch."""
    data = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = data.get("project", {})
    found = [*data.get("build-system", {}).get("requires", []), *project.get("dependencies", [])]
    groups = {**project.get("optional-dependencies", {}), **data.get("dependency-groups", {})}
    return [*found, *(str(each) for group in groups.values() for each in group)]


def tracked() -> list[Path]:
    """The files of the tree that somebody reads or runs; of a copy without git, all but hidden ones."""
    places = [
        path for path in ROOT.iterdir() if not path.name.startswith((".", "build")) and "egg" not in path.name
    ]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    return [
        path
        for path in files
        if path.suffix in (".py", ".md", ".toml", ".txt", ".sh", ".cfg") or path.name == "Makefile"
    ]


def test_no_project_of_ours_asks_an_index_for_our_name() -> None:
    """Whoever registers a name gets code into every run that asks for it."""
    projects = [path for path in tracked() if path.name == "pyproject.toml"]
    assert EXAMPLE / "pyproject.toml" in projects
    for path in projects:
        assert not [each for each in requirements(path) if re.match(r"qunetlab\b", each, re.IGNORECASE)], path
    assert requirements(EXAMPLE / "pyproject.toml") == [
        "hatchling"
    ]  # to build it; Flower fetches dependencies


def test_no_page_or_message_has_our_name_installed_from_an_index() -> None:
    told = [
        f"{path}: {command}"
        for path in tracked()
        if path != Path(__file__)
        for command in (match.group() for match in INSTALLERS.finditer(path.read_text(encoding="utf-8")))
        if OURS.search(command)
    ]
    assert not told


def flower_says(command: str, app: Path, home: Path) -> str:
    """What a command of Flower's says in the folder ``app``, with a home of its own."""
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=app,
            env={**os.environ, **flower_home(home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    finally:
        stop_superlink(home)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    return told


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_documented_line_trains_word_for_word(tmp_path: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("__pycache__"))
    told = flower_says(documented_line(), app, tmp_path / "home")
    assert "keys are simulated" in told
    accuracies = [float(each) for each in re.findall(r"'accuracy': '([0-9.e+-]+)'", told)]
    assert accuracies, told
    assert accuracies[-1] > 0.9


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_new_app_trains_with_the_line_that_is_told(tmp_path: Path) -> None:
    told = CliRunner().invoke(cli, ["new", str(tmp_path / "my-app"), "--json"])
    assert told.exit_code == 0, told.output
    line = json.loads(told.stdout)["run"]
    assert f"    {line}\n" in (tmp_path / "my-app" / "README.md").read_text(encoding="utf-8")
    log = flower_says(line, tmp_path / "my-app", tmp_path / "home")
    assert len(re.findall(r"round \d: \S+ kbit of key \(simulated\) used, 6 pairs", log)) == 5, log
    assert float(re.findall(r"'accuracy': '([0-9.e+-]+)'", log)[-1]) > 0.85, log


def test_a_node_opens_a_module_that_its_operator_named_and_a_simulation_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fl.carriers.flower.example.digits_app.client_app import task_of
    from fl.workloads import UnknownTaskError

    module = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text("from fl.workloads.digits.task import Digits\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def opened(**node: str) -> str:
        run = {"task": f"{module}:Digits", "data": ""}
        return task_of(SimpleNamespace(run_config=run, node_config=node)).name  # type: ignore[arg-type]

    for node in ({"user": "alice"}, {"user": "alice", "task": "digits"}):
        with pytest.raises(UnknownTaskError, match="not its operator who named it"):
            opened(**node)
    assert module not in sys.modules
    assert opened(user="alice", task=f"{module}:Digits") == "digits"
    assert opened(**{"partition-id": "0"}) == "digits"


def test_the_example_trains_in_a_call_of_each_of_its_apps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the configuration of its own pyproject and simulated keys, without Flower's processes."""
    from fl.carriers.flower.example.digits_app.client_app import app as client_app
    from fl.carriers.flower.example.digits_app.server_app import app as server_app

    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    results = tmp_path / "results.json"
    config = {
        **project["tool"]["flwr"]["app"]["config"],
        **{"key-supply": "simulated", "clients": 4, "rounds": 2},
        **{"state-folder": str(tmp_path / "state"), "results": str(results)},
    }
    call_apps(client_app, server_app, config)
    found = json.loads(results.read_text(encoding="utf-8"))
    assert [entry["reason"] for entry in found["rounds"]] == ["", ""]
    assert found["accuracy"][-1] > 0.8
