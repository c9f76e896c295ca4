"""Replies that are late, come twice, in the wrong order, or say something else: an error or the truth, never a guess.

An error names instrument and address and is one of :mod:`drivers.links.errors`; whatever happened, the next reading is
true.  Where a reply is changed, the change tells that something is wrong: one good number in another's place cannot be
noticed by anybody.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from every_driver import KNOWN, MODELS, Known, Rig, rigged
from wires import Judge, Piece

from drivers.links.apt import HOST, UNIT, AptMessage, AptReader
from drivers.links.apt import encode as encode_apt
from drivers.links.errors import InstrumentError
from drivers.links.interbus import MessageType, Telegram, TelegramReader, encode

LATE_S = 0.15
TIMEOUT_S = 0.1
Change = Callable[[bytes], bytes]


def words(change: Callable[[str], str]) -> Change:
    """``change`` to the first line of a text, its end left as it is."""

    def apply(reply: bytes) -> bytes:
        body, end, rest = reply.decode("latin-1").partition("\r\n" if b"\r\n" in reply else "\n")
        return (change(body) + end + rest).encode("latin-1")

    return apply


TEXTS: dict[str, Change] = {
    "empty": words(lambda body: ""),
    "word behind": words(lambda body: body + " unexpected"),
    "word before": words(lambda body: "unexpected " + body),
    "no digits": words(lambda body: re.sub(r"\d", "x", body)),
    "not a number": words(lambda body: re.sub(r"[-+]?\d[\d.]*(E[-+]?\d+)?", "nan", body)),
    "two points": words(lambda body: re.sub(r"\d+", "1.2.3", body)),
    "no value": words(lambda body: re.sub(r"[-+]?\d[\d.]*(E[-+]?\d+)?", "9.91E37", body)),
}
DATA: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a byte less": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\x00",
    "five bytes more": lambda data: data + bytes(5),
}
VALUES: dict[str, Callable[[Any], Any]] = {
    "null": lambda value: None,
    "text": str,
    "in a list": lambda value: [value],
    "object": lambda value: {"other": value},
    "not a number": lambda value: "NaN",
}


def interbus(change: Callable[[bytes], bytes]) -> Change:
    def apply(reply: bytes) -> bytes:
        changed = b""
        for item in TelegramReader().feed(reply):
            assert isinstance(item, Telegram)
            data = change(item.data) if item.kind == MessageType.DATAGRAM else item.data
            changed += encode(Telegram(item.destination, item.source, item.kind, item.register, data))
        return changed

    return apply


def of_apt(change: Callable[[bytes], bytes]) -> Change:
    """Data of another length, told so in the header; what has none is given some."""

    def apply(reply: bytes) -> bytes:
        return b"".join(
            encode_apt(
                AptMessage(each.number, each.p1, each.p2, change(each.data)), destination=HOST, source=UNIT
            )
            for each in AptReader().feed(reply)
        )

    return apply


def websq(change: Callable[[Any], Any]) -> Change:
    """Another value under every label of a burst."""

    def apply(reply: bytes) -> bytes:
        messages = [json.loads(piece) for piece in reply.split(b"\x17") if piece]
        for message in messages:
            held = message["value"]
            message["value"] = {"value": change(held["value"])} if isinstance(held, dict) else change(held)
        return b"".join(json.dumps(message).encode() + b"\x17" for message in messages)

    return apply


CHANGES: dict[str, dict[str, Change]] = {
    "nkt-basik": {name: interbus(change) for name, change in DATA.items()},
    "thorlabs-mpc320": {name: of_apt(change) for name, change in DATA.items()},
    "single-quantum-websq": {name: websq(change) for name, change in VALUES.items()},
}


def same_question(first: bytes, second: bytes) -> bool:
    """Whether two replies answer one question: the same bytes, or the same register at any host."""
    return first == second or (first[:1] == b"\x0d" == second[:1] and first[3:5] == second[3:5])


@contextmanager
def judged(rig: Rig, judge: Judge, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    rig.hurry(timeout_s)
    rig.desk.listen(judge)
    try:
        yield
    finally:
        rig.desk.listen()
        rig.hurry(2.0)


def check(rig: Rig, action: Callable[[], Any], right: Any) -> None:
    """``action`` gives what is right, or an error that says where and what."""
    failed: InstrumentError | None = None
    try:
        found = action()
    except InstrumentError as error:
        failed = error
    if failed is not None:
        assert failed.instrument.startswith(rig.driver.name)
        assert failed.address
        assert f"{failed.instrument} at {failed.address}" in str(failed)
    elif isinstance(right, str):
        assert right in found  # a name is what the instrument says, whatever that is
    elif isinstance(right, bool):
        assert found is right
    else:
        assert found == pytest.approx(right, rel=1e-6)


def values(rig: Rig) -> dict[str, Any]:
    """What can be read."""
    found = {}
    for name, parameter in rig.parameters().items():
        with suppress(InstrumentError):
            found[name] = parameter.get()
    return found


def check_all(rig: Rig, right: dict[str, Any]) -> None:
    for name, value in right.items():
        assert rig.parameter(name).get() == value, name


def answer_differently(rig: Rig, rng: random.Random, times: int, most: int) -> None:
    """``times`` changes per reading, of all replies to one of its questions; of ``most`` readings."""
    changes = CHANGES.get(rig.model, TEXTS)
    readings = list(values(rig).items())
    for name, right in rng.sample(readings, min(most, len(readings))):
        reading = rig.parameter(name)
        rig.desk.listen()
        reading.get()
        replies = list(rig.desk.replies)
        for _ in range(times if replies else 0):
            question, (what, change) = rng.choice(replies), rng.choice(list(changes.items()))
            with judged(
                rig,
                lambda number, reply, question=question, change=change: [
                    Piece(change(reply) if same_question(reply, question) else reply)
                ],
            ):
                try:
                    check(rig, reading.get, right)
                except BaseException as error:
                    error.add_note(
                        f"{rig.model} {name}, {what}: {question[:80]!r} -> {change(question)[:80]!r}"
                    )
                    raise
        assert reading.get() == right, name


def misbehave(rig: Rig, rng: random.Random, manner: str, times: int) -> None:
    """Replies of one chosen number on come late, twice, or in pairs the wrong way round, while readings are taken."""
    right = values(rig)
    names = rng.sample(list(right), min(len(right), 4))
    for name in names[:times]:
        first = rng.randrange(3)
        next_came = [threading.Event() for _ in range(4)]

        def judge(
            number: int, reply: bytes, first: int = first, next_came: list[threading.Event] = next_came
        ) -> list[Piece]:
            if number < first:
                return [Piece(reply)]
            if manner == "twice":
                return [Piece(reply + reply)]
            if number > first + 3:
                return [Piece(reply)]
            if manner == "late":
                return [Piece(reply, after_s=LATE_S * rng.uniform(0.8, 2.0))]
            if (number - first) % 2:
                return [Piece(reply, then=next_came[number - first - 1].set)]
            return [Piece(reply, until=next_came[number - first])]

        with judged(rig, judge):
            for each in (name, *rng.sample(names, 2)):
                check(rig, rig.parameter(each).get, right[each])
        check_all(rig, {each: right[each] for each in names})
    check_all(rig, right)


def settle(rig: Rig, rng: random.Random, manner: str) -> None:
    """A setting under the same: it is held, or it is an error and what is held is shown."""
    names = [
        name
        for name, setting in rig.settings().items()
        if isinstance(setting.get(), float | int | str | list)
    ]
    for name in names:
        setting = rig.parameter(name)
        with (
            judged(
                rig,
                lambda number, reply: (
                    [Piece(reply), Piece(reply)]
                    if manner == "twice"
                    else [Piece(reply, after_s=LATE_S if manner == "late" and not number else 0.0)]
                ),
            ),
            suppress(InstrumentError),
        ):
            setting.set(setting.get())
        with suppress(InstrumentError):  # it may be this reading that notices
            setting.get()
        shown, held = setting.cache.get(), setting.get()
        assert shown == held, name


MANNERS = ("late", "twice", "swapped")


def manners(model: str) -> tuple[str, ...]:
    """A ZeroMQ socket throws a second reply away by itself, before it asks again."""
    return tuple(each for each in MANNERS if each != "twice" or not KNOWN.get(model, Known()).zmq)


@pytest.mark.parametrize("model", MODELS)
def test_one_query_answered_differently(model: str) -> None:
    with rigged(model) as rig:
        answer_differently(rig, random.Random(model), 1, 4)


@pytest.mark.parametrize(
    ("model", "manner"),
    [(model, manners(model)[number % len(manners(model))]) for number, model in enumerate(MODELS)],
)
def test_replies_late_twice_and_swapped(model: str, manner: str) -> None:
    with rigged(model) as rig:
        misbehave(rig, random.Random(model + manner), manner, 1)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", MODELS)
def test_every_way_of_answering_wrongly(model: str) -> None:
    with rigged(model) as rig:
        answer_differently(rig, random.Random(1), 12, 100)
        for seed in range(10):
            for manner in manners(model):
                misbehave(rig, random.Random(f"{manner}{seed}"), manner, 4)
                settle(rig, random.Random(f"{manner}{seed}"), manner)


@pytest.mark.long
def test_a_reply_after_ten_seconds_is_nobodys() -> None:
    """With the time-outs as they are by default: it comes while another question waits."""
    with rigged("thorlabs-pm100d") as rig:
        name, right = next(iter(values(rig).items()))
        rig.desk.listen(lambda number, reply: [Piece(reply, after_s=0.0 if number else 10.0)])
        begun = time.monotonic()
        with suppress(InstrumentError):
            assert rig.parameter(name).get() == right
        while time.monotonic() < begun + 11:
            rig.change(3)
            rig.check_truth()
