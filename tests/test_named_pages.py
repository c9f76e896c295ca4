"""Every page that code, tests and pages name is there, with the heading that is named; every link of a page leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("drivers", "sim_backends", "lab", "orchestrator", "fl", "tests", "docs", ".github", ".ci")
KINDS = {".py", ".md", ".toml", ".yml", ".html", ".js"}
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in KINDS and "vendor" not in path.parts and path != Path(__file__)
) + [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")]
PAGE = re.compile(r"(?<![\w/:.@-])((?:[\w.-]+/)*[\w-]+\.md)\b(?:, ([A-Z][\w' -]+?)(?=[).;:\"]|\s\s|$))?")
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ELSEWHERE = {"COMMAND_COVERAGE.md", "NNNN-title.md"}
"""Pages of other projects that a source names, and what stands for any name."""


def headings(page: Path) -> set[str]:
    return {found.replace("`", "") for found in HEADING.findall(page.read_text(encoding="utf-8"))}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown's renderers make them."""
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", each.lower()).strip()) for each in headings(page)}


def found(name: str, named_in: Path) -> Path | None:
    """The page of that name: from the root, from the pages' folder, or from where it is named."""
    places = (ROOT / name, ROOT / "docs" / name, named_in.parent / name)
    return next((place for place in places if place.is_file()), None)


def wrong_names(path: Path) -> Iterator[str]:
    text = re.sub(r"\s*\n\s*", " ", path.read_text(encoding="utf-8"))
    for name, heading in PAGE.findall(text):
        page = found(name, path)
        if page is None and Path(name).name not in ELSEWHERE:
            yield f"no page {name}"
        elif page is not None and heading and name.startswith("docs/") and heading not in headings(page):
            yield f"{name} has no heading {heading!r}"


def wrong_links(path: Path) -> Iterator[str]:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        if not page.exists():
            yield f"{target} leads nowhere"
        elif anchor and anchor not in anchors(page):
            yield f"{target}: the page has no such heading"


def test_every_page_that_a_file_names_is_there() -> None:
    assert [(path.relative_to(ROOT).as_posix(), wrong) for path in FILES for wrong in wrong_names(path)] == []


def test_every_link_of_a_page_leads_somewhere() -> None:
    pages = [path for path in FILES if path.suffix == ".md"]
    assert [(page.relative_to(ROOT).as_posix(), wrong) for page in pages for wrong in wrong_links(page)] == []


def test_pages_and_headings_that_are_missing_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\nsee NOWHERE.md and docs/formulas.md, No such heading.\n"
        "[one](nowhere.svg), [two](#another), [three](#a-heading)\n"
    )
    assert list(wrong_names(page)) == [
        "no page NOWHERE.md",
        "docs/formulas.md has no heading 'No such heading'",
    ]
    assert list(wrong_links(page)) == [
        "nowhere.svg leads nowhere",
        "#another: the page has no such heading",
    ]
