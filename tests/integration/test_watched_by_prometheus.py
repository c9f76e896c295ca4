"""A real Prometheus watches a ring that makes key for applications: every panel of the dashboard has numbers but those of learning
(:mod:`tests.lab.test_monitoring` holds these against a round), no rule fires for nothing, and strangers and a killed process are alerts."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from command_line import run_qunetlab

from lab.monitoring.alerts import rules_text
from lab.monitoring.dashboard import dashboard
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.watched.targets import TARGETS_FILE, Targets
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator.events.common import Serving
from orchestrator.hub.connect import connect_agent
from orchestrator.metrics.learning import LEARNING
from orchestrator.metrics.table import TABLE, WHERE
from tests.helpers.key_client import Application
from tests.helpers.prometheus import Prometheus
from tests.helpers.ring_up import going, served

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SAES = {"app1": "alice", "app2": "bob"}
QUIET = {"QunetlabKeysRefused"}
"""Applications ask before there is key for them."""
PLACE = {"$pair": ".*", "$role": ".*", "$__rate_interval": "30s"}
PATIENCE_S = 400.0
LEARNT = {row.name for row in LEARNING}


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
        if exprs and not any(LEARNT & set(re.findall(r"qunetlab_\w+", expr)) for expr in exprs):
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

        def empty() -> list[str]:
            with suppress(OSError):
                keys = apps["app1"].ask("app2/enc_keys?number=2")
                for key_id in keys:
                    apps["app2"].ask(f"app1/dec_keys?key_ID={key_id}")
            fired.update(watch.alerts())
            return [
                title for title, exprs in panels() if not any(numbers(watch, expr, began_s) for expr in exprs)
            ]

        until(lambda: not empty())
        assert empty() == []
        assert len(watch.now("up == 1")) >= 7
        hold_where(watch)
    assert {alert for alert, _ in fired} <= QUIET
    hold_lines([*(home / "state" / "up").glob("*.log")])


def test_a_stranger_at_the_hub_and_a_killed_process_are_alerts_within_seconds(tmp_path: Path) -> None:
    path = create_folder(tmp_path / "ring", template_path("simulated-four-node"))
    rules = tmp_path / "alerts.yml"
    rules.write_text(re.sub(r"for: \d+s", "for: 3s", rules_text()), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "lab.cli.main", "orchestrator", str(path.parent), "--json"]
    hub = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with ExitStack() as stack:
        stack.callback(hub.kill)
        assert hub.stdout is not None
        ready = json.loads(hub.stdout.readline())
        targets = Targets(tmp_path / TARGETS_FILE)
        targets.tell({"orchestrator": Serving(metrics=ready["metrics"])})
        watch = stack.enter_context(Prometheus(tmp_path, str(tmp_path / "targets*.json"), rules))
        assert until(lambda: len(watch.now("qunetlab_connections_refused_total")) == 2, 60)
        said = run_qunetlab("keys", "revoke", "relay", "--testbed", str(path.parent))
        assert said.returncode == 0, said.stderr
        testbed = load_testbed(path)
        found = {"control": ready["control"], "bulk": ready["bulk"]}
        testbed = testbed.model_copy(update={"hub": testbed.hub.model_copy(update=found)})
        stranger = connect_agent(testbed, "relay", path.parent / "secrets" / "relay")
        stack.callback(stranger.close)
        assert until(lambda: ("QunetlabStrangers", "orchestrator") in watch.alerts(), 60)
        assert ("QunetlabProcessGone", "orchestrator") not in watch.alerts()
        hub.kill()
        assert until(lambda: ("QunetlabProcessGone", "orchestrator") in watch.alerts(), 60)


def hold_where(watch: Prometheus) -> None:
    """Every metric is served by the roles that the table says, and by no other."""
    silent = set()
    for row in (each for each in TABLE if each.name not in LEARNT):
        found = watch.now(f"group by (role) (last_over_time({row.name}[30m]))")
        kinds = {kind_of(labels["role"]) for labels, _ in found}
        where = set(WHERE[row.source])
        assert kinds <= where or where == {"every process"}, f"{row.name} at {kinds}"
        if not kinds:
            silent.add(row.name)
    assert silent <= {"qunetlab_up", "qunetlab_state", "qunetlab_alarms"}


def kind_of(role: str) -> str:
    if role in ("orchestrator", "relay", "fl-server", "simulator"):
        return role
    return "clients" if role.startswith("fl-") else "nodes"


ABOUT = {
    "block": re.compile(r"block/\d+/\d+"),
    "session": re.compile(r"block/\d+/\d+|(?:lease|light phase) \d+/\d+"),
    "pair": re.compile(r"block/\d+/\d+|light phase|\bmet \w+|key delivery with|keys from"),
    "round": re.compile(r"\bround \d+"),
}
"""Words that a line has which is about one."""


def hold_lines(logs: list[Path]) -> None:
    """Every line of every log is JSON, and names what it is about."""
    lacking: Counter[tuple[str, str]] = Counter()
    count = 0
    for log in logs:
        for text in log.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            count += 1
            event = line.get("event", {})
            named = {field for field, words in ABOUT.items() if words.search(line["message"])}
            if {"first", "second"} <= event.keys() or event.get("type") in ("Epsilons", "PeerLedger"):
                named |= {"pair"}
            if {"epoch", "lease_number"} <= event.keys():
                named |= {"session"}
            lacking.update((line["logger"], field) for field in named - line.keys())
    assert count > 100
    assert not lacking


def numbers(watch: Prometheus, expr: str, began_s: float) -> list[float]:
    """All finite values that an expression had since the start."""
    found = watch.over(expr, began_s, time.time())
    return [value for _, values in found for value in values if math.isfinite(value)]
