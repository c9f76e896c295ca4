"""What every long-running role has in common: stop signals, JSON events on standard output, JSON logs.

A role stops on SIGTERM, on Ctrl-C, and when its terminal or its supervisor is gone; a third Ctrl-C ends it
on the spot, and its guard makes the instruments safe.  Events (:mod:`orchestrator.events`) are JSON
lines on standard output for whoever started the role; logs are JSON lines on standard error.  Neither ever
holds key bits: key material has a type that refuses to be formatted.  A fault of the machine (SIGSEGV) leaves there
where the threads were: functions, files and lines.  Files that a role writes are its own (umask 077).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from lab.runs.addresses import LOOPBACK
from lab.runs.roles.logs import set_up_logging
from lab.runs.roles.service_manager import AskedEvent, ServiceManager, loop_limit_s
from lab.runs.software import commit
from lab.runs.supervising.supervisor import watch_parent
from lab.runs.testbeds.folder import SECRETS, STATE, find_testbed, own_testbed
from lab.runs.watched.process import metrics_of, page_of
from lab.testbed import Testbed, load_testbed
from orchestrator.durable import make_folder
from orchestrator.events.common import Serving
from orchestrator.events.inside import Loop
from orchestrator.events.learning import ClientState, WaitingForKeys
from orchestrator.events.process import Emit, LightProgress, ProcessEvent, line_of
from orchestrator.events.status import pair_name
from orchestrator.kernels import offer_folder
from orchestrator.log_context import about
from orchestrator.records.keeping import Records

if TYPE_CHECKING:
    from orchestrator.processes.data_sets import DataSets

logger = logging.getLogger(__name__)


class Runtime:
    """The surroundings of one role."""

    def __init__(
        self,
        role: str,
        path: Path,
        secrets: Path | None,
        state: Path | None,
        tell: Emit | None = None,
        metrics: str = LOOPBACK,
    ) -> None:
        """Load the testbed, find the folders, arm the stop signals, serve ``/metrics`` at the address ``metrics``.

        ``tell`` gets the events in the place of standard output, and shows them to people; logs are then warnings in words.
        Raises TestbedError for a wrong testbed file, FolderError for a bundled one without folders told, ValueError or
        ListenError for an address that cannot be listened at.
        """
        self.role = role
        os.umask(0o077)
        set_up_logging(role, for_people=tell is not None)
        self.testbed_path = find_testbed(path) if secrets and state else own_testbed(path)
        self.testbed: Testbed = load_testbed(self.testbed_path)
        folder = self.testbed_path.parent
        self.secrets = (secrets or folder / SECRETS) / role
        self.state = (state or folder / STATE) / role
        make_folder(self.state)
        offer_folder(self.state / "kernels")
        self.stop = AskedEvent()
        self._service = ServiceManager()
        self._print_lock = threading.Lock()
        self._tell = tell
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        watch_parent(self.stop.set)
        self.metrics = metrics_of(role, self.testbed, self.state)
        limit_s = loop_limit_s(role)
        self._page = page_of(self.metrics, metrics, lambda: Loop(self.stop.silent_s, limit_s))
        if self._page is not None:
            self._page.__enter__()  # to the end of the process: it is answered for as long as there is one

    def records(self) -> Records:
        """What this role writes down of its work; its first word is which software writes.

        Raises OSError or ChainError.
        """
        return Records.of_role(self.state, self.role, version("qunetlab"), commit())

    def data_sets(self) -> DataSets:
        """What this role writes down for its operator's own tools; only roles with instruments do."""
        from lab.datasets.slow_log import SlowLog
        from orchestrator.processes.data_sets import DataSets, RoleFiles

        name, path = self.testbed.name, self.testbed_path
        slow = SlowLog(self.state, self.role, name, self.testbed.alarm_table())
        return DataSets(RoleFiles(name, path, commit()), slow)

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.stop.is_set():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # pressed twice: the third time ends it at once
        self.stop.set()
        self._service.tell(STOPPING=1, STATUS="making safe, ending")

    def _pair_of(self, event: ProcessEvent) -> str:
        """The pair of this role with the peer that an event is about; empty where there is none."""
        ends = self.role, getattr(event, "peer", None)
        users = [user for user in self.testbed.user_names() if user in ends]
        return pair_name(users) if len(users) == 2 else ""

    def emit(self, event: ProcessEvent) -> None:
        """Print one event, and log it if it is no mere progress.

        A reader that has gone away stops the role instead of breaking it.
        """
        if isinstance(event, Serving | ClientState):  # a learning client serves nobody: it has begun
            self._service.ready(f"{self.role} is at work", self.stop)
        if isinstance(event, Serving):
            url = self._page.url if self._page else ""
            event = replace(event, role=self.role, version=version("qunetlab"), metrics=url)
        self.metrics.tell(event)
        if not isinstance(event, LightProgress | WaitingForKeys | ClientState):
            with about(pair=self._pair_of(event)):
                logger.info("%s", type(event).__name__, extra={"event": event})
        try:
            with self._print_lock:
                if self._tell is not None:
                    self._tell(event)
                    return
                sys.stdout.write(line_of(event) + "\n")
                sys.stdout.flush()
        except BrokenPipeError:
            self.stop.set()
