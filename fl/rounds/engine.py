"""One round at the server, without sockets: contributions, drop-outs and the outcome.

The set of participants is fixed when the round starts.  A round is a sequence of stages; in each of them
every member gives one thing, once::

    [sharing]     sealed shares of the masks        members: all participants
    uploading     the protected update              those who shared (without sharing: all participants)
    [confirming]  being bound to the survivors      those who shared
    [answering]   the sum of the survivors' shares  those who shared; U answers are enough, one more is awaited

The stages in brackets belong to modes in which clients may drop out (``rules.survivors`` = U).  There a stage
goes on with whoever is left, at least U, and the survivors are those who uploaded.  U answers decode to some
sum even if one of them is wrong; one more shows it, so the round waits for that a moment (``limits.spare_s``)
where somebody is there to give it.  In the other modes the
round fails as soon as one participant declines, leaves, falls silent or takes too long: the pads of a missing
client do not cancel, and its absence leaves nothing to read in the sum of the others.

What comes late, twice in different versions, from clients outside the round or in another shape is refused with the
reason.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fl.modes.base import RoundRules
from fl.rounds.messages import WAITING, Answer, Confirm, Contribution, Phase, Progress, Shares, Upload
from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.sharing import TAG_BYTES

Stage: TypeAlias = Literal["sharing", "uploading", "confirming", "answering", "over"]
Bytes: TypeAlias = npt.NDArray[np.uint8]
"""uint8, packed values or one sealed message a row: shape (n,) or (rows, bytes)."""

STAGE_OF: dict[type[Contribution], Stage] = {
    Shares: "sharing",
    Upload: "uploading",
    Confirm: "confirming",
    Answer: "answering",
}
ORDER: tuple[Stage, ...] = ("sharing", "uploading", "confirming", "answering", "over")
QUICK: tuple[Stage, ...] = ("confirming", "answering")
"""Stages that need no work of a client that is there."""
GIVEN: dict[Stage, str] = {
    "sharing": "shared",
    "uploading": "uploaded",
    "confirming": "confirmed",
    "answering": "answered",
}


class UploadRefusedError(Exception):
    """A contribution that does not belong in the round; the text is the reason told to the client."""


class DuplicateUploadError(UploadRefusedError):
    """A contribution that is there already, from a client that missed the receipt, or one no longer needed."""


@dataclass(frozen=True)
class RoundLimits:
    """How long a client may be silent, may work, and may wait (for keys, or for its peers).

    ``spare_s``: how long a round that has the answers it needs waits for one more to check them with.
    """

    silence_s: float
    work_s: float
    wait_s: float
    spare_s: float = 0.0


@dataclass
class _Participant:
    last_heard_s: float
    waiting: Phase | None = None
    waiting_since_s: float = 0.0
    waited_s: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(WAITING, 0.0))
    gave: dict[Stage, tuple[Contribution, Bytes]] = field(default_factory=dict)
    gone: dict[Stage, str] = field(default_factory=dict)
    """Why it gives nothing, by stage."""

    def waits(self, phase: Phase | None, now_s: float) -> None:
        """Begin the waiting that ``phase`` names; None ends it."""
        if self.waiting is not None:
            self.waited_s[self.waiting] += now_s - self.waiting_since_s
        self.waiting, self.waiting_since_s = phase, now_s

    def waited(self, phase: Phase, now_s: float) -> float:
        """Seconds spent in this kind of waiting so far."""
        return self.waited_s[phase] + (now_s - self.waiting_since_s if self.waiting == phase else 0.0)


@dataclass
class CollectingRound:
    """The round ``number`` of run ``run_id``, collecting what ``participants`` give under ``rules``."""

    run_id: str
    number: int
    participants: tuple[str, ...]
    weights: tuple[int, ...]
    rules: RoundRules
    context: bytes
    limits: RoundLimits
    started_s: float
    stage: Stage = field(init=False)
    _states: dict[str, _Participant] = field(init=False)
    _stage_started_s: float = field(init=False)
    _first_gone_s: float | None = field(init=False, default=None)
    _answered_s: float | None = field(init=False, default=None)
    """Since when there are as many answers as needed."""
    _failure: str | None = field(init=False, default=None)
    spent_pairs: set[frozenset[str]] = field(init=False, default_factory=set)
    """Pairs of which at least one side has spent its pads; nobody can use them again."""

    def __post_init__(self) -> None:
        self.stage = "uploading" if self.rules.survivors is None else "sharing"
        self._states = {name: _Participant(self.started_s) for name in self.participants}
        self._stage_started_s = self.started_s

    # -- what is heard ----------------------------------------------------------------------------------

    def heard(self, client: str, now_s: float) -> None:
        """Note a sign of life."""
        if state := self._states.get(client):
            state.last_heard_s = now_s

    def excuse(self, gap_s: float) -> None:
        """The server itself was away (stopped, or busy) for ``gap_s``: extend all time limits by that."""
        self.started_s += gap_s
        self._stage_started_s += gap_s
        if self._first_gone_s is not None:
            self._first_gone_s += gap_s
        if self._answered_s is not None:
            self._answered_s += gap_s
        for state in self._states.values():
            state.last_heard_s += gap_s
            state.waiting_since_s += gap_s

    def progress(self, client: str, message: Progress, now_s: float) -> None:
        """Note what a participant is doing: waiting stops its clock."""
        state = self._states.get(client)
        if state is None or message.run_id != self.run_id or message.round != self.number:
            return
        state.waits(message.phase if message.phase in WAITING else None, now_s)

    def declined(
        self, client: str, reason: str, key_bits: int, now_s: float, spent_with: Sequence[str] = ()
    ) -> None:
        """A participant gives nothing to this stage; ``key_bits`` of pads were spent all the same.

        ``spent_with``: with whom (empty: with everybody).
        """
        if client in self._states:
            if key_bits:
                self.spent_pairs |= pairs_of(client, self.participants, spent_with)
            self._drop(client, f"{client} declined: {reason}", now_s)

    def left(self, client: str, reason: str, now_s: float) -> None:
        """A participant left; its earlier contributions still count."""
        if state := self._states.get(client):
            self._drop(client, f"{client} left: {reason}", now_s)
            state.last_heard_s = -np.inf

    def take(self, client: str, message: Contribution, packed: Bytes, now_s: float) -> None:
        """Take a contribution in; raises UploadRefusedError (or its child DuplicateUploadError) instead."""
        state = self._states.get(client)
        stage = STAGE_OF[type(message)]
        if state is None:
            raise UploadRefusedError(f"{client} is not a participant of round {self.number}")
        if message.run_id != self.run_id or message.round != self.number:
            raise UploadRefusedError(
                f"round {message.round} of run {message.run_id} is not open; round {self.number} is"
            )
        if isinstance(message, Shares | Upload) and message.key_bits:
            self.spent_pairs |= pairs_of(client, self.participants)  # burnt whether it is taken or refused
        if self._failure is not None:
            raise UploadRefusedError(f"round {self.number} was aborted: {self._failure}")
        if stage in state.gave:
            before, kept = state.gave[stage]
            if before == message and np.array_equal(kept, packed):
                raise DuplicateUploadError(f"round {self.number} has it: {client} {GIVEN[stage]} before")
            raise UploadRefusedError(
                f"{client} has already {GIVEN[stage]} something else in round {self.number}"
            )
        self._check_stage(client, state, stage)
        self._check(client, message, packed)
        state.waits(None, now_s)
        state.gave[stage] = message, packed

    # -- what is refused --------------------------------------------------------------------------------

    def _check_stage(self, client: str, state: _Participant, stage: Stage) -> None:
        if ORDER.index(stage) < ORDER.index(self.stage):
            if stage in QUICK:
                raise DuplicateUploadError(f"round {self.number} went on: not needed any more")
            raise UploadRefusedError(
                f"too late: round {self.number} went on without it, {client} had not {GIVEN[stage]} in time"
            )
        if stage != self.stage:
            raise UploadRefusedError(f"too early: round {self.number} is {self.stage}")
        if client not in self.members:
            raise UploadRefusedError(f"{client} sent no shares in round {self.number} and is not in it")
        if stage not in QUICK and stage in state.gone:
            raise UploadRefusedError(f"round {self.number} goes on without {state.gone[stage]}")

    def _check(self, client: str, message: Contribution, packed: Bytes) -> None:
        rules = self.rules
        match message:
            case Upload():
                self._check_upload(client, message, packed)
            case Shares(context=context):
                if not hmac.compare_digest(context, self.context):
                    raise UploadRefusedError("the client agreed on another round context with its peers")
                _check_shape(packed, (len(self.participants) - 1, rules.sealed_bytes))
            case Confirm(survivors=survivors):
                self._check_survivors(survivors)
                _check_shape(packed, (len(self.holders) - 1, TAG_BYTES))
            case Answer(survivors=survivors):
                self._check_survivors(survivors)
                _check_packed(packed, rules.answer_bits)

    def _check_upload(self, client: str, message: Upload, packed: Bytes) -> None:
        weight = self.weights[self.participants.index(client)]
        if message.weight != weight:
            raise UploadRefusedError(f"weight {message.weight} was announced as {weight}")
        if not hmac.compare_digest(message.context, self.context):
            raise UploadRefusedError("the client agreed on another round context with its peers")
        if (message.n_values, message.ring_width) != (self.rules.n_values, self.rules.value_bits):
            raise UploadRefusedError(
                f"{message.n_values} values of {message.ring_width} bits instead of {self.rules.n_values} of "
                f"{self.rules.value_bits}"
            )
        _check_packed(packed, self.rules.n_values * self.rules.value_bits)

    def _check_survivors(self, survivors: tuple[str, ...]) -> None:
        if survivors != self.survivors:
            raise UploadRefusedError(f"the survivors of round {self.number} are {', '.join(self.survivors)}")

    # -- who is left ------------------------------------------------------------------------------------

    def fail(self, reason: str) -> None:
        """The round cannot succeed any more; the first reason stays."""
        if self._failure is None:
            self._failure = reason

    def _drop(self, client: str, reason: str, now_s: float) -> None:
        if client not in self.pending:
            return
        self._states[client].gone[self.stage] = reason
        if self._first_gone_s is None:
            self._first_gone_s = now_s
        if self.rules.survivors is None:
            self.fail(reason)

    def review(self, now_s: float) -> bool:
        """Drop late members and enter the next stage if this one is over; True if the stage changed, and then to be
        called again.
        """
        if self._failure is not None or self.stage == "over":
            return False
        for name in self.pending:
            if reason := self._lateness(name, now_s):
                self._drop(name, reason, now_s)
        enough = self.rules.survivors or len(self.participants)
        given, pending = len(self.given), self.pending
        if given + len(pending) < enough:
            reasons = "; ".join(
                state.gone[self.stage] for state in self._states.values() if self.stage in state.gone
            )
            self.fail(
                f"{given + len(pending)} of the {enough} clients needed are left ({self.stage}): {reasons}"
            )
        if self._failure is not None or (pending and not self._answered(enough, now_s)):
            return False
        last = self.stage == "uploading" and self.rules.survivors is None
        self.stage = "over" if last else ORDER[ORDER.index(self.stage) + 1]
        self._stage_started_s, self._first_gone_s = now_s, None
        for state in self._states.values():
            state.waits(None, now_s)
        return True

    def _answered(self, enough: int, now_s: float) -> bool:
        """Are there more answers than needed, or as many and it has been long enough?"""
        given = len(self.given)
        if self.stage != "answering" or given < enough:
            return False
        if self._answered_s is None:
            self._answered_s = now_s
        return given > enough or now_s - self._answered_s >= self.limits.spare_s

    def _lateness(self, name: str, now_s: float) -> str | None:
        """Why nothing more is expected of a pending participant, or None."""
        state, limits = self._states[name], self.limits
        silent_s = now_s - state.last_heard_s
        waited_s = sum(state.waited(phase, now_s) for phase in WAITING)
        if silent_s > limits.silence_s:
            return f"{name} vanished: nothing heard for {silent_s:.1f} s"
        if self.stage in QUICK:
            late = now_s - self._stage_started_s > limits.silence_s
            return f"{name} had not {GIVEN[self.stage]} within {limits.silence_s:g} s" if late else None
        if now_s - self.started_s - waited_s > limits.work_s:
            return f"{name} did not upload within {limits.work_s:g} s"
        if waited_s > limits.wait_s:
            return f"{name} was still {state.waiting} after {limits.wait_s:g} s"
        # Who shares needs every peer's node: with one gone, the others finish at once or not at all.
        gone_s = self._first_gone_s if self.stage == "sharing" else None
        if gone_s is not None and now_s - gone_s > limits.silence_s:
            return f"{name} could not share before another was gone"
        return None

    @property
    def failure(self) -> str | None:
        """Why the round failed, or None while it has not."""
        return self._failure

    @property
    def complete(self) -> bool:
        """Is everything there that the sum needs?"""
        return self._failure is None and self.stage == "over"

    @property
    def given(self) -> tuple[str, ...]:
        """Who has given something to this stage."""
        return self._gave(self.stage)

    def _gave(self, stage: Stage) -> tuple[str, ...]:
        return tuple(name for name, state in self._states.items() if stage in state.gave)

    @property
    def members(self) -> tuple[str, ...]:
        """Who takes part in this stage."""
        if self.stage == "over":
            return ()
        everybody = self.rules.survivors is None or self.stage == "sharing"
        return self.participants if everybody else self.holders

    @property
    def pending(self) -> tuple[str, ...]:
        """Who is still expected to give something to this stage."""
        return tuple(
            name
            for name in self.members
            if self.stage not in self._states[name].gave and self.stage not in self._states[name].gone
        )

    @property
    def holders(self) -> tuple[str, ...]:
        """Who sent shares, and therefore holds those of the others."""
        return self._gave("sharing")

    @property
    def survivors(self) -> tuple[str, ...]:
        """Who has uploaded."""
        return self._gave("uploading")

    @property
    def dropped(self) -> tuple[str, ...]:
        """Participants whose updates are not in the sum."""
        return tuple(name for name in self.participants if name not in self.survivors)

    @property
    def gone(self) -> dict[tuple[str, Stage], str]:
        """Why clients gave nothing, by client and stage."""
        return {
            (name, stage): why for name, state in self._states.items() for stage, why in state.gone.items()
        }

    # -- what is passed on ------------------------------------------------------------------------------

    @property
    def uploads(self) -> dict[str, PackedBits]:
        """The packed uploads by client, in the order of the participants."""
        return {name: self._states[name].gave["uploading"][1] for name in self.survivors}

    @property
    def answers(self) -> dict[str, PackedBits]:
        """The packed answers by client."""
        return {name: self._states[name].gave["answering"][1] for name in self._gave("answering")}

    @property
    def spare_answers(self) -> int | None:
        """Answers beyond those needed, or None where none are."""
        needed = self.rules.survivors
        return None if needed is None else len(self.answers) - needed

    def shares_for(self, client: str) -> tuple[tuple[str, ...], Bytes]:
        """(senders, one sealed share of each) for a holder of shares."""
        return self._addressed_to(client, "sharing", self.participants, self.rules.sealed_bytes)

    def confirmations_for(self, client: str) -> tuple[tuple[str, ...], Bytes]:
        """(holders, one tag of each) for a holder of shares."""
        return self._addressed_to(client, "confirming", self.holders, TAG_BYTES)

    def _addressed_to(
        self, client: str, stage: Stage, order: tuple[str, ...], width: int
    ) -> tuple[tuple[str, ...], Bytes]:
        """What the others gave for ``client``: their arrays have a row for everybody in ``order`` but themselves."""
        senders = tuple(name for name in self._gave(stage) if name != client)
        place = order.index(client)
        rows = [self._states[name].gave[stage][1][place - (place > order.index(name))] for name in senders]
        return senders, np.stack(rows) if rows else np.zeros((0, width), np.uint8)

    # -- what it cost -----------------------------------------------------------------------------------

    @property
    def upload_bytes(self) -> int:
        """Everything that participants gave, in bytes."""
        return sum(packed.nbytes for state in self._states.values() for _, packed in state.gave.values())

    @property
    def spent_key_bits(self) -> int:
        """Pad bits that nobody can use again."""
        return len(self.spent_pairs) * self.rules.key_bits_per_pair

    def key_wait_s(self, now_s: float) -> float:
        """The longest time that a participant spent waiting for keys."""
        return max(state.waited("waiting for keys", now_s) for state in self._states.values())


def pairs_of(client: str, participants: Sequence[str], peers: Sequence[str] = ()) -> set[frozenset[str]]:
    """The pairs of ``client`` with the ``peers`` among the other participants (empty: with all of them)."""
    others = set(participants) - {client}
    return {frozenset((client, peer)) for peer in (others.intersection(peers) if peers else others)}


def _check_shape(packed: Bytes, shape: tuple[int, int]) -> None:
    if packed.shape != shape:
        raise UploadRefusedError(f"an array of shape {packed.shape} instead of {shape}")


def _check_packed(packed: Bytes, n_bits: int) -> None:
    if packed.shape != (packed_size(n_bits),):
        raise UploadRefusedError(f"{packed.size} bytes instead of {packed_size(n_bits)}")
    if n_bits % 8 and packed[-1] >> (n_bits % 8):
        raise UploadRefusedError("bits are set past the end of the packed update")
