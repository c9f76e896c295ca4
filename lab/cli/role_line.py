"""A role in a terminal: what happened as sentences, and below them one line of what it does at this moment, with its age.

``12:03:04 relay is ready: laser, launch, detectors, tagger`` stays; the last line is drawn anew every second::

    relay up 12 min; 0.4 s ago: key light of alice-dave, 43 % of a block

Programs get the events themselves, a line of JSON each: with ``--json``, and wherever standard output is no terminal.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fl.keys.budget import duration
from lab.dashboard.sentences import sentence
from lab.runs.following.view import ago, short
from lab.runs.made_safe import sentence as safe_sentence
from lab.runs.shown import echo, shown
from lab.runs.supervising.supervisor import PARENT_FD
from orchestrator.events.common import Serving, Unknown
from orchestrator.events.learning import (
    ClientDropped,
    ClientEnded,
    ClientState,
    Listening,
    RoundAborted,
    RoundCompleted,
    RoundStarted,
    RunDescribed,
    RunFinished,
    RunStarted,
    UploadRefused,
    WaitingForClients,
    WaitingForKeys,
)
from orchestrator.events.process import (
    Calibrated,
    CalibrationProgress,
    Emit,
    HubServing,
    LightProgress,
    MadeSafe,
    NodeServing,
    ProcessEvent,
    RelayServing,
    Tracked,
)
from orchestrator.events.status import Alarm, BlockReport, LeaseStatus, PeerStatus, pair_name

EVERY_S = 1.0


def run_role(role: str, run: Callable[[Emit | None], int], *, as_json: bool) -> int:
    """Run a role: for people on a terminal, else for programs."""
    if as_json or not sys.stdout.isatty() or PARENT_FD in os.environ:
        return run(None)
    with RoleLine(role) as line:
        return run(line.tell)


def happened(role: str, event: ProcessEvent) -> str:
    """An event as a sentence that stays; empty for what only counts on."""
    match event:
        case Serving():
            return shown(f"{role} is ready{_where(event)}")
        case MadeSafe():
            return shown(safe_sentence({role: event}))
        case Calibrated(refused=""):
            return shown(f"{event.step} of {event.owner} is calibrated: {', '.join(event.found)}")
        case Calibrated():
            return shown(f"{event.step} of {event.owner} was refused: {event.refused}")
        case Tracked():
            return shown(
                f"{pair_name((event.first, event.second))}: {event.what} of {event.owner} {event.before:.4g} -> "
                f"{event.after:.4g} {event.unit}: {event.why}"
            )
        case BlockReport(interrupted=False):
            return sentence(event.first, event)  # both users hear of their block
        case LeaseStatus() | PeerStatus() | Alarm() | Unknown():
            return sentence(role, event)
        case _:
            return _learnt(event)


def _where(serving: Serving) -> str:
    match serving:
        case HubServing():
            return f" at {serving.control} and {serving.bulk}, epoch {serving.epoch}"
        case RelayServing():
            return f": {', '.join(serving.instruments)}"
        case NodeServing():
            others = f", to applications at {serving.etsi014}" if serving.etsi014 else ""
            return f", keys are delivered at {serving.delivery}{others}"
        case Listening():
            return f" at {serving.endpoint}"
        case _:
            return ""


def _learnt(event: ProcessEvent) -> str:
    match event:
        case RunDescribed():
            return shown(f"run {event.run_id}: every client's operator agrees with `{event.command}`")
        case RunStarted():
            key = (
                f", {event.key_bits_per_pair:,} bits of key per pair and round"
                if event.key_bits_per_pair
                else ""
            )
            return shown(f"run {event.run_id} of {event.task} begins with round {event.next_round}{key}")
        case WaitingForClients(missing=(_, *_)):
            return shown(f"waiting for {', '.join(event.missing)}{_because(event.reason)}")
        case UploadRefused():
            return shown(f"round {event.round}: {event.client} was refused: {event.reason}")
        case ClientDropped():
            return shown(
                f"round {event.round}: {event.client} dropped out in {event.stage}{_because(event.reason)}"
            )
        case RoundCompleted(record=record):
            return shown(
                f"round {record.round}: accuracy {100 * record.accuracy:.1f} %, {short(record.key_bits_used)}bit of key, "
                f"{record.duration_s:.1f} s"
            )
        case RoundAborted(record=aborted):
            return shown(f"round {aborted.round} gave no sum: {aborted.reason}")
        case RunFinished():
            return shown(
                f"run {event.run_id} ended after {event.completed_rounds} rounds{_because(event.reason)}"
            )
        case ClientEnded():
            return shown(f"ended after {event.rounds} rounds{_because(event.reason)}")
        case _:
            return ""


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def doing(role: str, event: ProcessEvent) -> str | None:
    """What the role does, as an event tells; None where it tells nothing of that."""
    match event:
        case LightProgress():
            part = f"{100 * event.pulses / event.planned_pulses:.0f} %" if event.planned_pulses else "begins"
            lost = f", {event.lost_frames} frames lost" if event.lost_frames else ""
            return shown(f"key light of {pair_name(event.pair)}, {part} of a block{lost}")
        case CalibrationProgress():
            pair = pair_name((event.first, event.second))
            return shown(f"calibrates {event.step} in the light of {pair}, {100 * event.done:.0f} %")
        case RoundStarted():
            return f"round {event.round}, {len(event.participants)} clients"
        case WaitingForKeys():
            return shown(
                f"round {event.round}: {event.client} waits for key: {event.detail}{_within(event.eta_s)}"
            )
        case WaitingForClients(missing=(_, *_)):
            return shown(f"waits for {', '.join(event.missing)}")
        case ClientState():
            where = f"round {event.round}: " if event.round else ""
            detail = f", {event.detail}" if event.detail else ""
            return shown(f"{where}{event.phase}{detail}{_within(event.eta_s)}")
        case Serving():
            return "ready"
        case MadeSafe():
            return "dark"
        case _:
            return happened(role, event) or None


def _within(eta_s: float | None) -> str:
    return "" if eta_s is None else f", about {duration(round(eta_s))}"


class RoleLine:
    """The terminal of a role; a context manager, told of events from any thread."""

    def __init__(
        self, role: str, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._role, self._clock = role, clock
        self._console = console or Console(highlight=False)
        self._began_s = self._at_s = clock()
        self._doing = "starting"
        self._lock = threading.Lock()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._ended = threading.Event()
        self._drawing = threading.Thread(target=self._keep_drawing, daemon=True, name="role-line")

    def __enter__(self) -> RoleLine:
        if self._draws:
            self._live.start()
            self._drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._draws:
            self._drawing.join()
            self._live.stop()

    def tell(self, event: ProcessEvent) -> None:
        """Say an event, and draw the line anew."""
        with self._lock:
            if (now := doing(self._role, event)) is not None:
                self._doing, self._at_s = now, self._clock()
            if said := happened(self._role, event):
                self._say(f"{datetime.now():%H:%M:%S} {said}")
        self._draw()

    def _say(self, line: str) -> None:
        if self._draws:
            self._console.print(Text(line), soft_wrap=True)
        else:
            echo(line)

    def line(self) -> str:
        """What is drawn; a narrow terminal cuts its end off."""
        at = self._clock()
        return f"{self._role} up {ago(at - self._began_s)}; {ago(at - self._at_s)} ago: {self._doing}"

    def _draw(self) -> None:
        if self._draws and not self._ended.is_set():
            text = Text(self.line(), no_wrap=True, overflow="crop")
            self._live.update(text, refresh=True)

    def _keep_drawing(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._draw()
