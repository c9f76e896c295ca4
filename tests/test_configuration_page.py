"""The page of the testbed file's keys is what the schema says, word for word."""

from __future__ import annotations

import runpy
from pathlib import Path

from lab.testbed import Testbed

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "docs" / "scripts" / "configuration.py"))


def test_the_page_is_what_the_schema_says() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == SCRIPT["page"](), "python docs/scripts/configuration.py writes it anew"


def test_every_section_and_key_stands_on_it() -> None:
    page = SCRIPT["page"]()
    for name, field in Testbed.model_fields.items():
        section = SCRIPT["section_of"](field.annotation)
        keys = [name] if section is None else list(section.model_fields)
        assert all(f"`{key}`" in page or f".{key}" in page for key in keys), name


def test_words_beside_a_key_are_found_below_it_and_behind_it() -> None:
    said = SCRIPT["words"](type(Testbed.model_fields["uncertainty"].default))
    assert said["phase_rad"].startswith("Of each phase of a symbol")
