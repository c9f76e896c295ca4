"""What the operator of a client consented to, and the rule that holds every round to it before a pad is asked for.

A learning server that lies can open a second run, leave somebody out, change weights, clip or model, and
subtract the sums: they then differ by one client's update.  So a user takes part in a run only as its
:class:`RunDescription` says, which the user's operator has read and agreed to once.  The SHA-256 of the
description is part of every :class:`~orchestrator.delivery.messages.RoundContext`, on which the nodes agree
under one-time tags, so all clients of a round hold the same description.

``otp`` and ``expanded`` have one set of participants from the first round to the last; only then does no sum
differ from another by somebody's absence.  In ``lightsecagg`` the set may shrink to the smallest that the
description names, which tells the server approximately what the missing client sent.  The model of a round is
the one that the client itself worked out from the published sums (:class:`RunPosition`): a server that moves
it, if only by one unit in the last place, gets nothing.

The rule, :func:`check_round`, is a pure function; consents and positions are kept by
:class:`orchestrator.delivery.consent_book.ConsentBook`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from orchestrator.delivery.errors import ConsentError, OtherTermsError
from orchestrator.delivery.messages import PAIRWISE, SHARING, Cipher, Name, RoundContext
from orchestrator.delivery.ring_width import MAX_RING_WIDTH, MIN_RING_WIDTH, largest_sum
from orchestrator.wire.codec import Message, decode, encode

FORMAT = 3
"""Of consents, positions and run files."""
DESCRIPTION_VERSION = 3
PURPOSE = b"qunetlab-run-v1"

Hex: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Weight: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 20)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 40)]
Small: TypeAlias = Annotated[int, Meta(ge=0, le=1000)]

LEAK = "the missing client's last update becomes approximately known (correlation about .8)"
"""What two sums tell whose sets of participants differ by one client."""


class DescribedArray(Message, frozen=True):
    """``size`` values of the flat model, after those of the array before, with a clip of their own; 0 leaves them out."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    size: Positive
    clip: Annotated[float, Meta(ge=0.0)]


class DescribedSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file or table that the clients learn from, with the SHA-256 that each of them found ("": not known)."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""


class RunDescription(Message, frozen=True):
    """Everything about a run that decides what its sums can tell; public, and the same for all its clients.

    ``data`` names what the clients train on, each on its own part, and ``sources`` are the files behind it, the same for
    all of them: a client with others takes no part.  There are none where the task does not say what it learns from; then
    every client has what it has.  ``participants`` in the order that fixes shards and signs,
    ``weights`` in the same order.  ``attempts`` is the highest round number: aborted rounds use numbers too.
    ``smallest_set`` is the fewest participants of a round, all of them where pads are pairwise.  T =
    ``colluders`` and U = ``survivors`` are 0 but where shares are sealed.  ``cipher`` is what nodes release key for,
    None in a ``mode`` that uses none.  ``n_values`` and ``ring_width`` are those
    of a round's context, ``clip`` is that of round 1 in units of the parameters, and ``arrays``, where there are
    any, have clips of their own.  ``first_model`` is the
    SHA-256 of the model before the first round (little-endian float32), in hexadecimal digits.
    """

    version: int
    run_id: Name
    task: Annotated[str, Meta(min_length=1, max_length=64)]
    task_fingerprint: Annotated[str, Meta(max_length=64)]
    data: Annotated[str, Meta(min_length=1, max_length=200)]
    participants: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=1000)]
    weights: Annotated[tuple[Weight, ...], Meta(min_length=1, max_length=1000)]
    rounds: Annotated[int, Meta(ge=1, le=1_000_000)]
    attempts: Positive
    mode: Name
    cipher: Cipher | None
    colluders: Small
    survivors: Small
    smallest_set: Annotated[int, Meta(ge=1, le=1000)]
    n_parameters: Positive
    n_values: Annotated[int, Meta(ge=1, le=1 << 28)]
    ring_width: Annotated[int, Meta(ge=MIN_RING_WIDTH, le=MAX_RING_WIDTH)]
    levels: Annotated[int, Meta(ge=1, le=1 << 31)]
    clip: Annotated[float, Meta(gt=0)]
    clip_decay: Annotated[float, Meta(gt=0, le=1)]
    keep: Annotated[float, Meta(gt=0, le=1)]
    error_feedback: bool
    seed: Annotated[int, Meta(ge=0, lt=1 << 62)]
    first_model: Hex
    arrays: tuple[DescribedArray, ...] = ()
    sources: tuple[DescribedSource, ...] = ()

    def digest(self) -> bytes:
        """SHA-256 over purpose and all fields in their canonical form (1 and 1.0 are one clip)."""
        return hashlib.sha256(PURPOSE + encode(decode(encode(self), RunDescription))).digest()

    @property
    def name(self) -> str:
        """The digest in hexadecimal digits: by this name operators compare what they agree to."""
        return self.digest().hex()

    def same_subject(self, other: RunDescription) -> bool:
        """Whether both runs may learn the same from the same data, so that their sums could be compared.

        ``data`` and fingerprint are what the client's own task says, and models of one size over the same data can
        be compared.  Data count as the same if they have one name or share a file by its checksum: files can be
        renamed, and other files of one name may hold the same examples.  Without a fingerprint only the server says
        what is trained, so any two runs count as the same.
        """
        if not self.task_fingerprint or not other.task_fingerprint:
            return True
        alike = self.task_fingerprint == other.task_fingerprint or self.n_parameters == other.n_parameters
        shared = {each.sha256 for each in self.sources} & {each.sha256 for each in other.sources} - {""}
        return (self.data == other.data or bool(shared)) and alike

    def weight_of(self, user: str) -> int:
        """The public weight of a participant."""
        return self.weights[self.participants.index(user)]


TERMS = (
    "participants",
    "weights",
    "mode",
    "colluders",
    "survivors",
    "smallest_set",
    "levels",
    "clip",
    "clip_decay",
    "keep",
    "error_feedback",
    "arrays",
)
"""What stays the same in every run over the same task and data: sums under other terms can be compared."""


class Consent(Message, frozen=True):
    """``user``'s operator agreed to ``description``; ``accepted`` names earlier runs whose terms were others."""

    format: int
    user: Name
    description: RunDescription
    accepted: tuple[Name, ...] = ()


class RunPosition(Message, frozen=True):
    """How far a run is, as this client itself worked it out.

    ``completed`` sums are in ``model`` (little-endian float32), the last that of ``round``.
    """

    format: int
    run: Annotated[bytes, Meta(min_length=32, max_length=32)]
    completed: int
    round: int
    model: bytes

    def __repr__(self) -> str:
        return f"<RunPosition: {self.completed} sums, the last of round {self.round}>"


def check_description(description: RunDescription) -> None:
    """Raise ConsentError for a description that contradicts itself, naming the field."""
    d, wrong = description, ""
    n = len(d.participants)
    if unreadable := next((text for text in _texts(d) if not (text.isascii() and text.isprintable())), ""):
        wrong = f"{unreadable!r} is not printable ASCII, so what an operator reads could be something else"
    elif d.version != DESCRIPTION_VERSION:
        wrong = f"version is {d.version}, this program knows {DESCRIPTION_VERSION}: install the same on both"
    elif len(set(d.participants)) != n:
        wrong = "participants: a user is named twice"
    elif len(d.weights) != n:
        wrong = f"weights: {len(d.weights)} for {n} participants"
    elif d.cipher and n < 2:
        wrong = "participants: a sum of one update hides nothing"
    elif d.attempts < d.rounds:
        wrong = f"attempts: {d.attempts} are fewer than {d.rounds} rounds"
    elif not (d.smallest_set == n if d.cipher in PAIRWISE else d.smallest_set <= n):
        wrong = f"smallest_set: {d.smallest_set} of {n} participants in mode {d.mode}"
    elif d.cipher == SHARING and not (
        d.colluders < d.survivors <= n and 2 * d.survivors > n + d.colluders and d.survivors <= d.smallest_set
    ):
        wrong = f"survivors: T = {d.colluders}, U = {d.survivors} of {n} do not hide an update"
    elif d.cipher in PAIRWISE and d.levels * sum(d.weights) > largest_sum(d.ring_width):
        wrong = f"ring_width: sums wrap at a ring width of {d.ring_width} bits"
    if wrong:
        raise ConsentError(f"the description of run {d.run_id!r} cannot be agreed to: {wrong}")


def _texts(description: RunDescription) -> tuple[str, ...]:
    """Texts of the description that its author chose and operators read."""
    d = description
    named = (*(each.name for each in d.arrays), *(each.name for each in d.sources))
    return (d.run_id, d.task, d.task_fingerprint, d.data, *d.participants, *named)


def differences(one: RunDescription, other: RunDescription) -> tuple[str, ...]:
    """The terms in which two runs over the same task and data differ; empty where nothing can be compared."""
    if not one.same_subject(other):
        return ()
    return tuple(term for term in TERMS if getattr(one, term) != getattr(other, term))


def check_terms(description: RunDescription, earlier: Iterable[Consent], accept: Sequence[str] = ()) -> None:
    """Raise OtherTermsError unless every earlier run that may be over the same task and data had the same terms.

    ``accept`` names the earlier runs of which the operator accepts what the difference tells.
    """
    for consent in earlier:
        before = consent.description
        changed = differences(description, before)
        if not changed or before.run_id in accept:
            continue
        absent = sorted(set(before.participants) ^ set(description.participants))
        who = f"; {', '.join(absent)} took part in one of them only" if absent else ""
        raise OtherTermsError(
            f"{consent.user} takes part in run {before.run_id!r} over the same task and data, as far as this"
            f" machine can tell, with other {', '.join(changed)}{who}.  From the sums of both {LEAK}.  One who accepts that says so:"
            f" `--accept-leak {before.run_id}`"
        )


def check_round(
    consent: Consent, position: RunPosition | None, context: RoundContext, weight: int | None = None
) -> None:
    """Raise ConsentError unless ``context`` is a round of the run as it was consented to.

    ``position`` is None before the first sum.  ``weight`` is what the update would be multiplied by, None
    where the masking does not do that (``lightsecagg``).
    """
    d, wrong = consent.description, ""
    completed, last = (0, 0) if position is None else (position.completed, position.round)
    if not hmac.compare_digest(context.run, d.digest()) or context.run_id != d.run_id:
        wrong = "it belongs to another run"
    elif context.cipher != d.cipher:
        wrong = f"cipher {context.cipher} where mode {d.mode} was agreed to"
    elif reason := _wrong_set(consent, context):
        wrong = reason
    elif (context.n_values, context.ring_width) != (d.n_values, d.ring_width):
        wrong = (
            f"{context.n_values} values of {context.ring_width} bits where {d.n_values} of {d.ring_width} were"
            " agreed to"
        )
    elif weight is not None and weight != d.weight_of(consent.user):
        wrong = f"weight {weight} where {d.weight_of(consent.user)} was agreed to"
    elif completed >= d.rounds:
        wrong = f"the run is over: its {d.rounds} rounds were summed up"
    elif not last < context.round <= d.attempts:
        wrong = f"its number is not one of {last + 1} to {d.attempts}: numbers are used once"
    elif not hmac.compare_digest(context.model, expected_model(d, position)):
        wrong = "its model does not follow from the last one and the published sum"
    if wrong:
        raise ConsentError(
            f"round {context.round} of run {context.run_id!r} is not as {consent.user} consented: {wrong};"
            " no key was spent"
        )


def _wrong_set(consent: Consent, context: RoundContext) -> str:
    """What is wrong about the participants, or nothing."""
    d, names = consent.description, context.participants
    if d.cipher != SHARING:
        if names == d.participants:
            return ""
        missing = [name for name in d.participants if name not in names]
        return f"participants {', '.join(names)} where {', '.join(d.participants)} were agreed to" + (
            f" ({', '.join(missing)} missing)" if missing else ""
        )
    if names != tuple(name for name in d.participants if name in names) or consent.user not in names:
        return "its participants are not those of the description, each once and in order"
    if len(names) < d.smallest_set:
        return f"{len(names)} participants where at least {d.smallest_set} were agreed to"
    return ""


def expected_model(description: RunDescription, position: RunPosition | None) -> bytes:
    """SHA-256 of the model from which the next round must start."""
    if position is None:
        return bytes.fromhex(description.first_model)
    return hashlib.sha256(position.model).digest()


def next_position(before: RunPosition | None, run: bytes, round_number: int, model: bytes) -> RunPosition:
    """The position after a round, or (0) at the first model; raises ConsentError out of turn."""
    completed, last = (
        (0, -1 if round_number == 0 else 0) if before is None else (before.completed, before.round)
    )
    if round_number <= last:
        raise ConsentError(f"the sum of round {round_number} does not come after round {last}")
    return RunPosition(FORMAT, run, completed + (round_number > 0), round_number, model)
