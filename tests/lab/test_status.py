"""What ``qunetlab status`` shows of what an observer heard: ages, losses, hostile texts, the hub's restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lab.cli import status_view as view
from lab.cli.status import show_changes
from lab.runs.following.observer import Observer, ObserverError
from lab.runs.following.verdict import verdict
from orchestrator.events.status import (
    Alarm,
    BlockReport,
    Epsilons,
    LaneStock,
    Learning,
    LeaseStatus,
    PairStatus,
    PeerStatus,
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
    assert f"{listening.lost} items were lost on the way" in view.text(listening)


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
    assert "heard 3.0 s ago; 5 of 5 roles here" in view.text(listening)
    clock.now_s += 3.0
    assert verdict(listening.facts()).line == "NO ANSWER 6 s: the orchestrator is linked and says nothing"


def test_the_page_tells_measured_from_planned_and_how_old_everything_is(observed: Make) -> None:
    listening = observed(LinkUp(1), *told(*ring()))
    listening.poll()
    lines = view.text(listening).splitlines()
    assert lines[0] == "IDLE 12 s: nobody asked for key"
    row = next(line for line in lines if line.startswith("alice-bob"))
    assert "1,234 measured" in row
    assert "2.13 %" in row
    assert "5,000 bits, 9.0 s ago" in row
    assert "7 good, 9.5 s ago" in row
    assert "1e-10" in row
    assert "4,321 planned" in next(line for line in lines if line.startswith("alice-carol"))


def test_relays_death_is_the_first_line(observed: Make) -> None:
    gone = (HUB, PeerStatus("relay", False, reason="nothing heard for 4 s"), 27.0)
    listening = observed(LinkUp(1), *told(*ring(), gone))
    listening.poll()
    assert view.text(listening).startswith("RING STOPPED 27 s: relay gone\n")


def test_hostile_text_of_every_item_that_has_some_is_escaped(
    observed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    items: list[tuple[str, Any, float]] = [
        *ring(),
        (HUB, PeerStatus("dave", True, False, HOSTILE, (HOSTILE,)), 1.0),
        ("alice", Ready(False, HOSTILE, (HOSTILE,)), 1.0),
        ("bob", Alarm("store", HOSTILE, "alice"), 1.0),
        ("alice", BlockReport(1, 8, "alice", "bob", False, HOSTILE), 1.0),
        (HUB, LeaseStatus(1, 8, "alice", "bob", False, False, HOSTILE), 1.0),
        (HUB, PairStatus("alice", "dave", 0, 9, 0, 1.0, False, True, "", 3, 9.0, HOSTILE), 1.0),
        (HUB, PairStatus("bob", "dave", 0, 0, 0, 1.0, False, False, HOSTILE), 1.0),
        (HUB, Refusals("bob", 3, HOSTILE), 1.0),
        ("fl-server", Learning(HOSTILE, HOSTILE, "failed", 3, reason=HOSTILE), 1.0),
    ]
    listening = observed(LinkUp(1), *told(*items))
    going_on = iter([True, True, False])
    show_changes(listening, False, lambda: next(going_on))
    shown = view.text(listening) + capsys.readouterr().out
    assert shown.count("\\u001b[2J\\u202eIDLE\\u000d\\u000a") > len(items) - len(ring())
    for character in ("\x1b", "\u202e", "\r"):
        assert character not in shown
    assert not [line for line in shown.splitlines() if line.startswith(("<script>", "IDLE"))]
    document = json.dumps(view.document(listening))
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
    document = json.loads(json.dumps(view.document(listening)))
    assert (document["schema"], document["epoch"], document["lost"]) == (1, 1, 0)
    assert document["verdict"] == {
        "state": "idle",
        "age_s": 12.0,
        "text": "nobody asked for key",
        "exit_code": 0,
    }
    stock = [each for each in document["items"] if each["kind"] == "Stock"]
    assert [(each["role"], each["age_s"]) for each in stock] == [("alice", 2.0)]
    assert stock[0]["data"]["lanes"][1]["low_water_bits"] == 16384
