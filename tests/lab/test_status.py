"""What ``qunetlab status`` shows of what an observer heard: ages, losses, hostile texts, the hub's restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from lab.cli.status import json_of, page, show_changes
from lab.runs.attacks.seen import AttackSeen
from lab.runs.following import view
from lab.runs.following.document import Document, ItemLine, VerdictLine, document_of
from lab.runs.following.observer import Observer, ObserverError
from lab.runs.following.verdict import verdict
from orchestrator.events.common import Unknown
from orchestrator.events.status import (
    Alarm,
    BlockReport,
    Epsilons,
    LaneStock,
    Learning,
    LeaseStatus,
    LightNow,
    PairStatus,
    PeerStatus,
    QueueStatus,
    Readings,
    Ready,
    Refusals,
    RingStatus,
    Stock,
)
from orchestrator.hub.agent import LinkDown, LinkUp
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import SnapshotEnd, Subscribe, TelemetryItem

HUB = "orchestrator"
ROLES = ("relay", "alice", "bob", "carol", "dave")
HOSTILE = "\x1b[2J\u202eIDLE\r\n<script>x</script>"
Make = Callable[..., Observer]


def told(*items: tuple[str, Any, float], first: int = 0) -> list[TelemetryItem]:
    return [TelemetryItem.of(role, first + n, age_s, item) for n, (role, item, age_s) in enumerate(items)]


def ring() -> list[tuple[str, Any, float]]:
    """A whole ring that is idle."""
    return [
        (HUB, RingStatus("free", 12.0), 0.0),
        *((HUB, PeerStatus(role, True), 60.0) for role in ROLES),
        (HUB, PairStatus("alice", "bob", 5000, 0, 0, 1234.0, True, True), 8.0),
        (HUB, PairStatus("alice", "carol", 0, 0, 0, 4321.0, False, True), 60.0),
        ("alice", BlockReport(1, 7, "alice", "bob", True, secret_bits=5000, qber=0.0213), 9.0),
        (HUB, LeaseStatus(1, 7, "alice", "bob", True), 9.5),
        ("alice", Epsilons("bob", 1e-10, 1e-15, 1e-12, 1, 9), 9.0),
    ]


def test_an_observer_subscribes_at_every_link_and_forgets_what_the_earlier_hub_said(observed: Make) -> None:
    listening = observed(
        LinkUp(1), *told(("alice", Ready(True), 0.0)), SnapshotEnd(1), LinkDown(LinkState.LOST, "it broke")
    )
    agent: Any = listening.agent
    listening.poll()
    assert agent.sent == [Subscribe()]
    assert not listening.synced
    assert verdict(listening.facts()).line == "NO ANSWER 0 s: no link to the orchestrator: it broke"
    assert listening.heard, "what was known is still shown, with its age"
    agent.events = [LinkUp(2), *told((HUB, RingStatus("free", 0.0), 0.0)), SnapshotEnd(1)]
    listening.poll()
    assert agent.sent == [Subscribe(), Subscribe()]
    assert [each.item for each in listening.heard.values()] == [RingStatus("free", 0.0)]
    assert listening.synced
    assert listening.lost == 0


def test_gaps_in_the_sequence_are_counted_and_shown(observed: Make) -> None:
    listening = observed(LinkUp(1), *told(*ring()), *told(("bob", Ready(True), 0.0), first=20))
    listening.poll()
    assert listening.lost == 20 - len(ring())
    assert f"{listening.lost} items were lost on the way" in " ".join(page(listening).split())


@pytest.mark.parametrize("state", [LinkState.SUPERSEDED, LinkState.REFUSED])
def test_an_observer_that_is_not_served_ends_with_an_error(observed: Make, state: LinkState) -> None:
    listening = observed(LinkUp(1))
    agent: Any = listening.agent
    agent.link_state, agent.link_reason = state, "16 observers are connected"
    with pytest.raises(
        ObserverError, match="does not serve this observer any more: 16 observers are connected"
    ):
        listening.poll()


def test_ages_count_on_while_nothing_comes(observed: Make) -> None:
    listening = observed(LinkUp(1), *told(*ring()))
    clock: Any = listening.clock
    listening.poll()
    clock.now_s += 3.0
    assert verdict(listening.facts()).line == "IDLE 15 s: nobody asked for key"
    assert "heard 3.0 s ago; 5 of 5 roles here" in page(listening)
    clock.now_s += 3.0
    assert verdict(listening.facts()).line == "NO ANSWER 6 s: the orchestrator is linked and says nothing"


def test_the_page_tells_measured_from_planned_and_how_old_everything_is(observed: Make) -> None:
    listening = observed(LinkUp(1), *told(*ring()))
    listening.poll()
    lines = page(listening).splitlines()
    assert lines[0] == "IDLE 12 s: nobody asked for key"
    row = next(line for line in lines if line.startswith("alice-bob"))
    assert row.split() == [
        "alice-bob",
        "5k",
        "0",
        "1.23k",
        "2.13",
        "%",
        "5k",
        "9.0",
        "s",
        "good",
        "9.5",
        "s",
        "1e-10",
        "ready",
    ]
    planned = next(line for line in lines if line.startswith("alice-carol"))
    assert planned.split() == ["alice-carol", "0", "0", "4.32k*", "-", "-", "-", "-", "ready"]


TROUBLED: list[tuple[str, Any, float]] = [
    (HUB, RingStatus("free", 2.0), 0.0),
    *((HUB, PeerStatus(role, True), 60.0) for role in ROLES[1:]),
    (HUB, PeerStatus("relay", True, False, "laser: no answer from TCPIP::127.0.0.1 within 5 s"), 3.0),
    (HUB, PairStatus("alice", "carol", 0, 18100, 0, 4321.0, False, True, "", 3, 9.0, "too noisy"), 60.0),
    (HUB, PairStatus("alice", "dave", 858_000, 18100, 0, 4321.0, False, False, "relay is not ready"), 60.0),
    (
        "alice",
        BlockReport(
            1,
            8,
            "alice",
            "carol",
            False,
            "QBER 0.12 is above the bound",
            qber=0.12,
            lost_reason="frame 3: no trigger",
        ),
        9.0,
    ),
    (HUB, LeaseStatus(1, 8, "alice", "carol", False, False, "the relay lost 3 frames"), 9.5),
    (
        "bob",
        Alarm("low-water", "auth_ab below 16384 bits: make key with alice, or renew it " * 3, "alice"),
        100.0,
    ),
]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_tables_fit_the_terminal_and_say_why(
    observed: Make, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    listening = observed(LinkUp(1), *told(*TROUBLED))
    listening.poll()
    lines = page(listening).splitlines()
    assert lines[0].startswith("RING STOPPED 3 s: relay not ready: laser")
    assert max(map(len, lines[1:])) <= width
    rows = [" ".join(line.split()) for line in lines]
    if width == 60:
        assert "alice-carol 0 18.1k 4.32k* 12.00 % no key 9.0 s fails" in rows
        return
    assert "alice-carol 0 18.1k 4.32k* 12.00 % no key 9.0 s failed 9.5 s - fails" in rows
    assert "alice-carol no key 9.0 s QBER 0.12 is above the bound" in rows
    assert "alice-carol lost frames 9.0 s frame 3: no trigger" in rows
    assert "alice-carol lease failed 9.5 s the relay lost 3 frames" in rows
    assert "alice-carol 3 failures 9.0 s too noisy" in rows
    assert "alice-dave away relay is not ready" in rows
    assert "relay NOT READY 3.0 s laser: no answer from TCPIP::127.0.0.1 within 5 s" in rows
    assert [row for row in rows if row.startswith("bob/low-water/alice minor 100 s auth_ab below")]


def test_what_keys_rest_on_is_said_of_pairs_and_blocks_from_their_plans(
    observed: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the page in full and once, in documents and lines by its two words; a block beside what was predicted."""
    monkeypatch.setenv("COLUMNS", "80")
    labels: dict[str, Any] = {"light": "gated", "monitoring": "calibrated"}
    block = BlockReport(1, 7, "alice", "bob", True, secret_bits=4500, predicted_bits=5000, **labels)
    pairs = [PairStatus("alice", peer, 0, 0, 0, 1.0, True, True, **labels) for peer in ("bob", "carol")]
    items = [*((HUB, pair, 1.0) for pair in pairs), ("alice", block, 1.0)]
    listening = observed(LinkUp(1), *told(*items))
    going_on = iter([True, True, False])
    show_changes(listening, False, lambda: next(going_on))
    watched = capsys.readouterr().out
    shown_page = " ".join(page(listening).split())
    assert "light gated: each user's own counter bounds the light in its own window" in shown_page
    assert shown_page.count("intensity calibrated, the weaker way: believed since the last calibration") == 1
    assert "4.5k of 5k 1.0 s" in shown_page
    assert watched.count("light gated, monitoring calibrated") == len(items)
    row = json.loads(json_of(document_of(listening)))["pairs"][0]
    assert [row[item][label] for item in ("pair", "block") for label in labels] == 2 * [*labels.values()]


def test_pairs_whose_joined_names_are_the_same_have_rows_and_names_of_their_own(observed: Make) -> None:
    """Users a, a-b, b-c, c: (a, b-c) and (a-b, c) both read "a-b-c"."""
    users = ("a", "a-b", "b-c", "c")
    pairs = [(x, y) for n, x in enumerate(users) for y in users[n + 1 :]]
    items: list[tuple[str, Any, float]] = [(HUB, RingStatus("free", 1.0), 0.0)]
    for n, pair in enumerate(pairs):
        items.append((HUB, PairStatus(*pair, 0, 0, 0, 1.0, False, True), 1.0))
        items.append((pair[0], BlockReport(1, n, *pair, True, secret_bits=n + 1, qber=0.01), 1.0))
        items.append((HUB, LeaseStatus(1, n, *pair, True), 1.0))
    listening = observed(LinkUp(1), *told(*items))
    listening.poll()
    rows = document_of(listening).pairs
    assert [row.pair.pair for row in rows] == pairs
    assert [row.block and row.block.secret_bits for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row.lease and row.lease.lease_number for row in rows] == [0, 1, 2, 3, 4, 5]
    names = [line.split()[0] for line in page(listening).splitlines() if line.endswith("ready")]
    assert len(set(names)) == 6
    assert {"a:b-c", "a-b:c"} < set(names)


def test_an_item_of_a_kind_that_is_not_known_is_shown_and_counted(
    observed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = TelemetryItem(
        "alice", 0, 1.0, msgspec.Raw(msgspec.msgpack.encode({"type": "Decoyed", "mood": 1}))
    )
    listening = observed(
        LinkUp(1), newer, *told(*ring(), ("bob", Unknown("Decoyed", "why", 3), 2.0), first=1)
    )
    going_on = iter([True, True, False])
    show_changes(listening, False, lambda: next(going_on))
    assert "unknown event Decoyed from alice (a newer version?)\n" in capsys.readouterr().out
    lines = page(listening).splitlines()
    assert (
        "unknown event Decoyed from alice (a newer version?): 1 of them, the last 1.0 s ago: malformed message: an unknown tag"
        in lines
    )
    assert "unknown event Decoyed from bob (a newer version?): 3 of them, the last 2.0 s ago: why" in lines
    document = document_of(listening)
    assert [(role, unknown.count) for role, unknown, _ in document.said(Unknown)] == [
        ("alice", 1),
        ("bob", 3),
    ]
    assert verdict(listening.facts()).state == "idle"


ATTACK = AttackSeen("tap", "Tap on the fibre, 30 % of the light", HOSTILE, 12.0)


def test_an_attack_that_is_on_stands_under_the_verdict_and_is_told_as_it_begins_and_ends(
    observed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    listening = observed(LinkUp(1), *told(*ring()))
    listening.poll()
    under = " ".join(page(listening, ATTACK).splitlines()[1:3])
    assert under.startswith(
        "SIMULATED ATTACK ON 12 s: Tap on the fibre, 30 % of the light, begun by \\u001b[2J"
    )
    assert "ATTACK" not in page(listening)
    assert json.loads(json_of(document_of(listening, ATTACK)))["attack"]["name"] == "tap"
    on: Iterator[AttackSeen | None] = iter(
        [None, ATTACK, msgspec.structs.replace(ATTACK, for_s=13.0), None, None]
    )
    going_on = iter([True] * 5 + [False])
    show_changes(listening, False, lambda: next(going_on), lambda: next(on))
    lines = [each for each in capsys.readouterr().out.splitlines() if "attack" in each.lower()]
    assert [each.split(":")[0] for each in lines] == ["SIMULATED ATTACK ON 12 s", "no simulated attack is on"]


def schema_text() -> str:
    """The JSON Schema of the three documents, without the words of docstrings."""
    kinds, parts = msgspec.json.schema_components(
        (Document, VerdictLine, ItemLine), ref_template="#/$defs/{name}"
    )
    for part in parts.values():
        part.pop("description", None)
    draft = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps({"$schema": draft, "anyOf": kinds, "$defs": parts}, indent=1) + "\n"


def test_every_document_is_as_its_published_schema_says(
    observed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    published = (Path(__file__).parents[2] / "docs/status.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), (
        "its schema is another: write what schema_text() says there, and grow SCHEMA"
    )
    validator = jsonschema.Draft202012Validator(json.loads(published))
    more = [
        ("alice", Stock([LaneStock("bob", "mask", 5000)]), 1.0),
        ("bob", Unknown("Decoyed"), 2.0),
        ("relay", LightNow("alice", "bob", 5, 10), 0.1),
        ("relay", Readings("laser", "emission", True), 0.1),
    ]
    listening = observed(
        LinkUp(1), *told(*ring(), *TROUBLED, *more, ("fl-server", Learning("r", "otp", "running", 3), 1.0))
    )
    going_on = iter([True, True, False])
    show_changes(listening, True, lambda: next(going_on))
    lines = [*capsys.readouterr().out.splitlines(), json_of(document_of(listening))]
    assert len(lines) > len(ring())
    for line in lines:
        validator.validate(json.loads(line))
    assert msgspec.json.decode(lines[-1], type=Document) == document_of(listening)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(json.loads(lines[-1]) | {"schema": 1})


def test_the_page_tells_of_light_while_there_is_some(observed: Make) -> None:
    light = LightNow("alice", "bob", 250, 1000, 2, 12_345.0, 11_000.0, -3.0)
    listening = observed(LinkUp(1), *told(*ring(), ("relay", light, 0.4)))
    listening.poll()
    line = "light: alice-bob 25 % of a block, D1 12.3k/s, D2 11k/s, between pulses 0/s, 2 frames lost, told 0.4 s ago"
    assert line in page(listening).splitlines()
    dark = observed(LinkUp(1), *told(*ring(), ("relay", LightNow(), 0.4)))
    dark.poll()
    assert "light:" not in page(dark)


def test_relays_death_is_the_first_line(observed: Make) -> None:
    gone = (HUB, PeerStatus("relay", False, reason="nothing heard for 4 s"), 27.0)
    listening = observed(LinkUp(1), *told(*ring(), gone))
    listening.poll()
    assert page(listening).startswith("RING STOPPED 27 s: relay gone\n")


def test_the_queue_is_told_in_a_line_where_there_is_one(observed: Make) -> None:
    empty = observed(LinkUp(1), *told(*ring(), (HUB, QueueStatus(0, 0), 1.0)))
    empty.poll()
    assert "queue" not in page(empty)
    full = observed(LinkUp(1), *told(*ring(), (HUB, QueueStatus(3, 1, 7, "olga holds the queue"), 1.0)))
    full.poll()
    assert "queue: 3 wait, 1 are held, entry 7 is at work; the ring rests: olga holds the queue (" in page(
        full
    )


def test_hostile_text_of_every_item_that_has_some_is_escaped(
    observed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    items: list[tuple[str, Any, float]] = [
        *ring(),
        (HUB, PeerStatus("dave", True, False, HOSTILE, (HOSTILE,)), 1.0),
        ("alice", Ready(False, HOSTILE, (HOSTILE,)), 1.0),
        ("bob", Alarm("store", HOSTILE, "alice"), 1.0),
        ("alice", BlockReport(1, 8, "alice", "bob", False, HOSTILE, lost_reason=HOSTILE), 1.0),
        (HUB, LeaseStatus(1, 8, "alice", "bob", False, False, HOSTILE), 1.0),
        (HUB, PairStatus("alice", "dave", 0, 9, 0, 1.0, False, True, "", 3, 9.0, HOSTILE), 1.0),
        (HUB, PairStatus("bob", "dave", 0, 0, 0, 1.0, False, False, HOSTILE), 1.0),
        (HUB, Refusals("bob", 3, HOSTILE), 1.0),
        ("fl-server", Learning(HOSTILE, HOSTILE, "failed", 3, reason=HOSTILE), 1.0),
        (HUB, QueueStatus(1, 0, None, HOSTILE), 1.0),
    ]
    listening = observed(LinkUp(1), *told(*items))
    going_on = iter([True, True, False])
    show_changes(listening, False, lambda: next(going_on))
    shown = page(listening) + capsys.readouterr().out
    assert shown.count("\\u001b[2J\\u202eIDLE\\u000d\\u000a") > len(items) - len(ring())
    for character in ("\x1b", "\u202e", "\r"):
        assert character not in shown
    assert not [line for line in shown.splitlines() if line.startswith(("<script>", "IDLE"))]
    document = json.dumps(msgspec.to_builtins(document_of(listening)))
    assert document.isascii()
    assert "\\u001b[2J" in document


def test_watching_without_a_terminal_prints_the_verdict_and_what_changes(
    observed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    listening = observed(LinkUp(1), *told(*ring()), SnapshotEnd(1))
    agent: Any = listening.agent
    listening.poll()
    moments = iter(
        [
            [],
            told((HUB, PeerStatus("relay", False), 0.0), first=len(ring())),
            [LinkDown(LinkState.LOST, "hub gone")],
            [LinkUp(2), *told(*ring())],
        ]
    )

    def going_on() -> bool:
        nonlocal agent
        agent.events = next(moments, None)
        return agent.events is not None

    show_changes(listening, False, going_on)
    verdicts = [
        line for line in capsys.readouterr().out.splitlines() if ": " in line and line.split()[0].isupper()
    ]
    assert [line.split(" 0 s")[0].split(" 12 s")[0] for line in verdicts] == [
        "IDLE",
        "RING STOPPED",
        "NO ANSWER",
    ]


def test_stock_is_told_in_few_words_and_low_lanes_by_name(observed: Make) -> None:
    lanes = [
        LaneStock("bob", "mask", 5000),
        LaneStock("bob", "auth_ab", 1600, 16384),
        LaneStock("bob", "otp_ab", 0),
    ]
    listening = observed(LinkUp(1), *told(("alice", Stock(lanes), 0.0)))
    (heard,) = listening.poll()
    assert view.change(heard) == "alice Stock: 5,000 bits with bob; LOW: 1,600 bits of auth_ab with bob"


def test_the_document_has_a_version_and_every_item_by_who_said_it(observed: Make) -> None:
    lanes = Stock([LaneStock("bob", "mask", 5000), LaneStock("bob", "auth_ab", 60000, 16384)])
    listening = observed(LinkUp(1), *told(*ring(), ("alice", lanes, 2.0)))
    listening.poll()
    document = json.loads(json.dumps(msgspec.to_builtins(document_of(listening))))
    assert (document["schema"], document["epoch"], document["lost"]) == (2, 1, 0)
    assert document["verdict"] == {
        "state": "idle",
        "age_s": 12.0,
        "text": "nobody asked for key",
        "exit_code": 0,
        "line": "IDLE 12 s: nobody asked for key",
    }
    stock = [each for each in document["items"] if each["kind"] == "Stock"]
    assert [(each["role"], each["age_s"]) for each in stock] == [("alice", 2.0)]
    assert stock[0]["data"]["lanes"][1]["low_water_bits"] == 16384
