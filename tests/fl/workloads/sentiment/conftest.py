"""A sentence encoder of two layers with random weights, and little reviews that it can tell apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fl.workloads.sentiment.corpus import Corpus
from fl.workloads.sentiment.data import Reviews
from fl.workloads.sentiment.encoder import Encoder

GOOD = ("moving", "funny", "brilliant", "warm", "clever")
BAD = ("dull", "clumsy", "bleak", "tired", "silly")
PLAIN = ("the", "film", "plot", "story", "cast", "is", "and", "with", "a", "very", "it", "was")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def write_encoder(folder: Path, seed: int = 0, vocabulary: tuple[str, ...] = (*GOOD, *BAD, *PLAIN)) -> Path:
    """The three files of an encoder with width 16, two layers and two heads."""
    from transformers import BertConfig, BertModel  # seconds, for those alone who have an encoder made

    folder.mkdir(parents=True)
    words = {word: index for index, word in enumerate((*SPECIAL, *vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    config.to_json_file(str(folder / "config.json"), use_diff=False)
    torch.manual_seed(seed)
    weights = BertModel(config).state_dict()
    pole = torch.tensor([1.0, -1.0] * 8)
    for word, index in words.items():
        weights["embeddings.word_embeddings.weight"][index] += pole * ((word in GOOD) - (word in BAD))
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    return folder


def little_reviews(count: int, seed: int = 0) -> Reviews:
    """Sentences of 4 to 12 words, one or two of which tell the label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    texts = []
    for label in labels:
        words = list(rng.choice(PLAIN, rng.integers(3, 11)))
        for _ in range(rng.integers(1, 3)):
            words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(GOOD if label else BAD)))
        texts.append(" ".join(words))
    return Reviews(tuple(texts), labels.astype(np.int64))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("sentiment") / "encoder")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_folder: Path) -> Encoder:
    torch.set_num_threads(1)
    return Encoder(tiny_folder)


@pytest.fixture(scope="session")
def tiny_corpus(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus("little", little_reviews(240), tiny_encoder, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., Path]:
    return write_encoder


@pytest.fixture(scope="session")
def make_reviews() -> Callable[..., Reviews]:
    return little_reviews
