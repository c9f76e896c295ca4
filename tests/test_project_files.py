"""What the project says of itself stands once: version, Python versions, extras, figures; and CI runs what people run."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ROOMS = ("drivers", "sim_backends", "lab", "orchestrator", "fl")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_no_module_repeats_the_version() -> None:
    """Whoever needs it reads the installed package's."""
    repeated = re.compile(rf"__version__|[\"']{re.escape(PROJECT['version'])}[\"']")
    modules = [ROOT / "qunetlab.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    assert [path.relative_to(ROOT).as_posix() for path in modules if repeated.search(path.read_text())] == []


def test_the_changelog_knows_the_version() -> None:
    assert PROJECT["version"] in text_of("CHANGELOG.md")


def test_every_extra_is_explained_with_its_size() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", text_of("docs/installing.md"), re.MULTILINE))
    assert set(rows) == set(PROJECT["optional-dependencies"])
    assert all(re.search(r"[\d.]+ [MG]B", row) for row in rows.values())


def test_ci_runs_what_people_run_on_every_python_that_is_promised() -> None:
    workflow = text_of(".github/workflows/ci.yml")
    promised = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each]
    assert re.search(r"python: \[(.*)\]", workflow)[1].replace('"', "").split(", ") == promised  # type: ignore[index]
    assert PROJECT["requires-python"] == f">={promised[0]}"
    assert "- run: .ci/run" in workflow
    made = re.findall(r"^make (\S+)$", text_of(".ci/run"), re.MULTILINE)
    assert made == ["lint", "docs", "test"]
    assert all(re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE) for target in made)


def test_figures_are_what_their_script_draws() -> None:
    for name, draw in runpy.run_path(str(ROOT / "docs/scripts/figures.py"))["FIGURES"].items():
        assert text_of(f"docs/{name}") == draw().svg(), "python docs/scripts/figures.py draws them anew"
