"""However a run ends, its folder says so, and holds what its roles put on record until then."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.runs.audit.auditing import audited
from lab.runs.audit.findings import Check
from lab.runs.records.ending import on_record
from lab.runs.records.gathering import Gathering, digest_of
from lab.runs.supervising.private_folder import private_folder
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import RoleStarted

if TYPE_CHECKING:
    from tests.lab.conftest import Command

RUN = """
import os, signal, sys, time
from pathlib import Path

from lab.runs.records.ending import on_record
from lab.runs.records.gathering import Gathering
from lab.runs.supervising.private_folder import ending_on_signals, private_folder
from orchestrator.records.keeping import Records

out, how = Path(sys.argv[1]), sys.argv[2]
with on_record(out, "demo", "digits"), ending_on_signals(), private_folder() as (private, _):
    state = private / "testbed" / "state"
    Gathering(str(state), str(out)).noted(private)
    Records.of_role(state / "relay", "relay", "1.0", "c0ffee")
    if how == "none":
        sys.exit(0)
    if how == "error":
        raise RuntimeError("the relay ended")
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)
"""
ENDINGS = [
    ("error", "failed after 0 s: RuntimeError: the relay ended"),
    ("SIGINT", "interrupted after 0 s: by Ctrl-C"),
    ("SIGTERM", "interrupted after 0 s: by SIGTERM"),
    ("SIGHUP", "interrupted after 0 s: by SIGHUP"),
    ("SIGKILL", "ended without a word: it was killed, or its machine was"),
]


def run(out: Path, how: str) -> None:
    """A run with one role that ends so; what it starts inherits standard error, so its sweeper has ended as well."""
    made = out.parent / "private"
    made.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(out), how],
        env={**os.environ, "TMPDIR": str(made)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert list(made.iterdir()) == []


def listed(qunetlab: Command, folder: Path) -> list[tuple[str, bool, str]]:
    said = qunetlab("runs", "--testbed", str(folder), "--kind", "run", "--json")
    assert said.returncode == 0, said.stderr
    rows = json.loads(said.stdout)
    return [(each["id"], each["ok"], re.sub(r"after \d+ s", "after 0 s", each["result"])) for each in rows]


def check_of(folder: Path, name: str) -> Check:
    return next(check for check in audited(folder).checks if check.name == name)


@pytest.mark.parametrize(("how", "told"), ENDINGS)
def test_every_ending_is_listed_and_leaves_records_to_audit(
    tmp_path: Path, qunetlab: Command, how: str, told: str
) -> None:
    out = tmp_path / "out"
    run(out, how)
    assert listed(qunetlab, out) == [("run/1", False, f"demo digits: {told}")]
    found = audited(out)
    assert found.passed
    chains = check_of(out, "chains of records")
    assert (chains.state, chains.looked_at) == (
        "passed",
        4,
    )  # the relay's and the supervisor's, two facts each
    assert (out / "records" / "ring-1" / "relay" / "records.jsonl").exists()


def test_a_run_that_is_going_on_is_listed_as_such(tmp_path: Path, qunetlab: Command) -> None:
    with on_record(tmp_path, "keygen", "alice-bob"):
        assert listed(qunetlab, tmp_path) == [("run/1", True, "keygen alice-bob: goes on")]
    assert listed(qunetlab, tmp_path) == [("run/1", True, "keygen alice-bob: done after 0 s")]


def test_the_seal_of_an_earlier_run_binds_nothing_that_a_later_one_left_without(
    tmp_path: Path, qunetlab: Command
) -> None:
    with on_record(tmp_path, "train", "digits"):
        (tmp_path / "live.json").write_text("1")
    assert check_of(tmp_path, "files of the run").looked_at == 1
    run(tmp_path, "SIGKILL")
    (tmp_path / "live.json").write_text("2")
    sealed = check_of(tmp_path, "files of the run")
    assert sealed.state == "not checkable here"
    assert "ended without a word" in sealed.notes[0]
    assert [ok for _, ok, _ in listed(qunetlab, tmp_path)] == [True, False]


def test_an_edited_finding_of_any_calibration_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "calibrations"
    folder.mkdir()
    for name in ("a", "b"):
        path = folder / f"{name}.json"
        with on_record(tmp_path, "calibrate", name, lambda _, path=path: {f"calibrations/{path.name}": digest_of(path)}):  # type: ignore[misc]  # fmt: skip
            path.write_text(name)
    assert check_of(tmp_path, "files of the run").looked_at == 2
    (folder / "a.json").write_text("c")
    (found,) = check_of(tmp_path, "files of the run").findings
    assert found.what == "calibrations/a.json is another file"


def test_a_run_in_the_place_of_another_replaces_its_records_and_its_report_when_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    out = tmp_path / "out"
    run(out, "SIGTERM")
    before = out / "records" / "ring-1" / "relay" / "records.jsonl"
    content = before.read_bytes()
    (out / "report.json").write_text("{}")
    state = tmp_path / "state"
    with private_folder() as (private, _):
        Gathering(str(state), str(out), instead=True).noted(private)
    assert (before.read_bytes(), (out / "report.json").exists()) == (content, True)  # no role had begun
    with private_folder() as (private, _):
        Gathering(str(private / "state"), str(out), instead=True).noted(private)
        Records.of_role(private / "state" / "relay", "relay", "2.0", "").keep(
            RoleStarted(role="relay", version="2")
        )
    assert before.read_bytes() != content
    assert not (out / "report.json").exists()


def test_records_of_a_run_that_was_killed_with_its_sweeper_are_gathered_by_the_next(tmp_path: Path) -> None:
    script = RUN.replace("os.kill(os.getpid(), getattr(signal, how))", "os.killpg(0, signal.SIGKILL)")
    made, out = tmp_path / "private", tmp_path / "out"
    made.mkdir()
    environment = {**os.environ, "TMPDIR": str(made)}
    sweeperless = "import subprocess\nstart = subprocess.Popen\nsubprocess.Popen = lambda command, **more: start(command, **{**more, 'start_new_session': False})\n"
    subprocess.run(
        [sys.executable, "-P", "-c", sweeperless + script, str(out), "SIGKILL"],
        env=environment,
        start_new_session=True,
        timeout=60,
        check=False,
    )
    assert len(list(made.iterdir())) == 1
    assert not (out / "records" / "ring-1").exists()
    run(tmp_path / "other", "error")
    assert list(made.iterdir()) == []
    assert (out / "records" / "ring-1" / "relay" / "records.jsonl").exists()
