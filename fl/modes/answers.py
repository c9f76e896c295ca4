"""The rule that keeps a LightSecAgg round private: one list of survivors per client and round, for ever.

An answer is the sum of the shares that a client holds of the survivors named by the server.  Two answers for
different lists can be subtracted; for the list {i} it is a share of client i's own mask; so a client binds a
round to the first acceptable list it hears, and to nothing else afterwards.

:class:`AnswerBook` keeps list and answer in one file per run, replaced atomically and durable before the
caller gets the answer to send: file, then rename, then folder.  After a crash the same question gets the
stored answer, and any other question of the round is refused.  Round numbers of a run only grow, so the book
holds the latest round and refuses earlier ones.

:meth:`AnswerBook.confirm` binds the round to a list without answering.  Clients that tell each other, under
authentication, which list they are bound to, and answer only once U of them (themselves included) are bound
to the same one, cannot be split: two lists with U confirmations each share more than T clients, hence an
honest one, which confirms once.  Without that step a dishonest server gets N-U further answers for a second
list: too few to decode a mask, enough to search for small values (:mod:`fl.modes.shares`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from orchestrator import runtime
from orchestrator.bits import PackedBits
from orchestrator.durable import locked, make_folder, replace_file
from orchestrator.wire.codec import Message, WireError, decode, encode

FORMAT = 1


class AnswerRefusedError(Exception):
    """The question breaks a rule of privacy; it must stay without an answer."""


class AnswerBookError(Exception):
    """The book cannot be read or written; without it nothing may be answered."""


class BookEntry(Message, frozen=True):
    """The latest round of a run: its list, and the answer once there is one."""

    format: int
    run_id: str
    round: int
    participants: tuple[str, ...]
    survivors: tuple[str, ...]
    answer: bytes | None

    def __repr__(self) -> str:
        return f"<BookEntry: run {self.run_id!r}, round {self.round}>"


class AnswerBook:
    """The answers of one client, in ``folder``; several threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads = runtime.lock()

    def confirm(
        self,
        run_id: str,
        round_number: int,
        survivors: Sequence[str],
        *,
        participants: Sequence[str],
        needed: int,
    ) -> tuple[str, ...]:
        """Bind the round to ``survivors``, durable on return; gives them in the participants' order.

        Raises AnswerRefusedError and AnswerBookError like :meth:`answer`.
        """
        listed = check_survivors(survivors, participants, needed)
        with self._locked():
            self._bound(run_id, round_number, listed, tuple(participants))
        return listed

    def answer(
        self,
        run_id: str,
        round_number: int,
        survivors: Sequence[str],
        compute: Callable[[], PackedBits],
        *,
        participants: Sequence[str],
        needed: int,
        confirmed_by: Collection[str] | None = None,
    ) -> PackedBits:
        """The answer for ``survivors``: that of ``compute`` the first time, the stored one afterwards.

        ``participants`` are the N clients among whom the round's shares were exchanged, ``needed`` is U.
        ``confirmed_by`` names those that are known, under authentication end to end, to be bound to this very
        list, this client among them; None where clients exchange no confirmations, with the leak described
        above.  Raises AnswerRefusedError for fewer than U survivors or confirmations, strangers or a name
        twice, and for another list or an earlier round than the book holds; AnswerBookError where the answer
        cannot be made durable.
        """
        listed = check_survivors(survivors, participants, needed)
        if confirmed_by is not None:
            confirmed = set(confirmed_by).intersection(participants)
            if len(confirmed) < needed:
                raise AnswerRefusedError(
                    f"{len(confirmed)} participants confirmed this list of survivors; U = {needed} are needed, or"
                    " the server could get answers for another list from the others"
                )
        with self._locked():
            entry = self._bound(run_id, round_number, listed, tuple(participants))
            if entry.answer is None:
                entry = BookEntry(
                    FORMAT, run_id, round_number, entry.participants, listed, compute().tobytes()
                )
                self._write(entry)
        assert entry.answer is not None
        return np.frombuffer(bytearray(entry.answer), np.uint8)

    def _bound(
        self, run_id: str, round_number: int, survivors: tuple[str, ...], participants: tuple[str, ...]
    ) -> BookEntry:
        """The entry that binds this round to this list, made durable if the round is a new one."""
        entry = self._read(run_id)
        if entry is None or round_number > entry.round:
            entry = BookEntry(FORMAT, run_id, round_number, participants, survivors, None)
            self._write(entry)
        if round_number < entry.round:
            raise AnswerRefusedError(
                f"round {round_number} of run {run_id!r} is over: round {entry.round} has had its list"
            )
        if entry.participants != participants:
            raise AnswerRefusedError(
                f"round {round_number} of run {run_id!r} was bound with other participants; begin a new round"
            )
        if entry.survivors != survivors:
            raise AnswerRefusedError(
                f"round {round_number} of run {run_id!r} is bound to other survivors:"
                f" {_difference(entry.survivors, survivors)}; two sums would reveal the difference"
            )
        return entry

    def _path(self, run_id: str) -> Path:
        return self.folder / f"answers-{hashlib.sha256(run_id.encode()).hexdigest()[:32]}.book"

    def _read(self, run_id: str) -> BookEntry | None:
        path = self._path(run_id)
        try:
            entry = decode(path.read_bytes(), BookEntry)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AnswerBookError(f"cannot read {path}: {error.strerror}") from error
        except WireError as error:
            raise AnswerBookError(
                f"{path} is damaged ({error}); what was answered is unknown, so run {run_id!r} gets no"
                " further answers: start a run under another id"
            ) from error
        if entry.format != FORMAT or entry.run_id != run_id:
            raise AnswerBookError(f"{path} is not the book of run {run_id!r} in format {FORMAT}")
        return entry

    def _write(self, entry: BookEntry) -> None:
        path = self._path(entry.run_id)
        try:
            replace_file(path, encode(entry), 0o600)
        except OSError as error:
            raise AnswerBookError(
                f"cannot keep the answer in {path} ({error.strerror}); it must not be sent: free space"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the book, among threads and processes."""
        with self._threads, ExitStack() as stack:
            try:
                make_folder(self.folder)
                stack.enter_context(locked(self.folder / ".answers.lock"))
            except OSError as error:
                raise AnswerBookError(f"cannot open the book in {self.folder}: {error.strerror}") from error
            yield


def check_survivors(survivors: Sequence[str], participants: Sequence[str], needed: int) -> tuple[str, ...]:
    """``survivors`` in the order of ``participants``; raises AnswerRefusedError where the list is no good."""
    named = set(survivors)
    strangers = sorted(named.difference(participants))
    if strangers:
        raise AnswerRefusedError(f"no participants of this round: {', '.join(strangers)}")
    if len(named) != len(survivors):
        twice = sorted(name for name in named if list(survivors).count(name) > 1)
        raise AnswerRefusedError(f"named twice among the survivors: {', '.join(twice)}")
    if len(set(participants)) != len(participants):
        raise AnswerRefusedError("the participants of the round are not all different")
    if len(named) < needed:
        raise AnswerRefusedError(
            f"a list of {len(named)} survivors reveals the sum of too few: at least U = {needed} are needed"
        )
    return tuple(name for name in participants if name in named)


def _difference(bound: tuple[str, ...], asked: tuple[str, ...]) -> str:
    gone = [f"without {name}" for name in bound if name not in asked]
    come = [f"with {name}" for name in asked if name not in bound]
    return f"asked for a list {', '.join(gone + come)}"
