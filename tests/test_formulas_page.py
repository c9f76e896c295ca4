"""The page of formulas names modules and names that are there, and no module's paper is missing from it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "formulas.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`([a-z_0-9/]+\.py)`((?:,? `[A-Za-z_]+`)*)")
WHERE = [(path, name) for path, names in NAMED.findall(PAGE) for name in re.findall(r"`(\w+)`", names)]
PAPER = re.compile(
    r"arxiv[ :]*(\d{4}\.\d{4,5})|\b(quant-ph/\d{7})|((?:Phys\. Rev|New J\. Phys|J\. Lightwave|Supercond\.)[^,(]*, \d+)",
    re.IGNORECASE,
)
ROOMS = ("orchestrator", "lab", "fl", "sim_backends")


def papers_in(text: str) -> set[str]:
    """Every preprint by its number and every article by journal and page, in one spelling."""
    return {" ".join("".join(found).split()).lower() for found in PAPER.findall(text)}


CITING = {
    path.relative_to(ROOT).as_posix(): papers
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
    if (papers := papers_in(path.read_text(encoding="utf-8")))
}


def test_what_the_page_names_is_defined_there() -> None:
    for path, name in WHERE:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b.*=", text, re.MULTILINE), (path, name)


def test_every_paper_that_a_module_cites_is_on_the_page() -> None:
    on_the_page = papers_in(PAGE)
    assert {path: left for path, papers in CITING.items() if (left := papers - on_the_page)} == {}


def test_there_is_something_to_hold() -> None:
    assert len(WHERE) > 80
    assert len(CITING) > 25
