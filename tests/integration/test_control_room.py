"""The control room over rings of real processes: every page of a demo, the queue worked on, a hub that is killed and comes back,
stopping without it.

Pictures of every page go to the folder that ``QUNETLAB_PICTURES`` names, else to the test's own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import Browser, axe_script
from two_users_ring import PAIR, Ring

from lab.dashboard.application import PAGES
from lab.runs.interlocks import acknowledge, states
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import BlockReport

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
BANNER_S = 2.0


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring.making_key(tmp_path_factory.mktemp("ring")) as ring:
        yield ring


@contextmanager
def dashboard(ring: Ring, listen: str = "127.0.0.1:0") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A dashboard of the ring: its address, and its process, which may be killed."""
    command = [sys.executable, "-P", "-m", "lab.cli.main", "dashboard", str(ring.path)]
    process = subprocess.Popen([*command, "--listen", listen, "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        assert told["ready"] is True
        yield told["url"], process
    finally:
        process.terminate()
        assert process.wait(60) in (0, -signal.SIGKILL)
        process.stdout.close()


@pytest.fixture(scope="module")
def url(ring: Ring) -> Iterator[str]:
    with dashboard(ring) as (url, _):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the dashboard of a demo: four users, six pairs, a training that goes on."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "lab.cli.main",
        "demo",
        "--rounds",
        "1000",
        "--dashboard",
        "--json",
    ]
    out = tmp_path_factory.mktemp("demo")
    demo = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    try:
        yield next(told["url"] for line in demo.stdout if (told := json.loads(line)).get("url"))
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=120)


def opened(browser: Browser, url: str) -> None:
    browser.driver.get(url)
    browser.wait(lambda: browser.js("return document.querySelector('main').dataset.drawn"), "a page")


def until_moved(browser: Browser, selector: str, patience_s: float) -> None:
    """Wait for other numbers than ages in an element."""

    def values() -> str:
        told = browser.js("return document.querySelector(arguments[0])?.textContent", selector) or ""
        return re.sub(r"[\d.]+\u202f(s|min|h)\b", "", told)

    before = values()
    browser.wait(lambda: values() not in (before, ""), f"{selector} moves", patience_s)


MOVES = {
    "": ".tiles",
    "ring": ".figures",
    "pairs": "[aria-label='Each pair']",
    "queue": "[aria-label='Pairs whose key is short']",
    "instruments": "[aria-label=Readings]",
    "training": "[aria-label='Key for the next rounds']",
    "runs": "[aria-label='On record, newest first']",
    "log": "[aria-label='Events, newest first']",
}
"""What of a page says something else before long; a demo does not calibrate."""


def test_every_page_of_a_demo_shows_values_that_move_and_how_old_they_are(
    demo: str, browser: Browser, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    axe = axe_script(pytestconfig.cache.mkdir("axe"))
    pictures = Path(os.environ.get("QUNETLAB_PICTURES", tmp_path))
    opened(browser, f"{demo}log")
    browser.wait(lambda: "bits of key" in browser.text("main"), "the first block", 200.0)
    browser.requested()
    for page in PAGES:
        browser.complaints()
        browser.size(1280, 900)
        opened(browser, demo + page)
        if page in MOVES:
            until_moved(browser, MOVES[page], 200.0)
            assert re.search(r"\d\u202f(s|min)\b", browser.text("main")), f"/{page} shows no age"
        for width, theme in ((1280, "light"), (390, "dark"), (1280, "dark"), (390, "light")):
            browser.size(width, 900)
            browser.theme(theme)
            assert browser.barriers(axe) == [], f"/{page}, {theme}"
            assert browser.js("return document.documentElement.scrollWidth") <= width, f"/{page}"
            browser.picture(pictures / f"{page or 'wall'}-{width}-{theme}.png")
        assert browser.complaints() == []
    assert [asked for asked in browser.requested() if not asked.startswith((demo, "data:"))] == []


def dialog(browser: Browser, do: Callable[[], object]) -> str:
    """What the page says after ``do`` opened a question that is then answered with the dashboard's token."""
    do()
    browser.driver.find_element("css selector", "dialog button[type=submit]").click()
    browser.wait(
        lambda: browser.js("return document.querySelector('dialog button[type=submit]') === null"), "done"
    )
    told = browser.text("dialog [role=status]")
    browser.driver.find_element("xpath", "//dialog//button[.='Close']").click()
    return told


def test_the_queue_is_worked_on_by_mouse_and_by_keyboard(ring: Ring, url: str, browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    def queue(*arguments: str) -> None:
        command = [sys.executable, "-P", "-m", "lab.cli.main", "queue", *arguments]
        subprocess.run([*command, "--testbed", str(ring.path)], check=True, stdout=subprocess.DEVNULL)

    def state(number: int) -> str:
        return str(
            browser.js(
                "return [...document.querySelectorAll(\"[aria-label='Entries'] tbody tr\")]"
                ".find((row) => row.firstChild.textContent === arguments[0])?.children[3].textContent",
                str(number),
            )
        )

    def button(word: str, number: int) -> Callable[[], object]:
        return browser.driver.find_element("css selector", f"[aria-label='{word} entry {number}']").click

    def key(word: str, number: int) -> Callable[[], object]:
        found = browser.driver.find_element("css selector", f"[aria-label='{word} entry {number}']")
        return lambda: found.send_keys(Keys.ENTER)

    opened(browser, f"{url}queue")
    browser.size(1280, 900)
    token = (Machine(ring.path, None).folder("dashboard") / "token").read_text()
    browser.js("sessionStorage.setItem('token', arguments[0])", token)
    for _ in range(3):
        queue("add", "key", "-".join(PAIR), "--bits", "1G")
    browser.wait(lambda: state(3) == "waiting", "the third entry")
    for do in (button, key):
        assert "3" in dialog(browser, do("Hold", 3))
        browser.wait(lambda: state(3).startswith("held"), "it is held")
        assert "3" in dialog(browser, do("Resume", 3))
        browser.wait(lambda: state(3) == "waiting", "it goes on")
    dialog(browser, browser.driver.find_element("xpath", "//main//button[.='Hold all']").click)
    browser.wait(lambda: "The whole queue is held by" in browser.text(".hint"), "all is held")
    dialog(browser, browser.driver.find_element("xpath", "//main//button[.='Resume all']").click)
    browser.wait(lambda: not browser.text(".hint"), "all goes on")

    def move() -> None:
        key("Move", 3)()
        browser.js(
            "const [place] = document.querySelectorAll('dialog select'); place.value = arguments[0]", "2"
        )

    assert "3" in dialog(browser, move)
    order = "return [...document.querySelectorAll(\"[aria-label='Entries'] tbody th\")].map((each) => each.textContent)"
    browser.wait(lambda: browser.js(order) == ["1", "3", "2"], "three goes before two")
    for number, do in ((1, button), (2, key), (3, button)):
        dialog(browser, do("Abort", number))
    browser.wait(lambda: "Nothing is in the queue" in browser.text("main"), "the end of all")
    browser.wait(
        lambda: (
            browser.text("[aria-label='Entries that left the queue, newest first']").count("aborted") == 3
        ),
        "that they were aborted",
    )


def test_an_audit_of_a_ring_at_work_is_shown_and_its_page_is_a_report_without_barriers(
    ring: Ring, url: str, browser: Browser, pytestconfig: pytest.Config
) -> None:
    opened(browser, f"{url}runs")
    token = (Machine(ring.path, None).folder("dashboard") / "token").read_text()
    browser.js("sessionStorage.setItem('token', arguments[0])", token)
    browser.size(1280, 900)
    audit = browser.driver.find_element("xpath", "//main//button[.='Audit these records']")
    print(dialog(browser, audit.click))
    browser.wait(lambda: browser.text("[aria-label='Checks of the audit'] tbody"), "the checks")
    told = browser.text("[aria-label='Checks of the audit']")
    print(told)
    assert "failed" not in told
    browser.driver.find_element("link text", "The page of the latest audit").click()
    browser.wait(lambda: "Nothing contradicts itself" in browser.text("main"), "the page of the audit")
    assert browser.driver.current_url == f"{url}pages/audit"


def test_a_second_dashboard_is_told_of_the_first_and_serves_as_well(ring: Ring, url: str) -> None:
    command = [sys.executable, "-P", "-m", "lab.cli.main", "dashboard", str(ring.path), "--listen"]
    taken = url.removeprefix("http://").rstrip("/")
    refused = subprocess.run([*command, taken], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert f"serves at {url}" in " ".join(refused.stderr.split())
    with subprocess.Popen([*command, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as another:
        assert another.stdout is not None
        assert another.stdout.readline().startswith("http://127.0.0.1:")
        assert f"serves at {url}" in another.stdout.readline()
        another.terminate()
        assert another.wait(60) == 0


def test_a_killed_dashboard_is_a_banner_and_its_return_ends_it(ring: Ring, browser: Browser) -> None:
    with dashboard(ring) as (url, process):
        opened(browser, url)
        browser.wait(lambda: not browser.text("#banner"), "no banner")
        process.kill()
        took_s = browser.wait(
            lambda: "No connection to the dashboard" in browser.text("#banner"), "the banner"
        )
        assert took_s < BANNER_S
    with dashboard(ring, url.removeprefix("http://").rstrip("/")):
        took_s = browser.wait(lambda: not browser.text("#banner"), "the banner goes")
        print(f"right again {took_s:.2f} s after the dashboard came back")
        browser.wait(lambda: "-".join(PAIR) in browser.text(".tiles"), "the ring")


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


@pytest.mark.parametrize("how", ["mouse", "keyboard", "with a question open"])
def test_stop_works_with_the_hub_dead(ring: Ring, url: str, browser: Browser, how: str) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, f"{url}queue" if how == "with a question open" else url)
    ring.wait_for_light()
    ring.kill("orchestrator")
    if how == "mouse":
        browser.driver.find_element("id", "stop").click()
    elif how == "keyboard":
        browser.driver.find_element("tag name", "body").send_keys(Keys.CONTROL, Keys.SHIFT, "s")
    else:
        browser.driver.find_element("xpath", "//main//button[.='Hold all']").click()
        browser.driver.find_element("css selector", "dialog .stop").click()
    outcome = "return document.getElementById('stopped').className"
    browser.wait(lambda: browser.js(outcome) in ("good", "bad"), "what became of it")
    print(browser.text("#stopped"))
    assert browser.js(outcome) == "good"
    machine = Machine(ring.path, None)
    roles = ["relay", *PAIR]
    for told in states(machine, roles):
        assert told.ok
        assert told.state is not None
        assert "operator" in [cause.cause for cause in told.state.causes]
    ring.start("orchestrator")
    ring.supervisor.ready(["orchestrator"], 60)
    assert all(told.ok for told in acknowledge(machine, roles, "the test"))
    ring.ask_for_key()
    ring.wait_for_block()


def test_an_attack_from_the_page_is_watched_until_it_ends_in_an_abort_and_key_comes_again_after_it(
    ring: Ring, url: str, browser: Browser
) -> None:
    ring.wait_for_block()
    opened(browser, f"{url}attacks")
    browser.size(1280, 900)
    token = (Machine(ring.path, None).folder("dashboard") / "token").read_text()
    browser.js("sessionStorage.setItem('token', arguments[0])", token)
    browser.wait(lambda: "No attack is on." in browser.text("main"), "that the ring is honest")
    browser.js("document.querySelector(\"[aria-label='Strength of Intercept and resend']\").value = '100'")
    begin = browser.driver.find_element("css selector", "[aria-label='Attack: Intercept and resend']")
    assert "100 % of the pulses: on" in dialog(browser, begin.click)
    browser.wait(
        lambda: "SIMULATED ATTACK ON: Intercept and resend" in browser.text("#attacked"), "the banner"
    )
    pairs = "[aria-label='Key since the attack began']"
    took_s = browser.wait(lambda: "no key: " in browser.text(pairs), "the abort", 120.0)
    print(f"aborted {took_s:.1f} s after the attack began: {browser.text(f'{pairs} tbody')}")
    command = [sys.executable, "-P", "-m", "lab.cli.main", "status", str(ring.path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "SIMULATED ATTACK ON" in told
    end = browser.driver.find_element("xpath", "//main//button[.='End the attack']")
    assert "the ring is honest again" in dialog(browser, end.click)
    browser.wait(lambda: "No attack is on." in browser.text("main"), "its end")
    honest_s = time.monotonic()
    ring.wait_for(
        lambda name, event: isinstance(event, BlockReport) and event.stored and event.started_s > honest_s,
        "key after the attack",
        200.0,
    )
