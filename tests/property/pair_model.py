"""A small honest model of a key store, and a world of two of them with a hub between that does what it likes.

The world runs the production agreements (steps, edge, letters, tags); only the store is a model: positions instead
of bits, a durable part that crashes leave and old copies bring back, and everything else volatile.  Each effect is
one step, so a crash may come between any two.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.keystore import depositing, meeting, reserving
from orchestrator.keystore.core import LaneState
from orchestrator.keystore.deposits import ConfirmedDeposit, PendingDeposit
from orchestrator.keystore.edge import Edge
from orchestrator.keystore.errors import (
    AlreadyReleasedError,
    KeyStoreError,
    LaneShortError,
    RefusedError,
    ReplayError,
    ReservationError,
)
from orchestrator.keystore.lanes import Lane, PairEnd, Part, Range, incoming_auth, outgoing_auth
from orchestrator.keystore.letters import Letters
from orchestrator.keystore.pair_macs import PairMacs
from orchestrator.keystore.reconcile import standing
from orchestrator.keystore.steps import Begin, Broken, Effect, Event, Expect, Fail, Finish, Step
from orchestrator.keystore.tagged import Tagged
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import ChannelError, ChannelTimeoutError
from orchestrator.wire.codec import WireError, decode

NAMES = ("alice", "bob")
PAIR_ENDS: tuple[PairEnd, PairEnd] = ("first", "second")
LANES = (Lane.AUTH_AB, Lane.AUTH_BA, Lane.MASK)
MASK_BITS = 12
BLOCK, BLOCK_BITS = "block", 2
SPLIT = (0, 0, 0)


def bits_of(lane: str, offset: int, n_bits: int) -> SecretBits:
    """What lies in a lane: both ends have the same, and 32 bytes have one content wherever they are read."""
    first, last = offset // 256, -(-(offset + n_bits) // 256)
    whole = b"".join(hashlib.sha256(f"{lane}|{index}".encode()).digest() for index in range(first, last))
    return SecretBits.from_bytes(whole).take(offset - 256 * first, n_bits)


@dataclass
class Durable:
    """What a crash leaves and an old copy holds."""

    heads: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    tail: int = MASK_BITS
    free: frozenset[int] = frozenset(range(MASK_BITS))
    """Positions of the mask lane whose bits are stored here."""
    reservations: dict[bytes, tuple[Range, str]] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    block: str = ""
    block_start: int = -1
    macs: tuple[bytes, bytes] | None = (b"a" * 32, b"b" * 32)
    proved: bool = True

    def copy(self) -> Durable:
        return Durable(
            dict(self.heads),
            self.tail,
            self.free,
            dict(self.reservations),
            self.skipped,
            self.block,
            self.block_start,
            self.macs,
            self.proved,
        )


class ModelAuth:
    """The authentication lanes of one end."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def take_outgoing(self, n_bits: int) -> tuple[int, SecretBits]:
        store = self._store
        lane = outgoing_auth(store.own_end)
        offset = store.durable.heads[lane]
        store.durable.heads[lane] = offset + n_bits
        store.taken += n_bits
        return offset, self._masked(lane, offset, n_bits, outgoing=True)

    def peek_incoming(self, offset: int, n_bits: int) -> SecretBits:
        lane = incoming_auth(self._store.own_end)
        if offset < self._store.durable.heads[lane] and not self._overtaken(offset, n_bits):
            raise ReplayError("used before")
        return self._masked(lane, offset, n_bits, outgoing=False)

    def take_incoming(self, offset: int, n_bits: int, forgery: float = 0.0) -> SecretBits:
        store, lane = self._store, incoming_auth(self._store.own_end)
        key = self.peek_incoming(offset, n_bits)
        head = store.durable.heads[lane]
        if offset >= head:
            store.overtaken |= set(range(head, offset, 256))
            store.durable.heads[lane] = offset + n_bits
        store.overtaken -= set(range(offset, offset + n_bits, 256))
        return key

    def wrong_tag(self, forgery: float) -> None:
        """The model keeps no ledger of epsilons."""

    def _overtaken(self, offset: int, n_bits: int) -> bool:
        return set(range(offset, offset + n_bits, 256)) <= self._store.overtaken

    def _masked(self, lane: Lane, offset: int, n_bits: int, *, outgoing: bool) -> SecretBits:
        session = self._store.memory.session
        bits = bits_of(lane, offset, n_bits)
        return bits if session is None else session.mask(bits, offset, outgoing=outgoing)


class ModelStore:
    """One end's store: the part of KeyStore that agreements use."""

    def __init__(self, end: int, durable: Durable, memory: Letters) -> None:
        self.owner, self.own_end = NAMES[end], PAIR_ENDS[end]
        self.durable, self.memory = durable, memory
        self.overtaken: set[int] = set()
        self.taken = 0
        """Bits of the outgoing lane spent, over all crashes."""
        self.deposits = self
        self.mac_keys = self

    # what agreements ask of a store

    def letters(self, peer: str) -> Letters:
        return self.memory

    def auth(self, peer: str) -> ModelAuth:
        return ModelAuth(self)

    def pair_end(self, peer: str) -> PairEnd:
        return self.own_end

    def generation(self, peer: str) -> int:
        return 0

    def get(self, peer: str, generation: int) -> PairMacs | None:
        if self.durable.macs is None:
            return None
        ab, ba = map(SecretBits.from_bytes, self.durable.macs)
        return PairMacs(ab, ba) if self.own_end == "first" else PairMacs(ba, ab)

    def proved(self, peer: str, generation: int) -> bool:
        return self.durable.proved

    def install_mac_keys(self, peer: str, generation: int, ab: SecretBits, ba: SecretBits) -> None:
        if self.durable.proved:
            raise RefusedError("in use")
        self.durable.macs = ab.reveal_bytes(), ba.reveal_bytes()

    def note_proved(self, peer: str, generation: int) -> None:
        self.durable.proved = True

    def lane_states(self, peer: str) -> dict[Lane, LaneState]:
        heads = self.durable.heads
        return {
            lane: LaneState(heads[lane], self.durable.tail if lane is Lane.MASK else 1 << 20)
            for lane in LANES
        }

    def pending_deposits(self, peer: str) -> list[PendingDeposit]:
        waits = self.durable.block == "pending"
        return [PendingDeposit(peer, BLOCK, BLOCK_BITS, b"")] if waits else []

    def confirmed(self, peer: str) -> list[ConfirmedDeposit]:
        held = self.durable
        lies = held.block == "confirmed" and held.block_start + BLOCK_BITS > held.heads[Lane.MASK]
        return [ConfirmedDeposit(BLOCK, {Lane.MASK: held.block_start})] if lies else []

    def parts(self, peer: str, block_id: str) -> tuple[Part, ...]:
        return (Part(Lane.MASK, 0, 256),)

    def pending_key(self, peer: str, block_id: str) -> SecretBits:
        if self.durable.block != "pending":
            raise RefusedError("not pending")
        return bits_of("block", 0, 256)

    def confirm_deposit(self, peer: str, block_id: str, starts: dict[Lane, int]) -> None:
        held, start = self.durable, starts[Lane.MASK]
        if held.block == "confirmed" and held.block_start == start:
            return
        place = frozenset(range(start, start + BLOCK_BITS))
        if held.block != "pending" or place & held.free:
            raise RefusedError("no room")
        held.block, held.block_start = "confirmed", start
        held.free |= {position for position in place if position >= held.heads[Lane.MASK]}
        held.tail = max(held.tail, start + BLOCK_BITS)

    def burn_deposit(self, peer: str, block_id: str) -> None:
        held = self.durable
        if held.block == "confirmed":
            held.free -= frozenset(range(held.block_start, held.block_start + BLOCK_BITS))
        held.block = "burnt"

    def forget_skipped(self, peer: str) -> None:
        self.overtaken = set()

    def renew(self, peer: str, heads: dict[Lane, int], tails: dict[Lane, int]) -> int:
        self.burn_open()
        held = self.durable
        for lane, head in heads.items():
            held.heads[lane] = max(held.heads[lane], head)
        held.free = frozenset(position for position in held.free if position >= held.heads[Lane.MASK])
        held.tail = max(held.tail, tails.get(Lane.MASK, 0))
        return 0

    def burn_open(self) -> None:
        """What is reserved and not released is given up (I4)."""
        held = self.durable
        for context, (chosen, state) in held.reservations.items():
            if state != "released":
                held.reservations[context] = chosen, "burnt"
                held.free -= frozenset(range(chosen.start, chosen.end))
        held.free -= held.skipped
        held.skipped = frozenset()

    def held_reservation(self, peer: str, lane: str, n_bits: int, context: bytes) -> Range | None:
        chosen, state = self.durable.reservations.get(context, (None, "burnt"))
        return chosen if state != "burnt" else None

    def check_reservation(self, peer: str, lane: str, n_bits: int, context: bytes) -> Range | None:
        chosen, state = self.durable.reservations.get(context, (None, "burnt"))
        if state == "released":
            raise AlreadyReleasedError("released")
        return chosen if state != "burnt" else None

    def propose_reservation(self, peer: str, lane: str, n_bits: int, context: bytes) -> Range:
        chosen = self.check_reservation(peer, lane, n_bits, context)
        if chosen is not None:
            return chosen
        held = self.durable
        start = next((p for p in sorted(held.free) if p >= held.heads[Lane.MASK]), None)
        if start is None:
            raise LaneShortError(peer, lane, n_bits)
        held.heads[Lane.MASK] = start + n_bits
        held.reservations[context] = Range(start, n_bits), "proposed"
        return Range(start, n_bits)

    def commit_reservation(self, peer: str, lane: str, wanted: Range, context: bytes) -> None:
        held = self.durable
        before = self.check_reservation(peer, lane, wanted.n_bits, context)
        if self.own_end == "first":
            if before != wanted:
                raise ReservationError("nothing is proposed there")
        elif before != wanted:
            place = frozenset(range(wanted.start, wanted.end))
            if before is not None:
                held.free -= frozenset(range(before.start, before.end))
            if wanted.start < held.heads[Lane.MASK] and not place <= held.skipped:
                raise ReplayError("used before")
            if not place <= held.free:
                raise ReservationError("not stored")
            if wanted.start >= held.heads[Lane.MASK]:
                held.skipped |= {p for p in held.free if held.heads[Lane.MASK] <= p < wanted.start}
                held.heads[Lane.MASK] = wanted.end
            held.skipped -= place
        held.reservations[context] = wanted, "committed"

    def release(self, context: bytes) -> Range:
        """The bits leave this end."""
        chosen, state = self.durable.reservations[context]
        if state != "committed":
            raise ReservationError(state)
        self.durable.reservations[context] = chosen, "released"
        self.durable.free -= frozenset(range(chosen.start, chosen.end))
        return chosen

    def copy(self, end: int) -> ModelStore:
        memory = Letters(self.memory.nonce)
        memory.session, memory.peer_nonce = self.memory.session, self.memory.peer_nonce
        memory.settled_with, memory.restored = self.memory.settled_with, self.memory.restored
        memory._sent, memory._seen = OrderedDict(self.memory._sent), OrderedDict(self.memory._seen)
        twin = ModelStore(end, self.durable.copy(), memory)
        twin.overtaken, twin.taken = set(self.overtaken), self.taken
        return twin


class NothingYet(Exception):
    """Who listens has to go on waiting."""


class Violation(AssertionError):
    """The world reached a state that breaks a promise."""


@dataclass(frozen=True)
class Job:
    """What the two ends do after a meeting: reserve for a context, or deposit the block."""

    context: bytes = b""

    @property
    def deposits(self) -> bool:
        return not self.context


@dataclass
class Talk:
    """A conversation in progress: the state of its steps, and the effects still to be carried out."""

    step: Step[Any]
    state: Any
    effects: tuple[Effect, ...]
    job: Job | None
    last_words: list[Effect] = field(default_factory=list)
    listened: bool = True
    brought: set[bytes] = field(default_factory=set)


@dataclass
class Node:
    """One end: its store, what it is about, and how often it began."""

    store: ModelStore
    copies: tuple[Durable, ...]
    """Old copies of its store: from before the first meeting, and from just before bits left it."""
    lives: int = 1
    lines: int = 0
    jobs_done: int = 0
    talk: Talk | None = None
    done: frozenset[bytes] = frozenset()

    def copy(self, end: int) -> Node:
        talk = self.talk
        if talk is not None:
            talk = Talk(
                talk.step,
                talk.state,
                talk.effects,
                talk.job,
                list(talk.last_words),
                talk.listened,
                set(talk.brought),
            )
        return Node(
            self.store.copy(end), self.copies, self.lives, self.lines, self.jobs_done, talk, self.done
        )


@dataclass
class World:
    """Two ends, what is on its way between them, and what has left them for good."""

    nodes: list[Node]
    jobs: tuple[Job, ...]
    queues: list[list[bytes]] = field(default_factory=lambda: [[], []])
    """Messages on their way to each end."""
    recorded: list[list[bytes]] = field(default_factory=lambda: [[], []])
    released: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """(end, position) -> the context for which its bit left; never forgotten."""
    tags: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    """(end, key) -> what was tagged with that one-time key."""
    forgotten: frozenset[int] = frozenset()
    """Positions whose release an old copy made an end forget: they are gone, and their context is agreed on anew."""
    restored: int | None = None
    """The end that was ever restored: where both were, nobody can tell what was used."""
    faults: int = 0
    restarts: int = 0

    @classmethod
    def begin(cls, jobs: tuple[Job, ...], *, keyed: bool = True) -> World:
        """Two ends that never met; not ``keyed``: their stores are from before there were reusable keys."""
        nodes = []
        for end in (0, 1):
            durable = Durable() if keyed else Durable(macs=None, proved=False)
            nodes.append(Node(ModelStore(end, durable, Letters(nonce(end, 1))), (durable.copy(),)))
        return cls(nodes, jobs)

    def copy(self) -> World:
        return World(
            [node.copy(end) for end, node in enumerate(self.nodes)],
            self.jobs,
            [list(queue) for queue in self.queues],
            [list(record) for record in self.recorded],
            dict(self.released),
            dict(self.tags),
            self.forgotten,
            self.restored,
            self.faults,
            self.restarts,
        )

    def key(self) -> bytes:
        """Equal for worlds that behave alike from here on."""
        parts: list[object] = [
            self.queues,
            sorted(self.released.items()),
            self.faults,
            self.restarts,
            self.restored,
        ]
        for node in self.nodes:
            held, memory, talk = node.store.durable, node.store.memory, node.talk
            parts += [sorted(held.heads.items()), held.tail, sorted(held.free), sorted(held.skipped)]
            parts += [sorted(held.reservations.items()), held.block, held.block_start, held.macs]
            parts += [held.proved]
            parts += [
                memory.nonce,
                memory.peer_nonce,
                memory.settled_with,
                memory.restored,
                sorted(node.store.overtaken),
            ]
            parts += [list(memory._sent.items()), sorted(memory._seen), memory.session is None]
            parts += [node.lives, node.lines, node.jobs_done, sorted(node.done), len(node.copies)]
            parts.append(None if talk is None else (talk.state, talk.effects, sorted(talk.brought)))
        return hashlib.sha256(repr(parts).encode()).digest()

    # one end

    def start_line(self, end: int) -> None:
        """A fresh line: whatever was going on here is over, and the two meet again."""
        node = self.nodes[end]
        node.lines += 1
        node.jobs_done = 0
        self.queues[end].clear()
        fresh = hashlib.sha256(f"fresh|{end}|{node.lives}|{node.lines}".encode()).digest()[:16]
        own = standing(node.store, PAIR_ENDS[end], NAMES[1 - end], fresh)  # type: ignore[arg-type]
        self._begin(end, meeting.step, meeting.Meeting(own), None)

    def start_job(self, end: int) -> None:
        node, peer = self.nodes[end], NAMES[1 - end]
        job = self.jobs[node.jobs_done]
        if job.deposits:
            if node.store.durable.block == "":
                node.store.durable.block = "pending"
            held = node.store.durable
            placed = {Lane.MASK: held.block_start} if held.block == "confirmed" else None
            tails = {Lane.MASK: held.tail}
            block = depositing.Block(BLOCK, BLOCK_BITS, b"", SPLIT, tails, placed)
            step = depositing.first_step if end == 0 else depositing.second_step
            self._begin(end, step, depositing.Depositing(peer, block), job)
            return
        wish = reserving.Wish("mask", 1, job.context, 1 << 20, again=job.context in node.done)
        turn = reserving.owner_step if end == 0 else reserving.other_step
        self._begin(end, turn, reserving.Reserving(peer, wish), job)

    def _begin(self, end: int, step: Step[Any], state: Any, job: Job | None) -> None:
        state, effects = step(state, Begin())
        self.nodes[end].talk = Talk(step, state, effects, job)

    def waits(self, end: int) -> bool:
        """Whether this end can only go on when it hears something."""
        talk = self.nodes[end].talk
        return talk is None or isinstance(talk.effects[0], Expect)

    def perform(self, end: int) -> None:
        """Carry out the next effect of one end."""
        talk = self.nodes[end].talk
        assert talk is not None
        effect = talk.effects[0]
        if isinstance(effect, Finish):
            self._finished(end, talk, effect)
        elif isinstance(effect, Fail):
            self._failed(end, talk, effect.error)
        else:
            self._react(end, talk, effect)

    def hang_up(self, end: int) -> None:
        """Nothing came in time."""
        talk = self.nodes[end].talk
        assert talk is not None
        talk.state, talk.effects = talk.step(talk.state, Broken(ChannelTimeoutError("nothing came")))

    def _react(self, end: int, talk: Talk, effect: Effect) -> None:
        outcome: Event
        try:
            outcome = self._carry_out(end, talk, effect)
        except NothingYet:
            return
        except (KeyStoreError, ChannelError) as error:
            outcome = Broken(error)
        if not isinstance(outcome, Broken) and len(talk.effects) > 1:
            talk.effects = talk.effects[1:]
            return
        talk.state, talk.effects = talk.step(talk.state, outcome)

    def _carry_out(self, end: int, talk: Talk, effect: Effect) -> Event:
        """The production edge carries it out, over this world's channel."""
        edge = Edge(self.nodes[end].store, _Wire(self, end), NAMES[1 - end], 0.5)  # type: ignore[arg-type]
        edge._tagged._channel._brought = talk.brought  # type: ignore[attr-defined]
        return edge.perform(effect)

    def _finished(self, end: int, talk: Talk, effect: Finish) -> None:
        node = self.nodes[end]
        node.talk = None
        if talk.job is not None and talk.job.context and talk.job.context not in node.done:
            self._release(end, talk.job.context, effect.result)
        if talk.job is not None:
            node.jobs_done += 1
        if node.jobs_done < len(self.jobs):
            self.start_job(end)

    def _release(self, end: int, context: bytes, agreed: Range) -> None:
        node = self.nodes[end]
        node.done |= {context}
        node.copies = (node.copies[0], node.store.durable.copy())
        taken = node.store.release(context)
        if taken != agreed:
            raise Violation(f"{NAMES[end]} agreed on {agreed} and released {taken}")
        for position in range(taken.start, taken.end):
            if (end, position) in self.released:
                raise Violation(f"{NAMES[end]} released {position} twice")
            self.released[end, position] = context
            if self.released.get((1 - end, position), context) != context:
                raise Violation(f"{position} served two purposes")
        for (other, position), purpose in self.released.items():
            known = position not in self.forgotten and position not in range(taken.start, taken.end)
            if other != end and purpose == context and known:
                raise Violation(f"the two ends released different bits for {context!r}")

    def _failed(self, end: int, talk: Talk, error: Exception) -> None:
        node = self.nodes[end]
        node.talk = None
        if isinstance(error, RefusedError) and talk.job is not None:  # which the peer was told
            node.jobs_done += 1
            if node.jobs_done < len(self.jobs):
                self.start_job(end)

    def crash(self, end: int, *, old_copy: int | None = None) -> None:
        """The process ends and starts again, perhaps on an old copy of its store."""
        node = self.nodes[end]
        self.restarts += 1
        durable = (node.store.durable if old_copy is None else node.copies[old_copy]).copy()
        if old_copy is not None:
            self.restored = end
            self.forgotten |= {position for (owner, position) in self.released if owner == end}
        taken = node.store.taken
        node.lives += 1
        node.store = ModelStore(end, durable, Letters(nonce(end, node.lives)))
        node.store.taken = taken
        node.store.burn_open()
        node.talk, node.done = None, frozenset()


class _Wire:
    """One end of the world's channel."""

    def __init__(self, world: World, end: int) -> None:
        self._world, self._end = world, end

    def send(self, payload: bytes) -> None:
        world, end = self._world, self._end
        try:
            outer = decode(payload, Tagged)
        except WireError:
            outer = None
        if outer is not None:
            store = world.nodes[end].store
            lane = outgoing_auth(store.own_end)
            key = ModelAuth(store)._masked(lane, outer.offset, 256, outgoing=True).reveal_bytes()
            if world.tags.setdefault((end, key), outer.body) != outer.body:
                raise Violation(f"{NAMES[end]} tagged two messages with the key at {outer.offset}")
        world.queues[1 - end].append(payload)
        if payload not in world.recorded[1 - end]:
            world.recorded[1 - end].append(payload)

    def recv(self, timeout_s: float) -> bytes:
        queue = self._world.queues[self._end]
        if not queue:
            raise NothingYet
        return queue.pop(0)


def nonce(end: int, life: int) -> bytes:
    return hashlib.sha256(f"nonce|{end}|{life}".encode()).digest()[:16]


def honest(world: World, limit: int = 400) -> None:
    """The hub is good from here on: a fresh line, and everything arrives."""
    for end in (0, 1):
        world.start_line(end)
    for _ in range(limit):
        for end in (0, 1):
            if not world.waits(end):
                world.perform(end)
                break
            if world.nodes[end].talk is not None and world.queues[end]:
                world.perform(end)
                break
        else:
            return
    raise Violation("the two go on for ever")


Choice = tuple[str, Callable[[World], None]]


def choices(world: World, most_faults: int, most_lines: int) -> Iterator[Choice]:
    """What may happen next; effects of the two ends commute, so one end is run until it has to hear something."""
    busy = next((end for end in (0, 1) if not world.waits(end)), None)
    ends = (0, 1) if busy is None else (busy,)
    if busy is not None:
        yield f"{NAMES[busy]} goes on", lambda w: w.perform(busy)
    for end in ends if busy is None else ():
        node = world.nodes[end]
        if node.talk is not None and world.queues[end]:
            yield f"{NAMES[end]} hears", lambda w, end=end: w.perform(end)
        idle = node.talk is None and (
            node.jobs_done < len(world.jobs) or world.nodes[1 - end].talk is not None
        )
        if idle and node.lines < most_lines:
            yield f"{NAMES[end]} begins a line", lambda w, end=end: w.start_line(end)
    if world.faults < most_faults:
        for end in ends:
            yield from _faults(world, end, busy is None)


def _faults(world: World, end: int, waiting: bool) -> Iterator[Choice]:
    def costing(act: Callable[[World], object]) -> Callable[[World], None]:
        def acted(changed: World) -> None:
            changed.faults += 1
            act(changed)

        return acted

    name = NAMES[end]
    yield f"{name} crashes", costing(lambda w: w.crash(end))
    for old in range(len(world.nodes[end].copies)) if world.restored in (None, end) else ():
        yield f"{name} is restored from copy {old}", costing(lambda w, old=old: w.crash(end, old_copy=old))
    if not waiting or world.nodes[end].talk is None:
        return
    queue = world.queues[end]
    if not queue:
        yield f"{name} hangs up", costing(lambda w: w.hang_up(end))
    else:
        yield f"lost to {name}", costing(lambda w: w.queues[end].pop(0))
        yield f"garbled to {name}", costing(lambda w: w.queues[end].__setitem__(0, garbled(queue[0])))
        yield f"twice to {name}", costing(lambda w: w.queues[end].insert(0, queue[0]))
    if len(queue) > 1:
        yield f"swapped to {name}", costing(lambda w: w.queues[end].insert(0, w.queues[end].pop(1)))
    for old in world.recorded[end]:
        yield f"again to {name}", costing(lambda w, old=old: w.queues[end].insert(0, old))


def garbled(payload: bytes) -> bytes:
    """One bit of its last byte (a tag, a MAC or a context) flipped."""
    return payload[:-1] + bytes([payload[-1] ^ 1])
