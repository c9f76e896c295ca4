"""The page on architecture names what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
PATH = re.compile(r"`((?:drivers|sim_backends|lab|orchestrator|fl|tests|docs)/[^`\s]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    paths = set(PATH.findall(page.read_text(encoding="utf-8")))
    missing = {path for path in paths if "NAME" not in path and not any(ROOT.glob(path.rstrip("/")))}
    assert not missing


def test_every_room_of_the_learning_and_the_orchestrator_has_its_place_on_the_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)(?:/|\.py)?`", text))
    for room in ("orchestrator", "fl", "lab/runs"):
        inside = {
            path.stem
            for path in (ROOT / room).iterdir()
            if path.is_dir() and path.name != "__pycache__" and (path / "__init__.py").exists()
        }
        assert inside <= named, inside - named
