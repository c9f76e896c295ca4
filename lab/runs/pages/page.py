"""Parts of the HTML pages that runs leave behind: one style, tables, figures as inline images.

A page is one file without scripts or links to anything outside it, so it can be kept and mailed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from lab.runs.shown import html_text

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
h1{margin-bottom:.2rem} h2{margin-top:2.2rem} .lead{color:#57606a;margin-top:0}
table{border-collapse:collapse;width:100%;margin:.4rem 0 1.2rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .45rem;border-bottom:1px solid #d0d7de;text-align:right}
th:first-child,td:first-child{text-align:left;white-space:nowrap} img{max-width:100%}
table.wide th:first-child,table.wide td:first-child{white-space:normal}
table.text td,table.text th{text-align:left;overflow-wrap:anywhere}
.bad{color:#b42318;font-weight:600} .good{color:#116329;font-weight:600}
.note{background:#f6f8fa;border-left:4px solid #8c959f;padding:.6rem 1rem}
.alarm{background:#fdecec;border-left:6px solid #b00020;padding:.8rem 1rem;font-weight:bold}
.warn{background:#fff8e5;border-left:4px solid #b5651d;padding:.6rem 1rem}
summary{cursor:pointer;color:#57606a;margin:.8rem 0}
"""

COLORS = ("#2f6f9f", "#b5651d", "#7aa874", "#7c5c99", "#8c959f", "#c2a83e", "#b05a7a", "#4f8f8b")
"""One for each thing compared, in order."""


def page(title: str, parts: Sequence[str]) -> str:
    """The whole page as HTML text; ``title`` is plain text, ``parts`` are HTML."""
    head = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html_text(title)}</title><style>{STYLE}</style></head><body>"
    )
    return "\n".join([head, *parts, "</body></html>"])


def image(png: bytes, alt: str) -> str:
    """A figure inside the page."""
    return f"<img alt='{html_text(alt)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already; ``kind`` is its CSS class."""
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    attribute = f" class='{kind}'" if kind else ""
    return f"<table{attribute}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def new_figure(columns: int, height: float = 3.4) -> tuple[Any, Any]:
    """A figure as wide as the page, with ``columns`` axes beside each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for each in [axes] if columns == 1 else axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png_of(figure: Any) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
