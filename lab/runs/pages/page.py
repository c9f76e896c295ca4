"""The HTML pages that runs leave behind: templates in one style, tables, figures as inline images.

A page is one file without scripts or links to anything outside it, so it can be kept and mailed.  What a template is
given is shown as :func:`~lab.runs.shown.html_text` shows it: quoted, and without characters that hide or pretend.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lab.runs.shown import html_text

COLORS = ("#2f6f9f", "#b5651d", "#7aa874", "#7c5c99", "#8c959f", "#c2a83e", "#b05a7a", "#4f8f8b")
"""One for each thing compared, in order."""
PART_COLORS = ("#2f6f9f", "#b5651d", "#7aa874", "#8c959f", "#4f8f8b", "#c2a83e")
"""One for each part of a whole, in order."""


@dataclass(frozen=True)
class Table:
    """Rows of text under their heads; ``kind`` is the CSS class: "", "wide" (first column wraps) or "text"."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    kind: str = ""


def render(template: str, **context: object) -> str:
    """The page of ``templates/TEMPLATE``; raises UndefinedError for what the template lacks."""
    return _environment().get_template(template).render({"warnings": (), **context})


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


def image(png: bytes, alt: str) -> Markup:
    """A figure inside the page."""
    return Markup("<div class='figure'><img alt='{}' src='data:image/png;base64,{}'></div>").format(
        Markup(html_text(alt)), base64.b64encode(png).decode()
    )


def new_figure(columns: int, height: float = 3.4) -> tuple[Any, Any]:
    """A figure as wide as the page, with ``columns`` axes beside each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for each in [axes] if columns == 1 else axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def by_round(axes: Any) -> None:
    """Training rounds along ``axes``."""
    axes.set_xlabel("training round")
    axes.xaxis.get_major_locator().set_params(integer=True)


def png_of(figure: Any) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
