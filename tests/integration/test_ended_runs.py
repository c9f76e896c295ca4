"""Rings that end in the middle of a block, as the end of a run or by a kill: dark, out of the way, and audited.

Two users and short blocks on simulated instruments, all processes real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import QUNETLAB, run_qunetlab
from fewer_users import ring_of_users

from lab.runs.audit.auditing import audited, lines
from lab.runs.demo import event_warnings, over_alarms
from lab.runs.keygen import order_key
from lab.runs.supervising.supervised import supervised_run
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import write_testbed
from orchestrator.events.process import LightProgress, ProcessEvent
from orchestrator.events.status import ORCHESTRATOR
from orchestrator.records.chain import read_chain
from orchestrator.records.keeping import CHAIN_FILE, RECORDS

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
SMALL = {"slots_per_frame": 1 << 20, "pulses_per_block": 1 << 25}
PAIR = ("alice", "dave")
PATIENCE_S = 240.0


@pytest.fixture
def small(tmp_path: Path) -> Path:
    data = ring_of_users(
        tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8")), PAIR
    )
    data["protocol"] |= SMALL
    path = tmp_path / "small.toml"
    write_testbed(data, path)
    return path


def check_records(folder: Path) -> None:
    found = audited(folder)
    assert found.passed, list(lines(found))
    passed = {check.name for check in found.checks if check.state == "passed"}
    assert {"chains of records", "leases", "books of key stores"} <= passed, list(lines(found))


def test_a_run_that_ends_in_light_ends_dark_and_out_of_the_ring_without_an_alarm(
    small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def is_lit(name: str, event: ProcessEvent) -> bool:
        return isinstance(event, LightProgress) and 2 * event.pulses <= event.planned_pulses

    with supervised_run(str(small), {}, records=out) as run:
        run.start_ring()
        order_key(run.state / ORCHESTRATOR, PAIR, 1 << 40, "olga")
        run.supervisor.wait_for(is_lit, PATIENCE_S, "light", run.note)
        run.stop()
    assert run.unsafe == []
    assert event_warnings(run) == [], over_alarms(run)
    check_records(out)


def ended(small: Path, tmp_path: Path, number: signal.Signals, testbed: Path) -> subprocess.Popen[str]:
    """``keygen`` ended by a signal in the middle of light; what it started has ended as well."""
    private = tmp_path / "private"
    private.mkdir()
    process = subprocess.Popen(
        [*QUNETLAB, "keygen", *PAIR, "--blocks", "99", "--testbed", str(testbed)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(private)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "pulses" not in (line := process.stderr.readline()):
        assert line, "it ended before there was light"
    process.send_signal(number)
    process.stderr.read()  # the sweeper has it open, too
    process.wait(PATIENCE_S)
    until_s = time.monotonic() + PATIENCE_S
    while list(private.iterdir()) and time.monotonic() < until_s:
        time.sleep(0.1)
    return process


def listed(folder: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        run_qunetlab("runs", "--testbed", str(folder), "--kind", kind, "--json").stdout
    )
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_on_a_ring_of_its_own_is_listed_and_audited(
    small: Path, tmp_path: Path, number: signal.Signals
) -> None:
    ended(small, tmp_path, number, small)
    (folder,) = (tmp_path / "qunetlab-runs").iterdir()
    (run,) = listed(folder, "run")
    told = "ended without a word" if number == signal.SIGKILL else "interrupted after"
    assert told in run["result"]
    check_records(folder)
    roles = [path.parent.name for path in folder.glob(f"{RECORDS}/ring-1/*/{CHAIN_FILE}")]
    assert sorted(roles) == sorted(("relay", "orchestrator", *PAIR))
    last = read_chain(folder / RECORDS / "ring-1" / "relay" / CHAIN_FILE).lines[-1]
    assert last is not None
    assert b"RoleStopped" in bytes(last.record)


def test_key_made_on_a_ring_of_a_folder_stays_there_and_is_audited(small: Path, tmp_path: Path) -> None:
    home = create_folder(tmp_path / "bench", small).parent
    made = run_qunetlab("keygen", *PAIR, "--testbed", str(home), "--json", timeout_s=PATIENCE_S)
    assert made.returncode == 0, made.stderr
    bits = sum(row["secret_bits"] for row in json.loads(made.stdout)["blocks"])
    assert bits > 0
    check_records(home)
    assert [(run["ok"], "done after" in run["result"]) for run in listed(home, "run")] == [(True, True)]
    assert [block["bits"] for block in listed(home, "block")][:1] == [bits]
    stock = json.loads(run_qunetlab("keys", str(home), "--json").stdout)
    assert all(each["produced"] > bits for each in stock["stores"]), stock
