"""Masked outputs, kept before they are sent: a retry returns the output, never fresh pads (I5).

One file per run, with its latest round.  Round numbers of a run only grow, so the number is a high-water mark:
rounds below it are over for ever, and the round itself is bound to one context and one update.  The sums over
N participants and over N without one differ by exactly that one's update, so a round that has an output never
gets a second one.  Once a client begins another run only the mark stays of those before, some 150 bytes each.

The digest of the update stays in this file, inside the client's trust domain.  The file is the client's own
memory; the node has another (:meth:`orchestrator.delivery.rounds.PadRounds.release`), so that a journal that was
lost or put back from a copy leads to a refusal and not to a second output.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.bits import PackedBits
from orchestrator.delivery.errors import JournalError, OutputLostError, RoundConflictError
from orchestrator.delivery.messages import RoundContext
from orchestrator.durable import locked, make_folder, replace_file
from orchestrator.wire.codec import Message, WireError, decode, encode

FORMAT = 2


class JournalEntry(Message, frozen=True):
    """The latest round of a run; ``packed`` is empty where there is no output: secret shares, or a run long over.

    ``context`` is the digest of the round's context.
    """

    format: int
    run_id: str
    round: int
    context: bytes
    update_digest: bytes
    packed: bytes
    key_bits_used: int

    def __repr__(self) -> str:
        return f"<JournalEntry: run {self.run_id!r}, round {self.round}>"

    def packed_array(self) -> PackedBits:
        """The masked output as a packed array."""
        return np.frombuffer(bytearray(self.packed), np.uint8)


def update_digest(values: npt.NDArray[np.int64], weight: int) -> bytes:
    """SHA-256 of an update (1-d int64) and its weight; for this journal only, never sent."""
    header = f"qunetlab-update-v1|{weight}|{values.size}|".encode()
    return hashlib.sha256(header + np.ascontiguousarray(values, "<i8").tobytes()).digest()


def journal_path(folder: Path, run_id: str) -> Path:
    """The file of a run; run ids may hold characters that file names may not."""
    return folder / f"masked-{hashlib.sha256(run_id.encode()).hexdigest()[:32]}.journal"


def read_entry(folder: Path, context: RoundContext) -> JournalEntry | None:
    """What was done in the context's (run, round), or None if the round is a new one.

    Raises RoundConflictError if it was done in another context or a later round was begun, JournalError if
    the journal cannot be read.
    """
    entry = _read(journal_path(folder, context.run_id))
    if entry is None or entry.round < context.round:
        return None
    if entry.round > context.round:
        raise RoundConflictError(
            f"round {context.round} of run {context.run_id!r} is over: round {entry.round} was masked; numbers are"
            " used once"
        )
    if entry.context != context.digest():
        raise RoundConflictError(
            f"round {context.round} of run {context.run_id!r} was masked for another participant set, size or"
            " model; begin a new round"
        )
    return entry


def _read(path: Path) -> JournalEntry | None:
    try:
        entry = decode(path.read_bytes(), JournalEntry)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror}") from error
    except WireError as error:
        raise JournalError(
            f"{path} is damaged ({error}); what was masked is unknown, so its run gets nothing further from this"
            " client: start a run under another id"
        ) from error
    if entry.format != FORMAT:
        raise JournalError(f"{path} has format {entry.format}, this program knows {FORMAT}")
    return entry


def check_same_update(entry: JournalEntry, digest: bytes) -> None:
    """Raise RoundConflictError unless the entry was made from this update."""
    if not hmac.compare_digest(entry.update_digest, digest):
        raise RoundConflictError(
            f"another update was masked in round {entry.round} of run {entry.run_id!r};"
            " send that one (stored_update) or begin a new round"
        )


def write_entry(
    folder: Path, context: RoundContext, digest: bytes = b"", packed: bytes = b"", key_bits: int = 0
) -> JournalEntry:
    """Keep what was made in ``context``, and give it back; durable on return.

    Raises OutputLostError if it cannot be kept, or if another process masked in this round or a later one.
    """
    path = journal_path(folder, context.run_id)
    entry = JournalEntry(FORMAT, context.run_id, context.round, context.digest(), digest, packed, key_bits)
    try:
        make_folder(folder)
        with locked(folder / ".journal.lock"):
            before = _read(path)
            if before is not None and before.round >= context.round:
                raise OutputLostError(
                    f"round {before.round} of run {context.run_id!r} has protected an update before; what was masked"
                    f" in round {context.round} must not be sent, and its pads are gone: begin a new round"
                )
            replace_file(path, encode(entry), 0o600)
            if before is None:
                _forget_outputs(folder, path)
    except OSError as error:
        raise OutputLostError(
            f"cannot keep the masked output in {path} ({error.strerror}); it must not be sent, and its pads"
            f" are gone: free space and begin a new round"
        ) from error
    return entry


def _forget_outputs(folder: Path, but: Path) -> None:
    """Keep only the marks of other runs; a damaged one is left as it is."""
    for path in folder.glob("masked-*.journal"):
        try:
            entry = None if path == but else _read(path)
        except JournalError:
            continue
        if entry is not None and entry.packed:
            mark = JournalEntry(FORMAT, entry.run_id, entry.round, entry.context, entry.update_digest, b"", 0)
            replace_file(path, encode(mark), 0o600)
