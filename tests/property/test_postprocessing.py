"""Post-processing on inputs nobody thought of."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bits import pack, unpack
from orchestrator.light.clicks import D1_ONLY, D2_ONLY, BlockClicks
from orchestrator.postprocessing import cascade_trees as trees
from orchestrator.postprocessing.amplification import amplify, seed_bytes, word_bits
from orchestrator.postprocessing.cascade import (
    MIN_BITS,
    PASSES,
    SEED_BYTES,
    CascadeCorrector,
    CascadeError,
    CascadeReference,
    _pass_keys,
    block_sizes,
    frame_sizes,
    n_frames,
)
from orchestrator.postprocessing.messages import BlockMessage, ParityReply, ParityRequest
from orchestrator.postprocessing.sifting import OwnRounds
from orchestrator.protocols.four_phase.symbols import FourPhases
from orchestrator.wire.codec import WireError, decode, encode


@given(data=st.data(), n=st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_amplification_is_the_plain_definition(data: st.DataObject, n: int) -> None:
    m = data.draw(st.integers(1, n))
    w = word_bits(n, m)
    x = data.draw(st.integers(0, 2**n - 1))
    seed = data.draw(st.binary(min_size=seed_bytes(n, m), max_size=seed_bytes(n, m)))
    half = len(seed) // 2
    a, b = int.from_bytes(seed[:half], "little"), int.from_bytes(seed[half:], "little")
    expected = ((a * x + b) % 2**w) // 2 ** (w - m)
    bits = np.frombuffer(x.to_bytes((n + 7) // 8, "little"), np.uint8)
    assert int.from_bytes(amplify(bits, n, m, seed).reveal_bytes(), "little") == expected


@given(
    n=st.integers(MIN_BITS, 9000),
    qber=st.floats(0.0, 0.15),
    hint=st.floats(0.5, 2.0),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_reconciliation_never_invents_bits_and_counts_alike(
    n: int, qber: float, hint: float, seed: int
) -> None:
    """Every flip is of a wrong bit; what stays wrong stays in even numbers in every top-level block of every pass."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    wrong = (rng.random(n) < qber).astype(np.uint8)
    seeds = rng.bytes(SEED_BYTES * n_frames(n))
    reference = CascadeReference(pack(bits), n, qber * hint, seeds, limit_bits=PASSES * n)
    corrector = CascadeCorrector(pack(bits ^ wrong), n, qber * hint, seeds)
    request = corrector.next_request(None)
    while request is not None:
        request = corrector.next_request(reference.answer(request))
    left = unpack(corrector.corrected(), n) ^ bits
    assert not np.any(left & ~wrong & 1)
    assert corrector.corrected_bits == int(wrong.sum()) - int(left.sum())
    assert corrector.parity_bits == reference.parity_bits
    assert left.sum() % 2 == 0
    for start in range(0, n, block_sizes(n, qber * hint)[0]):
        assert left[start : start + block_sizes(n, qber * hint)[0]].sum() % 2 == 0


@given(n=st.integers(64, 65536), seed=st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES), data=st.data())
@settings(max_examples=80, deadline=None)
def test_orders_invert(n: int, seed: bytes, data: st.DataObject) -> None:
    width = (n - 1).bit_length()
    keys = _pass_keys(seed, np.array([width]))
    p = data.draw(st.integers(1, PASSES - 1))
    for position in data.draw(st.lists(st.integers(0, n - 1), max_size=20)):
        index = trees.forward(position, keys[0, p], width, n)
        assert 0 <= index < n
        assert trees.backward(index, keys[0, p], width, n) == position


@given(n=st.integers(MIN_BITS, 10**7), qber=st.floats(0.0, 0.5))
@settings(max_examples=200, deadline=None)
def test_every_schedule_is_sound(n: int, qber: float) -> None:
    sizes = frame_sizes(n)
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1
    assert sizes.max() <= 65536
    for k in block_sizes(int(sizes[0]), qber):
        assert k & (k - 1) == 0
        assert 2 <= k < sizes[0]


requests = st.builds(
    ParityRequest,
    actions=st.lists(st.sampled_from([0, 1, 2, 7, 0x80, 0x81, 0x88, 0xFF]), min_size=1, max_size=3).map(
        bytes
    ),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3).map(lambda x: np.array(x, "<u4").tobytes()),
    positions=st.lists(st.integers(0, 65535) | st.integers(0, 300), max_size=6).map(
        lambda x: np.array(x, "<u2").tobytes()
    ),
)


@given(asked=st.lists(requests, max_size=6))
@settings(max_examples=150, deadline=None)
def test_the_reference_survives_any_question_and_never_passes_its_limit(asked: list[ParityRequest]) -> None:
    reference = CascadeReference(pack(np.ones(300, np.uint8)), 300, 0.1, bytes(SEED_BYTES), limit_bits=60)
    sent = 0
    reference_started = False
    for request in [ParityRequest(actions=b"\x80", counts=bytes(4), positions=b""), *asked]:
        try:
            reply = reference.answer(request)
        except CascadeError:
            continue
        reference_started = True
        sent += 8 * len(reply.parities)
        assert reference.parity_bits <= min(sent, 60)
    assert reference_started


@given(symbols=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=60))
@settings(max_examples=80, deadline=None)
def test_without_noise_both_users_sift_the_same_bits(symbols: list[tuple[int, int, bool]]) -> None:
    n = len(symbols)
    a = np.array([s[0] for s in symbols], np.uint8)
    b = np.array([s[1] for s in symbols], np.uint8)
    free = np.array([s[2] for s in symbols], bool)
    outcome = np.where(
        (a ^ b) & 2, np.where(free, D1_ONLY, D2_ONLY), np.where(a == b, D1_ONLY, D2_ONLY)
    ).astype(np.uint8)
    frame, slot = np.zeros(n, np.uint32), np.arange(n, dtype=np.uint32)
    first = OwnRounds.of(BlockClicks(frame, slot, outcome, a, n), "first", FourPhases(0.75))
    second = OwnRounds.of(BlockClicks(frame, slot, outcome, b, n), "second", FourPhases(0.75))
    mine = first.sift(second.published())
    yours = second.sift(first.published())
    assert np.array_equal(mine.key, yours.key)
    assert mine.test_errors(pack(yours.test).tobytes()) == (0, 0)
    assert mine.n_key + mine.n_test == np.count_nonzero((a ^ b) < 2)


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_message_or_one_typed_error(data: bytes) -> None:
    try:
        message = decode(data, BlockMessage)
    except WireError:
        return
    assert decode(encode(message), BlockMessage) == message


@given(parities=st.lists(st.binary(min_size=2, max_size=2), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_corrector_survives_any_answer(parities: list[bytes]) -> None:
    corrector = CascadeCorrector(pack(np.zeros(1000, np.uint8)), 1000, 0.02, bytes(SEED_BYTES))
    request = corrector.next_request(None)
    for answer in parities:
        if request is None:
            break
        size = (corrector.awaited_bits + 7) // 8
        try:
            request = corrector.next_request(ParityReply(parities=answer[:1] * size))
        except CascadeError as error:
            assert "contradict" in str(error)  # noqa: PT017
            break
    assert corrector.parity_bits <= PASSES * 1000
