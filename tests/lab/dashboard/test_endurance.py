"""Pages that are left open: an hour of points, a browser that slept through another, a stream that goes mute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import Browser
from control_room import beat, filled, hear, made_machine, served

from lab.dashboard import application
from lab.dashboard.board import GONE_KEPT, Board
from lab.dashboard.series import Series
from orchestrator.events.status import BlockReport, LightNow, PairStatus, Readings

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
HOUR = 36_000
"""Updates: ten a second."""
MEGABYTE = 1 << 20


class Counted(Board):
    """Counts what streams asked it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.asked, self._taken = 0, threading.Event()

    def since(self, number: int, instance: str = "") -> tuple[int, str]:
        self.asked += 1
        self._taken.set()
        return super().since(number, instance)

    def be_taken(self) -> None:
        """Until a stream sends what changed: each update in a message of its own, or nearly."""
        assert self._taken.wait(20.0)
        self._taken.clear()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[SimpleNamespace]:
    browser, board, series = Browser(), Counted(time.monotonic), Series()
    machine = made_machine(tmp_path / "ring")
    watch = filled(board, machine, series)
    try:
        with served(board, machine, series) as url:
            yield SimpleNamespace(browser=browser, board=board, watch=watch, url=url, machine=machine)
    finally:
        browser.close()


def opened(room: SimpleNamespace, page: str) -> Browser:
    beat(room.board)
    browser: Browser = room.browser
    browser.driver.get(room.url + page)
    browser.wait(lambda: browser.js("return document.querySelector('main').dataset.drawn"), "it is drawn")
    return browser


def update(room: SimpleNamespace, number: int) -> None:
    """A tenth of a second of a ring at work: light, a reading, now and then a block, a stock, an event."""
    pairs = room.machine.testbed.pairs()
    first, second = pairs[number // 40 % len(pairs)]
    light = LightNow(
        first, second, number % 40 * 10**6, 4 * 10**7, number // 40, 2.8e5 + number, 2.9e5, 410.0
    )
    hear(room.watch, "relay", light)
    hear(room.watch, "relay", Readings("laser", "temperature_c", 25 + number % 97 / 100, "degC", 10.0, 45.0))
    if number % 40 == 0:
        block = BlockReport(
            1, 100 + number, first, second, True, qber=0.007, secret_bits=number, light_s=1.0, light_wall_s=4
        )
        hear(room.watch, first, block)
        hear(
            room.watch,
            "orchestrator",
            PairStatus(first, second, number, 4 * 10**6, 0, 9000.0, True, True),
        )
        room.board.drop(f"passing/{number - 40 * GONE_KEPT // 2}")
        room.board.put(f"passing/{number}", "x" * 50)
    if number % 10 == 0:
        beat(room.board)


def size(browser: Browser) -> dict[str, float]:
    """Of the page, after everything that nobody holds is gone: the least of a few, as it draws anew in between."""
    found: list[dict[str, float]] = []
    for _ in range(3):
        browser.driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        told: dict[str, Any] = browser.driver.execute_cdp_cmd("Performance.getMetrics", {})
        found.append({each["name"]: each["value"] for each in told["metrics"]})
    return {name: min(each[name] for each in found) for name in found[0]}


@pytest.mark.parametrize("page", ["", "ring", "pairs", "instruments", "attacks", "log"])
def test_an_hour_of_points_leaves_heap_and_elements_as_they_were(
    room: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setattr(application, "UPDATE_S", 0.0)
    browser = opened(room, page)
    browser.driver.execute_cdp_cmd("Performance.enable", {})
    for number in range(HOUR // 2):  # every list that has a longest is full by then
        update(room, number)
        room.board.be_taken()
    browser.wait(lambda: browser.text("main"), "the page")
    before, asked = size(browser), room.board.asked
    for number in range(HOUR // 2, HOUR):
        update(room, number)
        room.board.be_taken()
    newest = {"": "35,960 bits", "log": "35,960 bits"}.get(page, "")
    browser.wait(lambda: newest in browser.text("main"), "the newest event")
    after = size(browser)
    messages = room.board.asked - asked
    print(
        f"/{page}: {messages} messages; heap {before['JSHeapUsedSize'] / MEGABYTE:.1f} to "
        f"{after['JSHeapUsedSize'] / MEGABYTE:.1f} MB, nodes {before['Nodes']:.0f} to {after['Nodes']:.0f}, "
        f"listeners {before['JSEventListeners']:.0f} to {after['JSEventListeners']:.0f}"
    )
    assert messages > HOUR / 4
    assert after["JSHeapUsedSize"] < before["JSHeapUsedSize"] + MEGABYTE
    assert after["Nodes"] < 1.1 * before["Nodes"]
    assert after["JSEventListeners"] <= before["JSEventListeners"] + 20


def test_trends_that_are_chosen_in_turns_leave_nothing_behind(room: SimpleNamespace) -> None:
    for number in range(100):
        update(room, number)
    browser = opened(room, "instruments")
    browser.driver.execute_cdp_cmd("Performance.enable", {})

    def choose(times: int) -> dict[str, float]:
        for number in range(times):
            browser.js(
                "const s = document.querySelector('section select'); s.selectedIndex = arguments[0] % 3;"
                "s.dispatchEvent(new Event('change'))",
                number,
            )
            chosen = browser.js("return document.querySelector('section select').selectedOptions[0].text")
            browser.wait(
                lambda chosen=chosen: (
                    browser.js("return document.querySelectorAll('section canvas').length") == 1
                    and chosen in browser.js("return document.querySelector('section').textContent")
                ),
                "one plot",
            )
        return size(browser)

    before, after = choose(6), choose(60)
    print(before["Nodes"], after["Nodes"], before["JSEventListeners"], after["JSEventListeners"])
    assert after["Nodes"] < 1.1 * before["Nodes"]
    assert after["JSEventListeners"] <= before["JSEventListeners"] + 20


def test_a_page_that_nobody_saw_for_an_hour_is_right_at_once(room: SimpleNamespace) -> None:
    browser = opened(room, "log")
    browser.driver.execute_cdp_cmd("Performance.enable", {})
    before = size(browser)
    browser.driver.minimize_window()
    browser.wait(lambda: browser.js("return document.hidden"), "nobody sees it")
    number = room.board.number
    for each in range(HOUR):
        update(room, each)
    room.board.put("link", "the orchestrator did not answer")
    assert room.board.number - number > HOUR
    assert "did not answer" not in browser.text("#banner"), "it follows nothing meanwhile"
    browser.driver.set_window_rect(0, 0, 1280, 900)
    took_s = browser.wait(lambda: "did not answer" in browser.text("#banner"), "what stands")
    browser.wait(lambda: "35,960 bits" in browser.text("main"), "the newest event", 2.0)
    after = size(browser)
    print(f"right after {took_s:.2f} s; heap {before['JSHeapUsedSize']} to {after['JSHeapUsedSize']}")
    assert took_s < 2.0
    assert after["JSHeapUsedSize"] < before["JSHeapUsedSize"] + 2 * MEGABYTE


def test_a_stream_that_goes_mute_is_opened_anew(
    room: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = opened(room, "log")
    monkeypatch.setattr(application, "BEAT_S", 60.0)
    browser.wait(lambda: "No connection" in browser.text("#banner"), "the silence", 5.0)
    took_s = browser.wait(lambda: "No connection" not in browser.text("#banner"), "another stream", 8.0)
    print(f"open again after {took_s:.2f} s")


def test_a_stop_that_nobody_answers_says_what_to_do(
    room: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(application, "stop_all", lambda machine: answered.wait(60.0))
    browser = opened(room, "ring")
    browser.driver.find_element("id", "stop").click()
    browser.wait(lambda: "Stopping: light off" in browser.text("#stopped"), "that it is asked for", 2.0)
    browser.wait(lambda: "At the machine: qunetlab stop" in browser.text("#stopped"), "what to do")
    answered.set()
