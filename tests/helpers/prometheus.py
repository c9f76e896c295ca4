"""A real Prometheus on a port of its own, asked over its HTTP API; tests that want one skip where it is not installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

CONFIG = """
global: {{scrape_interval: {every_s}s, evaluation_interval: {every_s}s}}
rule_files: [{rules}]
scrape_configs:
- job_name: qunetlab
  file_sd_configs: [{{files: ["{targets}"], refresh_interval: 5s}}]
"""


class Prometheus:
    """Scrapes what stands in the files ``targets`` (a pattern), and looks at ``rules``; a context manager."""

    def __init__(self, folder: Path, targets: str, rules: Path, every_s: int = 1) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("prometheus is not here (Debian's package `prometheus`, whose service need not run)")
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(every_s=every_s, rules=rules, targets=targets), encoding="utf-8")
        self._log = folder / "prometheus.log"
        self._command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        self.url = ""

    def __enter__(self) -> Prometheus:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if found := re.search(r"(?i)listening on.*address=(?:127\.0\.0\.1|\[::\]):(\d+)", line):
                self.url = f"http://127.0.0.1:{found[1]}"
            if "Server is ready" in line and self.url:
                break
        else:
            pytest.fail("Prometheus did not start:\n" + "".join(said[-5:]))
        self._draining = subprocess.Popen(["cat"], stdin=self._process.stderr, stdout=self._log.open("w"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._draining.wait(30)

    def ask(self, place: str, **arguments: str) -> Any:
        """What stands under ``data`` of an answer."""
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self.url}/api/v1/{place}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def now(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Labels and number of everything that an expression gives at this moment."""
        found = self.ask("query", query=expr)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def over(
        self, expr: str, start_s: float, end_s: float, step_s: int = 5
    ) -> list[tuple[dict[str, str], list[float]]]:
        """The same over time (seconds since 1970)."""
        asked = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s}s"}
        found = self.ask("query_range", query=expr, **asked)["result"]
        return [(each["metric"], [float(value) for _, value in each["values"]]) for each in found]

    def alerts(self, state: str = "firing") -> set[tuple[str, str]]:
        """Name, and role or instance, of the alerts in a state."""
        found = self.ask("alerts")["alerts"]
        return {
            (each["labels"]["alertname"], each["labels"].get("role") or each["labels"].get("process", ""))
            for each in found
            if each["state"] == state
        }
