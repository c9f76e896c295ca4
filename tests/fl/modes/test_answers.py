"""The book of answers: once per round, only for enough survivors, and still so after a crash."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.modes.answers import AnswerBook, AnswerBookError, AnswerRefusedError, check_survivors
from orchestrator import durable

ALL = ("alice", "bob", "charlie", "dora")
Answer = npt.NDArray[np.uint8]


def never() -> Answer:
    raise AssertionError("this question must not be computed")


def gives(*numbers: int) -> Callable[[], Answer]:
    return lambda: np.array(numbers, np.uint8)


def ask(
    book: AnswerBook, survivors: tuple[str, ...], compute: Callable[[], Answer] = never, round_: int = 1
) -> list[int]:
    return book.answer("run", round_, survivors, compute, participants=ALL, needed=3).tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "client" / "answers"


def test_the_same_question_gets_the_stored_answer(folder: Path) -> None:
    book = AnswerBook(folder)
    assert ask(book, ALL[:3], gives(1, 2)) == [1, 2]
    assert ask(book, ALL[:3]) == [1, 2]
    assert ask(book, ("charlie", "alice", "bob")) == [1, 2]
    assert ask(AnswerBook(folder), ALL[:3]) == [1, 2]


@pytest.mark.parametrize("restart", [False, True])
def test_another_list_is_refused(folder: Path, restart: bool) -> None:
    book = AnswerBook(folder)
    ask(book, ALL, gives(1))
    if restart:
        book = AnswerBook(folder)
    for other in (ALL[:3], ALL[1:]):
        with pytest.raises(AnswerRefusedError, match="is bound to other survivors: asked for a list without"):
            ask(book, other)
    assert ask(book, ALL) == [1]


@pytest.mark.parametrize(
    ("survivors", "reason"),
    [
        (("alice",), "at least U = 3"),
        ((), "at least U = 3"),
        (("alice", "bob"), "list of 2 survivors"),
        (("alice", "bob", "bob"), "named twice among the survivors: bob"),
        (("alice", "alice", "bob", "charlie"), "named twice among the survivors: alice"),
        (("alice", "bob", "mallory"), "no participants of this round: mallory"),
        ((*ALL, "mallory"), "no participants of this round: mallory"),
    ],
)
def test_lists_that_are_no_good_are_refused_and_bind_nothing(
    folder: Path, survivors: tuple[str, ...], reason: str
) -> None:
    book = AnswerBook(folder)
    for attempt in (
        lambda: ask(book, survivors),
        lambda: book.confirm("run", 1, survivors, participants=ALL, needed=3),
    ):
        with pytest.raises(AnswerRefusedError, match=reason):
            attempt()
    assert ask(book, ALL[1:], gives(5)) == [5]


def test_participants_named_twice_are_refused() -> None:
    with pytest.raises(AnswerRefusedError, match="not all different"):
        check_survivors(ALL, (*ALL, "bob"), 3)


def test_a_list_comes_back_in_the_order_of_the_participants() -> None:
    assert check_survivors(("dora", "alice", "bob"), ALL, 3) == ("alice", "bob", "dora")


def test_other_participants_are_refused(folder: Path) -> None:
    """Shares of the round were exchanged among other clients; the same names mean another sum."""
    book = AnswerBook(folder)
    ask(book, ALL[:3], gives(1))
    with pytest.raises(AnswerRefusedError, match="other participants"):
        book.answer("run", 1, ALL[:3], never, participants=ALL[:3], needed=3)


def test_rounds_only_grow(folder: Path) -> None:
    book = AnswerBook(folder)
    assert ask(book, ALL, gives(1), round_=1) == [1]
    assert ask(book, ALL[1:], gives(7), round_=7) == [7]
    for survivors in (ALL, ALL[1:]):
        with pytest.raises(AnswerRefusedError, match="round 1 of run 'run' is over: round 7"):
            ask(AnswerBook(folder), survivors, round_=1)
    with pytest.raises(AnswerRefusedError, match="round 6"):
        ask(book, ALL, round_=6)
    assert ask(book, ALL[1:], round_=7) == [7]


def test_runs_have_books_of_their_own(folder: Path) -> None:
    book = AnswerBook(folder)
    assert ask(book, ALL, gives(1)) == [1]
    assert book.answer("run/../2", 1, ALL[1:], gives(2), participants=ALL, needed=3).tolist() == [2]
    assert ask(book, ALL) == [1]
    assert {path.parent for path in folder.rglob("*.book")} == {folder}


# -- confirmations -------------------------------------------------------------------------------------


def test_a_confirmation_binds_before_there_is_an_answer(folder: Path) -> None:
    listed = AnswerBook(folder).confirm("run", 1, ("dora", "bob", "alice"), participants=ALL, needed=3)
    assert listed == ("alice", "bob", "dora")
    book = AnswerBook(folder)
    with pytest.raises(AnswerRefusedError, match="without dora, with charlie"):
        ask(book, ALL[:3])
    with pytest.raises(AnswerRefusedError, match="other survivors"):
        book.confirm("run", 1, ALL, participants=ALL, needed=3)
    assert book.confirm("run", 1, listed, participants=ALL, needed=3) == listed
    assert ask(book, listed, gives(3)) == [3]


@pytest.mark.parametrize("confirmed", [(), ALL[:2], ("alice", "alice", "bob"), ("alice", "bob", "mallory")])
def test_too_few_confirmations_are_no_reason_to_answer(folder: Path, confirmed: tuple[str, ...]) -> None:
    book = AnswerBook(folder)
    with pytest.raises(AnswerRefusedError, match="U = 3 are needed"):
        book.answer("run", 1, ALL, never, participants=ALL, needed=3, confirmed_by=confirmed)
    enough = book.answer("run", 1, ALL, gives(4), participants=ALL, needed=3, confirmed_by=ALL[1:])
    assert enough.tolist() == [4]


# -- durability ----------------------------------------------------------------------------------------


class Crash(BaseException):
    """The power goes."""


def crash() -> Answer:
    raise Crash


def test_a_crash_while_computing_leaves_the_round_bound_to_its_list(folder: Path) -> None:
    with pytest.raises(Crash):
        ask(AnswerBook(folder), ALL, crash)
    with pytest.raises(AnswerRefusedError, match="other survivors"):
        ask(AnswerBook(folder), ALL[1:])
    assert ask(AnswerBook(folder), ALL, gives(1)) == [1]


def test_list_and_answer_are_durable_before_the_answer_is_returned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two writes is file, rename, folder, in this order; the list's comes before the answer.

    Before them the entries of the two folders made are durable in theirs.
    """
    steps: list[str] = []

    def fsync(descriptor: int) -> None:
        steps.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("-")[0])
        os.fsync(descriptor)

    def replace(part: Path, path: Path) -> None:
        steps.append("rename")
        os.replace(part, path)

    monkeypatch.setattr(durable, "os", SimpleNamespace(**{**vars(os), "fsync": fsync, "replace": replace}))

    def compute() -> Answer:
        steps.append("compute")
        return np.zeros(1, np.uint8)

    ask(AnswerBook(folder), ALL, compute)
    written = ["fsync .answers", "rename", "fsync answers"]
    made = [f"fsync {folder.parent.parent.name}", f"fsync {folder.parent.name}"]
    assert steps == [*made, *written, "compute", *written]


def crashing_at(number: int) -> SimpleNamespace:
    """``os`` that crashes before its ``number``-th durable step."""
    count = itertools.count()

    def stepping(function: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            if next(count) == number:
                raise Crash
            return function(*arguments)

        return step

    return SimpleNamespace(**{**vars(os), "fsync": stepping(os.fsync), "replace": stepping(os.replace)})


@given(st.integers(0, 6), st.booleans())
@settings(max_examples=28, deadline=None)
def test_a_crash_at_any_step_never_leads_to_answers_for_two_lists(
    tmp_path_factory: pytest.TempPathFactory, step: int, other_first: bool
) -> None:
    folder = tmp_path_factory.mktemp("book")
    sent: set[tuple[str, ...]] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "os", crashing_at(step))
        try:
            ask(AnswerBook(folder), ALL, gives(1))
            sent.add(ALL)
        except Crash:
            assert step < 6
    for survivors in (ALL[1:], ALL) if other_first else (ALL, ALL[1:]):
        try:
            ask(AnswerBook(folder), survivors, gives(len(survivors)))
            sent.add(survivors)
        except AnswerRefusedError:
            pass
    assert len(sent) == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_answer_that_cannot_be_kept_is_not_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", SimpleNamespace(**{**vars(os), call: full}))
        with pytest.raises(AnswerBookError, match=r"No space left on device.*must not be sent"):
            ask(AnswerBook(folder), ALL, gives(1))
    assert ask(AnswerBook(folder), ALL, gives(2)) == [2]


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"\x93abc"])
def test_a_damaged_book_answers_nothing(folder: Path, content: bytes) -> None:
    ask(AnswerBook(folder), ALL, gives(1))
    (path,) = folder.glob("*.book")
    path.write_bytes(content)
    for round_ in (1, 2):
        with pytest.raises(AnswerBookError, match="is damaged"):
            ask(AnswerBook(folder), ALL, round_=round_)


def test_a_book_of_another_run_is_not_read(folder: Path) -> None:
    ask(AnswerBook(folder), ALL, gives(1))
    (path,) = folder.glob("*.book")
    path.rename(AnswerBook(folder)._path("other"))
    with pytest.raises(AnswerBookError, match="not the book of run 'other'"):
        AnswerBook(folder).answer("other", 1, ALL, never, participants=ALL, needed=3)


def test_a_folder_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AnswerBookError, match="cannot open the book"):
        ask(AnswerBook(tmp_path / "file"), ALL)


def test_only_the_owner_may_read_the_book(folder: Path) -> None:
    ask(AnswerBook(folder), ALL, gives(1))
    assert folder.stat().st_mode & 0o77 == 0
    assert all(path.stat().st_mode & 0o77 == 0 for path in folder.iterdir())
    assert not list(folder.glob(".*.tmp"))


def test_of_many_threads_with_two_lists_only_one_list_is_answered(folder: Path) -> None:
    """Two books on one folder, as two processes would have, and eight threads that start together."""
    books = AnswerBook(folder), AnswerBook(folder)
    barrier = threading.Barrier(8)
    given_: list[tuple[int, ...]] = []
    refused: list[int] = []

    def question(index: int) -> None:
        survivors = ALL if index % 2 else ALL[1:]
        barrier.wait(timeout=30)
        try:
            given_.append(tuple(ask(books[index // 4], survivors, gives(index % 2, index))))
        except AnswerRefusedError:
            refused.append(index)

    threads = [threading.Thread(target=question, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(given_) == len(refused) == 4
    assert len(set(given_)) == 1
