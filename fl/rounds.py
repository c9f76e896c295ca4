"""One round at the server, without sockets: who has uploaded, who has vanished, and what came of it.

The set of participants is fixed when the round starts.  The round succeeds when every one of them has
uploaded once; it fails as soon as one declines, leaves, falls silent or takes too long, because the pads
of a missing client do not cancel and its absence leaves nothing to read in the sum of the others.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fl.messages import Phase, Progress, Upload
from orchestrator.bits import packed_size

WAITING: tuple[Phase, ...] = ("waiting for keys", "waiting for peers")


class UploadRefusedError(Exception):
    """An upload that does not belong in the sum; the text is the reason told to the client."""


class DuplicateUploadError(UploadRefusedError):
    """The very same upload once more, from a client that missed the reply."""


@dataclass(frozen=True)
class RoundLimits:
    """How long a client may be silent, may work, and may wait (for keys, or for its peers)."""

    silence_s: float
    work_s: float
    wait_s: float


@dataclass
class _Participant:
    last_heard_s: float
    waiting: Phase | None = None
    waiting_since_s: float = 0.0
    waited_s: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(WAITING, 0.0))
    upload: Upload | None = None
    packed: npt.NDArray[np.uint8] | None = None

    def waits(self, phase: Phase | None, now_s: float) -> None:
        """From here on the participant waits as ``phase`` says, or (None) does not."""
        if self.waiting is not None:
            self.waited_s[self.waiting] += now_s - self.waiting_since_s
        self.waiting, self.waiting_since_s = phase, now_s

    def waited(self, phase: Phase, now_s: float) -> float:
        """Seconds spent in this kind of waiting so far."""
        return self.waited_s[phase] + (now_s - self.waiting_since_s if self.waiting == phase else 0.0)


@dataclass
class CollectingRound:
    """The round ``number`` of run ``run_id``, collecting the uploads of ``participants``."""

    run_id: str
    number: int
    participants: tuple[str, ...]
    weights: tuple[int, ...]
    n_values: int
    ring_bits: int
    context: bytes
    limits: RoundLimits
    started_s: float
    _states: dict[str, _Participant] = field(init=False)
    _failure: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._states = {name: _Participant(self.started_s) for name in self.participants}

    def heard(self, client: str, now_s: float) -> None:
        """Note a sign of life."""
        if state := self._states.get(client):
            state.last_heard_s = now_s

    def excuse(self, gap_s: float) -> None:
        """The server itself was away (stopped, or busy) for ``gap_s``: nobody's time ran."""
        self.started_s += gap_s
        for state in self._states.values():
            state.last_heard_s += gap_s
            state.waiting_since_s += gap_s

    def progress(self, client: str, message: Progress, now_s: float) -> None:
        """Note what a participant is doing: waiting stops its clock."""
        state = self._states.get(client)
        if state is None or message.run_id != self.run_id or message.round != self.number:
            return
        state.waits(message.phase if message.phase in WAITING else None, now_s)

    def upload(self, client: str, message: Upload, packed: npt.NDArray[np.uint8], now_s: float) -> None:
        """Take an upload in; raises UploadRefusedError (or its child DuplicateUploadError) instead."""
        state = self._states.get(client)
        if state is None:
            raise UploadRefusedError(f"{client} is not a participant of round {self.number}")
        if message.run_id != self.run_id or message.round != self.number:
            raise UploadRefusedError(
                f"round {message.round} of run {message.run_id} is not open; round {self.number} is"
            )
        if self._failure is not None:
            raise UploadRefusedError(f"round {self.number} was aborted: {self._failure}")
        if state.upload is not None and state.packed is not None:
            if state.upload == message and np.array_equal(state.packed, packed):
                raise DuplicateUploadError(f"the upload of round {self.number} was accepted before")
            raise UploadRefusedError(f"{client} has already uploaded something else in round {self.number}")
        self._check(client, message, packed)
        state.waits(None, now_s)
        state.upload, state.packed = message, packed

    def _check(self, client: str, message: Upload, packed: npt.NDArray[np.uint8]) -> None:
        weight = self.weights[self.participants.index(client)]
        if message.weight != weight:
            raise UploadRefusedError(f"weight {message.weight} was announced as {weight}")
        if not hmac.compare_digest(message.context, self.context):
            raise UploadRefusedError("the client agreed on another round context with its peers")
        if (message.n_values, message.ring_bits) != (self.n_values, self.ring_bits):
            raise UploadRefusedError(
                f"{message.n_values} values of {message.ring_bits} bits instead of {self.n_values} of "
                f"{self.ring_bits}"
            )
        n_bits = self.n_values * self.ring_bits
        if packed.shape != (packed_size(n_bits),):
            raise UploadRefusedError(f"{packed.size} bytes instead of {packed_size(n_bits)}")
        if n_bits % 8 and packed[-1] >> (n_bits % 8):
            raise UploadRefusedError("bits are set past the end of the packed update")

    def fail(self, reason: str) -> None:
        """The round cannot succeed any more; the first reason stays."""
        if self._failure is None:
            self._failure = reason

    def failure(self, now_s: float) -> str | None:
        """Why the round failed, or None while it has not."""
        for name, state in self._states.items():
            if self._failure is not None:
                break
            if state.upload is not None:
                continue
            silent_s = now_s - state.last_heard_s
            waited_s = sum(state.waited(phase, now_s) for phase in WAITING)
            working_s = now_s - self.started_s - waited_s
            if silent_s > self.limits.silence_s:
                self.fail(f"{name} vanished: nothing heard for {silent_s:.1f} s")
            elif working_s > self.limits.work_s:
                self.fail(f"{name} did not upload within {self.limits.work_s:g} s")
            elif waited_s > self.limits.wait_s:
                self.fail(f"{name} was still {state.waiting} after {self.limits.wait_s:g} s")
        return self._failure

    @property
    def complete(self) -> bool:
        """Has every participant uploaded (and nothing gone wrong)?"""
        return self._failure is None and not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Participants that have not uploaded yet."""
        return tuple(name for name, state in self._states.items() if state.upload is None)

    @property
    def uploads(self) -> list[npt.NDArray[np.uint8]]:
        """The packed uploads, in the order of the participants."""
        return [state.packed for state in self._states.values() if state.packed is not None]

    @property
    def upload_bytes(self) -> int:
        return sum(packed.nbytes for packed in self.uploads)

    @property
    def key_bits(self) -> int:
        """Pad bits of the round over all pairs, as the uploads report them: each is counted at both ends."""
        return sum(state.upload.key_bits for state in self._states.values() if state.upload) // 2

    def key_wait_s(self, now_s: float) -> float:
        """The longest time that a participant spent waiting for keys."""
        return max(state.waited("waiting for keys", now_s) for state in self._states.values())

    def burnt_key_bits(self, declined: Sequence[str] = ()) -> int:
        """Pad bits of the pairs with at least one side that has masked; nobody can use them again."""
        masked = {name for name, state in self._states.items() if state.upload and state.upload.key_bits}
        masked.update(declined)
        n, k = len(self.participants), len(masked)
        pairs = n * (n - 1) // 2 - (n - k) * (n - k - 1) // 2
        return pairs * self.n_values * self.ring_bits
