"""A cohort counts in every round what clip and rounding took from its clients."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from fl.carriers.in_process.run import run_cohort
from fl.rounds.clipping import clip_warnings


@pytest.mark.parametrize("error_feedback", [False, True])
@pytest.mark.parametrize(
    ("clip", "clipped", "vanished", "told"),
    [(1e-6, 4, 0, ["too small"]), (1e9, 0, 4, ["too large"]), (2.0, 0, 0, [])],
)
def test_a_cohort_tells_a_clip_that_spoils_it(
    clip: float,
    clipped: int,
    vanished: int,
    told: list[str],
    error_feedback: bool,
    settings: Callable[..., Any],
    targets: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = settings(4, clip=clip, levels=127, rounds=2, error_feedback=error_feedback)
    with caplog.at_level(logging.WARNING, "fl.carriers.in_process"):
        rounds = run_cohort(config, workers=0, task=targets()).rounds
    assert [words in record.getMessage() for words, record in zip(told, caplog.records, strict=True)] == [
        True for _ in told
    ]
    for row in rounds:
        assert row.clipping is not None
        assert row.clipping.clients == 4
        assert (row.clipping.clipped_clients, row.clipping.vanished_clients) == (clipped, vanished)
    warnings = clip_warnings([row.clipping for row in rounds], clip, 127)
    assert [words in warning for words, warning in zip(told, warnings, strict=True)] == [True] * len(told)


def test_whoever_vanished_before_the_upload_told_nothing(settings: Callable[..., Any], targets: Any) -> None:
    config = settings(5, mode="lightsecagg", rounds=3)
    rounds = run_cohort(config, workers=0, task=targets(), drop_outs=1).rounds
    assert [row.clipping and row.clipping.clients for row in rounds] == [4, 4, 4]


def test_a_float32_run_counts_nothing(settings: Callable[..., Any], targets: Any) -> None:
    rounds = run_cohort(settings(4, rounds=1), workers=0, task=targets(), float32=True).rounds
    assert rounds[0].clipping is None
