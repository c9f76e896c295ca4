"""How the reviews are shared out: held-out parts that are the same for everybody, and shards for the clients.

The packaged Rotten Tomatoes is the 8530 sentences of the training part only, and the packaged IMDB likewise,
so a fifth is held out here as the test set: drawn once with a fixed seed, the classes kept in proportion.
Sentences with the same words (case and punctuation aside) stay on the same side, so that no test sentence was
trained on.

Settings (rounds, learning rates, ranks) are chosen without the test set: of the training part another fifth is
held out in the same way, the validation part.  Once they are chosen, training uses the whole training part.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
"""1-d int64: places in the list of texts."""

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


def validation_split(
    texts: Sequence[str], labels: Indices, training: Indices, seed: int = 1
) -> tuple[Indices, Indices]:
    """The training part in two: indices to train on while settings are chosen, and the validation part."""
    kept, held = held_out([texts[index] for index in training], labels[training], seed)
    return training[kept], training[held]


def skewed_shards(labels: Indices, lengths: Indices, n_clients: int, seed: int) -> list[Indices]:
    """Indices of every client's share: equal sizes, skewed mixtures of labels and lengths.

    The examples fall into cells by label and by terciles of length.  Every client draws its mixture of cells
    from a Dirichlet distribution around the overall one and then its examples from these cells, without
    replacement (Hsu et al., arXiv 1909.06335, section 2).  Clients take turns, so that running out of a cell
    meets all of them alike.  Sizes differ by at most one, because the mean over clients is not weighted.
    """
    if len(labels) < n_clients:
        raise ValueError(f"{len(labels)} examples cannot be split over {n_clients} clients")
    rng = np.random.default_rng([seed, 0x5CE3])
    bounds = np.quantile(lengths, np.arange(1, LENGTH_CLASSES) / LENGTH_CLASSES)
    cells = labels * LENGTH_CLASSES + np.searchsorted(bounds, lengths)
    pools = [rng.permutation(np.flatnonzero(cells == cell)).tolist() for cell in np.unique(cells)]
    sizes = np.array([len(pool) for pool in pools])
    mixtures = rng.dirichlet(CONCENTRATION * len(sizes) * sizes / sizes.sum(), n_clients).tolist()
    shards: list[list[int]] = [[] for _ in range(n_clients)]
    for turn, chance in enumerate(rng.random(len(labels)).tolist()):
        client = turn % n_clients
        shards[client].append(pools[_drawn_cell(mixtures[client], pools, chance)].pop())
    return [np.array(shard, np.int64) for shard in shards]


def _drawn_cell(mixture: Sequence[float], pools: Sequence[Sequence[int]], chance: float) -> int:
    """The cell that ``chance`` (0..1) draws among those with examples left, in proportion to ``mixture``."""
    filled = [cell for cell, pool in enumerate(pools) if pool]
    weights = [mixture[cell] for cell in filled]
    if sum(weights) <= 0:
        weights = [float(len(pools[cell])) for cell in filled]
    wanted = chance * sum(weights)
    for cell, weight in zip(filled, weights, strict=True):
        wanted -= weight
        if wanted < 0:
            return cell
    return filled[-1]
