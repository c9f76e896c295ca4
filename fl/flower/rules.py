"""What a client accepts of a round that Flower's server announces; pure functions, used by both sides.

A round of ours is named by (run, round).  The run's name contains Flower's own run number, which is random
and never comes back, so a round number that is used once within a Flower run is used once for ever.
"""

from __future__ import annotations

import numpy as np

from fl.config import Mode, check_config
from fl.flower.records import RoundAnnouncement
from fl.tasks.base import Parameters


class RoundRefusedError(Exception):
    """A round that this client takes no part in; the text says what is wrong with it."""


def run_name(flower_run: int) -> str:
    """The name of a Flower run for the nodes' ledgers."""
    return f"flower-{flower_run:016x}"


def check_announcement(
    announcement: RoundAnnouncement,
    *,
    user: str,
    mode: Mode,
    min_participants: int,
    flower_run: int,
    last_round: int,
    model: Parameters,
) -> None:
    """Raise RoundRefusedError, or the ValueError of a wrong setting, for a round that ``user`` must not mask."""
    config, participants = announcement.config, announcement.participants
    check_config(config)
    if config.run_id != run_name(flower_run):
        raise RoundRefusedError(f"the round belongs to run {config.run_id}, this is {run_name(flower_run)}")
    if config.mode != mode:
        raise RoundRefusedError(f"the run wants mode {config.mode}, {user} takes part in {mode} only")
    if config.error_feedback:
        raise RoundRefusedError(
            "error feedback is not kept between the messages of a Flower run; switch it off"
        )
    if announcement.round <= last_round:
        raise RoundRefusedError(
            f"round {announcement.round} does not come after round {last_round}: numbers are used once"
        )
    if participants != tuple(name for name in config.clients if name in participants):
        raise RoundRefusedError("participants must be clients of the run, each once, in the run's order")
    if user not in participants:
        raise RoundRefusedError(f"{user} is not among the participants")
    if len(participants) < min_participants:
        raise RoundRefusedError(
            f"{len(participants)} participants would let the sum tell too much about each: {user} asks for "
            f"at least {min_participants}"
        )
    if not np.isfinite(model).all():
        raise RoundRefusedError("the global model holds NaN or infinity")
