"""Whoever follows the board holds what it holds, from any number on and after any pause."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.dashboard import board as board_module
from lab.dashboard.board import Board

KEYS = st.sampled_from("abcdef")
STEPS = st.lists(st.tuples(st.sampled_from(["put", "drop", "ask"]), KEYS, st.integers(0, 3)), max_size=60)


class Browser:
    """What ``store.js`` does."""

    def __init__(self) -> None:
        self.held: dict[str, object] = {}
        self.number, self.instance = 0, ""
        self.wholes = 0

    def ask(self, board: Board) -> None:
        number, text = board.since(self.number, self.instance)
        told = json.loads(text)
        assert told["number"] == number
        if told["whole"]:
            self.held.clear()
            self.wholes += 1
        for key in told["gone"]:
            self.held.pop(key, None)
        self.held.update({key: value for key, (_, value) in told["set"].items()})
        self.number, self.instance = number, told["instance"]


@given(STEPS, st.integers(0, 4))
def test_a_browser_holds_what_the_board_holds(steps: list[tuple[str, str, int]], gone_kept: int) -> None:
    board, browser, late, held = Board(lambda: 1.0), Browser(), Browser(), {}
    before, board_module.GONE_KEPT = board_module.GONE_KEPT, gone_kept
    try:
        for what, key, value in steps:
            if what == "put":
                board.put(key, value)
                held[key] = value
            elif what == "drop":
                board.drop(key)
                held.pop(key, None)
            else:
                browser.ask(board)
                assert browser.held == held
        late.ask(board)
        browser.ask(board)
        assert late.held == browser.held == held
    finally:
        board_module.GONE_KEPT = before


def test_what_did_not_change_is_not_told_again() -> None:
    board, browser = Board(lambda: 1.0), Browser()
    board.put("a", 1)
    browser.ask(board)
    number = board.number
    board.put("a", 1)
    assert board.number == number
    board.put("b", 2)
    assert json.loads(board.since(browser.number, browser.instance)[1])["set"] == {"b": [1.0, 2]}


def test_another_board_tells_everything() -> None:
    browser, first, second = Browser(), Board(lambda: 1.0), Board(lambda: 1.0)
    first.put("a", 1)
    browser.ask(first)
    second.put("b", 2)
    second.put("c", 3)
    browser.ask(second)
    assert browser.held == {"b": 2, "c": 3}
    assert browser.wholes == 2


def test_many_new_browsers_are_told_what_was_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    board, written = Board(lambda: 1.0), []
    told = Board._told

    def counted(board: Board, number: int) -> str:
        written.append(number)
        return told(board, number)

    monkeypatch.setattr(Board, "_told", counted)
    board.put("a", 1)
    browsers = [Browser() for _ in range(20)]
    for browser in browsers:
        browser.ask(board)
    assert written == [0]
    assert all(browser.held == {"a": 1} and browser.wholes == 1 for browser in browsers)


def test_a_machine_s_clock_that_jumps_changes_no_age() -> None:
    """Ages are of the board's clock; the date of now, from which the age of what is on record is told, follows the jump."""
    clock = iter((1.8e9, 1.8e9 + 3600, 1.8e9 - 86_400))
    board = Board(lambda: 5.0, lambda: next(clock))
    board.put("a", 1, at_s=2.0)
    told = [json.loads(board.since(0)[1]) for _ in range(3)]
    assert [each["now"] - each["set"]["a"][0] for each in told] == [3.0] * 3
    assert [each["clock"] for each in told] == [1.8e9, 1.8e9 + 3600, 1.8e9 - 86_400]


def test_what_is_no_finite_number_is_null_and_breaks_no_browser() -> None:
    board = Board(lambda: 1.0)
    board.put("a", {"value": float("nan"), "limits": [float("-inf"), 2.0], "unit": "mW"})
    assert "NaN" not in board.since(0)[1]
    assert "Infinity" not in board.since(0)[1]
    assert json.loads(board.since(0)[1])["set"]["a"][1] == {
        "value": None,
        "limits": [None, 2.0],
        "unit": "mW",
    }
