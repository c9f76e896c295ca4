"""A real Prometheus watches a ring that makes key for applications and for a training: every panel of the dashboard has numbers,
no rule fires for nothing, and what goes wrong is an alert."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from lab.monitoring.alerts import rules_text
from lab.monitoring.panels import dashboard
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import read_testbed, write_testbed
from tests.helpers.key_client import Application
from tests.helpers.prometheus import Prometheus
from tests.helpers.ring_up import going, served

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SAES = {"app1": "alice", "app2": "bob"}
QUIET = {"QunetlabCalibrationAge"}
"""Stands where calibrations are from the template."""
PLACE = {"$pair": ".*", "$role": ".*", "$__rate_interval": "30s"}
PATIENCE_S = 400.0


def make_ring(folder: Path) -> Path:
    """A ring with two applications, whose blocks are short and whose rules hold soon."""
    path = create_folder(folder / "ring", template_path("simulated-four-node"), applications=SAES)
    data = read_testbed(path)
    data["protocol"] = {**data["protocol"], "slots_per_frame": 1 << 20, "pulses_per_block": 1 << 25}
    data["key_delivery"] = {**data["key_delivery"], "stock_bits": 20_000}
    write_testbed(data, path)
    return path.parent


def panels() -> Iterator[tuple[str, list[str]]]:
    """Title and expressions of each panel, as Grafana would ask."""
    for panel in dashboard()["panels"]:
        exprs = []
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for variable, value in PLACE.items():
                expr = expr.replace(variable, value)
            exprs.append(expr)
        if exprs:
            yield panel["title"], exprs


def until(found: Callable[[], bool], limit_s: float = PATIENCE_S) -> bool:
    give_up = time.monotonic() + limit_s
    while not found():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.5)
    return True


def test_every_panel_has_numbers_and_no_rule_fires_for_nothing(tmp_path: Path) -> None:
    home = make_ring(tmp_path)
    rules = tmp_path / "alerts.yml"
    rules.write_text(re.sub(r"for: \d+s", "for: 10s", rules_text()), encoding="utf-8")
    began_s = time.time()
    fired: set[tuple[str, str]] = set()
    with ExitStack() as stack:
        stack.enter_context(going(home))
        watch = stack.enter_context(Prometheus(tmp_path, str(home / "state" / "up" / "targets*.json"), rules))
        apps = {sae: Application(home, sae, served(home, user)) for sae, user in SAES.items()}
        options = ("--testbed", str(home), "--live", "--rounds", "3", "--out", str(tmp_path / "run"))
        training = subprocess.Popen(
            [sys.executable, "-m", "lab.cli.main", "train", "digits", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.callback(training.kill)

        def empty() -> list[str]:
            with suppress(OSError):
                keys = apps["app1"].ask("app2/enc_keys?number=2")
                for key_id in keys:
                    apps["app2"].ask(f"app1/dec_keys?key_ID={key_id}")
            fired.update(watch.alerts())
            return [
                title for title, exprs in panels() if not any(numbers(watch, expr, began_s) for expr in exprs)
            ]

        until(lambda: training.poll() is not None and not empty())
        said, _ = training.communicate(timeout=60)
        assert training.returncode == 0, said
        assert empty() == []
        assert len(watch.now("up == 1")) >= 7
    assert {alert for alert, _ in fired} <= QUIET


def numbers(watch: Prometheus, expr: str, began_s: float) -> list[float]:
    """All finite values that an expression had since the start."""
    found = watch.over(expr, began_s, time.time())
    return [value for _, values in found for value in values if math.isfinite(value)]
