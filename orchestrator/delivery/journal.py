"""Masked outputs, kept before they are sent: a retry returns the output, never fresh pads (I5).

One file per (run, round).  It binds the round to one context and one update: the sums over N participants
and over N without one differ by exactly that one's update, so a round that has an output never gets a
second one.  The digest of the update stays in this file, inside the client's trust domain.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.bits import PackedBits
from orchestrator.delivery.errors import JournalError, RoundConflictError
from orchestrator.delivery.messages import RoundContext
from orchestrator.wire.codec import Message, WireError, decode, encode

FORMAT = 1


class JournalEntry(Message, frozen=True):
    """The content of a journal file; ``packed`` is empty for a round of secret shares, which has no output."""

    format: int
    context: RoundContext
    update_digest: bytes
    packed: bytes
    key_bits_used: int

    def packed_array(self) -> PackedBits:
        """The masked output as a packed array."""
        return np.frombuffer(bytearray(self.packed), np.uint8)


def update_digest(values: npt.NDArray[np.int64], weight: int) -> bytes:
    """SHA-256 of an update and its weight; for this journal only, never sent."""
    header = f"qunetlab-update-v1|{weight}|{values.size}|".encode()
    return hashlib.sha256(header + np.ascontiguousarray(values, "<i8").tobytes()).digest()


def journal_path(folder: Path, context: RoundContext) -> Path:
    """The file of a (run, round); run ids may hold characters that file names may not."""
    run = hashlib.sha256(context.run_id.encode()).hexdigest()[:16]
    return folder / f"masked-{run}-{context.round:08d}.journal"


def read_entry(folder: Path, context: RoundContext) -> JournalEntry | None:
    """The output of the context's (run, round), if there is one.

    Raises RoundConflictError if it was made for another context, JournalError if it cannot be read.
    """
    path = journal_path(folder, context)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror}") from error
    try:
        entry = decode(data, JournalEntry)
    except WireError as error:
        raise JournalError(f"{path} is damaged ({error}); abandon round {context.round}") from error
    if entry.format != FORMAT:
        raise JournalError(f"{path} has format {entry.format}, this program knows {FORMAT}")
    if entry.context != context:
        raise RoundConflictError(
            f"round {context.round} of run {context.run_id!r} was masked for another participant set or size;"
            " begin a new round"
        )
    return entry


def check_same_update(entry: JournalEntry, digest: bytes) -> None:
    """Raise RoundConflictError unless the entry was made from this update."""
    if not hmac.compare_digest(entry.update_digest, digest):
        raise RoundConflictError(
            f"another update was masked in round {entry.context.round} of run {entry.context.run_id!r};"
            " send that one (stored_update) or begin a new round"
        )


def write_entry(folder: Path, entry: JournalEntry) -> None:
    """Keep ``entry``; durable on return (file, rename, folder)."""
    path = journal_path(folder, entry.context)
    part = path.with_name(f".{path.name}.part")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(encode(entry))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise JournalError(
            f"cannot keep the masked output in {path} ({error.strerror}); it must not be sent, and its pads"
            f" are gone: free space and begin a new round"
        ) from error
