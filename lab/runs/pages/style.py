"""The one style of pages, plots and drawn figures: colours for a light and a dark ground, and plots as SVG that follow them.

A colour is a pair, one for each ground, and has a name that style sheets know as a custom property; which of both is seen
the reader's system says (``prefers-color-scheme``).  Colours of series keep apart for people who lack one kind of cone, and a
series has a marker and a dash of its own besides.  Grounds and texts are those of the dashboard.

A plot is one pair of axes, with units on both, drawn by matplotlib as SVG with text that can be read out, found and copied.
It is laid out for half a page's width, so that two stand beside each other, and one is readable on a phone.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lab.runs.shown import html_text, shown_lines


@dataclass(frozen=True)
class Colour:
    """``#rrggbb`` on a light and on a dark ground; style sheets call it ``--NAME``."""

    name: str
    light: str
    dark: str

    def __str__(self) -> str:
        """As plots draw it; in a page :func:`themed` makes it follow the theme."""
        return self.light


GROUND = Colour("ground", "#ffffff", "#14171a")
PANEL = Colour("panel", "#f3f5f7", "#1e2226")
TEXT = Colour("text", "#1a1d20", "#e8eaec")
SOFT = Colour("soft", "#50565d", "#adb5bc")
LINE = Colour("line", "#c9ced3", "#3a4148")
RED = Colour("red", "#b3141d", "#ff9a94")
AMBER = Colour("amber", "#7a4a00", "#f2bb62")
BLUE = Colour("blue", "#1a5a99", "#8cc0f2")
GREEN = Colour("green", "#136a2e", "#7ad696")
SERIES = (
    Colour("series-1", "#0090d4", "#9bc5ff"),
    Colour("series-2", "#f2471f", "#ec5a10"),
    Colour("series-3", "#027243", "#2a9a66"),
    Colour("series-4", "#b73585", "#dd4fa8"),
    Colour("series-5", "#373737", "#e0e0e0"),
    Colour("series-6", "#5c3a00", "#fec900"),
)
"""One for each thing compared and for each part of a whole, in order."""
COLOURS = (GROUND, PANEL, TEXT, SOFT, LINE, RED, AMBER, BLUE, GREEN, *SERIES)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (6, 1)))
WIDTH_IN, HEIGHT_IN, LEGEND_ROW_IN = 4.6, 2.8, 0.19
"""Of a plot and of a row of its legend, 72 units of its drawing to the inch; text is 9.5 units high and more, on a phone so many
pixels."""

_RC = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.linewidth": 0.6,
    "grid.color": str(LINE),
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.0,
    "text.color": str(TEXT),
    "axes.labelcolor": str(TEXT),
    "axes.edgecolor": str(SOFT),
    "xtick.color": str(SOFT),
    "ytick.color": str(SOFT),
    "xtick.labelcolor": str(TEXT),
    "ytick.labelcolor": str(TEXT),
}
_BY_LIGHT = {each.light: each for each in COLOURS}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class StrayColourError(ValueError):
    """A plot uses a colour that is not of the style, and would not follow the theme."""


@dataclass(frozen=True)
class Series:
    """How one of several things is drawn."""

    color: str
    marker: str
    dash: Any


def series(number: int) -> Series:
    """Of the thing ``number``, from 0; no two of the first 42 have colour and marker in common."""
    return Series(
        str(SERIES[number % len(SERIES)]), MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)]
    )


def css() -> Markup:
    """The custom properties of all colours, as a style sheet."""
    light = "".join(f"--{each.name}:{each.light};" for each in COLOURS)
    dark = "".join(f"--{each.name}:{each.dark};" for each in COLOURS)
    return Markup(
        f":root{{color-scheme:light dark;{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    )


def plot(
    title: str, x: str, y: str, draw: Callable[[Any], None], *, says: str = "", height_in: float = HEIGHT_IN
) -> Markup:
    """A plot that ``draw`` fills, given its matplotlib axes, under its title; axes are labelled ``x`` and ``y``, with units.

    ``says``: what is told to who does not see it; the title unless told otherwise.  Where the axes hold labels, a legend
    stands above them.  Raises StrayColourError.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    with rc_context(_settings({"axes.prop_cycle": cycler(color=[str(each) for each in SERIES])})):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            columns = _columns(labels)
            figure.set_figheight(height_in + LEGEND_ROW_IN * math.ceil(len(labels) / columns))
            figure.legend(
                handles, labels, loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.2
            )
        svg = svg_of(figure, title)
    label = html_text(says or title)
    return Markup("<figure class='plot'><figcaption>{}</figcaption>{}</figure>").format(
        Markup(html_text(title)), Markup(svg.replace("<svg", f"<svg role='img' aria-label='{label}'", 1))
    )


def _settings(more: dict[str, Any]) -> Any:
    return {**_RC, **more}


def _columns(labels: list[str], width: int = 54) -> int:
    """As many as fit beside each other, a symbol's width before each."""
    longest = max(map(len, labels))
    return max(1, min(len(labels), width // (longest + 6)))


def svg_of(figure: Any, name: str) -> str:
    """A matplotlib figure as an SVG element for a page, in the colours of the reader's theme; the same whenever it is made.

    ``name`` keeps its inner names apart from those of the other figures of the page.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(shown_lines(text.get_text()))
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context(_settings({"svg.hashsalt": name})):
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    svg = buffer.getvalue()
    return re.sub(r"<[^>]*>|[^<]+", _plain, svg[svg.index("<svg") :])


def _plain(found: re.Match[str]) -> str:
    """A tag without what the page says once for all, or a text without hidden characters."""
    part = found[0]
    if not part.startswith("<"):
        return shown_lines(part) if part.strip() else "\n"
    part = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\" height=\"[^\"]*\"", r"\1", part)
    part = re.sub(r" id=\"(?!m?[0-9a-f]{10}\"|p[0-9a-f]{10}\"|C[0-9a-f]*_)[^\"]*\"", "", part)
    part = re.sub(r"font-family: [^;\"]*(; )?", "", part)
    part = re.sub(r"(\d\.\d\d)\d+", r"\1", part)
    return themed(part).replace("\n", " ")


def themed(text: str) -> str:
    """Colours of the style in ``text`` as custom properties with their value on light ground; raises StrayColourError."""
    return re.sub(r"#[0-9a-f]{6}\b", _property, text)


def _property(found: re.Match[str]) -> str:
    try:
        colour = _BY_LIGHT[found[0]]
    except KeyError:
        raise StrayColourError(f"{found[0]} is no colour of lab.runs.pages.style") from None
    return f"var(--{colour.name},{colour.light})"


def log_scale(axes: Any, which: str, *, linear_below: float | None = None) -> None:
    """A logarithmic axis, ``which`` is x or y, with numbers as people write them.

    ``linear_below``: linear for smaller sizes, so that zero and negative values have a place.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    if linear_below is None:
        set_scale("log")
    else:
        set_scale("symlog", linthresh=linear_below)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    if linear_below is None:
        axis.set_minor_formatter(
            FuncFormatter(lambda value, _: "" if _powers_of_ten(axis) > 1 else number(value))
        )
    else:
        axis.set_minor_formatter(NullFormatter())


def _powers_of_ten(axis: Any) -> int:
    """How many the axis shows; between two of them alone, every tick has its number."""
    low, high = sorted(axis.get_view_interval())
    return math.floor(math.log10(high) + 1e-9) - math.ceil(math.log10(low) - 1e-9) + 1


def number(value: float) -> str:
    """``0.01``, ``2000``, ``10⁶``, ``3·10⁻⁵``."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    factor = f"{float(mantissa):g}"
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return {"1": power, "-1": f"-{power}"}.get(factor, f"{factor}·{power}")


def by_round(axes: Any) -> None:
    """Whole numbers along x, where training rounds are counted."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
