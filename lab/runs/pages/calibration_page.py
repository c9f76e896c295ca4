"""The page of a ring's calibrations: the latest finding of every step and owner, and how its values went before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.calibration.finding import Curve, Finding, Measured, rounded
from lab.calibration.steps import STEPS, Step
from lab.runs.pages.page import COLORS, Table, image, new_figure, png_of, render
from orchestrator.durable import replace_file

PAGE_FILE = "index.html"


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
        "curves": [image(_curve(each), each.title) for each in finding.curves],
        "history": image(_history(of_same), "Earlier values") if len(of_same) > 1 and finding.values else "",
    }


def _values(finding: Finding) -> Table:
    rows = [
        [name, *_shown(each), "yes" if name in finding.values else ""]
        for name, each in {**finding.values, **finding.figures}.items()
    ]
    return Table(["value", "found", "one sigma", "unit", "in the book"], rows)


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


def _curve(curve: Curve) -> bytes:
    """Points and what was fitted to them; beside it what is left over its standard deviation, where that is known."""
    with_rest = bool(curve.fitted and curve.sigma)
    figure, axes = new_figure(2 if with_rest else 1)
    main, rest = axes if with_rest else (axes, None)
    for color, (name, values) in zip(COLORS, curve.measured.items(), strict=False):
        main.plot(curve.x, values, ".", color=color, markersize=4, label=name)
        fitted = curve.fitted.get(name)
        if fitted is None:
            continue
        main.plot(curve.x, fitted, color=color, linewidth=1.2)
        if rest is not None and name in curve.sigma:
            pulls = [(m - f) / s for m, f, s in zip(values, fitted, curve.sigma[name], strict=True)]
            rest.plot(curve.x, pulls, ".", color=color, markersize=4, label=name)
    largest = max((max(values, default=0.0) for values in curve.measured.values()), default=0.0)
    least = min(
        (min((v for v in values if v > 0), default=1.0) for values in curve.measured.values()), default=1.0
    )
    if not curve.fitted and largest > 1000 * least:
        main.set_yscale("symlog", linthresh=max(least, 1e-12))
    main.set_xlabel(curve.x_label)
    main.set_ylabel(curve.y_label)
    main.set_title(curve.title, fontsize=10)
    main.legend(frameon=False)
    if rest is not None:
        rest.axhline(0, color="#8c959f", linewidth=0.8)
        rest.set_xlabel(curve.x_label)
        rest.set_ylabel("residual / standard deviation")
        rest.set_title("What the fit leaves", fontsize=10)
    return png_of(figure)


def _history(findings: Sequence[Finding]) -> bytes:
    """Each value of a step over time, with its uncertainty."""
    from matplotlib.dates import AutoDateLocator

    names = list(findings[-1].values)
    figure, axes = new_figure(len(names), 2.6)
    for axis, name in zip([axes] if len(names) == 1 else axes, names, strict=True):
        found = [(each.measured, each.values[name].pairs()) for each in findings if name in each.values]
        for place, color in zip(range(len(found[-1][1])), COLORS, strict=False):
            at = [when for when, _ in found]
            values = [pairs[place][0] for _, pairs in found]
            sigmas = [pairs[place][1] for _, pairs in found]
            axis.errorbar(at, values, yerr=sigmas, fmt="o-", color=color, markersize=4, linewidth=1)
        unit = findings[-1].values[name].unit
        axis.set_ylabel(f"{name} / {unit}" if unit else name)
        axis.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=5))  # type: ignore[no-untyped-call]
        axis.tick_params(axis="x", labelsize=7)
    return png_of(figure)
