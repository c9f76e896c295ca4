"""What a client answers at the end of a ``lightsecagg`` round, and what it refuses to answer.

The server names the survivors.  The client binds itself to this list, durably (:mod:`fl.modes.answers`), and tells
every other holder of shares so, under a one-time key of their pair.  Only when U clients (itself included) have said
the same does it answer with the sum of the survivors' shares.  A server that names different lists gets U
confirmations for at most one of them, and an answer to no other.  After a restart the shares are gone: a stored
answer is repeated, and nothing else is answered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl.modes.answers import AnswerBook
from fl.modes.base import RoundShares
from fl.rounds.client_rules import ClientRefusesError, ClientRules
from fl.rounds.config import FLConfig
from fl.rounds.messages import Answer, Confirm, Confirmed, Survivors, header_of
from orchestrator.bits import PackedBits
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.sharing import TAG_BYTES


class SharesGoneError(ClientRefusesError):
    """This process does not hold the shares of the round."""


@dataclass
class Answerer:
    """The client ``name`` in one run; ``book`` outlives the process.  Use from one thread."""

    name: str
    config: FLConfig
    rules: ClientRules
    book: AnswerBook
    _asked: Survivors | None = None

    def confirm(
        self, message: Survivors, held_shares: RoundShares | None
    ) -> tuple[Confirm, npt.NDArray[np.uint8]] | tuple[Answer, PackedBits]:
        """The confirmation of these survivors, or the answer that was given before a restart.

        Beside a confirmation stand its tags, uint8 of shape (peers, 16), beside an answer its packed symbols.

        Raises ClientRefusesError, AnswerRefusedError or AnswerBookError.
        """
        self.rules.check_survivors(self.name, self.config, message)
        if held_shares is None or not _same_round(message, held_shares.context):
            return self._repeat(message)
        if (message.participants, message.holders) != (held_shares.context.participants, held_shares.senders):
            raise ClientRefusesError(
                f"shares came from {', '.join(held_shares.senders)}; the server names {', '.join(message.holders)}"
            )
        self._bind(message)
        self._asked = message
        proofs = held_shares.confirmations(message.survivors)
        rows = [np.frombuffer(proofs[peer], np.uint8) for peer in message.holders if peer != self.name]
        tags = np.stack(rows) if rows else np.zeros((0, TAG_BYTES), np.uint8)
        return Confirm(message.run_id, message.round, message.survivors, header_of(tags)), tags

    def answer(
        self, message: Confirmed, tags: npt.NDArray[np.uint8], held_shares: RoundShares | None
    ) -> tuple[Answer, PackedBits]:
        """The answer for the survivors that U clients are bound to, by ``tags`` (uint8, shape (holders, 16)).

        Raises as :meth:`confirm` does.
        """
        asked = self._asked
        if asked is None or held_shares is None or not _same_round(asked, message, held_shares.context):
            raise SharesGoneError(f"{self.name} was not asked about round {message.round}")
        if tags.shape != (len(message.holders), TAG_BYTES):
            raise ClientRefusesError(f"{len(message.holders)} holders with tags of shape {tags.shape}")
        agreed = {
            peer
            for peer, tag in zip(message.holders, tags, strict=True)
            if held_shares.is_confirmed(peer, asked.survivors, tag.tobytes())
        }
        needed = self._needed
        if len(agreed) + 1 < needed:
            raise ClientRefusesError(
                f"{len(agreed) + 1} clients are known to be bound to the survivors of round {message.round}, "
                f"U = {needed} are needed: the others were told another list, or did not hear"
            )
        packed = self.book.answer(
            asked.run_id,
            asked.round,
            asked.survivors,
            lambda: held_shares.answer(asked.survivors),
            participants=asked.participants,
            needed=needed,
            confirmed_by=(*agreed, self.name),
        )
        return Answer(asked.run_id, asked.round, asked.survivors, header_of(packed)), packed

    @property
    def _needed(self) -> int:
        return self.config.thresholds[1]

    def _bind(self, message: Survivors) -> None:
        self.book.confirm(
            message.run_id,
            message.round,
            message.survivors,
            participants=message.participants,
            needed=self._needed,
        )

    def _repeat(self, message: Survivors) -> tuple[Answer, PackedBits]:
        def gone() -> PackedBits:
            raise SharesGoneError(
                f"{self.name} holds no shares of round {message.round}: it was restarted, or cut off"
            )

        packed = self.book.answer(
            message.run_id,
            message.round,
            message.survivors,
            gone,
            participants=message.participants,
            needed=self._needed,
        )
        return Answer(message.run_id, message.round, message.survivors, header_of(packed)), packed


def _same_round(*named: Survivors | Confirmed | RoundContext) -> bool:
    """Shares answer for their own round only: a list that was confirmed in an earlier one binds nobody in it."""
    return len({(each.run_id, each.round) for each in named}) == 1
