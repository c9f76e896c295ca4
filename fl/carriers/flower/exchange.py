"""A round at the server in Flower's terms: the messages that its present stage sends, and the replies that it reads.

:class:`fl.rounds.engine.CollectingRound` decides which stage a round is in and what it accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl.carriers.flower.leaving import read_told
from fl.carriers.flower.published import PublishedRun
from fl.carriers.flower.records import (
    CONFIG,
    PAYLOAD,
    Bytes,
    Confirmation,
    Evaluated,
    FromClient,
    RoundAnnouncement,
    beside_digest,
    open_record,
    payload_array,
    payload_bytes,
    payload_record,
    record_of,
    told_bytes,
)
from fl.carriers.flower.roster import Roster
from fl.modes.base import Aggregation
from fl.rounds.clipping import LossBands, clipping_of
from fl.rounds.compression import Compression
from fl.rounds.engine import CollectingRound
from fl.rounds.messages import Confirmed, Decline, PeerShares, Survivors, header_of
from orchestrator.events.learning import Clipping
from orchestrator.wire.codec import Message as Struct
from orchestrator.wire.codec import WireError, encode

NOTHING: Bytes = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class OpenRound:
    """One round: announced as ``announcement``, collecting in ``collecting``, moving ``model``."""

    announcement: RoundAnnouncement
    collecting: CollectingRound
    model: ArrayRecord
    grid: Grid
    published: PublishedRun
    losses: list[LossBands | None] = field(default_factory=list)
    """Losses by clip and rounding that the uploading clients told."""

    @property
    def clipping(self) -> Clipping | None:
        """Losses by clip and rounding in this round; None before the first upload."""
        return clipping_of(self.losses)

    @property
    def clip(self) -> tuple[float, int]:
        """(clip, levels) of this round."""
        compression = Compression.from_config(self.announcement.config)
        return compression.clip * compression.decayed(self.announcement.round), compression.levels

    @property
    def aggregation(self) -> Aggregation:
        return self.published.aggregation

    @property
    def flower_run(self) -> int:
        return int(self.grid.run.run_id)

    @property
    def sharing(self) -> bool:
        """Do clients exchange shares before they train?"""
        return self.collecting.stage == "sharing"

    def messages(self, roster: Roster, content: RecordDict) -> list[Message]:
        """What the present stage sends to each member, beside ``content``."""
        return [self._message(roster, user, content) for user in self.collecting.members]

    def _message(self, roster: Roster, user: str, content: RecordDict) -> Message:
        order, payload = self._order(user)
        records = RecordDict(dict(content))
        digest = b""
        if payload.size:
            beside = payload_record(payload)
            records[PAYLOAD] = beside
            digest = beside_digest(beside["bytes"].data)
        records[CONFIG] = record_of(order, roster.tag(user, self.flower_run, encode(order), digest))
        return Message(
            records,
            dst_node_id=roster.nodes[user],
            message_type=MessageType.TRAIN,
            group_id=str(self.announcement.round),
        )

    def _order(self, user: str) -> tuple[Struct, Bytes]:
        """What ``user`` needs to give its part, and the bytes beside it."""
        now = self.collecting
        if now.stage == "uploading" and now.rules.survivors is not None:
            senders, rows = now.shares_for(user)
            return PeerShares(now.run_id, now.number, senders, header_of(rows)), rows
        if now.stage in ("sharing", "uploading"):
            catch_up, sums = self.published.catch_up(user)
            return msgspec.structs.replace(self.announcement, catch_up=catch_up), sums
        survivors = Survivors(now.run_id, now.number, now.participants, now.holders, now.survivors)
        if now.stage == "confirming":
            return survivors, NOTHING
        holders, tags = now.confirmations_for(user)
        return Confirmation(survivors, Confirmed(now.run_id, now.number, holders, header_of(tags))), tags


@dataclass(frozen=True)
class Given:
    """What a user replied: ``answer``, the bytes beside it, and the metrics that it tells in the clear."""

    answer: FromClient
    payload: Bytes
    told: Mapping[str, float]


def read_answer(roster: Roster, user: str, flower_run: int, reply: Message) -> Given:
    """What ``user`` replied; raises WireError, or IdentityError where the proof is missing."""
    if reply.has_error():
        raise WireError(f"the client failed: {reply.error.reason}")
    answer: FromClient
    answer, data, tag = open_record(reply.content, FromClient)
    payload, told = payload_bytes(reply.content), told_bytes(reply.content)
    roster.check(user, flower_run, tag, data, beside_digest(payload, told))
    if isinstance(answer, Decline | Evaluated):
        return Given(answer, NOTHING, read_told(told))
    return Given(answer, payload_array(answer.header, payload), read_told(told))
