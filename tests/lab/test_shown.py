"""Text of others on a terminal or a page: nothing of it acts."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from lab.cli.shown import HIDDEN, html_text, shown, shown_lines

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>\r\nRUNNING\u202egnissim\u2066\x9b31m\u200b\u2028'\""
)


def test_hostile_text_is_shown_as_it_is_and_does_nothing() -> None:
    text = shown(HOSTILE)
    assert text.startswith("\\x1b[2J\\x1b]0;owned\\x07<script>")
    assert "\\x0d\\x0aRUNNING\\u202egnissim\\u2066\\x9b31m\\u200b\\u2028" in text
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
