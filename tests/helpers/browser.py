"""A headless Chromium for tests of pages; a test that asks for it where there is none is skipped with the reason."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AXE = "axe-core@4.14.1"
"""Of npm; checks pages for barriers.  For tests only, it is no part of the product."""
PATIENCE_S = 20.0


class Browser:
    """One window.  Closed by :meth:`close`."""

    def __init__(self) -> None:
        webdriver = pytest.importorskip(
            "selenium.webdriver", reason="pages are not tried: selenium is not installed"
        )
        from selenium.webdriver.chrome.service import Service

        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            pytest.skip("pages are not tried: chromium or chromium-driver is not installed")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(each)
        options.page_load_strategy = "eager"  # a page that streams never ends loading
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.driver.set_page_load_timeout(60)
        self.driver.set_script_timeout(60)

    def close(self) -> None:
        """End it."""
        self.driver.quit()

    def size(self, width: int, height: int) -> None:
        """Of the window, in pixels of the page."""
        told = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", told)

    def theme(self, name: str) -> None:
        """What the browser says its user prefers: dark or light."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def text(self, selector: str = "body") -> str:
        """What people see of an element."""
        found = self.js("const e = document.querySelector(arguments[0]); return e && e.innerText", selector)
        return str(found or "")

    def js(self, script: str, *arguments: Any) -> Any:
        """The answer of a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, done: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> float:
        """Seconds until ``done``; fails after ``patience_s``."""
        began_s = time.monotonic()
        while not done():
            waited_s = time.monotonic() - began_s
            assert waited_s < patience_s, (
                f"{what}: not within {patience_s:g} s; the page says {self.text()[:800]!r}, its console {self.complaints()}"
            )
        return time.monotonic() - began_s

    def requested(self) -> list[str]:
        """Every address that was asked for since the last call."""
        events = [json.loads(each["message"])["message"] for each in self.driver.get_log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """What the browser's console complained of since the last call."""
        return [
            each["message"]
            for each in self.driver.get_log("browser")
            if each["level"] in ("SEVERE", "WARNING")
        ]

    def picture(self, path: Path) -> None:
        """A picture of the whole page, and not only of what the window shows."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        width = max(size["width"], self.js("return innerWidth"))  # what is fixed may stand under a scroll bar
        whole = {"captureBeyondViewport": True, "clip": {**size, "width": width, "scale": 1}}
        told = self.driver.execute_cdp_cmd("Page.captureScreenshot", whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def barriers(self, axe: Path) -> list[str]:
        """Violations that axe finds on the page as it stands."""
        self.js(axe.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run(document).then((r) => done(r.violations))"
        )
        return [
            f"{each['id']}: {each['help']}: {node['html'][:160]} {node['failureSummary'][:200]}"
            for each in found
            for node in each["nodes"]
        ]


def axe_script(folder: Path) -> Path:
    """The script of axe, fetched into ``folder`` with npm where it is not there yet; skips where that cannot be had."""
    script = folder / "package" / "axe.min.js"
    if script.exists():
        return script
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("pages are not checked for barriers: npm is not installed")
    try:
        packed = subprocess.run(
            [npm, "pack", AXE, "--silent"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"pages are not checked for barriers: {error}")
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        archive.extract("package/axe.min.js", folder)
    return script
