"""Text of other processes, escaped before it is shown: it cannot move the cursor, hide characters, or pass for ours.

A reason, a name or an error may come from another process, an instrument or a file, and holds whatever its
author put there.  Before a terminal or a page shows it, every character that is not plain to see is written as
an escape: control characters (C0, DEL, C1: ANSI sequences begin with one), line and paragraph separators,
direction marks and overrides (Unicode Standard Annex 9), zero-width and other format characters, surrogates and
what is not assigned.  In a page the result is quoted as HTML besides.
"""

from __future__ import annotations

import html
import sys
import unicodedata

import typer

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode general categories that are never shown as they are."""


def shown(text: object, limit: int = 2000) -> str:
    """``text`` in one line of visible characters, cut after ``limit`` of them with a mark."""
    visible = "".join(map(_visible, str(text)[: limit + 1]))
    return visible if len(visible) <= limit else visible[:limit] + "..."


def shown_lines(text: object) -> str:
    """The same for texts of several lines, whatever their length: line ends and tabs stay."""
    return "".join(each if each in "\n\t" else _visible(each) for each in str(text))


def html_text(text: object) -> str:
    """The same for a page: quoted, so that nothing in it is markup; fit for attributes too."""
    return html.escape(shown_lines(text))


def echo(text: object, *, err: bool = False) -> None:
    """Print ``text`` and a line end; the only way in which commands write to a terminal or a pipe.

    Escapes are those of JSON (RFC 8259 section 7), so a JSON document stays one and says the same.
    """
    stream = sys.stderr if err else sys.stdout
    typer.echo(encodable(shown_lines(text), getattr(stream, "encoding", None) or "utf-8"), err=err)


def encodable(text: str, encoding: str) -> str:
    """``text`` with an escape for each character that a terminal of this encoding has no letter for."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(each if _fits(each, encoding) else _escaped(each) for each in text)
    return text


def _fits(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _visible(character: str) -> str:
    return character if unicodedata.category(character) not in HIDDEN else _escaped(character)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
