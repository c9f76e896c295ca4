"""Weights under which a single sum gives updates away are agreed to by nobody."""

from __future__ import annotations

import itertools
from collections import defaultdict

import msgspec
import numpy as np
import pytest

from orchestrator.delivery.consent import RunDescription, check_description
from orchestrator.delivery.errors import ConsentError
from orchestrator.delivery.weights import read_off

NAMES = ("alice", "bob", "charlie", "dora")
RUN = RunDescription(
    version=1, run_id="run", task="digits", task_fingerprint="f00d", data="digits", participants=NAMES[:3],
    weights=(1, 1, 1), rounds=3, attempts=30, mode="otp", colluders=0, survivors=0, smallest_set=3,
    n_parameters=40, n_values=40, ring_bits=32, levels=127, clip=1.0, clip_decay=1.0, keep=1.0,
    error_feedback=False, seed=3, first_model="0" * 64,
)  # fmt: skip


def given_away(weights: tuple[int, ...], levels: int) -> bool:
    """Does every possible sum have one value of some client only?"""
    seen = [defaultdict[int, set[int]](set) for _ in weights]
    for values in itertools.product(range(-levels, levels + 1), repeat=len(weights)):
        total = sum(w * q for w, q in zip(weights, values, strict=True))
        for place, value in enumerate(values):
            seen[place][total].add(value)
    return any(all(len(each) == 1 for each in sums.values()) for sums in seen)


def test_a_server_reads_the_update_of_a_light_client_off_one_sum() -> None:
    """What the rule is for: nothing but the sum that everybody consented to, and the victim's values exactly."""
    rng = np.random.default_rng(1)
    values = rng.integers(-127, 128, (3, 40))
    total = np.array([1, 300, 300]) @ values
    assert np.array_equal((total + 150) % 300 - 150, values[0])
    with pytest.raises(ConsentError, match="weights: what a client of weight 1 sends could be read off"):
        check_description(msgspec.structs.replace(RUN, weights=(1, 300, 300)))
    with pytest.raises(ConsentError, match="weight 1000 sends could be read off"):
        check_description(msgspec.structs.replace(RUN, weights=(1000, 1, 1)))
    with pytest.raises(ConsentError, match="weights 999983, 1000003, 1048573 and 127 levels"):
        check_description(msgspec.structs.replace(RUN, weights=(999983, 1000003, 1048573)))
    check_description(msgspec.structs.replace(RUN, weights=(3, 2, 9)))
    check_description(msgspec.structs.replace(RUN, weights=(1000, 1, 1), mode="plain"))


@pytest.mark.parametrize(("levels", "top"), [(1, 13), (2, 8)])
def test_whatever_is_agreed_to_gives_nobody_away(levels: int, top: int) -> None:
    refused = kept = 0
    for weights in itertools.combinations_with_replacement(range(1, top + 1), 3):
        if read_off(weights, levels, 3) is None:
            kept += 1
            assert not given_away(weights, levels), weights
        else:
            refused += given_away(weights, levels)
    assert min(refused, kept) > 10


@pytest.mark.parametrize("weights", [(1, 1, 2, 2), (1, 2, 2, 4), (1, 3, 3, 3), (1, 1, 1, 5), (2, 2, 3, 3)])
def test_the_clients_that_are_left_hide_each_other_whoever_is_missing(weights: tuple[int, ...]) -> None:
    agreed = read_off(weights, 1, 3) is None
    worst = any(given_away(left, 1) for left in itertools.combinations(weights, 3))
    assert not (agreed and worst)


def test_equal_weights_and_many_light_ones_hide() -> None:
    assert read_off((7,) * 5, 1, 3) is None
    assert read_off((300, *[1] * 200), 1, 201) is None
    assert read_off((500, *[1] * 200), 1, 201) == 500
    shares = msgspec.structs.replace(
        RUN, mode="lightsecagg", participants=NAMES, weights=(1, 1, 1, 600), colluders=1, survivors=3
    )
    with pytest.raises(ConsentError, match="weight 600"):
        check_description(shares)
