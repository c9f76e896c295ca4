"""No secret leaves the two nodes of a pair (R9): record everything, then look for the keys in it.

A whole testbed of three users runs in this process - simulated instruments, hub and scheduler, relay, nodes,
learning server and clients, applications that draw keys over HTTPS - with its ordinary code, while the test notes every frame that hub and server receive
or send, every event for standard output, every log record down to DEBUG, snapshots of all instruments, the states of
the simulator and, at the end, every file outside the secrets folders.  Hooks at the deposit, at sifting and at the
drawing of symbols tell what must not be there.

A secret counts as found if any 16 bytes of it, at any bit offset, lie anywhere in a place at any bit offset, in either
bit order, or written out as hexadecimal, base64, Python bytes, a list of numbers or a string of bits: every such
window holds a whole 64-bit word of the place's own grid, so comparing words is enough.
"""

from __future__ import annotations

import ast
import base64
import itertools
import json
import logging
import re
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zmq
from command_line import run_qunetlab
from fewer_users import ring_of_users
from key_client import Application

from fl.carriers.zeromq.client import run_client
from fl.carriers.zeromq.server import run_server, with_task
from fl.keys.node import NodeKeys
from fl.rounds.aggregation import described
from fl.rounds.config import FLConfig
from fl.workloads.base import Evaluation, Examples, Parameters, TaskDefaults
from lab import monitoring
from lab.calibration.current import CurrentTestbed
from lab.interlock.interlock import Interlock
from lab.runs.roles.logs import JsonFormatter
from lab.runs.supervising.private_folder import private_folder, remove_abandoned
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.watched.process import metrics_of
from lab.station import Station
from lab.testbed import load_testbed, resolve_addresses, write_testbed
from orchestrator.delivery.client import DeliveryClient
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.events.common import Serving
from orchestrator.events.process import Emit, ProcessEvent, line_of
from orchestrator.light.symbols import SymbolFrame
from orchestrator.metrics.book import Metrics
from orchestrator.metrics.exposition import Exposition
from orchestrator.metrics.readiness import unready
from orchestrator.processes import node as node_module
from orchestrator.processes.node_process import run_node
from orchestrator.processes.node_store import InitialSecretError, open_node_store
from orchestrator.processes.orchestrator_process import run_orchestrator
from orchestrator.processes.relay import run_relay
from orchestrator.secret import SecretBits
from orchestrator.wire.curve import load_keys
from sim_backends.bench import Bench

pytestmark = [pytest.mark.early, pytest.mark.timeout(120)]

USERS = ("alice", "bob", "carol")
APPLICATIONS = {"app1": "alice", "app2": "bob", "app3": "carol"}
N_PARAMETERS = 150
WINDOW_BYTES = 16
DEADLINE_S = 60.0
SYMBOLS_NOTED = 128
"""Raw symbols noted per frame and user."""

Bits = npt.NDArray[np.uint8]


# -- looking for secrets --------------------------------------------------------------------------------


def words_of_secret(bits: Bits) -> npt.NDArray[np.uint64]:
    """Every window of 64 bits, in both bit orders."""
    found = []
    for order in ("little", "big"):
        for shift in range(8):
            packed = np.packbits(bits[shift : shift + (bits.size - shift) // 8 * 8], bitorder=order)
            windows = np.lib.stride_tricks.sliding_window_view(packed, 8)
            found.append(np.ascontiguousarray(windows).view("<u8").ravel())
    return np.unique(np.concatenate(found))


def readings(data: bytes) -> Iterator[bytes]:
    """The bytes themselves, and what they say in other notations."""
    yield data
    for match in re.finditer(rb"[0-9a-fA-F]{32,}", data):
        for start in (0, 1):
            digits = match[0][start:]
            yield bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
    for match in re.finditer(rb"[A-Za-z0-9+/_-]{22,}", data):
        for start in range(4):
            text = match[0][start:].replace(b"-", b"+").replace(b"_", b"/")
            yield base64.b64decode(text[: len(text) // 4 * 4] if len(text) % 4 == 1 else text + b"==")
    for match in re.finditer(rb"(?:\d{1,9}[\s,\[\]()]+){15,}\d{1,9}", data):
        numbers = [int(number) for number in re.findall(rb"\d+", match[0])]
        for small, run in itertools.groupby(numbers, lambda number: number <= 255):
            values = list(run) if small else []
            yield bytes(values)
            if values and max(values) <= 1:
                yield np.packbits(values, bitorder="little").tobytes()
    for match in re.finditer(rb"[01]{128,}|[\x00\x01]{128,}", data):
        yield np.packbits(np.frombuffer(match[0], np.uint8) & 1, bitorder="little").tobytes()
    for text in (data, data.replace(b"\\\\", b"\\")):  # as it is, and as a JSON string quotes it
        for match in re.finditer(rb"(?=(b'(?:[^'\\]|\\.)*'))", text):  # one may begin inside another
            try:
                yield ast.literal_eval(match[1].decode("ascii"))
            except (ValueError, SyntaxError):
                continue


class Finder:
    """Looks for any of many secrets; a table of the words' last 24 bits sorts out almost everything at once."""

    def __init__(self, secrets: Sequence[Bits]) -> None:
        self._words = np.unique(np.concatenate([words_of_secret(bits) for bits in secrets]))
        self._table = np.zeros(1 << 24, np.bool_)
        self._table[self._slot(self._words)] = True

    @staticmethod
    def _slot(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return words & np.uint64((1 << 24) - 1)

    def finds_in(self, data: bytes) -> bool:
        pieces = [piece + bytes(-len(piece) % 8) for piece in readings(data)]
        words = np.frombuffer(b"".join(pieces), "<u8")
        likely = words[self._table[self._slot(words)]]
        place = np.minimum(np.searchsorted(self._words, likely), self._words.size - 1)
        return bool((self._words[place] == likely).any())


# -- recording ------------------------------------------------------------------------------------------


class Recorder:
    """Places by name, and the secrets that must be in none of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.places: dict[str, bytearray] = {}
        self.keys: dict[tuple[str, str, str], bytes] = {}
        """Final keys by (owner, peer, block)."""
        self.delivered: dict[str, bytes] = {}
        """Keys that applications drew, by their ids."""
        self.clicks: dict[tuple[tuple[int, int], str], tuple[Bits, Bits]] = {}
        """Symbols and outcomes of the announced slots by (session, role)."""
        self.symbols: list[bytes] = []

    def note(self, place: str, data: bytes | str) -> None:
        data = data.encode() if isinstance(data, str) else data
        with self._lock:
            self.places.setdefault(place, bytearray()).extend(data)

    def emit(self, event: ProcessEvent) -> None:
        self.note("standard output", line_of(event) + "\n")

    def sifted(self) -> list[Bits]:
        """The first user's XX bits of every block that both users began."""
        found = []
        for (session, role), (symbols, outcomes) in self.clicks.items():
            other = self.clicks.get((session, "second"))
            if role == "first" and other is not None and other[0].size == symbols.size:
                found.append((symbols & 1)[(symbols < 2) & (other[0] < 2) & (outcomes != 3)])
        return found

    def secrets(self) -> list[Bits]:
        """Final keys, keys of applications, sifted bits, symbols."""
        packed = {*self.keys.values(), *self.delivered.values(), *self.symbols}
        return self.sifted() + [
            np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little") for data in packed
        ]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Hook deposits, sifting, symbols, sockets and logs."""
        deposit, run_block, draw = node_module.deposit_block, node_module.run_block, SymbolFrame.draw

        def noting_deposit(
            store: Any, channel: Any, role: Any, peer: str, name: str, key: Any, **more: Any
        ) -> Any:
            self.keys[store.owner, peer, name] = key.reveal_bytes()
            log_carelessly(key)
            return deposit(store, channel, role, peer, name, key, **more)

        def noting_block(**given: Any) -> Any:
            clicks = given["clicks"]
            self.clicks[given["session"], given["pair_end"]] = clicks.symbol.copy(), clicks.outcome.copy()
            return run_block(**given)

        def noting_draw(frame: SymbolFrame, random_into: Any) -> None:
            draw(frame, random_into)
            self.symbols.append(frame._raw[:SYMBOLS_NOTED].tobytes())

        patch.setattr(node_module, "deposit_block", noting_deposit)
        patch.setattr(node_module, "run_block", noting_block)
        patch.setattr(SymbolFrame, "draw", noting_draw)
        for name in ("recv_multipart", "send_multipart"):
            self._hook_socket(patch, name)
        self._hook_logs(patch)

    def _hook_socket(self, patch: pytest.MonkeyPatch, name: str) -> None:
        """Note what the threads of hub and learning server receive and send, after CURVE."""
        original = getattr(zmq.Socket, name)
        places = {"hub": "hub frames", "fl-server": "learning server frames"}

        def noting(socket: Any, *given: Any, **more: Any) -> Any:
            result = original(socket, *given, **more)
            place = places.get(threading.current_thread().name)
            if place is not None:
                for part in result if name == "recv_multipart" else given[0]:
                    self.note(place, bytes(part.buffer if isinstance(part, zmq.Frame) else part))
            return result

        patch.setattr(zmq.Socket, name, noting)

    def _hook_logs(self, patch: pytest.MonkeyPatch) -> None:
        recorder, formatter = self, JsonFormatter("alice")

        class Noting(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                recorder.note("logs", formatter.format(record) + "\n")

        root = logging.getLogger()
        patch.setattr(root, "handlers", [Noting()])
        patch.setattr(root, "level", logging.DEBUG)
        root.setLevel(logging.DEBUG)  # loggers used by earlier tests remember that they were quiet
        for noisy in ("numba", "matplotlib", "asyncio"):
            patch.setattr(logging.getLogger(noisy), "level", logging.WARNING)


@dataclass
class Careless:
    """What somebody may write who does not think of it."""

    bits: object


def log_carelessly(key: SecretBits) -> None:
    """A key in every form in which it can reach a log call, an exception or the frame of a trace."""
    log = logging.getLogger("orchestrator.careless")
    data, array = key.reveal_bytes(), key.reveal()
    number = int.from_bytes(data, "little")
    for value in (key, data, array, memoryview(data), data.hex, list(data), number, Careless(array)):
        log.warning("careless %s", value)
        log.warning("careless %r in %s", value, {"key": value})
        log.warning("careless %(key)s", {"key": value})
        log.warning(value)
        try:
            try:
                raise ValueError("careless", value)
            except ValueError as error:
                raise RuntimeError(value) from error
        except RuntimeError:
            log.exception("careless %s", (value,))
    log.warning("careless %d", data)
    log.warning("careless %s %s", array)


class ZeroTask:
    """Learns nothing: its masked update is a sum of pads and of nothing else."""

    name = "zero"
    n_parameters = N_PARAMETERS
    fingerprint = "00"
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=1)

    def initial_parameters(self, seed: int) -> Parameters:
        return np.zeros(N_PARAMETERS, np.float32)

    def client_data(self, client_index: int, n_clients: int, seed: int) -> Examples:
        return Examples(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))

    def local_train(self, parameters: Parameters, data: Examples, seed: Sequence[int]) -> Parameters:
        return np.zeros(N_PARAMETERS, np.float32)

    def evaluate(self, parameters: Parameters) -> Evaluation:
        return Evaluation(0.5, 1.0)


class Threads:
    """Roles as threads, stopped in the reverse order of their start."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.errors: list[BaseException] = []

    def start(self, name: str, body: Callable[[threading.Event], object]) -> threading.Thread:
        stop = threading.Event()

        def run() -> None:
            try:
                body(stop)
            except BaseException as error:  # noqa: BLE001 - told to the test
                self.errors.append(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._stack.callback(self._end, thread, stop)
        return thread

    @staticmethod
    def _end(thread: threading.Thread, stop: threading.Event) -> None:
        stop.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), f"{thread.name} does not stop"


def until(condition: Callable[[], bool], errors: list[BaseException]) -> None:
    """Wait for ``condition``; a role that failed ends the wait."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert not errors
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Answer:
    """What a role said when it was ready."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.line: Any = None

    def __call__(self, event: ProcessEvent) -> None:
        if isinstance(event, Serving):
            self.line = event
            self._event.set()

    def wait(self, errors: list[BaseException]) -> Any:
        until(self._event.is_set, errors)
        return self.line


def three_users(folder: Path) -> Path:
    """A testbed folder of three users on a short, bright ring, where a small block makes key."""
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= {"slots_per_frame": 1 << 18, "pulses_per_block": 1 << 22, "eps_sec": 1e-3}
    data = ring_of_users(data, USERS, fibre_loss_db_per_km=0.02, relay_loss_db=0.2, spread=0.0)
    data["key_delivery"] = {"otp_per_1024": 64, "stock_bits": 2048}
    source = folder / "three.toml"
    write_testbed(data, source)
    return create_folder(folder / "testbed", source, applications=APPLICATIONS)


def run_everything(folder: Path, recorder: Recorder) -> None:
    """One round of learning under fresh keys; everything is recorded."""
    books: dict[str, Metrics] = {}
    path = three_users(folder)
    secrets, state = path.parent / "secrets", path.parent / "state"
    for role in ("orchestrator", "relay", "fl-server", *USERS):
        (state / role).mkdir(parents=True, mode=0o700)
    with ExitStack() as stack:
        threads = Threads(stack)
        bench = stack.enter_context(Bench(load_testbed(path)))
        data = resolve_addresses(tomllib.loads(path.read_text(encoding="utf-8")), bench.addresses)
        hub = Answer()
        for role in ("orchestrator", "relay", "fl-server", *USERS, *(f"fl-{user}" for user in USERS)):
            books[role] = metrics_of(role, load_testbed(path), state)
        threads.start(
            "orchestrator",
            lambda stop: run_orchestrator(
                load_testbed(path),
                secrets / "orchestrator",
                state / "orchestrator",
                stop,
                hub,
                metrics=books["orchestrator"],
            ),
        )
        data["hub"] = {name: getattr(hub.wait(threads.errors), name) for name in ("control", "bulk")}
        write_testbed(data, path)
        testbed = load_testbed(path)
        stations = {owner: stack.enter_context(Station(testbed, owner)) for owner in ("relay", *USERS)}
        answers = {owner: Answer() for owner in stations}

        def emit(owner: str) -> Emit:
            def said(event: ProcessEvent) -> None:
                recorder.emit(event)
                answers[owner](event)

            return said

        threads.start(
            "relay",
            lambda stop: run_relay(
                CurrentTestbed(path, testbed),
                secrets / "relay",
                state / "relay",
                stations["relay"],
                Interlock(stations["relay"], state / "relay"),
                stop,
                emit=emit("relay"),
                metrics=books["relay"],
            ),
        )
        for user in USERS:
            threads.start(
                user,
                lambda stop, user=user: run_node(
                    CurrentTestbed(path, testbed),
                    user,
                    secrets / user,
                    state / user,
                    stations[user],
                    Interlock(stations[user], state / user),
                    stop,
                    emit=emit(user),
                    metrics=books[user],
                ),
            )
        endpoints = {user: answers[user].wait(threads.errors).delivery for user in USERS}
        learn(threads, recorder, path, endpoints, books)
        draw(recorder, path.parent, {user: answers[user].line.etsi014 for user in USERS}, threads.errors)
        for book in books.values():
            recorder.note("metrics", Exposition(book).page()[1].decode() + "".join(unready(book)))
        for station in stations.values():
            for instrument in station._instruments.values():
                update = type(instrument).__name__ == "AWG70002A"
                recorder.note("snapshots", repr(instrument) + repr(instrument.snapshot(update=update)) + "\n")
        recorder.note("simulator", json.dumps(bench.states(), default=repr))
        recorder.note("simulator", json.dumps(bench.ready_line()))
    recorder.note("simulator", json.dumps(bench.states(), default=repr))
    assert not threads.errors
    for file in sorted(folder.rglob("*")):
        if file.is_file() and secrets not in file.parents:
            recorder.note("files", file.read_bytes())


def draw(recorder: Recorder, folder: Path, urls: dict[str, str], errors: list[BaseException]) -> None:
    """Every application draws keys for the next one, which fetches them."""
    apps = {sae: Application(folder, sae, urls[user]) for sae, user in APPLICATIONS.items()}
    for master, slave in itertools.pairwise((*APPLICATIONS, "app1")):
        given: dict[str, str] = {}

        def drawn(given: dict[str, str] = given, master: str = master, slave: str = slave) -> bool:
            given |= apps[master].ask(f"{slave}/enc_keys?number=3")
            return bool(given)

        until(drawn, errors)
        for key_id, key in given.items():
            assert apps[slave].ask(f"{master}/dec_keys?key_ID={key_id}") == {key_id: key}
            recorder.delivered[key_id] = base64.b64decode(key)


def learn(
    threads: Threads, recorder: Recorder, path: Path, endpoints: dict[str, str], books: dict[str, Metrics]
) -> None:
    """One round, to its end."""
    testbed, secrets, state = load_testbed(path), path.parent / "secrets", path.parent / "state"
    config = FLConfig(run_id="r9", task="zero", clients=USERS, rounds=1)
    listening = Answer()

    def on_event(event: Any) -> None:
        books["fl-server"].tell(event)
        recorder.emit(event)
        listening(event)

    allowed = {testbed.public_key(f"fl-{user}"): f"fl-{user}" for user in USERS}
    server = threads.start(
        "fl-server",
        lambda stop: run_server(
            "auto",
            load_keys(secrets / "fl-server"),
            allowed,
            config,
            state / "fl-server",
            stop,
            on_event,
            task=ZeroTask(),
        ),
    )
    endpoint = listening.wait(threads.errors).endpoint

    def client(user: str) -> Callable[[threading.Event], object]:
        keys = load_keys(secrets / f"fl-{user}")

        def report(event: Any) -> None:
            books[f"fl-{user}"].tell(event)
            recorder.emit(event)

        def body(stop: threading.Event) -> None:
            journal = state / f"fl-{user}" / "journal"
            ConsentBook(journal).give(user, described(with_task(config, ZeroTask()), ZeroTask()))
            with DeliveryClient(endpoints[user], keys, testbed.public_key(user)) as delivery:
                run_client(
                    user,
                    endpoint,
                    testbed.public_key("fl-server"),
                    keys,
                    NodeKeys(delivery, user, journal),
                    stop,
                    report,
                    open_task=lambda name, folder: ZeroTask(),
                )

        return body

    for user in USERS:
        threads.start(f"fl-{user}", client(user))
    until(lambda: not server.is_alive(), threads.errors)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        run_everything(tmp_path_factory.mktemp("r9"), recorder)
    return recorder


@pytest.fixture(scope="module")
def finder(recorded: Recorder) -> Finder:
    return Finder(recorded.secrets())


PLACES = (
    "hub frames",
    "learning server frames",
    "standard output",
    "logs",
    "metrics",
    "snapshots",
    "simulator",
    "files",
)


def test_the_run_was_real_and_recorded(recorded: Recorder) -> None:
    """Every pair stored the same key at both ends, and what is public is found where it must pass."""
    pairs = {frozenset((owner, peer)) for owner, peer, _ in recorded.keys}
    assert pairs == {frozenset(pair) for pair in (("alice", "bob"), ("alice", "carol"), ("bob", "carol"))}
    matched = [
        (key, recorded.keys[peer, owner, block])
        for (owner, peer, block), key in recorded.keys.items()
        if (peer, owner, block) in recorded.keys
    ]
    assert len(matched) >= 6
    assert len(set(recorded.delivered.values())) == len(recorded.delivered) == 9
    assert all(one == two for one, two in matched)
    assert all(bits.size > 10_000 for bits in recorded.sifted())
    places = recorded.places
    assert set(places) == set(PLACES)
    for word in (b"announcement", b"Opening", b"ParityReply", b"AmplificationSeed", b"TranscriptTag"):
        assert word in places["hub frames"]
    assert b"RoundStart" in places["learning server frames"]
    assert b'"type":"BlockReport"' in places["standard output"]
    assert b"WLISt:WAVeform:DATA" in places["logs"]
    assert b"careless <SecretBits: " in places["logs"]
    assert b"qunetlab_ledger_stored_bits{" in places["metrics"]
    assert b"amplitude_vpp" in places["snapshots"]
    assert b"attenuation_db" in places["simulator"]
    assert b"SQLite format 3" in places["files"]


@pytest.mark.parametrize("place", PLACES)
def test_no_key_sifted_bit_or_symbol_is_found(place: str, recorded: Recorder, finder: Finder) -> None:
    assert not finder.finds_in(bytes(recorded.places[place]))


def shifted(leak: bytes) -> bytes:
    """Three bits further on."""
    return (int.from_bytes(leak, "little") << 3).to_bytes(len(leak) + 1, "little")


def test_rules_and_dashboard_ask_for_numbers_that_a_real_run_has(recorded: Recorder) -> None:
    asked = {
        name for file in MONITORING for name in re.findall(r"\bqunetlab_[a-z_]+", file.read_text("utf-8"))
    }
    there = set(re.findall(r"^(qunetlab_[a-z_]+)", recorded.places["metrics"].decode(), re.MULTILINE))
    assert asked - there <= MAY_BE_MISSING
    assert len(asked & there) > 40


MONITORING = [Path(monitoring.__file__).with_name(name) for name in ("alerts.yml", "dashboard.json")]
MAY_BE_MISSING = {
    "qunetlab_alarms",  # where nothing was wrong
    "qunetlab_detector_rate_hertz",  # while there is light
    "qunetlab_client_missing_bits",  # while a client waits
    "qunetlab_calibrations_total",  # the ring came calibrated
    "qunetlab_loop_age_seconds",  # a loop is a process's own
    "qunetlab_loop_limit_seconds",
}

NOTATIONS: dict[str, Callable[[bytes], bytes]] = {
    "bytes": lambda leak: leak,
    "shifted by three bits": shifted,
    "bits of every byte reversed": lambda leak: bytes(int(f"{byte:08b}"[::-1], 2) for byte in leak),
    "hexadecimal": lambda leak: leak.hex().encode(),
    "base64": lambda leak: b'"' + base64.b64encode(leak) + b'"',
    "python bytes": lambda leak: repr(leak).encode() if b"'" not in leak else repr(leak + b'"').encode(),
    "numpy array": lambda leak: str(np.frombuffer(leak, np.uint8)).encode(),
    "json list": lambda leak: json.dumps(list(leak)).encode(),
    "string of bits": lambda leak: "".join(
        map(str, np.unpackbits(np.frombuffer(leak, np.uint8), bitorder="little"))
    ).encode(),
    "bit per byte": lambda leak: np.unpackbits(np.frombuffer(leak, np.uint8), bitorder="little").tobytes(),
}


@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_planted_leak_of_sixteen_bytes_is_found(notation: str, recorded: Recorder, finder: Finder) -> None:
    key, delivered = recorded.keys[max(recorded.keys)], recorded.delivered[max(recorded.delivered)]
    leaks = (key[101 : 101 + WINDOW_BYTES], delivered[7 : 7 + WINDOW_BYTES])
    for leak, place in itertools.product(leaks, ("standard output", "simulator")):
        data = bytes(recorded.places[place])
        middle = len(data) // 2 + 1
        for before in (b"[", b"2500 ["):
            assert finder.finds_in(data[:middle] + before + NOTATIONS[notation](leak) + b"]" + data[middle:])


def test_a_leak_of_sifted_bits_or_symbols_is_found(recorded: Recorder, finder: Finder) -> None:
    sifted = np.packbits(recorded.sifted()[0][1003 : 1003 + 8 * WINDOW_BYTES], bitorder="little").tobytes()
    for leak in (sifted, recorded.symbols[-1][55 : 55 + WINDOW_BYTES]):
        assert finder.finds_in(bytes(recorded.places["logs"]) + b"odd" + leak)


# -- what lies on disk ----------------------------------------------------------------------------------


def loose(folder: Path) -> list[Path]:
    """Files and folders under ``folder`` that others may read or enter, public keys apart."""
    return [path for path in folder.rglob("*") if path.stat().st_mode & 0o077 and path.name != "curve.public"]


def test_secrets_and_stores_are_private_and_initial_secrets_go(tmp_path: Path) -> None:
    testbed_path = three_users(tmp_path)
    secrets = testbed_path.parent / "secrets"
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    kept = {path: path.read_bytes() for path in (secrets / "alice" / "initial").iterdir()}
    assert len(kept) == 2
    testbed = load_testbed(testbed_path)
    open_node_store(testbed, "alice", secrets / "alice", state).close()
    assert loose(secrets) == loose(state) == []
    assert not any(path.exists() for path in kept)

    for path, data in kept.items():  # as after a crash between installing and removing
        path.write_bytes(data)
        path.chmod(0o600)
    open_node_store(testbed, "alice", secrets / "alice", state).close()
    assert not any(path.exists() for path in kept)
    for file in state.iterdir():
        file.unlink()
    with pytest.raises(InitialSecretError, match="missing"):
        open_node_store(testbed, "alice", secrets / "alice", state)


def test_the_folder_of_a_killed_run_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    strange = tmp_path / "qunetlab-strange"
    strange.mkdir()
    killed = tmp_path / "qunetlab-killed"
    (killed / "secrets").mkdir(parents=True)
    (killed / ".running").touch()
    with private_folder() as (folder, _):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not killed.exists()
        assert remove_abandoned(tmp_path) == []
        assert folder.is_dir()
    assert sorted(tmp_path.iterdir()) == [strange]


def test_self_check_is_refused_on_a_testbed_that_is_not_simulated(tmp_path: Path) -> None:
    path = three_users(tmp_path)
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    del data["simulation"]
    write_testbed(data, path)
    kept = tmp_path / "self-check"
    command = ["fl", "client", "alice", str(path), "--self-check", str(kept)]
    ended = run_qunetlab(*command)
    assert ended.returncode == 2
    assert "has no [simulation]" in ended.stderr
    assert not kept.exists()
