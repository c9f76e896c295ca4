"""Delivery: a client asks its own node for a masked update and gets it once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.delivery.client import DeliveryClient, MaskedUpdate, Wait
from orchestrator.delivery.consent import DESCRIPTION_VERSION, FORMAT, Consent, RunDescription
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.delivery.errors import (
    ConsentError,
    DeliveryRefusedError,
    DeliveryTimeoutError,
    DeliveryUnreachableError,
    JournalError,
    KeysShortError,
    OutputLostError,
    PadsGoneError,
    RoundConflictError,
    ShareSealError,
)
from orchestrator.delivery.journal import journal_path, read_entry, write_entry
from orchestrator.delivery.masking import add_packed, pack_values, unpack_values
from orchestrator.delivery.messages import (
    Cipher,
    Collect,
    Failure,
    PadRequest,
    Reply,
    RoundContext,
    StockRequest,
)
from orchestrator.delivery.rounds import PadPeerError, PadReleasedError, PadRounds
from orchestrator.delivery.service import JOBS_AT_A_TIME, DeliveryService
from orchestrator.delivery.sharing import ShareChannel, sealed_size
from orchestrator.keystore.agreement import reserve
from orchestrator.keystore.lanes import Lane, Range
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import ChannelTimeoutError
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.curve import CurveKeys, client_socket, generate_keys
from orchestrator.wire.links import Target
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

NAMES = ("alice", "bob", "charlie")
N_VALUES, RING_WIDTH = 1000, 10
MODEL = b"\x07" * 32
"""The digest of a first model."""


def described(
    run_id: str = "run",
    participants: tuple[str, ...] = NAMES,
    mode: Cipher = "otp",
    weight: int = 1,
    **changes: Any,
) -> RunDescription:
    """A run of rounds like those of these tests."""
    sharing = mode == "lightsecagg"
    fields: dict[str, Any] = {
        "version": DESCRIPTION_VERSION,
        "run_id": run_id,
        "task": "digits",
        "task_fingerprint": "f00d",
        "data": "digits",
        "participants": participants,
        "weights": (weight,) * len(participants),
        "rounds": 1000,
        "attempts": 10_000,
        "mode": mode,
        "cipher": mode,
        "colluders": 1 if sharing else 0,
        "survivors": len(participants) if sharing else 0,
        "smallest_set": len(participants),
        "n_parameters": N_VALUES,
        "n_values": 33 if sharing else N_VALUES,
        "ring_width": RING_WIDTH,
        "levels": 31,
        "clip": 1.0,
        "clip_decay": 1.0,
        "keep": 1.0,
        "error_feedback": False,
        "seed": 0,
        "first_model": MODEL.hex(),
    }
    return RunDescription(**{**fields, **changes})


def plant_consent(folder: Path, user: str, description: RunDescription) -> None:
    """The file that an operator's yes leaves, whatever else was agreed to before."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"consent-{description.name}.json"
    path.write_bytes(msgspec.json.encode(Consent(FORMAT, user, description)))


class Switchboard:
    """Connects two nodes that reserve for the same context, as the hub does."""

    def __init__(self, stores: dict[str, KeyStore]) -> None:
        self._stores = stores
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str, bytes], MemoryChannel] = {}
        self.calls: list[tuple[str, str]] = []
        self.broken: set[str] = set()

    def reserve_for(self, owner: str) -> Callable[[str, int, bytes], Range]:
        def call(peer: str, n_bits: int, digest: bytes) -> Range:
            if peer in self.broken or owner in self.broken:
                raise DeliveryTimeoutError("line cut")
            store = self._stores[owner]
            with self._lock:
                self.calls.append((owner, peer))
                channel = self._open.pop((owner, peer, digest), None)
                if channel is None:
                    channel, self._open[peer, owner, digest] = memory_channel_pair()
            return reserve(store, channel, store.pair_end(peer), peer, "mask", n_bits, digest, timeout_s=5)

        return call


@dataclass
class Bench:
    stores: dict[str, KeyStore]
    services: dict[str, DeliveryService]
    clients: dict[str, DeliveryClient]
    switchboard: Switchboard
    client_keys: dict[str, CurveKeys]
    node_keys: dict[str, CurveKeys]
    demands: list[dict[str, int]]
    folder: Path

    def deposit(self, first: str, second: str, n_bytes: int, seed: int = 1) -> None:
        key = np.random.default_rng(seed).bytes(n_bytes)
        name = f"block-{first}-{second}-{seed}"
        for own, peer in ((first, second), (second, first)):
            self.stores[own].deposit_pending(peer, name, SecretBits.from_bytes(key), b"")
            self.stores[own].confirm_deposit(peer, name)

    def everybody(
        self, context: RoundContext, updates: dict[str, npt.NDArray[np.int64]], weight: int = 1
    ) -> dict[str, MaskedUpdate]:
        with ThreadPoolExecutor(len(updates)) as pool:
            futures = {
                name: pool.submit(
                    self.clients[name].masked_update, context, update, weight, self.folder / name, 10.0
                )
                for name, update in updates.items()
            }
            return {name: future.result() for name, future in futures.items()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    rng = np.random.default_rng(7)
    stores = {name: KeyStore.create(tmp_path / f"{name}.db", name, Kek(rng.bytes(32))) for name in NAMES}
    for i, first in enumerate(NAMES):
        for second in NAMES[i + 1 :]:
            ab, ba = rng.bytes(8192), rng.bytes(8192)
            for own, peer, pair_end in ((first, second, "first"), (second, first, "second")):
                secrets = SecretBits.from_bytes(ab), SecretBits.from_bytes(ba)
                stores[own].install_initial_secret(peer, *secrets, pair_end=pair_end)
    switchboard = Switchboard(stores)
    client_keys = {name: generate_keys() for name in NAMES}
    node_keys = {name: generate_keys() for name in NAMES}
    demands: list[dict[str, int]] = []
    services = {
        name: DeliveryService(
            stores[name],
            [peer for peer in NAMES if peer != name],
            switchboard.reserve_for(name),
            keys=node_keys[name],
            client_key=client_keys[name].public,
            demand=demands.append,
            estimate_s=lambda missing: max(missing.values()) / 1000,
        )
        for name in NAMES
    }
    for service in services.values():
        service.start()
    clients = {
        name: DeliveryClient(services[name].endpoint, client_keys[name], node_keys[name].public)
        for name in NAMES
    }
    for name in NAMES:
        for mode in ("otp", "expanded", "lightsecagg"):
            plant_consent(tmp_path / name, name, described(mode=mode))
    plant_consent(tmp_path, "alice", described())
    yield Bench(stores, services, clients, switchboard, client_keys, node_keys, demands, tmp_path)
    for client in clients.values():
        client.close()
    for service in services.values():
        service.close()
    for store in stores.values():
        store.close()


def supply(bench: Bench, n_bytes: int = 8192) -> None:
    for i, first in enumerate(NAMES):
        for second in NAMES[i + 1 :]:
            bench.deposit(first, second, n_bytes, seed=10 * i + len(second))


def updates(seed: int = 3) -> dict[str, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-31, 32, N_VALUES) for name in NAMES}


def context(
    round_number: int = 1, participants: tuple[str, ...] = NAMES, weight: int = 1, run_id: str = "run"
) -> RoundContext:
    run = described(run_id, participants, "otp", weight).digest()
    return RoundContext(run_id, round_number, participants, N_VALUES, RING_WIDTH, run=run, model=MODEL)


def test_masks_cancel_in_the_sum_and_only_there(bench: Bench) -> None:
    supply(bench)
    sent = updates()
    for name in NAMES:
        plant_consent(bench.folder / name, name, described(weight=3))
    masked = bench.everybody(context(weight=3), sent, weight=3)
    total = masked["alice"].packed
    for name in NAMES[1:]:
        total = add_packed(total, masked[name].packed, N_VALUES, RING_WIDTH)
    np.testing.assert_array_equal(unpack_values(total, N_VALUES, RING_WIDTH), 3 * sum(sent.values()))
    for name in NAMES:
        alone = unpack_values(masked[name].packed, N_VALUES, RING_WIDTH)
        assert np.mean(alone == 3 * sent[name]) < 0.02
        assert masked[name].key_bits_used == 2 * N_VALUES * RING_WIDTH
        assert bench.stores[name].ledger(NAMES[0] if name != NAMES[0] else NAMES[1]).delivered == 10_000


def test_participant_order_gives_the_signs_and_belongs_to_the_context(bench: Bench) -> None:
    supply(bench)
    sent = updates()
    for name in NAMES:
        plant_consent(bench.folder / name, name, described(participants=("charlie", "alice", "bob")))
    masked = bench.everybody(context(participants=("charlie", "alice", "bob")), sent)
    total = masked["alice"].packed
    for name in NAMES[1:]:
        total = add_packed(total, masked[name].packed, N_VALUES, RING_WIDTH)
    np.testing.assert_array_equal(unpack_values(total, N_VALUES, RING_WIDTH), sum(sent.values()))
    assert context().digest() != context(participants=("charlie", "alice", "bob")).digest()


def test_i5_a_retry_returns_the_journalled_output(bench: Bench) -> None:
    supply(bench)
    sent = updates()
    first = bench.everybody(context(), sent)["alice"]
    calls = len(bench.switchboard.calls)
    again = bench.clients["alice"].masked_update(context(), sent["alice"], 1, bench.folder / "alice", 1.0)
    stored = bench.clients["alice"].stored_update(context(), bench.folder / "alice")
    np.testing.assert_array_equal(again.packed, first.packed)
    assert stored is not None
    np.testing.assert_array_equal(stored.packed, first.packed)
    assert len(bench.switchboard.calls) == calls


def test_a_round_with_an_output_accepts_no_other_update_or_participants(bench: Bench) -> None:
    supply(bench)
    sent = updates()
    bench.everybody(context(), sent)
    client, folder = bench.clients["alice"], bench.folder / "alice"
    changed = sent["alice"].copy()
    changed[5] += 1
    with pytest.raises(RoundConflictError, match="another update"):
        client.masked_update(context(), changed, 1, folder, 1.0)
    with pytest.raises(ConsentError, match="weight 2 where 1 was agreed to"):
        client.masked_update(context(), sent["alice"], 2, folder, 1.0)
    plant_consent(folder, "alice", described(participants=("alice", "bob")))
    with pytest.raises(RoundConflictError, match="participant set"):
        client.masked_update(context(participants=("alice", "bob")), sent["alice"], 1, folder, 1.0)


def test_a_lost_journal_does_not_bring_the_pads_back(bench: Bench) -> None:
    supply(bench)
    sent = updates()
    bench.everybody(context(), sent)
    journal_path(bench.folder / "alice", "run").unlink()
    with pytest.raises(PadsGoneError):
        bench.clients["alice"].masked_update(context(), sent["alice"], 1, bench.folder / "alice", 5.0)


def test_neither_client_nor_node_masks_in_a_round_for_another_set(bench: Bench) -> None:
    """A journal that was lost, or put back from a copy, does not matter: the node remembers the round too."""
    supply(bench)
    sent = updates()
    bench.everybody(context(), sent)
    without_charlie = context(participants=("alice", "bob"))
    for name in ("alice", "bob"):
        for folder in (bench.folder / name, bench.folder / f"empty-{name}"):
            plant_consent(folder, name, described(participants=("alice", "bob")))
    with pytest.raises(RoundConflictError):
        bench.clients["alice"].masked_update(without_charlie, sent["alice"], 1, bench.folder / "alice", 1.0)
    calls = len(bench.switchboard.calls)
    for name in ("alice", "bob"):
        with pytest.raises(DeliveryRefusedError, match="with other participants"):
            bench.clients[name].masked_update(
                without_charlie, sent[name], 1, bench.folder / f"empty-{name}", 5.0
            )
    assert len(bench.switchboard.calls) == calls
    assert bench.stores["alice"].ledger("bob").burnt == 0


def test_a_run_leaves_one_file_and_an_earlier_run_only_its_mark(bench: Bench) -> None:
    supply(bench)
    sent = updates()
    for number in range(1, 4):
        bench.everybody(context(number), sent)
    folder = bench.folder / "alice"
    assert [path.name for path in folder.glob("masked-*")] == [journal_path(folder, "run").name]
    for number in (1, 2):
        with pytest.raises(RoundConflictError, match="is over: round 3 was masked"):
            bench.clients["alice"].masked_update(context(number), sent["alice"], 1, folder, 1.0)
    assert bench.clients["alice"].stored_update(context(3), folder) is not None
    assert journal_path(folder, "run").stat().st_size > 1250
    later = context(1, run_id="later")
    for name in NAMES:
        plant_consent(bench.folder / name, name, described("later"))
    bench.everybody(later, sent)
    assert bench.clients["alice"].stored_update(later, folder) is not None
    assert journal_path(folder, "run").stat().st_size < 250
    assert bench.clients["alice"].stored_update(context(3), folder) is None
    for number in (2, 3):
        with pytest.raises((RoundConflictError, PadsGoneError)):
            bench.clients["alice"].masked_update(context(number), sent["bob"], 1, folder, 1.0)


def test_of_two_copies_of_a_client_the_slower_one_keeps_no_output(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "journal"
    write_entry(folder, context(2), b"", b"later", 0)
    with pytest.raises(OutputLostError, match="round 2 of run 'run' has protected an update before"):
        write_entry(folder, context(1), b"", b"earlier", 0)
    with pytest.raises(OutputLostError):
        write_entry(folder, context(2), b"", b"again", 0)
    kept = read_entry(folder, context(2))
    assert kept is not None
    assert kept.packed == b"later"
    assert "later" not in repr(kept)


def test_of_many_at_once_one_takes_the_round(tmp_path: Path) -> None:
    def taken(_: int) -> bool:
        try:
            write_entry(tmp_path / "journal", context())
        except OutputLostError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(taken, range(32))) == 1


def test_the_folders_of_a_first_output_are_durable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a missing folder would mean a client that has forgotten what it masked."""
    import orchestrator.durable as durable

    synced: list[Path] = []
    sync = durable.sync_path
    monkeypatch.setattr(durable, "sync_path", lambda folder: (synced.append(folder), sync(folder)))
    write_entry(tmp_path / "state" / "journal", context(1))
    assert synced == [tmp_path, tmp_path / "state", tmp_path / "state" / "journal"]


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["all", "two"]), st.booleans()), max_size=12))
@settings(max_examples=30, deadline=None)
def test_whatever_is_asked_a_round_has_one_context_and_numbers_only_grow(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, str, bool]]
) -> None:
    folder, made = tmp_path_factory.mktemp("journal"), dict[int, RoundContext]()
    for number, who, new_run in asked:
        one = context(number, NAMES if who == "all" else NAMES[:2])
        if new_run:
            write_entry(folder, msgspec.structs.replace(one, run_id=f"run-{len(list(folder.iterdir()))}"))
        try:
            if read_entry(folder, one) is None:
                assert number > max(made, default=0)
                write_entry(folder, one)
                made[number] = one
            assert made[number] == one
        except RoundConflictError:
            assert number < max(made) or made[number] != one


def test_pads_that_were_lost_on_their_way_to_the_client_are_not_given_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    supply(bench)
    sent, collect = updates(), DeliveryClient._collect

    def lost(client: DeliveryClient, agreed: RoundContext) -> Any:
        collect(client, agreed)
        raise PadsGoneError("they did not arrive")

    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(DeliveryClient, "_collect", lost)
        for name in NAMES:
            pool.submit(bench.clients[name].masked_update, context(), sent[name], 1, bench.folder / name, 5.0)
    monkeypatch.setattr(DeliveryClient, "_collect", collect)
    changed = sent["alice"] + 0
    changed[0] ^= 1
    for update in (sent["alice"], changed):
        with pytest.raises(PadsGoneError):
            bench.clients["alice"].masked_update(context(), update, 1, bench.folder / "alice", 2.0)
    assert bench.stores["alice"].ledger("bob").delivered == 10_000


def test_a_damaged_journal_is_an_error(bench: Bench) -> None:
    path = journal_path(bench.folder, "run")
    path.write_bytes(b"\x93garbage")
    with pytest.raises(JournalError, match="damaged"):
        bench.clients["alice"].masked_update(context(), updates()["alice"], 1, bench.folder, 1.0)


def test_too_few_keys_say_how_many_with_whom_and_burn_nothing(bench: Bench) -> None:
    bench.deposit("alice", "bob", 8192)
    waits: list[Wait] = []
    with pytest.raises(KeysShortError) as caught:
        bench.clients["alice"].masked_update(
            context(), updates()["alice"], 1, bench.folder, 0.4, on_wait=waits.append
        )
    assert caught.value.missing_bits == {"charlie": 10_000}
    assert caught.value.wait_s == pytest.approx(10.0)
    assert waits
    assert waits[-1].missing_bits == {"charlie": 10_000}
    assert bench.switchboard.calls == []
    assert bench.stores["alice"].ledger("bob").burnt == 0


def test_waiting_ends_when_the_key_arrives(bench: Bench) -> None:
    sent = updates()
    supplied = threading.Event()

    def on_wait(wait: Wait) -> None:
        if not supplied.is_set():
            supplied.set()
            supply(bench)

    with ThreadPoolExecutor(3) as pool:
        alice = pool.submit(
            bench.clients["alice"].masked_update,
            context(),
            sent["alice"],
            1,
            bench.folder / "alice",
            10.0,
            on_wait,
        )
        assert supplied.wait(5)
        others = [
            pool.submit(
                bench.clients[name].masked_update, context(), sent[name], 1, bench.folder / name, 10.0
            )
            for name in NAMES[1:]
        ]
        results = [alice.result(), *(other.result() for other in others)]
    total = results[0].packed
    for result in results[1:]:
        total = add_packed(total, result.packed, N_VALUES, RING_WIDTH)
    np.testing.assert_array_equal(unpack_values(total, N_VALUES, RING_WIDTH), sum(sent.values()))


def test_pairs_that_agreed_are_kept_while_another_is_tried_again(bench: Bench) -> None:
    supply(bench)
    bench.switchboard.broken.add("charlie")
    sent = updates()

    def on_wait(wait: Wait) -> None:
        if "line cut" in wait.text:
            bench.switchboard.broken.clear()

    with ThreadPoolExecutor(3) as pool:
        futures = [
            pool.submit(
                bench.clients[name].masked_update,
                context(),
                sent[name],
                1,
                bench.folder / name,
                10.0,
                on_wait,
            )
            for name in NAMES
        ]
        for future in futures:
            future.result()
    assert bench.switchboard.calls.count(("alice", "bob")) == 1
    assert bench.stores["alice"].ledger("bob").burnt == 0


def test_clients_that_were_told_different_participants_get_nothing(bench: Bench) -> None:
    supply(bench)
    plant_consent(bench.folder / "alice", "alice", described(participants=("alice", "bob")))
    sent = updates()
    with ThreadPoolExecutor(2) as pool:
        alice = pool.submit(
            bench.clients["alice"].masked_update,
            context(participants=("alice", "bob")),
            sent["alice"],
            1,
            bench.folder / "alice",
            0.5,
        )
        bob = pool.submit(
            bench.clients["bob"].masked_update, context(), sent["bob"], 1, bench.folder / "bob", 0.5
        )
        for future in (alice, bob):
            with pytest.raises(DeliveryTimeoutError):
                future.result()
    assert bench.stores["alice"].ledger("bob").delivered == 0
    assert bench.stores["bob"].ledger("alice").delivered == 0


def test_an_abandoned_round_burns_what_was_reserved(bench: Bench) -> None:
    supply(bench)
    store = bench.stores["alice"]
    with ThreadPoolExecutor(2) as pool:
        for name in ("alice", "bob"):
            pool.submit(
                bench.services[name]._rounds.reserve, context(participants=("alice", "bob"))
            )  # only the reservation: the clients die before collecting
    assert bench.clients["alice"].abandon(context(participants=("alice", "bob"))) == ("bob",)
    assert bench.clients["alice"].abandon(context(participants=("alice", "bob"))) == ()
    assert store.ledger("bob").burnt == 10_000
    assert store.stock("bob")[Lane.MASK] == bench.stores["bob"].stock("alice")[Lane.MASK]


def test_what_is_agreed_on_after_a_round_was_given_up_is_burnt_too(bench: Bench) -> None:
    supply(bench)
    two, go_on = context(participants=("alice", "bob")), threading.Event()
    agree = bench.switchboard.reserve_for("alice")

    def late(peer: str, n_bits: int, digest: bytes) -> Range:
        assert go_on.wait(10)
        return agree(peer, n_bits, digest)

    rounds = PadRounds(bench.stores["alice"], NAMES[1:], late)
    with ThreadPoolExecutor(2) as pool:
        alice = pool.submit(rounds.reserve, two)
        bob = pool.submit(bench.services["bob"]._rounds.reserve, two)
        while not rounds.waiting_for(two):
            pass
        assert rounds.abandon(two) == ()
        go_on.set()
        with pytest.raises(PadPeerError, match="given up"):
            alice.result()
        bob.result()
    assert bench.stores["alice"].ledger("bob").burnt == 10_000
    assert bench.clients["bob"].abandon(two) == ("alice",)
    assert bench.stores["bob"].ledger("alice").burnt == 10_000


def test_sums_that_could_wrap_are_refused_before_any_key_is_touched(bench: Bench) -> None:
    client = bench.clients["alice"]
    with pytest.raises(ValueError, match="wrap"):
        client.masked_update(context(), updates()["alice"], 1, bench.folder, 1.0, sum_bound=512)
    with pytest.raises(ValueError, match="wrap"):
        client.masked_update(context(), updates()["alice"], 40, bench.folder, 1.0)
    with pytest.raises(ValueError, match="more than the announced bound"):
        client.masked_update(context(), updates()["alice"], 10, bench.folder, 1.0, sum_bound=200)
    assert bench.switchboard.calls == []


@pytest.mark.parametrize(
    ("participants", "error"),
    [(("bob", "charlie"), ConsentError), (("alice", "mallory"), DeliveryRefusedError)],
)
def test_a_context_that_is_not_ours_is_refused(
    bench: Bench, participants: tuple[str, ...], error: type[Exception]
) -> None:
    plant_consent(bench.folder, "alice", described(participants=participants))
    with pytest.raises(error):
        bench.clients["alice"].masked_update(
            context(participants=participants), updates()["alice"], 1, bench.folder, 2.0
        )


def test_stock_and_demand(bench: Bench) -> None:
    bench.deposit("alice", "bob", 8192)
    stock = bench.clients["alice"].stock()
    assert stock.mask_bits == {"bob": bench.stores["alice"].stock("bob")[Lane.MASK], "charlie": 0}
    assert stock.auth_alarms == ()
    bench.clients["alice"].demand({"bob": 5000, "nobody": 7})
    assert bench.demands == [{"bob": 5000}]


def test_only_the_own_client_is_served(bench: Bench) -> None:
    with (
        DeliveryClient(
            bench.services["alice"].endpoint, bench.client_keys["bob"], bench.node_keys["alice"].public
        ) as stranger,
        pytest.raises((DeliveryUnreachableError, DeliveryTimeoutError)),
    ):
        stranger.stock(timeout_s=0.5)
    assert bench.services["alice"].refused >= 1


def test_garbage_is_dropped_and_service_goes_on(bench: Bench) -> None:
    client = bench.clients["alice"]
    client.stock()  # connected
    for junk in ([b""], [b"\xff" * 100], [encode(StockRequest(1)), b"more"], [b"\x80"]):
        client._link.send(*junk)
    client._link.send(encode(Collect(5, context())))
    assert client.stock().auth_alarms == ()


def test_a_client_cannot_put_its_node_to_more_than_so_much_work(bench: Bench) -> None:
    """Every request has a thread of its own; beyond a few the client is told to wait."""
    held = threading.Event()

    def slow(peer: str, n_bits: int, digest: bytes) -> Range:
        held.wait(20.0)
        raise DeliveryTimeoutError("nobody there")

    bench.services["alice"]._rounds._reserve = slow
    supply(bench)
    sockets: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    node = bench.node_keys["alice"].public
    client = client_socket(
        sockets, bench.client_keys["alice"], Target(bench.services["alice"].endpoint, node)
    )
    try:
        client.poll(5000, zmq.POLLOUT)
        for number in range(3 * JOBS_AT_A_TIME):
            client.send(encode(PadRequest(number, context(number + 1))))
        refused: set[int] = set()
        while len(refused) < 2 * JOBS_AT_A_TIME:
            assert client.poll(10_000)
            reply: Reply = decode(client.recv(), Reply)
            if isinstance(reply, Failure):
                assert "in work already" in reply.text
                refused.add(reply.request)
        assert refused == set(range(JOBS_AT_A_TIME, 3 * JOBS_AT_A_TIME))
        assert len(bench.services["alice"]._jobs) == JOBS_AT_A_TIME
    finally:
        held.set()
        sockets.destroy(linger=0)


def test_pads_are_wiped_after_masking(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    supply(bench)
    seen: list[npt.NDArray[np.uint8]] = []
    import orchestrator.delivery.client as module

    original = module.mask

    def spy(q: object, pads: list[npt.NDArray[np.uint8]], *rest: object) -> object:
        assert all(pad.any() for pad in pads)
        seen.extend(pads)
        return original(q, pads, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "mask", spy)
    bench.everybody(context(), updates())
    assert len(seen) == 6
    assert not any(pad.any() for pad in seen)


def test_output_is_durable_before_it_is_returned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    supply(bench)
    import orchestrator.durable as durable

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "os", SimpleNamespace(**{**vars(durable.os), "fsync": full}))
    with pytest.raises(OutputLostError, match="No space left"):
        bench.everybody(context(), updates())
    assert bench.clients["alice"].stored_update(context(), bench.folder / "alice") is None


def expanded(round_number: int = 1) -> RoundContext:
    run = described(mode="expanded").digest()
    return RoundContext("run", round_number, NAMES, N_VALUES, RING_WIDTH, "expanded", run=run, model=MODEL)


def sharing(round_number: int = 1, binding: str = "U=2") -> RoundContext:
    run = described(mode="lightsecagg").digest()
    return RoundContext("run", round_number, NAMES, 33, 10, "lightsecagg", binding, run, MODEL)


def test_expanded_keys_cancel_too_and_cost_256_bits_a_pair(bench: Bench) -> None:
    supply(bench)
    sent = updates()
    masked = bench.everybody(expanded(), sent)
    total = masked["alice"].packed
    for name in NAMES[1:]:
        total = add_packed(total, masked[name].packed, N_VALUES, RING_WIDTH)
    np.testing.assert_array_equal(unpack_values(total, N_VALUES, RING_WIDTH), sum(sent.values()))
    for name in NAMES:
        alone = unpack_values(masked[name].packed, N_VALUES, RING_WIDTH)
        assert np.mean(alone == sent[name]) < 0.02
        assert masked[name].key_bits_used == 2 * 256
        peer = NAMES[0] if name != NAMES[0] else NAMES[1]
        assert bench.stores[name].ledger(peer).delivered == 256


def test_ends_that_want_different_ciphers_get_nothing(bench: Bench) -> None:
    """A client that was told a weaker cipher than its peers releases no key."""
    supply(bench)
    sent = updates()
    with ThreadPoolExecutor(3) as pool:
        futures = [
            pool.submit(bench.clients[name].masked_update, chosen, sent[name], 1, bench.folder / name, 0.5)
            for name, chosen in zip(NAMES, (context(), expanded(), context()), strict=True)
        ]
        for future in futures:
            with pytest.raises(DeliveryTimeoutError):
                future.result()
    assert bench.stores["alice"].ledger("bob").delivered == 0


def channels(bench: Bench, asked: dict[str, RoundContext]) -> dict[str, ShareChannel]:
    with ThreadPoolExecutor(len(asked)) as pool:
        futures = {
            name: pool.submit(bench.clients[name].share_channel, chosen, bench.folder / name, 2.0)
            for name, chosen in asked.items()
        }
        return {name: future.result() for name, future in futures.items()}


def test_shares_arrive_sealed_and_whole_at_every_peer(bench: Bench) -> None:
    supply(bench)
    opened = channels(bench, dict.fromkeys(NAMES, sharing()))
    rng = np.random.default_rng(5)
    shares = {
        (one, other): pack_values(rng.integers(-511, 512, 33), 10).tobytes()
        for one in NAMES
        for other in NAMES
        if one != other
    }
    sealed = {(one, other): opened[one].seal(other, share) for (one, other), share in shares.items()}
    for (one, other), share in shares.items():
        assert len(sealed[one, other]) == sealed_size(sharing()) == 42 + 16
        assert share not in sealed[one, other]
        assert opened[other].open(one, sealed[one, other]) == share
    for name in NAMES:
        assert opened[name].key_bits_used == 2 * 2 * (330 + 384)
        peer = NAMES[0] if name != NAMES[0] else NAMES[1]
        assert bench.stores[name].ledger(peer).delivered == 2 * (330 + 384)


def test_a_share_that_was_changed_swapped_or_cut_is_not_opened(bench: Bench) -> None:
    supply(bench)
    opened = channels(bench, dict.fromkeys(NAMES, sharing()))
    share = bytes(42)
    kept = opened["alice"]._out["bob"].pad
    for_bob, for_charlie = (opened["alice"].seal(peer, share) for peer in ("bob", "charlie"))
    assert not kept.any(), "a pad is overwritten once used"
    with pytest.raises(ShareSealError, match="changed on its way"):
        opened["bob"].open("alice", for_charlie)
    with pytest.raises(ShareSealError, match="58 bytes"):
        opened["charlie"].open("alice", for_charlie[:-1])
    with pytest.raises(ShareSealError, match="serves once"):
        opened["charlie"].open("alice", for_charlie)
    with pytest.raises(ShareSealError, match="serves once"):
        opened["alice"].seal("bob", share)
    from_charlie = bytearray(opened["charlie"].seal("bob", share))
    from_charlie[3] ^= 1
    with pytest.raises(ShareSealError, match="changed on its way"):
        opened["bob"].open("charlie", bytes(from_charlie))
    assert for_bob != for_charlie


def test_a_client_vouches_for_one_statement_and_nobody_in_its_name(bench: Bench) -> None:
    supply(bench)
    opened = channels(bench, dict.fromkeys(NAMES, sharing()))
    tag = opened["alice"].vouch("bob", b"yes")
    assert tag == opened["alice"].vouch("bob", b"yes")
    with pytest.raises(ShareSealError, match="another statement"):
        opened["alice"].vouch("bob", b"no")
    assert opened["bob"].is_vouched("alice", b"yes", tag)
    assert not opened["bob"].is_vouched("alice", b"no", tag)
    assert not opened["bob"].is_vouched("charlie", b"yes", tag)
    assert not opened["charlie"].is_vouched("alice", b"yes", tag)
    assert not opened["alice"].is_vouched("bob", b"yes", tag), "a tag does not count backwards"


def test_the_shares_of_a_round_are_sealed_once(bench: Bench) -> None:
    supply(bench)
    for channel in channels(bench, dict.fromkeys(NAMES, sharing())).values():
        channel.close()
    plant_consent(bench.folder / "lost-journal", "alice", described(mode="lightsecagg"))
    for journal in (bench.folder / "alice", bench.folder / "lost-journal"):
        with pytest.raises(PadsGoneError):
            bench.clients["alice"].share_channel(sharing(), journal, 2.0)
    with pytest.raises(RoundConflictError):
        bench.clients["alice"].share_channel(sharing(binding="U=3"), bench.folder / "alice", 1.0)
    assert bench.clients["alice"].stored_update(sharing(), bench.folder / "alice") is None


def test_a_journal_that_cannot_be_written_lets_no_pad_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That shares were drawn is on the disk before the node releases a bit for them, whatever happens then."""
    import orchestrator.delivery.client as client

    supply(bench)
    reached = threading.Barrier(3)

    def full(*_: object) -> None:
        reached.wait(5)
        raise OutputLostError("No space left on device")

    monkeypatch.setattr(client, "write_entry", full)
    with pytest.raises(OutputLostError):
        channels(bench, dict.fromkeys(NAMES, sharing()))
    assert not reached.broken, "all three had agreed on their pads"
    for name in NAMES:
        for peer in NAMES:
            if peer != name:
                assert bench.stores[name].ledger(peer).delivered == 0


def test_ends_that_were_told_different_thresholds_share_nothing(bench: Bench) -> None:
    supply(bench)
    told = {"alice": sharing(), "bob": sharing(binding="U=3"), "charlie": sharing()}
    with pytest.raises(DeliveryTimeoutError):
        channels(bench, told)
    assert bench.stores["alice"].ledger("bob").delivered == 0


def test_closing_a_channel_overwrites_its_pads(bench: Bench) -> None:
    supply(bench)
    opened = channels(bench, dict.fromkeys(NAMES, sharing()))
    ways = [way for channel in opened.values() for way in (*channel._out.values(), *channel._in.values())]
    pads = [pad for way in ways for pad in (way.pad, way.tag_keys)]
    assert all(pad.any() for pad in pads)
    for channel in opened.values():
        channel.close()
    assert len(pads) == 24
    assert not any(pad.any() for pad in pads)


def test_each_cipher_has_its_own_way(bench: Bench) -> None:
    with pytest.raises(ValueError, match="share_channel"):
        bench.clients["alice"].masked_update(sharing(), np.zeros(33, np.int64), 1, bench.folder, 1.0)
    with pytest.raises(ValueError, match="masks updates"):
        bench.clients["alice"].share_channel(context(), bench.folder, 1.0)


# -- a server that asks for what nobody consented to ---------------------------------------------------

ASKED: dict[str, dict[str, Any]] = {
    "a second run": {"run_id": "run-2"},
    "another seed": {"run": described(seed=1).digest()},
    "other weights": {"run": described(weight=2).digest()},
    "another clip": {"run": described(clip=0.5).digest()},
    "other levels": {"run": described(levels=15).digest()},
    "another mode": {"cipher": "expanded"},
    "one more value": {"n_values": N_VALUES + 1},
    "a wider ring": {"ring_width": RING_WIDTH + 1},
    "a smaller set": {"participants": ("alice", "bob")},
    "a model that does not follow": {"model": b"\x08" * 32},
    "a number beyond the run": {"round": 10_001},
}


def nothing_left_the_nodes(bench: Bench, stock: dict[str, int]) -> None:
    assert bench.switchboard.calls == []
    assert bench.clients["alice"].stock().mask_bits == stock
    for name in NAMES:
        for peer in NAMES:
            if name != peer:
                assert bench.stores[name].ledger(peer).delivered == 0
                assert bench.stores[name].ledger(peer).burnt == 0


@pytest.mark.parametrize("what", ASKED)
def test_a_round_that_nobody_consented_to_reaches_no_node(bench: Bench, what: str) -> None:
    """All clients are told the same lie at once; real nodes hold enough key for it and are asked for nothing."""
    supply(bench)
    stock = bench.clients["alice"].stock().mask_bits
    lie = msgspec.structs.replace(context(), **ASKED[what])
    update = np.zeros(lie.n_values, np.int64)
    for name in NAMES[:2]:
        with pytest.raises(ConsentError, match="no key was spent"):
            bench.clients[name].masked_update(lie, update, 1, bench.folder / name, 1.0)
        shares = msgspec.structs.replace(sharing(), **ASKED[what])
        if shares.cipher == "lightsecagg":
            with pytest.raises(ConsentError, match="no key was spent"):
                bench.clients[name].share_channel(shares, bench.folder / name, 1.0)
    nothing_left_the_nodes(bench, stock)


def test_a_consent_that_was_edited_and_a_round_that_is_in_the_model_reach_no_node(bench: Bench) -> None:
    supply(bench)
    stock, folder = bench.clients["alice"].stock().mask_bits, bench.folder / "alice"
    update = updates()["alice"]
    book = ConsentBook(folder)
    book.advance(described().digest(), 1, b"the model after round 1")
    with pytest.raises(ConsentError, match="numbers are used once"):
        bench.clients["alice"].masked_update(context(1), update, 1, folder, 1.0)
    with pytest.raises(ConsentError, match="does not follow"):
        bench.clients["alice"].masked_update(context(2), update, 1, folder, 1.0)
    path = folder / f"consent-{described().name}.json"
    path.write_text(path.read_text().replace('"clip":1.0', '"clip":2.0'))
    with pytest.raises(ConsentError, match="was edited"):
        bench.clients["alice"].masked_update(context(2), update, 1, folder, 1.0)
    path.unlink()
    with pytest.raises(ConsentError, match="nobody consented here"):
        bench.clients["alice"].masked_update(context(2), update, 1, folder, 1.0)
    nothing_left_the_nodes(bench, stock)


def test_a_round_agreed_half_way_takes_its_own_range_up_again_or_gives_it_up_whole(bench: Bench) -> None:
    """Alice allocated, bob's acceptance never came: all that is free is hers, and still enough for the same round."""
    bench.deposit("alice", "bob", 20_000)
    two, store = context(participants=("alice", "bob")), bench.stores["alice"]

    def half_way(peer: str, n_bits: int, digest: bytes) -> Range:
        store.propose_reservation(peer, Lane.MASK, n_bits, digest)
        raise ChannelTimeoutError("no acceptance")

    rounds = PadRounds(store, NAMES[1:], half_way)
    for _ in range(2):
        with pytest.raises(PadPeerError):
            rounds.reserve(two)
    held = store.held_reservation("bob", Lane.MASK, two.pad_bits, two.digest())
    assert held is not None
    free = store.stock("bob")[Lane.MASK]
    store.propose_reservation("bob", Lane.MASK, free, b"o" * 32)
    with pytest.raises(PadPeerError):  # not short of key: the round has its bits
        rounds.reserve(two)
    assert store.ledger("bob").burnt == 0
    rounds.abandon(two)
    assert store.ledger("bob").burnt == two.pad_bits
    assert store.held_reservation("bob", Lane.MASK, two.pad_bits, two.digest()) is None


def test_giving_up_a_round_whose_pads_have_left_in_part_burns_the_rest(bench: Bench) -> None:
    for peer in ("bob", "charlie"):
        bench.deposit("alice", peer, 20_000)
    three, store = context(participants=("alice", "bob", "charlie")), bench.stores["alice"]

    def agreed(peer: str, n_bits: int, digest: bytes) -> Range:
        taken = store.propose_reservation(peer, Lane.MASK, n_bits, digest)
        store.commit_reservation(peer, Lane.MASK, taken, digest)
        return taken

    charlie = agreed("charlie", three.pad_bits, three.digest())
    store.release("bob", Lane.MASK, agreed("bob", three.pad_bits, three.digest()), three.digest()).wipe()
    rounds = PadRounds(store, NAMES[1:], agreed)
    with pytest.raises(PadReleasedError):
        rounds.reserve(three)
    rounds.abandon(three)
    assert store.ledger("charlie").burnt == charlie.n_bits
    assert store.ledger("bob").burnt == 0
