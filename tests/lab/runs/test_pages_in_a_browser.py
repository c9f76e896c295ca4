"""Reports in a real browser: without barriers in both themes, and on a phone only tables scroll."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from browser import Browser, axe_script
from made_reports import AUDITED, CALIBRATED, RING, demo_report, training_results

from lab.runs.pages.audit_page import render_audit
from lab.runs.pages.calibration_page import write_page
from lab.runs.pages.comparison import render_comparison
from lab.runs.pages.demo_report import render_report
from lab.runs.pages.run_report import render_run

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PHONE, DESK = 390, 1280
WITHOUT_PLOTS = ("audit", "mitigation")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    results = training_results(ring=RING)
    texts = {
        "demo": render_report(demo_report(("alice", "bob", "carol"), ring=RING)),
        "training": render_run(results),
        "audit": render_audit(AUDITED, "2026-03-01T12:00:00Z"),
        "comparison": render_comparison({"one": results, "another": results}),
    }
    found = {name: folder / f"{name}.html" for name in texts}
    for name, path in found.items():
        path.write_text(texts[name], encoding="utf-8")
    earlier = msgspec.structs.replace(CALIBRATED, measured=AT)
    later = msgspec.structs.replace(CALIBRATED, measured=AT + timedelta(hours=1))
    other = msgspec.structs.replace(earlier, owner="bob")
    return {**found, "calibration": write_page("ring", [earlier, later, other], folder), **qpu_pages(folder)}


def qpu_pages(folder: Path) -> dict[str, Path]:
    """None where Qiskit is not installed."""
    if find_spec("qiskit") is None:
        return {}
    from made_qpu import mitigation_page, qpu_page

    found = {}
    for name, page in (("qpu", qpu_page), ("mitigation", mitigation_page)):
        (folder / name).mkdir()
        found[name] = page(folder / name)
    return found


@pytest.mark.parametrize(
    "name", ["demo", "training", "comparison", "calibration", "audit", "qpu", "mitigation"]
)
def test_a_report_has_no_barriers_and_fits_a_phone(
    browser: Browser, pages: dict[str, Path], name: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if name not in pages:
        pytest.skip("pages of QPU runs are not tried: qiskit is not installed")
    axe = axe_script(pytestconfig.cache.mkdir("axe"))
    pictures = Path(os.environ.get("QUNETLAB_PICTURES", tmp_path))
    grounds = {}
    browser.driver.get(pages[name].as_uri())
    for theme in ("light", "dark"):
        browser.theme(theme)
        for width in (DESK, PHONE):
            browser.size(width, 900)
            assert browser.js("return document.documentElement.scrollWidth") <= width, (theme, width)
            small = browser.js(
                "return [...document.querySelectorAll('.plot text')].filter((e) => e.getBoundingClientRect().height"
                " * e.getBoundingClientRect().width > 0 && parseFloat(getComputedStyle(e).fontSize) *"
                " e.ownerSVGElement.getScreenCTM().a < 9.5).map((e) => e.textContent)"
            )
            assert small == [], "text that is too small to read"
            browser.picture(pictures / f"report-{name}-{width}-{theme}.png")
        assert browser.barriers(axe) == [], theme
        grounds[theme] = browser.js("return getComputedStyle(document.body).backgroundColor")
        ink = browser.js(
            "return [...document.querySelectorAll('.plot text')].map((e) => getComputedStyle(e).fill)"
        )
        assert len(ink) > 10 or name in WITHOUT_PLOTS
        assert set(ink) <= {browser.js("return getComputedStyle(document.body).color")}, (
            "text follows the theme"
        )
    assert grounds["light"] != grounds["dark"]
    assert [url for url in browser.requested() if not url.startswith("file:")] == []
