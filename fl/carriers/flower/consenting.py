"""A client's side of a run's description: was it consented to, and does the announced round follow from it?

The rule is that of every learning client of ours (:mod:`orchestrator.delivery.consent`), and the delivery client
checks it again before it asks the node for a pad.  It is asked here first, so that nothing is trained for a round
that gets none.

*Who consents.*  On a SuperNode the user's operator, with ``qunetlab fl consent``, into the folder of the node's
journal.  In Flower's simulation there is no operator and nothing to protect: a simulated client consents to
whatever it is offered, says so in its log, and keeps that in ``Context.state``.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from flwr.app import ConfigRecord, Context

from fl.carriers.flower.call import Call
from fl.carriers.flower.handed import handed_digest, is_task, settings_digest, tells_round
from fl.carriers.flower.records import RoundAnnouncement, payload_bytes
from fl.modes.base import Aggregation
from fl.rounds.aggregation import aggregation_for
from fl.rounds.client_rules import ClientRefusesError
from fl.rounds.following import FollowedModel, SumRefusedError
from fl.workloads.base import Parameters
from orchestrator.bits import packed_size
from orchestrator.delivery.consent import (
    FORMAT,
    Consent,
    RunDescription,
    RunPosition,
    check_round,
    next_position,
)
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.delivery.errors import ConsentError
from orchestrator.delivery.messages import RoundContext
from orchestrator.wire.codec import Message, decode, encode

T = TypeVar("T", bound=Message)

STATE = "qunetlab-consent"

_log = logging.getLogger(__name__)


class SimulatedConsents(ConsentBook):
    """The one consent of a simulated client, and how far its run is, in ``Context.state``."""

    def __init__(self, context: Context, user: str) -> None:
        super().__init__(Path())
        self._context = context
        self._user = user

    def agree(self, description: RunDescription) -> Consent:
        """Consent to ``description``; raises ConsentError where its run was described otherwise before."""
        before = self._read_state("consent", Consent)
        if before is not None and before.description.run_id == description.run_id:
            raise ConsentError(f"run {description.run_id!r} was described otherwise before")
        consent = Consent(FORMAT, self._user, description)
        self._context.state[STATE] = ConfigRecord({"consent": encode(consent)})
        _log.warning("%s is simulated: it consents to run %s by itself", self._user, description.name)
        return consent

    def find(self, run: bytes) -> Consent | None:
        consent = self._read_state("consent", Consent)
        return consent if consent is not None and consent.description.digest() == run else None

    def position(self, run: bytes) -> RunPosition | None:
        position = self._read_state("position", RunPosition)
        return position if position is not None and position.run == run else None

    def _move(self, run: bytes, round_number: int, model: bytes) -> RunPosition:
        position = next_position(self.position(run), run, round_number, model)
        self._context.state[STATE] = ConfigRecord(
            {**self._context.state.config_records[STATE], "position": encode(position)}
        )
        return position

    def _read_state(self, what: str, kind: type[T]) -> T | None:
        record = self._context.state.config_records.get(STATE)
        data = None if record is None else record.get(what)
        return decode(data, kind) if isinstance(data, bytes) else None


@dataclass(frozen=True)
class Standing:
    """A round of a run that was consented to: how it adds up, and the model as the client itself knows it.

    ``followed`` is None before the client has seen a model of the run.
    """

    aggregation: Aggregation
    book: ConsentBook
    consent: Consent
    followed: FollowedModel | None

    def check(self, context: RoundContext, weight: int | None = None) -> None:
        """Raise ClientRefusesError unless ``context`` is a round of the run as it was consented to."""
        try:
            check_round(self.consent, self.book.position(context.run), context, weight)
        except ConsentError as error:
            raise ClientRefusesError(str(error)) from error


def begin(call: Call, aggregation: Aggregation, model: Parameters) -> None:
    """Keep the first model of a run once it has been seen: what comes after it is worked out from it."""
    book = _book(call)
    if book.position(aggregation.run) is None:
        book.begin(aggregation.run, np.ascontiguousarray(model, "<f4").tobytes())


def stand(call: Call, announcement: RoundAnnouncement) -> Standing:
    """Where this client stands with the announced round, after the sums that came with it.

    Raises ClientRefusesError for a run that nobody consented to here, for an app that was handed something
    else, and for sums that cannot be.
    """
    _check_settings(call, announcement)
    aggregation = aggregation_for(announcement.config, announcement.n_parameters, announcement.first_model)
    book = _book(call)
    consent = _consent(call, book, aggregation)
    try:
        followed = _follow(call, announcement, aggregation, book)
    except SumRefusedError as error:
        raise ClientRefusesError(str(error)) from error
    return Standing(aggregation, book, consent, followed)


def check_handed(call: Call, announcement: RoundAnnouncement) -> None:
    """Raise ClientRefusesError where the app would be handed something else than in the run's other rounds."""
    if not hmac.compare_digest(handed_digest(call.message.content), announcement.handed):
        raise ClientRefusesError(
            "the records for the app (other arrays, settings) are not those of the run's description"
        )
    if not tells_round(call.message.content, announcement.round):
        raise ClientRefusesError("the app would be told another round")


def _check_settings(call: Call, announcement: RoundAnnouncement) -> None:
    if not is_task(announcement.config.task, announcement.handed, announcement.settings):
        raise ClientRefusesError("the run's task does not name what its app is handed")
    if announcement.config.task_fingerprint:
        raise ClientRefusesError(
            "the run's task has a fingerprint, which no Flower node can compare with its own"
        )
    own = settings_digest(call.context.run_config)
    if call.participant.keys is not None and not hmac.compare_digest(own, announcement.settings):
        raise ClientRefusesError(
            "the run configuration of this node's app is not the one in the run's description"
        )


def _book(call: Call) -> ConsentBook:
    participant = call.participant
    if participant.keys is None:
        return SimulatedConsents(call.context, participant.user)
    return ConsentBook(participant.journal_folder)


def _consent(call: Call, book: ConsentBook, aggregation: Aggregation) -> Consent:
    described, user = aggregation.description, call.participant.user
    consent = book.find(aggregation.run)
    if consent is None and isinstance(book, SimulatedConsents):
        try:
            return book.agree(described)
        except ConsentError as error:
            raise ClientRefusesError(str(error)) from error
    if consent is None:
        offered = book.keep_offer(described)
        _log.error("what the server offers stands in %s: `qunetlab fl consent` shows what it means", offered)
        raise ClientRefusesError(
            f"{user} has not consented to run {described.run_id} with description {described.name}: its operator "
            "reads the run file with `qunetlab fl consent RUNFILE` and agrees or not; no key was spent"
        )
    if consent.user != user:
        raise ClientRefusesError(f"the consent to run {described.run_id} that is kept here is not {user}'s")
    return consent


def _follow(
    call: Call, announcement: RoundAnnouncement, aggregation: Aggregation, book: ConsentBook
) -> FollowedModel | None:
    """Work out the model from the sums beside the announcement."""
    catch_up, data = announcement.catch_up, payload_bytes(call.message.content)
    size = 4 * announcement.n_parameters if catch_up.first else 0
    step = packed_size(aggregation.n_values * announcement.config.ring_width)
    if len(data) != size + step * len(catch_up.sums):
        raise SumRefusedError("the sums beside the announcement are not of the size of the run's")
    first = np.frombuffer(data[:size], "<f4").astype(np.float32) if catch_up.first else None
    if book.position(aggregation.run) is None:
        if first is None:
            if catch_up.sums:
                raise SumRefusedError(f"the first model of run {announcement.config.run_id} is not here")
            return None
        FollowedModel(announcement.config, aggregation, first, None)  # is it the one in the description?
        book.begin(aggregation.run, np.ascontiguousarray(first, "<f4").tobytes())
    followed = FollowedModel(announcement.config, aggregation, None, book)
    packed = np.frombuffer(data[size:], np.uint8).reshape(len(catch_up.sums), step)
    for head, row in zip(catch_up.sums, packed, strict=True):
        followed.follow(head.round, head.survivors, row)
    return followed
