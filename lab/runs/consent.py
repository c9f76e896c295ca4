"""Consents to training runs: an operator reads what a run is and what it tells, and agrees or does not.

The consent goes into the private state of the user's learning client on this machine, where its delivery client
looks before it asks the node for a single bit of key.  Demonstrations consent for their own simulated users with
the same book.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lab.runs.testbeds.folder import SECRETS, STATE, own_testbed
from lab.testbed import load_testbed
from orchestrator.delivery.consent import RunDescription
from orchestrator.delivery.consent_book import ConsentBook, read_run_file

JOURNAL = "journal"
"""In a learning client's state folder: what it masked, and what its operator consented to."""


class ConsentMissingError(Exception):
    """Users on this machine take part in a run to which their operators have not consented."""


def book_of(user: str, state: Path) -> ConsentBook:
    """The consents of a user whose learning client keeps its state below ``state``."""
    return ConsentBook(state / f"fl-{user}" / JOURNAL)


def consent_of_simulated(run_file: Path, users: Iterable[str], state: Path) -> tuple[str, ...]:
    """Agree to a run for simulated users, whatever they agreed to before; who they are."""
    description, agreed = read_run_file(run_file), tuple(users)
    for user in agreed:
        book = book_of(user, state)
        book.give(user, description, sorted({each.description.run_id for each in book.consents()}))
    return agreed


def missing_consents(run_file: Path, users: Iterable[str], testbed: Path, state: Path) -> None:
    """Raise ConsentMissingError unless every one of these users consented to the run."""
    description = read_run_file(run_file)
    lacking = [user for user in users if book_of(user, state).find(description.digest()) is None]
    if lacking:
        commands = "\n".join(f"  {command_for(run_file, user, testbed)}" for user in lacking)
        raise ConsentMissingError(
            f"the operators of {', '.join(lacking)} have not consented to run {description.run_id}; nothing was "
            f"spent.  They read it and agree with\n{commands}\nthen start this run again with --resume"
        )


def command_for(run_file: Path, user: str, testbed: Path) -> str:
    """What the operator of ``user`` runs."""
    return f"qunetlab fl consent {run_file} --user {user} --testbed {testbed}"


def who_and_where(
    description: RunDescription, user: str | None, testbed: Path | None, state: Path | None
) -> tuple[str, Path]:
    """The user whose consent it is, and the folder of states; raises ValueError saying what to give."""
    if user is not None and state is not None and testbed is None:
        return _participant(description, user), state
    file = own_testbed(testbed or Path())
    users = load_testbed(file).user_names()
    if user is None:
        here = [each for each in users if (file.parent / SECRETS / f"fl-{each}").is_dir()]
        if len(here) != 1:
            raise ValueError(
                f"say whose consent this is, with --user: on this machine are {', '.join(here) or 'no users'}"
            )
        user = here[0]
    if user not in users:
        raise ValueError(f"--user {user}: no such user in {file}; users are {', '.join(users)}")
    return _participant(description, user), state or file.parent / STATE


def _participant(description: RunDescription, user: str) -> str:
    if user not in description.participants:
        raise ValueError(
            f"--user {user}: not among the participants of run {description.run_id}:"
            f" {', '.join(description.participants)}"
        )
    return user
