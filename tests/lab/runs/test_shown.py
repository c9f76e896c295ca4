"""Text of others on a terminal or a page: nothing of it acts."""

from __future__ import annotations

import ast
import json
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import lab.cli
from lab.runs.shown import HIDDEN, encodable, html_text, shown, shown_lines

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>\r\nRUNNING\u202egnissim\u2066\x9b31m\u200b\u2028'\""
)


def test_hostile_text_is_shown_as_it_is_and_does_nothing() -> None:
    text = shown(HOSTILE)
    assert text.startswith("\\u001b[2J\\u001b]0;owned\\u0007<script>")
    assert "\\u000d\\u000aRUNNING\\u202egnissim\\u2066\\u009b31m\\u200b\\u2028" in text
    assert "<" not in html_text(HOSTILE)
    assert "'" not in html_text(HOSTILE)
    assert '"' not in html_text(HOSTILE)


def test_plain_words_of_every_script_stay() -> None:
    for words in ("too much loss: 12.5 dB", "Größe Ωμ 光子 פוטון é"):
        assert shown(words) == shown_lines(words) == words
    assert shown_lines("one\n\ttwo") == "one\n\ttwo"


def test_long_texts_are_cut_with_a_mark() -> None:
    assert shown("x" * 50, 10) == "x" * 10 + "..."
    assert len(shown("\x1b" * 10**6)) < 2100


@given(st.text())
def test_nothing_hidden_is_left(text: str) -> None:
    for each in shown(text):
        assert unicodedata.category(each) not in HIDDEN
    assert "\n" not in shown(text)


@given(st.recursive(st.text() | st.integers(), lambda each: st.dictionaries(st.text(), each), max_leaves=5))
def test_a_json_document_stays_one_and_says_the_same(document: object) -> None:
    for text in (json.dumps(document), json.dumps(document, ensure_ascii=False)):
        assert json.loads(shown_lines(text)) == document


def test_commands_print_and_quote_in_one_way_only() -> None:
    """Whoever prints past :func:`echo`, or quotes HTML by hand, shows raw text of others sooner or later."""
    folder, seen = Path(lab.cli.__file__).parent.parent, 0
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        seen += "echo" in calls
        if path.name != "shown.py":
            assert not calls & {"typer.echo", "print", "html.escape", "typer.secho", "rich.print"}, path.name
    assert seen > 10


def test_a_terminal_without_a_letter_shows_its_escape_and_json_stays_json() -> None:
    text = json.dumps({"name": "Göteborg \U0001f52c"}, ensure_ascii=False)
    plain = encodable(text, "ascii")
    assert plain.isascii()
    assert json.loads(plain) == json.loads(text)
    assert encodable(text, "utf-8") is text
    assert encodable("Göteborg", "latin-1") == "Göteborg"
