"""Templates of pages: what they are given is quoted, and what they lack is an error."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from lab.runs.pages.page import Table, render

HOSTILE = "\x1b[2J<script>x</script>\u202e\"'"
QUOTED = "\\u001b[2J&lt;script&gt;x&lt;/script&gt;\\u202e&quot;&#x27;"


def test_whatever_a_template_is_given_is_quoted() -> None:
    rows = Table([HOSTILE], [[HOSTILE], ["NO"]])
    text = render("mitigation.html", warnings=[HOSTILE], name=HOSTILE, origin=HOSTILE, examples=3, rows=rows)
    assert (
        text.count(QUOTED) == 7
    )  # warning, title, heading, origin, head and cell of the table, and what the table is called
    assert "<script" not in text
    assert all(each.isprintable() or each == "\n" for each in text)
    assert "<span class='bad'>NO</span>" in text


def test_a_template_that_lacks_a_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="count"):
        render("comparison.html", rows=Table([], []), notes=[], drawn=[])
