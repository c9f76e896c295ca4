"""All processes of one testbed on one machine, from the first to the last.

Start order: simulated instruments, hub and learning server; then relay and nodes, which need the addresses
of the first; then the clients.  Stop order is the reverse, so that every owner can still reach its
instruments and make them safe before the simulator goes.  State lives in a private temporary folder that is
removed at the end (:mod:`lab.runs.supervising.private_folder`), unless a testbed folder brings its own secrets and state:
then its key stores are used and stay.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from lab.runs.attacks.replacing import program_of
from lab.runs.made_safe import words_of
from lab.runs.records.gathering import Gathering
from lab.runs.shown import echo
from lab.runs.supervising.private_folder import ending_on_signals, private_folder
from lab.runs.supervising.supervisor import Supervisor
from lab.runs.testbeds.folder import (
    RUNNING_FILE,
    SECRETS,
    STATE,
    TESTBED_FILE,
    UP_LOCK,
    check_down,
    create_folder,
    find_testbed,
    source_path,
    up_folder,
    up_process,
)
from lab.runs.watched.targets import TRAINING_FILE, Targets
from lab.testbed import AUTO, Testbed, load_testbed, read_testbed, write_testbed
from orchestrator.durable import make_folder
from orchestrator.events.common import Serving, Subject, Unknown
from orchestrator.events.learning import (
    AbortRecord,
    Listening,
    RoundAborted,
    RoundCompleted,
    RoundRecord,
    RunFinished,
)
from orchestrator.events.process import (
    HubServing,
    MadeSafe,
    NodeServing,
    PeerLedger,
    ProcessEvent,
    SimulatorServing,
    SimulatorStopped,
)
from orchestrator.events.status import Alarm, BlockReport, Epsilons, Pair

if TYPE_CHECKING:
    from fl.rounds.config import FLConfig

SERVER_FILE = "fl-server.toml"
START_TIMEOUT_S = 90.0
STALL_TIMEOUT_S = 120.0
"""Without a single event from any process for this long, a run is given up."""


class Run:
    """The processes of one run and what they reported."""

    has_ring = True
    """Whether the ring's processes belong to this run, so that their events arrive here."""

    def __init__(
        self,
        folder: Path,
        testbed_path: Path,
        supervisor: Supervisor,
        *,
        secrets: Path | None = None,
        state: Path | None = None,
    ) -> None:
        """``secrets`` and ``state`` are beside the testbed file unless told otherwise."""
        self.folder = folder
        self.testbed_path = testbed_path
        self.supervisor = supervisor
        self.secrets = secrets or testbed_path.parent / SECRETS
        self.state = state or testbed_path.parent / STATE
        self._places = ("--secrets", str(self.secrets), "--state", str(self.state))
        self.testbed: Testbed = load_testbed(testbed_path)
        self.blocks: list[BlockReport] = []
        """Each block once, see :meth:`BlockReport.counts`."""
        self.rounds: list[RoundRecord] = []
        self.aborted_rounds: list[AbortRecord] = []
        self.finished: RunFinished | None = None
        self.ledgers: dict[Pair, PeerLedger] = {}
        self.epsilons: dict[Pair, Epsilons] = {}
        """What a node told of a peer, by (node, peer)."""
        self.alarms: dict[tuple[str, Subject], Alarm] = {}
        """As they were told last; over ones keep their words, and are not ``on``."""
        self.unknown: Counter[tuple[str, str]] = Counter()
        """Events that this version does not know, by (process, kind)."""
        self.serving: dict[str, Serving] = {}
        """The first lines of the processes, by name."""
        self.targets: Targets | None = None
        """Where Prometheus is told of a run that joins a ring."""
        self.instrument_states: dict[str, Any] = {}
        self.consented: tuple[str, ...] = ()
        """Simulated users for whom this run consented to the training."""
        self.left: dict[str, MadeSafe] = {}
        """What roles made safe when they ended."""
        self.not_simulated: tuple[str, ...] | None = None
        """Instruments of this run that are real, as its simulator says; None without one."""
        self.unsafe: list[str] | None = None
        """Instruments found out of their safe state at the end; None while that is not known."""

    @property
    def self_check(self) -> Path:
        """Where the clients of a simulated testbed write their unmasked updates."""
        return self.folder / "self-check"

    @property
    def local_clients(self) -> tuple[str, ...]:
        """Users whose learning client can run on this machine."""
        return tuple(user for user in self.testbed.user_names() if (self.secrets / f"fl-{user}").is_dir())

    def checks_sums(self, config: FLConfig) -> bool:
        """Whether clients write their unmasked updates, so that sums can be checked: simulations only."""
        return self.testbed.simulation is not None

    def start_ring(self, *, light: bool = True, here: Collection[str] | None = None) -> None:
        """Simulator, hub, relay and nodes; without ``light`` no relay, so that no key is made.

        The simulator fills its addresses, and the options that its instruments need, into the testbed file.  With
        ``here`` only roles of that name, and no simulator for a ring that is not simulated.
        """
        path = str(self.testbed_path)
        chosen = self.testbed.roles() if here is None else here
        first = ["orchestrator"] if "orchestrator" in chosen else []
        if here is None or self.testbed.simulation is not None:
            first = ["simulate", *first]
            places = ("--resolved", path, "--state", str(self.state))
            self.supervisor.start("simulate", "simulate", path, "--json", *places)
        if "orchestrator" in first:
            self.supervisor.start("orchestrator", "orchestrator", path, *self._places)
        served = self.supervisor.ready(first, START_TIMEOUT_S) if first else {}
        hub, simulator = served.get("orchestrator"), served.get("simulate")
        if isinstance(simulator, SimulatorServing):
            self.not_simulated = simulator.not_simulated
        if isinstance(hub, HubServing):
            self._rewrite(hub={"control": hub.control, "bulk": hub.bulk})
        users = [user for user in self.testbed.user_names() if user in chosen]
        roles = [*(["relay"] if light and "relay" in chosen else []), *users]
        for role in roles:
            command = ["relay"] if role == "relay" else ["node", role]
            self.supervisor.start(role, *command, path, *self._places)
        ready = self.supervisor.ready(roles, START_TIMEOUT_S) if roles else {}
        self.serving = {**served, **ready}
        nodes = {name: each for name, each in ready.items() if isinstance(each, NodeServing)}
        self._rewrite(deliveries={user: nodes[user].delivery for user in users})

    def replace(self, role: str, program: tuple[str, ...]) -> None:
        """End the process of a role and have another ``program`` in its place, ready.  Raises ChildError where it does not get so."""
        self.supervisor.replace(role, program)
        self.serving |= self.supervisor.ready([role], START_TIMEOUT_S, self.note)

    def start_learning(
        self, config: FLConfig, data: Path | None, *, server_state: Path | None = None
    ) -> None:
        """The server, which keeps the run in ``server_state``, and the clients whose secrets are here."""
        from fl.experiments.server_options import as_toml

        path = str(self.testbed_path)
        settings = msgspec.structs.asdict(config) | ({"data": str(data)} if data else {})
        asked = self.folder / SERVER_FILE
        asked.write_text(as_toml(settings), encoding="utf-8")
        places = ("--secrets", str(self.secrets), "--state", str(server_state or self.state))
        simulated = self.testbed.simulation is not None
        program = program_of("fl-server", self.state, self.testbed_path, simulated=simulated)
        command = ("fl", "server", path, *places, "--config", str(asked))
        self.supervisor.start("fl-server", *command, program=program)
        server = self.supervisor.ready(["fl-server"], START_TIMEOUT_S)["fl-server"]
        self.serves("fl-server", server)
        if isinstance(server, Listening) and (self.has_ring or self.testbed.fl.server == AUTO):
            self._rewrite(server=server.endpoint)
        self._consent(config, (server_state or self.state) / "fl-server" / config.run_id)
        extra = ["--data", str(data)] if data else []
        extra += ["--mode", config.mode, "--task", config.task]
        extra += ["--self-check", str(self.self_check)] if self.checks_sums(config) else []
        for user in self.local_clients:
            if user in config.clients:
                self.supervisor.start(f"fl-{user}", "fl", "client", user, path, *self._places, *extra)

    def _consent(self, config: FLConfig, run_folder: Path) -> None:
        """Agree to the run for the simulated users here; real users' operators have to have done so themselves.

        Raises ConsentMissingError naming what they have to run.
        """
        from fl.carriers.zeromq.server import RUN_FILE
        from lab.runs.consent import consent_of_simulated, missing_consents

        users = [user for user in self.local_clients if user in config.clients]
        if config.protection.cipher is None:
            return
        file = run_folder / RUN_FILE
        if self.testbed.simulation is None:
            missing_consents(file, users, self.secrets.parent, self.state)
        else:
            self.consented = consent_of_simulated(file, users, self.state)

    def _rewrite(
        self,
        *,
        hub: dict[str, str] | None = None,
        deliveries: dict[str, str] | None = None,
        server: str | None = None,
    ) -> None:
        """Fill in what has become known; processes started later read the new file."""
        data = read_testbed(self.testbed_path)
        if hub:
            data["hub"] = hub
        if server:
            data["fl"] = {"server": server}
        for user in data["users"]:
            user["delivery"] = (deliveries or {}).get(user["name"], user.get("delivery", "auto"))
        write_testbed(data, self.testbed_path)
        self.testbed = load_testbed(self.testbed_path)

    def note(self, name: str, event: ProcessEvent) -> None:
        """File one event."""
        match event:
            case Serving():
                self.serves(name, event)
            case BlockReport() if event.counts(name):
                self.blocks.append(event)
            case RoundCompleted():
                self.rounds.append(event.record)
            case RoundAborted():
                self.aborted_rounds.append(event.record)
            case RunFinished():
                self.finished = event
            case Alarm():
                before = self.alarms.get((name, event.subject), event)
                self.alarms[name, event.subject] = event if event.on else replace(before, on=False)
            case PeerLedger():
                self.ledgers[name, event.peer] = event
            case Epsilons():
                self.epsilons[name, event.peer] = event
            case MadeSafe():
                self.left[name] = event
            case SimulatorStopped():
                self.instrument_states = event.states
                self.unsafe = event.unsafe
            case Unknown():
                self.unknown[name, event.kind] += 1

    def serves(self, name: str, first_line: Serving) -> None:
        """A process has begun to serve."""
        self.serving[name] = first_line
        if self.targets is not None:
            self.targets.tell(self.serving)

    def stop(self) -> None:
        """Stop everything in order and collect the last words."""
        if self.targets is not None:
            self.targets.close()
            self.targets = None
        users = list(self.testbed.user_names())
        self.supervisor.stop_all(
            [
                [f"fl-{user}" for user in users],
                ["fl-server"],
                [*users, "relay"],
                ["orchestrator"],
                ["simulate"],
            ]
        )
        self.supervisor.join_readers()
        for name, event in self.supervisor.drain():
            self.note(name, event)


def _gathered_later(run: Run, records: Path | None, *, instead: bool = False) -> None:
    """Note where records of a run belong: they are gathered before its private folder is removed, whoever removes it."""
    if records is not None:
        Gathering(str(run.state.resolve()), str(records.resolve()), instead).noted(run.folder)


def _check(path: Path) -> None:
    """Hold the file against the drivers while nothing runs yet; raises TestbedError."""
    from lab.checking import checked_testbed

    checked_testbed(path)


@contextmanager
def _stopped_at_the_end(run: Run) -> Iterator[None]:
    """Whatever happens; whoever interrupts the run is told what was made safe."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        run.stop()
        tell_end(run)
        raise
    finally:
        run.stop()


def tell_end(run: Run) -> None:
    """Say how the roles of a run that was stopped ended, and what is safe."""
    echo("\n".join(words_of(run)), err=True)


@contextmanager
def supervised_run(
    source: str, changes: dict[str, Any], *, records: Path | None = None, instead: bool = False
) -> Iterator[Run]:
    """A run in a private temporary folder; everything is stopped and removed at the end, whatever happens.

    ``source`` is a bundled testbed, a file or a folder with one; ``changes`` maps sections to keys that are replaced in it.
    What its roles put on record is gathered into the folder ``records``, ``instead`` of what an earlier run left there.
    """
    _check(source_path(source))
    with ending_on_signals(), private_folder() as (folder, lock):
        testbed_path = create_folder(folder / "testbed", source_path(source))
        data = read_testbed(testbed_path)
        for section, keys in changes.items():
            data[section] = {**data.get(section, {}), **keys}
        write_testbed(data, testbed_path)
        run = Run(folder, testbed_path, Supervisor(folder, lock))
        _gathered_later(run, records, instead=instead)
        with _stopped_at_the_end(run):
            yield run


@contextmanager
def supervised_folder(home: Path, *, records: Path | None = None) -> Iterator[Run]:
    """A run with the keys of a testbed folder; its file is left as it is, its secrets and state are used.

    What its roles put on record stays with them, and is copied into the folder ``records``.
    """
    source = find_testbed(home)
    _check(source)
    with ending_on_signals(), private_folder() as (folder, lock):
        (folder / "testbed").mkdir()
        testbed_path = folder / "testbed" / source.name
        write_testbed(read_testbed(source), testbed_path)
        run = Run(
            folder,
            testbed_path,
            Supervisor(folder, lock),
            secrets=source.parent.resolve() / SECRETS,
            state=source.parent.resolve() / STATE,
        )
        _gathered_later(run, records)
        with _stopped_at_the_end(run):
            yield run


@contextmanager
def running_folder(home: Path) -> Iterator[Run]:
    """The roles of a testbed folder at work in the folder itself: logs and lock in ``state/up``, addresses in ``running.toml``.

    Commands that name the folder find the addresses there while the lock is held, which the roles inherit.
    Raises FolderError where the roles run already.
    """
    source = home / TESTBED_FILE
    _check(source)
    make_folder(up_folder(home))
    lock = os.open(up_folder(home) / UP_LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            check_down(home)
            raise
        os.ftruncate(lock, os.pwrite(lock, f"{os.getpid()}\n".encode(), 0))
        shutil.copyfile(source, home / RUNNING_FILE)
        places = {"secrets": home.resolve() / SECRETS, "state": home.resolve() / STATE}
        run = Run(up_folder(home), home / RUNNING_FILE, Supervisor(up_folder(home), lock), **places)
        try:
            yield run
        finally:
            run.stop()
            (home / RUNNING_FILE).unlink(missing_ok=True)
    finally:
        os.close(lock)


class Attached(Run):
    """A testbed whose hub, relay and nodes run elsewhere: only learning processes with secrets here are ours."""

    has_ring = False

    def start_ring(self, *, light: bool = True, here: Collection[str] | None = None) -> None:
        """Starts nothing: the ring's processes run elsewhere."""

    def checks_sums(self, config: FLConfig) -> bool:
        """Only where everything is simulated and here may unmasked updates be written."""
        return self.testbed.simulation is not None and set(config.clients) <= set(self.local_clients)


@contextmanager
def attached_run(home: Path, logs: Path, *, records: Path) -> Iterator[Run]:
    """The learning part of a run on a testbed that is at work; logs of its processes go to ``logs``.

    Where its file leaves the learning server's endpoint ``auto``, it is written into a copy that this run alone has.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with ending_on_signals(), private_folder() as (folder, lock):
        source = path = find_testbed(home).resolve()
        if load_testbed(source).fl.server == AUTO:
            path = folder / source.name
            write_testbed(read_testbed(source), path)
        places = {"secrets": source.parent / SECRETS, "state": source.parent / STATE}
        run = Attached(folder, path, Supervisor(logs, lock), **places)
        if up_process(source.parent) is not None:
            run.targets = Targets(up_folder(source.parent) / TRAINING_FILE)
        _gathered_later(run, records)
        with _stopped_at_the_end(run):
            yield run
