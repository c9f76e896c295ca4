"""The style of pages: colours that can be told apart by everybody on both grounds, and plots that follow the theme."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

from lab.runs.pages.style import (
    COLOURS,
    GROUND,
    LINE,
    SERIES,
    TEXT,
    Colour,
    StrayColourError,
    by_round,
    css,
    log_scale,
    number,
    plot,
    series,
    svg_of,
)

Vector = npt.NDArray[np.float64]
CONES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""What people who lack a kind of cone see of linear RGB: Machado, Oliveira, Fernandes, IEEE TVCG 15, 1291 (2009), severity 1."""
DASHBOARD = Path(__file__).resolve().parents[3] / "lab" / "dashboard" / "static" / "style.css"
HOSTILE = "\x1b[2J<script>x</script>\u202e$x$\"'"


def linear(colour: str) -> Vector:
    """sRGB (IEC 61966-2-1) to linear RGB."""
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab_of(rgb: Vector) -> Vector:
    """Linear RGB to CIELAB, white D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = matrix @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    """WCAG 2.1, 1.4.3."""
    light, dark = sorted(
        (float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("cones", CONES)
def test_whatever_cones_people_have_the_colours_of_series_keep_apart(theme: str, cones: str) -> None:
    seen = {each.name: lab_of(CONES[cones] @ linear(getattr(each, theme))) for each in SERIES}
    distances = {
        (one, other): float(np.linalg.norm(seen[one] - seen[other])) for one, other in combinations(seen, 2)
    }
    nearest = min(distances, key=lambda pair: distances[pair])
    assert distances[nearest] > 20, (nearest, distances[nearest])  # 2.3 is just seen, side by side


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_texts_stand_out_from_their_ground(theme: str) -> None:
    ground = getattr(GROUND, theme)
    for each in COLOURS:
        told = contrast(getattr(each, theme), ground)
        if each in SERIES:
            assert told >= 3.0, (each, told)  # WCAG 2.1, 1.4.11
        elif each.name not in ("ground", "panel", "line"):
            assert told >= 4.5, (each, told)
    assert contrast(getattr(TEXT, theme), getattr(COLOURS[1], theme)) >= 7.0


def test_pages_and_the_dashboard_have_the_same_colours() -> None:
    told = dict(re.findall(r"--([\w-]+): light-dark\(([^)]*)\)", DASHBOARD.read_text(encoding="utf-8")))
    ours = {each.name: f"{each.light}, {each.dark}" for each in COLOURS}
    shared = set(told) & set(ours)
    assert shared >= {"ground", "text", "soft", "line", "red", "amber", "blue", "green"}
    assert {name: told[name] for name in shared} == {name: ours[name] for name in shared}


def test_a_plot_follows_the_theme_says_what_it_is_and_is_the_same_whenever_it_is_made() -> None:
    def draw(axes: object) -> None:
        look = series(2)
        axes.errorbar([1, 2], [3, 4], yerr=[0.1, 0.2], fmt=look.marker, color=look.color, label="D1")  # type: ignore[attr-defined]

    drawn = plot("Clicks", "voltage, V", "clicks", draw, says="Clicks of D1")
    assert "aria-label='Clicks of D1'" in drawn
    assert "<figcaption>Clicks</figcaption>" in drawn
    for text in ("voltage, V", "clicks", "D1"):
        assert f">{text}</text>" in drawn
    assert f"var(--series-3,{SERIES[2].light})" in drawn
    assert not re.search(r"(?<!,)#[0-9a-f]{6}", drawn), "a colour that does not follow the theme"
    assert drawn == plot("Clicks", "voltage, V", "clicks", draw, says="Clicks of D1")
    ids = re.findall(r' id="([^"]*)"', drawn)
    other = re.findall(r' id="([^"]*)"', plot("Other clicks", "voltage, V", "clicks", draw))
    assert ids
    assert not set(ids) & set(other), "two figures of a page share names"
    ElementTree.fromstring(drawn)


def test_names_of_others_stay_text_in_a_plot() -> None:
    def draw(axes: object) -> None:
        axes.plot([1, 2], [1, 2], label=HOSTILE)  # type: ignore[attr-defined]

    drawn = plot(HOSTILE, HOSTILE, "y", draw)
    assert "<script" not in drawn
    inside = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn))
    assert inside.count("$x$") == 2  # label of the axis, and legend
    assert all(each.isprintable() or each == "\n" for each in drawn)


def test_a_colour_that_is_not_of_the_style_is_an_error() -> None:
    with pytest.raises(StrayColourError, match="#123456"):
        plot("Title", "x", "y", lambda axes: axes.plot([1, 2], [1, 2], color="#123456"))


def test_a_style_sheet_holds_both_themes() -> None:
    sheet = css()
    light, dark = sheet.split("@media(prefers-color-scheme:dark)")
    assert f"--text:{TEXT.light};" in light
    assert f"--text:{TEXT.dark};" in dark


def test_colour_and_marker_together_name_one_of_many_series() -> None:
    looks = [series(number) for number in range(42)]
    assert len({(look.color, look.marker) for look in looks}) == 42


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01, "0.01"), (2000.0, "2000"), (1e6, "10⁶"), (3e-5, "3·10⁻⁵"), (-1e-7, "-10⁻⁷")]
)  # fmt: skip
def test_numbers_of_logarithmic_axes_read_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


def test_a_logarithmic_axis_writes_powers_of_ten() -> None:
    def draw(axes: object) -> None:
        axes.plot([1, 2], [1e-6, 1e6])  # type: ignore[attr-defined]
        log_scale(axes, "y")

    drawn = plot("Wide", "x", "y", draw)
    assert "10⁶" in drawn
    assert "mathdefault" not in drawn


def test_a_series_is_named_by_a_string_where_matplotlib_asks_for_a_colour() -> None:
    assert str(Colour("name", "#ffffff", "#000000")) == "#ffffff"
    assert str(LINE) == LINE.light
    assert callable(svg_of)


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [(52.0, 70.0, {"60", "70"}), (9.0, 30.0, {"9", "10", "20", "30"}), (0.5, 200.0, {"1", "10", "100"})],
)
def test_a_logarithmic_axis_has_numbers_however_short_it_is(
    low: float, high: float, numbers: set[str]
) -> None:
    def draw(axes: object) -> None:
        axes.plot([1, 2], [low, high])  # type: ignore[attr-defined]
        axes.set_ylim(low, high)  # type: ignore[attr-defined]
        axes.set_xticks([])  # type: ignore[attr-defined]
        log_scale(axes, "y")

    told = set(re.findall(r">([\d.]+)</text>", plot("Rate", "", "", draw)))
    assert told == numbers


@pytest.mark.parametrize("rounds", [1, 2, 9])
def test_rounds_are_whole_numbers_also_where_there_is_one(rounds: int) -> None:
    def draw(axes: object) -> None:
        axes.plot(range(1, rounds + 1), [1.0] * rounds)  # type: ignore[attr-defined]
        axes.set_yticks([])  # type: ignore[attr-defined]
        by_round(axes)

    told = re.findall(r">([\d.]+)</text>", plot("Rounds", "", "", draw))
    assert told
    assert all(float(each).is_integer() for each in told), told
