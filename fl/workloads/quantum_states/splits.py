"""Who gets which states: three ways of sharing the generators out over the clients.

* ``iid``: every client has equally many states of every generator.
* ``mixed``: most of a client's states (``OWN_SHARE``) come from its own generator, the others in equal parts
  from all generators.
* ``one-generator``: every client's states come from one generator, of which it has both classes.

A client's share depends on the seed and its own number only, never on how many clients there are: **a further
client brings further data**, and the shares of the others stay as they were.  Which generator a client meets
is drawn anew for every seed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fl.workloads.quantum_states.sources import Split

OWN_SHARE = 0.75

Counts = npt.NDArray[np.int64]
"""int64 of shape (generators,): states of either class by generator."""


def mixture(split: Split, client_index: int, n_generators: int, seed: int) -> npt.NDArray[np.float64]:
    """Share of every generator in a client's states, float64 of shape (generators,); sums to 1."""
    even = np.full(n_generators, 1 / n_generators)
    if split == "iid":
        return even
    own = np.zeros(n_generators)
    order = np.random.default_rng([seed, 0x6E6E]).permutation(n_generators)
    own[order[client_index % n_generators]] = 1
    return own if split == "one-generator" else OWN_SHARE * own + (1 - OWN_SHARE) * even


def rounded(shares: npt.NDArray[np.float64], total: int, rng: np.random.Generator) -> Counts:
    """Whole numbers close to ``total * shares`` (1-d float64) that sum to ``total``: largest remainders.

    Lots decide between equal remainders: a fixed order would favour the first generators at every client.
    """
    counts = np.floor(shares * total).astype(np.int64)
    lots = rng.permutation(len(shares))
    by_remainder = lots[np.argsort(-(shares * total - counts)[lots], kind="stable")]
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def _counts(split: Split, client_index: int, per_class: int, n_generators: int, seed: int) -> Counts:
    rng = np.random.default_rng([seed, client_index, 0x7E])
    return rounded(mixture(split, client_index, n_generators, seed), per_class, rng)


def client_states(
    split: Split,
    client_index: int,
    *,
    per_class: int,
    n_generators: int,
    n_available: int,
    seed: int,
) -> list[npt.NDArray[np.int64]]:
    """Indices of a client's states of every generator, the same for both classes.

    Each array, 1-d int64, holds numbers below ``n_available``; no state belongs to two clients.  Raises ValueError when
    the states do not suffice for so many clients.
    """
    counts = np.stack(
        [_counts(split, client, per_class, n_generators, seed) for client in range(client_index + 1)]
    )
    ends = np.cumsum(counts, axis=0)[-1]
    chosen = []
    for generator in range(n_generators):
        first, last = int(ends[generator] - counts[-1, generator]), int(ends[generator])
        if last > n_available:
            raise ValueError(
                f"client {client_index} would be the first to run out of states: generator {generator} has "
                f"{n_available} training states of each class and {last} are needed; use fewer clients"
            )
        order = np.random.default_rng([seed, generator, 0x0D43]).permutation(n_available)
        chosen.append(order[first:last].astype(np.int64))
    return chosen
