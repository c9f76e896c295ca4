"""NumPy's numbers wherever a user may pass a number: the same result as with Python's, or a clear refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl.rounds.compression import Compression, ErrorFeedback
from fl.rounds.quantise import Quantiser, check_ring_width, largest_levels, smallest_ring_width
from orchestrator.bits import packed_size, whole
from orchestrator.delivery.masking import add_packed, mask, pack_values, unpack_values
from orchestrator.delivery.messages import DemandRequest, RoundContext
from orchestrator.delivery.ring_width import largest_sum
from orchestrator.wire.codec import WireError, decode, encode

NARROW = [np.int8, np.uint8, np.int16, np.int64]
VALUES = np.arange(-60, 60, dtype=np.int64).repeat(9)
"""More values than a narrow integer counts, so that arithmetic in its width would wrap."""


@pytest.mark.parametrize("kind", NARROW)
def test_masking_takes_any_integer(kind: Any) -> None:
    pad = np.random.default_rng(1).integers(0, 256, packed_size(VALUES.size * 10), np.uint8)
    masked = mask(VALUES, [pad], [kind(1)], kind(10), kind(3))
    assert np.array_equal(masked, mask(VALUES, [pad], [1], 10, 3))
    packed = pack_values(VALUES, kind(10), kind(2))
    assert np.array_equal(packed, pack_values(VALUES, 10, 2))
    assert np.array_equal(unpack_values(packed, np.int16(VALUES.size), kind(10)), 2 * VALUES)
    twice = add_packed(packed, packed, np.int16(VALUES.size), kind(10))
    assert np.array_equal(unpack_values(twice, VALUES.size, 10), 4 * VALUES)
    assert largest_sum(kind(32)) == 2**31 - 1


@pytest.mark.parametrize("kind", NARROW)
def test_a_ring_is_settled_with_any_integer(kind: Any) -> None:
    assert smallest_ring_width(kind(127), kind(100)) == smallest_ring_width(127, 100) == 15
    assert largest_levels(kind(20), kind(3)) == largest_levels(20, 3)
    check_ring_width(kind(127), np.ones(100, kind), kind(15))


@pytest.mark.parametrize("clip", [np.float16(0.1), np.float32(0.1), np.float64(0.1), np.int8(2)])
@pytest.mark.parametrize("levels", [np.int8(127), np.uint16(1000)])
def test_quantising_computes_in_double_precision_whatever_the_settings_were_written_in(
    clip: Any, levels: Any
) -> None:
    """In float16 the factor L / c would differ between a client and a server that read it from the wire."""
    update = np.random.default_rng(2).normal(0, 0.1, 300).astype(np.float32)

    def sent(clip: Any, levels: Any) -> tuple[Any, Any]:
        compression = Compression(keep=np.float16(0.5), levels=levels, clip=clip)
        feedback = ErrorFeedback(compression, 1, 300)
        values = feedback.compress(update, 1, np.random.default_rng(3), client="a")
        coordinates = compression.coordinates(1, 1, 300)
        return values, compression.mean(values, 1, coordinates, 1, 300)

    for ours, plain in zip(sent(clip, levels), sent(float(clip), int(levels)), strict=True):
        assert np.array_equal(ours, plain)
    assert Quantiser(clip, levels) == Quantiser(float(clip), int(levels))


def test_what_travels_or_is_hashed_is_the_same_number() -> None:
    written = RoundContext("r", np.int64(3), ("a", "b"), np.int32(7), np.uint8(10))  # type: ignore[arg-type]
    plain = RoundContext("r", 3, ("a", "b"), 7, 10)
    assert written.digest() == plain.digest()
    assert written.round_digest() == plain.round_digest()
    assert decode(encode(written), RoundContext) == plain
    demand = DemandRequest(np.int64(1), {"bob": np.uint32(400)})  # type: ignore[arg-type, dict-item]
    assert decode(encode(demand), DemandRequest) == DemandRequest(1, {"bob": 400})
    with pytest.raises(WireError, match="a ndarray cannot be sent"):
        encode(DemandRequest(1, np.zeros(2)))  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [1.5, np.float64(1), True, np.bool_(True), "1", None])
def test_a_weight_that_is_no_whole_number_is_refused_and_not_cut_to_one(weight: Any) -> None:
    with pytest.raises(ValueError, match="a weight is a whole number, got"):
        mask(VALUES, [], [], 10, weight)
    with pytest.raises(ValueError, match="a weight is a whole number, got"):
        check_ring_width(127, [1, weight], 12)
    with pytest.raises(ValueError, match="it is a whole number"):
        whole(weight, "it")


@pytest.mark.parametrize("weight", [0, -1, 1 << 40, 1 << 70])
def test_a_weight_out_of_range_is_refused_with_the_range(weight: int) -> None:
    with pytest.raises(ValueError, match=f"a weight is 1 to 511 at a ring width of 10 bits, got {weight}"):
        mask(VALUES, [], [], 10, weight)
