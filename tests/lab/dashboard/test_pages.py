"""Every page in a real browser: drawn from live values, without barriers in both themes, nothing from elsewhere, no markup of others."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from browser import Browser, axe_script
from control_room import TOKEN, beat, filled, hear, made_machine, served

from lab.calibration.finding import Curve, Finding
from lab.calibration.keeping import FINDINGS
from lab.calibration.steps import Step
from lab.dashboard.application import PAGES, STATIC
from lab.dashboard.board import Board
from lab.dashboard.series import Series
from orchestrator.events.status import Learning, PeerStatus, Readings, RingStatus

pytestmark = pytest.mark.early

DRAWN = list(PAGES)
HEAVIEST_BYTES = 300_000


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    browser = Browser()
    board = Board(time.monotonic)
    machine = made_machine(tmp_path_factory.mktemp("room") / "ring")
    series = Series()
    watch = filled(board, machine, series)
    try:
        with served(board, machine, series) as url:
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


def test_every_page_that_can_be_chosen_is_there_and_the_other_way_round(room: SimpleNamespace) -> None:
    drawn_by = {each.stem for each in (STATIC / "pages").glob("*.js")}
    assert drawn_by == {name or "wall" for name in PAGES}
    browser = opened(room, "")
    assert browser.text("nav").split("\n") == list(PAGES.values())


def test_no_page_asks_the_clock_of_its_browser() -> None:
    """It may show any time, and jump; ages are of the server's clocks."""
    for module in STATIC.rglob("*.js"):
        if module.parent.name != "vendor":
            text = module.read_text(encoding="utf-8")
            assert "Date.now" not in text, module
            assert "new Date()" not in text, module


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
    for top in (0, 10_000):
        browser.js("scrollTo(0, arguments[0])", top)
        seen = browser.js(
            "const r = document.getElementById('stop').getBoundingClientRect();"
            "return document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2)?.id"
        )
        assert seen == "stop", f"/{page}, scrolled to {top}: the stop button is not in sight"


def test_one_word_takes_a_third_of_the_wall(room: SimpleNamespace) -> None:
    for width, height in ((1280, 900), (390, 844), (1920, 1080)):
        room.browser.size(width, height)
        browser = opened(room, "")
        share = browser.js(
            "return document.querySelector('.verdict').getBoundingClientRect().height / innerHeight"
        )
        assert 0.25 < share < 0.45, (width, height, share)


def test_the_wall_says_what_the_ring_does(room: SimpleNamespace) -> None:
    browser = opened(room, "")
    hear(room.watch, "orchestrator", RingStatus("granted", 3.0, "alice", "bob", 12))
    browser.wait(lambda: "alice-bob" in browser.text(".tiles"), "the tiles")
    assert "<script>alert(1)</script>" in browser.text(".events")
    assert "alice waits for key with bob" in browser.text(".waits")
    hear(room.watch, "orchestrator", PeerStatus("relay", present=False))
    browser.wait(lambda: "relay is gone" in browser.text(".events"), "the relay's end")


def test_a_tile_of_the_wall_has_stock_in_time_qber_rate_and_the_age_of_the_last_block(
    room: SimpleNamespace,
) -> None:
    room.board.put("lasts/alice/bob", 7200)
    browser = opened(room, "")
    tile = "return [...document.querySelectorAll('.tiles li')].find((e) => e.textContent.includes('alice-bob')).innerText"
    browser.wait(lambda: "lasts" in browser.js(tile), "the tile")
    told = browser.js(tile).replace("\u202f", " ")
    for words in (
        r"0 bit, lasts 2 h",
        r"0.72 % \(limit 6 %\)",
        r"42 kbit/s, 93 % of plan",
    ):
        assert re.search(words, told), (words, told)
    assert re.search(r"last block\s+\d+(\.\d)? (s|min) ago", told), told


def test_the_ring_as_a_drawing_says_who_stands_in_it_and_what_both_detectors_count(
    room: SimpleNamespace,
) -> None:
    hear(room.watch, "orchestrator", RingStatus("granted", 3.0, "alice", "bob", 12))
    hear(room.watch, "orchestrator", PeerStatus("relay", present=True, ready=True))
    browser = opened(room, "ring")
    said = "return document.querySelector('svg.ring').getAttribute('aria-label')"
    browser.wait(
        lambda: (
            browser.js(said)
            == "alice-bob holds the light; relay measures, alice in the ring, bob in the ring, "
            "carol not ready, dave gone"
        ),
        "who stands in it",
    )
    assert re.search(
        r"D1\s+290\u202fkcps\s+D2\s+280\u202fkcps\s+back-scatter\s+410\u202fcps\s+age",
        browser.text(".figures"),
    )
    assert re.search(r"dave\s+gone\s+\d", browser.text("[aria-label=Links]"))
    assert re.search(r"alice: few authentication bits \(.*\)\. order key", browser.text(".problems"))
    hear(room.watch, "orchestrator", RingStatus("free", 1.0))
    browser.wait(
        lambda: browser.js(said).startswith("No pair holds the light; relay ready, alice bypassed"),
        "it is free",
    )


def test_a_reading_has_unit_limits_age_and_state(room: SimpleNamespace) -> None:
    browser = opened(room, "instruments")
    row = "return [...document.querySelectorAll('[aria-label=Readings] tbody tr')].find((e) => e.textContent.includes(arguments[0])).innerText"
    browser.wait(lambda: "laser" in browser.text("[aria-label=Readings]"), "the readings")
    told = browser.js(row, "temperature_c").replace("\u202f", " ").split("\t")
    assert told[:5] == [
        "laser",
        "relay",
        "temperature_c",
        "31.5 °C",
        "from 10 °C to 45 °C",
    ]
    assert told[6] == "within limits"
    assert re.match(r"\d+(\.\d)? (s|min)", told[5]), told
    hear(room.watch, "alice", Readings("awg_alice", "temperature_c", 47.2, "degC", 10.0, 45.0, 2.0))
    browser.wait(lambda: "above its limit" in browser.js(row, "47.2"), "what is beyond its limit")


def test_the_time_line_has_past_entries_and_those_to_come_in_their_places(room: SimpleNamespace) -> None:
    browser = opened(room, "queue")
    bars = (
        "return [...document.querySelectorAll('.timeline li')].map((e) => [e.firstChild.textContent.split(':')[0],"
        " e.querySelector('.bar').dataset.state, parseFloat(e.querySelector('.bar').style.left)])"
    )
    browser.wait(lambda: len(browser.js(bars)) == 3, "the bars of what is open")
    found = {number: (state, left) for number, state, left in browser.js(bars)}
    assert {number: state for number, (state, _) in found.items()} == {
        "2": "running",
        "3": "waiting",
        "4": "held",
    }
    assert found["2"][1] < found["3"][1], "what runs began before what waits"


def test_the_log_is_filtered_by_kind_role_and_word(room: SimpleNamespace) -> None:
    browser = opened(room, "log")

    def choose(field: str, value: str) -> None:
        browser.js(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))",
            field,
            value,
        )

    def lines() -> list[str]:
        told: list[str] = browser.js(
            "return [...document.querySelectorAll('main tbody tr')].map((e) => e.innerText)"
        )
        return told

    browser.wait(lambda: len(lines()) > 8, "every event")
    every = len(lines())
    for field, value, word in (
        ("kind", "BlockReport", "bits"),
        ("role", "bob", "bob-"),
        ("word", "dave is gone", "dave is gone"),
    ):
        choose(field, value)
        browser.wait(lambda word=word: lines() and all(word in each for each in lines()), value)
        assert len(lines()) < every
        choose(field, "")
        browser.wait(lambda: len(lines()) == every, "all of them again")


def test_pairs_have_their_books_and_applications_their_keys(room: SimpleNamespace) -> None:
    browser = opened(room, "pairs")
    browser.wait(lambda: "burnt" in browser.text("main"), "the books are drawn")
    books = browser.js(
        "return [...document.querySelectorAll('[aria-label=\"Books of each pair\"] tbody tr')].map((row) => row.innerText)"
    )
    assert len(books) == len(room.machine.testbed.pairs())
    assert "25.7\u202fkbit\t3.0·10⁻¹⁰\t3.0·10⁻¹⁵\t4.2·10⁻¹²\t3.0·10⁻¹⁰" in books[0]
    given = browser.text('[aria-label="What applications were given"]')
    assert "app<script>alert(1)</script>" in given
    assert "2.56\u202fkbit of 10\u202fMbit" in given


def test_pairs_as_a_matrix_with_the_plan_and_what_was_measured(room: SimpleNamespace) -> None:
    browser = opened(room, "pairs")
    browser.wait(lambda: "0.72\u202f%" in browser.text(".matrix"), "the matrix")
    room.browser.js(
        "const s = document.querySelector('#figure'); s.value = 'last abort'; s.dispatchEvent(new Event('change'))"
    )
    browser.wait(
        lambda: "<script>alert(1)</script>" in browser.text(".matrix"), "why the last block gave no key"
    )
    runs = room.board.get("runs")
    for number, shown in (
        (7, True),
        (0, False),
    ):  # the latest lease of alice and bob is 0: its block is in work
        row = {**runs["rows"][1], "id": f"block/1/{number}", "result": "not put on record"}
        room.board.put("runs", {**runs, "rows": [row, *runs["rows"]]})
        browser.wait(
            lambda shown=shown: ("not put on record" in browser.text(".matrix")) == shown, "an abort"
        )
    room.board.put("runs", runs)
    told = browser.js("return document.querySelector('main').textContent")
    assert "The latest stored block gave 42\u202fkbit/s of light, 93\u202f% of plan." in told
    assert browser.js("return document.querySelectorAll('details tbody tr').length") == 10
    assert browser.js("return document.querySelector('canvas').width") > 300


def test_an_entry_is_worked_on_after_a_question_and_with_the_token(room: SimpleNamespace) -> None:
    from selenium.webdriver.common.keys import Keys

    room.browser.size(1280, 900)
    browser = opened(room, "queue")
    browser.wait(lambda: "after entry 2" in browser.text("tbody"), "the queue")
    assert "7 entries more are not shown" in browser.text(".hint")
    browser.js("sessionStorage.clear()")
    browser.driver.find_element("css selector", "[aria-label='Hold entry 2']").click()
    assert "A block that is lit for it is finished" in browser.text("dialog")
    token = browser.driver.find_element("css selector", "dialog input[type=password]")
    token.send_keys("wrong", Keys.ENTER)
    browser.wait(lambda: "wrong token" in browser.text("dialog"), "that the token is wrong")
    token.clear()
    token.send_keys(TOKEN, Keys.ENTER)
    browser.wait(
        lambda: "Not done" in browser.text("dialog") and "wrong" not in browser.text("dialog"),
        "that no orchestrator runs",
    )
    assert "orchestrator" in browser.text("dialog [role=status]")
    browser.driver.find_element("tag name", "body").send_keys(Keys.ESCAPE)
    browser.wait(lambda: not browser.js("return document.querySelector('dialog')"), "the dialog goes")


def test_an_attack_that_is_on_stands_on_every_page_and_what_it_does_on_its_own(room: SimpleNamespace) -> None:
    room.browser.size(1280, 900)
    for page in ("", "pairs"):
        browser = opened(room, page)
        browser.wait(lambda b=browser: "SIMULATED ATTACK ON: Tap on the fibre" in b.text("#attacked"), page)
    browser = opened(room, "")
    browser.wait(lambda: "under a simulated attack" in browser.text(".verdict"), "the wall's word")
    browser = opened(room, "attacks")
    browser.wait(lambda: "30 % of the light" in browser.text("main"), "which is on")
    assert "begun by <script>alert(1)</script>" in browser.text("main")
    assert "no key: too few bits" in browser.text("main")
    begin = browser.driver.find_element("css selector", "[aria-label='Attack: Intercept and resend']")
    assert not begin.is_enabled(), "one at a time"
    room.board.put("attack", {"name": "", "strength": 0.0, "who": ""})
    browser.wait(lambda: "No attack is on." in browser.text("main"), "its end")
    assert not browser.text("#attacked")
    begin.click()
    assert "under attack: Intercept and resend, 20 % of the pulses?" in browser.text("dialog")


def test_what_roles_instruments_calibrations_rounds_and_runs_say(room: SimpleNamespace) -> None:
    for page, selector, said in (
        ("instruments", "tbody", "laser: does not answer"),
        ("calibration", "tbody", "3.25 ± 0.01 and 4.5 ± 0.02 ns"),
        ("calibration", "tbody", "a user's own value"),
        ("calibration", "main", "2 values, 2 of them stale."),
        ("training", ".problems", "alice waits for key with bob"),
        ("training", "main", "given up: bob went <script>alert(1)</script>"),
        ("training", "main", "4, without alice"),
        ("training", ".figures", "180\u202fkbit"),
        ("runs", "main", "no key: <script>alert(1)</script>"),
        ("runs", "main", "2 of the latest 2; 70 are on record"),
        ("runs", ".problems", "records/x: damaged"),
    ):
        browser = opened(room, page)
        browser.wait(lambda b=browser, said=said, selector=selector: said in b.text(selector), said, 5.0)


def test_a_trend_is_drawn_of_what_the_server_kept_before_the_page_was_there(room: SimpleNamespace) -> None:
    room.browser.size(1280, 900)
    hear(room.watch, "relay", Readings("laser", "power_mw", 9.5, "mW"))
    browser = opened(room, "instruments")
    browser.wait(lambda: browser.text("tbody"), "the instruments")
    browser.driver.find_element("css selector", "[aria-label='Trend of laser power_mw']").click()
    summary = "return document.querySelector('section canvas') && document.querySelector('section').innerText"
    browser.wait(
        lambda: "least 9.5\u202fmW, greatest 9.98\u202fmW" in (browser.js(summary) or ""), "the trend"
    )
    browser = opened(room, "pairs")
    browser.wait(lambda: "Latest 0.72\u202f%;" in (browser.js(summary) or ""), "the QBER of a pair")
    hear(room.watch, "relay", Readings("laser", "unread_mw", float("nan"), "mW"))
    browser = opened(room, "instruments")
    browser.complaints()
    browser.wait(lambda: browser.text("tbody"), "the instruments")
    browser.driver.find_element("css selector", "[aria-label='Trend of laser unread_mw']").click()
    browser.wait(lambda: "Nothing was told of it" in browser.text("section"), "no trend")
    assert browser.complaints() == []


def test_who_waits_is_told_by_what_a_round_takes(room: SimpleNamespace) -> None:
    waits = Learning("run-1", "otp", "waiting", 10, waits=(("dave", "carol"),), round_bits=100_000)
    hear(room.watch, "fl-server", waits)
    short = "alice and carol wait for key: 90\u202fkbit of 100\u202fkbit"
    for page in ("", "training"):
        browser = opened(room, page)
        browser.wait(lambda b=browser: short in b.text("main"), "who waits")
        assert "dave waits" not in browser.text("main")
        assert "alice and dave wait" not in browser.text("main")


def test_a_browser_without_shared_workers_has_a_stream_for_each_page(room: SimpleNamespace) -> None:
    lacking = {"source": "delete globalThis.SharedWorker"}
    told = room.browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", lacking)
    try:
        browser = opened(room, "log")
        assert browser.js("return typeof SharedWorker") == "undefined"
        hear(room.watch, "orchestrator", PeerStatus("bob", present=False))
        browser.wait(lambda: "bob is gone" in browser.text("main"), "what changed", 5.0)
        hear(room.watch, "orchestrator", PeerStatus("bob", present=True))
    finally:
        room.browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", told)


def test_the_age_of_what_has_a_date_follows_the_server_s_clock(room: SimpleNamespace) -> None:
    """Neither this browser's, nor of what was told with an age."""
    room.board._wall = lambda: 1e9 + 4000
    browser = opened(room, "queue")
    closed = "[aria-label='Entries that left the queue, newest first']"
    browser.wait(lambda: "66\u202fmin 31\u202fs ago" in browser.text(closed), "how long ago entry 1 ended")
    for wall, told in ((1e9 + 400_000, "4 days ago"), (1e9 + 20, "11\u202fs ago")):
        room.board._wall = lambda wall=wall: wall
        browser.wait(lambda told=told: told in browser.text(closed), "a clock that jumped", 5.0)
    room.board._wall = time.time


def test_curves_of_a_finding_are_drawn_and_told(room: SimpleNamespace) -> None:
    curve = Curve(
        "Counts", "delay (ns)", "counts", [3.0, 1234.567], {"alice": [5.0, 9.0]}, {"alice": [5.1, 8.8]}
    )
    finding = Finding(
        Step("delays"), "relay", {}, {}, {}, {}, {}, [curve], 1.0, measured=datetime(2026, 1, 1, tzinfo=UTC)
    )
    folder = room.machine.path.parent / FINDINGS
    folder.mkdir()
    (folder / "20260101-delays-relay.json").write_bytes(msgspec.json.encode(finding))
    room.browser.size(390, 844)
    browser = opened(room, "calibration")
    browser.wait(lambda: browser.text("#finding"), "the findings")
    browser.driver.find_element("css selector", "form button").click()
    browser.wait(lambda: browser.js("return document.querySelector('main canvas')"), "the plot")
    assert "1234.5798.8" in browser.js("return document.querySelector('details').textContent")
    assert browser.js("return document.documentElement.scrollWidth") <= 390


def test_a_folder_without_records_says_so_when_it_is_audited(room: SimpleNamespace) -> None:
    browser = opened(room, "runs")
    browser.js(f"sessionStorage.setItem('token', '{TOKEN}')")
    browser.driver.find_element("css selector", "main button").click()
    browser.driver.find_element("css selector", "dialog button[type=submit]").click()
    browser.wait(lambda: "holds no records" in browser.text("dialog"), "what the audit says")


def test_many_pages_after_each_other_leave_no_stream_behind(room: SimpleNamespace) -> None:
    """A browser has six connections to a server: a seventh page would wait for ever."""
    for _ in range(4):
        for page in ("log", "pairs"):
            opened(room, page)


def test_eight_windows_and_the_stop_button_of_one_browser_work_at_once(room: SimpleNamespace) -> None:
    """All of them seen, as on a wall of screens: six streams would leave no connection for a seventh, nor for stopping."""
    driver = room.browser.driver
    first = driver.current_window_handle
    try:
        for number in range(8):
            driver.switch_to.new_window("window")
            browser = opened(room, DRAWN[number])
            assert not browser.js("return document.hidden")
        room.board.put("testbed", {**room.board.get("testbed"), "name": "renamed"})
        for handle in driver.window_handles:
            driver.switch_to.window(handle)
            if handle != first:
                room.browser.wait(lambda: room.browser.text("#name") == "renamed", "what changed since", 5.0)
        room.browser.driver.find_element("id", "stop").click()
        room.browser.wait(lambda: "stays dark" in room.browser.text("#stopped"), "what became of it", 10.0)
    finally:
        for handle in driver.window_handles:
            if handle != first:
                driver.switch_to.window(handle)
                driver.close()
        driver.switch_to.window(first)


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
