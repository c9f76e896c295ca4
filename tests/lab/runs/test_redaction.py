"""What a log may show: words and numbers as they are, of everything that could be key its size alone."""

from __future__ import annotations

import ast
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from msgspec.inspect import BytesType, StructType, multi_type_info

from lab.cli.errors import explain
from lab.runs.roles.logs import JsonFormatter, known_of
from lab.runs.roles.redaction import shown, trace_of, words_of
from orchestrator import runtime
from orchestrator.events.inside import Told
from orchestrator.events.learning import AbortRecord, RoundAborted
from orchestrator.events.status import BlockReport
from orchestrator.keystore.lanes import Lane
from orchestrator.log_context import about, now_about
from orchestrator.secret import SecretBits

ROOT = Path(__file__).resolve().parents[3]
KEY = bytes(range(100, 132))
ARRAY = np.frombuffer(KEY, np.uint8)


@dataclass
class Holder:
    name: str
    bits: object


class Struct(msgspec.Struct):
    bits: Any


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (KEY, "<32 bytes>"),
        (bytearray(KEY), "<32 bytes>"),
        (memoryview(KEY), "<32 bytes>"),
        (ARRAY, "<array uint8 of shape (32,)>"),
        (SecretBits.from_bytes(KEY), "<SecretBits: 256 bits>"),
        (int.from_bytes(KEY, "big"), "<number of 255 bits>"),
        (list(KEY), "<32 numbers>"),
        ((1, KEY), "(1, <32 bytes>)"),
        ({"key": [KEY]}, "{'key': [<32 bytes>]}"),
        (Holder("a", ARRAY), "Holder(name='a', bits=<array uint8 of shape (32,)>)"),
        (Struct(KEY), "Struct(bits=<32 bytes>)"),
        (ValueError(KEY), "ValueError: it is about <32 bytes>"),
        (ValueError("of", [KEY]), "ValueError: it is about of, [<32 bytes>]"),
    ],
)
def test_of_what_could_be_key_the_size_alone_is_shown(value: object, text: str) -> None:
    assert str(shown(value)) == text
    assert f"{shown(value)!r}" == text


@pytest.mark.parametrize(
    "value",
    [7, 1 << 64, 0.5, True, None, "words", Path("/x"), (1, 2), [0.5], {"a": 1}, Lane.MASK, np.float64(2.5)],
)
def test_words_names_and_numbers_stand_as_they_are(value: object) -> None:
    assert shown(value) == value
    assert "%s" % (shown(value),) == "%s" % (value,)  # noqa: UP031 - as logging does it


def test_an_exception_keeps_its_words() -> None:
    error = OSError(28, "No space left on device", "/store")
    assert words_of(error) == str(error) == str(shown(error))
    assert words_of(UnicodeDecodeError("utf-8", KEY, 0, 1, "bad")) == (
        "it is about utf-8, <32 bytes>, 0, 1, bad"
    )


def test_a_trace_shows_lines_and_no_values() -> None:
    def inner() -> None:
        secret = KEY
        raise ValueError("stands", secret)

    try:
        try:
            inner()
        except ValueError as error:
            raise ExceptionGroup("both", [error, RuntimeError(ARRAY)]) from error
    except ExceptionGroup as group:
        trace = trace_of(type(group), group, group.__traceback__)
        code, told = explain(RuntimeError(KEY))
    assert 'raise ValueError("stands", secret)' in trace
    assert trace.count("it is about stands, <32 bytes>") == 3, "as cause, as context and in the group"
    assert "<array uint8 of shape (32,)>" in trace
    assert (code, "it is about <32 bytes>" in told) == (1, True)
    for each in (trace, told):
        assert repr(KEY)[2:-1] not in each
        assert "100 101 102" not in each


def line(message: object, *args: object, **more: Any) -> dict[str, Any]:
    record = logging.getLogger("test").makeRecord("test", logging.WARNING, "", 0, message, args, None, **more)
    found: dict[str, Any] = json.loads(JsonFormatter("alice").format(record))
    return found


def test_a_line_is_json_whatever_is_logged() -> None:
    assert line("key %s", KEY)["message"] == "key <32 bytes>"
    assert line(KEY)["message"] == "<32 bytes>"
    assert line("%d of it", KEY)["message"] == "%d of it (its arguments do not fit: TypeError)"
    assert line("%s %s", 1)["message"].startswith("%s %s (its arguments do not fit")
    try:
        raise ValueError(KEY)
    except ValueError:
        record = logging.LogRecord("test", 40, "", 0, "it failed", (), sys.exc_info())
    trace = json.loads(JsonFormatter("alice").format(record))["trace"]
    assert trace.endswith("ValueError: it is about <32 bytes>")


def test_times_are_utc_to_the_millisecond() -> None:
    record = logging.LogRecord("test", 40, "", 0, "x", (), None)
    record.created, record.msecs = 0.25, 250.0
    assert json.loads(JsonFormatter("alice").format(record))["time"] == "1970-01-01T00:00:00.250Z"


def test_a_line_names_what_it_is_about_in_threads_that_begin_there_too() -> None:
    lines: list[dict[str, Any]] = []

    def log() -> None:
        lines.append(line("x"))

    with about(pair="alice-bob", session="3/17"):
        with about(block="block/3/17"):
            log()
            runtime.spawn(log, name="inner").join()
        log()
        runtime.call(log, name="called").result()
    log()
    now_about(round=4)
    log()
    now_about()
    inner = {"pair": "alice-bob", "session": "3/17", "block": "block/3/17"}
    found = [{key: each[key] for key in (*inner, "round") if key in each} for each in lines]
    outer = {"pair": "alice-bob", "session": "3/17"}
    assert found == [inner, inner, outer, outer, {}, {"round": 4}]


def test_an_event_says_itself_what_it_is_about() -> None:
    assert known_of(BlockReport(3, 17, "alice", "bob", True)) == {"pair": "alice-bob", "session": "3/17"}
    assert known_of(RoundAborted(AbortRecord(4, "no", 0, ()))) == {"round": 4}
    assert known_of(None) == {}


def fields_with_bytes(kinds: list[Any]) -> Iterator[str]:
    for info in multi_type_info(kinds):
        if isinstance(info, StructType):
            for field in info.fields:
                todo: list[Any] = [field.type]
                while todo:
                    each = todo.pop()
                    if isinstance(each, BytesType):
                        yield f"{info.cls.__name__}.{field.name}"
                    todo += [
                        part
                        for name in ("item_type", "key_type", "value_type")
                        if (part := getattr(each, name, None)) is not None
                    ]
                    todo += [*getattr(each, "types", ()), *(getattr(each, "item_types", ()))]


def flat(kinds: Any) -> list[Any]:
    parts = get_args(kinds)
    return [each for part in parts for each in flat(part)] if parts else [kinds]


def test_no_event_has_a_field_for_bytes() -> None:
    """An event in a log, on a page or in a metric is shown whole."""
    assert list(fields_with_bytes(flat(Told))) == []
    assert list(fields_with_bytes([Planted])) == ["Planted.key"]


class Planted(msgspec.Struct):
    key: dict[str, bytes | None]


LOGGERS = ("logger", "_log", "log", "logging")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


def made_before_logging(source: str) -> list[int]:
    """Lines on which text is made of values before the log sees them, so that nothing can be left out of it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and ast.unparse(node.func.value).removeprefix("self.") in LOGGERS
            and node.args
            and not (isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str))
        ):
            found.append(node.lineno)
    return found


def test_log_calls_leave_the_text_to_the_log() -> None:
    for room in ("drivers", "sim_backends", "lab", "orchestrator", "fl"):
        for path in sorted((ROOT / room).rglob("*.py")):
            assert not made_before_logging(path.read_text(encoding="utf-8")), path
    assert made_before_logging('logger.info(f"{key}")\nlogger.info("%s", key)\n_log.error("a" + key)') == [
        1,
        3,
    ]
