"""Waiting for keys: what is told, how long it is estimated to take, and how every failure surfaces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.keys.node import CancelledError, GrowthEstimate, KeyServiceError, KeyWait, NodeKeys
from orchestrator.bits import packed_size
from orchestrator.delivery.client import DeliveryClient, MaskedUpdate, Wait
from orchestrator.delivery.errors import (
    DeliveryRefusedError,
    DeliveryTimeoutError,
    DeliveryUnreachableError,
    KeysShortError,
    OutputLostError,
    PadsGoneError,
    RoundConflictError,
)
from orchestrator.delivery.messages import RoundContext

CONTEXT = RoundContext("run", 1, ("alice", "bob", "charlie"), 4, 10)
MASKED = MaskedUpdate(np.zeros(packed_size(40), np.uint8), 4, 10, 80, CONTEXT.digest())


class ScriptedDelivery:
    """Does one thing of a script per call of ``masked_update``: raises, or returns."""

    def __init__(self, script: list[BaseException | MaskedUpdate], waits: list[Wait] | None = None) -> None:
        self.script: Iterator[BaseException | MaskedUpdate] = iter(script)
        self.waits = waits or []
        self.abandoned: list[int] = []
        self.bounds: list[int | None] = []
        self.before_answer: Callable[[], None] = lambda: None
        self.unreachable = False
        self.reserved_with: tuple[str, ...] = ()

    def stock(self, timeout_s: float = 5.0) -> Any:
        raise AssertionError("these tests ask for no stock")

    def demand(self, bits: Any, timeout_s: float = 5.0) -> None:
        raise DeliveryUnreachableError("the node is away")

    def abandon(self, context: RoundContext, timeout_s: float = 5.0) -> tuple[str, ...]:
        self.abandoned.append(context.round)
        if self.unreachable:
            raise DeliveryUnreachableError("the node is away")
        return self.reserved_with

    def stored_update(self, context: RoundContext, journal_dir: Path) -> MaskedUpdate | None:
        raise RoundConflictError("another participant set")

    def masked_update(self, context: RoundContext, *args: Any, **options: Any) -> MaskedUpdate:
        self.bounds.append(options["sum_bound"])
        for wait in self.waits:
            args[4](wait)
        self.before_answer()
        answer = next(self.script)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def mask(
    delivery: ScriptedDelivery,
    cancelled: threading.Event | None = None,
    told: list[KeyWait] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> Any:
    keys = NodeKeys(delivery, "alice", Path("unused"), clock)
    tell = (told if told is not None else []).append
    return keys.mask(CONTEXT, np.zeros(4, np.int64), 1, 381, cancelled or threading.Event(), tell)


def test_it_waits_until_the_pads_come() -> None:
    waiting = [KeysShortError({"bob": 10}, 3.0), DeliveryTimeoutError("charlie is late")]
    delivery = ScriptedDelivery([*waiting, MASKED], [Wait({"bob": 10}, (), 3.0, "too little key")])
    told: list[KeyWait] = []
    assert mask(delivery, told=told).key_bits == 80
    peers = ScriptedDelivery([MASKED], [Wait({}, ("bob",), None, "bob is late")])
    mask(peers, told=(late := []))
    assert late == [KeyWait("bob is late", None, for_keys=False)]
    assert told == [KeyWait("too little key", 3.0, missing_bits={"bob": 10})] * 3
    assert delivery.bounds == [381] * 3
    assert delivery.abandoned == []


def test_a_node_that_is_away_is_waited_for_visibly() -> None:
    told: list[KeyWait] = []
    mask(ScriptedDelivery([DeliveryUnreachableError("the node is away"), MASKED]), told=told)
    assert told == [KeyWait("the node is away", None)]


@pytest.mark.parametrize("unreachable", [False, True])
def test_cancelling_gives_the_reservation_back(unreachable: bool) -> None:
    cancelled = threading.Event()
    delivery = ScriptedDelivery([DeliveryTimeoutError("late")])
    delivery.before_answer = cancelled.set
    delivery.unreachable = unreachable
    with pytest.raises(CancelledError):
        mask(delivery, cancelled)
    assert delivery.abandoned == [1]


@pytest.mark.parametrize("error", [PadsGoneError("released before"), OutputLostError("disk full")])
def test_pads_that_are_gone_are_counted(error: Exception) -> None:
    with pytest.raises(KeyServiceError) as caught:
        mask(ScriptedDelivery([error]))
    assert (caught.value.key_bits, caught.value.spent_with) == (2 * 40, ())


def test_what_was_reserved_when_a_round_ended_is_burnt_and_counted() -> None:
    cancelled = threading.Event()
    delivery = ScriptedDelivery([DeliveryTimeoutError("late")])
    delivery.before_answer, delivery.reserved_with = cancelled.set, ("bob",)
    with pytest.raises(CancelledError) as caught:
        mask(delivery, cancelled)
    assert (caught.value.key_bits, caught.value.spent_with) == (40, ("bob",))


@pytest.mark.parametrize("error", [DeliveryRefusedError("no"), RoundConflictError("no")])
@pytest.mark.parametrize("reserved", [(), ("charlie",)])
def test_a_refusal_is_final_and_costs_what_was_reserved(error: Exception, reserved: tuple[str, ...]) -> None:
    delivery = ScriptedDelivery([error])
    delivery.reserved_with = reserved
    with pytest.raises(KeyServiceError) as caught:
        mask(delivery)
    assert (caught.value.key_bits, caught.value.spent_with) == (40 * len(reserved), reserved)
    assert delivery.abandoned == [1]


def test_a_stored_update_of_another_context_is_a_key_service_error() -> None:
    with pytest.raises(KeyServiceError, match="another participant set"):
        NodeKeys(ScriptedDelivery([]), "alice", Path("unused")).stored(CONTEXT)


def test_a_demand_that_does_not_arrive_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    NodeKeys(ScriptedDelivery([]), "alice", Path("unused")).demand(("bob",), 100)
    assert "not delivered" in caplog.text


def test_without_an_estimate_from_the_node_growth_is_extrapolated() -> None:
    times = iter([0.0, 10.0])
    delivery = ScriptedDelivery([KeysShortError({}, None), MASKED])
    missing = iter([{"bob": 1000, "charlie": 300}, {"bob": 600, "charlie": 250}])

    def waits() -> Iterator[Wait]:
        yield Wait(next(missing), (), None, "short")

    told: list[KeyWait] = []
    delivery.waits = _Again(waits)  # type: ignore[assignment]
    mask(delivery, told=told, clock=lambda: next(times))
    assert told[0].eta_s is None
    assert told[1].eta_s == pytest.approx(250 * 10 / 50)


class _Again:
    """Iterates over a fresh generator each time."""

    def __init__(self, make: Callable[[], Iterator[Wait]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Wait]:
        return self._make()


def test_the_estimate_starts_over_when_another_pair_falls_short() -> None:
    estimate = GrowthEstimate()
    assert estimate.eta_s({"bob": 100}, 0.0) is None
    assert estimate.eta_s({"bob": 50}, 5.0) == pytest.approx(5.0)
    assert estimate.eta_s({"charlie": 80}, 6.0) is None
    assert estimate.eta_s({"charlie": 40}, 8.0) == pytest.approx(2.0)
    assert estimate.eta_s({}, 9.0) == 0.0


def test_the_real_delivery_client_has_what_training_calls() -> None:
    for name in ("stock", "demand", "abandon", "stored_update", "masked_update"):
        assert callable(getattr(DeliveryClient, name))
