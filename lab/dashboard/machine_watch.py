"""What this machine's control sockets and files tell, onto the board: each source in a thread and at a pace of its own.

Nobody who works is disturbed by somebody who looks: a socket is asked for what its process has in memory, with little
patience; files are read when they changed; and a source that costs much is read as much more rarely (:data:`SHARE`).
One that fails leaves what it put last, whose age then grows, and says why under ``problem/SOURCE``.

============================  =========================================================================================
key                           value
============================  =========================================================================================
``queue``                     the orchestrator's queue (QueueShown), the latest :data:`CLOSED` that left it too; ``left_off``
                              entries beyond the first :data:`ENTRIES_SHOWN`
``interlock/ROLE``            ``{ok, text, state}`` (InterlockState) of each role that owns instruments
``books/NODE``                books and epsilons of a node that runs here, with each peer (PairKeys), never key
``use/NODE``                  what its applications were given (SaeUse), with ``quota_bits`` a day or null; of a dashboard that only
                              this machine can reach
``runs``                      ``{rows, total, unread}``: what is on record, newest first (:mod:`lab.runs.records.listing`)
``audit-page``                the address of the page of the latest audit that was asked for at a page; "" before
``training``                  rounds of the latest training run (:mod:`lab.dashboard.rounds`), once there is one
``plan/FIRST/SECOND``         the plan of a pair and its curve (:mod:`lab.runs.planned`)
``calibration/OWNER/NAME``    a calibrated value (:mod:`lab.dashboard.calibrated`)
``calibration-missing``       steps without values, and ``calibration-page`` the address of the page of all findings
``attacks``, ``attack``       of a simulated ring: those there are, and the one that is on, since it is (AttackShown; its name is
                              empty for none)
``machine``                   disk, memory and load of this machine
============================  =========================================================================================
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import structs

from lab.calibration.book import BookError, book_path, now
from lab.calibration.keeping import FINDINGS
from lab.dashboard.board import Board
from lab.dashboard.calibrated import calibrated_values, calibration_page, missing_steps
from lab.dashboard.presence import AUDIT_FILE, AUDIT_PAGE, FOLDER
from lab.dashboard.rounds import latest_rounds
from lab.runs.attacks.control import attack_on, rows
from lab.runs.interlocks import owning_roles, states
from lab.runs.planned import planned
from lab.runs.records.listing import found_in
from lab.runs.testbeds.folder import STATE
from lab.runs.testbeds.machine import Machine
from lab.testbed import Testbed, TestbedError, load_testbed
from orchestrator.events.status import ORCHESTRATOR
from orchestrator.wire.control_socket import ControlError, ControlRefusedError, Keys, ShowKeys, ask, listens
from orchestrator.wire.key_control import ShowUse, Use
from orchestrator.wire.queue_control import QueueRow, QueueShown, ShowQueue

logger = logging.getLogger(__name__)

CLOSED = 30
ENTRIES_SHOWN = 200
RUNS_SHOWN = 50
PATIENCE_S = 1.0
"""An answer that takes longer is not waited for."""
SHARE = 0.05
"""Of a processor that a source may use."""
EXPECTED = (ControlError, ControlRefusedError, BookError, TestbedError, OSError, ValueError)


@dataclass(frozen=True)
class Source:
    """What is read, and how often at most."""

    name: str
    every_s: float
    read: Callable[[], None]


class MachineWatch:
    """Reads until :meth:`close`.  ``alone``: nobody but this machine can reach the dashboard."""

    def __init__(self, board: Board, machine: Machine, *, alone: bool) -> None:
        self._board, self._machine, self._alone = board, machine, alone
        self._ending = threading.Event()
        self._planned = self._listed = ""
        self._orders: list[QueueRow] = []
        self.sources: tuple[Source, ...] = (
            Source("machine", 5.0, self.read_machine),
            Source("queue", 1.0, self.read_queue),
            Source("interlock", 2.0, self.read_interlocks),
            Source("keys", 5.0, self.read_keys),
            Source("calibration", 5.0, self.read_calibration),
            Source("runs", 15.0, self.read_runs),
            Source("plan", 5.0, self.read_plans),
        )
        if machine.testbed.simulation is not None:
            board.put("attacks", rows())
            self.sources += (Source("attack", 1.0, self.read_attack),)
        self._threads = [
            threading.Thread(target=self._follow, args=(each,), name=f"dashboard-{each.name}", daemon=True)
            for each in self.sources
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End, and wait for it."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _follow(self, source: Source) -> None:
        while not self._ending.is_set():
            began_s = time.thread_time()
            self.read(source)
            self._ending.wait(max(source.every_s, (time.thread_time() - began_s) / SHARE))

    def read(self, source: Source) -> None:
        """Read one source once; what is in the way goes onto the board."""
        key = f"problem/{source.name}"
        try:
            source.read()
        except EXPECTED as error:
            self._board.put(key, str(error))
        except Exception as error:
            # Nobody would notice a thread that ended: the page says what happened, and it goes on.
            if self._board.get(key) is None:
                logger.exception("reading %s failed", source.name)
            self._board.put(key, f"the dashboard itself failed: {error}")
        else:
            self._board.drop(key)

    def read_queue(self) -> None:
        """The queue, of an orchestrator that runs here."""
        told: QueueShown = ask(self._machine.folder(ORCHESTRATOR), ShowQueue(CLOSED), PATIENCE_S)
        self._orders = told.entries
        shown = structs.replace(told, entries=told.entries[:ENTRIES_SHOWN])
        value = {**msgspec.to_builtins(shown), "left_off": len(told.entries) - len(shown.entries)}
        self._board.put("queue", value, at_s=time.monotonic())

    def read_attack(self) -> None:
        """Of a simulator on this machine; one that is gone attacks nobody."""
        try:
            shown = msgspec.to_builtins(attack_on(self._machine, PATIENCE_S))
        except ControlError:
            self._board.drop("attack")
            raise
        began_s = time.monotonic() - shown.pop("for_s")
        if self._board.get("attack") != shown:
            self._board.put("attack", shown, at_s=began_s)

    def read_interlocks(self) -> None:
        """Of each role that owns instruments and has its folder here."""
        roles = [each for each in owning_roles(self._machine) if self._machine.folder(each).is_dir()]
        for key in set(self._board.keys("interlock/")) - {f"interlock/{role}" for role in roles}:
            self._board.drop(key)
        for told in states(self._machine, roles, PATIENCE_S):
            value = {"ok": told.ok, "text": told.text, "state": msgspec.to_builtins(told.state)}
            self._board.put(f"interlock/{told.role}", value, at_s=time.monotonic())

    def read_keys(self) -> None:
        """Books and use of the nodes that run here; of one that has ended nothing is shown."""
        testbed = self._machine.testbed
        for user in testbed.user_names():
            folder = self._machine.folder(user)
            if not listens(folder):
                self._board.drop(f"books/{user}")
                self._board.drop(f"use/{user}")
                continue
            books: Keys = ask(folder, ShowKeys(), PATIENCE_S)
            self._board.put(f"books/{user}", msgspec.to_builtins(books.pairs), at_s=time.monotonic())
            if self._alone and testbed.applications_of(user):
                used: Use = ask(folder, ShowUse(), PATIENCE_S)
                quotas = {name: entry.bits_per_day or None for name, entry in testbed.sae.items()}
                rows = [{**msgspec.to_builtins(row), "quota_bits": quotas.get(row.sae)} for row in used.rows]
                self._board.put(f"use/{user}", rows, at_s=time.monotonic())

    def read_runs(self) -> None:
        """What is on record, where anything was written since."""
        folder = records_folder(self._machine)
        orders = self._orders
        audited = (self._machine.folder(FOLDER) / AUDIT_FILE).is_file()
        self._board.put("audit-page", AUDIT_PAGE if audited else "")
        written = _sizes(folder, ("state/*/records/*", "records/*/*", "records/*/*/*", f"{FINDINGS}/*.db*"))
        if (
            mark := f"{written} {[(each.number, each.state, each.made_bits) for each in orders]}"
        ) == self._listed:
            return
        found = found_in(folder, orders)
        rows = [msgspec.to_builtins(each) for each in found.listed[: -RUNS_SHOWN - 1 : -1]]
        self._board.put("runs", {"rows": rows, "total": len(found.listed), "unread": found.unread})
        if (rounds := latest_rounds(found)) is not None:
            self._board.put("training", rounds)
        self._listed = mark

    def read_plans(self) -> None:
        """The plan of each pair, once for each content of testbed file and book."""
        path = self._machine.path
        content = hashlib.sha256()
        for each in (path, book_path(path)):
            content.update(each.read_bytes() if each.exists() else b"")
        if (mark := content.hexdigest()) == self._planned:
            return
        testbed = load_testbed(path)
        self._drop_other_pairs(testbed)
        for first, second in testbed.pairs():
            began_s = time.thread_time()
            self._board.put(f"plan/{first}/{second}", planned(testbed, first, second))
            if self._ending.wait((time.thread_time() - began_s) / SHARE):
                return
        self._planned = mark

    def _drop_other_pairs(self, testbed: Testbed) -> None:
        pairs = {f"plan/{first}/{second}" for first, second in testbed.pairs()}
        for key in set(self._board.keys("plan/")) - pairs:
            self._board.drop(key)

    def read_calibration(self) -> None:
        """Values, what is missing, and the page."""
        path = self._machine.path
        rows = calibrated_values(path, now(), alone=self._alone)
        keys = {f"calibration/{owner}/{name}": row for (owner, name), row in rows.items()}
        for gone in set(self._board.keys("calibration/")) - set(keys):
            self._board.drop(gone)
        for key, row in keys.items():
            self._board.put(key, row)
        self._board.put("calibration-missing", missing_steps(path))
        shown = self._alone and calibration_page(path) is not None
        self._board.put("calibration-page", "/pages/calibration" if shown else "")

    def read_machine(self) -> None:
        """Room and load."""
        folder = self._machine.state
        while not folder.exists():
            folder = folder.parent
        disk = shutil.disk_usage(folder)
        value = {
            "folder": str(self._machine.state),
            "free_bytes": disk.free,
            "total_bytes": disk.total,
            "writable": os.access(folder, os.W_OK | os.X_OK),
            "load_1min": os.getloadavg()[0],
            "processors": os.cpu_count(),
        }
        self._board.put("machine", value, at_s=time.monotonic())


def records_folder(machine: Machine) -> Path:
    """Where records lie: the folder whose ``state`` the roles have, or that of the testbed file."""
    return machine.state.parent if machine.state.name == STATE else machine.path.parent


def _sizes(folder: Path, patterns: tuple[str, ...]) -> list[tuple[str, int]]:
    """Names and sizes: what is written there only grows, or is replaced whole."""
    return [(str(each), each.stat().st_size) for pattern in patterns for each in sorted(folder.glob(pattern))]
