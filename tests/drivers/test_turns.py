"""Whose turn it is on a link, where one thread wants it all the time."""

from __future__ import annotations

import threading

from drivers.links.turns import Hold, Turns


def test_who_waits_has_the_link_before_who_gives_it_back_and_wants_it_again() -> None:
    turns, stop, busy = Turns(), threading.Event(), threading.Event()
    taken = 0

    def read_on_and_on() -> None:
        nonlocal taken
        pause = threading.Event()
        while not stop.is_set():
            reading, question = Hold(0), Hold(0)
            assert turns.take(reading, 5.0) == ""
            assert turns.take(question, 5.0) == ""
            taken += 1
            busy.set()
            pause.wait(0.002)
            turns.give_back(question)
            turns.give_back(reading)

    reader = threading.Thread(target=read_on_and_on)
    reader.start()
    try:
        for _ in range(10):
            busy.clear()
            assert busy.wait(5.0)
            before, mine = taken, Hold(0)
            assert turns.take(mine, 5.0) == "", "it waited for good"
            waited = taken - before
            turns.give_back(mine)
            assert waited <= 10, f"{waited} readings came first"
    finally:
        stop.set()
        reader.join()
