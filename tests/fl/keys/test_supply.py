"""Simulated keys: distinct stretches of one cipher, each drawn once by each end."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fl.keys.simulated import KeyReuseError, SimulatedKeySupply, new_run_key
from orchestrator.bits import check_packed, packed_size

KEY = bytes(range(32))


def stretch(supply: SimulatedKeySupply, sender: int, receiver: int, n_bits: int) -> bytes:
    return supply.draw(sender, receiver, n_bits, ends=(sender,)).tobytes()


def test_a_stretch_is_aes_in_counter_mode_at_its_own_block() -> None:
    supply = SimulatedKeySupply(KEY, 300)
    supply.open_attempt(7)
    block = (7).to_bytes(8, "big") + (1).to_bytes(2, "big") + (299).to_bytes(2, "big") + bytes(4)
    expected = Cipher(algorithms.AES(KEY), modes.CTR(block)).encryptor().update(bytes(128))
    assert stretch(supply, 1, 299, 1024) == expected


def test_stretches_of_other_attempts_pairs_and_directions_are_others() -> None:
    supply, seen = SimulatedKeySupply(KEY, 4), set()
    for attempt in (1, 2, 5):
        supply.open_attempt(attempt)
        for sender, receiver in itertools.permutations(range(4), 2):
            words = supply.draw(sender, receiver, 64 * 40, ends=(sender,))
            seen.update(words.reshape(-1, 2).view("S16").ravel().tolist())
    assert len(seen) == 3 * 12 * 20, "no block of the cipher occurs twice"


def test_both_ends_draw_the_same_bits_once_each() -> None:
    supply = SimulatedKeySupply(KEY, 3)
    supply.open_attempt(1)
    ours = supply.draw(0, 2, 100, ends=(0,)).copy()
    assert np.array_equal(ours, supply.draw(0, 2, 100, ends=(2,)))
    assert supply.bits_drawn == 200
    for end in (0, 2):
        with pytest.raises(KeyReuseError, match=f"client {end} asks a second time"):
            supply.draw(0, 2, 100, ends=(end,))


def test_drawing_for_both_ends_spends_both() -> None:
    supply = SimulatedKeySupply(KEY, 3)
    supply.open_attempt(1)
    supply.draw(0, 1, 100, ends=(0, 1))
    with pytest.raises(KeyReuseError):
        supply.draw(0, 1, 100, ends=(1,))


def test_attempts_only_go_forward() -> None:
    supply = SimulatedKeySupply(KEY, 3)
    with pytest.raises(KeyReuseError, match="no attempt is open"):
        stretch(supply, 0, 1, 8)
    supply.open_attempt(4)
    for attempt in (4, 3):
        with pytest.raises(KeyReuseError, match=f"attempt {attempt} follows attempt 4"):
            supply.open_attempt(attempt)
    supply.open_attempt(5)
    stretch(supply, 0, 1, 8)


def test_only_the_ends_of_a_pair_may_draw() -> None:
    supply = SimulatedKeySupply(KEY, 3)
    supply.open_attempt(1)
    for sender, receiver, end in ((0, 1, 2), (1, 1, 1)):
        with pytest.raises(ValueError, match="is no end of the pair"):
            supply.draw(sender, receiver, 8, ends=(end,))


@pytest.mark.parametrize("n_bits", [1, 63, 64, 65, 1001])
def test_bits_past_the_end_are_zero(n_bits: int) -> None:
    supply = SimulatedKeySupply(KEY, 2)
    supply.open_attempt(1)
    words = supply.draw(1, 0, n_bits, ends=(0,))
    assert words.size == (n_bits + 63) // 64
    check_packed(words.view(np.uint8)[: packed_size(n_bits)], n_bits)
    assert not words.view(np.uint8)[packed_size(n_bits) :].any()


def test_the_key_of_a_run_is_not_shown() -> None:
    assert new_run_key() != new_run_key()
    assert KEY.hex() not in repr(SimulatedKeySupply(KEY, 2))
