"""The HTML pages that runs leave behind: templates and tables in the one style of :mod:`lab.runs.pages.style`.

A page is one file without scripts or links to anything outside it, so it can be kept and mailed.  What a template is
given is shown as :func:`~lab.runs.shown.html_text` shows it: quoted, and without characters that hide or pretend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lab.runs.pages.style import css
from lab.runs.shown import html_text
from orchestrator.durable import replace_file


@dataclass(frozen=True)
class Table:
    """Rows of text under their heads; ``kind`` is the CSS class: "", "wide" (first column wraps), "numbers" or "text"."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    kind: str = ""


def render(template: str, **context: object) -> str:
    """The page of ``templates/TEMPLATE``; raises UndefinedError for what the template lacks."""
    return _environment().get_template(template).render({"warnings": (), "colours": css(), **context})


def write_out(content: str, out: Path) -> None:
    """The page where an operator wants it, ``--out``; ValueError with what to do where it cannot be written."""
    try:
        replace_file(out, content.encode())
    except OSError as error:
        raise ValueError(
            f"--out {out} cannot be written: {error.strerror}; name a file in a folder that is there"
        ) from error


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lab.runs.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(html_text(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
