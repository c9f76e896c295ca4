"""Code that pages show is code of the tree: each excerpt names its file, and every piece of it stands there word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXCERPT = re.compile(r"```py\n# (\S+\.py)\n(.*?)```", re.DOTALL)
SHOWN = [
    (page.name, path, piece)
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for path, code in EXCERPT.findall(page.read_text(encoding="utf-8"))
    for piece in code.split("\n...\n")
]


@pytest.mark.parametrize(("page", "path", "piece"), SHOWN)
def test_every_piece_stands_in_its_file(page: str, path: str, piece: str) -> None:
    assert piece.strip("\n") in (ROOT / path).read_text(encoding="utf-8")


def test_there_are_excerpts() -> None:
    assert len(SHOWN) > 10
