"""What the server sees tells it the sum and nothing else: exhaustively, over all pads of a tiny ring.

For every choice of updates the joint distribution of the masked uploads is counted over *all* pads.  It
must be the same for all choices with the same sum.  The planted faults - a pad used for two pairs, a pad
used in two rounds, a sign left out - must fail the same check.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest

from fl.modes.otp import sum_of
from fl.rounds.aggregation import aggregation_for
from fl.rounds.config import FLConfig
from orchestrator.bits import packed_size
from orchestrator.delivery.masking import mask, pack_values

Pair = tuple[int, int]
Pads = dict[Pair, int]
Protect = Callable[[int, int, Pads, int], int]
"""(client, value, pads of all pairs, ring bits) -> what the client uploads."""


def packed(value: int, bits: int) -> np.ndarray:
    return np.frombuffer(value.to_bytes(packed_size(bits), "little"), np.uint8)


def upload(client: int, value: int, pads: Pads, bits: int) -> int:
    """The upload of ``client`` as the system makes it: add pads towards later clients, else subtract."""
    mine = [pair for pair in pads if client in pair]
    signs = [1 if client == pair[0] else -1 for pair in mine]
    out = mask(np.array([value], np.int64), [packed(pads[pair], bits) for pair in mine], signs, bits)
    return int.from_bytes(out.tobytes(), "little")


def upload_without_signs(client: int, value: int, pads: Pads, bits: int) -> int:
    """Planted fault: every pad is added."""
    mine = [packed(pads[pair], bits) for pair in pads if client in pair]
    out = mask(np.array([value], np.int64), mine, [1] * len(mine), bits)
    return int.from_bytes(out.tobytes(), "little")


def all_pads(n_clients: int, bits: int) -> list[Pads]:
    pairs = list(combinations(range(n_clients), 2))
    return [dict(zip(pairs, values, strict=True)) for values in product(range(2**bits), repeat=len(pairs))]


def views(n_clients: int, bits: int, values: tuple[int, ...], pads: list[Pads], protect: Protect) -> Counter:
    """How often the server sees which uploads, over all pads."""
    return Counter(tuple(protect(i, values[i], pad, bits) for i in range(n_clients)) for pad in pads)


def leaks(n_clients: int, bits: int, pads: list[Pads], protect: Protect) -> str | None:
    """Why the server's view depends on more than the sum, or None."""
    by_sum: dict[int, list[Counter]] = defaultdict(list)
    ring = 2**bits
    for values in product((-1, 0, 1), repeat=n_clients):
        seen = views(n_clients, bits, values, pads, protect)
        if any(sum(view) % ring != sum(values) % ring for view in seen):
            return f"the pads do not cancel for {values}"
        by_sum[sum(values)].append(seen)
    for total, distributions in by_sum.items():
        if any(other != distributions[0] for other in distributions):
            return f"updates with the sum {total} are told apart"
        if len(distributions[0]) != ring ** (n_clients - 1) or len(set(distributions[0].values())) != 1:
            return f"uploads with the sum {total} are not uniform"
    return None


@pytest.mark.parametrize(("n_clients", "bits"), [(2, 4), (3, 2), (3, 3)])
def test_uploads_are_uniform_given_their_sum(n_clients: int, bits: int) -> None:
    assert leaks(n_clients, bits, all_pads(n_clients, bits), upload) is None


def test_a_pad_used_for_two_pairs_is_found() -> None:
    reused = [pads for pads in all_pads(3, 3) if pads[0, 1] == pads[0, 2]]
    assert leaks(3, 3, reused, upload) is not None


def test_a_missing_sign_is_found() -> None:
    found = leaks(3, 3, all_pads(3, 3), upload_without_signs)
    assert found is not None
    assert "do not cancel" in found


def test_a_biased_pad_is_found() -> None:
    """One value left out of the pad of the only pair."""
    assert leaks(2, 3, [pads for pads in all_pads(2, 3) if pads[0, 1] != 5], upload) is not None


def test_a_client_that_helps_the_server_learns_only_the_sum_of_the_others() -> None:
    """Client 2 tells its pads: for each of them the uploads of 0 and 1 tell their sum and nothing else."""
    bits = 2
    by_known: dict[tuple[int, int, int], list[Counter]] = defaultdict(list)
    for zero, one in product((-1, 0, 1), repeat=2):
        for known in product(range(2**bits), repeat=2):
            pads = [p for p in all_pads(3, bits) if (p[0, 2], p[1, 2]) == known]
            by_known[(*known, zero + one)].append(views(3, bits, (zero, one, 0), pads, upload))
    for distributions in by_known.values():
        assert all(other == distributions[0] for other in distributions)
        assert set(distributions[0].values()) == {1}
        assert len(distributions[0]) == 2**bits


@pytest.mark.parametrize("reused", [False, True])
def test_two_rounds_are_independent_unless_a_pad_is_used_again(reused: bool) -> None:
    """Two clients, two rounds: given both sums, the uploads are uniform - but not with a pad used twice."""
    bits, rings = 2, range(4)

    def distribution(first: tuple[int, int], second: tuple[int, int]) -> Counter:
        return Counter(
            tuple(
                upload(i, values[i], {(0, 1): pad}, bits)
                for values, pad in ((first, one), (second, one if reused else two))
                for i in (0, 1)
            )
            for one in rings
            for two in rings
        )

    same_sums = distribution((1, 0), (1, 0)), distribution((0, 1), (1, 0))
    assert (same_sums[0] == same_sums[1]) is not reused


def test_the_comparison_mode_hides_nothing_and_says_so() -> None:
    plain = aggregation_for(FLConfig(run_id="r", task="t", clients=("a", "b"), mode="plain"), 1)
    assert (plain.mode.label, plain.mode.security, plain.key_bits_per_pair) == ("none", "none", 0)
    assert leaks(2, 4, [{(0, 1): 0}], upload) is not None


def test_without_one_upload_the_sum_is_noise() -> None:
    """Over all pads, what the others add up to is uniform: an aborted round tells nothing."""
    bits = 3
    for values in ((1, 0, -1), (0, 0, 0), (1, 1, 1)):
        seen: Counter = Counter()
        for pads in all_pads(3, bits):
            uploads = [packed(upload(i, values[i], pads, bits), bits) for i in (0, 1)]
            seen[int(sum_of(uploads, 1, bits)[0])] += 1
        assert len(seen) == 2**bits
        assert len(set(seen.values())) == 1


def test_the_sum_is_read_as_a_signed_number() -> None:
    values = [
        np.array(v, np.int64) for v in ([-127, 127, 5], [-127, 127, -6], [-127, 127, 0], [-127, 127, 1])
    ]
    total = sum_of([pack_values(v, 10) for v in values], 3, 10)
    assert total.tolist() == [-508, 508, 0]
    with pytest.raises(ValueError, match="nothing to add up"):
        sum_of([], 3, 10)
