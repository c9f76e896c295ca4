"""The sentence encoder all-MiniLM-L6-v2: from texts to unit vectors of 384 numbers, without network.

A BERT of six layers gives one state per token; the mean of the states over a sentence's tokens, scaled to
length one, is its embedding (Reimers and Gurevych, arXiv 1908.10084, section 3; the package's
``modules.json``: Transformer, mean Pooling, Normalize).  Weights are read from the verified folder into a
``transformers.BertModel``; nothing is looked up elsewhere.

Encoding thousands of sentences takes minutes on one core, so the results are cached
(:mod:`fl.workloads.sentiment.cache`): the embeddings (float32), and for the low-rank adapters the token states
that enter a given layer (float16, sentences one after the other).  ``transformers``, which takes seconds to
import, is loaded only where something has to be computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from fl.workloads.data import DataError, Progress
from fl.workloads.sentiment.cache import cached_array, quiet
from fl.workloads.sentiment.data import encoder_folder

MAX_TOKENS = 128
"""Longer texts are cut, as the packaged tokeniser does; no sentence of Rotten Tomatoes is longer than 78."""

BATCH = 32
PART = 1024
"""Sentences per stored part of a computation."""

_NOT_OURS = ("pooler.", "embeddings.position_ids")
"""Weights that sentence embeddings do not use, and a constant that some files carry."""

Tokens = Sequence[npt.NDArray[np.int64]]
"""1-d int64 for each text: token numbers, with the marks of begin and end."""


class Encoder:
    """The encoder in ``folder``: ``config.json``, ``model.safetensors`` and ``tokenizer.json``."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` must have been verified; by default it is :func:`encoder_folder`, which does that."""
        self.folder = encoder_folder() if folder is None else folder

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over configuration, vocabulary and weights."""
        digest = hashlib.sha256(f"at most {MAX_TOKENS} tokens".encode())
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            with open(self.folder / name, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def config(self) -> Any:
        """The ``BertConfig``."""
        from transformers import BertConfig

        return BertConfig.from_json_file(str(self.folder / "config.json"))

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return int(self.config.hidden_size)

    @property
    def n_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @cached_property
    def model(self) -> Any:
        """The frozen ``BertModel`` in evaluation mode."""
        from transformers import BertModel

        model: Any = BertModel(self.config, add_pooling_layer=False)
        weights = load_file(str(self.folder / "model.safetensors"))
        result = model.load_state_dict(weights, strict=False)
        differing = [*result.missing_keys, *result.unexpected_keys]
        wrong = [name for name in differing if not name.startswith(_NOT_OURS)]
        if wrong:
            raise DataError(f"{self.folder}: weights and configuration disagree about {wrong[0]}")
        model.requires_grad_(False)
        model.train(False)
        return model

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import PreTrainedTokenizerFast

        tokenizer: Any = PreTrainedTokenizerFast
        return tokenizer(tokenizer_file=str(self.folder / "tokenizer.json"))

    def tokenise(self, texts: Sequence[str]) -> Tokens:
        """Token numbers of each text, 1-d int64, cut to :data:`MAX_TOKENS`."""
        if not texts:
            return []
        found = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS, padding=False)
        return [np.array(tokens, np.int64) for tokens in found["input_ids"]]

    def states(self, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor]:
        """States (batch, length, width), float32, that enter layer ``layer`` (0 to n_layers) and the token mask.

        The mask (batch, length) is True where there is a token and False where there is padding.
        """
        ids, mask = padded(tokens)
        model = self.model  # loaded before inference mode, in which weights would be unfit for training
        with torch.inference_mode():
            states = model.embeddings(input_ids=ids)
            wide = mask[:, None, None, :]
            for block in model.encoder.layer[:layer]:
                out = block(states, attention_mask=wide)
                states = out[0] if isinstance(out, tuple) else out
        return states, mask

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings (n, width), float32, each of length one, in the order of the texts."""
        tokens = self.tokenise(texts)
        out = np.empty((len(tokens), self.width), np.float32)
        for batch in by_length(tokens, BATCH):
            states, mask = self.states([tokens[index] for index in batch], self.n_layers)
            out[batch] = functional.normalize(mean_over_tokens(states, mask), dim=1).numpy()
        return out


def padded(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Token numbers (batch, longest), int64, padded with zeros, and the mask of real tokens."""
    lengths = torch.tensor([len(one) for one in tokens])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.from_numpy(np.concatenate(tokens))
    return ids, mask


def mean_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of the states over the tokens of each sentence: float32, shape (batch, width)."""
    weights = mask.to(states.dtype)[:, :, None]
    return (states * weights).sum(1) / weights.sum(1)


def by_length(tokens: Tokens, batch_size: int) -> list[npt.NDArray[np.int64]]:
    """Indices, 1-d int64, in batches of about equal length, so that little padding is computed."""
    order = np.argsort([len(one) for one in tokens], kind="stable").astype(np.int64)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def cached_embeddings(
    encoder: Encoder, texts: Sequence[str], name: str, folder: Path, progress: Progress = quiet
) -> npt.NDArray[np.float32]:
    """:meth:`Encoder.embed` of ``texts``, float32 of shape (n, width), kept in ``folder`` under ``name``."""
    pieces = [partial(encoder.embed, texts[start : start + PART]) for start in range(0, len(texts), PART)]
    key = cache_key(encoder, texts, "embeddings")
    return cached_array(folder, f"{name}-embeddings", key, pieces, np.concatenate, progress=progress)


@dataclass(frozen=True)
class TokenStates:
    """States that enter one layer: float16 (tokens of all sentences, width); sentence i from ``starts[i]``."""

    states: npt.NDArray[np.float16]
    starts: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sentence, 1-d int64."""
        return np.diff(self.starts)

    def batch(self, sentences: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """States (batch, longest, width) float32 of some sentences, padded with zeros, and the token mask."""
        lengths = torch.from_numpy(self.lengths[sentences])
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        states = torch.zeros((*mask.shape, self.states.shape[1]))
        rows = [self.states[self.starts[one] : self.starts[one + 1]] for one in sentences]
        states[mask] = torch.from_numpy(np.concatenate(rows)).float()
        return states, mask


def cached_token_states(
    encoder: Encoder, texts: Sequence[str], layer: int, name: str, folder: Path, progress: Progress = quiet
) -> TokenStates:
    """The states of ``texts`` that enter layer ``layer``, kept in ``folder`` under ``name``."""
    tokens = encoder.tokenise(texts)

    def part(start: int) -> npt.NDArray[np.float16]:
        chosen = tokens[start : start + PART]
        rows: list[npt.NDArray[np.float16]] = [np.empty(0, np.float16)] * len(chosen)
        for batch in by_length(chosen, BATCH):
            states, _ = encoder.states([chosen[index] for index in batch], layer)
            for index, row in zip(batch, states.numpy().astype(np.float16), strict=True):
                rows[index] = row[: len(chosen[index])]
        return np.concatenate(rows)

    pieces: list[Callable[[], npt.NDArray[np.float16]]] = [
        partial(part, start) for start in range(0, len(texts), PART)
    ]
    key = cache_key(encoder, texts, f"states entering layer {layer}")
    states = cached_array(folder, f"{name}-layer-{layer}", key, pieces, np.concatenate, progress=progress)
    return TokenStates(states, np.concatenate([[0], np.cumsum([len(one) for one in tokens])]))


def cache_key(encoder: Encoder, texts: Sequence[str], what: str) -> str:
    """Hexadecimal key of everything that a cached array depends on."""
    digest = hashlib.sha256(f"{what}|{encoder.fingerprint}|{len(texts)}".encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:16]
