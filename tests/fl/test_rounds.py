"""The bookkeeping of one round: what is accepted, refused, timed out, and what an abort costs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from fl.messages import Progress, Upload, header_of
from fl.rounds import CollectingRound, DuplicateUploadError, RoundLimits, UploadRefusedError
from orchestrator.delivery.masking import pack_values

NAMES = ("alice", "bob", "charlie")
CONTEXT = bytes(range(32))
PACKED = pack_values(np.arange(5, dtype=np.int64), 10)


def opened() -> CollectingRound:
    return CollectingRound(
        "run", 7, NAMES, (1, 1, 2), 5, 10, CONTEXT, RoundLimits(silence_s=5, work_s=60, wait_s=600), 100.0
    )


def upload_of(weight: int = 1, **changes: object) -> Upload:
    fields: dict[str, object] = {
        "run_id": "run",
        "round": 7,
        "context": CONTEXT,
        "weight": weight,
        "n_values": 5,
        "ring_bits": 10,
        "key_bits": 100,
        "header": header_of(PACKED),
    }
    return Upload(**{**fields, **changes})  # type: ignore[arg-type]


def progress(phase: str, number: int = 7, run_id: str = "run") -> Progress:
    return Progress(run_id, number, phase)  # type: ignore[arg-type]


def test_a_round_is_complete_when_everyone_has_uploaded() -> None:
    current = opened()
    for name, weight in zip(NAMES, (1, 1, 2), strict=True):
        assert not current.complete
        current.upload(name, upload_of(weight), PACKED, 101.0)
    assert current.complete
    assert current.missing == ()
    assert current.upload_bytes == 3 * PACKED.nbytes
    assert current.key_bits == 150
    assert current.failure(10_000.0) is None


@pytest.mark.parametrize(
    ("client", "changes", "packed", "words"),
    [
        ("dora", {}, PACKED, "not a participant"),
        ("alice", {"round": 6}, PACKED, "round 6 of run run is not open"),
        ("alice", {"run_id": "old"}, PACKED, "run old is not open"),
        ("alice", {"weight": 2}, PACKED, "weight 2 was announced as 1"),
        ("alice", {"context": bytes(32)}, PACKED, "another round context"),
        ("alice", {"n_values": 6}, PACKED, "6 values"),
        ("alice", {"ring_bits": 8}, PACKED, "of 8 bits"),
        ("alice", {}, PACKED[:-1], "6 bytes instead of 7"),
        ("alice", {}, PACKED | np.uint8(128), "past the end"),
    ],
)
def test_an_upload_that_does_not_belong_is_refused_with_the_reason(
    client: str, changes: dict[str, object], packed: npt.NDArray[np.uint8], words: str
) -> None:
    current = opened()
    with pytest.raises(UploadRefusedError, match=words):
        current.upload(client, upload_of(**changes), packed, 101.0)
    assert current.missing == NAMES


def test_a_repeated_upload_is_a_duplicate_and_a_different_one_is_refused() -> None:
    current = opened()
    current.upload("alice", upload_of(), PACKED, 101.0)
    with pytest.raises(DuplicateUploadError):
        current.upload("alice", upload_of(), PACKED.copy(), 102.0)
    other = PACKED.copy()
    other[0] ^= 1
    with pytest.raises(UploadRefusedError, match="already uploaded something else"):
        current.upload("alice", upload_of(), other, 102.0)
    assert np.array_equal(current.uploads[0], PACKED)
    assert len(current.uploads) == 1


def test_no_upload_is_taken_after_the_round_failed() -> None:
    current = opened()
    current.fail("bob left")
    current.fail("something later")
    assert current.failure(100.0) == "bob left"
    with pytest.raises(UploadRefusedError, match="aborted: bob left"):
        current.upload("alice", upload_of(), PACKED, 101.0)
    assert not current.complete


def test_silence_fails_the_round_only_for_those_who_have_not_uploaded() -> None:
    current = opened()
    current.upload("alice", upload_of(), PACKED, 100.5)
    for name in ("bob", "charlie"):
        current.heard(name, 104.0)
    assert current.failure(108.9) is None
    current.heard("charlie", 109.0)
    current.heard("stranger", 109.0)
    assert current.failure(109.1) == "bob vanished: nothing heard for 5.1 s"


def test_work_is_limited_but_waiting_for_keys_has_a_limit_of_its_own() -> None:
    current = opened()
    now = 100.0

    def live_until(end: float) -> str | None:
        nonlocal now
        while now < end:
            now += 1.0
            for name in NAMES:
                current.heard(name, now)
            if failure := current.failure(now):
                return failure
        return None

    current.upload("alice", upload_of(), PACKED, 100.5)
    current.upload("charlie", upload_of(2), PACKED, 100.5)
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
    current.upload("alice", upload_of(), PACKED, 204.0)
    assert current.key_wait_s(300.0) == 3.0


def test_nobody_is_blamed_while_the_server_itself_was_away() -> None:
    current, excused = opened(), opened()
    for each in (current, excused):
        each.progress("bob", progress("waiting for keys"), 101.0)
    excused.excuse(50.0)
    assert current.failure(151.0) is not None
    assert excused.failure(154.9) is None
    assert excused.key_wait_s(153.0) == 2.0
    assert excused.failure(155.1) == "alice vanished: nothing heard for 5.1 s"


def test_keys_that_never_come_fail_the_round_in_the_end() -> None:
    current = opened()
    for name in NAMES:
        current.progress(name, progress("waiting for keys"), 100.0)
    for second in range(101, 701):
        for name in NAMES:
            current.heard(name, float(second))
        assert current.failure(float(second)) is None
    for name in NAMES:
        current.heard(name, 701.0)
    assert current.failure(701.0) == "alice was still waiting for keys after 600 s"


@pytest.mark.parametrize("message", [progress("waiting for keys", 6), progress("waiting for keys", 7, "old")])
def test_progress_of_another_round_does_not_stop_the_clock(message: Progress) -> None:
    current = opened()
    current.progress("alice", message, 100.0)
    current.progress("stranger", progress("waiting for keys"), 100.0)
    assert current.key_wait_s(150.0) == 0.0


def test_an_abort_costs_the_pads_of_every_pair_that_one_side_has_masked() -> None:
    current = opened()
    assert current.burnt_key_bits() == 0
    current.upload("alice", upload_of(), PACKED, 101.0)
    assert current.burnt_key_bits() == 2 * 50
    assert current.burnt_key_bits(["bob"]) == 3 * 50
    current.upload("bob", upload_of(), PACKED, 101.0)
    current.upload("charlie", upload_of(2), PACKED, 101.0)
    assert current.burnt_key_bits() == 3 * 50
