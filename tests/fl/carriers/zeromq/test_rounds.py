"""The bookkeeping of one round: what is accepted, refused, timed out, who drops out, and what it all costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fl.modes.base import RoundRules
from fl.rounds.engine import CollectingRound, DuplicateUploadError, RoundLimits, UploadRefusedError
from fl.rounds.messages import Answer, Confirm, Progress, Shares, Upload, header_of
from orchestrator.delivery.masking import pack_values

NAMES = ("alice", "bob", "charlie")
CONTEXT = bytes(range(32))
PACKED = pack_values(np.arange(5, dtype=np.int64), 10)
LIMITS = RoundLimits(silence_s=5, work_s=60, wait_s=600, spare_s=0.5)


def opened() -> CollectingRound:
    return CollectingRound("run", 7, NAMES, (1, 1, 2), RoundRules(5, 10, 50), CONTEXT, LIMITS, 100.0)


def failure(current: CollectingRound, now_s: float) -> str | None:
    current.review(now_s)
    return current.failure


def upload_of(weight: int = 1, **changes: object) -> Upload:
    fields: dict[str, object] = {
        "run_id": "run",
        "round": 7,
        "context": CONTEXT,
        "weight": weight,
        "n_values": 5,
        "ring_width": 10,
        "key_bits": 100,
        "header": header_of(PACKED),
    }
    return Upload(**{**fields, **changes})  # type: ignore[arg-type]


def progress(phase: str, number: int = 7, run_id: str = "run") -> Progress:
    return Progress(run_id, number, phase)  # type: ignore[arg-type]


def test_a_round_is_complete_when_everyone_has_uploaded() -> None:
    current = opened()
    for name, weight in zip(NAMES, (1, 1, 2), strict=True):
        assert not current.review(101.0)
        assert not current.complete
        current.take(name, upload_of(weight), PACKED, 101.0)
    assert current.review(101.0)
    assert current.complete
    assert (current.pending, current.dropped) == ((), ())
    assert current.upload_bytes == 3 * PACKED.nbytes
    assert current.spent_key_bits == 150
    assert failure(current, 10_000.0) is None


@pytest.mark.parametrize(
    ("client", "changes", "packed", "words"),
    [
        ("dora", {}, PACKED, "not a participant"),
        ("alice", {"round": 6}, PACKED, "round 6 of run run is not open"),
        ("alice", {"run_id": "old"}, PACKED, "run old is not open"),
        ("alice", {"weight": 2}, PACKED, "weight 2 was announced as 1"),
        ("alice", {"context": bytes(32)}, PACKED, "another round context"),
        ("alice", {"n_values": 6}, PACKED, "6 values"),
        ("alice", {"ring_width": 8}, PACKED, "of 8 bits"),
        ("alice", {}, PACKED[:-1], "6 bytes instead of 7"),
        ("alice", {}, PACKED | np.uint8(128), "past the end"),
    ],
)
def test_an_upload_that_does_not_belong_is_refused_with_the_reason(
    client: str, changes: dict[str, object], packed: npt.NDArray[np.uint8], words: str
) -> None:
    current = opened()
    with pytest.raises(UploadRefusedError, match=words):
        current.take(client, upload_of(**changes), packed, 101.0)
    assert current.pending == NAMES
    of_this_round = client in NAMES and not {"round", "run_id"} & set(changes)
    assert current.spent_key_bits == (2 * 50 if of_this_round else 0), (
        "its key is burnt although it was refused"
    )


def test_a_repeated_upload_is_a_duplicate_and_a_different_one_is_refused() -> None:
    current = opened()
    current.take("alice", upload_of(), PACKED, 101.0)
    with pytest.raises(DuplicateUploadError):
        current.take("alice", upload_of(), PACKED.copy(), 102.0)
    other = PACKED.copy()
    other[0] ^= 1
    with pytest.raises(UploadRefusedError, match="already uploaded something else"):
        current.take("alice", upload_of(), other, 102.0)
    assert np.array_equal(current.uploads["alice"], PACKED)
    assert len(current.uploads) == 1


def test_no_upload_is_taken_after_the_round_failed() -> None:
    current = opened()
    current.fail("bob left")
    current.fail("something later")
    assert failure(current, 100.0) == "bob left"
    with pytest.raises(UploadRefusedError, match="aborted: bob left"):
        current.take("alice", upload_of(), PACKED, 101.0)
    assert not current.complete
    assert current.spent_key_bits == 2 * 50


def test_silence_fails_the_round_only_for_those_who_have_not_uploaded() -> None:
    current = opened()
    current.take("alice", upload_of(), PACKED, 100.5)
    for name in ("bob", "charlie"):
        current.heard(name, 104.0)
    assert failure(current, 108.9) is None
    current.heard("charlie", 109.0)
    current.heard("stranger", 109.0)
    assert failure(current, 109.1) == "bob vanished: nothing heard for 5.1 s"


def test_who_leaves_after_uploading_is_no_loss() -> None:
    current = opened()
    current.take("alice", upload_of(), PACKED, 100.5)
    current.left("alice", "stopped", 101.0)
    assert failure(current, 101.0) is None
    current.left("bob", "stopped", 101.0)
    assert failure(current, 101.0) == "bob left: stopped"


def test_work_is_limited_but_waiting_for_keys_has_a_limit_of_its_own() -> None:
    current = opened()
    now = 100.0

    def live_until(end: float) -> str | None:
        nonlocal now
        while now < end:
            now += 1.0
            for name in NAMES:
                current.heard(name, now)
            if why := failure(current, now):
                return why
        return None

    current.take("alice", upload_of(), PACKED, 100.5)
    current.take("charlie", upload_of(2), PACKED, 100.5)
    assert live_until(150.0) is None
    current.progress("bob", progress("waiting for keys"), now)
    assert live_until(450.0) is None
    assert current.key_wait_s(now) == 300.0
    current.progress("bob", progress("masking"), now)
    assert live_until(500.0) == "bob did not upload within 60 s"
    assert now == 461.0
    assert current.key_wait_s(now) == 300.0


def test_waiting_for_peers_stops_the_clock_but_is_not_waiting_for_keys() -> None:
    current = opened()
    current.progress("alice", progress("waiting for keys"), 101.0)
    current.progress("alice", progress("waiting for peers"), 103.0)
    current.progress("alice", progress("waiting for peers"), 110.0)
    assert current.key_wait_s(200.0) == 2.0
    current.progress("alice", progress("waiting for keys"), 203.0)
    current.take("alice", upload_of(), PACKED, 204.0)
    assert current.key_wait_s(300.0) == 3.0


def test_nobody_is_blamed_while_the_server_itself_was_away() -> None:
    current, excused = opened(), opened()
    for each in (current, excused):
        each.progress("bob", progress("waiting for keys"), 101.0)
    excused.excuse(50.0)
    assert failure(current, 151.0) is not None
    assert failure(excused, 154.9) is None
    assert excused.key_wait_s(153.0) == 2.0
    assert failure(excused, 155.1) == "alice vanished: nothing heard for 5.1 s"


def test_keys_that_never_come_fail_the_round_in_the_end() -> None:
    current = opened()
    for name in NAMES:
        current.progress(name, progress("waiting for keys"), 100.0)
    for second in range(101, 701):
        for name in NAMES:
            current.heard(name, float(second))
        assert failure(current, float(second)) is None
    for name in NAMES:
        current.heard(name, 701.0)
    assert failure(current, 701.0) == "alice was still waiting for keys after 600 s"


@pytest.mark.parametrize("message", [progress("waiting for keys", 6), progress("waiting for keys", 7, "old")])
def test_progress_of_another_round_does_not_stop_the_clock(message: Progress) -> None:
    current = opened()
    current.progress("alice", message, 100.0)
    current.progress("stranger", progress("waiting for keys"), 100.0)
    assert current.key_wait_s(150.0) == 0.0


def test_an_abort_costs_the_pads_of_every_pair_that_one_side_has_spent() -> None:
    current, declined = opened(), opened()
    assert current.spent_key_bits == 0
    for each in (current, declined):
        each.take("alice", upload_of(), PACKED, 101.0)
    assert current.spent_key_bits == 2 * 50
    declined.declined("bob", "the journal is full", 100, 101.0)
    assert declined.spent_key_bits == 3 * 50
    assert declined.failure == "bob declined: the journal is full"
    current.take("bob", upload_of(), PACKED, 101.0)
    current.take("charlie", upload_of(2), PACKED, 101.0)
    assert current.spent_key_bits == 3 * 50


# -- rounds that survive drop-outs ---------------------------------------------------------------------

FOUR = ("alice", "bob", "charlie", "dora")
TAG = 16
SURVIVORS = ("alice", "bob", "charlie")


class Sharing:
    """A round of four with U = 3; every share, tag and answer can be told from every other."""

    def __init__(self) -> None:
        rules = RoundRules(5, 10, 50, survivors=3, sealed_bytes=6, answer_bits=30)
        self.round = CollectingRound("run", 7, FOUR, (1, 1, 2, 1), rules, CONTEXT, LIMITS, 100.0)
        self.now_s = 100.0

    def live(self, *names: str, seconds: float = 0.0) -> None:
        """Time passes; ``names`` are heard of."""
        self.now_s += seconds
        for name in names:
            self.round.heard(name, self.now_s)
        while self.round.review(self.now_s):
            pass

    def share(self, *names: str) -> None:
        for name in names:
            rows = np.full((3, 6), 16 * FOUR.index(name), np.uint8)
            rows += np.array([FOUR.index(peer) for peer in FOUR if peer != name], np.uint8)[:, None]
            self.round.take(name, Shares("run", 7, CONTEXT, 150, header_of(rows)), rows, self.now_s)
        self.live(*names)

    def upload(self, *names: str) -> None:
        for name in names:
            weight = 2 if name == "charlie" else 1
            self.round.take(name, upload_of(weight), PACKED, self.now_s)
        self.live(*names)

    def confirm(self, *names: str, survivors: tuple[str, ...] = SURVIVORS) -> None:
        for name in names:
            tags = np.full((max(len(self.round.holders) - 1, 0), TAG), FOUR.index(name), np.uint8)
            self.round.take(name, Confirm("run", 7, survivors, header_of(tags)), tags, self.now_s)
        self.live(*names)

    def answer(self, *names: str, survivors: tuple[str, ...] = SURVIVORS) -> None:
        for name in names:
            packed = np.zeros(4, np.uint8)
            self.round.take(name, Answer("run", 7, survivors, header_of(packed)), packed, self.now_s)
            self.live(name)


@pytest.fixture
def sharing() -> Sharing:
    return Sharing()


def test_with_everybody_there_no_stage_waits(sharing: Sharing) -> None:
    assert sharing.round.stage == "sharing"
    sharing.share(*FOUR)
    assert sharing.round.stage == "uploading"
    sharing.upload(*FOUR)
    assert (sharing.round.stage, sharing.round.survivors) == ("confirming", FOUR)
    sharing.confirm(*FOUR, survivors=FOUR)
    sharing.answer(*FOUR, survivors=FOUR)
    assert sharing.round.complete
    assert sharing.round.dropped == ()
    assert set(sharing.round.answers) == set(FOUR)
    assert sharing.round.spent_key_bits == 6 * 50
    assert sharing.round.upload_bytes == 4 * (3 * 6 + 7 + 3 * TAG + 4)


def test_one_answer_more_than_needed_is_awaited_for_a_moment(sharing: Sharing) -> None:
    sharing.share(*FOUR)
    sharing.upload(*FOUR)
    sharing.confirm(*FOUR, survivors=FOUR)
    sharing.answer(*FOUR[:2], survivors=FOUR)
    sharing.live(*FOUR, seconds=2.0)
    sharing.answer("charlie", survivors=FOUR)
    sharing.live(*FOUR, seconds=0.4)
    assert not sharing.round.complete
    sharing.round.excuse(60.0)
    sharing.live(*FOUR, seconds=60.05)
    assert not sharing.round.complete, "the server was away: nobody's time ran"
    sharing.live(*FOUR, seconds=0.1)
    assert sharing.round.complete
    assert set(sharing.round.answers) == set(FOUR[:3])
    with pytest.raises(DuplicateUploadError, match="not needed any more"):
        sharing.answer("dora", survivors=FOUR)


def test_no_further_answer_is_awaited_of_those_who_are_gone(sharing: Sharing) -> None:
    sharing.share(*FOUR)
    sharing.upload(*FOUR)
    sharing.confirm(*FOUR, survivors=FOUR)
    sharing.round.left("dora", "stopped", sharing.now_s)
    sharing.answer(*FOUR[:3], survivors=FOUR)
    assert sharing.round.complete


def test_shares_and_tags_reach_whom_they_are_for(sharing: Sharing) -> None:
    sharing.share("alice", "bob", "dora")
    sharing.live("alice", "bob", "dora", seconds=5.1)
    senders, rows = sharing.round.shares_for("bob")
    assert senders == ("alice", "dora")
    assert rows.tolist() == [[0x01] * 6, [0x31] * 6]
    assert sharing.round.shares_for("dora")[1].tolist() == [[0x03] * 6, [0x13] * 6]
    sharing.upload("alice", "bob", "dora")
    sharing.confirm("dora", "alice", "bob", survivors=("alice", "bob", "dora"))
    holders, tags = sharing.round.confirmations_for("alice")
    assert holders == ("bob", "dora")
    assert tags.tolist() == [[1] * TAG, [3] * TAG]


def test_who_vanishes_while_training_is_left_out_of_the_sum(sharing: Sharing) -> None:
    sharing.share(*FOUR)
    sharing.upload("alice", "bob", "charlie")
    assert sharing.round.stage == "uploading"
    sharing.live("alice", "bob", "charlie", seconds=5.1)
    assert (sharing.round.stage, sharing.round.dropped) == ("confirming", ("dora",))
    assert "dora vanished" in sharing.round.gone["dora", "uploading"]
    with pytest.raises(UploadRefusedError, match="too late: round 7 went on without it"):
        sharing.upload("dora")
    sharing.confirm("alice", "bob", "charlie")
    assert sharing.round.stage == "answering", "nobody waits for dora"
    sharing.answer("alice", "bob", "charlie")
    assert sharing.round.complete


def test_who_declines_its_upload_may_still_answer(sharing: Sharing) -> None:
    """An update with NaN is no reason not to help the others."""
    sharing.share(*FOUR)
    sharing.round.declined("dora", "parameter 5 is nan", 0, sharing.now_s)
    sharing.upload("alice", "bob", "charlie")
    assert sharing.round.stage == "confirming"
    sharing.confirm(*FOUR)
    sharing.round.declined("charlie", "another list", 0, sharing.now_s)
    sharing.answer("alice", "bob", "dora")
    assert sharing.round.complete
    assert sharing.round.dropped == ("dora",)


def test_who_returns_after_its_upload_was_given_up_answers_too(sharing: Sharing) -> None:
    sharing.share(*FOUR)
    sharing.upload("alice", "bob", "charlie")
    sharing.round.left("dora", "stopped", sharing.now_s)
    sharing.live("alice", "bob", "charlie")
    assert sharing.round.stage == "confirming"
    sharing.live("dora", seconds=1.0)
    sharing.confirm(*FOUR)
    sharing.answer("dora", "alice", "bob")
    sharing.live(seconds=0.5)
    assert sharing.round.complete


def test_too_few_left_abort_the_round_with_everybody_s_reason(sharing: Sharing) -> None:
    sharing.share(*FOUR)
    sharing.upload("alice")
    sharing.round.left("dora", "stopped", sharing.now_s)
    sharing.round.declined("bob", "disk full", 0, sharing.now_s)
    sharing.live("alice", "charlie")
    assert sharing.round.failure == (
        "2 of the 3 clients needed are left (uploading): bob declined: disk full; dora left: stopped"
    )
    assert sharing.round.spent_key_bits == 6 * 50
    with pytest.raises(UploadRefusedError, match="was aborted"):
        sharing.upload("charlie")


def test_too_few_answers_abort_the_round(sharing: Sharing) -> None:
    sharing.share(*FOUR)
    sharing.upload(*FOUR)
    sharing.confirm(*FOUR, survivors=FOUR)
    sharing.answer("alice", "bob", survivors=FOUR)
    sharing.live("alice", "bob", "charlie", seconds=4.0)
    assert sharing.round.failure is None
    sharing.live("alice", "bob", "charlie", seconds=1.1)
    assert sharing.round.failure is not None
    assert "charlie had not answered within 5 s; dora vanished" in sharing.round.failure


def test_one_who_vanishes_before_sharing_stops_the_others_only_for_a_while(sharing: Sharing) -> None:
    sharing.share("alice", "bob", "charlie")
    assert sharing.round.stage == "sharing"
    sharing.live("alice", "bob", "charlie", seconds=5.1)
    assert sharing.round.stage == "uploading"
    assert sharing.round.holders == ("alice", "bob", "charlie")
    with pytest.raises(UploadRefusedError, match="too late"):
        sharing.share("dora")
    with pytest.raises(UploadRefusedError, match="sent no shares"):
        sharing.upload("dora")


def test_shares_that_cannot_be_finished_abort_the_round(sharing: Sharing) -> None:
    """dora's node never agreed with bob's and charlie's: they would wait for ever."""
    sharing.share("alice")
    sharing.round.left("dora", "stopped", sharing.now_s)
    for name in ("bob", "charlie"):
        sharing.round.progress(name, progress("waiting for peers"), sharing.now_s)
    sharing.live(*SURVIVORS, seconds=4.9)
    assert sharing.round.failure is None
    sharing.live(*SURVIVORS, seconds=0.2)
    assert "could not share before another was gone" in str(sharing.round.failure)
    assert sharing.round.spent_key_bits == 3 * 50


@pytest.mark.parametrize("stage", ["upload", "confirm", "answer"])
def test_what_comes_too_early_is_refused(sharing: Sharing, stage: str) -> None:
    with pytest.raises(UploadRefusedError, match="too early: round 7 is sharing"):
        getattr(sharing, stage)("alice")


def test_a_confirmation_that_is_not_needed_any_more_is_no_offence(sharing: Sharing) -> None:
    sharing.share(*FOUR)
    sharing.upload(*FOUR)
    sharing.confirm("alice", "bob", "charlie", survivors=FOUR)
    sharing.live("alice", "bob", "charlie", seconds=5.1)
    assert sharing.round.stage == "answering"
    with pytest.raises(DuplicateUploadError, match="not needed any more"):
        sharing.confirm("dora", survivors=FOUR)
    sharing.answer("dora", "alice", "bob", survivors=FOUR)
    sharing.live(seconds=0.5)
    assert sharing.round.complete


def test_another_list_of_survivors_is_refused(sharing: Sharing) -> None:
    sharing.share(*FOUR)
    sharing.upload(*FOUR)
    with pytest.raises(UploadRefusedError, match="survivors of round 7 are alice, bob, charlie, dora"):
        sharing.confirm("alice", survivors=("alice", "bob", "dora"))
    sharing.confirm(*FOUR, survivors=FOUR)
    with pytest.raises(UploadRefusedError, match="survivors of round 7"):
        sharing.answer("alice", survivors=("alice", "bob", "dora"))


@pytest.mark.parametrize(("what", "shape"), [("Shares", (2, 6)), ("Shares", (3, 5)), ("Confirm", (2, TAG))])
def test_arrays_of_another_shape_are_refused(sharing: Sharing, what: str, shape: tuple[int, int]) -> None:
    rows: npt.NDArray[np.uint8] = np.zeros(shape, np.uint8)
    message: Any = Shares("run", 7, CONTEXT, 150, header_of(rows))
    if what == "Confirm":
        sharing.share(*FOUR)
        sharing.upload(*FOUR)
        message = Confirm("run", 7, FOUR, header_of(rows))
    with pytest.raises(UploadRefusedError, match="an array of shape"):
        sharing.round.take("alice", message, rows, 101.0)


def test_shares_for_another_context_are_refused(sharing: Sharing) -> None:
    rows = np.zeros((3, 6), np.uint8)
    with pytest.raises(UploadRefusedError, match="another round context"):
        sharing.round.take("alice", Shares("run", 7, bytes(32), 150, header_of(rows)), rows, 101.0)


def test_different_shares_a_second_time_are_refused(sharing: Sharing) -> None:
    sharing.share("alice")
    with pytest.raises(DuplicateUploadError):
        sharing.share("alice")
    rows = np.zeros((3, 6), np.uint8)
    with pytest.raises(UploadRefusedError, match="already shared something else"):
        sharing.round.take("alice", Shares("run", 7, CONTEXT, 150, header_of(rows)), rows, 101.0)
