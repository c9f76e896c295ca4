"""The control room over a ring of real processes: live values, a hub that is killed and comes back, stopping without it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from two_users_ring import PAIR, Ring

from lab.dashboard.application import PAGES
from lab.runs.interlocks import states
from lab.runs.testbeds.machine import Machine

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
BANNER_S = 2.0


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    ring = Ring(tmp_path_factory.mktemp("ring"))
    try:
        ring.start_all()
        ring.ask_for_key()
        ring.wait_for_block()
        yield ring
    finally:
        ring.stop()


@pytest.fixture(scope="module")
def url(ring: Ring) -> Iterator[str]:
    command = [sys.executable, "-P", "-m", "lab.cli.main", "dashboard", str(ring.path)]
    dashboard = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--json"], stdout=subprocess.PIPE, text=True
    )
    assert dashboard.stdout is not None
    try:
        told = json.loads(dashboard.stdout.readline())
        assert told["ready"] is True
        yield told["url"]
    finally:
        dashboard.terminate()
        assert dashboard.wait(20) == 0
        dashboard.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    try:
        yield browser
    finally:
        browser.close()


def opened(browser: Browser, url: str) -> None:
    browser.driver.get(url)
    browser.wait(lambda: browser.js("return document.querySelector('main').dataset.drawn"), "a page")


def test_every_page_shows_a_ring_at_work(ring: Ring, url: str, browser: Browser, tmp_path: Path) -> None:
    browser.size(1280, 900)
    for page in PAGES:
        browser.requested()
        browser.complaints()
        opened(browser, url + page)
        ring.wait_for_light()
        assert browser.complaints() == []
        assert [asked for asked in browser.requested() if not asked.startswith((url, "data:"))] == []
        browser.driver.save_screenshot(str(tmp_path / f"{page or 'wall'}.png"))
    opened(browser, url)
    browser.wait(lambda: "KEYING" in browser.text(".word"), "a lease on the wall", 60.0)
    assert "-".join(PAIR) in browser.text(".about")
    before = browser.text(".events")
    ring.wait_for_block()
    browser.wait(lambda: browser.text(".events") != before, "another block")


def test_a_killed_orchestrator_is_a_banner_at_once_and_its_return_ends_it(
    ring: Ring, url: str, browser: Browser
) -> None:
    opened(browser, url)
    browser.wait(lambda: not browser.text("#banner"), "no banner")
    ring.kill("orchestrator")
    took_s = browser.wait(lambda: browser.text("#banner"), "the banner")
    print(f"banner after {took_s:.2f} s")
    assert took_s < BANNER_S
    ring.come_back("orchestrator")
    browser.wait(lambda: not browser.text("#banner"), "the banner goes")


def test_stop_works_with_the_hub_dead(ring: Ring, url: str, browser: Browser) -> None:
    opened(browser, url)
    ring.wait_for_light()
    ring.kill("orchestrator")
    browser.driver.find_element("id", "stop").click()
    browser.wait(
        lambda: (
            "bad" in browser.js("return document.getElementById('stopped').className")
            or "good" in browser.js("return document.getElementById('stopped').className")
        ),
        "what became of it",
    )
    print(browser.text("#stopped"))
    assert browser.js("return document.getElementById('stopped').className") == "good"
    for told in states(Machine(ring.path, None), ["relay", *PAIR]):
        assert told.ok
        assert told.state is not None
        assert [cause.cause for cause in told.state.causes] == ["operator"]
