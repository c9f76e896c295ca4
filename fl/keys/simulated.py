"""Keys for clients that are only simulated, made when they are drawn; true quantum keys stand in their place elsewhere.

A cohort (:class:`SimulatedKeySupply`) has a stream per pair, direction and attempt.  Two hundred clients have 19 900 pairs; nobody holds their keys.  Every stretch is a part of one AES-256-CTR
keystream (NIST SP 800-38A, 6.5) under the key of the run, cut by its 16-byte initial counter block

    attempt (8 bytes) | sender (2) | receiver (2) | block counter (4),

so stretches of different attempts, pairs or directions cannot overlap.  An *attempt* is one try at one round;
its number only grows.  Each end of a pair draws a stretch once, as it would from its key store, and a second
draw is refused.

This stands in for quantum keys where there is no network to make them: results obtained with it say so
(``label``).  The key of a run comes from the operating system, is never written down, and a resumed run has
another one.

Clients without a process in common (:func:`seeded_key`, Flower's simulation) derive their key from a seed instead:
whoever knows the seed knows them all, and a round that differs in anything has other keys.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from orchestrator.bits import PackedBits, packed_size, slice_packed
from orchestrator.delivery.messages import RoundContext
from orchestrator.randomness import random_bytes

RUN_KEY_BYTES = 32
MAX_CLIENTS = 1 << 16
_BLOCK_BYTES = 16
_SEEDED = b"qunetlab-simulated-pads-v1"

Words = npt.NDArray[np.uint64]
"""1-d uint64: packed bits, 64 in a word, least significant first."""


class KeyReuseError(RuntimeError):
    """A stretch of key was asked for a second time."""


def new_run_key() -> bytes:
    """The key of one run of one process group, from the operating system."""
    return random_bytes(RUN_KEY_BYTES)


class SimulatedKeySupply:
    """The keys that the simulated clients of one process draw."""

    label: Final = "simulated"

    def __init__(self, run_key: bytes, n_clients: int) -> None:
        if n_clients > MAX_CLIENTS:
            raise ValueError(f"at most {MAX_CLIENTS} clients, got {n_clients}")
        self._cipher = Cipher(algorithms.AES256(run_key), modes.CTR(bytes(_BLOCK_BYTES))).encryptor()
        self._drawn = np.zeros((2, n_clients, n_clients), bool)
        self._attempt = 0
        self._zeros = np.zeros(0, np.uint8)
        self._stream = np.zeros(0, np.uint8)
        self.bits_drawn = 0
        """Bits handed to an end of a pair; both ends of a pair draw the same bits."""

    def __repr__(self) -> str:
        return f"<SimulatedKeySupply: attempt {self._attempt}>"

    def open_attempt(self, attempt: int) -> None:
        """Begin an attempt at a round; raises KeyReuseError unless its number is higher than all before."""
        if attempt <= self._attempt:
            raise KeyReuseError(f"attempt {attempt} follows attempt {self._attempt}: its keys are spent")
        self._attempt = attempt
        self._drawn[:] = False

    def draw(self, sender: int, receiver: int, n_bits: int, *, ends: tuple[int, ...]) -> Words:
        """``n_bits`` of the stretch from ``sender`` to ``receiver``, for the clients ``ends`` of the two.

        A packed array as 64-bit words, zero past its end; valid until the next draw.
        """
        if not self._attempt:
            raise KeyReuseError("no attempt is open")
        for end in ends:
            if end not in (sender, receiver) or sender == receiver:
                raise ValueError(f"client {end} is no end of the pair {sender}, {receiver}")
            side = int(end == receiver)
            if self._drawn[side, sender, receiver]:
                raise KeyReuseError(
                    f"client {end} asks a second time for the key from {sender} to {receiver} "
                    f"of attempt {self._attempt}"
                )
            self._drawn[side, sender, receiver] = True
        self.bits_drawn += n_bits * len(ends)
        return self._keystream(sender, receiver, n_bits)

    def _keystream(self, sender: int, receiver: int, n_bits: int) -> Words:
        n_bytes = (n_bits + 63) // 64 * 8
        if self._zeros.size < n_bytes:
            self._zeros = np.zeros(n_bytes, np.uint8)
            self._stream = np.zeros(n_bytes + _BLOCK_BYTES, np.uint8)
        self._cipher.reset_nonce(
            self._attempt.to_bytes(8, "big")
            + sender.to_bytes(2, "big")
            + receiver.to_bytes(2, "big")
            + bytes(4)
        )
        self._cipher.update_into(self._zeros[:n_bytes].data, self._stream.data)
        words = self._stream[:n_bytes].view("<u8")
        if n_bits % 64:
            words[-1] &= np.uint64((1 << (n_bits % 64)) - 1)
        return words


def seeded_key(seed: int, owner: str, peer: str, context: RoundContext) -> PackedBits:
    """The simulated key of a pair (in either order) for one context: ``context.pad_bits`` bits, packed.

    AES-256-CTR with key SHA-256(purpose | seed | pair) from the first 16 bytes of SHA-256(purpose | context digest).
    """
    first, second = sorted((owner, peer))
    key = hashlib.sha256(_SEEDED + f"|{seed}|{first}|{second}".encode()).digest()
    block = hashlib.sha256(_SEEDED + context.digest()).digest()[:_BLOCK_BYTES]
    stream = Cipher(algorithms.AES256(key), modes.CTR(block)).encryptor()
    stretch = np.frombuffer(stream.update(bytes(packed_size(context.pad_bits))), np.uint8)
    return slice_packed(stretch, 0, context.pad_bits)
