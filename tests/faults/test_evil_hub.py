"""A hub that does what it likes with what two real stores say to each other.

Both ends run in one thread over queues that the hub owns, message by message, and no time passes: ten minutes of
meetings at the longest interval are some hundred conversations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.keystore import meeting, reserving
from orchestrator.keystore.edge import Edge
from orchestrator.keystore.errors import AgreementError, KeyStoreError, TamperedError
from orchestrator.keystore.greeting import Answer, Proof, Stand
from orchestrator.keystore.lanes import AUTH_LANES, Lane, PairEnd, Range, incoming_auth, outgoing_auth
from orchestrator.keystore.letters import Letters
from orchestrator.keystore.meeting import Reconciled
from orchestrator.keystore.reconcile import standing
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.steps import Begin, Broken, Expect, Fail, Finish
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import Signed, Tagged
from orchestrator.processes.pair_worker import LONGEST_WAIT_S
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import ChannelError, ChannelTimeoutError
from orchestrator.wire.codec import WireError, decode, encode

KEK = Kek(b"k" * 32)
NAMES = ("alice", "bob")
PAIR_ENDS: tuple[PairEnd, PairEnd] = ("first", "second")
KEY = np.random.default_rng(3).bytes(20_000)
MEETINGS = int(600 / LONGEST_WAIT_S)
"""How often two ends meet in ten minutes of failures."""

Meddle = Callable[[int, int, bytes], list[bytes]]
"""(receiving end, number of the message to it, payload) -> what arrives in its place."""


class NothingYet(Exception):
    """Who listens goes on waiting."""


def honest(end: int, number: int, payload: bytes) -> list[bytes]:
    return [payload]


@dataclass
class Wire:
    """One end's side of the queues."""

    ends: tuple[list[bytes], list[bytes]]
    end: int
    meddle: Meddle
    sent: int = 0

    def send(self, payload: bytes) -> None:
        self.ends[1 - self.end].extend(self.meddle(1 - self.end, self.sent, payload))
        self.sent += 1

    def recv(self, timeout_s: float) -> bytes:
        if not self.ends[self.end]:
            raise NothingYet
        return self.ends[self.end].pop(0)


def duel(stores: list[KeyStore], begin: Callable[[int], tuple[Any, Any]], meddle: Meddle) -> list[Any]:
    """Run one conversation at both ends to its end; what each returned or raised."""
    queues: tuple[list[bytes], list[bytes]] = ([], [])
    edges = [Edge(stores[end], Wire(queues, end, meddle), NAMES[1 - end], 0.5) for end in (0, 1)]
    steps, states, effects = [], [], []
    for end in (0, 1):
        step, state = begin(end)
        state, first = step(state, Begin())
        steps.append(step)
        states.append(state)
        effects.append(first)
    outcomes: list[Any] = [None, None]
    while None in outcomes:
        moved = False
        for end in (0, 1):
            while outcomes[end] is None:
                effect = effects[end][0]
                if isinstance(effect, Finish | Fail):
                    outcomes[end] = effect.result if isinstance(effect, Finish) else effect.error
                    break
                try:
                    event: Any = edges[end].perform(effect)
                except NothingYet:
                    break
                except (KeyStoreError, ChannelError) as error:
                    event = Broken(error)
                moved = True
                if len(effects[end]) > 1 and not isinstance(event, Broken):
                    effects[end] = effects[end][1:]
                else:
                    states[end], effects[end] = steps[end](states[end], event)
        if not moved:  # both wait for what will not come
            for end in (0, 1):
                if outcomes[end] is None:
                    assert isinstance(effects[end][0], Expect)
                    broken = Broken(ChannelTimeoutError("nothing came"))
                    states[end], effects[end] = steps[end](states[end], broken)
    return outcomes


@dataclass
class Pair:
    """Alice and bob, who met and put one block into their lanes."""

    folder: Path
    stores: list[KeyStore] = field(default_factory=list)
    serial: int = 0

    @classmethod
    def make(cls, folder: Path, seed: int = 1, blocks: int = 1) -> Pair:
        pair, rng = cls(folder), np.random.default_rng(seed)
        halves = [rng.bytes(8192) for _ in range(2)]
        for own, peer, pair_end in zip(NAMES, NAMES[::-1], PAIR_ENDS, strict=True):
            store = KeyStore.create(folder / own, own, KEK)
            store.install_initial_secret(peer, *map(SecretBits.from_bytes, halves), pair_end=pair_end)
            for n in range(blocks):
                store.deposit_pending(peer, f"b{n}", SecretBits.from_bytes(KEY), b"")
                store.confirm_deposit(peer, f"b{n}")
            pair.stores.append(store)
        return pair

    def meet(self, meddle: Meddle = honest) -> list[Any]:
        def begin(end: int) -> tuple[Any, Any]:
            self.serial += 1
            fresh = self.serial.to_bytes(16, "big")
            own = standing(self.stores[end], PAIR_ENDS[end], NAMES[1 - end], fresh)
            return meeting.step, meeting.Meeting(own)

        return duel(self.stores, begin, meddle)

    def reserve(
        self,
        context: bytes,
        n_bits: int = 1000,
        meddle: Meddle = honest,
        again: tuple[bool, bool] = (False, False),
    ) -> list[Any]:
        def begin(end: int) -> tuple[Any, Any]:
            store, peer = self.stores[end], NAMES[1 - end]
            stock = store.stock(peer)[Lane.MASK]
            if store.held_reservation(peer, Lane.MASK, n_bits, context) is not None:
                stock += n_bits
            wish = reserving.Wish("mask", n_bits, context, stock, again[end])
            step = reserving.owner_step if end == 0 else reserving.other_step
            return step, reserving.Reserving(peer, wish)

        return duel(self.stores, begin, meddle)

    def spent(self) -> int:
        """Lane bits spent or burnt at both ends of both authentication lanes' owners."""
        heads = [store.lane_states(NAMES[1 - end]) for end, store in enumerate(self.stores)]
        return sum(heads[end][outgoing_auth(PAIR_ENDS[end])].head for end in (0, 1))

    def burnt(self) -> list[int]:
        return [store.ledger(NAMES[1 - end]).burnt for end, store in enumerate(self.stores)]

    def equal(self) -> None:
        """The books of both ends agree, to the bit."""
        assert self.stores[0].ledger("bob") == self.stores[1].ledger("alice")
        assert self.stores[0].lane_states("bob") == self.stores[1].lane_states("alice")

    def copy(self, end: int) -> Path:
        copy = self.folder / f"{NAMES[end]}-copy"
        for suffix in ("", "-wal"):
            source = Path(f"{self.folder / NAMES[end]}{suffix}")
            Path(f"{copy}{suffix}").write_bytes(source.read_bytes() if source.exists() else b"")
        return copy

    def restore(self, end: int, copy: Path) -> None:
        """The process of one end is killed and starts on an old copy."""
        self.stores[end]._core.db.close()
        own = self.folder / NAMES[end]
        for suffix in ("", "-wal"):
            Path(f"{own}{suffix}").write_bytes(Path(f"{copy}{suffix}").read_bytes())
        self.stores[end] = KeyStore.open(own, NAMES[end], KEK)

    def close(self) -> None:
        for store in self.stores:
            store.close()


def flip(payload: bytes, at: int) -> bytes:
    place = at % len(payload)
    return payload[:place] + bytes([payload[place] ^ (1 << at % 8)]) + payload[place + 1 :]


# -- ten minutes ---------------------------------------------------------------------------------------


class Hub:
    """Kinds of wickedness, with a memory and a die."""

    def __init__(self, kind: str, seed: int) -> None:
        self._kind, self._rng = kind, np.random.default_rng(seed)
        self._recorded: list[bytes] = []
        self._count = 0

    def __call__(self, end: int, number: int, payload: bytes) -> list[bytes]:
        self._count += 1
        if len(self._recorded) < 500:
            self._recorded.append(payload)
        kind = self._kind
        if kind == "anything":
            kind = str(self._rng.choice(["flips all", "loses some", "doubles", "cuts", "replays", "good"]))
        bad = flip(payload, int(self._rng.integers(1 << 30)))
        match kind:
            case "flips tagged":
                return [bad if _is(payload, Tagged) else payload]
            case "flips signed":
                return [bad if _is(payload, Signed) else payload]
            case "flips all":
                return [bad]
            case "flips to one end":
                return [bad if end == 1 else payload]
            case "loses tagged":
                return [] if _is(payload, Tagged) else [payload]
            case "loses some":
                return [] if self._count % 3 == 0 else [payload]
            case "loses acceptances":
                return [] if end == 0 and b"Accept" in payload else [payload]
            case "flips acceptances":
                return [bad if b"Accept" in payload else payload]
            case "flips offers":
                return [bad if b"Offer" in payload else payload]
            case "doubles":
                return [payload, payload]
            case "cuts":
                return [payload[: int(self._rng.integers(len(payload)))]]
            case "replays":
                return [self._recorded[int(self._rng.integers(len(self._recorded)))]]
        return [payload]


def _is(payload: bytes, type_: type[Any]) -> bool:
    try:
        decode(payload, type_)
    except WireError:
        return False
    return True


KINDS = (
    "flips tagged",
    "flips signed",
    "flips all",
    "flips to one end",
    "loses tagged",
    "loses some",
    "loses acceptances",
    "flips acceptances",
    "flips offers",
    "doubles",
    "cuts",
    "replays",
    "anything",
)
CONTEXT, LATER = b"c" * 32, b"l" * 32


def ten_minutes(pair: Pair, kind: str, seed: int, meetings: int) -> None:
    """The two meet again and again and try to agree on bits for one context, as their workers would."""
    hub, done = Hub(kind, seed), [False, False]
    for _ in range(meetings):
        if all(isinstance(outcome, Reconciled) for outcome in pair.meet(hub)):
            outcomes = pair.reserve(CONTEXT, meddle=hub, again=(done[0], done[1]))
            done = [was or isinstance(outcome, Range) for was, outcome in zip(done, outcomes, strict=True)]
    assert all(isinstance(outcome, Reconciled) for outcome in pair.meet())
    agreed = pair.reserve(CONTEXT, again=(done[0], done[1]))
    assert agreed == [Range(0, 1000), Range(0, 1000)], "the first range, whatever happened to the messages"
    assert pair.spent() <= 1024
    assert pair.burnt() == [0, 0]
    pair.equal()
    assert pair.reserve(LATER) == [Range(1000, 1000)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_ten_minutes_of_an_evil_hub_cost_a_kilobit_and_the_first_honest_line_works(
    tmp_path: Path, kind: str
) -> None:
    pair = Pair.make(tmp_path)
    ten_minutes(pair, kind, 1, MEETINGS if kind in ("flips tagged", "anything") else 20)
    pair.close()


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_an_hour_of_an_evil_hub_of_every_kind(tmp_path: Path, kind: str, seed: int) -> None:
    pair = Pair.make(tmp_path)
    ten_minutes(pair, kind, seed, 6 * MEETINGS)
    pair.close()


def test_without_letters_the_hub_would_drain_the_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault, planted: every retry is tagged afresh."""
    monkeypatch.setattr(Letters, "sent", lambda *_: None)
    pair = Pair.make(tmp_path)
    with pytest.raises(AssertionError):
        ten_minutes(pair, "flips tagged", 1, 20)
    pair.close()


# -- R6: every field of every message of a reservation -------------------------------------------------


def tampered_reservations(folder: Path, cases: int, seed: int) -> Counter[str]:
    """Each case changes one message of one reservation; then the hub is honest and the context asked for again."""
    pair, rng = Pair.make(folder, blocks=8), np.random.default_rng(seed)
    assert all(isinstance(outcome, Reconciled) for outcome in pair.meet())
    seen: Counter[str] = Counter()
    said: list[bytes] = []

    def change(payload: bytes) -> bytes:
        kind = rng.integers(4)
        if kind == 0:
            return flip(payload, int(rng.integers(1 << 30)))
        if kind == 1:
            return payload[: int(rng.integers(len(payload)))]
        if kind == 2 and said:
            return said[int(rng.integers(len(said)))]
        return _other_field(payload, rng)

    for case in range(cases):
        context = case.to_bytes(32, "big")
        victim, number = int(rng.integers(2)), int(rng.integers(2))
        head = pair.stores[0].lane_states("bob")[Lane.MASK].head

        def meddle(
            end: int, sent: int, payload: bytes, victim: int = victim, number: int = number
        ) -> list[bytes]:
            said.append(payload)
            del said[:-50]
            return [change(payload)] if (end, sent) == (victim, number) else [payload]

        outcomes = pair.reserve(context, 8, meddle)
        for outcome in outcomes:
            assert outcome == Range(head, 8) or isinstance(outcome, KeyStoreError | ChannelError), outcome
            seen["agreed" if isinstance(outcome, Range) else type(outcome).__name__] += 1
        assert pair.burnt() == [0, 0]
        done = [isinstance(outcome, Range) for outcome in outcomes]
        assert pair.reserve(context, 8, again=(done[0], done[1])) == [Range(head, 8)] * 2
        one = pair.stores[0].release("bob", "mask", Range(head, 8), context)
        assert one.same_as(pair.stores[1].release("alice", "mask", Range(head, 8), context))
        if case % 50 == 0 or case == cases - 1:
            pair.equal()
    assert pair.burnt() == [0, 0]
    pair.close()
    return seen


def _other_field(payload: bytes, rng: np.random.Generator) -> bytes:
    """One field of the message, or of the message inside a tagged one, is another."""
    types = (reserving.Ask, reserving.Offer, reserving.Accept, reserving.Refuse)
    inner = next((decode(payload, type_) for type_ in types if _is(payload, type_)), None)
    if inner is not None:
        return encode(_changed(inner, rng))
    outer = decode(payload, Tagged)
    if rng.random() < 0.5:
        return encode(_changed(outer, rng))
    body = next(decode(outer.body, type_) for type_ in types if _is(outer.body, type_))
    return encode(Tagged(encode(_changed(body, rng)), outer.offset, outer.n_keys, outer.tag))


def _changed(message: Any, rng: np.random.Generator) -> Any:
    names = list(message.__struct_fields__)
    name = names[int(rng.integers(len(names)))]
    value = getattr(message, name)
    if isinstance(value, int):
        value = (
            int(rng.choice([value + 1, max(value - 1, 0), 0, (1 << 62) - 1]))
            if name != "n_keys"
            else value + 1
        )
    elif isinstance(value, bytes):
        value = flip(value, int(rng.integers(1 << 30)))
    else:
        value = "otp_ab" if name == "lane" else "context"
    return type(message)(**{field: getattr(message, field) for field in names} | {name: value})


def test_r6_a_reservation_survives_the_change_of_any_field(tmp_path: Path) -> None:
    seen = tampered_reservations(tmp_path, 80, 1)
    assert seen["TamperedError"] > 15
    assert seen["agreed"] > 15


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(10, 20))
def test_r6_ten_thousand_changes(tmp_path: Path, seed: int) -> None:
    for part in range(10):  # a pair's lanes last for some two hundred reservations
        folder = tmp_path / str(part)
        folder.mkdir()
        assert sum(tampered_reservations(folder, 100, 100 * seed + part).values()) == 200


# -- R3: greetings that lie to a restored node ---------------------------------------------------------


def dishonest_greetings(folder: Path, end: int, cases: int, seed: int) -> Counter[str]:
    """An end is restored from an old copy; the hub replays, changes, reflects and forges greetings to hide it."""
    pair, rng = Pair.make(folder), np.random.default_rng(seed)
    stranger_folder = folder / "strangers"
    stranger_folder.mkdir()
    strangers = Pair.make(stranger_folder, seed=99)
    recorded: list[bytes] = []

    def record(_: int, __: int, payload: bytes) -> list[bytes]:
        recorded.append(payload)
        return [payload]

    pair.meet(record)
    strangers.meet(record)
    copy = pair.copy(end)
    for n in range(3):
        context = bytes([n]) * 32
        assert pair.reserve(context) == [Range(1000 * n, 1000)] * 2
        for side, store in enumerate(pair.stores):
            store.release(NAMES[1 - side], "mask", Range(1000 * n, 1000), context)
        pair.meet(record)
    used = [store.lane_states(NAMES[1 - side]) for side, store in enumerate(pair.stores)][1 - end]
    pair.restore(end, copy)
    seen: Counter[str] = Counter()
    for _ in range(cases):
        victim, number, kind = int(rng.integers(2)), int(rng.integers(3)), int(rng.integers(5))
        echo: list[bytes] = []

        def meddle(
            to: int,
            sent: int,
            payload: bytes,
            victim: int = victim,
            number: int = number,
            kind: int = kind,
            echo: list[bytes] = echo,
        ) -> list[bytes]:
            echo.append(payload)
            if (to, sent) != (victim, number):
                return [payload]
            other = recorded[int(rng.integers(len(recorded)))]
            return [
                [other],
                [flip(payload, int(rng.integers(1 << 30)))],
                [payload[: int(rng.integers(len(payload)))]],
                [echo[int(rng.integers(len(echo)))]],
                [_other_heads(payload)],
            ][kind]

        outcomes = pair.meet(meddle)
        own = outcomes[end]
        seen[type(own).__name__] += 1
        states = pair.stores[end].lane_states(NAMES[1 - end])
        if isinstance(own, Reconciled):
            assert all(states[lane].head >= used[lane].head for lane in (Lane.MASK, *AUTH_LANES))
            assert own.rolled_back == "self", (
                "found out in an earlier meeting that broke off, and said in this one"
            )
            seen["found out"] += 1
            pair.restore(end, copy)
        elif states[incoming_auth(PAIR_ENDS[1 - end])].head < used[outgoing_auth(PAIR_ENDS[end])].head:
            assert not pair.stores[end].letters(NAMES[1 - end])._sent, "it tagged with bits used before"
    final = pair.meet()
    assert isinstance(final[end], Reconciled), final
    assert final[end].rolled_back == "self"
    assert pair.reserve(LATER) == [Range(3000, 1000)] * 2
    pair.close()
    strangers.close()
    return seen


def _other_heads(payload: bytes) -> bytes:
    """A greeting that claims other heads, under the MAC of the true one; any other message with a bit flipped."""
    if not _is(payload, Signed):
        return flip(payload, 3)
    outer = decode(payload, Signed)
    for type_ in (Answer, Proof):
        if _is(outer.body, type_):
            said = decode(outer.body, type_)
            stand = said.stand
            lower = Stand(dict.fromkeys(stand.heads, 0), stand.settled_with, stand.n_pending, stand.digest)
            fields = {name: getattr(said, name) for name in said.__struct_fields__} | {"stand": lower}
            return encode(Signed(encode(type_(**fields)), outer.mac))
    return flip(payload, 3)


@pytest.mark.parametrize("end", [0, 1])
def test_r3_a_restored_node_is_found_out_whatever_the_greetings_say(tmp_path: Path, end: int) -> None:
    seen = dishonest_greetings(tmp_path, end, 40, 1)
    assert seen["TamperedError"] > 5
    assert seen["found out"] > 0


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(10, 15))
@pytest.mark.parametrize("end", [0, 1])
def test_r3_ten_thousand_dishonest_greetings(tmp_path: Path, end: int, seed: int) -> None:
    seen: Counter[str] = Counter()
    for part in range(10):  # every restored life spends a state of its peer's lane
        folder = tmp_path / str(part)
        folder.mkdir()
        seen += dishonest_greetings(folder, end, 100, 100 * seed + part)
    assert seen["found out"] > 100


def test_a_greeting_of_an_older_meeting_pair_or_direction_is_counted_and_refused(tmp_path: Path) -> None:
    pair = Pair.make(tmp_path)
    answers: list[bytes] = []

    def record(end: int, _: int, payload: bytes) -> list[bytes]:
        if end == 0:
            answers.append(payload)
        return [payload]

    pair.meet(record)
    refused = pair.meet(lambda end, n, payload: [answers[0]] if (end, n) == (0, 0) else [payload])
    assert isinstance(refused[0], TamperedError)
    assert pair.stores[0].letters("bob").rejected == {"wrong MAC": 1}
    assert pair.spent() == 512
    reflected = pair.meet(lambda end, n, payload: [payload] if end == 1 or n else [answers[0]])
    assert isinstance(reflected[0], AgreementError)
    assert all(isinstance(outcome, Reconciled) for outcome in pair.meet())
    assert pair.spent() == 512, "meeting again within a session spends nothing"
    pair.close()


def test_an_older_state_of_the_same_session_is_not_taken_for_the_one_announced(tmp_path: Path) -> None:
    """It carries a right tag; believing it, bob would keep a block that alice burns."""
    pair = Pair.make(tmp_path)
    states: list[bytes] = []

    def record(end: int, _: int, payload: bytes) -> list[bytes]:
        if end == 0 and _is(payload, Tagged):
            states.append(payload)
        return [payload]

    pair.meet(record)
    for store, peer in zip(pair.stores, NAMES[::-1], strict=True):
        store.deposit_pending(peer, "late", SecretBits.from_bytes(KEY), b"")
    outcomes = pair.meet(
        lambda end, _, payload: [states[0]] if end == 0 and _is(payload, Tagged) else [payload]
    )
    assert "not the one its greeting announced" in str(outcomes[0])
    assert all(isinstance(outcome, Reconciled) for outcome in pair.meet())
    for store, peer in zip(pair.stores, NAMES[::-1], strict=True):
        assert store.deposits.state(peer, "late") == "confirmed"
    assert pair.burnt() == [0, 0]
    pair.equal()
    pair.close()


def test_i4_an_end_that_starts_again_burns_what_is_reserved_at_the_other_too(tmp_path: Path) -> None:
    """The ranges of both ends stay equal, and the context may be agreed on anew."""
    pair = Pair.make(tmp_path)
    pair.meet()
    assert pair.reserve(CONTEXT) == [Range(0, 1000)] * 2
    pair.stores[1].close()
    pair.stores[1] = KeyStore.open(tmp_path / "bob", "bob", KEK)
    assert pair.burnt() == [0, 1000]
    assert all(isinstance(outcome, Reconciled) for outcome in pair.meet())
    assert pair.burnt() == [1000, 1000]
    assert pair.reserve(CONTEXT) == [Range(1000, 1000)] * 2
    assert all(isinstance(outcome, Reconciled) for outcome in pair.meet())
    assert pair.burnt() == [1000, 1000], "meeting again within a session burns nothing"
    pair.equal()
    pair.close()
