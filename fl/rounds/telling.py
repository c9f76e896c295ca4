"""What the server is told of a fault at a client: texts of ours about its own announcement, and nothing else.

The text of any other exception may hold a value of the update, a datum of the user's or a place on the client's
machine.  It stays in the client's own log.
"""

from __future__ import annotations

from fl.keys.node import CancelledError, KeyServiceError
from fl.modes.answers import AnswerRefusedError
from fl.rounds.client_rules import ClientRefusesError
from fl.rounds.quantise import UpdateNotFiniteError
from orchestrator.delivery.errors import ConsentError, JournalError, OutputLostError
from orchestrator.wire.codec import WireError

OUR_WORDS = (ClientRefusesError, AnswerRefusedError, CancelledError, WireError)
"""Exceptions whose texts are made of announcements and of public settings only."""


def told_reason(error: BaseException) -> str | None:
    """What the server is told of ``error``; None where it learns only that there was a fault."""
    match error:
        case UpdateNotFiniteError():  # it names the place and the value
            return "the update is not finite"
        case KeyServiceError() if not _names_a_place(error):
            return str(error)
        case _ if isinstance(error, OUR_WORDS):
            return str(error)
    return None


def _names_a_place(error: KeyServiceError) -> bool:
    """Is this about a file of the client's, rather than about a round?"""
    cause = error.__cause__
    about_a_round = isinstance(cause, OutputLostError) and cause.__cause__ is None
    return isinstance(cause, JournalError | ConsentError) and not about_a_round
