"""What a client accepts of a round that Flower's server announces, before it trains or asks for a key.

A round of ours is named by (run, round).  What a run is, its description says, to which the user's operator
consented (:mod:`fl.carriers.flower.consenting`).  In Flower's simulation a run's name contains Flower's own number, which
is random and never comes back.
"""

from __future__ import annotations

import re

from fl.carriers.flower.records import RoundAnnouncement
from fl.rounds.client_rules import ClientRefusesError, ClientRules


def run_name(flower_run: int) -> str:
    """The name of a simulated run, after Flower's."""
    return f"flower-{flower_run:016x}"


def check_announcement(
    announcement: RoundAnnouncement, *, user: str, rules: ClientRules, flower_run: int | None, last_round: int
) -> None:
    """Raise ClientRefusesError for a round that ``user`` must take no part in.

    ``flower_run`` is Flower's number where clients are simulated, and None where operators consent to names.
    """
    config = announcement.config
    rules.check_run(user, config)
    if flower_run is not None and not re.fullmatch(rf"{run_name(flower_run)}(-\d+)?", config.run_id):
        raise ClientRefusesError(f"the round belongs to run {config.run_id}, this is {run_name(flower_run)}")
    if config.error_feedback:
        raise ClientRefusesError("error feedback is not kept between the messages of a Flower run")
    rules.check_round(user, config, announcement.round, announcement.participants, last_round)


def check_evaluation(number: int, *, last_round: int, last_evaluation: int) -> None:
    """Raise ClientRefusesError unless this is the one evaluation that may follow the last round."""
    if not last_evaluation < number == last_round:
        raise ClientRefusesError(
            f"an evaluation after round {number} is not due: round {last_round} was the last, and a model is "
            "evaluated once after each"
        )
