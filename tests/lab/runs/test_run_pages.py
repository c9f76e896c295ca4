"""Progress and pages of training runs, from made-up results."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import msgspec
import pytest
from made_reports import training_results
from rich.console import Console

from fl.experiments.base import Plan, plan_for
from fl.experiments.options import TrainOptions
from fl.experiments.results import (
    AbortedRow,
    RoundTimes,
    SeedRun,
    Stall,
    StallPart,
)
from fl.experiments.runner import CellDone, CellStarted, RoundDone
from fl.workloads import load_task
from lab.runs.following.train_progress import TrainDisplay, Work
from lab.runs.pages.comparison import notes_of, render_comparison
from lab.runs.pages.curves import mean_seconds
from lab.runs.pages.run_report import main_arm, render_run
from lab.runs.training.outcome import summary


def test_the_page_tells_everything_once_and_escapes_what_it_did_not_write() -> None:
    page = render_run(training_results())
    for text in (
        "A &lt;run&gt;",
        "a note &amp; more",
        "&lt;bob&gt; left",
        "instrument fault",
        "laser 12.5",
        "made on the ring during the run",
        "equals the plain sum exactly",
        "75.00 % less",
        "two minus one",
        "+1.00 to +9.00",
        "9,000",
        "about 6 s of light",
    ):
        assert text in page, text
    assert "<run>" not in page
    assert page.count("<svg") == 6
    assert not re.search(r"(src|href)=[\'\"](?!#)", page)


@pytest.mark.usefixtures("no_figures")
def test_what_peers_wrote_does_nothing_to_a_page() -> None:
    hostile = "\x1b[2J<script>x</script>\u202e\x9b\"'"
    base = training_results()
    live = msgspec.structs.replace(base.runs[0], aborted=(AbortedRow(3, hostile, 5),))
    text = render_run(
        msgspec.structs.replace(
            base,
            title=hostile,
            notes=(hostile,),
            runs=(live,),
            stalls=(Stall(hostile, 1.0, (StallPart((hostile,), 1.0),)),),
        )
    )
    assert text.count("\\u001b[2J&lt;script&gt;x&lt;/script&gt;\\u202e\\u009b&quot;&#x27;") >= 5
    assert "<script" not in text
    assert all(each.isprintable() or each == "\n" for each in text)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("exact", "told"),
    [(False, "does NOT equal the plain sum"), (None, "was not compared with the plain sum")],
)
def test_a_sum_that_is_wrong_or_unchecked_is_never_called_exact(exact: bool | None, told: str) -> None:
    rows = tuple(msgspec.structs.replace(row, exact=exact) for row in training_results().rounds)
    page = render_run(training_results(rounds=rows))
    assert told in page
    assert "equals the plain sum exactly" not in page


def test_runs_compared_stand_in_columns() -> None:
    page = render_comparison(
        {"one": training_results(), "two": training_results(mode="expanded", security="computational")}
    )
    assert "<th scope='col'>one</th><th scope='col'>two</th>" in page
    assert "<td>information-theoretic</td><td>computational</td>" in page
    assert page.count("<svg") == 6


def test_a_note_of_several_runs_is_told_once() -> None:
    runs = {
        "one": training_results(),
        "two": training_results(),
        "three": training_results(notes=("another",)),
    }
    assert notes_of(runs) == ["one, two: a note & more", "three: another"]


@pytest.mark.usefixtures("no_figures")
def test_bytes_besides_the_update_are_told_where_shares_travel() -> None:
    page = render_run(training_results(mode="lightsecagg"))
    assert "1,000 bytes. A client sends" in render_run(training_results())  # 800 values of 10 bits
    assert "1,000 bytes. With shares and answers (0 bytes) a client sends 1,000 bytes" in page
    plain = render_run(training_results(mode="plain", security="none", key_supply="simulated"))
    assert "No key is needed" in plain
    assert "made up by a generator" not in plain


def test_a_summary_names_security_supply_and_interval(tmp_path: Any) -> None:
    text = summary(training_results(), tmp_path)
    assert "90.00 % (95 %: 85.00 to 95.00)" in text
    assert "mode otp: information-theoretic; key supply live; sum exact: yes" in text
    assert "two minus one: +5.00 points (95 %: +1.00 to +9.00)" in text


def test_starting_processes_is_not_part_of_a_simulated_rounds_time() -> None:
    times = (RoundTimes(train_s=9.0), RoundTimes(train_s=1.0), RoundTimes(train_s=2.0))
    arm = main_arm(training_results())
    cohort = msgspec.structs.replace(arm, runs=(SeedRun(1, arm.rounds, times),))
    assert mean_seconds(cohort, "train_s") == pytest.approx(1.5)
    assert mean_seconds(arm, "wait_s") == pytest.approx(9.0)


@pytest.fixture
def plan() -> Plan:
    options = TrainOptions(task="digits:mlp@iid", rounds=2, seeds=1, clients=3)
    return plan_for(options, load_task(options.task), None)


def test_rate_and_time_left_count_only_what_this_attempt_did(plan: Plan) -> None:
    now = [100.0]
    work = Work(plan, lambda: now[0])
    first, second = plan.cells
    assert (work.total, work.left_s) == (12, None)
    run = SeedRun(1, training_results().rounds)
    work.event(CellDone(first, 1, run, True))  # finished by an earlier attempt
    assert (work.done, work.left_s) == (6, None)
    work.event(CellStarted(second, 1))
    now[0] += 2.0
    work.event(RoundDone(second, 1, 2, 0.9))  # its first round was done before
    assert work.rate == pytest.approx(1.5)
    assert work.left_s == pytest.approx(2.0)
    work.event(CellDone(second, 1, run, False))
    assert work.done == work.total
    assert work.left_s == pytest.approx(0.0)


def test_without_a_terminal_progress_is_plain_lines(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainDisplay(plan, console=Console(file=StringIO())) as display:
        display.event(CellStarted(plan.primary, 1))
        display.event(RoundDone(plan.primary, 1, 1, 0.5))
        display.event(CellDone(plan.primary, 1, SeedRun(1, training_results().rounds), False))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("  0 %  3 clients, otp, seed 1")
    assert "accuracy 90.00 %" in lines[-1]
    assert "left" in lines[-1]
    assert "\x1b" not in "".join(lines)
