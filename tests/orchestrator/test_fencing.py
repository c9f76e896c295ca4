"""The fence of relay and nodes, and how an honest orchestrator comes back over it, whatever was offered before."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.scheduling.fencing import (
    AHEAD,
    EPOCH_STEP,
    REACH,
    EpochError,
    EpochFile,
    Fence,
    Reach,
)

LARGEST = 1 << 62


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Memory(EpochFile):
    """The file, without the disk."""

    def __init__(self, epoch: int = 0) -> None:
        super().__init__(Path("nowhere"))
        self.epoch = epoch

    def read(self) -> int:
        return self.epoch

    def write(self, epoch: int) -> None:
        assert 0 <= epoch < LARGEST
        self.epoch = epoch


@pytest.mark.parametrize("epoch", [LARGEST, LARGEST - 1, LARGEST // 2, 8 + EPOCH_STEP])
def test_one_offer_of_a_far_epoch_moves_nothing_and_the_honest_ones_go_on(tmp_path: Path, epoch: int) -> None:
    fence = Fence(EpochFile(tmp_path / "fence"))
    assert fence.accept(7, 1)
    assert not fence.accept(epoch, 1)
    assert "more than 1048576 above the newest one seen, 7" in fence.objection
    assert fence.newest == (7, 1)
    assert fence.accept(8, 1)
    again = Fence(EpochFile(tmp_path / "fence"))
    assert [again.accept(number, 1) for number in range(9, 13)] == [True] * 4


def test_a_far_number_is_over_with_the_next_epoch() -> None:
    fence = Fence()
    assert fence.accept(7, LARGEST)
    assert not fence.accept(7, 2)
    assert fence.accept(8, 1)


@given(st.lists(st.integers(0, LARGEST), max_size=20))
def test_a_node_can_be_restarted_after_any_epoch_that_it_took(offers: list[int]) -> None:
    file = Memory()
    fence = Fence(file)
    for epoch in offers:
        before = fence.newest[0]
        if fence.accept(epoch, 1):
            assert before <= epoch <= before + EPOCH_STEP
        assert Fence(file).newest[0] == fence.newest[0]


@pytest.mark.parametrize("age_s", [0.0, 100 * 86400.0])
def test_an_hour_of_evil_offers_moves_a_fence_no_further_than_the_honest_can_follow(age_s: float) -> None:
    """The parties are equally old, the orchestrator that is honest again has just been started."""
    clock = Clock()
    walked, follower = Fence(reach=Reach(clock)), Fence(reach=Reach(clock))
    clock.now_s += age_s
    for _ in range(36_000):  # one offer every 100 ms
        clock.now_s += 0.1
        for step in (EPOCH_STEP, EPOCH_STEP // 7, 1):
            walked.accept(walked.newest[0] + step, 1)
    steps = (walked.newest[0] - REACH) / EPOCH_STEP
    assert age_s / 86400.0 - 0.01 < steps < age_s / 86400.0 + 1.0
    ours, epoch, starts = Reach(clock, extra=AHEAD), 0, 1
    while epoch <= walked.newest[0]:
        raised = min(walked.newest[0] + 1, epoch + EPOCH_STEP)
        if not ours.take(raised - epoch):
            ours, starts = Reach(clock, extra=AHEAD), starts + 1  # a restart renews it
            assert ours.take(raised - epoch)
        epoch = raised
        assert follower.accept(epoch, 1)
    assert walked.accept(epoch, 1)
    assert starts == (1 if age_s == 0 else 3)


def test_an_epoch_that_cannot_be_stored_passes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    fence = Fence(EpochFile(tmp_path / "fence"))
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.scheduling.fencing.replace_file", full)
        with pytest.raises(OSError, match="fence"):
            fence.accept(7, 1)
    assert fence.newest == (0, -1)
    assert fence.accept(7, 1)


def test_offers_on_a_full_disk_use_up_no_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    fence = Fence(EpochFile(tmp_path / "fence"), Reach(Clock()))
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.scheduling.fencing.replace_file", full)
        for _ in range(REACH // EPOCH_STEP + 1):
            with pytest.raises(OSError, match="No space left"):
                fence.accept(EPOCH_STEP, 1)
    assert fence.accept(EPOCH_STEP, 1), fence.objection


def test_a_reach_grows_with_time() -> None:
    clock = Clock()
    reach = Reach(clock)
    assert [reach.take(REACH), reach.take(1)] == [True, False]
    clock.now_s += 86400.0
    assert [reach.take(EPOCH_STEP + 1), reach.take(EPOCH_STEP), reach.take(1)] == [False, True, False]


STATES = st.integers(0, 60 * EPOCH_STEP)


@settings(max_examples=50, deadline=None)
@given(st.lists(STATES, min_size=1, max_size=3), STATES)
def test_an_orchestrator_in_any_old_state_meets_every_fence_in_bounded_steps(
    fences: list[int], kept: int
) -> None:
    """The rule of the orchestrator against the rule of the parties, without messages."""
    file = Memory(kept)
    epoch = file.advance()
    parties = [Fence() for _ in fences]
    for party, at in zip(parties, fences, strict=True):
        party._newest = (at, 0)
    for offers in range(1, 300):
        refused = [party for party in parties if not party.accept(epoch, offers)]
        if not refused:
            break
        newest = refused[0].newest[0]
        if newest < epoch - EPOCH_STEP:
            for step in range(newest + EPOCH_STEP, epoch, EPOCH_STEP):
                assert refused[0].step(step)
        else:
            raised = file.raise_above(newest)
            assert epoch < raised <= epoch + EPOCH_STEP
            assert file.read() == raised
            epoch = raised
    assert offers <= 62 + 3


def test_the_last_epoch_is_an_error_and_no_silent_repetition(tmp_path: Path) -> None:
    file = EpochFile(tmp_path / "epoch")
    file.write(LARGEST - 1)
    with pytest.raises(EpochError, match="begin with a new testbed"):
        file.advance()
    with pytest.raises(ValueError, match="below"):
        file.write(LARGEST)
