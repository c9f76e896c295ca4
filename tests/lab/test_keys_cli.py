"""`qunetlab keys` against the control sockets of running nodes: stock, new secrets, refused keys."""

from __future__ import annotations

import json
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.cli.keys import of_nodes
from lab.cli.keys_events import show_events
from lab.cli.reseed import take_secret_file
from lab.cli.revoke import revoke_role
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed
from orchestrator.durable import destroy_folder
from orchestrator.events.delivery import KeysDelivered, KeysRefused
from orchestrator.keystore.errors import AuthLaneExhaustedError
from orchestrator.keystore.lanes import AUTH_STOP_BITS, Lane
from orchestrator.keystore.pair_macs import MAC_KEY_BITS
from orchestrator.keystore.pair_secret import PairSecret, PairSecretError
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.windows import Use
from orchestrator.processes.latest_deliveries import LatestDeliveries
from orchestrator.processes.node_control import NODE_ERRORS, NodeControl, keys_of
from orchestrator.processes.node_store import open_node_store
from orchestrator.processes.pair_worker import LowWater
from orchestrator.records.keeping import Records
from orchestrator.records.kinds import BlockEnded, PadsTaken, Span
from orchestrator.wall_clock import utc_day
from orchestrator.wire.control_socket import ControlSocket, ShowKeys
from orchestrator.wire.gate import Gate
from orchestrator.wire.revoked import RevokedKeys
from orchestrator.wire.zeromq import ZeroMQ

ENDS = ("alice", "bob")


class Worker:
    """Notes what it was to do."""

    def __init__(self) -> None:
        self.met = self.went_on = 0
        self.hold: LowWater | None = None

    def meet_again(self) -> None:
        self.met += 1

    def go_on(self) -> None:
        self.went_on += 1
        self.hold = None

    old_copy = ""


class Bench:
    """A testbed folder whose alice and bob have their stores open and listen at their control sockets."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.path = create_folder(folder / "bench", template_path("simulated-reference"))
        self.testbed = load_testbed(self.path)
        self.stores: dict[str, KeyStore] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.gates: dict[str, Gate] = {}
        self.given = {name: LatestDeliveries() for name in ENDS}
        for name in ENDS:
            state = self.state(name)
            state.mkdir(parents=True)
            store = open_node_store(self.testbed, name, self.path.parent / "secrets" / name, state)
            stack.callback(store.close)
            transport = stack.enter_context(ZeroMQ())
            client = f"fl-{name}"
            gate = transport.gate({self.testbed.public_key(client): client}, RevokedKeys(self.state(name)))
            stack.callback(gate.close)
            self.stores[name], self.gates[name] = store, gate
            self.workers[name] = {peer: Worker() for peer in store.peers()}
            control = NodeControl(
                self.testbed, store, self.workers[name], gate, SimpleNamespace(), self.given[name]
            )  # type: ignore[arg-type]
            stack.enter_context(ControlSocket(state, control, NODE_ERRORS))

    def state(self, role: str) -> Path:
        return self.path.parent / "state" / role

    def kept(self) -> list[int]:
        return [len(self.stores[a].generations.kept(b)) for a, b in (ENDS, ENDS[::-1])]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


@pytest.fixture
def keys(bench: Bench, qunetlab: Any) -> Any:
    """`qunetlab keys ...` on that testbed."""
    return lambda *arguments: qunetlab("keys", *arguments, "--testbed", str(bench.path))


def test_a_running_node_tells_its_stock_and_a_stopped_one_is_read(bench: Bench, qunetlab: Any) -> None:
    auth = bench.stores["alice"].auth("bob")
    auth.take_outgoing(65536 - MAC_KEY_BITS - AUTH_STOP_BITS)
    with pytest.raises(AuthLaneExhaustedError):
        auth.take_outgoing(256)
    shown = qunetlab("keys", str(bench.path), "--json")
    assert shown.returncode == 0, shown.stderr
    rows = {(row["node"], row["peer"]): row for row in json.loads(shown.stdout)["stores"]}
    assert len(rows) == 2 * (len(bench.testbed.users) - 1)
    row = rows["alice", "bob"]
    assert (row["lanes"]["auth_ab"], row["low"], row["running"]) == (AUTH_STOP_BITS, True, True)
    assert not rows["bob", "alice"]["low"]
    text = qunetlab("keys", str(bench.path)).stdout
    assert "alice with bob (running)" in text
    assert "LOW ON AUTHENTICATION KEY" in text


def test_a_new_secret_is_made_carried_and_taken_at_each_end(bench: Bench, keys: Any, tmp_path: Path) -> None:
    made = keys("reseed", "bob-alice", "--new", "--out", str(tmp_path))
    assert made.returncode == 0, made.stderr
    files = {end: tmp_path / f"alice-bob.for-{end}.secret" for end in ENDS}
    for path in files.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert str(path) in made.stdout
        assert PairSecret.read(path).generation == 1
    assert keys("reseed", "alice-bob", "--new", "--out", str(tmp_path)).returncode == 2
    copy = tmp_path / "copy.secret"
    shutil.copy2(files["bob"], copy)
    for end in ENDS:
        taken = keys("reseed", "alice-bob", "--secret", str(files[end]))
        assert taken.returncode == 0, taken.stderr
        assert not files[end].exists()
        assert bench.workers[end][ENDS[1 - ENDS.index(end)]].met == 1
    assert bench.kept() == [1, 1]
    again = keys("reseed", "alice-bob", "--secret", str(copy))
    assert again.returncode == 1
    assert "was taken before" in again.stderr
    assert copy.exists()
    assert bench.kept() == [1, 1]


def test_secrets_that_are_cut_or_of_another_pair_are_refused_with_their_place(
    bench: Bench, keys: Any, tmp_path: Path
) -> None:
    before = [store.stock(peer) for store, peer in zip(bench.stores.values(), ENDS[::-1], strict=True)]
    assert keys("reseed", "alice-bob", "--new", "--out", str(tmp_path)).returncode == 0
    cut, whole = tmp_path / "alice-bob.for-alice.secret", tmp_path / "alice-bob.for-bob.secret"
    cut.write_bytes(cut.read_bytes()[:9000])
    other = tmp_path / "other.secret"
    PairSecret.draw("carol", "dave").write(other, "carol")
    for path, pair, told in (
        (cut, "alice-bob", "copied in part"),
        (whole, "bob-carol", "secret of alice-bob, not of bob-carol"),
        (other, "alice-bob", "secret of carol-dave"),
        (tmp_path / "nowhere", "alice-bob", "there is no file"),
    ):
        said = keys("reseed", pair, "--secret", str(path))
        assert said.returncode == 1, said.stderr
        assert told in said.stderr
        assert str(path) in said.stderr
        assert "Traceback" not in said.stderr
    other.unlink()
    PairSecret.draw("carol", "dave").write(other, "carol")
    assert keys("reseed", "carol-dave", "--secret", str(other)).returncode == 2  # carol does not run here
    assert keys("reseed", "alice-eve", "--new").returncode == 2
    assert keys("reseed", "alice-bob").returncode == 2
    assert bench.kept() == [0, 0]
    after = [store.stock(peer) for store, peer in zip(bench.stores.values(), ENDS[::-1], strict=True)]
    assert before == after
    assert whole.exists()


def test_a_file_half_destroyed_by_a_node_that_was_killed_is_destroyed_by_a_retry(
    bench: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "alice-bob.secret"
    PairSecret.draw("alice", "bob").write(tmp_path / "alice-bob.secret.spent", "bob")
    with pytest.raises(PairSecretError, match="was taken before; what was left of it is destroyed"):
        take_secret_file("alice-bob", path, bench.path, None)
    assert not list(tmp_path.glob("*.spent"))
    with pytest.raises(PairSecretError, match="there is no file"):
        take_secret_file("alice-bob", path, bench.path, None)


def test_a_role_is_revoked_at_running_and_stopped_processes_and_listed(bench: Bench, keys: Any) -> None:
    bench.state("fl-server").mkdir()
    said = keys("revoke", "fl-bob")
    assert said.returncode == 0, said.stderr
    assert "bob: the key of fl-bob is refused" in said.stdout
    assert "fl-server: it does not run" in said.stdout
    assert bench.gates["bob"].revoked == ["fl-bob"]
    assert bench.gates["alice"].revoked == []
    listed = json.loads(keys("revoke", "--list", "--json").stdout)["revoked"]
    assert listed == {"alice": [], "bob": ["fl-bob"], "fl-server": ["fl-bob"]}
    assert RevokedKeys(bench.state("fl-server")).roles == ["fl-bob"]
    assert keys("revoke", "fl-eve").returncode == 2
    nobody = keys("revoke", "relay")
    assert nobody.returncode == 2
    assert "no process of this machine" in nobody.stderr


def test_a_process_that_came_up_while_its_list_was_written_is_told_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.cli.revoke._processes", lambda machine: [("bob", False)])
    assert revoke_role("fl-bob", bench.path, None) == 0
    assert bench.gates["bob"].revoked == ["fl-bob"]
    assert RevokedKeys(bench.state("bob")).roles == ["fl-bob"]


def test_a_pair_that_waits_for_an_operator_is_shown_and_let_go_on(
    bench: Bench, keys: Any, qunetlab: Any
) -> None:
    worker = bench.workers["alice"]["bob"]
    worker.hold = LowWater("bob", "auth_ab", 5000)
    assert "MEETINGS WAIT FOR AN OPERATOR" in qunetlab("keys", str(bench.path)).stdout
    said = keys("meet", "alice-bob")
    assert said.returncode == 0
    assert "alice meets bob again" in said.stdout
    assert "bob and alice wait for no operator" in said.stdout
    assert [bench.workers[a][b].went_on for a, b in (ENDS, ENDS[::-1])] == [1, 0]
    assert "MEETINGS WAIT" not in qunetlab("keys", str(bench.path)).stdout
    assert keys("meet", "carol-dave").returncode == 2


def test_an_audit_opens_the_seals_of_running_nodes_and_says_which_do_not_open(
    bench: Bench, qunetlab: Any
) -> None:
    said = qunetlab("keys", "audit", str(bench.path), "--json")
    assert said.returncode == 0, said.stderr
    stores = {row["node"]: row for row in json.loads(said.stdout)["stores"]}
    assert set(stores) == {"alice", "bob"}
    assert stores["alice"]["running"]
    assert stores["alice"]["bits"] == sum(
        bench.stores["alice"].ledger(peer).stored for peer in ("bob", "carol", "dave")
    )
    assert stores["alice"]["unopened"] == []
    store = bench.stores["bob"]
    with store._core.transaction():
        store._core.db.write(
            "UPDATE pieces SET sealed = zeroblob(100) WHERE peer = 'alice' AND lane = 'auth_ba'"
        )
    said = qunetlab("keys", "audit", str(bench.path))
    assert said.returncode == 1
    assert "bob (running): " in said.stdout
    assert "1 DO NOT OPEN; books balance" in said.stdout
    assert (
        "alice-bob: lane auth_ba from 0 on" in said.stdout
        or "bob-alice: lane auth_ba from 0 on" in said.stdout
    )


def test_a_store_that_was_put_back_is_told(bench: Bench, qunetlab: Any) -> None:
    bench.workers["alice"]["bob"].old_copy = "peer"
    rows = json.loads(qunetlab("keys", str(bench.path), "--json").stdout)["stores"]
    assert [(row["node"], row["peer"]) for row in rows if row["old_copy"]] == [("alice", "bob")]
    assert "THE STORE OF bob WAS AN OLD COPY" in qunetlab("keys", str(bench.path)).stdout


def test_use_is_told_by_application_with_its_quota(bench: Bench, qunetlab: Any) -> None:
    assert "no application was given any key yet" in qunetlab("keys", "use", str(bench.path)).stdout
    store = bench.stores["alice"]
    with store._core.transaction():
        store.windows._book("bob", Lane.OTP_AB, [Use("app1", "master", utc_day(), 2, 512)])
    said = qunetlab("keys", "use", str(bench.path), "--json")
    (row,) = json.loads(said.stdout)["use"]
    assert (row["node"], row["sae"], row["peer"], row["bits"], row["bits_today"]) == (
        "alice",
        "app1",
        "bob",
        512,
        512,
    )
    assert "app1" in qunetlab("keys", "use", str(bench.path)).stdout


def test_events_are_what_nodes_have_on_record(bench: Bench, qunetlab: Any) -> None:
    assert "no node has records" in qunetlab("keys", "events", str(bench.path)).stderr
    records = Records.of_role(bench.state("alice"), "alice", "0", "")
    block = {"epoch": 1, "lease_number": 2, "owner": "alice", "block_id": "1/2"}
    lanes = {"mask": Span(0, 800)}
    records.keep(BlockEnded(first="alice", second="bob", stored=True, secret_bits=900, lanes=lanes, **block))
    records.keep(BlockEnded(first="alice", second="carol", stored=False, reason="QBER too high", **block))
    taken = {"run_id": "r", "context": "", "participants": ("alice", "bob"), "ranges": {"bob": Span(0, 64)}}
    records.keep(PadsTaken(owner="alice", round=3, burnt=True, **taken))
    said = qunetlab("keys", "events", str(bench.path), "--pair", "alice-bob", "--json")
    told = [(each["peer"], each["what"], each["bits"]) for each in json.loads(said.stdout)["events"]]
    assert told == [("", "store opened", None), ("bob", "block stored", 900), ("bob", "burnt", 64)]
    text = qunetlab("keys", "events", str(bench.path), "--last", "2").stdout
    assert "QBER too high" in text
    assert "2 before these" in text
    bench.given["bob"].tell(KeysDelivered("app2", "alice", 3, 768, "slave"))
    bench.given["bob"].tell(KeysRefused("", "caller", "master"))
    said = qunetlab("keys", "events", str(bench.path), "--json")
    latest = {each["what"]: each for each in json.loads(said.stdout)["events"]}
    assert (latest["given out"]["sae"], latest["given out"]["bits"]) == ("app2", 768)
    assert (latest["refused"]["sae"], latest["refused"]["about"]) == ("", "a request as master: caller")
    assert "refused" not in qunetlab("keys", "events", str(bench.path), "--pair", "alice-bob").stdout
    with (bench.state("alice") / "records" / "records.jsonl").open("ab") as file:
        file.write(b'{"broken": 1}\n')
    said = qunetlab("keys", "events", str(bench.path))
    assert said.returncode == 1
    assert "1 of its records are damaged" in said.stderr


def test_events_are_followed_without_telling_any_twice(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records.of_role(bench.state("alice"), "alice", "0", "")
    looks = 0

    def pause(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            block = {"epoch": 1, "lease_number": 2, "owner": "alice", "block_id": "1/2"}
            records.keep(
                BlockEnded(first="alice", second="bob", stored=False, reason="QBER too high", **block)
            )
        if looks == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show_events(bench.path, None, 40, as_json=True, follow=True, pause=pause)
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[each["what"] for each in one["events"]] for one in documents] == [
        ["store opened"],
        ["block given up"],
    ]


def test_a_node_that_does_not_answer_keeps_nobody_from_seeing_the_others(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as hangs:
        place = bench.state("carol")
        place.mkdir()
        hangs.bind(str(place / "control"))
        hangs.listen(1)
        asked = of_nodes(bench.path, None, "file", ShowKeys(), keys_of, timeout_s=0.2)
        assert [said.node for said, _ in asked.told] == ["alice", "bob"]
        assert asked.tell_failed() == 3
    assert "carol is not shown: no answer from the process at" in capsys.readouterr().err


def test_a_store_that_is_locked_is_named_and_the_others_are_shown(bench: Bench, qunetlab: Any) -> None:
    secrets = bench.path.parent / "secrets" / "carol"
    bench.state("carol").mkdir()
    open_node_store(bench.testbed, "carol", secrets, bench.state("carol")).close()
    (secrets / "store.key").rename(secrets / "store.passphrase")
    said = qunetlab("keys", str(bench.path))
    assert said.returncode == 1
    assert "alice with bob (running)" in said.stdout
    assert "carol is not shown: the key store of carol is sealed with a passphrase" in said.stderr


def test_a_machine_without_nodes_says_where_to_ask(tmp_path: Path, qunetlab: Any) -> None:
    path = create_folder(tmp_path / "bench", template_path("simulated-reference"))
    assert "nodes create theirs on first start" in qunetlab("keys", str(path)).stderr
    for user in load_testbed(path).user_names():
        destroy_folder(path.parent / "secrets" / user)
    for words in ((), ("audit",), ("use",), ("events",)):
        said = qunetlab("keys", *words, str(path))
        assert (said.returncode, said.stdout) == (2, "")
        assert "this machine runs no node; ask on the machines of alice, bob" in said.stderr
