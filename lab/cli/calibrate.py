"""``qunetlab calibrate``: measure what drifts and what nobody knows of a ring, and write it beside its testbed file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lab.calibration.book import now, read_book
from lab.calibration.finding import Finding
from lab.calibration.keeping import FINDINGS, check_keeping, kept_findings
from lab.calibration.steps import STEPS, Step
from lab.claims import OwnedError
from lab.cli.options import EXIT_INTERRUPTED
from lab.needs import POLARIZATION
from lab.runs.calibrating.hands import instruction
from lab.runs.calibrating.rig import Rig, opened_rig
from lab.runs.calibrating.runner import Due, Outcome, plan, run
from lab.runs.pages.calibration_page import write_page
from lab.runs.records.ending import on_record
from lab.runs.records.gathering import digest_of
from lab.runs.shown import echo
from lab.runs.supervising.private_folder import ending_on_signals
from lab.runs.testbeds.machine import pair_named
from lab.testbed import load_testbed, read_testbed
from orchestrator.light.own_station import Direction
from orchestrator.wire.control_socket import ControlError

EVERY_S = 2.0


def run_calibrate(
    path: Path,
    steps: Sequence[Step],
    named: Sequence[str],
    *,
    state: Path | None = None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Calibrate, or say what would be; 1 if a step was refused."""
    testbed = load_testbed(path)
    pairs = [pair_named(testbed, each) for each in named]
    book = read_book(path, read_testbed(path))
    controlled = [
        owner for owner in ("relay", *testbed.user_names()) if POLARIZATION.name in testbed.servers(owner)
    ]
    due = plan(
        testbed.user_names(),
        testbed.pairs(),
        book,
        now(),
        steps=steps,
        asked=pairs,
        controlled=controlled,
    )
    if dry_run or not due:
        _show_plan(due, as_json)
        return 0
    outcomes: list[Outcome] = []
    check_keeping(path)
    about = ", ".join(dict.fromkeys(str(each.step) for each in due))
    before = set(_findings(path.parent))
    with on_record(path.parent, "calibrate", about, lambda folder: _found_since(before, folder)) as ending:
        interrupted = _alone(path, due, outcomes, state, as_json)
        refused = [f"{each.due}: {each.refused}" for each in outcomes if each.finding is None]
        if interrupted:
            ending.interrupted(f"by {'Ctrl-C' if interrupted == EXIT_INTERRUPTED else 'a signal'}")
        elif refused:
            ending.failed(f"{len(refused)} of {len(outcomes)} steps were refused: {'; '.join(refused)}")
    findings = [] if interrupted else kept_findings(path)
    page = write_page(testbed.name, findings, path.parent / FINDINGS) if findings else None
    if page and not as_json:
        echo(f"Figures and earlier values: {page}")
    if as_json:
        echo(json.dumps({"calibrated": [_answer(each) for each in outcomes]}))
    return interrupted or int(any(outcome.finding is None for outcome in outcomes))


def _alone(path: Path, due: Sequence[Due], outcomes: list[Outcome], state: Path | None, as_json: bool) -> int:
    """The same as :func:`_calibrate`; who has the instruments meanwhile is told with what to do."""
    try:
        with ending_on_signals():
            return _calibrate(path, due, outcomes, state, as_json)
    except ControlError as error:
        raise ControlError(
            f"{error}: a role, a notebook or another `qunetlab calibrate` works with this ring; nothing was touched"
        ) from error
    except OwnedError as error:
        first, second = due[0].pair
        raise OwnedError(
            f"{error}; on a ring that runs a calibration is an entry of its queue: "
            f"`qunetlab queue add calibration {due[0].step} --pair {first}-{second}`"
        ) from error


def _findings(folder: Path) -> dict[str, Path]:
    return {each.relative_to(folder).as_posix(): each for each in (folder / FINDINGS).glob("*.json")}


def _found_since(before: Collection[str], folder: Path) -> dict[str, str]:
    """The findings that are not from ``before``, each by its digest."""
    return {name: digest_of(each) for name, each in _findings(folder).items() if name not in before}


def _calibrate(
    path: Path, due: Sequence[Due], outcomes: list[Outcome], state: Path | None, as_json: bool
) -> int:
    """Do what is ``due``, telling each of ``outcomes``; the exit code of whatever interrupted it, 0 for nothing."""
    somebody = sys.stdin.isatty() and not as_json
    rig: Rig | None = None
    try:
        with opened_rig(
            path,
            _AtTheTerminal() if somebody else None,
            state=state,
            when_latched=_wait if somebody else None,
        ) as rig:
            for outcome in run(rig, path, due, progress=_progress()):
                outcomes.append(outcome)
                if not as_json:
                    echo(_line(outcome))
                if outcome.unrecorded:
                    echo(f"{outcome.due}: kept, but it has no data set: {outcome.unrecorded}", err=True)
    except (KeyboardInterrupt, SystemExit) as end:
        echo(_interrupted(rig, due, outcomes), err=True)
        return int(end.code or 0) if isinstance(end, SystemExit) else EXIT_INTERRUPTED
    return 0


def _interrupted(rig: Rig | None, due: Sequence[Due], outcomes: Sequence[Outcome]) -> str:
    """What is done; what was made safe, the session has said."""
    left = ""
    if rig is None:
        left = "no light was on yet; "
    elif not rig.is_left_safe:
        left = "the guards make the instruments safe, look at them with `qunetlab instruments`; "
    at = f"in {due[len(outcomes)]}" if len(outcomes) < len(due) else "at the end"
    done = sum(outcome.finding is not None for outcome in outcomes)
    return (
        f"interrupted {at}: {left}{done} of {len(due)} steps are kept, the same command goes on with the rest"
    )


class _AtTheTerminal:
    """Somebody who reads what to do and presses Enter."""

    def plug(self, user: str, sensor: Direction, free: bool) -> None:
        """Ask for it, and wait."""
        input(instruction(user, sensor, free) + " ")


def _wait(latched: str) -> None:
    echo(f"{latched} from another terminal; everything is dark and waits for that, Ctrl-C gives up", err=True)


def _show_plan(due: Sequence[Due], as_json: bool) -> None:
    if as_json:
        rows = [{"step": each.step, "owner": each.owner, "pair": list(each.pair)} for each in due]
        echo(json.dumps({"due": rows}))
        return
    for each in due:
        echo(
            f"{each.step:14s} {each.owner:12s} in the light of {', '.join(each.pair)}: {STEPS[each.step].finds}"
        )
    if not due:
        echo("nothing is missing or stale")


def _line(outcome: Outcome) -> str:
    if outcome.finding is None:
        return f"{outcome.due}: refused: {outcome.refused}"
    told = {**outcome.finding.values, **outcome.finding.figures}
    return f"{outcome.due}: " + ", ".join(f"{name} {each.told()}" for name, each in told.items())


def _answer(outcome: Outcome) -> dict[str, Any]:
    finding: Finding | None = outcome.finding
    return {
        "step": outcome.due.step,
        "owner": outcome.due.owner,
        "pair": list(outcome.due.pair),
        "refused": outcome.refused,
        "unrecorded": outcome.unrecorded,
        "finding": msgspec.to_builtins(finding) if finding else None,
    }


def _progress() -> Any:
    """A listener that prints part, rate and time left of a step every few seconds, on standard error."""
    started = told = time.monotonic()
    of: Due | None = None

    def show(due: Due, part: float) -> None:
        nonlocal started, told, of
        at = time.monotonic()
        if due != of:
            of, started, told = due, at, at
        if at - told < EVERY_S or part <= 0:
            return
        told = at
        left_s = (at - started) * (1 - part) / part
        echo(f"  {due}: {100 * part:.0f} %, {left_s:.0f} s left", err=True)

    return show
