"""What is shipped, as its user has it: a wheel in an environment of its own, used from a folder of other people's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.request import urlopen

import pytest
from packaging.requirements import Requirement

from lab.runs.extras import EXTRA_OF, EXTRAS

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("drivers", "fl", "lab", "orchestrator", "sim_backends")


@dataclass(frozen=True)
class Installed:
    """``python`` and ``command`` of an environment that holds the wheel; ``place`` has folders named like ours."""

    python: Path
    command: Path
    place: Path
    names: frozenset[str]

    def run(
        self,
        *command: str,
        blocked: Sequence[str] = (),
        python_path: str | None = None,
        within_s: float = 100.0,
    ) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if python_path:
            environment["PYTHONPATH"] = python_path
        environment["QUNETLAB_TEST_BLOCKED"] = " ".join(blocked)
        return subprocess.run(
            command, cwd=self.place, env=environment, capture_output=True, text=True, timeout=within_s
        )


BLOCKER = """import os, sys
for name in os.environ.get("QUNETLAB_TEST_BLOCKED", "").split():
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment that finds its dependencies where this one has them, and ours nowhere else."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "qunetlab.py"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(base), str(source)]
    subprocess.run([*pip, *build], check=True, timeout=100, capture_output=True)
    (wheel,) = base.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = frozenset(archive.namelist())
    home = base / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=100)
    python = home / "bin" / "python"
    subprocess.run(
        [
            *pip,
            "--python",
            str(python),
            "install",
            "--no-deps",
            "--no-index",
            "--ignore-installed",
            str(wheel),
        ],
        check=True,
        timeout=100,
        capture_output=True,
    )
    (site,) = home.glob("lib/python*/site-packages")
    # A path file names the folder of the dependencies; path files in that folder, such as that of an editable
    # installation of ours, are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # By a path file, for Debian's Python has a sitecustomize of its own.
    (site / "blocker_of_test.py").write_text(BLOCKER)
    (site / "blocker_of_test.pth").write_text("import blocker_of_test\n")
    place = base / "elsewhere"
    for room in ROOMS:
        (place / room).mkdir(parents=True)
        (place / room / "__init__.py").write_text("raise RuntimeError('a stranger was imported')\n")
    return Installed(python, home / "bin" / "qunetlab", place, names)


def test_the_wheel_holds_our_packages_with_their_files_and_no_strangers(installed: Installed) -> None:
    tops = {name.split("/")[0] for name in installed.names if ".dist-info/" not in name}
    assert tops == {*ROOMS, "qunetlab.py"}
    example = {"README.md", "pyproject.toml", "digits_app/client_app.py", "digits_app/server_app.py"}
    assert {f"fl/carriers/flower/example/{name}" for name in example} <= installed.names
    tracked = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked <= installed.names
    assert {f"{room}/py.typed" for room in ROOMS} <= tracked


@pytest.mark.parametrize("way", ["command", "module"])
def test_folders_of_our_packages_names_in_the_current_directory_do_no_harm(
    installed: Installed, way: str
) -> None:
    command = [str(installed.command)] if way == "command" else [str(installed.python), "-m", "qunetlab"]
    folder = f"bench-{way}"
    told = installed.run(*command, "init", folder, "--host", "127.0.0.1")
    assert told.returncode == 0, told.stderr
    told = installed.run(*command, "check", folder, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_runs_from_the_wheel_beside_folders_of_our_names(installed: Installed) -> None:
    told = installed.run(str(installed.command), "demo", "--rounds", "2", "--json", within_s=500)
    assert told.returncode == 0, told.stderr
    page = (installed.place / "qunetlab-demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 6


def test_the_dashboard_serves_all_of_its_pages_and_scripts_from_the_wheel(installed: Installed) -> None:
    told = installed.run(str(installed.command), "init", "watched", "--host", "127.0.0.1")
    assert told.returncode == 0, told.stderr
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    static = [
        name.removeprefix("lab/dashboard/")
        for name in installed.names
        if name.startswith("lab/dashboard/static/")
    ]
    assert len(static) > 15
    with subprocess.Popen(
        [str(installed.command), "dashboard", "watched", "--json"],
        cwd=installed.place,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as serving:
        assert serving.stdout is not None
        try:
            url = json.loads(serving.stdout.readline())["url"]
            with urlopen(url, timeout=20) as page:
                assert "static/app.js" in page.read().decode()
            for name in static:
                if Path(name).suffix in (".js", ".css", ".svg"):
                    with urlopen(url + name, timeout=20) as file:
                        assert file.read(), name
        finally:
            serving.terminate()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_keys_are_made_without_the_learning_libraries(installed: Installed) -> None:
    told = installed.run(
        str(installed.command), "keygen", "alice", "bob", "--json", blocked=list(EXTRA_OF), within_s=250
    )
    assert told.returncode == 0, told.stderr


def test_the_source_runs_in_its_own_folder_beside_another_installation(installed: Installed) -> None:
    source = installed.place.parent / "source"
    told = subprocess.run(
        [str(installed.python), "-m", "qunetlab", "--help"],
        cwd=source,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.returncode == 0, told.stderr


def test_a_module_that_would_shadow_a_package_of_ours_is_named(installed: Installed) -> None:
    folder = installed.place.parent / "modules"
    folder.mkdir()
    (folder / "fl.py").write_text("raise RuntimeError('a stranger was imported')\n")
    told = installed.run(str(installed.command), "--help", python_path=str(folder))
    assert told.returncode == 1
    assert f"'fl' would come from {folder / 'fl.py'}" in told.stderr


def test_packages_that_would_shadow_ours_are_refused_by_their_place(installed: Installed) -> None:
    told = installed.run(str(installed.command), "--help", python_path=str(installed.place))
    assert told.returncode == 1
    assert f"'drivers' would come from {installed.place / 'drivers'}" in told.stderr
    assert "PYTHONPATH" in told.stderr
    assert "Traceback" not in told.stderr


EVERY_ROLE = """import importlib, pathlib, qunetlab
home = pathlib.Path(qunetlab.__file__).parent
for room in ("drivers", "sim_backends", "orchestrator", "lab"):
    for path in sorted((home / room).rglob("*.py")):
        parts = path.relative_to(home).with_suffix("").parts
        if "qpu" not in path.name:
            importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
print("all")
"""


def test_operating_needs_no_learning_libraries_and_training_names_their_extra(installed: Installed) -> None:
    told = installed.run(str(installed.python), "-P", "-c", EVERY_ROLE, blocked=list(EXTRA_OF))
    assert told.stdout == "all\n", told.stderr
    told = installed.run(str(installed.command), "train", "digits", "--quick", blocked=list(EXTRA_OF))
    assert told.returncode == 2, told.stderr
    assert "extra 'learning'" in told.stderr
    assert "Traceback" not in told.stderr


def test_every_module_of_an_extra_is_known_by_name() -> None:
    """Of the libraries that an extra lists, none is told as an unexpected error when it is missing."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    modules = packages_distributions()
    for extra in EXTRAS:
        for line in extras[extra]:
            name = Requirement(line).name
            if name == "libusb-package":  # nothing imports it by name: PyUSB asks whether it is there
                continue
            imported = {module for module, owners in modules.items() if name in owners}
            assert not imported or any(EXTRA_OF.get(module) == extra for module in imported), name
