"""One round of Cascade for many frames at once, on either side; compiled by numba.

The three named tuples are the state: :class:`Trees` is public and fixed by the seeds, :class:`Frames` is what both
sides keep, :class:`Search` what only the corrector needs.  F frames, P passes, n_max bits of the longest frame, W
words of 64 bits that hold them, C intervals at most in search per frame.

Kernels check every number that came from the peer and return a negative code instead of touching memory outside.
They release the GIL.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.kernels import kernel
from orchestrator.postprocessing.cascade_trees import (
    U8,
    U64,
    backward,
    fill_pass,
    flip,
    forward,
    get,
    leaf,
    parity,
    signed,
)

U16 = npt.NDArray[np.uint16]
"""1-d uint16."""
I64 = npt.NDArray[np.int64]
"""1-d int64."""

IDLE = 0xFF
"""Action of a frame that asks nothing."""
START = 0x80
"""Added to the pass number when a frame asks for the top-level parities of that pass."""

ERR_ACTION = -1
ERR_POSITION = -2
ERR_REPEATED = -3
ERR_COUNT = -4
ERR_INCONSISTENT = -5


class Trees(NamedTuple):
    """``sizes`` (F,) bits, ``widths`` (F,) bits of an index, ``blocks`` (F, P) block sizes, ``keys`` (F, P, 9) orders."""

    sizes: I64
    widths: I64
    blocks: I64
    keys: U64


class Frames(NamedTuple):
    """``bits`` (F, n_max) one per element; ``rows`` and ``known`` (F, P, W) packed; ``started`` (F,) passes begun.

    ``rows[f, p]`` holds the frame in the order of pass p, ``known[f, p]`` marks the known boundaries.
    """

    bits: U8
    rows: U64
    known: U64
    started: I64


class Search(NamedTuple):
    """``odd`` (F, P, W) marks the starts of leaves that differ in parity, ``odd_counts`` (F, P) counts them.

    ``reference_parity`` (F,) of the whole frame; ``corrections`` (F,) bits flipped; ``starts`` and ``lengths`` (F, C)
    are the leaves in bisection, all of one pass per frame: leaves of one pass are disjoint, so no error is searched
    twice.
    """

    odd: U64
    odd_counts: I64
    reference_parity: I64
    corrections: I64
    starts: I64
    lengths: I64


@kernel
def count_answers(trees: Trees, frames: Frames, actions: U8, counts: I64, n_positions: int) -> int:
    """Number of parities a request would disclose, or a negative code if it is not well formed.

    ``actions`` uint8 and ``counts`` int64, both (F,): a pass number and how many boundaries follow, or IDLE, or
    START + pass.
    """
    total, asked = 0, 0
    for f in range(trees.sizes.size):
        action = signed(actions[f])
        if action == IDLE:
            if counts[f] != 0:
                return ERR_COUNT
            continue
        p = action & 0x7F
        if action >= START:
            if p != frames.started[f] or p >= trees.blocks.shape[1]:
                return ERR_ACTION
            if counts[f] != 0:
                return ERR_COUNT
            n_blocks = (trees.sizes[f] + trees.blocks[f, p] - 1) // trees.blocks[f, p]
            total += n_blocks if p == 0 else n_blocks - 1
        else:
            if p >= frames.started[f]:
                return ERR_ACTION
            if counts[f] <= 0 or counts[f] >= trees.sizes[f]:
                return ERR_COUNT
            total += counts[f]
            asked += counts[f]
    return total if asked == n_positions else ERR_COUNT


@kernel
def answer_round(trees: Trees, frames: Frames, actions: U8, counts: I64, positions: U16, out: U8) -> int:
    """One round of the reference: the parities asked for, in order, into ``out``; their number or a negative code.

    :func:`count_answers` must have accepted the request; its result is the size of ``out``.
    """
    written, read = 0, 0
    for f in range(trees.sizes.size):
        action = signed(actions[f])
        if action == IDLE:
            continue
        n, p = trees.sizes[f], action & 0x7F
        k, row = trees.blocks[f, p], frames.rows[f, p]
        if action >= START:
            fill_pass(frames.bits[f], n, trees.keys[f, p], trees.widths[f], p == 0, row)
            frames.started[f] = p + 1
            n_blocks = (n + k - 1) // k
            for b in range(n_blocks if p == 0 else n_blocks - 1):
                out[written] = parity(row, b * k, min((b + 1) * k, n))
                written += 1
            continue
        for _ in range(counts[f]):
            m = signed(positions[read])
            read += 1
            low = m & -m
            if m == 0 or m >= n or low >= k:
                return ERR_POSITION
            if get(frames.known[f, p], m):
                return ERR_REPEATED
            flip(frames.known[f, p], m)
            out[written] = parity(row, m - low, m)
            written += 1
    return written


@kernel
def correct_round(
    trees: Trees, frames: Frames, search: Search, actions: U8, counts: I64, answers: U8, positions: U16
) -> int:
    """One round of the corrector: take in the answers to the last request, decide and write the next one.

    ``actions`` and ``counts`` (F,) hold the last request and are overwritten by the next; its boundaries go into
    ``positions``, their number is returned (or a negative code).
    """
    read, written = 0, 0
    for f in range(trees.sizes.size):
        action = signed(actions[f])
        p, active = action & 0x7F, 0
        if action == IDLE:
            if frames.started[f] > 0:
                continue
        elif action >= START:
            read = _absorb_start(trees, frames, search, f, p, answers, read)
        else:
            active = counts[f]
            read = _absorb_bisection(trees, frames, search, f, p, active, answers, read)
        p, active = _next_search(trees, frames, search, f, p, active)
        if active < 0:
            return active
        counts[f] = active
        if active > 0:
            actions[f] = p
            for i in range(active):
                positions[written] = search.starts[f, i] + search.lengths[f, i] // 2
                written += 1
        elif frames.started[f] < trees.blocks.shape[1]:
            p = frames.started[f]
            fill_pass(
                frames.bits[f], trees.sizes[f], trees.keys[f, p], trees.widths[f], p == 0, frames.rows[f, p]
            )
            actions[f] = START + p
        else:
            actions[f] = IDLE
    return written


@kernel
def _absorb_start(
    trees: Trees, frames: Frames, search: Search, f: int, p: int, answers: U8, read: int
) -> int:
    """Compare the top-level parities of pass ``p``; the last block follows from the others after pass 0."""
    n, k, row = trees.sizes[f], trees.blocks[f, p], frames.rows[f, p]
    n_blocks = (n + k - 1) // k
    rest = 0 if p == 0 else search.reference_parity[f]
    for b in range(n_blocks):
        if p == 0 or b < n_blocks - 1:
            theirs = signed(answers[read])
            read += 1
            rest ^= theirs
        else:
            theirs = rest
        if theirs ^ parity(row, b * k, min((b + 1) * k, n)):
            flip(search.odd[f, p], b * k)
            search.odd_counts[f, p] += 1
    if p == 0:
        search.reference_parity[f] = rest
    frames.started[f] = p + 1
    return read


@kernel
def _absorb_bisection(
    trees: Trees, frames: Frames, search: Search, f: int, p: int, active: int, answers: U8, read: int
) -> int:
    """Replace each leaf in bisection by its half that differs."""
    n, odd = trees.sizes[f], search.odd[f, p]
    for i in range(active):
        start, size = search.starts[f, i], search.lengths[f, i] // 2
        flip(frames.known[f, p], start + size)
        if signed(answers[read]) == parity(frames.rows[f, p], start, start + size):
            flip(odd, start)
            start += size
            flip(odd, start)
        read += 1
        while size > 1 and start + size // 2 >= n:
            size //= 2
        search.starts[f, i] = start
        search.lengths[f, i] = size
    return read


@kernel
def _next_search(
    trees: Trees, frames: Frames, search: Search, f: int, p: int, active: int
) -> tuple[int, int]:
    """Correct what is down to single bits; the pass to bisect next and its leaves, 0 if no parity differs.

    The lowest pass goes first: its leaves are the shortest.  Corrections are bounded, so that answers that
    contradict each other cannot keep two passes undoing each other's work.
    """
    while True:
        kept = 0
        for i in range(active):
            start, size = search.starts[f, i], search.lengths[f, i]
            if size > 1:
                search.starts[f, kept] = start
                search.lengths[f, kept] = size
                kept += 1
            elif p == 0:
                _correct(trees, frames, search, f, start)
            else:
                _correct(
                    trees,
                    frames,
                    search,
                    f,
                    forward(start, trees.keys[f, p], trees.widths[f], trees.sizes[f]),
                )
        if search.corrections[f] > 2 * trees.sizes[f]:
            return p, ERR_INCONSISTENT
        if kept > 0:
            return p, kept
        p = 0
        while p < frames.started[f] and search.odd_counts[f, p] == 0:
            p += 1
        if p == frames.started[f]:
            return p, 0
        active = _collect(trees, frames, search, f, p)


@kernel
def _collect(trees: Trees, frames: Frames, search: Search, f: int, p: int) -> int:
    """List the odd leaves of pass ``p``, as many as fit; their number."""
    n, k, odd = trees.sizes[f], trees.blocks[f, p], search.odd[f, p]
    found = 0
    for word in range((n + 63) // 64):
        if odd[word] == 0:
            continue
        for start in range(word * 64, min(word * 64 + 64, n)):
            if get(odd, start):
                if found == search.starts.shape[1]:
                    return found
                search.starts[f, found], search.lengths[f, found] = leaf(frames.known[f, p], start, k, n)
                found += 1
    return found


@kernel
def _correct(trees: Trees, frames: Frames, search: Search, f: int, index: int) -> None:
    """Flip the bit ``index`` of frame ``f`` and tell the leaf that holds it in every started pass."""
    n, width = trees.sizes[f], trees.widths[f]
    search.corrections[f] += 1
    frames.bits[f, index] ^= 1
    for q in range(frames.started[f]):
        position = index if q == 0 else backward(index, trees.keys[f, q], width, n)
        flip(frames.rows[f, q], position)
        start, _ = leaf(frames.known[f, q], position, trees.blocks[f, q], n)
        flip(search.odd[f, q], start)
        search.odd_counts[f, q] += 1 if get(search.odd[f, q], start) else -1
