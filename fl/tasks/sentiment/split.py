"""How the reviews are shared out: a test set that is the same for everybody, and shards for the clients.

The packaged Rotten Tomatoes is the 8530 sentences of the training part only, and the packaged IMDB likewise,
so a fifth is held out here: drawn once with a fixed seed, the classes kept in proportion.  Sentences with the
same words (case and punctuation aside) stay on the same side, so that no test sentence was trained on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

TEST_SHARE = 0.2
CONCENTRATION = 0.5
"""Dirichlet concentration of the skewed split: with it most clients have a clear majority class."""
LENGTH_CLASSES = 3


def held_out(texts: Sequence[str], labels: Indices, seed: int = 0) -> tuple[Indices, Indices]:
    """Indices of training and test examples, each in ascending order."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[" ".join(re.findall(r"\w+", text.lower()))].append(index)
    members = list(groups.values())
    kinds = np.array([labels[group[0]] for group in members])
    rng = np.random.default_rng([seed, 0x7E57])
    test: list[int] = []
    for kind in np.unique(kinds):
        order = rng.permutation(np.flatnonzero(kinds == kind))
        for group in order[: round(TEST_SHARE * len(order))]:
            test += members[group]
    inside = np.zeros(len(texts), bool)
    inside[test] = True
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def skewed_shard(labels: Indices, lengths: Indices, client_index: int, n_clients: int, seed: int) -> Indices:
    """Indices of one client's share: equal sizes, skewed mixtures of labels and lengths.

    The examples fall into cells by label and by terciles of length.  Every client draws its mixture of cells
    from a Dirichlet distribution around the overall one and then its examples from these cells, without
    replacement (Hsu et al., arXiv 1909.06335, section 2).  Clients take turns, so that running out of a cell
    meets all of them alike.  Sizes differ by at most one, because the mean over clients is not weighted.
    """
    if not 0 <= client_index < n_clients:
        raise ValueError(f"client {client_index} does not exist among {n_clients}")
    if len(labels) < n_clients:
        raise ValueError(f"{len(labels)} examples cannot be split over {n_clients} clients")
    rng = np.random.default_rng([seed, 0x5CE3])
    bounds = np.quantile(lengths, np.arange(1, LENGTH_CLASSES) / LENGTH_CLASSES)
    cells = labels * LENGTH_CLASSES + np.searchsorted(bounds, lengths)
    pools = [rng.permutation(np.flatnonzero(cells == cell)).tolist() for cell in np.unique(cells)]
    left = np.array([len(pool) for pool in pools])
    mixtures = rng.dirichlet(CONCENTRATION * len(left) * left / left.sum(), n_clients)
    shards: list[list[int]] = [[] for _ in range(n_clients)]
    for turn in range(len(labels)):
        client = turn % n_clients
        wanted = np.cumsum(np.where(left > 0, mixtures[client], 0.0))
        if wanted[-1] <= 0:
            wanted = np.cumsum(left.astype(float))
        cell = int(np.searchsorted(wanted, rng.random() * wanted[-1], side="right"))
        shards[client].append(pools[cell].pop())
        left[cell] -= 1
    return np.array(shards[client_index], np.int64)
