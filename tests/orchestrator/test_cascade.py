"""Batched Cascade: it corrects, it discloses exactly what it counts, and it answers nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from bench_postprocessing import reconcile_benchmark

from orchestrator.bits import pack, unpack
from orchestrator.postprocessing import cascade_kernels as kernels
from orchestrator.postprocessing import cascade_trees as trees
from orchestrator.postprocessing.cascade import (
    FRAME_BITS,
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
from orchestrator.postprocessing.messages import ParityReply, ParityRequest


@dataclass
class Run:
    """One reconciliation with everything that crossed the wire."""

    bits: np.ndarray
    corrected: np.ndarray
    errors: int
    reference: CascadeReference
    corrector: CascadeCorrector
    seeds: bytes
    qber_hint: float
    requests: list[ParityRequest] = field(default_factory=list)
    replies: list[ParityReply] = field(default_factory=list)


def reconcile(n: int, qber: float, seed: int, *, hint: float | None = None) -> Run:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    wrong = (rng.random(n) < qber).astype(np.uint8)
    seeds = rng.bytes(SEED_BYTES * n_frames(n))
    q = qber if hint is None else hint
    reference = CascadeReference(pack(bits), n, q, seeds, limit_bits=8 * n)
    corrector = CascadeCorrector(pack(bits ^ wrong), n, q, seeds)
    run = Run(bits, bits, int(wrong.sum()), reference, corrector, seeds, q)
    request = corrector.next_request(None)
    while request is not None:
        run.requests.append(request)
        run.replies.append(reference.answer(request))
        request = corrector.next_request(run.replies[-1])
    run.corrected = unpack(corrector.corrected(), n)
    return run


@pytest.mark.parametrize(("qber", "bound"), [(0.01, 1.05), (0.02, 1.05), (0.03, 1.06), (0.05, 1.07)])
def test_efficiency_on_full_frames(qber: float, bound: float) -> None:
    figures = reconcile_benchmark(qber, 8 * FRAME_BITS, seed=5)
    assert figures["equal"]
    assert 1.0 < figures["f"] < bound


@pytest.mark.parametrize(("n", "bound"), [(3000, 1.17), (10_000, 1.11), (100_000, 1.07)])
def test_efficiency_on_small_blocks(n: int, bound: float) -> None:
    parities = sum(reconcile(n, 0.02, seed).reference.parity_bits for seed in range(8))
    assert parities / (8 * n * 0.14144) < bound  # h(0.02) = 0.14144


@pytest.mark.parametrize("n", [64, 65, 100, 127, 129, 1000, 4097, 33_000, 65_536, 65_537, 140_001])
@pytest.mark.parametrize("qber", [0.0, 0.004, 0.03, 0.11])
def test_every_block_size_is_corrected(n: int, qber: float) -> None:
    run = reconcile(n, qber, seed=n)
    assert np.array_equal(run.corrected, run.bits)
    assert run.corrector.corrected_bits == run.errors
    assert run.corrector.parity_bits == run.reference.parity_bits


@pytest.mark.parametrize("hint", [0.002, 0.01, 0.2])
def test_a_wrong_hint_costs_bits_and_nothing_else(hint: float) -> None:
    run = reconcile(20_000, 0.03, 1, hint=hint)
    assert np.array_equal(run.corrected, run.bits)
    assert run.reference.parity_bits > reconcile(20_000, 0.03, 1).reference.parity_bits


def test_errors_in_one_burst_are_corrected() -> None:
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2, 50_000, dtype=np.uint8)
    burst = bits.copy()
    burst[1000:1400] ^= 1
    seeds = rng.bytes(SEED_BYTES)
    reference = CascadeReference(pack(bits), bits.size, 0.01, seeds, limit_bits=bits.size)
    corrector = CascadeCorrector(pack(burst), bits.size, 0.01, seeds)
    request = corrector.next_request(None)
    while request is not None:
        request = corrector.next_request(reference.answer(request))
    assert np.array_equal(unpack(corrector.corrected(), bits.size), bits)


def test_schedule() -> None:
    assert block_sizes(65536, 0.01) == [128, 512, 2048] + [8192] * 5
    assert block_sizes(65536, 0.05) == [16, 64, 1024] + [8192] * 5
    assert len(block_sizes(64, 0.3)) == PASSES
    assert block_sizes(20_000, 0.02)[-1] == 8192
    assert block_sizes(4_000, 0.02)[-1] == 2048
    assert block_sizes(4_200, 0.02)[-1] == 2048  # halves of 4096 would leave 104 bits for the second
    assert list(frame_sizes(140_001)) == [46_667] * 3
    assert frame_sizes(65_537).tolist() == [32_769, 32_768]


def test_leak_is_every_parity_on_the_wire_and_each_node_once() -> None:
    run = reconcile(70_000, 0.03, 9)
    on_wire, nodes = 0, set()
    started = np.zeros(2, int)
    blocks = [block_sizes(int(size), 0.03) for size in frame_sizes(70_000)]
    for request in run.requests:
        actions = np.frombuffer(request.actions, np.uint8)
        counts = np.frombuffer(request.counts, "<u4")
        positions = iter(np.frombuffer(request.positions, "<u2"))
        asked = 0
        for f, action in enumerate(actions):
            if action != kernels.IDLE and action >= kernels.START:
                assert action - kernels.START == started[f]
                n_blocks = -(-35_000 // blocks[f][started[f]])
                asked += n_blocks - (started[f] > 0)
                started[f] += 1
            for _ in range(counts[f]):
                node = (f, int(action), int(next(positions)))
                assert node not in nodes
                nodes.add(node)
                asked += 1
        assert next(positions, None) is None
        on_wire += asked
    assert started.tolist() == [PASSES, PASSES]
    assert on_wire == run.reference.parity_bits == run.corrector.parity_bits
    assert sum(8 * len(reply.parities) for reply in run.replies) >= on_wire


def test_answers_are_the_parities_of_the_trees() -> None:
    """Every answer against the plain definition, with the order of each pass listed bit by bit."""
    n = 500
    run = reconcile(n, 0.04, 3)
    width = (n - 1).bit_length()
    keys = _pass_keys(run.seeds, np.array([width]))
    sizes = block_sizes(n, 0.04)
    order = [
        [i if p == 0 else trees.forward(i, keys[0, p], width, n) for i in range(n)] for p in range(PASSES)
    ]
    for request, reply in zip(run.requests, run.replies, strict=True):
        action = request.actions[0]
        if action >= kernels.START:
            p, k = action - kernels.START, sizes[action - kernels.START]
            intervals = [(s, min(s + k, n)) for s in range(0, n, k)]
            intervals = intervals if p == 0 else intervals[:-1]
        else:
            p = action
            positions = np.frombuffer(request.positions, "<u2").astype(int)
            intervals = [(m - (m & -m), m) for m in positions]
        expected = [sum(int(run.bits[order[p][i]]) for i in range(*interval)) % 2 for interval in intervals]
        assert unpack(np.frombuffer(reply.parities, np.uint8), len(expected)).tolist() == expected


def test_orders_are_permutations_that_scatter_neighbours() -> None:
    n, width = 40_000, 16
    keys = _pass_keys(np.random.default_rng(4).bytes(SEED_BYTES), np.array([width]))
    block = 64
    for p in range(1, PASSES):
        positions = np.array([trees.backward(i, keys[0, p], width, n) for i in range(n)])
        assert np.array_equal(np.sort(positions), np.arange(n))
        together = np.count_nonzero(positions[:-1] // block == positions[1:] // block)
        expected = n * block / n
        assert abs(together - expected) < 6 * expected**0.5


def request(actions: list[int], counts: list[int], positions: list[int]) -> ParityRequest:
    return ParityRequest(
        actions=bytes(actions),
        counts=np.array(counts, "<u4").tobytes(),
        positions=np.array(positions, "<u2").tobytes(),
    )


START = kernels.START


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (request([START, START], [0, 0], []), "shape"),
        (ParityRequest(actions=bytes([START]), counts=b"\0\0\0", positions=b""), "shape"),
        (ParityRequest(actions=bytes([0]), counts=b"\1\0\0\0", positions=b"\1"), "shape"),
        (request([kernels.IDLE], [0], []), "asks nothing"),
        (request([kernels.IDLE], [1], [5]), "counts"),
        (request([START], [0], []), "out of turn"),
        (request([START + 2], [0], []), "out of turn"),
        (request([START + 9], [0], []), "out of turn"),
        (request([1], [1], [5]), "out of turn"),
        (request([100], [1], [5]), "out of turn"),
        (request([0], [0], []), "counts"),
        (request([0], [2], [5]), "counts"),
        (request([0], [1], [5, 6]), "counts"),
        (request([START + 1], [1], [5]), "counts"),
        (request([0], [2**32 - 1], [5]), "counts"),
        (request([0], [1], [0]), "boundary outside"),
        (request([0], [1], [1000]), "boundary outside"),
        (request([0], [1], [65535]), "boundary outside"),
        (request([0], [1], [64]), "boundary outside"),
        (request([0], [2], [5, 5]), "answered before"),
        (request([0], [1], [7]), "answered before"),
    ],
)
def test_reference_answers_nothing_outside_its_trees(bad: ParityRequest, words: str) -> None:
    bits = pack(np.random.default_rng(1).integers(0, 2, 1000, dtype=np.uint8))
    reference = CascadeReference(bits, 1000, 0.02, bytes(SEED_BYTES), limit_bits=1000)
    reference.answer(request([START], [0], []))
    reference.answer(request([0], [1], [7]))
    with pytest.raises(CascadeError, match=words):
        reference.answer(bad)


def test_reference_stops_at_its_limit_before_disclosing() -> None:
    bits = pack(np.zeros(1000, np.uint8))
    reference = CascadeReference(bits, 1000, 0.02, bytes(SEED_BYTES), limit_bits=18)
    reference.answer(request([START], [0], []))
    assert reference.parity_bits == 16  # 1000 bits in blocks of 64
    reference.answer(request([0], [2], [1, 2]))
    with pytest.raises(CascadeError, match="limit of this block is 18"):
        reference.answer(request([0], [1], [3]))
    assert reference.parity_bits == 18


@pytest.mark.parametrize("seed", range(6))
def test_lying_answers_end_in_bounded_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 3000
    corrector = CascadeCorrector(pack(rng.integers(0, 2, n, dtype=np.uint8)), n, 0.03, rng.bytes(SEED_BYTES))
    request, reason = corrector.next_request(None), ""
    while request is not None:
        lies = pack(rng.integers(0, 2, corrector.awaited_bits, dtype=np.uint8))
        try:
            request = corrector.next_request(ParityReply(parities=lies.tobytes()))
        except CascadeError as error:
            request, reason = None, str(error)
    assert not reason or "contradict" in reason
    assert 0 < corrector.parity_bits < PASSES * n


def test_replies_of_the_wrong_form_are_refused() -> None:
    corrector = CascadeCorrector(pack(np.zeros(1000, np.uint8)), 1000, 0.02, bytes(SEED_BYTES))
    with pytest.raises(CascadeError, match="out of turn"):
        corrector.next_request(ParityReply(parities=b""))
    assert corrector.next_request(None) is not None
    with pytest.raises(CascadeError, match="out of turn"):
        corrector.next_request(None)
    with pytest.raises(CascadeError, match="16 parities were asked"):
        corrector.next_request(ParityReply(parities=b"\0\0\0"))


def test_seeds_must_fit_and_blocks_must_not_be_tiny() -> None:
    bits = pack(np.zeros(100, np.uint8))
    with pytest.raises(CascadeError, match="seeds"):
        CascadeReference(bits, 100, 0.02, bytes(SEED_BYTES + 1), limit_bits=100)
    with pytest.raises(ValueError, match="at least 64"):
        CascadeCorrector(bits, 50, 0.02, bytes(SEED_BYTES))


def test_wiping_leaves_no_bits() -> None:
    run = reconcile(5000, 0.02, 1)
    for side in (run.reference, run.corrector):
        side.wipe()
        assert not side._frames.bits.any()
        assert not side._frames.rows.any()
