"""The sentiment task's files, as :data:`fl.workloads.sentiment.DATA` registers them: film reviews and a sentence encoder.

Layout of the folder: ``reviews.csv``, one table of text, label and source, and ``encoder/``.  Embeddings computed
later lie beside them (:mod:`fl.workloads.sentiment.cache`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.workloads.data import DataError
from fl.workloads.sentiment.sources import DATA, ENCODER, REVIEWS, Dataset

SOURCES: Mapping[Dataset, str] = {"rotten-tomatoes": "rotten_tomatoes", "imdb": "imdb"}
"""Names of the data sets in the table's column ``source``."""
COUNTS: Mapping[Dataset, int] = {"rotten-tomatoes": 8530, "imdb": 25000}


@dataclass(frozen=True)
class Reviews:
    """Texts and their labels, int64 of shape (n,): 0 negative, 1 positive; in the order of the table."""

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)


def encoder_folder(folder: Path | None = None) -> Path:
    """The folder of the encoder's files, all of them verified."""
    for name in DATA.files:
        if name != REVIEWS:
            DATA.content(name, folder)
    return (folder or DATA.usual_folder) / ENCODER


def load_reviews(dataset: Dataset, folder: Path | None = None) -> Reviews:
    """The reviews of one data set from ``folder`` (default: where they are fetched to), checksum verified."""
    reviews = parse_reviews(DATA.content(REVIEWS, folder).decode(), dataset, REVIEWS)
    if len(reviews) != COUNTS[dataset]:
        raise DataError(f"{REVIEWS}: {len(reviews)} reviews of {dataset}, expected {COUNTS[dataset]}")
    return reviews


def parse_reviews(table: str, dataset: Dataset, where: str) -> Reviews:
    """The rows of ``dataset`` in a CSV table with columns text, label (0 or 1) and source."""
    rows = csv.reader(io.StringIO(table, newline=""))
    texts: list[str] = []
    labels: list[int] = []
    try:
        if next(rows, []) != ["text", "label", "source"]:
            raise DataError(f"{where}: the columns are not text, label and source")
        for row in rows:
            if len(row) != 3 or row[1] not in ("0", "1"):
                raise DataError(f"{where}: line {rows.line_num} is not a text, a label 0 or 1, and a source")
            if row[2] == SOURCES[dataset]:
                texts.append(row[0])
                labels.append(int(row[1]))
    except csv.Error as error:
        raise DataError(f"{where}: line {rows.line_num}: {error}") from error
    return Reviews(tuple(texts), np.array(labels, np.int64))
