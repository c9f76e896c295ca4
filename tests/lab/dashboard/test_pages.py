"""Every page in a real browser: drawn from live values, without barriers in both themes, nothing from elsewhere, no markup of others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import Browser, axe_script
from control_room import beat, filled, hear, made_machine, served

from lab.dashboard.application import PAGES, STATIC
from lab.dashboard.board import Board
from orchestrator.events.status import PeerStatus, RingStatus

DRAWN = [name for name in PAGES if (STATIC / "pages" / f"{name or 'wall'}.js").exists()]
HEAVIEST_BYTES = 300_000


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    browser = Browser()
    board = Board(time.monotonic)
    machine = made_machine(tmp_path_factory.mktemp("room") / "ring")
    watch = filled(board, machine)
    try:
        with served(board, machine) as url:
            yield SimpleNamespace(browser=browser, board=board, watch=watch, url=url, machine=machine)
    finally:
        browser.close()


@pytest.fixture(scope="module")
def axe(pytestconfig: pytest.Config) -> Path:
    return axe_script(pytestconfig.cache.mkdir("axe"))


def opened(room: SimpleNamespace, page: str) -> Browser:
    beat(room.board)
    browser: Browser = room.browser
    browser.driver.get(room.url + page)
    browser.wait(
        lambda: browser.js("return document.querySelector('main').dataset.drawn"), f"/{page} is drawn"
    )
    return browser


@pytest.mark.parametrize("page", DRAWN)
def test_a_page_is_drawn_and_asks_nobody_else(room: SimpleNamespace, page: str) -> None:
    room.browser.size(1280, 900)
    room.browser.requested()
    room.browser.complaints()
    browser = opened(room, page)
    assert browser.complaints() == []
    assert [url for url in browser.requested() if not url.startswith((room.url, "data:"))] == []
    assert browser.js("return document.querySelectorAll('main script').length") == 0
    assert browser.text("h1")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", DRAWN)
def test_a_page_has_no_barriers(room: SimpleNamespace, axe: Path, page: str, theme: str) -> None:
    room.browser.size(1280, 900)
    room.browser.theme(theme)
    browser = opened(room, page)
    assert browser.barriers(axe) == []


@pytest.mark.parametrize("page", DRAWN)
def test_a_page_fits_a_phone(room: SimpleNamespace, page: str) -> None:
    room.browser.size(390, 844)
    browser = opened(room, page)
    assert browser.js("return document.documentElement.scrollWidth") <= 390


def test_the_wall_says_what_the_ring_does(room: SimpleNamespace) -> None:
    browser = opened(room, "")
    hear(room.watch, "orchestrator", RingStatus("granted", 3.0, "alice", "bob", 12))
    browser.wait(lambda: "alice-bob" in browser.text(".tiles"), "the tiles")
    assert "<script>alert(1)</script>" in browser.text(".events")
    assert "alice waits for key with bob" in browser.text(".waits")
    hear(room.watch, "orchestrator", PeerStatus("relay", present=False))
    browser.wait(lambda: "relay is gone" in browser.text(".events"), "the relay's end")


def test_a_hub_that_falls_silent_is_a_banner_and_then_stale(room: SimpleNamespace) -> None:
    browser = opened(room, "")
    browser.wait(lambda: "said nothing" in browser.text("#banner"), "the banner", 6.0)
    browser.wait(lambda: browser.text(".word") == "STALE", "the word", 10.0)
    assert "stale" in browser.js("return document.body.className")
    beat(room.board)
    browser.wait(lambda: not browser.text("#banner"), "the banner goes", 3.0)


def test_a_link_that_is_lost_is_a_banner(room: SimpleNamespace) -> None:
    browser = opened(room, "ring")
    room.board.put("link", "the orchestrator did not answer")
    browser.wait(lambda: "did not answer" in browser.text("#banner"), "the banner", 2.0)
    room.board.put("link", "")
    beat(room.board)
    browser.wait(lambda: not browser.text("#banner"), "the banner goes", 2.0)


@pytest.mark.parametrize("how", ["mouse", "keyboard", "shortcut"])
def test_stop_needs_neither_token_nor_hub(room: SimpleNamespace, how: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(room, "log")
    button = browser.driver.find_element("id", "stop")
    if how == "mouse":
        button.click()
    elif how == "keyboard":
        browser.js("arguments[0].focus()", button)
        button.send_keys(Keys.ENTER)
    else:
        browser.driver.find_element("tag name", "body").send_keys(Keys.CONTROL, Keys.SHIFT, "s")
    browser.wait(lambda: "stays dark when it is started" in browser.text("#stopped"), "what became of it")
    assert all(role in browser.text("#stopped") for role in ("relay", "alice", "bob", "carol", "dave"))


def test_what_is_fetched_at_first_is_light(room: SimpleNamespace) -> None:
    browser = opened(room, "")
    sizes = browser.js(
        "return performance.getEntriesByType('resource').map((e) => [e.name, e.decodedBodySize || e.transferSize])"
    )
    assert sum(size for _, size in sizes) < HEAVIEST_BYTES, json.dumps(sizes)
