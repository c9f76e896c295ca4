"""Clip and rounding: counted where the update is, told in bands, warned of where somebody must act."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.rounds.clipping import (
    CLIPPED_ENDS,
    CLIPPED_LIMIT,
    VANISHED_ENDS,
    VANISHED_LIMIT,
    LossBands,
    Losses,
    clip_warnings,
    clipping_of,
    worst,
)
from fl.rounds.quantise import Quantiser
from orchestrator.events.learning import ClientState, Clipping, RoundCompleted


def quantised(update: np.ndarray, clip: float, levels: int, seed: int = 0) -> tuple[np.ndarray, Losses]:
    rng = np.random.default_rng(seed)
    return Quantiser(clip, levels).quantise_counted(update, rng, client="a", round_number=1)


@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=60),
    clip=st.floats(0.01, 8),
    levels=st.integers(1, 200),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_what_is_counted_is_what_happened(values: list[float], clip: float, levels: int, seed: int) -> None:
    update = np.array(values, np.float32)
    sent, losses = quantised(update, clip, levels, seed)
    beyond = np.abs(update.astype(np.float64)) > clip * (1 + 1e-6)
    assert losses.clipped == pytest.approx(beyond.mean())
    something = update != 0
    assert losses.vanished == pytest.approx((something & (sent == 0)).sum() / max(1, something.sum()))
    cut = np.clip(update.astype(np.float64), -clip, clip) * (levels / clip)
    u = np.random.default_rng(seed).random(update.size)
    assert np.array_equal(sent, np.clip(np.floor(cut + u), -levels, levels))


def test_a_value_that_equals_the_clip_is_not_cut_and_zero_does_not_vanish() -> None:
    _, losses = quantised(np.array([0.1, -0.1, 0.0], np.float32), 0.1, 127)
    assert losses == Losses(0.0, 0.0)
    assert quantised(np.zeros(5, np.float32), 1.0, 1)[1] == Losses(0.0, 0.0)
    assert quantised(np.zeros(0, np.float32), 1.0, 1)[1] == Losses(0.0, 0.0)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_band_holds_its_share_and_tells_no_more_than_four_bits(clipped: float, vanished: float) -> None:
    bands = Losses(clipped, vanished).bands
    assert clipped <= CLIPPED_ENDS[bands.clipped]
    assert not bands.clipped or CLIPPED_ENDS[bands.clipped - 1] < clipped
    assert vanished <= VANISHED_ENDS[bands.vanished]
    assert (CLIPPED_ENDS[bands.clipped] > CLIPPED_LIMIT) == (clipped > CLIPPED_LIMIT)
    assert (VANISHED_ENDS[bands.vanished] > VANISHED_LIMIT) == (vanished > VANISHED_LIMIT)
    assert len(CLIPPED_ENDS) * len(VANISHED_ENDS) <= 16


def test_bands_that_do_not_exist_are_no_message() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"clipped": 4, "vanished": 0}, LossBands)


def test_rounds_add_up_to_the_worst_and_to_warnings_by_the_names_of_the_options() -> None:
    fine, cut, lost = LossBands(1, 1), LossBands(2, 0), LossBands(0, 3)
    assert clipping_of([None, None]) is None
    assert clipping_of([fine, None]) == Clipping(1, 0.05, 0.9, 0, 0)
    mixed = clipping_of([fine, cut, lost, lost])
    assert mixed == Clipping(4, 0.25, 1.0, 1, 2)
    assert worst([None, clipping_of([cut]), clipping_of([lost, lost])]) == Clipping(2, 0.25, 1.0, 1, 2)
    small, large = clip_warnings([mixed, clipping_of([fine] * 4)], 1.0, 4, lambda name: f"--{name}")
    assert "clip is too small" in small
    assert "in 1 of 2 rounds, at up to 1 of 4 clients (up to 25 %); --clip is 1: raise it" in small
    assert "clip is too large" in large
    assert "at up to 2 of 4 clients; one level is --clip / --levels = 0.25" in large
    assert clip_warnings([clipping_of([fine]), None], 1.0, 4) == ()


@pytest.mark.parametrize(("clip", "told"), [(1e-6, "cut off"), (1e6, "rounded to nothing"), (2.0, "")])
def test_a_run_between_machines_tells_bands_to_the_server_and_shares_to_the_own_operator(
    world: Any, clip: float, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.settings(clip=clip, rounds=2)
    with caplog.at_level(logging.WARNING):
        world.start_all()
        records = world.finish()
    for record in records:
        assert record.clipping.clients == 4
        assert record.clipping.harmful == bool(told)
    own = [e for e in world.client_events if isinstance(e, ClientState) and e.phase == "update lost"]
    assert len(own) == (8 if told else 0)
    assert all("100.0 %" in event.detail and told in event.detail for event in own)
    assert ("round 2: WARNING: the clip is too" in caplog.text) == bool(told)
    public = msgspec.json.encode([event for event in world.events if isinstance(event, RoundCompleted)])
    assert b'"clipped":' in public
    assert {record.clipping.clipped for record in records} <= set(CLIPPED_ENDS)
    assert {record.clipping.vanished for record in records} <= set(VANISHED_ENDS)
