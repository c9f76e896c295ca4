"""The encoder: transformers' own BERT, pooled and normalised, cached in the data folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fl.workloads.data import DataError
from fl.workloads.sentiment.encoder import (
    MAX_TOKENS,
    Encoder,
    cache_key,
    cached_embeddings,
    cached_token_states,
)
from fl.workloads.sentiment.sources import DATA

TEXTS = ("the film is moving", "dull", "a story with a clumsy plot and a very tired cast", "unheard words")


def reference_states(encoder: Encoder, text: str) -> torch.Tensor:
    """Last states of one text, (length, width), by the whole transformers model without padding."""
    from transformers import BertModel

    model = BertModel(encoder.config, add_pooling_layer=False)
    model.load_state_dict(load_file(encoder.folder / "model.safetensors"), strict=False)
    ids = torch.from_numpy(encoder.tokenise([text])[0])[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids).last_hidden_state[0]


def test_embeddings_are_the_normalised_means_of_the_token_states(tiny_encoder: Encoder) -> None:
    found = tiny_encoder.embed(TEXTS)
    for text, embedding in zip(TEXTS, found, strict=True):
        mean = reference_states(tiny_encoder, text).mean(0)
        np.testing.assert_allclose(embedding, (mean / mean.norm()).numpy(), atol=1e-6)
    np.testing.assert_allclose(tiny_encoder.embed(TEXTS[::-1]), found[::-1], atol=1e-6)


def test_long_texts_are_cut(tiny_encoder: Encoder) -> None:
    tokens = tiny_encoder.tokenise(["film " * 500, "film"])
    assert [len(one) for one in tokens] == [MAX_TOKENS, 3]
    assert tiny_encoder.tokenise([]) == []


def test_token_states_are_kept_in_half_precision_and_in_the_order_of_the_texts(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    kept = cached_token_states(tiny_encoder, TEXTS, 2, "little", tmp_path)
    assert kept.states.dtype == np.float16
    assert kept.lengths.tolist() == [6, 3, 13, 4]
    states, mask = kept.batch(np.array([2, 1]))
    assert states.shape == (2, 13, 16)
    assert mask.sum(1).tolist() == [13, 3]
    np.testing.assert_allclose(states[0], reference_states(tiny_encoder, TEXTS[2]), atol=5e-3)
    np.testing.assert_allclose(states[1, :3], reference_states(tiny_encoder, TEXTS[1]), atol=5e-3)
    assert not states[1, 3:].any()


def test_states_depend_on_the_layer(tiny_encoder: Encoder, tmp_path: Path) -> None:
    entering = cached_token_states(tiny_encoder, TEXTS, 1, "little", tmp_path)
    leaving = cached_token_states(tiny_encoder, TEXTS, 2, "little", tmp_path)
    assert not np.array_equal(entering.states, leaving.states)


def test_the_cache_is_used_only_for_the_same_texts_and_the_same_encoder(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    first = cached_embeddings(tiny_encoder, TEXTS, "little", tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    np.testing.assert_array_equal(first, cached_embeddings(tiny_encoder, TEXTS, "little", tmp_path))
    assert len(list(tmp_path.glob("*.npy"))) == 1
    cached_embeddings(tiny_encoder, TEXTS[::-1], "little", tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    other = copy_with_other_weights(tiny_encoder.folder, tmp_path / "other")
    assert cache_key(other, TEXTS, "embeddings") != cache_key(tiny_encoder, TEXTS, "embeddings")


def copy_with_other_weights(folder: Path, target: Path) -> Encoder:
    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = weights["embeddings.LayerNorm.bias"] + 1e-3
    save_file(weights, target / "model.safetensors")
    return Encoder(target)


def test_weights_that_do_not_fit_the_configuration_are_refused(tiny_encoder: Encoder, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder.folder, tmp_path / "encoder")
    weights = load_file(tiny_encoder.folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(DataError, match=r"disagree about encoder.layer.1.output.dense.bias"):
        _ = Encoder(tmp_path / "encoder").model


def test_the_real_encoder_gives_the_known_similarities() -> None:
    """Reference values: sentence-transformers 6.2 on the packaged model."""
    if not DATA.usual_folder.exists():
        pytest.skip("reviews and encoder are not fetched: qunetlab data fetch sentiment")
    texts = ("A wonderful, moving film.", "This movie is touching and great.", "The stock market fell today.")
    found = Encoder().embed(texts)
    np.testing.assert_allclose(
        found @ found.T,
        [[1, 0.5316968, -0.00218757], [0.5316968, 1, -0.03262594], [-0.00218757, -0.03262594, 1]],
        atol=1e-5,
    )
    np.testing.assert_allclose(found[0, :3], [-0.05167366, -0.0099058, -0.00117742], atol=1e-5)
