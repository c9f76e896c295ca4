"""The long-running roles: each opens what it owns, runs until told to stop, and leaves instruments safe."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.runs.addresses import LOOPBACK
from lab.runs.made_safe import left_by
from lab.runs.roles.logs import set_up_logging
from lab.runs.roles.memory import share_heaps
from lab.runs.roles.runtime import Runtime
from lab.runs.roles.service_manager import AskedEvent, ServiceManager, loop_limit_s
from lab.runs.supervising.supervisor import watch_parent
from lab.runs.testbeds.folder import find_testbed
from lab.runs.watched.process import metrics_of, page_of
from lab.testbed import AUTO, load_testbed
from orchestrator.core_files import show_descriptors
from orchestrator.events.common import Serving
from orchestrator.events.inside import Loop
from orchestrator.randomness import random_hex

if TYPE_CHECKING:
    from fl.rounds.config import FLConfig
    from fl.workloads.base import Task
    from orchestrator.events.learning import ServerEvent
    from orchestrator.events.process import Emit

logger = logging.getLogger(__name__)
SIMULATOR = "simulator"


def simulate_role(
    path: Path,
    as_json: bool,
    resolved: Path | None,
    state: Path | None = None,
    metrics: str = LOOPBACK,
) -> int:
    """All simulated instruments of a testbed; needs no secrets.  In ``state`` it listens for attacks, without it not at all."""
    from lab.runs.attacks.carrying import attacks_on_light
    from sim_backends.bench import run_simulator

    share_heaps()
    set_up_logging(SIMULATOR, for_people=not as_json)
    show_descriptors()  # serial lines lead there (sim_backends.serial_server), and roles are other processes
    stop, service = AskedEvent(), ServiceManager()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch_parent(stop.set)
    beside = partial(attacks_on_light, state)
    testbed = find_testbed(path)
    book = metrics_of(SIMULATOR, load_testbed(testbed), None)
    limit_s = loop_limit_s(SIMULATOR)
    with page_of(book, metrics, lambda: Loop(stop.silent_s, limit_s)) or nullcontext() as page:
        url = page.url if page else ""

        def ready() -> dict[str, str]:
            service.ready("the instruments answer", stop)
            book.tell(Serving(role=SIMULATOR, version=version("qunetlab"), metrics=url))
            return {"metrics": url}

        return run_simulator(testbed, stop, json=as_json, resolved=resolved, beside=beside, when_ready=ready)


def orchestrator_role(
    path: Path,
    secrets: Path | None,
    state: Path | None,
    tell: Emit | None = None,
    metrics: str = LOOPBACK,
) -> int:
    """Hub and scheduler."""
    from orchestrator.processes.orchestrator_process import run_orchestrator

    runtime = Runtime("orchestrator", path, secrets, state, tell, metrics)
    run_orchestrator(
        runtime.testbed,
        runtime.secrets,
        runtime.state,
        runtime.stop,
        runtime.emit,
        runtime.records(),
        runtime.metrics,
    )
    return 0


def relay_role(
    path: Path,
    secrets: Path | None,
    state: Path | None,
    tell: Emit | None = None,
    metrics: str = LOOPBACK,
) -> int:
    """Measurement relay."""
    from lab.calibration.current import CurrentTestbed
    from lab.checking import checked_testbed
    from lab.guard import guarded_role
    from orchestrator.processes.relay import run_relay

    share_heaps()
    runtime = Runtime("relay", path, secrets, state, tell, metrics)
    checked_testbed(runtime.testbed_path, ("relay",))
    guarded = guarded_role(runtime.testbed, runtime.testbed_path, "relay", runtime.state, logs_as="relay")
    with runtime.data_sets() as data_sets, guarded as (station, interlock):
        run_relay(
            CurrentTestbed(runtime.testbed_path, runtime.testbed),
            runtime.secrets,
            runtime.state,
            station,
            interlock,
            runtime.stop,
            emit=data_sets.noting(runtime.emit),
            records=runtime.records(),
            data_sets=data_sets,
            metrics=runtime.metrics,
        )
    runtime.emit(left_by(station))
    return 0


def node_role(
    name: str,
    path: Path,
    secrets: Path | None,
    state: Path | None,
    store_key: str = "file",
    tell: Emit | None = None,
    metrics: str = LOOPBACK,
    moved: bool = False,
) -> int:
    """One user's node; ``moved``: its store was used elsewhere, and is gone there."""
    from lab.calibration.current import CurrentTestbed
    from lab.checking import checked_testbed
    from lab.guard import guarded_role
    from lab.runs.testbeds.store_key import StoreKey
    from orchestrator.processes.node_process import run_node

    share_heaps()
    runtime = Runtime(name, path, secrets, state, tell, metrics)
    _require_user(runtime, name)
    checked_testbed(runtime.testbed_path, (name,))
    kek = StoreKey.parse(store_key).kek(name, runtime.secrets)
    guarded = guarded_role(runtime.testbed, runtime.testbed_path, name, runtime.state, logs_as=name)
    with runtime.data_sets() as data_sets, guarded as (station, interlock):
        run_node(
            CurrentTestbed(runtime.testbed_path, runtime.testbed),
            name,
            runtime.secrets,
            runtime.state,
            station,
            interlock,
            runtime.stop,
            kek=kek,
            moved=moved,
            emit=data_sets.noting(runtime.emit),
            records=runtime.records(),
            data_sets=data_sets,
            metrics=runtime.metrics,
        )
    runtime.emit(left_by(station))
    return 0


def _require_user(runtime: Runtime, name: str) -> None:
    users = runtime.testbed.user_names()
    if name not in users:
        raise ValueError(f"no user {name!r} in {runtime.testbed_path}; users are {', '.join(users)}")


def _require_endpoint(runtime: Runtime, endpoint: str, key: str, whose: str) -> None:
    if endpoint == AUTO:
        raise ValueError(
            f"{key} is 'auto' in {runtime.testbed_path}; write the endpoint of {whose} there, "
            "such as tcp://HOST:PORT"
        )


def fl_server_role(
    path: Path,
    secrets: Path | None,
    state: Path | None,
    settings: Mapping[str, Any],
    tell: Emit | None = None,
    metrics: str = LOOPBACK,
) -> int:
    """Federated-learning server: sees masked updates and their sum; ``settings`` by :mod:`fl.experiments.server_options`."""
    from fl.carriers.zeromq.server import run_server
    from fl.workloads import open_task
    from fl.workloads.provenance import verify_data
    from lab.runs.following.learning_status import told_to_hub
    from orchestrator.wire.curve import load_keys

    runtime = Runtime("fl-server", path, secrets, state, tell, metrics)
    settings = dict(settings)
    data_folder = Path(given) if (given := settings.pop("data", None)) else None
    users = runtime.testbed.user_names()
    for name in settings.get("clients") or ():
        _require_user(runtime, name)
    name = str(settings.get("task", "digits"))
    task = open_task(name, data_folder)
    verify_data(name, task, data_folder)  # what is told after a round has cost its key
    settings.setdefault("run_id", _unfinished_run(runtime.state) or f"run-{random_hex(6)}")
    config = training_config(task, users, settings)
    with told_to_hub(runtime.testbed, runtime.secrets, config, runtime.metrics) as tell_hub:

        def report(event: ServerEvent) -> None:
            runtime.emit(event)
            tell_hub(event)

        run_server(
            runtime.testbed.fl.server,
            load_keys(runtime.secrets),
            {runtime.testbed.public_key(f"fl-{user}"): f"fl-{user}" for user in users},
            config,
            runtime.state / config.run_id,
            runtime.stop,
            report,
            data_folder=data_folder,
            task=task,
            role_dir=runtime.state,
            records=runtime.records(),
        )
    return 0


def training_config(task: Task, users: Sequence[str], settings: Mapping[str, Any]) -> FLConfig:
    """The settings of a run of ``task``, by all ``users`` unless they name clients.

    Raises ConfigError, or another ValueError that says what would work, naming the setting.
    """
    from fl.experiments.server_options import called
    from fl.rounds.config import FLConfig

    chosen = {"clients": users, "task": task.name, **settings}
    clients, name = chosen.pop("clients"), chosen.pop("task")
    return FLConfig.for_task(task, clients, name=name, named=called, **chosen)


def _unfinished_run(state: Path) -> str | None:
    """The run that an earlier server left before its last round; the newest if there are several."""
    from fl.rounds.run_state import STATE_FILE, read_state

    found = sorted(state.glob(f"*/{STATE_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found:
        left = read_state(path.parent)
        if len(left.rounds) < left.config.rounds:
            return left.config.run_id
    return None


def fl_client_role(
    name: str,
    path: Path,
    secrets: Path | None,
    state: Path | None,
    data: Path | None,
    self_check: Path | None,
    mode: str,
    task: str | None = None,
    tell: Emit | None = None,
    metrics: str = LOOPBACK,
) -> int:
    """One user's federated-learning client, in the trust domain of the user's node.

    ``mode`` is the one its operator agrees to; a run in any other is refused.
    """
    from fl.carriers.zeromq.client import run_client
    from fl.keys.node import NodeKeys
    from fl.modes.table import MODES
    from fl.rounds.client_rules import ClientRules
    from fl.rounds.config import SMALLEST_QUORUM
    from fl.workloads import load_task, record_of
    from orchestrator.delivery.client import DeliveryClient
    from orchestrator.events.learning import ClientEnded, ClientServing
    from orchestrator.wire.curve import load_keys

    runtime = Runtime(f"fl-{name}", path, secrets, state, tell, metrics)
    testbed = runtime.testbed
    _require_user(runtime, name)
    if mode not in MODES:
        raise ValueError(f"no mode is called {mode!r}; there are {', '.join(MODES)}")
    if task is not None:
        record_of(task, trusted=task)  # one that cannot be had is told before there is a server to wait for
    if self_check is not None and testbed.simulation is None:
        raise ValueError(
            f"--self-check writes unmasked updates and {runtime.testbed_path} has no [simulation]: "
            "leave it out on a real testbed"
        )
    _require_endpoint(runtime, testbed.user(name).delivery, f"users.{name}.delivery", f"{name}'s node")
    _require_endpoint(runtime, testbed.fl.server, "fl.server", "the learning server")
    keys = load_keys(runtime.secrets)
    runtime.emit(ClientServing())
    with DeliveryClient(testbed.user(name).delivery, keys, testbed.public_key(name)) as node:
        outcome = run_client(
            name,
            testbed.fl.server,
            testbed.public_key("fl-server"),
            keys,
            NodeKeys(node, name, runtime.state / "journal"),
            runtime.stop,
            runtime.emit,
            data_folder=data,
            open_task=partial(load_task, trusted=task),
            rules=ClientRules(
                mode=mode,
                min_participants=min(SMALLEST_QUORUM, len(testbed.users)),
            ),
            self_check_dir=self_check,
            records=runtime.records(),
        )
    runtime.emit(ClientEnded(outcome.rounds_uploaded, outcome.reason))
    return 0 if not outcome.reason or runtime.stop.is_set() else 1
