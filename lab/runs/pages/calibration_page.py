"""The page of a ring's calibrations: the latest finding of every step and owner, and how its values went before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lab.calibration.finding import Curve, Finding, Measured, rounded
from lab.calibration.steps import STEPS, Step
from lab.runs.pages.page import Table, render
from lab.runs.pages.style import SOFT, TEXT, log_scale, plot, series
from orchestrator.durable import replace_file

PAGE_FILE = "index.html"
MANY_POINTS = 100
"""Beyond them error bars would hide what they belong to; beside the plot stands what the fit leaves, in standard deviations."""


def write_page(testbed: str, findings: Sequence[Finding], folder: Path) -> Path:
    """Write the page of all findings, oldest first, into the folder where they are kept; returns its path."""
    latest: dict[tuple[Step, str], Finding] = {(each.step, each.owner): each for each in findings}
    order = list(STEPS)
    shown = sorted(latest.values(), key=lambda each: (order.index(each.step), each.owner))
    content = render(
        "calibration.html",
        title=f"Calibrations of {testbed}",
        sections=[_section(each, findings) for each in shown],
    )
    replace_file(folder / PAGE_FILE, content.encode())
    return folder / PAGE_FILE


def _section(finding: Finding, findings: Sequence[Finding]) -> dict[str, Any]:
    of_same = [each for each in findings if (each.step, each.owner) == (finding.step, finding.owner)]
    return {
        "title": f"{finding.step} of {finding.owner}",
        "finds": STEPS[finding.step].finds,
        "when": f"{finding.measured:%Y-%m-%d %H:%M:%S} UTC" if finding.measured else "at an unknown time",
        "light_s": f"{finding.light_s:.3g}",
        "partner": finding.partner,
        "values": _values(finding),
        "about": _about(finding),
        "plots": [
            *(drawn for number, each in enumerate(finding.curves) for drawn in _curve(each, finding, number)),
            *(_history(of_same) if len(of_same) > 1 else ()),
        ],
    }


def _values(finding: Finding) -> Table:
    rows = [
        [name, *_shown(each), "yes" if name in finding.values else ""]
        for name, each in {**finding.values, **finding.figures}.items()
    ]
    return Table(["value", "found", "one sigma", "unit", "in the book"], rows, "numbers")


def _shown(measured: Measured) -> list[str]:
    pairs = measured.pairs()
    return [
        ", ".join(rounded(value, sigma) for value, sigma in pairs),
        ", ".join(f"{sigma:.2g}" if sigma else "-" for _, sigma in pairs),
        measured.unit,
    ]


def _about(finding: Finding) -> Table:
    rows = [
        [name, f"{value:.6g}" if isinstance(value, float) else str(value)]
        for name, value in {**finding.settings, **finding.quality}.items()
    ]
    return Table(["settings and quality of the fit", ""], rows)


def _curve(curve: Curve, finding: Finding, number: int) -> list[Markup]:
    """Points and what was fitted to them; beside it what is left over its standard deviation, where that is known."""
    of = f"{finding.step} of {finding.owner}, curve {number + 1}"

    def points(axes: Any) -> None:
        for place, (name, values) in enumerate(curve.measured.items()):
            look, fitted = series(place), curve.fitted.get(name)
            many = len(curve.x) > MANY_POINTS
            axes.errorbar(
                curve.x,
                values,
                yerr=None if many else curve.sigma.get(name),
                fmt=look.marker,
                color=look.color,
                markersize=1.5 if many else 4,
                elinewidth=0.8,
                label=name,
            )
            if fitted is not None:
                axes.plot(
                    curve.x,
                    fitted,
                    color=str(TEXT),
                    linewidth=0.9,
                    linestyle=look.dash,
                    label=f"{name}, fitted",
                )
        least, largest = _span(curve)
        if not curve.fitted and largest > 1000 * least:
            log_scale(axes, "y", linear_below=max(least, 1e-12))

    def rest(axes: Any) -> None:
        axes.axhline(0, color=str(SOFT), linewidth=0.8)
        for place, (name, values) in enumerate(curve.measured.items()):
            fitted = curve.fitted.get(name)
            if fitted is not None and name in curve.sigma:
                pulls = [(m - f) / s for m, f, s in zip(values, fitted, curve.sigma[name], strict=True)]
                look = series(place)
                axes.plot(curve.x, pulls, look.marker, color=look.color, markersize=2.5, label=name)

    drawn = [plot(curve.title, curve.x_label, curve.y_label, points, says=f"{curve.title}: {of}")]
    if curve.fitted and curve.sigma:
        label = "residual / standard deviation"
        drawn.append(
            plot("What the fit leaves", curve.x_label, label, rest, says=f"What the fit leaves: {of}")
        )
    return drawn


def _span(curve: Curve) -> tuple[float, float]:
    """The smallest positive and the largest value."""
    values = [value for each in curve.measured.values() for value in each]
    return min((value for value in values if value > 0), default=1.0), max(values, default=0.0)


def _history(findings: Sequence[Finding]) -> list[Markup]:
    """Each value of a step over time, with its uncertainty."""
    latest = findings[-1]
    return [_over_time(name, findings, f"{latest.step} of {latest.owner}") for name in latest.values]


def _over_time(name: str, findings: Sequence[Finding], of: str) -> Markup:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    found = [(each.measured, each.values[name].pairs()) for each in findings if name in each.values]

    def draw(axes: Any) -> None:
        at = [when for when, _ in found]
        for place in range(len(found[-1][1])):
            look = series(place)
            values = [pairs[place][0] for _, pairs in found]
            sigmas = [pairs[place][1] for _, pairs in found]
            axes.errorbar(at, values, yerr=sigmas, fmt=f"{look.marker}-", color=look.color, linewidth=1)
        locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]

    unit = findings[-1].values[name].unit
    label = f"{name}, {unit}" if unit else name
    return plot(
        f"Earlier values of {name}", "measured at, UTC", label, draw, says=f"Earlier values of {name}: {of}"
    )
