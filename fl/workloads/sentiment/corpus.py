"""The reviews with their encoder: what a sentiment task learns from, and where its computed arrays are kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.workloads.data import Progress
from fl.workloads.sentiment.cache import quiet
from fl.workloads.sentiment.data import Reviews, encoder_folder, load_reviews
from fl.workloads.sentiment.encoder import Encoder, TokenStates, cached_embeddings, cached_token_states
from fl.workloads.sentiment.sources import DATA, Dataset
from fl.workloads.sentiment.split import Indices, held_out, validation_split


@dataclass(frozen=True, eq=False)
class Corpus:
    """Labelled texts, an encoder, and the folder for embeddings and token states."""

    name: str
    reviews: Reviews
    encoder: Encoder
    cache: Path
    progress: Progress = field(default=quiet)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over texts, labels and encoder."""
        content = repr((self.reviews.texts, self.reviews.labels.tolist(), self.encoder.fingerprint))
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def split(self) -> tuple[Indices, Indices]:
        """Indices of training and test examples."""
        return held_out(self.reviews.texts, self.reviews.labels)

    @cached_property
    def validation_split(self) -> tuple[Indices, Indices]:
        """Indices of the training examples in two parts: to train on, and to compare settings on."""
        return validation_split(self.reviews.texts, self.reviews.labels, self.split[0])

    @cached_property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """float32 of shape (n, width); computed on first use, which takes a minute or two for Rotten Tomatoes."""
        return cached_embeddings(self.encoder, self.reviews.texts, self.name, self.cache, self.progress)

    def token_states(self, layer: int) -> TokenStates:
        """States that enter ``layer`` of the encoder; computed on first use."""
        return cached_token_states(
            self.encoder, self.reviews.texts, layer, self.name, self.cache, self.progress
        )


def open_corpus(dataset: Dataset, folder: Path | None = None, progress: Progress = quiet) -> Corpus:
    """The packaged reviews and encoder in ``folder`` (default: where they are fetched to), verified."""
    where = folder or DATA.usual_folder
    return Corpus(
        dataset, load_reviews(dataset, where), Encoder(encoder_folder(where)), where / "cache", progress
    )
