"""The type in which key material travels.

A :class:`SecretBits` shows its length and nothing else: it refuses to be printed, formatted, pickled,
serialised, compared with ``==`` or iterated over.  The only way to the bits is :meth:`SecretBits.reveal`,
so that every place where bits leave the type can be found by searching for that word.
"""

from __future__ import annotations

import hmac
from typing import NoReturn

import numpy as np

from orchestrator.bits import PackedBits, check_packed, packed_size, slice_packed, unpack


class SecretLeakError(TypeError):
    """Something tried to show, copy out or serialise key bits."""


class SecretBits:
    """``n_bits`` secret bits, packed least significant bit first (see :mod:`orchestrator.bits`)."""

    __slots__ = ("_n_bits", "_packed")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, packed: PackedBits, n_bits: int) -> None:
        """Take over ``packed`` (uint8, exactly ``ceil(n_bits / 8)`` bytes, padding zero); no copy is made."""
        check_packed(packed, n_bits)
        self._packed = packed
        self._n_bits = n_bits

    @classmethod
    def from_bytes(cls, data: bytes) -> SecretBits:
        """All ``8 * len(data)`` bits of ``data``."""
        return cls(np.frombuffer(bytearray(data), dtype=np.uint8), 8 * len(data))

    @classmethod
    def concat(cls, parts: list[SecretBits]) -> SecretBits:
        """The parts one after the other."""
        n_bits = sum(len(part) for part in parts)
        if all(len(part) % 8 == 0 for part in parts[:-1]):
            arrays = [part._packed for part in parts]
            packed = np.concatenate(arrays) if arrays else np.zeros(0, np.uint8)
        else:
            packed = np.packbits(
                np.concatenate([unpack(part._packed, part._n_bits) for part in parts]), bitorder="little"
            )
        return cls(packed, n_bits)

    def __len__(self) -> int:
        return self._n_bits

    def reveal(self) -> PackedBits:
        """The packed bits themselves (the array held, not a copy)."""
        return self._packed

    def reveal_bytes(self) -> bytes:
        """The packed bits as bytes."""
        return self._packed.tobytes()

    def take(self, start: int, n_bits: int) -> SecretBits:
        """Bits ``start .. start + n_bits`` as a secret of their own (a copy)."""
        if start < 0 or n_bits < 0 or start + n_bits > self._n_bits:
            raise ValueError(f"bits {start}..{start + n_bits} lie outside a secret of {self._n_bits} bits")
        return SecretBits(slice_packed(self._packed, start, n_bits), n_bits)

    def same_as(self, other: SecretBits) -> bool:
        """Compare in constant time."""
        return self._n_bits == other._n_bits and hmac.compare_digest(
            self._packed.tobytes(), other._packed.tobytes()
        )

    def wipe(self) -> None:
        """Overwrite the bits with zeros where the array allows it, and forget them.

        Best effort: Python may have made copies elsewhere.
        """
        if self._packed.flags.writeable:
            self._packed[:] = 0
        self._packed = np.zeros(packed_size(0), np.uint8)
        self._n_bits = 0

    def __repr__(self) -> str:
        return f"<SecretBits: {self._n_bits} bits>"

    def _refuse(self, *_: object) -> NoReturn:
        raise SecretLeakError("key bits cannot be printed, formatted, iterated, compared or serialised")

    __str__ = _refuse
    __format__ = _refuse
    __iter__ = _refuse
    __getitem__ = _refuse
    __reduce__ = _refuse
    __reduce_ex__ = _refuse
    __eq__ = _refuse
    __bytes__ = _refuse
    __array__ = _refuse
    __deepcopy__ = _refuse
    __copy__ = _refuse
