"""The server's part of a round: from protected uploads to the exact sum.

These functions see what a server sees - packed uploads, and in ``lightsecagg`` the answers - and nothing of
any client.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fl.modes.shares import ShareCode, decode, read_sum, unpack_symbols
from orchestrator.bits import packed_size
from orchestrator.delivery.masking import add_words, unpack_values


def sum_of_masked(
    uploads: npt.NDArray[np.uint64], clients: Sequence[int], n_values: int, ring_width: int
) -> npt.NDArray[np.int64]:
    """The signed sum of the packed uploads of ``clients`` (rows of 64-bit words)."""
    total = uploads[clients[0]].copy()
    for client in clients[1:]:
        add_words(total, uploads[client], ring_width)
    return unpack_values(total.view(np.uint8)[: packed_size(n_values * ring_width)], n_values, ring_width)


def sum_of_shared(
    code: ShareCode,
    uploads: npt.NDArray[np.uint64],
    answers: npt.NDArray[np.uint8],
    survivors: Sequence[int],
    answering: Sequence[int],
) -> npt.NDArray[np.int64]:
    """The signed sum, int64 of shape (n_values,), over ``survivors``.

    ``uploads``: uint64 of shape (clients, words), packed; ``answers``: uint8 of shape (clients, bytes), packed; rows
    are clients.  The mask comes from the answers of ``answering``.
    """
    bits, modulus = code.symbol_bits, code.modulus
    mask_sum = decode(
        code,
        {j: unpack_symbols(answers[j], code.symbols_per_share, bits, modulus) for j in answering},
    )
    size = packed_size(code.upload_bits)
    packed = (uploads[i].view(np.uint8)[:size] for i in survivors)
    return read_sum(code, (unpack_symbols(row, code.n_values, bits, modulus) for row in packed), mask_sum)
