"""What a client still owes the model: kept over rounds and restarts, and never sent a second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fl.rounds.compression import Compression, ErrorFeedback
from fl.rounds.config import FLConfig
from fl.rounds.feedback import Feedback

N = 12
CONFIG = FLConfig(
    run_id="r", task="t", clients=("alice", "bob", "charlie"), keep=0.5, error_feedback=True, levels=3
)
COMPRESSION = Compression.from_config(CONFIG)


def update(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(0, 0.3, N).astype(np.float32)


def rng(number: int) -> np.random.Generator:
    return np.random.default_rng([number, 5])


def opened(folder: Path | None) -> Feedback:
    return Feedback("alice", CONFIG, N, folder)


def send(feedback: Feedback, number: int, in_sum: bool | None = True) -> np.ndarray:
    values = feedback.compress(update(number), number, rng(number))
    feedback.uploading(number)
    if in_sum is not None:
        feedback.ended(number, in_sum)
    return values


def expected(outcomes: list[str], last: int) -> np.ndarray:
    """The values of round ``last`` after rounds that ended as told, by ErrorFeedback alone."""
    feedback = ErrorFeedback(COMPRESSION, CONFIG.seed, N)
    for number, outcome in enumerate(outcomes, start=1):
        feedback.compress(update(number), number, rng(number), client="alice")
        if outcome == "sum":
            feedback.commit()
        else:
            feedback.discard(uploaded=outcome == "uploaded")
    return feedback.compress(update(last), last, rng(last), client="alice")


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("outcomes", [["sum", "sum"], ["sum", "uploaded"], ["uploaded", "sum"]])
def test_rounds_are_settled_by_how_they_ended(tmp_path: Path, kept: bool, outcomes: list[str]) -> None:
    feedback = opened(tmp_path if kept else None)
    for number, outcome in enumerate(outcomes, start=1):
        send(feedback, number, outcome == "sum")
    assert np.array_equal(send(feedback, 3), expected(outcomes, 3))


def test_a_round_whose_end_was_never_heard_counts_as_aborted() -> None:
    feedback = opened(None)
    send(feedback, 1)
    send(feedback, 2, in_sum=None)
    feedback.ended(7, True)
    assert np.array_equal(send(feedback, 3), expected(["sum", "uploaded"], 3))


def test_what_was_never_uploaded_is_kept() -> None:
    feedback = opened(None)
    send(feedback, 1)
    feedback.compress(update(2), 2, rng(2))
    assert np.array_equal(send(feedback, 3), expected(["sum", "kept"], 3))


def test_a_client_killed_after_an_upload_repeats_nothing_of_it(tmp_path: Path) -> None:
    """The residual of round 1 went out with round 2 where their coordinates meet: it must not come again."""
    feedback = opened(tmp_path)
    send(feedback, 1)
    send(feedback, 2)
    feedback.compress(update(3), 3, rng(3))
    before = np.load(next(tmp_path.glob("residual-*.npy")))
    assert before.any()
    feedback.uploading(3)
    restarted = opened(tmp_path)._feedback.residual
    window = COMPRESSION.coordinates(CONFIG.seed, 3, N)
    assert not restarted[window].any()
    elsewhere = np.setdiff1d(np.arange(N), window)
    assert np.array_equal(restarted[elsewhere], before[elsewhere])


def test_a_client_that_resends_from_before_its_restart_forgets_that_round(tmp_path: Path) -> None:
    feedback = opened(tmp_path)
    send(feedback, 1)
    feedback.compress(update(2), 2, rng(2))
    restarted = opened(tmp_path)
    restarted.uploading(2)
    window = COMPRESSION.coordinates(CONFIG.seed, 2, N)
    assert not restarted._feedback.residual[window].any()


def test_the_file_is_private_and_belongs_to_one_run(tmp_path: Path) -> None:
    feedback = opened(tmp_path)
    send(feedback, 1)
    send(feedback, 2)
    (path,) = tmp_path.glob("residual-*.npy")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"damaged")
    assert not opened(tmp_path)._feedback.residual.any()


def test_without_error_feedback_nothing_is_kept(tmp_path: Path) -> None:
    plain = FLConfig(run_id="r", task="t", clients=("alice", "bob"))
    feedback = Feedback("alice", plain, N, tmp_path)
    send(feedback, 1)
    send(feedback, 2)
    assert list(tmp_path.iterdir()) == []
