"""What the participants' apps make of the model after a round: asked under the bond, told in coarse shares.

A client looks at one model after each round, that of the announced digest, and tells what its user made public
(:mod:`fl.flower.leaving`): nothing at all unless a user has said otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl.config import FLConfig
from fl.flower.exchange import read_answer
from fl.flower.identity import IdentityError
from fl.flower.leaving import mean_metrics
from fl.flower.records import CONFIG, Evaluated, Evaluation, record_of
from fl.flower.roster import Roster
from orchestrator.wire.codec import WireError, encode

_log = logging.getLogger(__name__)


def evaluation_messages(
    roster: Roster, grid: Grid, order: Evaluation, users: Sequence[str], content: RecordDict
) -> list[Message]:
    """``order`` for each of ``users``, beside the model in ``content``."""
    messages = []
    for user in users:
        records = RecordDict(dict(content))
        records[CONFIG] = record_of(order, roster.tag(user, int(grid.run.run_id), encode(order), b""))
        messages.append(
            Message(
                records,
                dst_node_id=roster.nodes[user],
                message_type=MessageType.EVALUATE,
                group_id=str(order.round),
            )
        )
    return messages


def evaluation_metrics(
    roster: Roster, flower_run: int, order: Evaluation, settings: FLConfig, replies: Iterable[Message]
) -> MetricRecord | None:
    """The means of what users told, by their public weights; None where nobody told anything."""
    told = {}
    for reply in replies:
        user = roster.user_of(reply.metadata.src_node_id)
        if user is None or user not in settings.clients:
            continue
        try:
            given = read_answer(roster, user, flower_run, reply)
        except (WireError, IdentityError) as error:
            _log.warning("%s told nothing of the model: %s", user, error)
            continue
        if given.answer == Evaluated(order.run_id, order.round):
            told[user] = given.told
        else:
            _log.warning(
                "%s told nothing of the model: %s", user, getattr(given.answer, "reason", "another answer")
            )
    means = mean_metrics(told, dict(zip(settings.clients, settings.client_weights, strict=True)))
    return MetricRecord(dict(means)) if means else None
