"""Evaluation of the model by the participants' apps after a round: proved requests, coarse answers.

A client looks at one model after each round, that of the announced digest, and tells what its user made public
(:mod:`fl.carriers.flower.leaving`): nothing at all unless a user has said otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import msgspec
from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl.carriers.flower.exchange import read_answer
from fl.carriers.flower.identity import IdentityError
from fl.carriers.flower.leaving import mean_metrics
from fl.carriers.flower.published import PublishedRun
from fl.carriers.flower.records import (
    CONFIG,
    PAYLOAD,
    Evaluated,
    Evaluation,
    beside_digest,
    payload_record,
    record_of,
)
from fl.carriers.flower.roster import Roster
from orchestrator.wire.codec import WireError, encode

_log = logging.getLogger(__name__)


def evaluation_messages(
    roster: Roster,
    grid: Grid,
    order: Evaluation,
    users: Sequence[str],
    published: PublishedRun,
    content: RecordDict,
) -> list[Message]:
    """The message ``order`` to each of ``users``, with the model (``content``) and the sums from which it follows."""
    messages = []
    for user in users:
        catch_up, sums = published.catch_up(user)
        own = msgspec.structs.replace(order, last=msgspec.structs.replace(order.last, catch_up=catch_up))
        records = RecordDict(dict(content))
        if sums.size:
            records[PAYLOAD] = payload_record(sums)
        proof = roster.tag(user, int(grid.run.run_id), encode(own), beside_digest(sums.tobytes()))
        records[CONFIG] = record_of(own, proof)
        messages.append(
            Message(
                records,
                dst_node_id=roster.nodes[user],
                message_type=MessageType.EVALUATE,
                group_id=str(order.last.round),
            )
        )
    return messages


def evaluation_metrics(
    roster: Roster, flower_run: int, order: Evaluation, published: PublishedRun, replies: Iterable[Message]
) -> MetricRecord | None:
    """The means of what users told, by their public weights; None where nobody told anything."""
    settings, told = order.last.config, {}
    for reply in replies:
        user = roster.user_of(reply.metadata.src_node_id)
        if user is None or user not in settings.clients:
            continue
        try:
            given = read_answer(roster, user, flower_run, reply)
        except (WireError, IdentityError) as error:
            _log.warning("%s told nothing of the model: %s", user, error)
            continue
        if given.answer == Evaluated(settings.run_id, order.last.round):
            published.followed((user,))
            told[user] = given.told
        else:
            _log.warning(
                "%s told nothing of the model: %s", user, getattr(given.answer, "reason", "another answer")
            )
    means = mean_metrics(told, dict(zip(settings.clients, settings.client_weights, strict=True)))
    return MetricRecord(dict(means)) if means else None
