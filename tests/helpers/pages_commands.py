"""The commands that README and the pages of docs/ show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def commands_in(page: Path) -> Iterator[str]:
    """The lines of its code blocks that begin with our name, what stands behind a semicolon as well."""
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            parts = line.strip().removeprefix("$ ").split(";")
            yield from (part.strip() for part in parts if part.strip().startswith("qunetlab "))


SHOWN = [(page.name, line) for page in PAGES for line in commands_in(page)]
