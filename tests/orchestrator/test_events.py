"""One shape for every event: read back as it was written, named by its kind, and kept where it is not known."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from orchestrator.events import common, learning, process, status
from orchestrator.events.common import Unknown, read_item
from orchestrator.events.learning import Clipping, RoundCompleted, RoundRecord, WaitingForKeys
from orchestrator.events.process import (
    HubServing,
    LightProgress,
    Printed,
    ProcessEvent,
    Tracked,
    event_of,
    line_of,
)
from orchestrator.events.status import (
    Alarm,
    BlockReport,
    Epsilons,
    LaneStock,
    PeerItem,
    Readings,
    StatusItem,
    Stock,
)
from orchestrator.wire.codec import Message, WireError, decode, encode

BLOCK = BlockReport(3, 7, "a", "b-c", True, secret_bits=5000, qber=0.012, phase_error_upper=None)


def kinds(module: ModuleType) -> Iterator[type[msgspec.Struct]]:
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__:
            yield kind


ALL_KINDS = [kind for module in (common, learning, process, status) for kind in kinds(module)]


@pytest.mark.parametrize(
    "event",
    [
        BLOCK,
        Epsilons("b-c", 1e-9, 1e-10, 0.0, 2, 9),
        HubServing(
            control="tcp://127.0.0.1:1", bulk="tcp://127.0.0.1:2", epoch=4, role="orchestrator", version="1"
        ),
        LightProgress("a", "b-c", 8, 16, 3, 1.5),
        WaitingForKeys(2, "a", {"b-c": 100, "c": 7}, "100 bits with b-c, 7 bits with c", None),
        RoundCompleted(
            RoundRecord(
                1, 0.9, 0.3, 80, 64, ("a", "b"), "otp", 1.0, 0.0, clipping=Clipping(2, 0.01, 0.5, 0, 0)
            )
        ),
        Printed("half a line"),
    ],
)
def test_an_event_that_was_printed_is_read_as_the_same_struct(event: Any) -> None:
    line = line_of(event)
    assert "\n" not in line
    assert event_of(line + "\n") == event
    assert msgspec.json.decode(line)["type"] == type(event).__name__


def test_a_first_line_says_ready_role_and_version() -> None:
    line = msgspec.json.decode(
        line_of(HubServing(control="c", bulk="b", epoch=1, role="orchestrator", version="0.1"))
    )
    assert (line["ready"], line["role"], line["version"], line["control"]) == (
        True,
        "orchestrator",
        "0.1",
        "c",
    )


@pytest.mark.parametrize(
    "line",
    ["plain text", "", "[1, 2]", "{}", '{"ready": true}', '"BlockReport"', "{" * 10_000, '{"type": 3}'],
)
def test_a_line_that_is_no_event_is_kept_as_text(line: str) -> None:
    assert event_of(line + "\n") == Printed(line)


def test_a_line_of_a_newer_version_is_unknown_and_says_of_whom() -> None:
    newer = event_of('{"type": "Decoyed", "intensities": [0.1, 0.4]}\n')
    assert isinstance(newer, Unknown)
    assert newer.kind == "Decoyed"
    assert newer.told_by("alice") == "unknown event Decoyed from alice (a newer version?)"
    more = event_of(line_of(BLOCK)[:-1] + ', "decoy_rate": 0.2}')
    assert isinstance(more, Unknown)
    assert more.kind == "BlockReport"
    assert "decoy_rate" in more.reason


def test_an_item_of_a_newer_version_is_kept_and_what_names_no_kind_is_refused() -> None:
    assert read_item(encode(BLOCK), PeerItem, strict=True) == BLOCK
    newer = msgspec.msgpack.encode({"type": "Decoyed", "rate": 1})
    unknown = read_item(newer, PeerItem, strict=True)
    assert isinstance(unknown, Unknown)
    assert unknown.subject == ("Unknown", "Decoyed")
    odd = msgspec.msgpack.encode({"type": "Ready", "ready": True, "mood": "good"})
    newer_alarm = msgspec.msgpack.encode({"type": "Alarm", "name": "decoy-drift", "text": "too bright"})
    for data, kind, why in ((odd, "Ready", "unknown field"), (newer_alarm, "Alarm", "name")):
        for strict in (True, False):
            unknown = read_item(data, PeerItem, strict=strict)
            assert (unknown.kind, why in unknown.reason) == (kind, True)
    for nothing in (b"", b"\xc1", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode({"kind": "Ready"})):
        with pytest.raises(WireError):
            read_item(nothing, PeerItem, strict=True)
        assert read_item(nothing, StatusItem).kind == "of no kind"


def test_a_kind_is_cut_before_it_is_kept() -> None:
    unknown = read_item(msgspec.msgpack.encode({"type": "X" * 5000}), PeerItem, strict=True)
    assert decode(encode(unknown), Unknown) == unknown


def test_every_kind_is_one_class_with_a_name_of_its_own() -> None:
    names = [kind.__name__ for kind in ALL_KINDS]
    assert len(names) == len(set(names))
    tagged = {kind for kind in ALL_KINDS if issubclass(kind, Message)} - {
        common.Item,
        common.Serving,
        LaneStock,
    }
    told = {*get_args(StatusItem), *get_args(ProcessEvent)}
    assert tagged == told, "an event is shown by somebody: it is in one of the two unions"


COUNTS = """epoch lease_number frame round next_round pulses planned_pulses clicks announced test_rounds test_errors blocks
tags leases failed failures count overloads rounds completed_rounds done aborted n_parameters clients clipped_clients
vanished_clients weight_sum spare_answers lost_frames waiting_entries held_entries running_entry"""
RATIOS = "qber f_ec phase_error_upper accuracy loss clipped vanished sec cor auth"


MEASURED = {
    *((Readings, name) for name in ("value", "low", "high")),
    (Alarm, "value"),
    (Tracked, "before"),
    (Tracked, "after"),
}
"""Of whatever is watched; its unit stands beside it."""


def test_a_number_has_its_unit_in_its_name() -> None:
    """So that a metric can be made of any field: what is counted, a ratio, or bits, bytes, seconds, picoseconds, bits or clicks a second."""
    plain = {*COUNTS.split(), *RATIOS.split()}
    for kind in ALL_KINDS:
        for field, hint in get_type_hints(kind).items():
            if (
                {int, float} & {hint, *get_args(hint)}
                and field not in plain
                and (kind, field) not in MEASURED
            ):
                units = [
                    unit
                    for unit in ("_bits_", "_bytes_", "_s_", "_ps_", "_bps_", "_cps_")
                    if unit in f"_{field}_"
                ]
                assert units, f"{kind.__name__}.{field}"


def test_no_event_has_room_for_key() -> None:
    """Only public types: texts, numbers, and structs of them; no bytes, and nothing that hides what it holds."""

    def check(hint: Any, where: str) -> None:
        assert hint not in (bytes, bytearray, memoryview, msgspec.Raw), where
        assert not dataclasses.is_dataclass(hint), where
        for each in get_args(hint):
            check(each, where)

    for kind in ALL_KINDS:
        for field, hint in get_type_hints(kind).items():
            check(hint, f"{kind.__name__}.{field}")


def test_stock_of_lanes_is_read_as_structs() -> None:
    stock = Stock([LaneStock("b-c", "mask", 5)])
    assert decode(encode(stock), PeerItem).lanes[0].peer == "b-c"
