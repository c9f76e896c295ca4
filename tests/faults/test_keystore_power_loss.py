"""R1: no bit leaves twice, whatever a power cut leaves on the disk.

A shim under SQLite records every write, truncation and sync of the real store while it works.  From that
record, *crash images* are made: at a random moment every file keeps what was synced, and of what was written
later an arbitrary part arrives, cut at sector borders (512 bytes).  Each image is opened like a store after
an outage and must show that whatever had been released before is never released again.

The same test must catch stores with a fault planted: SQLite told not to sync at commit, bits handed out before
the commit, reservations that survive a start.
"""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from orchestrator.keystore.database import SETTINGS, Database
from orchestrator.keystore.errors import AlreadyReleasedError, KeyStoreError, LaneShortError, RefusedError
from orchestrator.keystore.lanes import (
    AUTH_STOP_BITS,
    Lane,
    Range,
    SplitRule,
    incoming_auth,
    lane_owner,
    outgoing_auth,
)
from orchestrator.keystore.pair_macs import split_secret
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.windows import LeasedKey, Use
from orchestrator.secret import SecretBits

SECTOR = 512
KEK = Kek(b"k" * 32)
PEERS = {"bob": "first", "carol": "second"}

# -- the shim ------------------------------------------------------------------------------------------

_FilePointer = ctypes.c_void_p
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, _FilePointer, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, _FilePointer, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _FilePointer, ctypes.c_int)
_OPEN = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    _FilePointer,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_int),
)


class _Vfs(ctypes.Structure):
    """The head of sqlite3_vfs (sqlite.org/c3ref/vfs.html)."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", ctypes.c_void_p),
        ("zName", ctypes.c_char_p),
        ("pAppData", ctypes.c_void_p),
        ("xOpen", ctypes.c_void_p),
    ]


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3 (sqlite.org/c3ref/io_methods.html)."""

    _fields_ = [("iVersion", ctypes.c_int)] + [
        (name, ctypes.c_void_p)
        for name in [
            "xClose",
            "xRead",
            "xWrite",
            "xTruncate",
            "xSync",
            "xFileSize",
            "xLock",
            "xUnlock",
            "xCheckReservedLock",
            "xFileControl",
            "xSectorSize",
            "xDeviceCharacteristics",
            "xShmMap",
            "xShmLock",
            "xShmBarrier",
            "xShmUnmap",
            "xFetch",
            "xUnfetch",
        ]
    ]


class _File(ctypes.Structure):
    _fields_ = [("pMethods", ctypes.POINTER(_Methods))]


def _default_vfs() -> _Vfs:
    """SQLite's default VFS: the first member of the sqlite3 object that a Connection points to."""
    connection = sqlite3.connect(":memory:")
    database = ctypes.c_void_p.from_address(id(connection) + object.__basicsize__).value
    assert database is not None
    vfs = _Vfs.from_address(ctypes.c_void_p.from_address(database).value or 0)
    assert vfs.zName == b"unix", "this Python keeps its SQLite handle elsewhere; adapt _default_vfs"
    connection.close()
    return vfs


@dataclass
class Event:
    """One thing that happened: a write (data), a truncation (size), a sync, or a mark of the test."""

    kind: str
    file: str = ""
    offset: int = 0
    data: bytes = b""
    mark: object = None


class Shim:
    """Records what SQLite does to the files of one folder; their syncs are recorded, not carried out."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._names: dict[int, str] = {}
        self._keep: list[object] = []
        self._patched: dict[int, _Methods] = {}
        self.events: list[Event] = []
        self.recording = False

    def mark(self, mark: object) -> None:
        self.events.append(Event("mark", mark=mark))

    def _note(self, file: int, event: Event) -> None:
        if self.recording and file in self._names:
            event.file = self._names[file]
            self.events.append(event)

    @contextmanager
    def installed(self) -> Iterator[Shim]:
        vfs = _default_vfs()
        original = vfs.xOpen
        call = _OPEN(original or 0)

        def opened(this: int, name: bytes | None, file: int, flags: int, out: object) -> int:
            code = int(call(this, name, file, flags, out))
            path = (name or b"").split(b"\0")[0].decode()
            if code == 0 and path.startswith(self._folder):
                self._names[file] = path
                handle = _File.from_address(file)
                handle.pMethods = ctypes.pointer(self._methods(handle.pMethods.contents))
            return code

        hook = _OPEN(opened)
        vfs.xOpen = ctypes.cast(hook, ctypes.c_void_p).value
        try:
            yield self
        finally:
            vfs.xOpen = original

    def _methods(self, original: _Methods) -> _Methods:
        key = ctypes.addressof(original)
        if key in self._patched:
            return self._patched[key]
        patched = _Methods.from_buffer_copy(original)
        write, truncate = _WRITE(original.xWrite or 0), _TRUNCATE(original.xTruncate or 0)

        def on_write(file: int, data: int, size: int, offset: int) -> int:
            self._note(file, Event("write", offset=offset, data=ctypes.string_at(data, size)))
            return int(write(file, data, size, offset))

        def on_truncate(file: int, size: int) -> int:
            self._note(file, Event("truncate", offset=size))
            return int(truncate(file, size))

        def on_sync(file: int, flags: int) -> int:
            self._note(file, Event("sync"))
            return 0

        hooks = _WRITE(on_write), _TRUNCATE(on_truncate), _SYNC(on_sync)
        self._keep += [hooks, write, truncate]
        for name, hook in zip(("xWrite", "xTruncate", "xSync"), hooks, strict=True):
            setattr(patched, name, ctypes.cast(hook, ctypes.c_void_p).value)
        self._patched[key] = patched
        return patched


# -- the work, and what must be true of an image -------------------------------------------------------


@dataclass
class Truth:
    """Every bit that was put into a lane, by its position, as one would have it on paper."""

    blocks: dict[tuple[str, str], list[tuple[int, SecretBits]]] = field(default_factory=dict)

    def add(self, peer: str, lane: str, start: int, bits: SecretBits) -> None:
        self.blocks.setdefault((peer, lane), []).append((start, bits))

    def bits(self, peer: str, lane: str, wanted: Range) -> SecretBits:
        parts = []
        for start, bits in sorted(self.blocks[peer, lane], key=lambda entry: entry[0]):
            begin, end = max(start, wanted.start), min(start + len(bits), wanted.end)
            if end > begin:
                parts.append(bits.take(begin - start, end - begin))
        return SecretBits.concat(parts)


@dataclass(frozen=True)
class Left:
    """Bits that left the store."""

    peer: str
    lane: str
    taken: Range
    context: bytes | None


@dataclass(frozen=True)
class Confirmed:
    """A block that the caller was told is stored."""

    peer: str
    block_id: str


@dataclass(frozen=True)
class Committed:
    """A reservation that was never released before the crash."""

    peer: str
    taken: Range
    context: bytes


@dataclass(frozen=True)
class Waits:
    """A key that waited for its application before the crash."""

    peer: str
    lane: Lane
    key: LeasedKey


class Work:
    """A seeded stream of everything a node does with its store."""

    def __init__(self, store: KeyStore, shim: Shim, seed: int) -> None:
        self._store = store
        self._shim = shim
        self._rng = np.random.default_rng(seed)
        self._serial = 0
        self._open: list[tuple[str, Range, bytes]] = []
        self._waits: list[tuple[str, Lane, LeasedKey]] = []
        self.truth = Truth()
        for n, (peer, pair_end) in enumerate(PEERS.items()):
            secrets = [
                SecretBits.from_bytes(np.random.default_rng(100 + 2 * n + i).bytes(8192)) for i in (0, 1)
            ]
            store.install_initial_secret(
                peer, secrets[0], secrets[1], pair_end="first" if pair_end == "first" else "second"
            )
            parts = split_secret(*secrets)
            self.truth.add(peer, "auth_ab", 0, parts.auth_ab)
            self.truth.add(peer, "auth_ba", 0, parts.auth_ba)

    def step(self) -> None:
        steps: list[Callable[[str], None]] = [
            self._deposit,
            self._deposit,
            self._reserve,
            self._reserve,
            self._reserve,
            self._release,
            self._release,
            self._release,
            self._burn,
            self._send,
            self._send,
            self._receive,
            self._receive,
            self._raise,
            self._window,
            self._window,
            self._give,
            self._give,
            self._hand,
            self._hand,
            self._fetch,
            self._fetch,
        ]
        steps[self._rng.integers(len(steps))](list(PEERS)[self._rng.integers(len(PEERS))])

    def _context(self) -> bytes:
        self._serial += 1
        return self._serial.to_bytes(32, "big")

    def _deposit(self, peer: str) -> None:
        self._serial += 1
        name, key = (
            f"block{self._serial}",
            SecretBits.from_bytes(self._rng.bytes(int(self._rng.integers(64, 30_000)))),
        )
        self._store.deposit_pending(peer, name, key, b"")
        if self._rng.random() < 0.2:
            if self._rng.random() < 0.5:
                self._store.burn_deposit(peer, name)
            return
        starts = self._store.confirm_deposit(peer, name)
        self._shim.mark(Confirmed(peer, name))
        for part in self._store.deposits.parts(peer, name):
            self.truth.add(peer, part.lane, starts[part.lane], key.take(part.offset, part.n_bits))

    def _reserve(self, peer: str) -> None:
        free, context = self._store.stock(peer)[Lane.MASK], self._context()
        if free < 16:
            return
        size = int(self._rng.integers(1, max(2, free // 3)))
        if lane_owner(Lane.MASK) == self._store.pair_end(peer):
            try:
                taken = self._store.propose_reservation(peer, "mask", size, context)
            except LaneShortError:
                return
        else:
            head = self._store.lane_states(peer)[Lane.MASK].head
            taken = Range(head + int(self._rng.integers(0, 20)), size)
        try:
            self._store.commit_reservation(peer, "mask", taken, context)
        except RefusedError:
            return
        self._shim.mark(Committed(peer, taken, context))
        self._open.append((peer, taken, context))

    def _release(self, _: str) -> None:
        if not self._open:
            return
        peer, taken, context = self._open.pop(int(self._rng.integers(len(self._open))))
        bits = self._store.release(peer, "mask", taken, context)
        self._shim.mark(Left(peer, "mask", taken, context))
        assert bits.same_as(self.truth.bits(peer, "mask", taken))

    def _burn(self, _: str) -> None:
        if self._open and self._rng.random() < 0.5:
            peer, taken, context = self._open.pop()
            self._store.burn_reservation(peer, "mask", taken, context)

    def _send(self, peer: str) -> None:
        lane = outgoing_auth(self._store.pair_end(peer))
        if self._store.stock(peer)[lane] < 4000:
            return
        offset, _ = self._store.auth(peer).take_outgoing(256)
        self._shim.mark(Left(peer, lane, Range(offset, 256), None))

    def _receive(self, peer: str) -> None:
        lane = incoming_auth(self._store.pair_end(peer))
        if self._store.stock(peer)[lane] < 4000:
            return
        offset = self._store.lane_states(peer)[lane].head + 256 * int(self._rng.integers(0, 3))
        try:
            self._store.auth(peer).take_incoming(offset, 256)
        except RefusedError:
            return
        self._shim.mark(Left(peer, str(lane), Range(offset, 256), None))

    def _raise(self, peer: str) -> None:
        if self._rng.random() < 0.1:
            head = self._store.lane_states(peer)[Lane.MASK].head
            self._store.raise_heads(peer, {Lane.MASK: head + 10})

    # Keys for applications: windows of the own lane and of the peer's, batches, and copies that wait.

    def _window(self, peer: str) -> None:
        windows, own = self._store.windows, self._rng.random() < 0.5
        lane = windows.own_lane(peer) if own else windows.peers_lane(peer)
        free = self._store.stock(peer)[lane]
        if free < 2048:
            return
        size, context = 8 * int(self._rng.integers(128, min(free, 4096) // 8)), windows.new_context()
        if own:
            with suppress(LaneShortError):
                windows.opened(peer, self._store.propose_reservation(peer, lane, size, context), context)
        else:
            head = self._store.lane_states(peer)[lane].head
            with suppress(RefusedError):
                windows.follow(peer, Range(head, size), context)

    def _batch(self, peer: str, lane: Lane) -> tuple[int, list[LeasedKey]] | None:
        """Where a batch of a few keys could lie, with a gap now and then."""
        runs = self._store.windows.granted(peer, lane)
        if not runs or runs[0].n_bits < 1200:
            return None
        start = runs[0].start + 8 * int(self._rng.integers(0, 4))
        reached, keys = start + 256, []
        for _ in range(int(self._rng.integers(1, 4))):
            reached += 8 * int(self._rng.integers(0, 2))
            keys.append(
                LeasedKey(bytes(self._rng.bytes(16)), Range(reached, 8 * int(self._rng.integers(1, 30))))
            )
            reached = keys[-1].place.end
        return start, keys

    def _left(self, peer: str, lane: Lane, place: Range, bits: SecretBits) -> None:
        self._shim.mark(Left(peer, str(lane), place, None))
        assert bits.same_as(self.truth.bits(peer, str(lane), place))

    def _give(self, peer: str) -> None:
        lane = self._store.windows.own_lane(peer)
        batch = self._batch(peer, lane)
        if batch is None:
            return
        start, keys = batch
        spare = [keys[0].key_id] if self._rng.random() < 0.3 else []
        use = Use("app1", "master", 1, len(keys), sum(key.place.n_bits for key in keys))
        bits = self._store.windows.deliver(peer, start, keys, [use], spare=spare)
        self._shim.mark(Left(peer, str(lane), Range(start, 256), None))
        for key in keys:
            if key.key_id in bits:
                self._left(peer, lane, key.place, bits[key.key_id])
            else:
                self._waits.append((peer, lane, key))

    def _hand(self, peer: str) -> None:
        lane = self._store.windows.peers_lane(peer)
        batch = self._batch(peer, lane)
        if batch is None:
            return
        start, keys = batch
        unwanted = [keys[-1].key_id] if self._rng.random() < 0.2 else []
        self._store.windows.hand(peer, start, keys, unwanted, 1e-30)
        self._shim.mark(Left(peer, str(lane), Range(start, 256), None))
        self._waits += [(peer, lane, key) for key in keys if key.key_id not in unwanted]

    def _fetch(self, _: str) -> None:
        """A few waiting keys in one commit; one of them is asked for twice."""
        if not self._waits:
            return
        chosen = [self._waits.pop() for _ in range(min(len(self._waits), 3))]
        use = Use("app2", "slave", 1, 1, 8)
        with self._store.windows.group():
            fetched = [self._store.windows.fetch(peer, lane, [key], use) for peer, lane, key in chosen]
            assert self._store.windows.fetch(*chosen[0][:2], [chosen[0][2]], use) is None
        for (peer, lane, key), bits in zip(chosen, fetched, strict=True):
            assert bits is not None
            self._left(peer, lane, key.place, bits[0])
        for peer, lane, key in self._waits:
            self._shim.mark(Waits(peer, lane, key))


class Violation(AssertionError):
    """An image broke a promise."""


def check_image(cls: type[KeyStore], path: Path, marks: list[object], truth: Truth) -> None:
    """Open an image as after an outage, and use up everything in it."""
    try:
        store = cls.open(path, "alice", KEK)
    except KeyStoreError as error:
        raise Violation(f"the image does not open: {error}") from error
    try:
        if set(store.peers()) != set(PEERS):
            raise Violation("an initial secret was lost")
        left = [mark for mark in marks if isinstance(mark, Left)]
        for mark in marks:
            _check_mark(store, mark)
        for peer in PEERS:
            if any(store.windows.granted(peer, lane) for lane in (Lane.OTP_AB, Lane.OTP_BA)):
                raise Violation(f"a window with {peer} was resumed after the restart")
            for lane, start, bits in _use_up(store, peer):
                taken = Range(start, len(bits))
                for old in left:
                    if (old.peer, old.lane) == (peer, lane) and (
                        old.taken.start < taken.end and taken.start < old.taken.end
                    ):
                        raise Violation(f"{lane} with {peer}: {taken} was released before as {old.taken}")
                if not bits.same_as(truth.bits(peer, lane, taken)):
                    raise Violation(f"{lane} with {peer}: wrong bits at {taken}")
        store._core.check_books()
    finally:
        store.close()


def _check_mark(store: KeyStore, mark: object) -> None:
    if isinstance(mark, Confirmed) and store.deposits.state(mark.peer, mark.block_id) != "confirmed":
        raise Violation(f"{mark} was lost")
    if isinstance(mark, Left) and store.lane_states(mark.peer)[Lane(mark.lane)].head < mark.taken.end:
        raise Violation(f"the head of {mark.lane} is below {mark.taken}, which had left")
    if isinstance(mark, Waits):
        with store.windows.group():
            if (
                store.windows.fetch(mark.peer, mark.lane, [mark.key], Use("app2", "slave", 1, 1, 8))
                is not None
            ):
                raise Violation(f"{mark} was released after the restart")
    context = mark.context if isinstance(mark, Left | Committed) else None
    if context is not None and isinstance(mark, Left | Committed):
        try:
            store.release(mark.peer, "mask", mark.taken, context)
        except RefusedError as error:
            if isinstance(mark, Left) and not isinstance(error, AlreadyReleasedError):
                raise Violation(f"{mark} is not remembered as released: {error}") from error
        else:
            raise Violation(f"{mark} was released after the restart")


def _use_up(store: KeyStore, peer: str) -> Iterator[tuple[str, int, SecretBits]]:
    """Take every free bit of the mask lane and of the outgoing authentication lane."""
    first = store.pair_end(peer) == "first"
    lane = outgoing_auth(store.pair_end(peer))
    if (rest := store.stock(peer)[lane] - AUTH_STOP_BITS) > 0:
        offset, bits = store.auth(peer).take_outgoing(rest)
        yield lane, offset, bits
    for usable in (Lane.MASK, Lane.OTP_AB, Lane.OTP_BA):
        own = first == (lane_owner(usable) == "first")
        pieces = list(store._core.pieces.stored(peer, usable, store.lane_states(peer)[usable].head))
        for n, piece in enumerate(pieces):
            context = b"after" + n.to_bytes(27, "big")
            taken = store.propose_reservation(peer, usable, piece.n_bits, context) if own else piece
            store.commit_reservation(peer, usable, taken, context)
            yield str(usable), taken.start, store.release(peer, usable, taken, context)


# -- images --------------------------------------------------------------------------------------------


class Disk:
    """Files as a disk holds them: what is synced, and what is still on its way."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._synced = {name: bytearray(data) for name, data in files.items()}
        self._waiting: dict[str, list[Event]] = {}

    def apply(self, event: Event) -> None:
        if event.kind == "sync":
            content = self._synced.setdefault(event.file, bytearray())
            for waiting in self._waiting.pop(event.file, []):
                _apply(content, waiting)
        elif event.kind != "mark":
            self._waiting.setdefault(event.file, []).append(event)

    def crash(self, rng: np.random.Generator) -> dict[str, bytes]:
        """What is found after the power went: any part of what was waiting has arrived."""
        files = {name: bytearray(data) for name, data in self._synced.items()}
        arrives = rng.choice([0.0, 0.2, 0.5, 0.9, 1.0])
        for name, events in self._waiting.items():
            content = files.setdefault(name, bytearray())
            for event in events:
                if event.kind == "truncate":
                    if rng.random() < arrives:
                        _apply(content, event)
                    continue
                for sector in _sectors(event):
                    if rng.random() < arrives:
                        _apply(content, sector)
        return {name: bytes(data) for name, data in files.items()}


def _sectors(event: Event) -> Iterator[Event]:
    begin, end = event.offset, event.offset + len(event.data)
    while begin < end:
        stop = min(end, (begin // SECTOR + 1) * SECTOR)
        yield Event("write", offset=begin, data=event.data[begin - event.offset : stop - event.offset])
        begin = stop


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        return
    end = event.offset + len(event.data)
    if len(content) < event.offset:
        content.extend(bytes(event.offset - len(content)))
    content[event.offset : end] = event.data


def crash_images(cls: type[KeyStore], folder: Path, seed: int, steps: int, images: int) -> int:
    """Run the store, crash it ``images`` times, check every image; returns how many were checked."""
    live, path = folder / "live", folder / "live" / "store.db"
    live.mkdir()
    (folder / "image").mkdir()
    image = folder / "image" / "store.db"
    rng = np.random.default_rng([seed, 1])
    shim, images_shim = Shim(live), Shim(folder / "image")
    with shim.installed():
        store = cls.create(
            path,
            "alice",
            KEK,
            split=SplitRule(otp_per_1024=192),
            random_bytes=np.random.default_rng(seed).bytes,
        )
        work = Work(store, shim, seed)
        store._core.db.checkpoint()
        disk = Disk({str(file): file.read_bytes() for file in live.iterdir()})
        shim.recording = True
        for _ in range(steps):
            work.step()
        shim.recording = False
        store.close()
    moments = np.sort(rng.integers(0, len(shim.events), images))
    marks: list[object] = []
    done = 0
    with images_shim.installed():
        for moment in moments:
            for event in shim.events[done : moment + 1]:
                disk.apply(event)
                if event.kind == "mark":
                    marks.append(event.mark)
            done = max(done, int(moment) + 1)
            for leftover in image.parent.iterdir():
                leftover.unlink()
            for name, data in disk.crash(rng).items():
                (image.parent / Path(name).name).write_bytes(data)
            check_image(cls, image, marks, work.truth)
    return len(moments)


@pytest.mark.parametrize("seed", range(3))
def test_r1_no_bit_leaves_twice_under_power_loss(tmp_path: Path, seed: int) -> None:
    assert crash_images(KeyStore, tmp_path, seed, steps=120, images=100) == 100


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(100, 125))
def test_r1_ten_thousand_images(tmp_path: Path, seed: int) -> None:
    assert crash_images(KeyStore, tmp_path, seed, steps=200, images=400) == 400


# -- the same test finds planted faults ----------------------------------------------------------------


class NormalSync(Database):
    """SQLite told to sync at checkpoints only."""

    settings = (*(entry for entry in SETTINGS if entry[0] != "synchronous"), ("synchronous", "NORMAL", 1))


class CommitLater(Database):
    """Hands out results before they are committed: the commit comes with the next transaction."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self._db.in_transaction:
            self.commit()
        self.write("BEGIN IMMEDIATE")
        yield

    def checkpoint(self) -> None:
        if not self._db.in_transaction:  # the log cannot be cut under an open transaction
            super().checkpoint()


class NormalSyncStore(KeyStore):
    database_class = NormalSync


class ReleaseBeforeCommitStore(KeyStore):
    database_class = CommitLater


class ResumedReservationsStore(KeyStore):
    def _burn_what_was_reserved(self) -> None:
        pass


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
        (NormalSyncStore, "is below|not remembered|lost"),
        (ReleaseBeforeCommitStore, "is below|not remembered|lost"),
        (ResumedReservationsStore, "after the restart"),
    ],
)
def test_r1_the_test_finds_planted_faults(tmp_path: Path, cls: type[KeyStore], promise: str) -> None:
    with pytest.raises(Violation, match=promise):
        crash_images(cls, tmp_path, 0, steps=120, images=100)
