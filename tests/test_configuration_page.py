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


def test_every_key_is_explained_beside_it_or_by_its_section() -> None:
    sections = [
        found for field in Testbed.model_fields.values() if (found := SCRIPT["section_of"](field.annotation))
    ]
    for section in (Testbed, *sections):
        said, told = SCRIPT["words"](section), SCRIPT["sentence"](section)
        keys = [
            key for key, each in section.model_fields.items() if SCRIPT["section_of"](each.annotation) is None
        ]
        assert [key for key in keys if not said.get(key) and f"`{key}`" not in told] == [], section.__name__


def test_words_are_found_below_a_key_and_behind_it() -> None:
    said = SCRIPT["words"](type(Testbed.model_fields["uncertainty"].default))
    assert said["phase_rad"].startswith("Of each phase of a symbol")
    assert said["attenuator_db"] == "Of a setting."
